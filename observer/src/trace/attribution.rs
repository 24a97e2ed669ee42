//! Placing calls in traces. A trace is one run of an agent.
//!
//! The first evidence that a call has decides ([`TraceBy`]):
//!
//! 1. its request names a trace (`traceparent`);
//! 2. its process is answering a request ([`inbound`](super::inbound));
//! 3. it goes on with a conversation ([`conversation`](super::conversation));
//! 4. the logical task that makes it, or one of those that created the task, has a trace;
//! 5. so has the thread, or what created the thread or the process.
//!
//! Otherwise it begins a trace. A trace ends when nothing has happened in it for a while, or all that made calls
//! in it are gone.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    time::Duration,
};

use fastrand::Rng;
use jiff::Timestamp as Utc;
use observer_wire::{Evidence, Inbound, LlmCall, Timestamp, evidence::TraceContext};

use super::{
    Settings, TraceBy,
    actors::Actors,
    conversation::{Conversation, Conversations},
    inbound::{InboundId, Inbounds},
    lineage::{Actor, Ancestor, Lineage},
    open::OpenTrace,
    record::{ConversationId, TraceRecord},
};
use crate::{
    attach::processes::{Identity, Pid},
    capture::task::{Task, TaskKind},
};

/// A trace of more calls is ended and another begun, so that memory stays bounded.
pub(super) const CALLS_PER_TRACE: usize = 10_000;

/// So many traces may be open.
const OPEN: usize = 65_536;

/// So many of the oldest end before another begins: not all are to be looked at each time.
const AT_ONCE: usize = OPEN / 16;

/// Tasks that a task creates within this time of each other work on one thing: `asyncio.gather` and its like.
const BURST: Duration = Duration::from_millis(5);

/// A task that makes its only call this soon after it was created does it for its creator: aiohttp writes each
/// request in a task of its own (`ClientRequest.send` in aiohttp/client_reqrep.py).
const ERRAND: Duration = Duration::from_millis(2);

/// Names a trace that is, or was, open, in the order in which they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceKey(u64);

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: u32,
    /// What it executes, where it is not all there is.
    pub task: Option<Task>,
}

impl Caller {
    /// What makes the call, as exactly as is known.
    pub fn actor(self) -> Actor {
        match self.task {
            Some(task) => Actor::Task(self.pid, task),
            None => self.thread(),
        }
    }

    fn thread(self) -> Actor {
        Actor::Thread(self.pid, self.tid)
    }
}

/// A call that is under way.
#[derive(Debug)]
pub struct OpenCall {
    /// 16 hexadecimal digits.
    pub span_id: String,
    caller: Caller,
    at: Timestamp,
    utc: Utc,
    number: u64,
    place: Option<Place>,
}

impl OpenCall {
    /// Who makes it.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// When it began.
    pub fn started_at(&self) -> Timestamp {
        self.at
    }
}

/// Where a call belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallContext {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span that the call is part of, 16 hexadecimal digits.
    pub parent_span_id: Option<String>,
    /// The rule that placed it.
    pub source: &'static str,
    /// The conversation that it is part of.
    pub conversation_id: Option<ConversationId>,
}

#[derive(Clone, Debug)]
struct Place {
    trace: TraceKey,
    source: &'static str,
    /// Where the caller says it is.
    context: Option<TraceContext>,
    conversation: Conversation,
    /// It is part of a conversation, as far as can be told: it has messages, or a name of one.
    converses: bool,
}

/// A call that ended, for its trace.
#[derive(Debug)]
pub struct Ended<'a> {
    /// What is known of it.
    pub call: &'a LlmCall,
    /// What it cost, in US dollars.
    pub cost: Option<f64>,
    /// UTC minus boot time, in nanoseconds.
    pub utc_offset: i64,
}

/// The traces that are open.
#[derive(Debug)]
pub struct Traces {
    settings: Settings,
    ids: Rng,
    next: u64,
    open: BTreeMap<TraceKey, OpenTrace>,
    actors: Actors,
    /// Traces that others have begun.
    distributed: HashMap<u128, TraceKey>,
    lineage: Lineage,
    inbounds: Inbounds,
    conversations: Conversations,
}

impl Traces {
    /// No traces yet. `seed` decides about the ids.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            ids: Rng::with_seed(seed),
            next: 0,
            open: BTreeMap::new(),
            actors: Actors::default(),
            distributed: HashMap::new(),
            lineage: Lineage::default(),
            inbounds: Inbounds::default(),
            conversations: Conversations::default(),
        }
    }

    /// Other settings hold from now on.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A call begins.
    pub fn call_started(&mut self, caller: Caller, at: Timestamp, utc: Utc) -> OpenCall {
        let number = self.next();
        let known = self.actors.entry(caller.actor());
        known.flying.push((number, None));
        OpenCall {
            span_id: hex(self.ids.u64(1..)),
            caller,
            at,
            utc,
            number,
            place: None,
        }
    }

    /// It is another attempt at a call that has failed: it is where that is, by the same name.
    pub fn call_retried(&mut self, call: &mut OpenCall, earlier: &OpenCall) {
        call.span_id.clone_from(&earlier.span_id);
        if let Some(place) = &earlier.place
            && call.place.is_none()
        {
            let actor = call.caller.actor();
            self.actors.placed(actor, call.number, place.trace);
            call.place = Some(place.clone());
        }
    }

    /// Its request has been read: it is placed, unless it is already. May end an older trace.
    pub fn call_requested(
        &mut self,
        call: &mut OpenCall,
        evidence: &Evidence,
        identity: &Identity,
        ended: &mut Vec<TraceRecord>,
    ) {
        if call.place.is_none() {
            call.place = Some(self.place(call, evidence, identity, ended));
        }
    }

    /// A call ended, and where it belongs. May end the trace.
    pub fn call_ended(
        &mut self,
        open: OpenCall,
        end: &Ended<'_>,
        identity: &Identity,
        ended: &mut Vec<TraceRecord>,
    ) -> CallContext {
        let place = match open.place.clone() {
            Some(place) => place,
            None => self.place(&open, &end.call.evidence, identity, ended),
        };
        let OpenCall {
            span_id,
            caller,
            number,
            ..
        } = open;
        self.actors.landed(caller.actor(), number);
        if place.converses {
            self.conversations
                .answered(caller.pid, end.call, &place.conversation);
        }
        let ids = &mut self.ids;
        let conversation_id = place.converses.then(|| place.conversation.id.clone());
        let context = self.open.get_mut(&place.trace).map(|trace| {
            trace.call_ended(
                &span_id,
                end,
                conversation_id.as_ref(),
                || hex(ids.u64(1..)),
            );
            let parent = match place.context {
                Some(context) => Some(hex(context.parent_id)),
                None => trace.span_id.clone(),
            };
            (trace.trace_id.clone(), parent)
        });
        let (trace_id, parent_span_id) = context.unwrap_or_default();
        self.close_if_over(place.trace, ended);
        CallContext {
            trace_id,
            span_id,
            parent_span_id,
            source: place.source,
            conversation_id,
        }
    }

    /// What looked like a call was none, or is recorded elsewhere.
    pub fn call_dismissed(&mut self, open: &OpenCall, ended: &mut Vec<TraceRecord>) {
        self.actors.landed(open.caller.actor(), open.number);
        if let Some(place) = &open.place {
            if let Some(trace) = self.open.get_mut(&place.trace) {
                trace.call_dismissed();
            }
            self.close_if_over(place.trace, ended);
        }
    }

    /// A process begins to answer a request.
    pub fn inbound_started(
        &mut self,
        id: InboundId,
        caller: Caller,
        at: Timestamp,
        request: &Inbound,
    ) {
        if self.uses(TraceBy::Inbound) {
            self.inbounds.started(id, caller.actor(), at, request);
        }
    }

    /// It is this that answers it, whatever has read it.
    pub fn inbound_answered(&mut self, id: InboundId, by: Actor) {
        self.inbounds.answered(id, by);
    }

    /// It has answered it, or will not.
    pub fn inbound_ended(&mut self, id: InboundId) {
        self.inbounds.ended(id);
    }

    /// A task was created, by another one or by its thread.
    pub fn task_created(&mut self, by: Caller, task: Task, at: Timestamp) {
        let actor = Actor::Task(by.pid, task);
        // The address may have been another task's.
        self.actors.renewed(actor);
        self.lineage.task(by.pid, task, by.actor(), by.tid, at);
    }

    /// A thread created another, or the first one of a process.
    pub fn forked(&mut self, pid: Pid, tid: u32, child: u32, at: Timestamp) {
        self.lineage.forked(Actor::Thread(pid, tid), child, at);
    }

    /// A process says who its parent is.
    pub fn child_of(&mut self, parent: Pid, child: Pid, created: Timestamp) {
        self.lineage.child_of(parent, child, created);
    }

    /// A thread is gone.
    pub fn thread_gone(&mut self, pid: Pid, tid: u32, ended: &mut Vec<TraceRecord>) {
        self.lineage.gone(tid);
        let thread = Actor::Thread(pid, tid);
        for key in self.actors.thread_gone(thread) {
            self.leave(key, |actor| actor == thread, ended);
        }
    }

    /// A process is gone.
    pub fn process_gone(&mut self, pid: Pid, ended: &mut Vec<TraceRecord>) {
        self.lineage.gone(pid.0);
        self.inbounds.process_gone(pid);
        for key in self.actors.process_gone(pid) {
            if let Some(trace) = self.open.get_mut(&key) {
                trace.process_gone(pid);
            }
            self.leave(key, |actor| actor.pid() == pid, ended);
        }
    }

    /// Ends the traces that have been idle for too long.
    pub fn expire(&mut self, now: Timestamp, ended: &mut Vec<TraceRecord>) {
        let gap = self.settings.idle;
        let over = self
            .open
            .iter()
            .filter(|(_, trace)| trace.is_idle(now, gap));
        for key in over.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.close(key, ended);
        }
    }

    /// Ends all traces.
    pub fn finish(&mut self, ended: &mut Vec<TraceRecord>) {
        for trace in mem::take(&mut self.open).into_values() {
            ended.extend(trace.into_record());
        }
    }

    /// Whether no trace is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many traces are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a trace of a process is open.
    pub fn concern(&self, pid: Pid) -> bool {
        self.actors.concern(pid)
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn uses(&self, rule: TraceBy) -> bool {
        self.settings.by == TraceBy::Auto || self.settings.by == rule
    }

    fn place(
        &mut self,
        call: &OpenCall,
        evidence: &Evidence,
        identity: &Identity,
        ended: &mut Vec<TraceRecord>,
    ) -> Place {
        let line = self.lineage.ancestors(call.caller.actor(), call.caller.tid);
        let found = self.find(call, evidence, &line, ended);
        let known = found.conversation;
        let trace = match found.trace {
            Some(trace) => trace,
            None => {
                let trace = self.begin(call, found.context, found.inbound_name, identity, ended);
                if let Some(open) = self.open.get_mut(&trace) {
                    open.source = found.source;
                }
                trace
            }
        };
        if let Some(context) = found.context {
            self.distributed.insert(context.trace_id, trace);
        }
        if let Some(served) = self.inbounds.serving(&line, call.at)
            && found.source == INBOUND
        {
            served.trace = Some(trace);
        }
        let converses = evidence.messages.count > 0
            || evidence.session.is_some()
            || evidence.conversation.is_some()
            || evidence.previous_response.is_some();
        let goes_on = known.is_some();
        let mut conversation = known.unwrap_or_else(|| {
            let unnamed = hex(self.ids.u64(1..));
            Conversation::new(call.caller.pid, evidence, trace, unnamed)
        });
        conversation.trace = trace;
        if converses {
            self.conversations
                .asked(call.caller.pid, evidence, &conversation);
        }
        if found.beside {
            let thread = call.caller.thread();
            self.actors.entry(thread).beside = Some(trace);
            self.join(thread, trace);
        }
        if !found.loose {
            self.settle(self.acting(call.caller, &line), trace);
        }
        self.actors.placed(call.caller.actor(), call.number, trace);
        self.actors.calls_in(call.caller.pid, trace);
        if let Some(open) = self.open.get_mut(&trace) {
            open.call_placed(call.caller.pid, evidence, call.at, goes_on);
        }
        Place {
            trace,
            source: found.source,
            context: found.own_context,
            conversation,
            converses,
        }
    }

    /// Where the evidence says that a call belongs.
    fn find(
        &mut self,
        call: &OpenCall,
        evidence: &Evidence,
        line: &[Ancestor],
        ended: &mut Vec<TraceRecord>,
    ) -> Found {
        let (caller, at) = (call.caller, call.at);
        let conversation = if self.uses(TraceBy::Conversation) {
            let (actors, tasks) = (&self.actors, line);
            let own: Vec<TraceKey> = tasks
                .iter()
                .filter_map(|ancestor| actors.get(ancestor.actor)?.last)
                .collect();
            let is_own = |known: &Conversation| own.contains(&known.trace);
            self.conversations.of_request(caller.pid, evidence, is_own)
        } else {
            None
        };
        let found = Found {
            conversation,
            ..Found::default()
        };
        if let Some(context) = evidence
            .trace_context
            .filter(|_| self.uses(TraceBy::Traceparent))
        {
            let trace = self.distributed.get(&context.trace_id).copied();
            return Found {
                trace: trace.filter(|trace| self.open.contains_key(trace)),
                source: "traceparent",
                context: Some(context),
                own_context: Some(context),
                ..found
            };
        }
        if self.uses(TraceBy::Inbound)
            && let Some(served) = self.inbounds.serving(line, at)
        {
            let by_context = served
                .context
                .and_then(|context| self.distributed.get(&context.trace_id).copied());
            let trace = served.trace.or(by_context);
            return Found {
                trace: trace.filter(|trace| self.open.contains_key(trace)),
                source: INBOUND,
                context: served.context,
                inbound_name: Some(served.name.clone()),
                ..found
            };
        }
        let gap = self.settings.idle;
        let joinable = |trace: &OpenTrace| trace.takes_more(at, gap);
        if let Some(known) = &found.conversation
            && self.open.get(&known.trace).is_some_and(joinable)
        {
            // A thread or a task that has a run of its own keeps it.
            let own = self.actors.get(caller.actor()).and_then(|own| own.last);
            let loose = own
                .is_some_and(|own| own != known.trace && self.open.get(&own).is_some_and(joinable));
            return Found {
                trace: Some(known.trace),
                source: "conversation",
                loose,
                ..found
            };
        }
        let in_task = caller.task.is_some() && self.uses(TraceBy::Task);
        let line = self.acting(caller, line);
        let source = if in_task { "task" } else { "thread" };
        let begun = Found { source, ..found };
        let Some((index, trace)) = self.of_line(line, at) else {
            return begun;
        };
        let new = evidence.messages.count > 0 && !evidence.messages.answered;
        let new = new && begun.conversation.is_none();
        let open = &self.open[&trace];
        // Whoever asks the same once more wants another answer, or has left the first.
        let new = new && !open.began_with(&evidence.messages);
        let again = new && open.begins_again(&evidence.messages);
        let others = self.flying_beside(caller, call.number);
        let thread = self.actors.get(caller.thread());
        let runs_several = thread.is_some_and(|thread| thread.beside.is_some());
        if !in_task && new && (runs_several || !others.is_empty()) {
            // An event loop, and nothing tells its tasks apart. A run that has gone on for a while may ask several
            // things at once; of several runs a new conversation is another one.
            let spreads = others.iter().all(|other| *other == Some(trace)) && open.has_calls();
            if again || runs_several || !spreads {
                return Found {
                    loose: true,
                    beside: true,
                    ..begun
                };
            }
        } else if again && !open.is_in_flight() {
            if index == 0 {
                self.close(trace, ended);
            }
            return begun;
        }
        let ancestor = line[index].actor;
        let source = if ancestor.pid() == caller.pid {
            source
        } else {
            "process"
        };
        Found {
            trace: Some(trace),
            source,
            ..begun
        }
    }

    /// The line of what makes a call, by the rules that are used.
    fn acting<'a>(&self, caller: Caller, line: &'a [Ancestor]) -> &'a [Ancestor] {
        if caller.task.is_some() && self.uses(TraceBy::Task) {
            return line;
        }
        let thread = |ancestor: &Ancestor| matches!(ancestor.actor, Actor::Thread(..));
        &line[line.iter().position(thread).unwrap_or(0)..]
    }

    /// The open trace of an actor, or of what created it, with the place of that in the line.
    fn of_line(&self, line: &[Ancestor], at: Timestamp) -> Option<(usize, TraceKey)> {
        let gap = self.settings.idle;
        let open = |key: &TraceKey| {
            let trace = self.open.get(key)?;
            trace.takes_more(at, gap).then_some(trace)
        };
        for (index, ancestor) in line.iter().enumerate() {
            let Some(known) = self.actors.get(ancestor.actor) else {
                continue;
            };
            if let Some((key, trace)) = known.last.and_then(|key| Some((key, open(&key)?))) {
                // What it creates after its run began is part of that.
                let created = ancestor.child_created;
                if index == 0 || created.is_some_and(|created| trace.start <= created) {
                    return Some((index, key));
                }
            }
            if let Some((key, at_once)) = known.burst
                && open(&key).is_some()
            {
                let near = |created: Timestamp| {
                    created.since(at_once).max(at_once.since(created)) <= BURST
                };
                if index == 0 || ancestor.child_created.is_some_and(near) {
                    return Some((index, key));
                }
            }
        }
        let creator = line.get(1)?;
        let created = creator.child_created?;
        let key = self.actors.get(creator.actor)?.errand?;
        let trace = open(&key)?;
        let errand = at.since(created) <= ERRAND
            && trace.was_one_call()
            && trace.end <= created
            // When a goroutine was created is not known, only when it was first seen.
            && matches!(line[0].actor, Actor::Task(_, task) if task.kind == TaskKind::PythonContext);
        errand.then_some((1, key))
    }

    /// Where the calls are that a thread has in flight beside this one.
    fn flying_beside(&self, caller: Caller, number: u64) -> Vec<Option<TraceKey>> {
        let known = self.actors.get(caller.actor());
        let others = known.into_iter().flat_map(|known| &known.flying);
        let others = others.filter(|(other, _)| *other != number);
        others.map(|(_, trace)| *trace).collect()
    }

    fn begin(
        &mut self,
        call: &OpenCall,
        context: Option<TraceContext>,
        inbound_name: Option<String>,
        identity: &Identity,
        ended: &mut Vec<TraceRecord>,
    ) -> TraceKey {
        if self.open.len() >= OPEN {
            let oldest: Vec<TraceKey> = self.open.keys().take(AT_ONCE).copied().collect();
            for key in oldest {
                self.close(key, ended);
            }
        }
        let key = TraceKey(self.next());
        let own = (self.ids.u64(1..), self.ids.u64(1..));
        let trace_id = match context {
            Some(context) => format!("{:032x}", context.trace_id),
            None => format!("{}{}", hex(own.0), hex(own.1)),
        };
        let inbound = inbound_name.is_some();
        // The caller's own span is the parent of what names it; of a request it is that of the whole trace.
        let span_id = (context.is_none() || inbound).then(|| hex(self.ids.u64(1..)));
        let name = self.settings.name.clone();
        let name = name.or(inbound_name).or_else(|| identity.comm.clone());
        let trace = OpenTrace::new(
            trace_id,
            span_id,
            name,
            call.at,
            call.utc,
            call.caller.pid,
            identity,
        );
        let trace = match context {
            Some(context) => trace.part_of(context),
            None => trace,
        };
        self.open.insert(key, trace);
        key
    }

    /// A call of the first of a line is in a trace: so is what it does next, and what belongs to it.
    fn settle(&mut self, line: &[Ancestor], key: TraceKey) {
        self.join(line[0].actor, key);
        let known = self.actors.entry(line[0].actor).last.replace(key) == Some(key);
        if self.settings.by == TraceBy::Thread {
            return;
        }
        for pair in line.windows(2) {
            let [child, creator] = pair else { continue };
            let (Actor::Task(..), Actor::Task(..)) = (child.actor, creator.actor) else {
                break;
            };
            let Some(created) = creator.child_created else {
                break;
            };
            // What the first task of a thread creates are runs of their own.
            let first = self.lineage.creating_task(creator.actor).is_none();
            if first && child.actor != line[0].actor {
                break;
            }
            self.join(creator.actor, key);
            let creator = self.actors.entry(creator.actor);
            if first {
                // The second that does an errand: what is created next does so, too.
                if creator.errand.replace(key) == Some(key) && !known {
                    creator.last = Some(key);
                }
                break;
            }
            creator.burst.get_or_insert((key, created));
        }
    }

    /// An actor is part of a trace.
    fn join(&mut self, actor: Actor, key: TraceKey) {
        let Some(trace) = self.open.get_mut(&key) else {
            return;
        };
        if self.actors.joins(actor, key)
            && let Some(forgotten) = trace.joined_by(actor)
        {
            self.actors.trace_over(forgotten, key);
        }
    }

    /// Actors of a trace are gone.
    fn leave(
        &mut self,
        key: TraceKey,
        which: impl Fn(Actor) -> bool,
        ended: &mut Vec<TraceRecord>,
    ) {
        let trace = self.open.get_mut(&key);
        if trace.is_some_and(|trace| trace.left_by(which)) {
            self.close(key, ended);
        }
    }

    fn close_if_over(&mut self, key: TraceKey, ended: &mut Vec<TraceRecord>) {
        if self.open.get(&key).is_some_and(OpenTrace::is_over) {
            self.close(key, ended);
        }
    }

    fn close(&mut self, key: TraceKey, ended: &mut Vec<TraceRecord>) {
        let Some(trace) = self.open.remove(&key) else {
            return;
        };
        for actor in trace.actors() {
            self.actors.trace_over(*actor, key);
        }
        for pid in trace.pids() {
            self.actors.trace_left(*pid, key);
        }
        if let Some(id) = trace.distributed
            && self.distributed.get(&id) == Some(&key)
        {
            self.distributed.remove(&id);
        }
        ended.extend(trace.into_record());
    }
}

#[cfg(test)]
impl Traces {
    /// How many actors are known, and how many requests are being answered.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.actors.count(), self.inbounds.count())
    }
}

const INBOUND: &str = "inbound";

/// What the evidence of a call says.
#[derive(Debug, Default)]
struct Found {
    /// The trace, if there is one already.
    trace: Option<TraceKey>,
    source: &'static str,
    /// The distributed trace that it is part of.
    context: Option<TraceContext>,
    /// The same, where the call's own request says so.
    own_context: Option<TraceContext>,
    inbound_name: Option<String>,
    conversation: Option<Conversation>,
    /// That its actor made this call says nothing of the actor's next.
    loose: bool,
    /// Its thread runs others at the same time.
    beside: bool,
}

/// A 64-bit id.
fn hex(id: u64) -> String {
    format!("{id:016x}")
}
