//! The capture engine: by which interface, with which rights, what is copied and what is not.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
    time::Duration,
};

use observer_e2e::harness::{Load, Observer, Scene, binary};
use serde_json::Value;
use tempfile::TempDir;

/// What `setpriv` leaves: the capabilities that the agent is documented to need.
const FOUR: &str = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search";

fn calls(scene: &Scene) -> Vec<std::ffi::OsString> {
    scene.script("calls.py", ["--count", "6", "--wait-for-stdin"])
}

/// Watches a client by `prefix`, and checks that all of its calls are recorded right.
fn assert_watched(scene: &Scene, prefix: &[&str], options: &[&str]) -> String {
    let mut client = scene.start(&calls(scene));
    assert_eq!(client.line(), "waiting");
    let pid = client.pid();
    let mut all = vec!["--pid", pid.as_str()];
    all.extend(options);
    let observer = scene.watch_by(prefix, &all);
    let status = fs::read_to_string(format!("/proc/{}/status", observer.pid())).unwrap();
    client.go_on();
    assert!(client.wait().0.success());
    let run = observer.wait();
    run.assert_clean();
    scene.assert_truth(&run.calls);
    status
}

/// The set of this name in /proc/PID/status.
fn capabilities(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

/// SYS_PTRACE, PERFMON, BPF and DAC_READ_SEARCH (linux/capability.h).
const NEEDED: u64 = 1 << 19 | 1 << 38 | 1 << 39 | 1 << 2;

/// CHECKPOINT_RESTORE (same place): kept where it is there.
const HELPFUL: u64 = 1 << 40;

#[test]
fn by_a_uprobe_session() {
    by("session", "uprobe session");
}

#[test]
fn by_uprobe_multi() {
    by("multi", "uprobe_multi");
}

#[test]
fn by_perf_events() {
    by("perf", "perf events");
}

#[test]
fn by_tracefs_events() {
    by("tracefs", "tracefs events");
    let events = fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap();
    // Other tests may have an agent of this kind at work.
    for line in events.lines() {
        let owner = line.split("observer_").nth(1).unwrap();
        let owner = owner.split('/').next().unwrap();
        assert!(
            fs::exists(format!("/proc/{owner}")).unwrap(),
            "left behind: {line}"
        );
    }
}

fn by(option: &str, name: &str) {
    let scene = Scene::new();
    let run = scene.exec(
        &["--attach-by", option],
        &scene.script("calls.py", ["--count", "6"]),
    );
    run.assert_clean();
    scene.assert_truth(&run.calls);
    let output = Command::new(binary())
        .args(["exec", "--attach-by", option, "--", "true"])
        .env("OBSERVER_LOG", "info")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(name), "the log names it: {stderr}");
}

#[test]
fn check_says_which_interface_is_taken() {
    let output = Command::new(binary())
        .args(["check", "--format", "json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    // This kernel has everything.
    assert_eq!(report["attach_by"], "uprobe session", "{report:#}");
}

#[test]
fn as_root_with_four_capabilities() {
    let scene = Scene::new();
    let prefix = ["setpriv", "--bounding-set", FOUR, "--inh-caps", "-all"];
    let status = assert_watched(&scene, &prefix, &[]);
    assert_eq!(capabilities(&status, "CapPrm:"), NEEDED);
}

#[test]
fn as_an_ordinary_user_with_four_capabilities() {
    let scene = Scene::new();
    // The file that the records go to belongs to root.
    let records = scene.folder.path().join("watched.jsonl");
    fs::write(&records, "").unwrap();
    fs::set_permissions(&records, Permissions::from_mode(0o666)).unwrap();
    let kept = FOUR.trim_start_matches("-all,");
    let prefix = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps",
        FOUR,
        "--ambient-caps",
        kept,
    ];
    let status = assert_watched(&scene, &prefix, &[]);
    assert_eq!(capabilities(&status, "CapPrm:"), NEEDED);
}

#[test]
fn root_keeps_no_more_than_it_needs() {
    let scene = Scene::new();
    let status = assert_watched(&scene, &["env"], &[]);
    for set in ["CapPrm:", "CapEff:"] {
        assert_eq!(capabilities(&status, set), NEEDED | HELPFUL, "{set}");
    }
    assert_eq!(capabilities(&status, "CapInh:"), 0);
}

#[test]
fn a_missing_capability_is_named() {
    for (missing, name) in [
        ("bpf", "CAP_BPF"),
        ("perfmon", "CAP_PERFMON"),
        ("sys_ptrace", "CAP_SYS_PTRACE"),
    ] {
        let others: Vec<&str> = FOUR
            .split(',')
            .filter(|capability| capability.trim_start_matches('+') != missing)
            .collect();
        let output = Command::new("setpriv")
            .args(["--bounding-set", &others.join(","), "--inh-caps", "-all"])
            .arg(binary())
            .args(["watch", "--all"])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(name), "{stderr}");
    }
}

/// A load generator that is watched, and the agent.
fn load(folder: &TempDir, arguments: &[&str], options: &[&str]) -> (Load, Observer) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_observer-tls-load"));
    command.args(arguments);
    let load = Load::start(command);
    let pid = load.pid();
    let mut all = vec!["--pid", pid.as_str()];
    all.extend(options);
    let observer = Observer::start(&[], &folder.path().join("records.jsonl"), &all);
    (load, observer)
}

#[test]
fn other_plaintext_stays_in_the_kernel_after_the_verdict() {
    let secret = "tulip-mania-1637";
    let arguments = [
        "--uninteresting",
        secret,
        "--requests",
        "20",
        "--rounds",
        "20",
    ];
    let folder = tempfile::tempdir().unwrap();
    let (mut load, observer) = load(&folder, &arguments, &["--capture-content"]);
    for round in 1..=20 {
        load.begin();
        assert_eq!(load.end(), round < 20);
        // The verdict of the first round reaches the kernel.
        thread::sleep(Duration::from_millis(100));
    }
    let result = load.finish();
    let run = observer.wait();
    run.assert_clean();
    let produced = result["bytes"].as_u64().unwrap();
    let (captured, ..) = run.captured();
    // Not more than the first of the rounds, and of that hardly anything; and of what the process answers the first 64
    // of 400 requests: it might have called for them.
    assert!(captured < produced / 4, "{captured} of {produced} bytes");
    assert!(run.calls.is_empty(), "{:#?}", run.calls);
    let records = fs::read_to_string(folder.path().join("records.jsonl")).unwrap();
    assert!(!records.contains(secret) && !run.stderr.contains(secret));
}

#[test]
fn all_hosts_are_looked_into_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--uninteresting", "tulip", "--requests", "20"];
    let (mut load, observer) = load(&folder, &arguments, &["--all-hosts"]);
    load.begin();
    assert!(!load.end());
    let result = load.finish();
    let run = observer.wait();
    run.assert_clean();
    assert_eq!(run.captured().0, result["bytes"].as_u64().unwrap());
}

#[test]
fn a_connection_that_turns_to_an_llm_is_taken_up_again() {
    let scene = Scene::new();
    let run = scene.exec(&[], &scene.script("turn.py", []));
    run.assert_clean();
    scene.assert_truth(&run.calls);
    assert_eq!(run.calls.len(), 2);
}

#[test]
fn a_call_right_behind_something_else_is_recorded() {
    let scene = Scene::new();
    // The verdict about what came first is on its way when the call begins, or has just arrived.
    for pause in ["0", "0.001", "0.003", "0.006"] {
        let arguments = ["--pause", pause, "--connections", "8"];
        let run = scene.exec(&[], &scene.script("turn.py", arguments));
        run.assert_clean();
        let cases: Vec<&Value> = run
            .calls
            .iter()
            .filter(|call| call["incomplete"].is_null())
            .collect();
        assert_eq!(cases.len(), 16, "{pause} s: {:#?}", run.calls);
        assert_eq!(run.calls.len(), 16, "{pause} s");
    }
}

#[test]
fn an_idle_agent_sleeps() {
    let folder = tempfile::tempdir().unwrap();
    let (mut load, observer) = load(&folder, &["--requests", "1"], &[]);
    thread::sleep(Duration::from_millis(500));
    // Voluntary context switches of all threads: one for each time that it wakes up.
    let switches = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", observer.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Programs that start elsewhere wake it for a moment, as those of other tests do.
    let mut seconds = Vec::new();
    while seconds.iter().all(|wakeups| *wakeups >= 5) {
        assert!(seconds.len() < 30, "wakeups a second: {seconds:?}");
        let before = switches();
        thread::sleep(Duration::from_secs(1));
        seconds.push(switches() - before);
    }
    load.begin();
    assert!(!load.end());
    load.finish();
    let run = observer.wait();
    run.assert_clean();
    assert_eq!(run.calls.len(), 1, "what wakes it up is recorded");
}
