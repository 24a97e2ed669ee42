//! The loop that everything passes through: records of the kernel in, records of calls and traces
//! out. One thread does it all but writing, so that nothing has to be locked.

use std::{
    collections::HashMap,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use observer_wire::{
    CallEvent, CallId, Chunk, Close, Connection, Direction, LlmCall, Options, Origin, Role,
    Timestamp, Verdict,
};
use signal_hook::iterator::{backend::SignalDelivery, exfiltrator::SignalOnly};
use tracing::{debug, info};

use crate::{
    attach::{
        Attacher,
        processes::{self, Identity, Pid},
    },
    capture::{self, Capture, ConnectionKey, Event, Step, loss::Losses},
    clock::{self, Clock},
    export::{Queue, Record},
    trace::{
        CallContext, CallRecord, TraceRecord, Traces,
        ends::{EndId, Ends, Side},
    },
};

/// Connections that are followed at once; past it those that were silent for longest are let go.
const CONNECTIONS: usize = 65_536;

/// Events that are handled before signals and timers get their turn.
const BATCH: usize = 4_096;

/// How often idle traces and dead processes are looked for.
const TICK: Duration = Duration::from_millis(100);

/// How long the agent rests when it was woken for nothing.
const IN_VAIN: Duration = Duration::from_millis(5);

/// How often every known process is looked after.
const ROLL_CALL: Duration = Duration::from_secs(5);

/// How long the records of a process that has just exited are waited for.
const SETTLE: Duration = Duration::from_millis(200);

/// The signals that end the loop, with a descriptor to wait for them.
pub type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// What the user wants.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Passed on to the parsers.
    pub wire: Options,
    /// Only these providers; empty for all.
    pub providers: Vec<String>,
    /// Follow every connection, also those that are no LLM provider's.
    pub all_hosts: bool,
    /// A trace ends this long after its last call.
    pub trace_idle: Duration,
}

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Calls that were recorded.
    pub calls: u64,
    /// Traces that were recorded.
    pub traces: u64,
    /// Plaintext bytes that were looked at.
    pub bytes: u64,
    /// What was lost in the kernel.
    pub losses: Losses,
    /// Records that the exporter could not take in time.
    pub dropped: u64,
}

/// The agent at work.
pub struct Agent {
    attacher: Attacher,
    capture: Capture,
    pipeline: Pipeline,
    /// Processes whose main thread has exited.
    dying: Vec<(Pid, Timestamp)>,
}

/// Everything after the capture.
struct Pipeline {
    settings: Settings,
    connections: HashMap<(Pid, u64), Tracked>,
    processes: HashMap<Pid, Identity>,
    traces: Traces,
    ends: Ends<Held>,
    clock: Clock,
    queue: Queue,
    calls: u64,
    trace_count: u64,
    bytes: u64,
    /// Reused for the events of one chunk.
    events: Vec<CallEvent>,
    /// Reused for the traces that one event ended.
    ended: Vec<TraceRecord>,
}

/// A connection that is followed.
struct Tracked {
    generation: u64,
    connection: Box<Connection>,
    calls: HashMap<CallId, Open>,
    last: Timestamp,
}

/// A call that is under way.
struct Open {
    context: CallContext,
    end: EndId,
}

/// A call that is over.
struct Held {
    pid: Pid,
    identity: Identity,
    context: CallContext,
    call: Box<LlmCall>,
}

/// What the attacher has to do about a batch of events.
#[derive(Default)]
struct Chores {
    scan: Vec<Pid>,
    children: Vec<u32>,
    exits: Vec<(Pid, Timestamp)>,
    /// Connections of which nothing more is to be captured, and what had been written on them.
    ignore: Vec<(ConnectionKey, u64)>,
}

impl Agent {
    /// Puts the parts together.
    pub fn new(attacher: Attacher, capture: Capture, queue: Queue, settings: Settings) -> Self {
        let pipeline = Pipeline {
            connections: HashMap::new(),
            processes: HashMap::new(),
            traces: Traces::new(settings.trace_idle),
            ends: Ends::default(),
            clock: Clock::new(),
            queue,
            calls: 0,
            trace_count: 0,
            bytes: 0,
            events: Vec::new(),
            ended: Vec::new(),
            settings,
        };
        Self {
            attacher,
            capture,
            pipeline,
            dying: Vec::new(),
        }
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
        loop {
            let handled = self.drain(BATCH);
            self.attacher.take_examined();
            if self.attacher.take_mapped() && handled == 0 {
                // Whoever makes code or starts programs all the time must not have the agent run all the time.
                std::thread::sleep(IN_VAIN);
            }
            if let Some(number) = signals.pending().next() {
                return Ok(Outcome::Signal(number));
            }
            if self.pipeline.queue.has_failed() {
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
                self.pipeline.expire();
            }
            if handled == BATCH {
                continue;
            }
            let busy = !self.dying.is_empty()
                || !self.pipeline.traces.is_empty()
                || self.pipeline.ends.is_holding();
            let wait = if busy { TICK } else { 10 * TICK };
            self.capture
                .wait(handled, wait)
                .context("cannot wait for records")?;
        }
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
            mut pipeline,
            ..
        } = self;
        // What is in the buffer now is all.
        capture.stop();
        capture.drain(usize::MAX, |event| {
            pipeline.handle(event, &mut Chores::default())
        });
        let (records, wakeups) = capture.activity();
        info!(records, wakeups, "captured");
        let now = clock::now();
        let keys: Vec<(Pid, u64)> = pipeline.connections.keys().copied().collect();
        for key in keys {
            pipeline.forget(key, Close::Detached, None, now);
        }
        pipeline.settle_ends(None);
        let mut ended = std::mem::take(&mut pipeline.ended);
        pipeline.traces.finish(&mut ended);
        pipeline.ended = ended;
        pipeline.send_traces();
        let summary = Summary {
            calls: pipeline.calls,
            traces: pipeline.trace_count,
            bytes: pipeline.bytes,
            losses: capture.losses(),
            dropped: pipeline.queue.dropped(),
        };
        pipeline.queue.finish()?;
        drop(attacher);
        Ok(summary)
    }

    fn drain(&mut self, limit: usize) -> usize {
        let mut chores = Chores::default();
        let pipeline = &mut self.pipeline;
        let handled = self
            .capture
            .drain(limit, |event| pipeline.handle(event, &mut chores));
        for child in chores.children {
            if processes::is_process(child) {
                self.attacher.child(Pid(child));
            }
        }
        for pid in chores.scan {
            self.attacher.scan(pid);
        }
        self.dying.extend(chores.exits);
        for (connection, sent) in chores.ignore {
            debug!(pid = connection.pid.0, "the connection is of no interest");
            self.capture.ignore(connection, sent);
        }
        handled
    }

    /// Finds the processes whose exit was lost when the ring buffer was full.
    fn call_the_roll(&mut self) {
        let now = clock::now();
        let known = self
            .attacher
            .members()
            .chain(self.pipeline.processes.keys().copied());
        let gone: Vec<Pid> = known.filter(|pid| !processes::alive(*pid)).collect();
        self.dying.extend(gone.into_iter().map(|pid| (pid, now)));
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
            self.pipeline.process_gone(pid, at);
            left = self.attacher.gone(pid);
        }
        left
    }
}

impl Pipeline {
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
                if !self.open(connection, at) {
                    // Whatever has passed since.
                    chores.ignore.push((connection, u64::MAX));
                    return;
                }
                self.bytes += bytes.len() as u64;
                self.identify(connection.pid, comm);
                let chunk = Chunk {
                    direction,
                    offset,
                    at,
                    origin: origin(tid, task),
                    bytes,
                };
                let key = (connection.pid, connection.ssl);
                self.advance(key, |followed, report| {
                    followed.expect(direction.opposite(), opposite, at, report);
                    followed.data(chunk, report);
                });
                if let Some(asks) = self.leave_out(key, at) {
                    let asked = if asks == direction {
                        offset + bytes.len() as u64
                    } else {
                        opposite
                    };
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
                let key = (connection.pid, connection.ssl);
                if self
                    .connections
                    .get(&key)
                    .is_some_and(|known| known.generation == connection.generation)
                {
                    if freed {
                        self.forget(key, close, Some(produced), at);
                    } else {
                        self.advance(key, |followed, report| {
                            followed.close(close, Some(produced), at, report);
                        });
                    }
                }
            }
            Event::Bind { .. } => {}
            Event::Process { pid, tid, step, at } => match step {
                Step::Exec => {
                    // The old program's connections are gone, and it may have another name now.
                    if self.processes.remove(&pid).is_some() {
                        self.close_process(pid, at);
                    }
                    push_new(&mut chores.scan, pid);
                }
                Step::Exit => {
                    self.traces.thread_gone(pid, tid, &mut self.ended);
                    self.send_traces();
                    if pid.0 == tid {
                        chores.exits.push((pid, at));
                    }
                }
                Step::Fork(child) => chores.children.push(child),
            },
        }
    }

    fn expire(&mut self) {
        self.settle_ends(Some(clock::now()));
        self.traces.expire(clock::now(), &mut self.ended);
        self.send_traces();
    }

    fn process_gone(&mut self, pid: Pid, at: Timestamp) {
        self.close_process(pid, at);
        self.traces.process_gone(pid, &mut self.ended);
        self.send_traces();
        self.processes.remove(&pid);
    }

    fn close_process(&mut self, pid: Pid, at: Timestamp) {
        let keys: Vec<(Pid, u64)> = self
            .connections
            .keys()
            .filter(|key| key.0 == pid)
            .copied()
            .collect();
        for key in keys {
            self.forget(key, Close::ProcessExit, None, at);
        }
    }

    /// Looks a process up when it is first heard of.
    fn identify(&mut self, pid: Pid, comm: &[u8]) {
        self.processes.entry(pid).or_insert_with(|| {
            let mut identity = Identity::of(pid);
            if identity.comm.is_none() {
                identity.comm = Some(String::from_utf8_lossy(comm).into_owned());
            }
            identity
        });
    }

    /// Follows the connection, a new one if its address is reused. Returns false if it is none.
    fn open(&mut self, key: ConnectionKey, at: Timestamp) -> bool {
        let place = (key.pid, key.ssl);
        match self.connections.get(&place) {
            Some(known) if known.generation == key.generation => return true,
            // Its end was lost.
            Some(_) => self.forget(place, Close::Local, None, at),
            None if self.connections.len() >= CONNECTIONS => self.make_room(at),
            None => {}
        }
        if let Some(fd) = key.unproved()
            && !processes::is_socket(key.pid, fd)
        {
            debug!(pid = key.pid.0, fd, "no socket");
            return false;
        }
        self.connections.insert(
            place,
            Tracked {
                generation: key.generation,
                connection: Box::new(new_connection(key.is_plain(), self.settings.wire)),
                calls: HashMap::new(),
                last: at,
            },
        );
        true
    }

    /// Lets go of the sixteenth of the connections that was silent for longest.
    fn make_room(&mut self, at: Timestamp) {
        let mut ages: Vec<(Timestamp, (Pid, u64))> = self
            .connections
            .iter()
            .map(|(key, tracked)| (tracked.last, *key))
            .collect();
        ages.sort_unstable();
        for (_, key) in ages.into_iter().take(CONNECTIONS / 16) {
            self.forget(key, Close::Detached, None, at);
        }
    }

    fn forget(
        &mut self,
        key: (Pid, u64),
        close: Close,
        produced: Option<(u64, u64)>,
        at: Timestamp,
    ) {
        self.advance(key, |followed, report| {
            followed.close(close, produced, at, report);
        });
        self.connections.remove(&key);
    }

    /// Whether the programs have to be told now that this connection is of no interest: the direction in
    /// which its requests go.
    fn leave_out(&mut self, key: (Pid, u64), at: Timestamp) -> Option<Direction> {
        let tracked = self.connections.get_mut(&key)?;
        tracked.last = at;
        if self.settings.all_hosts || tracked.connection.verdict() != Verdict::Other {
            return None;
        }
        let asks = match tracked.connection.role() {
            Some(Role::Server) => Direction::Received,
            _ => Direction::Sent,
        };
        // What is on its way may still begin a call.
        *tracked.connection = new_connection(capture::is_plain(key.1), self.settings.wire);
        Some(asks)
    }

    fn advance(
        &mut self,
        key: (Pid, u64),
        step: impl FnOnce(&mut Connection, &mut dyn FnMut(CallEvent)),
    ) {
        let mut events = std::mem::take(&mut self.events);
        if let Some(tracked) = self.connections.get_mut(&key) {
            step(&mut tracked.connection, &mut |event| events.push(event));
        }
        for event in events.drain(..) {
            self.report(key, event);
        }
        self.events = events;
    }

    fn report(&mut self, key: (Pid, u64), event: CallEvent) {
        let Some(tracked) = self.connections.get_mut(&key) else {
            return;
        };
        let pid = key.0;
        match event {
            CallEvent::Started {
                call,
                at,
                origin,
                fingerprint,
            } => {
                let (tid, _) = executed_by(origin);
                let utc = self.clock.utc(at);
                let unknown = Identity::default();
                let identity = self.processes.get(&pid).unwrap_or(&unknown);
                let context =
                    self.traces
                        .call_started(pid, tid, at, utc, identity, &mut self.ended);
                let role = tracked.connection.role().unwrap_or(Role::Client);
                let end = self.ends.started(pid, role, fingerprint, at);
                tracked.calls.insert(call, Open { context, end });
            }
            CallEvent::Dismissed { call } => {
                if let Some(open) = tracked.calls.remove(&call) {
                    self.ends.dismissed(open.end);
                    self.traces.call_dismissed(&open.context, &mut self.ended);
                }
            }
            CallEvent::Ended { call, record } => {
                let Some(Open { context, end }) = tracked.calls.remove(&call) else {
                    return;
                };
                let at = record.ended();
                let held = Held {
                    pid,
                    identity: self.processes.get(&pid).cloned().unwrap_or_default(),
                    context,
                    call: record,
                };
                if let Some(held) = self.ends.ended(end, at, held) {
                    self.conclude(held);
                }
            }
        }
        self.send_traces();
    }

    /// Decides about calls of servers, all of them without a time.
    fn settle_ends(&mut self, now: Option<Timestamp>) {
        for (held, verdict) in self.ends.settle(now) {
            match verdict {
                Side::Alone => self.conclude(held),
                Side::Other => self.traces.call_dismissed(&held.context, &mut self.ended),
            }
        }
        self.send_traces();
    }

    /// A call is over, and is recorded where it is seen now.
    fn conclude(&mut self, held: Held) {
        let Held {
            pid,
            identity,
            context,
            call,
        } = held;
        if self.wanted(&call) {
            self.calls += 1;
            let record = self.record(pid, identity, &context, &call);
            self.queue.send(Record::Call(Box::new(record)));
            self.traces.call_ended(&context, &call, &mut self.ended);
        } else {
            self.traces.call_dismissed(&context, &mut self.ended);
        }
    }

    fn wanted(&self, call: &LlmCall) -> bool {
        let providers = &self.settings.providers;
        providers.is_empty() || providers.iter().any(|provider| provider == call.provider)
    }

    fn send_traces(&mut self) {
        for trace in self.ended.drain(..) {
            self.trace_count += 1;
            self.queue.send(Record::Trace(Box::new(trace)));
        }
    }

    fn record(
        &mut self,
        pid: Pid,
        identity: Identity,
        context: &CallContext,
        call: &LlmCall,
    ) -> CallRecord {
        let call = call.clone();
        let (tid, goroutine) = executed_by(call.origin);
        CallRecord {
            provider: call.provider,
            operation: call.operation,
            model: call.model,
            response_model: call.response_model,
            response_id: call.response_id,
            prompt_tokens: call.prompt_tokens,
            completion_tokens: call.completion_tokens,
            cached_tokens: call.cached_tokens,
            cache_write_tokens: call.cache_write_tokens,
            reasoning_tokens: call.reasoning_tokens,
            audio_input_tokens: call.audio_input_tokens,
            audio_output_tokens: call.audio_output_tokens,
            input_tokens: call.input_tokens,
            output_tokens: call.output_tokens,
            usage: call.usage,
            cost_usd: call.cost_usd,
            parameters: call.parameters,
            temperature: call.temperature,
            stream: call.stream,
            start_time: self.clock.utc(call.start),
            latency_ns: u64::try_from(call.latency.as_nanos()).unwrap_or(u64::MAX),
            time_to_first_token_ns: call
                .time_to_first_token
                .map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            status_code: call.status_code,
            error_type: call.error_type,
            error_message: call.error_message,
            finish_reasons: call.finish_reasons,
            tool_calls: call.tool_calls,
            request_id: call.request_id,
            rate_limit: call.rate_limit,
            input_preview: call.input_preview,
            output_preview: call.output_preview,
            trace_id: context.trace_id.clone(),
            span_id: context.span_id.clone(),
            parent_span_id: None,
            trace_source: context.source,
            attempts: call.attempts,
            pid: pid.0,
            tid,
            goroutine,
            ppid: identity.ppid,
            comm: identity.comm,
            exe: identity.exe.map(|path| path.to_string_lossy().into_owned()),
            container_id: identity.container_id,
            server_address: call.server_address,
            server_port: call.server_port,
            url_path: call.url_path,
            incomplete: call.incomplete.map(|why| why.as_str()),
        }
    }
}

fn new_connection(plain: bool, options: Options) -> Connection {
    if plain {
        Connection::plain(options)
    } else {
        Connection::new(options)
    }
}

/// The mark of a thread and a goroutine: 32 bits each. A goroutine with a larger id counts as unknown.
fn origin(tid: u32, task: u64) -> Origin {
    let task = u32::try_from(task).unwrap_or(0);
    Origin(u64::from(task) << 32 | u64::from(tid))
}

/// Thread and goroutine of a mark.
fn executed_by(origin: Origin) -> (u32, Option<u32>) {
    let [task, tid] = [origin.0 >> 32, origin.0 & u64::from(u32::MAX)]
        .map(|half| u32::try_from(half).unwrap_or(0));
    (tid, (task != 0).then_some(task))
}

fn push_new(pids: &mut Vec<Pid>, pid: Pid) {
    if !pids.contains(&pid) {
        pids.push(pid);
    }
}
