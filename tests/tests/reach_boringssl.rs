//! BoringSSL within executables and libraries without symbols: Bun, Claude Code, gRPC.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::{DirEntryExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Client, Scene, binary, wait_until},
};
use serde_json::Value;

/// The oldest, one whose compiler drops an argument, and the newest.
const BUNS: [&str; 3] = ["1.1.40", "1.3.14", "1.4.5"];

/// The first with an executable of its own, and the newest.
const CLAUDES: [&str; 2] = ["2.1.110", "2.1.332"];

const CURL_CFFI: &str = "0.17.0";

const GRPCS: [&str; 4] = ["1.50.0", "1.62.3", "1.70.0", "1.85.1"];

fn row<'a>(runtime: &'a str, version: &'a str) -> Row<'a> {
    Row {
        runtime,
        version,
        library: "BoringSSL",
        linkage: "static",
        symbols: "stripped",
        http: "1.1",
    }
}

fn bun(version: &str) -> PathBuf {
    clients::npm(
        &format!("bun-{version}"),
        &[&format!("@oven/bun-linux-x64@{version}")],
    )
    .unwrap()
    .join("node_modules/@oven/bun-linux-x64/bin/bun")
}

fn claude(version: &str) -> PathBuf {
    clients::npm(
        &format!("claude-{version}"),
        &[&format!("@anthropic-ai/claude-code-linux-x64@{version}")],
    )
    .unwrap()
    .join("node_modules/@anthropic-ai/claude-code-linux-x64/claude")
}

/// A command line for Bun with cases of `clients/bun/calls.js`.
fn bun_calls(scene: &Scene, bun: &Path, cases: &[&str]) -> Vec<OsString> {
    let packages = clients::npm("bun-packages", &["openai@6.1.0"]).unwrap();
    let mut command: Vec<OsString> = vec![
        bun.into(),
        clients::script("bun/calls.js").into(),
        scene.provider.url().into(),
        scene.provider.ca().into(),
        packages.into(),
    ];
    command.extend(cases.iter().map(OsString::from));
    command
}

#[test]
fn bun_by_fetch_and_by_an_sdk() {
    for version in BUNS {
        let scene = Scene::new();
        let command = bun_calls(&scene, &bun(version), &[]);
        let run = scene.cover(&row("Bun", version), 13, &[], &command);
        for call in &run.calls {
            assert_eq!(call["comm"], "bun");
            assert!(call["exe"].as_str().unwrap().ends_with("/bin/bun"));
            assert_eq!(call["incomplete"], Value::Null, "{call:#}");
        }
    }
}

/// A command line for Claude Code that has nothing but the provider and a folder of its own.
fn claude_asks(scene: &Scene, claude: &Path, behaviour: &str, more: &[&str]) -> Vec<OsString> {
    let home = scene.folder.path().join("home");
    fs::create_dir_all(&home).unwrap();
    let mut command: Vec<OsString> = vec!["env".into()];
    for (name, value) in [
        ("ANTHROPIC_BASE_URL", scene.provider.url()),
        (
            "ANTHROPIC_API_KEY",
            "sk-ant-test-THIS-KEY-IS-SECRET".to_owned(),
        ),
        (
            "ANTHROPIC_CUSTOM_HEADERS",
            format!("x-test-behaviour: {behaviour}"),
        ),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        (
            "CLAUDE_CONFIG_DIR",
            home.join(".claude").display().to_string(),
        ),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        ("DISABLE_ERROR_REPORTING", "1".to_owned()),
        ("DISABLE_TELEMETRY", "1".to_owned()),
        ("HOME", home.display().to_string()),
        // It may run as root.
        ("IS_SANDBOX", "1".to_owned()),
    ] {
        command.push(format!("{name}={value}").into());
    }
    command.push(claude.into());
    command.extend(["-p", "What is the capital of France?"].map(OsString::from));
    command.extend(more.iter().map(OsString::from));
    command
}

#[test]
fn claude_code_asks_once() {
    for version in CLAUDES {
        let scene = Scene::new();
        let claude = claude(version);
        let command = claude_asks(&scene, &claude, "cached=5", &[]);
        let run = scene.cover(&row("Claude Code", version), 1, &[], &command);
        let exe = fs::canonicalize(&claude).unwrap();
        for call in &run.calls {
            assert_eq!(call["comm"], "claude");
            assert_eq!(call["exe"], exe.display().to_string());
            assert_eq!(call["provider"], "anthropic");
            assert_eq!(call["stream"], true);
            assert_eq!(call["cached_tokens"], 5);
            assert_eq!(call["url_path"], "/v1/messages");
            assert_eq!(call["incomplete"], Value::Null, "{call:#}");
        }
        assert_eq!(run.traces.len(), 1, "{:#?}", run.traces);
        assert!(!run.raw.contains("THIS-KEY-IS-SECRET"));
    }
}

#[test]
fn claude_code_calls_tools() {
    let scene = Scene::new();
    let claude = claude(CLAUDES[1]);
    let command = claude_asks(&scene, &claude, "tools=1", &["--max-turns", "3"]);
    // That it is stopped after three turns is a failure to it.
    let run = scene.exec(&[], &command);
    assert!(run.stderr.contains("lost 0"), "{}", run.stderr);
    let mut truth = scene.provider.truth();
    truth.retain(|truth| truth["llm_call"] == true);
    assert_eq!(run.calls.len(), truth.len(), "{:#?}", run.calls);
    for (call, truth) in run.calls.iter().zip(&truth) {
        for field in [
            "request_id",
            "model",
            "prompt_tokens",
            "completion_tokens",
            "tool_calls",
        ] {
            assert_eq!(call[field], truth[field], "{field} of {call:#}");
        }
    }
    assert!(run.calls.len() >= 3, "{:#?}", run.calls);
    for call in &run.calls {
        assert_eq!(call["tool_calls"][0], "get_weather", "{call:#}");
    }
    assert_eq!(run.traces.len(), 1, "{:#?}", run.traces);
}

/// A folder with a version of a Python package, which is on no interpreter's path.
fn package(name: &str, version: &str) -> PathBuf {
    clients::package(name, version).unwrap()
}

/// A command line for Python with such a package.
fn python_with(package: &Path, script: &str) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec!["env".into()];
    command.push(format!("PYTHONPATH={}", package.display()).into());
    command.push(clients::python().unwrap().into());
    command.push(clients::script(script).into());
    command
}

/// A gRPC server, which nobody watches, and what its clients trust.
struct Server {
    port: String,
    certificate: PathBuf,
    _process: Client,
}

impl Server {
    fn start(scene: &Scene, packages: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = scene.folder.path().join("grpc.pem");
        let key = scene.folder.path().join("grpc.key");
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut command = Command::new(clients::python().unwrap());
        command
            .arg(clients::script("grpc/server.py"))
            .args([&certificate, &key])
            .env("PYTHONPATH", packages);
        let process = Client::start(command);
        Self {
            port: process.line(),
            certificate,
            _process: process,
        }
    }
}

/// Each byte of a message is captured once: what HTTP/2 and gRPC add to it is little.
#[test]
fn grpc_in_python_byte_by_byte() {
    for version in GRPCS {
        let scene = Scene::new();
        let packages = package("grpcio", version);
        let server = Server::start(&scene, &packages);
        let mut command = python_with(&packages, "grpc/client.py");
        command.push(server.port.clone().into());
        command.push(server.certificate.clone().into());
        let run = scene.exec(&["--all-hosts"], &command);
        run.assert_clean();
        let said = run.client.first().expect("what the client says");
        assert_eq!(said["version"], version);
        let passed = said["sent"].as_u64().unwrap() + said["received"].as_u64().unwrap();
        let (captured, ..) = run.captured();
        assert!(
            captured > passed && captured < passed + passed / 200,
            "gRPC {version}: {captured} of {passed}"
        );
    }
}

#[test]
fn curl_in_python_with_symbols() {
    let scene = Scene::new();
    let mut command = python_with(&package("curl_cffi", CURL_CFFI), "curl_cffi/calls.py");
    command.push(scene.provider.url().into());
    command.push(scene.provider.ca().into());
    let row = Row {
        symbols: "symbols",
        ..row("Python curl_cffi", CURL_CFFI)
    };
    scene.cover(&row, 3, &[], &command);
}

/// The places of the probes of the only library in a file, by function.
fn places(path: &Path) -> BTreeMap<String, u64> {
    let output = Command::new(binary())
        .args(["check", "--format", "json", "--file"])
        .arg(path)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let probes = report["libraries"][0]["probes"].as_array();
    let probes = probes.unwrap_or_else(|| panic!("{report:#}"));
    let place = |probe: &Value| {
        let function = probe["function"].as_str().unwrap().to_owned();
        (function, probe["within"].as_u64().unwrap())
    };
    probes.iter().map(place).collect()
}

/// A library that has symbols shows whether its functions are found right without them.
#[test]
fn errors_lead_to_the_functions_that_symbols_name() {
    let folder = tempfile::tempdir().unwrap();
    let library = package("curl_cffi", CURL_CFFI).join("curl_cffi/_wrapper.abi3.so");
    let named = places(&library);
    for options in [
        &["--strip-all"][..],
        // Nor with the table of the unwinder.
        &["--strip-all", "--remove-section", ".eh_frame*"],
    ] {
        let stripped = folder.path().join("stripped.so");
        let mut objcopy = Command::new("objcopy");
        clients::run(objcopy.args(options).args([&library, &stripped])).unwrap();
        let found = places(&stripped);
        for function in ["SSL_read", "SSL_write"] {
            assert_eq!(found[function], named[function], "{function}, {options:?}");
        }
    }
}

/// A copy of a program that is of another build, which no agent has seen yet, and the begin of its build id.
fn another_build(program: &Path, folder: &Path) -> (PathBuf, [u8; 16]) {
    let mut bytes = fs::read(program).unwrap();
    // The note's name and type, then the id (elf(5), NT_GNU_BUILD_ID).
    let note = b"\x03\0\0\0GNU\0";
    let at = bytes.windows(note.len()).position(|window| window == note);
    let id = at.unwrap() + note.len();
    let new: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
    bytes[id..id + new.len()].copy_from_slice(&new);
    let copy = folder.join("bun");
    fs::write(&copy, bytes).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    (copy, new)
}

/// The file in which agents remember a build; another one whenever the build is examined.
fn remembered(build: [u8; 16]) -> Option<u64> {
    let name: String = build.iter().map(|byte| format!("{byte:02x}")).collect();
    let entries = fs::read_dir("/var/cache/observer").ok()?.flatten();
    let is_its = |entry: &fs::DirEntry| {
        let path = entry.path();
        let is_whole = path.extension().is_some_and(|end| end == "json");
        is_whole && entry.file_name().to_string_lossy().starts_with(&name)
    };
    entries.filter(is_its).map(|entry| entry.ino()).next()
}

/// The records of the calls that a provider has answered: everything is watched, other tests too.
fn of_provider<'a>(scene: &Scene, calls: &'a [Value]) -> Vec<&'a Value> {
    let truth = scene.provider.truth();
    let is_ours = |call: &&Value| {
        let mut ids = truth.iter().map(|truth| &truth["request_id"]);
        call["comm"] == "bun" && ids.any(|id| *id == call["request_id"])
    };
    calls.iter().filter(is_ours).collect()
}

/// Asserts that from the first that was recorded all calls were, each once. The first calls of a program may
/// pass while it is looked at.
fn assert_missed_only_first(calls: &[&Value], truth: &[Value]) {
    assert!(calls.len() <= truth.len(), "{calls:#?}\nof {truth:#?}");
    for (truth, call) in truth.iter().rev().zip(calls.iter().rev()) {
        assert_eq!(truth["request_id"], call["request_id"]);
        assert_eq!(truth["completion_tokens"], call["completion_tokens"]);
    }
}

/// Lets Bun make calls until so many have been recorded. Returns what the provider knows of them.
fn until_recorded(scene: &Scene, bun: &Path, output: &Path, records: usize) -> Vec<Value> {
    let before = scene.provider.truth().len();
    let mut client = scene.start(&bun_calls(scene, bun, &["fetch-until-told"]));
    wait_until("records of Bun", || {
        let text = fs::read_to_string(output).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        let calls: Vec<Value> = lines.map_while(Result::ok).collect();
        of_provider(scene, &calls).len() >= records
    });
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success());
    let said: Value = serde_json::from_str(&lines[0]).unwrap();
    let made = usize::try_from(said["calls"].as_u64().unwrap()).unwrap();
    // The client may be done before the provider has noted it.
    let truth = scene.provider.wait_for(before + made).split_off(before);
    assert_eq!(truth.len(), made);
    truth
}

#[test]
fn a_large_program_that_starts_while_everything_is_watched() {
    // Request ids that no other test has.
    let scene = Scene::with_seed(fastrand::u64(..));
    let folder = scene.folder.path();
    let (bun, build) = another_build(&bun(BUNS[2]), folder);
    let output = folder.join("watched.jsonl");
    let observer = scene.watch(&["--all"]);
    assert_eq!(remembered(build), None);
    // Nobody knows it.
    let mut truth = until_recorded(&scene, &bun, &output, 5);
    // Now it is known.
    truth.extend(until_recorded(&scene, &bun, &output, 0));
    let run = observer.stop();
    assert_missed_only_first(&of_provider(&scene, &run.calls), &truth);
    let known = remembered(build);
    assert!(known.is_some(), "{}", run.stderr);
    // The next agent knows it too, though it starts before the program.
    fs::remove_file(&output).unwrap();
    let observer = scene.watch(&["--all"]);
    let truth = until_recorded(&scene, &bun, &output, 5);
    let run = observer.stop();
    assert_missed_only_first(&of_provider(&scene, &run.calls), &truth);
    assert_eq!(remembered(build), known, "it was examined once more");
}

#[test]
fn a_large_program_that_nobody_knows_is_examined_before_it_starts() {
    let scene = Scene::new();
    let (bun, _) = another_build(&bun(BUNS[2]), scene.folder.path());
    let run = scene.exec(&[], &bun_calls(&scene, &bun, &["fetch", "sdk-stream"]));
    run.assert_clean();
    scene.assert_truth(&run.calls);
}

/// The most memory that a command held, in bytes, and how long it took.
fn cost(command: &mut Command) -> (u64, Duration) {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(line) = line {
            let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
            most = most.max(kib * 1024);
        }
        if child.try_wait().unwrap().is_some() {
            return (most, started.elapsed());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn hundreds_of_megabytes_are_examined_in_little_memory() {
    for program in BUNS.map(bun).into_iter().chain(CLAUDES.map(claude)) {
        let (memory, time) = cost(
            Command::new(binary())
                .arg("check")
                .arg("--file")
                .arg(&program),
        );
        let size = fs::metadata(&program).unwrap().len();
        println!(
            "{}: {} MB, {time:?}, {} MB",
            program.display(),
            size >> 20,
            memory >> 20
        );
        assert!(
            memory > 0 && memory <= 300 << 20,
            "{memory} bytes for {}",
            program.display()
        );
    }
}
