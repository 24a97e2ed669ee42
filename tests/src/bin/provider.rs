//! The local provider as a program, for demonstrations and benchmarks.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use observer_e2e::provider::Provider;

/// A local HTTPS server that answers as LLM providers do
#[derive(Parser)]
struct Options {
    /// Folder for ca.pem
    folder: PathBuf,
    /// Where to write the URL once the server listens
    #[arg(long)]
    url_file: Option<PathBuf>,
    /// Append the truth about each exchange to this file
    #[arg(long)]
    truth: Option<PathBuf>,
    /// What answers and cuts follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let provider = Provider::start(&options.folder, options.seed, options.truth.as_deref())?;
    println!("{}", provider.url());
    if let Some(path) = options.url_file {
        // Whole or not at all: somebody waits for the file.
        let draft = path.with_extension("part");
        fs::write(&draft, provider.url())
            .and_then(|()| fs::rename(&draft, &path))
            .context("cannot write the URL")?;
    }
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
