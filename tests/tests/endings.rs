//! One call, one record, however it ends.

use std::{thread, time::Duration};

use observer_e2e::harness::{Run, Scene, wait_until};
use rustix::process::Signal;

const SDKS: [&str; 4] = ["openai", "xai", "anthropic", "google"];

fn one(scene: &Scene, sdk: &str, mode: &str, behaviour: &str, more: &[&str]) -> Run {
    let arguments = ["--sdk", sdk, "--mode", mode, "--behaviour", behaviour]
        .into_iter()
        .chain(more.iter().copied());
    let run = scene.exec(&[], &scene.script("calls.py", arguments));
    run.assert_clean();
    run
}

/// Waits until the first request is there, and a while more.
fn in_the_middle_of_a_stream(scene: &Scene) {
    wait_until("a request", || scene.provider.requests() > 0);
    thread::sleep(Duration::from_millis(700));
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
            assert!(
                call["latency_ns"].as_u64().unwrap() < 1_900_000_000,
                "{call:#}"
            );
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
        let run = one(&scene, sdk, "sync", "hang", &["--timeout", "1"]);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["error_type"], seen["error_type"], "{seen}");
        assert_eq!(call["incomplete"], "client_cancelled");
        assert!(call["status_code"].is_null());
        let waited = call["latency_ns"].as_u64().unwrap() as f64 / 1e9;
        assert!((0.9..1.5).contains(&waited), "{waited} s");
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
    ];
    let mut client = scene.start(&scene.script("calls.py", arguments));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    in_the_middle_of_a_stream(&scene);
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
    ];
    let mut client = scene.start(&scene.script("calls.py", arguments));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    in_the_middle_of_a_stream(&scene);
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
    let scene = Scene::new();
    let arguments = [
        "--mode",
        "stream",
        "--behaviour",
        "events=250; token-ms=10",
        "--count",
        "2",
    ];
    let client = scene.start(&scene.script("calls.py", arguments));
    in_the_middle_of_a_stream(&scene);
    let observer = scene.watch(&["--pid", &client.pid()]);
    let (status, lines) = client.wait();
    assert!(status.success() && lines.len() == 2, "{lines:?}");
    let run = observer.wait();
    // The first was half over and has no request; the second is whole.
    let truth = scene.provider.wait_for(2);
    let call = run.only_call();
    assert_eq!(call["request_id"], truth[1]["request_id"]);
    observer_e2e::harness::assert_matches(call, &truth[1], None);
    assert!(call["incomplete"].is_null());
}

#[test]
fn a_malformed_answer_is_said() {
    let scene = Scene::new();
    let run = one(&scene, "openai", "sync", "malformed", &[]);
    assert_eq!(run.only_call()["incomplete"], "unparsable");
    assert_eq!(run.only_call()["status_code"], 200);
}
