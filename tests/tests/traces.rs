//! Every call is part of a trace.

use std::process::Command;

use observer_e2e::harness::{Scene, binary};

#[test]
fn calls_of_a_thread_share_a_trace() {
    let scene = Scene::new();
    let run = scene.exec(
        &[],
        &scene.script("calls.py", ["--count", "3", "--behaviour", "cached=1"]),
    );
    run.assert_clean();
    assert_eq!(run.traces.len(), 1);
    let trace = &run.traces[0];
    let spans: Vec<_> = run
        .calls
        .iter()
        .map(|call| call["span_id"].clone())
        .collect();
    assert_eq!(trace["calls"].as_array().unwrap(), &spans);
    let sum = |field: &str| {
        run.calls
            .iter()
            .map(|call| call[field].as_u64().unwrap())
            .sum::<u64>()
    };
    let usage = &trace["llm_usage"];
    assert_eq!(usage["prompt_tokens"], sum("prompt_tokens"));
    assert_eq!(usage["completion_tokens"], sum("completion_tokens"));
    assert_eq!(
        usage["total_tokens"],
        sum("prompt_tokens") + sum("completion_tokens")
    );
    assert_eq!(usage["api_calls_count"], 3);
    assert_eq!(
        (usage["provider"].as_str(), usage["model"].as_str()),
        (Some("openai"), Some("gpt-4o-2024-08-06"))
    );
    assert_eq!(trace["start_time"], run.calls[0]["start_time"]);
    for call in &run.calls {
        assert_eq!(call["trace_id"], trace["trace_id"]);
        assert_eq!(call["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(call["span_id"].as_str().unwrap().len(), 16);
        assert_eq!(
            (call["trace_source"].as_str(), &call["pid"]),
            (Some("thread"), &trace["pid"])
        );
        assert_eq!(call["pid"], call["tid"]);
    }
}

#[test]
fn an_idle_gap_ends_a_trace() {
    let scene = Scene::new();
    let arguments = ["--count", "3", "--every", "0.7"];
    let run = scene.exec(
        &["--trace-idle", "0.3"],
        &scene.script("calls.py", arguments),
    );
    run.assert_clean();
    assert_eq!(run.traces.len(), 3);
    let run = scene.exec(&["--trace-idle", "5"], &scene.script("calls.py", arguments));
    assert_eq!(run.traces.len(), 1);
}

#[test]
fn the_end_of_a_thread_ends_its_trace() {
    let scene = Scene::new();
    let arguments = ["--threads", "3", "--count", "2"];
    let run = scene.exec(&[], &scene.script("calls.py", arguments));
    assert_eq!(run.traces.len(), 3);
    for trace in &run.traces {
        assert_eq!(trace["llm_usage"]["api_calls_count"], 2);
    }
}

#[test]
fn errors_are_counted() {
    let scene = Scene::new();
    let run = scene.exec(
        &[],
        &scene.script("calls.py", ["--behaviour", "error=500", "--count", "2"]),
    );
    assert_eq!(run.traces[0]["errors"], 2);
    assert!(run.traces[0]["llm_usage"]["total_tokens"].is_null());
}

#[test]
fn people_get_a_line_a_call_and_totals() {
    let scene = Scene::new();
    let mut process = Command::new(binary());
    process
        .args(["exec", "--format", "pretty", "--"])
        .args(scene.script("calls.py", ["--count", "2"]))
        .env("SSL_CERT_FILE", scene.provider.ca());
    let result = process.output().unwrap();
    let screen = String::from_utf8(result.stdout).unwrap();
    assert!(result.status.success(), "{screen}");
    let calls = screen
        .lines()
        .filter(|line| line.contains("openai/gpt-4o-2024-08-06"));
    assert_eq!(calls.count(), 2, "{screen}");
    assert!(
        screen.contains("2 calls · 0 errors · 1 trace · "),
        "{screen}"
    );
    // No terminal, no colours.
    assert!(!screen.contains('\x1b'), "{screen:?}");
}
