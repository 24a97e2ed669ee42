//! Starting a command that waits until its probes are in.
//!
//! The child is this program again: it stops itself, is told to go on once it is watched, and then
//! becomes the command. So the command keeps the process id that was watched, and its first
//! instruction is already covered.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
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
