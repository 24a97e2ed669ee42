//! Calls as metrics, and how the agent does.
//!
//! Names, units and bounds: OpenTelemetry GenAI semantic conventions 1.41 (`docs/gen-ai/gen-ai-metrics.md`), and those
//! of semantic-conventions-genai as of November 2026 for [`Semconv::Latest`].

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    mem,
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
use prost::Message as _;

use super::{
    resource::{Origin, bool, int, scope, string},
    settings::{Semconv, Temporality},
    spans::{provider, schema_url, seconds},
    worker::BATCH_BYTES,
};
use crate::{
    export::Health,
    trace::{CallRecord, TraceRecord},
};

/// Series of one instrument, over all processes. OpenTelemetry's default.
const SERIES: usize = 2_000;

/// Series that nothing is added to for so long are not told of any longer: processes come and go.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// Of what frames a metric or a resource in a request, at most: tags and lengths, the scope, the schema's URLs.
const FRAME: usize = 256;

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

/// The number of the origin, the instrument, and what tells series of it apart.
type Key = (u64, Instrument, Labels);

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

impl Numbers {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (
                Self::Histogram {
                    count,
                    sum,
                    min,
                    max,
                    buckets,
                },
                Self::Histogram {
                    count: other_count,
                    sum: other_sum,
                    min: other_min,
                    max: other_max,
                    buckets: other_buckets,
                },
            ) => {
                *count += other_count;
                *sum += other_sum;
                *min = min.min(other_min);
                *max = max.max(other_max);
                for (bucket, other) in buckets.iter_mut().zip(other_buckets) {
                    *bucket += other;
                }
            }
            (Self::Sum(sum), Self::Sum(other)) => *sum = sum.saturating_add(other),
            // An instrument is of one kind.
            _ => {}
        }
    }
}

/// What is known of the delivery of spans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivery {
    pub(super) delivered: u64,
    pub(super) rejected: u64,
    pub(super) dropped: u64,
}

/// A request of metrics.
pub(super) struct Part {
    pub(super) request: ExportMetricsServiceRequest,
    pub(super) told: Told,
}

/// What a request tells of: to be given back once it is known whether the request was taken.
pub(super) struct Told {
    at: Instant,
    /// Series that are told of as a whole.
    whole: Vec<Key>,
    /// What was added to series, and is no longer kept.
    taken: Vec<(Key, Series)>,
    /// How the agent does, since its start.
    own: Vec<Metric>,
}

/// All that is counted.
pub(super) struct Metrics {
    semconv: Semconv,
    temporality: Temporality,
    agent: Arc<Origin>,
    start: u64,
    series: HashMap<Key, Series>,
    /// Number of series of each instrument.
    counts: BTreeMap<Instrument, usize>,
    health: Option<Health>,
    /// How the agent did when that was last delivered, by the names of the metrics.
    delivered: HashMap<String, Metric>,
}

impl Metrics {
    pub(super) fn new(semconv: Semconv, temporality: Temporality, agent: Arc<Origin>) -> Self {
        Self {
            semconv,
            temporality,
            agent,
            start: now(),
            series: HashMap::new(),
            counts: BTreeMap::new(),
            health: None,
            delivered: HashMap::new(),
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
            error: call.error().map(Cow::into_owned),
            ..labels.clone()
        };
        self.observe(origin, duration, timed, seconds(call.latency_ns));
        if call.stream
            && let Some(time) = call.time_to_first_token_ns
        {
            self.observe(origin, first_chunk, labels.clone(), seconds(time));
        }
        if !latest {
            for (kind, tokens) in [("input", call.input()), ("output", call.output())] {
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

    /// All, as requests that are small enough for every server.
    pub(super) fn collect(&mut self, delivery: Delivery) -> Vec<Part> {
        let time = now();
        let mut parts = Parts::new(schema_url(self.semconv));
        if self.temporality.is_delta() {
            self.counts.clear();
            let mut ordered: Vec<_> = mem::take(&mut self.series).into_iter().collect();
            ordered.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            for (key, series) in ordered {
                let metric = metric(&key, &series, time, AggregationTemporality::Delta);
                let told = parts.add(&series.origin, metric);
                told.taken.push((key, series));
            }
        } else {
            let mut ordered: Vec<_> = self.series.iter().collect();
            ordered.sort_unstable_by_key(|(key, _)| *key);
            for (key, series) in ordered {
                let metric = metric(key, series, time, AggregationTemporality::Cumulative);
                let told = parts.add(&series.origin, metric);
                told.whole.push(key.clone());
            }
        }
        for metric in self.own(delivery, time) {
            let sent = match self.temporality {
                Temporality::Delta => self.since_delivered(metric.clone()),
                Temporality::Cumulative | Temporality::LowMemory => metric.clone(),
            };
            parts.add(&self.agent, sent).own.push(metric);
        }
        parts.finish()
    }

    /// A request was taken. What it tells of series that have ended is the last that is to be said of them.
    pub(super) fn taken(&mut self, told: Told) {
        for key in told.whole {
            self.forget(&key, told.at);
        }
        let own = told.own.into_iter();
        self.delivered
            .extend(own.map(|metric| (metric.name.clone(), metric)));
    }

    /// A request was not taken: what it tells of is to be told again.
    pub(super) fn lost(&mut self, told: Told) {
        for ((_, instrument, labels), before) in told.taken {
            let series = self.series(&before.origin, instrument, labels);
            series.start = series.start.min(before.start);
            series.data.add(before.data);
        }
    }

    /// Ends a series of which all was told at that time, if nothing has been added to it for long.
    fn forget(&mut self, key: &Key, told: Instant) {
        let has_ended =
            |series: &Series| series.updated < told && series.updated.elapsed() >= FORGOTTEN;
        if self.series.get(key).is_some_and(has_ended) {
            self.series.remove(key);
            if let Some(count) = self.counts.get_mut(&key.1) {
                *count -= 1;
            }
        }
    }

    /// What a counter of the agent's has come to since it was last delivered.
    fn since_delivered(&self, mut metric: Metric) -> Metric {
        let Some(Data::Sum(sum)) = &mut metric.data else {
            return metric;
        };
        sum.aggregation_temporality = AggregationTemporality::Delta.into();
        let before = self.delivered.get(&metric.name);
        let Some(Data::Sum(before)) = before.and_then(|before| before.data.as_ref()) else {
            return metric;
        };
        for point in &mut sum.data_points {
            let mut points = before.data_points.iter();
            let before = points.find(|before| before.attributes == point.attributes);
            if let Some(before) = before
                && let (
                    Some(number_data_point::Value::AsInt(value)),
                    Some(number_data_point::Value::AsInt(told)),
                ) = (&mut point.value, &before.value)
            {
                *value = value.saturating_sub(*told).max(0);
                point.start_time_unix_nano = before.time_unix_nano;
            }
        }
        metric
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

/// Puts metrics together to requests.
struct Parts {
    schema_url: &'static str,
    done: Vec<Part>,
    open: Part,
    /// Where the resources are in the open request.
    places: HashMap<u64, usize>,
    /// Length of the open request, at most.
    bytes: usize,
}

impl Parts {
    fn new(schema_url: &'static str) -> Self {
        Self {
            schema_url,
            done: Vec::new(),
            open: Part::new(Instant::now()),
            places: HashMap::new(),
            bytes: 0,
        }
    }

    /// Adds a metric, with what is there of the same if that is the last one.
    fn add(&mut self, origin: &Origin, metric: Metric) -> &mut Told {
        let resource = origin.resource.encoded_len() + FRAME;
        let length = metric.encoded_len() + FRAME;
        let is_there = self.places.contains_key(&origin.number);
        let more = if is_there { length } else { length + resource };
        if self.bytes > 0 && self.bytes + more > BATCH_BYTES {
            self.cut();
        }
        let all = &mut self.open.request.resource_metrics;
        let at = *self.places.entry(origin.number).or_insert_with(|| {
            self.bytes += resource;
            all.push(ResourceMetrics {
                resource: Some(origin.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics: Vec::new(),
                    schema_url: self.schema_url.to_owned(),
                }],
                schema_url: self.schema_url.to_owned(),
            });
            all.len() - 1
        });
        self.bytes += length;
        let scope = all
            .get_mut(at)
            .and_then(|resource| resource.scope_metrics.first_mut());
        if let Some(ScopeMetrics { metrics, .. }) = scope {
            match metrics.last_mut() {
                Some(last) if last.name == metric.name => join(last, metric),
                _ => metrics.push(metric),
            }
        }
        &mut self.open.told
    }

    fn cut(&mut self) {
        let next = Part::new(self.open.told.at);
        self.done.push(mem::replace(&mut self.open, next));
        self.places.clear();
        self.bytes = 0;
    }

    fn finish(mut self) -> Vec<Part> {
        if self.bytes > 0 {
            self.cut();
        }
        self.done
    }
}

impl Part {
    fn new(at: Instant) -> Self {
        Self {
            request: ExportMetricsServiceRequest::default(),
            told: Told {
                at,
                whole: Vec::new(),
                taken: Vec::new(),
                own: Vec::new(),
            },
        }
    }
}

/// Adds the points of the same metric.
fn join(metric: &mut Metric, more: Metric) {
    match (&mut metric.data, more.data) {
        (Some(Data::Histogram(all)), Some(Data::Histogram(more))) => {
            all.data_points.extend(more.data_points);
        }
        (Some(Data::Sum(all)), Some(Data::Sum(more))) => all.data_points.extend(more.data_points),
        _ => {}
    }
}

/// A series, as a metric of one point.
fn metric(
    (_, instrument, labels): &Key,
    series: &Series,
    time: u64,
    temporality: AggregationTemporality,
) -> Metric {
    let (name, unit, description, bounds) = instrument.about();
    let data = match &series.data {
        Numbers::Histogram {
            count,
            sum,
            min,
            max,
            buckets,
        } => Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint {
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
            }],
            aggregation_temporality: temporality.into(),
        }),
        Numbers::Sum(value) => Data::Sum(Sum {
            data_points: vec![NumberDataPoint {
                attributes: labels.attributes(),
                start_time_unix_nano: series.start,
                time_unix_nano: time,
                value: Some(number_data_point::Value::AsInt(
                    i64::try_from(*value).unwrap_or(i64::MAX),
                )),
                ..NumberDataPoint::default()
            }],
            aggregation_temporality: temporality.into(),
            is_monotonic: true,
        }),
    };
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: description.to_owned(),
        data: Some(data),
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
        let parts = metrics.collect(Delivery::default());
        let mut all = Vec::new();
        let requests = parts.into_iter().map(|part| part.request);
        for resource in requests.flat_map(|request| request.resource_metrics) {
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
        let mut metrics = Metrics::new(semconv, Temporality::Cumulative, origin(0));
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
        let mut metrics = Metrics::new(Semconv::V1_41, Temporality::Cumulative, origin(0));
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
        let mut metrics = Metrics::new(Semconv::V1_41, Temporality::Cumulative, origin(0));
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

    /// The sums of the durations' counts by their metric, and those of the agent's spans that were delivered.
    fn counted(parts: &[Part]) -> (u64, i64) {
        let (mut calls, mut spans) = (0, 0);
        let resources = parts.iter().flat_map(|part| &part.request.resource_metrics);
        let scopes = resources.flat_map(|resource| &resource.scope_metrics);
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            match (metric.name.as_str(), metric.data.as_ref().unwrap()) {
                ("gen_ai.client.operation.duration", Data::Histogram(data)) => {
                    calls += data
                        .data_points
                        .iter()
                        .map(|point| point.count)
                        .sum::<u64>();
                }
                ("observer.otlp.spans", Data::Sum(data)) => {
                    let Some(number_data_point::Value::AsInt(value)) = data.data_points[0].value
                    else {
                        panic!("{data:?}");
                    };
                    spans += value;
                }
                _ => {}
            }
        }
        (calls, spans)
    }

    fn delivered(delivered: u64) -> Delivery {
        Delivery {
            delivered,
            ..Delivery::default()
        }
    }

    #[test]
    fn a_series_ends_once_its_last_value_is_delivered() {
        let mut metrics = Metrics::new(Semconv::V1_41, Temporality::Cumulative, origin(0));
        let age = |metrics: &mut Metrics| {
            let long_ago = Instant::now().checked_sub(FORGOTTEN).unwrap();
            for series in metrics.series.values_mut() {
                series.updated = long_ago;
            }
        };
        let collect = |metrics: &mut Metrics| {
            let parts = metrics.collect(Delivery::default());
            (counted(&parts).0, parts)
        };
        let taken = |metrics: &mut Metrics, parts: Vec<Part>| {
            for part in parts {
                metrics.taken(part.told);
            }
        };
        metrics.call(&call(), &origin(1));
        age(&mut metrics);
        // Not delivered.
        let (calls, parts) = collect(&mut metrics);
        assert_eq!(calls, 1);
        for part in parts {
            metrics.lost(part.told);
        }
        // Delivered, but without what has come meanwhile.
        let (calls, parts) = collect(&mut metrics);
        assert_eq!(calls, 1);
        metrics.call(&call(), &origin(1));
        taken(&mut metrics, parts);
        let (calls, parts) = collect(&mut metrics);
        assert_eq!(calls, 2);
        taken(&mut metrics, parts);
        // Delivered, and nothing has come for long.
        age(&mut metrics);
        let (calls, parts) = collect(&mut metrics);
        assert_eq!(calls, 2);
        taken(&mut metrics, parts);
        assert_eq!(collect(&mut metrics).0, 0);
        assert!(metrics.series.is_empty() && metrics.counts.values().all(|count| *count == 0));
    }

    #[test]
    fn deltas_tell_of_all_once() {
        for (temporality, spans) in [
            (Temporality::Delta, [7, 9, 2]),
            (Temporality::LowMemory, [7, 9, 11]),
        ] {
            let mut metrics = Metrics::new(Semconv::V1_41, temporality, origin(0));
            let slow = CallRecord {
                latency_ns: 10_000_000_000,
                ..call()
            };
            metrics.call(&call(), &origin(1));
            let parts = metrics.collect(delivered(7));
            assert_eq!(counted(&parts), (1, spans[0]));
            metrics.call(&slow, &origin(1));
            for part in parts {
                metrics.lost(part.told);
            }
            // What was lost, with what has come meanwhile.
            let parts = metrics.collect(delivered(9));
            assert_eq!(counted(&parts), (2, spans[1]));
            let durations =
                parts[0].request.resource_metrics[0].scope_metrics[0].metrics[0].clone();
            let Some(Data::Histogram(data)) = durations.data else {
                panic!("{durations:?}");
            };
            assert_eq!(
                data.aggregation_temporality(),
                AggregationTemporality::Delta
            );
            let [point] = &data.data_points[..] else {
                panic!("{data:?}");
            };
            let first = seconds(call().latency_ns);
            assert_eq!(point.sum, Some(first + 10.0));
            assert_eq!((point.min, point.max), (Some(first), Some(10.0)));
            assert_eq!(point.bucket_counts.iter().sum::<u64>(), 2);
            for part in parts {
                metrics.taken(part.told);
            }
            metrics.call(&call(), &origin(1));
            let parts = metrics.collect(delivered(11));
            assert_eq!(counted(&parts), (1, spans[2]));
            for part in parts {
                metrics.taken(part.told);
            }
            assert_eq!(counted(&metrics.collect(delivered(11))).0, 0);
        }
    }

    #[test]
    fn requests_have_a_bound_and_nothing_is_in_two() {
        for (temporality, origins) in [
            (Temporality::Cumulative, 1),
            (Temporality::Cumulative, 400),
            (Temporality::Delta, 3),
        ] {
            let mut metrics = Metrics::new(Semconv::V1_41, temporality, origin(0));
            for number in 0..1_900 {
                let call = CallRecord {
                    model: Some(format!("{number}-{}", "m".repeat(700))),
                    ..call()
                };
                metrics.call(&call, &large_origin(1 + number % origins));
            }
            let series = metrics.series.len();
            assert!(series > 3_000, "{series}");
            let parts = metrics.collect(Delivery::default());
            assert!(parts.len() > 1);
            for part in &parts {
                let length = part.request.encoded_len();
                assert!(length <= BATCH_BYTES, "{length}");
            }
            assert_eq!(counted(&parts).0, 1_900);
            // A part that is lost is told again, and no other.
            let mut before = 0;
            for (at, part) in parts.into_iter().enumerate() {
                if at == 1 {
                    before = part.told.taken.len();
                    metrics.lost(part.told);
                } else {
                    metrics.taken(part.told);
                }
            }
            let again = if temporality.is_delta() {
                before
            } else {
                series
            };
            assert_eq!(metrics.series.len(), again);
        }
    }

    fn large_origin(number: u64) -> Arc<Origin> {
        let attributes = vec![string("process.executable.path", &"p".repeat(3_000))];
        Arc::new(Origin {
            number,
            resource: Resource {
                attributes,
                ..Resource::default()
            },
        })
    }
}
