//! The configuration file: what it says holds, before the defaults and behind the environment and the command line,
//! and holds anew after SIGHUP without a lost call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use observer_e2e::{
    harness::{Client, Observer, Run, Scene, binary, wait_until},
    infinium::Infinium,
    telemetry::{Endpoint, free_ports},
};
use rustix::process::Signal;
use serde_json::Value;

/// What the agent says when it goes by the file as it is.
const READ_AGAIN: &str = "observer: read the configuration again: ";

/// What it says when it does not.
const STAYS: &str = "observer: the settings stay as they were: ";

/// It is in whatever is secret, and must be in nothing that the agent says.
const SECRET: &str = "THIS-IS-SECRET";

/// Two agents of Infinium.
const OURS: &str = "7e57ab1e-0000-4000-8000-00000000000b";
const THEIRS: &str = "0af76519-16cd-43dd-8448-eb211c80319c";

/// An agent that goes by a file.
struct Configured {
    file: PathBuf,
    /// Where the records go.
    output: PathBuf,
    observer: Observer,
    /// Without it the agent would end with the last client.
    _idle: Client,
}

impl Configured {
    fn start(scene: &Scene, clients: &[&Client], text: &str, environment: &[(&str, &str)]) -> Self {
        let folder = scene.folder.path();
        let (file, output) = (folder.join("observer.toml"), output(scene));
        fs::write(&file, text).unwrap();
        let idle = Client::start(Command::new("cat"));
        let mut command = Command::new(binary());
        command.arg("watch").arg("--config").arg(&file);
        command.envs(environment.iter().copied());
        for client in clients.iter().chain([&&idle]) {
            command.args(["--pid", &client.pid()]);
        }
        Self {
            observer: Observer::run(command, &output),
            file,
            output,
            _idle: idle,
        }
    }

    /// Has the agent go by the file as it is, and waits until it says so; returns how many options differ.
    fn reload(&self) -> String {
        let said = self.hang_up(READ_AGAIN);
        said.split(' ').next().unwrap().to_owned()
    }

    /// Sends SIGHUP, and returns what comes behind the words that the agent says then.
    fn hang_up(&self, words: &str) -> String {
        let before = self.observer.said().len();
        self.observer.signal(Signal::HUP);
        let mut found = None;
        wait_until(words, || {
            let said = self.observer.said();
            let (_, behind) = said[before..].split_once(words).unwrap_or_default();
            found = behind.ends_with('\n').then(|| behind.to_owned());
            found.is_some()
        });
        found.unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    /// Where a problem in the file is said to be.
    fn at(&self, line: usize, column: usize) -> String {
        format!("{}:{line}:{column}: ", self.file.display())
    }

    fn stop(self) -> Run {
        let run = self.observer.stop();
        run.assert_clean();
        run
    }
}

fn output(scene: &Scene) -> PathBuf {
    scene.folder.path().join("configured.jsonl")
}

/// Starts a client that waits, and names its calls `CASE/…`.
fn waiting(scene: &Scene, case: &str, arguments: &[&str]) -> Client {
    let mut all = vec!["--wait-for-stdin", "--case", case];
    all.extend(arguments);
    let client = scene.start(&scene.script("calls.py", all));
    assert_eq!(client.line(), "waiting");
    client
}

/// Has a client make its calls, to the last.
fn finish(scene: &Scene, mut client: Client) {
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success());
    scene.saw(&lines);
}

/// What the provider knows of the calls of a case, in their order, once there are so many.
fn truth(scene: &Scene, case: &str, count: usize) -> Vec<Value> {
    let mut truth = Vec::new();
    wait_until(case, || {
        truth = scene.provider.truth();
        truth.retain(|truth| {
            let test = truth["test"].as_str().unwrap_or_default();
            test.split('/').next() == Some(case)
        });
        truth.len() >= count
    });
    assert_eq!(truth.len(), count, "{case}");
    truth
}

/// The records of the calls of a case, each once, in the order of the provider's.
fn of_case<'a>(scene: &Scene, calls: &'a [Value], case: &str, count: usize) -> Vec<&'a Value> {
    let of = |truth: &Value| {
        let is_meant = |call: &&Value| call["request_id"] == truth["request_id"];
        let found: Vec<&Value> = calls.iter().filter(is_meant).collect();
        let [call] = found[..] else {
            panic!("{} records of {truth:#}", found.len());
        };
        call
    };
    truth(scene, case, count).iter().map(of).collect()
}

/// The records in a file.
fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The calls in a file.
fn calls(path: &Path) -> Vec<Value> {
    of_type(records(path), "llm_call")
}

fn of_type(mut records: Vec<Value>, kind: &str) -> Vec<Value> {
    records.retain(|record| record["type"] == kind);
    records
}

/// The name of the trace in a file that the calls of a case are in, if it has ended.
fn trace_name(scene: &Scene, path: &Path, case: &str, count: usize) -> Option<String> {
    let calls = calls(path);
    let spans: Vec<&Value> = of_case(scene, &calls, case, count)
        .into_iter()
        .map(|call| &call["span_id"])
        .collect();
    let traces = of_type(records(path), "trace");
    let trace = traces.iter().find(|trace| {
        let calls = trace["calls"].as_array().unwrap();
        calls.iter().collect::<Vec<_>>() == spans
    });
    trace.map(|trace| trace["name"].as_str().unwrap().to_owned())
}

/// The file and the full ones, from the oldest to the latest.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let files = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut found: BTreeMap<usize, PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter_map(|file| {
            let rest = file.file_name()?.to_str()?.strip_prefix(name)?;
            let number = match rest.strip_prefix('.') {
                Some(number) => number.parse().ok()?,
                None if rest.is_empty() => 0,
                None => return None,
            };
            Some((number, file))
        })
        .collect();
    let numbers: Vec<usize> = found.keys().copied().collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "{name}");
    let mut files = Vec::new();
    while let Some((_, file)) = found.pop_last() {
        files.push(file);
    }
    files
}

/// Asserts that no file is larger than it may be, but for a line that is.
fn assert_sizes(files: &[PathBuf], longest: usize) {
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.ends_with('\n'), "{}", file.display());
        assert!(
            text.len() <= longest || text.lines().count() == 1,
            "{}: {}",
            file.display(),
            text.len()
        );
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

/// How often the endpoint has been sent the span of a call: by its id, as Protobuf has it.
fn sent(endpoint: &Endpoint, call: &Value) -> usize {
    let id = call["span_id"].as_str().unwrap();
    let id: Vec<u8> = (0..id.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap())
        .collect();
    let requests = endpoint.requests();
    let traces = requests
        .iter()
        .filter(|request| request.path == "/v1/traces");
    traces
        .map(|request| {
            request
                .body
                .windows(id.len())
                .filter(|at| *at == id)
                .count()
        })
        .sum()
}

/// The page for Prometheus; `None` if nobody answers.
fn metrics(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.starts_with("HTTP/1.0 200").then_some(page)
}

/// How many calls a page counts in the series that have all of these in their labels.
fn counted(page: &str, labels: &[&str]) -> u64 {
    let series = page
        .lines()
        .filter(|line| line.starts_with("gen_ai_client_calls_total{"))
        .filter(|line| labels.iter().all(|label| line.contains(label)));
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Spans are sent soon.
const SOON: [(&str, &str); 1] = [("OTEL_BSP_SCHEDULE_DELAY", "100")];

#[test]
fn a_file_has_several_exporters_at_work() {
    const CALLS: usize = 30;
    let scene = Scene::new();
    let client = waiting(&scene, "several", &["--count", "30"]);
    let (endpoint, [port]) = (Endpoint::start(), free_ports());
    let output = output(&scene);
    let text = format!(
        "[export]\noutput = {output:?}\noutput_max_size = \"8KiB\"\noutput_max_files = 1000\n\
         [export.prometheus]\nlisten = \"127.0.0.1:{port}\"\n\
         [export.otlp]\nendpoint = \"{}\"\nheader = [\"x-key=of the file\"]\n",
        endpoint.url()
    );
    let configured = Configured::start(&scene, &[&client], &text, &SOON);
    finish(&scene, client);
    wait_until("the page counts all calls", || {
        metrics(port).is_some_and(|page| counted(&page, &["\"gpt-4o\""]) == CALLS as u64)
    });
    let run = configured.stop();
    assert!(run.client.is_empty(), "{:#?}", run.client);
    let files = rotated(&output);
    assert!(files.len() > 2, "{files:?}");
    assert_sizes(&files, 8 << 10);
    let calls: Vec<Value> = files.iter().flat_map(|file| calls(file)).collect();
    scene.assert_truth(&calls);
    assert_eq!(calls.len(), CALLS);
    for call in &calls {
        assert_eq!(sent(&endpoint, call), 1, "{call:#}");
    }
    for request in endpoint.requests() {
        assert_eq!(request.headers["x-key"], "of the file");
    }
}

#[test]
fn standard_output_is_one_exporter_of_several() {
    let scene = Scene::new();
    let client = waiting(&scene, "stdout", &["--count", "4"]);
    let endpoint = Endpoint::start();
    let text = format!(
        "[records]\ncapture_content = true\n[export.otlp]\nendpoint = \"{}\"\n",
        endpoint.url()
    );
    let configured = Configured::start(&scene, &[&client], &text, &SOON);
    finish(&scene, client);
    let calls = of_type(configured.stop().client, "llm_call");
    scene.assert_truth(&calls);
    assert_eq!(calls.len(), 4);
    for call in &calls {
        assert_eq!(sent(&endpoint, call), 1, "{call:#}");
        assert!(call["input_preview"].is_string(), "{call:#}");
    }
    assert!(!output(&scene).exists());
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let mut scene = Scene::new();
    let file = scene.folder.path().join("observer.toml");
    fs::write(&file, "[trace]\nname = \"by the file\"\n").unwrap();
    let file = file.to_str().unwrap();
    let name = |scene: &Scene, options: &[&str]| {
        let options = [&["--config", file], options].concat();
        let run = scene.exec(&options, &scene.script("calls.py", []));
        run.assert_clean();
        assert_eq!(run.traces.len(), 1);
        run.traces[0]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name(&scene, &[]), "by the file");
    let variable = ("OBSERVER_TRACE_NAME".into(), "by the environment".into());
    scene.environment.push(variable);
    assert_eq!(name(&scene, &[]), "by the environment");
    let option = ["--trace-name", "by the command line"];
    assert_eq!(name(&scene, &option), "by the command line");
}

#[test]
fn files_are_rotated_under_load_without_a_lost_line() {
    const THREADS: usize = 8;
    const EACH: usize = 40;
    let scene = Scene::new();
    let (threads, each) = (THREADS.to_string(), EACH.to_string());
    let client = waiting(&scene, "load", &["--threads", &threads, "--count", &each]);
    let output = output(&scene);
    let text = format!(
        "[trace]\nidle = 0.2\n[export]\noutput = {output:?}\noutput_max_size = \"4KiB\"\noutput_max_files = 10000\n"
    );
    let configured = Configured::start(&scene, &[&client], &text, &[]);
    finish(&scene, client);
    configured.stop();
    let files = rotated(&output);
    // A record has a kilobyte or more.
    assert!(files.len() > THREADS * EACH / 4, "{}", files.len());
    assert_sizes(&files, 4 << 10);
    let records: Vec<Value> = files.iter().flat_map(|file| records(file)).collect();
    let calls = of_type(records.clone(), "llm_call");
    scene.assert_truth(&calls);
    let spans: BTreeSet<&str> = calls
        .iter()
        .map(|call| call["span_id"].as_str().unwrap())
        .collect();
    assert_eq!(spans.len(), THREADS * EACH);
    // Of each thread, the calls are in the order in which they were made, and the trace comes behind its calls.
    let tests: BTreeMap<String, String> = truth(&scene, "load", THREADS * EACH)
        .iter()
        .map(|truth| {
            let field = |name: &str| truth[name].as_str().unwrap().to_owned();
            (field("request_id"), field("test"))
        })
        .collect();
    let mut made: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for call in &calls {
        let tid = call["tid"].as_u64().unwrap();
        let test = &tests[call["request_id"].as_str().unwrap()];
        made.entry(tid).or_default().push(test);
    }
    assert_eq!(made.len(), THREADS);
    for tests in made.values() {
        let (thread, _) = tests[0].rsplit_once('/').unwrap();
        let expected: Vec<String> = (0..EACH).map(|call| format!("{thread}/{call}")).collect();
        assert_eq!(*tests, expected);
    }
    let mut before = BTreeSet::new();
    let mut in_traces = 0;
    for record in &records {
        match record["type"].as_str() {
            Some("trace") => {
                for span in record["calls"].as_array().unwrap() {
                    assert!(before.contains(span.as_str().unwrap()), "{record:#}");
                    in_traces += 1;
                }
            }
            _ => assert!(before.insert(record["span_id"].as_str().unwrap())),
        }
    }
    assert_eq!(in_traces, calls.len());
}

#[test]
fn so_many_full_files_are_kept_and_no_more() {
    const CALLS: usize = 40;
    let scene = Scene::new();
    let client = waiting(&scene, "kept", &["--count", "40"]);
    let output = output(&scene);
    let text =
        format!("[export]\noutput = {output:?}\noutput_max_size = \"4kB\"\noutput_max_files = 3\n");
    let configured = Configured::start(&scene, &[&client], &text, &[]);
    finish(&scene, client);
    configured.stop();
    let files = rotated(&output);
    assert_eq!(files.len(), 4, "{files:?}");
    assert_sizes(&files, 4_000);
    // The last ones, without a gap.
    let kept: Vec<Value> = files
        .iter()
        .flat_map(|file| calls(file))
        .map(|call| call["request_id"].clone())
        .collect();
    let truth = truth(&scene, "kept", CALLS);
    let made: Vec<&Value> = truth.iter().map(|truth| &truth["request_id"]).collect();
    assert!(kept.len() >= 6 && kept.len() < CALLS, "{}", kept.len());
    assert_eq!(kept.iter().collect::<Vec<_>>(), made[CALLS - kept.len()..]);
}

#[test]
fn a_signal_has_the_file_hold_anew_without_a_lost_call() {
    const STEADY: usize = 60;
    let scene = Scene::new();
    let start = |case, arguments: &[&str]| waiting(&scene, case, arguments);
    let mut steady = start("steady", &["--count", "60", "--every", "0.1"]);
    let three = ["--count", "3"];
    let [before, after, not_meant] =
        ["before", "after", "not-meant"].map(|case| start(case, &three));
    let meant = start("meant", &["--count", "3", "--sdk", "anthropic"]);
    let last = start("last", &["--count", "3", "--model", "gpt-4o-mini"]);
    let clients = [&steady, &before, &after, &not_meant, &meant, &last];
    let (endpoint, [port]) = (Endpoint::start(), free_ports());
    let folder = scene.folder.path();
    let (first, second) = (output(&scene), folder.join("second.jsonl"));
    let prometheus = format!("[export.prometheus]\nlisten = \"127.0.0.1:{port}\"\n");
    let otlp = format!("[export.otlp]\nendpoint = \"{}\"\n", endpoint.url());
    let text = format!(
        "[trace]\nname = \"first\"\nidle = 0.4\n[export]\noutput = {first:?}\n{prometheus}"
    );
    let configured = Configured::start(&scene, &clients, &text, &SOON);
    steady.go_on();
    truth_begins(&scene, "steady");
    finish(&scene, before);
    let count = |labels: &[&str]| metrics(port).map(|page| counted(&page, labels));
    wait_until("the page counts calls", || count(&[]) >= Some(3));
    assert!(
        metrics(port)
            .unwrap()
            .contains("gen_ai_client_calls_total{")
    );
    wait_until("the trace before has ended", || {
        of_type(records(&first), "trace").iter().any(|trace| {
            let calls = trace["calls"].as_array().unwrap();
            trace["name"] == "first" && calls.len() == 3
        })
    });

    // Another name, content, another file, OTLP instead of Prometheus.
    configured.write(&format!(
        "[trace]\nname = \"second\"\nidle = 0.4\n[records]\ncapture_content = true\n[export]\noutput = {second:?}\n{otlp}"
    ));
    // Name, content, file, address, endpoint.
    assert_eq!(configured.reload(), "5");
    wait_until("nobody listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    finish(&scene, after);
    let (status, lines) = steady.wait();
    assert!(status.success());
    scene.saw(&lines);
    let made = 3 + 3 + STEADY;
    wait_until("all calls are in one of the files", || {
        calls(&first).len() + calls(&second).len() >= made
    });
    let (in_first, in_second) = (calls(&first), calls(&second));
    let all = [&in_first[..], &in_second[..]].concat();
    scene.assert_truth(&all);
    for call in of_case(&scene, &in_first, "before", 3) {
        assert!(call["input_preview"].is_null() && call["output_preview"].is_null());
        assert_eq!(sent(&endpoint, call), 0);
    }
    wait_until("the spans are sent", || {
        in_second.iter().all(|call| sent(&endpoint, call) == 1)
    });
    for call in of_case(&scene, &in_second, "after", 3) {
        assert!(call["input_preview"].is_string() && call["output_preview"].is_string());
    }
    // The change was amid the steady calls, and they went from the one file to the other in their order.
    let steady = of_case(&scene, &all, "steady", STEADY);
    let place = |call: &&Value| in_second.contains(call);
    assert!(!place(&steady[0]) && place(&steady[STEADY - 1]));
    assert!(steady.is_sorted_by_key(place));

    // One provider only, and Prometheus once more, with a label.
    let one = format!(
        "[trace]\nname = \"second\"\nidle = 0.4\n[records]\nprovider = [\"anthropic\"]\n[export]\noutput = {second:?}\n"
    );
    configured.write(&format!("{one}{prometheus}labels = [\"comm\"]\n"));
    // Content, provider, address, labels, endpoint.
    assert_eq!(configured.reload(), "5");
    finish(&scene, not_meant);
    finish(&scene, meant);
    let labelled = ["\"anthropic\"", "comm=\"python"];
    wait_until("the page counts the provider's calls", || {
        count(&labelled) == Some(3)
    });
    assert_eq!(count(&["\"openai\""]), Some(0));
    // Of the same address, without the label.
    configured.write(&format!(
        "{}{prometheus}",
        one.replace("anthropic", "openai")
    ));
    assert_eq!(configured.reload(), "2");
    finish(&scene, last);
    wait_until("the page counts the last calls", || {
        count(&["\"gpt-4o-mini\""]) == Some(3) && count(&["\"gpt-4o-mini\"", "comm="]) == Some(0)
    });
    configured.stop();
    let in_second = calls(&second);
    for call in [
        of_case(&scene, &in_second, "meant", 3),
        of_case(&scene, &in_second, "last", 3),
    ]
    .concat()
    {
        assert!(call["input_preview"].is_null() && call["output_preview"].is_null());
        assert_eq!(sent(&endpoint, call), 0);
    }
    assert_eq!(calls(&first).len() + in_second.len(), made + 6);
    scene.assert_truth_of(&in_second);
    for (case, file, name) in [
        ("before", &first, "first"),
        ("after", &second, "second"),
        ("last", &second, "second"),
    ] {
        let name_of = trace_name(&scene, file, case, 3);
        assert_eq!(name_of.as_deref(), Some(name), "{case}");
    }
}

/// Waits for the first call of a case.
fn truth_begins(scene: &Scene, case: &str) {
    wait_until(case, || {
        let truth = scene.provider.truth();
        truth
            .iter()
            .any(|truth| truth["test"].as_str().unwrap_or_default().starts_with(case))
    });
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew() {
    const STEADY: usize = 60;
    let scene = Scene::new();
    let mut steady = waiting(&scene, "steady", &["--count", "60", "--every", "0.05"]);
    let last = waiting(&scene, "last", &["--count", "2"]);
    let output = output(&scene);
    let text = format!("[export]\noutput = {output:?}\n");
    let configured = Configured::start(&scene, &[&steady, &last], &text, &[]);
    steady.go_on();
    let moved: Vec<PathBuf> = (1..=3)
        .map(|number| {
            let moved = scene.folder.path().join(format!("moved-{number}"));
            wait_until("calls are in the file", || calls(&output).len() >= 5);
            let mv = Command::new("mv").args([&output, &moved]).status();
            assert!(mv.unwrap().success());
            // What comes before the signal goes where the file is.
            let length = fs::metadata(&moved).unwrap().len();
            wait_until("more", || fs::metadata(&moved).unwrap().len() > length);
            assert!(!output.exists());
            assert_eq!(configured.reload(), "0");
            wait_until("the file is there again", || output.exists());
            moved
        })
        .collect();
    let (status, lines) = steady.wait();
    assert!(status.success());
    scene.saw(&lines);
    finish(&scene, last);
    configured.stop();
    let mut files = moved;
    files.push(output);
    let all: Vec<Value> = files.iter().flat_map(|file| calls(file)).collect();
    scene.assert_truth(&all);
    let steady = of_case(&scene, &all, "steady", STEADY);
    assert_eq!(steady, all.iter().take(STEADY).collect::<Vec<_>>());
    of_case(&scene, &calls(files.last().unwrap()), "last", 2);
}

#[test]
fn by_a_bad_file_nothing_changes() {
    let scene = Scene::new();
    let cases = ["first", "second", "third", "fourth"];
    let [first, second, third, fourth] = cases.map(|case| waiting(&scene, case, &["--count", "2"]));
    let output = output(&scene);
    let good = |name: &str| {
        format!("[trace]\nname = \"{name}\"\nidle = 0.3\n[export]\noutput = {output:?}\n")
    };
    let clients = [&first, &second, &third, &fourth];
    let configured = Configured::start(&scene, &clients, &good("old"), &[]);
    finish(&scene, first);

    configured.write(&format!("[trace]\nname = \"worse\"\nidel = 3\n[export]\noutput = {output:?}\noutput_max_size = \"much\"\n"));
    let said = configured.hang_up(STAYS);
    let first_line = format!(
        "{}trace.idel: there is no such key; is idle meant?\n",
        configured.at(3, 1)
    );
    assert!(said.starts_with(&first_line), "{said}");
    let second_line = format!("{}export.output_max_size: ", configured.at(6, 19));
    assert!(
        said.contains(&second_line) && said.contains("not \"much\""),
        "{said}"
    );
    finish(&scene, second);

    configured.write("[trace]\nname = \n");
    let said = configured.hang_up(STAYS);
    assert!(said.starts_with(&configured.at(2, 8)), "{said}");
    fs::remove_file(&configured.file).unwrap();
    let said = configured.hang_up(STAYS);
    let missing = format!("cannot read {}: ", configured.file.display());
    assert!(said.starts_with(&missing), "{said}");
    finish(&scene, third);
    assert!(!configured.observer.said().contains(READ_AGAIN));
    wait_until("the traces have ended", || {
        of_type(records(&output), "trace").len() >= 3
    });

    configured.write(&good("new"));
    assert_eq!(configured.reload(), "1");
    finish(&scene, fourth);
    let run = configured.stop();
    scene.assert_truth(&run.calls);
    assert_eq!(run.calls.len(), 2 * cases.len());
    for (case, name) in cases.into_iter().zip(["old", "old", "old", "new"]) {
        assert_eq!(
            trace_name(&scene, &output, case, 2).as_deref(),
            Some(name),
            "{case}"
        );
    }
}

#[test]
fn what_cannot_be_opened_is_tried_again_with_the_next_signal() {
    let scene = Scene::new();
    let cases = ["before", "meanwhile", "after", "away", "back"];
    let [before, meanwhile, after, away, back] =
        cases.map(|case| waiting(&scene, case, &["--count", "2"]));
    let (output, folder) = (output(&scene), scene.folder.path().join("later"));
    let later = folder.join("calls.jsonl");
    let text = |output: &Path, more: &str| format!("[export]\noutput = {output:?}\n{more}");
    let clients = [&before, &meanwhile, &after, &away, &back];
    let configured = Configured::start(&scene, &clients, &text(&output, ""), &[]);
    finish(&scene, before);
    let endpoint = Endpoint::start();
    // What is well is taken.
    let otlp = format!("[export.otlp]\nendpoint = \"{}\"\n", endpoint.url());
    configured.write(&text(&later, &otlp));
    let said = configured.hang_up("observer: [export] stays as it was: ");
    let cannot = format!("cannot open {} for writing: ", later.display());
    assert!(said.starts_with(&cannot), "{said}");
    finish(&scene, meanwhile);
    wait_until("the calls are in the file", || calls(&output).len() >= 4);
    fs::create_dir(&folder).unwrap();
    assert_eq!(configured.reload(), "1");
    finish(&scene, after);
    wait_until("the calls are in the other file", || {
        calls(&later).len() >= 2
    });
    // The file cannot be opened anew: its folder is not there.
    let moved = scene.folder.path().join("moved");
    fs::rename(&folder, &moved).unwrap();
    configured.hang_up("cannot open the file anew");
    finish(&scene, away);
    let moved = moved.join("calls.jsonl");
    wait_until("the calls are where they went", || calls(&moved).len() >= 4);
    fs::create_dir(&folder).unwrap();
    assert_eq!(configured.reload(), "0");
    finish(&scene, back);
    configured.stop();
    let files = [&output, &moved, &later].map(|file| calls(file));
    assert_eq!(files.each_ref().map(Vec::len), [4, 4, 2]);
    scene.assert_truth(&files.concat());
    let [in_first, in_moved, in_later] = files;
    for call in of_case(&scene, &in_first, "before", 2) {
        assert_eq!(sent(&endpoint, call), 0);
    }
    for call in [
        of_case(&scene, &in_first, "meanwhile", 2),
        of_case(&scene, &in_moved, "after", 2),
        of_case(&scene, &in_moved, "away", 2),
        of_case(&scene, &in_later, "back", 2),
    ]
    .concat()
    {
        assert_eq!(sent(&endpoint, call), 1);
    }
}

/// Runs the agent to its end with nothing but this in its environment.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let result = Command::new(binary())
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = result.status.code().unwrap_or(-1);
    (code, text(&result.stdout), text(&result.stderr))
}

#[test]
fn a_bad_file_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("observer.toml");
    let file = path.to_str().unwrap();
    fs::write(&path, "[trace]\nidle = 3\n\n[export]\nformat = \"xml\"\n").unwrap();
    let expected = format!(
        "observer: {file}:5:10: export.format: one of jsonl, none, pretty is expected, not \"xml\"\n"
    );
    for arguments in [
        &["watch", "--all", "--config", file][..],
        &["exec", "--config", file, "--", "true"],
        &["config", "check", file],
    ] {
        let (code, stdout, stderr) = run(arguments, &[]);
        assert_eq!(
            (code, &stdout[..], &stderr),
            (1, "", &expected),
            "{arguments:?}"
        );
    }
    let (code, _, stderr) = run(&["watch", "--all"], &[("OBSERVER_CONFIG", file)]);
    assert_eq!((code, &stderr), (1, &expected));
    fs::write(&path, "[[export.infinium.agent]]\nagent_id = 7\n").unwrap();
    let (code, _, stderr) = run(&["config", "check", file], &[]);
    assert_eq!(code, 1);
    assert!(
        stderr.starts_with(&format!("observer: {file}:2:")),
        "{stderr}"
    );
    fs::write(&path, "[trace]\nidle = 3\n").unwrap();
    let (code, stdout, stderr) = run(
        &["config", "check", file],
        &[("OBSERVER_TRACE_BY", "thread")],
    );
    assert_eq!((code, &stderr[..]), (0, ""));
    assert!(
        stdout.starts_with(&format!("# {file} is valid.\n")),
        "{stdout}"
    );
    let shown = |key: &str, origin: &str| {
        let mut lines = stdout.lines();
        lines.any(|line| line.starts_with(key) && line.ends_with(&format!("# {origin}")))
    };
    assert!(shown("idle = 3 ", "line 2"), "{stdout}");
    assert!(shown("by = \"thread\" ", "OBSERVER_TRACE_BY"), "{stdout}");
    assert!(shown("output_max_files = 5 ", "default"), "{stdout}");
    let (code, _, stderr) = run(&["config", "check", "/nowhere/observer.toml"], &[]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("cannot read /nowhere/observer.toml"),
        "{stderr}"
    );
}

#[test]
fn no_secret_is_shown() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    let (key, file) = (folder.join("key"), folder.join("secrets.toml"));
    fs::write(&key, SECRET).unwrap();
    let header = format!("authorization=Bearer {SECRET}");
    let write = |header: &str| {
        let text = format!(
            "[export.otlp]\nendpoint = \"http://me:{SECRET}@127.0.0.1:9/?key={SECRET}\"\nheader = [{header:?}]\n\
             [export.infinium]\nurl = \"http://127.0.0.1:9\"\nagent_id = \"{OURS}\"\nkey_file = {key:?}\n\
             [[export.infinium.agent]]\ncomm = \"no such\"\nagent_id = \"{THEIRS}\"\nkey_env = \"REVIEWER_KEY\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    let file = file.to_str().unwrap();
    let exported = format!("x-key={SECRET}");
    let environment = [
        ("OBSERVER_OTLP_HEADER", &header[..]),
        ("OTEL_EXPORTER_OTLP_HEADERS", &exported),
        ("INFINIUM_AGENT_SECRET", SECRET),
        ("REVIEWER_KEY", SECRET),
    ];
    write(&header);
    let discreet = |(code, stdout, stderr): (i32, String, String)| {
        assert!(
            !stdout.contains(SECRET) && !stderr.contains(SECRET),
            "{stdout}{stderr}"
        );
        (code, stdout, stderr)
    };
    for environment in [&environment[3..], &environment] {
        let (code, stdout, stderr) = discreet(run(&["config", "check", file], environment));
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("header = [\"***\"]"), "{stdout}");
        assert!(
            stdout.contains("endpoint = \"http://***@127.0.0.1:9/?***\""),
            "{stdout}"
        );
        assert!(
            stdout.contains("[[export.infinium.agent]]: 1 from the file"),
            "{stdout}"
        );
    }
    // Nor where nothing can be sent.
    let mut command = vec![
        "exec",
        "--config",
        file,
        "--otlp-flush-timeout",
        "0.5",
        "--",
    ];
    let script = scene.script("calls.py", []);
    command.extend(script.iter().map(|word| word.to_str().unwrap()));
    let ca = scene.provider.ca();
    let trust = [
        ("SSL_CERT_FILE", ca.to_str().unwrap()),
        ("OBSERVER_LOG", "debug"),
    ];
    let (code, stdout, stderr) = discreet(run(&command, &[&environment[..], &trust].concat()));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("llm_call"), "{stdout}");
    assert!(
        stderr.contains("failed=1") && stderr.contains("OTLP"),
        "{stderr}"
    );
    // Nor where it is wrong.
    write(SECRET);
    let endpoint = ["--otlp-endpoint", "http://127.0.0.1:9"];
    let header = ["--otlp-header", SECRET];
    let variable = [("OBSERVER_OTLP_HEADER", SECRET)];
    let place = format!("{file}:");
    for (options, variables, expected, place) in [
        (
            &["--config", file][..],
            &environment[3..],
            1,
            place.as_str(),
        ),
        (&[endpoint, header].concat(), &[], 2, "--otlp-header"),
        (&endpoint, &variable, 2, "--otlp-header"),
    ] {
        let arguments = [&["watch", "--all"], options].concat();
        let (code, _, stderr) = discreet(run(&arguments, variables));
        assert_eq!(code, expected, "{stderr}");
        assert!(stderr.contains(place), "{stderr}");
        assert!(stderr.contains("NAME=VALUE"), "{stderr}");
    }
}

#[test]
fn the_file_says_which_process_is_which_agent_of_infinium() {
    let scene = Scene::new();
    let server = Infinium::start(None).unwrap();
    let cases = ["by-pid", "by-name", "other", "nobody"];
    let [by_pid, by_name, other, nobody] =
        cases.map(|case| waiting(&scene, case, &["--count", "2"]));
    let key = scene.folder.path().join("key");
    fs::write(&key, format!("{SECRET}-of-a-file\n")).unwrap();
    let of_environment = format!("{SECRET}-of-the-environment");
    let text = |rules: &str| {
        format!(
            "[trace]\nidle = 0.3\n[export]\nformat = \"none\"\n[export.infinium]\nurl = \"{}\"\n{rules}",
            server.url("/api")
        )
    };
    let rule = |pid: &str, key: &Path| {
        format!(
            "[[export.infinium.agent]]\npid = {pid}\nagent_id = \"{OURS}\"\nkey_file = {key:?}\n"
        )
    };
    let named = format!(
        "[[export.infinium.agent]]\ncomm = \"python*\"\nagent_id = \"{THEIRS}\"\nkey_env = \"REVIEWER_KEY\"\n"
    );
    let rules = rule(&by_pid.pid(), &key) + &named;
    let clients = [&by_pid, &by_name, &other, &nobody];
    let environment = [("REVIEWER_KEY", of_environment.as_str())];
    let configured = Configured::start(&scene, &clients, &text(&rules), &environment);
    let pids = [&by_pid, &by_name, &other].map(Client::pid);
    let came = |count: usize| {
        wait_until("traces came", || server.received().len() >= count);
        let last = server.received().pop().unwrap();
        assert_eq!(server.received().len(), count);
        assert_eq!(last.json["llm_usage"]["api_calls_count"], 2);
        let pid = last.json["environment"]["custom_tags"]["pid"].as_str();
        let key = last.header("x-agent-key").unwrap();
        (last.line.clone(), pid.unwrap().to_owned(), key.to_owned())
    };
    let line = |agent: &str| format!("POST /api/agents/{agent}/trace");
    let of_file = format!("{SECRET}-of-a-file");
    finish(&scene, by_pid);
    assert_eq!(came(1), (line(OURS), pids[0].clone(), of_file));

    // Without its key a rule does not hold, and those before go on.
    let later = scene.folder.path().join("later");
    configured.write(&text(&rule(&pids[2], &later)));
    let said = configured.hang_up("observer: [export.infinium] stays as it was: ");
    assert!(said.contains("No such file"), "{said}");
    finish(&scene, by_name);
    let of_name = (line(THEIRS), pids[1].clone(), of_environment.clone());
    assert_eq!(came(2), of_name);
    fs::write(&later, &of_environment).unwrap();
    assert_eq!(configured.reload(), "1");
    finish(&scene, nobody);
    // Keys are read anew, too.
    fs::write(&later, format!("{SECRET}-too")).unwrap();
    assert_eq!(configured.reload(), "0");
    finish(&scene, other);
    let of_other = (line(OURS), pids[2].clone(), format!("{SECRET}-too"));
    assert_eq!(came(3), of_other);
    assert!(!configured.output.exists());
    let run = configured.stop();
    assert!(run.stderr.contains("8 calls, 4 traces"), "{}", run.stderr);
    assert!(
        run.client.is_empty() && !run.stderr.contains(SECRET),
        "{}",
        run.stderr
    );
    assert_eq!(server.received().len(), 3);
}
