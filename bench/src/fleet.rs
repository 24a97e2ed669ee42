//! A node of a fleet: one agent as the DaemonSet runs it, programs in pods that make a thousand calls a second, and a
//! real OpenTelemetry Collector. Each call is followed by the id that the provider gave it.
//!
//! ```text
//! clients in pods ─TLS─► provider        kubelet ◄─ agent ─► tee ─► Collector
//!  (CPU 0)              (CPU 1, as all that follows)  └► /metrics
//! ```

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use observer_e2e::telemetry;
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value},
    metrics::v1::metric::Data,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    Effort,
    process::{Agent, Dialogue, OTHERS, TARGET, pinned, program, rss_kib},
    report::{Report, Times},
};

/// Calls a second.
const RATE: u32 = 1_000;

/// More, until not all are seen.
const RATES: [u32; 3] = [2_000, 4_000, 8_000];

/// Calls a second of a node with little to do.
const SLOW: u32 = 4;

/// Pods, each with a process that has this many connections.
const PODS: usize = 4;
const CONNECTIONS: u32 = 8;

/// Of those pods.
const NAMESPACES: [&str; 2] = ["shop", "search"];

/// Pods of the node that make no calls: the kubelet tells of all.
const OTHER_PODS: usize = 106;

/// What the kubelet says of a pod, in bytes: what one of Kubernetes 1.34 says of a small one.
const POD_BYTES: usize = 6_100;

/// A trace ends so long after its last call: within the measurement.
const TRACE_IDLE: Duration = Duration::from_secs(2);

/// Metrics are sent so often: several times within the measurement.
const METRIC_INTERVAL: Duration = Duration::from_secs(5);

/// After the last call: until its trace has ended and been sent (`OTEL_BSP_SCHEDULE_DELAY` is 5 s).
const SETTLE: Duration = Duration::from_secs(9);

/// What exporters could not take, by the agent.
const DROPPED: &str = "observer_export_dropped_records_total";

/// What the agent hands on, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// There is no agent.
    Nothing,
    Prometheus,
    /// Also metrics by OTLP.
    Metrics,
    /// Also spans.
    Spans,
    /// The same, compressed.
    Gzip,
    /// As [`Spans`](Self::Spans), but nobody listens.
    Down,
}

const MODES: [Mode; 5] = [
    Mode::Nothing,
    Mode::Prometheus,
    Mode::Metrics,
    Mode::Spans,
    Mode::Gzip,
];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no agent",
            Self::Prometheus => "Prometheus",
            Self::Metrics => "metrics",
            Self::Spans => "spans",
            Self::Gzip => "spans, gzip",
            Self::Down => "spans, no Collector",
        }
    }

    fn sends_spans(self) -> bool {
        matches!(self, Self::Spans | Self::Gzip)
    }

    fn sends_otlp(self) -> bool {
        self.sends_spans() || self == Self::Metrics
    }
}

/// See the module.
pub(crate) fn run(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    let (seconds, rounds) = if effort.rounds > 3 {
        (10.0, 3)
    } else {
        (4.0, 1)
    };
    let provider = Dialogue::start(pinned(OTHERS, program("observer-fleet-provider")?))?;
    let provider_port: u16 = provider.line()?.parse()?;
    let pods = Pods::make()?;
    let kubelet = Kubelet::start(pods.list())?;
    let stage = Stage {
        folder,
        provider: &provider,
        provider_port,
        pods: &pods,
        kubelet: &kubelet,
        seconds,
    };
    let mut played: BTreeMap<Mode, Vec<Outcome>> = BTreeMap::new();
    for _ in 0..rounds {
        for mode in MODES {
            let outcome = stage.play(mode, Some(RATE))?;
            played.entry(mode).or_default().push(outcome);
        }
    }
    let alone = played.get(&Mode::Nothing).cloned().unwrap_or_default();
    for (mode, outcomes) in &played {
        tell(report, *mode, outcomes, &alone);
    }
    down(report, &stage.play(Mode::Down, Some(RATE))?);
    // Batches hold few spans then, with a resource for each process.
    for mode in [Mode::Spans, Mode::Gzip] {
        let outcome = stage.play(mode, Some(SLOW))?;
        let name = format!("fleet, {SLOW} calls a second, {}", mode.name());
        let agent = outcome.agent_cpu_s / (outcome.seconds + SETTLE.as_secs_f64());
        report.figure(
            &format!("{name}: agent, share of a core"),
            agent * 100.0,
            "%",
            None,
        );
        volume(report, &name, &outcome);
        losses(report, &name, mode, &[outcome]);
    }
    let most = stage.play(Mode::Nothing, None)?;
    report.figure(
        "fleet, as many as go, no agent: calls",
        most.rate(),
        "/s",
        None,
    );
    // How far it goes, with the provider and the Collector on the agent's CPU.
    let mut whole = f64::from(RATE);
    for rate in RATES {
        let outcome = stage.play(Mode::Spans, Some(rate))?;
        let name = format!("fleet, {rate} calls a second asked for");
        let share = outcome.agent_cpu_s / outcome.seconds * 100.0;
        let lost = outcome.calls.len() as f64 - outcome.counted();
        report.figure(&format!("{name}: made"), outcome.rate(), "/s", None);
        report.figure(&format!("{name}: agent, share of a core"), share, "%", None);
        report.figure(
            &format!("{name}: not counted"),
            lost / outcome.calls.len().max(1) as f64 * 100.0,
            "%",
            None,
        );
        if lost == 0.0 {
            whole = whole.max(outcome.rate());
        }
    }
    report.figure(
        "fleet: most calls a second that were tried and of which none was lost",
        whole,
        "/s",
        None,
    );
    Ok(())
}

/// What all modes share.
struct Stage<'a> {
    folder: &'a Path,
    provider: &'a Dialogue,
    provider_port: u16,
    pods: &'a Pods,
    kubelet: &'a Kubelet,
    seconds: f64,
}

/// What a mode came to.
#[derive(Clone, Default)]
struct Outcome {
    /// By the provider's ids, when they were over, in nanoseconds since the epoch.
    calls: HashMap<String, u64>,
    seconds: f64,
    /// Of the slowest process.
    median_ms: f64,
    p99_ms: f64,
    client_cpu_s: f64,
    provider_cpu_s: f64,
    agent_cpu_s: f64,
    agent_rss_mib: f64,
    collector_cpu_s: f64,
    collector_rss_mib: f64,
    page: String,
    /// From the end of the last call until the page has all.
    page_s: f64,
    sent: Sent,
    /// Spans that the Collector's exporter got.
    collected: u64,
    pods_asked: u64,
    /// Bytes that the kubelet answered with.
    pods_bytes: u64,
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.calls.len() as f64 / self.seconds
    }

    /// Calls that Prometheus counts.
    fn counted(&self) -> f64 {
        sum(&self.page, "gen_ai_client_calls_total")
    }

    /// Seconds of CPU, as milliseconds for a thousand calls.
    fn per_thousand(&self, cpu_s: f64) -> f64 {
        cpu_s * 1e6 / self.calls.len().max(1) as f64
    }
}

impl Stage<'_> {
    fn play(&self, mode: Mode, rate: Option<u32>) -> anyhow::Result<Outcome> {
        let collector = match mode.sends_otlp() {
            true => Some(Collector::start(self.folder)?),
            false => None,
        };
        let tee = match &collector {
            Some(collector) => Some(Tee::start(collector.port)?),
            None => None,
        };
        let [page_port, closed_port] = telemetry::free_ports::<2>();
        let otlp_port = match mode {
            Mode::Down => Some(closed_port),
            _ => tee.as_ref().map(|tee| tee.port),
        };
        let asked = self.kubelet.asked();
        let agent = match mode {
            Mode::Nothing => None,
            _ => Some(self.agent(mode, page_port, otlp_port)?),
        };
        let mut clients = Vec::new();
        for (number, pod) in self.pods.0.iter().enumerate() {
            let truth = self.folder.join(format!("calls-{number}"));
            let client = self.client(number, pod, rate, &truth)?;
            clients.push((client, truth));
        }
        for (client, _) in &clients {
            client.expect("round")?;
        }
        let mut outcome = Outcome::default();
        let agent_before = agent.as_ref().map(Agent::cpu_s).transpose()?;
        let collector_before = collector.as_ref().map(Collector::cpu_s).transpose()?;
        // Threads that have ended count, too.
        let provider_before = whole_cpu_s(self.provider.pid())?;
        let mut clients_before = 0.0;
        for (client, _) in &mut clients {
            clients_before += whole_cpu_s(client.pid())?;
            client.go_on()?;
        }
        for (client, truth) in &clients {
            let said = client.json()?;
            ensure!(said["error"].is_null(), "a client: {}", said["error"]);
            let number = |field: &str| said[field].as_f64().unwrap_or(f64::NAN);
            outcome.seconds = outcome.seconds.max(number("seconds"));
            outcome.median_ms = outcome.median_ms.max(number("median_ms"));
            outcome.p99_ms = outcome.p99_ms.max(number("p99_ms"));
            for line in fs::read_to_string(truth)?.lines() {
                let (id, over) = line.split_once(' ').context("no call")?;
                outcome.calls.insert(id.to_owned(), over.parse()?);
            }
            let made = number("calls");
            ensure!(made > 0.0, "a client made no calls");
        }
        let ended = Instant::now();
        outcome.provider_cpu_s = whole_cpu_s(self.provider.pid())? - provider_before;
        for (client, _) in &clients {
            outcome.client_cpu_s += whole_cpu_s(client.pid())?;
        }
        outcome.client_cpu_s -= clients_before;
        if let (Some(agent), Some(before)) = (agent, agent_before) {
            let calls = outcome.calls.len() as f64;
            loop {
                outcome.page = page(page_port)?;
                outcome.page_s = ended.elapsed().as_secs_f64();
                let counted = outcome.counted();
                if counted >= calls || ended.elapsed() > SETTLE {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(SETTLE.saturating_sub(ended.elapsed()));
            outcome.page = page(page_port)?;
            outcome.agent_cpu_s = agent.cpu_s()? - before;
            outcome.agent_rss_mib = rss_kib(agent.pid())? as f64 / 1024.0;
            agent.stop()?;
        }
        drop(clients);
        if let (Some(collector), Some(before)) = (&collector, collector_before) {
            outcome.collector_cpu_s = collector.cpu_s()? - before;
            outcome.collector_rss_mib = rss_kib(collector.child.id())? as f64 / 1024.0;
        }
        if let Some(tee) = tee {
            outcome.sent = tee.sent()?;
        }
        if let Some(collector) = collector {
            outcome.collected = collector.stop()?;
        }
        let (times, bytes) = self.kubelet.asked();
        outcome.pods_asked = times - asked.0;
        outcome.pods_bytes = bytes - asked.1;
        Ok(outcome)
    }

    /// As the DaemonSet runs it.
    fn agent(&self, mode: Mode, page: u16, otlp: Option<u16>) -> anyhow::Result<Agent> {
        let token = self.folder.join("token");
        fs::write(&token, "of the bench")?;
        let mut command = pinned(OTHERS, program("observer")?);
        command
            .args(["watch", "--all", "--format", "none"])
            .args(["--trace-idle", &TRACE_IDLE.as_secs().to_string()])
            .args(["--kubernetes-metadata", "kubelet"])
            // Pods of the machine that are not of the bench are in neither.
            .args(["--kubernetes-namespace", &NAMESPACES.join(",")])
            .args([
                "--kubernetes-kubelet",
                &format!("http://127.0.0.1:{}", self.kubelet.port),
            ])
            .arg("--kubernetes-token-file")
            .arg(&token)
            .args(["--prometheus", &format!("127.0.0.1:{page}")])
            .args(["--prometheus-labels", "namespace,workload,pod"]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        if let Some(port) = otlp {
            command
                .args(["--otlp-endpoint", &format!("http://127.0.0.1:{port}")])
                .env(
                    "OTEL_METRIC_EXPORT_INTERVAL",
                    METRIC_INTERVAL.as_millis().to_string(),
                );
        }
        match mode {
            Mode::Metrics => {
                command.env("OTEL_TRACES_EXPORTER", "none");
            }
            Mode::Gzip => {
                command.args(["--otlp-compression", "gzip"]);
            }
            Mode::Nothing | Mode::Prometheus | Mode::Spans | Mode::Down => {}
        }
        Agent::start(self.folder, command)
    }

    /// A process in a pod.
    fn client(
        &self,
        number: usize,
        pod: &Pod,
        rate: Option<u32>,
        truth: &Path,
    ) -> anyhow::Result<Dialogue> {
        let mut command = pinned(TARGET, "sh");
        command
            .args(["-c", "echo $$ > \"$0\"; exec \"$@\""])
            .arg(pod.cgroup.join("cgroup.procs"))
            .arg(program("observer-fleet-client")?)
            .args(["--port", &self.provider_port.to_string()])
            .args(["--connections", &CONNECTIONS.to_string()])
            .args(["--seconds", &self.seconds.to_string()])
            .args(["--number", &number.to_string()])
            .arg("--truth")
            .arg(truth);
        if let Some(rate) = rate {
            let rate = f64::from(rate) / PODS as f64;
            command.args(["--rate", &rate.to_string()]);
        }
        Dialogue::start(command)
    }
}

/// What waits for a Collector that is not there is bounded, what goes beyond it counted, and the rest not touched.
fn down(report: &mut Report, outcome: &Outcome) {
    let name = format!("fleet, {}", Mode::Down.name());
    let mut figure = |what: &str, value: f64, unit: &str, goal| {
        report.figure(&format!("{name}: {what}"), value, unit, goal);
    };
    let made = outcome.calls.len() as f64;
    let dropped = sum(&outcome.page, DROPPED);
    figure("calls", outcome.rate(), "/s", None);
    let agent = outcome.per_thousand(outcome.agent_cpu_s);
    figure("agent's CPU for 1,000 calls", agent, "ms", None);
    figure("agent's RSS", outcome.agent_rss_mib, "MiB", None);
    figure(
        "calls that Prometheus lacks or has twice",
        (made - outcome.counted()).abs(),
        "",
        Some(0.0),
    );
    figure("spans dropped and counted", dropped, "", None);
    // Spans of runs are few here, but some.
    figure("spans that wait", made - dropped, "", Some(2_048.0));
}

/// Nothing may be lost, in no round.
fn losses(report: &mut Report, name: &str, mode: Mode, outcomes: &[Outcome]) {
    let mut figure = |what: &str, of: &dyn Fn(&Outcome) -> f64| {
        let all = outcomes.iter().map(of).sum();
        report.figure(&format!("{name}: {what}"), all, "", Some(0.0));
    };
    figure("calls that Prometheus lacks or has twice", &|outcome| {
        (outcome.calls.len() as f64 - outcome.counted()).abs()
    });
    figure("records lost or dropped", &|outcome| {
        let lost = "observer_capture_lost_records_total";
        sum(&outcome.page, lost) + sum(&outcome.page, DROPPED)
    });
    if mode.sends_spans() {
        figure("calls without a span or with several", &|outcome| {
            let sent = &outcome.sent;
            let missing = (outcome.calls.keys()).filter(|id| !sent.calls.contains_key(*id));
            let unknown = (sent.calls.keys()).filter(|id| !outcome.calls.contains_key(*id));
            (missing.count() + unknown.count()) as f64 + sent.twice as f64
        });
        figure("spans that the Collector lacks", &|outcome| {
            (outcome.sent.spans as f64 - outcome.collected as f64).abs()
        });
    }
}

/// Times are of the best round: what disturbs only adds. What is counted is the same in each.
fn tell(report: &mut Report, mode: Mode, outcomes: &[Outcome], alone: &[Outcome]) {
    let Some(outcome) = outcomes.last() else {
        return;
    };
    let name = format!("fleet, {}", mode.name());
    let times = |of: fn(&Outcome) -> f64| Times(outcomes.iter().map(of).collect());
    let mut time = |what: &str, unit: &str, of: fn(&Outcome) -> f64| {
        let times = times(of);
        let name = format!("{name}: {what}");
        report.figure_of(&name, times.best(), unit, None, &[&times]);
    };
    time("calls", "/s", Outcome::rate);
    time("latency of a call, median", "ms", |of| of.median_ms);
    time("latency of a call, 99th percentile", "ms", |of| of.p99_ms);
    let client: fn(&Outcome) -> f64 = |of| of.per_thousand(of.client_cpu_s);
    time("clients' CPU for 1,000 calls", "ms", client);
    time("provider's CPU for 1,000 calls", "ms", |of| {
        of.per_thousand(of.provider_cpu_s)
    });
    if mode == Mode::Nothing {
        return;
    }
    time("agent's CPU for 1,000 calls", "ms", |of| {
        of.per_thousand(of.agent_cpu_s)
    });
    time("agent, share of a core", "%", |of| {
        of.agent_cpu_s / of.seconds * 100.0
    });
    time("agent's RSS", "MiB", |of| of.agent_rss_mib);
    time("end of the last call to the page", "ms", |of| {
        of.page_s * 1e3
    });
    if mode.sends_otlp() {
        time("Collector's CPU for 1,000 calls", "ms", |of| {
            of.per_thousand(of.collector_cpu_s)
        });
        time("Collector's RSS", "MiB", |of| of.collector_rss_mib);
    }
    report.ratio(
        &format!("{name}: clients' CPU / no agent"),
        &times(client),
        &Times(alone.iter().map(client).collect()),
        None,
    );
    let mut figure = |what: &str, value: f64, unit: &str| {
        report.figure(&format!("{name}: {what}"), value, unit, None);
    };
    let captured = sum(&outcome.page, "observer_capture_bytes_total");
    figure(
        "plaintext captured for a call",
        captured / outcome.calls.len().max(1) as f64,
        "B",
    );
    let series = Series::of(&outcome.page);
    figure("series of calls on the page", series.of_calls as f64, "");
    figure("sets of labels of calls", series.sets as f64, "");
    figure("series of the agent itself", series.of_agent as f64, "");
    figure("bytes of the page", outcome.page.len() as f64, "B");
    figure("questions to the kubelet", outcome.pods_asked as f64, "");
    let answers = outcome.pods_bytes as f64 / 1e6;
    figure("answers of the kubelet", answers, "MB");
    losses(report, &name, mode, outcomes);
    if !mode.sends_otlp() {
        return;
    }
    volume(report, &name, outcome);
    if !mode.sends_spans() {
        return;
    }
    let sent = &outcome.sent;
    let mut lags: Vec<f64> = sent
        .calls
        .iter()
        .filter_map(|(id, at)| Some((*at as f64 - *outcome.calls.get(id)? as f64) / 1e6))
        .collect();
    lags.sort_by(f64::total_cmp);
    for (what, share) in [("median", 0.5), ("99th percentile", 0.99), ("largest", 1.0)] {
        let at = (lags.len() as f64 * share) as usize;
        if let Some(lag) = lags.get(at.min(lags.len().saturating_sub(1))) {
            let name = format!("{name}: end of a call to the Collector, {what}");
            report.figure(&name, *lag, "ms", None);
        }
    }
}

/// What goes by OTLP.
fn volume(report: &mut Report, name: &str, outcome: &Outcome) {
    let mut figure = |what: &str, value: f64, unit: &str| {
        report.figure(&format!("{name}: {what}"), value, unit, None);
    };
    let sent = &outcome.sent;
    let share = |bytes: u64, count: u64| bytes as f64 / count.max(1) as f64;
    let points = |bytes| share(bytes, sent.points);
    figure(
        "data points of a request",
        share(sent.points, sent.metric_requests),
        "",
    );
    figure("bytes of a data point", points(sent.point_bytes), "B");
    figure(
        "bytes of a data point, as sent",
        points(sent.metric_wire),
        "B",
    );
    if sent.spans == 0 {
        return;
    }
    let calls = sent.calls.len() as u64;
    figure(
        "spans of a request",
        share(sent.spans, sent.span_requests),
        "",
    );
    figure(
        "bytes of a call's span, alone",
        share(sent.call_bytes, calls),
        "B",
    );
    let others = sent.spans.saturating_sub(calls + sent.twice);
    figure("spans of runs", others as f64, "");
    figure(
        "bytes of a run's span, alone",
        share(sent.run_bytes, others),
        "B",
    );
    let spans = |bytes| share(bytes, sent.spans);
    figure("bytes for a span", spans(sent.span_bytes), "B");
    figure("bytes for a span, as sent", spans(sent.span_wire), "B");
    figure(
        "bytes for a call, as sent",
        share(sent.span_wire, calls),
        "B",
    );
}

/// User and system time of a process, also of threads that have ended, in seconds (`/proc/PID/stat`, proc(5)).
fn whole_cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).context("no time")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn ticks(stat: &str) -> Option<u64> {
    // The name, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// A page of the agent's.
fn page(port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no page")?;
    ensure!(head.contains(" 200 "), "{head}");
    Ok(body.to_owned())
}

/// The samples of a metric on a page, added up.
fn sum(page: &str, name: &str) -> f64 {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest
            .starts_with(['{', ' '])
            .then(|| rest.rsplit(' ').next());
        value??.parse::<f64>().ok()
    });
    samples.sum()
}

/// How many series a page has.
#[derive(Debug, PartialEq, Eq)]
struct Series {
    /// With the labels of calls.
    of_calls: usize,
    /// Sets of labels of calls.
    sets: usize,
    of_agent: usize,
}

impl Series {
    fn of(page: &str) -> Self {
        let count = |what: fn(&str) -> bool| {
            let samples = page
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'));
            samples.filter(|line| what(line)).count()
        };
        Self {
            of_calls: count(|line| {
                line.starts_with("gen_ai_client_") && line.contains("gen_ai_request_model=")
            }),
            sets: count(|line| line.starts_with("gen_ai_client_calls_total{")),
            of_agent: count(|line| !line.contains("gen_ai_request_model=")),
        }
    }
}

/// A pod that makes calls.
struct Pod {
    uid: String,
    container: String,
    namespace: &'static str,
    workload: &'static str,
    cgroup: PathBuf,
}

/// The pods of the node that make calls; their cgroups are removed with it.
struct Pods(Vec<Pod>);

impl Pods {
    fn make() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = cgroup2(&mounts).context("no cgroup2 is mounted: there are no pods")?;
        let root = root.join(format!("observer-bench-{}", std::process::id()));
        let mut pods = Self(Vec::new());
        for number in 0..PODS {
            let uid = format!("0f5e3a52-7c0f-4f2e-9a57-{number:012x}");
            let container = format!("{number:064x}");
            let cgroup = root.join(format!("pod{uid}")).join(&container);
            let namespace = NAMESPACES[number % 2];
            let workload = ["assistant", "ranker"][number % 2];
            fs::create_dir_all(&cgroup)
                .with_context(|| format!("cannot make {}: no pods", cgroup.display()))?;
            pods.0.push(Pod {
                uid,
                container,
                namespace,
                workload,
                cgroup,
            });
        }
        Ok(pods)
    }

    /// What the kubelet says.
    fn list(&self) -> String {
        let of_calls = self.0.iter().enumerate().map(|(number, pod)| {
            object(
                number,
                &pod.uid,
                &pod.container,
                pod.namespace,
                pod.workload,
            )
        });
        let others = (PODS..PODS + OTHER_PODS).map(|number| {
            let uid = format!("1e2d3c4b-7c0f-4f2e-9a57-{number:012x}");
            object(number, &uid, &format!("{number:064x}"), "other", "web")
        });
        let items: Vec<Value> = of_calls.chain(others).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string()
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for pod in &self.0 {
            for folder in pod.cgroup.ancestors().take(3) {
                // Those above hold others until the last.
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Where version 2 of cgroups is.
fn cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// A pod as the API has it, of the usual length.
fn object(number: usize, uid: &str, container: &str, namespace: &str, workload: &str) -> Value {
    let hash = "6d4cf56db6";
    let mut pod = json!({
        "metadata": {
            "uid": uid, "namespace": namespace, "name": format!("{workload}-{hash}-{number:05}"),
            "labels": {"pod-template-hash": hash, "app.kubernetes.io/name": workload},
            "annotations": {},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": format!("{workload}-{hash}"), "uid": uid, "controller": true}],
        },
        "spec": {"nodeName": "node-00001",
            "containers": [{"name": "app", "image": format!("registry.example/{workload}:1.2.3")}]},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "startTime": "2026-01-02T03:04:05Z",
            "containerStatuses": [{"name": "app", "containerID": format!("containerd://{container}"),
                "image": format!("registry.example/{workload}:1.2.3"), "imageID": "sha256:1",
                "ready": true, "restartCount": 0}]},
    });
    let rest = POD_BYTES.saturating_sub(pod.to_string().len());
    pod["metadata"]["annotations"]["example.com/filler"] = json!("x".repeat(rest));
    pod
}

/// Answers as the kubelet does.
struct Kubelet {
    port: u16,
    times: Arc<AtomicU64>,
    length: u64,
}

impl Kubelet {
    fn start(list: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let times = Arc::new(AtomicU64::new(0));
        let (counted, length) = (Arc::clone(&times), list.len() as u64);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{list}"
        );
        let answer: Arc<[u8]> = answer.into_bytes().into();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                thread::spawn(move || {
                    let (mut seen, mut room) = (Vec::new(), [0; 4096]);
                    while let Ok(length @ 1..) = stream.read(&mut room) {
                        seen.extend_from_slice(&room[..length]);
                        // A GET has no body.
                        if seen.ends_with(b"\r\n\r\n") {
                            seen.clear();
                            counted.fetch_add(1, Ordering::Relaxed);
                            if stream.write_all(&answer).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self {
            port,
            times,
            length,
        })
    }

    /// How often it was asked, and what it answered in bytes.
    fn asked(&self) -> (u64, u64) {
        let times = self.times.load(Ordering::Relaxed);
        (times, times * self.length)
    }
}

/// The OpenTelemetry Collector, which counts what it gets.
struct Collector {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Collector {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let [port] = telemetry::free_ports::<1>();
        let config = folder.join("collector.yaml");
        fs::write(
            &config,
            format!(
                "receivers:
  otlp:
    protocols:
      http: {{endpoint: \"127.0.0.1:{port}\"}}
processors:
  batch: {{send_batch_size: 8192, timeout: 1s}}
exporters:
  debug: {{verbosity: basic}}
service:
  telemetry:
    metrics: {{level: none}}
    logs: {{sampling: {{enabled: false}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [debug]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [debug]}}
"
            ),
        )?;
        let log = folder.join("collector.log");
        let file = File::create(&log)?;
        let child = pinned(OTHERS, telemetry::collector()?)
            .arg("--config")
            .arg(&config)
            .env("GOMAXPROCS", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let mut collector = Self { child, port, log };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if collector.child.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(30) {
                bail!("the Collector: {}", fs::read_to_string(&collector.log)?);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(collector)
    }

    fn cpu_s(&self) -> anyhow::Result<f64> {
        whole_cpu_s(self.child.id())
    }

    /// Has it hand on what it holds. Returns how many spans it got.
    fn stop(mut self) -> anyhow::Result<u64> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(collected(&fs::read_to_string(&self.log)?))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Spans that the debug exporter tells of: a line for each batch, which ends with an object.
fn collected(log: &str) -> u64 {
    let objects = log.lines().filter_map(|line| {
        let object = line.get(line.find('{')?..)?;
        serde_json::from_str::<Value>(object).ok()
    });
    objects.filter_map(|object| object["spans"].as_u64()).sum()
}

/// What came from the agent, as it came: when, and so many bytes.
type Pieces = Vec<(SystemTime, Vec<u8>)>;

/// Stands between the agent and the Collector, and keeps what the agent sends.
struct Tee {
    port: u16,
    connections: Arc<Mutex<Vec<Arc<Mutex<Pieces>>>>>,
}

impl Tee {
    fn start(to: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let connections: Arc<Mutex<Vec<Arc<Mutex<Pieces>>>>> = Arc::default();
        let shared = Arc::clone(&connections);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let Ok(collector) = TcpStream::connect(("127.0.0.1", to)) else {
                    return;
                };
                let pieces: Arc<Mutex<Pieces>> = Arc::default();
                let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(Arc::clone(&pieces));
                drop(all);
                // Each ends with the connection.
                let ends = (agent.try_clone(), collector.try_clone());
                if let (Ok(mut back), Ok(mut answers)) = ends {
                    thread::spawn(move || std::io::copy(&mut answers, &mut back));
                }
                thread::spawn(move || pass(agent, collector, &pieces));
            }
        });
        Ok(Self { port, connections })
    }

    /// All that was sent.
    fn sent(&self) -> anyhow::Result<Sent> {
        let mut sent = Sent::default();
        let connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for pieces in connections.iter() {
            sent.add(&pieces.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(sent)
    }
}

fn pass(mut agent: TcpStream, mut collector: TcpStream, pieces: &Mutex<Pieces>) {
    let mut room = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = agent.read(&mut room) {
        let Some(piece) = room.get(..length) else {
            break;
        };
        let mut pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.push((SystemTime::now(), piece.to_vec()));
        drop(pieces);
        if collector.write_all(piece).is_err() {
            break;
        }
    }
    let _ = collector.shutdown(Shutdown::Both);
}

/// What the agent sent.
#[derive(Clone, Debug, Default)]
struct Sent {
    /// By the provider's ids, when their spans had come, in nanoseconds since the epoch.
    calls: BTreeMap<String, u64>,
    /// Spans of a call that had one.
    twice: u64,
    spans: u64,
    span_requests: u64,
    /// Of spans alone, without the resources that they share.
    call_bytes: u64,
    run_bytes: u64,
    /// Of bodies, not compressed.
    span_bytes: u64,
    /// As sent, with heads.
    span_wire: u64,
    points: u64,
    metric_requests: u64,
    point_bytes: u64,
    metric_wire: u64,
}

impl Sent {
    /// Adds what one connection carried.
    fn add(&mut self, pieces: &Pieces) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for (at, piece) in pieces {
            bytes.extend_from_slice(piece);
            while let Some((request, length)) = Request::parse(&bytes)? {
                bytes.drain(..length);
                let at = at.duration_since(UNIX_EPOCH)?.as_nanos();
                self.request(&request, length as u64, u64::try_from(at)?)?;
            }
        }
        ensure!(bytes.is_empty(), "a request without its end");
        Ok(())
    }

    fn request(&mut self, request: &Request, wire: u64, at: u64) -> anyhow::Result<()> {
        let body = &*request.body;
        match &*request.path {
            "/v1/traces" => {
                let message = ExportTraceServiceRequest::decode(body)?;
                self.span_requests += 1;
                self.span_bytes += body.len() as u64;
                self.span_wire += wire;
                let scopes = message.resource_spans.iter().flat_map(|of| &of.scope_spans);
                let mut ids = HashSet::new();
                for span in scopes.flat_map(|of| &of.spans) {
                    self.spans += 1;
                    let bytes = span.encoded_len() as u64;
                    if let Some(id) = request_id(&span.attributes) {
                        let again = !ids.insert(id) || self.calls.contains_key(id);
                        self.twice += u64::from(again);
                        self.call_bytes += bytes;
                    } else {
                        self.run_bytes += bytes;
                    }
                }
                for id in ids {
                    self.calls.entry(id.to_owned()).or_insert(at);
                }
            }
            "/v1/metrics" => {
                let message = ExportMetricsServiceRequest::decode(body)?;
                self.metric_requests += 1;
                self.point_bytes += body.len() as u64;
                self.metric_wire += wire;
                let scopes = message
                    .resource_metrics
                    .iter()
                    .flat_map(|of| &of.scope_metrics);
                for metric in scopes.flat_map(|of| &of.metrics) {
                    self.points += match &metric.data {
                        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
                        Some(Data::Sum(sum)) => sum.data_points.len(),
                        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
                        other => bail!("a metric of {other:?}"),
                    } as u64;
                }
            }
            path => bail!("a request to {path}"),
        }
        Ok(())
    }
}

fn request_id(attributes: &[KeyValue]) -> Option<&str> {
    let attribute = attributes
        .iter()
        .find(|of| of.key == "observer.request_id")?;
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(id) => Some(id),
        _ => None,
    }
}

/// A request of HTTP/1.1.
struct Request {
    path: String,
    /// Not compressed.
    body: Vec<u8>,
}

impl Request {
    /// The first one with its length, once it is there as a whole.
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Self, usize)>> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(begin) = head.parse(bytes)? else {
            return Ok(None);
        };
        let field = |name: &str| {
            let mut fields = head.headers.iter();
            let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(field.value).ok()
        };
        let length: usize = field("content-length").context("no length")?.parse()?;
        let Some(body) = bytes.get(begin..begin + length) else {
            return Ok(None);
        };
        let body = match field("content-encoding") {
            Some("gzip") => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(body).read_to_end(&mut plain)?;
                plain
            }
            None => body.to_vec(),
            Some(other) => bail!("a body of {other}"),
        };
        let request = Self {
            path: head.path.unwrap_or_default().to_owned(),
            body,
        };
        Ok(Some((request, begin + length)))
    }
}

#[cfg(test)]
mod tests;
