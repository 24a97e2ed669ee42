//! The threads of the exporters, and what is handed to them.

use std::{
    any::Any,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{Exporter, Losing, Record};

/// Records that may wait for each exporter.
pub(super) const QUEUE: usize = 16_384;

/// How long an exporter that is not primary may take to write what is queued, once nothing more comes.
pub const FINISH: Duration = Duration::from_secs(10);

/// An exporter that can be started.
pub struct Opened {
    exporter: Box<dyn Exporter>,
    /// Where a primary exporter writes to, for messages.
    place: Option<String>,
}

impl Opened {
    /// An exporter without which there is no point in going on: what the user looks at. `place` is where it
    /// writes to, for messages.
    pub fn primary(exporter: Box<dyn Exporter>, place: String) -> Self {
        Self {
            exporter,
            place: Some(place),
        }
    }

    /// Nothing hurries it.
    pub fn unhurried(mut self) -> Self {
        self.exporter.take_time();
        self
    }

    /// An exporter whose failure the others survive.
    pub fn secondary(exporter: Box<dyn Exporter>) -> Self {
        Self {
            exporter,
            place: None,
        }
    }
}

/// Opens an exporter when its predecessor has ended.
pub type OpenLater = Box<dyn FnOnce() -> anyhow::Result<Box<dyn Exporter>> + Send>;

/// What an exporter leaves to the one that takes its place.
type Legacy = Box<dyn Any + Send>;

/// All exporters, at work.
#[derive(Default)]
pub struct Exporters {
    queues: Vec<Queue>,
    /// Those that have been replaced, and may still be writing.
    ending: Vec<Queue>,
}

/// One exporter at work.
struct Queue {
    name: &'static str,
    place: Option<String>,
    sender: Option<SyncSender<Message>>,
    end: Receiver<io::Result<()>>,
    /// Disconnected when the thread has ended.
    gone: Option<Receiver<()>>,
    /// Disconnected when it has been handed everything.
    legacy: Option<Receiver<Legacy>>,
    shared: Arc<Shared>,
    dropped: AtomicU64,
}

/// What a queue's two ends know of each other.
#[derive(Default)]
struct Shared {
    failed: AtomicBool,
    live: AtomicBool,
    waiting: AtomicUsize,
    /// What the exporter itself counts.
    losing: OnceLock<Losing>,
}

enum Message {
    Record(Arc<Record>),
    Reopen,
}

impl Exporters {
    /// Starts a thread for each.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn start(opened: Vec<Opened>) -> io::Result<Self> {
        let queues = opened.into_iter().map(|opened| Queue::start(opened, None));
        Ok(Self {
            queues: queues.collect::<io::Result<_>>()?,
            ending: Vec::new(),
        })
    }

    /// Has an exporter take the place of the one of its name, or, if it is primary, of the primary one. What that
    /// one has been handed, it still writes.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn replace(&mut self, opened: Opened) -> io::Result<()> {
        let is_primary = opened.place.is_some();
        let name = opened.exporter.name();
        let is_meant = |queue: &Queue| match is_primary {
            true => queue.place.is_some(),
            false => queue.name == name,
        };
        let legacy = self.of(is_meant).and_then(|queue| queue.legacy.take());
        let queue = Queue::start(opened, legacy)?;
        self.end_where(is_meant);
        self.queues.push(queue);
        Ok(())
    }

    /// As [`replace`](Self::replace), for an exporter that cannot be opened before the other has let go of what both
    /// want, such as a port.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn replace_later(&mut self, name: &'static str, open: OpenLater) -> io::Result<()> {
        let predecessor = self.of(|queue| queue.name == name);
        let (legacy, predecessor) = predecessor.map_or((None, None), |queue| {
            (queue.legacy.take(), queue.gone.take())
        });
        self.end_where(|queue| queue.name == name);
        let open = move || {
            if let Some(gone) = predecessor {
                let _ = gone.recv_timeout(FINISH);
            }
            open()
        };
        self.queues.push(Queue::spawn(name, None, legacy, open)?);
        Ok(())
    }

    fn of(&mut self, is_meant: impl Fn(&Queue) -> bool) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| is_meant(queue))
    }

    /// Ends the exporter of a name; what it has been handed, it still writes.
    pub fn remove(&mut self, name: &str) {
        self.end_where(|queue| queue.name == name && queue.place.is_none());
    }

    /// Ends the primary exporter; what it has been handed, it still writes.
    pub fn remove_primary(&mut self) {
        self.end_where(|queue| queue.place.is_some());
    }

    /// Has every exporter open anew what it writes to: somebody may have moved the file.
    pub fn reopen(&self) {
        for sender in self.queues.iter().filter_map(|queue| queue.sender.as_ref()) {
            // Where the queue is full, the next signal has to do.
            let _ = sender.try_send(Message::Reopen);
        }
    }

    fn end_where(&mut self, is_meant: impl Fn(&Queue) -> bool) {
        for mut queue in self.queues.extract_if(.., |queue| is_meant(queue)) {
            drop(queue.sender.take());
            self.ending.push(queue);
        }
    }

    /// Hands a record over without waiting.
    pub fn send(&self, record: Record) {
        let record = Arc::new(record);
        for queue in self.for_whom(&record) {
            queue.send(&record);
        }
    }

    /// Hands a record over, and waits for room. Returns whether there is a point in handing over more.
    pub fn send_patiently(&self, record: Record) -> bool {
        let record = Arc::new(record);
        for queue in self.for_whom(&record) {
            queue.send_patiently(&record);
        }
        !self.has_failed()
    }

    /// Whether any exporter wants to know of calls that are under way, and how the agent does.
    pub fn are_live(&self) -> bool {
        self.queues.iter().any(Queue::is_live)
    }

    /// Whether writing to a primary exporter has failed; [`finish`](Self::finish) says why.
    pub fn has_failed(&self) -> bool {
        let mut primary = self.queues.iter().filter(|queue| queue.place.is_some());
        primary.any(Queue::has_failed)
    }

    /// Records that wait for each exporter, and those that have been lost there, by its name; those of exporters that
    /// it has replaced count, too.
    pub fn state(&self) -> Vec<(&'static str, usize, u64)> {
        let mut state: Vec<(&'static str, usize, u64)> = Vec::new();
        for queue in self.queues.iter().chain(&self.ending) {
            let waiting = queue.shared.waiting.load(Ordering::Relaxed);
            let lost = queue.lost();
            match state.iter_mut().find(|(name, ..)| *name == queue.name) {
                Some(known) => {
                    known.1 += waiting;
                    known.2 += lost;
                }
                None => state.push((queue.name, waiting, lost)),
            }
        }
        state
    }

    /// Writes what is queued and ends the threads, all at once. A secondary exporter has [`FINISH`] for it.
    /// Returns how many records each has not taken, by its name, if there are any.
    ///
    /// # Errors
    ///
    /// A record could not be written to a primary exporter. A closed pipe is no error.
    pub fn finish(&mut self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        self.end(false)
    }

    /// As [`finish`](Self::finish), but an exporter may take as long as it likes.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn finish_patiently(&mut self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        self.end(true)
    }

    fn end(&mut self, patiently: bool) -> anyhow::Result<Vec<(&'static str, u64)>> {
        for queue in &mut self.queues {
            drop(queue.sender.take());
        }
        let deadline = Instant::now() + FINISH;
        let mut result = Ok(());
        for queue in self.ending.iter().chain(&self.queues) {
            // What the user looks at may wait for the user: a pager, say.
            let deadline = (queue.place.is_none() && !patiently).then_some(deadline);
            if let (Err(error), Some(place)) = (queue.end(deadline), &queue.place)
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                result = Err(anyhow::anyhow!("cannot write to {place}: {error}"));
            }
        }
        let state = self.state().into_iter();
        let lost = state.filter_map(|(name, _, lost)| (lost > 0).then_some((name, lost)));
        let lost = lost.collect();
        self.ending.clear();
        self.queues.clear();
        result.map(|()| lost)
    }

    fn for_whom(&self, record: &Record) -> impl Iterator<Item = &Queue> {
        let live = matches!(
            record,
            Record::Dismissed(_) | Record::Health(_) | Record::Started(_)
        );
        let wanted = move |queue: &&Queue| queue.is_live() || !live;
        self.queues.iter().filter(wanted)
    }
}

// Whatever has failed: what has been handed over is written, and a terminal given back.
impl Drop for Exporters {
    fn drop(&mut self) {
        let _ = self.end(false);
    }
}

impl Queue {
    fn start(opened: Opened, legacy: Option<Receiver<Legacy>>) -> io::Result<Self> {
        let Opened { exporter, place } = opened;
        let (name, live) = (exporter.name(), exporter.is_live());
        let queue = Self::spawn(name, place, legacy, || Ok(exporter))?;
        // At once, not only when the thread has come to it.
        queue.shared.live.store(live, Ordering::Release);
        Ok(queue)
    }

    fn spawn(
        name: &'static str,
        place: Option<String>,
        predecessor: Option<Receiver<Legacy>>,
        open: impl FnOnce() -> anyhow::Result<Box<dyn Exporter>> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, records) = mpsc::sync_channel(QUEUE);
        let (at_end, end) = mpsc::sync_channel(1);
        let (going, gone) = mpsc::channel();
        let (leaving, legacy) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let other_end = Arc::clone(&shared);
        let is_primary = place.is_some();
        thread::Builder::new()
            .name(format!("export-{name}"))
            .spawn(move || {
                let _going: Sender<()> = going;
                let mut failing = Failing(&other_end.failed, true);
                let result = work(open, &records, &other_end, predecessor, leaving);
                if let (false, Err(error)) = (is_primary, &result) {
                    warn!(
                        exporter = name,
                        "the exporter failed; the others go on: {error}"
                    );
                }
                failing.1 = result.is_err();
                drop(failing);
                // Nobody may be waiting any more.
                let _ = at_end.try_send(result);
            })?;
        Ok(Self {
            name,
            place,
            sender: Some(sender),
            end,
            gone: Some(gone),
            legacy: Some(legacy),
            shared,
            dropped: AtomicU64::new(0),
        })
    }

    fn is_live(&self) -> bool {
        self.shared.live.load(Ordering::Acquire)
    }

    fn send(&self, record: &Arc<Record>) {
        self.hand_over(record, |sender, record| sender.try_send(record).is_ok());
    }

    fn send_patiently(&self, record: &Arc<Record>) {
        self.hand_over(record, |sender, record| sender.send(record).is_ok());
    }

    fn hand_over(
        &self,
        record: &Arc<Record>,
        send: impl FnOnce(&SyncSender<Message>, Message) -> bool,
    ) {
        // Before it can be taken out.
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let sender = self.sender.as_ref();
        if !sender.is_some_and(|sender| send(sender, Message::Record(Arc::clone(record)))) {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that it could not take, and what it has lost of those that it took.
    fn lost(&self) -> u64 {
        let inside = self.shared.losing.get().map_or(0, |losing| losing());
        self.dropped.load(Ordering::Relaxed) + inside
    }

    fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Waits for the end of the thread, to the deadline if there is one.
    fn end(&self, deadline: Option<Instant>) -> io::Result<()> {
        let end = match deadline {
            Some(at) => self
                .end
                .recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.end.recv().map_err(Into::into),
        };
        let result = match end {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the export thread panicked"))
            }
            Err(RecvTimeoutError::Timeout) => {
                warn!(
                    exporter = self.name,
                    "the exporter did not end in time; what it still held is lost"
                );
                Ok(())
            }
        };
        // Those that it did not come to.
        let waiting = self.shared.waiting.load(Ordering::Relaxed) as u64;
        self.dropped.fetch_add(waiting, Ordering::Relaxed);
        result
    }
}

/// Says so when a thread ends by a panic, too.
struct Failing<'a>(&'a AtomicBool, bool);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::Release);
    }
}

fn work(
    open: impl FnOnce() -> anyhow::Result<Box<dyn Exporter>>,
    records: &Receiver<Message>,
    shared: &Shared,
    predecessor: Option<Receiver<Legacy>>,
    leaving: Sender<Legacy>,
) -> io::Result<()> {
    let mut exporter = open().map_err(|error| io::Error::other(format!("{error:#}")))?;
    shared.live.store(exporter.is_live(), Ordering::Release);
    if let Some(losing) = exporter.losses() {
        let _ = shared.losing.set(losing);
    }
    // Until it has written what it was handed: so records stay in their order, too.
    if let Some(Ok(legacy)) = predecessor.map(|legacy| legacy.recv_timeout(FINISH)) {
        exporter.inherit(legacy);
    }
    write_all(exporter.as_mut(), records, &shared.waiting)?;
    if let Some(legacy) = exporter.bequeath() {
        let _ = leaving.send(legacy);
    }
    drop(leaving);
    exporter.finish()
}

fn write_all(
    exporter: &mut dyn Exporter,
    records: &Receiver<Message>,
    waiting: &AtomicUsize,
) -> io::Result<()> {
    let mut flush_at: Option<Instant> = None;
    loop {
        let next = match flush_at {
            Some(at) => match at.saturating_duration_since(Instant::now()) {
                Duration::ZERO => Err(RecvTimeoutError::Timeout),
                left => records.recv_timeout(left),
            },
            // Nothing to do until one comes: an idle agent sleeps.
            None => records.recv().map_err(Into::into),
        };
        let record = match next {
            Ok(Message::Record(record)) => record,
            Ok(Message::Reopen) => {
                exporter.reopen()?;
                flush_at = None;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                exporter.flush()?;
                flush_at = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        waiting.fetch_sub(1, Ordering::Relaxed);
        match &*record {
            Record::Call(call) => exporter.call(call)?,
            Record::Dismissed(span_id) => exporter.dismissed(span_id)?,
            Record::Health(health) => exporter.health(health)?,
            Record::Other(request) => exporter.other(request)?,
            Record::Started(call) => exporter.started(call)?,
            Record::Others(count) => exporter.others(*count)?,
            Record::Trace(trace) => exporter.trace(trace)?,
        }
        if flush_at.is_none() {
            flush_at = Some(Instant::now() + exporter.flush_after());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        export::Health,
        trace::{
            CallRecord, TraceRecord,
            record::tests::{call, failed_call},
        },
    };

    /// Notes what comes; fails, or waits, if told to.
    #[derive(Clone, Default)]
    struct Notes {
        name: &'static str,
        live: bool,
        fails: bool,
        panics: bool,
        hangs: bool,
        leaves: bool,
        loses: u64,
        came: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Notes {
        fn came(&self) -> Vec<&'static str> {
            self.came.lock().unwrap().clone()
        }

        fn note(&self, what: &'static str) {
            self.came.lock().unwrap().push(what);
        }
    }

    impl Exporter for Notes {
        fn name(&self) -> &'static str {
            self.name
        }

        fn call(&mut self, _: &CallRecord) -> io::Result<()> {
            assert!(!self.panics, "as it was told to");
            if self.hangs {
                loop {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            if self.fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.note("call");
            Ok(())
        }

        fn trace(&mut self, _: &TraceRecord) -> io::Result<()> {
            Ok(())
        }

        fn health(&mut self, _: &Health) -> io::Result<()> {
            self.note("health");
            Ok(())
        }

        fn is_live(&self) -> bool {
            self.live
        }

        fn losses(&self) -> Option<Losing> {
            let loses = self.loses;
            Some(Arc::new(move || loses))
        }

        fn bequeath(&mut self) -> Option<Legacy> {
            self.leaves.then(|| -> Legacy { Box::new("legacy") })
        }

        fn inherit(&mut self, legacy: Legacy) {
            assert_eq!(legacy.downcast_ref(), Some(&"legacy"));
            self.note("inherited");
        }

        fn flush(&mut self) -> io::Result<()> {
            self.note("flush");
            Ok(())
        }
    }

    fn primary(notes: &Notes) -> Opened {
        Opened::primary(Box::new(notes.clone()), "the screen".to_owned())
    }

    fn secondary(notes: &Notes) -> Opened {
        Opened::secondary(Box::new(notes.clone()))
    }

    fn a_call() -> Record {
        Record::Call(Box::new(call()))
    }

    #[test]
    fn every_exporter_gets_every_record_and_live_ones_more() {
        let plain = Notes::default();
        let live = Notes {
            live: true,
            ..Notes::default()
        };
        let mut exporters = Exporters::start(vec![primary(&plain), secondary(&live)]).unwrap();
        assert!(exporters.are_live());
        exporters.send(a_call());
        exporters.send(Record::Health(Box::default()));
        exporters.send(Record::Call(Box::new(failed_call())));
        assert_eq!(exporters.finish().unwrap(), []);
        assert_eq!(plain.came(), ["call", "call", "flush"]);
        assert_eq!(live.came(), ["call", "health", "call", "flush"]);
    }

    #[test]
    fn a_secondary_failure_costs_the_others_nothing() {
        for (fails, panics) in [(true, false), (false, true)] {
            let plain = Notes::default();
            let broken = Notes {
                name: "broken",
                fails,
                panics,
                ..Notes::default()
            };
            let mut exporters =
                Exporters::start(vec![primary(&plain), secondary(&broken)]).unwrap();
            for _ in 0..100 {
                exporters.send(a_call());
            }
            assert!(!exporters.has_failed());
            // The record that it failed at is not counted: it may have been written in part.
            assert_eq!(exporters.finish().unwrap(), [("broken", 99)]);
            assert_eq!(plain.came().len(), 101);
        }
    }

    #[test]
    fn a_primary_failure_is_said() {
        for (fails, panics) in [(true, false), (false, true)] {
            let broken = Notes {
                fails,
                panics,
                ..Notes::default()
            };
            let mut exporters = Exporters::start(vec![primary(&broken)]).unwrap();
            exporters.send(a_call());
            let patience = Instant::now() + FINISH;
            while !exporters.has_failed() && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(!exporters.send_patiently(a_call()));
            let error = exporters.finish().unwrap_err().to_string();
            assert!(error.starts_with("cannot write to the screen: "), "{error}");
        }
    }

    #[test]
    fn a_full_queue_never_blocks_and_is_counted() {
        let stuck = Notes {
            name: "stuck",
            hangs: true,
            ..Notes::default()
        };
        let exporters = Exporters::start(vec![secondary(&stuck)]).unwrap();
        for _ in 0..QUEUE + 100 {
            exporters.send(a_call());
        }
        let (name, waiting, dropped) = exporters.state()[0];
        // It holds one at most.
        assert_eq!((name, waiting), ("stuck", QUEUE));
        assert!((99..=100).contains(&dropped), "{dropped}");
        // It would be waited for.
        std::mem::forget(exporters);
    }

    #[test]
    fn who_takes_a_place_has_what_was_left_and_comes_after() {
        let came = Arc::<Mutex<Vec<&'static str>>>::default();
        let old = Notes {
            name: "one",
            leaves: true,
            came: Arc::clone(&came),
            ..Notes::default()
        };
        let mut exporters = Exporters::start(vec![secondary(&old)]).unwrap();
        for _ in 0..100 {
            exporters.send(a_call());
        }
        let new = Notes {
            name: "one",
            came: Arc::clone(&came),
            ..Notes::default()
        };
        exporters.replace(secondary(&new)).unwrap();
        exporters.send(Record::Health(Box::default()));
        exporters.send(a_call());
        assert_eq!(exporters.finish().unwrap(), []);
        let came = came.lock().unwrap();
        let at = came.iter().position(|what| *what == "inherited");
        assert_eq!(
            at,
            Some(
                100 + came[..at.unwrap()]
                    .iter()
                    .filter(|what| **what == "flush")
                    .count()
            )
        );
        assert_eq!(came.iter().filter(|what| **what == "call").count(), 101);
    }

    #[test]
    fn losses_of_exporters_that_were_replaced_count() {
        let lossy = Notes {
            name: "one",
            loses: 7,
            ..Notes::default()
        };
        let mut exporters = Exporters::start(vec![secondary(&lossy)]).unwrap();
        exporters.replace(secondary(&lossy)).unwrap();
        let patience = Instant::now() + FINISH;
        while exporters.state() != [("one", 0, 14)] && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(exporters.finish().unwrap(), [("one", 14)]);
    }

    #[test]
    fn what_was_handed_over_is_written_though_nobody_finishes() {
        let plain = Notes::default();
        let exporters = Exporters::start(vec![primary(&plain)]).unwrap();
        exporters.send(a_call());
        drop(exporters);
        assert_eq!(plain.came(), ["call", "flush"]);
    }

    #[test]
    fn what_is_buffered_is_flushed_soon_though_records_keep_coming() {
        let plain = Notes::default();
        let mut exporters = Exporters::start(vec![primary(&plain)]).unwrap();
        for _ in 0..20 {
            exporters.send(a_call());
            thread::sleep(Duration::from_millis(20));
        }
        exporters.finish().unwrap();
        let flushes = plain.came().iter().filter(|what| **what == "flush").count();
        assert!(flushes >= 3, "{flushes}");
    }
}
