//! What is counted, and how it is exposed. Everything is bounded, whatever names calls have: past a number of sets of
//! labels, labels whose values come from the wire are `other`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fmt, iter, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::Loss;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::Label;
use crate::{
    attach::pod::Pod,
    export::Health,
    trace::{CallRecord, CallStarted, OtherRequest, TraceRecord},
};

/// Longest value of a label, in characters.
const VALUE: usize = 128;

/// The value of labels that are not told apart any more.
const OTHER: &str = "other";

/// The value of labels that nobody knows.
const UNKNOWN: &str = "unknown";

/// Calls under way that are known at once.
const IN_FLIGHT: usize = 65_536;

/// When a call whose end has not been heard of is under way no more.
const FORGET_AFTER: Duration = Duration::from_secs(3_600);

/// Where there is no room for another set of labels, those go that no call has had for so long: as with OTLP.
const IDLE: Duration = Duration::from_secs(15 * 60);

/// Bounds of buckets in seconds that OpenTelemetry advises for durations (GenAI conventions 1.41).
const BOUNDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// A metric.
#[derive(Debug)]
pub(super) struct Spec {
    /// Its name, without the suffix that is the type's.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

macro_rules! specs {
    ($($id:ident = $name:literal $kind:ident $help:literal;)*) => {
        $(static $id: Spec = Spec { name: $name, kind: Kind::$kind, help: $help };)*

        /// All metrics.
        #[cfg(test)]
        pub(super) static ALL: &[&Spec] = &[$(&$id),*];
    };
}

specs! {
    CALLS = "gen_ai_client_calls" Counter "LLM calls, failed ones included";
    ERRORS = "gen_ai_client_errors" Counter "LLM calls that failed";
    TOKENS = "gen_ai_client_tokens" Counter "Tokens as providers count them; cached, cache_write and audio are part of input, reasoning and audio of output";
    COST = "gen_ai_client_cost_usd" Counter "What calls cost in US dollars, as far as it is known";
    DURATION = "gen_ai_client_operation_duration_seconds" Histogram "First byte of the request to last byte of the answer";
    FIRST_TOKEN = "gen_ai_client_operation_time_to_first_chunk_seconds" Histogram "First byte of the request to first non-empty delta, of streams";
    TOOL_CALLS = "gen_ai_client_tool_calls" Counter "Calls of tools that models asked for";
    IN_FLIGHT_CALLS = "gen_ai_client_calls_in_flight" Gauge "LLM calls whose answer is awaited";
    TRACES = "observer_traces" Counter "Traces that ended, by the rule that made them";
    OTHER_REQUESTS = "observer_other_requests" Counter "Requests to hosts of LLM providers that were no calls";
    OPEN_TRACES = "observer_open_traces" Gauge "Traces that have not ended";
    PROCESSES = "observer_processes" Gauge "Processes that have been seen to use a connection, and live";
    CONNECTIONS = "observer_connections" Gauge "Connections that are followed";
    CAPTURED_RECORDS = "observer_capture_records" Counter "Records that the kernel's programs have handed over";
    CAPTURED_BYTES = "observer_capture_bytes" Counter "Plaintext bytes that were looked at";
    LOST_RECORDS = "observer_capture_lost_records" Counter "Records lost between the watched processes and the agent";
    LOST_BYTES = "observer_capture_lost_bytes" Counter "Plaintext bytes of lost records";
    QUEUED = "observer_export_queued_records" Gauge "Records that wait for an exporter";
    DROPPED = "observer_export_dropped_records" Counter "Records that an exporter could not take in time";
    PODS = "observer_kubernetes_pods" Gauge "Pods that are known";
    HELD = "observer_kubernetes_held_records" Gauge "Records that wait until it is known what their pod is called";
    WITHHELD = "observer_kubernetes_withheld_records" Counter "Records that were not handed on, as it was not known whether their pod is selected";
    FAILURES = "observer_kubernetes_failures" Counter "Questions about pods that the kubelet or the API server did not answer";
    FOLDED = "observer_metrics_folded" Counter "Updates that were counted under the value other, as there were too many sets of labels";
    TURN_AGE = "observer_turn_age_seconds" Gauge "Time since the agent's loop last said how it does; it does so every second";
    BUILD = "observer_build" Info "The agent";
    CPU = "process_cpu_seconds" Counter "User and system CPU time of the agent in seconds";
    RESIDENT = "process_resident_memory_bytes" Gauge "Resident memory of the agent in bytes";
    VIRTUAL = "process_virtual_memory_bytes" Gauge "Virtual memory of the agent in bytes";
    OPEN_FDS = "process_open_fds" Gauge "File descriptors that the agent has open";
    MAX_FDS = "process_max_fds" Gauge "File descriptors that the agent may have open";
    THREADS = "process_threads" Gauge "Threads of the agent";
    STARTED = "process_start_time_seconds" Gauge "Start of the agent in seconds since the epoch";
}

impl Spec {
    /// The name in samples; of histograms what their suffixes follow.
    #[cfg(test)]
    pub(super) fn sample(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Info => format!("{}_info", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
        }
    }
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }
}

/// A label: what is borrowed is ours, what is owned comes from elsewhere.
type Pair = (&'static str, Cow<'static, str>);

/// The labels of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Labels {
    common: Arc<[Pair]>,
    own: Option<Pair>,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.common
            .iter()
            .chain(&self.own)
            .filter(|(_, value)| !value.is_empty())
            .try_for_each(|(name, value)| (*name, &**value).encode(encoder.encode_label()))
    }
}

impl Labels {
    fn of(name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self {
            common: Arc::default(),
            own: Some((name, value.into())),
        }
    }
}

/// Observations by size.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    sum: f64,
    count: u64,
    /// Those up to each of [`BOUNDS`] that are in no smaller one; last those beyond.
    buckets: [u64; BOUNDS.len() + 1],
}

impl Histogram {
    fn observe(&mut self, nanoseconds: u64) {
        let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
        self.sum += seconds;
        self.count += 1;
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
    }
}

/// Series of one metric.
type Family<V> = HashMap<Labels, V>;

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    max: usize,
    by: Vec<Label>,
    /// The sets of labels that calls have had, and when they last had them.
    common: HashMap<Arc<[Pair]>, Instant>,
    /// Until then no set is idle, and none has to be looked for.
    crowded_until: Option<Instant>,
    calls: Family<u64>,
    errors: Family<u64>,
    tokens: Family<u64>,
    cost: Family<f64>,
    duration: Family<Histogram>,
    first_token: Family<Histogram>,
    tool_calls: Family<u64>,
    traces: Family<u64>,
    others: Family<u64>,
    /// By the first label that was folded.
    folded: BTreeMap<&'static str, u64>,
    in_flight: HashMap<String, (&'static str, Instant)>,
    health: Option<(Health, Instant)>,
}

impl Metrics {
    /// Nothing yet. `max` sets of labels are told apart, which also have those of `by`.
    pub(super) fn new(max: usize, by: Vec<Label>) -> Self {
        Self {
            max,
            by,
            common: HashMap::new(),
            crowded_until: None,
            calls: Family::new(),
            errors: Family::new(),
            tokens: Family::new(),
            cost: Family::new(),
            duration: Family::new(),
            first_token: Family::new(),
            tool_calls: Family::new(),
            traces: Family::new(),
            others: Family::new(),
            folded: BTreeMap::new(),
            in_flight: HashMap::new(),
            health: None,
        }
    }

    /// Takes a call that is over.
    pub(super) fn call(&mut self, call: &CallRecord) {
        self.in_flight.remove(&call.span_id);
        let common = self.common(call);
        let plain = Labels {
            common: Arc::clone(&common),
            own: None,
        };
        let with = |name, value: &'static str| Labels {
            common: Arc::clone(&common),
            own: Some((name, Cow::Borrowed(value))),
        };
        *self.calls.entry(plain.clone()).or_default() += 1;
        for (kind, tokens) in [
            ("input", call.input()),
            ("output", call.output()),
            ("cached", call.cached_tokens),
            ("cache_write", call.cache_write_tokens),
            ("reasoning", call.reasoning_tokens),
            ("audio_input", call.audio_input_tokens),
            ("audio_output", call.audio_output_tokens),
        ] {
            if let Some(tokens) = tokens {
                let sum = self.tokens.entry(with("gen_ai_token_type", kind));
                let sum = sum.or_default();
                *sum = sum.saturating_add(tokens);
            }
        }
        // A counter never falls.
        if let Some(usd) = call
            .cost_usd
            .filter(|usd| usd.is_finite() && usd.is_sign_positive())
        {
            let source = call.cost_source.unwrap_or(UNKNOWN);
            *self.cost.entry(with("cost_source", source)).or_default() += usd;
        }
        let duration = self.duration.entry(plain.clone()).or_default();
        duration.observe(call.latency_ns);
        if let Some(time) = call.time_to_first_token_ns {
            self.first_token.entry(plain).or_default().observe(time);
        }
        if let Some(error) = call.error() {
            let labels = Labels {
                common: Arc::clone(&common),
                own: Some(("error_type", value(&error).into())),
            };
            self.errors(labels);
        }
        for tool in &call.tool_calls {
            let labels = Labels {
                common: Arc::clone(&common),
                own: Some(("gen_ai_tool_name", value(tool).into())),
            };
            let Self {
                max,
                folded,
                tool_calls,
                ..
            } = self;
            *bounded(tool_calls, labels, *max, folded) += 1;
        }
    }

    fn errors(&mut self, labels: Labels) {
        *bounded(&mut self.errors, labels, self.max, &mut self.folded) += 1;
    }

    /// Takes a trace that is over.
    pub(super) fn trace(&mut self, trace: &TraceRecord) {
        let labels = Labels::of("source", trace.source);
        *self.traces.entry(labels).or_default() += 1;
    }

    /// Takes a call that begins.
    pub(super) fn started(&mut self, call: &CallStarted) {
        let provider = call.provider.unwrap_or(UNKNOWN);
        if let Some((known, _)) = self.in_flight.get_mut(&call.span_id) {
            *known = provider;
        } else if self.in_flight.len() < IN_FLIGHT {
            let span_id = call.span_id.clone();
            self.in_flight.insert(span_id, (provider, Instant::now()));
        }
    }

    /// Takes that a call was none.
    pub(super) fn dismissed(&mut self, span_id: &str) {
        self.in_flight.remove(span_id);
    }

    /// Takes a request that was no call.
    pub(super) fn other(&mut self, request: &OtherRequest) {
        let labels = Labels::of("server_address", value(&request.server_address));
        *bounded(&mut self.others, labels, self.max, &mut self.folded) += 1;
    }

    /// Takes how the agent does.
    pub(super) fn health(&mut self, health: &Health) {
        let now = Instant::now();
        self.health = Some((health.clone(), now));
        self.in_flight
            .retain(|_, (_, since)| now.duration_since(*since) < FORGET_AFTER);
    }

    /// How the agent did, and how long ago that was.
    pub(super) fn last_health(&self) -> Option<(&Health, Duration)> {
        let (health, at) = self.health.as_ref()?;
        Some((health, at.elapsed()))
    }

    /// Everything as it is now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut metrics = vec![
            (&CALLS, series(&self.calls, |n| Value::Count(*n))),
            (&ERRORS, series(&self.errors, |n| Value::Count(*n))),
            (&TOKENS, series(&self.tokens, |n| Value::Count(*n))),
            (&COST, series(&self.cost, |usd| Value::Sum(*usd))),
            (&DURATION, series(&self.duration, histogram)),
            (&FIRST_TOKEN, series(&self.first_token, histogram)),
            (&TOOL_CALLS, series(&self.tool_calls, |n| Value::Count(*n))),
            (&IN_FLIGHT_CALLS, self.in_flight()),
            (&TRACES, series(&self.traces, |n| Value::Count(*n))),
            (&OTHER_REQUESTS, series(&self.others, |n| Value::Count(*n))),
        ];
        let folded = self.folded.iter();
        let folded = folded.map(|(label, n)| (Labels::of("label", *label), Value::Count(*n)));
        metrics.push((&FOLDED, folded.collect()));
        if let Some((health, age)) = self.last_health() {
            metrics.extend(of_agent(health, age));
        }
        let build = Labels::of("version", env!("CARGO_PKG_VERSION"));
        metrics.push((&BUILD, vec![(build, Value::Info)]));
        Snapshot(metrics)
    }

    fn in_flight(&self) -> Vec<(Labels, Value)> {
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        // What was there once stays, at 0.
        let known = self.calls.keys().filter_map(|labels| labels.common.first());
        for (_, provider) in known {
            if let Cow::Borrowed(provider) = provider {
                counts.entry(provider).or_default();
            }
        }
        for (provider, _) in self.in_flight.values() {
            *counts.entry(provider).or_default() += 1;
        }
        if counts.is_empty() {
            counts.insert(UNKNOWN, 0);
        }
        let counts = counts.into_iter();
        let label = |provider| Labels::of("gen_ai_provider_name", provider);
        counts
            .map(|(provider, n)| (label(provider), Value::Gauge(n as f64)))
            .collect()
    }

    /// The labels that all metrics of a call have.
    fn common(&mut self, call: &CallRecord) -> Arc<[Pair]> {
        let model = call.asked_for();
        let model = model.map_or(Cow::Borrowed(UNKNOWN), |model| value(model).into());
        let mut labels: Vec<Pair> = vec![
            ("gen_ai_provider_name", call.provider.into()),
            ("gen_ai_operation_name", call.operation.into()),
            ("gen_ai_request_model", model),
        ];
        let pod = call.kubernetes.as_deref();
        let of_pod = |field: fn(&Pod) -> &Option<String>| pod.and_then(|pod| field(pod).as_ref());
        for by in &self.by {
            let mut add = |name, known: Option<&String>| {
                let known = known.map_or_else(String::new, |known| value(known));
                labels.push((name, known.into()));
            };
            match by {
                Label::Comm => add("comm", call.comm.as_ref()),
                Label::Container => add("container_id", call.container_id.as_ref()),
                Label::Namespace => add("k8s_namespace_name", of_pod(|pod| &pod.namespace)),
                Label::Workload => {
                    add("k8s_workload_kind", of_pod(|pod| &pod.workload_kind));
                    add("k8s_workload_name", of_pod(|pod| &pod.workload));
                }
                Label::Pod => add("k8s_pod_name", of_pod(|pod| &pod.pod)),
                Label::PodContainer => add("k8s_container_name", of_pod(|pod| &pod.container)),
                Label::Node => add("k8s_node_name", of_pod(|pod| &pod.node)),
            }
        }
        let now = Instant::now();
        if let Some((known, _)) = self.common.get_key_value(&labels[..]) {
            let known = Arc::clone(known);
            self.common.insert(Arc::clone(&known), now);
            return known;
        }
        if self.common.len() >= self.max && !self.make_room(now) {
            fold(labels.iter_mut(), &mut self.folded);
            // Few, as the rest of it is ours.
            return labels.into();
        }
        let labels: Arc<[Pair]> = labels.into();
        self.common.insert(Arc::clone(&labels), now);
        labels
    }

    /// Forgets the sets of labels that are idle, and their series. Returns whether there are any.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.crowded_until.is_some_and(|until| now < until) {
            return false;
        }
        let idle = |at: &Instant| now.duration_since(*at) >= IDLE;
        let gone: HashSet<Arc<[Pair]>> = self
            .common
            .extract_if(|_, at| idle(at))
            .map(|(labels, _)| labels)
            .collect();
        if gone.is_empty() {
            self.crowded_until = self.common.values().min().map(|oldest| *oldest + IDLE);
            return false;
        }
        self.crowded_until = None;
        fn forget<V>(family: &mut Family<V>, gone: &HashSet<Arc<[Pair]>>) {
            family.retain(|labels, _| !gone.contains(&labels.common));
        }
        forget(&mut self.calls, &gone);
        forget(&mut self.errors, &gone);
        forget(&mut self.tokens, &gone);
        forget(&mut self.cost, &gone);
        forget(&mut self.duration, &gone);
        forget(&mut self.first_token, &gone);
        forget(&mut self.tool_calls, &gone);
        true
    }

    /// As if time had passed since the last call.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        let age = |at: &mut Instant| *at = at.checked_sub(by).expect("the machine is older");
        self.common.values_mut().for_each(age);
        self.crowded_until.iter_mut().for_each(age);
    }
}

/// The series of these labels, or, if there is no room for another, of its kind.
fn bounded<'a>(
    family: &'a mut Family<u64>,
    mut labels: Labels,
    max: usize,
    folded: &mut BTreeMap<&'static str, u64>,
) -> &'a mut u64 {
    if family.len() >= max && !family.contains_key(&labels) {
        fold(labels.own.iter_mut(), folded);
    }
    family.entry(labels).or_default()
}

/// Makes what comes from elsewhere `other`.
fn fold<'a>(labels: impl Iterator<Item = &'a mut Pair>, folded: &mut BTreeMap<&'static str, u64>) {
    let mut first = true;
    for (name, value) in labels.filter(|(_, value)| matches!(value, Cow::Owned(_))) {
        *value = Cow::Borrowed(OTHER);
        if mem::take(&mut first) {
            *folded.entry(name).or_default() += 1;
        }
    }
}

/// A value of a label: cut, and without control characters, at some of which scrapers end; but for line feeds, which
/// have an escape.
fn value(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' => c,
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().take(VALUE).map(harmless).collect()
}

/// A value of a series.
#[derive(Clone, Debug)]
enum Value {
    Count(u64),
    Sum(f64),
    Gauge(f64),
    Histogram(Box<Histogram>),
    Info,
}

fn histogram(histogram: &Histogram) -> Value {
    Value::Histogram(Box::new(histogram.clone()))
}

fn series<V>(family: &Family<V>, value: impl Fn(&V) -> Value) -> Vec<(Labels, Value)> {
    let series = family.iter();
    series
        .map(|(labels, v)| (labels.clone(), value(v)))
        .collect()
}

type Exposed = (&'static Spec, Vec<(Labels, Value)>);

fn single(spec: &'static Spec, value: Value) -> Exposed {
    (spec, vec![(Labels::default(), value)])
}

fn of_agent(health: &Health, age: Duration) -> Vec<Exposed> {
    let mut exposed = vec![
        single(&OPEN_TRACES, Value::Gauge(health.traces as f64)),
        single(&PROCESSES, Value::Gauge(health.processes as f64)),
        single(&CONNECTIONS, Value::Gauge(health.connections as f64)),
        single(&CAPTURED_RECORDS, Value::Count(health.events)),
        single(&CAPTURED_BYTES, Value::Count(health.bytes)),
        single(&TURN_AGE, Value::Gauge(age.as_secs_f64())),
    ];
    if let Some(pods) = &health.pods {
        exposed.extend([
            single(&PODS, Value::Gauge(pods.pods as f64)),
            single(&HELD, Value::Gauge(pods.held as f64)),
            single(&WITHHELD, Value::Count(pods.withheld)),
            single(&FAILURES, Value::Count(pods.failures)),
        ]);
    }
    if let Some(losses) = &health.losses {
        let of = |cause: &str| Labels::of("cause", cause.replace(' ', "_"));
        let causes = || Loss::ALL.iter().zip(losses.counts());
        let records = causes().map(|(cause, (n, _))| (of(cause.as_str()), Value::Count(*n)));
        let malformed = (of("malformed"), Value::Count(losses.malformed()));
        exposed.push((&LOST_RECORDS, records.chain([malformed]).collect()));
        let bytes = causes().map(|(cause, (_, n))| (of(cause.as_str()), Value::Count(*n)));
        exposed.push((&LOST_BYTES, bytes.collect()));
    }
    let queues = || health.queues.iter();
    let of = |name: &'static str| Labels::of("exporter", name);
    let waiting = queues().map(|(name, n, _)| (of(name), Value::Gauge(*n as f64)));
    exposed.push((&QUEUED, waiting.collect()));
    let dropped = queues().map(|(name, _, n)| (of(name), Value::Count(*n)));
    exposed.push((&DROPPED, dropped.collect()));
    exposed
}

/// Everything as it was at some time.
#[derive(Debug)]
pub(super) struct Snapshot(Vec<Exposed>);

impl Snapshot {
    /// Adds what is known of the agent's process; what cannot be read is left out.
    pub(super) fn add_process(&mut self) {
        let Ok(process) = procfs::process::Process::myself() else {
            return;
        };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            let cpu = (stat.utime + stat.stime) as f64 / ticks;
            let resident = stat.rss.saturating_mul(procfs::page_size());
            self.0.extend([
                single(&CPU, Value::Sum(cpu)),
                single(&RESIDENT, Value::Gauge(resident as f64)),
                single(&VIRTUAL, Value::Gauge(stat.vsize as f64)),
                single(&THREADS, Value::Gauge(stat.num_threads as f64)),
            ]);
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = boot as f64 + stat.starttime as f64 / ticks;
                self.0.push(single(&STARTED, Value::Gauge(start)));
            }
        }
        if let Ok(open) = process.fd_count() {
            self.0.push(single(&OPEN_FDS, Value::Gauge(open as f64)));
        }
        if let Ok(limits) = process.limits() {
            let max = match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Unlimited => f64::INFINITY,
                procfs::process::LimitValue::Value(max) => max as f64,
            };
            self.0.push(single(&MAX_FDS, Value::Gauge(max)));
        }
    }

    /// Puts the series of each metric in order.
    pub(super) fn sort(&mut self) {
        for (_, series) in &mut self.0 {
            series.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let bounds = || BOUNDS.into_iter().chain(iter::once(f64::INFINITY));
        for (spec, series) in self.0.iter().filter(|(_, series)| !series.is_empty()) {
            let kind = spec.kind.metric_type();
            let mut metric = encoder.encode_descriptor(spec.name, spec.help, None, kind)?;
            for (labels, value) in series {
                if let Value::Info = value {
                    metric.encode_info(labels)?;
                    continue;
                }
                let mut metric = metric.encode_family(labels)?;
                match value {
                    Value::Count(n) => metric.encode_counter::<NoLabelSet, _, u64>(n, None)?,
                    Value::Sum(n) => metric.encode_counter::<NoLabelSet, _, f64>(n, None)?,
                    Value::Gauge(n) => metric.encode_gauge(n)?,
                    Value::Histogram(histogram) => {
                        let buckets = bounds().zip(histogram.buckets);
                        let buckets: Vec<(f64, u64)> = buckets.collect();
                        let Histogram { sum, count, .. } = **histogram;
                        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                    }
                    Value::Info => {}
                }
            }
        }
        Ok(())
    }
}
