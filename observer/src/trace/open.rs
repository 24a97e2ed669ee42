//! A trace that is open: what its calls have come to so far.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp as Utc;
use observer_wire::{
    Evidence, LlmCall, Timestamp,
    evidence::{MessageList, TraceContext},
};

use super::{
    attribution::{CALLS_PER_TRACE, Ended},
    lineage::Actor,
    record::{ConversationId, LlmUsage, ToolStep, TraceRecord},
};
use crate::{
    attach::{
        pod::Pod,
        processes::{Identity, Pid},
    },
    clock::nanoseconds_of,
};

/// Most tools of a trace that are waited for, and most that are recorded.
const STEPS: usize = 1_000;

/// Most actors of a trace that are remembered; past it the one that made its last call first is forgotten.
const ACTORS: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub struct OpenTrace {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The trace as a span, 16 hexadecimal digits; `None` where the calls' parents are spans of others.
    pub span_id: Option<String>,
    /// When the first call began.
    pub start: Timestamp,
    /// When the last call ended.
    pub end: Timestamp,
    /// The rule by which it began.
    pub source: &'static str,
    /// The trace of others that it is part of.
    pub distributed: Option<u128>,
    parent_span_id: Option<String>,
    name: Option<String>,
    start_utc: Utc,
    /// Calls that have begun and not ended.
    in_flight: usize,
    /// All that made calls in it are gone: it ends with the last call in flight.
    gone: bool,
    actors: VecDeque<Actor>,
    /// Processes that made calls in it, and live.
    pids: BTreeSet<Pid>,
    pid: Pid,
    comm: Option<String>,
    container_id: Option<String>,
    kubernetes: Option<Arc<Pod>>,
    calls: Vec<String>,
    errors: u64,
    usage: LlmUsage,
    latency: Duration,
    /// The conversation that it began with.
    first: Option<(u64, u64)>,
    /// A conversation in it has gone on.
    grew: bool,
    conversation: Option<ConversationId>,
    conversations: usize,
    /// Tools that are under way, and those whose results have come.
    waiting: VecDeque<(ToolStep, Timestamp)>,
    steps: Vec<ToolStep>,
}

impl OpenTrace {
    /// A trace that begins with a call of a process.
    pub fn new(
        trace_id: String,
        span_id: Option<String>,
        name: Option<String>,
        at: Timestamp,
        utc: Utc,
        pid: Pid,
        identity: &Identity,
    ) -> Self {
        Self {
            trace_id,
            span_id,
            start: at,
            end: at,
            source: "thread",
            distributed: None,
            parent_span_id: None,
            name,
            start_utc: utc,
            in_flight: 0,
            gone: false,
            actors: VecDeque::new(),
            pids: BTreeSet::new(),
            pid,
            comm: identity.comm.clone(),
            container_id: identity.container_id.clone(),
            kubernetes: identity.pod.clone(),
            calls: Vec::new(),
            errors: 0,
            usage: LlmUsage::default(),
            latency: Duration::ZERO,
            first: None,
            grew: false,
            conversation: None,
            conversations: 0,
            waiting: VecDeque::new(),
            steps: Vec::new(),
        }
    }

    /// It is part of a trace of others.
    pub fn part_of(mut self, context: TraceContext) -> Self {
        self.parent_span_id = Some(format!("{:016x}", context.parent_id));
        self.distributed = Some(context.trace_id);
        self
    }

    /// A call of it has been asked. `goes_on`: with a conversation.
    pub fn call_placed(&mut self, pid: Pid, evidence: &Evidence, at: Timestamp, goes_on: bool) {
        self.in_flight += 1;
        self.gone = false;
        self.pids.insert(pid);
        self.grew |= goes_on;
        let messages = &evidence.messages;
        if self.first.is_none() && messages.count > 0 {
            self.first = messages.whole().map(|whole| (messages.head, whole));
        }
        for result in &evidence.tool_results {
            let of_result = |(step, _): &(ToolStep, Timestamp)| match &step.id {
                Some(id) => *id == result.id,
                None => step.name == result.id,
            };
            let Some(index) = self.waiting.iter().position(of_result) else {
                continue;
            };
            let Some((mut step, began)) = self.waiting.remove(index) else {
                continue;
            };
            step.duration_ns = Some(nanoseconds_of(at.since(began)));
            step.result_bytes = Some(result.bytes);
            step.failed = result.failed;
            self.done(step);
        }
    }

    /// A call of it ended. `id` makes ids of spans.
    pub fn call_ended(
        &mut self,
        span_id: &str,
        end: &Ended<'_>,
        conversation: Option<&ConversationId>,
        mut id: impl FnMut() -> String,
    ) {
        let call = end.call;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.end = self.end.max(call.ended());
        if self.calls.len() < CALLS_PER_TRACE {
            self.calls.push(span_id.to_owned());
        }
        self.errors += u64::from(call.error_type.is_some());
        self.latency = self.latency.saturating_add(call.latency);
        self.add_usage(call, end.cost);
        if let Some(conversation) = conversation
            && self.conversation.as_ref() != Some(conversation)
        {
            self.conversation = Some(conversation.clone());
            self.conversations += 1;
        }
        for tool in &call.evidence.tool_calls {
            if self.waiting.len() >= STEPS
                && let Some((step, _)) = self.waiting.pop_front()
            {
                self.done(step);
            }
            let at = i128::from(call.ended().0) + i128::from(end.utc_offset);
            let step = ToolStep {
                span_id: id(),
                parent_span_id: span_id.to_owned(),
                name: tool.name.clone(),
                id: tool.id.clone(),
                start_time: Utc::from_nanosecond(at).unwrap_or(Utc::UNIX_EPOCH),
                duration_ns: None,
                arguments_bytes: tool.bytes,
                result_bytes: None,
                failed: false,
            };
            self.waiting.push_back((step, call.ended()));
        }
    }

    /// One of its calls was none.
    pub fn call_dismissed(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Another actor is part of it. Returns the one that is forgotten for it.
    pub fn joined_by(&mut self, actor: Actor) -> Option<Actor> {
        let full = self.actors.len() >= ACTORS;
        let forgotten = if full { self.actors.pop_front() } else { None };
        self.actors.push_back(actor);
        forgotten
    }

    /// Those who are part of it.
    pub fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.actors.iter()
    }

    /// The processes that have made calls in it, and live.
    pub fn pids(&self) -> impl Iterator<Item = &Pid> {
        self.pids.iter()
    }

    /// Actors are gone. Returns whether it is over.
    pub fn left_by(&mut self, which: impl Fn(Actor) -> bool) -> bool {
        let before = self.actors.len();
        self.actors.retain(|actor| !which(*actor));
        if before > 0 && self.actors.is_empty() {
            self.gone = true;
        }
        self.is_over()
    }

    /// A process is gone.
    pub fn process_gone(&mut self, pid: Pid) {
        if self.pids.remove(&pid) && self.pids.is_empty() {
            self.gone = true;
        }
    }

    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.gone && self.in_flight == 0
    }

    /// Whether nothing has happened in it for so long.
    pub fn is_idle(&self, now: Timestamp, gap: Duration) -> bool {
        self.in_flight == 0 && now.since(self.end) > gap
    }

    /// Whether another call may join it.
    pub fn takes_more(&self, at: Timestamp, gap: Duration) -> bool {
        self.in_flight > 0 || (!self.is_idle(at, gap) && self.calls.len() < CALLS_PER_TRACE)
    }

    /// Whether calls of it are in flight.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether calls of it have ended.
    pub fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Whether one call was all so far.
    pub fn was_one_call(&self) -> bool {
        self.in_flight == 0 && self.calls.len() == 1
    }

    /// Whether it began with these very messages.
    pub fn began_with(&self, messages: &MessageList) -> bool {
        self.first
            .is_some_and(|(head, whole)| head == messages.head && Some(whole) == messages.whole())
    }

    /// Whether a new list of messages is how this run began: then it is another run of the same kind. One that has
    /// only asked single things may go on to ask another.
    pub fn begins_again(&self, messages: &MessageList) -> bool {
        self.grew
            && self.waiting.is_empty()
            && self.first.is_some_and(|(head, whole)| {
                head == messages.head && Some(whole) != messages.whole()
            })
    }

    /// A trace without calls leaves no record.
    pub fn into_record(mut self) -> Option<TraceRecord> {
        if self.usage.api_calls_count == 0 {
            return None;
        }
        for (step, _) in std::mem::take(&mut self.waiting) {
            self.done(step);
        }
        self.steps.sort_by_key(|step| step.start_time);
        let mut usage = self.usage;
        usage.total_tokens = match (usage.prompt_tokens, usage.completion_tokens) {
            (None, None) => None,
            (prompt, completion) => {
                Some(prompt.unwrap_or(0).saturating_add(completion.unwrap_or(0)))
            }
        };
        usage.total_latency_ms = u64::try_from(self.latency.as_millis()).unwrap_or(u64::MAX);
        Some(TraceRecord {
            trace_id: self.trace_id,
            span_id: self.span_id,
            name: self.name,
            source: self.source,
            start_time: self.start_utc,
            duration_ns: nanoseconds_of(self.end.since(self.start)),
            calls: self.calls,
            steps: self.steps,
            errors: self.errors,
            llm_usage: usage,
            pid: self.pid.0,
            comm: self.comm,
            container_id: self.container_id,
            kubernetes: self.kubernetes,
            parent_span_id: self.parent_span_id,
            conversation_id: self.conversation.filter(|_| self.conversations == 1),
        })
    }

    fn done(&mut self, step: ToolStep) {
        if self.steps.len() < STEPS {
            self.steps.push(step);
        }
    }

    fn add_usage(&mut self, call: &LlmCall, cost: Option<f64>) {
        let usage = &mut self.usage;
        usage.api_calls_count += 1;
        merge(&mut usage.provider, Some(call.provider));
        merge(
            &mut usage.model,
            call.response_model.as_deref().or(call.model.as_deref()),
        );
        add(&mut usage.prompt_tokens, call.prompt_tokens);
        add(&mut usage.completion_tokens, call.completion_tokens);
        if let Some(cost) = cost {
            usage.cost_usd = Some(usage.cost_usd.unwrap_or(0.0) + cost);
        }
    }
}

/// One value, or `multiple`.
fn merge(known: &mut Option<String>, new: Option<&str>) {
    match (known.as_deref(), new) {
        (None, Some(new)) => *known = Some(new.to_owned()),
        (Some(old), Some(new)) if old != new => *known = Some("multiple".to_owned()),
        _ => {}
    }
}

fn add(sum: &mut Option<u64>, new: Option<u64>) {
    if let Some(new) = new {
        *sum = Some(sum.unwrap_or(0).saturating_add(new));
    }
}
