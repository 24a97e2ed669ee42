//! Programs under seccomp filters that kill for every system call they do not know go on unharmed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::Context as _;
use observer_e2e::{clients, harness::Scene};

/// `clients/static/client.c` with the shared library.
fn client() -> PathBuf {
    let source = clients::script("static/client.c");
    let mut input = String::new();
    for file in ["static/client.c", "static/seccomp.h"] {
        input += &fs::read_to_string(clients::script(file)).unwrap();
    }
    let folder = clients::prepared("shared-openssl", &input, |folder| {
        fs::create_dir_all(folder)?;
        clients::run(
            Command::new("cc")
                .args(["-D_GNU_SOURCE", "-O1", "-o"])
                .args([&folder.join("client"), &source])
                .args(["-lssl", "-lcrypto"]),
        )
        .context("cannot link to OpenSSL: apt-get install libssl-dev")
    });
    folder
        .unwrap_or_else(|error| panic!("{error:#}"))
        .join("client")
}

fn command(scene: &Scene, arguments: &[&str]) -> Vec<OsString> {
    let mut command = vec![client().into(), scene.provider.port().to_string().into()];
    command.extend(arguments.iter().map(OsString::from));
    command
}

#[test]
fn the_filter_kills() {
    let scene = Scene::new();
    let command = command(&scene, &["--strict", "--forbidden"]);
    let status = scene.command(&command).output().unwrap().status;
    assert!(!status.success(), "{status}");
}

#[test]
fn by_every_interface_of_the_kernel() {
    for interface in ["session", "multi", "perf", "tracefs"] {
        let scene = Scene::new();
        let arguments = ["--strict", "--calls", "3", "--connections", "3", "--stream"];
        let run = scene.exec(&["--attach-by", interface], &command(&scene, &arguments));
        run.assert_clean();
        assert_eq!(run.client.len(), 10, "{interface}: {:#?}", run.client);
        assert_eq!(run.calls.len(), 9, "{interface}");
        scene.assert_truth(&run.calls);
    }
}

#[test]
fn that_ran_already() {
    let scene = Scene::new();
    let arguments = ["--strict", "--wait-for-stdin", "--calls", "3", "--ex"];
    let mut client = scene.start(&command(&scene, &arguments));
    while client.line() != "waiting" {}
    let status = fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    assert!(client.wait().0.success());
    let run = observer.wait();
    run.assert_clean();
    assert_eq!(run.calls.len(), 3);
}

/// Probes that stand for everyone are in programs that are not watched, too.
#[test]
fn that_are_not_watched() {
    let scene = Scene::new();
    let arguments = ["--strict", "--wait-for-stdin", "--calls", "3"];
    let mut client = scene.start(&command(&scene, &arguments));
    while client.line() != "waiting" {}
    let run = scene.exec(&[], &command(&scene, &["--calls", "1"]));
    run.assert_clean();
    let observer = scene.watch(&["--all", "--provider", "anthropic"]);
    client.go_on();
    assert!(client.wait().0.success());
    observer.stop().assert_clean();
}
