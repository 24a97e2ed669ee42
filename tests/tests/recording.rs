//! What is recorded can be replayed by anybody, and gives the same records.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use observer_e2e::{
    clients::readable_copy,
    harness::{Run, Scene, binary, output, wait_until},
};
use rustix::process::Signal;

/// Runs `observer replay` as a user without any rights.
struct Stranger {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

impl Stranger {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = readable_copy(&binary(), folder.path()).unwrap();
        Self { folder, binary }
    }

    /// Returns exit code, standard output and standard error.
    fn replay(&self, recording: &Path, options: &[&str]) -> (i32, String, String) {
        let copy = self.folder.path().join("copy");
        fs::copy(recording, &copy).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
        let mut command: Vec<OsString> = ["setpriv", "--reuid", "65534", "--regid", "65534"]
            .map(OsString::from)
            .to_vec();
        for option in [
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--no-new-privs",
        ] {
            command.push(option.into());
        }
        command.push(self.binary.clone().into());
        command.push("replay".into());
        command.push(copy.into());
        command.extend(options.iter().map(OsString::from));
        output(&command[0], &command[1..])
    }

    fn assert_same(&self, run: &Run, recording: &Path, options: &[&str]) {
        let (status, records, said) = self.replay(recording, options);
        assert_eq!(status, 0, "{said}");
        assert_eq!(records, run.raw, "{said}");
        let summary = |text: &str| {
            let line = text.lines().find(|line| line.contains("bytes captured"));
            line.map(str::to_owned)
        };
        assert_eq!(summary(&said), summary(&run.stderr));
        assert!(!said.contains("cut"), "{said}");
    }
}

/// Runs a command and records it.
fn record(scene: &Scene, name: &str, options: &[&str], command: &[OsString]) -> (Run, PathBuf) {
    let recording = scene.folder.path().join(name);
    let mut all = vec!["--capture-content", "--record", recording.to_str().unwrap()];
    all.extend(options);
    let run = scene.exec(&all, command);
    (run, recording)
}

/// Whether a file holds these bytes.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let file = fs::read(path).unwrap_or_default();
    file.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn a_replay_gives_the_same_records() {
    let scene = Scene::new();
    let stranger = Stranger::new();
    // All SDKs, streams, tools, an error.
    let (run, recording) = record(&scene, "demo", &[], &scene.script("demo.py", []));
    run.assert_clean();
    scene.assert_truth(&run.calls);
    stranger.assert_same(&run, &recording, &["--capture-content"]);
    assert!(run.stderr.contains("credentials"), "{}", run.stderr);
    let mode = fs::metadata(&recording).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Without content, and only one provider's.
    let (_, records, _) = stranger.replay(&recording, &["--provider", "anthropic"]);
    let calls: Vec<serde_json::Value> = records
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &serde_json::Value| record["type"] == "llm_call")
        .collect();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["provider"], "anthropic");
    assert!(calls[0]["input_preview"].is_null() && calls[0]["output_preview"].is_null());
    let same = |call: &&serde_json::Value| call["span_id"] == calls[0]["span_id"];
    assert_eq!(run.calls.iter().filter(same).count(), 1);

    let (_, screen, _) = stranger.replay(&recording, &["--format", "pretty"]);
    assert!(screen.contains("6 calls · 1 error · "), "{screen}");
}

#[test]
fn prices_and_other_requests_live_and_replayed() {
    let scene = Scene::new();
    let stranger = Stranger::new();
    let table = stranger.folder.path().join("prices.json");
    fs::write(
        &table,
        r#"{"sample_spec": {"max_tokens": "a number"},
            "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06,
                "cache_read_input_token_cost": 1.25e-06, "output_cost_per_token": 1e-05}}"#,
    )
    .unwrap();
    fs::set_permissions(&table, Permissions::from_mode(0o644)).unwrap();
    let table = table.to_str().unwrap();

    let script = format!(
        "{} --behaviour 'cached=7' && {} --sdk anthropic && curl -sS --http1.1 -o /dev/null \
         --cacert \"$SSL_CERT_FILE\" -H 'Host: api.openai.com' {}/v1/models '{}/v1/files?limit=1'",
        shell(&scene.script("calls.py", [])),
        shell(&scene.script("calls.py", [])),
        scene.provider.url(),
        scene.provider.url(),
    );
    let command = ["sh".into(), "-c".into(), script.into()];
    let (run, recording) = record(&scene, "prices", &["--prices", table], &command);
    run.assert_clean();
    let others = "2 calls, 2 traces, 2 other requests to LLM hosts, ";
    assert!(run.stderr.contains(others), "{}", run.stderr);
    let [openai, anthropic] = &run.calls[..] else {
        panic!("{:#?}", run.calls);
    };
    let count = |field: &str| openai[field].as_f64().unwrap();
    let cached = count("cached_tokens");
    assert!(cached > 0.0);
    let millionths =
        2.5 * (count("prompt_tokens") - cached) + 1.25 * cached + 10.0 * count("completion_tokens");
    let cost = openai["cost_usd"].as_f64().unwrap();
    assert!((cost * 1e6 - millionths).abs() < 1e-6, "{openai:#}");
    assert_eq!(openai["cost_source"], "prices");
    assert!(anthropic["cost_usd"].is_null() && anthropic["cost_source"].is_null());

    let options = ["--capture-content", "--prices", table];
    stranger.assert_same(&run, &recording, &options);
    let (_, screen, _) = stranger.replay(&recording, &["--format", "pretty", "--prices", table]);
    assert!(
        screen.contains(" for 1 of them · 2 other requests to LLM hosts"),
        "{screen}"
    );
    // Without prices there is no cost.
    let (_, records, _) = stranger.replay(&recording, &[]);
    assert!(!records.contains("\"cost_usd\":0"), "{records}");
    fs::write(
        table,
        "{\"gpt-4o\": {\"input_cost_per_token\": \"2.5e-06\"}}",
    )
    .unwrap();
    let (status, _, said) = stranger.replay(&recording, &["--prices", table]);
    assert_eq!(status, 1);
    assert!(
        said.contains("\"gpt-4o\": input_cost_per_token: \"2.5e-06\" is no price"),
        "{said}"
    );
}

/// A command line as the shell takes it; no word of it holds a quote.
fn shell(command: &[OsString]) -> String {
    let words = command.iter().map(|word| format!("'{}'", word.display()));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn many_threads_children_and_idle_gaps() {
    let scene = Scene::new();
    let stranger = Stranger::new();
    let threads = ["--threads", "8", "--count", "3", "--mode", "stream"];
    let gaps = ["--count", "3", "--every", "0.7", "--sdk", "anthropic"];
    for (name, options, command) in [
        ("threads", &[][..], scene.script("calls.py", threads)),
        (
            "gaps",
            &["--trace-idle", "0.3"],
            scene.script("calls.py", gaps),
        ),
        ("children", &[], scene.script("children.py", [])),
    ] {
        let (run, recording) = record(&scene, name, options, &command);
        run.assert_clean();
        assert!(run.calls.len() >= 2 && !run.traces.is_empty());
        stranger.assert_same(&run, &recording, &["--capture-content"]);
    }
}

#[test]
fn calls_that_the_end_of_the_capture_cuts() {
    let scene = Scene::new();
    let stranger = Stranger::new();
    let mut client = scene.start(&scene.script(
        "calls.py",
        [
            "--wait-for-stdin",
            "--mode",
            "stream",
            "--behaviour",
            "events=400; token-ms=50",
        ],
    ));
    assert_eq!(client.line(), "waiting");
    let recording = scene.folder.path().join("cut");
    let observer = scene.watch(&[
        "--pid",
        &client.pid(),
        "--capture-content",
        "--record",
        recording.to_str().unwrap(),
    ]);
    client.go_on();
    wait_until("the answer", || holds(&recording, b"HTTP/1.1 200"));
    let run = observer.stop();
    client.signal(Signal::KILL);
    assert_eq!(run.only_call()["incomplete"], "observer_stopped");
    stranger.assert_same(&run, &recording, &["--capture-content"]);
}

#[test]
fn a_recording_whose_writer_was_killed_is_replayed_up_to_there() {
    let scene = Scene::new();
    let stranger = Stranger::new();
    let arguments = ["--wait-for-stdin", "--count", "2", "--every", "60"];
    let mut client = scene.start(&scene.script("calls.py", arguments));
    assert_eq!(client.line(), "waiting");
    let recording = scene.folder.path().join("killed");
    let observer = scene.watch(&[
        "--pid",
        &client.pid(),
        "--capture-content",
        "--record",
        recording.to_str().unwrap(),
    ]);
    client.go_on();
    scene.provider.wait_for(1);
    wait_until("the answer", || holds(&recording, b"HTTP/1.1 200"));
    // What follows right behind.
    std::thread::sleep(std::time::Duration::from_secs(1));
    observer.signal(Signal::KILL);
    observer.wait();
    client.signal(Signal::KILL);
    let (status, records, said) = stranger.replay(&recording, &[]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("is cut at byte"), "{said}");
    assert!(said.contains("losses unknown"), "{said}");
    let calls = records.lines().filter(|line| line.contains("llm_call"));
    assert_eq!(calls.count(), 1, "{records}");

    // In the middle of the answer.
    let bytes = fs::read(&recording).unwrap();
    let at = bytes
        .windows(8)
        .rposition(|window| window == b"HTTP/1.1")
        .unwrap();
    let part = scene.folder.path().join("part");
    fs::write(&part, &bytes[..at + 4]).unwrap();
    let (status, records, said) = stranger.replay(&part, &[]);
    assert_eq!(status, 0, "{said}");
    let call: serde_json::Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert_eq!(call["incomplete"], "observer_stopped");

    // A bit that is not as it was written.
    let mut damaged = bytes.clone();
    damaged[at] ^= 1;
    fs::write(&part, damaged).unwrap();
    let (status, records, said) = stranger.replay(&part, &[]);
    assert_eq!(status, 1);
    assert!(said.contains("a wrong checksum in entry"), "{said}");
    assert!(records.contains("observer_stopped"), "{records}");
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    let scene = Scene::new();
    let disk = scene.folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |words: &[&str]| {
        let status = Command::new(words[0]).args(&words[1..]).arg(&disk).status();
        assert!(status.unwrap().success(), "{words:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
    let (run, recording) = record(
        &scene,
        "disk/recording",
        &[],
        &scene.script("calls.py", ["--count", "20", "--behaviour", "events=400"]),
    );
    let (status, records, said) = Stranger::new().replay(&recording, &["--capture-content"]);
    mount(&["umount"]);
    run.assert_clean();
    scene.assert_truth(&run.calls);
    assert!(run.stderr.contains("has ended early"), "{}", run.stderr);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("is cut at byte"), "{said}");
    let calls = records.lines().filter(|line| line.contains("llm_call"));
    assert!((1..20).contains(&calls.count()), "{records}");
}

#[test]
fn a_recording_is_wanted_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording");
    let path = path.to_str().unwrap();
    for content in ["", "false"] {
        let result = Command::new(binary())
            .args(["exec", "--record", path, "--", "true"])
            .envs((!content.is_empty()).then_some(("OBSERVER_CAPTURE_CONTENT", content)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&result.stderr);
        assert_eq!(result.status.code(), Some(2), "{said}");
        assert!(said.contains("--capture-content"), "{said}");
        assert!(!Path::new(path).exists());
    }

    // Neither what is there nor where a link leads is written to.
    let elsewhere = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, path).unwrap();
    let options = ["exec", "--capture-content", "--record", path, "--", "true"];
    let (status, _, said) = output(binary(), &options);
    assert_eq!(status, 1);
    assert!(said.contains("is there already"), "{said}");
    assert!(!elsewhere.exists());
    fs::remove_file(path).unwrap();
    fs::write(path, "mine").unwrap();
    let (status, _, _) = output(binary(), &options);
    assert_eq!((status, &fs::read(path).unwrap()[..]), (1, &b"mine"[..]));

    let (status, _, said) = output(binary(), &["replay", path]);
    assert_eq!(status, 1);
    assert!(said.contains("no recording"), "{said}");
    let (status, _, said) = output(binary(), &["replay", "/nowhere"]);
    assert_eq!(status, 1);
    assert!(said.contains("cannot open /nowhere"), "{said}");
}
