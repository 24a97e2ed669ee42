//! The programs that are measured.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use observer_e2e::harness::summary;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a start or an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The CPU of the program that is watched, and that of everything else.
pub(crate) const TARGET: u32 = 0;
pub(crate) const OTHERS: u32 = 1;

/// A program beside this one.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}

/// A command on one CPU.
pub(crate) fn pinned(cpu: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

/// A program that is talked to by lines.
pub(crate) struct Dialogue {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Dialogue {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().context("piped")?);
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            stdin,
            lines,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&self) -> anyhow::Result<String> {
        self.lines
            .recv_timeout(PATIENCE)
            .context("a program that is measured says nothing")
    }

    /// Waits for this line.
    pub(crate) fn expect(&self, wanted: &str) -> anyhow::Result<()> {
        let line = self.line()?;
        ensure!(line == wanted, "{line} instead of {wanted}");
        Ok(())
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    pub(crate) fn go_on(&mut self) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("it has ended")?;
        Ok(stdin.write_all(b"go\n")?)
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent at work.
pub(crate) struct Agent {
    child: Child,
    said: PathBuf,
    /// From its start until it was ready, in seconds.
    pub(crate) ready_s: f64,
}

/// What the agent said at its end.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) text: String,
    /// From the signal to the end, in seconds.
    pub(crate) stop_s: f64,
}

impl Agent {
    /// Starts `observer watch` and waits until it is ready. Records are thrown away.
    pub(crate) fn watch(folder: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let mut command = pinned(OTHERS, program("observer")?);
        command
            .arg("watch")
            .args(["--format", "jsonl", "--output", "/dev/null"])
            .args(options);
        Self::start(folder, command)
    }

    /// Starts it as a command says, and waits until it is ready.
    pub(crate) fn start(folder: &Path, mut command: Command) -> anyhow::Result<Self> {
        let said = folder.join("agent.txt");
        let begun = Instant::now();
        let child = command
            .env("OBSERVER_LOG", "info")
            .stdin(Stdio::null())
            .stderr(fs::File::create(&said)?)
            .spawn()?;
        let mut agent = Self {
            child,
            said,
            ready_s: 0.0,
        };
        while !fs::read_to_string(&agent.said)?.contains("ready\n") {
            if agent.child.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                bail!("the agent: {}", fs::read_to_string(&agent.said)?);
            }
            thread::sleep(Duration::from_micros(200));
        }
        agent.ready_s = begun.elapsed().as_secs_f64();
        Ok(agent)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads, in seconds.
    pub(crate) fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_s(self.child.id())
    }

    pub(crate) fn stop(mut self) -> anyhow::Result<Said> {
        let begun = Instant::now();
        let pid = Pid::from_child(&self.child);
        // It may have ended by itself, with what it watched.
        let _ = kill_process(pid, Signal::TERM);
        self.child.wait()?;
        Ok(Said {
            stop_s: begun.elapsed().as_secs_f64(),
            text: fs::read_to_string(&self.said)?,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// The number that follows a word.
    pub(crate) fn number(&self, after: &str) -> Option<u64> {
        let rest = self.text.rsplit(after).next()?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }

    /// Bytes that were captured and records that were lost, by the summary.
    pub(crate) fn captured(&self) -> anyhow::Result<(u64, u64)> {
        let (captured, lost, _) = summary(&self.text).context("no summary")?;
        Ok((captured, lost))
    }
}

/// CPU time of all threads of a process, in seconds (`/proc/PID/task/TID/schedstat`).
pub(crate) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = stat.split_whitespace().next().context("no time")?;
        sum += first.parse::<u64>()?;
    }
    Ok(sum as f64 / 1e9)
}

/// Resident memory in KiB (`VmRSS`).
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .context("no VmRSS")
}

/// bpftrace with a script, from when it is attached.
pub(crate) struct Bpftrace(Child);

impl Bpftrace {
    pub(crate) fn start(script: &str, folder: &Path) -> anyhow::Result<Self> {
        let out = folder.join("bpftrace.txt");
        let said = folder.join("bpftrace-errors.txt");
        let script = format!("BEGIN {{ printf(\"attached\\n\"); }} {script}");
        let child = pinned(OTHERS, "bpftrace")
            .args(["--unsafe", "-B", "line", "-e", &script])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&said)?)
            .spawn()?;
        let mut bpftrace = Self(child);
        let begun = Instant::now();
        while !fs::read_to_string(&out)?.contains("attached\n") {
            if bpftrace.0.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(&said)?;
                bail!(
                    "bpftrace does not attach: {} (apt-get install bpftrace)",
                    said.lines().next().unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
        // It says so before the probes are in.
        thread::sleep(Duration::from_millis(100));
        Ok(bpftrace)
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}
