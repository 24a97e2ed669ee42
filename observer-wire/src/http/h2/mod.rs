//! HTTP/2 (RFC 9113).
//!
//! The two directions are read independently. Of each stream that a client opens an exchange is made;
//! what servers push, priorities, settings and flow control are of no concern. A connection is joined
//! wherever it stands, and after a loss: frames begin at the beginning of a write or read. What HPACK's
//! dynamic table held before is unknown then, and heads that refer to it say so.

mod frame;
mod head;
pub mod hpack;
mod huffman;

use std::{collections::BTreeMap, mem};

pub(super) use self::frame::{begins_frames, begins_settings};
use self::{
    frame::{END_HEADERS, END_STREAM, HEADER_BYTES, Header, Kind, PADDED, PRIORITY},
    head::Fields,
    hpack::Decoder,
};
use super::{
    End, Event, ExchangeId, ResponseHead, fields::HEAD_BYTES, redact::Salt, websocket::Session,
};
use crate::chunk::{Close, Direction, Origin, Timestamp};

/// With what a client begins (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most streams at once; beyond, the one that was opened first ends as lost. Servers allow 100 to 1000.
const STREAMS: usize = 1024;

/// Bytes of a frame's payload that are read as one: a stream's number and an error.
const SMALL_BYTES: usize = 8;

/// Follows the requests and responses of one connection of a client.
pub struct Connection {
    sent: Half,
    received: Half,
    streams: BTreeMap<u32, Stream>,
    /// The highest stream that the client has opened.
    last: u32,
    /// What credentials are hashed under.
    salt: Salt,
}

/// A stream whose response is not complete.
#[derive(Debug)]
struct Stream {
    exchange: ExchangeId,
    request: Side,
    response: Side,
    /// Bytes are missing that may be its.
    lost: bool,
    tunnel: Tunnel,
}

/// What the body of a stream carries.
#[derive(Debug)]
enum Tunnel {
    /// The body of a request or response.
    None,
    /// A WebSocket session (RFC 8441), if the response accepts it.
    Asked,
    /// Such a session.
    Session(Box<Session>),
}

/// How far one direction of a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Body,
    Done,
    Head,
}

/// One direction.
#[derive(Debug)]
struct Half {
    state: State,
    /// A header block that is not complete.
    block: Option<Block>,
    decoder: Decoder,
}

/// Where the parser is.
#[derive(Debug)]
enum State {
    /// In the header of a frame that began with a chunk of this time and mark.
    Header {
        bytes: [u8; HEADER_BYTES],
        held: usize,
        at: Timestamp,
        origin: Origin,
    },
    /// In the payload of a frame.
    Payload(Payload),
    /// In the client's preface.
    Preface { matched: usize },
    /// Not in step: a frame may begin with the next chunk.
    Seeking,
    /// Before the first byte of a server, which sends settings first (RFC 9113 section 3.4).
    Start,
}

#[derive(Debug)]
struct Payload {
    header: Header,
    /// Bytes of the payload that have passed.
    read: u32,
    /// Padding at the end.
    padding: u32,
    /// The first bytes of frames that are read as one.
    small: [u8; SMALL_BYTES],
}

/// Header fields as they come, over HEADERS or PUSH_PROMISE and what continues them (section 4.3).
struct Block {
    stream: u32,
    bytes: Vec<u8>,
    /// Bytes of it are missing.
    lost: bool,
    /// There are more than are read.
    too_long: bool,
    ends_stream: bool,
    /// It announces a stream of the server.
    promise: bool,
    at: Timestamp,
    origin: Origin,
}

impl Default for Connection {
    /// At its beginning, unless its first bytes are others than those of a beginning.
    fn default() -> Self {
        let half = |state| Half {
            state,
            block: None,
            decoder: Decoder::default(),
        };
        Self {
            sent: half(State::Preface { matched: 0 }),
            received: half(State::Start),
            streams: BTreeMap::new(),
            last: 0,
            salt: [0; 32],
        }
    }
}

impl Connection {
    /// At its beginning. Credentials are hashed under `salt`, unless it is zero.
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
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        while !bytes.is_empty() {
            let half = self.half(direction);
            match &mut half.state {
                State::Preface { matched } => {
                    let wanted = &PREFACE[*matched..];
                    let length = wanted.len().min(bytes.len());
                    if bytes[..length] == wanted[..length] {
                        *matched += length;
                        bytes = &bytes[length..];
                        if *matched == PREFACE.len() {
                            half.state = State::header(at, origin);
                        }
                    } else {
                        half.lose_step();
                    }
                }
                State::Start if begins_settings(bytes) => {
                    half.state = State::header(at, origin);
                }
                State::Start => half.lose_step(),
                State::Seeking => {
                    if !begins_frames(direction, bytes) {
                        return;
                    }
                    half.state = State::header(at, origin);
                }
                State::Header {
                    bytes: header,
                    held,
                    at: begun,
                    origin: mark,
                } => {
                    if *held == 0 {
                        (*begun, *mark) = (at, origin);
                    }
                    let length = (HEADER_BYTES - *held).min(bytes.len());
                    header[*held..*held + length].copy_from_slice(&bytes[..length]);
                    *held += length;
                    bytes = &bytes[length..];
                    if *held == HEADER_BYTES {
                        let (header, begun, mark) = (Header::parse(*header), *begun, *mark);
                        if !half.begin(direction, header, begun, mark) {
                            self.out_of_step(direction, at, sink);
                            return;
                        }
                        if header.length == 0 {
                            self.end_frame(direction, at, sink);
                        }
                    }
                }
                State::Payload(payload) => {
                    let left = payload.header.length - payload.read;
                    let length = bytes.len().min(left as usize);
                    let (piece, rest) = bytes.split_at(length);
                    bytes = rest;
                    let ends = length == left as usize;
                    if !self.payload(direction, at, origin, piece, sink) {
                        self.out_of_step(direction, at, sink);
                        return;
                    }
                    if ends {
                        self.end_frame(direction, at, sink);
                    }
                }
            }
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
        if bytes == 0 {
            return;
        }
        let half = self.half(direction);
        if let State::Payload(payload) = &mut half.state
            && let Ok(missing) = u32::try_from(bytes)
            && payload.header.length - payload.read >= missing
            // Where the padding begins must be known.
            && (payload.read > 0 || !payload.header.has(PADDED))
        {
            let header = payload.header;
            payload.read += missing;
            // Without the number of a stream a GOAWAY touches none.
            payload.small = [u8::MAX; SMALL_BYTES];
            let ends = payload.read == header.length;
            if let Some(block) = &mut half.block {
                block.lost = true;
            }
            if matches!(header.kind, Kind::Continuation | Kind::Data | Kind::Headers) {
                self.lose(direction, Some(header.stream), bytes, at, sink);
            }
            if ends {
                self.end_frame(direction, at, sink);
            }
            return;
        }
        half.lose_step();
        // It may have been the end of any of them, or a part of it.
        self.lose(direction, None, bytes, at, sink);
    }

    /// Ends every exchange: no bytes will follow, or none that could be understood.
    pub fn close(&mut self, close: Close, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        let end = match close {
            Close::Detached => End::Detached,
            Close::Local => End::ClientClosed,
            Close::Peer { .. } => End::ServerClosed,
            Close::ProcessExit => End::ProcessExit,
        };
        for stream in mem::take(&mut self.streams).into_values() {
            let exchange = stream.exchange;
            let end = match stream.tunnel {
                Tunnel::Session(session) => session.end(end),
                // Its end may have passed unseen.
                _ if stream.lost => End::Lost,
                _ => end,
            };
            sink(Event::End { exchange, end, at });
        }
        self.sent.lose_step();
        self.received.lose_step();
    }

    /// Whether nothing of what the client sends is understood.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.sent.state, State::Seeking) && self.streams.is_empty()
    }

    /// The server's first bytes have passed.
    pub(super) fn join_received(&mut self) {
        self.received.state = State::Seeking;
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        let sessions: usize = self
            .streams
            .values()
            .map(|stream| match &stream.tunnel {
                Tunnel::Session(session) => session.memory(),
                Tunnel::Asked | Tunnel::None => 0,
            })
            .sum();
        size_of::<Self>()
            + sessions
            + self.streams.len() * size_of::<(u32, Stream)>()
            + self.sent.memory()
            + self.received.memory()
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        }
    }

    /// Takes bytes of the payload of a frame; false if they cannot be.
    fn payload(
        &mut self,
        direction: Direction,
        at: Timestamp,
        origin: Origin,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) -> bool {
        let half = self.half(direction);
        let State::Payload(payload) = &mut half.state else {
            return false;
        };
        let header = payload.header;
        let begun = payload.read;
        payload.read += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match header.kind {
            Kind::Data | Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                // What stands before the data or the fields (sections 6.1, 6.2, 6.6).
                let mut before = 0;
                if header.kind != Kind::Continuation && header.has(PADDED) {
                    before = 1;
                    if begun == 0 {
                        payload.padding = bytes.first().copied().map_or(0, u32::from);
                    }
                }
                if header.kind == Kind::Headers && header.has(PRIORITY) {
                    before += 5;
                } else if header.kind == Kind::PushPromise {
                    before += 4;
                }
                let Some(end) = header
                    .length
                    .checked_sub(payload.padding)
                    .filter(|end| *end >= before)
                else {
                    return false;
                };
                let skipped = before.saturating_sub(begun) as usize;
                let kept = end.saturating_sub(begun) as usize;
                bytes = &bytes[..kept.min(bytes.len())];
                bytes = bytes.get(skipped..).unwrap_or_default();
                if bytes.is_empty() {
                    return true;
                }
                if header.kind == Kind::Data {
                    self.body(direction, header.stream, bytes, at, origin, sink);
                } else if let Some(block) = &mut half.block {
                    block.push(bytes);
                }
            }
            Kind::GoAway | Kind::ResetStream => {
                let place = begun as usize;
                if let Some(room) = payload.small.get_mut(place..) {
                    let length = room.len().min(bytes.len());
                    room[..length].copy_from_slice(&bytes[..length]);
                }
            }
            _ => {}
        }
        true
    }

    /// A frame is complete.
    fn end_frame(&mut self, direction: Direction, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        let half = self.half(direction);
        let State::Payload(payload) =
            mem::replace(&mut half.state, State::header(at, Origin::default()))
        else {
            return;
        };
        let header = payload.header;
        match header.kind {
            Kind::Data if header.has(END_STREAM) => {
                self.end_side(direction, header.stream, at, sink);
            }
            Kind::Continuation | Kind::Headers | Kind::PushPromise if header.has(END_HEADERS) => {
                if let Some(block) = half.block.take() {
                    self.head(direction, block, at, sink);
                }
            }
            Kind::GoAway if direction == Direction::Received => {
                // Later streams were not and will not be answered (section 6.8).
                let [a, b, c, d, ..] = payload.small;
                let last = u32::from_be_bytes([a & 0x7f, b, c, d]);
                if last < u32::MAX >> 1 {
                    for stream in self.streams.split_off(&(last + 1)).into_values() {
                        let (exchange, end) = (stream.exchange, End::ServerClosed);
                        sink(Event::End { exchange, end, at });
                    }
                }
            }
            Kind::ResetStream => {
                let end = match direction {
                    Direction::Received => End::ServerClosed,
                    Direction::Sent => End::ClientClosed,
                };
                self.end(header.stream, end, at, sink);
            }
            _ => {}
        }
    }

    /// A header block is complete.
    fn head(
        &mut self,
        direction: Direction,
        block: Block,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let salt = self.salt;
        let half = self.half(direction);
        let fields = if block.lost || block.too_long {
            half.decoder.forget();
            None
        } else {
            Fields::decode(&mut half.decoder, &block.bytes, &salt)
        };
        if block.promise {
            return;
        }
        match direction {
            Direction::Received => self.response_head(&block, fields, at, sink),
            Direction::Sent => self.request_head(&block, fields, at, sink),
        }
        if block.ends_stream {
            self.end_side(direction, block.stream, at, sink);
        }
    }

    fn request_head(
        &mut self,
        block: &Block,
        fields: Option<Fields>,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        // A block on a stream that is known is a trailer, and one on a lower stream of no exchange.
        if block.stream.is_multiple_of(2) || block.stream <= self.last {
            return;
        }
        self.last = block.stream;
        let Some(head) = fields.and_then(|fields| fields.request(block.ends_stream)) else {
            return;
        };
        if self.streams.len() >= STREAMS
            && let Some((_, oldest)) = self.streams.pop_first()
        {
            let (exchange, end) = (oldest.exchange, End::Lost);
            sink(Event::End { exchange, end, at });
        }
        let exchange = ExchangeId(u64::from(block.stream));
        self.streams.insert(
            block.stream,
            Stream {
                exchange,
                request: Side::Body,
                response: Side::Head,
                lost: false,
                tunnel: if head.websocket {
                    Tunnel::Asked
                } else {
                    Tunnel::None
                },
            },
        );
        sink(Event::RequestHead {
            exchange,
            head,
            at: block.at,
            origin: block.origin,
        });
    }

    fn response_head(
        &mut self,
        block: &Block,
        fields: Option<Fields>,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(stream) = self.streams.get_mut(&block.stream) else {
            return;
        };
        let exchange = stream.exchange;
        if stream.response == Side::Body {
            // Without its trailers a body is still a body.
            if let Some(fields) = fields {
                sink(Event::ResponseTrailers {
                    exchange,
                    headers: fields.headers,
                    partial: fields.unknown,
                    at,
                });
            }
            return;
        }
        let lost = stream.lost || block.lost;
        match fields.and_then(Fields::response) {
            Some(head) if head.status.is_some_and(|status| status.is_informational()) => {}
            Some(head) => {
                stream.response = Side::Body;
                let accepted = head.status.is_some_and(|status| status.is_success());
                stream.tunnel = match stream.tunnel {
                    Tunnel::Asked if accepted => Session::accepted(exchange, &head.headers)
                        .map_or(Tunnel::None, |session| Tunnel::Session(Box::new(session))),
                    _ => Tunnel::None,
                };
                sink(Event::ResponseHead { exchange, head, at });
            }
            // What follows may tell.
            None if lost => {}
            None => self.end(block.stream, End::Malformed, at, sink),
        }
    }

    fn body(
        &mut self,
        direction: Direction,
        number: u32,
        bytes: &[u8],
        at: Timestamp,
        origin: Origin,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let exchange = stream.exchange;
        if let Tunnel::Session(session) = &mut stream.tunnel {
            if let Some(end) = session.data(direction, at, origin, bytes, sink) {
                self.end(number, end, at, sink);
            }
            return;
        }
        match direction {
            Direction::Sent if stream.request == Side::Body => sink(Event::RequestBody {
                exchange,
                bytes,
                at,
            }),
            Direction::Sent => {}
            Direction::Received => {
                if stream.response == Side::Head {
                    stream.response = Side::Body;
                    let head = ResponseHead::unknown();
                    sink(Event::ResponseHead { exchange, head, at });
                }
                sink(Event::ResponseBody {
                    exchange,
                    bytes,
                    at,
                });
            }
        }
    }

    /// One direction of a stream is complete.
    fn end_side(
        &mut self,
        direction: Direction,
        number: u32,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        match direction {
            Direction::Received => {
                let end = match &stream.tunnel {
                    Tunnel::Session(session) => session.end(End::ServerClosed),
                    Tunnel::Asked | Tunnel::None => End::Complete,
                };
                self.end(number, end, at, sink);
            }
            Direction::Sent if stream.request == Side::Body => {
                stream.request = Side::Done;
                let exchange = stream.exchange;
                sink(Event::RequestEnd { exchange, at });
            }
            Direction::Sent => {}
        }
    }

    fn end(&mut self, number: u32, end: End, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        if let Some(stream) = self.streams.remove(&number) {
            let exchange = stream.exchange;
            sink(Event::End { exchange, end, at });
        }
    }

    /// Bytes of a direction are missing, of one stream or of any.
    fn lose(
        &mut self,
        direction: Direction,
        number: Option<u32>,
        bytes: u64,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let touched = self
            .streams
            .iter_mut()
            .filter(|(other, _)| number.is_none_or(|number| number == **other));
        let mut ended = Vec::new();
        for (other, stream) in touched {
            let exchange = stream.exchange;
            if let Tunnel::Session(session) = &mut stream.tunnel {
                ended.extend(
                    session
                        .gap(direction, bytes, at, sink)
                        .map(|end| (*other, end)),
                );
                continue;
            }
            match direction {
                Direction::Received => {
                    stream.lost |= number.is_none();
                    sink(Event::ResponseGap { exchange, bytes });
                }
                Direction::Sent if stream.request == Side::Body => {
                    stream.lost |= number.is_none();
                    sink(Event::RequestGap { exchange, bytes });
                }
                Direction::Sent => {}
            }
        }
        for (number, end) in ended {
            self.end(number, end, at, sink);
        }
    }

    /// The bytes of a direction are no frames.
    fn out_of_step(
        &mut self,
        direction: Direction,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        self.half(direction).lose_step();
        for stream in mem::take(&mut self.streams).into_values() {
            let (exchange, end) = (stream.exchange, End::Malformed);
            sink(Event::End { exchange, end, at });
        }
    }
}

impl Half {
    /// A frame begins; false if it cannot.
    fn begin(
        &mut self,
        direction: Direction,
        header: Header,
        at: Timestamp,
        origin: Origin,
    ) -> bool {
        // Nothing may come between the parts of a header block (section 4.3).
        let continues = header.kind == Kind::Continuation;
        let expected = self.block.as_ref().map(|block| block.stream);
        if !header.is_valid(direction) || expected != continues.then_some(header.stream) {
            return false;
        }
        if matches!(header.kind, Kind::Headers | Kind::PushPromise) {
            let promise = header.kind == Kind::PushPromise;
            self.block = Some(Block {
                stream: header.stream,
                bytes: Vec::new(),
                lost: false,
                too_long: false,
                ends_stream: !promise && header.has(END_STREAM),
                promise,
                at,
                origin,
            });
        }
        self.state = State::Payload(Payload {
            header,
            read: 0,
            padding: 0,
            small: [0; SMALL_BYTES],
        });
        true
    }

    /// What comes next can be anything.
    fn lose_step(&mut self) {
        self.state = State::Seeking;
        self.block = None;
        self.decoder.forget();
    }

    fn memory(&self) -> usize {
        let block = self
            .block
            .as_ref()
            .map_or(0, |block| block.bytes.capacity());
        block + self.decoder.memory()
    }
}

impl State {
    fn header(at: Timestamp, origin: Origin) -> Self {
        Self::Header {
            bytes: [0; HEADER_BYTES],
            held: 0,
            at,
            origin,
        }
    }
}

impl Block {
    fn push(&mut self, bytes: &[u8]) {
        self.too_long |= self.bytes.len() + bytes.len() > HEAD_BYTES;
        if !self.too_long {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

impl std::fmt::Debug for Connection {
    // The salt is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("sent", &self.sent)
            .field("received", &self.received)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Block {
    // It holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block")
            .field("stream", &self.stream)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
