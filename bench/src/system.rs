//! Attaching, detaching, and the parsers.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    Effort,
    load::generator,
    process::{Agent, Dialogue, OTHERS, TARGET, pinned, program},
    report::{Report, Times},
};

/// How long it takes until the probes are in, and until they are gone.
pub(crate) fn attach(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    let start = || -> anyhow::Result<Dialogue> {
        let target = generator(TARGET, &["--requests", "1"])?;
        target.expect("round")?;
        Ok(target)
    };
    for (name, count, options) in [
        ("one process", 1, &[][..]),
        ("100 processes that have mapped libssl", 100, &["--all"][..]),
    ] {
        let targets: Vec<Dialogue> = (0..count).map(|_| start()).collect::<anyhow::Result<_>>()?;
        let pid = targets[0].pid().to_string();
        let own = ["--pid", &pid];
        let options = if options.is_empty() {
            &own[..]
        } else {
            options
        };
        let (mut ready, mut stop, mut started) =
            (Times::default(), Times::default(), Times::default());
        for _ in 0..effort.rounds {
            let begun = Instant::now();
            let version = pinned(OTHERS, program("observer")?)
                .arg("--version")
                .output()?;
            ensure!(version.status.success(), "observer --version fails");
            started.0.push(begun.elapsed().as_secs_f64() * 1e3);
            let agent = Agent::watch(folder, options)?;
            ready.0.push(agent.ready_s * 1e3);
            stop.0.push(agent.stop()?.stop_s * 1e3);
        }
        let goal = (count == 1).then_some(50.0);
        report.figure_of(
            &format!("attach, {name}: start to ready, without the program's start"),
            ready.best() - started.best(),
            "ms",
            goal,
            &[&ready, &started],
        );
        report.figure_of(
            &format!("detach, {name}: signal to exit"),
            stop.best(),
            "ms",
            Some(500.0),
            &[&stop],
        );
    }
    Ok(())
}

/// What it costs to start a program that maps libssl, while every process is watched.
pub(crate) fn start(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    let started = || -> anyhow::Result<f64> {
        let mut times = Times::default();
        for _ in 0..40 {
            let begun = Instant::now();
            let output = pinned(TARGET, "openssl").arg("version").output()?;
            ensure!(output.status.success(), "openssl version fails");
            times.0.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times.median())
    };
    let (mut plain, mut watched) = (Times::default(), Times::default());
    for _ in 0..effort.rounds {
        plain.0.push(started()?);
        let agent = Agent::watch(folder, &["--all"])?;
        watched.0.push(started()?);
        drop(agent);
    }
    report.ratio(
        "start of a program that maps libssl, --all / no agent",
        &watched,
        &plain,
        Some(1.05),
    );
    Ok(())
}

/// The parsers' own benchmark, which prints its ratios.
pub(crate) fn wire(report: &mut Report) -> anyhow::Result<()> {
    let output = Command::new("cargo")
        .args([
            "bench",
            "--quiet",
            "--package",
            "observer-wire",
            "--bench",
            "ratios",
            "--",
            "--json",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    let result: Value = serde_json::from_str(line.context("the benchmark prints nothing")?)?;
    for ratio in result["ratios"].as_array().context("no ratios")? {
        let name = ratio["name"].as_str().unwrap_or_default();
        let value = ratio["ratio"].as_f64().unwrap_or(f64::NAN);
        report.figure(
            &format!("parsers: {name}"),
            value,
            "x",
            ratio["goal"].as_f64(),
        );
    }
    Ok(())
}
