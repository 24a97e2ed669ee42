//! The command line.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use observer_wire::Options;
use rustix::process::Signal;
use signal_hook::{
    consts::{SIGCHLD, SIGINT, SIGTERM},
    iterator::{backend::SignalDelivery, exfiltrator::SignalOnly},
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    agent::{Agent, Outcome, Signals, Summary},
    attach::{Attacher, Watch, link::Rung, processes::Pid, system},
    capture::Capture,
    check,
    engine::{Engine, Seen, Settings},
    exec::{self, Gated},
    export::{
        Exporters, Opened, Outputs,
        terminal::{count, others_of},
    },
    recording::{Created, Head, Recorder},
    replay::Replay,
    trace::{self, Prices, TraceBy},
};

/// Something failed, as the contract has it; 2 is clap's for usage.
const FAILED: u8 = 1;

/// How long JVMs that run already are waited for before `ready`.
const JVM_PATIENCE: Duration = Duration::from_secs(15);

/// Sees every LLM call that a process makes, with no change to any program.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch running processes, or the whole machine, until Ctrl-C
    Watch {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: WatchOptions,
    },
    /// Run a command and watch it and its children from the first instruction
    Exec {
        #[command(flatten)]
        options: WatchOptions,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Turn a recording into records: everything behind the capture once more, on any machine and with no
    /// rights
    Replay {
        /// The recording, made with `watch --record` or `exec --record`; `-` for standard input
        file: PathBuf,
        #[command(flatten)]
        records: RecordOptions,
        /// End a trace when its thread has made no call for this many seconds [default: as recorded]
        #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "OBSERVER_TRACE_IDLE")]
        trace_idle: Option<f64>,
    },
    /// Say what this kernel, these rights and a process allow, and what to do about it
    Check {
        /// Also look at this process
        #[arg(long)]
        pid: Option<u32>,
        /// Also look at this file, as if a process had loaded it (can be repeated)
        #[arg(long, value_name = "FILE")]
        file: Vec<PathBuf>,
        /// Form of the report
        #[arg(long, default_value = "text")]
        format: check::Format,
    },
    #[command(name = exec::GATE, hide = true)]
    Gate {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Watch this process and its children (can be repeated)
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Watch every process of the machine, also those that start later
    #[arg(long)]
    all: bool,
}

/// Which records there are, and where they go.
#[derive(Debug, Args)]
struct RecordOptions {
    #[command(flatten)]
    outputs: Outputs,
    /// Also record previews of prompts and answers; without it no content is kept
    #[arg(long, env = "OBSERVER_CAPTURE_CONTENT")]
    capture_content: bool,
    /// Longest preview of an answer, in characters
    #[arg(
        long,
        value_name = "N",
        default_value_t = 500,
        env = "OBSERVER_PREVIEW_CHARS"
    )]
    preview_chars: usize,
    /// Record only calls of this provider, such as openai or anthropic (can be repeated)
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "OBSERVER_PROVIDER"
    )]
    provider: Vec<String>,
    /// Say what calls cost where the provider does not, by this table of prices in LiteLLM's format
    /// (model_prices_and_context_window.json)
    #[arg(long, value_name = "FILE", env = "OBSERVER_PRICES")]
    prices: Option<PathBuf>,
    #[command(flatten)]
    trace: TraceOptions,
}

/// How traces are made, beside when they end.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traces")]
struct TraceOptions {
    /// Put calls into traces by this rule alone, and by the thread where it does not apply
    #[arg(
        id = "trace_by",
        long = "trace-by",
        value_name = "RULE",
        default_value = "auto",
        env = "OBSERVER_TRACE_BY"
    )]
    by: TraceBy,
    /// Call traces by this name [default: that of the process or of its task]
    #[arg(
        id = "trace_name",
        long = "trace-name",
        value_name = "NAME",
        env = "OBSERVER_TRACE_NAME"
    )]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct WatchOptions {
    #[command(flatten)]
    records: RecordOptions,
    /// Keep what is captured in this new file, for `observer replay`. It holds prompts, answers and API keys
    /// as they are: needs --capture-content
    #[arg(long, value_name = "FILE", env = "OBSERVER_RECORD")]
    record: Option<PathBuf>,
    /// Look into every connection, also those that are no LLM provider's
    #[arg(long, env = "OBSERVER_ALL_HOSTS")]
    all_hosts: bool,
    /// Also look into connections without TLS with --all, as is usual with --pid and exec: local servers
    /// such as Ollama, vLLM, llama.cpp or LiteLLM
    #[arg(long, env = "OBSERVER_PLAINTEXT")]
    plaintext: bool,
    /// Look into no connection without TLS
    #[arg(long, conflicts_with = "plaintext", env = "OBSERVER_NO_PLAINTEXT")]
    no_plaintext: bool,
    /// End a trace when its thread has made no call for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds, env = "OBSERVER_TRACE_IDLE")]
    trace_idle: f64,
    /// Size of the buffer between kernel and agent in MiB, a power of two; raise it if records are lost
    #[arg(long, value_name = "MIB", default_value_t = 16.0, value_parser = ring, env = "OBSERVER_RING_BUFFER")]
    ring_buffer: f64,
    /// Load a small agent into watched JVMs, to see the TLS that the JDK does itself. The agent leaves when
    /// observer stops
    #[arg(long, env = "OBSERVER_JAVA_AGENT")]
    java_agent: bool,
    /// Interface of the kernel to attach by [default: the best that there is]
    #[arg(long, value_name = "INTERFACE", env = "OBSERVER_ATTACH_BY")]
    attach_by: Option<Rung>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("OBSERVER_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let result = match cli.command {
        Command::Watch { target, options } => watch(&target, &options),
        Command::Exec { options, command } => run_command(&command, &options),
        Command::Replay {
            file,
            records,
            trace_idle,
        } => replay(&file, &records, trace_idle),
        Command::Check { pid, file, format } => {
            let report = check::check(pid.map(Pid), &file);
            report
                .write(format, &mut anstream::stdout())
                .map(|()| u8::from(!report.ok))
                .map_err(Into::into)
        }
        Command::Gate { command } => Ok(exec::gate(&command)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            anstream::eprintln!("observer: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn watch(target: &Target, options: &WatchOptions) -> anyhow::Result<u8> {
    let mut signals = signals(&[SIGINT, SIGTERM])?;
    let prices = options.records.prices()?;
    let recording = options.recording()?;
    let opened = options.records.outputs.open()?;
    let (mut attacher, capture) = options.attach(if target.all {
        Watch::All
    } else {
        Watch::Processes
    })?;
    if target.all {
        attacher.scan_everything()?;
        attacher.await_java(JVM_PATIENCE);
    } else {
        let pids: Vec<Pid> = target.pid.iter().copied().map(Pid).collect();
        attacher.add(&pids)?;
        attacher.await_java(JVM_PATIENCE);
        if !attacher.is_speaking() {
            anstream::eprintln!(
                "observer: no TLS library is loaded in the watched process yet; waiting for one (see `observer check --pid {}`)",
                pids[0]
            );
        }
    }
    give_up_rights(&mut attacher, options);
    let exporters = start(opened)?;
    let (engine, recorder) = options.engine(recording, prices)?;
    anstream::eprintln!("ready");
    let mut agent = Agent::new(attacher, capture, engine, recorder, exporters);
    let outcome = agent.run(&mut signals)?;
    match outcome {
        Outcome::NobodyLeft => anstream::eprintln!("observer: every watched process has exited"),
        Outcome::Signal(_) | Outcome::OutputFailed => {}
    }
    summarize(&agent.finish()?);
    Ok(0)
}

fn run_command(command: &[OsString], options: &WatchOptions) -> anyhow::Result<u8> {
    let mut signals = signals(&[SIGINT, SIGTERM, SIGCHLD])?;
    let prices = options.records.prices()?;
    let recording = options.recording()?;
    let opened = options.records.outputs.open()?;
    let (mut attacher, capture) = options.attach(Watch::Processes)?;
    // The command keeps its rights.
    let mut gated = Gated::start(command)?;
    attacher.scan_everything()?;
    attacher.add(&[gated.pid()])?;
    attacher.expect(&exec::files(command));
    give_up_rights(&mut attacher, options);
    let exporters = start(opened)?;
    let (engine, recorder) = options.engine(recording, prices)?;
    anstream::eprintln!("ready");
    gated.release()?;
    let mut agent = Agent::new(attacher, capture, engine, recorder, exporters);
    let status = loop {
        let outcome = agent.run(&mut signals)?;
        match outcome {
            Outcome::Signal(SIGTERM) => pass_on(&gated, Signal::TERM),
            // On a terminal Ctrl-C has reached the command too.
            Outcome::Signal(SIGINT) if !io::stdin().is_terminal() => {
                pass_on(&gated, Signal::INT);
            }
            Outcome::OutputFailed => break None,
            _ => {}
        }
        if let Some(status) = gated.try_wait()? {
            break Some(status);
        }
        if outcome == Outcome::NobodyLeft {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    agent.settle();
    let summary = agent.finish();
    let status = match status {
        Some(status) => status,
        None => loop {
            // The command goes on without us.
            if let Some(status) = gated.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(20));
        },
    };
    summarize(&summary?);
    Ok(exec::exit_code(status))
}

fn replay(file: &Path, options: &RecordOptions, trace_idle: Option<f64>) -> anyhow::Result<u8> {
    let prices = options.prices()?;
    let replay = Replay::open(file)?;
    let exporters = start(options.outputs.open()?)?;
    let mut head = replay.head().clone();
    if let Some(seconds) = trace_idle {
        head.trace_idle = Duration::from_secs_f64(seconds);
    }
    summarize(&replay.run(options.settings(&head, prices), exporters)?);
    Ok(0)
}

/// The exporters' threads.
fn start(opened: Vec<Opened>) -> anyhow::Result<Exporters> {
    Exporters::start(opened).context("cannot start the export threads")
}

/// The command may run as another user by now, and the right to signal it is given up.
fn pass_on(gated: &Gated, signal: Signal) {
    if let Err(error) = gated.signal(signal) {
        warn!(%error, "cannot pass the signal on to the command");
    }
}

fn summarize(summary: &Summary) {
    let Summary {
        seen:
            Seen {
                calls,
                traces,
                others,
                bytes,
            },
        losses,
        dropped,
    } = summary;
    let calls = count(*calls, "call");
    let traces = count(*traces, "trace");
    let others = match others {
        0 => String::new(),
        others => format!(", {}", others_of(*others)),
    };
    let losses = losses.map_or("losses unknown".to_owned(), |losses| losses.to_string());
    let dropped: String = dropped
        .iter()
        .map(|(name, dropped)| {
            format!(
                ", {} not written in time ({name})",
                count(*dropped, "record")
            )
        })
        .collect();
    anstream::eprintln!(
        "observer: {calls}, {traces}{others}, {bytes} bytes captured, {losses}{dropped}"
    );
}

impl RecordOptions {
    fn settings(&self, head: &Head, prices: Option<Prices>) -> Settings {
        Settings {
            wire: Options {
                capture_content: self.capture_content,
                output_preview_chars: self.preview_chars,
                ..Options::default()
            },
            providers: self
                .provider
                .iter()
                .map(|name| name.to_lowercase())
                .collect(),
            all_hosts: head.all_hosts,
            trace: trace::Settings {
                idle: head.trace_idle,
                by: self.trace.by,
                name: self.trace.name.clone(),
            },
            seed: head.seed,
            prices,
        }
    }

    fn prices(&self) -> anyhow::Result<Option<Prices>> {
        self.prices.as_deref().map(Prices::read).transpose()
    }
}

impl WatchOptions {
    /// Creates the file of the recording.
    fn recording(&self) -> anyhow::Result<Option<Created>> {
        let Some(path) = &self.record else {
            return Ok(None);
        };
        if !self.records.capture_content {
            Cli::command()
                .error(
                    ErrorKind::MissingRequiredArgument,
                    "--record keeps prompts, answers and credentials as they are: \
                     it needs --capture-content, which says that this is wanted",
                )
                .exit();
        }
        let file = Recorder::create(path)?;
        anstream::eprintln!(
            "observer: warning: {} will hold prompts, answers and credentials such as API keys as they are",
            path.display()
        );
        Ok(Some(file))
    }

    fn engine(
        &self,
        recording: Option<Created>,
        prices: Option<Prices>,
    ) -> anyhow::Result<(Engine, Option<Recorder>)> {
        let head = Head {
            observer: env!("CARGO_PKG_VERSION").to_owned(),
            seed: fastrand::u64(..),
            all_hosts: self.all_hosts,
            trace_idle: Duration::from_secs_f64(self.trace_idle),
        };
        let recorder = recording.map(|file| file.start(&head)).transpose()?;
        Ok((Engine::new(self.records.settings(&head, prices)), recorder))
    }

    /// System calls cost everybody more, so the whole machine pays for plain HTTP only if it is asked to.
    fn watches_plaintext(&self, watch: Watch) -> bool {
        !self.no_plaintext && (self.plaintext || watch == Watch::Processes)
    }

    fn attach(&self, watch: Watch) -> anyhow::Result<(Attacher, Capture)> {
        // Within range and a power of two: `ring` has seen to it.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = (self.ring_buffer * f64::from(1 << 20)) as u32;
        let (mut attacher, sources) = Attacher::new(watch, bytes, self.attach_by)?;
        if self.watches_plaintext(watch) {
            attacher.capture_plaintext()?;
        }
        if self.java_agent {
            attacher.reach_java()?;
        }
        let capture = Capture::new(sources).context("cannot wait for records")?;
        Ok((attacher, capture))
    }
}

/// From here on no more rights than needed. Threads that are started later have no more either. What runs
/// already has been looked at with all of them.
fn give_up_rights(attacher: &mut Attacher, options: &WatchOptions) {
    let (rung, _) = attacher.rung();
    match system::drop_capabilities(rung, options.java_agent) {
        Ok(kept) => info!(kept = kept.join(", "), "gave up the other capabilities"),
        Err(error) => warn!(%error, "cannot give up capabilities"),
    }
    if let Err(error) = attacher.go_on_in_background() {
        warn!(%error, "cannot start the thread that examines files");
    }
}

/// Signals, to be waited for together with the ring buffer.
fn signals(numbers: &[i32]) -> anyhow::Result<Signals> {
    let (read, write) = UnixStream::pair().context("cannot make a pipe for signals")?;
    SignalDelivery::with_pipe(read, write, SignalOnly, numbers).context("cannot handle signals")
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds, not negative".to_owned()),
    }
}

fn ring(text: &str) -> Result<f64, String> {
    let valid = |mib: &f64| (0.0625..=2048.0).contains(mib) && mib.log2().fract() == 0.0;
    text.parse()
        .ok()
        .filter(valid)
        .ok_or_else(|| "a power of two from 0.0625 (64 KiB) to 2048".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ring_sizes_are_powers_of_two() {
        assert!(ring("16").is_ok() && ring("0.0625").is_ok());
        assert!(ring("3").is_err() && ring("0").is_err() && ring("x").is_err());
    }
}
