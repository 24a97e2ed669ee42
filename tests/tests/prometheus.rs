//! Real Prometheus scrapes the agent while real clients make calls, and its figures are the provider's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use observer_e2e::{
    harness::{Client, Observer, Scene, wait_until},
    telemetry::{Prometheus, free_ports},
};
use serde_json::Value;

/// What the metrics of calls are told apart by.
const CALL: &str = "gen_ai_provider_name, gen_ai_operation_name, gen_ai_request_model";

/// Status, content type and body of a page; `None` if nobody answers.
fn get(port: u16, path: &str) -> Option<(u16, String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let kind = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let kind = kind.map_or("", |(_, kind)| kind).to_owned();
    Some((status, kind, body.to_owned()))
}

/// The agent with metrics, and a process of which it does not get rid.
struct Watching {
    observer: Option<Observer>,
    port: u16,
    _idle: Client,
}

impl Watching {
    fn start(scene: &Scene, clients: &[&Client], options: &[&str]) -> Self {
        let idle = Client::start(Command::new("cat"));
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let mut pids = vec![idle.pid()];
        pids.extend(clients.iter().map(|client| client.pid()));
        let mut arguments = vec!["--prometheus", &address];
        arguments.extend(options);
        arguments.extend(pids.iter().flat_map(|pid| ["--pid", pid.as_str()]));
        Self {
            observer: Some(scene.watch(&arguments)),
            port,
            _idle: idle,
        }
    }
}

/// A Prometheus that scrapes the agent every 200 ms.
struct Scraped(Prometheus);

impl Scraped {
    fn start(scene: &Scene, agent: u16) -> Self {
        let scrape = format!(
            "scrape_configs:\n- job_name: observer\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n  \
             static_configs:\n  - targets: ['127.0.0.1:{agent}']\n"
        );
        let [port] = free_ports();
        Self(Prometheus::start(scene.folder.path(), port, &scrape))
    }

    /// The values that a query has now, by the values of its labels.
    fn query(&self, query: &str) -> BTreeMap<Vec<String>, f64> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let series = self.0.query(query);
        series
            .iter()
            .map(|series| {
                let labels = series["metric"].as_object().unwrap();
                let labels: BTreeMap<_, _> = labels.iter().collect();
                let value = series["value"][1].as_str().unwrap();
                (
                    labels.into_values().map(text).collect(),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    /// The only value that a query has.
    fn value(&self, query: &str) -> Option<f64> {
        let values = self.query(query);
        assert!(values.len() <= 1, "{query}: {values:?}");
        values.into_values().next()
    }
}

/// Runs a client that waits for its begin, and returns when it is done.
fn run(scene: &Scene, mut client: Client) {
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success());
    scene.saw(&lines);
}

/// Starts a client that waits; it can be watched.
fn waiting(scene: &Scene, arguments: &[&str]) -> Client {
    let mut command = scene.script("calls.py", arguments.iter().copied());
    command.push("--wait-for-stdin".into());
    let client = scene.start(&command);
    assert_eq!(client.line(), "waiting");
    client
}

/// Sums over the provider's calls by operation, provider and model: PromQL's labels in the order of their names.
fn sums(truth: &[Value], of: impl Fn(&Value) -> Option<u64>) -> BTreeMap<Vec<String>, f64> {
    let mut sums = BTreeMap::new();
    for call in truth {
        if let Some(number) = of(call) {
            let key = ["operation", "provider", "model"];
            let key = key.map(|field| call[field].as_str().unwrap().to_owned());
            *sums.entry(key.to_vec()).or_default() += number as f64;
        }
    }
    sums
}

#[test]
fn promql_gives_what_the_provider_counted() {
    let scene = Scene::new();
    let runs: &[&[&str]] = &[
        &["--count", "7", "--behaviour", "cached=5; reasoning=3"],
        &["--count", "3", "--mode", "stream"],
        &["--count", "4", "--behaviour", "error=429"],
        &[
            "--count",
            "2",
            "--behaviour",
            "error=500",
            "--model",
            "gpt-4o-mini",
        ],
        &["--sdk", "anthropic", "--count", "5", "--mode", "stream"],
        &[
            "--sdk",
            "anthropic",
            "--mode",
            "async",
            "--tasks",
            "8",
            "--count",
            "2",
        ],
        &["--sdk", "google", "--count", "3"],
        &["--sdk", "xai", "--threads", "4", "--count", "2"],
    ];
    let made = 7 + 3 + 4 + 2 + 5 + 16 + 3 + 8;
    let clients: Vec<Client> = runs.iter().map(|run| waiting(&scene, run)).collect();
    let mut watching = Watching::start(&scene, &clients.iter().collect::<Vec<_>>(), &[]);
    let prometheus = Scraped::start(&scene, watching.port);
    clients.into_iter().for_each(|client| run(&scene, client));
    let truth = scene.provider.wait_for(made);
    assert_eq!(truth.len(), made);
    wait_until("Prometheus knows of all calls", || {
        prometheus.value("sum(gen_ai_client_calls_total)") == Some(made as f64)
    });

    let by_call = |metric: &str| prometheus.query(&format!("sum by ({CALL}) ({metric})"));
    assert_eq!(
        by_call("gen_ai_client_calls_total"),
        sums(&truth, |_| Some(1))
    );
    for (kind, field) in [
        ("input", "prompt_tokens"),
        ("output", "completion_tokens"),
        ("cached", "cached_tokens"),
        ("reasoning", "reasoning_tokens"),
    ] {
        let metric = format!("gen_ai_client_tokens_total{{gen_ai_token_type='{kind}'}}");
        assert_eq!(
            by_call(&metric),
            sums(&truth, |call| call[field].as_u64()),
            "{kind}"
        );
    }
    let failed = |call: &Value| (call["status_code"].as_u64()? >= 400).then_some(1);
    assert_eq!(by_call("gen_ai_client_errors_total"), sums(&truth, failed));
    let errors = prometheus.query("sum by (error_type) (gen_ai_client_errors_total)");
    let expected = [("InternalServerError", 2.0), ("RateLimitError", 4.0)];
    assert_eq!(
        errors,
        expected
            .map(|(error, n)| (vec![error.to_owned()], n))
            .into()
    );
    let duration = "gen_ai_client_operation_duration_seconds";
    assert_eq!(
        by_call(&format!("{duration}_count")),
        sums(&truth, |_| Some(1))
    );
    assert_eq!(
        by_call(&format!("{duration}_bucket{{le='+Inf'}}")),
        sums(&truth, |_| Some(1))
    );
    let streams = |call: &Value| call["stream"].as_bool()?.then_some(1);
    let first = "gen_ai_client_operation_time_to_first_chunk_seconds_count";
    assert_eq!(by_call(first), sums(&truth, streams));

    // Latencies are those of the records.
    let run = watching.observer.take().unwrap().stop();
    run.assert_clean();
    scene.assert_truth(&run.calls);
    let recorded: u64 = run
        .calls
        .iter()
        .map(|call| call["latency_ns"].as_u64().unwrap())
        .sum();
    let summed = prometheus
        .value(&format!("sum(last_over_time({duration}_sum[1m]))"))
        .unwrap();
    assert!(
        (summed - recorded as f64 / 1e9).abs() < 1e-6,
        "{summed} {recorded}"
    );
    for query in [
        "max(max_over_time(up[1m]))",
        "max(last_over_time(observer_build_info[1m]))",
    ] {
        assert_eq!(prometheus.value(query), Some(1.0), "{query}");
    }
    for lost in [
        "observer_capture_lost_records_total",
        "observer_export_dropped_records_total",
    ] {
        let lost = prometheus.value(&format!("sum(last_over_time({lost}[1m]))"));
        assert_eq!(lost, Some(0.0));
    }
    let log = fs::read_to_string(scene.folder.path().join("prometheus.log")).unwrap();
    assert!(
        !log.contains("Error on ingesting") && !log.contains("append failed"),
        "{log}"
    );
}

#[test]
fn promtool_finds_no_fault_and_hostile_names_are_bounded() {
    const MODELS: usize = 300;
    let scene = Scene::new();
    let count = MODELS.to_string();
    let mut told = scene.script("models.py", [count.as_str()]);
    // Begins when it is told to.
    let mut command = vec![
        "sh".into(),
        "-c".into(),
        "read line; exec \"$@\"".into(),
        "sh".into(),
    ];
    command.append(&mut told);
    let client = scene.start(&command);
    let watching = Watching::start(&scene, &[&client], &["--prometheus-max-series", "50"]);
    let prometheus = Scraped::start(&scene, watching.port);
    run(&scene, client);
    wait_until("Prometheus knows of all calls", || {
        prometheus.value("sum(gen_ai_client_calls_total)") == Some(MODELS as f64)
    });
    let series = |metric: &str| prometheus.value(&format!("count({metric})"));
    assert_eq!(series("gen_ai_client_calls_total"), Some(51.0));
    let other = "gen_ai_client_calls_total{gen_ai_request_model='other'}";
    assert_eq!(prometheus.value(other), Some((MODELS - 50) as f64));
    let first = prometheus.query("sum by (gen_ai_request_model) (gen_ai_client_calls_total)");
    let expected = format!(
        "0\n\"}} 1\u{fffd}\u{fffd}\\{{le=\"\u{202e}{}",
        "x".repeat(113)
    );
    assert!(first.contains_key(&vec![expected]), "{first:#?}");

    let (status, kind, page) = get(watching.port, "/metrics").unwrap();
    assert_eq!(
        (status, &kind[..]),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which .ci/run installs");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let result = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&result.stderr) + String::from_utf8_lossy(&result.stdout);
    assert!(result.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn the_agent_says_whether_it_is_well() {
    let scene = Scene::new();
    let mut watching = Watching::start(&scene, &[], &[]);
    let port = watching.port;
    for path in ["/readyz", "/healthz"] {
        wait_until(path, || {
            get(port, path).is_some_and(|(status, ..)| status == 200)
        });
    }
    assert_eq!(get(port, "/nothing").unwrap().0, 404);
    // The address is taken, and that is said before anything is attached.
    let address = format!("127.0.0.1:{port}");
    let (code, _, stderr) = observer_e2e::harness::output(
        observer_e2e::harness::binary(),
        &["watch", "--prometheus", &address, "--pid", "1"],
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains(&format!("cannot listen on {address}")),
        "{stderr}"
    );
    let run = watching.observer.take().unwrap().stop();
    assert!(run.status.success(), "{}", run.stderr);
    assert!(get(port, "/healthz").is_none());
}

#[test]
fn calls_in_flight_come_and_go() {
    let scene = Scene::new();
    let slow = waiting(&scene, &["--behaviour", "delay-ms=3000"]);
    let watching = Watching::start(&scene, &[&slow], &[]);
    let metric = |name: &str| {
        let (_, _, page) = get(watching.port, "/metrics").unwrap();
        let of = page.lines().filter(|line| line.starts_with(name));
        let values = of.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        values.sum::<f64>()
    };
    let in_flight = "gen_ai_client_calls_in_flight{";
    assert_eq!(metric(in_flight), 0.0);
    let mut slow = slow;
    slow.go_on();
    wait_until("the call is under way", || {
        metric("gen_ai_client_calls_in_flight{gen_ai_provider_name=\"openai\"}") == 1.0
    });
    assert_eq!(metric("gen_ai_client_calls_total"), 0.0);
    assert!(slow.wait().0.success());
    wait_until("the call is over", || {
        metric("gen_ai_client_calls_total") == 1.0
    });
    assert_eq!(metric(in_flight), 0.0);
}
