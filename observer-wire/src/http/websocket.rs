//! WebSocket (RFC 6455), with messages that are compressed (RFC 7692).
//!
//! A session begins behind the response that accepts it. Each message is handed on in pieces as its bytes
//! come, so that none costs its size. After a loss frames are looked for at the beginning of a write or
//! read; a compressed message that refers to one that was lost cannot be read.
//!
//! A session that was joined in its middle is not read: whether its messages are compressed, and to which
//! of the services of the host they go, stands in the heads that were not seen.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, header};

use super::{End, Event, ExchangeId};
use crate::chunk::{Direction, Origin, Timestamp};

/// Longest header of a frame (RFC 6455 section 5.2): two bytes, a length of 64 bits, and a key.
const HEADER_BYTES: usize = 14;

/// Longest payload of a control frame (section 5.5).
const CONTROL_BYTES: usize = 125;

/// Bytes that are unmasked or inflated at a time.
const PIECE_BYTES: usize = 4096;

/// What is left out at the end of a compressed message (RFC 7692 section 7.2.1).
const DEFLATE_TAIL: &[u8] = &[0, 0, 0xff, 0xff];

/// What an inflater holds, roughly: the window of deflate and its tables.
const INFLATER_BYTES: usize = 44 * 1024;

/// A part of a message, or of what passes between messages.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    /// A message begins, with a chunk of this mark.
    Begin {
        /// The mark.
        origin: Origin,
        /// Whether it is text, or else binary.
        text: bool,
    },
    /// The next bytes of the message.
    Bytes(&'a [u8]),
    /// The message is complete.
    End,
    /// So many bytes are missing, as they were on the wire: of the message, or between messages and then
    /// perhaps whole ones.
    Gap(u64),
    /// The sender closes the session; no message of it follows.
    Close {
        /// Why (RFC 6455 section 7.4).
        code: Option<u16>,
        /// Why, in words.
        reason: &'a str,
    },
}

impl fmt::Debug for Part<'_> {
    // Content must not reach a log through `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { origin, text } => f
                .debug_struct("Begin")
                .field("origin", origin)
                .field("text", text)
                .finish(),
            Self::Bytes(bytes) => write!(f, "Bytes(<{} bytes>)", bytes.len()),
            Self::End => f.write_str("End"),
            Self::Gap(bytes) => write!(f, "Gap({bytes})"),
            Self::Close { code, reason } => {
                write!(f, "Close({code:?}, <{} bytes>)", reason.len())
            }
        }
    }
}

/// Whether a request over HTTP/1.1 asks for a session (RFC 6455 section 4.1), or a response accepts one.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::UPGRADE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// Follows the messages of one session.
#[derive(Debug)]
pub(super) struct Session {
    exchange: ExchangeId,
    sent: Half,
    received: Half,
    /// Who closed it first.
    closed: Option<Direction>,
}

/// One direction.
#[derive(Debug)]
struct Half {
    direction: Direction,
    state: State,
    /// The message under way.
    message: Option<Message>,
    /// If compression is agreed.
    deflate: Option<Deflate>,
}

/// Where the parser is.
#[derive(Debug)]
enum State {
    /// Behind the frame that closes.
    Closed,
    /// In the payload of a close frame, of which so much has come.
    Close {
        frame: Frame,
        bytes: [u8; CONTROL_BYTES],
    },
    /// In the header of a frame that began with a chunk of this time and mark.
    Header {
        bytes: [u8; HEADER_BYTES],
        held: usize,
        at: Timestamp,
        origin: Origin,
    },
    /// In the payload of another frame.
    Payload(Frame),
    /// Not in step: a frame may begin with the next chunk.
    Seeking,
}

/// How a message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Compressed,
    Plain,
    /// It cannot be inflated; that bytes are missing is said.
    Unreadable,
}

/// A frame, and how much of its payload has passed.
#[derive(Clone, Copy, Debug)]
struct Frame {
    end: bool,
    compressed: bool,
    kind: Kind,
    key: Option<[u8; 4]>,
    length: u64,
    read: u64,
}

/// RFC 6455 section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Binary,
    Close,
    Continuation,
    Ping,
    Pong,
    Text,
}

/// Compression of one direction as it was agreed (RFC 7692 section 7.1). How large windows are does not
/// matter: the largest serves all.
#[derive(Debug)]
struct Deflate {
    /// Messages may refer to the one before.
    takeover: bool,
    /// Such a reference would lead to what was lost.
    lost: bool,
    /// There from the first compressed message on.
    inflater: Option<Box<Inflater>>,
}

/// The bytes are no frames, or no deflate.
struct Malformed;

impl Session {
    /// The session that a response accepts; `None` if it agrees to an extension that is not known.
    pub(super) fn accepted(exchange: ExchangeId, headers: &HeaderMap) -> Option<Self> {
        let (mut sent, mut received) = (None, None);
        let extensions = headers
            .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .map(|value| value.to_str().unwrap_or("unknown"))
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|extension| !extension.is_empty());
        for extension in extensions {
            let mut words = extension.split(';').map(str::trim);
            let known = words
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate"));
            if !known || sent.is_some() {
                return None;
            }
            let parameters: Vec<&str> = words.collect();
            let deflate = |parameter: &str| Deflate {
                takeover: !parameters
                    .iter()
                    .any(|other| other.eq_ignore_ascii_case(parameter)),
                lost: false,
                inflater: None,
            };
            sent = Some(deflate("client_no_context_takeover"));
            received = Some(deflate("server_no_context_takeover"));
        }
        Some(Self {
            exchange,
            sent: Half::new(Direction::Sent, sent),
            received: Half::new(Direction::Received, received),
            closed: None,
        })
    }

    /// Takes the next bytes of a direction; returns how the session ended if it did.
    pub(super) fn data(
        &mut self,
        direction: Direction,
        at: Timestamp,
        origin: Origin,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Option<End> {
        let exchange = self.exchange;
        let mut part = |part: Part<'_>, at: Timestamp| {
            sink(Event::Message {
                exchange,
                direction,
                part,
                at,
            });
        };
        let read = self.half(direction).data(at, origin, bytes, &mut part);
        match read {
            Ok(()) => self.ended(direction),
            Err(Malformed) => Some(End::Malformed),
        }
    }

    /// Steps over bytes that are missing; returns how the session ended if it did.
    pub(super) fn gap(
        &mut self,
        direction: Direction,
        bytes: u64,
        at: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Option<End> {
        let exchange = self.exchange;
        let mut part = |part: Part<'_>, at: Timestamp| {
            sink(Event::Message {
                exchange,
                direction,
                part,
                at,
            });
        };
        let half = self.half(direction);
        half.gap(bytes, at, &mut part);
        // Of the client's messages the server's tell enough.
        let unreadable = half.deflate.as_ref().is_some_and(|deflate| deflate.lost);
        if unreadable && direction == Direction::Received {
            return Some(End::Lost);
        }
        self.ended(direction)
    }

    /// How the session ends if the connection does.
    pub(super) fn end(&self, end: End) -> End {
        match self.closed {
            Some(Direction::Received) => End::ServerClosed,
            Some(Direction::Sent) => End::ClientClosed,
            None => end,
        }
    }

    /// Bytes held, roughly.
    pub(super) fn memory(&self) -> usize {
        let inflaters = [&self.sent, &self.received]
            .into_iter()
            .filter_map(|half| half.deflate.as_ref()?.inflater.as_ref())
            .count();
        size_of::<Self>() + inflaters * INFLATER_BYTES
    }

    /// Both sides have closed it (RFC 6455 section 7.1.3), the one of `direction` not before the other.
    fn ended(&mut self, direction: Direction) -> Option<End> {
        if !matches!(self.half(direction).state, State::Closed) {
            return None;
        }
        self.closed.get_or_insert(direction);
        matches!(self.half(direction.opposite()).state, State::Closed)
            .then(|| self.end(End::Complete))
    }

    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        }
    }
}

/// Takes the parts of messages with their times.
type Sink<'a> = &'a mut dyn FnMut(Part<'_>, Timestamp);

impl Half {
    fn new(direction: Direction, deflate: Option<Deflate>) -> Self {
        Self {
            direction,
            state: State::START,
            message: None,
            deflate,
        }
    }

    fn data(
        &mut self,
        at: Timestamp,
        origin: Origin,
        mut bytes: &[u8],
        sink: Sink<'_>,
    ) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Closed => return Ok(()),
                State::Seeking => {
                    if !self.begins_frames(bytes) {
                        return Ok(());
                    }
                    self.state = State::START;
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
                    let wanted = header_length(&header[..*held]);
                    let length = (wanted - *held).min(bytes.len());
                    header[*held..*held + length].copy_from_slice(&bytes[..length]);
                    *held += length;
                    bytes = &bytes[length..];
                    if *held >= 2 && *held == header_length(&header[..*held]) {
                        let (header, held, begun, mark) = (*header, *held, *begun, *mark);
                        let frame = self.frame(&header[..held]).ok_or(Malformed)?;
                        self.begin(frame, begun, mark, at, sink)?;
                    }
                }
                State::Close {
                    frame,
                    bytes: reason,
                } => {
                    let place = frame.read as usize;
                    let length = bytes.len().min((frame.length - frame.read) as usize);
                    let (piece, rest) = bytes.split_at(length);
                    bytes = rest;
                    reason[place..place + length].copy_from_slice(piece);
                    unmask(frame, &mut reason[place..place + length]);
                    frame.read += length as u64;
                    self.end_if_complete(at, sink)?;
                }
                State::Payload(frame) => {
                    let left = usize::try_from(frame.length - frame.read).unwrap_or(usize::MAX);
                    let (piece, rest) = bytes.split_at(bytes.len().min(left).min(PIECE_BYTES));
                    bytes = rest;
                    let mut buffer;
                    let piece = if frame.key.is_some() && frame.kind.is_data() {
                        buffer = [0; PIECE_BYTES];
                        let unmasked = &mut buffer[..piece.len()];
                        unmasked.copy_from_slice(piece);
                        unmask(frame, unmasked);
                        unmasked
                    } else {
                        piece
                    };
                    frame.read += piece.len() as u64;
                    if frame.kind.is_data() {
                        self.payload(piece, at, sink)?;
                    }
                    self.end_if_complete(at, sink)?;
                }
            }
        }
        Ok(())
    }

    fn gap(&mut self, bytes: u64, at: Timestamp, sink: Sink<'_>) {
        match &mut self.state {
            State::Closed => return,
            State::Payload(frame) if frame.length - frame.read >= bytes => {
                frame.read += bytes;
                if frame.kind.is_data() {
                    if self.message == Some(Message::Compressed) {
                        self.message = Some(Message::Unreadable);
                        self.lose_context();
                    }
                    sink(Part::Gap(bytes), at);
                }
                // Nothing is inflated any more that could be malformed.
                let _ = self.end_if_complete(at, sink);
                return;
            }
            _ => {}
        }
        // It may have been the rest of a message, and any number of others.
        sink(Part::Gap(bytes), at);
        if self.message.take().is_some() {
            sink(Part::End, at);
        }
        self.lose_context();
        self.state = State::Seeking;
    }

    /// What was inflated so far is not all that later messages refer to.
    fn lose_context(&mut self) {
        if let Some(deflate) = &mut self.deflate {
            deflate.lost = deflate.takeover;
            deflate.inflater = None;
        }
    }

    /// A frame, if it may come in this direction.
    fn frame(&self, header: &[u8]) -> Option<Frame> {
        let frame = Frame::parse(header)?;
        // RFC 6455 section 5.1: clients mask, servers do not.
        let masked = self.direction == Direction::Sent;
        let compressible = self.deflate.is_some() && frame.kind.begins();
        (frame.key.is_some() == masked && (!frame.compressed || compressible)).then_some(frame)
    }

    /// The header of a frame is complete.
    fn begin(
        &mut self,
        frame: Frame,
        begun: Timestamp,
        origin: Origin,
        at: Timestamp,
        sink: Sink<'_>,
    ) -> Result<(), Malformed> {
        self.state = if frame.kind == Kind::Close {
            State::Close {
                frame,
                bytes: [0; CONTROL_BYTES],
            }
        } else {
            State::Payload(frame)
        };
        if frame.kind.is_data() {
            match (frame.kind, self.message) {
                (Kind::Continuation, Some(_)) => {}
                (Kind::Binary | Kind::Text, None) => {
                    let text = frame.kind == Kind::Text;
                    sink(Part::Begin { origin, text }, begun);
                    let lost = self.deflate.as_ref().is_some_and(|deflate| deflate.lost);
                    self.message = Some(match frame.compressed {
                        true if lost => Message::Unreadable,
                        true => Message::Compressed,
                        false => Message::Plain,
                    });
                }
                _ => return Err(Malformed),
            }
        }
        self.end_if_complete(at, sink)
    }

    fn payload(&mut self, bytes: &[u8], at: Timestamp, sink: Sink<'_>) -> Result<(), Malformed> {
        match self.message {
            Some(Message::Compressed) => self.inflate(bytes, at, sink),
            Some(Message::Plain) => {
                sink(Part::Bytes(bytes), at);
                Ok(())
            }
            Some(Message::Unreadable) => {
                sink(Part::Gap(bytes.len() as u64), at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inflate(&mut self, bytes: &[u8], at: Timestamp, sink: Sink<'_>) -> Result<(), Malformed> {
        let Some(deflate) = &mut self.deflate else {
            return Err(Malformed);
        };
        deflate
            .inflater
            .get_or_insert_default()
            .push(bytes, &mut |bytes| sink(Part::Bytes(bytes), at))
    }

    /// The payload may have come to its end.
    fn end_if_complete(&mut self, at: Timestamp, sink: Sink<'_>) -> Result<(), Malformed> {
        match &self.state {
            State::Close { frame, bytes } if frame.read == frame.length => {
                let bytes = *bytes;
                let (code, reason) = match bytes[..frame.length as usize] {
                    [first, second, ref reason @ ..] => {
                        (Some(u16::from_be_bytes([first, second])), reason)
                    }
                    _ => (None, &[][..]),
                };
                let reason = std::str::from_utf8(reason).unwrap_or_default();
                self.state = State::Closed;
                sink(Part::Close { code, reason }, at);
            }
            State::Payload(frame) if frame.read == frame.length => {
                let message_ends = frame.end && frame.kind.is_data();
                self.state = State::START;
                if message_ends {
                    if self.message == Some(Message::Compressed) {
                        self.inflate(DEFLATE_TAIL, at, sink)?;
                        if let Some(deflate) = &mut self.deflate
                            && !deflate.takeover
                        {
                            deflate.inflater = None;
                        }
                    }
                    self.message = None;
                    sink(Part::End, at);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a write or read consists of frames, among which a message begins: nothing else marks where a
    /// frame does.
    fn begins_frames(&self, mut bytes: &[u8]) -> bool {
        let mut begun = false;
        while !bytes.is_empty() {
            let length = header_length(bytes);
            let frame = bytes.get(..length).and_then(|header| self.frame(header));
            let Some(frame) = frame.filter(|frame| length == frame.shortest_header()) else {
                return false;
            };
            let Some(rest) = usize::try_from(frame.length)
                .ok()
                .and_then(|payload| bytes.get(length..)?.get(payload..))
            else {
                return false;
            };
            if frame.kind == Kind::Continuation && !begun {
                return false;
            }
            begun |= frame.kind.begins() && frame.length > 0;
            bytes = rest;
        }
        begun
    }
}

impl State {
    const START: Self = Self::Header {
        bytes: [0; HEADER_BYTES],
        held: 0,
        at: Timestamp(0),
        origin: Origin(0),
    };
}

impl Frame {
    /// Reads a header that is complete; `None` if there is no such frame (RFC 6455 section 5.2).
    fn parse(header: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = header else {
            return None;
        };
        let end = first & 0x80 != 0;
        let compressed = first & 0x40 != 0;
        let kind = match first & 0x3f {
            0 => Kind::Continuation,
            1 => Kind::Text,
            2 => Kind::Binary,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            // Reserved, or with bits of extensions that are not known.
            _ => return None,
        };
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u16::from_be_bytes([*a, *b]).into(), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                (length, rest)
            }
            (126.., _) => return None,
            (length, rest) => (length.into(), rest),
        };
        let key = match rest {
            [a, b, c, d, ..] if second & 0x80 != 0 => Some([*a, *b, *c, *d]),
            _ if second & 0x80 != 0 => return None,
            _ => None,
        };
        // The most significant bit must be 0.
        let possible = if kind.is_data() {
            length <= u64::MAX >> 1
        } else {
            end && length <= CONTROL_BYTES as u64
        };
        possible.then_some(Self {
            end,
            compressed,
            kind,
            key,
            length,
            read: 0,
        })
    }

    /// The length of its header if its own is written in as few bytes as can be, as it must.
    fn shortest_header(&self) -> usize {
        let length = match self.length {
            ..126 => 2,
            126..0x1_0000 => 4,
            _ => 10,
        };
        length + self.key.map_or(0, |key| key.len())
    }
}

impl Kind {
    /// Whether it carries a message.
    fn is_data(self) -> bool {
        self == Self::Continuation || self.begins()
    }

    /// Whether it begins a message.
    fn begins(self) -> bool {
        matches!(self, Self::Binary | Self::Text)
    }
}

/// How long a header is that begins so; 2 if that is not known yet.
fn header_length(bytes: &[u8]) -> usize {
    let Some(second) = bytes.get(1) else {
        return 2;
    };
    let length = match second & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    length + if second & 0x80 == 0 { 0 } else { 4 }
}

/// Takes the key off the next bytes of a payload (RFC 6455 section 5.3).
fn unmask(frame: &Frame, bytes: &mut [u8]) {
    let Some(mut key) = frame.key else {
        return;
    };
    key.rotate_left((frame.read % 4) as usize);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Raw deflate as a stream, from one message to the next.
struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(false))
    }
}

impl Inflater {
    /// Inflates the next bytes and hands over all that can be inflated so far, in bounded pieces.
    fn push(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
        let mut buffer = [0; PIECE_BYTES];
        loop {
            let (taken, made) = (self.0.total_in(), self.0.total_out());
            let status = self
                .0
                .decompress(bytes, &mut buffer, FlushDecompress::Sync)
                .map_err(|_| Malformed)?;
            let taken = (self.0.total_in() - taken) as usize;
            let made = (self.0.total_out() - made) as usize;
            bytes = &bytes[taken..];
            if made > 0 {
                out(&buffer[..made]);
            }
            if status == Status::StreamEnd {
                // A sender may end its stream with a message (RFC 7692 section 7.2.3.4).
                self.0.reset(false);
                if bytes.is_empty() {
                    return Ok(());
                }
            } else if taken == 0 && made == 0 {
                return if bytes.is_empty() {
                    Ok(())
                } else {
                    Err(Malformed)
                };
            }
        }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}
