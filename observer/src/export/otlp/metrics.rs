//! Calls as metrics, and how the agent does.
//!
//! Names, units and bounds: OpenTelemetry GenAI semantic conventions 1.41 (`docs/gen-ai/gen-ai-metrics.md`), and those
//! of semantic-conventions-genai as of November 2026 for [`Semconv::Latest`]. All are cumulative.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use observer_common::Loss;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
};

use super::{
    resource::{Origin, bool, int, scope, string},
    settings::Semconv,
    spans::{error, provider, schema_url, seconds},
};
use crate::{
    export::Health,
    trace::{CallRecord, TraceRecord},
};

/// Series of one instrument, over all processes. OpenTelemetry's default.
const SERIES: usize = 2_000;

/// Series that nothing is added to for so long are not told of any longer: processes come and go.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// For durations, in seconds.
const DURATIONS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// For tokens.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// For runs of agents, in seconds (opentelemetry-util-genai 1.3b0).
const RUNS: &[f64] = &[
    0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6,
];

/// For workflows, in seconds (opentelemetry-util-genai 1.3b0).
const WORKFLOWS: &[f64] = &[
    1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0,
];

/// Where a number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Instrument {
    CacheReadTokens,
    CacheWriteTokens,
    ExecuteTool,
    InferenceDuration,
    InferenceFirstChunk,
    InferenceInput,
    InferenceOutput,
    InputTokens,
    InvokeAgent,
    InvokeWorkflow,
    OperationDuration,
    OperationFirstChunk,
    OutputTokens,
    ReasoningTokens,
    TokenUsage,
}

/// Name, unit, description and bounds; a counter has none.
type About = (&'static str, &'static str, &'static str, &'static [f64]);

impl Instrument {
    const fn about(self) -> About {
        match self {
            Self::CacheReadTokens => (
                "gen_ai.client.inference.usage.cache_read.input_tokens",
                "{token}",
                "Input tokens that were read from a cache",
                &[],
            ),
            Self::CacheWriteTokens => (
                "gen_ai.client.inference.usage.cache_write.input_tokens",
                "{token}",
                "Input tokens that were written to a cache",
                &[],
            ),
            Self::ExecuteTool => (
                "gen_ai.execute_tool.duration",
                "s",
                "From the answer that asks for a tool to the request that brings its result",
                DURATIONS,
            ),
            Self::InferenceDuration => (
                "gen_ai.client.inference.duration",
                "s",
                "Duration of an inference",
                DURATIONS,
            ),
            Self::InferenceFirstChunk => (
                "gen_ai.client.inference.time_to_first_chunk",
                "s",
                "From the request to the first chunk of the answer",
                DURATIONS,
            ),
            Self::InferenceInput => (
                "gen_ai.client.inference.operation.input_tokens",
                "{token}",
                "Input tokens of an inference",
                TOKENS,
            ),
            Self::InferenceOutput => (
                "gen_ai.client.inference.operation.output_tokens",
                "{token}",
                "Output tokens of an inference",
                TOKENS,
            ),
            Self::InputTokens => (
                "gen_ai.client.inference.usage.input_tokens",
                "{token}",
                "Input tokens",
                &[],
            ),
            Self::InvokeAgent => (
                "gen_ai.invoke_agent.duration",
                "s",
                "Duration of a run that calls tools",
                RUNS,
            ),
            Self::InvokeWorkflow => (
                "gen_ai.invoke_workflow.duration",
                "s",
                "Duration of a run that calls no tools",
                WORKFLOWS,
            ),
            Self::OperationDuration => (
                "gen_ai.client.operation.duration",
                "s",
                "Duration of an operation",
                DURATIONS,
            ),
            Self::OperationFirstChunk => (
                "gen_ai.client.operation.time_to_first_chunk",
                "s",
                "From the request to the first chunk of the answer",
                DURATIONS,
            ),
            Self::OutputTokens => (
                "gen_ai.client.inference.usage.output_tokens",
                "{token}",
                "Output tokens",
                &[],
            ),
            Self::ReasoningTokens => (
                "gen_ai.client.inference.usage.reasoning.output_tokens",
                "{token}",
                "Output tokens that went into reasoning",
                &[],
            ),
            Self::TokenUsage => (
                "gen_ai.client.token.usage",
                "{token}",
                "Input and output tokens of an operation",
                TOKENS,
            ),
        }
    }
}

/// What tells series of an instrument apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels {
    operation: Option<&'static str>,
    provider: Option<&'static str>,
    request_model: Option<String>,
    response_model: Option<String>,
    server_address: Option<String>,
    server_port: Option<u16>,
    error: Option<String>,
    /// `gen_ai.token.type` or `gen_ai.token.modality`, or the name of a tool.
    kind: Option<(&'static str, String)>,
    overflow: bool,
}

#[derive(Debug)]
struct Series {
    origin: Arc<Origin>,
    start: u64,
    updated: Instant,
    data: Numbers,
}

#[derive(Debug)]
enum Numbers {
    Histogram {
        count: u64,
        sum: f64,
        min: f64,
        max: f64,
        buckets: Vec<u64>,
    },
    Sum(u64),
}

/// What is known of the delivery of spans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivery {
    pub(super) delivered: u64,
    pub(super) rejected: u64,
    pub(super) dropped: u64,
}

/// All that is counted.
pub(super) struct Metrics {
    semconv: Semconv,
    agent: Arc<Origin>,
    start: u64,
    series: HashMap<(u64, Instrument, Labels), Series>,
    /// Number of series of each instrument.
    counts: BTreeMap<Instrument, usize>,
    health: Option<Health>,
}

impl Metrics {
    pub(super) fn new(semconv: Semconv, agent: Arc<Origin>) -> Self {
        Self {
            semconv,
            agent,
            start: now(),
            series: HashMap::new(),
            counts: BTreeMap::new(),
            health: None,
        }
    }

    pub(super) fn call(&mut self, call: &CallRecord, origin: &Arc<Origin>) {
        let latest = self.semconv == Semconv::Latest;
        let inference = matches!(
            call.operation,
            "chat" | "generate_content" | "text_completion"
        );
        let labels = Labels {
            operation: Some(call.operation),
            provider: Some(call.provider),
            request_model: call.model.clone(),
            response_model: call.response_model.clone(),
            server_address: call.server_address.clone(),
            server_port: call.server_address.as_ref().and(call.server_port),
            ..Labels::default()
        };
        let (duration, first_chunk) = if latest && inference {
            (
                Instrument::InferenceDuration,
                Instrument::InferenceFirstChunk,
            )
        } else {
            (
                Instrument::OperationDuration,
                Instrument::OperationFirstChunk,
            )
        };
        let timed = Labels {
            error: error(call),
            ..labels.clone()
        };
        self.observe(origin, duration, timed, seconds(call.latency_ns));
        if call.stream
            && let Some(time) = call.time_to_first_token_ns
        {
            self.observe(origin, first_chunk, labels.clone(), seconds(time));
        }
        if !latest {
            for (kind, tokens) in [("input", call.input_tokens), ("output", call.output_tokens)] {
                if let Some(tokens) = tokens {
                    let labels = Labels {
                        kind: Some(("gen_ai.token.type", kind.to_owned())),
                        ..labels.clone()
                    };
                    self.observe(origin, Instrument::TokenUsage, labels, float(tokens));
                }
            }
        } else if inference {
            self.usage(call, origin, &labels);
        }
    }

    /// The counters that took the place of `gen_ai.client.token.usage`.
    fn usage(&mut self, call: &CallRecord, origin: &Arc<Origin>, labels: &Labels) {
        for (instrument, tokens) in [
            (Instrument::InferenceInput, call.input_tokens),
            (Instrument::InferenceOutput, call.output_tokens),
        ] {
            if let Some(tokens) = tokens {
                self.observe(origin, instrument, labels.clone(), float(tokens));
            }
        }
        // Where no usage came the conventions want a 0.
        let tokens = [
            (
                Instrument::InputTokens,
                Some(call.input_tokens.unwrap_or(0)),
                call.audio_input_tokens,
            ),
            (
                Instrument::OutputTokens,
                Some(call.output_tokens.unwrap_or(0)),
                call.audio_output_tokens,
            ),
            (Instrument::CacheReadTokens, call.cached_tokens, None),
            (Instrument::CacheWriteTokens, call.cache_write_tokens, None),
            (Instrument::ReasoningTokens, call.reasoning_tokens, None),
        ];
        for (instrument, all, audio) in tokens {
            let Some(all) = all else { continue };
            let audio = audio.unwrap_or(0).min(all);
            for (modality, count) in [("unknown", all - audio), ("audio", audio)] {
                if count > 0 || modality == "unknown" {
                    let labels = Labels {
                        kind: Some(("gen_ai.token.modality", modality.to_owned())),
                        ..labels.clone()
                    };
                    self.add(origin, instrument, labels, count);
                }
            }
        }
    }

    /// The conventions 1.41 have no metrics of runs.
    pub(super) fn trace(&mut self, trace: &TraceRecord, origin: &Arc<Origin>) {
        if self.semconv != Semconv::Latest {
            return;
        }
        let (instrument, operation) = if trace.steps.is_empty() {
            (Instrument::InvokeWorkflow, "invoke_workflow")
        } else {
            (Instrument::InvokeAgent, "invoke_agent")
        };
        let labels = Labels {
            operation: Some(operation),
            ..Labels::default()
        };
        self.observe(origin, instrument, labels, seconds(trace.duration_ns));
        for step in &trace.steps {
            if let Some(duration) = step.duration_ns {
                let labels = Labels {
                    operation: Some("execute_tool"),
                    error: step.failed.then(|| "tool_error".to_owned()),
                    kind: Some(("gen_ai.tool.name", step.name.clone())),
                    ..Labels::default()
                };
                self.observe(origin, Instrument::ExecuteTool, labels, seconds(duration));
            }
        }
    }

    pub(super) fn health(&mut self, health: &Health) {
        self.health = Some(health.clone());
    }

    fn observe(
        &mut self,
        origin: &Arc<Origin>,
        instrument: Instrument,
        labels: Labels,
        value: f64,
    ) {
        let (_, _, _, bounds) = instrument.about();
        if let Numbers::Histogram {
            count,
            sum,
            min,
            max,
            buckets,
        } = &mut self.series(origin, instrument, labels).data
        {
            *count += 1;
            *sum += value;
            *min = min.min(value);
            *max = max.max(value);
            // A bound belongs to the bucket below it.
            let at = bounds.partition_point(|bound| *bound < value);
            if let Some(bucket) = buckets.get_mut(at) {
                *bucket += 1;
            }
        }
    }

    fn add(&mut self, origin: &Arc<Origin>, instrument: Instrument, labels: Labels, value: u64) {
        if let Numbers::Sum(sum) = &mut self.series(origin, instrument, labels).data {
            *sum = sum.saturating_add(value);
        }
    }

    /// The series, or the one that stands for all that are too many.
    fn series(
        &mut self,
        origin: &Arc<Origin>,
        instrument: Instrument,
        labels: Labels,
    ) -> &mut Series {
        let mut origin = origin;
        let mut key = (origin.number, instrument, labels);
        let count = self.counts.entry(instrument).or_default();
        if *count + 1 >= SERIES && !self.series.contains_key(&key) {
            origin = &self.agent;
            let labels = Labels {
                overflow: true,
                ..Labels::default()
            };
            key = (origin.number, instrument, labels);
        }
        let series = self.series.entry(key).or_insert_with(|| {
            *count += 1;
            let (_, _, _, bounds) = instrument.about();
            Series {
                origin: Arc::clone(origin),
                start: now(),
                updated: Instant::now(),
                data: if bounds.is_empty() {
                    Numbers::Sum(0)
                } else {
                    Numbers::Histogram {
                        count: 0,
                        sum: 0.0,
                        min: f64::INFINITY,
                        max: f64::NEG_INFINITY,
                        buckets: vec![0; bounds.len() + 1],
                    }
                },
            }
        });
        series.updated = Instant::now();
        series
    }

    /// All as a request; and what has not changed for long is forgotten.
    pub(super) fn collect(&mut self, delivery: Delivery) -> ExportMetricsServiceRequest {
        let time = now();
        let mut ordered: Vec<_> = self.series.iter().collect();
        ordered.sort_unstable_by_key(|(key, _)| *key);
        let mut resources: Vec<(Arc<Origin>, Vec<Metric>)> = Vec::new();
        let mut last = None;
        for ((origin, instrument, labels), series) in ordered {
            if resources
                .last()
                .is_none_or(|(last, _)| last.number != *origin)
            {
                resources.push((Arc::clone(&series.origin), Vec::new()));
            }
            let Some((_, metrics)) = resources.last_mut() else {
                continue;
            };
            if last != Some((*origin, *instrument)) {
                last = Some((*origin, *instrument));
                metrics.push(metric(*instrument));
            }
            if let Some(data) = metrics.last_mut().and_then(|metric| metric.data.as_mut()) {
                push(data, *instrument, labels, series, time);
            }
        }
        let own = self.own(delivery, time);
        match resources
            .iter_mut()
            .find(|(origin, _)| origin.number == self.agent.number)
        {
            Some((_, metrics)) => metrics.extend(own),
            None => resources.push((Arc::clone(&self.agent), own)),
        }
        let counts = &mut self.counts;
        self.series.retain(|(_, instrument, _), series| {
            let kept = series.updated.elapsed() < FORGOTTEN;
            if !kept && let Some(count) = counts.get_mut(instrument) {
                *count -= 1;
            }
            kept
        });
        let schema_url = schema_url(self.semconv);
        ExportMetricsServiceRequest {
            resource_metrics: resources
                .into_iter()
                .map(|(origin, metrics)| ResourceMetrics {
                    resource: Some(origin.resource.clone()),
                    scope_metrics: vec![ScopeMetrics {
                        scope: Some(scope()),
                        metrics,
                        schema_url: schema_url.to_owned(),
                    }],
                    schema_url: schema_url.to_owned(),
                })
                .collect(),
        }
    }

    /// How the agent does.
    fn own(&self, delivery: Delivery, time: u64) -> Vec<Metric> {
        let point = |attributes: Vec<KeyValue>, value: u64| NumberDataPoint {
            attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: time,
            value: Some(number_data_point::Value::AsInt(
                i64::try_from(value).unwrap_or(i64::MAX),
            )),
            ..NumberDataPoint::default()
        };
        let spans = [
            ("delivered", delivery.delivered),
            ("rejected", delivery.rejected),
            ("dropped", delivery.dropped),
        ];
        let mut all = vec![sum(
            "observer.otlp.spans",
            "{span}",
            "Spans by what became of them",
            spans
                .into_iter()
                .map(|(state, count)| point(vec![string("observer.otlp.state", state)], count))
                .collect(),
        )];
        let Some(health) = &self.health else {
            return all;
        };
        all.push(sum(
            "observer.capture.events",
            "{event}",
            "Events that the kernel's programs have handed over",
            vec![point(Vec::new(), health.events)],
        ));
        all.push(sum(
            "observer.capture.bytes",
            "By",
            "Plaintext that was looked at",
            vec![point(Vec::new(), health.bytes)],
        ));
        if let Some(losses) = &health.losses {
            let causes = || Loss::ALL.iter().zip(losses.counts());
            let cause = |cause: &str| vec![string("observer.loss.cause", cause)];
            let mut events: Vec<_> = causes()
                .map(|(by, (events, _))| point(cause(by.as_str()), *events))
                .collect();
            events.push(point(cause("malformed"), losses.malformed()));
            all.push(sum(
                "observer.capture.lost",
                "{event}",
                "Events that were lost",
                events,
            ));
            all.push(sum(
                "observer.capture.lost_bytes",
                "By",
                "Plaintext that was lost",
                causes()
                    .map(|(by, (_, bytes))| point(cause(by.as_str()), *bytes))
                    .collect(),
            ));
        }
        for (name, unit, description, value) in [
            (
                "observer.processes",
                "{process}",
                "Processes that have used a connection, and live",
                health.processes,
            ),
            (
                "observer.connections",
                "{connection}",
                "Connections that are followed",
                health.connections,
            ),
            (
                "observer.traces",
                "{trace}",
                "Traces that are open",
                health.traces,
            ),
        ] {
            all.push(gauge(
                name,
                unit,
                description,
                vec![point(Vec::new(), value as u64)],
            ));
        }
        if !health.queues.is_empty() {
            let exporter = |name: &str| vec![string("observer.exporter", name)];
            all.push(gauge(
                "observer.export.queued",
                "{record}",
                "Records that wait for an exporter",
                health
                    .queues
                    .iter()
                    .map(|(name, length, _)| point(exporter(name), *length as u64))
                    .collect(),
            ));
            all.push(sum(
                "observer.export.dropped",
                "{record}",
                "Records that an exporter could not take in time",
                health
                    .queues
                    .iter()
                    .map(|(name, _, dropped)| point(exporter(name), *dropped))
                    .collect(),
            ));
        }
        all
    }
}

impl Labels {
    fn attributes(&self) -> Vec<KeyValue> {
        if self.overflow {
            return vec![bool("otel.metric.overflow", true)];
        }
        let mut all = Vec::new();
        let mut text = |name: &str, value: Option<&str>| {
            all.extend(value.map(|value| string(name, value)));
        };
        text("gen_ai.operation.name", self.operation);
        text("gen_ai.provider.name", self.provider.map(provider));
        text("gen_ai.request.model", self.request_model.as_deref());
        text("gen_ai.response.model", self.response_model.as_deref());
        text("server.address", self.server_address.as_deref());
        text("error.type", self.error.as_deref());
        if let Some((name, value)) = &self.kind {
            text(name, Some(value));
        }
        if let Some(port) = self.server_port {
            all.push(int("server.port", i64::from(port)));
        }
        all
    }
}

fn metric(instrument: Instrument) -> Metric {
    let (name, unit, description, bounds) = instrument.about();
    if bounds.is_empty() {
        return sum(name, unit, description, Vec::new());
    }
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: description.to_owned(),
        data: Some(Data::Histogram(Histogram {
            data_points: Vec::new(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        })),
        ..Metric::default()
    }
}

fn sum(name: &str, unit: &str, description: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: description.to_owned(),
        data: Some(Data::Sum(Sum {
            data_points,
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        })),
        ..Metric::default()
    }
}

fn gauge(name: &str, unit: &str, description: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: description.to_owned(),
        data: Some(Data::Gauge(Gauge { data_points })),
        ..Metric::default()
    }
}

fn push(data: &mut Data, instrument: Instrument, labels: &Labels, series: &Series, time: u64) {
    let (_, _, _, bounds) = instrument.about();
    match (data, &series.data) {
        (
            Data::Histogram(histogram),
            Numbers::Histogram {
                count,
                sum,
                min,
                max,
                buckets,
            },
        ) => histogram.data_points.push(HistogramDataPoint {
            attributes: labels.attributes(),
            start_time_unix_nano: series.start,
            time_unix_nano: time,
            count: *count,
            sum: Some(*sum),
            min: Some(*min),
            max: Some(*max),
            bucket_counts: buckets.clone(),
            explicit_bounds: bounds.to_vec(),
            ..HistogramDataPoint::default()
        }),
        (Data::Sum(sum), Numbers::Sum(value)) => sum.data_points.push(NumberDataPoint {
            attributes: labels.attributes(),
            start_time_unix_nano: series.start,
            time_unix_nano: time,
            value: Some(number_data_point::Value::AsInt(
                i64::try_from(*value).unwrap_or(i64::MAX),
            )),
            ..NumberDataPoint::default()
        }),
        _ => {}
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of tokens are far smaller"
)]
fn float(tokens: u64) -> f64 {
    tokens as f64
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;
    use crate::trace::record::tests::{call, failed_call};

    fn origin(number: u64) -> Arc<Origin> {
        Arc::new(Origin {
            number,
            resource: Resource::default(),
        })
    }

    /// Name, attributes and value of each point.
    fn points(metrics: &mut Metrics) -> Vec<String> {
        let request = metrics.collect(Delivery::default());
        let mut all = Vec::new();
        for resource in request.resource_metrics {
            for metric in resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics)
            {
                let shown = |attributes: &[KeyValue]| -> String {
                    let shown = attributes.iter().map(|attribute| {
                        let value = attribute.value.clone().unwrap().value.unwrap();
                        format!("{}={value:?}", attribute.key)
                    });
                    shown.collect::<Vec<_>>().join(" ")
                };
                match metric.data.unwrap() {
                    Data::Histogram(data) => all.extend(data.data_points.iter().map(|point| {
                        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                        assert!(point.start_time_unix_nano <= point.time_unix_nano);
                        let first = point.bucket_counts.iter().position(|count| *count > 0);
                        format!(
                            "{} {} {{{}}} count {} sum {:?} first bucket {first:?}",
                            metric.name,
                            metric.unit,
                            shown(&point.attributes),
                            point.count,
                            point.sum.unwrap()
                        )
                    })),
                    Data::Sum(data) => all.extend(data.data_points.iter().map(|point| {
                        format!(
                            "{} {} {{{}}} {:?}",
                            metric.name,
                            metric.unit,
                            shown(&point.attributes),
                            point.value.unwrap()
                        )
                    })),
                    _ => {}
                }
            }
        }
        all
    }

    fn after_calls(semconv: Semconv) -> String {
        let mut metrics = Metrics::new(semconv, origin(0));
        metrics.call(&call(), &origin(1));
        metrics.call(&call(), &origin(1));
        metrics.call(&failed_call(), &origin(2));
        points(&mut metrics).join("\n")
    }

    #[test]
    fn calls_as_metrics() {
        insta::assert_snapshot!(after_calls(Semconv::V1_41));
    }

    #[test]
    fn calls_as_metrics_by_the_latest_names() {
        insta::assert_snapshot!(after_calls(Semconv::Latest));
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below() {
        let mut metrics = Metrics::new(Semconv::V1_41, origin(0));
        let tokens = CallRecord {
            input_tokens: Some(16),
            output_tokens: Some(17),
            ..call()
        };
        metrics.call(&tokens, &origin(1));
        let text = points(&mut metrics).join("\n");
        assert!(text.contains("sum 16.0 first bucket Some(2)"), "{text}");
        assert!(text.contains("sum 17.0 first bucket Some(3)"), "{text}");
    }

    #[test]
    fn series_have_a_bound() {
        let mut metrics = Metrics::new(Semconv::V1_41, origin(0));
        for number in 0..3 * SERIES {
            let call = CallRecord {
                model: Some(format!("model-{number}")),
                stream: false,
                input_tokens: None,
                output_tokens: None,
                ..call()
            };
            metrics.call(&call, &origin(1));
        }
        let points = points(&mut metrics);
        let durations = points
            .iter()
            .filter(|point| point.starts_with("gen_ai.client.operation.duration"));
        assert_eq!(durations.count(), SERIES);
        let rest = points
            .iter()
            .find(|point| point.contains("otel.metric.overflow=BoolValue(true)"));
        let rest = rest.unwrap();
        assert!(
            rest.contains(&format!("count {} ", 2 * SERIES + 1)),
            "{rest}"
        );
    }
}
