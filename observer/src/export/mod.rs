//! Where records go. Each exporter runs on a thread of its own behind a bounded queue, so that a slow disk,
//! terminal or server holds up neither the capture nor the other exporters; what a queue cannot take is
//! counted ([`queue`]). Which exporters there are is up to the options ([`outputs`]).

pub mod file;
mod http;
pub mod infinium;
pub mod jsonl;
pub mod otlp;
pub mod outputs;
pub mod prometheus;
pub mod queue;
pub mod terminal;

use std::{any::Any, io, sync::Arc, time::Duration};

use crate::{
    capture::loss::Losses,
    kubernetes,
    trace::{CallRecord, CallStarted, OtherRequest, TraceRecord},
};

pub use outputs::{Format, Outputs};
pub use queue::{Exporters, Opened};

/// How many records, or what was made of them, an exporter has lost.
pub type Losing = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Puts records somewhere. Every method is called by the exporter's own thread; an error ends the exporter, so
/// what may pass, such as a server that does not answer, is for the exporter to bear.
pub trait Exporter: Send {
    /// What messages call it; that of its section in the configuration (`[export.NAME]`) where it has one.
    fn name(&self) -> &'static str;

    /// How long records may lie in a buffer: [`flush`](Self::flush) comes this long after the first of them.
    fn flush_after(&self) -> Duration {
        Duration::from_millis(50)
    }

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

    /// How the agent does; comes every second, and at the end, if the exporter is live
    /// ([`is_live`](Self::is_live)).
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn health(&mut self, _health: &Health) -> io::Result<()> {
        Ok(())
    }

    /// Whether [`health`](Self::health), [`started`](Self::started) and [`dismissed`](Self::dismissed) are of
    /// use: they come to no other exporter. Asked once, at the start.
    fn is_live(&self) -> bool {
        false
    }

    /// From here on nothing is lost for want of time or room: the records are of a file, which waits. Comes before
    /// anything else, if at all.
    fn take_time(&mut self) {}

    /// Counts what it has taken and lost since, from another thread. Asked once, at the start.
    fn losses(&self) -> Option<Losing> {
        None
    }

    /// What an exporter that takes its place has to know, once it has been handed the last record. Comes before
    /// [`finish`](Self::finish).
    fn bequeath(&mut self) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// Takes what its predecessor has left; comes before anything else, if there was one.
    fn inherit(&mut self, _legacy: Box<dyn Any + Send>) {}

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

    /// Writes out what is buffered, and opens anew what it is written to, and what secrets were read from: the user
    /// says that they may be others. Settings are as they were.
    ///
    /// # Errors
    ///
    /// What is buffered cannot be written, or the place is gone.
    fn reopen(&mut self) -> io::Result<()> {
        self.flush()
    }

    /// Nothing more will come. An exporter that is not primary has as long as
    /// [`queue::FINISH`] says, from the moment at which everything else has ended.
    ///
    /// # Errors
    ///
    /// The end cannot be written.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
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
    /// What was there at the start is probed.
    pub ready: bool,
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
    /// What is known of pods, if anybody is asked.
    pub pods: Option<kubernetes::Health>,
}
