//! Each call is in the trace of its run, in every way in which programs run things at the same time. The truth is
//! what the client wrote into its prompts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    path::PathBuf,
    thread,
};

use observer_e2e::{
    clients, coverage,
    golang::Build,
    harness::{Run, Scene, output},
};
use rustix::process::Signal;
use serde_json::Value;

/// Requirements of the web services.
const AGENTS: &str = "fastapi==0.165.0\nflask==3.1.3\nopenai==3.54.0\nuvicorn[standard]==0.38.0\n";

/// A certificate for localhost.
const SELF_SIGNED: [&str; 12] = [
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-days",
    "2",
    "-subj",
    "/CN=localhost",
    "-addext",
    "subjectAltName=DNS:localhost",
    "-batch",
];

const CONTENT: &[&str] = &["--capture-content"];

/// Runs `agents.py`.
fn agents(by: &str, arguments: &[&str], options: &[&str]) -> Run {
    let scene = Scene::new();
    let mut command = scene.script("agents/agents.py", ["--by", by]);
    command.extend(arguments.iter().map(OsString::from));
    let options: Vec<&str> = CONTENT.iter().chain(options).copied().collect();
    let run = scene.exec(&options, &command);
    run.assert_clean();
    assert!(run.status.success(), "{}", run.stderr);
    run
}

/// The number behind the last `[agent ` of a call's prompt.
fn agent(call: &Value) -> u64 {
    let prompt = call["input_preview"].as_str().expect("a preview");
    let (_, behind) = prompt.rsplit_once("[agent ").expect("an agent");
    let (number, _) = behind.split_once(']').expect("a number");
    number.parse().expect("a number")
}

/// Asserts that agents and traces are the same thing: each agent's calls are in one trace, and in no trace are two
/// agents. Returns how many of the calls each rule has placed.
fn assert_apart(run: &Run, agents: usize, calls: usize) -> BTreeMap<String, usize> {
    assert_apart_by(run, agents, calls, agent)
}

/// The same, where something else tells whose a call is.
fn assert_apart_by(
    run: &Run,
    agents: usize,
    calls: usize,
    agent: impl Fn(&Value) -> u64,
) -> BTreeMap<String, usize> {
    assert_eq!(run.calls.len(), calls, "{}", run.stderr);
    let mut traces: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let mut of_trace: HashMap<&str, BTreeSet<u64>> = HashMap::new();
    let mut sources = BTreeMap::new();
    for call in &run.calls {
        let trace = call["trace_id"].as_str().expect("a trace");
        traces.entry(agent(call)).or_default().insert(trace);
        of_trace.entry(trace).or_default().insert(agent(call));
        let source = call["trace_source"].as_str().expect("a source");
        *sources.entry(source.to_owned()).or_default() += 1;
    }
    let torn: Vec<_> = traces
        .iter()
        .filter(|(_, traces)| traces.len() > 1)
        .collect();
    let mixed: Vec<_> = of_trace
        .iter()
        .filter(|(_, agents)| agents.len() > 1)
        .collect();
    assert!(
        torn.is_empty() && mixed.is_empty(),
        "{} of {agents} torn: {torn:?}\n{} mixed: {mixed:?}\n{sources:?}",
        torn.len(),
        mixed.len(),
    );
    assert_eq!(traces.len(), agents);
    assert_traces(run);
    sources
}

/// Asserts that the records of traces say what those of the calls say.
fn assert_traces(run: &Run) {
    let ids: BTreeSet<&str> = run
        .calls
        .iter()
        .filter_map(|call| call["trace_id"].as_str())
        .collect();
    assert_eq!(run.traces.len(), ids.len());
    for trace in &run.traces {
        let calls: Vec<&Value> = run
            .calls
            .iter()
            .filter(|call| call["trace_id"] == trace["trace_id"])
            .collect();
        let spans: Vec<&Value> = calls.iter().map(|call| &call["span_id"]).collect();
        assert_eq!(
            trace["calls"]
                .as_array()
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            spans
        );
        let sum: u64 = calls
            .iter()
            .filter_map(|call| call["prompt_tokens"].as_u64())
            .sum();
        assert_eq!(trace["llm_usage"]["prompt_tokens"], sum, "{trace:#}");
        assert_eq!(
            trace["llm_usage"]["api_calls_count"],
            calls.len(),
            "{trace:#}"
        );
        for call in calls {
            assert_eq!(call["parent_span_id"], trace["span_id"], "{call:#}");
        }
    }
}

fn only(sources: &BTreeMap<String, usize>) -> Vec<&str> {
    sources.keys().map(String::as_str).collect()
}

/// Takes down a row of the table of the README.
fn cover(way: &str, runs: usize, calls: usize, sources: &BTreeMap<String, usize>) {
    coverage::attributed(way, runs, calls, &only(sources).join(", "));
}

#[test]
fn asyncio() {
    let run = agents("asyncio", &[], &[]);
    let sources = assert_apart(&run, 20, 60);
    assert_eq!(only(&sources), ["task"]);
    cover("Python, asyncio: 20 tasks in one thread", 20, 60, &sources);
}

#[test]
fn uvloop() {
    let run = agents("uvloop", &[], &[]);
    let sources = assert_apart(&run, 20, 60);
    assert_eq!(only(&sources), ["task"]);
    cover("Python, uvloop: 20 tasks in one thread", 20, 60, &sources);
}

#[test]
fn tasks_that_create_tasks() {
    let run = agents("spreading", &[], &[]);
    let sources = assert_apart(&run, 20, 80);
    assert_eq!(only(&sources), ["task"]);
    cover(
        "Python, asyncio: agents that ask several things at once",
        20,
        80,
        &sources,
    );
}

#[test]
fn tasks_that_call_in_threads() {
    let run = agents("to-thread", &[], &[]);
    let sources = assert_apart(&run, 20, 60);
    assert_eq!(only(&sources), ["task"]);
    cover("Python, `asyncio.to_thread`", 20, 60, &sources);
}

#[test]
fn thread_pool() {
    let run = agents("thread-pool", &[], &[]);
    let sources = assert_apart(&run, 20, 60);
    cover("Python, 20 agents in a pool of 4 threads", 20, 60, &sources);
}

#[test]
fn process_pool() {
    let run = agents("process-pool", &["--agents", "12"], &[]);
    let sources = assert_apart(&run, 12, 36);
    cover(
        "Python, 12 agents in a pool of 4 processes",
        12,
        36,
        &sources,
    );
}

#[test]
fn an_agent_with_tools() {
    let run = agents("tools", &["--agents", "8", "--calls", "4"], &[]);
    let sources = assert_apart(&run, 8, 32);
    cover("Python, 8 agents with tools in threads", 8, 32, &sources);
    for trace in &run.traces {
        let steps = trace["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 6, "{trace:#}");
        for step in steps {
            assert_eq!(step["result_bytes"], "[agent 0] sunny".len(), "{step:#}");
            // Two tools of 20 ms each, one after the other.
            let took = step["duration_ns"].as_u64().unwrap();
            assert!((40_000_000..2_000_000_000).contains(&took), "{step:#}");
            assert!(step["arguments_bytes"].as_u64().unwrap() > 0, "{step:#}");
            let asked_by = run
                .calls
                .iter()
                .find(|call| call["span_id"] == step["parent_span_id"]);
            let tools = asked_by.unwrap()["tool_calls"].as_array().unwrap();
            assert!(tools.contains(&step["name"]), "{step:#}");
        }
        // One conversation.
        assert!(trace["conversation_id"].is_string(), "{trace:#}");
    }
}

#[test]
fn a_run_that_spreads_over_threads_and_a_process() {
    let run = agents("run-with-workers", &[], &[]);
    let sources = assert_apart(&run, 1, 6);
    assert_eq!(sources["process"], 1, "{sources:?}");
    cover(
        "Python, a run with threads and a child process",
        1,
        6,
        &sources,
    );
}

#[test]
fn node() {
    let scene = Scene::new();
    let modules = clients::npm("openai-node", &["openai@7.57.0"]).unwrap();
    let script = scene.folder.path().join("agents.mjs");
    std::fs::copy(clients::script("agents/agents.mjs"), &script).unwrap();
    std::os::unix::fs::symlink(
        modules.join("node_modules"),
        scene.folder.path().join("node_modules"),
    )
    .unwrap();
    let command = [
        "node".into(),
        script.into(),
        scene.provider.url().into(),
        "20".into(),
        "3".into(),
    ];
    let run = scene.exec(CONTENT, &command);
    run.assert_clean();
    let sources = assert_apart(&run, 20, 60);
    cover("Node, 20 conversations in one thread", 20, 60, &sources);
}

/// Each goroutine is a run. The client says which one got which answer.
fn goroutines(http: &str) {
    let scene = Scene::new();
    let program = Build::new("contexts", "local").program().unwrap();
    let url = scene.provider.url();
    let arguments = ["-url", &url, "-http", http].map(OsString::from);
    let command: Vec<OsString> = [program.into()].into_iter().chain(arguments).collect();
    let run = scene.exec(&[], &command);
    run.assert_clean();
    let said: HashMap<&str, u64> = run
        .client
        .iter()
        .filter_map(|line| Some((line["request_id"].as_str()?, line["goroutine"].as_u64()?)))
        .collect();
    let goroutine = |call: &Value| said[call["request_id"].as_str().expect("an id")];
    let sources = assert_apart_by(&run, 20, 80, goroutine);
    assert_eq!(only(&sources), ["task"]);
    cover(&format!("Go, HTTP/{http}: 20 goroutines"), 20, 80, &sources);
}

#[test]
fn goroutines_over_shared_connections() {
    goroutines("1.1");
}

#[test]
fn goroutines_over_http_2() {
    goroutines("2");
}

/// A key and a certificate for localhost.
fn key_and_certificate(scene: &Scene) -> [PathBuf; 2] {
    let files = ["key.pem", "certificate.pem"].map(|name| scene.folder.path().join(name));
    let [key, certificate] = files.clone().map(OsString::from);
    let places = ["-keyout".into(), key, "-out".into(), certificate];
    let command: Vec<OsString> = SELF_SIGNED
        .map(OsString::from)
        .into_iter()
        .chain(places)
        .collect();
    let (made, _, stderr) = output("openssl", &command);
    assert_eq!(made, 0, "{stderr}");
    files
}

/// Posts to a service for these agents, by one curl.
fn post(url: &str, agents: &[usize], options: &[&str]) {
    let urls: Vec<String> = agents
        .iter()
        .map(|agent| format!("{url}/{agent}"))
        .collect();
    let mut command = vec!["-sS", "--fail-with-body", "-m", "60", "-X", "POST"];
    command.extend(options);
    command.extend(urls.iter().map(String::as_str));
    let (_, body, stderr) = output("curl", &command);
    let mut answers: Vec<&str> = body.lines().map(str::trim).collect();
    answers.sort_unstable();
    let mut expected: Vec<String> = agents
        .iter()
        .map(|agent| format!("{{\"agent\":{agent}}}"))
        .collect();
    expected.sort_unstable();
    assert_eq!(answers, expected, "{stderr}");
}

/// A web service in Python: how it is started, the path, and the calls of each request.
fn service(kind: &str, path: &str, calls: usize) {
    const REQUESTS: usize = 20;
    let scene = Scene::new();
    let python = clients::environment("agents", AGENTS).unwrap();
    let [key, certificate] = key_and_certificate(&scene);
    let command: Vec<OsString> = vec![
        python.into(),
        clients::script("agents/server.py").into(),
        kind.into(),
        scene.provider.url().into(),
        certificate.clone().into(),
        key.into(),
    ];
    let server = scene.start(&command);
    let said: Value = serde_json::from_str(&server.line()).unwrap();
    let scheme = if kind.contains("tls") {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://localhost:{}{path}", said["port"]);
    let observer = scene.watch(&["--pid", &server.pid(), "--capture-content"]);
    // Each by a connection of its own.
    thread::scope(|scope| {
        for agent in 0..REQUESTS {
            let (url, ca) = (&url, certificate.to_str().unwrap());
            scope.spawn(move || post(url, &[agent], &["--cacert", ca]));
        }
    });
    let run = observer.stop();
    server.signal(Signal::TERM);
    server.wait();
    let sources = assert_served(&run, path, REQUESTS, calls);
    cover(
        &format!("Python, {kind}, {path}: 20 requests at once"),
        REQUESTS,
        REQUESTS * calls,
        &sources,
    );
}

/// Asserts that each request that a service has answered is a trace, and that nothing but the request made it one.
fn assert_served(run: &Run, path: &str, requests: usize, calls: usize) -> BTreeMap<String, usize> {
    let sources = assert_apart(run, requests, requests * calls);
    assert_eq!(only(&sources), ["inbound"]);
    for trace in &run.traces {
        assert_eq!(trace["name"], format!("POST {path}/{{id}}"), "{trace:#}");
    }
    sources
}

#[test]
fn fastapi_on_asyncio() {
    service("fastapi", "/agents", 3);
}

#[test]
fn fastapi_on_uvloop() {
    service("fastapi-uvloop", "/agents", 3);
}

#[test]
fn fastapi_with_tls() {
    service("fastapi-tls", "/agents", 3);
}

#[test]
fn fastapi_in_threads() {
    service("fastapi", "/threads", 3);
}

#[test]
fn flask() {
    service("flask", "/agents", 3);
}

/// Which HTTP a service in Go speaks to those who ask it.
#[derive(Clone, Copy, PartialEq)]
enum Front {
    Plain,
    Tls,
    Http2,
    /// All on one connection.
    Http2Shared,
}

/// A web service in Go (`net/http`), whose calls are made by this version of HTTP.
fn go_service(front: Front, path: &str, http: &str) {
    const ASKING: usize = 20;
    // One after the other on a connection: net/http waits for the next one in another goroutine.
    const REQUESTS: usize = 2 * ASKING;
    const CALLS: usize = 3;
    let scene = Scene::new();
    let program = Build::new("agents", "local").program().unwrap();
    let [key, certificate] = key_and_certificate(&scene);
    let url = scene.provider.url();
    let mut command: Vec<OsString> = vec![program.into()];
    command.extend(["-url", &url, "-http", http].map(OsString::from));
    let (way, scheme, version) = match front {
        Front::Plain => ("HTTP/1.1", "http", "--http1.1"),
        Front::Tls => ("HTTP/1.1 by TLS", "https", "--http1.1"),
        Front::Http2 => ("HTTP/2", "https", "--http2"),
        Front::Http2Shared => ("HTTP/2 on one connection", "https", "--http2"),
    };
    if front != Front::Plain {
        let certificate = certificate.clone().into();
        command.extend([
            "-certificate".into(),
            certificate,
            "-key".into(),
            key.into(),
        ]);
    }
    let mut server = scene.start(&command);
    let url = format!("{scheme}://localhost:{}{path}", server.line());
    let observer = scene.watch(&["--pid", &server.pid(), "--capture-content"]);
    let ca = ["--cacert", certificate.to_str().unwrap(), version];
    if front == Front::Http2Shared {
        let agents: Vec<usize> = (0..REQUESTS).collect();
        let parallel = ["--parallel", "--parallel-max", "20"];
        post(&url, &agents, &[&ca[..], &parallel].concat());
    } else {
        thread::scope(|scope| {
            for agent in 0..ASKING {
                let (url, ca) = (&url, &ca);
                scope.spawn(move || post(url, &[agent, agent + ASKING], ca));
            }
        });
    }
    server.go_on();
    assert!(server.wait().0.success());
    let run = observer.stop();
    run.assert_clean();
    let sources = assert_served(&run, path, REQUESTS, CALLS);
    cover(
        &format!("Go, net/http, {way}, {path}, calls by HTTP/{http}: 20 requests at once"),
        REQUESTS,
        REQUESTS * CALLS,
        &sources,
    );
}

#[test]
fn net_http() {
    go_service(Front::Plain, "/agents", "1.1");
}

#[test]
fn net_http_with_goroutines() {
    go_service(Front::Plain, "/parts", "1.1");
}

#[test]
fn net_http_with_goroutines_that_call_over_http_2() {
    go_service(Front::Plain, "/parts", "2");
}

#[test]
fn net_http_with_tls() {
    go_service(Front::Tls, "/parts", "1.1");
}

#[test]
fn net_http_over_http_2() {
    go_service(Front::Http2, "/agents", "2");
}

#[test]
fn net_http_over_http_2_with_goroutines() {
    go_service(Front::Http2, "/parts", "1.1");
}

#[test]
fn net_http_over_http_2_on_one_connection() {
    go_service(Front::Http2Shared, "/parts", "2");
}
