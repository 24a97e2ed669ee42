//! The other end and the clients prove each other, without the agent: what a client saw is what the
//! provider says it sent.

use std::{process::Stdio, time::Duration};

use observer_e2e::harness::Scene;
use serde_json::Value;

const SDKS: [&str; 4] = ["openai", "xai", "anthropic", "google"];
const MODES: [&str; 4] = ["sync", "async", "stream", "async-stream"];

/// Runs a script and returns its lines.
fn run(scene: &Scene, script: &str, arguments: &[&str]) -> Vec<Value> {
    let mut command = scene.command(&scene.script(script, arguments.iter().copied()));
    let output = command.stdin(Stdio::null()).output().expect("the client");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Runs a script and pairs each of its lines with the truth about that call.
fn exchanges(scene: &Scene, script: &str, arguments: &[&str]) -> Vec<(Value, Value)> {
    let before = scene.provider.truth().len();
    let seen = run(scene, script, arguments);
    assert!(!seen.is_empty(), "{script} {arguments:?} printed nothing");
    // A server learns late that its client is gone.
    let truth = scene
        .provider
        .wait_for(before + seen.len())
        .split_off(before);
    seen.into_iter()
        .map(|seen| {
            let mut matching = truth.iter().filter(|truth| truth["test"] == seen["case"]);
            let found = matching
                .next()
                .unwrap_or_else(|| panic!("the provider knows nothing of {seen}"))
                .clone();
            assert!(
                matching.next().is_none(),
                "the provider knows {} twice",
                seen["case"]
            );
            (seen, found)
        })
        .collect()
}

fn call(scene: &Scene, sdk: &str, mode: &str, behaviour: &str, more: &[&str]) -> (Value, Value) {
    let mut arguments = vec!["--sdk", sdk, "--mode", mode, "--behaviour", behaviour];
    arguments.extend(more);
    exchanges(scene, "calls.py", &arguments).remove(0)
}

fn words(value: &Value) -> &str {
    value["text"].as_str().expect("text")
}

#[test]
fn every_sdk_reads_every_answer() {
    let scene = Scene::new();
    for sdk in SDKS {
        for mode in MODES {
            let behaviour = "events=40; encoding=gzip; framing=chunked; chunk-extensions; trailers";
            let arguments = [
                "--sdk",
                sdk,
                "--mode",
                mode,
                "--behaviour",
                behaviour,
                "--count",
                "3",
            ];
            let all = exchanges(&scene, "calls.py", &arguments);
            assert_eq!(all.len(), 3);
            for (seen, truth) in all {
                assert_eq!(seen["error_type"], Value::Null, "{sdk} {mode}: {seen}");
                assert_eq!(seen["text"], truth["text"], "{sdk} {mode}");
                assert_eq!(
                    (&truth["provider"], &truth["ended"]),
                    (&sdk.into(), &"complete".into()),
                    "{truth}"
                );
                assert!(
                    truth["server_ns"].as_u64().unwrap() <= seen["elapsed_ns"].as_u64().unwrap(),
                    "{seen} {truth}"
                );
            }
        }
    }
}

#[test]
fn many_threads_and_tasks() {
    let scene = Scene::new();
    for (more, count) in [
        (
            &["--mode", "stream", "--threads", "16", "--count", "4"][..],
            64,
        ),
        (
            &["--mode", "async-stream", "--tasks", "20", "--count", "2"],
            40,
        ),
        (
            &[
                "--mode",
                "async",
                "--tasks",
                "20",
                "--count",
                "2",
                "--uvloop",
                "--sdk",
                "anthropic",
            ],
            40,
        ),
    ] {
        let all = exchanges(&scene, "calls.py", more);
        assert_eq!(all.len(), count);
        assert!(
            all.iter()
                .all(|(seen, truth)| seen["text"] == truth["text"]),
            "{all:#?}"
        );
    }
}

#[test]
fn children_that_are_forked_and_executed() {
    let scene = Scene::new();
    let all = exchanges(&scene, "children.py", &["--sdk", "openai"]);
    let cases: Vec<_> = all
        .iter()
        .map(|(seen, _)| seen["case"].as_str().unwrap())
        .collect();
    assert_eq!(cases, ["forked/0", "executed/0"]);
}

#[test]
fn what_an_answer_that_ends_too_soon_looks_like() {
    let scene = Scene::new();
    for (sdk, of_cut) in [
        ("openai", "APIConnectionError"),
        ("anthropic", "RemoteProtocolError"),
        ("google", "RemoteProtocolError"),
    ] {
        let (seen, truth) = call(&scene, sdk, "stream", "events=20; cut=8", &[]);
        assert_eq!(
            (&seen["error_type"], &truth["ended"]),
            (&of_cut.into(), &"cut".into())
        );
        assert!(
            words(&truth).starts_with(words(&seen)) && words(&seen) != words(&truth),
            "{seen} {truth}"
        );
        assert_eq!(truth["finish_reasons"], serde_json::json!([]));
        assert_eq!(
            truth["completion_tokens"],
            if sdk == "google" {
                7.into()
            } else {
                Value::Null
            }
        );

        let (seen, truth) = call(&scene, sdk, "async-stream", "events=20; cut-clean=8", &[]);
        // Where aiohttp is installed, google-genai speaks through it when it is asynchronous.
        let of_cut = if sdk == "google" {
            "ClientPayloadError"
        } else {
            of_cut
        };
        assert_eq!(
            (&seen["error_type"], &truth["ended"]),
            (&of_cut.into(), &"cut".into())
        );

        let (seen, truth) = call(&scene, sdk, "stream", "events=20; cut-reset=8", &[]);
        assert_eq!(
            (&seen["error_type"].is_null(), &truth["ended"]),
            (&false, &"cut".into())
        );

        let (seen, truth) = call(&scene, sdk, "stream", "events=20; stream-error=8", &[]);
        let expected = match sdk {
            "openai" => "APIError",
            "anthropic" => "APIStatusError",
            _ => "ServerError",
        };
        assert_eq!(
            (&seen["error_type"], &truth["ended"]),
            (&expected.into(), &"complete".into())
        );
        assert!(!truth["error_body"].is_null());
    }
}

#[test]
fn clients_that_leave() {
    let scene = Scene::new();
    for sdk in SDKS {
        for mode in ["stream", "async-stream"] {
            let (seen, truth) = call(
                &scene,
                sdk,
                mode,
                "events=400; token-ms=5",
                &["--break-after", "5"],
            );
            assert_eq!(
                (&seen["error_type"], &truth["ended"]),
                (&Value::Null, &"client gone".into()),
                "{sdk} {mode}"
            );
        }
        let (seen, truth) = call(&scene, sdk, "sync", "hang", &["--timeout", "1"]);
        assert!(
            seen["error_type"].as_str().unwrap().contains("Timeout"),
            "{seen}"
        );
        assert_eq!(
            (&truth["ended"], &truth["status_code"]),
            (&"client gone".into(), &Value::Null)
        );
    }
}

#[test]
fn calls_that_are_cancelled() {
    let scene = Scene::new();
    for sdk in ["openai", "anthropic", "google"] {
        for (mode, behaviour) in [
            ("async", "hang"),
            ("async-stream", "events=400; token-ms=10"),
        ] {
            let (seen, truth) = call(&scene, sdk, mode, behaviour, &["--cancel-after", "2"]);
            assert_eq!(
                (&seen["error_type"], &truth["ended"]),
                (&"TimeoutError".into(), &"client gone".into()),
                "{sdk} {mode}"
            );
        }
    }
}

#[test]
fn attempts_of_one_call() {
    let scene = Scene::new();
    for sdk in ["openai", "xai", "anthropic"] {
        let arguments = [
            "--sdk",
            sdk,
            "--retries",
            "2",
            "--behaviour",
            "error=503; fails=2",
        ];
        let before = scene.provider.truth().len();
        let seen = run(&scene, "calls.py", &arguments);
        let truth = scene.provider.wait_for(before + 3).split_off(before);
        let statuses: Vec<_> = truth.iter().map(|truth| &truth["status_code"]).collect();
        assert_eq!(statuses, [503, 503, 200], "{sdk}");
        assert_eq!(seen[0]["text"], truth[2]["text"], "{sdk}");
    }
}

#[test]
fn an_error_that_is_a_string() {
    let scene = Scene::new();
    let (seen, truth) = call(&scene, "xai", "sync", "error=429; error-text", &[]);
    assert!(truth["error_body"]["error"].is_string());
    // The SDK of OpenAI looks for an object and leaves the text out.
    assert_eq!(
        (&seen["error_type"], &seen["error_message"]),
        (&"RateLimitError".into(), &"Error code: 429".into())
    );
}

#[test]
fn http_as_no_sdk_speaks_it() {
    let scene = Scene::new();
    let steps = [
        "array",
        "by_bytes",
        "chunked_upload",
        "close_delimited",
        "curl",
        "expect",
        "keep_alive",
        "odd_framing",
        "other_path",
        "pipelined",
        "slow_reader",
        "slow_writer",
        "upgrade",
        "early",
    ];
    let seen: Vec<Value> = run(&scene, "raw.py", &steps)
        .iter()
        .flat_map(|step| step["answers"].as_array().expect("answers").clone())
        .collect();
    let truth = scene.provider.wait_for(seen.len());
    assert_eq!(seen.len(), truth.len());
    for (seen, truth) in seen.iter().zip(&truth) {
        assert_eq!(seen["case"], truth["test"]);
        if truth["status_code"] == 200 {
            assert_eq!(seen["text"], truth["text"], "{truth}");
            assert!(seen["request_id"].is_null() || seen["request_id"] == truth["request_id"]);
        }
    }
    let last = truth.last().unwrap();
    assert_eq!(
        (&last["status_code"], &last["model"]),
        (&413.into(), &Value::Null)
    );
}

#[test]
fn infinium_o2_records_what_was_answered() {
    let scene = Scene::new();
    let recorded = run(&scene, "parity.py", &[]);
    let truth = scene.provider.truth();
    assert_eq!(recorded.len(), truth.len());
    for (call, truth) in recorded.iter().zip(&truth) {
        let what = &call["what"];
        assert_eq!(call["case"], truth["test"], "{what}");
        for field in ["provider", "stream", "prompt_tokens", "completion_tokens"] {
            assert_eq!(call[field], truth[field], "{field} of {what}");
        }
        assert_eq!(
            call["temperature"].as_f64(),
            truth["temperature"].as_f64(),
            "{what}"
        );
        assert_eq!(
            call["error_type"].is_null(),
            truth["status_code"] == 200,
            "{what}"
        );
        if let Some(preview) = call["output_preview"].as_str() {
            let preview = preview.strip_suffix("...").unwrap_or(preview);
            assert!(words(truth).starts_with(preview), "{what}");
        }
    }
}

#[test]
fn the_pace_is_that_of_the_behaviour() {
    let scene = Scene::new();
    let (seen, truth) = call(
        &scene,
        "openai",
        "stream",
        "delay-ms=100; events=20; token-ms=10; pause-ms=100",
        &[],
    );
    let took = |nanoseconds: &Value| Duration::from_nanos(nanoseconds.as_u64().unwrap());
    let (client, server) = (took(&seen["elapsed_ns"]), took(&truth["server_ns"]));
    assert!(
        server >= Duration::from_millis(400) && client >= server,
        "{client:?}, of the provider {server:?}"
    );
}
