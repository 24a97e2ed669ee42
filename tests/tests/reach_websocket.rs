//! Sessions of WebSocket that give several calls, by real clients.

use std::{ffi::OsString, fs, process::Command, time::Duration};

use observer_e2e::{
    clients,
    coverage::{self, Row},
    harness::{Run, Scene, assert_matches, output},
};
use serde_json::Value;

/// A command line of the clients in Python, which have their own requirements.
fn python(scene: &Scene, arguments: &[&str]) -> Vec<OsString> {
    let requirements =
        fs::read_to_string(clients::script("websocket/requirements.txt")).expect("requirements");
    let python = clients::environment("websocket", &requirements)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let mut command = scene.script("websocket/calls.py", arguments.iter().copied());
    command[0] = python.into();
    command
}

/// Runs a client that gets `made` answers, and asserts that each was recorded once, with every field right.
fn record(scene: &Scene, made: usize, options: &[&str], command: &[OsString]) -> Run {
    let before = scene.provider.truth().len();
    let run = scene.exec(options, command);
    let truth = scene.provider.wait_for(before + made).split_off(before);
    assert_eq!(truth.len(), made, "{:#?}\n{}", run.client, run.stderr);
    assert_eq!(
        run.calls.len(),
        made,
        "{:#?}\n{:#?}\n{}",
        run.calls,
        run.client,
        run.stderr
    );
    for ((call, truth), seen) in run.calls.iter().zip(&truth).zip(&run.client) {
        let elapsed = seen["elapsed_ns"].as_u64().map(Duration::from_nanos);
        assert_matches(call, truth, elapsed);
        for field in ["request_id", "response_id", "error_type"] {
            assert_eq!(call[field], truth[field], "{field} of {call:#}");
        }
        assert_eq!(
            call["audio_output_tokens"].as_u64().unwrap_or(0),
            truth["audio_output_tokens"].as_u64().unwrap_or(0)
        );
        assert!(!call.to_string().contains("SECRET"), "{call:#}");
    }
    run.assert_clean();
    run
}

/// That the client got what it wanted, and the times to the first token are right.
fn assert_told(run: &Run) {
    for (seen, call) in run.client.iter().zip(&run.calls) {
        assert_eq!(seen["error_type"], Value::Null, "{seen}");
        assert_eq!(call["incomplete"], Value::Null, "{call:#}");
        let time = |field: &str| call[field].as_u64().unwrap_or(0);
        if seen["text"] != "" {
            let (first, all) = (time("time_to_first_token_ns"), time("latency_ns"));
            assert!(first > 0 && first < all, "{first} of {all}");
        }
    }
}

fn cover(runtime: &str, made: usize) {
    let say =
        "import platform, ssl; print(platform.python_version(), *ssl.OPENSSL_VERSION.split()[:2])";
    let (_, versions, _) = output("python3", &["-c", say]);
    let (version, library) = versions.trim().split_once(' ').expect("two versions");
    let row = Row {
        runtime,
        version,
        library,
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1 (WebSocket)",
    };
    coverage::note(&row, made, made);
}

/// Synchronous clients read sockets, asynchronous ones memory.
fn openai_realtime(sdk: &str) {
    let scene = Scene::new();
    let mut made = 0;
    for (behaviour, more) in [
        ("events=20; token-ms=2; cached=3", &[][..]),
        ("events=20; token-ms=2; tools=2", &[]),
        ("deflate; events=20", &["--deflate"]),
        ("deflate=no-takeover; events=20; binary", &["--deflate"]),
    ] {
        let arguments = ["--sdk", sdk, "--count", "3", "--behaviour", behaviour];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        let run = record(
            &scene,
            3,
            &["--capture-content"],
            &python(&scene, &arguments),
        );
        assert_told(&run);
        for call in &run.calls {
            assert_eq!(call["parameters"]["max_tokens"], 99, "{call:#}");
            let input = call["input_preview"].as_str().unwrap_or_default();
            assert!(input.contains("MARMALADE"), "{call:#}");
        }
        made += 3;
    }
    cover(&format!("Python openai Realtime, {sdk}"), made);
}

#[test]
fn openai_python() {
    openai_realtime("realtime");
}

#[test]
fn openai_python_async() {
    openai_realtime("realtime-async");
}

/// The server answers by itself, and with much audio: a megabyte in both directions.
#[test]
fn openai_python_speaks() {
    let scene = Scene::new();
    for sdk in ["realtime", "realtime-async"] {
        let arguments = [
            "--sdk",
            sdk,
            "--count",
            "3",
            "--vad",
            "8",
            "--behaviour",
            "vad=8; audio=40000; events=10; token-ms=2",
        ];
        let run = record(&scene, 3, &[], &python(&scene, &arguments));
        assert_told(&run);
    }
}

#[test]
fn openai_python_errors() {
    let scene = Scene::new();
    for sdk in ["realtime", "realtime-async"] {
        for behaviour in ["invalid", "fail; events=3"] {
            let arguments = ["--sdk", sdk, "--count", "2", "--behaviour", behaviour];
            let run = record(&scene, 2, &[], &python(&scene, &arguments));
            assert_eq!(run.calls[0]["incomplete"], Value::Null);
        }
    }
}

/// Where the session ends in the middle, or never begins, the record has the exception of the client.
#[test]
fn openai_python_breaks_off() {
    let scene = Scene::new();
    for sdk in ["realtime", "realtime-async"] {
        for (behaviour, incomplete) in [
            ("error=401", Value::Null),
            ("error=429", Value::Null),
            ("unanswered", "server_disconnected".into()),
            ("stop=4; events=9; token-ms=2", "server_disconnected".into()),
            ("cut=4; events=9; token-ms=2", "server_disconnected".into()),
        ] {
            let arguments = ["--sdk", sdk, "--behaviour", behaviour];
            let run = scene.exec(&[], &python(&scene, &arguments));
            let call = run.only_call();
            let seen = &run.client[0];
            assert_eq!(call["model"], "gpt-realtime");
            let ends_silently = behaviour.starts_with("cut") || behaviour == "unanswered";
            if sdk == "realtime-async" && ends_silently {
                // Its TLS happens in memory, where the end of the stream does not pass: the README says so.
                assert_eq!(call["incomplete"], "client_cancelled", "{call}");
                continue;
            }
            assert_eq!(call["incomplete"], incomplete, "{sdk} {behaviour}: {call}");
            assert_eq!(
                call["error_type"], seen["error_type"],
                "{behaviour}: {call}"
            );
            assert_eq!(
                call["error_message"], seen["error_message"],
                "{behaviour}: {call}"
            );
        }
    }
}

#[test]
fn openai_python_responses() {
    let scene = Scene::new();
    for (behaviour, more) in [
        ("events=20; token-ms=2; cached=3; reasoning=4", &[][..]),
        ("deflate; tools=2", &["--deflate"]),
    ] {
        let arguments = [
            "--sdk",
            "responses",
            "--count",
            "3",
            "--behaviour",
            behaviour,
        ];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        let run = record(&scene, 3, &[], &python(&scene, &arguments));
        assert_told(&run);
    }
    cover("Python openai Responses over WebSocket", 6);
}

#[test]
fn google_genai() {
    let scene = Scene::new();
    for behaviour in [
        "events=20; token-ms=2; cached=3",
        "deflate; events=20; binary",
        "deflate; events=5; late-usage",
    ] {
        let arguments = ["--sdk", "gemini", "--count", "3", "--behaviour", behaviour];
        let run = record(&scene, 3, &[], &python(&scene, &arguments));
        assert_told(&run);
    }
    let arguments = ["--sdk", "gemini", "--behaviour", "events=9; stop=3"];
    let run = scene.exec(&[], &python(&scene, &arguments));
    let (call, seen) = (run.only_call(), &run.client[0]);
    assert_eq!(call["error_type"], seen["error_type"], "{call:#}");
    assert_eq!(call["error_message"], seen["error_message"], "{call:#}");
    assert_eq!(call["incomplete"], "server_disconnected");
    cover("Python google-genai Live", 9);
}

#[test]
fn openai_node() {
    let scene = Scene::new();
    let modules = clients::npm("npm-realtime", &["openai@6.1.0", "ws@8.18.3"])
        .unwrap_or_else(|error| panic!("{error:#}"));
    let version = Command::new("node")
        .arg("--version")
        .output()
        .expect("node");
    let version = String::from_utf8_lossy(&version.stdout);
    for behaviour in [
        "events=20; token-ms=2; cached=3",
        "deflate; events=20; token-ms=2",
        "deflate=no-takeover; tools=2; events=4; token-ms=2",
    ] {
        let command: Vec<OsString> = vec![
            "node".into(),
            clients::script("websocket/realtime.mjs").into(),
            scene.provider.url().into(),
            modules.join("node_modules").into(),
            "3".into(),
            behaviour.into(),
        ];
        let run = record(&scene, 3, &[], &command);
        assert_told(&run);
    }
    let row = Row {
        runtime: "Node.js openai Realtime (ws)",
        version: version.trim().trim_start_matches('v'),
        library: "OpenSSL 3.0.19",
        linkage: "static",
        symbols: "dynamic symbols",
        http: "1.1 (WebSocket)",
    };
    coverage::note(&row, 9, 9);
}
