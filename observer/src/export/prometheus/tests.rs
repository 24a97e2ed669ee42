use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
};

use clap::Parser;

use super::{
    metrics::{ALL, Kind},
    *,
};
use crate::{
    capture::loss::Losses,
    kubernetes,
    trace::{
        LlmUsage,
        record::tests::{call, failed_call},
    },
};

const DOCUMENT: &str = include_str!("../../../../docs/exporters.md");

fn shared(max_series: usize, by: &[Label]) -> Arc<Shared> {
    Arc::new(Shared {
        metrics: Mutex::new(Metrics::new(max_series, by.to_vec())),
        inventory: inventory::Shared::new(),
        start: Instant::now(),
    })
}

/// The metrics in both formats: OpenMetrics, and the older text.
fn pages(shared: &Arc<Shared>) -> [String; 2] {
    [true, false].map(|open_metrics| page(shared, open_metrics))
}

fn page(shared: &Arc<Shared>, open_metrics: bool) -> String {
    let mut snapshot = shared.metrics().snapshot();
    snapshot.add_process();
    snapshot.sort();
    encode(snapshot, open_metrics).unwrap()
}

/// Samples by name and labels as they are written.
fn samples(page: &str) -> BTreeMap<String, f64> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn health() -> Health {
    Health {
        ready: true,
        losses: Some(Losses::from_counts(&[(3, 4_096)], 1)),
        events: 100,
        bytes: 10_000,
        processes: 2,
        connections: 3,
        traces: 1,
        queues: vec![("jsonl", 5, 7)],
        pods: Some(kubernetes::Health {
            pods: 4,
            held: 1,
            withheld: 2,
            failures: 3,
            problem: None,
        }),
    }
}

/// Something of everything.
fn everything(by: &[Label]) -> Arc<Shared> {
    let shared = shared(2_000, by);
    let mut metrics = shared.metrics();
    metrics.started(&CallStarted {
        span_id: "1".to_owned(),
        pid: 1,
        comm: None,
        container_id: None,
        kubernetes: None,
        start_time: call().start_time,
        provider: None,
        model: None,
    });
    metrics.call(&CallRecord {
        cost_usd: Some(0.5),
        cost_source: Some("prices"),
        cached_tokens: Some(4),
        container_id: Some("c0".to_owned()),
        ..call()
    });
    metrics.call(&CallRecord {
        container_id: Some("c0".to_owned()),
        ..failed_call()
    });
    metrics.trace(&TraceRecord {
        span_id: None,
        trace_id: call().trace_id,
        name: None,
        source: "thread",
        start_time: call().start_time,
        duration_ns: 1,
        calls: Vec::new(),
        steps: Vec::new(),
        errors: 0,
        llm_usage: LlmUsage::default(),
        pid: 1,
        comm: None,
        container_id: None,
        kubernetes: None,
        parent_span_id: None,
        conversation_id: None,
    });
    metrics.other(&OtherRequest {
        server_address: "api.openai.com".to_owned(),
        pid: 1,
        comm: None,
        exe: None,
        container_id: None,
        kubernetes: None,
        uid: None,
    });
    metrics.health(&health());
    drop(metrics);
    shared
}

#[test]
fn what_calls_come_to() {
    let shared = everything(&[]);
    let page = page(&shared, true);
    let ours = page
        .lines()
        .filter(|line| !line.contains("process_") && !line.contains("observer_turn_age_seconds "));
    insta::assert_snapshot!(ours.collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_document_lists_what_is_exposed() {
    let shared = everything(&[Label::Comm, Label::Container]);
    shared.metrics().call(&CallRecord {
        model: Some("one too many".to_owned()),
        ..call()
    });
    let folding = shared_that_folds();
    let mut exposed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let page = page(&shared, false) + &page_of_text(&folding);
    for series in samples(&page).keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let histogram = ["_bucket", "_sum", "_count"];
        let name = histogram
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .filter(|name| ALL.iter().any(|spec| spec.name == *name))
            .unwrap_or(name);
        let labels = labels.trim_end_matches('}').split("\",");
        let labels = labels.filter_map(|label| label.split_once('='));
        let labels = labels.map(|(label, _)| label.to_owned());
        exposed
            .entry(name.to_owned())
            .or_default()
            .extend(labels.filter(|label| label != "le"));
    }
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<Vec<&str>> = rows
        .map(|row| row.split('|').map(str::trim).collect())
        .filter(|cells: &Vec<&str>| ["counter", "gauge", "histogram", "info"].contains(&cells[2]))
        .collect();
    for spec in ALL {
        let name = spec.sample();
        let row = documented
            .iter()
            .find(|cells| cells[1].trim_matches('`') == name)
            .unwrap_or_else(|| panic!("{name} is not in docs/exporters.md"));
        let kind = match spec.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        assert_eq!(row[2], kind, "{name}");
        let labels = row[3].replace("CALL", "`gen_ai_provider_name`, `gen_ai_operation_name`, `gen_ai_request_model`, `comm`, `container_id`");
        let labels: BTreeSet<String> = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        let exposed = exposed.remove(&name);
        assert_eq!(exposed, Some(labels), "{name}");
    }
    assert_eq!(exposed.keys().next(), None, "not in the list of metrics");
    assert_eq!(documented.len(), ALL.len());
}

fn shared_that_folds() -> Arc<Shared> {
    let folding = shared(1, &[]);
    for model in ["one", "two"] {
        folding.metrics().call(&CallRecord {
            model: Some(model.to_owned()),
            ..call()
        });
    }
    folding
}

fn page_of_text(shared: &Arc<Shared>) -> String {
    page(shared, false)
}

#[test]
fn labels_that_nobody_has_any_more_make_room() {
    let shared = shared(2, &[]);
    let call_of = |model: &str| {
        shared.metrics().call(&CallRecord {
            model: Some(model.to_owned()),
            ..call()
        });
    };
    let models = || -> Vec<String> {
        let page = &pages(&shared)[0];
        let lines = page
            .lines()
            .filter(|line| line.starts_with("gen_ai_client_calls_total{"));
        let model = |line: &str| {
            let (_, rest) = line.split_once("gen_ai_request_model=\"")?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let mut models: Vec<String> = lines.filter_map(model).collect();
        models.sort();
        models
    };
    call_of("a");
    call_of("b");
    call_of("c");
    assert_eq!(models(), ["a", "b", "other"]);
    shared.metrics().age(Duration::from_secs(10 * 60));
    call_of("b");
    call_of("c");
    assert_eq!(models(), ["a", "b", "other"], "none is idle");
    shared.metrics().age(Duration::from_secs(10 * 60));
    call_of("c");
    assert_eq!(models(), ["b", "c", "other"]);
    for page in pages(&shared) {
        assert!(!page.contains("model=\"a\""), "{page}");
    }
    call_of("a");
    assert_eq!(models(), ["b", "c", "other"]);
}

#[test]
fn models_of_any_name_cost_a_bounded_number_of_series() {
    const MODELS: u64 = 10_000;
    let shared = shared(2_000, &[]);
    for n in 0..MODELS {
        shared.metrics().call(&CallRecord {
            model: Some(format!("{n}\n\"}} evil{{\\\0{}", "x".repeat(10_000))),
            error_type: Some(format!("Error{n}")),
            tool_calls: vec![format!("tool{n}")],
            input_tokens: Some(3),
            ..call()
        });
    }
    for page in pages(&shared) {
        let samples = samples(&page);
        let of = |name: &str| -> Vec<f64> {
            let series = samples
                .iter()
                .filter(|(series, _)| series.starts_with(name));
            series.map(|(_, value)| *value).collect()
        };
        // Nothing is missing, and a line is a sample.
        let calls = of("gen_ai_client_calls_total{");
        assert_eq!(calls.len(), 2_001);
        for (name, sum) in [
            ("gen_ai_client_calls_total{", MODELS),
            ("gen_ai_client_errors_total{", MODELS),
            ("gen_ai_client_tool_calls_total{", MODELS),
            ("gen_ai_client_operation_duration_seconds_count{", MODELS),
        ] {
            assert_eq!(of(name).iter().sum::<f64>(), sum as f64, "{name}");
            assert!(
                of(name).len() <= 2 * 2_000 + 1,
                "{name}: {}",
                of(name).len()
            );
        }
        let input = samples
            .iter()
            .filter(|(series, _)| series.contains("\"input\""));
        assert_eq!(input.map(|(_, n)| n).sum::<f64>(), 3.0 * MODELS as f64);
        let folded = samples[r#"observer_metrics_folded_total{label="gen_ai_request_model"}"#];
        assert_eq!(folded, (MODELS - 2_000) as f64);
        assert!(!page.contains('\0'));
        assert!(page.len() < 40 << 20, "{}", page.len());
        let longest = page.lines().map(str::len).max().unwrap();
        assert!(longest < 600, "{longest}");
    }
}

#[test]
fn a_scrape_holds_the_exporter_up_for_a_copy_only() {
    let shared = shared(2_000, &[]);
    for n in 0..2_000 {
        shared.metrics().call(&CallRecord {
            model: Some(format!("model-{n}")),
            ..call()
        });
    }
    let scraper = thread::spawn({
        let shared = Arc::clone(&shared);
        move || (0..5).map(|_| page(&shared, true).len()).sum::<usize>()
    });
    let mut longest = Duration::ZERO;
    while !scraper.is_finished() {
        let begun = Instant::now();
        shared.metrics().call(&call());
        longest = longest.max(begun.elapsed());
    }
    assert!(scraper.join().unwrap() > 0);
    // The encoding takes many times as long, without optimization.
    assert!(longest < Duration::from_millis(500), "{longest:?}");
}

#[test]
fn calls_in_flight_come_and_go() {
    let shared = shared(2_000, &[]);
    let in_flight = |provider: &str| {
        let series =
            format!("gen_ai_client_calls_in_flight{{gen_ai_provider_name=\"{provider}\"}}");
        samples(&page(&shared, true)).get(&series).copied()
    };
    let started = |span_id: &str, provider| CallStarted {
        span_id: span_id.to_owned(),
        pid: 1,
        comm: None,
        container_id: None,
        kubernetes: None,
        start_time: call().start_time,
        provider,
        model: None,
    };
    shared.metrics().started(&started("a", None));
    assert_eq!(in_flight("unknown"), Some(1.0));
    shared.metrics().started(&started("a", Some("openai")));
    shared.metrics().started(&started("b", Some("openai")));
    shared.metrics().started(&started("c", Some("google")));
    assert_eq!(
        (in_flight("openai"), in_flight("unknown")),
        (Some(2.0), None)
    );
    shared.metrics().dismissed("c");
    for span_id in ["a", "b"] {
        shared.metrics().call(&CallRecord {
            span_id: span_id.to_owned(),
            ..call()
        });
    }
    assert_eq!(
        (in_flight("openai"), in_flight("google")),
        (Some(0.0), None)
    );
}

#[test]
fn the_agent_is_healthy_while_it_says_how_it_does() {
    let shared = shared(1, &[]);
    assert_eq!(shared.health(), Ok(()));
    assert_eq!(shared.readiness(), Err("attaching".to_owned()));
    shared.metrics().health(&health());
    assert_eq!((shared.health(), shared.readiness()), (Ok(()), Ok(())));
    shared.metrics().health(&Health {
        queues: vec![("otlp", queue::QUEUE, 0)],
        ..health()
    });
    assert_eq!(shared.health(), Ok(()));
    assert!(
        shared
            .readiness()
            .unwrap_err()
            .ends_with("records wait for otlp")
    );
    assert_eq!(turning(STUCK - Duration::from_millis(1)), Ok(()));
    assert!(turning(STUCK).unwrap_err().contains("stuck for 10 s"));
    let late = Shared {
        metrics: Mutex::new(Metrics::new(1, Vec::new())),
        inventory: inventory::Shared::new(),
        start: Instant::now().checked_sub(START).unwrap(),
    };
    assert!(late.health().unwrap_err().contains("not started"));
}

/// The head and the body of an answer.
fn get(address: SocketAddr, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn pages_have_their_content_types() {
    let shared = everything(&[]);
    let server = Server::start("127.0.0.1:0".parse().unwrap(), router(shared)).unwrap();
    let address = server.address();
    let (head, body) = get(
        address,
        "/metrics",
        "application/openmetrics-text;version=1.0.0",
    );
    assert!(
        head.contains(&format!("content-type: {OPEN_METRICS}")),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    let (head, body) = get(address, "/metrics", "*/*");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("# TYPE gen_ai_client_calls_total counter"));
    let (head, body) = get(address, "/healthz", "*/*");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && body == "ok\n",
        "{head}"
    );
    let (head, body) = get(address, "/inventory", "*/*");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(serde_json::from_str::<inventory::Listing>(&body).is_ok());
    assert!(get(address, "/", "*/*").0.starts_with("HTTP/1.1 404 "));
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn options_have_their_defaults() {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }
    assert_eq!(Command::parse_from(["x"]).options, Options::default());
    let wanted = Options {
        listen: Some("127.0.0.1:9464".parse().unwrap()),
        labels: vec![Label::Comm, Label::Container],
        max_series: 5,
    };
    let arguments = "x --prometheus 127.0.0.1:9464 --prometheus-labels comm,container --prometheus-max-series 5";
    assert_eq!(Command::parse_from(arguments.split(' ')).options, wanted);
}

#[test]
fn a_label_that_is_asked_for_twice_is_there_once() {
    let options = Options {
        labels: vec![Label::Comm, Label::Container, Label::Comm],
        ..Options::default()
    };
    let page = page(&everything(&options.labels()), true);
    let calls = page
        .lines()
        .find(|line| line.starts_with("gen_ai_client_calls_total{"));
    let calls = calls.unwrap();
    assert_eq!(calls.matches("comm=").count(), 1, "{calls}");
    assert_eq!(calls.matches("container_id=").count(), 1, "{calls}");
}
