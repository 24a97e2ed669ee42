use std::time::Duration;

use jiff::Timestamp as Utc;
use observer_wire::{
    CallEvent, Chunk, Connection, Direction, Evidence, Inbound, Incomplete, LlmCall, Options,
    Origin, Timestamp,
    evidence::{ToolCall, ToolResult, TraceContext},
};

use super::{
    Caller, Settings, TraceBy, TraceRecord, Traces,
    attempts::{Attempts, Request},
    attribution::{Ended, OpenCall},
};
use crate::{
    attach::processes::{Identity, Pid},
    capture::task::{Task, TaskKind},
};

const PID: Pid = Pid(7);
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

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
        let chunk = Chunk {
            direction,
            offset: 0,
            at: Timestamp(at),
            origin: Origin(1),
            bytes,
        };
        connection.data(chunk, &mut |event| {
            if let CallEvent::Ended { record, .. } = event {
                calls.push(*record);
            }
        });
    }
    let mut call = calls.remove(0);
    call.evidence = Evidence::default();
    call.response_id = None;
    call
}

fn thread(tid: u32) -> Caller {
    Caller {
        pid: PID,
        tid,
        task: None,
    }
}

fn context(id: u64) -> Task {
    Task {
        kind: TaskKind::PythonContext,
        id,
    }
}

fn task(id: u64) -> Caller {
    Caller {
        task: Some(context(id)),
        ..thread(7)
    }
}

/// A list of messages: each of `messages` stands for one, `head` for the system prompt.
fn list(head: u64, messages: &[u64]) -> Evidence {
    let mut evidence = Evidence::default();
    let beginning = |count: usize| {
        let known = messages[..count].iter().fold(head + 1, |hash, message| {
            hash.wrapping_mul(0x0100_0000_01b3) ^ message
        });
        known.wrapping_mul(31)
    };
    evidence.messages.count = messages.len();
    evidence.messages.head = head;
    evidence.messages.answered = messages.len() > 1;
    evidence.messages.beginnings = (1..=messages.len()).rev().map(beginning).collect();
    evidence
}

/// Traces, and what became of them.
struct Scene {
    traces: Traces,
    ended: Vec<TraceRecord>,
}

impl Scene {
    fn new(by: TraceBy) -> Self {
        let settings = Settings {
            idle: Duration::from_secs(10),
            by,
            name: None,
        };
        Self {
            traces: Traces::new(settings, 1),
            ended: Vec::new(),
        }
    }

    fn start(&mut self, caller: Caller, at: u64, evidence: &Evidence) -> OpenCall {
        let identity = Identity {
            comm: Some("python".to_owned()),
            ..Identity::default()
        };
        let mut call = self
            .traces
            .call_started(caller, Timestamp(at), Utc::UNIX_EPOCH);
        self.traces
            .call_requested(&mut call, evidence, &identity, &mut self.ended);
        call
    }

    /// Ends a call a second after its begin. Returns the trace's id and the rule.
    fn end(&mut self, open: OpenCall) -> (String, &'static str) {
        let call = call(open.started_at().0);
        self.end_as(open, &call)
    }

    fn end_as(&mut self, open: OpenCall, call: &LlmCall) -> (String, &'static str) {
        let end = Ended {
            call,
            cost: Some(0.5),
            utc_offset: 0,
        };
        let context = self
            .traces
            .call_ended(open, &end, &Identity::default(), &mut self.ended);
        (context.trace_id, context.source)
    }

    fn call(&mut self, caller: Caller, at: u64, evidence: &Evidence) -> (String, &'static str) {
        let open = self.start(caller, at, evidence);
        self.end(open)
    }

    fn expire(&mut self, now: u64) {
        self.traces.expire(Timestamp(now), &mut self.ended);
    }
}

#[test]
fn a_gap_ends_a_trace_and_a_call_in_flight_keeps_it() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    let first = scene.start(thread(1), 0, &none);
    // It takes longer than the gap.
    scene.expire(60 * SECOND);
    assert!(scene.ended.is_empty());
    let first = scene.end(first);
    let second = scene.call(thread(1), 5 * SECOND, &none);
    assert_eq!(first, second);
    assert_eq!(second.1, "thread");
    scene.expire(15 * SECOND);
    assert!(scene.ended.is_empty());
    scene.expire(17 * SECOND);
    let [trace] = scene.ended.as_slice() else {
        panic!("{:?}", scene.ended);
    };
    assert_eq!(trace.calls.len(), 2);
    assert_eq!(trace.llm_usage.prompt_tokens, Some(10));
    assert_eq!(trace.llm_usage.cost_usd, Some(1.0));
    assert_eq!(trace.duration_ns, 6 * SECOND);
    assert!(scene.traces.is_empty());
}

#[test]
fn threads_have_traces_of_their_own_and_end_them() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    let one = scene.call(thread(1), 0, &none);
    let two = scene.start(thread(2), 0, &none);
    scene.traces.thread_gone(PID, 1, &mut scene.ended);
    assert_eq!(scene.ended.len(), 1);
    assert_eq!(scene.ended[0].trace_id, one.0);
    // Its call is still in flight.
    scene.traces.process_gone(PID, &mut scene.ended);
    assert_eq!(scene.ended.len(), 1);
    scene.end(two);
    assert_eq!(scene.ended.len(), 2);
}

#[test]
fn threads_and_processes_that_a_run_creates_are_part_of_it() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    // Created before.
    scene.traces.forked(PID, 7, 8, Timestamp(0));
    let run = scene.call(thread(7), SECOND, &none);
    scene.traces.forked(PID, 7, 9, Timestamp(3 * SECOND));
    scene.traces.child_of(PID, Pid(70), Timestamp(3 * SECOND));
    let child = Caller {
        pid: Pid(70),
        ..thread(70)
    };
    assert_ne!(scene.call(thread(8), 4 * SECOND, &none).0, run.0);
    assert_eq!(scene.call(thread(9), 4 * SECOND, &none), run);
    assert_eq!(
        scene.call(child, 4 * SECOND, &none),
        (run.0.clone(), "process")
    );
    // The parent's end does not tear it.
    scene.traces.process_gone(PID, &mut scene.ended);
    assert_eq!(scene.call(child, 6 * SECOND, &none).0, run.0);
}

#[test]
fn nothing_is_kept_of_actors_whose_traces_have_ended() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    let at = Timestamp(0);
    scene.traces.task_created(thread(7), context(100), at);
    for id in 0..20 {
        scene.traces.task_created(task(100), context(id), at);
        for child in [2, 3] {
            let child = context(child * 1_000 + id);
            scene.traces.task_created(task(id), child, at);
            let caller = Caller {
                task: Some(child),
                ..thread(7)
            };
            scene.call(caller, MILLISECOND, &none);
        }
    }
    // Two conversations at once, and one thread in many traces.
    let open = [1, 2].map(|head| scene.start(thread(8), SECOND, &list(head, &[head])));
    for open in open {
        scene.end(open);
    }
    for round in 0..5_000_u64 {
        let mut evidence = Evidence::default();
        let trace_id = 1 + u128::from(round);
        evidence.trace_context = Some(TraceContext {
            trace_id,
            parent_id: 1,
            sampled: true,
        });
        scene.call(thread(9), SECOND, &evidence);
    }
    let (actors, _) = scene.traces.held();
    assert!(actors > 40 && scene.traces.concern(PID));
    scene.expire(60 * SECOND);
    assert!(scene.traces.is_empty() && !scene.traces.concern(PID));
    assert_eq!(scene.traces.held(), (0, 0));
    // A process whose trace others go on with.
    scene.traces.child_of(PID, Pid(70), Timestamp(2 * SECOND));
    scene.call(thread(7), SECOND, &none);
    let child = Caller {
        pid: Pid(70),
        ..thread(70)
    };
    let open = scene.start(child, 3 * SECOND, &none);
    scene.traces.process_gone(PID, &mut scene.ended);
    assert!(!scene.traces.concern(PID) && scene.traces.concern(Pid(70)));
    scene.traces.process_gone(Pid(70), &mut scene.ended);
    assert_eq!(scene.traces.len(), 1);
    scene.end(open);
    assert_eq!((scene.traces.len(), scene.traces.held()), (0, (0, 0)));
}

#[test]
fn tasks_of_one_thread_are_never_mixed() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    let main = task(100);
    scene
        .traces
        .task_created(thread(7), context(100), Timestamp(0));
    for id in 0..20 {
        scene
            .traces
            .task_created(main, context(id), Timestamp(MILLISECOND + id));
    }
    let mut traces = Vec::new();
    for round in 0..3 {
        let open: Vec<OpenCall> = (0..20)
            .map(|id| scene.start(task(id), (1 + 2 * round) * SECOND + id, &none))
            .collect();
        traces.push(
            open.into_iter()
                .map(|open| scene.end(open))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0], traces[2]);
    let mut ids: Vec<_> = traces.remove(0);
    assert!(ids.iter().all(|(_, source)| *source == "task"));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn tasks_that_a_run_creates_are_part_of_it() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    scene
        .traces
        .task_created(thread(7), context(1), Timestamp(0));
    // Plan, then several at once, each in a child of a child.
    let plan = scene.call(task(1), SECOND, &none);
    for id in [2, 3] {
        scene
            .traces
            .task_created(task(1), context(id), Timestamp(3 * SECOND + id));
        scene
            .traces
            .task_created(task(id), context(10 * id), Timestamp(3 * SECOND + 10 * id));
    }
    let parts = [20, 30].map(|id| scene.start(task(id), 4 * SECOND, &none));
    for part in parts {
        assert_eq!(scene.end(part).0, plan.0);
    }
    assert_eq!(scene.call(task(1), 6 * SECOND, &none).0, plan.0);
}

#[test]
fn what_a_task_creates_at_once_is_one_run_with_what_it_does_next() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    scene
        .traces
        .task_created(thread(7), context(1), Timestamp(0));
    for agent in [2, 3] {
        scene
            .traces
            .task_created(task(1), context(agent), Timestamp(agent));
        for part in [10, 11] {
            let at = Timestamp(SECOND + part);
            scene
                .traces
                .task_created(task(agent), context(agent * 100 + part), at);
        }
    }
    let mut traces = Vec::new();
    for agent in [2, 3] {
        let parts = [10, 11].map(|part| {
            let caller = task(agent * 100 + part);
            scene.start(caller, SECOND + 20 * MILLISECOND, &none)
        });
        let parts = parts.map(|part| scene.end(part).0);
        assert_eq!(parts[0], parts[1]);
        // The agent sums up.
        assert_eq!(scene.call(task(agent), 4 * SECOND, &none).0, parts[0]);
        traces.push(parts[0].clone());
    }
    assert_ne!(traces[0], traces[1]);
}

#[test]
fn tasks_that_write_a_request_each_do_not_tear_a_run() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    scene
        .traces
        .task_created(thread(7), context(1), Timestamp(0));
    let mut traces = Vec::new();
    for id in 2..5 {
        let at = id * 3 * SECOND;
        scene
            .traces
            .task_created(task(1), context(id), Timestamp(at));
        traces.push(scene.call(task(id), at + MILLISECOND / 2, &none).0);
    }
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0], traces[2]);
}

#[test]
fn an_address_that_comes_again_is_another_task() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    scene
        .traces
        .task_created(thread(7), context(1), Timestamp(0));
    scene
        .traces
        .task_created(task(1), context(2), Timestamp(SECOND));
    let first = scene.call(task(2), 2 * SECOND, &none);
    scene
        .traces
        .task_created(task(1), context(2), Timestamp(4 * SECOND));
    let second = scene.call(task(2), 5 * SECOND, &none);
    assert_ne!(first.0, second.0);
}

#[test]
fn what_is_asked_again_at_once_was_asked_twice() {
    let actor = thread(1).actor();
    // Whether it is an attempt at the call that has failed so, if it begins so much later.
    let tried = |status: Option<u16>, asked: Option<&str>, attempt, later: u64, head| {
        let mut failed = call(0);
        failed.evidence.body = 5;
        failed.status_code = status;
        failed.error_type = Some("Error".to_owned());
        if status.is_none() {
            failed.incomplete = Some(Incomplete::ServerDisconnected);
        }
        if let Some(asked) = asked {
            let field = ("retry-after".to_owned(), asked.to_owned());
            failed.rate_limit.extend([field]);
        }
        let mut attempts = Attempts::default();
        assert!(attempts.ended(actor, 1, &failed, ()).is_none());
        let request = Request {
            actor,
            head,
            body: 5,
            attempt,
            at: Timestamp(failed.ended().0 + later),
        };
        attempts.requested(request).0.is_some()
    };
    let again = |status, asked, attempt, later| tried(status, asked, attempt, later, 1);
    assert!(again(Some(503), None, None, SECOND));
    assert!(!again(Some(503), None, None, MILLISECOND));
    // Its library says which it is, its provider when it may come, or there was no answer.
    assert!(again(Some(503), None, Some(2), MILLISECOND));
    assert!(!again(Some(503), None, Some(1), SECOND));
    assert!(again(Some(429), Some("0"), None, MILLISECOND));
    assert!(again(None, None, None, MILLISECOND));
    assert!(again(Some(307), None, Some(1), MILLISECOND));
    // By another library, or with other options; its own account is better evidence.
    assert!(!tried(Some(503), None, None, SECOND, 2));
    assert!(tried(Some(503), None, Some(2), SECOND, 2));
    assert!(tried(Some(307), None, None, MILLISECOND, 2));
}

#[test]
fn a_traceparent_decides() {
    let mut scene = Scene::new(TraceBy::Auto);
    let mut evidence = Evidence::default();
    evidence.trace_context =
        TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    for tid in [1, 2] {
        let (trace, source) = scene.call(thread(tid), 0, &evidence);
        assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(source, "traceparent");
    }
    scene.traces.finish(&mut scene.ended);
    assert_eq!(scene.ended.len(), 1);
    assert_eq!(scene.ended[0].span_id, None);
    assert_eq!(
        scene.ended[0].parent_span_id.as_deref(),
        Some("00f067aa0ba902b7")
    );
}

#[test]
fn what_is_done_for_a_request_is_one_trace_of_its_name() {
    let mut scene = Scene::new(TraceBy::Auto);
    let none = Evidence::default();
    let request = Inbound {
        method: "POST".to_owned(),
        path: "/chat/42".to_owned(),
        trace_context: TraceContext::parse(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    };
    let id = |number| (PID, 1, 0, number);
    scene
        .traces
        .inbound_started(id(0), thread(1), Timestamp(0), &request);
    let one = scene.call(thread(1), SECOND, &none);
    let two = scene.call(thread(1), 3 * SECOND, &none);
    assert_eq!(one, two);
    assert_eq!(one.1, "inbound");
    assert_eq!(one.0, "4bf92f3577b34da6a3ce929d0e0e4736");
    scene.traces.inbound_ended(id(0));
    // The same thread serves another.
    let request = Inbound {
        trace_context: None,
        ..request
    };
    scene
        .traces
        .inbound_started(id(1), thread(1), Timestamp(5 * SECOND), &request);
    let three = scene.call(thread(1), 6 * SECOND, &none);
    assert_ne!(three.0, one.0);
    scene.traces.finish(&mut scene.ended);
    let names: Vec<_> = scene
        .ended
        .iter()
        .map(|trace| trace.name.as_deref())
        .collect();
    assert_eq!(names, [Some("POST /chat/{id}"); 2]);
    assert_eq!(
        scene.ended[0].parent_span_id.as_deref(),
        Some("00f067aa0ba902b7")
    );
    assert!(scene.ended[0].span_id.is_some());
}

#[test]
fn conversations_of_an_event_loop_are_told_apart() {
    let mut scene = Scene::new(TraceBy::Auto);
    let agents = 0..20_u64;
    let mut traces = Vec::new();
    for turn in 0..3 {
        let messages = |agent: u64| -> Vec<u64> {
            (0..=2 * turn)
                .map(|message| agent * 100 + message)
                .collect()
        };
        let open: Vec<OpenCall> = agents
            .clone()
            .map(|agent| {
                let at = turn * 2 * SECOND + agent;
                scene.start(thread(1), at, &list(5, &messages(agent)))
            })
            .collect();
        let placed = open.into_iter().map(|open| scene.end(open));
        traces.push(placed.map(|(trace, _)| trace).collect::<Vec<_>>());
    }
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0], traces[2]);
    let mut ids = traces.remove(0);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn what_a_run_asks_at_once_after_it_has_planned_is_part_of_it() {
    let mut scene = Scene::new(TraceBy::Auto);
    let plan = scene.call(thread(1), 0, &list(1, &[1]));
    let parts = [2, 3, 4].map(|part| scene.start(thread(1), 2 * SECOND, &list(2, &[part])));
    for part in parts {
        assert_eq!(scene.end(part).0, plan.0);
    }
}

#[test]
fn a_worker_that_begins_again_is_another_run() {
    let mut scene = Scene::new(TraceBy::Auto);
    let mut runs = Vec::new();
    for run in 0..3_u64 {
        let at = run * 6 * SECOND;
        let first = scene.call(thread(1), at, &list(5, &[run])).0;
        let second = scene
            .call(thread(1), at + 2 * SECOND, &list(5, &[run, 50, 51]))
            .0;
        assert_eq!(first, second);
        runs.push(first);
    }
    runs.dedup();
    assert_eq!(runs.len(), 3);
    // Single questions, one after the other, are one run.
    let one = scene.call(thread(2), 0, &list(5, &[1])).0;
    assert_eq!(scene.call(thread(2), 2 * SECOND, &list(5, &[2])).0, one);
}

#[test]
fn answers_that_are_referred_to_join_calls_of_any_thread() {
    let mut scene = Scene::new(TraceBy::Auto);
    let open = scene.start(thread(1), 0, &Evidence::default());
    let mut answer = call(0);
    answer.response_id = Some("resp_1".to_owned());
    // As Responses does.
    let mut first = list(0, &[1]);
    first.messages.beginnings.clear();
    answer.evidence = first;
    let first = scene.end_as(open, &answer);
    let mut evidence = Evidence::default();
    evidence.previous_response = Some("resp_1".to_owned());
    let second = scene.call(thread(2), 2 * SECOND, &evidence);
    // What nothing was known of when it was asked is no conversation.
    assert_ne!(second.0, first.0);

    let open = scene.start(thread(3), 0, &list(0, &[9]));
    let mut answer = call(0);
    answer.response_id = Some("resp_2".to_owned());
    let first = scene.end_as(open, &answer);
    evidence.previous_response = Some("resp_2".to_owned());
    let second = scene.call(thread(4), 2 * SECOND, &evidence);
    assert_eq!(second, (first.0, "conversation"));
}

#[test]
fn a_tool_is_a_step_from_the_answer_that_asks_for_it_to_the_request_that_brings_its_result() {
    let mut scene = Scene::new(TraceBy::Auto);
    let open = scene.start(thread(1), 0, &list(5, &[1]));
    let asked_by = open.span_id.clone();
    let mut answer = call(0);
    answer.evidence.tool_calls = [("call_1", "weather", 20), ("call_2", "time", 2)]
        .map(|(id, name, bytes)| ToolCall {
            id: Some(id.to_owned()),
            name: name.to_owned(),
            bytes,
        })
        .to_vec();
    scene.end_as(open, &answer);
    let mut evidence = list(5, &[1, 2, 3]);
    evidence.tool_results.push(ToolResult {
        id: "call_1".to_owned(),
        bytes: 300,
        failed: true,
    });
    // From another thread: the result tells.
    let second = scene.call(thread(2), 3 * SECOND, &evidence);
    assert_eq!(second.1, "conversation");
    // It stays in the list.
    scene.call(thread(2), 5 * SECOND, &evidence);
    scene.traces.finish(&mut scene.ended);
    let [trace] = scene.ended.as_slice() else {
        panic!("{:?}", scene.ended);
    };
    let [weather, time] = trace.steps.as_slice() else {
        panic!("{:?}", trace.steps);
    };
    assert_eq!(weather.parent_span_id, asked_by);
    assert_eq!(
        (weather.name.as_str(), weather.arguments_bytes),
        ("weather", 20)
    );
    assert_eq!(weather.duration_ns, Some(2 * SECOND));
    assert_eq!((weather.result_bytes, weather.failed), (Some(300), true));
    assert_eq!((time.duration_ns, time.result_bytes), (None, None));
}

#[test]
fn one_rule_can_be_pinned() {
    let mut evidence = Evidence::default();
    evidence.trace_context =
        TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let mut scene = Scene::new(TraceBy::Thread);
    assert_eq!(scene.call(task(1), 0, &evidence).1, "thread");
    assert_eq!(scene.call(task(2), 2 * SECOND, &evidence).1, "thread");
    scene.traces.finish(&mut scene.ended);
    assert_eq!(scene.ended.len(), 1);
    let mut scene = Scene::new(TraceBy::Task);
    assert_eq!(scene.call(task(1), 0, &evidence).1, "task");
}

#[test]
fn hostile_counts_do_not_overflow() {
    let mut scene = Scene::new(TraceBy::Auto);
    for _ in 0..2 {
        let open = scene.start(thread(1), 0, &Evidence::default());
        let mut call = call(0);
        call.prompt_tokens = Some(u64::MAX);
        call.completion_tokens = Some(2);
        call.latency = Duration::MAX;
        scene.end_as(open, &call);
    }
    scene.traces.finish(&mut scene.ended);
    assert_eq!(scene.ended[0].llm_usage.total_tokens, Some(u64::MAX));
    assert_eq!(scene.ended[0].llm_usage.total_latency_ms, u64::MAX);
}

#[test]
fn a_trace_of_dismissed_calls_leaves_no_record() {
    let mut scene = Scene::new(TraceBy::Auto);
    let open = scene.start(thread(1), 0, &Evidence::default());
    scene.traces.call_dismissed(&open, &mut scene.ended);
    scene.traces.finish(&mut scene.ended);
    assert!(scene.ended.is_empty());
}
