//! Looking through a large program for a TLS library: time and memory.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use observer_e2e::clients;

use crate::{
    Effort,
    process::{OTHERS, pinned, program},
    report::{Report, Times},
};

/// Programs of the end-to-end tests, by how their folders' names begin.
const PROGRAMS: [&str; 3] = ["bun-", "claude-", "codex-"];

/// Smaller files are no program with its runtime inside.
const LEAST: u64 = 50 << 20;

/// Each large program that the end-to-end tests have installed.
pub(crate) fn run(report: &mut Report, effort: &Effort) -> anyhow::Result<()> {
    let programs = programs()?;
    ensure!(
        !programs.is_empty(),
        "the end-to-end tests have not installed a large program"
    );
    for (name, path) in programs {
        let (mut with, mut without) = (Times::default(), Times::default());
        let mut most = 0;
        for _ in 0..effort.rounds {
            without.0.push(check(None)?.0);
            let (took, memory) = check(Some(&path))?;
            with.0.push(took);
            most = most.max(memory);
        }
        let size = fs::metadata(&path)?.len() >> 20;
        report.figure_of(
            &format!("examine, {name}, {size} MiB: time"),
            with.best() - without.best(),
            "ms",
            Some(3000.0),
            &[&with, &without],
        );
        #[expect(clippy::cast_precision_loss, reason = "a figure")]
        let most = most as f64 / 1024.0;
        report.figure(
            &format!("examine, {name}, {size} MiB: peak memory"),
            most,
            "MiB",
            Some(300.0),
        );
    }
    Ok(())
}

/// Milliseconds and KiB that `observer check` takes.
fn check(file: Option<&Path>) -> anyhow::Result<(f64, u64)> {
    let mut command = pinned(OTHERS, program("observer")?);
    command.arg("check");
    if let Some(file) = file {
        command.arg("--file").arg(file);
    }
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        most = most.max(number.unwrap_or(0));
        thread::sleep(Duration::from_millis(1));
    }
    Ok((begun.elapsed().as_secs_f64() * 1e3, most))
}

/// The largest file of each folder, by the folder's name without the hash.
fn programs() -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(clients::target().join("e2e")).context("no clients are installed")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((name, _)) = name.rsplit_once('-') else {
            continue;
        };
        if !PROGRAMS.iter().any(|program| name.starts_with(program)) {
            continue;
        }
        if let Some((bytes, path)) = largest(&entry.path())
            && bytes >= LEAST
        {
            programs.insert(name.to_owned(), path);
        }
    }
    Ok(programs)
}

fn largest(folder: &Path) -> Option<(u64, PathBuf)> {
    let files = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            largest(&entry.path())
        } else {
            Some((entry.metadata().ok()?.len(), entry.path()))
        }
    });
    files.max_by_key(|(bytes, _)| *bytes)
}
