//! Which processes and files are watched, and since when.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{ffi::OsString, fs, path::Path, process::Command};

use observer_e2e::harness::{Client, Scene, binary, output, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// The libssl that the test's Python maps.
fn libssl() -> String {
    let output = Command::new("python3")
        .args([
            "-c",
            "import ssl; print(*{l.split()[-1] for l in open('/proc/self/maps') if 'libssl' in l})",
        ])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A copy of libssl in a folder of its own, for LD_LIBRARY_PATH.
fn private_libssl(folder: &Path) {
    let original = fs::canonicalize(libssl()).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::copy(original, folder.join("libssl.so.3")).unwrap();
}

/// A command line for calls one after the other, until the client is waited for.
fn calls(scene: &Scene) -> Vec<OsString> {
    scene.script("told.py", ["--until-told", "--every", "0.05"])
}

/// Waits until enough calls of the client have been recorded to see whether all is well.
fn until_recorded(scene: &Scene, client: &Client) {
    let output = scene.folder.path().join("watched.jsonl");
    let pid: u64 = client.pid().parse().unwrap();
    wait_until("records", || {
        let text = fs::read_to_string(&output).unwrap_or_default();
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_its = |record: &Value| record["type"] == "llm_call" && record["pid"] == pid;
        records.filter(is_its).count() >= 5
    });
}

/// Asserts that no answer was recorded twice. A call that was cut off by the end may not have had one.
fn assert_seen_once(calls: &[Value]) {
    let mut ids: Vec<&str> = calls
        .iter()
        .filter_map(|call| call["request_id"].as_str())
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "a call was seen twice: {calls:#?}");
}

fn of_case<'a>(scene: &Scene, calls: &'a [Value], case: &str) -> Vec<&'a Value> {
    let truth = scene.provider.truth();
    calls
        .iter()
        .filter(|call| {
            truth.iter().any(|truth| {
                truth["request_id"] == call["request_id"]
                    && truth["test"]
                        .as_str()
                        .is_some_and(|test| test.starts_with(case))
            })
        })
        .collect()
}

#[test]
fn a_library_that_is_loaded_after_the_attach() {
    let scene = Scene::new();
    for mode in ["sync", "async"] {
        let mut client = scene.start(&scene.script(
            "calls.py",
            ["--wait-for-stdin", "--mode", mode, "--case", mode],
        ));
        assert_eq!(client.line(), "waiting");
        let observer = scene.watch(&["--pid", &client.pid()]);
        client.go_on();
        assert!(client.wait().0.success());
        let run = observer.wait();
        run.assert_clean();
        assert!(run.stderr.contains("no TLS library"), "{}", run.stderr);
        assert!(run.stderr.contains("has exited"), "{}", run.stderr);
        assert_eq!(of_case(&scene, &run.calls, mode).len(), 1);
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
}

#[test]
fn children_that_are_born_later() {
    let scene = Scene::new();
    let mut client = scene.start(&scene.script("children.py", ["--wait-for-stdin"]));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    let parent = client.pid();
    let (status, lines) = client.wait();
    assert!(status.success());
    let run = observer.wait();
    run.assert_clean();
    scene.saw(&lines);
    scene.assert_truth(&run.calls);
    assert_eq!(run.calls.len(), 2);
    for call in &run.calls {
        assert_ne!(call["pid"].to_string(), parent);
        assert_eq!(call["ppid"].to_string(), parent);
    }
}

#[test]
fn children_that_are_there_already() {
    let scene = Scene::new();
    let mut shell = vec![
        OsString::from("sh"),
        "-c".into(),
        "\"$@\"; true".into(),
        "sh".into(),
    ];
    shell.extend(calls(&scene));
    let client = scene.start(&shell);
    client.line();
    let observer = scene.watch(&["--pid", &client.pid()]);
    let seen_before = scene.provider.truth().len();
    wait_until("more calls", || {
        scene.provider.truth().len() > seen_before + 10
    });
    let run = observer.stop();
    run.assert_clean();
    assert!(run.calls.len() >= 10, "{}", run.calls.len());
    assert!(client.wait().0.success());
}

#[test]
fn several_pids_and_nobody_else() {
    let scene = Scene::new();
    let clients = ["one", "two", "other"].map(|case| {
        let client = scene.start(&scene.script(
            "calls.py",
            ["--wait-for-stdin", "--count", "3", "--case", case],
        ));
        assert_eq!(client.line(), "waiting");
        client
    });
    let observer = scene.watch(&["--pid", &clients[0].pid(), "--pid", &clients[1].pid()]);
    for mut client in clients {
        client.go_on();
        assert!(client.wait().0.success());
    }
    let run = observer.wait();
    run.assert_clean();
    assert_eq!(of_case(&scene, &run.calls, "one").len(), 3);
    assert_eq!(of_case(&scene, &run.calls, "two").len(), 3);
    assert_eq!(run.calls.len(), 6);
}

#[test]
fn a_process_that_starts_after_watch_all() {
    let scene = Scene::new();
    let observer = scene.watch(&["--all"]);
    let python = scene.start(&scene.script("calls.py", ["--sdk", "anthropic", "--mode", "async"]));
    assert!(python.wait().0.success());
    // As short-lived as clients get.
    let curl = ["curl", "--silent", "--cacert"]
        .into_iter()
        .map(OsString::from)
        .chain([scene.provider.ca().into(), "--data".into()])
        .chain([r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#.into()])
        .chain([format!("{}/v1/chat/completions", scene.provider.url()).into()])
        .collect::<Vec<_>>();
    for _ in 0..5 {
        assert!(scene.start(&curl).wait().0.success());
    }
    let truth = scene.provider.wait_for(6);
    let run = observer.stop();
    run.assert_clean();
    let port = scene.provider.port();
    let ours: Vec<&Value> = run
        .calls
        .iter()
        .filter(|call| call["server_port"] == port)
        .collect();
    assert_eq!(ours.len(), truth.len(), "each call once, nothing missed");
}

#[test]
fn the_target_goes_on_unharmed() {
    let scene = Scene::new();
    let client = scene.start(&calls(&scene));
    client.line();
    let observer = scene.watch(&["--pid", &client.pid()]);
    until_recorded(&scene, &client);
    observer.signal(Signal::TERM);
    let run = observer.wait();
    run.assert_clean();
    let before = scene.provider.truth().len();
    scene.provider.wait_for(before + 5);
    let (status, lines) = client.wait();
    assert!(status.success());
    assert!(lines.len() + 1 >= before + 5, "{}", lines.len());
    assert!(
        lines
            .iter()
            .all(|line| line.contains(r#""error_type": null"#)),
        "{lines:?}"
    );
}

#[test]
fn a_library_that_was_deleted_or_replaced() {
    let scene = Scene::new();
    let folder = scene.folder.path().join("lib");
    for replaced in [false, true] {
        private_libssl(&folder);
        let mut process = scene.command(&calls(&scene));
        process.env("LD_LIBRARY_PATH", &folder);
        let client = Client::start(process);
        client.line();
        fs::remove_file(folder.join("libssl.so.3")).unwrap();
        if replaced {
            fs::write(folder.join("libssl.so.3"), "something else").unwrap();
        }
        let observer = scene.watch(&["--pid", &client.pid()]);
        until_recorded(&scene, &client);
        observer.stop().assert_clean();
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
}

/// Runs a client whose library lies on a mount that only it can see.
fn in_a_private_mount(scene: &Scene, prepare: &str) -> Vec<Value> {
    let folder = scene.folder.path();
    private_libssl(&folder.join("lower"));
    fs::create_dir_all(folder.join("lib")).unwrap();
    let script = format!("{prepare}; export LD_LIBRARY_PATH=\"$DIR/lib\"; exec \"$@\"");
    let mut command: Vec<OsString> = ["unshare", "--mount", "sh", "-e", "-c", &script, "sh"]
        .into_iter()
        .map(OsString::from)
        .collect();
    command.extend(calls(scene));
    let mut process = scene.command(&command);
    process.env("DIR", folder);
    let client = Client::start(process);
    client.line();
    let maps = fs::read_to_string(format!("/proc/{}/maps", client.pid())).unwrap();
    assert!(
        maps.contains(&format!("{}/lib/libssl.so.3", folder.display())),
        "{maps}"
    );
    let observer = scene.watch(&["--pid", &client.pid()]);
    until_recorded(scene, &client);
    let run = observer.stop();
    run.assert_clean();
    run.calls
}

#[test]
fn a_library_on_a_mount_of_another_namespace() {
    let scene = Scene::new();
    in_a_private_mount(
        &scene,
        "mount -t tmpfs tmpfs \"$DIR/lib\"; cp \"$DIR/lower/libssl.so.3\" \"$DIR/lib\"",
    );
}

#[test]
fn a_library_on_an_overlay_is_seen_once() {
    let scene = Scene::new();
    let work = "mkdir \"$DIR/rw\"; mount -t tmpfs tmpfs \"$DIR/rw\"; mkdir \"$DIR/rw/up\" \"$DIR/rw/work\"; \
                mount -t overlay overlay -o lowerdir=\"$DIR/lower\",upperdir=\"$DIR/rw/up\",workdir=\"$DIR/rw/work\" \"$DIR/lib\"";
    assert_seen_once(&in_a_private_mount(&scene, work));
}

#[test]
fn one_file_under_two_paths_is_seen_once() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    private_libssl(&folder.join("lower"));
    fs::create_dir_all(folder.join("lib")).unwrap();
    let script = "mkdir \"$DIR/rw\"; mount -t tmpfs tmpfs \"$DIR/rw\"; mkdir \"$DIR/rw/up\" \"$DIR/rw/work\"; \
                  mount -t overlay overlay -o lowerdir=\"$DIR/lower\",upperdir=\"$DIR/rw/up\",workdir=\"$DIR/rw/work\" \"$DIR/lib\"; \
                  export LD_LIBRARY_PATH=\"$DIR/lib\"; exec \"$@\"";
    let mut overlaid: Vec<OsString> = ["unshare", "--mount", "sh", "-e", "-c", script, "sh"]
        .into_iter()
        .map(OsString::from)
        .collect();
    overlaid.extend(calls(&scene));
    let mut process = scene.command(&overlaid);
    process.env("DIR", folder);
    let above = Client::start(process);
    let mut process = scene.command(&calls(&scene));
    process.env("LD_LIBRARY_PATH", folder.join("lower"));
    let below = Client::start(process);
    above.line();
    below.line();
    let observer = scene.watch(&["--pid", &above.pid(), "--pid", &below.pid()]);
    until_recorded(&scene, &above);
    until_recorded(&scene, &below);
    let run = observer.stop();
    run.assert_clean();
    assert_seen_once(&run.calls);
}

#[test]
fn openssl_1_1_as_wheels_carry_it() {
    let scene = Scene::new();
    let python =
        observer_e2e::clients::environment("openssl-1.1", "psycopg2-binary==2.9.5\n").unwrap();
    let library = output(
        "find",
        &[
            python.parent().unwrap().parent().unwrap().to_str().unwrap(),
            "-name",
            "libssl*.so.1.1",
        ],
    )
    .1;
    assert!(
        library.contains("libssl-"),
        "the wheel carries no OpenSSL 1.1: {library}"
    );
    let command: Vec<OsString> = vec![
        python.into(),
        observer_e2e::clients::script("openssl.py").into(),
        scene.provider.url().into(),
        library.lines().next().unwrap().into(),
    ];
    let mut client = scene.start(&command);
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success());
    let run = observer.wait();
    run.assert_clean();
    scene.saw(&lines);
    scene.assert_truth(&run.calls);
    assert_eq!(run.calls.len(), 2);
}

#[test]
fn exec_returns_the_commands_status() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let (status, _, stderr) = output(binary(), &["exec", "--", "sh", "-c", script]);
        assert_eq!(status, code, "{script}: {stderr}");
    }
    assert_eq!(output(binary(), &["exec", "--", "/does/not/exist"]).0, 127);
}

#[test]
fn only_the_wanted_providers() {
    let scene = Scene::new();
    let mut command = vec![
        OsString::from("sh"),
        "-c".into(),
        "\"$@\" --sdk openai && \"$@\" --sdk anthropic".into(),
        "sh".into(),
    ];
    command.extend(scene.script("calls.py", []));
    let run = scene.exec(&["--provider", "anthropic"], &command);
    run.assert_clean();
    assert_eq!(run.only_call()["provider"], "anthropic");
    assert_eq!(run.traces.len(), 1);
}
