//! `cargo xtask …`: what cargo cannot do for this workspace.

#![forbid(unsafe_code)]

mod chart;
mod coverage;
mod deb;
mod demo;
mod image;
mod manifests;
mod run;
mod test;
mod toolchain;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Tasks of the observer workspace
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building BPF programs needs
    Setup,
    /// Set up and build target/release/observer
    Build,
    /// Set up, build, and watch a real SDK client live
    Demo,
    /// Set up and run every test, the end-to-end ones on this kernel too (as root)
    Test {
        /// Instead, run the agent's image by its chart in a Kubernetes cluster that is started for it (as root); FILTER is
        /// part of the name of a step
        #[arg(long)]
        kubernetes: bool,
        /// Passed to the end-to-end tests' runner, such as part of a test's name
        filter: Vec<String>,
    },
    /// Measure the agent and its peers in one run (as root); see bench/README.md
    Bench {
        /// Passed to observer-bench: --quick, --only NAME
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Build the container image: localhost/observer:VERSION, also in target/image/observer.tar
    Image {
        /// Architecture [default: that of this machine]
        #[arg(long)]
        arch: Option<image::Arch>,
        /// What to call it
        #[arg(long, value_name = "NAME")]
        tag: Option<String>,
    },
    /// Build the Debian package, with the service, in target/debian
    Deb {
        /// Architecture [default: that of this machine]
        #[arg(long)]
        arch: Option<image::Arch>,
        /// Also install, remove and purge it on a copy of this system that is thrown away (as root)
        #[arg(long)]
        check: bool,
    },
    /// Write deploy/kubernetes/observer.yaml from the chart
    Manifests {
        /// Write nothing: fail if the file is not the chart's, or the chart not as it should be
        #[arg(long)]
        check: bool,
    },
    /// Check formatting, lints and documentation
    Lint,
    /// Write docs/providers.md from the tables of the formats, docs/configuration.md and docs/observer.toml from the
    /// options
    Docs,
    /// Fuzz every parser for a time (needs a nightly toolchain)
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => toolchain::setup(),
        Task::Build => build(),
        Task::Demo => demo::run(),
        Task::Test {
            kubernetes: false,
            filter,
        } => test::run(&filter),
        Task::Test {
            kubernetes: true,
            filter,
        } => test::kubernetes(&filter),
        Task::Bench { options } => bench(&options),
        Task::Image { arch, tag } => image::run(arch, tag.as_deref()),
        Task::Deb { arch, check } => deb::run(arch, check),
        Task::Manifests { check } => manifests::run(check),
        Task::Lint => test::lint(),
        Task::Docs => docs(),
        Task::Fuzz { seconds } => test::fuzz(seconds),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> anyhow::Result<()> {
    toolchain::setup()?;
    run::cargo(["build", "--release"])?;
    println!("built {}", run::target().join("release/observer").display());
    Ok(())
}

fn docs() -> anyhow::Result<()> {
    for (package, test) in [
        ("observer-wire", "reference"),
        ("observer", "configuration"),
    ] {
        let mut test = run::cargo_command(["test", "--package", package, "--test", test]);
        run::command(test.env("OBSERVER_WRITE_DOCS", "1"))?;
    }
    Ok(())
}

/// Builds what is measured and what measures, and runs it.
fn bench(options: &[String]) -> anyhow::Result<()> {
    toolchain::setup()?;
    run::cargo(["build", "--release"])?;
    let mut programs = run::cargo_command(["build", "--release", "--bins"]);
    run::command(programs.args(["--package", "observer-bench", "--package", "observer-e2e"]))?;
    run::command(
        std::process::Command::new(run::target().join("release/observer-bench")).args(options),
    )
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}
