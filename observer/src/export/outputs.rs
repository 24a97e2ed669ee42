//! The options that say which exporters there are.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{Exporter, Opened, infinium, jsonl, otlp, prometheus, terminal};

/// The exporters beside standard output or the file, by name: one line each. An exporter that is not asked
/// for is `None`.
const SECONDARY: &[(&str, Open)] = &[
    ("infinium", |outputs| outputs.infinium.open()),
    ("prometheus", |outputs| {
        prometheus::open(&outputs.prometheus)
    }),
    ("otlp", |outputs| otlp::open(&outputs.otlp)),
];

type Open = fn(&Outputs) -> anyhow::Result<Option<Box<dyn Exporter>>>;

/// Where the records go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Export")]
pub struct Outputs {
    /// Form of the output [default: pretty on a terminal, else jsonl]
    #[arg(long, env = "OBSERVER_FORMAT")]
    pub format: Option<Format>,
    /// Append the records to a file instead of writing them to standard output
    #[arg(long, value_name = "FILE", env = "OBSERVER_OUTPUT")]
    pub output: Option<PathBuf>,
    /// Infinium's API.
    #[command(flatten)]
    pub infinium: infinium::Options,
    /// Prometheus.
    #[command(flatten)]
    pub prometheus: prometheus::Options,
    /// OTLP.
    #[command(flatten)]
    pub otlp: otlp::Options,
}

/// The forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line: the default when the output is no terminal
    Jsonl,
    /// Nothing: for when the records go to other exporters only
    None,
    /// One line a call for people: the default on a terminal
    Pretty,
}

impl Outputs {
    /// Opens every exporter that is asked for.
    ///
    /// # Errors
    ///
    /// A file cannot be opened for writing, or the options of an exporter are of no use.
    pub fn open(&self) -> anyhow::Result<Vec<Opened>> {
        let mut opened = Vec::new();
        opened.extend(self.primary()?);
        for (_, open) in SECONDARY {
            opened.extend(open(self)?.map(Opened::secondary));
        }
        Ok(opened)
    }

    /// Standard output or the file.
    fn primary(&self) -> anyhow::Result<Option<Opened>> {
        let (writer, terminal): (Box<dyn Write + Send>, bool) = match &self.output {
            _ if self.format == Some(Format::None) => return Ok(None),
            Some(path) => (Box::new(create(path)?), false),
            None => (Box::new(anstream::stdout()), io::stdout().is_terminal()),
        };
        let exporter: Box<dyn Exporter> = match self.format {
            Some(Format::Pretty) => Box::new(terminal::Pretty::new(writer)),
            None if terminal => Box::new(terminal::Pretty::new(writer)),
            _ => Box::new(jsonl::JsonLines::new(writer)),
        };
        let place = self
            .output
            .as_ref()
            .map_or("standard output".to_owned(), |path| {
                path.display().to_string()
            });
        Ok(Some(Opened::primary(exporter, place)))
    }
}

/// Previews may be in it, so nobody else may read it.
fn create(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| anyhow::anyhow!("cannot open {} for writing: {error}", path.display()))
}
