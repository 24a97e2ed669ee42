//! The command line.

use std::{
    env,
    ffi::OsString,
    fmt,
    io::{self, IsTerminal as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};
use observer_wire::Options;
use rustix::process::Signal;
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::{backend::SignalDelivery, exfiltrator::SignalOnly},
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    agent::{Agent, Outcome, Signals, Summary},
    attach::{Attacher, Watch, link::Rung, processes::Pid, system},
    capture::Capture,
    check,
    config::{self, Effective, Failure, Loaded},
    engine::{Engine, Seen, Settings},
    exec::{self, Gated},
    export::{Exporters, Format, Opened, Outputs},
    inventory::{self, Listing},
    kubernetes::{self, Pods},
    recording::{Created, Head, Recorder},
    replay::Replay,
    report,
    salt::{self, Salt},
    text::{count, others_of},
    top::{self, Top},
    trace::{self, Prices, TraceBy},
};

/// Something failed, as the contract has it; 2 is clap's for usage.
const FAILED: u8 = 1;

/// How much of calls and traces a page of HTML holds, about.
const PAGE: usize = 24 * 1024 * 1024;

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
        #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND", help_heading = None)]
        command: Vec<OsString>,
    },
    /// Turn a recording into records: everything behind the capture once more, on any machine and with no
    /// rights
    Replay {
        /// The recording, made with `watch --record` or `exec --record`; `-` for standard input
        file: PathBuf,
        #[command(flatten)]
        records: RecordOptions,
        /// End a trace when nothing has happened in it for this many seconds [default: as recorded]
        #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "OBSERVER_TRACE_IDLE", help_heading = "Traces")]
        trace_idle: Option<f64>,
    },
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
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
    /// Show what is going on: processes, models, calls in flight, traces. Watches the whole machine unless told
    /// otherwise
    Top {
        /// Watch nothing, but follow this file of JSON lines, as `watch --output` writes it
        file: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
        /// Use no characters but those of ASCII
        #[arg(long, env = "OBSERVER_ASCII")]
        ascii: bool,
        #[command(flatten)]
        options: Box<WatchOptions>,
    },
    /// Make one page of HTML out of files of JSON lines: sums, latencies, errors, and every trace over time
    Report {
        /// The files, as `watch --output` writes them; `-` for standard input
        #[arg(required = true)]
        file: Vec<PathBuf>,
        /// Where the page goes; `-` for standard output
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// List so many calls at most, the latest; sums are always over all
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        max_calls: usize,
    },
    /// List who talks to LLM providers: users, programs, containers, models and API keys, with calls, tokens
    /// and cost
    #[command(group = clap::ArgGroup::new("source").required(true))]
    Inventory(#[command(flatten)] inventory::command::Options),
    #[command(name = exec::GATE, hide = true)]
    Gate {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file, and print what `watch` would go by: each value and where it is from
    Check {
        /// The file [default: OBSERVER_CONFIG, else /etc/observer/observer.toml]
        file: Option<PathBuf>,
    },
}

/// What to watch: one of the two, but the configuration may say which.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Watching")]
struct Target {
    /// Watch this process and its children (can be repeated)
    #[arg(long, value_name = "PID", value_delimiter = ',', env = "OBSERVER_PID")]
    pid: Vec<u32>,
    /// Watch every process of the machine, also those that start later
    #[arg(long, env = "OBSERVER_ALL")]
    all: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all {
            return f.write_str("all processes");
        }
        let pids: Vec<String> = self.pid.iter().map(u32::to_string).collect();
        write!(f, "pid {}", pids.join(", "))
    }
}

/// Which records there are, and where they go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Records")]
struct RecordOptions {
    /// Read options from this file (TOML) [default of `watch`: /etc/observer/observer.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "OBSERVER_CONFIG", help_heading = None)]
    config: Option<PathBuf>,
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
    /// Keep the secret by which fingerprints of API keys are made in this file, which is made if it is not there
    /// [default: /var/lib/observer/salt, or a secret for this run alone]
    #[arg(long, value_name = "FILE", env = "OBSERVER_CREDENTIAL_SALT_FILE")]
    credential_salt_file: Option<PathBuf>,
    #[command(flatten)]
    trace: TraceOptions,
    #[command(flatten)]
    outputs: Outputs,
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
    /// Call every trace by this name [default: that of the process or the route]
    #[arg(
        id = "trace_name",
        long = "trace-name",
        value_name = "NAME",
        env = "OBSERVER_TRACE_NAME"
    )]
    name: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Watching")]
struct WatchOptions {
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
    /// End a trace when nothing has happened in it for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds, env = "OBSERVER_TRACE_IDLE", help_heading = "Traces")]
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
    #[command(flatten)]
    kubernetes: kubernetes::Options,
    // At the end: what follows would be under its last heading.
    #[command(flatten)]
    records: RecordOptions,
}

/// The table of every option, and the example of a configuration file: `docs/configuration.md` and
/// `docs/observer.toml`.
pub fn documentation() -> [String; 2] {
    let command = Cli::command();
    [config::reference(&command), config::example(&command)]
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    let loaded = match load(&args) {
        Ok(loaded) => loaded,
        Err(Failure::Usage(error)) => error.exit(),
        Err(error) => return failed(&error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("OBSERVER_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(top::log::writer)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let Loaded {
        options: cli,
        effective,
        ..
    } = loaded;
    let result = match cli.command {
        Command::Watch { target, options } => watch(&target, &options, Live { args, effective }),
        Command::Exec { options, command } => {
            run_command(&command, &options, Live { args, effective })
        }
        Command::Replay {
            file,
            records,
            trace_idle,
        } => replay(&file, &records, trace_idle),
        Command::Config(ConfigCommand::Check { file }) => check_config(file),
        Command::Check { pid, file, format } => {
            let report = check::check(pid.map(Pid), &file);
            report
                .write(format, &mut anstream::stdout())
                .map(|()| u8::from(!report.ok))
                .map_err(Into::into)
        }
        Command::Top {
            file: Some(file),
            ascii,
            ..
        } => top::follow(&file, ascii).map(|()| 0),
        Command::Top {
            mut target,
            ascii,
            mut options,
            ..
        } => {
            target.all |= target.pid.is_empty();
            let outputs = &mut options.records.outputs;
            if outputs.output.is_none() {
                outputs.format = Some(Format::None);
            }
            Top::open(target.to_string(), ascii)
                .and_then(|top| show(&target, &options, Live { args, effective }, top))
        }
        Command::Report {
            file,
            output,
            max_calls,
        } => {
            let limits = report::Limits {
                calls: max_calls,
                bytes: PAGE,
            };
            report::report(&file, &output, limits).map(|()| 0)
        }
        Command::Inventory(options) => inventory::command::run(&options, watch_for_inventory),
        Command::Gate { command } => Ok(exec::gate(&command)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&format_args!("{error:#}")),
    }
}

fn load(args: &[OsString]) -> Result<Loaded<Cli>, Failure> {
    let mut loaded = config::load::<Cli>(args)?;
    let records = match &mut loaded.options.command {
        Command::Watch { options, .. } | Command::Exec { options, .. } => Some(options.placed()),
        Command::Replay { records, .. } => Some(records),
        Command::Top { options, .. } => Some(options.placed()),
        Command::Check { .. }
        | Command::Config(_)
        | Command::Gate { .. }
        | Command::Inventory(_)
        | Command::Report { .. } => None,
    };
    if let (Some(file), Some(records)) = (&loaded.file, records) {
        records.outputs.complete(file).map_err(Failure::File)?;
    }
    Ok(loaded)
}

fn failed(error: &dyn fmt::Display) -> ExitCode {
    anstream::eprintln!("observer: {error}");
    ExitCode::from(FAILED)
}

fn watch(target: &Target, options: &WatchOptions, live: Live) -> anyhow::Result<u8> {
    if !target.all && target.pid.is_empty() {
        Cli::command()
            .error(
                ErrorKind::MissingRequiredArgument,
                "the following required arguments were not provided:\n  <--pid <PID>|--all>",
            )
            .exit();
    }
    let opened = options.records.outputs.open()?;
    watch_into(target, options, opened, Some(live), None)
}

/// As [`watch`], on the screen, too.
fn show(target: &Target, options: &WatchOptions, live: Live, top: Top) -> anyhow::Result<u8> {
    let screen = top.handle();
    let mut opened = options.records.outputs.open()?;
    opened.push(Opened::primary(Box::new(top), "the terminal".to_owned()));
    watch_into(target, options, opened, Some(live), Some(screen))
}

/// What is seen until Ctrl-C, or for some seconds.
fn watch_for_inventory(live: &inventory::command::Live) -> anyhow::Result<Listing> {
    let mut arguments = vec![OsString::from("--format=none")];
    arguments.extend(live.plaintext.then(|| "--plaintext".into()));
    if let Some(prices) = &live.prices {
        arguments.extend(["--prices".into(), prices.into()]);
    }
    let command = WatchOptions::augment_args(clap::Command::new("watch")).no_binary_name(true);
    let options = WatchOptions::from_arg_matches(&command.get_matches_from(arguments))?;
    let target = Target {
        pid: live.pid.clone(),
        all: live.all,
    };
    let seen = inventory::Shared::new();
    let mut opened = options.records.outputs.open()?;
    opened.push(Opened::secondary(Box::new(seen.clone())));
    if let Some(seconds) = live.seconds {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds.into()));
            // There is nobody to tell.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
        });
    }
    watch_into(&target, &options, opened, None, None)?;
    Ok(seen.listing())
}

/// `live` is what may be loaded anew, if anything.
fn watch_into(
    target: &Target,
    options: &WatchOptions,
    opened: Vec<Opened>,
    mut live: Option<Live>,
    screen: Option<top::Handle>,
) -> anyhow::Result<u8> {
    let terminal = Terminal::of_this();
    let ending = impatience()?;
    // The first signal counts, also where the agent ends by itself meanwhile.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ending))
            .context("cannot handle signals")?;
    }
    let mut signals = signals(&[SIGHUP, SIGINT, SIGTERM])?;
    let prices = options.records.prices()?;
    let salt = options.records.salt()?;
    let recording = options.recording()?;
    let pods = options.pods()?;
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
    let (engine, recorder) = options.engine(recording, prices, salt)?;
    let mut agent = Agent::new(attacher, capture, engine, recorder, exporters, pods);
    agent.announce();
    let outcome = loop {
        match (agent.run(&mut signals)?, &mut live) {
            (Outcome::Signal(SIGHUP), Some(live)) if !terminal.hung_up() => {
                live.reload(&mut agent, salt);
            }
            (outcome, _) => break outcome,
        }
    };
    match (outcome, screen) {
        (Outcome::NobodyLeft, None) => {
            anstream::eprintln!("observer: every watched process has exited");
        }
        (Outcome::NobodyLeft, Some(screen)) => {
            let stop = || signals.pending().next().is_some();
            screen.stay("every watched process has exited; q: end", stop);
        }
        (Outcome::Signal(_) | Outcome::OutputFailed, _) => {}
    }
    summarize(&agent.finish()?);
    Ok(0)
}

fn run_command(command: &[OsString], options: &WatchOptions, mut live: Live) -> anyhow::Result<u8> {
    let terminal = Terminal::of_this();
    let ending = impatience()?;
    let mut signals = signals(&[SIGHUP, SIGINT, SIGTERM, SIGCHLD])?;
    let prices = options.records.prices()?;
    let salt = options.records.salt()?;
    let recording = options.recording()?;
    let opened = options.records.outputs.open()?;
    let pods = options.pods()?;
    let (mut attacher, capture) = options.attach(Watch::Processes)?;
    // The command keeps its rights.
    let mut gated = Gated::start(command)?;
    attacher.scan_everything()?;
    attacher.add(&[gated.pid()])?;
    attacher.expect(&exec::files(command));
    give_up_rights(&mut attacher, options);
    let exporters = start(opened)?;
    let (engine, recorder) = options.engine(recording, prices, salt)?;
    anstream::eprintln!("ready");
    gated.release()?;
    let mut agent = Agent::new(attacher, capture, engine, recorder, exporters, pods);
    let status = loop {
        let outcome = agent.run(&mut signals)?;
        match outcome {
            // When a terminal is gone, the command has been told, too.
            Outcome::Signal(SIGHUP) if !terminal.hung_up() => live.reload(&mut agent, salt),
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
    ending.store(true, Ordering::Relaxed);
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

/// What may change while the agent runs.
struct Live {
    args: Vec<OsString>,
    effective: Effective,
}

impl Live {
    /// Reads the configuration once more, and goes by it as far as a running agent can. What was captured before,
    /// and calls that are under way, are not lost. If it is not valid, everything stays as it is.
    fn reload(&mut self, agent: &mut Agent, salt: Salt) {
        // Whatever else: a file may have been moved away to be kept.
        agent.exporters().reopen();
        let stays = |error: &dyn fmt::Display| {
            anstream::eprintln!("observer: the settings stay as they were: {error}");
        };
        let command = Cli::command();
        let loaded = match load(&self.args) {
            Ok(loaded) => loaded,
            Err(error) => return stays(&error),
        };
        let (Command::Watch { options, .. } | Command::Exec { options, .. }) =
            loaded.options.command
        else {
            return;
        };
        let prices = match options.records.prices() {
            Ok(prices) => prices,
            Err(error) => return stays(&format_args!("{error:#}")),
        };
        if agent.is_recording() && !options.records.capture_content {
            return stays(&"capture_content cannot be switched off while a recording is made");
        }
        let changed = loaded.effective.changed(&self.effective, &command);
        for (section, key) in &changed {
            if is_fixed(section, key) {
                anstream::eprintln!(
                    "observer: warning: {section}.{key} has changed: that holds when observer is started again"
                );
            }
        }
        let head = options.head(0, salt);
        agent.reconfigure(options.records.settings(&head, prices));
        let outputs = &options.records.outputs;
        let mut effective = loaded.effective;
        // What could not be had is tried again with the next signal.
        let mut failed = |section: &str, error: &anyhow::Error| {
            anstream::eprintln!("observer: [{section}] stays as it was: {error:#}");
            effective.keep(section, &self.effective, &command);
        };
        if changed.iter().any(|(section, _)| *section == EXPORT) {
            let exporters = agent.exporters();
            let replaced = outputs.primary().and_then(|opened| match opened {
                Some(opened) => exporters.replace(opened).map_err(Into::into),
                None => {
                    exporters.remove_primary();
                    Ok(())
                }
            });
            if let Err(error) = replaced {
                failed(EXPORT, &error);
            }
        }
        for name in Outputs::names() {
            let own = format!("{EXPORT}.{name}");
            if changed.iter().any(|(section, _)| *section == own)
                && let Err(error) = replace(agent.exporters(), name, outputs)
            {
                failed(&own, &error);
            }
        }
        self.effective = effective;
        let changed = count(changed.len() as u64, "change");
        anstream::eprintln!("observer: read the configuration again: {changed}");
    }
}

/// The section of the exporters.
const EXPORT: &str = "export";

/// Whether an option holds for as long as the agent runs.
fn is_fixed(section: &str, key: &str) -> bool {
    match section {
        "watch" => key != "all_hosts",
        "kubernetes" => true,
        _ => key == "credential_salt_file",
    }
}

fn replace(exporters: &mut Exporters, name: &'static str, outputs: &Outputs) -> anyhow::Result<()> {
    let in_use = |error: &anyhow::Error| {
        error.chain().any(|cause| {
            let cause = cause.downcast_ref::<io::Error>();
            cause.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        })
    };
    match outputs.open_one(name) {
        Ok(Some(exporter)) => exporters.replace(Opened::secondary(exporter))?,
        Ok(None) => exporters.remove(name),
        Err(error) if in_use(&error) => {
            // By the exporter that is to be replaced, most likely.
            let outputs = outputs.clone();
            let open = move || outputs.open_one(name)?.context("it is not asked for");
            exporters.replace_later(name, Box::new(open))?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The terminal that the agent was started from. When it goes, SIGHUP means that, not the configuration.
struct Terminal {
    is_there: bool,
}

impl Terminal {
    fn of_this() -> Self {
        // Whoever starts the agent with SIGHUP ignored wants it to outlive the terminal: nohup.
        let is_ignored = procfs::process::Process::myself()
            .and_then(|process| process.status())
            .is_ok_and(|status| status.sigign & (1 << (SIGHUP - 1)) != 0);
        Self {
            is_there: !is_ignored && Self::opens(),
        }
    }

    fn hung_up(&self) -> bool {
        self.is_there && !Self::opens()
    }

    fn opens() -> bool {
        std::fs::File::open("/dev/tty").is_ok()
    }
}

/// Prints what `watch` would go by.
fn check_config(file: Option<PathBuf>) -> anyhow::Result<u8> {
    let mut args: Vec<OsString> = vec!["observer".into(), "watch".into()];
    if let Some(file) = file {
        args.extend(["--config".into(), file.into_os_string()]);
    }
    let loaded = match load(&args) {
        Ok(loaded) => loaded,
        Err(error) => anyhow::bail!("{error}"),
    };
    if let Some(file) = &loaded.file {
        anstream::println!("# {} is valid.", file.path().display());
    } else {
        anstream::println!("# There is no file.");
    }
    anstream::print!("{}", loaded.effective.show(&Cli::command()));
    Ok(0)
}

fn replay(file: &Path, options: &RecordOptions, trace_idle: Option<f64>) -> anyhow::Result<u8> {
    let prices = options.prices()?;
    let replay = Replay::open(file)?;
    let opened = options.outputs.open()?.into_iter();
    let exporters = start(opened.map(Opened::unhurried).collect())?;
    let mut head = replay.head().clone();
    if options.credential_salt_file.is_some() {
        head.salt = options.salt()?;
    }
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
        withheld,
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
    let withheld = match withheld {
        0 => String::new(),
        withheld => format!(
            ", {} not handed on, as it is not known whether their pods are selected",
            count(*withheld, "record")
        ),
    };
    anstream::eprintln!(
        "observer: {calls}, {traces}{others}, {bytes} bytes captured, {losses}{dropped}{withheld}"
    );
}

impl RecordOptions {
    fn settings(&self, head: &Head, prices: Option<Prices>) -> Settings {
        Settings {
            wire: Options {
                capture_content: self.capture_content,
                output_preview_chars: self.preview_chars,
                salt: head.salt,
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

    fn salt(&self) -> anyhow::Result<Salt> {
        salt::salt(self.credential_salt_file.as_deref())
    }
}

impl WatchOptions {
    /// Creates the file of the recording.
    /// The options of the records, which tell where this is, too.
    fn placed(&mut self) -> &mut RecordOptions {
        let otlp = &mut self.records.outputs.otlp;
        otlp.node.clone_from(&self.kubernetes.node);
        otlp.cluster.clone_from(&self.kubernetes.cluster);
        &mut self.records
    }

    fn pods(&self) -> anyhow::Result<Pods> {
        if self.record.is_some() && self.kubernetes.selection().needs_metadata() {
            anyhow::bail!(
                "--record cannot be had where pods are selected: what a process does before its pod is known would be \
                 in the recording"
            );
        }
        Pods::new(&self.kubernetes)
    }

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

    fn head(&self, seed: u64, salt: Salt) -> Head {
        Head {
            observer: env!("CARGO_PKG_VERSION").to_owned(),
            seed,
            all_hosts: self.all_hosts,
            trace_idle: Duration::from_secs_f64(self.trace_idle),
            salt,
        }
    }

    fn engine(
        &self,
        recording: Option<Created>,
        prices: Option<Prices>,
        salt: Salt,
    ) -> anyhow::Result<(Engine, Option<Recorder>)> {
        let head = self.head(fastrand::u64(..), salt);
        let recorder = recording.map(|file| file.start(&head)).transpose()?;
        let settings = self.records.settings(&head, prices);
        Ok((Engine::new(settings), recorder))
    }

    /// System calls cost everybody more, so the whole machine pays for plain HTTP only if it is asked to.
    fn watches_plaintext(&self, watch: Watch) -> bool {
        !self.no_plaintext && (self.plaintext || watch == Watch::Processes)
    }

    fn attach(&self, watch: Watch) -> anyhow::Result<(Attacher, Capture)> {
        // Within range and a power of two: `ring` has seen to it.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = (self.ring_buffer * f64::from(1 << 20)) as u32;
        let (mut attacher, sources) = Attacher::new(
            watch,
            bytes,
            self.attach_by,
            self.kubernetes.selection().is_any(),
        )?;
        attacher.meet();
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

/// Once it is set, SIGINT and SIGTERM end the agent at once: what is written to may never take the rest.
fn impatience() -> anyhow::Result<Arc<AtomicBool>> {
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&ending))
            .context("cannot handle signals")?;
    }
    Ok(ending)
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

    /// Options that are about one run.
    const OF_ONE_RUN: [&str; 2] = ["help", "version"];

    #[test]
    fn every_option_has_a_variable_and_a_key() {
        let command = Cli::command();
        let [reference, _] = documentation();
        for name in ["watch", "exec", "replay"] {
            for arg in command.find_subcommand(name).unwrap().get_arguments() {
                let Some(long) = arg.get_long().filter(|long| !OF_ONE_RUN.contains(long)) else {
                    continue;
                };
                let variable = arg.get_env().unwrap_or_else(|| panic!("--{long} has none"));
                let variable = variable.to_str().unwrap();
                assert!(
                    variable.starts_with("OBSERVER_") || variable.starts_with("INFINIUM_"),
                    "{variable}"
                );
                if long != "config" {
                    assert!(reference.contains(&format!("| `--{long}")), "--{long}");
                    assert!(reference.contains(&format!("`{variable}`")), "{variable}");
                }
            }
        }
    }

    #[test]
    fn the_example_is_valid_and_says_the_defaults() {
        let [_, example] = documentation();
        let command = Cli::command();
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("observer.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let args = ["observer", "watch", "--all", "--config"].map(OsString::from);
            load(&[args.as_slice(), &[path.clone().into()]].concat())
        };
        let none = load(&example).map_err(|error| error.to_string()).unwrap();
        // A key is a line that begins with `#` and no space.
        let keys = |wanted: &dyn Fn(&str) -> bool| {
            let lines = example.lines().map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') && wanted(key) => key,
                _ => line,
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        // Those that have a default: no capitals stand for a value.
        let has_default = |key: &str| {
            let value = key
                .split_once(" = ")
                .map(|(_, value)| value.trim_matches('"'));
            value.is_some_and(|value| {
                !value.contains(char::is_alphabetic) || value != value.to_uppercase()
            })
        };
        let exclusive = ["all = ", "no_plaintext = "];
        let defaults = load(&keys(&|key| {
            has_default(key) && !exclusive.iter().any(|other| key.starts_with(other))
        }))
        .map_err(|error| error.to_string())
        .unwrap();
        let changed = defaults.effective.changed(&none.effective, &command);
        assert!(changed.is_empty(), "{changed:?}");
        // The others are known, whatever their values.
        if let Err(error) = load(&keys(&|_| true)) {
            assert!(!error.to_string().contains("there is no such"), "{error}");
        }
    }

    #[test]
    fn ring_sizes_are_powers_of_two() {
        assert!(ring("16").is_ok() && ring("0.0625").is_ok());
        assert!(ring("3").is_err() && ring("0").is_err() && ring("x").is_err());
    }
}
