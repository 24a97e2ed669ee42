//! HTTP/1.1 in all its forms, by curl and by hand.

use std::ffi::OsString;

use observer_e2e::harness::Scene;
use serde_json::Value;

fn raw(steps: &[&str]) -> (Scene, Vec<Value>) {
    let scene = Scene::new();
    let run = scene.exec(&[], &scene.script("raw.py", steps.iter().copied()));
    run.assert_clean();
    assert_eq!(run.client.len(), steps.len(), "{}", run.stderr);
    (scene, run.calls)
}

fn curl(scene: &Scene, arguments: &[&str]) -> Vec<OsString> {
    [
        "curl",
        "--http1.1",
        "--silent",
        "--show-error",
        "--no-buffer",
        "--output",
        "/dev/null",
        "--cacert",
    ]
    .into_iter()
    .map(OsString::from)
    .chain([scene.provider.ca().into()])
    .chain(arguments.iter().map(OsString::from))
    .collect()
}

#[test]
fn keep_alive_with_head_and_no_content_between() {
    let (scene, calls) = raw(&["keep_alive"]);
    assert_eq!(calls.len(), 3);
    scene.assert_truth(&calls);
}

#[test]
fn pipelined_requests() {
    let (scene, calls) = raw(&["pipelined"]);
    assert_eq!(calls.len(), 2);
    scene.assert_truth(&calls);
}

#[test]
fn chunked_uploads_expectations_and_single_bytes() {
    let (scene, calls) = raw(&["chunked_upload", "expect", "by_bytes"]);
    assert_eq!(calls.len(), 3);
    scene.assert_truth(&calls);
}

#[test]
fn bodies_to_the_end_of_the_connection_and_odd_chunks() {
    let (scene, calls) = raw(&["close_delimited", "odd_framing"]);
    assert_eq!(calls.len(), 4);
    scene.assert_truth(&calls);
    assert!(calls.iter().all(|call| call["incomplete"].is_null()));
}

#[test]
fn an_answer_before_the_request_has_ended() {
    let (_, calls) = raw(&["early"]);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["status_code"], 413);
}

#[test]
fn unknown_paths_are_told_by_their_bodies() {
    let (scene, calls) = raw(&["other_path", "upgrade"]);
    assert_eq!(calls.len(), 2);
    scene.assert_truth(&calls);
}

#[test]
fn a_write_that_has_to_be_repeated_counts_once() {
    let (scene, calls) = raw(&["slow_reader"]);
    scene.assert_truth(&calls);
}

#[test]
fn every_content_coding_by_curl() {
    let scene = Scene::new();
    let mut calls = Vec::new();
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        for stream in ["true", "false"] {
            let body = format!(
                r#"{{"model":"gpt-4o","stream":{stream},"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"Hi"}}],"temperature":0}}"#
            );
            let behaviour = format!("x-test-behaviour: encoding={encoding}");
            let url = format!("{}/v1/chat/completions", scene.provider.url());
            let command = curl(
                &scene,
                &[
                    "--header",
                    "content-type: application/json",
                    "--header",
                    &behaviour,
                    "--data",
                    &body,
                    &url,
                ],
            );
            let run = scene.exec(&[], &command);
            run.assert_clean();
            assert_eq!(run.only_call()["comm"], "curl");
            calls.extend(run.calls);
        }
    }
    scene.assert_truth(&calls);
}

#[test]
fn gemini_streams_as_a_json_array() {
    let scene = Scene::new();
    let url = format!(
        "{}/v1beta/models/gemini-2.5-pro:streamGenerateContent?key=AIzaSECRETSECRET",
        scene.provider.url()
    );
    let body = r#"{"contents":[{"parts":[{"text":"Hi"}]}],"generationConfig":{"temperature":0.5}}"#;
    let command = curl(
        &scene,
        &[
            "--header",
            "content-type: application/json",
            "--data",
            body,
            &url,
        ],
    );
    let run = scene.exec(&["--capture-content"], &command);
    run.assert_clean();
    scene.assert_truth(&run.calls);
    assert_eq!(
        run.only_call()["output_preview"],
        scene.provider.truth()[0]["text"]
    );
    assert!(!run.raw.contains("SECRET"));
}

#[test]
fn errors_of_an_unknown_client_have_the_providers_type() {
    let scene = Scene::new();
    let url = format!("{}/v1/chat/completions", scene.provider.url());
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;
    for (behaviour, error_type) in [("error=429", "tokens"), ("error=502; html", "http_502")] {
        let header = format!("x-test-behaviour: {behaviour}");
        let command = curl(&scene, &["--header", &header, "--data", body, &url]);
        let run = scene.exec(&[], &command);
        assert_eq!(run.only_call()["error_type"], error_type);
    }
}

#[test]
fn xai_is_told_by_its_host() {
    let scene = Scene::new();
    let port = scene.provider.port();
    let command = curl(
        &scene,
        &[
            "--resolve",
            &format!("api.x.ai:{port}:127.0.0.1"),
            "--data",
            r#"{"model":"grok-4","messages":[{"role":"user","content":"Hi"}]}"#,
            &format!("https://api.x.ai:{port}/v1/chat/completions"),
        ],
    );
    let run = scene.exec(&[], &command);
    run.assert_clean();
    assert_eq!(run.only_call()["provider"], "xai");
    assert_eq!(run.only_call()["server_address"], "api.x.ai");
    assert_eq!(run.only_call()["server_port"], port);
    scene.assert_truth(&run.calls);
}
