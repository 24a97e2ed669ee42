//! Where records go. Exporters run on a thread of their own behind a bounded queue, so that a slow
//! disk or terminal never holds up the capture; what the queue cannot take is counted.

pub mod jsonl;
pub mod otlp;
pub mod terminal;

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use clap::ValueEnum;

use crate::{
    capture::loss::Losses,
    trace::{CallRecord, CallStarted, OtherRequest, TraceRecord},
};

/// Records that may wait for the exporter.
const QUEUE: usize = 16_384;

/// How long records may lie in a buffer when no others follow.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// Puts records somewhere.
pub trait Exporter: Send {
    /// A call ended.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    fn call(&mut self, call: &CallRecord) -> io::Result<()>;

    /// A trace ended.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    fn trace(&mut self, trace: &TraceRecord) -> io::Result<()>;

    /// A request of a call has been written. May come twice of a call: once more when it was read as a whole.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn started(&mut self, _call: &CallStarted) -> io::Result<()> {
        Ok(())
    }

    /// What had been announced as a call was none, or is recorded elsewhere.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn dismissed(&mut self, _span_id: &str) -> io::Result<()> {
        Ok(())
    }

    /// A request to a host of LLM providers was no call.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn other(&mut self, _request: &OtherRequest) -> io::Result<()> {
        Ok(())
    }

    /// How the agent does; comes every second where an exporter is live ([`is_live`](Self::is_live)), and at
    /// the end.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn health(&mut self, _health: &Health) -> io::Result<()> {
        Ok(())
    }

    /// Whether [`health`](Self::health) and [`started`](Self::started) are of use.
    fn is_live(&self) -> bool {
        false
    }

    /// How many requests to hosts of LLM providers were no calls; comes last, if there were any.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn others(&mut self, _count: u64) -> io::Result<()> {
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn flush(&mut self) -> io::Result<()>;

    /// Nothing more will come.
    ///
    /// # Errors
    ///
    /// The end cannot be written.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// The forms of output: one file each in this folder, and one arm in [`open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line: the default when the output is no terminal.
    Jsonl,
    /// One line a call for people: the default on a terminal.
    Pretty,
}

/// A record on its way.
#[derive(Debug)]
pub enum Record {
    /// A call.
    Call(Box<CallRecord>),
    /// [`Exporter::others`].
    Others(u64),
    /// [`Exporter::dismissed`].
    Dismissed(String),
    /// [`Exporter::health`].
    Health(Box<Health>),
    /// [`Exporter::other`].
    Other(Box<OtherRequest>),
    /// [`Exporter::started`].
    Started(Box<CallStarted>),
    /// A trace.
    Trace(Box<TraceRecord>),
}

/// How the agent does. All counts are since it was started.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What was lost in the kernel, if that is known.
    pub losses: Option<Losses>,
    /// Records that the kernel's programs have handed over.
    pub events: u64,
    /// Plaintext bytes that were looked at.
    pub bytes: u64,
    /// Processes that have been seen to use a connection, and live.
    pub processes: usize,
    /// Connections that are followed.
    pub connections: usize,
    /// Traces that are open.
    pub traces: usize,
    /// Records that wait for each exporter, and those that it could not take in time, by its name.
    pub queues: Vec<(&'static str, usize, u64)>,
}

/// Opens the exporter for a format and a file, or standard output.
///
/// # Errors
///
/// The file cannot be opened for writing.
pub fn open(format: Option<Format>, output: Option<&Path>) -> anyhow::Result<Box<dyn Exporter>> {
    let (writer, terminal): (Box<dyn Write + Send>, bool) = match output {
        Some(path) => (Box::new(create(path)?), false),
        None => (Box::new(anstream::stdout()), io::stdout().is_terminal()),
    };
    let format = format.unwrap_or(if terminal {
        Format::Pretty
    } else {
        Format::Jsonl
    });
    Ok(match format {
        Format::Jsonl => Box::new(jsonl::JsonLines::new(writer)),
        Format::Pretty => Box::new(terminal::Pretty::new(writer)),
    })
}

/// The thread that writes the records.
pub struct Queue {
    sender: Option<SyncSender<Record>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    failed: Arc<AtomicBool>,
    dropped: AtomicU64,
    output: Option<PathBuf>,
}

impl Queue {
    /// Starts the thread. `output` is for messages.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn start(mut exporter: Box<dyn Exporter>, output: Option<&Path>) -> io::Result<Self> {
        let (sender, records) = mpsc::sync_channel(QUEUE);
        let failed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&failed);
        let thread = thread::Builder::new()
            .name("export".to_owned())
            .spawn(move || {
                let result = write_all(exporter.as_mut(), &records);
                flag.store(result.is_err(), Ordering::Release);
                result
            })?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            failed,
            dropped: AtomicU64::new(0),
            output: output.map(Path::to_owned),
        })
    }

    /// Hands a record over without waiting.
    pub fn send(&self, record: Record) {
        match self.sender.as_ref().map(|sender| sender.try_send(record)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Hands a record over, and waits for room. Returns whether there will be any.
    pub fn send_patiently(&self, record: Record) -> bool {
        self.sender
            .as_ref()
            .is_some_and(|sender| sender.send(record).is_ok())
    }

    /// Whether writing has failed; [`finish`](Self::finish) says why.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Records that the queue could not take.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the thread.
    ///
    /// # Errors
    ///
    /// A record could not be written. A closed pipe is no error.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        drop(self.sender.take());
        let result = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the export thread panicked")),
            None => Ok(()),
        };
        match result {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let place = self
                    .output
                    .as_ref()
                    .map_or("standard output".to_owned(), |path| {
                        path.display().to_string()
                    });
                Err(anyhow::anyhow!("cannot write to {place}: {error}"))
            }
            _ => Ok(()),
        }
    }
}

fn write_all(exporter: &mut dyn Exporter, records: &mpsc::Receiver<Record>) -> io::Result<()> {
    let mut unflushed = false;
    loop {
        let next = if unflushed {
            records.recv_timeout(FLUSH_AFTER)
        } else {
            // Nothing to do until one comes: an idle agent sleeps.
            records.recv().map_err(Into::into)
        };
        let record = match next {
            Ok(record) => record,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                exporter.flush()?;
                unflushed = false;
                continue;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return exporter.finish(),
        };
        match record {
            Record::Call(call) => exporter.call(&call)?,
            Record::Dismissed(span_id) => exporter.dismissed(&span_id)?,
            Record::Health(health) => exporter.health(&health)?,
            Record::Other(request) => exporter.other(&request)?,
            Record::Started(call) => exporter.started(&call)?,
            Record::Others(count) => exporter.others(count)?,
            Record::Trace(trace) => exporter.trace(&trace)?,
        }
        unflushed = true;
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
