//! `observer report`: records as one page that needs nothing but a browser.
//!
//! Sums are over all records; calls and traces are listed as far as [`Limits`] allow, the latest, and the page says
//! what it leaves out. **What records say is data:** it is in a block of JSON that cannot end early, the script puts
//! it into the page as text, and the page's policy lets nothing else run or be loaded.

mod page;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::File,
    io::{self, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp as Utc;
use serde::Serialize;

use crate::{
    clock::nanoseconds_of,
    records::{Call, Record, ToolStep, Trace},
    spread::Spread,
    tail::Lines,
};

/// Models, processes and kinds of errors that have a line of their own; the rest share one.
const GROUPS: usize = 500;

/// Longest text that is kept of a message, and of a preview, in characters.
const MESSAGE: usize = 600;
const PREVIEW: usize = 4_000;
const NAME: usize = 200;

/// Steps that are kept of a trace.
const STEPS: usize = 1_000;

/// What a call costs beside its texts, in bytes of the page.
const CALL_BYTES: usize = 160;

/// How much of what is listed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls.
    pub calls: usize,
    /// Bytes of calls and traces, about.
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
    calls: VecDeque<Box<Call>>,
    traces: VecDeque<Box<Trace>>,
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
    let name = output.display();
    let file = create(output).with_context(|| format!("cannot open {name} for writing"))?;
    let mut writer = BufWriter::new(file);
    write(&mut writer)
        .and_then(|()| writer.flush())
        .with_context(|| format!("cannot write to {name}"))
}

/// Previews may be in it, so nobody else may read it.
fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
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
        let (tally, cut) = lines.finish(&mut |record| builder.take(record));
        sources.push(Source {
            name: bounded(&name, NAME),
            records: tally.records,
            others: tally.others,
            bad: tally.bad,
            cut,
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
            Record::Call(call) => self.call(call),
            Record::Trace(trace) => self.trace(trace),
        }
    }

    fn call(&mut self, mut call: Box<Call>) {
        bound_call(&mut call);
        self.totals.add(&call);
        self.models.add(&model_of(&call), &call);
        self.processes.add(&process_of(&call), &call);
        if call.failed() {
            self.failure(&call);
        }
        let end = later(call.start_time, call.latency_ns);
        self.first = Some(
            self.first
                .map_or(call.start_time, |first| first.min(call.start_time)),
        );
        self.last = Some(self.last.map_or(end, |last| last.max(end)));
        self.bytes += bytes_of_call(&call);
        self.calls.push_back(call);
        self.let_go();
    }

    fn failure(&mut self, call: &Call) {
        let kind = call.error_type.clone().unwrap_or_default();
        let mut key = (kind, call.status_code, model_of(call));
        if self.errors.len() >= GROUPS && !self.errors.contains_key(&key) {
            key = ("others".to_owned(), None, String::new());
        }
        let failure = self.errors.entry(key).or_default();
        failure.0 += 1;
        failure.1.clone_from(&call.error_message);
    }

    fn trace(&mut self, mut trace: Box<Trace>) {
        self.traces_seen += 1;
        trace.steps.truncate(STEPS);
        for step in &mut trace.steps {
            bound(&mut step.name, NAME);
        }
        bound(&mut trace.trace_id, NAME);
        for text in [
            &mut trace.name,
            &mut trace.comm,
            &mut trace.source,
            &mut trace.conversation_id,
            &mut trace.container_id,
        ] {
            bound_some(text, NAME);
        }
        self.bytes += bytes_of_trace(&trace);
        self.traces.push_back(trace);
        self.let_go();
    }

    fn let_go(&mut self) {
        while self.calls.len() > self.limits.calls || self.bytes > self.limits.bytes {
            let Some(call) = self.calls.pop_front() else {
                break;
            };
            self.bytes -= bytes_of_call(&call);
            self.calls_left_out += 1;
        }
        while self.traces.len() > self.limits.calls || self.bytes > self.limits.bytes {
            let Some(trace) = self.traces.pop_front() else {
                break;
            };
            self.bytes -= bytes_of_trace(&trace);
        }
    }

    fn finish(self, files: Vec<Source>) -> Report {
        let first = self.first.unwrap_or(Utc::UNIX_EPOCH);
        let mut names = Names::default();
        let mut traces = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut records: HashMap<String, Box<Trace>> = HashMap::new();
        for trace in self.traces {
            records.insert(trace.trace_id.clone(), trace);
        }
        let mut calls = Vec::new();
        for call in self.calls {
            let trace = call.trace_id.as_ref().map(|trace_id| {
                *places.entry(trace_id.clone()).or_insert_with(|| {
                    let record = records.remove(trace_id);
                    let process = names.place(process_of(&call));
                    traces.push(ShownTrace::new(trace_id, process, record, first));
                    traces.len() - 1
                })
            });
            if let Some(trace) = trace {
                traces[trace].count(&call, first);
            }
            calls.push(ShownCall::new(call, trace, first, &mut names));
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
        plus(&mut self.input, input_of(call));
        plus(&mut self.output, output_of(call));
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
    fn new(trace_id: &str, process: usize, record: Option<Box<Trace>>, first: Utc) -> Self {
        let Some(record) = record else {
            // It has not ended, or its record is in no file.
            return Self(
                trace_id.to_owned(),
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
            );
        };
        let step = |step: ToolStep| {
            ShownStep(
                step.name,
                offset(first, step.start_time),
                step.duration_ns,
                step.arguments_bytes,
                step.result_bytes,
                step.failed,
            )
        };
        Self(
            trace_id.to_owned(),
            record.name,
            process,
            record.source,
            offset(first, record.start_time),
            record.duration_ns,
            record.calls.len() as u64,
            record.errors,
            record.steps.into_iter().map(step).collect(),
            true,
            record.conversation_id,
        )
    }

    /// What has no record is summed up.
    fn count(&mut self, call: &Call, first: Utc) {
        let Self(_, _, _, _, start, duration, calls, errors, _, ended, _) = self;
        if *ended {
            return;
        }
        let begun = offset(first, call.start_time);
        let end = begun.saturating_add_unsigned(call.latency_ns);
        let known_end = start.saturating_add_unsigned(*duration);
        let latest = if *start == i64::MAX {
            end
        } else {
            end.max(known_end)
        };
        *start = begun.min(*start);
        *duration = u64::try_from(latest.saturating_sub(*start)).unwrap_or(0);
        *calls += 1;
        *errors += u64::from(call.failed());
    }
}

impl ShownCall {
    fn new(call: Box<Call>, trace: Option<usize>, first: Utc, names: &mut Names) -> Self {
        let (model, process) = (model_of(&call), process_of(&call));
        let (input, output, failed) = (input_of(&call), output_of(&call), call.failed());
        Self(
            trace,
            offset(first, call.start_time),
            call.latency_ns,
            call.time_to_first_token_ns,
            names.place(model),
            names.place(process),
            names.place(call.operation.unwrap_or_default()),
            call.status_code,
            [input, output, call.cached_tokens, call.reasoning_tokens],
            call.cost_usd,
            failed,
            call.error_type,
            call.error_message,
            call.finish_reasons.join(", "),
            call.tool_calls.join(", "),
            call.attempts,
            call.incomplete,
            [call.span_id, call.request_id],
            [call.input_preview, call.output_preview],
        )
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

/// Tokens with those of caches.
fn input_of(call: &Call) -> Option<u64> {
    call.input_tokens.or(call.prompt_tokens)
}

/// Tokens with those of reasoning.
fn output_of(call: &Call) -> Option<u64> {
    call.output_tokens.or(call.completion_tokens)
}

fn model_of(call: &Call) -> String {
    let model = call.response_model.as_deref().or(call.model.as_deref());
    format!("{}/{}", call.provider, model.unwrap_or("?"))
}

fn process_of(call: &Call) -> String {
    let comm = call.comm.as_deref().unwrap_or("?");
    let container = call.container_id.as_deref().map(|container| {
        let short: String = container.chars().take(12).collect();
        format!(" in {short}")
    });
    format!("{comm}[{}]{}", call.pid, container.unwrap_or_default())
}

/// Cuts what nobody reads to its end.
fn bound_call(call: &mut Call) {
    bound(&mut call.provider, NAME);
    let names = [
        &mut call.operation,
        &mut call.model,
        &mut call.response_model,
        &mut call.trace_id,
        &mut call.span_id,
        &mut call.request_id,
        &mut call.comm,
        &mut call.container_id,
        &mut call.error_type,
        &mut call.incomplete,
    ];
    for text in names {
        bound_some(text, NAME);
    }
    bound_some(&mut call.error_message, MESSAGE);
    bound_some(&mut call.input_preview, PREVIEW);
    bound_some(&mut call.output_preview, PREVIEW);
    for texts in [&mut call.finish_reasons, &mut call.tool_calls] {
        texts.truncate(32);
        for text in texts {
            bound(text, NAME);
        }
    }
    // What is not shown need not be held.
    call.response_id = None;
    call.parent_span_id = None;
    call.conversation_id = None;
    call.exe = None;
    call.url_path = None;
    call.credential = None;
}

fn bytes_of_call(call: &Call) -> usize {
    let texts = [
        &call.span_id,
        &call.request_id,
        &call.error_type,
        &call.error_message,
        &call.input_preview,
        &call.output_preview,
    ];
    let texts = texts.into_iter().flatten().map(String::len);
    let lists = call.finish_reasons.iter().chain(&call.tool_calls);
    CALL_BYTES + texts.sum::<usize>() + lists.map(String::len).sum::<usize>()
}

fn bytes_of_trace(trace: &Trace) -> usize {
    let steps = trace.steps.iter().map(|step| 80 + step.name.len());
    // The ids of the calls are not on the page, but they are held.
    CALL_BYTES + 24 * trace.calls.len() + steps.sum::<usize>()
}

fn bound_some(text: &mut Option<String>, limit: usize) {
    if let Some(text) = text {
        bound(text, limit);
    }
}

fn bound(text: &mut String, limit: usize) {
    if let Some((end, _)) = text.char_indices().nth(limit) {
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
}

fn bounded(text: &str, limit: usize) -> String {
    let mut text = text.to_owned();
    bound(&mut text, limit);
    text
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
        CallRecord,
        record::tests::{call, failed_call},
    };

    const LIMITS: Limits = Limits {
        calls: 100,
        bytes: 1 << 20,
    };

    fn report_of(text: &str, limits: Limits) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls.jsonl");
        std::fs::write(&path, text).unwrap();
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
        std::fs::write(&path, line(&call())).unwrap();
        assert!(report(std::slice::from_ref(&path), &path, LIMITS).is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), line(&call()));
    }
}
