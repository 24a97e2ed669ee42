//! Has the engine take a recording once more: on any machine, with no rights.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use anyhow::Context as _;
use observer_wire::Timestamp;
use tracing::warn;

use crate::{
    agent::Summary,
    capture::loss::Losses,
    engine::{Engine, Settings},
    export::Exporters,
    recording::{Head, Next, Recording},
};

/// A recording that can be replayed.
pub struct Replay {
    recording: Recording<BufReader<Box<dyn Read>>>,
    name: String,
}

impl Replay {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no recording that this observer understands.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let (reader, name): (Box<dyn Read>, _) = if name == "-" {
            (Box::new(io::stdin()), "standard input".to_owned())
        } else {
            let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
            (Box::new(file), name)
        };
        let recording = Recording::open(BufReader::new(reader))
            .with_context(|| format!("cannot replay {name}"))?;
        Ok(Self { recording, name })
    }

    /// What the records depend on beside what was captured.
    pub fn head(&self) -> &Head {
        self.recording.head()
    }

    /// Has an engine take it all and writes the records. A file that is cut is replayed up to there.
    ///
    /// # Errors
    ///
    /// The recording is damaged, and its records up to there are written; or they cannot be written.
    pub fn run(self, settings: Settings, mut exporters: Exporters) -> anyhow::Result<Summary> {
        let Self {
            mut recording,
            name,
        } = self;
        let mut engine = Engine::new(settings);
        let end = feed(&mut recording, &mut engine, &name, &exporters);
        let now = end.as_ref().map_or(recording.latest(), |end| end.0);
        engine.finish(now);
        let mut records = engine.records();
        records.all(|record| exporters.send_patiently(record));
        drop(records);
        let dropped = exporters.finish_patiently()?;
        let (_, losses) =
            end.with_context(|| format!("{name} was replayed up to an entry that cannot be read"))?;
        Ok(Summary {
            seen: engine.seen(),
            losses,
            dropped,
            withheld: 0,
        })
    }
}

/// Hands everything over. Returns when the capture ended, and what was lost if the recording says so.
fn feed(
    recording: &mut Recording<impl Read>,
    engine: &mut Engine,
    name: &str,
    exporters: &Exporters,
) -> anyhow::Result<(Timestamp, Option<Losses>)> {
    loop {
        match recording.next()? {
            Next::Input(input) => {
                // What is of no interest was not captured any further then.
                let _ = engine.take(input);
                if !engine
                    .records()
                    .all(|record| exporters.send_patiently(record))
                {
                    // Nobody reads them any more; the exporters know why.
                    return Ok((recording.latest(), None));
                }
            }
            Next::End { now, losses } => return Ok((now, Some(losses))),
            Next::Cut { at, now } => {
                warn!("{name} is cut at byte {at}, before its end: replayed up to there");
                return Ok((now, None));
            }
        }
    }
}
