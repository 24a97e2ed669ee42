//! OTLP reaches real receivers, whole, whatever happens on the way.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use observer_e2e::{
    harness::{Run, Scene, wait_until},
    telemetry::{Answer, BackEnd, Certificates, Endpoint, free_ports, get},
};
use serde_json::{Value, json};

/// A span or data point with the attributes of what it is in.
struct Found {
    resource: BTreeMap<String, Value>,
    attributes: BTreeMap<String, Value>,
    name: String,
    json: Value,
}

/// Attributes in OTLP's JSON, as JSON.
fn attributes(of: &Value) -> BTreeMap<String, Value> {
    fn plain(value: &Value) -> Value {
        let Some((kind, value)) = value.as_object().and_then(|object| object.iter().next()) else {
            return Value::Null;
        };
        match kind.as_str() {
            // Protobuf's JSON has 64 bits as text.
            "intValue" => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .map_or_else(|| value.clone(), |number: i64| json!(number)),
            "arrayValue" => {
                let values = value["values"].as_array();
                values.into_iter().flatten().map(plain).collect()
            }
            _ => value.clone(),
        }
    }
    let list = of["attributes"].as_array();
    list.into_iter()
        .flatten()
        .map(|pair| {
            let key = pair["key"].as_str().unwrap().to_owned();
            (key, plain(&pair["value"]))
        })
        .collect()
}

fn array<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn spans(endpoint: &Endpoint) -> Vec<Found> {
    let mut found = Vec::new();
    for document in endpoint.documents("/v1/traces") {
        for resource in array(&document, "resourceSpans") {
            for scope in array(resource, "scopeSpans") {
                assert_eq!(scope["scope"]["name"], "observer");
                assert_eq!(
                    scope["schemaUrl"],
                    "https://opentelemetry.io/schemas/1.41.0"
                );
                found.extend(array(scope, "spans").map(|span| Found {
                    resource: attributes(&resource["resource"]),
                    attributes: attributes(span),
                    name: span["name"].as_str().unwrap().to_owned(),
                    json: span.clone(),
                }));
            }
        }
    }
    found
}

/// The points of the last request that has the metric, of those behind the first so many.
fn points(endpoint: &Endpoint, before: usize, name: &str) -> Vec<Found> {
    let mut last = Vec::new();
    for document in endpoint.documents("/v1/metrics").into_iter().skip(before) {
        let mut found = Vec::new();
        for resource in array(&document, "resourceMetrics") {
            let metrics = array(resource, "scopeMetrics").flat_map(|scope| array(scope, "metrics"));
            for metric in metrics.filter(|metric| metric["name"] == name) {
                let data = ["histogram", "sum", "gauge"].map(|kind| &metric[kind]);
                let data = data.into_iter().find(|data| !data.is_null()).unwrap();
                found.extend(array(data, "dataPoints").map(|point| Found {
                    resource: attributes(&resource["resource"]),
                    attributes: attributes(point),
                    name: name.to_owned(),
                    json: point.clone(),
                }));
            }
        }
        if !found.is_empty() {
            last = found;
        }
    }
    last
}

fn integer(value: &Value) -> u64 {
    let text = value.as_str().map(ToOwned::to_owned);
    text.unwrap_or_else(|| value.to_string()).parse().unwrap()
}

/// Asserts that the spans say what the records do: one of each call, below one of its trace.
fn assert_spans(spans: &[Found], run: &Run) {
    assert_eq!(
        spans.len(),
        run.calls.len() + run.traces.len(),
        "{}",
        run.stderr
    );
    for call in &run.calls {
        let of_call = spans
            .iter()
            .filter(|span| span.json["spanId"] == call["span_id"]);
        let [span] = of_call.collect::<Vec<_>>()[..] else {
            panic!("spans of {call:#}");
        };
        assert_eq!(span.json["traceId"], call["trace_id"]);
        let model = call["model"].as_str().unwrap();
        assert_eq!(span.name, format!("chat {model}"));
        assert_eq!(span.json["kind"], 3);
        let time = |name: &str| integer(&span.json[name]);
        assert_eq!(
            time("endTimeUnixNano") - time("startTimeUnixNano"),
            call["latency_ns"].as_u64().unwrap()
        );
        for (attribute, field) in [
            ("gen_ai.operation.name", "operation"),
            ("gen_ai.provider.name", "provider"),
            ("gen_ai.request.model", "model"),
            ("gen_ai.response.model", "response_model"),
            ("gen_ai.response.id", "response_id"),
            ("gen_ai.usage.input_tokens", "input_tokens"),
            ("gen_ai.usage.output_tokens", "output_tokens"),
            ("gen_ai.usage.cache_read.input_tokens", "cached_tokens"),
            ("gen_ai.usage.reasoning.output_tokens", "reasoning_tokens"),
            ("server.address", "server_address"),
            ("server.port", "server_port"),
            ("http.response.status_code", "status_code"),
            ("error.type", "error_type"),
            ("observer.trace_source", "trace_source"),
            ("observer.input_preview", "input_preview"),
            ("observer.output_preview", "output_preview"),
        ] {
            let value = span.attributes.get(attribute).unwrap_or(&Value::Null);
            assert_eq!(value, &call[field], "{attribute} of {:#}", span.json);
        }
        let failed = !call["error_type"].is_null();
        assert_eq!(span.json["status"]["code"] == 2, failed);
        assert_eq!(
            span.attributes.get("gen_ai.response.finish_reasons"),
            Some(&call["finish_reasons"]).filter(|reasons| *reasons != &json!([]))
        );
        let root = spans
            .iter()
            .find(|root| root.json["spanId"] == span.json["parentSpanId"])
            .unwrap_or_else(|| panic!("no parent of {:#}", span.json));
        assert_eq!(root.json["traceId"], call["trace_id"]);
        assert_eq!(
            root.name,
            format!("invoke_workflow {}", call["comm"].as_str().unwrap())
        );
        assert_eq!(root.json["kind"], 1);
        assert_eq!(span.resource, root.resource);
        assert_eq!(span.resource["process.pid"], call["pid"]);
        assert_eq!(span.resource["process.executable.path"], call["exe"]);
        assert!(span.resource["service.instance.id"].is_string());
        assert!(span.resource["host.name"].is_string());
    }
}

/// Asserts that the metrics add up to the records.
fn assert_metrics(endpoint: &Endpoint, before: usize, calls: &[Value]) {
    let sum = |field: &str| -> u64 {
        let tokens = calls.iter().map(|call| call[field].as_u64().unwrap_or(0));
        tokens.sum()
    };
    let usage = points(endpoint, before, "gen_ai.client.token.usage");
    for (kind, field) in [("input", "input_tokens"), ("output", "output_tokens")] {
        let of_kind = usage
            .iter()
            .filter(|point| point.attributes["gen_ai.token.type"] == kind);
        let tokens = of_kind.map(|point| point.json["sum"].as_f64().unwrap());
        // The sum of nothing would be -0.
        let tokens = tokens.fold(0.0, |sum: f64, tokens| sum + tokens);
        assert_eq!(tokens.to_string(), sum(field).to_string());
    }
    let durations = points(endpoint, before, "gen_ai.client.operation.duration");
    let count: u64 = durations
        .iter()
        .map(|point| integer(&point.json["count"]))
        .sum();
    assert_eq!(count, calls.len() as u64);
    for point in &durations {
        let bounds: Vec<_> = array(&point.json, "explicitBounds").collect();
        assert_eq!((bounds.len(), bounds[0].as_f64()), (14, Some(0.01)));
    }
    let captured = points(endpoint, before, "observer.capture.bytes");
    assert!(integer(&captured[0].json["asInt"]) > 0);
    assert_eq!(captured[0].resource["service.name"], "observer");
    let lost = points(endpoint, before, "observer.capture.lost");
    assert!(lost.len() > 1 && lost.iter().all(|point| integer(&point.json["asInt"]) == 0));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_collector_takes_spans_and_metrics() {
    let mut scene = Scene::new();
    let folder = scene.folder.path().to_owned();
    let certificates = Certificates::make(&folder).unwrap();
    let endpoint = Endpoint::start();
    let ports @ [grpc, http] = free_ports();
    let collector = BackEnd::collector(&folder, ports, &endpoint, Some(&certificates));

    // By options, over gRPC, with content and a failure.
    let url = format!("https://127.0.0.1:{grpc}");
    let options = [
        "--otlp-endpoint",
        &url,
        "--otlp-protocol",
        "grpc",
        "--otlp-compression",
        "gzip",
        "--otlp-certificate",
        text(&certificates.ca),
        "--otlp-client-certificate",
        text(&certificates.client),
        "--otlp-client-key",
        text(&certificates.client_key),
    ];
    let with_content = [&options[..], &["--capture-content"]].concat();
    let script = |behaviour| scene.script("calls.py", ["--count", "3", "--behaviour", behaviour]);
    let first = scene.exec(&with_content, &script("cached=1"));
    first.assert_clean();
    assert_eq!(first.calls.len(), 3);
    assert!(first.calls[0]["input_preview"].is_string());
    assert_spans(&spans(&endpoint), &first);
    assert_metrics(&endpoint, 0, &first.calls);

    // By variables, over HTTP.
    let before = spans(&endpoint).len();
    let metrics = endpoint.documents("/v1/metrics").len();
    let variables = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("https://localhost:{http}/"),
        ),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".to_owned()),
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            text(&certificates.ca).to_owned(),
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            text(&certificates.client).to_owned(),
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
            text(&certificates.client_key).to_owned(),
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
            text(&certificates.client_key).to_owned(),
        ),
        ("OTEL_SERVICE_NAME", "shop".to_owned()),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test%20bed".to_owned(),
        ),
    ];
    let script = script("error=429");
    scene.environment = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let second = scene.exec(&[], &script);
    second.assert_clean();
    let all = spans(&endpoint);
    let new = &all[before..];
    assert_spans(new, &second);
    assert_metrics(&endpoint, metrics, &second.calls);
    assert_eq!(new[0].resource["service.name"], "shop");
    assert_eq!(new[0].resource["deployment.environment.name"], "test bed");
    assert!(
        second
            .calls
            .iter()
            .any(|call| !call["error_type"].is_null())
    );

    // Who shows no certificate is sent away, and that is said.
    scene.environment.clear();
    let before = spans(&endpoint).len();
    for (protocol, port) in [("grpc", grpc), ("http/protobuf", http)] {
        let url = format!("https://127.0.0.1:{port}");
        let options = [
            "--otlp-endpoint",
            &url,
            "--otlp-protocol",
            protocol,
            "--otlp-certificate",
            text(&certificates.ca),
            "--otlp-flush-timeout",
            "1",
        ];
        let run = scene.exec(&options, &scene.script("calls.py", []));
        run.assert_clean();
        assert!(run.stderr.contains("dropped=2"), "{}", run.stderr);
    }
    assert_eq!(spans(&endpoint).len(), before);
    // The debug exporter has seen the same.
    assert!(collector.log().contains("gen_ai.usage.input_tokens"));
}

#[test]
fn deltas_add_up_to_the_records() {
    const COUNT: u64 = 5;
    let mut scene = Scene::new();
    let folder = scene.folder.path().to_owned();
    let endpoint = Endpoint::start();
    let ports @ [grpc, _] = free_ports();
    let _collector = BackEnd::collector(&folder, ports, &endpoint, None);
    let endpoint_url = format!("http://127.0.0.1:{grpc}");
    scene.environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint_url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "300"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    let count = COUNT.to_string();
    let script = scene.script("calls.py", ["--count", count.as_str(), "--every", "0.5"]);
    let run = scene.exec(&[], &script);
    run.assert_clean();
    assert_eq!(run.calls.len() as u64, COUNT);
    let sums = |name: &str, field: &str| -> Vec<u64> {
        let documents = endpoint.documents("/v1/metrics");
        let mut sums = Vec::new();
        for document in &documents {
            for resource in array(document, "resourceMetrics") {
                let scopes = array(resource, "scopeMetrics");
                let metrics = scopes.flat_map(|scope| array(scope, "metrics"));
                for metric in metrics.filter(|metric| metric["name"] == name) {
                    let data = [&metric["histogram"], &metric["sum"]];
                    let data = data.into_iter().find(|data| !data.is_null()).unwrap();
                    assert_eq!(data["aggregationTemporality"], 1, "{metric:#}");
                    let points = array(data, "dataPoints");
                    sums.push(points.map(|point| integer(&point[field])).sum());
                }
            }
        }
        sums
    };
    let counts = sums("gen_ai.client.operation.duration", "count");
    assert_eq!(counts.iter().sum::<u64>(), COUNT, "{counts:?}");
    assert!(counts.len() > 1, "{counts:?}");
    let bytes = sums("observer.capture.bytes", "asInt");
    assert!(
        bytes.iter().filter(|bytes| **bytes > 0).count() > 1,
        "{bytes:?}"
    );
}

#[test]
fn jaeger_shows_the_tree() {
    let scene = Scene::new();
    let (_jaeger, [api, grpc, http]) = BackEnd::jaeger(scene.folder.path());
    for (protocol, port) in [("grpc", grpc), ("http/protobuf", http)] {
        let url = format!("http://127.0.0.1:{port}");
        let mut scene = Scene::new();
        // Jaeger takes no metrics.
        scene.environment = vec![("OTEL_METRICS_EXPORTER".into(), "none".into())];
        let options = ["--otlp-endpoint", &url, "--otlp-protocol", protocol];
        let run = scene.exec(
            &options,
            &scene.script("calls.py", ["--count", "2", "--threads", "2"]),
        );
        run.assert_clean();
        assert!(!run.stderr.contains("OTLP"), "{}", run.stderr);
        assert_eq!((run.calls.len(), run.traces.len()), (4, 2));
        for trace in &run.traces {
            let path = format!("/api/traces/{}", trace["trace_id"].as_str().unwrap());
            let mut shown = Value::Null;
            wait_until("Jaeger shows the trace", || {
                shown = get(api, &path).unwrap_or_default();
                array(&shown["data"][0], "spans").count() == 3
            });
            let data = &shown["data"][0];
            let parent = |span: &Value| {
                let mut references = array(span, "references");
                references
                    .next()
                    .map(|reference| reference["spanID"].clone())
            };
            let all: Vec<_> = array(data, "spans").collect();
            let roots: Vec<_> = all.iter().filter(|span| parent(span).is_none()).collect();
            assert_eq!(roots.len(), 1, "{shown:#}");
            for id in array(trace, "calls") {
                let span = all.iter().find(|span| span["spanID"] == *id).unwrap();
                assert_eq!(parent(span).as_ref(), Some(&roots[0]["spanID"]));
                let process = &data["processes"][span["processID"].as_str().unwrap()];
                assert_eq!(process["serviceName"], trace["comm"]);
            }
        }
    }
}

#[test]
fn what_is_down_for_a_time_loses_nothing() {
    let mut scene = Scene::new();
    let folder = scene.folder.path().to_owned();
    let endpoint = Endpoint::start();
    for protocol in ["grpc", "http/protobuf"] {
        let ports @ [grpc, http] = free_ports();
        let port = if protocol == "grpc" { grpc } else { http };
        scene.environment = vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT".into(),
                format!("http://127.0.0.1:{port}").into(),
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL".into(), protocol.into()),
            ("OTEL_BSP_SCHEDULE_DELAY".into(), "200".into()),
        ];
        let before = spans(&endpoint).len();
        let run = thread::scope(|scope| {
            let late = scope.spawn(|| {
                thread::sleep(Duration::from_secs(3));
                BackEnd::collector(&folder, ports, &endpoint, None)
            });
            let run = scene.exec(
                &[],
                &scene.script("calls.py", ["--count", "12", "--every", "0.5"]),
            );
            (run, late.join().unwrap()).0
        });
        run.assert_clean();
        assert!(run.stderr.contains("will be tried again"), "{}", run.stderr);
        assert!(!run.stderr.contains("not all"), "{}", run.stderr);
        assert_spans(&spans(&endpoint)[before..], &run);
    }
}

#[test]
fn what_is_down_for_good_holds_up_nothing() {
    let scene = Scene::new();
    let script = scene.script("calls.py", ["--count", "3"]);
    let begun = Instant::now();
    scene.exec(&[], &script).assert_clean();
    let without = begun.elapsed();
    let [closed] = free_ports();
    // Connections are taken by the kernel, and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    for (protocol, port) in [
        ("grpc", closed),
        ("http/protobuf", closed),
        ("grpc", silent_port),
        ("http/protobuf", silent_port),
    ] {
        let url = format!("http://127.0.0.1:{port}");
        let options = [
            "--otlp-endpoint",
            &url,
            "--otlp-protocol",
            protocol,
            "--otlp-flush-timeout",
            "1.5",
        ];
        let begun = Instant::now();
        let run = scene.exec(&options, &script);
        let took = begun.elapsed();
        run.assert_clean();
        assert_eq!(run.calls.len(), 3);
        assert!(run.stderr.contains("dropped=4"), "{}", run.stderr);
        let most = 2 * without + Duration::from_secs(4);
        assert!(took < most, "{protocol}: {took:?}, without it {without:?}");
    }
}

#[test]
fn a_server_is_given_the_time_it_asks_for() {
    let scene = Scene::new();
    let endpoint = Endpoint::start();
    endpoint.answer(Answer {
        status: "503 Service Unavailable",
        fields: "retry-after: 2\r\n",
        body: b"",
    });
    let mut scene = scene;
    scene.environment = vec![
        ("OTEL_METRICS_EXPORTER".into(), "none".into()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS".into(),
            "x-key=a%20secret,x-other=1".into(),
        ),
    ];
    let url = format!("{}/behind/a/path", endpoint.url());
    let options = [
        "--otlp-endpoint",
        &url,
        "--otlp-compression",
        "gzip",
        "--otlp-header",
        "X-Other=2",
    ];
    let run = scene.exec(&options, &scene.script("calls.py", []));
    run.assert_clean();
    assert!(
        !run.stderr.contains("not all") && !run.stderr.contains("secret"),
        "{}",
        run.stderr
    );
    let requests = endpoint.requests();
    let [first, second] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(first.body, second.body);
    let pause = second.at - first.at;
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
    assert_eq!(second.path, "/behind/a/path/v1/traces");
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-type", "application/x-protobuf"),
        ("x-key", "a secret"),
        ("x-other", "2"),
    ] {
        assert_eq!(second.headers[name], value);
    }
    assert!(second.body.starts_with(b"\x1f\x8b"));
}

#[test]
fn what_is_refused_is_said_and_not_sent_again() {
    let mut scene = Scene::new();
    scene.environment = vec![("OTEL_METRICS_EXPORTER".into(), "none".into())];
    let endpoint = Endpoint::start();
    endpoint.answer(Answer {
        status: "400 Bad Request",
        fields: "",
        // google.rpc.Status: code 3, a message.
        body: b"\x08\x03\x12\x05wrong",
    });
    let url = endpoint.url();
    let options = ["--otlp-endpoint", &url];
    let run = scene.exec(&options, &scene.script("calls.py", []));
    run.assert_clean();
    assert!(
        run.stderr.contains("dropped=2") && run.stderr.contains("wrong"),
        "{}",
        run.stderr
    );
    assert_eq!(endpoint.requests().len(), 1);

    // Partial success: one span was rejected.
    endpoint.answer(Answer {
        status: "200 OK",
        fields: "",
        body: b"\x0a\x09\x08\x01\x12\x05stale",
    });
    let run = scene.exec(&options, &scene.script("calls.py", []));
    assert!(
        run.stderr.contains("rejected=1") && run.stderr.contains("stale"),
        "{}",
        run.stderr
    );
    assert_eq!(endpoint.requests().len(), 2);
}
