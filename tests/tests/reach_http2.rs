//! Calls over HTTP/2, by real clients.

use std::{ffi::OsString, fs, process::Command};

use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Client, Scene},
};
use serde_json::Value;

/// A command line of the clients of a folder of `clients/`, which has its own requirements.
fn python(scene: &Scene, folder: &str, arguments: &[&str]) -> Vec<OsString> {
    let requirements = fs::read_to_string(clients::script(&format!("{folder}/requirements.txt")))
        .expect("the requirements");
    let python =
        clients::environment(folder, &requirements).unwrap_or_else(|error| panic!("{error:#}"));
    let mut command = scene.script(&format!("{folder}/calls.py"), arguments.iter().copied());
    command[0] = python.into();
    command
}

const HTTPX: Row<'_> = Row {
    runtime: "Python httpx",
    version: "0.28",
    library: "OpenSSL 3.0",
    linkage: "shared",
    symbols: "dynamic symbols",
    http: "2",
};

/// Text of what the clients saw.
fn texts(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| {
            assert_eq!(line["error_type"], Value::Null, "{line}");
            line["text"].as_str().expect("a text")
        })
        .collect()
}

#[test]
fn httpx_one_after_the_other() {
    let scene = Scene::new();
    for mode in ["sync", "stream", "async", "async-stream"] {
        let behaviour = "events=30; token-ms=3; cached=4; reasoning=2";
        let arguments = [
            "--mode",
            mode,
            "--count",
            "3",
            "--behaviour",
            behaviour,
            "--temperature",
            "0.5",
        ];
        let run = scene.cover(&HTTPX, 3, &[], &python(&scene, "http2", &arguments));
        assert_eq!(texts(&run.client).len(), 3);
        scene.assert_truth_of(&run.calls);
    }
}

/// Streams on one connection: each has its own text, tokens and times.
#[test]
fn httpx_streams_interleaved() {
    let scene = Scene::new();
    let behaviour = "events=40; token-ms=5; encoding=gzip";
    let arguments = [
        "--mode",
        "async-stream",
        "--tasks",
        "8",
        "--count",
        "2",
        "--behaviour",
        behaviour,
    ];
    let command = python(&scene, "http2", &arguments);
    let run = scene.cover(&HTTPX, 16, &["--capture-content"], &command);
    scene.assert_truth_of(&run.calls);
    let truth = scene.provider.truth();
    for call in &run.calls {
        let shown = call["output_preview"].as_str().expect("a preview");
        let shown = shown.trim_end_matches('…').trim_end_matches("...");
        let same = |text: &&str| text.starts_with(shown);
        assert!(texts(&run.client).iter().any(same), "{shown}");
        let first = call["time_to_first_token_ns"].as_u64().expect("a time");
        let latency = call["latency_ns"].as_u64().expect("a latency");
        // The client saw the same text a little later.
        let of = |truth: &&Value| truth["request_id"] == call["request_id"];
        let case = &truth.iter().find(of).expect("it was answered")["test"];
        let seen = run.client.iter().find(|line| line["case"] == *case);
        let seen = seen.expect("the client's line")["first_ns"].as_u64();
        let seen = seen.expect("a time");
        assert!(
            first > 0 && first < latency && first < seen,
            "{first} of {latency}, where the client saw {seen}"
        );
    }
}

#[test]
fn httpx_errors_and_streams_that_break_off() {
    let scene = Scene::new();
    for (behaviour, incomplete) in [
        ("error=429", Value::Null),
        ("events=20; reset=9", "server_disconnected".into()),
        ("events=20; cut=9", "server_disconnected".into()),
    ] {
        let arguments = ["--mode", "stream", "--behaviour", behaviour];
        let run = scene.exec(&[], &python(&scene, "http2", &arguments));
        let call = run.only_call();
        assert_eq!(call["incomplete"], incomplete, "{behaviour}: {call}");
        assert!(call["error_type"].is_string(), "{behaviour}: {call}");
        scene.assert_truth_of(&run.calls);
    }
}

/// A client that leaves a stream goes on with others.
#[test]
fn httpx_leaves_a_stream() {
    let scene = Scene::new();
    let arguments = [
        "--mode",
        "async-stream",
        "--break-after",
        "5",
        "--behaviour",
        "events=60; token-ms=10",
    ];
    let run = scene.exec(&[], &python(&scene, "http2", &arguments));
    let call = run.only_call();
    assert_eq!(call["incomplete"], "client_cancelled", "{call:#}");
    assert_eq!(call["finish_reasons"].as_array().map(Vec::len), Some(0));
    assert_eq!(call["response_model"], "gpt-4o-2024-08-06");
}

/// Has a client make one call more, and waits for its end.
fn one_more(client: &mut Client) {
    client.go_on();
    client.line();
}

/// Calls after the attach.
const LATE: usize = 10;

/// Who is attached to in the middle of a connection refers to heads that nobody has seen: the record says
/// so, and has all that the bodies say.
#[test]
fn joined_late() {
    for mode in ["sync", "stream"] {
        let scene = Scene::new();
        let arguments = ["--mode", mode, "--by-line"];
        let mut client = scene.start(&python(&scene, "http2", &arguments));
        one_more(&mut client);
        let observer = scene.watch(&["--pid", &client.pid()]);
        for _ in 0..LATE {
            one_more(&mut client);
        }
        let run = observer.stop();
        run.assert_clean();
        assert!(client.wait().0.success());
        assert_eq!(run.calls.len(), LATE, "{:#?}", run.calls);
        let truth = scene.provider.wait_for(1 + LATE).split_off(1);
        for call in &run.calls {
            assert_eq!(call["incomplete"], "headers_unknown", "{call:#}");
            assert_eq!(call["url_path"], Value::Null, "{call:#}");
        }
        // One for one: answers have random lengths.
        for (call, truth) in run.calls.iter().zip(&truth) {
            for field in ["provider", "operation", "model", "response_model"]
                .iter()
                .chain(&["prompt_tokens", "completion_tokens", "finish_reasons"])
                .chain(&["stream", "status_code"])
            {
                assert_eq!(call[field], truth[field], "{field} of {call:#}");
            }
        }
    }
}

#[test]
fn curl() {
    let scene = Scene::new();
    let version = Command::new("curl")
        .arg("--version")
        .output()
        .expect("curl");
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.split_whitespace().nth(1).expect("a version");
    let row = Row {
        runtime: "curl",
        version,
        library: "OpenSSL 3.0",
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "2",
    };
    let url = format!("{}/v1/chat/completions", scene.provider.url());
    let ca = scene.provider.ca();
    for stream in [false, true] {
        let body = format!(
            r#"{{"model":"gpt-4o","stream":{stream},"messages":[{{"role":"user","content":"x"}}]}}"#
        );
        // It says itself how long it took, at most.
        let timed = "begun=$(date +%s%N); \"$@\" || exit; ended=$(date +%s%N); \
                     printf '\\n{\"case\":\"curl\",\"elapsed_ns\":%s}\\n' $((ended-begun))";
        let command = ["sh", "-c", timed, "sh"]
            .into_iter()
            .chain(["curl", "--http2", "--silent", "--fail", "--cacert"])
            .map(OsString::from)
            .chain([ca.clone().into(), url.clone().into()])
            .chain(["--data", &body].map(OsString::from))
            .chain(["-H", "content-type: application/json", "-H"].map(OsString::from))
            .chain(["x-test-behaviour: events=20; token-ms=2", "-H"].map(OsString::from))
            .chain([OsString::from("x-test-case: curl")])
            // Another request on the same connection.
            .chain(["--next", "--silent", "--cacert"].map(OsString::from))
            .chain([ca.clone().into()])
            .chain([format!("{}/v1/models", scene.provider.url()).into()])
            .collect::<Vec<_>>();
        let run = scene.cover(&row, 1, &[], &command);
        scene.assert_truth_of(&run.calls);
    }
}

/// Calls by an SDK on gRPC's own library, which has a stripped BoringSSL in it: three of each mode and behaviour.
fn cover_grpc(scene: &Scene, runtime: &str, folder: &str, cases: &[(&str, &str)]) {
    let row = Row {
        runtime,
        version: "1.83",
        library: "BoringSSL",
        linkage: "static",
        symbols: "stripped",
        http: "2 (gRPC)",
    };
    for (mode, behaviour) in cases {
        let arguments = [
            "--mode",
            mode,
            "--count",
            "3",
            "--behaviour",
            behaviour,
            "--temperature",
            "0.7",
        ];
        let run = scene.cover(&row, 3, &[], &python(scene, folder, &arguments));
        assert_eq!(texts(&run.client).len(), 3);
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn grpc_by_google_generativeai() {
    cover_grpc(
        &Scene::new(),
        "Python grpcio (google-generativeai)",
        "gemini_grpc",
        &[
            ("sync", "cached=4; reasoning=2"),
            ("sync", "encoding=gzip; bytes=40000"),
            ("stream", "events=30; token-ms=3; cached=4; reasoning=2"),
            ("stream", "events=30; encoding=gzip; tools=2"),
        ],
    );
}

/// Class and text of the exception are those that the client raises.
#[test]
fn grpc_errors() {
    let scene = Scene::new();
    for (mode, behaviour) in [
        ("sync", "error=429"),
        ("stream", "error=400"),
        ("stream", "events=20; stream-error=3"),
    ] {
        let arguments = ["--mode", mode, "--behaviour", behaviour];
        let run = scene.exec(&[], &python(&scene, "gemini_grpc", &arguments));
        let call = run.only_call();
        scene.assert_truth_of(&run.calls);
        for field in ["error_type", "error_message"] {
            assert_eq!(call[field], run.client[0][field], "{behaviour}: {call:#}");
        }
    }
}

#[test]
fn grpc_by_xai_sdk() {
    let scene = Scene::new();
    cover_grpc(
        &scene,
        "Python grpcio (xai-sdk)",
        "xai_grpc",
        &[
            ("sync", "cached=4; reasoning=2"),
            ("sync", "tools=2"),
            ("stream", "events=30; token-ms=3; cached=4; reasoning=2"),
            ("stream", "events=5; tools=2"),
        ],
    );
    for (mode, behaviour) in [("sync", "error=429"), ("stream", "error=400")] {
        let arguments = ["--mode", mode, "--behaviour", behaviour];
        let run = scene.exec(&[], &python(&scene, "xai_grpc", &arguments));
        let call = run.only_call();
        assert_eq!(call["error_type"], run.client[0]["error_type"], "{call:#}");
        let (said, whole) = (&call["error_message"], &run.client[0]["error_message"]);
        // The exception's text holds the state of the library too.
        let said = said.as_str().unwrap();
        assert!(
            whole.as_str().unwrap().contains(said),
            "{said:?} of {whole}"
        );
    }
}
