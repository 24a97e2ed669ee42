//! One call, one record, however it ends.

use std::time::{Duration, Instant};

use observer_e2e::harness::{Client, Run, Scene, assert_matches, slack, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const SDKS: [&str; 4] = ["openai", "xai", "anthropic", "google"];

fn one(scene: &Scene, sdk: &str, mode: &str, behaviour: &str, more: &[&str]) -> Run {
    let arguments = ["--sdk", sdk, "--mode", mode, "--behaviour", behaviour]
        .into_iter()
        .chain(more.iter().copied());
    let run = scene.exec(&[], &scene.script("calls.py", arguments));
    run.assert_clean();
    run
}

/// Waits until the client has text of an answer.
fn in_the_middle_of_a_stream(client: &Client) {
    assert_eq!(client.line(), "begun");
}

/// Asserts that the latency is no longer than the call was to the client, or to the provider, which may notice
/// last that the client is gone. It is the call of this number to the provider.
fn assert_no_longer(scene: &Scene, run: &Run, number: usize) {
    let time = |value: &Value| Duration::from_nanos(value.as_u64().expect("a time"));
    let server = time(&scene.provider.wait_for(number)[number - 1]["server_ns"]);
    let longest = time(&run.client[0]["elapsed_ns"]).max(server);
    let latency = time(&run.only_call()["latency_ns"]);
    assert!(
        latency <= longest + slack(longest),
        "{latency:?} of {longest:?}"
    );
}

#[test]
fn http_errors_are_the_exceptions_of_the_sdk() {
    let scene = Scene::new();
    for sdk in SDKS {
        for behaviour in ["error=401", "error=429", "error=529"] {
            let run = one(&scene, sdk, "stream", behaviour, &[]);
            let (call, seen) = (run.only_call(), &run.client[0]);
            assert_eq!(call["error_type"], seen["error_type"], "{sdk} {behaviour}");
            assert_eq!(
                call["error_message"], seen["error_message"],
                "{sdk} {behaviour}"
            );
            assert!(call["incomplete"].is_null() && call["prompt_tokens"].is_null());
        }
    }
}

#[test]
fn an_error_in_the_middle_of_a_stream() {
    let scene = Scene::new();
    for sdk in SDKS {
        let run = one(&scene, sdk, "stream", "events=20; stream-error=6", &[]);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["status_code"], 200);
        assert_eq!(call["error_type"], seen["error_type"], "{sdk}: {seen}");
        assert_eq!(
            call["error_message"], seen["error_message"],
            "{sdk}: {seen}"
        );
        assert_eq!(call["finish_reasons"].as_array().map(Vec::len), Some(0));
    }
}

#[test]
fn a_stream_that_the_client_leaves() {
    let scene = Scene::new();
    let mut made = 0;
    for sdk in SDKS {
        for mode in ["stream", "async-stream"] {
            let run = one(
                &scene,
                sdk,
                mode,
                "events=400; token-ms=5",
                &["--break-after", "6"],
            );
            let call = run.only_call();
            assert_eq!(
                call["incomplete"], "client_cancelled",
                "{sdk} {mode}: {call:#}"
            );
            assert!(call["error_type"].is_null(), "{call:#}");
            assert!(call["time_to_first_token_ns"].is_u64());
            // Anthropic and Gemini say the input's tokens early; they are kept.
            assert_eq!(
                call["prompt_tokens"].is_u64(),
                matches!(sdk, "anthropic" | "google"),
                "{call:#}"
            );
            // The whole stream would have taken two seconds.
            made += 1;
            assert_no_longer(&scene, &run, made);
        }
    }
}

#[test]
fn a_stream_that_the_server_cuts() {
    let scene = Scene::new();
    for sdk in SDKS {
        for behaviour in [
            "events=20; token-ms=2; cut=8",
            "events=20; token-ms=2; cut-clean=8",
        ] {
            let run = one(&scene, sdk, "stream", behaviour, &[]);
            let (call, seen) = (run.only_call(), &run.client[0]);
            assert_eq!(
                call["incomplete"], "server_disconnected",
                "{sdk} {behaviour}: {call:#}"
            );
            assert_eq!(
                call["error_type"], seen["error_type"],
                "{sdk} {behaviour}: {seen}"
            );
            assert_eq!(call["status_code"], 200);
        }
    }
}

#[test]
fn an_asynchronous_stream_that_the_server_cuts() {
    let scene = Scene::new();
    for sdk in ["openai", "anthropic"] {
        let run = one(
            &scene,
            sdk,
            "async-stream",
            "events=20; token-ms=2; cut=8",
            &[],
        );
        assert_eq!(
            run.only_call()["incomplete"],
            "server_disconnected",
            "{:#}",
            run.only_call()
        );
    }
}

#[test]
fn a_client_that_stops_waiting() {
    let scene = Scene::new();
    for sdk in ["openai", "anthropic"] {
        let began = Instant::now();
        let run = one(&scene, sdk, "sync", "hang", &["--timeout", "1"]);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["error_type"], seen["error_type"], "{seen}");
        assert_eq!(call["incomplete"], "client_cancelled");
        assert!(call["status_code"].is_null());
        // The exception keeps the connection until the client has nearly ended.
        let waited = Duration::from_nanos(call["latency_ns"].as_u64().unwrap());
        let longest = began.elapsed();
        assert!(
            waited >= Duration::from_millis(900) && waited <= longest,
            "{waited:?} of {longest:?}"
        );
    }
}

#[test]
fn a_stream_that_is_silent_for_a_minute_and_goes_on() {
    let scene = Scene::new();
    let run = one(
        &scene,
        "openai",
        "stream",
        "events=10; pause-ms=61000",
        &["--timeout", "120"],
    );
    scene.assert_truth(&run.calls);
    assert!(run.only_call()["incomplete"].is_null());
    assert!(run.only_call()["latency_ns"].as_u64().unwrap() > 61_000_000_000);
    assert_eq!(run.traces.len(), 1);
}

#[test]
fn a_process_that_is_killed() {
    let scene = Scene::new();
    let arguments = [
        "--mode",
        "stream",
        "--behaviour",
        "events=2000; token-ms=10",
        "--sdk",
        "anthropic",
        "--wait-for-stdin",
        "--say-begun",
    ];
    let mut client = scene.start(&scene.script("told.py", arguments));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    in_the_middle_of_a_stream(&client);
    client.signal(Signal::KILL);
    client.wait();
    let run = observer.wait();
    assert!(run.status.success(), "{}", run.stderr);
    let call = run.only_call();
    assert_eq!(call["incomplete"], "process_exited", "{call:#}");
    assert!(
        call["prompt_tokens"].is_u64() && call["time_to_first_token_ns"].is_u64(),
        "{call:#}"
    );
    assert_eq!(run.traces.len(), 1);
}

#[test]
fn an_observer_that_stops_before_the_call_ends() {
    let scene = Scene::new();
    let arguments = [
        "--mode",
        "stream",
        "--behaviour",
        "events=500; token-ms=10",
        "--wait-for-stdin",
        "--say-begun",
    ];
    let mut client = scene.start(&scene.script("told.py", arguments));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    in_the_middle_of_a_stream(&client);
    let run = observer.stop();
    run.assert_clean();
    assert_eq!(run.only_call()["incomplete"], "observer_stopped");
    // The client never notices.
    let (status, lines) = client.wait();
    assert!(status.success());
    assert!(
        lines
            .iter()
            .any(|line| line.contains(r#""error_type": null"#)),
        "{lines:?}"
    );
    wait_until("the stream is complete", || {
        scene
            .provider
            .truth()
            .iter()
            .any(|truth| truth["ended"] == "complete")
    });
}

#[test]
fn an_observer_that_comes_in_the_middle_of_a_stream() {
    // As long as the attach takes, or longer.
    for events in [250, 1000, 4000] {
        let scene = Scene::new();
        let behaviour = format!("events={events}; token-ms=10");
        let arguments = ["--mode", "stream", "--behaviour", &behaviour]
            .into_iter()
            .chain(["--by-line", "--say-begun"]);
        let mut client = scene.start(&scene.script("told.py", arguments));
        client.go_on();
        in_the_middle_of_a_stream(&client);
        let observer = scene.watch(&["--pid", &client.pid()]);
        if !scene.provider.truth().is_empty() {
            continue;
        }
        client.line();
        client.go_on();
        in_the_middle_of_a_stream(&client);
        let line = serde_json::from_str::<Value>(&client.line()).unwrap();
        assert!(client.wait().0.success());
        let run = observer.wait();
        // The first was half over and has no request; the second is whole.
        let truth = scene.provider.wait_for(2);
        let call = run.only_call();
        assert_eq!(call["request_id"], truth[1]["request_id"]);
        let elapsed = line["elapsed_ns"].as_u64().map(Duration::from_nanos);
        assert_matches(call, &truth[1], elapsed);
        assert!(call["incomplete"].is_null());
        return;
    }
    panic!("no attach was done before the stream was");
}

#[test]
fn a_malformed_answer_is_said() {
    let scene = Scene::new();
    let run = one(&scene, "openai", "sync", "malformed", &[]);
    assert_eq!(run.only_call()["incomplete"], "unparsable");
    assert_eq!(run.only_call()["status_code"], 200);
}
