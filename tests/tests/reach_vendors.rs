//! The SDKs of vendors beside OpenAI, Anthropic and Google, and tools by MCP: each call is recorded once, with
//! every field right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{ffi::OsString, fs, path::PathBuf, process::Command, time::Duration};

use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Client, Run, Scene},
};
use serde_json::{Value, json};

/// The interpreter with the SDKs.
fn python() -> PathBuf {
    let requirements = fs::read_to_string(clients::script("vendors/requirements.txt")).unwrap();
    clients::environment("vendors", &requirements).unwrap_or_else(|error| panic!("{error:#}"))
}

fn command<'a>(script: &str, arguments: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    let mut command = vec![python().into(), clients::script(script).into()];
    command.extend(arguments.into_iter().map(OsString::from));
    command
}

/// Makes the calls of an SDK, which are at least `made`.
fn cover(sdk: &str, version: &str, made: usize) -> (Scene, Run) {
    let scene = Scene::new();
    let row = Row {
        runtime: &format!("Python {sdk}"),
        version,
        library: "OpenSSL 3.0",
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    let url = scene.provider.url();
    let run = scene.cover(
        &row,
        made,
        &[],
        &command("vendors/calls.py", [url.as_str(), sdk]),
    );
    for call in &run.calls {
        assert_eq!(call["incomplete"], Value::Null, "{call:#}");
    }
    (scene, run)
}

/// Class and text of the exceptions for refused calls: as the client saw them, and as they were recorded.
fn refusals(run: &Run) -> (Vec<[&Value; 2]>, Vec<[&Value; 2]>) {
    let recorded = run
        .calls
        .iter()
        .filter(|call| call["status_code"].as_u64() >= Some(400))
        .map(|call| [&call["error_type"], &call["error_message"]])
        .collect();
    let seen = run
        .client
        .iter()
        .filter(|seen| seen.get("error_type").is_some())
        .map(|seen| [&seen["error_type"], &seen["error_message"]])
        .collect();
    (seen, recorded)
}

#[test]
fn cohere() {
    let (_scene, run) = cover("cohere", "7.3.1", 11);
    let (seen, recorded) = refusals(&run);
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0][0], seen[0][0]);
    // The text of the exception has the header fields in front.
    let text = seen[0][1].as_str().unwrap();
    assert!(text.ends_with(recorded[0][1].as_str().unwrap()), "{text}");
    let billed: Vec<&Value> = run
        .calls
        .iter()
        .filter(|call| call["operation"] == "rerank")
        .map(|call| &call["usage"])
        .collect();
    assert_eq!(billed, [&json!({"billed_units": {"search_units": 1.0}})]);
}

#[test]
fn mistral() {
    let (_scene, run) = cover("mistral", "3.7.0", 7);
    let (seen, recorded) = refusals(&run);
    assert_eq!(recorded, seen);
    assert_eq!(recorded.len(), 1);
}

#[test]
fn vertex_ai() {
    let (_scene, run) = cover("vertex", "3.4.0", 6);
    assert!(run.calls.iter().any(|call| call["stream"] == true));
}

#[test]
fn claude_on_vertex_ai() {
    let (_scene, run) = cover("anthropic_vertex", "2.12.0", 5);
    let (seen, recorded) = refusals(&run);
    assert_eq!(recorded, seen);
    assert_eq!(recorded.len(), 1);
}

#[test]
fn hugging_face() {
    let (_scene, run) = cover("huggingface", "2.4.0", 4);
    let (seen, recorded) = refusals(&run);
    assert_eq!(recorded.len(), 1);
    // The text of the exception is about the URL.
    assert_eq!(recorded[0][0], seen[0][0]);
}

#[test]
fn ollama() {
    let (_scene, run) = cover("ollama", "0.6.3", 8);
    let (seen, recorded) = refusals(&run);
    assert_eq!(recorded, seen);
    assert_eq!(recorded.len(), 1);
}

#[test]
fn google_generativeai_over_rest() {
    let requirements = fs::read_to_string(clients::script("gemini_grpc/requirements.txt")).unwrap();
    let python = clients::environment("gemini_grpc", &requirements).unwrap();
    let scene = Scene::new();
    let row = Row {
        runtime: "Python google-generativeai, REST",
        version: "0.8.6",
        library: "OpenSSL 3.0",
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    for mode in ["sync", "stream"] {
        let behaviour = "events=30; cached=3";
        let arguments = [
            "--rest",
            "--mode",
            mode,
            "--count",
            "2",
            "--temperature",
            "0.5",
        ];
        let more = ["--behaviour", behaviour];
        let mut command = scene.script("gemini_grpc/calls.py", arguments.into_iter().chain(more));
        command[0] = python.clone().into();
        let run = scene.cover(&row, 2, &[], &command);
        for seen in &run.client {
            assert_eq!(seen["error_type"], Value::Null, "{seen}");
        }
    }
    let mut command = scene.script(
        "gemini_grpc/calls.py",
        ["--rest", "--behaviour", "error=429"],
    );
    command[0] = python.into();
    let run = scene.exec(&[], &command);
    assert_eq!(run.only_call()["error_type"], run.client[0]["error_type"]);
}

/// A real server of tools, which is not watched, and a client that is. The client knows the truth.
#[test]
fn tools_by_mcp() {
    let scene = Scene::new();
    for (form, modes) in [
        (None, ["auto", "legacy"]),
        (Some("--json"), ["legacy", "auto"]),
    ] {
        let serve = command("vendors/tools.py", ["serve"].into_iter().chain(form));
        let mut process = Command::new(&serve[0]);
        process.args(&serve[1..]);
        let server = Client::start(process);
        let url = server.line();
        for mode in modes {
            let call = command("vendors/tools.py", ["call", &url, "--mode", mode]);
            let run = scene.exec(&[], &call);
            run.assert_clean();
            assert_tools(&run);
            for secret in ["SECRET-REASON", "SECRET-RESULT"] {
                assert!(!run.raw.contains(secret), "{}", run.raw);
            }
        }
    }
}

/// A connection that was found to be of no interest is taken up again.
#[test]
fn a_tool_after_much_else() {
    let scene = Scene::new();
    let serve = command("vendors/tools.py", ["serve"]);
    let mut process = Command::new(&serve[0]);
    process.args(&serve[1..]);
    let server = Client::start(process);
    let url = server.line();
    let run = scene.exec(&[], &command("vendors/tools.py", ["late", &url]));
    run.assert_clean();
    let call = run.only_call();
    assert_eq!(call["tool_calls"], json!(["add"]), "{call:#}");
    assert_eq!(call["status_code"], run.client[0]["status"], "{call:#}");
}

fn assert_tools(run: &Run) {
    assert_eq!(run.client.len(), 5, "{}", run.stderr);
    assert_eq!(run.calls.len(), run.client.len(), "{:#?}", run.calls);
    for (call, seen) in run.calls.iter().zip(&run.client) {
        let error = match (&seen["error"], &seen["is_error"]) {
            (Value::Number(code), _) => json!(code.to_string()),
            (_, Value::Bool(true)) => json!("tool_error"),
            _ => Value::Null,
        };
        for (field, expected) in [
            ("provider", json!("mcp")),
            ("operation", json!("execute_tool")),
            ("model", Value::Null),
            ("tool_calls", json!([seen["tool"]])),
            ("error_type", error),
            ("status_code", json!(200)),
            ("incomplete", Value::Null),
            ("prompt_tokens", Value::Null),
        ] {
            assert_eq!(call[field], expected, "{field} of {call:#}");
        }
        let nanoseconds = |value: &Value| Duration::from_nanos(value.as_u64().unwrap());
        let (recorded, waited) = (
            nanoseconds(&call["latency_ns"]),
            nanoseconds(&seen["elapsed_ns"]),
        );
        assert!(recorded <= waited, "{recorded:?} of {waited:?}");
        if seen["tool"] == "slow" {
            assert!(recorded >= Duration::from_millis(400), "{recorded:?}");
        }
    }
}
