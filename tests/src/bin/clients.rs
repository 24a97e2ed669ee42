//! Installs the Python SDKs if that has not been done, and prints their interpreter.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use observer_e2e::{clients, environments};

#[derive(Parser)]
struct Options {
    /// Make everything that tests ask for instead, and write where it is, line by line, to this file
    #[arg(long, value_name = "FILE")]
    all: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let Some(list) = Options::parse().all else {
        println!("{}", clients::python()?.display());
        return Ok(());
    };
    let made = environments::make()?;
    let lines: String = made
        .iter()
        .map(|path| format!("{}\n", path.display()))
        .collect();
    fs::write(&list, lines).with_context(|| list.display().to_string())
}
