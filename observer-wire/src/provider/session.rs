//! A session that gives several calls: messages in both directions, over WebSocket.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use http::StatusCode;
use serde_json::{Map, Value};

use super::{
    Certainty, Recognized,
    body::{KEPT_BYTES, NAME_CHARS, RAW_ERROR_BYTES, limits},
    builder::{CallBuilder, Finish, Start},
    exchange::{Begin, fingerprint, rate_limit, request_id},
    fields::About,
    hosts, preview,
    sdk::{Exception, Sdk},
    text,
};
use crate::{
    body::json::{Limits, Parser, Select, Status},
    call::Incomplete,
    chunk::{Direction, Origin, Timestamp},
    connection::{CallEvent, CallId, Options},
    http::{End, RequestHead, ResponseHead, websocket::Part},
};

/// Most calls that are open at once in a session; beyond, the one that began first ends as lost.
const OPEN: usize = 64;

/// How long after the server began to answer a message may show that was sent before: where one thread reads
/// and another writes, the answer may be seen before the write has returned.
const OVERTAKEN: Duration = Duration::from_millis(2);

/// How many messages are shown of the input.
const SHOWN: usize = 2;

/// Longest string of an error, in code points.
const ERROR_CHARS: usize = 4096;

/// A format of sessions.
pub(super) trait Dialogue: Sync {
    /// Whether a request that asks for a WebSocket session asks for one in this format.
    fn recognize(&self, head: &RequestHead) -> Option<Recognized>;

    /// What it is called, where it is served and where its fields are.
    fn about(&self) -> &'static About;

    /// What is kept of messages. Without `content` nothing may be selected that holds the text of a prompt
    /// or an answer.
    fn selections(&self) -> [&'static Spoken; 2];

    /// Either of them.
    fn selection(&self, content: bool) -> &'static Spoken {
        self.selections()[usize::from(content)]
    }

    /// Reads a message of the client. Of one that was lost in part, some members may be missing.
    fn sent(&self, message: &Value, turns: &mut Turns);

    /// Reads a message of the server. The same holds.
    fn received(&self, message: &Value, turns: &mut Turns);
}

/// What is kept of the messages of both sides.
pub(super) struct Spoken {
    pub(super) sent: Select,
    pub(super) received: Select,
}

/// A session that was asked for.
pub(super) struct Session {
    pub(super) certainty: Certainty,
    format: &'static dyn Dialogue,
    sdk: Sdk,
    fingerprint: u64,
    /// Whether the server has answered the request for the session.
    answered: bool,
    status: Option<StatusCode>,
    request_id: Option<String>,
    rate_limit: BTreeMap<String, String>,
    /// The message under way, by direction.
    sent: Option<Reading>,
    received: Option<Reading>,
    turns: Turns,
    /// The body of a refusal.
    refusal: Option<Refusal>,
    /// What the close frame of the server says.
    closed: Option<(Option<u16>, String)>,
    options: Options,
}

/// A message that is being read.
struct Reading {
    parser: Parser,
    at: Timestamp,
    origin: Origin,
    lost: bool,
}

struct Refusal {
    parser: Parser,
    raw: Vec<u8>,
}

impl Session {
    /// A session that a request asks for.
    pub(super) fn new(
        begin: &Begin<'_>,
        format: &'static dyn Dialogue,
        recognized: Recognized,
        options: Options,
    ) -> Self {
        let certainty = recognized.certainty;
        let mut start = begin.start(recognized, format.about().fields);
        // Errors come as messages, of which no library makes an exception.
        let sdk = std::mem::replace(&mut start.sdk, Sdk::Unknown);
        Self {
            certainty,
            format,
            sdk,
            fingerprint: fingerprint(begin.head),
            answered: false,
            status: None,
            request_id: None,
            rate_limit: BTreeMap::new(),
            sent: None,
            received: None,
            turns: Turns {
                message: (start.at, start.origin),
                now: start.at,
                start,
                options,
                open: Vec::new(),
                ended: Vec::new(),
                begun: 0,
                setup: Map::new(),
                model: None,
                recent: VecDeque::new(),
                sent_lost: false,
                last_by_server: None,
                stray: None,
            },
            refusal: None,
            closed: None,
            options,
        }
    }

    /// The host, if it is one of LLM providers.
    pub(super) fn llm_host(&self) -> Option<String> {
        let host = self.turns.start.server_address.as_ref();
        host.filter(|host| hosts::is_llm(host)).cloned()
    }

    pub(super) fn response_head(&mut self, head: &ResponseHead) {
        self.answered = true;
        self.status = head.status;
        self.request_id = request_id(&head.headers);
        self.rate_limit = rate_limit(&head.headers);
        if head.status.is_some_and(|status| status.as_u16() >= 400) {
            let bounds = Limits {
                string_chars: ERROR_CHARS,
                kept_bytes: KEPT_BYTES,
            };
            self.refusal = Some(Refusal {
                parser: Parser::new(&Select::All, bounds),
                raw: Vec::new(),
            });
        }
    }

    pub(super) fn response_body(&mut self, bytes: &[u8]) {
        if let Some(refusal) = &mut self.refusal {
            let room = RAW_ERROR_BYTES.saturating_sub(refusal.raw.len());
            refusal.raw.extend(&bytes[..bytes.len().min(room)]);
            refusal.parser.push(bytes, &mut |_| ());
        }
    }

    /// Takes a part of a message. `next` numbers the calls of the connection.
    pub(super) fn message(
        &mut self,
        direction: Direction,
        part: Part<'_>,
        at: Timestamp,
        next: &mut u64,
        report: &mut dyn FnMut(CallEvent),
    ) {
        let content = self.options.capture_content;
        let selection = self.format.selection(content);
        let (reading, select) = match direction {
            Direction::Received => (&mut self.received, &selection.received),
            Direction::Sent => (&mut self.sent, &selection.sent),
        };
        match part {
            Part::Begin { origin, .. } => {
                let chars = self.options.input_preview_chars;
                let chars = chars.max(self.options.output_preview_chars);
                *reading = Some(Reading {
                    parser: Parser::new(select, limits(self.options, chars, NAME_CHARS)),
                    at,
                    origin,
                    lost: false,
                });
            }
            Part::Bytes(bytes) => {
                if let Some(reading) = reading {
                    reading.parser.push(bytes, &mut |_| ());
                }
            }
            Part::Gap(_) => match reading {
                Some(reading) => {
                    reading.lost = true;
                    reading.parser.gap();
                }
                None => self.turns.lose(direction),
            },
            Part::End => {
                if let Some(reading) = reading.take() {
                    self.read(direction, reading, at);
                    self.report(next, report);
                }
            }
            Part::Close { code, reason } => {
                if direction == Direction::Received {
                    self.closed = Some((code, reason.to_owned()));
                }
            }
        }
    }

    /// Reads a message that is complete, or as much of it as came.
    fn read(&mut self, direction: Direction, mut reading: Reading, at: Timestamp) {
        let (document, status) = reading.parser.finish(&mut |_| ());
        let document = document.filter(Value::is_object);
        let told = document
            .as_ref()
            .and_then(Value::as_object)
            .is_some_and(|members| !members.is_empty());
        if reading.lost && (direction == Direction::Received || !told) {
            self.turns.lose(direction);
        }
        let Some(document) = document.filter(|_| reading.lost || status == Status::Complete) else {
            return;
        };
        self.turns.message = (reading.at, reading.origin);
        self.turns.now = at;
        match direction {
            Direction::Received => self.format.received(&document, &mut self.turns),
            Direction::Sent => self.format.sent(&document, &mut self.turns),
        }
    }

    /// Reports the calls that a message has begun or ended.
    fn report(&mut self, next: &mut u64, report: &mut dyn FnMut(CallEvent)) {
        let turns = &mut self.turns;
        for turn in &mut turns.ended {
            turn.by_server = None;
        }
        let now = turns.now;
        let mut begun: Vec<&mut Turn> = turns
            .open
            .iter_mut()
            .chain(&mut turns.ended)
            .filter(|turn| turn.id.is_none() && !turn.is_held(now))
            .collect();
        begun.sort_unstable_by_key(|turn| turn.number);
        for turn in begun {
            let call = CallId(*next);
            *next += 1;
            turn.id = Some(call);
            let mut hasher = DefaultHasher::new();
            (self.fingerprint, turn.number).hash(&mut hasher);
            report(CallEvent::Started {
                call,
                at: turn.call.started_at(),
                origin: turn.origin,
                fingerprint: hasher.finish(),
            });
        }
        for turn in turns.open.iter_mut().chain(&mut turns.ended) {
            if let Some(call) = turn.id
                && std::mem::take(&mut turn.asks)
            {
                let request = Box::new(turn.call.asked());
                report(CallEvent::Requested { call, request });
            }
        }
        for turn in std::mem::take(&mut turns.ended) {
            // An error is the last that was said of it.
            let failed = turn.fault.as_ref().and(turn.last);
            let at = turn.complete.or(failed).unwrap_or(now);
            let incomplete = if turn.lost {
                Some(Incomplete::BytesLost)
            } else {
                turn.cancelled.then_some(Incomplete::ClientCancelled)
            };
            let error = turn.fault_error();
            self.record(turn, at, incomplete, error, report);
        }
    }

    fn record(
        &self,
        turn: Turn,
        at: Timestamp,
        incomplete: Option<Incomplete>,
        error: Option<Exception>,
        report: &mut dyn FnMut(CallEvent),
    ) {
        let Some(call) = turn.id else {
            return;
        };
        let latency = at.since(turn.call.started_at());
        let record = turn.call.finish(Finish {
            latency,
            status_code: turn.status.or(self.status.map(|status| status.as_u16())),
            request_id: self.request_id.clone(),
            rate_limit: self.rate_limit.clone(),
            error,
            incomplete,
        });
        report(CallEvent::Ended {
            call,
            record: Box::new(record),
        });
    }

    /// Ends what is open; whether any call was recorded.
    pub(super) fn end(
        mut self,
        end: End,
        at: Timestamp,
        next: &mut u64,
        report: &mut dyn FnMut(CallEvent),
    ) -> bool {
        if let Some(mut refusal) = self.refusal.take() {
            self.refused(&mut refusal, at, next, report);
        }
        if !self.answered && self.certainty == Certainty::Certain {
            // The call that the session was for has failed; no message passed.
            self.turns.begin().last = Some(at);
        }
        for turn in &mut self.turns.open {
            turn.by_server = None;
        }
        self.report(next, report);
        for turn in std::mem::take(&mut self.turns.open) {
            if turn.complete.is_some() || turn.call.is_terminal() {
                self.turns.ended.push(turn);
                self.report(next, report);
                continue;
            }
            // Without an answer the end is where the wait ended, with one it is where the answer ended.
            let last = turn.last.unwrap_or(at);
            let mut error = turn.fault_error();
            let refused = error.is_some() && turn.key.is_none();
            let incomplete = match end {
                _ if refused => None,
                End::ServerClosed | End::Complete | End::Upgraded => {
                    let (code, reason) = self.closed.clone().unwrap_or_default();
                    let ended = || match self.answered {
                        true => self.sdk.session_closed(code, &reason),
                        false => self.sdk.session_unanswered(),
                    };
                    error = error.or_else(|| Some(ended()));
                    Some(Incomplete::ServerDisconnected)
                }
                End::ClientClosed => Some(Incomplete::ClientCancelled),
                End::Detached => Some(Incomplete::ObserverStopped),
                End::Lost => Some(Incomplete::BytesLost),
                End::Malformed => Some(Incomplete::Unparsable),
                End::ProcessExit => Some(Incomplete::ProcessExited),
            };
            self.record(turn, last, incomplete, error, report);
        }
        self.turns.begun > 0
    }

    /// The server did not accept the session: the call that it was for has failed.
    fn refused(
        &mut self,
        refusal: &mut Refusal,
        at: Timestamp,
        next: &mut u64,
        report: &mut dyn FnMut(CallEvent),
    ) {
        let Some(status) = self.status.filter(|_| self.certainty == Certainty::Certain) else {
            return;
        };
        let (document, read) = refusal.parser.finish(&mut |_| ());
        let document = document.filter(|document| {
            read == Status::Complete && (document.is_object() || document.is_array())
        });
        let raw = String::from_utf8_lossy(&refusal.raw);
        let error = self
            .sdk
            .session_refused(status, document.as_ref(), raw.trim());
        self.turns.begin().last = Some(at);
        self.report(next, report);
        for turn in std::mem::take(&mut self.turns.open) {
            self.record(turn, at, None, Some(error.clone()), report);
        }
    }

    /// Bytes held, roughly.
    pub(super) fn memory(&self) -> usize {
        let readings = [&self.sent, &self.received];
        let parsers: usize = readings
            .into_iter()
            .flatten()
            .map(|reading| reading.parser.memory())
            .sum();
        let refusal = self.refusal.as_ref().map_or(0, |refusal| {
            refusal.parser.memory() + refusal.raw.capacity()
        });
        size_of::<Self>() + parsers + refusal + self.turns.memory()
    }
}

/// The calls of a session, for a format to begin, to find and to end.
pub(super) struct Turns {
    /// What all calls begin with.
    start: Start,
    options: Options,
    open: Vec<Turn>,
    /// Those that the message ended.
    ended: Vec<Turn>,
    begun: u64,
    /// When the message began, and with what mark.
    message: (Timestamp, Origin),
    /// When it was complete.
    now: Timestamp,
    /// What the client asks of all calls, as it stands in requests.
    setup: Map<String, Value>,
    /// The model that answers.
    model: Option<String>,
    /// The end of the input.
    recent: VecDeque<String>,
    /// Messages of the client are missing that may have begun a call.
    sent_lost: bool,
    /// When the server last began a call by itself.
    last_by_server: Option<Timestamp>,
    /// The last error of a message that has not been seen, with when it came.
    stray: Option<(Timestamp, Value)>,
}

/// A call of a session.
pub(super) struct Turn {
    id: Option<CallId>,
    number: u64,
    origin: Origin,
    /// When the server began it by itself, unless it is sure that it did.
    by_server: Option<Timestamp>,
    /// What the server calls it.
    pub(super) key: Option<String>,
    /// What the client calls it.
    pub(super) tag: Option<String>,
    pub(super) call: CallBuilder,
    /// When the server last said something of it.
    last: Option<Timestamp>,
    /// When its answer was complete, if something may follow.
    complete: Option<Timestamp>,
    lost: bool,
    /// The client asked for it, and that is to be reported.
    asks: bool,
    /// It was stopped by the client.
    pub(super) cancelled: bool,
    /// An error that may be its.
    fault: Option<Value>,
    /// The HTTP status that it would have had by itself.
    pub(super) status: Option<u16>,
}

impl Turn {
    fn fault_error(&self) -> Option<Exception> {
        let fault = self.fault.as_ref()?;
        Some(Sdk::Unknown.stream_error(fault))
    }

    /// Whether it may turn out that the client began it.
    fn is_held(&self, now: Timestamp) -> bool {
        self.by_server
            .is_some_and(|begun| now.since(begun) < OVERTAKEN)
    }

    /// An error came that may be its, or another's.
    pub(super) fn fault(&mut self, message: &Value) {
        self.fault = Some(message.clone());
    }

    /// The error was not its.
    pub(super) fn forgive(&mut self) {
        self.fault = None;
    }

    /// Whether an error came that may be its.
    pub(super) fn is_at_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Bytes are missing that were its.
    pub(super) fn lost(&mut self) {
        self.lost = true;
    }

    /// Its number in the session.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Its answer is complete, and something may follow that belongs to it.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.is_some()
    }
}

impl Turns {
    /// A call begins with the message.
    pub(super) fn begin(&mut self) -> &mut Turn {
        if self.open.len() >= OPEN {
            let mut oldest = self.open.remove(0);
            oldest.lost = true;
            self.ended.push(oldest);
        }
        let (at, origin) = self.message;
        let start = Start {
            at,
            origin,
            ..self.start.clone()
        };
        let mut call = CallBuilder::new(start, self.options);
        call.stream(true);
        if !self.setup.is_empty() {
            call.request_fields(&Value::Object(self.setup.clone()));
        }
        call.response_model(self.model.as_deref());
        if !self.recent.is_empty() {
            let shown: Vec<&str> = self.recent.iter().map(String::as_str).collect();
            call.input(&shown.join("\n"));
        }
        let number = self.begun;
        self.begun += 1;
        self.open.push(Turn {
            id: None,
            number,
            origin,
            by_server: None,
            key: None,
            tag: None,
            call,
            last: None,
            complete: None,
            lost: false,
            asks: false,
            cancelled: false,
            fault: None,
            status: None,
        });
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    /// A call begins with the message, which is the client's: the server may have begun to answer it already,
    /// as far as was seen. `None` if it has also ended.
    pub(super) fn begin_by_client(&mut self) -> Option<&mut Turn> {
        let (at, origin) = self.message;
        if self.last_by_server.is_none_or(|answered| answered < at) {
            let turn = self.begin();
            turn.asks = true;
            return Some(turn);
        }
        let turn = self
            .open
            .iter_mut()
            .find(|turn| turn.by_server.is_some() && turn.call.started_at() >= at)?;
        turn.by_server = None;
        turn.asks = true;
        turn.lost = false;
        turn.origin = origin;
        turn.call.began(at, origin);
        Some(turn)
    }

    /// A call begins with the message, which is the server's.
    pub(super) fn begin_by_server(&mut self) -> &mut Turn {
        let lost = std::mem::take(&mut self.sent_lost);
        let now = self.now;
        self.last_by_server = Some(self.message.0);
        let turn = self.begin();
        turn.lost = lost;
        turn.by_server = Some(now);
        turn.last = Some(now);
        turn.call.received_at(now);
        turn
    }

    /// Whether no call is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether there is an open call like this.
    pub(super) fn has(&self, like: impl Fn(&Turn) -> bool) -> bool {
        self.open.iter().any(like)
    }

    /// Whether the server has begun to answer all calls that are open.
    pub(super) fn are_answered(&self) -> bool {
        self.open.iter().all(|turn| turn.last.is_some())
    }

    /// The error about the client's message of this name, if it was seen before the message; whether it was.
    pub(super) fn claim(&mut self, tag: Option<&str>) -> bool {
        let about = |(_, error): &(Timestamp, Value)| {
            error.get("error").and_then(|error| text(error, "event_id")) == tag
        };
        let Some((at, error)) = self.stray.take_if(|stray| tag.is_some() && about(stray)) else {
            return false;
        };
        let Some(turn) = self.open.last_mut() else {
            return false;
        };
        turn.last = Some(at);
        turn.complete = Some(at);
        turn.fault(&error);
        true
    }

    /// An error came about a message of the client that has not been seen.
    pub(super) fn stray(&mut self, message: &Value) {
        self.stray = Some((self.now, message.clone()));
    }

    /// The open call, the first of several, that a message of the server belongs to.
    pub(super) fn find(&mut self, belongs: impl Fn(&Turn) -> bool) -> Option<&mut Turn> {
        let now = self.now;
        let turn = self.open.iter_mut().find(|turn| belongs(turn))?;
        turn.last = Some(now);
        turn.call.received_at(now);
        Some(turn)
    }

    /// Calls are over for which this holds.
    pub(super) fn end(&mut self, over: impl Fn(&Turn) -> bool) {
        let (ended, open) = std::mem::take(&mut self.open)
            .into_iter()
            .partition::<Vec<_>, _>(|turn| over(turn));
        self.open = open;
        self.ended.extend(ended);
    }

    /// The answer of the call of this number is complete; something may follow that belongs to it.
    pub(super) fn complete(&mut self, number: u64) {
        let now = self.now;
        for turn in self.open.iter_mut().filter(|turn| turn.number == number) {
            turn.complete.get_or_insert(now);
        }
    }

    /// What the client asks of all calls from here on, as it stands in requests.
    pub(super) fn setup(&mut self, asked: &Value) {
        for (name, value) in asked.as_object().into_iter().flatten() {
            self.setup.insert(name.clone(), value.clone());
        }
    }

    /// The model that is asked for, if nothing else names one.
    pub(super) fn request_model(&mut self, model: &str) {
        if self.start.model.is_none() {
            self.start.model = Some(model.to_owned());
            for turn in &mut self.open {
                turn.call.request_model(Some(model));
            }
        }
    }

    /// The model that answers from here on.
    pub(super) fn response_model(&mut self, model: &str) {
        // A client may ask before it has heard.
        if self.model.is_none() {
            for turn in &mut self.open {
                turn.call.response_model(Some(model));
            }
        }
        self.model = Some(model.to_owned());
    }

    /// Something was said to the model.
    pub(super) fn input(&mut self, role: &str, text: &str) {
        if !self.options.capture_content || text.is_empty() {
            return;
        }
        if self.recent.len() >= SHOWN {
            self.recent.pop_front();
        }
        let limit = self.options.input_preview_chars;
        self.recent
            .push_back(preview::cut(&format!("[{role}] {text}"), limit));
    }

    /// Bytes are missing.
    fn lose(&mut self, direction: Direction) {
        match direction {
            Direction::Received => {
                for turn in &mut self.open {
                    turn.lost = true;
                }
            }
            Direction::Sent => self.sent_lost = true,
        }
    }

    fn memory(&self) -> usize {
        let turns: usize = self
            .open
            .iter()
            .map(|turn| size_of::<Turn>() + turn.call.memory())
            .sum();
        let recent: usize = self.recent.iter().map(String::capacity).sum();
        turns + recent + self.setup.len() * NAME_CHARS
    }
}
