//! What is lost is counted and said; what is not lost is right.

use std::{collections::HashMap, thread, time::Duration};

use observer_e2e::harness::{Scene, assert_matches};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn an_overrun_marks_the_calls_it_touches_and_no_other() {
    let scene = Scene::new();
    let arguments = [
        "--wait-for-stdin",
        "--count",
        "60",
        "--every",
        "0.02",
        "--prompt-bytes",
        "20000",
    ];
    let mut client = scene.start(&scene.script("calls.py", arguments));
    assert_eq!(client.line(), "waiting");
    // The smallest buffer: a few requests overrun it while the agent sleeps.
    let observer = scene.watch(&["--pid", &client.pid(), "--ring-buffer", "0.0625"]);
    client.go_on();
    client.line();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(150));
        observer.signal(Signal::STOP);
        thread::sleep(Duration::from_millis(200));
        observer.signal(Signal::CONT);
    }
    assert!(client.wait().0.success());
    let run = observer.wait();
    assert!(run.status.success(), "{}", run.stderr);
    assert!(run.stderr.contains("ring buffer full"), "{}", run.stderr);
    let truth = scene.provider.truth();
    let by_id: HashMap<String, &Value> = truth
        .iter()
        .map(|truth| (truth["request_id"].to_string(), truth))
        .collect();
    let (mut whole, mut touched) = (0, 0);
    for call in &run.calls {
        if call["incomplete"] == "bytes_lost" {
            touched += 1;
            // What it says is right, or it says nothing.
            if let Some(truth) = by_id.get(&call["request_id"].to_string()) {
                for field in ["model", "prompt_tokens", "completion_tokens", "status_code"] {
                    assert!(
                        call[field].is_null() || call[field] == truth[field],
                        "{field}: {call:#}"
                    );
                }
            }
        } else {
            assert!(call["incomplete"].is_null(), "{call:#}");
            let truth = by_id[&call["request_id"].to_string()];
            assert_matches(call, truth, Some(Duration::from_secs(1)));
            whole += 1;
        }
    }
    assert!(
        whole >= 5 && touched >= 1,
        "{whole} whole, {touched} touched: {}",
        run.stderr
    );
}

#[test]
fn nothing_is_lost_with_the_usual_buffer() {
    let scene = Scene::new();
    let arguments = [
        "--threads",
        "8",
        "--count",
        "3",
        "--prompt-bytes",
        "500000",
        "--behaviour",
        "events=500",
    ];
    let run = scene.exec(&[], &scene.script("calls.py", arguments));
    run.assert_clean();
    scene.assert_truth(&run.calls);
}
