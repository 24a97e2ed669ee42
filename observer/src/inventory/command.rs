//! `observer inventory`: from files of records, from a running agent, or by watching for a while.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use ratatui::crossterm::terminal;
use rustls::crypto::ring;
use tokio::runtime;

use super::{Inventory, Listing, table};
use crate::records::{self, Record, Tally};

/// Largest inventory that is taken from an agent.
const ANSWER_BYTES: usize = 64 << 20;

/// How wide a terminal is of which nothing is known.
const COLUMNS: usize = 80;

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the inventory comes from, and what becomes of it.
#[derive(Debug, Args)]
pub struct Options {
    /// Files of records, as `observer watch --output` makes them (JSON lines); `-` for standard input
    #[arg(value_name = "FILE", group = "source")]
    files: Vec<PathBuf>,
    /// Ask a running agent, which was started with `--prometheus ADDR:PORT`
    #[arg(long, value_name = "ADDR:PORT", group = "source")]
    connect: Option<String>,
    #[command(flatten)]
    live: Live,
    /// Form of the inventory
    #[arg(long, default_value = "table")]
    format: table::Format,
}

/// What is watched where there are no records yet.
#[derive(Clone, Debug, Args)]
pub struct Live {
    /// Watch every process of the machine, until Ctrl-C
    #[arg(long, group = "source")]
    pub all: bool,
    /// Watch this process and its children, until Ctrl-C (can be repeated)
    #[arg(long, value_name = "PID", group = "source")]
    pub pid: Vec<u32>,
    /// Watch for so many seconds only
    #[arg(long = "for", value_name = "SECONDS", requires = "source", conflicts_with_all = ["files", "connect"])]
    pub seconds: Option<u32>,
    /// With --all, also look into connections without TLS
    #[arg(long, conflicts_with_all = ["files", "connect"])]
    pub plaintext: bool,
    /// Say what calls cost by this table of prices in LiteLLM's format
    #[arg(long, value_name = "FILE", conflicts_with_all = ["files", "connect"])]
    pub prices: Option<PathBuf>,
}

/// Makes the inventory and prints it; `watch` makes one of what it sees. Returns the status to exit with.
///
/// # Errors
///
/// There is no inventory, or it cannot be written.
pub fn run(
    options: &Options,
    watch: impl FnOnce(&Live) -> anyhow::Result<Listing>,
) -> anyhow::Result<u8> {
    let (listing, status) = match options {
        Options {
            connect: Some(address),
            ..
        } => (ask(address)?, 0),
        Options { files, live, .. } if files.is_empty() => {
            if !live.all && live.pid.is_empty() {
                bail!("of what? Name files of records, --connect, --all or --pid; see --help");
            }
            (watch(live)?, 0)
        }
        Options { files, .. } => read(files),
    };
    let stdout = io::stdout();
    let screen = stdout.is_terminal().then(|| match terminal::size() {
        Ok((columns @ 1.., _)) => columns.into(),
        // It does not say.
        _ => COLUMNS,
    });
    let mut to = io::BufWriter::new(stdout.lock());
    let written = table::write(&listing, options.format, screen, &mut to).and_then(|()| to.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(status),
    }
}

/// Reads files, as many as can be read.
fn read(files: &[PathBuf]) -> (Listing, u8) {
    let mut inventory = Inventory::new(None);
    let mut status = 0;
    for file in files {
        match read_one(file, &mut inventory) {
            Ok(Tally { bad: 0, .. }) => {}
            Ok(Tally { bad, .. }) => anstream::eprintln!(
                "observer: {}: {bad} of the lines are no records and were left out",
                file.display()
            ),
            Err(error) => {
                anstream::eprintln!("observer: cannot read {}: {error}", file.display());
                status = 1;
            }
        }
    }
    (inventory.listing(), status)
}

fn read_one(file: &Path, inventory: &mut Inventory) -> io::Result<Tally> {
    let lines: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(1 << 16, File::open(file)?))
    };
    records::read(lines, |record| {
        if let Record::Call(call) = record {
            inventory.call(&call);
        }
    })
}

/// Asks a running agent.
fn ask(address: &str) -> anyhow::Result<Listing> {
    let base = if address.contains("://") {
        address.trim_end_matches('/').to_owned()
    } else {
        format!("http://{address}")
    };
    let url = format!("{base}/inventory");
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a connection")?;
    let answer = runtime
        .block_on(fetch(&url))
        .with_context(|| format!("no inventory from {url}"))?;
    serde_json::from_slice(&answer).with_context(|| format!("no inventory at {url}"))
}

async fn fetch(url: &str) -> anyhow::Result<Vec<u8>> {
    // Another one may have been installed already.
    let _ = ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if answer.len() + chunk.len() > ANSWER_BYTES {
            bail!("the answer is larger than {ANSWER_BYTES} bytes");
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}
