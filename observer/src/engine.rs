//! Everything after the capture: what happened in processes goes in, records of calls and traces come
//! out.
//!
//! The engine asks nobody: no clock, no /proc, no chance. What it has to know is an [`Input`] or in its
//! [`Settings`], so the same inputs give the same records, to the byte. That is what recordings rest on
//! ([`recording`](crate::recording)).

use std::{
    collections::{BTreeMap, HashMap},
    fmt, mem,
    vec::Drain,
};

use jiff::Timestamp as Utc;
use observer_wire::{
    Asked, CallEvent, CallId, Chunk, Close, Connection, Direction, LlmCall, Options, Origin, Role,
    Timestamp, Verdict,
};
use tracing::debug;

use crate::{
    attach::processes::{Identity, Pid},
    capture::{
        self, ConnectionKey,
        task::{Task, TaskKind},
    },
    clock::nanoseconds_of,
    export::Record,
    trace::{
        self, CallContext, CallRecord, CallStarted, Caller, OtherRequest, Prices, TraceBy,
        TraceRecord, Traces,
        attempts::{self, Attempts},
        attribution::{Ended, OpenCall},
        ends::{EndId, Ends, Side},
        lineage::Actor,
    },
};

/// Connections that are followed at once; past it those that were silent for longest are let go.
const CONNECTIONS: usize = 65_536;

/// Processes that are known at once; past it another has no name.
const PROCESSES: usize = 65_536;

/// Requests that a process may answer before those of its connections are let go that carry no calls: whoever has
/// called no LLM by then does not do it for what it answers.
const ANSWERED: u64 = 64;

/// Of process start times: `sysconf(_SC_CLK_TCK)` is 100 on Linux (proc_pid_stat(5), field 22).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Hosts of which it is noted how many requests to them were no calls.
const HOSTS: usize = 256;

/// What the user wants, and what makes the ids of traces and spans.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Passed on to the parsers.
    pub wire: Options,
    /// Only these providers; empty for all.
    pub providers: Vec<String>,
    /// Follow every connection, also those that are no LLM provider's.
    pub all_hosts: bool,
    /// How calls are put into traces.
    pub trace: trace::Settings,
    /// Of the generator of ids.
    pub seed: u64,
    /// What calls cost, if anybody wants to know.
    pub prices: Option<Prices>,
}

/// Something that the engine has to know, in the order in which it came to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// The clocks were compared.
    Clock {
        /// UTC minus boot time, in nanoseconds.
        offset: i64,
    },
    /// A connection ended, or one side of it.
    Close {
        /// Which connection.
        connection: ConnectionKey,
        /// How.
        close: Close,
        /// Whether the object was freed: nothing can follow.
        freed: bool,
        /// Bytes written and read since the connection was first seen, lost ones included.
        produced: (u64, u64),
        /// When.
        at: Timestamp,
    },
    /// A process wrote or read plaintext.
    Data {
        /// On which connection.
        connection: ConnectionKey,
        /// The thread.
        tid: u32,
        /// What the thread executes, where it is not all there is.
        task: Option<Task>,
        /// Which way.
        direction: Direction,
        /// Bytes of this direction that came before.
        offset: u64,
        /// Bytes of the other direction that have passed so far, lost ones included.
        opposite: u64,
        /// When.
        at: Timestamp,
        /// The plaintext.
        bytes: Bytes<'a>,
    },
    /// A process executes another program.
    Exec {
        /// The process.
        pid: Pid,
        /// When.
        at: Timestamp,
    },
    /// A thread or a process was created.
    Fork {
        /// The process of the creator.
        pid: Pid,
        /// The creator.
        tid: u32,
        /// The new thread, or the process of which it is the first.
        child: u32,
        /// When.
        at: Timestamp,
    },
    /// A process is gone with all its threads.
    Gone {
        /// The process.
        pid: Pid,
        /// When.
        at: Timestamp,
    },
    /// What is known of a process, before the first [`Data`](Self::Data) of it.
    Process {
        /// The process.
        pid: Pid,
        /// What is known.
        identity: Identity,
    },
    /// A logical task was created.
    Task {
        /// The process.
        pid: Pid,
        /// The thread that created it.
        tid: u32,
        /// The task.
        task: Task,
        /// What created it; `None` if the thread itself did.
        parent: Option<Task>,
        /// When.
        at: Timestamp,
    },
    /// A task answers a request of a connection of HTTP/2.
    Answers {
        /// The process.
        pid: Pid,
        /// The connection's place in the process.
        object: u64,
        /// The request's stream.
        stream: u32,
        /// The task.
        task: Task,
    },
    /// A thread is gone.
    ThreadGone {
        /// Its process.
        pid: Pid,
        /// The thread.
        tid: u32,
    },
    /// Time passes.
    Tick {
        /// The time.
        now: Timestamp,
    },
}

/// Plaintext of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bytes<'a>(pub &'a [u8]);

impl fmt::Debug for Bytes<'_> {
    // Content must not reach a log through `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Calls that were recorded.
    pub calls: u64,
    /// Traces that were recorded.
    pub traces: u64,
    /// Requests to hosts of LLM providers that were no calls: files, batches, other operations.
    pub others: u64,
    /// Plaintext bytes that were looked at.
    pub bytes: u64,
}

/// See the module.
pub struct Engine {
    settings: Settings,
    connections: HashMap<Place, Tracked>,
    processes: HashMap<Pid, Process>,
    traces: Traces,
    ends: Ends<Held>,
    /// Failed calls that may be tried again.
    attempts: Attempts<Held>,
    /// UTC minus boot time, in nanoseconds.
    utc_offset: i64,
    seen: Seen,
    /// What [`Seen::others`] counts, by host.
    others: BTreeMap<String, u64>,
    /// Not yet taken.
    records: Vec<Record>,
    /// Reused for the events of one chunk.
    events: Vec<CallEvent>,
    /// Reused for the traces that one event ended.
    ended: Vec<TraceRecord>,
}

/// A process that is known.
#[derive(Default)]
struct Process {
    identity: Identity,
    /// It has called an LLM.
    calls: bool,
    /// Requests that it has answered.
    answered: u64,
}

/// Where a connection is: only one can be there at a time.
type Place = (Pid, u64);

/// A connection that is followed.
struct Tracked {
    generation: u64,
    connection: Box<Connection>,
    calls: HashMap<CallId, Open>,
    last: Timestamp,
}

/// A call that is under way.
struct Open {
    call: OpenCall,
    end: EndId,
    /// Hash of the request's head.
    head: u64,
    /// The attempt at it that failed before.
    earlier: Option<Box<Held>>,
}

/// A call that is over.
struct Held {
    role: Role,
    identity: Identity,
    open: OpenCall,
    head: u64,
    call: Box<LlmCall>,
    /// The attempt at it that failed before.
    earlier: Option<Box<Held>>,
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            connections: HashMap::new(),
            processes: HashMap::new(),
            traces: Traces::new(settings.trace.clone(), settings.seed),
            ends: Ends::default(),
            attempts: Attempts::default(),
            utc_offset: 0,
            seen: Seen::default(),
            others: BTreeMap::new(),
            records: Vec::new(),
            events: Vec::new(),
            ended: Vec::new(),
            settings,
        }
    }

    /// Takes what happened next. If it showed that its connection is of no interest, returns how much had
    /// passed in the direction of requests by then.
    pub fn take(&mut self, input: Input<'_>) -> Option<u64> {
        match input {
            Input::Clock { offset } => self.utc_offset = offset,
            Input::Close {
                connection,
                close,
                freed,
                produced,
                at,
            } => {
                if self.follows(connection) {
                    let place = (connection.pid, connection.ssl);
                    if freed {
                        self.forget(place, close, Some(produced), at);
                    } else {
                        self.advance(place, |followed, report| {
                            followed.close(close, Some(produced), at, report);
                        });
                    }
                }
            }
            Input::Data {
                connection,
                tid,
                task,
                direction,
                offset,
                opposite,
                at,
                bytes: Bytes(bytes),
            } => {
                self.open(connection, at);
                self.seen.bytes += bytes.len() as u64;
                let chunk = Chunk {
                    direction,
                    offset,
                    at,
                    origin: origin(tid, task),
                    bytes,
                };
                let place = (connection.pid, connection.ssl);
                self.advance(place, |followed, report| {
                    followed.expect(direction.opposite(), opposite, at, report);
                    followed.data(chunk, report);
                });
                let asks = self.leave_out(place, at)?;
                return Some(if asks == direction {
                    offset.saturating_add(bytes.len() as u64)
                } else {
                    opposite
                });
            }
            Input::Exec { pid, at } => {
                // The old program's connections are gone, and it may have another name now.
                if self.processes.remove(&pid).is_some() {
                    self.close_process(pid, at);
                }
            }
            Input::Gone { pid, at } => {
                self.close_process(pid, at);
                let over = self.attempts.gone(|actor| actor.pid() == pid);
                self.record_calls(over);
                self.traces.process_gone(pid, &mut self.ended);
                self.conclude_traces();
                self.processes.remove(&pid);
            }
            Input::Fork {
                pid,
                tid,
                child,
                at,
            } => self.traces.forked(pid, tid, child, at),
            Input::Task {
                pid,
                tid,
                task,
                parent,
                at,
            } => {
                let by = Caller {
                    pid,
                    tid,
                    task: parent,
                };
                self.traces.task_created(by, task, at);
            }
            Input::Answers {
                pid,
                object,
                stream,
                task,
            } => {
                if let Some(tracked) = self.connections.get(&(pid, object)) {
                    let id = (pid, object, tracked.generation, u64::from(stream));
                    self.traces.inbound_answered(id, Actor::Task(pid, task));
                }
            }
            Input::Process { pid, identity } => {
                if let (Some(parent), Some(ticks)) = (identity.ppid, identity.start_time) {
                    let created = Timestamp(ticks.saturating_mul(NANOSECONDS_PER_TICK));
                    self.traces.child_of(Pid(parent), pid, created);
                }
                if self.processes.len() < PROCESSES || self.knows(pid) {
                    self.processes.entry(pid).or_default().identity = identity;
                }
            }
            Input::ThreadGone { pid, tid } => {
                let over = self.attempts.gone(|actor| actor == Actor::Thread(pid, tid));
                self.record_calls(over);
                self.traces.thread_gone(pid, tid, &mut self.ended);
                self.conclude_traces();
            }
            Input::Tick { now } => {
                self.settle_ends(Some(now));
                let over = self.attempts.expire(Some(now));
                self.record_calls(over);
                self.traces.expire(now, &mut self.ended);
                self.conclude_traces();
            }
        }
        None
    }

    /// Nothing more will come: every call and every trace ends at `now`.
    pub fn finish(&mut self, now: Timestamp) {
        let mut places: Vec<Place> = self.connections.keys().copied().collect();
        places.sort_unstable();
        for place in places {
            self.forget(place, Close::Detached, None, now);
        }
        self.settle_ends(None);
        let over = self.attempts.expire(None);
        self.record_calls(over);
        self.traces.finish(&mut self.ended);
        self.conclude_traces();
        for (host, requests) in &self.others {
            debug!(host, requests, "requests that are no calls");
        }
        if self.seen.others > 0 {
            self.records.push(Record::Others(self.seen.others));
        }
    }

    /// Other settings hold from now on, but for the seed. Connections that are followed already go on by the old
    /// ones of the parsers; no call is lost. This is in no recording: a replay is by the settings that it is given.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.traces.reconfigure(settings.trace.clone());
        self.settings = Settings {
            seed: self.settings.seed,
            ..settings
        };
    }

    /// Takes out the records that are ready.
    pub fn records(&mut self) -> Drain<'_, Record> {
        self.records.drain(..)
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Whether time matters: something ends when nothing happens.
    pub fn is_busy(&self) -> bool {
        !self.traces.is_empty() || !self.ends.is_empty() || !self.attempts.is_empty()
    }

    /// Whether this very connection is followed.
    pub fn follows(&self, connection: ConnectionKey) -> bool {
        self.connections
            .get(&(connection.pid, connection.ssl))
            .is_some_and(|known| known.generation == connection.generation)
    }

    /// Whether it is known who a process is.
    pub fn knows(&self, pid: Pid) -> bool {
        self.processes.contains_key(&pid)
    }

    /// Whether anything is left that belongs to a process.
    pub fn concerns(&self, pid: Pid) -> bool {
        self.knows(pid) || self.traces.concern(pid)
    }

    /// The processes that are known.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.processes.keys().copied()
    }

    /// How many connections are followed.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// How many traces are open.
    pub fn traces(&self) -> usize {
        self.traces.len()
    }

    fn close_process(&mut self, pid: Pid, at: Timestamp) {
        let of_process = self.connections.keys().filter(|place| place.0 == pid);
        let mut places: Vec<Place> = of_process.copied().collect();
        places.sort_unstable();
        for place in places {
            self.forget(place, Close::ProcessExit, None, at);
        }
    }

    /// Follows the connection, a new one if its address is reused.
    fn open(&mut self, key: ConnectionKey, at: Timestamp) {
        let place = (key.pid, key.ssl);
        match self.connections.get(&place) {
            Some(known) if known.generation == key.generation => return,
            // Its end was lost.
            Some(_) => self.forget(place, Close::Local, None, at),
            None if self.connections.len() >= CONNECTIONS => self.make_room(at),
            None => {}
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
    }

    /// Lets go of the sixteenth of the connections that was silent for longest.
    fn make_room(&mut self, at: Timestamp) {
        let mut ages: Vec<(Timestamp, Place)> = self
            .connections
            .iter()
            .map(|(place, tracked)| (tracked.last, *place))
            .collect();
        ages.sort_unstable();
        for (_, place) in ages.into_iter().take(CONNECTIONS / 16) {
            self.forget(place, Close::Detached, None, at);
        }
    }

    fn forget(&mut self, place: Place, close: Close, produced: Option<(u64, u64)>, at: Timestamp) {
        self.advance(place, |followed, report| {
            followed.close(close, produced, at, report);
        });
        self.connections.remove(&place);
    }

    /// Whether it has turned out that this connection is of no interest: the direction in which its
    /// requests go.
    fn leave_out(&mut self, place: Place, at: Timestamp) -> Option<Direction> {
        let tracked = self.connections.get_mut(&place)?;
        tracked.last = at;
        if self.settings.all_hosts || tracked.connection.verdict() != Verdict::Other {
            return None;
        }
        if tracked.connection.role() == Some(Role::Server)
            && matches!(self.settings.trace.by, TraceBy::Auto | TraceBy::Inbound)
            && self
                .processes
                .get(&place.0)
                .is_none_or(|process| process.calls || process.answered < ANSWERED)
        {
            // Calls may be made for what it answers.
            return None;
        }
        let asks = match tracked.connection.role() {
            Some(Role::Server) => Direction::Received,
            _ => Direction::Sent,
        };
        // Requests that it is answering end here.
        self.advance(place, |followed, report| {
            followed.close(Close::Detached, None, at, report);
        });
        // What is on its way may still begin a call.
        let another = new_connection(capture::is_plain(place.1), self.settings.wire);
        *self.connections.get_mut(&place)?.connection = another;
        Some(asks)
    }

    fn advance(
        &mut self,
        place: Place,
        step: impl FnOnce(&mut Connection, &mut dyn FnMut(CallEvent)),
    ) {
        let mut events = mem::take(&mut self.events);
        if let Some(tracked) = self.connections.get_mut(&place) {
            step(&mut tracked.connection, &mut |event| events.push(event));
        }
        for event in events.drain(..) {
            self.report(place, event);
        }
        self.events = events;
    }

    fn report(&mut self, place: Place, event: CallEvent) {
        let utc_offset = self.utc_offset;
        let Some(tracked) = self.connections.get_mut(&place) else {
            return;
        };
        let pid = place.0;
        let role = tracked.connection.role().unwrap_or(Role::Client);
        let unknown = Process::default();
        let identity = &self.processes.get(&pid).unwrap_or(&unknown).identity;
        match event {
            CallEvent::Unread { host } => {
                // A client's are counted where they are sent.
                if role != Role::Server {
                    self.records.push(Record::Other(Box::new(OtherRequest {
                        server_address: host.clone(),
                        pid: pid.0,
                        comm: identity.comm.clone(),
                        exe: identity.exe_name(),
                        container_id: identity.container_id.clone(),
                        kubernetes: identity.pod.clone(),
                        uid: identity.uid,
                    })));
                    self.count_other(host);
                }
            }
            CallEvent::InboundStarted {
                exchange,
                at,
                origin,
                request,
            } => {
                let id = (pid, place.1, tracked.generation, exchange);
                self.traces
                    .inbound_started(id, caller(pid, origin), at, &request);
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.answered = process.answered.saturating_add(1);
                }
            }
            CallEvent::InboundEnded { exchange, .. } => {
                let id = (pid, place.1, tracked.generation, exchange);
                self.traces.inbound_ended(id);
            }
            CallEvent::Started {
                call,
                at,
                origin,
                fingerprint,
            } => {
                let caller = caller(pid, origin);
                let open = self.traces.call_started(caller, at, utc(at, utc_offset));
                let end = self.ends.started(pid, role, fingerprint, at);
                if role == Role::Client {
                    self.records
                        .push(started(&open, pid, identity, utc(at, utc_offset), None));
                    // What it answers is of interest.
                    if let Some(process) = self.processes.get_mut(&pid) {
                        process.calls = true;
                    }
                }
                let open = Open {
                    call: open,
                    end,
                    head: fingerprint,
                    earlier: None,
                };
                tracked.calls.insert(call, open);
            }
            CallEvent::Requested { call, request } => {
                self.requested(place, role, call, &request);
            }
            CallEvent::Dismissed { call } => {
                if let Some(open) = tracked.calls.remove(&call) {
                    self.ends.dismissed(open.end);
                    self.dismiss(&open.call, open.earlier);
                }
            }
            CallEvent::Ended { call, record } => {
                let Some(open) = tracked.calls.remove(&call) else {
                    return;
                };
                let at = record.ended();
                let held = Held {
                    role,
                    identity: identity.clone(),
                    open: open.call,
                    head: open.head,
                    call: record,
                    earlier: open.earlier,
                };
                if let Some(held) = self.ends.ended(open.end, at, held) {
                    self.conclude(held);
                }
            }
        }
        self.conclude_traces();
    }

    /// The request of a call has been read.
    fn requested(&mut self, place: Place, role: Role, call: CallId, request: &Asked) {
        let tracked = self.connections.get_mut(&place);
        let Some(mut open) = tracked.and_then(|tracked| tracked.calls.remove(&call)) else {
            return;
        };
        let pid = place.0;
        if role == Role::Client {
            let (earlier, over) = self.attempts.requested(attempts::Request {
                actor: open.call.caller().actor(),
                head: open.head,
                body: request.evidence.body,
                attempt: request.attempts,
                at: open.call.started_at(),
            });
            self.record_calls(over);
            if let Some(earlier) = earlier {
                self.traces.call_retried(&mut open.call, &earlier.open);
                open.earlier = Some(Box::new(earlier));
            }
        }
        let unknown = Process::default();
        let identity = &self.processes.get(&pid).unwrap_or(&unknown).identity;
        if role == Role::Client {
            let start = utc(open.call.started_at(), self.utc_offset);
            self.records
                .push(started(&open.call, pid, identity, start, Some(request)));
        }
        self.traces
            .call_requested(&mut open.call, &request.evidence, identity, &mut self.ended);
        if let Some(tracked) = self.connections.get_mut(&place) {
            tracked.calls.insert(call, open);
        }
    }

    /// What looked like a call was none, or is recorded elsewhere.
    fn dismiss(&mut self, call: &OpenCall, earlier: Option<Box<Held>>) {
        self.records.push(Record::Dismissed(call.span_id.clone()));
        match earlier {
            Some(earlier) => self.record_call(*earlier),
            None => self.traces.call_dismissed(call, &mut self.ended),
        }
    }

    fn count_other(&mut self, host: String) {
        self.seen.others += 1;
        if self.others.len() < HOSTS || self.others.contains_key(&host) {
            *self.others.entry(host).or_default() += 1;
        }
    }

    /// Decides about calls of servers, all of them without a time.
    fn settle_ends(&mut self, now: Option<Timestamp>) {
        for (held, verdict) in self.ends.settle(now) {
            match verdict {
                Side::Alone => self.conclude(held),
                Side::Other => self.dismiss(&held.open, held.earlier),
            }
        }
        self.conclude_traces();
    }

    /// A call is over, and is recorded where it is seen now, unless it may be tried again.
    fn conclude(&mut self, held: Held) {
        if held.role == Role::Server {
            return self.record_call(held);
        }
        let actor = held.open.caller().actor();
        let call = held.call.clone();
        if let Some(held) = self.attempts.ended(actor, held.head, &call, held) {
            self.record_call(held);
        }
    }

    fn record_calls(&mut self, over: Vec<Held>) {
        for held in over {
            self.record_call(held);
        }
    }

    /// Nothing more will come of a call.
    fn record_call(&mut self, held: Held) {
        let Held {
            identity,
            open,
            mut call,
            earlier,
            ..
        } = held;
        if !self.wanted(&call) {
            return self.dismiss(&open, earlier);
        }
        let mut tries = 1;
        if let Some(earlier) = &earlier {
            tries = one_call(&mut call, earlier);
        }
        // The library may have tried before it was watched.
        call.attempts = Some(call.attempts.map_or(tries, |known| known.max(tries)));
        self.seen.calls += 1;
        let caller = open.caller();
        let cost = self.cost(&call);
        let end = Ended {
            call: &call,
            cost: cost.0,
            utc_offset: self.utc_offset,
        };
        let context = self
            .traces
            .call_ended(open, &end, &identity, &mut self.ended);
        let record = self.record(caller, identity, context, *call, cost);
        self.records.push(Record::Call(Box::new(record)));
        self.conclude_traces();
    }

    /// What a call cost, in US dollars, and who says so.
    fn cost(&self, call: &LlmCall) -> (Option<f64>, Option<&'static str>) {
        match (call.cost_usd, &self.settings.prices) {
            (Some(usd), _) => (Some(usd), Some("provider")),
            (None, Some(prices)) => {
                let usd = prices.cost(call);
                (usd, usd.map(|_| "prices"))
            }
            (None, None) => (None, None),
        }
    }

    fn wanted(&self, call: &LlmCall) -> bool {
        let providers = &self.settings.providers;
        providers.is_empty() || providers.iter().any(|provider| provider == call.provider)
    }

    fn conclude_traces(&mut self) {
        for trace in self.ended.drain(..) {
            self.seen.traces += 1;
            self.records.push(Record::Trace(Box::new(trace)));
        }
    }

    fn record(
        &self,
        caller: Caller,
        identity: Identity,
        context: CallContext,
        call: LlmCall,
        (cost_usd, cost_source): (Option<f64>, Option<&'static str>),
    ) -> CallRecord {
        CallRecord {
            provider: call.provider,
            operation: call.operation,
            model: call.model,
            response_model: call.response_model,
            response_id: call.response_id,
            service_tier: call.service_tier,
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
            cost_usd,
            cost_source,
            parameters: call.parameters,
            temperature: call.temperature,
            stream: call.stream,
            start_time: utc(call.start, self.utc_offset),
            latency_ns: nanoseconds_of(call.latency),
            time_to_headers_ns: call.time_to_headers.map(nanoseconds_of),
            time_to_first_token_ns: call.time_to_first_token.map(nanoseconds_of),
            status_code: call.status_code,
            error_type: call.error_type,
            error_message: call.error_message,
            finish_reasons: call.finish_reasons,
            tool_calls: call.tool_calls,
            request_id: call.request_id,
            rate_limit: call.rate_limit,
            input_preview: call.input_preview,
            output_preview: call.output_preview,
            trace_id: context.trace_id,
            span_id: context.span_id,
            parent_span_id: context.parent_span_id,
            conversation_id: context.conversation_id,
            credential: call.evidence.credential.map(|print| print.to_string()),
            trace_source: context.source,
            attempts: call.attempts,
            pid: caller.pid.0,
            tid: caller.tid,
            task: caller.task,
            ppid: identity.ppid,
            exe: identity.exe_name(),
            comm: identity.comm,
            container_id: identity.container_id,
            kubernetes: identity.pod,
            uid: identity.uid,
            namespace_pid: identity.namespace_pid,
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

/// What is known of a call that is under way; of its request once that has been read.
fn started(
    call: &OpenCall,
    pid: Pid,
    identity: &Identity,
    start_time: Utc,
    request: Option<&Asked>,
) -> Record {
    Record::Started(Box::new(CallStarted {
        span_id: call.span_id.clone(),
        pid: pid.0,
        comm: identity.comm.clone(),
        container_id: identity.container_id.clone(),
        kubernetes: identity.pod.clone(),
        start_time,
        provider: request.map(|request| request.provider),
        model: request.and_then(|request| request.model.clone()),
    }))
}

/// Makes one call of an attempt and those that failed before it. Returns how many there were.
fn one_call(last: &mut LlmCall, earlier: &Held) -> u32 {
    let mut first = earlier;
    let mut tries = 2;
    while let Some(before) = &first.earlier {
        first = before;
        tries += 1;
    }
    let before = last.start.since(first.call.start);
    last.start = first.call.start.min(last.start);
    last.time_to_headers = last.time_to_headers.map(|time| time.saturating_add(before));
    last.latency = last.latency.saturating_add(before);
    last.time_to_first_token = last
        .time_to_first_token
        .map(|time| time.saturating_add(before));
    tries
}

/// The mark of a thread, and of what it executes: the task's id, its kind, and the thread.
fn origin(tid: u32, task: Option<Task>) -> Origin {
    let (kind, id) = task.map_or((0, 0), |task| match task.kind {
        TaskKind::Goroutine => (1, task.id),
        TaskKind::PythonContext => (2, task.id),
    });
    Origin(u128::from(id) << 64 | kind << 32 | u128::from(tid))
}

/// Thread and task of a mark.
fn caller(pid: Pid, origin: Origin) -> Caller {
    let [low, high] = [origin.0, origin.0 >> 64]
        .map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
    let kind = match low >> 32 {
        1 => Some(TaskKind::Goroutine),
        2 => Some(TaskKind::PythonContext),
        _ => None,
    };
    let tid = u32::try_from(low & u64::from(u32::MAX)).unwrap_or(0);
    Caller {
        pid,
        tid,
        task: kind.map(|kind| Task { kind, id: high }),
    }
}

fn utc(at: Timestamp, offset: i64) -> Utc {
    Utc::from_nanosecond(i128::from(at.0) + i128::from(offset)).unwrap_or(Utc::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: Pid = Pid(7);

    fn data(engine: &mut Engine, at: u64, direction: Direction, offset: u64, bytes: &str) -> bool {
        let input = Input::Data {
            connection: ConnectionKey {
                pid: PID,
                ssl: 1,
                generation: 1,
            },
            tid: 7,
            task: None,
            direction,
            offset,
            opposite: 0,
            at: Timestamp(at),
            bytes: Bytes(bytes.as_bytes()),
        };
        engine.take(input).is_some()
    }

    #[test]
    fn a_server_that_calls_no_llm_is_let_go_with_the_requests_that_it_answers() {
        let mut engine = Engine::new(Settings {
            wire: Options::default(),
            providers: Vec::new(),
            all_hosts: false,
            trace: trace::Settings::default(),
            seed: 1,
            prices: None,
        });
        engine.take(Input::Process {
            pid: PID,
            identity: Identity::default(),
        });
        let request = "GET /chat HTTP/1.1\r\nHost: me\r\n\r\n";
        let mut requests = 0;
        let mut left = false;
        while !left {
            requests += 1;
            assert!(requests <= ANSWERED + 1, "it is followed for ever");
            let offset = (requests - 1) * request.len() as u64;
            left = data(&mut engine, requests, Direction::Received, offset, request);
            let open = usize::from(!left);
            assert_eq!(engine.traces.held().1.min(1), open, "request {requests}");
        }
        assert_eq!(requests, ANSWERED);
    }
}
