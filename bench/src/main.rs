//! Measures the agent and its peers in one run: modes take turns, for each the smallest median counts,
//! and what is reported are ratios. Runs as root on two CPUs: what is watched on one, the rest on the
//! other.

#![forbid(unsafe_code)]

mod examine;
mod fleet;
mod load;
mod process;
mod python;
mod report;
mod system;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use report::Report;
use serde_json::json;

/// Measures observer and its peers
#[derive(Parser)]
struct Cli {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Only this experiment (can be repeated)
    #[arg(long, value_enum)]
    only: Vec<Experiment>,
    /// Where the results go [default: bench/results.json beside the programs' folder]
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Experiment {
    /// A write and a read of OpenSSL: what a hit costs
    Pair,
    /// What the agent costs for an event, and idle
    Agent,
    /// What is lost flat out
    Loss,
    /// How long attaching and detaching take
    Attach,
    /// What processes pay that are not watched
    Uninvolved,
    /// What it costs to look through a large program
    Examine,
    /// What the agent holds in memory
    Memory,
    /// A real client, against other tools
    Python,
    /// The parsers against serde_json
    Wire,
    /// A node of a fleet: a thousand calls a second, to Prometheus and a Collector
    Fleet,
}

impl Experiment {
    fn name(&self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// How much is measured.
struct Effort {
    rounds: usize,
    /// Of a round with the load generator.
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let effort = if cli.quick {
        Effort {
            rounds: 3,
            seconds: 0.2,
        }
    } else {
        Effort {
            rounds: 7,
            seconds: 0.5,
        }
    };
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let experiments: Vec<Experiment> = Experiment::value_variants()
        .iter()
        .copied()
        .filter(|experiment| cli.only.is_empty() || cli.only.contains(experiment))
        .collect();
    report::head();
    for experiment in &experiments {
        let result = match experiment {
            Experiment::Pair => load::pair(&mut report, &effort, folder.path()),
            Experiment::Agent => load::agent(&mut report, &effort, folder.path()),
            Experiment::Loss => load::loss(&mut report, &effort, folder.path()),
            Experiment::Attach => system::attach(&mut report, &effort, folder.path()),
            Experiment::Uninvolved => load::uninvolved(&mut report, &effort, folder.path())
                .and_then(|()| system::start(&mut report, &effort, folder.path()))
                .and_then(|()| system::system_calls(&mut report, &effort, folder.path())),
            Experiment::Examine => examine::run(&mut report, &effort),
            Experiment::Memory => load::memory(&mut report, folder.path()),
            Experiment::Python => python::run(&mut report, &effort, folder.path()),
            Experiment::Wire => system::wire(&mut report),
            Experiment::Fleet => fleet::run(&mut report, &effort, folder.path()),
        };
        // The others can still be measured.
        if let Err(error) = result {
            report.absent(&experiment.name(), &format!("{error:#}"));
        }
    }
    let output = match cli.output {
        Some(path) => path,
        None => {
            let folder = std::env::current_exe()?
                .ancestors()
                .nth(2)
                .context("no target folder")?
                .join("bench");
            std::fs::create_dir_all(&folder)?;
            folder.join("results.json")
        }
    };
    let run = json!({
        "experiments": experiments.iter().map(Experiment::name).collect::<Vec<_>>(),
        "rounds": effort.rounds,
        "seconds": effort.seconds,
        "python": python::PACKAGES,
    });
    report.write(&output, &run)?;
    println!("written to {}", output.display());
    Ok(())
}
