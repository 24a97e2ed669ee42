//! What observer sends to Infinium is what infinium-o2 sends for the same run, and gets there as well as it can.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use observer_e2e::{
    harness::{Run, Scene, binary, slack},
    infinium::{Answer, Infinium, Received},
};
use serde_json::{Map, Value};

const AGENT: &str = "0af76519-16cd-43dd-8448-eb211c80319c";
const OURS: &str = "7e57ab1e-0000-4000-8000-00000000000b";
const SECRET: &str = "inf-THIS-KEY-IS-SECRET";

/// What of a payload cannot be known outside of the process: its names, arguments and result, and Python.
const UNKNOWABLE: &[&str] = &[
    "name",
    "description",
    "input_summary",
    "output_summary",
    "environment",
];

/// What of the first step cannot be known: the name of the function, and its result.
const UNKNOWABLE_OF_EXECUTION: &[&str] = &["description", "output_preview"];

/// How many milliseconds longer than on the wire a call takes in Python: what the SDK does before and after, on a busy
/// machine. Less than the pause before the head of a slow answer, so that clocks are told apart.
const IN_PYTHON: u64 = 150;

/// How many milliseconds the SDK's clock of a stream starts after the head of the answer came: until the client has read
/// it. Far less than the pause before the head.
const HEADS: u64 = 25;

#[test]
fn it_is_what_the_sdk_sends_for_the_same_run() {
    let mut scene = Scene::new();
    let server = Infinium::start(Some(&scene.provider)).unwrap();
    scene
        .environment
        .push(("INFINIUM_AGENT_SECRET".into(), SECRET.into()));
    let url = server.url("/observer/api/v1/");
    let options = [
        "--capture-content",
        "--preview-chars=1500",
        "--infinium-agent-id",
        OURS,
        "--infinium-url",
        &url,
        "--infinium-latency=sdk",
        "--infinium-calls=sdk",
        "--infinium-no-environment",
        "--infinium-no-tool-steps",
    ];
    let run = scene.exec(
        &options,
        &scene.script(
            "infinium_traces.py",
            [server.url("/sdk/api/v1").as_str(), AGENT],
        ),
    );
    run.assert_clean();
    let received = server.received();
    let of = |begin: &str| -> Vec<&Received> {
        let mut of: Vec<_> = received
            .iter()
            .filter(|received| received.line.starts_with(begin))
            .collect();
        // Ours overtake each other when several are under way.
        of.sort_by_key(|received| received.json["current_datetime"].as_str());
        of
    };
    let (theirs, ours) = (of("POST /sdk"), of("POST /observer"));
    assert_eq!(theirs.len(), 10, "{}", run.stderr);
    assert_eq!(ours.len(), theirs.len(), "{}", run.stderr);
    for (theirs, ours) in theirs.into_iter().zip(ours) {
        same_head(theirs, ours);
        let trace = theirs.json["name"].as_str().unwrap();
        same_trace(trace, &theirs.json, &ours.json);
    }
}

fn same_head(theirs: &Received, ours: &Received) {
    assert_eq!(
        theirs.line,
        format!("POST /sdk/api/v1/agents/{AGENT}/trace")
    );
    assert_eq!(
        ours.line,
        format!("POST /observer/api/v1/agents/{OURS}/trace")
    );
    for field in ["user-agent", "content-type", "x-agent-key"] {
        assert!(ours.header(field).is_some(), "{field}");
        assert_eq!(ours.header(field), theirs.header(field), "{field}");
    }
    assert_eq!(theirs.header("x-agent-id"), Some(AGENT));
    assert_eq!(ours.header("x-agent-id"), Some(OURS));
}

fn same_trace(trace: &str, theirs: &Value, ours: &Value) {
    let what = format!("{trace}: {ours:#}\nagainst {theirs:#}");
    assert_eq!(
        keys(ours, UNKNOWABLE),
        keys(theirs, UNKNOWABLE),
        "order of {what}"
    );
    for field in ["name", "description", "current_datetime", "duration"] {
        assert!(!ours[field].is_null(), "{field} of {what}");
    }
    let seconds = |value: &Value| Duration::from_secs_f64(value["duration"].as_f64().unwrap());
    let (shorter, longer) = (seconds(ours), seconds(theirs));
    let before = Duration::from_millis(IN_PYTHON * steps(theirs).len() as u64);
    assert!(
        shorter <= longer + slack(longer) && longer <= shorter + before + slack(longer),
        "duration of {what}"
    );
    let (theirs_steps, ours_steps) = (steps(theirs), steps(ours));
    assert_eq!(ours_steps.len(), theirs_steps.len(), "steps of {what}");
    for (index, (ours, theirs)) in ours_steps.iter().zip(theirs_steps).enumerate() {
        same_step(trace, index, theirs, ours, &what);
    }
    // An exception that leaves the function has a stack trace.
    let errors = |value: &Value| {
        let mut errors = value.get("errors").cloned().unwrap_or_default();
        for error in errors.as_array_mut().into_iter().flatten() {
            error.as_object_mut().unwrap().remove("stack_trace");
        }
        errors
    };
    assert_eq!(errors(ours), errors(theirs), "errors of {what}");
    assert_eq!(!errors(theirs).is_null(), trace == "raises", "{what}");
    let (mut ours, mut theirs) = (ours["llm_usage"].clone(), theirs["llm_usage"].clone());
    assert_eq!(keys(&ours, &[]), keys(&theirs, &[]), "llm_usage of {what}");
    same_milliseconds(
        ours["total_latency_ms"].take(),
        theirs["total_latency_ms"].take(),
        ours_steps.len() as u64,
        &what,
    );
    let calls = |usage: &mut Value| usage["calls"].as_array_mut().unwrap().clone();
    for (ours, theirs) in calls(&mut ours).iter().zip(calls(&mut theirs)) {
        same_call(trace, &theirs, ours, &what);
    }
    for usage in [&mut ours, &mut theirs] {
        usage.as_object_mut().unwrap().remove("calls");
    }
    assert_eq!(ours, theirs, "llm_usage of {what}");
}

fn same_step(trace: &str, index: usize, theirs: &Value, ours: &Value, what: &str) {
    let what = format!("step {index} of {what}");
    if index == 0 {
        let unknowable = UNKNOWABLE_OF_EXECUTION;
        assert_eq!(keys(ours, unknowable), keys(theirs, unknowable), "{what}");
        assert_eq!(ours["step_number"], 1);
        assert_eq!(ours["action"], theirs["action"], "{what}");
        let description = ours["description"].as_str().unwrap();
        assert!(description.starts_with("Execute "), "{what}");
        let mut error = theirs["error"].clone();
        if let Some(error) = error.as_object_mut() {
            error.remove("stack_trace");
        }
        assert_eq!(ours["error"], error, "{what}");
        return;
    }
    // What the SDK misses: the error of Google's stream, which is raised by its first `next`, and what of a stream
    // that was left had come.
    let missed: &[&str] = match (trace, index) {
        ("lazy", 1) => &["error"],
        ("left", 1) => &["output_preview"],
        _ => &[],
    };
    for field in missed {
        assert!(theirs[field].is_null() && !ours[field].is_null(), "{what}");
    }
    assert_eq!(keys(ours, missed), keys(theirs, missed), "{what}");
    for field in [
        "step_number",
        "action",
        "description",
        "input_preview",
        "output_preview",
        "error",
    ] {
        if !missed.contains(&field) {
            assert_eq!(ours[field], theirs[field], "{field} of {what}");
        }
    }
    same_milliseconds(
        ours["duration_ms"].clone(),
        theirs["duration_ms"].clone(),
        1,
        &what,
    );
    same_call(trace, &theirs["llm_call"], &ours["llm_call"], &what);
}

fn same_call(_trace: &str, theirs: &Value, ours: &Value, what: &str) {
    assert_eq!(keys(ours, &[]), keys(theirs, &[]), "{what}");
    for field in ["model", "provider", "prompt_tokens", "completion_tokens"] {
        assert_eq!(ours[field], theirs[field], "{field} of {what}");
    }
    assert_eq!(
        ours["temperature"].as_f64(),
        theirs["temperature"].as_f64(),
        "{what}"
    );
    same_milliseconds(
        ours["latency_ms"].clone(),
        theirs["latency_ms"].clone(),
        1,
        what,
    );
}

/// The wire takes no longer than Python, and not much less.
fn same_milliseconds(ours: Value, theirs: Value, calls: u64, what: &str) {
    let (Some(ours), Some(theirs)) = (ours.as_u64(), theirs.as_u64()) else {
        assert_eq!(ours, theirs, "{what}");
        return;
    };
    assert!(
        ours <= theirs + HEADS * calls && theirs <= ours + IN_PYTHON * calls,
        "{ours} ms against {theirs} ms: {what}"
    );
}

fn steps(payload: &Value) -> &[Value] {
    payload["steps"].as_array().unwrap()
}

/// The names of fields in their order, but for some.
fn keys<'a>(object: &'a Value, without: &[&str]) -> Vec<&'a str> {
    let object: &Map<String, Value> = object.as_object().unwrap();
    let keys = object.keys().map(String::as_str);
    keys.filter(|key| !without.contains(key)).collect()
}

/// A client that makes calls, watched by an observer that sends to a server of its own.
struct Sending {
    scene: Scene,
    server: Infinium,
}

impl Sending {
    fn new() -> Self {
        let mut scene = Scene::new();
        scene
            .environment
            .push(("INFINIUM_AGENT_SECRET".into(), SECRET.into()));
        let server = Infinium::start(None).unwrap();
        Self { scene, server }
    }

    fn run(&self, options: &[&str], client: &[&str]) -> Run {
        self.run_at(&self.server.url(""), options, client)
    }

    fn run_at(&self, url: &str, options: &[&str], client: &[&str]) -> Run {
        let mut all = vec!["--infinium-agent-id", OURS, "--infinium-url", url];
        all.extend(options);
        let script = self.scene.script("calls.py", client.iter().copied());
        let run = self.scene.exec(&all, &script);
        run.assert_clean();
        assert!(!run.stderr.contains("SECRET"), "{}", run.stderr);
        run
    }
}

/// Says what the counts of the warning are.
#[track_caller]
fn assert_counts(run: &Run, counts: &str) {
    assert!(run.stderr.contains(counts), "{counts}: {}", run.stderr);
}

#[test]
fn a_trace_says_which_process_it_was() {
    let sending = Sending::new();
    let run = sending.run(&[], &["--count", "2"]);
    let received = sending.server.received();
    assert_eq!(received.len(), 1);
    let (json, trace) = (&received[0].json, &run.traces[0]);
    let environment = &json["environment"];
    assert_eq!(environment["runtime"], "ebpf");
    let tags = &environment["custom_tags"];
    assert_eq!(tags["pid"], trace["pid"].to_string());
    assert_eq!(tags["comm"], trace["comm"]);
    assert_eq!(tags["trace_id"], trace["trace_id"]);
    assert_eq!(json["llm_usage"]["api_calls_count"], 2);
    assert_eq!(steps(json).len(), 3);
    // Nothing of prompts and answers leaves without --capture-content.
    assert!(!received[0].body.contains("preview") && !received[0].body.contains("summary"));
    assert!(!run.stderr.contains("Infinium"), "{}", run.stderr);
}

#[test]
fn a_server_that_fails_is_asked_again_as_the_sdk_does() {
    let sending = Sending::new();
    sending.server.answer([
        Answer::Status(503, None),
        Answer::Close,
        Answer::Status(500, None),
    ]);
    let run = sending.run(&[], &[]);
    let received = sending.server.received();
    assert_eq!(received.len(), 4);
    for (pair, delay) in received.windows(2).zip([1.0, 2.0, 4.0]) {
        let waited = pair[1].at - pair[0].at;
        assert!(
            waited >= Duration::from_secs_f64(delay * 0.75)
                && waited <= Duration::from_secs_f64(delay * 1.25 + 0.5),
            "{waited:?} for {delay}"
        );
        assert_eq!(pair[0].body, pair[1].body);
    }
    assert!(!run.stderr.contains("Infinium"), "{}", run.stderr);
    sending.server.answer(vec![Answer::Status(502, None); 4]);
    let run = sending.run(&[], &[]);
    assert_eq!(sending.server.received().len(), 8);
    assert_counts(&run, "failed=1");
}

#[test]
fn a_server_that_asks_for_silence_gets_it() {
    let sending = Sending::new();
    let retry_after = ("retry-after", "3".to_owned());
    sending
        .server
        .answer([Answer::Status(429, Some(retry_after))]);
    let run = sending.run(&[], &["--threads", "3"]);
    let received = sending.server.received();
    assert_eq!(received.len(), 4);
    // Two may have been on their way.
    let refused = received[0].at;
    let silence = Duration::from_secs(3);
    let late = received.iter().filter(|one| one.at >= refused + silence);
    assert!(late.count() >= 1, "{received:#?}");
    for one in &received {
        let after = one.at - refused;
        assert!(
            after < Duration::from_millis(500) || after >= silence,
            "{after:?}"
        );
    }
    assert!(!run.stderr.contains("Infinium"), "{}", run.stderr);
    // Longer than there is time at the end: it is not waited for.
    let retry_after = ("retry-after", "60".to_owned());
    sending
        .server
        .answer([Answer::Status(429, Some(retry_after))]);
    let begun = Instant::now();
    let run = sending.run(&[], &[]);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(sending.server.received().len(), 5);
    assert_counts(&run, "failed=1");
}

#[test]
fn a_server_that_hangs_or_is_not_there_costs_no_record() {
    let sending = Sending::new();
    sending
        .server
        .answer([Answer::Hang(Duration::from_secs(20))]);
    let run = sending.run(&["--infinium-timeout", "0.5"], &[]);
    assert_eq!(sending.server.received().len(), 2);
    assert!(!run.stderr.contains("Infinium"), "{}", run.stderr);
    let begun = Instant::now();
    // Discard: nobody listens there.
    let run = sending.run_at("http://127.0.0.1:9", &[], &["--count", "3"]);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!((run.calls.len(), run.traces.len()), (3, 1));
    assert_counts(&run, "failed=1");
}

#[test]
fn an_agent_that_is_not_known_is_left_alone() {
    for status in [401, 403, 404] {
        let sending = Sending::new();
        sending.server.answer([Answer::Status(status, None)]);
        let arguments = ["--threads", "1", "--count", "3", "--every", "0.6"];
        let run = sending.run(&["--trace-idle", "0.2"], &arguments);
        assert_eq!(run.traces.len(), 3);
        assert_eq!(sending.server.received().len(), 1, "{status}");
        let warnings = run.stderr.matches("nothing more is sent for it").count();
        assert_eq!(warnings, 1, "{}", run.stderr);
        assert!(run.stderr.contains(OURS) && run.stderr.contains(&status.to_string()));
    }
}

#[test]
fn keys_go_nowhere_else() {
    let sending = Sending::new();
    let elsewhere = Infinium::start(None).unwrap();
    for status in [301, 302, 307, 308] {
        let location = ("location", elsewhere.url("/x"));
        sending
            .server
            .answer([Answer::Status(status, Some(location))]);
        let run = sending.run(&[], &[]);
        assert_counts(&run, "refused=1");
    }
    assert_eq!(sending.server.received().len(), 4);
    assert_eq!(elsewhere.received().len(), 0);
}

#[test]
fn a_replay_waits_for_the_rate() {
    let sending = Sending::new();
    let recording = sending.scene.folder.path().join("recording");
    // More than burst and rate let pass in the time that there is at the end of a live run.
    let options = ["--capture-content", "--record", recording.to_str().unwrap()];
    let script = sending.scene.script("calls.py", ["--threads", "130"]);
    let run = sending.scene.exec(&options, &script);
    run.assert_clean();
    assert_eq!(run.traces.len(), 130);
    let output = Command::new(binary())
        .arg("replay")
        .arg(&recording)
        .args(["--format", "none", "--infinium-agent-id", OURS])
        .args(["--infinium-url", &sending.server.url("")])
        .env("INFINIUM_AGENT_SECRET", SECRET)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(sending.server.received().len(), 130, "{said}");
}

#[test]
fn the_rate_is_that_of_the_sdk() {
    let sending = Sending::new();
    let arguments = ["--threads", "35", "--count", "1"];
    let run = sending.run(&[], &arguments);
    assert_eq!(run.traces.len(), 35);
    let received = sending.server.received();
    assert_eq!(received.len(), 35);
    // 20 at once, then ten a second.
    let last = received.last().unwrap().at - received[0].at;
    assert!(last >= Duration::from_millis(1300), "{last:?}");
    for (index, one) in received.iter().enumerate().skip(21) {
        let earliest = Duration::from_millis(100) * (u32::try_from(index).unwrap() - 20);
        let after = one.at - received[0].at;
        assert!(
            after + Duration::from_millis(50) >= earliest,
            "{index}: {after:?}"
        );
    }
}

#[test]
fn the_key_comes_from_the_environment_or_a_file() {
    let mut sending = Sending::new();
    let path = sending.scene.folder.path().join("key");
    fs::write(&path, "inf-of-a-file\n").unwrap();
    let path = path.to_str().unwrap();
    sending.run(&[], &[]);
    sending.run(&["--infinium-key-file", path], &[]);
    let received = sending.server.received();
    let keys: Vec<_> = received
        .iter()
        .map(|received| received.header("x-agent-key").unwrap())
        .collect();
    assert_eq!(keys, [SECRET, "inf-of-a-file"]);
    sending.scene.environment.clear();
    for (options, why) in [
        (&[][..], "INFINIUM_AGENT_SECRET is not set"),
        (&["--infinium-key-file", "/nowhere"], "No such file"),
        (&["--infinium-agent-id", "x"], "is no UUID"),
        (
            &["--infinium-url", "ftp://localhost"],
            "neither https nor http",
        ),
    ] {
        let agent = ["--infinium-agent-id", OURS, "--infinium-key-file", path];
        let mut all = match why {
            why if why.contains("is not set") => agent[..2].to_vec(),
            why if why.contains("UUID") => agent[2..].to_vec(),
            why if why.contains("No such file") => agent[..2].to_vec(),
            _ => agent.to_vec(),
        };
        all.extend(options);
        let run = sending
            .scene
            .exec(&all, &sending.scene.script("calls.py", []));
        assert!(!run.status.success() && run.client.is_empty());
        assert!(run.stderr.contains(why), "{why}: {}", run.stderr);
    }
    assert_eq!(sending.server.received().len(), 2);
}
