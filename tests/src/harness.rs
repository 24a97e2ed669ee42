//! Runs the agent as a user would and collects what it says.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{clients, coverage, lock, provider::Provider};

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Latencies agree within this share or this time, whichever is more.
const LATENCY_SHARE: f64 = 0.15;
const LATENCY_TIME: Duration = Duration::from_millis(30);

/// How much later than the provider writes a client may read, where it does not say itself.
const CLIENT_TIME: Duration = Duration::from_millis(150);

/// The fields of a record that the provider knows.
const FIELDS: &[&str] = &[
    "provider",
    "operation",
    "model",
    "response_model",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "temperature",
    "stream",
    "status_code",
    "finish_reasons",
    "tool_calls",
];

/// The built agent.
///
/// # Panics
///
/// It is not built.
pub fn binary() -> PathBuf {
    let candidates = std::env::var_os("OBSERVER_BIN").map_or_else(
        || {
            ["release", "debug"]
                .iter()
                .map(|profile| clients::target().join(profile).join("observer"))
                .collect()
        },
        |path| vec![PathBuf::from(path)],
    );
    candidates
        .iter()
        .find(|path| path.exists())
        .cloned()
        .unwrap_or_else(|| {
            panic!("none of {candidates:?} is there: run the tests with `cargo xtask test`")
        })
}

/// A provider and a folder for one test.
pub struct Scene {
    /// The provider.
    pub provider: Provider,
    /// A folder that is removed afterwards.
    pub folder: TempDir,
    /// What else the environment of clients holds.
    pub environment: Vec<(OsString, OsString)>,
    python: PathBuf,
    /// What the clients of this scene saw of their calls.
    seen: Mutex<Vec<Value>>,
}

/// What a run of the agent came to.
#[derive(Debug)]
pub struct Run {
    /// Its exit status.
    pub status: ExitStatus,
    /// The records of type `llm_call`.
    pub calls: Vec<Value>,
    /// The records of type `trace`.
    pub traces: Vec<Value>,
    /// What the watched command printed, as far as it is JSON lines.
    pub client: Vec<Value>,
    /// All that was written to the file of records.
    pub raw: String,
    /// Standard error.
    pub stderr: String,
}

impl Scene {
    /// Starts a provider.
    ///
    /// # Panics
    ///
    /// The provider cannot be started or the clients cannot be installed.
    #[expect(clippy::new_without_default, reason = "it starts a server")]
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    /// As [`new`](Self::new), with other answers and cuts.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn with_seed(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let provider = Provider::start(folder.path(), seed, None).expect("the provider");
        let python = clients::python().unwrap_or_else(|error| panic!("{error:#}"));
        Self {
            provider,
            folder,
            environment: Vec::new(),
            python,
            seen: Mutex::new(Vec::new()),
        }
    }

    /// A command line that runs a script of `clients/` against the provider.
    pub fn script<'a>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Vec<OsString> {
        let mut command = vec![
            self.python.clone().into(),
            clients::script(name).into(),
            self.provider.url().into(),
        ];
        command.extend(arguments.into_iter().map(OsString::from));
        command
    }

    /// Prepares a process that trusts the provider.
    pub fn command(&self, command: &[OsString]) -> Command {
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]);
        self.trust(&mut process);
        process
    }

    /// Starts a client; lines of its standard output can be waited for.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(&self, command: &[OsString]) -> Client {
        Client::start(self.command(command))
    }

    /// Runs a command under `observer exec`.
    ///
    /// # Panics
    ///
    /// It cannot be run.
    pub fn exec(&self, options: &[&str], command: &[OsString]) -> Run {
        let output = self.folder.path().join("records.jsonl");
        let _ = fs::remove_file(&output);
        let mut process = Command::new(binary());
        process
            .arg("exec")
            .arg("--output")
            .arg(&output)
            .args(options)
            .arg("--")
            .args(command);
        self.trust(&mut process);
        let result = process.stdin(Stdio::null()).output().expect("the agent");
        let run = Run::new(
            result.status,
            &fs::read_to_string(&output).unwrap_or_default(),
            &String::from_utf8_lossy(&result.stdout),
            String::from_utf8_lossy(&result.stderr).into_owned(),
        );
        lock(&self.seen).extend(run.client.iter().cloned());
        run
    }

    /// Starts `observer watch` and waits until it is ready.
    pub fn watch(&self, options: &[&str]) -> Observer {
        Observer::start(&[], &self.folder.path().join("watched.jsonl"), options)
    }

    /// As [`watch`](Self::watch), by a command line in front, such as one that takes rights away.
    pub fn watch_by(&self, prefix: &[&str], options: &[&str]) -> Observer {
        Observer::start(prefix, &self.folder.path().join("watched.jsonl"), options)
    }

    /// Takes what a client that was [started](Self::start) says that it saw, for the latencies to be compared with.
    pub fn saw(&self, lines: &[String]) {
        let seen = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        lock(&self.seen).extend(seen);
    }

    /// Asserts that each call of the provider was recorded once, and that every field is right.
    ///
    /// # Panics
    ///
    /// It is not so.
    pub fn assert_truth(&self, calls: &[Value]) {
        let truth = self.truth_of_calls(calls.len());
        assert!(!truth.is_empty(), "the provider saw no call");
        for truth in &truth {
            let records: Vec<&Value> = calls
                .iter()
                .filter(|call| call["request_id"] == truth["request_id"])
                .collect();
            assert_eq!(records.len(), 1, "records of {truth:#}");
            assert_matches(records[0], truth, self.longest(truth));
        }
        assert_eq!(calls.len(), truth.len(), "more records than calls");
    }

    /// What the provider knows of the LLM calls, once there are so many: it may hear later than the agent that a client
    /// has gone.
    fn truth_of_calls(&self, count: usize) -> Vec<Value> {
        let mut truth = Vec::new();
        wait_until(
            "the provider knows of as many calls as were recorded",
            || {
                truth = self.provider.truth();
                truth.retain(|truth| truth["llm_call"] == true);
                truth.len() >= count
            },
        );
        truth
    }

    /// Asserts that these records are right in every field, whatever other calls there were.
    ///
    /// # Panics
    ///
    /// They are not.
    pub fn assert_truth_of(&self, calls: &[Value]) {
        let truth = self.truth_of_calls(calls.len());
        for call in calls {
            let of = |truth: &&Value| truth["request_id"] == call["request_id"];
            let truth = truth.iter().find(of);
            let truth = truth.unwrap_or_else(|| panic!("the provider knows nothing of {call:#}"));
            assert_matches(call, truth, self.longest(truth));
        }
    }

    /// Runs a client under `observer exec` that makes `made` calls or more, notes the coverage, and asserts
    /// that each call was recorded once and that every field is right. The environment of the client trusts
    /// the provider as [`command`](Self::command) sees to.
    ///
    /// # Panics
    ///
    /// It is not so.
    pub fn cover(
        &self,
        row: &coverage::Row<'_>,
        made: usize,
        options: &[&str],
        command: &[OsString],
    ) -> Run {
        let before = self.provider.truth().len();
        let run = self.exec(options, command);
        // A client may be done before the provider has noted it.
        let truth: Vec<Value> = self
            .provider
            .wait_for(before + made)
            .split_off(before)
            .into_iter()
            .filter(|truth| truth["llm_call"] == true)
            .collect();
        let is_right = |truth: &&Value| {
            let mut records = run
                .calls
                .iter()
                .filter(|call| call["request_id"] == truth["request_id"]);
            let first = records.next();
            records.next().is_none()
                && first.is_some_and(|call| FIELDS.iter().all(|field| call[field] == truth[field]))
        };
        let captured = truth.iter().filter(is_right).count();
        coverage::note(row, captured, truth.len());
        assert!(
            truth.len() >= made,
            "the client made {} calls of {made}: {}",
            truth.len(),
            run.stderr
        );
        assert_eq!(
            captured,
            truth.len(),
            "{:#?}\nagainst {truth:#?}\n{}",
            run.calls,
            run.stderr
        );
        assert_eq!(run.calls.len(), truth.len(), "more records than calls");
        run.assert_clean();
        run
    }

    /// How long the client took for a call, the longest if several have the same name.
    fn longest(&self, truth: &Value) -> Option<Duration> {
        let seen = lock(&self.seen);
        seen.iter()
            .filter(|seen| seen["case"] == truth["test"])
            .filter_map(|seen| seen["elapsed_ns"].as_u64())
            .max()
            .map(Duration::from_nanos)
    }

    fn trust(&self, process: &mut Command) {
        process
            .env("SSL_CERT_FILE", self.provider.ca())
            .env("NODE_EXTRA_CA_CERTS", self.provider.ca())
            .env("PYTHONUNBUFFERED", "1")
            .env("NO_PROXY", "*")
            .envs(self.environment.iter().cloned());
    }
}

/// Asserts that a record says what the provider knows. The latency is that of the provider, or more
/// where the client was slower to read than the provider to write: up to what the client saw itself.
///
/// # Panics
///
/// It does not.
pub fn assert_matches(record: &Value, truth: &Value, client: Option<Duration>) {
    for field in FIELDS {
        assert_eq!(
            record[field], truth[field],
            "{field} of {record:#}\nagainst {truth:#}"
        );
    }
    let latency = |value: &Value| Duration::from_nanos(value.as_u64().unwrap_or(0));
    let (recorded, true_latency) = (latency(&record["latency_ns"]), latency(&truth["server_ns"]));
    let longest = client.unwrap_or(true_latency + CLIENT_TIME);
    let longest = longest.max(true_latency);
    assert!(
        recorded + slack(true_latency) >= true_latency && recorded <= longest + slack(longest),
        "latency {recorded:?}, of the provider {true_latency:?}, of the client {client:?}"
    );
}

/// How far apart two measures of a time may be.
pub fn slack(time: Duration) -> Duration {
    time.mul_f64(LATENCY_SHARE).max(LATENCY_TIME)
}

impl Run {
    fn new(status: ExitStatus, records: &str, stdout: &str, stderr: String) -> Self {
        let parse = |text: &str| -> Vec<Value> {
            text.lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect()
        };
        let all: Vec<Value> = records
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        let of = |kind: &str| {
            all.iter()
                .filter(|record| record["type"] == kind)
                .cloned()
                .collect()
        };
        Self {
            status,
            calls: of("llm_call"),
            traces: of("trace"),
            client: parse(stdout),
            raw: records.to_owned(),
            stderr,
        }
    }

    /// The only call.
    ///
    /// # Panics
    ///
    /// There are none or several.
    pub fn only_call(&self) -> &Value {
        assert_eq!(self.calls.len(), 1, "{:#?}\n{}", self.calls, self.stderr);
        &self.calls[0]
    }

    /// What the summary says: bytes that were captured, records and bytes that were lost.
    ///
    /// # Panics
    ///
    /// There is no summary.
    pub fn captured(&self) -> (u64, u64, u64) {
        summary(&self.stderr).unwrap_or_else(|| panic!("no summary: {}", self.stderr))
    }

    /// Asserts that the agent succeeded and lost nothing.
    ///
    /// # Panics
    ///
    /// It did not.
    pub fn assert_clean(&self) {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        assert!(self.stderr.contains("lost 0"), "{}", self.stderr);
    }
}

/// What the agent's summary says, in what it wrote to standard error: bytes that were captured, records
/// and bytes that were lost.
pub fn summary(stderr: &str) -> Option<(u64, u64, u64)> {
    let line = stderr
        .lines()
        .find(|line| line.contains(" bytes captured, lost "))?;
    let number_before = |text: &str| -> Option<u64> {
        let (before, _) = line.split_once(text)?;
        let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
        digits?.parse().ok()
    };
    let (_, lost) = line.split_once(", lost ")?;
    let records = lost.split([' ', ',']).next()?.parse().ok()?;
    let lost_bytes = if lost.contains("ring buffer full") {
        number_before(" bytes)")?
    } else {
        0
    };
    Some((number_before(" bytes captured")?, records, lost_bytes))
}

/// A running `observer watch`.
pub struct Observer {
    child: Child,
    output: PathBuf,
    said: Arc<Mutex<String>>,
    stderr: Option<JoinHandle<()>>,
    stdout: Option<JoinHandle<String>>,
}

impl Observer {
    /// Starts `observer watch`, by the command line `prefix` if it is not empty, and waits until it is
    /// ready. Records go to `output`.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    pub fn start(prefix: &[&str], output: &Path, options: &[&str]) -> Self {
        let mut words: Vec<OsString> = prefix.iter().map(OsString::from).collect();
        words.push(binary().into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("watch")
            .arg("--output")
            .arg(output)
            .args(options);
        Self::run(command, output)
    }

    /// Starts an agent by this command, which has its records written to `output`, and waits until it is
    /// ready.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    pub fn run(mut command: Command, output: &Path) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent");
        let (ready, is_ready) = mpsc::channel();
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let said: Arc<Mutex<String>> = Arc::default();
        let saying = Arc::clone(&said);
        let stderr = thread::spawn(move || {
            let mut line = String::new();
            while matches!(lines.read_line(&mut line), Ok(1..)) {
                lock(&saying).push_str(&line);
                if line == "ready\n" {
                    let _ = ready.send(());
                }
                line.clear();
            }
        });
        let mut out = child.stdout.take().expect("piped");
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            let _ = out.read_to_string(&mut text);
            text
        });
        let observer = Self {
            child,
            output: output.to_owned(),
            said,
            stderr: Some(stderr),
            stdout: Some(stdout),
        };
        if is_ready.recv_timeout(PATIENCE).is_err() {
            let run = observer.stop();
            panic!("not ready: {}", run.stderr);
        }
        observer
    }

    /// Sends the agent a signal.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.child), signal).expect("the agent runs");
    }

    /// Waits for the agent to end by itself.
    pub fn wait(mut self) -> Run {
        self.collect()
    }

    /// Ends the agent by SIGINT.
    pub fn stop(mut self) -> Run {
        let _ = kill_process(pid_of(&self.child), Signal::INT);
        self.collect()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error so far.
    pub fn said(&self) -> String {
        lock(&self.said).clone()
    }

    fn collect(&mut self) -> Run {
        let status = wait(&mut self.child);
        let stdout = self.stdout.take().and_then(|handle| handle.join().ok());
        let stdout = stdout.unwrap_or_default();
        if let Some(stderr) = self.stderr.take() {
            let _ = stderr.join();
        }
        let stderr = self.said();
        Run::new(
            status,
            &fs::read_to_string(&self.output).unwrap_or_default(),
            &stdout,
            stderr,
        )
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The load generator, which talks to itself over TLS (`bin/tls-load.rs`).
pub struct Load(Client);

impl Load {
    /// Starts it and waits until it is about to begin its first round. The command is the program with
    /// what it shall do.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(mut command: Command) -> Self {
        command.arg("--wait-for-stdin");
        let client = Client::start(command);
        assert_eq!(client.line(), "round");
        Self(client)
    }

    /// Its process id, as an argument.
    pub fn pid(&self) -> String {
        self.0.pid()
    }

    /// Lets it begin the next round.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn begin(&mut self) {
        self.0.go_on();
    }

    /// Waits for the end of the round. Returns whether there is another.
    ///
    /// # Panics
    ///
    /// It says something else.
    pub fn end(&self) -> bool {
        let line = self.0.line();
        assert!(line == "round" || line == "done", "{line}");
        line == "round"
    }

    /// Lets it end, and returns what it has done.
    ///
    /// # Panics
    ///
    /// It fails.
    pub fn finish(mut self) -> Value {
        self.0.go_on();
        let result = serde_json::from_str(&self.0.line()).expect("its result");
        assert!(self.0.wait().0.success());
        result
    }
}

/// A running client.
pub struct Client {
    child: Child,
    lines: Receiver<String>,
}

impl Client {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Its process id, as an argument.
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Its next line.
    ///
    /// # Panics
    ///
    /// None comes.
    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("a line of the client")
    }

    /// Lets it go on: it waits for a line.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn go_on(&mut self) {
        use std::io::Write as _;
        self.child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(b"\n")
            .expect("the client runs");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.child), signal).expect("the client runs");
    }

    /// Waits for its end; returns the lines that were not read.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.child.stdin.take());
        let status = wait(&mut self.child);
        (status, self.lines.iter().collect())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command with output collected, for the cases that are about the command line itself.
///
/// # Panics
///
/// It cannot be run.
pub fn output<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: &[S],
) -> (i32, String, String) {
    let result = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    (
        result.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&result.stdout).into_owned(),
        String::from_utf8_lossy(&result.stderr).into_owned(),
    )
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// It does not within 30 seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id")
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(5));
    }
}
