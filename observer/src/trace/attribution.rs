//! Placing calls in traces: for now by process and thread, ended by an idle gap or by the end of the
//! thread or process.

use std::{collections::HashMap, mem, time::Duration};

use fastrand::Rng;
use jiff::Timestamp as Utc;
use observer_wire::{LlmCall, Timestamp};

use super::record::{LlmUsage, TraceRecord};
use crate::attach::processes::{Identity, Pid};

/// The rule of this module, for `trace_source`.
const SOURCE: &str = "thread";

/// A trace of more calls is ended and another begun, so that memory stays bounded.
const CALLS_PER_TRACE: usize = 10_000;

/// So many traces may be open.
const OPEN: usize = 65_536;

/// So many of the oldest end before another begins: not all are to be looked at each time.
const AT_ONCE: usize = OPEN / 16;

/// Where a call belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallContext {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The rule that placed it.
    pub source: &'static str,
    thread: (Pid, u32),
}

/// The traces that are open.
#[derive(Debug)]
pub struct Traces {
    idle_gap: Duration,
    open: HashMap<(Pid, u32), OpenTrace>,
    ids: Rng,
}

#[derive(Debug)]
struct OpenTrace {
    trace_id: String,
    start: Timestamp,
    start_utc: Utc,
    end: Timestamp,
    /// Calls that have begun and not ended.
    in_flight: usize,
    /// The thread or process is gone: ends with the last call in flight.
    thread_gone: bool,
    calls: Vec<String>,
    errors: u64,
    usage: LlmUsage,
    latency: Duration,
    pid: Pid,
    comm: Option<String>,
    container_id: Option<String>,
}

impl Traces {
    /// No traces yet; a trace ends `idle_gap` after its last call. `seed` decides about the ids.
    pub fn new(idle_gap: Duration, seed: u64) -> Self {
        Self {
            idle_gap,
            open: HashMap::new(),
            ids: Rng::with_seed(seed),
        }
    }

    /// A call begins on a thread. May end an older trace of the thread.
    pub fn call_started(
        &mut self,
        pid: Pid,
        tid: u32,
        at: Timestamp,
        utc: Utc,
        identity: &Identity,
        ended: &mut Vec<TraceRecord>,
    ) -> CallContext {
        let thread = (pid, tid);
        if let Some(trace) = self.open.get(&thread)
            && trace.in_flight == 0
            && (at.since(trace.end) > self.idle_gap || trace.calls.len() >= CALLS_PER_TRACE)
        {
            ended.extend(self.open.remove(&thread).and_then(OpenTrace::into_record));
        }
        if self.open.len() >= OPEN && !self.open.contains_key(&thread) {
            self.end_oldest(ended);
        }
        let trace = self.open.entry(thread).or_insert_with(|| OpenTrace {
            trace_id: random_hex(&mut self.ids, 2),
            start: at,
            start_utc: utc,
            end: at,
            in_flight: 0,
            thread_gone: false,
            calls: Vec::new(),
            errors: 0,
            usage: LlmUsage::default(),
            latency: Duration::ZERO,
            pid,
            comm: identity.comm.clone(),
            container_id: identity.container_id.clone(),
        });
        trace.in_flight += 1;
        CallContext {
            trace_id: trace.trace_id.clone(),
            span_id: random_hex(&mut self.ids, 1),
            source: SOURCE,
            thread,
        }
    }

    /// A call ended. May end the trace.
    pub fn call_ended(
        &mut self,
        context: &CallContext,
        call: &LlmCall,
        ended: &mut Vec<TraceRecord>,
    ) {
        self.settle(context, ended, |trace| {
            let end = Timestamp(call.start.0.saturating_add(nanoseconds(call.latency)));
            trace.end = trace.end.max(end);
            if trace.calls.len() < CALLS_PER_TRACE {
                trace.calls.push(context.span_id.clone());
            }
            trace.errors += u64::from(call.error_type.is_some());
            trace.latency = trace.latency.saturating_add(call.latency);
            let usage = &mut trace.usage;
            usage.api_calls_count += 1;
            merge(&mut usage.provider, Some(call.provider));
            merge(
                &mut usage.model,
                call.response_model.as_deref().or(call.model.as_deref()),
            );
            add(&mut usage.prompt_tokens, call.prompt_tokens);
            add(&mut usage.completion_tokens, call.completion_tokens);
        });
    }

    /// What looked like a call was none.
    pub fn call_dismissed(&mut self, context: &CallContext, ended: &mut Vec<TraceRecord>) {
        self.settle(context, ended, |_| ());
    }

    /// A thread is gone.
    pub fn thread_gone(&mut self, pid: Pid, tid: u32, ended: &mut Vec<TraceRecord>) {
        self.gone(|thread| *thread == (pid, tid), ended);
    }

    /// A process is gone.
    pub fn process_gone(&mut self, pid: Pid, ended: &mut Vec<TraceRecord>) {
        self.gone(|thread| thread.0 == pid, ended);
    }

    /// Ends the traces that have been idle for too long.
    pub fn expire(&mut self, now: Timestamp, ended: &mut Vec<TraceRecord>) {
        let gap = self.idle_gap;
        let idle = |trace: &OpenTrace| trace.in_flight == 0 && now.since(trace.end) > gap;
        let over = self.open.extract_if(|_, trace| idle(trace)).collect();
        conclude(over, ended);
    }

    /// Ends all traces.
    pub fn finish(&mut self, ended: &mut Vec<TraceRecord>) {
        conclude(mem::take(&mut self.open).into_iter().collect(), ended);
    }

    /// How many traces are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether any trace is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a trace of a process is open.
    pub fn concern(&self, pid: Pid) -> bool {
        self.open.keys().any(|thread| thread.0 == pid)
    }

    fn end_oldest(&mut self, ended: &mut Vec<TraceRecord>) {
        let mut ages: Vec<_> = self
            .open
            .iter()
            .map(|(thread, trace)| (trace.start, *thread))
            .collect();
        ages.sort_unstable();
        let over = ages
            .into_iter()
            .take(AT_ONCE)
            .filter_map(|(_, thread)| self.open.remove_entry(&thread))
            .collect();
        conclude(over, ended);
    }

    fn settle(
        &mut self,
        context: &CallContext,
        ended: &mut Vec<TraceRecord>,
        update: impl FnOnce(&mut OpenTrace),
    ) {
        let Some(trace) = self.open.get_mut(&context.thread) else {
            return;
        };
        if trace.trace_id != context.trace_id {
            return;
        }
        update(trace);
        trace.in_flight = trace.in_flight.saturating_sub(1);
        if trace.in_flight == 0 && trace.thread_gone {
            ended.extend(
                self.open
                    .remove(&context.thread)
                    .and_then(OpenTrace::into_record),
            );
        }
    }

    fn gone(&mut self, which: impl Fn(&(Pid, u32)) -> bool, ended: &mut Vec<TraceRecord>) {
        let over = self.open.extract_if(|thread, trace| {
            let gone = which(thread);
            trace.thread_gone |= gone;
            gone && trace.in_flight == 0
        });
        conclude(over.collect(), ended);
    }
}

/// Ends traces in the order in which they began: that of a table is another in each run.
fn conclude(mut over: Vec<((Pid, u32), OpenTrace)>, ended: &mut Vec<TraceRecord>) {
    over.sort_unstable_by_key(|(thread, trace)| (trace.start, *thread));
    ended.extend(
        over.into_iter()
            .filter_map(|(_, trace)| trace.into_record()),
    );
}

impl OpenTrace {
    /// A trace without calls leaves no record.
    fn into_record(self) -> Option<TraceRecord> {
        if self.usage.api_calls_count == 0 {
            return None;
        }
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
            name: self.comm.clone(),
            source: SOURCE,
            start_time: self.start_utc,
            duration_ns: nanoseconds(self.end.since(self.start)),
            calls: self.calls,
            steps: Vec::new(),
            errors: self.errors,
            llm_usage: usage,
            pid: self.pid.0,
            comm: self.comm,
            container_id: self.container_id,
            parent_span_id: None,
            conversation_id: None,
        })
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

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `words` random 64-bit numbers, none of them 0 (all-zero ids are invalid in W3C Trace Context).
fn random_hex(ids: &mut Rng, words: usize) -> String {
    (0..words)
        .map(|_| format!("{:016x}", ids.u64(1..)))
        .collect()
}

#[cfg(test)]
mod tests {
    use observer_wire::{CallEvent, Chunk, Connection, Direction, Options, Origin};

    use super::*;

    const PID: Pid = Pid(7);
    const SECOND: u64 = 1_000_000_000;

    /// A call that begins at `start` and takes a second.
    fn call(start: u64) -> LlmCall {
        let mut connection = Connection::new(Options::default());
        let body = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let body = r#"{"choices":[],"usage":{"prompt_tokens":5},"model":"m"}"#;
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut calls = Vec::new();
        for (direction, at, bytes) in [
            (Direction::Sent, start, request.as_bytes()),
            (Direction::Received, start + SECOND, response.as_bytes()),
        ] {
            let at = Timestamp(at);
            let chunk = Chunk {
                direction,
                offset: 0,
                at,
                origin: Origin(1),
                bytes,
            };
            connection.data(chunk, &mut |event| {
                if let CallEvent::Ended { record, .. } = event {
                    calls.push(*record);
                }
            });
        }
        calls.remove(0)
    }

    fn start(traces: &mut Traces, tid: u32, at: u64, ended: &mut Vec<TraceRecord>) -> CallContext {
        traces.call_started(
            PID,
            tid,
            Timestamp(at),
            Utc::UNIX_EPOCH,
            &Identity::default(),
            ended,
        )
    }

    #[test]
    fn a_gap_ends_a_trace_and_a_call_in_flight_keeps_it() {
        let mut traces = Traces::new(Duration::from_secs(10), 1);
        let mut ended = Vec::new();
        let first = start(&mut traces, 1, 0, &mut ended);
        // It takes longer than the gap.
        traces.expire(Timestamp(60 * SECOND), &mut ended);
        assert!(ended.is_empty());
        traces.call_ended(&first, &call(0), &mut ended);
        let second = start(&mut traces, 1, 5 * SECOND, &mut ended);
        assert_eq!(second.trace_id, first.trace_id);
        traces.call_ended(&second, &call(5 * SECOND), &mut ended);
        traces.expire(Timestamp(15 * SECOND), &mut ended);
        assert!(ended.is_empty());
        traces.expire(Timestamp(17 * SECOND), &mut ended);
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].calls, [first.span_id, second.span_id]);
        assert_eq!(ended[0].llm_usage.prompt_tokens, Some(10));
        assert_eq!(ended[0].duration_ns, 6 * SECOND);
        assert!(traces.is_empty());
    }

    #[test]
    fn threads_have_traces_of_their_own_and_end_them() {
        let mut traces = Traces::new(Duration::from_secs(10), 1);
        let mut ended = Vec::new();
        let one = start(&mut traces, 1, 0, &mut ended);
        let two = start(&mut traces, 2, 0, &mut ended);
        assert_ne!(one.trace_id, two.trace_id);
        traces.call_ended(&one, &call(0), &mut ended);
        traces.thread_gone(PID, 1, &mut ended);
        assert_eq!(ended.len(), 1);
        // Its call is still in flight.
        traces.process_gone(PID, &mut ended);
        assert_eq!(ended.len(), 1);
        traces.call_ended(&two, &call(0), &mut ended);
        assert_eq!(ended.len(), 2);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut traces = Traces::new(Duration::from_secs(10), 1);
        let mut ended = Vec::new();
        let contexts: Vec<CallContext> = (0..OPEN)
            .map(|tid| {
                let at = tid as u64;
                start(&mut traces, tid as u32, at, &mut ended)
            })
            .collect();
        traces.call_ended(&contexts[0], &call(0), &mut ended);
        // A thread that has one takes no room.
        start(&mut traces, 1, SECOND, &mut ended);
        assert!(ended.is_empty());
        start(&mut traces, u32::MAX, SECOND, &mut ended);
        assert_eq!(traces.open.len(), OPEN - AT_ONCE + 1);
        // Only one had a call that had ended.
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].trace_id, contexts[0].trace_id);
        // What was in flight in the others belongs to none that is open.
        traces.call_ended(&contexts[1], &call(0), &mut ended);
        assert_eq!(ended.len(), 1);
    }

    #[test]
    fn hostile_counts_do_not_overflow() {
        let mut traces = Traces::new(Duration::from_secs(10), 1);
        let mut ended = Vec::new();
        let context = start(&mut traces, 1, 0, &mut ended);
        let mut call = call(0);
        call.prompt_tokens = Some(u64::MAX);
        call.completion_tokens = Some(2);
        call.latency = Duration::MAX;
        traces.call_ended(&context, &call, &mut ended);
        let context = start(&mut traces, 1, 0, &mut ended);
        traces.call_ended(&context, &call, &mut ended);
        traces.finish(&mut ended);
        assert_eq!(ended[0].llm_usage.total_tokens, Some(u64::MAX));
        assert_eq!(ended[0].llm_usage.total_latency_ms, u64::MAX);
    }

    #[test]
    fn a_trace_of_dismissed_calls_leaves_no_record() {
        let mut traces = Traces::new(Duration::from_secs(10), 1);
        let mut ended = Vec::new();
        let context = start(&mut traces, 1, 0, &mut ended);
        traces.call_dismissed(&context, &mut ended);
        traces.finish(&mut ended);
        assert!(ended.is_empty());
    }

    #[test]
    fn several_models_are_multiple() {
        let mut known = None;
        for (model, expected) in [
            (None, None),
            (Some("a"), Some("a")),
            (Some("a"), Some("a")),
            (Some("b"), Some("multiple")),
            (Some("a"), Some("multiple")),
        ] {
            merge(&mut known, model);
            assert_eq!(known.as_deref(), expected);
        }
    }
}
