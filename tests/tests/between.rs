//! What stands between a client and its provider, or comes between request and answer: redirections, interim
//! responses, retries, proxies, gateways that answer themselves.

use std::ffi::OsString;

use observer_e2e::{
    harness::{Run, Scene},
    proxy::Proxy,
};

const SDKS: [&str; 4] = ["openai", "xai", "anthropic", "google"];

fn sdk(scene: &Scene, sdk: &str, mode: &str, behaviour: &str, more: &[&str]) -> Run {
    let arguments = ["--sdk", sdk, "--mode", mode, "--behaviour", behaviour]
        .into_iter()
        .chain(more.iter().copied());
    let run = scene.exec(&[], &scene.script("calls.py", arguments));
    run.assert_clean();
    run
}

fn curl(scene: &Scene, arguments: &[&str]) -> Vec<OsString> {
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;
    let url = format!("{}/v1/chat/completions", scene.provider.url());
    [
        "curl",
        "--http1.1",
        "--silent",
        "--show-error",
        "--output",
        "/dev/null",
    ]
    .into_iter()
    .chain(arguments.iter().copied())
    .chain(["--json", body, &url, "--cacert"])
    .map(OsString::from)
    .chain([scene.provider.ca().into()])
    .collect()
}

#[test]
fn a_redirection_is_followed() {
    for name in ["openai", "anthropic"] {
        let scene = Scene::new();
        let run = sdk(&scene, name, "stream", "redirect; events=5", &[]);
        let call = run.only_call();
        assert_eq!(call["status_code"], 200, "{name}");
        assert_eq!(call["attempts"], 2, "{name}");
        assert!(
            call["error_type"].is_null() && call["incomplete"].is_null(),
            "{call:#}"
        );
        let truth = &scene.provider.wait_for(2)[1];
        for field in [
            "model",
            "prompt_tokens",
            "completion_tokens",
            "finish_reasons",
        ] {
            assert_eq!(call[field], truth[field], "{name}: {field} of {call:#}");
        }
    }
}

#[test]
fn interim_responses_are_no_answers() {
    for name in SDKS {
        let scene = Scene::new();
        let run = sdk(
            &scene,
            name,
            "stream",
            "interim; delay-ms=50; events=5",
            &[],
        );
        assert_eq!(run.only_call()["status_code"], 200, "{name}");
        scene.assert_truth(&run.calls);
    }
}

#[test]
fn attempts_are_one_call() {
    for name in ["openai", "anthropic"] {
        let scene = Scene::new();
        let run = sdk(
            &scene,
            name,
            "sync",
            "error=503; fails=2",
            &["--retries", "2"],
        );
        let call = run.only_call();
        assert_eq!(call["attempts"], 3, "{name}");
        assert_eq!(call["status_code"], 200, "{name}");
        assert!(call["error_type"].is_null(), "{name}");
        // From the first attempt on: the provider asks for 20 ms before each other.
        assert!(call["latency_ns"].as_u64().unwrap() > 40_000_000);
    }
}

#[test]
fn a_server_that_resets() {
    for name in SDKS {
        let scene = Scene::new();
        let run = sdk(
            &scene,
            name,
            "stream",
            "events=20; token-ms=2; cut-reset=8",
            &[],
        );
        let call = run.only_call();
        assert_eq!(
            call["incomplete"], "server_disconnected",
            "{name}: {call:#}"
        );
        assert_eq!(
            call["error_type"], run.client[0]["error_type"],
            "{name}: {call:#}"
        );
    }
}

#[test]
fn a_gateway_that_answers_in_html() {
    for name in SDKS {
        let scene = Scene::new();
        let run = sdk(&scene, name, "sync", "error=502; html", &[]);
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["status_code"], 502);
        assert_eq!(call["error_type"], seen["error_type"], "{name}: {seen}");
        assert_eq!(
            call["error_message"], seen["error_message"],
            "{name}: {seen}"
        );
        assert!(call["incomplete"].is_null());
    }
}

#[test]
fn tls_in_the_tls_of_a_proxy() {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.provider).unwrap();
    let ca = scene.provider.ca();
    let proxied = [
        "--proxy",
        &proxy.url(),
        "--proxy-cacert",
        ca.to_str().unwrap(),
        "--header",
        "x-test-behaviour: bytes=100000",
    ];
    let run = scene.exec(&[], &curl(&scene, &proxied));
    run.assert_clean();
    let call = run.only_call();
    assert_eq!(call["server_port"], scene.provider.port());
    scene.assert_truth(&run.calls);
}
