//! Who talked to LLM providers, as a platform team asks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use observer_e2e::harness::{Client, Run, Scene, binary, output, wait_until};
use serde_json::Value;

/// API keys of the clients.
const KEYS: [&str; 3] = [
    "sk-test-FIRST-KEY-0123456789abcdef",
    "sk-test-SECOND-KEY-0123456789abcdef",
    "sk-test-THIRD-KEY-0123456789abcdef",
];

/// A user who is not root.
const SOMEBODY: u64 = 65_533;

/// Two users, two programs, two providers, three keys.
fn clients(scene: &Scene) -> Vec<OsString> {
    // Somebody else must be able to read the provider's certificate.
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(scene.folder.path(), everybody.clone()).unwrap();
    fs::set_permissions(scene.provider.ca(), everybody).unwrap();
    let call = |arguments: &[&str]| {
        let words = scene.script("calls.py", arguments.iter().copied());
        let words: Vec<String> = words
            .iter()
            .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''")))
            .collect();
        words.join(" ")
    };
    // A name of its own: comm is the name of what was executed.
    let link = scene.folder.path().join("nightly-job");
    let openai = call(&["--key", KEYS[0], "--count", "3"]);
    let failing = call(&["--key", KEYS[0], "--behaviour", "error=429"]);
    let second = call(&["--key", KEYS[1], "--count", "2"]);
    let anthropic = call(&["--sdk", "anthropic", "--key", KEYS[2], "--count", "2"]);
    let job = second.split_once(' ').unwrap();
    let script = format!(
        "{openai}; {failing}; {anthropic}; ln -s {} '{}'; \
         site=$({} -c 'import site; print(site.getsitepackages()[0])'); \
         PYTHONPATH=\"$site\" exec setpriv --reuid {SOMEBODY} --clear-groups '{}' {}",
        job.0,
        link.display(),
        job.0,
        link.display(),
        job.1,
    );
    vec!["bash".into(), "-c".into(), script.into()]
}

/// The rows of an inventory that are told apart here, without times and processes.
fn rows(inventory: &Value) -> BTreeSet<String> {
    let fields = [
        "uid",
        "comm",
        "provider",
        "model",
        "credential",
        "calls",
        "errors",
        "input_tokens",
        "output_tokens",
        "traces",
    ];
    let rows = inventory["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        fields
            .map(|field| format!("{field}={}", row[field]))
            .join(" ")
    })
    .collect()
}

/// The same from the records themselves.
fn rows_of(calls: &[Value]) -> BTreeSet<String> {
    #[derive(Default)]
    struct Sums {
        calls: u64,
        errors: u64,
        input: Option<u64>,
        output: Option<u64>,
        traces: BTreeSet<String>,
    }
    let mut rows: BTreeMap<String, Sums> = BTreeMap::new();
    for call in calls {
        let key = ["uid", "comm", "provider", "model", "credential"];
        let key = key.map(|field| format!("{field}={}", call[field]));
        let row = rows.entry(key.join(" ")).or_default();
        row.calls += 1;
        row.errors += u64::from(!call["error_type"].is_null());
        for (sum, field) in [
            (&mut row.input, "input_tokens"),
            (&mut row.output, "output_tokens"),
        ] {
            if let Some(tokens) = call[field].as_u64() {
                *sum.get_or_insert(0) += tokens;
            }
        }
        row.traces.insert(call["trace_id"].to_string());
    }
    let text = |number: Option<u64>| number.map_or("null".to_owned(), |n| n.to_string());
    rows.into_iter()
        .map(|(key, row)| {
            format!(
                "{key} calls={} errors={} input_tokens={} output_tokens={} traces={}",
                row.calls,
                row.errors,
                text(row.input),
                text(row.output),
                row.traces.len()
            )
        })
        .collect()
}

fn inventory(arguments: &[&str]) -> (i32, String, String) {
    let mut words = vec!["inventory"];
    words.extend(arguments);
    output(binary(), &words)
}

fn json(arguments: &[&str]) -> Value {
    let mut words = arguments.to_vec();
    words.extend(["--format", "json"]);
    let (code, stdout, stderr) = inventory(&words);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn assert_no_key(text: &str) {
    for key in KEYS {
        assert!(!text.contains(key), "a key is in {text}");
    }
    assert!(!text.contains("-KEY-"), "a part of a key is in {text}");
}

fn assert_truth(scene: &Scene, run: &Run) {
    run.assert_clean();
    assert_eq!(run.calls.len(), 8, "{:#?}\n{}", run.calls, run.stderr);
    scene.assert_truth_of(&run.calls);
    let of = |field: &str| -> BTreeSet<String> {
        run.calls
            .iter()
            .map(|call| call[field].to_string())
            .collect()
    };
    assert_eq!(of("uid"), ["0".to_owned(), SOMEBODY.to_string()].into());
    assert_eq!(of("provider").len(), 2);
    assert_eq!(of("comm").len(), 2, "{:?}", of("comm"));
}

#[test]
fn users_programs_providers_and_keys_are_told_apart() {
    let scene = Scene::new();
    let records = scene.folder.path().join("records.jsonl");
    let file = records.to_str().unwrap();
    let run = scene.exec(&[], &clients(&scene));
    assert_truth(&scene, &run);
    let listing = json(&[file]);
    assert_eq!(rows(&listing), rows_of(&run.calls));
    let credentials: BTreeSet<&str> = run
        .calls
        .iter()
        .filter_map(|call| call["credential"].as_str())
        .collect();
    assert_eq!(credentials.len(), 3, "{:#?}", run.calls);
    assert_eq!(listing["rows"].as_array().unwrap().len(), 3, "{listing:#}");

    let (_, table, _) = inventory(&[file]);
    assert!(
        table.contains("2 users · 2 programs · 3 keys · 8 calls · 1 error"),
        "{table}"
    );
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("root ") && line.contains(" anthropic "))
    );
    let job = table.lines().find(|line| line.contains(" nightly-job "));
    assert!(job.unwrap().starts_with("65533 "), "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");
    let (_, csv, _) = inventory(&[file, "--format", "csv"]);
    assert_eq!(csv.lines().count(), 4, "{csv}");
    for text in [&run.raw, &run.stderr, &table, &csv, &listing.to_string()] {
        assert_no_key(text);
    }
}

#[test]
fn a_running_agent_can_be_asked() {
    let scene = Scene::new();
    let mut command = clients(&scene);
    let script = command.pop().unwrap().into_string().unwrap();
    command.push(format!("read line; {script}").into());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut client = scene.start(&command);
    let idle = Client::start(Command::new("cat"));
    let (pid, idle_pid) = (client.pid(), idle.pid());
    let observer = scene.watch(&["--prometheus", &address, "--pid", &pid, "--pid", &idle_pid]);
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success());
    scene.saw(&lines);
    let mut listing = Value::Null;
    wait_until("the agent knows of all calls", || {
        listing = json(&["--connect", &address]);
        let rows = listing["rows"].as_array().unwrap().iter();
        rows.map(|row| row["calls"].as_u64().unwrap()).sum::<u64>() == 8
    });
    let (_, table, _) = inventory(&["--connect", &format!("http://{address}/")]);
    let run = observer.stop();
    assert_truth(&scene, &run);
    assert_eq!(rows(&listing), rows_of(&run.calls));
    assert!(listing["since"].is_string());
    let totals = "2 users · 2 programs · 3 keys · 8 calls · 1 error";
    assert!(
        table.contains(totals) && table.contains("since "),
        "{table}"
    );
    assert_no_key(&table);
    assert_no_key(&listing.to_string());
    let (code, _, stderr) = inventory(&["--connect", &address]);
    assert_eq!(code, 1);
    assert!(stderr.contains("no inventory from"), "{stderr}");
}

#[test]
fn it_watches_for_a_while() {
    let scene = Scene::new();
    let mut client = scene.start(&scene.script(
        "calls.py",
        ["--wait-for-stdin", "--count", "3", "--key", KEYS[0]],
    ));
    assert_eq!(client.line(), "waiting");
    let mut agent = Command::new(binary());
    agent.args(["inventory", "--format", "json", "--pid", &client.pid()]);
    agent.stdin(std::process::Stdio::null());
    agent.stdout(std::process::Stdio::piped());
    agent.stderr(std::process::Stdio::piped());
    let mut agent = agent.spawn().unwrap();
    let stderr = std::io::BufReader::new(agent.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr).map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"));
    client.go_on();
    assert!(client.wait().0.success());
    // The only process is gone.
    let rest = std::thread::spawn(move || lines.collect::<Vec<_>>());
    let result = agent.wait_with_output().unwrap();
    let said = rest.join().unwrap();
    assert!(result.status.success(), "{said:?}");
    let listing: Value = serde_json::from_slice(&result.stdout).unwrap();
    let rows = listing["rows"].as_array().unwrap();
    assert_eq!(
        (rows.len(), rows[0]["calls"].as_u64()),
        (1, Some(3)),
        "{listing:#}"
    );
    assert_no_key(&listing.to_string());
    let idle = Client::start(Command::new("cat"));
    let listing = json(&["--pid", &idle.pid(), "--for", "1"]);
    assert_eq!(listing["rows"], Value::Array(Vec::new()));
}

#[test]
fn files_that_are_not_whole_are_read_as_far_as_they_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> String { folder.path().join(name).to_str().unwrap().to_owned() };
    let call = r#"{"type":"llm_call","provider":"openai","model":"m","start_time":"2026-01-01T00:00:00Z","pid":7}"#;
    fs::write(path("good"), format!("{call}\n{call}\n")).unwrap();
    fs::write(path("bad"), format!("{call}\n{}\nnonsense\n", &call[..40])).unwrap();
    let (code, stdout, stderr) = inventory(&[
        &path("good"),
        &path("bad"),
        &path("missing"),
        "--format",
        "json",
    ]);
    let listing: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(listing["rows"][0]["calls"], 3);
    assert!(
        stderr.contains("bad: 2 of the lines are no records"),
        "{stderr}"
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains("cannot read") && stderr.contains("missing"),
        "{stderr}"
    );
    assert!(!Path::new(&path("missing")).exists());
    assert_eq!(inventory(&[]).0, 2);
    assert_eq!(inventory(&[&path("good"), "--all"]).0, 2);
}

#[test]
fn nothing_in_records_steers_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls");
    let file = path.to_str().unwrap();
    let hostile = "\u{9b}31m\u{7f}\u{202e}\x1b]0;owned\x07é";
    let call = serde_json::json!({
        "type": "llm_call", "provider": "openai", "model": hostile, "comm": hostile,
        "server_address": hostile, "start_time": "2026-01-01T00:00:00Z", "pid": 7,
    });
    fs::write(&path, format!("{call}\n")).unwrap();
    for format in ["csv", "json", "table"] {
        let command = format!(
            "'{}' inventory '{file}' --format {format}",
            binary().display()
        );
        // On a terminal that script makes, which turns line feeds into two characters.
        let (code, screen, stderr) = output("script", &["-qec", &command, "/dev/null"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(
            screen.contains("é") && screen.contains("openai"),
            "{screen:?}"
        );
        let steers = |c: char| c == '\u{202e}' || (c.is_control() && !"\r\n".contains(c));
        assert!(!screen.contains(steers), "{format}: {screen:?}");
    }
    // A file has it as it was.
    let (_, csv, _) = inventory(&[file, "--format", "csv"]);
    assert!(csv.contains(hostile), "{csv:?}");
    let listing = json(&[file]);
    assert_eq!(listing["rows"][0]["model"], hostile);
}
