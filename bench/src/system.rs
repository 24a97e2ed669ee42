//! Attaching, detaching, and the parsers.

use std::{
    io::{Read as _, Write as _, pipe},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    Effort,
    load::generator,
    process::{Agent, Dialogue, OTHERS, TARGET, pinned, program},
    report::{Report, Times},
};

/// Writes and reads of a round.
const CALLS: u32 = 50_000;

/// What system calls cost a process that is not watched, while another one is: one byte through a pipe,
/// and a call that does nothing.
pub(crate) fn system_calls(
    report: &mut Report,
    effort: &Effort,
    folder: &Path,
) -> anyhow::Result<()> {
    let watched = generator(OTHERS, &["--requests", "1"])?;
    watched.expect("round")?;
    let pid = watched.pid().to_string();
    let (mut read, mut write) = pipe()?;
    let mut pairs: [Times; 3] = Default::default();
    let mut empty: [Times; 3] = Default::default();
    for _ in 0..effort.rounds * 3 {
        for mode in 0..3 {
            let agent = match mode {
                0 => None,
                1 => Some(Agent::watch(folder, &["--pid", &pid, "--no-plaintext"])?),
                _ => Some(Agent::watch(folder, &["--pid", &pid])?),
            };
            let mut byte = [0];
            let begun = Instant::now();
            for _ in 0..CALLS {
                write.write_all(&byte)?;
                read.read_exact(&mut byte)?;
            }
            pairs[mode].0.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(rustix::process::getppid());
            }
            empty[mode].0.push(begun.elapsed().as_secs_f64());
            drop(agent);
        }
    }
    for (what, [none, without, with]) in [
        ("write and read of a byte", pairs),
        ("empty system call", empty),
    ] {
        report.ratio(
            &format!("{what}, not watched, plain HTTP off / no agent"),
            &without,
            &none,
            Some(1.02),
        );
        let name = format!("{what}, not watched, plain HTTP on / no agent");
        report.ratio(&name, &with, &none, None);
    }
    Ok(())
}

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
