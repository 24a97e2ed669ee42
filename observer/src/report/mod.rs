//! `observer report`: records as one page that needs nothing but a browser.
//!
//! Sums are over all records; calls and traces are listed as far as [`Limits`] allow, the latest, and the page says
//! what it leaves out. **What records say is data:** it is in a block of JSON that cannot end early, the script puts
//! it into the page as text, and the page's policy lets nothing else run or be loaded.

mod page;

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp as Utc;
use serde::Serialize;

use crate::{
    attach::pod::Pod,
    clock::nanoseconds_of,
    records::{Call, Record, Trace},
    spread::Spread,
    tail::Lines,
    text::cut,
};

/// Models, processes and kinds of errors that have a line of their own; the rest share one.
const GROUPS: usize = 500;

/// Longest text that is kept of a message, and of a preview, in characters.
const MESSAGE: usize = 600;
const PREVIEW: usize = 4_000;
const NAME: usize = 200;

/// Steps that are kept of a trace.
const STEPS: usize = 1_000;

/// Finish reasons, and tools, that are kept of a call.
const LIST: usize = 32;

/// How much of what is listed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls.
    pub calls: usize,
    /// Bytes that calls and traces take while they are held; they take less on the page.
    pub bytes: usize,
}

/// What a page says.
#[derive(Debug, Serialize)]
pub struct Report {
    generator: String,
    made: String,
    files: Vec<Source>,
    /// When the first call began, and the time from there to the end of the last one.
    first: Option<String>,
    span_ns: u64,
    totals: Sums,
    models: BTreeMap<String, Sums>,
    processes: BTreeMap<String, Sums>,
    errors: Vec<Failure>,
    latency_histogram: Vec<(u64, u64)>,
    first_token_histogram: Vec<(u64, u64)>,
    calls_left_out: u64,
    traces_seen: u64,
    /// Names that calls and traces refer to by their places.
    names: Vec<String>,
    traces: Vec<ShownTrace>,
    calls: Vec<ShownCall>,
}

/// A file that was read.
#[derive(Debug, Serialize)]
struct Source {
    name: String,
    records: u64,
    others: u64,
    bad: u64,
    /// Whether its last line had no end.
    cut: bool,
}

/// Sums over calls.
#[derive(Clone, Debug, Default)]
struct Sums {
    calls: u64,
    errors: u64,
    incomplete: u64,
    input: u64,
    output: u64,
    cached: u64,
    reasoning: u64,
    cost: f64,
    priced: u64,
    latency: Spread,
    first_token: Spread,
}

#[derive(Debug, Serialize)]
struct Failure {
    status: Option<u16>,
    kind: String,
    model: String,
    calls: u64,
    /// Of the last of them.
    message: Option<String>,
}

/// In the order of the script's fields.
#[derive(Debug, Serialize)]
struct ShownTrace(
    /* id */ String,
    /* name */ Option<String>,
    /* process */ usize,
    /* source */ Option<String>,
    /* start */ i64,
    /* duration */ u64,
    /* calls */ u64,
    /* errors */ u64,
    /* steps */ Vec<ShownStep>,
    /* ended */ bool,
    /* conversation */ Option<String>,
);

#[derive(Debug, Serialize)]
struct ShownStep(
    /* name */ String,
    /* start */ i64,
    /* duration */ Option<u64>,
    /* bytes of arguments */ u64,
    /* bytes of result */ Option<u64>,
    /* failed */ bool,
);

/// In the order of the script's fields.
#[derive(Debug, Serialize)]
struct ShownCall(
    /* trace */ Option<usize>,
    /* start */ i64,
    /* latency */ u64,
    /* time to first token */ Option<u64>,
    /* model */ usize,
    /* process */ usize,
    /* operation */ usize,
    /* status */ Option<u16>,
    /* input, output, cached and reasoning tokens */ [Option<u64>; 4],
    /* cost */ Option<f64>,
    /* failed */ bool,
    /* error */ Option<String>,
    /* message */ Option<String>,
    /* finish reasons */ String,
    /* tools */ String,
    /* attempts */ Option<u32>,
    /* incomplete */ Option<String>,
    /* span, request */ [Option<String>; 2],
    /* previews of input and output */ [Option<String>; 2],
);

/// A call as it is held: names have no places yet, and times are not yet since the first call.
struct HeldCall {
    start: Utc,
    trace_id: Option<String>,
    /// As calls are summed up.
    model: String,
    process: String,
    operation: String,
    shown: ShownCall,
}

/// A trace as it is held.
struct HeldTrace {
    start: Utc,
    /// Of the steps.
    starts: Vec<Utc>,
    shown: ShownTrace,
}

/// Failures of one kind: error type, status and model.
type FailureKey = (String, Option<u16>, String);

/// Takes records.
struct Builder {
    limits: Limits,
    totals: Sums,
    models: Groups,
    processes: Groups,
    errors: BTreeMap<FailureKey, (u64, Option<String>)>,
    first: Option<Utc>,
    last: Option<Utc>,
    calls: VecDeque<Box<HeldCall>>,
    traces: VecDeque<Box<HeldTrace>>,
    bytes: usize,
    calls_left_out: u64,
    traces_seen: u64,
}

#[derive(Default)]
struct Groups(BTreeMap<String, Sums>);

/// Reads files and writes the page to `output`, or to standard output for `-`.
///
/// # Errors
///
/// A file cannot be read, or the page cannot be written.
pub fn report(files: &[PathBuf], output: &Path, limits: Limits) -> anyhow::Result<()> {
    let is_output = |file: &PathBuf| match (file.canonicalize(), output.canonicalize()) {
        (Ok(file), Ok(output)) => file == output,
        _ => false,
    };
    if let Some(file) = files.iter().find(|file| is_output(file)) {
        anyhow::bail!("{} would be overwritten", file.display());
    }
    let report = read(files, limits)?;
    let write = |writer: &mut dyn Write| page::write(&report, writer);
    if output.as_os_str() == "-" {
        return match write(&mut io::stdout().lock()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("cannot write to standard output"),
        };
    }
    write_file(output, &report).with_context(|| format!("cannot write to {}", output.display()))
}

/// The page is there as a whole or not at all. Previews may be in it, so nobody else may read it, whoever might read
/// a file that it replaces.
fn write_file(path: &Path, report: &Report) -> io::Result<()> {
    let write = |file: &File| -> io::Result<()> {
        let mut writer = BufWriter::new(file);
        page::write(report, &mut writer)?;
        writer.flush()
    };
    // A link goes on leading to the page.
    let replaced = match path.metadata() {
        Ok(metadata) if metadata.is_file() => path.canonicalize().ok(),
        Err(_) if !path.is_symlink() => Some(path.to_owned()),
        _ => None,
    };
    let mut options = File::options();
    options.write(true).mode(0o600);
    let Some(path) = replaced else {
        // A pipe or a device is there to be written to, and `/dev/stdout` may be a link to either.
        return write(&options.create(true).truncate(true).open(path)?);
    };
    let (draft, file) = Draft::create(&path, &options)?;
    write(&file)?;
    file.sync_all()?;
    fs::rename(&draft.0, path)
}

/// A file that is gone in the end, unless it has got another name.
struct Draft(PathBuf);

impl Draft {
    /// Beside `path`, so that it can take its place.
    fn create(path: &Path, options: &OpenOptions) -> io::Result<(Self, File)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{:016x}", fastrand::u64(..)));
        let draft = path.with_file_name(hidden);
        let file = options.clone().create_new(true).open(&draft)?;
        Ok((Self(draft), file))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It has another name, or the folder does not let go of it.
        let _ = fs::remove_file(&self.0);
    }
}

fn read(files: &[PathBuf], limits: Limits) -> anyhow::Result<Report> {
    let mut builder = Builder::new(limits);
    let mut sources = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let mut file: Box<dyn io::Read> = if name == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).with_context(|| format!("cannot open {name}"))?)
        };
        let mut lines = Lines::default();
        let mut block = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut block);
            match read.with_context(|| format!("cannot read {name}"))? {
                0 => break,
                read => lines.push(&block[..read], &mut |record| builder.take(record)),
            }
        }
        let (tally, is_cut) = lines.finish(&mut |record| builder.take(record));
        sources.push(Source {
            name: cut(&name, NAME),
            records: tally.records,
            others: tally.others,
            bad: tally.bad,
            cut: is_cut,
        });
    }
    Ok(builder.finish(sources))
}

impl Builder {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            totals: Sums::default(),
            models: Groups::default(),
            processes: Groups::default(),
            errors: BTreeMap::new(),
            first: None,
            last: None,
            calls: VecDeque::new(),
            traces: VecDeque::new(),
            bytes: 0,
            calls_left_out: 0,
            traces_seen: 0,
        }
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Call(call) => self.call(*call),
            Record::Trace(trace) => self.trace(*trace),
        }
    }

    fn call(&mut self, call: Call) {
        self.totals.add(&call);
        self.models.add(&model_of(&call, call.asked_for()), &call);
        self.processes.add(&process_of(&call), &call);
        if let Some(kind) = call.error() {
            self.failure(&call, cut(&kind, NAME));
        }
        let end = later(call.start_time, call.latency_ns);
        self.first = Some(
            self.first
                .map_or(call.start_time, |first| first.min(call.start_time)),
        );
        self.last = Some(self.last.map_or(end, |last| last.max(end)));
        let held = Box::new(HeldCall::from(call));
        self.bytes += held.bytes();
        self.calls.push_back(held);
        self.let_go();
    }

    fn failure(&mut self, call: &Call, kind: String) {
        let mut key = (kind, call.status_code, model_of(call, call.asked_for()));
        if self.errors.len() >= GROUPS && !self.errors.contains_key(&key) {
            key = ("others".to_owned(), None, String::new());
        }
        let failure = self.errors.entry(key).or_default();
        failure.0 += 1;
        failure.1 = bounded(&call.error_message, MESSAGE);
    }

    fn trace(&mut self, trace: Trace) {
        self.traces_seen += 1;
        let held = Box::new(HeldTrace::from(trace));
        self.bytes += held.bytes();
        self.traces.push_back(held);
        self.let_go();
    }

    /// Lets go what is oldest, be it a call or a trace: each is of little use without the other.
    fn let_go(&mut self) {
        let limit = self.limits.calls;
        loop {
            let (calls, traces) = (self.calls.len(), self.traces.len());
            if calls <= limit && traces <= limit && self.bytes <= self.limits.bytes {
                return;
            }
            let is_trace = match (self.calls.front(), self.traces.front()) {
                (Some(call), Some(trace)) => {
                    traces > limit || (calls <= limit && trace.start <= call.start)
                }
                (call, _) => call.is_none(),
            };
            if is_trace {
                let Some(trace) = self.traces.pop_front() else {
                    return;
                };
                self.bytes -= trace.bytes();
            } else if let Some(call) = self.calls.pop_front() {
                self.bytes -= call.bytes();
                self.calls_left_out += 1;
            }
        }
    }

    fn finish(self, files: Vec<Source>) -> Report {
        let first = self.first.unwrap_or(Utc::UNIX_EPOCH);
        let mut names = Names::default();
        let mut traces = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut records = HashMap::new();
        for trace in self.traces {
            records.insert(trace.shown.0.clone(), trace);
        }
        let mut calls = Vec::new();
        for call in self.calls {
            let HeldCall {
                start,
                trace_id,
                model,
                process,
                operation,
                shown: mut call,
            } = *call;
            let process = names.place(process);
            call.0 = trace_id.map(|trace_id| match places.entry(trace_id) {
                Entry::Occupied(place) => *place.get(),
                Entry::Vacant(place) => {
                    let record = records.remove(place.key());
                    let trace = match record {
                        Some(record) => record.since(first, process),
                        None => ShownTrace::open(place.key().clone(), process),
                    };
                    traces.push(trace);
                    *place.insert(traces.len() - 1)
                }
            });
            call.1 = offset(first, start);
            call.4 = names.place(model);
            call.5 = process;
            call.6 = names.place(operation);
            if let Some(trace) = call.0 {
                traces[trace].count(&call);
            }
            calls.push(call);
        }
        let errors = self.errors.into_iter();
        let errors = errors.map(|((kind, status, model), (calls, message))| Failure {
            status,
            kind,
            model,
            calls,
            message,
        });
        Report {
            generator: format!("observer {}", env!("CARGO_PKG_VERSION")),
            made: format!("{:.0}", Utc::now()),
            files,
            first: self.first.map(|first| format!("{first:.9}")),
            span_ns: self
                .last
                .map_or(0, |last| u64::try_from(offset(first, last)).unwrap_or(0)),
            latency_histogram: histogram(&self.totals.latency),
            first_token_histogram: histogram(&self.totals.first_token),
            totals: self.totals,
            models: self.models.0,
            processes: self.processes.0,
            errors: errors.collect(),
            calls_left_out: self.calls_left_out,
            traces_seen: self.traces_seen,
            names: names.all,
            traces,
            calls,
        }
    }
}

impl Groups {
    fn add(&mut self, name: &str, call: &Call) {
        let known = self.0.len() < GROUPS || self.0.contains_key(name);
        let name = if known { name } else { "others" };
        self.0.entry(name.to_owned()).or_default().add(call);
    }
}

impl Sums {
    fn add(&mut self, call: &Call) {
        let plus = |sum: &mut u64, tokens: Option<u64>| {
            *sum = sum.saturating_add(tokens.unwrap_or(0));
        };
        self.calls += 1;
        self.errors += u64::from(call.failed());
        self.incomplete += u64::from(call.incomplete.is_some());
        plus(&mut self.input, call.input());
        plus(&mut self.output, call.output());
        plus(&mut self.cached, call.cached_tokens);
        plus(&mut self.reasoning, call.reasoning_tokens);
        if let Some(usd) = call.cost_usd {
            self.cost += usd;
            self.priced += 1;
        }
        self.latency.add(Duration::from_nanos(call.latency_ns));
        if let Some(time) = call.time_to_first_token_ns {
            self.first_token.add(Duration::from_nanos(time));
        }
    }
}

impl Serialize for Sums {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Times {
            count: u64,
            mean: Option<u64>,
            p50: Option<u64>,
            p90: Option<u64>,
            p95: Option<u64>,
            p99: Option<u64>,
            max: Option<u64>,
        }
        #[derive(Serialize)]
        struct View {
            calls: u64,
            errors: u64,
            incomplete: u64,
            input: u64,
            output: u64,
            cached: u64,
            reasoning: u64,
            cost: Option<f64>,
            priced: u64,
            latency: Times,
            first_token: Times,
        }
        let number = |time: Option<Duration>| time.map(nanoseconds_of);
        let times = |spread: &Spread| Times {
            count: spread.count(),
            mean: number(spread.mean()),
            p50: number(spread.percentile(50)),
            p90: number(spread.percentile(90)),
            p95: number(spread.percentile(95)),
            p99: number(spread.percentile(99)),
            max: number(spread.longest()),
        };
        View {
            calls: self.calls,
            errors: self.errors,
            incomplete: self.incomplete,
            input: self.input,
            output: self.output,
            cached: self.cached,
            reasoning: self.reasoning,
            cost: (self.priced > 0).then_some(self.cost),
            priced: self.priced,
            latency: times(&self.latency),
            first_token: times(&self.first_token),
        }
        .serialize(serializer)
    }
}

impl ShownTrace {
    /// It has not ended, or its record is in no file.
    fn open(trace_id: String, process: usize) -> Self {
        Self(
            trace_id,
            None,
            process,
            None,
            i64::MAX,
            0,
            0,
            0,
            Vec::new(),
            false,
            None,
        )
    }

    /// What has no record is summed up.
    fn count(&mut self, call: &ShownCall) {
        let Self(_, _, _, _, start, duration, calls, errors, _, ended, _) = self;
        if *ended {
            return;
        }
        let ShownCall(_, begun, latency, _, _, _, _, _, _, _, failed, ..) = call;
        let end = begun.saturating_add_unsigned(*latency);
        let known_end = start.saturating_add_unsigned(*duration);
        let latest = if *start == i64::MAX {
            end
        } else {
            end.max(known_end)
        };
        *start = (*begun).min(*start);
        *duration = u64::try_from(latest.saturating_sub(*start)).unwrap_or(0);
        *calls += 1;
        *errors += u64::from(*failed);
    }
}

impl From<Trace> for HeldTrace {
    /// Takes what the page has, cut to what is read to its end.
    fn from(mut trace: Trace) -> Self {
        trace.steps.truncate(STEPS);
        let steps = trace.steps.iter().map(|step| {
            ShownStep(
                cut(&step.name, NAME),
                0,
                step.duration_ns,
                step.arguments_bytes,
                step.result_bytes,
                step.failed,
            )
        });
        let shown = ShownTrace(
            cut(&trace.trace_id, NAME),
            bounded(&trace.name, NAME),
            0,
            bounded(&trace.source, NAME),
            0,
            trace.duration_ns,
            trace.calls,
            trace.errors,
            steps.collect(),
            true,
            bounded(&trace.conversation_id, NAME),
        );
        Self {
            start: trace.start_time,
            starts: trace.steps.iter().map(|step| step.start_time).collect(),
            shown,
        }
    }
}

impl HeldTrace {
    /// Memory that it takes.
    fn bytes(&self) -> usize {
        let ShownTrace(id, name, _, source, _, _, _, _, steps, _, conversation) = &self.shown;
        let texts = [
            Some(id),
            name.as_ref(),
            source.as_ref(),
            conversation.as_ref(),
        ];
        let names = steps.iter().map(|step| step.0.len());
        size_of::<Self>()
            + length(texts)
            + steps.len() * (size_of::<ShownStep>() + size_of::<Utc>())
            + names.sum::<usize>()
    }

    /// As it is shown, with all times since the first call.
    fn since(self, first: Utc, process: usize) -> ShownTrace {
        let mut shown = self.shown;
        shown.2 = process;
        shown.4 = offset(first, self.start);
        for (step, start) in shown.8.iter_mut().zip(self.starts) {
            step.1 = offset(first, start);
        }
        shown
    }
}

impl From<Call> for HeldCall {
    /// Takes what the page has, cut to what is read to its end.
    fn from(call: Call) -> Self {
        let list = |texts: &[String]| {
            let texts = texts.iter().take(LIST).map(|text| cut(text, NAME));
            texts.collect::<Vec<_>>().join(", ")
        };
        Self {
            start: call.start_time,
            trace_id: bounded(&call.trace_id, NAME),
            model: model_of(&call, call.answered_by()),
            process: process_of(&call),
            operation: bounded(&call.operation, NAME).unwrap_or_default(),
            shown: ShownCall(
                None,
                0,
                call.latency_ns,
                call.time_to_first_token_ns,
                0,
                0,
                0,
                call.status_code,
                [
                    call.input(),
                    call.output(),
                    call.cached_tokens,
                    call.reasoning_tokens,
                ],
                call.cost_usd,
                call.failed(),
                bounded(&call.error_type, NAME),
                bounded(&call.error_message, MESSAGE),
                list(&call.finish_reasons),
                list(&call.tool_calls),
                call.attempts,
                bounded(&call.incomplete, NAME),
                [&call.span_id, &call.request_id].map(|id| bounded(id, NAME)),
                [&call.input_preview, &call.output_preview].map(|text| bounded(text, PREVIEW)),
            ),
        }
    }
}

impl HeldCall {
    /// Memory that it takes.
    fn bytes(&self) -> usize {
        let Self {
            start: _,
            trace_id,
            model,
            process,
            operation,
            shown,
        } = self;
        let ShownCall(.., error, message, finish, tools, _, incomplete, ids, previews) = shown;
        let texts = [trace_id, error, message, incomplete].into_iter();
        let texts = texts.chain(ids).chain(previews).map(Option::as_ref);
        size_of::<Self>()
            + length(texts)
            + length([model, process, operation, finish, tools].map(Some))
    }
}

/// Texts that are said once.
#[derive(Default)]
struct Names {
    all: Vec<String>,
    places: HashMap<String, usize>,
}

impl Names {
    fn place(&mut self, name: String) -> usize {
        let all = &mut self.all;
        *self.places.entry(name).or_insert_with_key(|name| {
            all.push(name.clone());
            all.len() - 1
        })
    }
}

fn histogram(spread: &Spread) -> Vec<(u64, u64)> {
    let parts = spread.parts().into_iter();
    parts
        .map(|(time, count)| (nanoseconds_of(time), count))
        .collect()
}

fn model_of(call: &Call, model: Option<&str>) -> String {
    let model = model.unwrap_or("?");
    format!("{}/{}", cut(&call.provider, NAME), cut(model, NAME))
}

fn process_of(call: &Call) -> String {
    let comm = cut(call.comm.as_deref().unwrap_or("?"), NAME);
    let pod = call.kubernetes.as_deref().and_then(Pod::called);
    let place = match (&pod, &call.container_id) {
        (Some(pod), _) => format!(" in {}", cut(pod, NAME)),
        (None, Some(id)) => format!(" in {}", id.chars().take(12).collect::<String>()),
        (None, None) => String::new(),
    };
    format!("{comm}[{}]{place}", call.pid)
}

fn bounded(text: &Option<String>, limit: usize) -> Option<String> {
    text.as_deref().map(|text| cut(text, limit))
}

/// Of all of them together, in bytes.
fn length<'a>(texts: impl IntoIterator<Item = Option<&'a String>>) -> usize {
    texts.into_iter().flatten().map(String::len).sum()
}

fn later(time: Utc, nanoseconds: u64) -> Utc {
    time.checked_add(Duration::from_nanos(nanoseconds))
        .unwrap_or(Utc::MAX)
}

fn offset(from: Utc, to: Utc) -> i64 {
    i64::try_from(to.duration_since(from).as_nanos()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{
        CallRecord, TraceRecord,
        record::{
            LlmUsage, ToolStep,
            tests::{call, failed_call},
        },
    };

    const LIMITS: Limits = Limits {
        calls: 100,
        bytes: 1 << 20,
    };

    fn trace_line(number: u64, start: Utc, steps: Vec<ToolStep>) -> String {
        let trace = TraceRecord {
            trace_id: format!("{number:032x}"),
            span_id: None,
            name: None,
            source: "thread",
            start_time: start,
            duration_ns: 5,
            calls: vec![call().span_id],
            steps,
            errors: 0,
            llm_usage: LlmUsage::default(),
            pid: 7,
            comm: None,
            container_id: None,
            kubernetes: None,
            parent_span_id: None,
            conversation_id: None,
        };
        serde_json::to_string(&trace).unwrap() + "\n"
    }

    fn step(start: Utc) -> ToolStep {
        ToolStep {
            span_id: "00f067aa0ba902b8".to_owned(),
            parent_span_id: call().span_id,
            name: "get_weather".to_owned(),
            id: Some("call_1".to_owned()),
            start_time: start,
            duration_ns: Some(1),
            arguments_bytes: 18,
            result_bytes: Some(40),
            failed: false,
        }
    }

    fn report_of(text: &str, limits: Limits) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls.jsonl");
        fs::write(&path, text).unwrap();
        read(&[path], limits).unwrap()
    }

    fn line(call: &CallRecord) -> String {
        serde_json::to_string(call).unwrap() + "\n"
    }

    #[test]
    fn sums_are_over_all_calls_and_the_list_is_not() {
        let calls: String = (0..1_000)
            .map(|number| {
                let record = if number % 10 == 0 {
                    failed_call()
                } else {
                    call()
                };
                line(&CallRecord {
                    model: Some(format!("model-{}", number % 3)),
                    response_model: None,
                    trace_id: format!("{:032x}", number / 10),
                    ..record
                })
            })
            .collect();
        let report = report_of(&calls, LIMITS);
        assert_eq!((report.totals.calls, report.totals.errors), (1_000, 100));
        assert_eq!(report.totals.input, 21_000);
        assert_eq!(report.models.len(), 3);
        assert_eq!((report.calls.len(), report.calls_left_out), (100, 900));
        // The latest.
        assert_eq!(report.traces.len(), 10);
        assert_eq!(report.traces[9].0, format!("{:032x}", 99));
        assert_eq!((report.traces[0].6, report.traces[0].7), (10, 1));
        assert_eq!(
            report
                .errors
                .iter()
                .map(|failure| failure.calls)
                .sum::<u64>(),
            100
        );
    }

    #[test]
    fn bytes_are_bounded_too() {
        let long = CallRecord {
            input_preview: Some("x".repeat(1 << 20)),
            ..call()
        };
        let report = report_of(
            &line(&long).repeat(50),
            Limits {
                calls: 1_000,
                bytes: 20_000,
            },
        );
        assert_eq!(report.totals.calls, 50);
        assert!(report.calls.len() < 5, "{}", report.calls.len());
        let size = serde_json::to_string(&report).unwrap().len();
        assert!(size < 30_000, "{size}");
    }

    #[test]
    fn calls_and_traces_are_let_go_together() {
        let text: String = (0..400)
            .map(|number| {
                let start = later(call().start_time, number * 1_000_000_000);
                let record = CallRecord {
                    trace_id: format!("{number:032x}"),
                    start_time: start,
                    ..call()
                };
                line(&record) + &trace_line(number, start, vec![step(start); 20])
            })
            .collect();
        let limits = Limits {
            calls: 1_000,
            bytes: 100_000,
        };
        let report = report_of(&text, limits);
        assert_eq!((report.totals.calls, report.traces_seen), (400, 400));
        let (calls, traces) = (report.calls.len(), report.traces.len());
        assert!((20..40).contains(&calls), "{calls}");
        assert_eq!(report.calls_left_out, 400 - calls as u64);
        // The latest, each with its steps; of the first the record may be gone already.
        let whole = report.traces.iter().filter(|trace| trace.8.len() == 20);
        assert!(whole.count() + 1 >= calls && traces == calls, "{traces}");
        assert_eq!(report.traces[traces - 1].0, format!("{:032x}", 399));
    }

    #[test]
    fn what_is_held_is_cut_and_counted() {
        let long = "x".repeat(100_000);
        let hostile = CallRecord {
            model: Some(long.clone()),
            response_model: Some(long.clone()),
            service_tier: Some(long.clone()),
            cost_source: Some("prices"),
            response_id: Some(long.clone()),
            error_type: Some(long.clone()),
            error_message: Some(long.clone()),
            finish_reasons: vec![long.clone(); 40],
            tool_calls: vec![long.clone(); 40],
            request_id: Some(long.clone()),
            parent_span_id: Some(long.clone()),
            comm: Some(long.clone()),
            exe: Some(long.clone()),
            container_id: Some(long.clone()),
            server_address: Some(long.clone()),
            url_path: Some(long.clone()),
            trace_id: long.clone(),
            span_id: long.clone(),
            ..call()
        };
        let held = HeldCall::from(Call::from(&hostile));
        // 64 names of lists, eleven others and a message.
        let most = size_of::<HeldCall>() + (64 + 11) * (NAME + 3) + MESSAGE + 3;
        assert!(held.bytes() <= most, "{} of {most}", held.bytes());
        let mut trace: Trace = match records_of(&trace_line(1, call().start_time, Vec::new())) {
            Record::Trace(trace) => *trace,
            Record::Call(_) => panic!("a call"),
        };
        let small = HeldTrace::from(trace.clone()).bytes();
        for text in [
            &mut trace.name,
            &mut trace.source,
            &mut trace.comm,
            &mut trace.container_id,
            &mut trace.conversation_id,
        ] {
            *text = Some(long.clone());
        }
        trace.trace_id = long.clone();
        let large = HeldTrace::from(trace.clone()).bytes();
        assert!(large > small && large < small + 4 * (NAME + 3), "{large}");
        // Every step counts, of as many as are kept.
        let one = crate::records::ToolStep {
            parent_span_id: Some(long.clone()),
            name: long,
            start_time: trace.start_time,
            duration_ns: None,
            arguments_bytes: 0,
            result_bytes: None,
            failed: false,
        };
        trace.steps = vec![one; STEPS + 5];
        let stepped = HeldTrace::from(trace).bytes() - large;
        let each = size_of::<ShownStep>() + size_of::<Utc>() + NAME + 3;
        assert_eq!(stepped, STEPS * each);
    }

    fn records_of(line: &str) -> Record {
        let mut found = Vec::new();
        crate::records::read(line.as_bytes(), |record| found.push(record)).unwrap();
        found.remove(0)
    }

    #[test]
    fn a_page_is_whole_and_nobody_elses() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode() & 0o777;
        fs::write(at("calls"), line(&call())).unwrap();
        fs::write(at("page"), "old").unwrap();
        fs::set_permissions(at("page"), fs::Permissions::from_mode(0o644)).unwrap();
        symlink("page", at("link")).unwrap();
        let old = File::open(at("page")).unwrap();
        report(&[at("calls")], &at("link"), LIMITS).unwrap();
        let page = fs::read_to_string(at("page")).unwrap();
        assert!(page.ends_with("</html>\n"), "{page}");
        assert_eq!(mode("page"), 0o600);
        assert!(at("link").symlink_metadata().unwrap().is_symlink());
        // Whoever has the other one open goes on reading that.
        assert_eq!(io::read_to_string(old).unwrap(), "old");
        report(&[at("calls")], &at("new"), LIMITS).unwrap();
        assert_eq!(mode("new"), 0o600);
        for (link, target) in [("null", "/dev/null"), ("dangling", "later")] {
            symlink(target, at(link)).unwrap();
            report(&[at("calls")], &at(link), LIMITS).unwrap();
            assert!(at(link).symlink_metadata().unwrap().is_symlink());
        }
        assert_eq!((mode("later"), mode("null") & 0o600), (0o600, 0o600));
        assert_eq!(fs::read_to_string(at("later")).unwrap().len(), page.len());
        assert!(report(&[at("calls")], folder.path(), LIMITS).is_err());
        assert!(report(&[at("calls")], &at("no/page"), LIMITS).is_err());
        // Nothing is left lying about.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7);
    }

    #[test]
    fn what_failed_is_with_the_model_that_was_asked() {
        let unnamed = CallRecord {
            error_type: None,
            status_code: Some(503),
            ..failed_call()
        };
        let report = report_of(
            &[call(), failed_call(), unnamed].map(|c| line(&c)).concat(),
            LIMITS,
        );
        let models: Vec<(&str, u64, u64)> = report
            .models
            .iter()
            .map(|(name, sums)| (name.as_str(), sums.calls, sums.errors))
            .collect();
        assert_eq!(models, [("openai/gpt-4o", 3, 2)]);
        let kinds: Vec<&str> = report.errors.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["503", "RateLimitError"]);
        // Of a call it is said who answered.
        assert_eq!(report.names[report.calls[0].4], "openai/gpt-4o-2024-08-06");
    }

    #[test]
    fn what_is_no_record_is_counted() {
        let good = line(&call());
        let text = format!(
            "{good}nonsense\n{{\"type\":\"weather\"}}\n{good}{}",
            &good[..80]
        );
        let report = report_of(&text, LIMITS);
        let source = &report.files[0];
        assert_eq!((source.records, source.others, source.bad), (2, 1, 1));
        assert!(source.cut);
        let report = report_of("", LIMITS);
        assert_eq!(
            (report.totals.calls, report.first, report.span_ns),
            (0, None, 0)
        );
        assert!(!report.files[0].cut);
    }

    #[test]
    fn the_file_that_is_read_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls.jsonl");
        fs::write(&path, line(&call())).unwrap();
        assert!(report(std::slice::from_ref(&path), &path, LIMITS).is_err());
        assert_eq!(fs::read_to_string(path).unwrap(), line(&call()));
    }
}
