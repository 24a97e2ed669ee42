//! Plain HTTP: what clients and servers on this machine say to each other without TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use observer_e2e::{
    clients,
    coverage::Row,
    front::Front,
    harness::{Client, Run, Scene, output},
};
use rustix::process::Signal;
use serde_json::Value;

const PLAIN: Row<'static> = Row {
    runtime: "",
    version: "",
    library: "none (plain HTTP)",
    linkage: "-",
    symbols: "-",
    http: "1.1",
};

fn row<'a>(runtime: &'a str, version: &'a str) -> Row<'a> {
    Row {
        runtime,
        version,
        ..PLAIN
    }
}

fn python() -> OsString {
    clients::python().unwrap().into()
}

fn script(name: &str) -> OsString {
    clients::script(&format!("plaintext/{name}")).into()
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

fn version(command: &str, argument: &str) -> String {
    let (_, text, _) = output(command, &[argument]);
    let words = text.split_whitespace();
    words
        .map(|word| word.trim_start_matches(|c: char| !c.is_ascii_digit()))
        .find(|word| word.contains('.'))
        .unwrap_or_default()
        .to_owned()
}

/// `client.py URL HOW …`
fn client<'a>(url: &str, arguments: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    let mut command = vec![python(), script("client.py"), url.into()];
    command.extend(arguments.into_iter().map(OsString::from));
    command
}

/// `server.py ARGUMENTS`
fn server<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    let mut command = vec![python(), script("server.py")];
    command.extend(arguments.into_iter().map(OsString::from));
    command
}

fn spawn(command: &[OsString]) -> Client {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    Client::start(process)
}

fn path_in(scene: &Scene, name: &str) -> String {
    scene.folder.path().join(name).display().to_string()
}

/// Makes `count` calls of the models `model-0` and so on.
fn ask(url: &str, count: usize) {
    let mut client = spawn(&server(["ask", url, "--count", &count.to_string()]));
    client.go_on();
    assert!(client.wait().0.success());
}

/// Asserts that each call of the provider was recorded once. How long it took is another test's concern.
fn assert_recorded(scene: &Scene, run: &Run) {
    let truth = scene.provider.truth();
    assert_eq!(run.calls.len(), truth.len(), "{}", run.stderr);
    for truth in &truth {
        let of_it = |call: &&Value| call["request_id"] == truth["request_id"];
        let call = run.calls.iter().find(of_it).unwrap();
        for field in [
            "model",
            "response_model",
            "prompt_tokens",
            "completion_tokens",
            "stream",
            "status_code",
            "finish_reasons",
        ] {
            assert_eq!(call[field], truth[field], "{field} of {call:#}");
        }
        assert_eq!(call["incomplete"], Value::Null, "{call:#}");
    }
}

/// The models that were asked for, sorted.
fn models(run: &Run) -> Vec<String> {
    let mut models: Vec<String> = run
        .calls
        .iter()
        .map(|call| call["model"].as_str().unwrap().to_owned())
        .collect();
    models.sort();
    models
}

#[test]
fn the_openai_sdk_over_ipv4_and_ipv6() {
    let scene = Scene::new();
    let python_version = version("python3", "--version");
    let row = row("Python (openai SDK)", &python_version);
    for address in ["127.0.0.1", "::1"] {
        let front = Front::tcp(&scene.provider, address).unwrap();
        for (mode, more) in [
            ("sync", &["--count", "3"][..]),
            ("stream", &["--threads", "3"]),
            ("async", &["--tasks", "4"]),
            ("async-stream", &["--tasks", "4", "--uvloop"]),
        ] {
            let mut command = vec![python(), clients::script("calls.py").into()];
            command.extend(words([front.url(), "--mode", mode, "--case", mode]));
            command.extend(more.iter().map(OsString::from));
            let run = scene.cover(&row, 3, &[], &command);
            for call in &run.calls {
                assert_eq!(call["server_address"], address, "{call:#}");
                assert!(front.url().ends_with(&call["server_port"].to_string()));
                assert_eq!(call["incomplete"], Value::Null, "{call:#}");
            }
        }
    }
    let truth = scene.provider.truth();
    assert_eq!(truth.len(), 2 * (3 + 3 + 4 + 4));
}

#[test]
fn unix_sockets() {
    let scene = Scene::new();
    let path = path_in(&scene, "socket");
    let front = Front::unix(&scene.provider, Path::new(&path)).unwrap();
    let python_version = version("python3", "--version");
    let row = row("Python (httpx, Unix socket)", &python_version);
    let command = client(front.url(), ["unix", "--path", &path]);
    let run = scene.cover(&row, 3, &[], &command);
    for call in &run.calls {
        assert_eq!(call["server_address"], "localhost", "{call:#}");
        assert_eq!(call["server_port"], 80, "{call:#}");
    }
}

#[test]
fn aiohttp_with_and_without_uvloop() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let python_version = version("python3", "--version");
    let row = row("Python (aiohttp)", &python_version);
    scene.cover(&row, 4, &[], &client(front.url(), ["aiohttp"]));
}

#[test]
fn curl_node_and_go() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let url = front.url();
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#;
    let chat = format!("{url}/v1/chat/completions");
    let curl = version("curl", "--version");
    let mut command = words(["curl", "--silent", "--output", "/dev/null"]);
    command.extend(words([
        "--data", body, &chat, "--next", "--data", body, &chat,
    ]));
    scene.cover(&row("curl", &curl), 2, &[], &command);

    let mut command = words(["node"]);
    command.extend([script("client.mjs"), url.into()]);
    let node = version("node", "--version");
    scene.cover(&row("Node.js (fetch)", &node), 2, &[], &command);

    let go = version("go", "version");
    let command = [go_client().into(), url.into()];
    scene.cover(&row("Go (net/http)", &go), 12, &[], &command);
}

/// The client in Go, built.
fn go_client() -> PathBuf {
    let source = clients::script("plaintext/go");
    let input = fs::read_to_string(source.join("main.go")).unwrap();
    let folder = clients::prepared("go-plaintext", &input, |folder| {
        clients::run(
            Command::new("go")
                .current_dir(&source)
                .args(["build", "-o"])
                .arg(folder.join("client"))
                .arg("."),
        )
    });
    folder.unwrap().join("client")
}

#[test]
fn every_system_call_that_moves_bytes() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let python_version = version("python3", "--version");
    let row = row("Python (system calls)", &python_version);
    let run = scene.cover(&row, 8, &[], &client(front.url(), ["syscalls"]));
    for call in &run.calls {
        assert_eq!(call["incomplete"], Value::Null, "{call:#}");
    }
}

#[test]
fn a_large_request_in_parts() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let run = scene.exec(&[], &client(front.url(), ["large"]));
    run.assert_clean();
    assert_recorded(&scene, &run);
    assert!(run.captured().0 > 8_000_000);
}

#[test]
fn a_body_that_the_kernel_takes_from_a_file_is_a_gap() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let path = path_in(&scene, "body");
    let run = scene.exec(&[], &client(front.url(), ["sends-file", "--path", &path]));
    assert!(run.stderr.contains("without a buffer"), "{}", run.stderr);
    let call = run.only_call();
    assert_eq!(call["incomplete"], "bytes_lost", "{call:#}");
    let truth = &scene.provider.truth()[0];
    assert_eq!(call["completion_tokens"], truth["completion_tokens"]);
}

#[test]
fn a_connection_that_was_open_before_the_attach() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let arguments = ["keep-alive", "--count", "20", "--wait-for-stdin"];
    let mut client = spawn(&client(front.url(), arguments));
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    assert!(client.wait().0.success());
    let run = observer.wait();
    run.assert_clean();
    assert_recorded(&scene, &run);
    assert_eq!(run.calls.len(), 20);
}

#[test]
fn a_server_whose_clients_are_not_watched() {
    let scene = Scene::new();
    for forked in [&[][..], &["--forked"]] {
        let server = spawn(&server(["serve"].iter().chain(forked).copied()));
        let url = server.line();
        let observer = scene.watch(&["--pid", &server.pid()]);
        ask(&url, 3);
        let run = observer.stop();
        run.assert_clean();
        assert_eq!(models(&run), ["model-0", "model-1", "model-2"]);
        for (call, number) in run.calls.iter().zip(1..) {
            assert_eq!(call["prompt_tokens"], number, "{call:#}");
            assert_eq!(call["completion_tokens"], 7, "{call:#}");
            assert_eq!(call["status_code"], 200, "{call:#}");
            assert_eq!(call["incomplete"], Value::Null, "{call:#}");
            assert!(url.ends_with(&call["server_port"].to_string()), "{call:#}");
            let is_server = call["pid"].as_u64() == server.pid().parse().ok();
            assert_eq!(is_server, forked.is_empty(), "{call:#}");
        }
        assert!(server.wait().0.success());
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
}

#[test]
fn uvicorn_as_a_server_with_and_without_uvloop() {
    let requirements = "uvicorn[standard]==0.38.0\n";
    let python = clients::environment("uvicorn", requirements).unwrap();
    let scene = Scene::new();
    for kind in ["asyncio", "uvloop"] {
        let command = [python.clone().into(), script("app.py"), kind.into()];
        let server = spawn(&command);
        let url = server.line();
        let observer = scene.watch(&["--pid", &server.pid()]);
        ask(&url, 2);
        let run = observer.stop();
        run.assert_clean();
        assert_eq!(models(&run), ["model-0", "model-1"], "{}", run.stderr);
        for call in &run.calls {
            assert_eq!(call["pid"].to_string(), server.pid());
            assert_eq!(call["stream"], true, "{call:#}");
            assert_eq!(call["prompt_tokens"], 11, "{call:#}");
            assert!(
                call["time_to_first_token_ns"].as_u64().is_some(),
                "{call:#}"
            );
            assert_eq!(call["incomplete"], Value::Null, "{call:#}");
        }
        server.signal(Signal::TERM);
        server.wait();
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
}

#[test]
fn the_ollama_sdk() {
    let python = clients::environment("ollama", "ollama==0.6.3\n").unwrap();
    let scene = Scene::new();
    let server = spawn(&server(["serve"]));
    let command = [
        python.into(),
        script("ollama_calls.py"),
        server.line().into(),
    ];
    let run = scene.exec(&[], &command);
    run.assert_clean();
    assert_eq!(models(&run), ["async", "stream", "whole"], "{}", run.stderr);
    for call in &run.calls {
        assert_eq!(call["provider"], "ollama", "{call:#}");
        assert_eq!(call["operation"], "chat", "{call:#}");
        assert_eq!(call["prompt_tokens"], 12, "{call:#}");
        assert_eq!(call["completion_tokens"], 3, "{call:#}");
        assert_eq!(call["finish_reasons"][0], "stop", "{call:#}");
        assert_eq!(call["stream"], call["model"] != "whole", "{call:#}");
        assert_eq!(call["incomplete"], Value::Null, "{call:#}");
    }
    drop(server.wait());
}

#[test]
fn a_call_between_two_watched_processes_is_the_clients() {
    let scene = Scene::new();
    let mut server = spawn(&server(["serve"]));
    let url = server.line();
    let mut client = spawn(&client(
        &url,
        ["keep-alive", "--count", "1", "--wait-for-stdin"],
    ));
    assert_eq!(client.line(), "waiting");
    let (client_pid, server_pid) = (client.pid(), server.pid());
    let observer = scene.watch(&["--pid", &server_pid, "--pid", &client_pid]);
    client.go_on();
    assert!(client.wait().0.success());
    // The server is still there, and a client that nobody watches.
    ask(&url, 1);
    thread::sleep(Duration::from_millis(500));
    server.go_on();
    drop(server.wait());
    let run = observer.wait();
    run.assert_clean();
    let pids: Vec<String> = run
        .calls
        .iter()
        .map(|call| call["pid"].to_string())
        .collect();
    assert_eq!(pids, [client_pid, server_pid], "{:#?}", run.calls);
    assert_eq!(models(&run), ["gpt-4o", "model-0"]);
}

#[test]
fn a_process_that_calls_itself() {
    let scene = Scene::new();
    let run = scene.exec(&[], &server(["both", "--count", "10"]));
    run.assert_clean();
    assert_eq!(run.calls.len(), 10, "{}", run.stderr);
    let traced: usize = run
        .traces
        .iter()
        .map(|trace| trace["calls"].as_array().unwrap().len())
        .sum();
    assert_eq!(traced, 10);
}

#[test]
fn a_proxy_is_recorded_where_it_asks() {
    let scene = Scene::new();
    let upstream = spawn(&server(["serve"]));
    let proxy = spawn(&server(["serve", "--upstream", &upstream.line()]));
    let url = proxy.line();
    let observer = scene.watch(&["--pid", &proxy.pid()]);
    ask(&url, 2);
    let run = observer.stop();
    run.assert_clean();
    assert_eq!(models(&run), ["upstream-model-0", "upstream-model-1"]);
    drop((proxy.wait(), upstream.wait()));
}

#[test]
fn the_whole_machine_only_if_it_is_asked_for() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let command = client(front.url(), ["keep-alive"]);
    for (options, is_seen) in [
        (&["--all"][..], false),
        (&["--all", "--no-plaintext"], false),
        (&["--all", "--plaintext"], true),
    ] {
        let observer = scene.watch(options);
        assert_eq!(sees_system_calls(observer.pid()), is_seen, "{options:?}");
        let client = scene.start(&command);
        let pid = client.pid().parse().ok();
        assert!(client.wait().0.success());
        thread::sleep(Duration::from_millis(300));
        let run = observer.stop();
        // Others may be at work on the machine.
        let own = run.calls.iter().filter(|call| call["pid"].as_u64() == pid);
        assert_eq!(
            own.count(),
            usize::from(is_seen),
            "{options:?} {}",
            run.stderr
        );
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
    let run = scene.exec(&["--no-plaintext"], &command);
    run.assert_clean();
    assert_eq!((run.calls.len(), run.captured().0), (0, 0));
    let (code, _, text) = output(
        observer_e2e::harness::binary(),
        &["watch", "--all", "--plaintext", "--no-plaintext"],
    );
    assert_eq!(code, 2, "{text}");
}

/// Whether a process holds a link to a tracepoint of system calls in general.
fn sees_system_calls(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    descriptors.flatten().any(|descriptor| {
        fs::read_to_string(descriptor.path())
            .is_ok_and(|text| text.contains("raw_tracepoint") && text.contains("sys_exit"))
    })
}

#[test]
fn files_pipes_and_datagrams_are_passed_over() {
    let scene = Scene::new();
    let path = path_in(&scene, "request");
    let run = scene.exec(
        &[],
        &client("http://127.0.0.1:1", ["no-sockets", "--path", &path]),
    );
    run.assert_clean();
    assert_eq!(
        (run.calls.len(), run.captured().0),
        (0, 0),
        "{}",
        run.stderr
    );
}

#[test]
fn other_traffic_stops_being_copied() {
    let scene = Scene::new();
    let server = spawn(&server(["serve"]));
    let url = server.line();
    let run = scene.exec(&[], &client(&url, ["other-traffic", "--count", "200"]));
    run.assert_clean();
    // What is asked in the end is a call all the same.
    assert_eq!(models(&run), ["gpt-4o"]);
    let (captured, ..) = run.captured();
    assert!(captured < 10_000_000, "{captured} of 20,000,000 bytes");
    drop(server.wait());
}

#[test]
fn tls_beside_plain_http_is_captured_once() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").unwrap();
    let plain = client(front.url(), ["keep-alive", "--count", "2"]);
    let tls = scene.script("calls.py", ["--count", "2"]);
    let quoted = |command: &[OsString]| {
        let words: Vec<String> = command
            .iter()
            .map(|word| format!("'{}'", word.display()))
            .collect();
        words.join(" ")
    };
    let both = format!("{} && {}", quoted(&plain), quoted(&tls));
    let run = scene.exec(&[], &words(["sh", "-c", &both]));
    run.assert_clean();
    assert_recorded(&scene, &run);
    assert_eq!(run.calls.len(), 4);
}
