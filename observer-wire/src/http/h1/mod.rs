//! HTTP/1.1 (RFC 9112), and 1.0 as far as it is the same.
//!
//! The two directions are read independently: a response may begin before its request has ended. A
//! connection is joined wherever it stands, and after a loss: requests begin at the beginning of a
//! write, so the next one puts both directions in step again.

mod body;
mod head;

pub(super) use self::head::begins_request;

use std::{collections::VecDeque, fmt, mem};

use http::{Method, StatusCode};

use self::{
    body::{Body, Chunked, Step},
    head::{HeadBuffer, Length, Progress},
};
use super::{
    End, Event, ExchangeId,
    redact::Salt,
    websocket::{self, Session},
};
use crate::chunk::{Close, Direction, Origin, Timestamp};

/// Most requests that may wait for their responses; beyond, the connection is not understood.
const PIPELINED: usize = 64;

/// Bytes that are kept of a response that is seen before its request.
const EARLY_BYTES: usize = 16 * 1024;

/// Follows the requests and responses of one connection of a client.
#[derive(Default)]
pub struct Connection {
    requests: Requests,
    responses: Responses,
    /// Exchanges whose response is not complete, in the order of their requests.
    open: VecDeque<Open>,
    next: u64,
    /// What was received while no request was open, and begins like a response.
    early: Option<Early>,
    /// The WebSocket session to which the first open exchange has changed.
    session: Option<Box<Session>>,
    /// The connection speaks something else from here on.
    opaque: bool,
    /// What credentials are hashed under.
    salt: Salt,
}

/// A response that is seen before its request: where one thread reads and another writes, the read may return
/// first.
#[derive(Debug)]
struct Early {
    /// When its first byte came.
    at: Timestamp,
    /// When its last did, with its mark.
    last: (Timestamp, Origin),
    bytes: Vec<u8>,
    too_long: bool,
}

/// An exchange that waits for its response or the rest of it.
#[derive(Debug)]
struct Open {
    exchange: ExchangeId,
    method: Method,
    websocket: bool,
}

/// Where the parser is in the bytes that the client sends.
#[derive(Debug, Default)]
enum Requests {
    /// In the body of a request.
    Body { exchange: ExchangeId, body: Body },
    /// In a head that began with a chunk of this time and mark.
    Head {
        buffer: HeadBuffer,
        at: Timestamp,
        origin: Origin,
    },
    /// Not in step: a request may begin with the next chunk.
    #[default]
    Seeking,
}

/// Where the parser is in the bytes that the client receives.
#[derive(Debug, Default)]
enum Responses {
    /// In the body of the response to the first open exchange.
    Body(Body),
    /// Before or in the head of that response.
    Head(HeadBuffer),
    /// Not in step: nothing can be paired before the next request.
    #[default]
    Seeking,
}

impl Connection {
    /// Nothing has passed yet. Credentials are hashed under `salt`, unless it is zero.
    pub fn new(salt: [u8; 32]) -> Self {
        Self {
            salt,
            ..Self::default()
        }
    }

    /// Takes the next bytes of a direction. `bytes` are those of one write or read of the process or
    /// of a part of it.
    pub fn data(
        &mut self,
        direction: Direction,
        at: Timestamp,
        origin: Origin,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        if self.opaque {
            return;
        }
        if let Some(session) = &mut self.session {
            let ended = session.data(direction, at, origin, bytes, sink);
            return self.end_session(ended, at, sink);
        }
        match direction {
            Direction::Sent => self.sent(at, origin, bytes, sink),
            Direction::Received => self.received(at, origin, bytes, sink),
        }
    }

    /// Steps over bytes of a direction that are missing.
    pub fn gap(
        &mut self,
        direction: Direction,
        bytes: u64,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        if self.opaque || bytes == 0 {
            return;
        }
        if let Some(session) = &mut self.session {
            let ended = session.gap(direction, bytes, at, sink);
            return self.end_session(ended, at, sink);
        }
        match direction {
            Direction::Sent => {
                if let Requests::Body { exchange, body } = &mut self.requests {
                    let exchange = *exchange;
                    let in_step = body.skip(bytes);
                    if self.open.iter().any(|open| open.exchange == exchange) {
                        sink(Event::RequestGap { exchange, bytes });
                        if !in_step {
                            sink(Event::RequestEnd { exchange, at });
                        }
                    }
                    if in_step {
                        if matches!(body, Body::Length(0)) {
                            let wanted = self.open.iter().any(|open| open.exchange == exchange);
                            self.request_end(exchange, wanted, at, sink);
                        }
                        return;
                    }
                }
                self.requests = Requests::Seeking;
            }
            Direction::Received => {
                if let Responses::Body(body) = &mut self.responses
                    && let Some(open) = self.open.front()
                    && body.skip(bytes)
                {
                    sink(Event::ResponseGap {
                        exchange: open.exchange,
                        bytes,
                    });
                    if matches!(body, Body::Length(0)) {
                        self.end_first(End::Complete, at, sink);
                    }
                } else {
                    self.early = None;
                    // What is missing may hold the end of one response and the head of the next.
                    self.end_all(End::Lost, at, sink);
                    self.responses = Responses::Seeking;
                }
            }
        }
    }

    /// Ends every exchange: no bytes will follow, or none that could be understood.
    pub fn close(&mut self, close: Close, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        if let (Responses::Body(Body::UntilClose), Close::Peer { .. }) = (&self.responses, close) {
            self.end_first(End::Complete, at, sink);
        }
        let end = match close {
            Close::Detached => End::Detached,
            Close::Local => End::ClientClosed,
            Close::Peer { .. } => End::ServerClosed,
            Close::ProcessExit => End::ProcessExit,
        };
        if let Some(session) = self.session.take() {
            self.end_session(Some(session.end(end)), at, sink);
        }
        self.end_all(end, at, sink);
        self.requests = Requests::Seeking;
        self.responses = Responses::Seeking;
    }

    /// Whether there has been a request.
    pub(super) fn has_seen_request(&self) -> bool {
        self.next > 0
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        let requests = match &self.requests {
            Requests::Head { buffer, .. } => buffer.memory(),
            _ => 0,
        };
        let responses = match &self.responses {
            Responses::Head(buffer) => buffer.memory(),
            _ => 0,
        };
        let early = self
            .early
            .as_ref()
            .map_or(0, |early| early.bytes.capacity());
        let session = self.session.as_ref().map_or(0, |session| session.memory());
        size_of::<Self>()
            + early
            + session
            + requests
            + responses
            + self.open.capacity() * size_of::<Open>()
    }

    fn sent(
        &mut self,
        at: Timestamp,
        origin: Origin,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        while !bytes.is_empty() && !self.opaque {
            match &mut self.requests {
                Requests::Seeking => {
                    if !begins_request(bytes) {
                        return;
                    }
                    self.requests = Requests::Head {
                        buffer: HeadBuffer::default(),
                        at,
                        origin,
                    };
                }
                Requests::Head {
                    buffer,
                    at: begun,
                    origin,
                } => {
                    let (begun, origin) = (*begun, *origin);
                    match buffer.push(bytes) {
                        Progress::Incomplete => {
                            if !buffer.may_be_request() {
                                self.requests = Requests::Seeking;
                            }
                            return;
                        }
                        Progress::TooLong => self.requests = Requests::Seeking,
                        Progress::Complete(head, used) => {
                            bytes = &bytes[used..];
                            self.request_head(&head, begun, at, origin, sink);
                        }
                    }
                    if matches!(self.requests, Requests::Seeking) && !begins_request(bytes) {
                        return;
                    }
                }
                Requests::Body { exchange, body } => {
                    let exchange = *exchange;
                    let wanted = self.open.iter().any(|open| open.exchange == exchange);
                    match body.step(bytes) {
                        Step::Data(length) => {
                            let (data, rest) = bytes.split_at(length);
                            bytes = rest;
                            if wanted {
                                sink(Event::RequestBody {
                                    exchange,
                                    bytes: data,
                                    at,
                                });
                            }
                            if matches!(body, Body::Length(0)) {
                                self.request_end(exchange, wanted, at, sink);
                            }
                        }
                        Step::Framing(length) => bytes = &bytes[length..],
                        Step::End(length) => {
                            bytes = &bytes[length..];
                            self.request_end(exchange, wanted, at, sink);
                        }
                        Step::Malformed => {
                            self.end_all(End::Malformed, at, sink);
                            self.requests = Requests::Seeking;
                            self.responses = Responses::Seeking;
                            return;
                        }
                    }
                }
            }
        }
    }

    fn request_end(
        &mut self,
        exchange: ExchangeId,
        wanted: bool,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        if wanted {
            sink(Event::RequestEnd { exchange, at });
        }
        self.requests = Requests::Seeking;
    }

    fn request_head(
        &mut self,
        bytes: &[u8],
        begun: Timestamp,
        at: Timestamp,
        origin: Origin,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        self.requests = Requests::Seeking;
        if !begins_request(bytes) {
            return;
        }
        let Some((head, length)) = head::request(bytes, &self.salt) else {
            self.end_all(End::Malformed, at, sink);
            self.responses = Responses::Seeking;
            return;
        };
        if matches!(self.responses, Responses::Seeking) {
            // The responses to older requests cannot be told from the one to this.
            self.end_all(End::Lost, at, sink);
        }
        if self.open.is_empty() {
            self.responses = Responses::Head(HeadBuffer::default());
        }
        if self.open.len() >= PIPELINED {
            self.end_all(End::Malformed, at, sink);
            self.responses = Responses::Seeking;
            return;
        }
        let exchange = ExchangeId(self.next);
        self.next += 1;
        self.open.push_back(Open {
            exchange,
            method: head.method.clone(),
            websocket: head.websocket,
        });
        sink(Event::RequestHead {
            exchange,
            head,
            at: begun,
            origin,
        });
        match length {
            Length::Chunked => {
                self.requests = Requests::Body {
                    exchange,
                    body: Body::Chunked(Chunked::START),
                };
            }
            Length::Known(length) if length > 0 => {
                self.requests = Requests::Body {
                    exchange,
                    body: Body::Length(length),
                };
            }
            Length::Known(_) | Length::Unstated => sink(Event::RequestEnd { exchange, at }),
        }
        // One that came before the request was handed over is another's.
        if let Some(early) = self.early.take()
            && early.at > begun
            && !early.too_long
        {
            let (at, origin) = early.last;
            self.data(Direction::Received, at, origin, &early.bytes, sink);
        }
    }

    fn received(
        &mut self,
        at: Timestamp,
        origin: Origin,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        while !bytes.is_empty() && !self.opaque {
            if self.session.is_some() {
                return self.data(Direction::Received, at, origin, bytes, sink);
            }
            let Some(open) = self.open.front() else {
                self.responses = Responses::Seeking;
                return self.keep_early(at, origin, bytes);
            };
            let exchange = open.exchange;
            match &mut self.responses {
                Responses::Seeking => return,
                Responses::Head(buffer) => match buffer.push(bytes) {
                    Progress::Incomplete => return,
                    Progress::TooLong => return self.malformed(at, sink),
                    Progress::Complete(head, used) => {
                        bytes = &bytes[used..];
                        let (method, websocket) = (open.method.clone(), open.websocket);
                        self.response_head(&head, exchange, &method, websocket, at, sink);
                    }
                },
                Responses::Body(body) => match body.step(bytes) {
                    Step::Data(length) => {
                        let (data, rest) = bytes.split_at(length);
                        bytes = rest;
                        sink(Event::ResponseBody {
                            exchange,
                            bytes: data,
                            at,
                        });
                        if matches!(body, Body::Length(0)) {
                            self.end_first(End::Complete, at, sink);
                        }
                    }
                    Step::Framing(length) => bytes = &bytes[length..],
                    Step::End(length) => {
                        bytes = &bytes[length..];
                        self.end_first(End::Complete, at, sink);
                    }
                    Step::Malformed => return self.malformed(at, sink),
                },
            }
        }
    }

    /// Keeps what may belong to a request that shows later.
    fn keep_early(&mut self, at: Timestamp, origin: Origin, bytes: &[u8]) {
        if self.early.is_none() && !bytes.starts_with(b"HTTP/1.") {
            return;
        }
        let early = self.early.get_or_insert_with(|| Early {
            at,
            last: (at, origin),
            bytes: Vec::new(),
            too_long: false,
        });
        early.last = (at, origin);
        early.too_long |= early.bytes.len() + bytes.len() > EARLY_BYTES;
        if early.too_long {
            early.bytes = Vec::new();
        } else {
            early.bytes.extend_from_slice(bytes);
        }
    }

    fn response_head(
        &mut self,
        bytes: &[u8],
        exchange: ExchangeId,
        method: &Method,
        websocket: bool,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let Some((head, status, length)) = head::response(bytes) else {
            return self.malformed(at, sink);
        };
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            self.responses = Responses::Head(HeadBuffer::default());
            return;
        }
        let accepted = websocket
            && status == StatusCode::SWITCHING_PROTOCOLS
            && websocket::is_upgrade(&head.headers);
        let session = accepted
            .then(|| Session::accepted(exchange, &head.headers))
            .flatten();
        sink(Event::ResponseHead { exchange, head, at });
        if let Some(session) = session {
            let first = self.open.pop_front();
            self.end_all(End::Lost, at, sink);
            self.open.extend(first);
            self.session = Some(Box::new(session));
            return;
        }
        let tunnel = method == Method::CONNECT && status.is_success();
        if status == StatusCode::SWITCHING_PROTOCOLS || tunnel {
            self.end_first(End::Upgraded, at, sink);
            self.end_all(End::Lost, at, sink);
            self.opaque = true;
            return;
        }
        let no_body = method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        match length {
            Length::Known(0) => self.end_first(End::Complete, at, sink),
            _ if no_body => self.end_first(End::Complete, at, sink),
            Length::Chunked => self.responses = Responses::Body(Body::Chunked(Chunked::START)),
            Length::Known(length) => self.responses = Responses::Body(Body::Length(length)),
            Length::Unstated => self.responses = Responses::Body(Body::UntilClose),
        }
    }

    /// The session has ended, if so; nobody says what follows.
    fn end_session(&mut self, end: Option<End>, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        if let Some(end) = end {
            self.session = None;
            self.end_all(end, at, sink);
            self.opaque = true;
        }
    }

    fn malformed(&mut self, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        self.end_all(End::Malformed, at, sink);
        self.responses = Responses::Seeking;
    }

    /// Ends the first open exchange; what comes next is the response to the one after it.
    fn end_first(&mut self, end: End, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(Open { exchange, .. }) = self.open.pop_front() else {
            return;
        };
        self.responses = Responses::Head(HeadBuffer::default());
        if let Requests::Body {
            exchange: sending, ..
        } = &self.requests
            && *sending == exchange
        {
            // Answered early. Whether the rest of the request will come is up to the client.
            self.requests = Requests::Seeking;
        }
        sink(Event::End { exchange, end, at });
    }

    fn end_all(&mut self, end: End, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        for Open { exchange, .. } in mem::take(&mut self.open) {
            sink(Event::End { exchange, end, at });
        }
    }
}

impl fmt::Debug for Connection {
    // It holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("open", &self.open)
            .field("opaque", &self.opaque)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
