//! Experiments with the load generator: OpenSSL without a network.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use observer::attach::{
    self,
    bpf::{self, Multi},
    examine::examine_file,
};
use serde_json::Value;

use crate::{
    Effort,
    process::{Agent, Bpftrace, Dialogue, OTHERS, TARGET, program, rss_kib},
    report::{Report, Times},
};

/// The library that is driven.
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// The ring buffer's usual size, in KiB.
const RING_KIB: u64 = 16 * 1024;

pub(crate) fn generator(cpu: u32, options: &[&str]) -> anyhow::Result<Dialogue> {
    let mut command = Command::new(program("observer-tls-load")?);
    command
        .args(["--wait-for-stdin", "--cpu", &cpu.to_string()])
        .args(options);
    Dialogue::start(command)
}

/// What stands while a round is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Nothing,
    /// Empty programs at the functions' entries, as tools have them that attach by symbol.
    EmptyAtSymbols,
    /// Empty programs at the places that observer chooses.
    EmptyAtSites,
    Observer,
    BpftraceEmpty,
    BpftraceCapture,
}

const MODES: [Mode; 6] = [
    Mode::Nothing,
    Mode::EmptyAtSymbols,
    Mode::EmptyAtSites,
    Mode::Observer,
    Mode::BpftraceEmpty,
    Mode::BpftraceCapture,
];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::EmptyAtSymbols => "empty probes at the symbols",
            Self::EmptyAtSites => "empty probes at the same sites",
            Self::Observer => "full capture",
            Self::BpftraceEmpty => "bpftrace, empty",
            Self::BpftraceCapture => "bpftrace, printing 200 bytes",
        }
    }
}

/// What is held while a mode stands.
#[expect(dead_code, reason = "some are held until they are dropped")]
enum Standing {
    Agent(Agent),
    Bpftrace(Bpftrace),
    Links(Vec<OwnedFd>),
}

/// `SSL_write_ex` and `SSL_read_ex` of one event.
pub(crate) fn pair(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    for (bytes, to_symbols, to_sites) in [(256, 0.35, 1.3), (16_384, 0.5, 1.2)] {
        let seconds = effort.seconds.to_string();
        let rounds = effort.rounds * MODES.len();
        let mut target = generator(
            TARGET,
            &[
                "--bytes",
                &bytes.to_string(),
                "--seconds",
                &seconds,
                "--rounds",
                &rounds.to_string(),
            ],
        )?;
        let mut absent = BTreeMap::new();
        let mut lost = 0;
        target.expect("round")?;
        for _ in 0..effort.rounds {
            for mode in MODES {
                let standing = match stand(mode, target.pid(), folder) {
                    Ok(standing) => standing,
                    Err(error) => {
                        absent.insert(mode, format!("{error:#}"));
                        None
                    }
                };
                target.go_on()?;
                // `round`, or `done` after the last.
                target.line()?;
                if let Some(Standing::Agent(agent)) = standing {
                    lost += agent.stop()?.captured()?.1;
                }
            }
        }
        target.go_on()?;
        let result = target.json()?;
        let mut times = BTreeMap::new();
        for (place, mode) in MODES.into_iter().enumerate() {
            let name = format!("{bytes} B pair, {}", mode.name());
            if let Some(why) = absent.get(&mode) {
                report.absent(&name, why);
                continue;
            }
            let of_mode = medians(&result, place, MODES.len());
            report.figure_of(&name, of_mode.best(), "ns", None, &[&of_mode]);
            times.insert(mode, of_mode);
        }
        let Some(ours) = times.get(&Mode::Observer) else {
            continue;
        };
        for (mode, goal) in [
            (Mode::Nothing, None),
            (Mode::EmptyAtSymbols, Some(to_symbols)),
            (Mode::EmptyAtSites, Some(to_sites)),
            (Mode::BpftraceEmpty, None),
            (Mode::BpftraceCapture, None),
        ] {
            if let Some(under) = times.get(&mode) {
                let name = format!("{bytes} B pair: full capture / {}", mode.name());
                report.ratio(&name, ours, under, goal);
            }
        }
        // What is not captured costs nothing.
        report.figure(
            &format!("{bytes} B pair: lost while that was measured"),
            lost as f64,
            "records",
            Some(0.0),
        );
    }
    Ok(())
}

/// The medians of every `step`th round of the load generator, from `first` on.
fn medians(result: &Value, first: usize, step: usize) -> Times {
    let rounds = result["rounds"].as_array().into_iter().flatten();
    let medians = rounds
        .skip(first)
        .step_by(step)
        .filter_map(|round| round["ns_per_pair_median"].as_f64());
    Times(medians.collect())
}

fn stand(mode: Mode, pid: u32, folder: &Path) -> anyhow::Result<Option<Standing>> {
    let functions = |body: &str, at_return: &str| {
        format!(
            "uprobe:{LIBSSL}:SSL_write_ex /pid == {pid}/ {{ {body} }} uprobe:{LIBSSL}:SSL_read_ex /pid == {pid}/ {{ {at_return} }} uretprobe:{LIBSSL}:SSL_read_ex /pid == {pid}/ {{ {body} }}"
        )
    };
    Ok(Some(match mode {
        Mode::Nothing => return Ok(None),
        Mode::EmptyAtSymbols => Standing::Links(symbols()?),
        Mode::EmptyAtSites => Standing::Links(vec![sites()?]),
        Mode::Observer => Standing::Agent(Agent::watch(
            folder,
            &["--pid", &pid.to_string(), "--all-hosts"],
        )?),
        Mode::BpftraceEmpty => Standing::Bpftrace(Bpftrace::start(&functions("", ""), folder)?),
        Mode::BpftraceCapture => {
            let script = format!(
                "uprobe:{LIBSSL}:SSL_write_ex /pid == {pid}/ {{ printf(\"%r\\n\", buf(arg1, 200)); }} uprobe:{LIBSSL}:SSL_read_ex /pid == {pid}/ {{ @[tid] = arg1; }} uretprobe:{LIBSSL}:SSL_read_ex /pid == {pid}/ {{ printf(\"%r\\n\", buf(@[tid], 200)); }}"
            );
            Standing::Bpftrace(Bpftrace::start(&script, folder)?)
        }
    }))
}

/// The probe of a function that `observer check` plans.
fn probes() -> anyhow::Result<Vec<attach::tls::Probe>> {
    let examination = examine_file(&File::open(LIBSSL)?).map_err(anyhow::Error::msg)?;
    let located = examination.found.into_iter().next().context("no library")?;
    Ok(located.found.probes)
}

fn link(attach_type: u32, offsets: &[u64], at_return: bool) -> anyhow::Result<OwnedFd> {
    let path = CString::new(LIBSSL)?;
    Ok(bpf::link_multi(
        bpf::load_nothing(attach_type)?.as_fd(),
        &Multi {
            attach_type,
            path: &path,
            offsets,
            counters: &[],
            cookies: &vec![0; offsets.len()],
            at_return,
            pid: 0,
        },
    )?)
}

/// Entries of `SSL_write_ex` and `SSL_read_ex`, and the return of the latter.
fn symbols() -> anyhow::Result<Vec<OwnedFd>> {
    let elf = attach::elf::Elf::read(&File::open(LIBSSL)?, |name| name.starts_with("SSL_"))?;
    let offset = |name| {
        let address = elf.function(name)?;
        elf.file_offset(address)
    };
    let write = offset("SSL_write_ex").context("no SSL_write_ex")?;
    let read = offset("SSL_read_ex").context("no SSL_read_ex")?;
    Ok(vec![
        link(bpf::UPROBE_MULTI, &[write, read], false)?,
        link(bpf::UPROBE_MULTI, &[read], true)?,
    ])
}

/// The places that observer probes, entry and return, as it does.
fn sites() -> anyhow::Result<OwnedFd> {
    let offsets: Vec<u64> = probes()?
        .iter()
        .filter(|probe| probe.functions.iter().any(|name| name.ends_with("_ex")))
        .map(|probe| probe.offset)
        .collect();
    link(bpf::UPROBE_SESSION, &offsets, false)
}

/// CPU time of the agent for an event, and without any.
pub(crate) fn agent(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    for (name, rate) in [("flat out", None), ("at 10,000 events/s", Some("10000"))] {
        let seconds = (effort.seconds * 4.0).to_string();
        let mut options = vec!["--seconds", seconds.as_str()];
        options.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
        let mut target = generator(TARGET, &options)?;
        target.expect("round")?;
        // The server's end is no LLM's client and is left out after its first bytes.
        let agent = Agent::watch(folder, &["--pid", &target.pid().to_string()])?;
        let before = agent.cpu_s()?;
        target.go_on()?;
        target.expect("done")?;
        thread::sleep(Duration::from_millis(50));
        let spent = agent.cpu_s()? - before;
        target.go_on()?;
        target.json()?;
        let said = agent.stop()?;
        let records = said.number("records=").context("no count")?;
        let wakeups = said.number("wakeups=").context("no count")?;
        report.figure(
            &format!("agent CPU, {name}, an event captured and parsed"),
            spent * 1e6 / records as f64,
            "us",
            Some(1.0),
        );
        report.figure(
            &format!("wakeups by programs, {name}, a second"),
            wakeups as f64 / (effort.seconds * 4.0),
            "/s",
            None,
        );
    }
    let target = generator(TARGET, &["--requests", "1"])?;
    target.expect("round")?;
    let agent = Agent::watch(folder, &["--pid", &target.pid().to_string()])?;
    thread::sleep(Duration::from_secs(1));
    let before = agent.cpu_s()?;
    let seconds = if effort.rounds > 3 { 20 } else { 5 };
    thread::sleep(Duration::from_secs(seconds));
    let share = (agent.cpu_s()? - before) / seconds as f64;
    report.figure(
        "agent CPU, idle, share of a core",
        share * 100.0,
        "%",
        Some(0.2),
    );
    Ok(())
}

/// Records that are lost with everything on, as fast as one CPU can produce them.
pub(crate) fn loss(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    for bytes in [256, 16_384] {
        let seconds = effort.seconds * 6.0;
        let mut target = generator(
            TARGET,
            &[
                "--bytes",
                &bytes.to_string(),
                "--seconds",
                &seconds.to_string(),
            ],
        )?;
        target.expect("round")?;
        let agent = Agent::watch(folder, &["--pid", &target.pid().to_string(), "--all-hosts"])?;
        target.go_on()?;
        target.expect("done")?;
        target.go_on()?;
        let result = target.json()?;
        let said = agent.stop()?;
        let seconds = result["rounds"][0]["seconds"].as_f64().context("no time")?;
        let number = |field: &str| result[field].as_f64().unwrap_or(0.0);
        report.figure(
            &format!("{bytes} B flat out: writes and reads"),
            (number("writes") + number("reads")) / seconds / 1e6,
            "M/s",
            None,
        );
        report.figure(
            &format!("{bytes} B flat out: plaintext, over TLS"),
            number("bytes_written") / seconds / 1e9,
            "GB/s",
            None,
        );
        report.figure(
            &format!("{bytes} B flat out: plaintext, captured at both ends"),
            number("bytes") / seconds / 1e9,
            "GB/s",
            None,
        );
        let (captured, lost) = said.captured()?;
        report.figure(
            &format!("{bytes} B flat out: lost"),
            lost as f64,
            "records",
            Some(0.0),
        );
        // By what the generator knows, and not the agent.
        report.figure(
            &format!("{bytes} B flat out: plaintext not captured, or more than there was"),
            (number("bytes") - captured as f64).abs(),
            "B",
            Some(0.0),
        );
    }
    Ok(())
}

/// A process that is not watched while another one is.
pub(crate) fn uninvolved(
    report: &mut Report,
    effort: &Effort,
    folder: &Path,
) -> anyhow::Result<()> {
    let seconds = effort.seconds.to_string();
    let rounds = effort.rounds * 3;
    let mut target = generator(
        TARGET,
        &["--seconds", &seconds, "--rounds", &rounds.to_string()],
    )?;
    let watched = generator(OTHERS, &["--requests", "1"])?;
    target.expect("round")?;
    watched.expect("round")?;
    for _ in 0..effort.rounds {
        for mode in 0..3 {
            let agent = match mode {
                0 => None,
                1 => Some(Agent::watch(
                    folder,
                    &["--pid", &watched.pid().to_string()],
                )?),
                _ => Some(Agent::watch(folder, &["--all"])?),
            };
            target.go_on()?;
            target.line()?;
            drop(agent);
        }
    }
    target.go_on()?;
    let result = target.json()?;
    let times = |mode: usize| medians(&result, mode, 3);
    report.ratio(
        "a process that is not watched, another one is / no agent",
        &times(1),
        &times(0),
        Some(1.02),
    );
    report.ratio(
        "the same process watched by --all / no agent",
        &times(2),
        &times(0),
        None,
    );
    Ok(())
}

/// What the agent holds.
pub(crate) fn memory(report: &mut Report, folder: &Path) -> anyhow::Result<()> {
    let held = |options: &[&str]| -> anyhow::Result<(f64, f64)> {
        let mut target = generator(TARGET, options)?;
        target.expect("round")?;
        let agent = Agent::watch(folder, &["--pid", &target.pid().to_string()])?;
        thread::sleep(Duration::from_millis(300));
        let before = rss_kib(agent.pid())?;
        target.go_on()?;
        target.expect("done")?;
        thread::sleep(Duration::from_millis(500));
        let after = rss_kib(agent.pid())?;
        Ok((before as f64, after as f64))
    };
    let (before, after) = held(&[
        "--requests",
        "10000",
        "--connections",
        "10000",
        "--events",
        "3",
    ])?;
    report.figure(
        "RSS idle, the ring buffer included, which is mapped twice",
        before / 1024.0,
        "MiB",
        Some(40.0 + RING_KIB as f64 / 1024.0),
    );
    // Both ends of each connection are in the process, and both are followed.
    report.figure(
        "RSS for 10,000 idle connections",
        (after - before) / 1024.0 / 2.0,
        "MiB",
        Some(20.0),
    );
    let (before, after) = held(&[
        "--requests",
        "1000",
        "--connections",
        "1000",
        "--request-bytes",
        "1048576",
        "--unfinished",
    ])?;
    report.figure(
        "RSS for each of 1,000 requests of 1 MiB under way",
        (after - before) / 1000.0,
        "KiB",
        Some(64.0),
    );
    Ok(())
}
