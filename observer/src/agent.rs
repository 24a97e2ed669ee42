//! The loop that everything passes through: records of the kernel in, records of calls and traces
//! out. One thread does it all but writing, so that nothing has to be locked.
//!
//! It looks up what the [`Engine`] has to know of this machine.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use observer_wire::Timestamp;
use signal_hook::iterator::{backend::SignalDelivery, exfiltrator::SignalOnly};
use tracing::{debug, info};

use crate::{
    attach::{
        Attacher,
        processes::{self, Identity, Pid},
    },
    capture::{Capture, ConnectionKey, Event, Step, loss::Losses},
    clock::{self, Clock},
    engine::{Bytes, Engine, Input, Seen, Settings},
    export::{Exporters, Health, Record},
    kubernetes::{Pods, Standing},
    recording::Recorder,
};

/// Events that are handled before signals and timers get their turn.
const BATCH: usize = 4_096;

/// How often idle traces and dead processes are looked for.
const TICK: Duration = Duration::from_millis(100);

/// How often live exporters are told how the agent does. No more often than the agent wakes up anyway.
const HEALTH: Duration = Duration::from_secs(1);

/// How long the files that were there at the start may take until the agent says that it is ready all the same.
const SETTLING: Duration = Duration::from_secs(15);

/// How long the agent rests when it was woken for nothing.
const IN_VAIN: Duration = Duration::from_millis(5);

/// How often every known process is looked after.
const ROLL_CALL: Duration = Duration::from_secs(5);

/// How long the records of a process that has just exited are waited for.
const SETTLE: Duration = Duration::from_millis(200);

/// The signals that end the loop, with a descriptor to wait for them.
pub type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Why the loop returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every watched process has exited.
    NobodyLeft,
    /// The records cannot be written.
    OutputFailed,
    /// A signal: its number.
    Signal(i32),
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What passed.
    pub seen: Seen,
    /// What was lost in the kernel, if that is known.
    pub losses: Option<Losses>,
    /// Records that an exporter could not take in time, by its name.
    pub dropped: Vec<(&'static str, u64)>,
    /// Records that were not handed on, as it was not known whether their pod is selected.
    pub withheld: u64,
}

/// The agent at work.
pub struct Agent {
    attacher: Attacher,
    capture: Capture,
    feed: Feed,
    clock: Clock,
    /// Processes whose main thread has exited.
    dying: Vec<(Pid, Timestamp)>,
    /// Since when it has been waited for what was there at the start; `None` once the agent is ready.
    settling: Option<Instant>,
}

/// What the capture is handed to.
struct Feed {
    engine: Engine,
    recorder: Option<Recorder>,
    exporters: Exporters,
    pods: Pods,
}

/// What the attacher has to do about a batch of events.
#[derive(Default)]
struct Chores {
    scan: Vec<Pid>,
    children: Vec<u32>,
    exits: Vec<(Pid, Timestamp)>,
    /// Connections of which nothing more is to be captured, and what had been written on them.
    ignore: Vec<(ConnectionKey, u64)>,
    /// Processes that are not watched.
    exclude: Vec<Pid>,
}

impl Agent {
    /// Puts the parts together.
    pub fn new(
        attacher: Attacher,
        capture: Capture,
        engine: Engine,
        recorder: Option<Recorder>,
        exporters: Exporters,
        pods: Pods,
    ) -> Self {
        let feed = Feed {
            engine,
            recorder,
            exporters,
            pods,
        };
        Self {
            attacher,
            capture,
            feed,
            clock: Clock::default(),
            dying: Vec::new(),
            settling: None,
        }
    }

    /// Has [`run`](Self::run) say that the agent is ready, when what was there at the start is probed.
    pub fn announce(&mut self) {
        self.settling = Some(Instant::now());
    }

    /// Works until one of `signals` comes, nobody is left to be watched, or the output fails.
    ///
    /// # Errors
    ///
    /// The kernel does not let the agent wait.
    pub fn run(&mut self, signals: &mut Signals) -> anyhow::Result<Outcome> {
        self.capture
            .wake_for(signals.get_read())
            .context("cannot wait for signals")?;
        for bell in self.attacher.bells() {
            self.capture
                .wake_for(bell)
                .context("cannot wait for what processes map")?;
        }
        let mut last_tick = Instant::now();
        let mut last_roll_call = Instant::now();
        let mut last_health: Option<Instant> = None;
        loop {
            if let Some(offset) = self.clock.compare() {
                self.feed.take(Input::Clock { offset });
            }
            let handled = self.drain(BATCH);
            self.attacher.take_examined();
            let vain = self.attacher.take_mapped();
            self.meet();
            if let Some(since) = self.settling
                && (self.attacher.is_settled() || since.elapsed() >= SETTLING)
            {
                self.settling = None;
                anstream::eprintln!("ready");
            }
            if vain && handled == 0 {
                // Whoever makes code or starts programs all the time must not have the agent run all the time.
                std::thread::sleep(IN_VAIN);
            }
            if let Some(number) = signals.pending().next() {
                return Ok(Outcome::Signal(number));
            }
            if self.feed.exporters.has_failed() {
                return Ok(Outcome::OutputFailed);
            }
            if last_roll_call.elapsed() >= ROLL_CALL {
                last_roll_call = Instant::now();
                self.call_the_roll();
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                if !self.bury() {
                    return Ok(Outcome::NobodyLeft);
                }
                self.feed.tick();
                let exporters = &self.feed.exporters;
                for (pid, standing) in self.feed.pods.turn(|record| exporters.send(record)) {
                    self.stand(pid, standing);
                }
            }
            if self.feed.exporters.are_live()
                && last_health.is_none_or(|last| last.elapsed() >= HEALTH)
            {
                last_health = Some(Instant::now());
                let (records, _) = self.capture.activity();
                let ready = self.settling.is_none();
                let health = self.feed.health(ready, records, self.capture.losses());
                self.feed.exporters.send(Record::Health(Box::new(health)));
            }
            if handled == BATCH {
                continue;
            }
            let busy = !self.dying.is_empty() || self.feed.is_busy();
            let wait = if busy { TICK } else { 10 * TICK };
            self.capture
                .wait(handled, wait)
                .context("cannot wait for records")?;
        }
    }

    /// Other settings hold from now on.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.feed.engine.reconfigure(settings);
    }

    /// Whether what is captured is kept in a recording.
    pub fn is_recording(&self) -> bool {
        self.feed.recorder.is_some()
    }

    /// What the records are handed to.
    pub fn exporters(&mut self) -> &mut Exporters {
        &mut self.feed.exporters
    }

    /// Handles what a process that has just exited has left behind.
    pub fn settle(&mut self) {
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            if self.drain(BATCH) == 0 {
                if self.dying.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            self.bury();
        }
    }

    /// Lets go of the watched processes, then writes out what is there.
    ///
    /// # Errors
    ///
    /// The records cannot be written.
    pub fn finish(self) -> anyhow::Result<Summary> {
        let Self {
            attacher,
            mut capture,
            mut feed,
            ..
        } = self;
        // What is in the buffer now is all.
        capture.stop();
        capture.drain(usize::MAX, |event| {
            feed.handle(event, &mut Chores::default())
        });
        let (records, wakeups) = capture.activity();
        info!(records, wakeups, "captured");
        let losses = capture.losses();
        let now = clock::now();
        if let Some(recorder) = feed.recorder.take() {
            recorder.finish(now, &losses);
        }
        feed.engine.finish(now);
        feed.hand_over();
        let exporters = &feed.exporters;
        feed.pods.finish(|record| exporters.send(record));
        if exporters.are_live() {
            let health = feed.health(true, records, losses);
            exporters.send(Record::Health(Box::new(health)));
        }
        let withheld = feed.pods.health().map_or(0, |health| health.withheld);
        let summary = Summary {
            seen: feed.engine.seen(),
            losses: Some(losses),
            dropped: feed.exporters.finish()?,
            withheld,
        };
        drop(attacher);
        Ok(summary)
    }

    fn drain(&mut self, limit: usize) -> usize {
        let mut chores = Chores::default();
        let feed = &mut self.feed;
        let handled = self
            .capture
            .drain(limit, |event| feed.handle(event, &mut chores));
        for child in chores.children {
            if processes::is_process(child) {
                self.attacher.child(Pid(child));
            }
        }
        for pid in chores.scan {
            self.attacher.heard_of(pid);
        }
        self.dying.extend(chores.exits);
        for pid in chores.exclude {
            self.exclude(pid);
        }
        for (connection, sent) in chores.ignore {
            debug!(pid = connection.pid.0, "the connection is of no interest");
            self.capture.ignore(connection, sent);
        }
        handled
    }

    /// Looks at whose programs have been started.
    fn meet(&mut self) {
        let mut met = self.attacher.met();
        met.sort_unstable();
        met.dedup();
        for pid in met {
            if let Some(standing) = self.feed.pods.meet(pid) {
                self.stand(pid, standing);
            }
        }
    }

    fn stand(&mut self, pid: Pid, standing: Standing) {
        match standing {
            Standing::Watched => self.attacher.include(pid),
            Standing::Awaited => self.attacher.await_word_of(pid),
            Standing::Excluded => self.exclude(pid),
        }
    }

    fn exclude(&mut self, pid: Pid) {
        debug!(pid = pid.0, "the process is not selected");
        self.attacher.exclude(pid);
        // It may have become a container's meanwhile: until then it had the cgroup of the runtime.
        if self.feed.pods.has_moved(pid)
            && let Some(standing) = self.feed.pods.meet(pid)
            && standing != Standing::Excluded
        {
            self.stand(pid, standing);
        }
    }

    /// Finds the processes whose exit was lost when the ring buffer was full.
    fn call_the_roll(&mut self) {
        let now = clock::now();
        let known = self.attacher.members().chain(self.feed.engine.processes());
        let gone: Vec<Pid> = known.filter(|pid| !processes::alive(*pid)).collect();
        self.dying.extend(gone.into_iter().map(|pid| (pid, now)));
        self.feed.pods.call_the_roll();
    }

    /// Ends what belonged to processes that are gone. Returns whether anybody is left.
    fn bury(&mut self) -> bool {
        let mut left = true;
        for (pid, at) in std::mem::take(&mut self.dying) {
            if processes::alive(pid) {
                // The main thread is gone, others are not.
                self.dying.push((pid, at));
                continue;
            }
            debug!(pid = pid.0, "the process is gone");
            if self.feed.engine.concerns(pid) {
                self.feed.take(Input::Gone { pid, at });
            }
            left = self.attacher.gone(pid);
        }
        left
    }
}

impl Feed {
    fn handle(&mut self, event: Event<'_>, chores: &mut Chores) {
        match event {
            Event::Data {
                connection,
                tid,
                task,
                half: _,
                direction,
                offset,
                opposite,
                at,
                comm,
                bytes,
            } => {
                if let Some(fd) = connection.unproved()
                    && !self.engine.follows(connection)
                    && !processes::is_socket(connection.pid, fd)
                {
                    debug!(pid = connection.pid.0, fd, "no socket");
                    // Whatever has passed since.
                    chores.ignore.push((connection, u64::MAX));
                    return;
                }
                if !self.identify(connection.pid, comm) {
                    push_new(&mut chores.exclude, connection.pid);
                    return;
                }
                let asked = self.take(Input::Data {
                    connection,
                    tid,
                    task,
                    direction,
                    offset,
                    opposite,
                    at,
                    bytes: Bytes(bytes),
                });
                if let Some(asked) = asked {
                    chores.ignore.push((connection, asked));
                }
            }
            Event::Close {
                connection,
                close,
                freed,
                produced,
                at,
            } => {
                if self.engine.follows(connection) {
                    self.take(Input::Close {
                        connection,
                        close,
                        freed,
                        produced,
                        at,
                    });
                }
            }
            Event::Bind { .. } => {}
            Event::Task {
                pid,
                tid,
                task,
                parent,
                at,
            } => {
                let (id, of) = (task.id, parent.map(|parent| parent.id));
                debug!(
                    pid = pid.0,
                    tid,
                    task = id,
                    parent = of,
                    at = at.0,
                    "a task was made"
                );
                self.take(Input::Task {
                    pid,
                    tid,
                    task,
                    parent,
                    at,
                });
            }
            Event::Answers {
                pid,
                object,
                stream,
                task,
            } => {
                self.take(Input::Answers {
                    pid,
                    object,
                    stream,
                    task,
                });
            }
            Event::Process { pid, tid, step, at } => match step {
                Step::Exec => {
                    if self.engine.concerns(pid) {
                        self.take(Input::Exec { pid, at });
                    }
                    push_new(&mut chores.scan, pid);
                }
                Step::Exit => {
                    if self.engine.concerns(pid) {
                        self.take(Input::ThreadGone { pid, tid });
                    }
                    if pid.0 == tid {
                        chores.exits.push((pid, at));
                    }
                }
                Step::Fork(child) => {
                    if self.engine.concerns(pid) {
                        self.take(Input::Fork {
                            pid,
                            tid,
                            child,
                            at,
                        });
                    }
                    chores.children.push(child);
                }
            },
        }
    }

    /// Looks a process up when it is first heard of. Returns whether it is watched.
    fn identify(&mut self, pid: Pid, comm: &[u8]) -> bool {
        if self.engine.knows(pid) {
            return true;
        }
        let mut identity = Identity::of(pid);
        if self.pods.identify(pid, &mut identity) == Standing::Excluded {
            return false;
        }
        if identity.comm.is_none() {
            identity.comm = Some(String::from_utf8_lossy(comm).into_owned());
        }
        self.take(Input::Process { pid, identity });
        true
    }

    fn tick(&mut self) {
        if self.engine.is_busy() {
            self.take(Input::Tick { now: clock::now() });
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
    }

    fn is_busy(&self) -> bool {
        self.engine.is_busy()
            || self.recorder.as_ref().is_some_and(Recorder::is_holding)
            || self.pods.is_busy()
    }

    fn take(&mut self, input: Input<'_>) -> Option<u64> {
        if let Some(recorder) = &mut self.recorder {
            recorder.input(&input);
        }
        let asked = self.engine.take(input);
        self.hand_over();
        asked
    }

    /// What the engine has made goes on.
    fn hand_over(&mut self) {
        let Self {
            engine,
            exporters,
            pods,
            ..
        } = self;
        for record in engine.records() {
            pods.pass(record, |record| exporters.send(record));
        }
    }

    fn health(&self, ready: bool, events: u64, losses: Losses) -> Health {
        Health {
            ready,
            losses: Some(losses),
            events,
            bytes: self.engine.seen().bytes,
            processes: self.engine.processes().count(),
            connections: self.engine.connections(),
            traces: self.engine.traces(),
            queues: self.exporters.state(),
            pods: self.pods.health(),
        }
    }
}

fn push_new(pids: &mut Vec<Pid>, pid: Pid) {
    if !pids.contains(&pid) {
        pids.push(pid);
    }
}
