//! Calls to AWS Bedrock by real clients: boto3, and anthropic's `AnthropicBedrock`.

use std::{ffi::OsString, fs};

use observer_e2e::{
    clients,
    coverage::{self, Row},
    harness::{Run, Scene},
};
use serde_json::Value;

/// What is called by which client.
const APIS: [&str; 3] = ["converse", "invoke", "anthropic"];

const KEY: &str = "THIS-KEY-IS-SECRET";

fn python(scene: &Scene, arguments: &[&str]) -> Vec<OsString> {
    let requirements =
        fs::read_to_string(clients::script("bedrock/requirements.txt")).expect("the requirements");
    let python =
        clients::environment("bedrock", &requirements).unwrap_or_else(|error| panic!("{error:#}"));
    let mut command = scene.script("bedrock/calls.py", arguments.iter().copied());
    command[0] = python.into();
    command
}

fn exec(scene: &Scene, options: &[&str], arguments: &[&str]) -> Run {
    let run = scene.exec(options, &python(scene, arguments));
    run.assert_clean();
    run
}

/// As [`exec`], of calls that succeed.
fn calls(scene: &Scene, arguments: &[&str]) -> Vec<Value> {
    let run = exec(scene, &[], arguments);
    assert!(!run.client.is_empty(), "{}", run.stderr);
    for seen in &run.client {
        assert!(seen["error_type"].is_null(), "the client failed: {seen}");
    }
    run.calls
}

#[test]
fn every_operation() {
    let scene = Scene::new();
    let mut all = Vec::new();
    for api in APIS {
        for mode in ["sync", "stream"] {
            for more in [
                &["--count", "3", "--behaviour", "delay-ms=40; cached=5"][..],
                &["--behaviour", "tools=2", "--temperature", "0"],
                &[
                    "--behaviour",
                    "events=120; token-ms=1",
                    "--temperature",
                    "0.7",
                ],
            ] {
                let arguments = [&["--api", api, "--mode", mode], more].concat();
                all.extend(calls(&scene, &arguments));
            }
        }
    }
    scene.assert_truth(&all);
    assert!(all.iter().all(|call| call["provider"] == "aws_bedrock"));
    let row = Row {
        runtime: "Python boto3, AnthropicBedrock",
        version: "1.44",
        library: "OpenSSL 3.0",
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    coverage::note(&row, all.len(), scene.provider.truth().len());
}

#[test]
fn asynchronous_calls() {
    let scene = Scene::new();
    let mut all = Vec::new();
    for mode in ["async", "async-stream"] {
        let arguments = ["--api", "anthropic", "--mode", mode, "--tasks", "6"];
        all.extend(calls(&scene, &arguments));
    }
    assert_eq!(all.len(), 12);
    scene.assert_truth(&all);
}

#[test]
fn models_of_several_vendors() {
    let scene = Scene::new();
    let mut all = Vec::new();
    for (model, streams) in [
        ("amazon.nova-pro-v1:0", true),
        ("amazon.titan-text-express-v1", true),
        ("amazon.titan-embed-text-v2:0", false),
        ("us.meta.llama3-3-70b-instruct-v1:0", true),
    ] {
        let modes: &[&str] = if streams {
            &["sync", "stream"]
        } else {
            &["sync"]
        };
        for mode in modes {
            let temperature = if streams {
                &["--temperature", "0.2"][..]
            } else {
                &[]
            };
            let arguments = ["--api", "invoke", "--mode", mode, "--model", model];
            all.extend(calls(&scene, &[&arguments, temperature].concat()));
        }
    }
    let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/ab12cd";
    for mode in ["sync", "stream"] {
        let arguments = ["--api", "converse", "--mode", mode, "--model", arn];
        all.extend(calls(&scene, &arguments));
    }
    scene.assert_truth(&all);
}

#[test]
fn threads_and_large_prompts() {
    let scene = Scene::new();
    let arguments = ["--mode", "stream", "--threads", "8", "--count", "3"];
    let mut all = calls(&scene, &arguments);
    assert_eq!(all.len(), 24);
    let arguments = ["--prompt-bytes", "4194304", "--temperature", "0.25"];
    all.extend(calls(&scene, &arguments));
    scene.assert_truth(&all);
}

#[test]
fn errors_are_the_exceptions_of_the_client() {
    let scene = Scene::new();
    for api in APIS {
        for mode in ["sync", "stream"] {
            for behaviour in ["error=400", "error=403", "error=418", "error=500; html"] {
                let arguments = ["--api", api, "--mode", mode, "--behaviour", behaviour];
                let run = exec(&scene, &[], &arguments);
                let (call, seen) = (run.only_call(), &run.client[0]);
                let place = format!("{api} {mode} {behaviour}: {seen}");
                assert_eq!(call["error_type"], seen["error_type"], "{place}");
                assert_eq!(call["error_message"], seen["error_message"], "{place}");
                assert!(call["incomplete"].is_null() && call["prompt_tokens"].is_null());
            }
        }
    }
}

/// A try that is followed by another raises nothing; the call ends as the last one does.
#[test]
fn retries() {
    let scene = Scene::new();
    for api in ["converse", "invoke"] {
        let arguments = ["--api", api, "--behaviour", "error=429", "--retries", "1"];
        let run = exec(&scene, &[], &arguments);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["attempts"], 2);
        assert_eq!(call["error_type"], "ThrottlingException");
        assert_eq!(call["error_type"], seen["error_type"]);
        assert_eq!(call["error_message"], seen["error_message"]);
        let text = seen["error_message"].as_str().expect("a text");
        assert!(text.contains(" (reached max retries: 1)"));
    }
}

#[test]
fn an_exception_in_the_middle_of_a_stream() {
    let scene = Scene::new();
    for api in APIS {
        let behaviour = "events=20; stream-error=6";
        let arguments = ["--api", api, "--mode", "stream", "--behaviour", behaviour];
        let run = exec(&scene, &[], &arguments);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["status_code"], 200);
        assert_eq!(call["error_type"], seen["error_type"], "{api}: {seen}");
        assert_eq!(
            call["error_message"], seen["error_message"],
            "{api}: {seen}"
        );
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn streams_that_break_off() {
    let scene = Scene::new();
    for api in APIS {
        let behaviour = "events=20; token-ms=2; cut=8";
        let arguments = ["--api", api, "--mode", "stream", "--behaviour", behaviour];
        let run = exec(&scene, &[], &arguments);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["incomplete"], "server_disconnected", "{api}: {call:#}");
        assert_eq!(call["error_type"], seen["error_type"], "{api}: {seen}");

        let behaviour = "events=400; token-ms=5";
        let arguments = ["--api", api, "--mode", "stream", "--behaviour", behaviour];
        let arguments = [&arguments[..], &["--break-after", "6"]].concat();
        let run = exec(&scene, &[], &arguments);
        let call = run.only_call();
        assert_eq!(call["incomplete"], "client_cancelled", "{api}: {call:#}");
        assert!(call["error_type"].is_null(), "{call:#}");
        assert!(call["time_to_first_token_ns"].is_u64());
        // Only Anthropic says the input's tokens early.
        assert_eq!(call["prompt_tokens"].is_u64(), api != "converse");
    }
}

#[test]
fn content_is_opt_in_and_credentials_never_leave() {
    let mut scene = Scene::new();
    let prompt = "My secret prompt is BLUE-HERON";
    for api in APIS {
        for mode in ["sync", "stream"] {
            let arguments = ["--api", api, "--mode", mode, "--prompt", prompt];
            scene.environment = vec![("OBSERVER_LOG".into(), "trace".into())];
            let run = exec(&scene, &[], &arguments);
            assert!(
                run.stderr.contains("TRACE"),
                "the log tells all: {}",
                run.stderr
            );
            scene.environment.clear();
            run.assert_clean();
            assert!(run.only_call()["output_preview"].is_null());
            let said = format!("{}{}", run.raw, run.stderr);
            assert!(
                !said.contains("BLUE-HERON") && !said.contains(KEY),
                "{said}"
            );

            let run = exec(&scene, &["--capture-content"], &arguments);
            let call = run.only_call();
            let input = format!("[system] Be brief.\n[user] {prompt}");
            assert_eq!(call["input_preview"], input, "{api} {mode}");
            let truth = scene.provider.truth();
            let text = &truth.last().expect("the truth")["text"];
            assert_eq!(&call["output_preview"], text, "{api} {mode}");
            assert!(!run.raw.contains(KEY) && !run.raw.contains("AKIATHISKEY"));
        }
    }
}
