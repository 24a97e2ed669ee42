//! `observer top` on a real terminal, which is tmux's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use observer_e2e::harness::{Client, Scene, binary};
use tempfile::TempDir;

/// How long a screen may take to show something.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a shell in it, by a tmux server of its own.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    fn new(width: u16, height: u16, environment: &[(&str, &str)]) -> Self {
        let terminal = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let mut command = terminal.tmux();
        command.args([
            "new-session",
            "-d",
            "-x",
            &width.to_string(),
            "-y",
            &height.to_string(),
        ]);
        command.args(["env", "LC_ALL=C.UTF-8"]);
        command.args(
            environment
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        command.args(["sh", "-c", "PS1='$ '; export PS1; exec sh -i"]);
        assert!(command.status().expect("tmux is installed").success());
        terminal.wait_for("$");
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(self.folder.path().join("socket"));
        command
    }

    /// Types a command and Enter.
    fn run(&self, words: &[OsString]) {
        let line: Vec<String> = words
            .iter()
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        self.press(&["-l", &line.join(" ")]);
        self.press(&["Enter"]);
    }

    fn press(&self, keys: &[&str]) {
        assert!(
            self.tmux()
                .arg("send-keys")
                .args(keys)
                .status()
                .unwrap()
                .success()
        );
    }

    fn screen(&self) -> String {
        self.capture(&[])
    }

    fn capture(&self, options: &[&str]) -> String {
        let output = self
            .tmux()
            .args(["capture-pane", "-p"])
            .args(options)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn wait_for(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    fn wait(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if is_it(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < PATIENCE, "no {what} on:\n{screen}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Keeps what is shown, to be looked at, if a folder for it is named.
    fn keep(&self, name: &str) {
        if let Some(folder) = std::env::var_os("OBSERVER_SCREENS") {
            let folder = PathBuf::from(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{name}.txt")), self.screen()).unwrap();
            fs::write(folder.join(format!("{name}.ansi")), self.capture(&["-e"])).unwrap();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.tmux().arg("kill-server").output();
    }
}

fn top(words: &[&str]) -> Vec<OsString> {
    let mut command = vec![binary().into_os_string(), "top".into()];
    command.extend(words.iter().map(OsString::from));
    command
}

/// Agents that begin when they are told to.
fn agents(scene: &Scene, agents: &str, pace: &str) -> Client {
    let command = scene.script("agents.py", ["--wait", "--agents", agents, "--pace", pace]);
    let client = scene.start(&command);
    assert_eq!(client.line(), "waiting");
    client
}

/// The number before a word on a screen.
fn number_before(screen: &str, word: &str) -> Option<u64> {
    let (before, _) = screen.split_once(word)?;
    before
        .trim_end()
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[test]
fn calls_show_while_they_happen_and_a_trace_opens() {
    let scene = Scene::new();
    let mut client = agents(&scene, "6", "1");
    let terminal = Terminal::new(120, 40, &[("TERM", "tmux-256color")]);
    let records = scene.folder.path().join("top.jsonl");
    let output = records.to_string_lossy().into_owned();
    terminal.run(&top(&[
        "--pid",
        &client.pid(),
        "--trace-idle",
        "1",
        "--output",
        &output,
    ]));
    terminal.wait_for("PROCESSES");
    client.go_on();
    terminal.wait("call", |screen| {
        number_before(screen, " calls").is_some_and(|calls| calls > 3)
    });
    terminal.keep("busy");
    while client.line() != "done" {}
    // What the screen says is what the provider knows.
    let truth = scene.provider.truth();
    let calls = truth
        .iter()
        .filter(|truth| truth["llm_call"] == true)
        .count() as u64;
    let failed = truth
        .iter()
        .filter(|truth| truth["status_code"].as_u64() >= Some(400))
        .count() as u64;
    let screen = terminal.wait("all calls", |screen| {
        number_before(screen, " calls") == Some(calls)
    });
    assert_eq!(number_before(&screen, " error"), Some(failed), "{screen}");
    assert!(screen.contains(&format!("[{}]", client.pid())), "{screen}");
    assert!(
        screen.contains("lost 0") && screen.contains("openai/gpt-4o-mini"),
        "{screen}"
    );
    let ends = |screen: &str, word| screen.lines().any(|line| line.trim_end().ends_with(word));
    let screen = terminal.wait("ended traces", |screen| {
        ends(screen, " ended") && !ends(screen, " open")
    });
    assert!(screen.contains("TRACES"), "{screen}");
    terminal.keep("done");

    terminal.press(&["4"]);
    terminal.press(&["Enter"]);
    let screen = terminal.wait_for("CALLS AND TOOLS");
    assert!(screen.contains("█") && screen.contains("░"), "{screen}");
    terminal.press(&["Down"]);
    terminal.press(&["Down"]);
    terminal.keep("waterfall");
    terminal.press(&["Escape"]);
    terminal.wait_for("PROCESSES");

    terminal.press(&["/"]);
    terminal.press(&["-l", "o4-mini"]);
    terminal.press(&["Enter"]);
    let screen = terminal.wait_for("only: o4-mini");
    assert!(screen.contains("MODELS 1"), "{screen}");
    terminal.press(&["Escape"]);
    terminal.press(&["p"]);
    terminal.wait_for("PAUSED");
    terminal.press(&["?"]);
    terminal.wait_for("these keys");
    terminal.keep("help");
    terminal.press(&["x"]);
    assert!(
        terminal
            .tmux()
            .args(["resize-window", "-x", "80", "-y", "24"])
            .status()
            .unwrap()
            .success()
    );
    terminal.wait("narrower screen", |screen| {
        let ends = |line: &str| line.ends_with("P95") && line.chars().count() <= 80;
        screen.contains("TRACES") && screen.lines().any(ends)
    });
    terminal.keep("narrow");

    terminal.press(&["q"]);
    let screen = terminal.wait_for("bytes captured, lost 0");
    // The shell's screen is back, and what is typed is shown.
    assert!(!screen.contains("PROCESSES"), "{screen}");
    terminal.press(&["-l", "echo seen-$((40 + 2))"]);
    terminal.wait_for("echo seen-");
    terminal.press(&["Enter"]);
    terminal.wait_for("seen-42");
    let written = fs::read_to_string(records).unwrap();
    assert_eq!(
        written.matches("\"type\":\"llm_call\"").count() as u64,
        calls
    );
}

#[test]
fn a_simple_terminal_gets_ascii_and_no_colour() {
    let scene = Scene::new();
    let mut client = agents(&scene, "3", "0.3");
    let terminal = Terminal::new(80, 24, &[("TERM", "vt100")]);
    terminal.run(&top(&["--pid", &client.pid()]));
    terminal.wait_for("PROCESSES");
    client.go_on();
    while client.line() != "done" {}
    let screen = terminal.wait("calls", |screen| {
        number_before(screen, " calls").is_some_and(|calls| calls >= 9)
    });
    assert!(screen.is_ascii(), "{screen}");
    terminal.press(&["4"]);
    terminal.press(&["Enter"]);
    let screen = terminal.wait_for("CALLS AND TOOLS");
    assert!(screen.is_ascii() && screen.contains("##"), "{screen}");
    terminal.keep("vt100");
    // The colours as they were from the start are none.
    let coloured = terminal
        .capture(&["-e"])
        .replace("\x1b[39m", "")
        .replace("\x1b[49m", "");
    for code in ["\x1b[3", "\x1b[4", "\x1b[9"] {
        assert!(!coloured.contains(code), "{coloured:?}");
    }
    terminal.press(&["C-c"]);
    terminal.wait_for("bytes captured");
}

#[test]
fn the_terminal_is_given_back_by_a_signal_and_when_nobody_is_left() {
    let scene = Scene::new();
    let mut client = agents(&scene, "1", "0.2");
    let terminal = Terminal::new(100, 30, &[("TERM", "tmux-256color")]);
    terminal.run(&top(&["--pid", &client.pid()]));
    terminal.wait_for("PROCESSES");
    client.go_on();
    while client.line() != "done" {}
    client.go_on();
    // The screen stays: what it says is still of use.
    terminal.wait_for("every watched process has exited");
    assert!(terminal.screen().contains("TRACES"));
    let observer = pid_in(&terminal, &binary());
    let observer = rustix::process::Pid::from_raw(observer).unwrap();
    rustix::process::kill_process(observer, rustix::process::Signal::TERM).unwrap();
    let screen = terminal.wait_for("bytes captured");
    assert!(!screen.contains("PROCESSES"), "{screen}");
    assert_echoes(&terminal);
}

#[test]
fn without_its_terminal_it_ends_by_itself() {
    let scene = Scene::new();
    let client = agents(&scene, "1", "0.2");
    let file = scene.folder.path().join("followed.jsonl");
    fs::write(&file, "").unwrap();
    let (pid, file) = (client.pid(), file.to_string_lossy().into_owned());
    // Also where nobody tells it, as with nohup.
    let deaf = ["sh", "-c", "trap \"\" HUP; exec \"$@\"", "sh"].map(OsString::from);
    for (prefix, words) in [
        (&[][..], &["--pid", &pid][..]),
        (&deaf, &["--pid", &pid]),
        (&[], &[&file]),
        (&deaf, &[&file]),
    ] {
        let terminal = Terminal::new(100, 30, &[("TERM", "tmux-256color")]);
        terminal.run(&[prefix, &top(words)].concat());
        terminal.wait_for("PROCESSES");
        let observer = pid_in(&terminal, &binary());
        let before = cpu_time(observer).expect("observer runs");
        let gone = terminal.tmux().arg("kill-server").status().unwrap();
        assert!(gone.success());
        let spent = await_end(observer).saturating_sub(before);
        assert!(
            spent < Duration::from_secs(1),
            "{words:?}: {spent:?} of CPU time"
        );
    }
}

#[test]
fn a_signal_ends_it_amid_the_bytes_of_a_key() {
    let scene = Scene::new();
    let client = agents(&scene, "1", "0.2");
    let terminal = Terminal::new(100, 30, &[("TERM", "tmux-256color")]);
    terminal.run(&top(&["--pid", &client.pid()]));
    terminal.wait_for("PROCESSES");
    let observer = pid_in(&terminal, &binary());
    // An arrow's first two bytes of three.
    terminal.press(&["-H", "1b", "5b"]);
    thread::sleep(Duration::from_millis(500));
    let process = rustix::process::Pid::from_raw(observer).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    await_end(observer);
    let screen = terminal.wait_for("bytes captured");
    assert!(!screen.contains("PROCESSES"), "{screen}");
    assert_echoes(&terminal);
}

/// Asserts that a terminal shows what is typed, as it did before.
fn assert_echoes(terminal: &Terminal) {
    terminal.press(&["-l", "stty -a | tr ';' '\\n' | grep -w echo"]);
    terminal.press(&["Enter"]);
    terminal.wait("echo", |screen| {
        screen.contains(" echo ") && !screen.contains("-echo ")
    });
}

/// The CPU time of a process and its threads, unless it is gone or a zombie.
fn cpu_time(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name: the state is the third field, the times are the 14th and the 15th.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    (fields[0] != "Z").then(|| {
        let ticks = ticks(11) + ticks(12);
        // Linux tells programs of hundredths of a second, whatever its clock.
        Duration::from_millis(ticks * 10)
    })
}

/// Waits until a process is gone, which must be soon; returns the CPU time that it had taken then.
fn await_end(pid: i32) -> Duration {
    let begun = Instant::now();
    let mut taken = Duration::ZERO;
    while let Some(so_far) = cpu_time(pid) {
        taken = so_far;
        if begun.elapsed() > Duration::from_secs(5) {
            let process = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            panic!("observer is still there, after {taken:?} of CPU time");
        }
        thread::sleep(Duration::from_millis(10));
    }
    taken
}

#[test]
fn a_file_is_followed() {
    let scene = Scene::new();
    let run = scene.exec(
        &[],
        &scene.script("agents.py", ["--agents", "4", "--pace", "0.2"]),
    );
    run.assert_clean();
    let path = scene.folder.path().join("followed.jsonl");
    let (half, rest) = run.raw.split_at(run.raw.len() / 2);
    fs::write(&path, half).unwrap();
    let terminal = Terminal::new(110, 35, &[("TERM", "xterm-256color"), ("NO_COLOR", "1")]);
    terminal.run(&top(&[&path.to_string_lossy()]));
    terminal.wait_for("PROCESSES 1");
    // Of the file alone nobody knows what is in flight.
    assert!(!terminal.screen().contains("IN FLIGHT"));
    append(&path, &format!("{rest}nonsense\n"));
    let calls = run.calls.len() as u64;
    let screen = terminal.wait("all calls", |screen| {
        number_before(screen, " calls") == Some(calls)
    });
    assert!(
        screen.contains(&format!("TRACES {}", run.traces.len())),
        "{screen}"
    );
    terminal.wait_for("1 bad line");
    terminal.keep("file");
    terminal.press(&["q"]);
    terminal.wait("the shell", |screen| !screen.contains("PROCESSES"));
}

#[test]
fn without_a_terminal_it_says_so() {
    let output = Command::new(binary())
        .args(["top", "--all"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output is no terminal"), "{said}");
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// The process of this program below the terminal's shell.
fn pid_in(terminal: &Terminal, program: &Path) -> i32 {
    let shell = terminal
        .tmux()
        .args(["display-message", "-p", "#{pane_pid}"])
        .output()
        .unwrap();
    let shell: u32 = String::from_utf8_lossy(&shell.stdout)
        .trim()
        .parse()
        .unwrap();
    let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    children
        .split_whitespace()
        .find(|pid| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe == program.canonicalize().unwrap())
        })
        .expect("observer runs")
        .parse()
        .unwrap()
}
