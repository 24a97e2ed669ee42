//! Starting a command that waits until its probes are in.
//!
//! The child is this program again: it stops itself, is told to go on once it is watched, and then
//! becomes the command. So the command keeps the process id that was watched, and its first
//! instruction is already covered.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
};

use anyhow::Context as _;
use rustix::process::{
    Signal, WaitOptions, getpid, kill_process, set_parent_process_death_signal, waitpid,
};

use crate::attach::processes::Pid;

/// The hidden subcommand that becomes the command.
pub const GATE: &str = "__gate";

/// Exit codes of shells for a command that cannot be executed or found (POSIX.1-2017, 2.8.2).
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Files of one command line that are looked through.
const FILES: usize = 16;

/// Interpreters within interpreters that are looked through (`BINPRM_BUF_SIZE` and execve(2) allow four).
const INTERPRETERS: usize = 4;

/// Programs whose arguments name the program that they become, behind options and values.
const WRAPPERS: &[&str] = &[
    "chrt", "env", "ionice", "nice", "nohup", "setpriv", "setsid", "stdbuf", "sudo", "taskset",
    "timeout",
];

/// The files that will be executed for a command line: the program, or the script and its interpreters
/// (execve(2)); and what the program runs in turn, if that is all that it is for. What cannot be found is left
/// out.
pub fn files(command: &[OsString]) -> Vec<PathBuf> {
    let Some((program, mut arguments)) = command.split_first() else {
        return Vec::new();
    };
    let mut files = of_program(program);
    let mut wrapper = Path::new(program).file_name();
    while wrapper
        .and_then(OsStr::to_str)
        .is_some_and(|name| WRAPPERS.contains(&name))
        && files.len() < FILES
    {
        let is_option = |word: &OsString| {
            let bytes = word.as_encoded_bytes();
            bytes.starts_with(b"-") || bytes.contains(&b'=')
        };
        let Some(at) = arguments
            .iter()
            .position(|word| !is_option(word) && find(word).is_some_and(|path| path.is_file()))
        else {
            break;
        };
        files.extend(of_program(&arguments[at]));
        wrapper = Path::new(&arguments[at]).file_name();
        arguments = &arguments[at + 1..];
    }
    files
}

/// A program, or a script and its interpreters.
fn of_program(program: &OsStr) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut next = find(program);
    while let Some(path) = next.take()
        && files.len() < INTERPRETERS
    {
        next = interpreter(&path);
        files.push(path);
    }
    files
}

/// Where a command is, as execvp(3) looks for it.
fn find(command: &OsStr) -> Option<PathBuf> {
    if command.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(command));
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(command))
        .find(|path| path.is_file())
}

/// The interpreter that a script names, behind `env` too.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut head = [0; 256];
    let length = File::open(script).ok()?.read(&mut head).ok()?;
    let line = head.get(..length)?.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(OsStr::from_bytes);
    let first = Path::new(words.next()?);
    if first.file_name() == Some(OsStr::new("env")) {
        let command = words.find(|word| !word.as_bytes().starts_with(b"-"))?;
        return find(command);
    }
    Some(first.to_owned())
}

/// A command that waits behind the gate, or runs.
pub struct Gated {
    child: Child,
}

impl Gated {
    /// Starts the command's process, stopped.
    ///
    /// # Errors
    ///
    /// The process cannot be started.
    pub fn start(command: &[OsString]) -> anyhow::Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg0("observer")
            .arg(GATE)
            .arg("--")
            .args(command)
            .spawn()
            .context("cannot start a process for the command")?;
        let gated = Self { child };
        let status = waitpid(Some(gated.process()?), WaitOptions::UNTRACED)
            .context("cannot wait for the command's process")?;
        anyhow::ensure!(
            status.is_some_and(|(_, status)| status.stopped()),
            "the command's process ended before it could be watched"
        );
        Ok(gated)
    }

    /// The process id, before and after the command has taken over.
    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// Lets the command begin.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub fn release(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
            .context("cannot start the command")
    }

    /// Sends the command a signal.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, signal)?)
    }

    /// The exit status, if the command has ended.
    ///
    /// # Errors
    ///
    /// As waitpid(2).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn process(&self) -> anyhow::Result<rustix::process::Pid> {
        i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .context("the process id is out of range")
    }
}

impl Drop for Gated {
    /// A command that was never released must not stay stopped for ever.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.signal(Signal::CONT).is_err() {
            let _ = self.child.kill();
        }
    }
}

/// The exit code that shells give for a status: 128 and the signal's number for a killed process.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code & 0xff).unwrap_or(1)
}

/// The child's side: waits to be watched, then becomes the command. Returns only when that fails.
pub fn gate(command: &[OsString]) -> u8 {
    // Should the agent die before it lets us go, nobody else would.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(error) = kill_process(getpid(), Signal::STOP) {
        anstream::eprintln!("observer: cannot stop before the command: {error}");
        return 1;
    }
    let _ = set_parent_process_death_signal(None);
    let Some((program, arguments)) = command.split_first() else {
        return 2;
    };
    let error = Command::new(program).args(arguments).exec();
    let program: &OsStr = program;
    anstream::eprintln!("observer: cannot execute {}: {error}", program.display());
    if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_script_leads_to_its_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        for line in ["#!/bin/sh -e\n", "#! /usr/bin/env -S sh\necho"] {
            fs::write(&script, line).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let files = files(&[script.clone().into()]);
            assert_eq!(files[0], script);
            assert_eq!(files[1].file_name(), Some(OsStr::new("sh")), "{line}");
        }
        assert!(files(&["no-such-command".into()]).is_empty());
    }

    #[test]
    fn wrappers_lead_to_what_they_run() {
        let names = |line: &str| -> Vec<String> {
            let command: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            files(&command)
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .collect()
        };
        assert_eq!(names("env A=1 sh -c true"), ["env", "sh"]);
        assert_eq!(names("nice -n 5 timeout 9 sh"), ["nice", "timeout", "sh"]);
        // What others do with their arguments is not known.
        assert_eq!(names("sh env cat"), ["sh"]);
        assert_eq!(names("env --version"), ["env"]);
    }
}
