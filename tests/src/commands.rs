//! Other programs that tests need the work of. The network may stall or fail for a moment, which is no result of a
//! test: what downloads is repeated.

use std::{
    process::{Command, Output},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

/// Pauses between tries.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(3),
    Duration::from_secs(15),
    Duration::from_secs(45),
];

/// The seconds after which a download counts as stalled.
const LONGEST: &str = "600";

/// What makes each tool patient by itself.
const PATIENCE: [(&str, &str); 4] = [
    ("CARGO_NET_RETRY", "6"),
    ("PIP_DEFAULT_TIMEOUT", "60"),
    ("PIP_RETRIES", "6"),
    ("npm_config_fetch_retries", "6"),
];

/// What apt-get, cargo, Go, Maven, npm and pip say, in small letters, when the network fails them.
const NETWORK_FAILURES: &[&str] = &[
    "bad gateway",
    "broken pipe",
    "connection aborted",
    "connection broken",
    "connection failed",
    "connection refused",
    "connection reset",
    "connection was closed",
    "could not connect",
    "could not resolve",
    "could not transfer",
    "eai_again",
    "econnreset",
    "etimedout",
    "failed to download",
    "gateway time",
    "incompleteread",
    "name resolution",
    "network is unreachable",
    "newconnectionerror",
    "no such host",
    "service unavailable",
    "socket hang up",
    "spurious network error",
    "temporary failure",
    "timed out",
    "timeout",
    "tls handshake",
    "too many requests",
    "unexpected eof",
];

/// Runs a command that does nothing but download. When it fails or stalls it is run again, a few times.
///
/// # Errors
///
/// It cannot be run, or fails each time: with what it wrote at last.
pub fn fetch(command: &Command) -> anyhow::Result<()> {
    repeated(&mut limited(command), |_| true)
}

/// Runs a command whose output matters only if it fails. When it downloads too and says that the network failed, it
/// is run again, a few times.
///
/// # Errors
///
/// It cannot be run, or fails: with what it wrote to standard error.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    repeated(command, network_failed)
}

fn repeated(command: &mut Command, again: impl Fn(&Output) -> bool) -> anyhow::Result<()> {
    for (name, value) in PATIENCE {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let mut pauses = PAUSES.iter();
    loop {
        let output = command
            .output()
            .with_context(|| format!("cannot run {command:?}"))?;
        if output.status.success() {
            return Ok(());
        }
        let failure = format!(
            "{command:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        match pauses.next() {
            Some(pause) if again(&output) => {
                eprintln!("once more in {pause:?}: {failure}");
                thread::sleep(*pause);
            }
            _ => bail!(failure),
        }
    }
}

/// The same command, ended after [`LONGEST`] with all that it has started.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited
        .args(["--kill-after=10", LONGEST])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited
}

fn network_failed(output: &Output) -> bool {
    // Maven writes its errors to standard output.
    let text = [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).to_lowercase())
        .concat();
    NETWORK_FAILURES
        .iter()
        .any(|failure| text.contains(failure))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A shell command that counts its runs in a file and succeeds from the second.
    fn second(folder: &tempfile::TempDir, says: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "echo >>runs; [ $(wc -l <runs) -gt 1 ] || { echo \"$0\" >&2; exit 1; }",
                says,
            ])
            .current_dir(folder.path());
        command
    }

    fn runs(folder: &tempfile::TempDir) -> usize {
        let text = fs::read_to_string(folder.path().join("runs")).unwrap();
        text.lines().count()
    }

    #[test]
    fn a_download_is_repeated_whatever_it_says() {
        let folder = tempfile::tempdir().unwrap();
        fetch(&second(&folder, "?")).unwrap();
        assert_eq!(runs(&folder), 2);
    }

    #[test]
    fn what_the_network_failed_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let says = "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='x'): Read timed out.";
        run(&mut second(&folder, says)).unwrap();
        assert_eq!(runs(&folder), 2);
    }

    #[test]
    fn a_compiler_that_fails_is_not_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(&mut second(&folder, "client.c:1: error")).unwrap_err();
        assert_eq!(runs(&folder), 1);
        assert!(error.to_string().contains("client.c:1: error"), "{error}");
    }
}
