//! Running other programs.

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use crate::root;

/// How often cargo and apt-get try a download once more.
pub(crate) const RETRIES: &str = "6";

/// Cargo itself, in the workspace.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<()> {
    command(&mut cargo_command(arguments))
}

/// As [`cargo`], to be changed before it runs.
pub(crate) fn cargo_command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What .cargo/config.toml sets is meant for the build script.
    command
        .current_dir(root())
        .args(arguments)
        .env_remove("CARGO_TERM_QUIET")
        .env("CARGO_NET_RETRY", RETRIES);
    command
}

/// Runs a command; that it fails is an error.
pub(crate) fn command(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

/// The standard output of a command that succeeds.
pub(crate) fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let result = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !result.status.success() {
        bail!("{program} {} failed", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&result.stdout).trim().to_owned())
}

/// The folder of build results.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Whether this user is root.
pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).is_ok_and(|id| id == "0")
}

/// A command that needs the rights of root.
pub(crate) fn privileged(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg("--preserve-env").arg(program);
        command
    }
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}
