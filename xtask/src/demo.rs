//! The main job on real input, in one command: a local provider, a real SDK client, and the agent
//! that watches it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    root, run,
    run::{cargo, command, privileged, target},
    toolchain,
};

pub(crate) fn run() -> anyhow::Result<()> {
    toolchain::setup()?;
    eprintln!("xtask: building");
    cargo(["build", "--quiet", "--release"])?;
    cargo([
        "build",
        "--quiet",
        "--release",
        "--package",
        "observer-e2e",
        "--bins",
    ])?;
    eprintln!("xtask: installing the SDKs (once)");
    let python = run::output(
        target()
            .join("release/observer-clients")
            .to_str()
            .context("path")?,
        &[],
    )
    .context("cannot install the Python SDKs; is python3-venv there?")?;
    let folder = target().join("demo");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let provider = Provider::start(&folder)?;
    let url = provider.url(&folder)?;
    eprintln!("xtask: observer exec -- python demo.py {url}\n");
    command(
        privileged(target().join("release/observer"))
            .args(["exec", "--format", "pretty", "--"])
            .arg("env")
            .arg(format!("SSL_CERT_FILE={}", folder.join("ca.pem").display()))
            .arg(python)
            .arg(root().join("tests/clients/demo.py"))
            .arg(url),
    )?;
    eprintln!(
        "\nNow your own: sudo {} watch --pid PID   (or: exec -- COMMAND)",
        target().join("release/observer").display()
    );
    Ok(())
}

/// The local provider; it ends with the demo.
struct Provider(Child);

impl Provider {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let child = Command::new(target().join("release/observer-provider"))
            .arg(folder)
            .arg("--url-file")
            .arg(folder.join("url"))
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the local provider")?;
        Ok(Self(child))
    }

    fn url(&self, folder: &Path) -> anyhow::Result<String> {
        for _ in 0..100 {
            if let Ok(url) = fs::read_to_string(folder.join("url")) {
                return Ok(url);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the local provider does not start")
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
