#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use opentelemetry_proto::tonic::{
    common::v1::AnyValue,
    metrics::v1::{Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

use super::*;

fn spans(ids: &[Option<&str>]) -> Vec<u8> {
    let spans = ids.iter().map(|id| Span {
        attributes: id
            .iter()
            .map(|id| KeyValue {
                key: "observer.request_id".to_owned(),
                value: Some(AnyValue {
                    value: Some(any_value::Value::StringValue((*id).to_owned())),
                }),
                ..KeyValue::default()
            })
            .collect(),
        ..Span::default()
    });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: spans.collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
    .encode_to_vec()
}

fn http(path: &str, field: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {length}\r\n{field}\r\n");
    [head.as_bytes(), body].concat()
}

fn at(nanoseconds: u64, bytes: &[u8]) -> (SystemTime, Vec<u8>) {
    let time = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    (time, bytes.to_vec())
}

#[test]
fn what_is_sent_is_counted_however_it_comes() {
    let body = spans(&[Some("req_1"), None, Some("req_2")]);
    let plain = http("/v1/traces", "", &body);
    let mut packed = flate2::read::GzEncoder::new(&*body, flate2::Compression::fast());
    let mut bytes = Vec::new();
    packed.read_to_end(&mut bytes).unwrap();
    let gzip = http("/v1/traces", "content-encoding: gzip\r\n", &bytes);
    let (first, last) = plain.split_at(20);
    let mut sent = Sent::default();
    sent.add(&vec![at(1_000, first), at(2_000, last)]).unwrap();
    assert_eq!((sent.spans, sent.span_requests, sent.twice), (3, 1, 0));
    // When all of it had come.
    assert_eq!(sent.calls["req_1"], 2_000);
    assert_eq!(sent.span_bytes, body.len() as u64);
    assert_eq!(sent.span_wire, plain.len() as u64);
    assert!(sent.call_bytes > sent.run_bytes);
    assert!(sent.call_bytes + sent.run_bytes < sent.span_bytes);
    // Once more, compressed: each of its calls has two spans.
    sent.add(&vec![at(3_000, &gzip)]).unwrap();
    assert_eq!((sent.spans, sent.span_requests, sent.twice), (6, 2, 2));
    assert_eq!(sent.calls["req_2"], 2_000);
    assert_eq!(sent.span_bytes, 2 * body.len() as u64);
    assert_eq!(sent.span_wire, (plain.len() + gzip.len()) as u64);
    let twice = http("/v1/traces", "", &spans(&[Some("a"), Some("a")]));
    let mut sent = Sent::default();
    sent.add(&vec![at(1, &twice)]).unwrap();
    assert_eq!((sent.calls.len(), sent.twice), (1, 1));
    assert!(Sent::default().add(&vec![at(1, first)]).is_err());
    let other = http("/v1/logs", "", b"");
    assert!(Sent::default().add(&vec![at(1, &other)]).is_err());
}

#[test]
fn data_points_are_counted() {
    let body = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics: vec![Metric {
                    data: Some(Data::Sum(Sum {
                        data_points: vec![NumberDataPoint::default(); 3],
                        ..Sum::default()
                    })),
                    ..Metric::default()
                }],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
    .encode_to_vec();
    let mut sent = Sent::default();
    sent.add(&vec![at(1, &http("/v1/metrics", "", &body))])
        .unwrap();
    assert_eq!((sent.points, sent.metric_requests), (3, 1));
    assert_eq!(sent.point_bytes, body.len() as u64);
}

#[test]
fn pages_are_summed_and_counted() {
    let page = "# HELP gen_ai_client_calls_total LLM calls\n\
        # TYPE gen_ai_client_calls_total counter\n\
        gen_ai_client_calls_total{gen_ai_request_model=\"a b\",k8s_pod_name=\"p\"} 3\n\
        gen_ai_client_calls_total{gen_ai_request_model=\"c\"} 4\n\
        gen_ai_client_operation_duration_seconds_bucket{gen_ai_request_model=\"c\",le=\"0.01\"} 4\n\
        gen_ai_client_calls_in_flight{gen_ai_provider_name=\"openai\"} 0\n\
        gen_ai_client_calls_total_other 9\n\
        observer_processes 2\n";
    assert_eq!(sum(page, "gen_ai_client_calls_total"), 7.0);
    assert_eq!(sum(page, "observer_processes"), 2.0);
    assert_eq!(sum(page, "missing"), 0.0);
    let series = Series {
        of_calls: 3,
        sets: 2,
        of_agent: 3,
    };
    assert_eq!(Series::of(page), series);
}

#[test]
fn the_collectors_lines_are_added_up() {
    let log = "2026-01-01T00:00:00.000Z\tinfo\tTraces\t{\"resource\": {}, \"resource spans\": 2, \"spans\": 512}\n\
        2026-01-01T00:00:01.000Z\tinfo\tMetrics\t{\"resource metrics\": 1, \"metrics\": 5, \"data points\": 9}\n\
        a line\n\
        2026-01-01T00:00:02.000Z\tinfo\tTraces\t{\"resource spans\": 1, \"spans\": 3}\n";
    assert_eq!(collected(log), 515);
}

#[test]
fn times_are_found_behind_any_name() {
    let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 5 6";
    assert_eq!(ticks(stat), Some(200));
    assert_eq!(ticks("12"), None);
}

#[test]
fn cgroups_of_version_2_are_found() {
    let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    let place = cgroup2(mounts).unwrap();
    assert_eq!(place, Path::new("/sys/fs/cgroup/unified"));
    assert_eq!(cgroup2("proc /proc proc rw 0 0\n"), None);
}

#[test]
fn pods_are_as_long_as_real_ones() {
    let pod = object(3, "uid", &"a".repeat(64), "shop", "web");
    let length = pod.to_string().len();
    assert!(length.abs_diff(POD_BYTES) < 64, "{length}");
    assert_eq!(pod["metadata"]["name"], "web-6d4cf56db6-00003");
}
