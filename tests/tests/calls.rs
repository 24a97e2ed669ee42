//! Every SDK, every way to call it: each call is recorded once, with every field right.

use observer_e2e::{
    coverage::{self, Row},
    harness::{Run, Scene, output},
};

const SDKS: [&str; 4] = ["openai", "xai", "anthropic", "google"];
const MODES: [&str; 4] = ["sync", "async", "stream", "async-stream"];

fn record(scene: &Scene, sdk: &str, mode: &str, more: &[&str]) -> Run {
    let arguments = ["--sdk", sdk, "--mode", mode]
        .into_iter()
        .chain(more.iter().copied());
    let run = scene.exec(&[], &scene.script("calls.py", arguments));
    run.assert_clean();
    for seen in &run.client {
        assert!(seen["error_type"].is_null(), "the client failed: {seen}");
    }
    run
}

/// All SDKs in one mode, with what providers do differently from day to day.
fn every_sdk(mode: &str) {
    let scene = Scene::new();
    let mut calls = Vec::new();
    for sdk in SDKS {
        for more in [
            &[
                "--count",
                "3",
                "--behaviour",
                "delay-ms=60; cached=5; reasoning=3",
            ][..],
            &[
                "--behaviour",
                "tools=2; encoding=gzip",
                "--temperature",
                "0",
            ],
            &[
                "--behaviour",
                "events=120; framing=chunked; chunk-extensions; trailers",
                "--temperature",
                "0.7",
            ],
        ] {
            calls.extend(record(&scene, sdk, mode, more).calls);
        }
    }
    scene.assert_truth(&calls);
    let say =
        "import platform, ssl; print(platform.python_version(), *ssl.OPENSSL_VERSION.split()[:2])";
    let (_, versions, _) = output("python3", &["-c", say]);
    let (version, library) = versions.trim().split_once(' ').expect("two versions");
    let row = Row {
        runtime: &format!("Python openai, anthropic, google-genai, {mode}"),
        version,
        library,
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    coverage::note(&row, calls.len(), scene.provider.truth().len());
}

#[test]
fn sync_calls() {
    every_sdk(MODES[0]);
}

#[test]
fn async_calls() {
    every_sdk(MODES[1]);
}

#[test]
fn sync_streams() {
    every_sdk(MODES[2]);
}

#[test]
fn async_streams() {
    every_sdk(MODES[3]);
}

#[test]
fn streams_without_usage_and_with_several_choices() {
    let scene = Scene::new();
    let mut calls = record(&scene, "openai", "stream", &["--no-usage"]).calls;
    calls.extend(record(&scene, "openai", "stream", &["--n", "2"]).calls);
    calls.extend(record(&scene, "openai", "sync", &["--n", "3"]).calls);
    calls.extend(record(&scene, "google", "sync", &["--behaviour", "usage=none"]).calls);
    scene.assert_truth(&calls);
}

#[test]
fn latencies_are_those_of_the_provider() {
    let scene = Scene::new();
    let mut calls = Vec::new();
    for (sdk, mode, behaviour) in [
        ("openai", "sync", "delay-ms=500"),
        (
            "anthropic",
            "stream",
            "delay-ms=300; token-ms=25; events=30",
        ),
        (
            "google",
            "async-stream",
            "delay-ms=100; token-ms=25; events=30",
        ),
    ] {
        let more = ["--case", sdk, "--behaviour", behaviour];
        calls.extend(record(&scene, sdk, mode, &more).calls);
    }
    scene.assert_truth(&calls);
}

#[test]
fn time_to_first_token_is_measured_in_streams_only() {
    let scene = Scene::new();
    let more = ["--behaviour", "delay-ms=200; token-ms=10; events=30"];
    let stream = record(&scene, "openai", "stream", &more);
    let call = stream.only_call();
    let first = call["time_to_first_token_ns"].as_u64().unwrap();
    let client = stream.client[0]["first_ns"].as_u64().unwrap();
    assert!(
        (200_000_000..=client).contains(&first),
        "{first} ns of {client}"
    );
    // What the provider waits before and between the events.
    let all = call["latency_ns"].as_u64().unwrap();
    assert!(all >= 490_000_000 && all > first, "{all} ns");
    assert!(record(&scene, "openai", "sync", &[]).only_call()["time_to_first_token_ns"].is_null());
}

#[test]
fn sixteen_threads() {
    let scene = Scene::new();
    for sdk in ["openai", "anthropic"] {
        let run = record(
            &scene,
            sdk,
            "stream",
            &["--threads", "16", "--count", "4", "--case", sdk],
        );
        assert_eq!(run.calls.len(), 64);
        assert_eq!(run.traces.len(), 16, "a trace for each thread");
    }
    let truth = scene.provider.truth();
    assert_eq!(truth.len(), 128);
}

#[test]
fn sixteen_threads_get_every_field_right() {
    let scene = Scene::with_seed(7);
    let run = record(
        &scene,
        "openai",
        "sync",
        &["--threads", "16", "--count", "4"],
    );
    scene.assert_truth(&run.calls);
}

#[test]
fn twenty_tasks_on_one_thread() {
    let scene = Scene::new();
    let more = ["--tasks", "20", "--count", "3", "--behaviour", "token-ms=2"];
    let run = record(&scene, "openai", "async-stream", &more);
    assert_eq!(run.calls.len(), 60);
    scene.assert_truth(&run.calls);
}

#[test]
fn twenty_tasks_on_uvloop() {
    let scene = Scene::new();
    let more = ["--tasks", "20", "--count", "2", "--uvloop"];
    let run = record(&scene, "anthropic", "async-stream", &more);
    assert_eq!(run.calls.len(), 40);
    scene.assert_truth(&run.calls);
}

#[test]
fn large_prompts_arrive_whole() {
    let scene = Scene::new();
    let mut calls = Vec::new();
    for (mode, bytes) in [
        ("sync", "1048576"),
        ("sync", "8388608"),
        ("async", "8388608"),
    ] {
        let more = ["--prompt-bytes", bytes, "--temperature", "0.25"];
        calls.extend(record(&scene, "openai", mode, &more).calls);
    }
    scene.assert_truth(&calls);
    let prompts: Vec<usize> = scene
        .provider
        .truth()
        .iter()
        .map(|truth| truth["prompt"].as_str().unwrap().len())
        .collect();
    assert!(prompts[0] > 1 << 20 && prompts[1] > 8 << 20, "{prompts:?}");
}

#[test]
fn large_answers_arrive_whole() {
    let scene = Scene::new();
    let mut calls = record(&scene, "openai", "sync", &["--behaviour", "bytes=3000000"]).calls;
    calls.extend(
        record(
            &scene,
            "anthropic",
            "stream",
            &["--behaviour", "events=5000"],
        )
        .calls,
    );
    scene.assert_truth(&calls);
}
