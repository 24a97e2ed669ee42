//! What is lost is counted and said; what is not lost is right.

use std::{collections::HashMap, fs, process::Command, thread, time::Duration};

use observer_e2e::harness::{Load, Observer, Scene, assert_matches, wait_until};
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
        let before = scene.provider.truth().len();
        wait_until("calls overrun the buffer", || {
            scene.provider.truth().len() >= before + 8
        });
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
fn every_byte_is_received_or_counted_as_lost() {
    let folder = tempfile::tempdir().unwrap();
    let truth = folder.path().join("truth.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_observer-tls-load"));
    // 200,000 events a second: each is written at one end and read at the other.
    command.args(["--rate", "100000", "--requests", "700"]);
    command.args(["--events", "200", "--truth"]).arg(&truth);
    let mut load = Load::start(command);
    let pid = load.pid();
    let options = ["--pid", &pid, "--all-hosts", "--ring-buffer", "1"];
    let observer = Observer::start(&[], &folder.path().join("records.jsonl"), &options);
    load.begin();
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(150));
        observer.signal(Signal::STOP);
        thread::sleep(Duration::from_millis(100));
        observer.signal(Signal::CONT);
    }
    assert!(!load.end());
    let produced = load.finish();
    let run = observer.wait();
    assert!(run.status.success(), "{}", run.stderr);
    let (captured, lost_records, lost_bytes) = run.captured();
    assert!(lost_records > 0 && lost_bytes > 0, "{}", run.stderr);
    assert_eq!(
        captured + lost_bytes,
        produced["bytes"].as_u64().unwrap(),
        "{}",
        run.stderr
    );
    let truth: Vec<Value> = fs::read_to_string(truth)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(truth.len(), 700);
    let by_model: HashMap<&str, &Value> = truth
        .iter()
        .map(|truth| (truth["model"].as_str().unwrap(), truth))
        .collect();
    let (mut whole, mut touched) = (0, 0);
    for call in &run.calls {
        let complete = call["incomplete"].is_null();
        if complete {
            whole += 1;
        } else {
            assert_eq!(call["incomplete"], "bytes_lost", "{call:#}");
            touched += 1;
        }
        // A call of which the body was lost does not know its model.
        let Some(model) = call["model"].as_str() else {
            assert!(!complete, "{call:#}");
            continue;
        };
        let truth = by_model[model];
        for field in ["request_id", "prompt_tokens", "completion_tokens"] {
            let unknown = !complete && call[field].is_null();
            assert!(unknown || call[field] == truth[field], "{field}: {call:#}");
        }
    }
    assert!(
        whole > 100 && touched >= 4 && whole + touched <= 700,
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
