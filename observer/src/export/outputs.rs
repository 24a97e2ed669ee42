//! The options that say which exporters there are.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::{Args, ValueEnum};

use super::{
    Exporter, Opened,
    file::{LineFile, Plain, Rotation, Sink, Stdout},
    infinium, jsonl, otlp, prometheus, terminal,
};
use crate::config;

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
    /// Begin another file when this one would be larger, such as 100MiB, and keep the full one as FILE.1
    #[arg(long, value_name = "SIZE", value_parser = size, env = "OBSERVER_OUTPUT_MAX_SIZE")]
    pub output_max_size: Option<u64>,
    /// Full files to keep: FILE.1 is the latest
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        env = "OBSERVER_OUTPUT_MAX_FILES"
    )]
    pub output_max_files: usize,
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

    /// The names of the exporters that there may be beside standard output or the file.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SECONDARY.iter().map(|(name, _)| *name)
    }

    /// The exporter of a name, if it is asked for.
    ///
    /// # Errors
    ///
    /// Its options are of no use.
    pub fn open_one(&self, name: &str) -> anyhow::Result<Option<Box<dyn Exporter>>> {
        match SECONDARY.iter().find(|(known, _)| *known == name) {
            Some((_, open)) => open(self),
            None => Ok(None),
        }
    }

    /// Takes what no option could hold from the configuration file.
    ///
    /// # Errors
    ///
    /// It is not as it has to be.
    pub fn complete(&mut self, file: &config::File) -> anyhow::Result<()> {
        self.infinium.agent = file.tables("export.infinium", "agent")?;
        Ok(())
    }

    /// Standard output or the file.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for writing.
    pub fn primary(&self) -> anyhow::Result<Option<Opened>> {
        let place = self
            .output
            .as_ref()
            .map_or("standard output".to_owned(), |path| {
                path.display().to_string()
            });
        let exporter = self.open_primary()?;
        Ok(exporter.map(|exporter| Opened::primary(exporter, place)))
    }

    fn open_primary(&self) -> anyhow::Result<Option<Box<dyn Exporter>>> {
        let pretty = match self.format {
            Some(Format::None) => return Ok(None),
            Some(format) => format == Format::Pretty,
            None => self.output.is_none() && io::stdout().is_terminal(),
        };
        let writer: Box<dyn Sink> = match &self.output {
            Some(path) => {
                let file = LineFile::open(path, self.rotation())?;
                if pretty && !file.takes_colours() {
                    Box::new(Plain::new(file))
                } else {
                    Box::new(file)
                }
            }
            None => Box::new(Stdout::default()),
        };
        Ok(Some(if pretty {
            Box::new(terminal::Pretty::new(writer))
        } else {
            Box::new(jsonl::JsonLines::new(writer))
        }))
    }

    fn rotation(&self) -> Option<Rotation> {
        self.output_max_size.map(|max_size| Rotation {
            max_size,
            max_files: self.output_max_files,
        })
    }
}

/// A number of bytes with a unit.
fn size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "a size such as 100MiB, with B, kB, MB, GB, KiB, MiB or GiB";
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(EXPECTED.to_owned()),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| EXPECTED.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::Parser;

    use super::*;
    use crate::trace::record::tests::call;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        outputs: Outputs,
    }

    fn written(format: &[&str], path: &Path) -> String {
        let output = format!("--output={}", path.display());
        let arguments = ["observer", &output].into_iter().chain(format.to_vec());
        let outputs = Cli::parse_from(arguments).outputs;
        let mut exporter = outputs.open_primary().unwrap().unwrap();
        exporter.call(&call()).unwrap();
        exporter.finish().unwrap();
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_for_people_has_no_colours() {
        let folder = tempfile::tempdir().unwrap();
        let text = written(&["--format=pretty"], &folder.path().join("pretty"));
        assert!(
            text.starts_with("TIME ") && text.contains(" openai/gpt-4o"),
            "{text:?}"
        );
        assert!(!text.contains('\x1b'), "{text:?}");
        let text = written(&[], &folder.path().join("default"));
        assert!(text.starts_with("{\"type\":\"llm_call\""), "{text}");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("100MiB"), Ok(100 << 20));
        assert_eq!(size("1 kB"), Ok(1_000));
        assert_eq!(size("7"), Ok(7));
        for text in ["", "0", "MiB", "-1", "1.5GB", "1TB", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
