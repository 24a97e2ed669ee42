//! Programs that start, and what they load, while everything is watched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{ffi::OsString, fs, path::Path, process::Command};

use observer_e2e::{
    clients,
    golang::Build,
    harness::{Scene, wait_until},
};
use serde_json::Value;

/// A program without a dynamic linker: nothing but its start tells of it.
const STATIC: Build = Build {
    cgo: false,
    ..Build::with("http", "local", &["-trimpath", "-ldflags=-s -w"])
};

/// The calls of a scene among the records so far: everything is watched, other tests too.
fn recorded(scene: &Scene, output: &Path) -> Vec<Value> {
    let truth = scene.provider.truth();
    let text = fs::read_to_string(output).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|record| {
            let mut ids = truth.iter().map(|truth| &truth["request_id"]);
            record["type"] == "llm_call" && ids.any(|id| *id == record["request_id"])
        })
        .collect()
}

#[test]
fn a_static_program_of_an_instant() {
    // Request ids that no other test has.
    let scene = Scene::with_seed(fastrand::u64(..));
    let folder = scene.folder.path();
    // A file that nobody has seen yet.
    let program = clients::readable_copy(&STATIC.program().unwrap(), folder).unwrap();
    let once: Vec<OsString> = vec![program.into(), "-url".into(), scene.provider.url().into()];
    let output = folder.join("watched.jsonl");
    let observer = scene.watch(&["--all"]);
    // The first may be over before the file has been looked through.
    let mut before = 0;
    wait_until("a call of a program that nobody knew", || {
        assert!(scene.start(&once).wait().0.success());
        before += 1;
        // A program may be over before the provider has noted its call.
        scene.provider.wait_for(before);
        !recorded(&scene, &output).is_empty()
    });
    for _ in 0..20 {
        assert!(scene.start(&once).wait().0.success());
    }
    let truth = scene.provider.wait_for(before + 20).split_off(before);
    assert_eq!(truth.len(), 20);
    wait_until("the calls of twenty instants", || {
        let records = recorded(&scene, &output);
        let is_there = |id: &Value| records.iter().any(|record| record["request_id"] == *id);
        truth.iter().all(|truth| is_there(&truth["request_id"]))
    });
    let run = observer.stop();
    assert!(run.status.success(), "{}", run.stderr);
    for truth in &truth {
        let records: Vec<&Value> = run
            .calls
            .iter()
            .filter(|call| call["request_id"] == truth["request_id"])
            .collect();
        assert_eq!(records.len(), 1, "{truth:#}");
        assert_eq!(records[0]["completion_tokens"], truth["completion_tokens"]);
        assert_eq!(records[0]["incomplete"], Value::Null, "{:#}", records[0]);
    }
}

/// The raw tracepoints that a process has programs at (proc_pid_fdinfo(5)).
fn raw_tracepoints(pid: u32) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        if let Some(name) = text.lines().find_map(|line| line.strip_prefix("tp_name:")) {
            names.push(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn system_calls_are_looked_at_only_where_they_must_be() {
    let scene = Scene::new();
    for (options, expected) in [(&["--all"][..], false), (&["--all", "--plaintext"], true)] {
        let observer = scene.watch(options);
        let places = raw_tracepoints(observer.pid());
        // The provider, which is a part of this process, may need `sys_enter`: it has rustls.
        let looked_at = places.iter().any(|name| name == "sys_exit");
        let run = observer.stop();
        assert!(run.status.success(), "{}", run.stderr);
        assert_eq!(looked_at, expected, "{options:?}: {places:?}");
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
}

#[test]
fn a_crowd_that_starts_at_once() {
    let scene = Scene::with_seed(fastrand::u64(..));
    let observer = scene.watch(&["--all"]);
    // More starts than the buffers of the kernel can tell of, and calls in between.
    let script = "for i in 1 2 3 4 5 6 7 8; do \
                    n=0; while [ $n -lt 150 ]; do /bin/true & n=$((n+1)); done; wait; \
                    curl --silent --output /dev/null --cacert \"$SSL_CERT_FILE\" --data \"$2\" \"$1\" || exit 1; \
                  done";
    let mut client = Command::new("sh");
    client
        .args(["-c", script, "sh"])
        .arg(format!("{}/v1/chat/completions", scene.provider.url()))
        .arg(r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#)
        .env("SSL_CERT_FILE", scene.provider.ca());
    assert!(client.status().unwrap().success());
    let truth = scene.provider.wait_for(8);
    assert_eq!(truth.len(), 8);
    let run = observer.stop();
    assert!(run.status.success(), "{}", run.stderr);
    for truth in &truth {
        let records = run
            .calls
            .iter()
            .filter(|call| call["request_id"] == truth["request_id"]);
        assert_eq!(records.count(), 1, "{truth:#}\n{}", run.stderr);
    }
}
