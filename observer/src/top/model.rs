//! What the screen shows: records go in, and what is known of processes, models, calls and traces comes out.
//!
//! It asks nobody for the time and does no I/O. However many records come, it holds so many processes, models, calls
//! and traces, and so long names; no control character gets in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    time::Duration,
};

use jiff::Timestamp as Utc;

use crate::{
    attach::pod::Pod,
    capture::loss::Losses,
    export::Health,
    records,
    spread::Spread,
    text::{cut, shown},
    trace::{CallRecord, CallStarted, TraceRecord},
};

/// Processes that are held; past it those that were silent for longest are let go.
pub(super) const PROCESSES: usize = 1_024;

/// Models that are held; past it the rest are one.
pub(super) const MODELS: usize = 256;

/// Calls in flight that are held; past it others are not shown.
pub(super) const IN_FLIGHT: usize = 4_096;

/// Traces that are held, the latest.
pub(super) const TRACES: usize = 500;

/// Calls and steps that are held in the traces together.
pub(super) const CALLS: usize = 20_000;

/// Calls, and steps, that are held of one trace; other calls are counted.
pub(super) const CALLS_OF_TRACE: usize = 1_000;

/// Models that are remembered of one process.
const MODELS_OF_PROCESS: usize = 16;

/// A call in flight whose end was not seen for so long has been missed.
const MISSED: Duration = Duration::from_secs(3_600);

/// Seconds over which tokens a second are counted.
const WINDOW: i64 = 10;

/// Longest name, in characters, and longest message.
const NAME: usize = 120;
const MESSAGE: usize = 400;

/// A call that ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) span_id: String,
    pub(super) trace_id: Option<String>,
    pub(super) pid: u32,
    pub(super) comm: Option<String>,
    pub(super) container: Option<String>,
    pub(super) provider: String,
    pub(super) operation: String,
    /// [`records::Call::answered_by`].
    pub(super) model: Option<String>,
    /// [`records::Call::asked_for`], by which calls are summed up.
    pub(super) asked: Option<String>,
    pub(super) start: Utc,
    pub(super) latency: Duration,
    pub(super) first_token: Option<Duration>,
    /// Tokens with those of caches, if that is known.
    pub(super) input: Option<u64>,
    /// Tokens with those of reasoning, if that is known.
    pub(super) output: Option<u64>,
    pub(super) cached: Option<u64>,
    pub(super) reasoning: Option<u64>,
    pub(super) cost: Option<f64>,
    pub(super) status: Option<u16>,
    /// [`records::Call::error`].
    pub(super) error: Option<String>,
    pub(super) message: Option<String>,
    pub(super) finish: Vec<String>,
    pub(super) tools: Vec<String>,
    pub(super) attempts: Option<u32>,
    pub(super) incomplete: Option<String>,
}

/// A trace that ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) trace_id: String,
    pub(super) name: Option<String>,
    pub(super) source: String,
    pub(super) pid: u32,
    pub(super) comm: Option<String>,
    pub(super) container: Option<String>,
    pub(super) start: Utc,
    pub(super) duration: Duration,
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) steps: Vec<Step>,
}

/// A tool that was called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) parent: Option<String>,
    pub(super) start: Utc,
    pub(super) duration: Option<Duration>,
    pub(super) arguments_bytes: u64,
    pub(super) result_bytes: Option<u64>,
    pub(super) failed: bool,
}

/// Sums over calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) cost: f64,
    /// Calls whose cost is known.
    pub(super) priced: u64,
    pub(super) latency: Spread,
    rate: Rate,
}

/// A process that made calls.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) comm: Option<String>,
    pub(super) container: Option<String>,
    pub(super) stats: Stats,
    /// The model of its last call, with the provider.
    pub(super) model: Option<String>,
    /// The models that it asked for, and that answered, with their providers.
    pub(super) models: BTreeSet<String>,
    pub(super) latest: Utc,
}

/// A call whose answer is awaited.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct InFlight {
    pub(super) pid: u32,
    pub(super) comm: Option<String>,
    pub(super) container: Option<String>,
    pub(super) start: Utc,
    pub(super) provider: Option<String>,
    pub(super) model: Option<String>,
}

/// The calls of one run.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub(super) trace_id: String,
    pub(super) name: Option<String>,
    pub(super) source: Option<String>,
    pub(super) pid: u32,
    pub(super) comm: Option<String>,
    pub(super) container: Option<String>,
    pub(super) start: Utc,
    /// The end of the last call.
    pub(super) end: Utc,
    /// In the order in which they began.
    pub(super) calls: Vec<Call>,
    pub(super) steps: Vec<Step>,
    /// Calls, with those that are not held.
    pub(super) total: u64,
    pub(super) errors: u64,
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) cost: f64,
    pub(super) priced: u64,
    /// Whether there is a record of its end.
    pub(super) ended: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// When the observation, or this program, began.
    pub(super) since: Utc,
    pub(super) totals: Stats,
    /// Requests to hosts of LLM providers that were no calls.
    pub(super) others: u64,
    /// Lines of a file that are no records.
    pub(super) bad_lines: u64,
    pub(super) losses: Option<Losses>,
    /// Records that exporters could not take in time.
    pub(super) dropped: u64,
    processes: HashMap<u32, Process>,
    models: BTreeMap<(String, String), Stats>,
    in_flight: BTreeMap<String, InFlight>,
    /// By the order in which they were first heard of.
    traces: BTreeMap<u64, Trace>,
    places: HashMap<String, u64>,
    next_place: u64,
    /// Calls and steps in the traces.
    held: usize,
    changes: u64,
}

impl Model {
    /// One that knows nothing yet.
    pub(super) fn new(since: Utc) -> Self {
        Self {
            since,
            totals: Stats::default(),
            others: 0,
            bad_lines: 0,
            losses: None,
            dropped: 0,
            processes: HashMap::new(),
            models: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            traces: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
            held: 0,
            changes: 0,
        }
    }

    /// Grows with every record that was taken.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The processes, in no order.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// The models by provider and name.
    pub(super) fn models(&self) -> impl Iterator<Item = (&(String, String), &Stats)> {
        self.models.iter()
    }

    /// The calls in flight by their span ids.
    pub(super) fn in_flight(&self) -> impl ExactSizeIterator<Item = (&String, &InFlight)> {
        self.in_flight.iter()
    }

    /// The traces, the latest last.
    pub(super) fn traces(&self) -> impl DoubleEndedIterator<Item = &Trace> {
        self.traces.values()
    }

    /// A trace that is held.
    pub(super) fn trace(&self, trace_id: &str) -> Option<&Trace> {
        self.traces.get(self.places.get(trace_id)?)
    }

    /// A request was written.
    pub(super) fn call_started(&mut self, call: &CallStarted) {
        self.changes += 1;
        if self.in_flight.len() >= IN_FLIGHT && !self.in_flight.contains_key(&call.span_id) {
            return;
        }
        self.in_flight.insert(
            call.span_id.clone(),
            InFlight {
                pid: call.pid,
                comm: name(call.comm.as_deref()),
                container: container(call.container_id.as_deref(), call.kubernetes.as_deref()),
                start: call.start_time,
                provider: name(call.provider),
                model: name(call.model.as_deref()),
            },
        );
    }

    /// What was announced was no call.
    pub(super) fn call_dismissed(&mut self, span_id: &str) {
        self.changes += 1;
        self.in_flight.remove(span_id);
    }

    /// A call ended.
    pub(super) fn call_ended(&mut self, call: Call) {
        self.changes += 1;
        self.in_flight.remove(&call.span_id);
        self.totals.add(&call);
        self.add_to_process(&call);
        let known = (
            call.provider.clone(),
            call.asked.clone().unwrap_or_else(|| "?".to_owned()),
        );
        let model = if self.models.len() < MODELS || self.models.contains_key(&known) {
            known
        } else {
            ("…".to_owned(), "others".to_owned())
        };
        self.models.entry(model).or_default().add(&call);
        if let Some(trace_id) = call.trace_id.clone() {
            self.add_to_trace(&trace_id, call);
        }
    }

    /// A trace ended.
    pub(super) fn trace_ended(&mut self, ended: Ended) {
        self.changes += 1;
        let Ended {
            trace_id,
            name,
            source,
            pid,
            comm,
            container,
            start,
            duration,
            calls,
            errors,
            mut steps,
        } = ended;
        steps.truncate(CALLS_OF_TRACE);
        let end = later(start, duration);
        let known = self.places.get(&trace_id).copied();
        let place = known.unwrap_or_else(|| self.new_place(&trace_id));
        let trace = self
            .traces
            .entry(place)
            .or_insert_with(|| Trace::new(&trace_id, pid, start));
        trace.name = name;
        trace.source = Some(source);
        trace.pid = pid;
        trace.comm = comm.or(trace.comm.take());
        trace.container = container.or(trace.container.take());
        trace.start = trace.start.min(start);
        trace.end = trace.end.max(end);
        trace.total = trace.total.max(calls);
        trace.errors = trace.errors.max(errors);
        self.held += steps.len();
        self.held -= mem::replace(&mut trace.steps, steps).len();
        trace.ended = true;
        self.let_traces_go();
    }

    /// A request was no call.
    pub(super) fn other(&mut self) {
        self.changes += 1;
        self.others += 1;
    }

    /// How the agent does.
    pub(super) fn health(&mut self, health: &Health, now: Utc) {
        self.changes += 1;
        self.losses = health.losses;
        self.dropped = health.queues.iter().map(|(_, _, dropped)| dropped).sum();
        self.in_flight.retain(|_, call| {
            now.duration_since(call.start).unsigned_abs() < MISSED || call.start > now
        });
    }

    /// Lines of a file were no records.
    pub(super) fn bad_lines(&mut self, count: u64) {
        self.changes += u64::from(count > 0);
        self.bad_lines += count;
    }

    fn add_to_process(&mut self, call: &Call) {
        let end = later(call.start, call.latency);
        if !self.processes.contains_key(&call.pid) && self.processes.len() >= PROCESSES {
            self.let_processes_go();
        }
        let process = self.processes.entry(call.pid).or_insert_with(|| Process {
            pid: call.pid,
            comm: None,
            container: None,
            stats: Stats::default(),
            model: None,
            models: BTreeSet::new(),
            latest: end,
        });
        process.stats.add(call);
        process.latest = process.latest.max(end);
        // It may have become another program.
        process.comm.clone_from(&call.comm);
        process.container.clone_from(&call.container);
        for model in [call.group(), call.label()] {
            if process.models.len() < MODELS_OF_PROCESS {
                process.models.insert(model);
            }
        }
        process.model = Some(call.label());
    }

    /// Many at once, so that each costs little.
    fn let_processes_go(&mut self) {
        let processes = self.processes.values();
        let mut silent: Vec<(Utc, u32)> = processes
            .map(|process| (process.latest, process.pid))
            .collect();
        silent.sort_unstable();
        for (_, pid) in silent.into_iter().take(PROCESSES / 16) {
            self.processes.remove(&pid);
        }
    }

    fn add_to_trace(&mut self, trace_id: &str, call: Call) {
        let known = self.places.get(trace_id).copied();
        let place = known.unwrap_or_else(|| self.new_place(trace_id));
        let trace = self.traces.entry(place).or_insert_with(|| {
            let mut trace = Trace::new(trace_id, call.pid, call.start);
            trace.comm.clone_from(&call.comm);
            trace.container.clone_from(&call.container);
            trace
        });
        trace.add(call, &mut self.held);
        self.let_traces_go();
    }

    fn new_place(&mut self, trace_id: &str) -> u64 {
        self.next_place += 1;
        self.places.insert(trace_id.to_owned(), self.next_place);
        self.next_place
    }

    fn let_traces_go(&mut self) {
        while self.traces.len() > TRACES || (self.held > CALLS && self.traces.len() > 1) {
            let Some((_, trace)) = self.traces.pop_first() else {
                return;
            };
            self.held -= trace.calls.len() + trace.steps.len();
            self.places.remove(&trace.trace_id);
        }
    }
}

impl Trace {
    fn new(trace_id: &str, pid: u32, start: Utc) -> Self {
        Self {
            trace_id: trace_id.to_owned(),
            name: None,
            source: None,
            pid,
            comm: None,
            container: None,
            start,
            end: start,
            calls: Vec::new(),
            steps: Vec::new(),
            total: 0,
            errors: 0,
            input: 0,
            output: 0,
            cost: 0.0,
            priced: 0,
            ended: false,
        }
    }

    fn add(&mut self, call: Call, held: &mut usize) {
        self.start = self.start.min(call.start);
        self.end = self.end.max(later(call.start, call.latency));
        self.errors += u64::from(call.failed());
        self.total += 1;
        self.input = self.input.saturating_add(call.input.unwrap_or(0));
        self.output = self.output.saturating_add(call.output.unwrap_or(0));
        self.cost += call.cost.unwrap_or(0.0);
        self.priced += u64::from(call.cost.is_some());
        if self.calls.len() < CALLS_OF_TRACE {
            let place = self
                .calls
                .partition_point(|other| other.start <= call.start);
            self.calls.insert(place, call);
            *held += 1;
        }
    }

    /// What to call it.
    pub(super) fn label(&self) -> String {
        let process = process_label(self.comm.as_deref(), self.pid);
        match &self.name {
            Some(name) if self.comm.as_ref() != Some(name) => format!("{name} {process}"),
            _ => process,
        }
    }

    /// From the start of the first call to the end of the last one.
    pub(super) fn duration(&self) -> Duration {
        between(self.start, self.end)
    }
}

impl Call {
    /// Whether it failed.
    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Provider and model.
    pub(super) fn label(&self) -> String {
        model_label(&self.provider, self.model.as_deref())
    }

    /// Provider and model under which it is summed up.
    pub(super) fn group(&self) -> String {
        model_label(&self.provider, self.asked.as_deref())
    }
}

impl Stats {
    fn add(&mut self, call: &Call) {
        let (input, output) = (call.input.unwrap_or(0), call.output.unwrap_or(0));
        self.calls += 1;
        self.errors += u64::from(call.failed());
        self.input = self.input.saturating_add(input);
        self.output = self.output.saturating_add(output);
        self.cost += call.cost.unwrap_or(0.0);
        self.priced += u64::from(call.cost.is_some());
        self.latency.add(call.latency);
        let end = later(call.start, call.latency);
        self.rate.add(end, input, output);
    }

    /// Tokens a second, in and out, of the calls that ended in the last seconds.
    pub(super) fn tokens_per_second(&self, now: Utc) -> (f64, f64) {
        self.rate.at(now)
    }
}

/// Tokens by the second in which their calls ended.
#[derive(Clone, Debug, Default)]
struct Rate([(i64, u64, u64); WINDOW as usize]);

impl Rate {
    fn add(&mut self, at: Utc, input: u64, output: u64) {
        let second = at.as_second();
        let place = usize::try_from(second.rem_euclid(WINDOW)).unwrap_or(0);
        let slot = &mut self.0[place];
        if slot.0 < second {
            *slot = (second, 0, 0);
        }
        if slot.0 == second {
            slot.1 = slot.1.saturating_add(input);
            slot.2 = slot.2.saturating_add(output);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn at(&self, now: Utc) -> (f64, f64) {
        let now = now.as_second();
        let recent = self.0.iter().filter(|(second, ..)| {
            let age = now.saturating_sub(*second);
            (0..WINDOW).contains(&age)
        });
        let (input, output) = recent.fold((0_u64, 0_u64), |sum, slot| {
            (sum.0.saturating_add(slot.1), sum.1.saturating_add(slot.2))
        });
        (input as f64 / WINDOW as f64, output as f64 / WINDOW as f64)
    }
}

impl From<&CallRecord> for Call {
    fn from(call: &CallRecord) -> Self {
        Self::from(&records::Call::from(call))
    }
}

impl From<&records::Call> for Call {
    fn from(call: &records::Call) -> Self {
        Self {
            span_id: name(call.span_id.as_deref()).unwrap_or_default(),
            trace_id: name(call.trace_id.as_deref()),
            pid: call.pid,
            comm: name(call.comm.as_deref()),
            container: container(call.container_id.as_deref(), call.kubernetes.as_deref()),
            provider: name(Some(&call.provider)).unwrap_or_default(),
            operation: name(call.operation.as_deref()).unwrap_or_default(),
            model: name(call.answered_by()),
            asked: name(call.asked_for()),
            start: call.start_time,
            latency: Duration::from_nanos(call.latency_ns),
            first_token: call.time_to_first_token_ns.map(Duration::from_nanos),
            input: call.input(),
            output: call.output(),
            cached: call.cached_tokens,
            reasoning: call.reasoning_tokens,
            cost: call.cost_usd.filter(|cost| cost.is_finite()),
            status: call.status_code,
            error: name(call.error().as_deref()),
            message: text(call.error_message.as_deref()),
            finish: names(&call.finish_reasons),
            tools: names(&call.tool_calls),
            attempts: call.attempts,
            incomplete: name(call.incomplete.as_deref()),
        }
    }
}

impl From<&TraceRecord> for Ended {
    fn from(trace: &TraceRecord) -> Self {
        Self::from(&records::Trace::from(trace))
    }
}

impl From<&records::Trace> for Ended {
    fn from(trace: &records::Trace) -> Self {
        let steps = trace.steps.iter().take(CALLS_OF_TRACE).map(|step| Step {
            name: name(Some(&step.name)).unwrap_or_default(),
            parent: name(step.parent_span_id.as_deref()),
            start: step.start_time,
            duration: step.duration_ns.map(Duration::from_nanos),
            arguments_bytes: step.arguments_bytes,
            result_bytes: step.result_bytes,
            failed: step.failed,
        });
        Self {
            trace_id: name(Some(&trace.trace_id)).unwrap_or_default(),
            name: name(trace.name.as_deref()),
            source: name(trace.source.as_deref()).unwrap_or_default(),
            pid: trace.pid,
            comm: name(trace.comm.as_deref()),
            container: container(trace.container_id.as_deref(), trace.kubernetes.as_deref()),
            start: trace.start_time,
            duration: Duration::from_nanos(trace.duration_ns),
            calls: trace.calls,
            errors: trace.errors,
            steps: steps.collect(),
        }
    }
}

/// A process by name and number.
pub(super) fn process_label(comm: Option<&str>, pid: u32) -> String {
    format!("{}[{pid}]", comm.unwrap_or("?"))
}

/// A model with its provider in front.
pub(super) fn model_label(provider: &str, model: Option<&str>) -> String {
    format!("{provider}/{}", model.unwrap_or("?"))
}

/// The time from one to the other; none if they are the other way round.
pub(super) fn between(from: Utc, to: Utc) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn later(time: Utc, duration: Duration) -> Utc {
    time.checked_add(duration).unwrap_or(Utc::MAX)
}

fn name(text: Option<&str>) -> Option<String> {
    text.map(|text| bounded(text, NAME))
}

/// The pod, if it has a name, else the id of the container.
fn container(id: Option<&str>, pod: Option<&Pod>) -> Option<String> {
    let pod = pod.and_then(Pod::called);
    name(pod.as_deref().or(id))
}

fn text(text: Option<&str>) -> Option<String> {
    text.map(|text| bounded(text, MESSAGE))
}

fn names(texts: &[String]) -> Vec<String> {
    let names = texts.iter().take(CALLS_OF_TRACE.min(32));
    names.map(|text| bounded(text, NAME)).collect()
}

fn bounded(text: &str, limit: usize) -> String {
    shown(&cut(text, limit))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trace::record::{
        LlmUsage, ToolStep,
        tests::{call as record, failed_call},
    };

    /// When the calls of the tests begin.
    pub(crate) fn start() -> Utc {
        record().start_time
    }

    pub(crate) fn at(milliseconds: u64) -> Utc {
        later(start(), Duration::from_millis(milliseconds))
    }

    /// A call with ids of its own.
    pub(crate) fn numbered(trace: u64, number: u64) -> CallRecord {
        CallRecord {
            trace_id: format!("{trace:032x}"),
            span_id: format!("{number:016x}"),
            start_time: at(number * 1_000),
            output_tokens: Some(12),
            ..record()
        }
    }

    pub(crate) fn trace(number: u64, calls: &[CallRecord], steps: Vec<ToolStep>) -> TraceRecord {
        let first = calls[0].start_time;
        let last = calls.last().unwrap();
        let end = later(last.start_time, Duration::from_nanos(last.latency_ns));
        TraceRecord {
            trace_id: format!("{number:032x}"),
            span_id: None,
            name: calls[0].comm.clone(),
            source: "thread",
            start_time: first,
            duration_ns: u64::try_from(between(first, end).as_nanos()).unwrap(),
            calls: calls.iter().map(|call| call.span_id.clone()).collect(),
            steps,
            errors: calls
                .iter()
                .filter(|call| call.error_type.is_some())
                .count() as u64,
            llm_usage: LlmUsage::default(),
            pid: calls[0].pid,
            comm: calls[0].comm.clone(),
            container_id: None,
            kubernetes: None,
            parent_span_id: None,
            conversation_id: None,
        }
    }

    pub(crate) fn started(call: &CallRecord) -> CallStarted {
        CallStarted {
            span_id: call.span_id.clone(),
            pid: call.pid,
            comm: call.comm.clone(),
            container_id: call.container_id.clone(),
            kubernetes: call.kubernetes.clone(),
            start_time: call.start_time,
            provider: Some(call.provider),
            model: call.model.clone(),
        }
    }

    #[test]
    fn a_call_is_counted_wherever_it_belongs() {
        let mut model = Model::new(start());
        let call = numbered(1, 1);
        model.call_started(&started(&call));
        assert_eq!(model.in_flight().len(), 1);
        model.call_ended(Call::from(&call));
        model.call_ended(Call::from(&CallRecord {
            trace_id: call.trace_id.clone(),
            ..failed_call()
        }));
        assert_eq!(model.in_flight().len(), 0);
        assert_eq!((model.totals.calls, model.totals.errors), (2, 1));
        assert_eq!((model.totals.input, model.totals.output), (42, 12));
        let process = model.processes().next().unwrap();
        assert_eq!((process.pid, process.stats.calls), (4242, 2));
        let models: Vec<_> = model
            .models()
            .map(|(name, stats)| (name.1.as_str(), stats.calls))
            .collect();
        // A call that failed is counted with those that did not.
        assert_eq!(models, [("gpt-4o", 2)]);
        let trace = model.trace(&call.trace_id).unwrap();
        assert_eq!((trace.calls.len(), trace.total, trace.errors), (2, 2, 1));
        assert!(!trace.ended);
        // In the order in which they began, not in that in which they ended.
        assert!(trace.calls[0].failed());
    }

    #[test]
    fn what_was_no_call_is_in_flight_no_more() {
        let mut model = Model::new(start());
        let call = numbered(1, 1);
        model.call_started(&started(&call));
        model.call_started(&started(&call));
        assert_eq!(model.in_flight().len(), 1);
        model.call_dismissed(&call.span_id);
        assert_eq!(model.in_flight().len(), 0);
        model.call_started(&started(&call));
        model.health(&Health::default(), later(call.start_time, MISSED));
        assert_eq!(model.in_flight().len(), 0);
    }

    #[test]
    fn tokens_a_second_are_those_of_the_last_seconds() {
        let mut model = Model::new(start());
        model.call_ended(Call::from(&numbered(1, 1)));
        let (input, output) = model.totals.tokens_per_second(at(2_000));
        assert!((input - 2.1).abs() < 1e-9 && (output - 1.2).abs() < 1e-9);
        assert_eq!(model.totals.tokens_per_second(at(20_000)), (0.0, 0.0));
    }

    #[test]
    fn the_end_of_a_trace_brings_its_steps() {
        let mut model = Model::new(start());
        let calls = [numbered(7, 1), numbered(7, 4)];
        for call in &calls {
            model.call_ended(Call::from(call));
        }
        let step = ToolStep {
            span_id: "00f067aa0ba902b7".to_owned(),
            parent_span_id: calls[0].span_id.clone(),
            name: "get_weather".to_owned(),
            id: None,
            start_time: at(1_812),
            duration_ns: Some(2_188_000_000),
            arguments_bytes: 18,
            result_bytes: Some(40),
            failed: false,
        };
        model.trace_ended(Ended::from(&trace(7, &calls, vec![step])));
        let trace = model.traces().next().unwrap();
        assert!(trace.ended);
        assert_eq!(
            (trace.calls.len(), trace.steps.len(), trace.total),
            (2, 1, 2)
        );
        assert_eq!(trace.duration(), Duration::from_millis(3_812));
    }

    #[test]
    fn control_characters_and_long_names_stay_outside() {
        let call = Call::from(&CallRecord {
            model: Some("evil\x1b[2J\u{202e}".repeat(100)),
            response_model: None,
            comm: Some("a\x07b".to_owned()),
            error_message: Some("\u{9b}31m".to_owned()),
            ..record()
        });
        let text = format!("{call:?}");
        let is_hostile = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!call.model.as_ref().unwrap().contains(is_hostile), "{text}");
        assert_eq!(call.model.unwrap().chars().count(), NAME + 1);
        assert_eq!(call.comm.as_deref(), Some("a\u{fffd}b"));
        assert_eq!(call.message.as_deref(), Some("\u{fffd}31m"));
    }

    fn held_of(trace: &Trace) -> usize {
        trace.calls.len() + trace.steps.len()
    }

    #[test]
    fn steps_are_bounded_with_the_calls() {
        let mut model = Model::new(start());
        for number in 0..100 {
            let call = numbered(number, number);
            let step = ToolStep {
                span_id: String::new(),
                parent_span_id: call.span_id.clone(),
                name: "get_weather".to_owned(),
                id: None,
                start_time: call.start_time,
                duration_ns: None,
                arguments_bytes: 0,
                result_bytes: None,
                failed: false,
            };
            let steps = vec![step; 2 * CALLS_OF_TRACE];
            model.call_ended(Call::from(&call));
            let ended = Ended::from(&trace(number, &[call], steps));
            // It may be told twice.
            model.trace_ended(ended.clone());
            model.trace_ended(ended);
        }
        let held: usize = model.traces().map(held_of).sum();
        assert!(held <= CALLS && held == model.held, "{held}");
        assert!(held > CALLS / 2 && model.trace(&format!("{:032x}", 99)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut model = Model::new(start());
        let all = CALLS as u64 + 5_000;
        let last = u32::try_from(all - 1).unwrap();
        for number in 0..all {
            let mut call = numbered(number / 2_000, number);
            call.pid = u32::try_from(number).unwrap();
            call.model = Some(format!("m{}", number % 1_000));
            call.response_model = None;
            if number < 2 * IN_FLIGHT as u64 {
                model.call_started(&started(&CallRecord {
                    span_id: format!("never ends {number}"),
                    ..call.clone()
                }));
            }
            model.call_ended(Call::from(&call));
            model.trace_ended(Ended::from(&trace(number + 1_000_000, &[call], Vec::new())));
        }
        assert_eq!(model.totals.calls, all);
        assert!(model.processes().count() <= PROCESSES);
        assert!(
            model
                .processes()
                .any(|process| process.stats.calls == 1 && process.pid == last)
        );
        assert_eq!(model.models().count(), MODELS + 1);
        assert_eq!(model.in_flight().len(), IN_FLIGHT);
        assert!(model.traces().count() <= TRACES);
        let held: usize = model.traces().map(held_of).sum();
        assert!(held <= CALLS && held == model.held);
        assert_eq!(model.places.len(), model.traces.len());
        let of_models: u64 = model.models().map(|(_, stats)| stats.calls).sum();
        assert_eq!(of_models, model.totals.calls);
    }
}
