//! The whole way from chunks to calls, for one connection.

use std::fmt;

use crate::{
    call::LlmCall,
    chunk::{Chunk, Close, Direction, Origin, Timestamp},
    evidence::{Evidence, TraceContext},
    http,
    provider::Calls,
    stream::Stream,
};

/// What the caller wants of every connection.
#[derive(Clone, Copy)]
pub struct Options {
    /// Whether previews of prompt and answer are taken. Off: no content is kept beyond the event that
    /// holds it.
    pub capture_content: bool,
    /// Longest output preview, in Unicode code points.
    pub output_preview_chars: usize,
    /// Longest input preview, in Unicode code points.
    pub input_preview_chars: usize,
    /// Secret of the agent under which credentials and messages are hashed. Zeros: credentials are not.
    pub salt: [u8; 32],
}

impl fmt::Debug for Options {
    // The salt is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("capture_content", &self.capture_content)
            .field("output_preview_chars", &self.output_preview_chars)
            .field("input_preview_chars", &self.input_preview_chars)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capture_content: false,
            output_preview_chars: 500,
            input_preview_chars: 500,
            salt: [0; 32],
        }
    }
}

/// Numbers the calls of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What became of a call.
#[derive(Clone, Debug)]
pub enum CallEvent {
    /// A request that looks like an LLM call began. `Ended` or `Dismissed` follows.
    Started {
        /// Names the call in the event that follows.
        call: CallId,
        /// When its first byte was handed over.
        at: Timestamp,
        /// The mark of the chunk that held it.
        origin: Origin,
        /// Stands for the request's head: where both ends of a connection are followed, each sees the same.
        fingerprint: u64,
    },
    /// The request of a call was read as a whole: comes between `Started` and `Ended`, once at most. A
    /// request that is answered before it ends, or of which bytes are missing, may have none.
    Requested {
        /// The call of the `Started` event.
        call: CallId,
        /// What is known of it.
        request: Box<Asked>,
    },
    /// The call is over.
    Ended {
        /// The call of the `Started` event.
        call: CallId,
        /// The record: exactly one for a call.
        record: Box<LlmCall>,
    },
    /// It was no LLM call after all.
    Dismissed {
        /// The call of the `Started` event.
        call: CallId,
    },
    /// A request came in, on a connection of which the process is the server. `InboundEnded` follows.
    InboundStarted {
        /// Names it among those of the connection.
        exchange: u64,
        /// When its first byte was read.
        at: Timestamp,
        /// The mark of the chunk that held it.
        origin: Origin,
        /// What it is.
        request: Box<Inbound>,
    },
    /// It was answered, or will not be.
    InboundEnded {
        /// The one of `InboundStarted`.
        exchange: u64,
        /// When.
        at: Timestamp,
        /// HTTP status, if there was an answer.
        status: Option<u16>,
    },
    /// A request to a host of LLM providers is no call that is known: files, batches, lists of models.
    Unread {
        /// The host that it names.
        host: String,
    },
}

/// A call whose answer is awaited.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// As in [`LlmCall`].
    pub provider: &'static str,
    /// As in [`LlmCall`].
    pub operation: &'static str,
    /// The model that is asked for.
    pub model: Option<String>,
    /// Host that the request names.
    pub server_address: Option<String>,
    /// As in [`LlmCall`].
    pub attempts: Option<u32>,
    /// What the request tells about its run.
    pub evidence: Evidence,
}

/// A request that a server answers, whatever it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The method (RFC 9110 section 9).
    pub method: String,
    /// Path of the target, without query, as it was sent; empty if it is unknown.
    pub path: String,
    /// The client's place in a distributed trace.
    pub trace_context: Option<TraceContext>,
}

/// Plaintext in which a request must begin for the connection to be followed any further, in bytes: one
/// that is joined in the middle of a body gets the chance of another request.
const UNCLAIMED_BYTES: u64 = 16 * 1024;

/// The same of HTTP/2, where a stream may be open for long before the next one begins, and where the
/// programs of the kernel know no request by which they would take the connection up again.
const UNCLAIMED_HTTP2_BYTES: u64 = 1024 * 1024;

/// Requests that are no calls, to hosts that are not known, for HTTP/2 not to be followed any further:
/// its streams may go to several paths.
const STRANGERS: u64 = 16;

/// Whether a connection is worth following.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It is too early to say.
    #[default]
    Undecided,
    /// It has carried a call to an LLM, or goes to a provider of them.
    Llm,
    /// It carries something else: no HTTP that could be read, or requests that are no calls, to a host
    /// that is not known as a provider.
    Other,
}

/// Which end of a connection a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It asks.
    Client,
    /// It answers.
    Server,
}

impl Role {
    /// The role by the first bytes of a connection: whoever sends a request is the client.
    fn of(direction: Direction, bytes: &[u8]) -> Option<Self> {
        let asks = http::begins_request(bytes);
        if !asks && !bytes.starts_with(b"HTTP/") {
            return None;
        }
        let client = if asks {
            Direction::Sent
        } else {
            Direction::Received
        };
        Some(if direction == client {
            Self::Client
        } else {
            Self::Server
        })
    }

    /// A direction as the client sees it.
    fn of_client(self, direction: Direction) -> Direction {
        match self {
            Self::Client => direction,
            Self::Server => direction.opposite(),
        }
    }
}

/// Follows one connection of one process.
pub struct Connection {
    /// `None` until it is known.
    role: Option<Role>,
    /// By TLS: what passes before the role is known.
    opening: Option<Box<Opening>>,
    sent: Stream,
    received: Stream,
    http: http::Connection,
    calls: Calls,
    /// Bytes that passed before the first request.
    unclaimed: u64,
}

impl Connection {
    /// A connection by TLS of which nothing has been seen yet. It is a server's if a request is what is
    /// received first, else a client's. The first bytes may come from the middle.
    pub fn new(options: Options) -> Self {
        Self::with(Some(Box::default()), options, Calls::new(options))
    }

    /// As [`new`](Self::new), without TLS. Where the first bytes are from the middle, later ones tell whose it
    /// is.
    pub fn plain(options: Options) -> Self {
        Self::with(None, options, Calls::plain(options))
    }

    fn with(opening: Option<Box<Opening>>, options: Options, calls: Calls) -> Self {
        Self {
            role: None,
            opening,
            sent: Stream::default(),
            received: Stream::default(),
            http: http::Connection::new(options.salt),
            calls,
            unclaimed: 0,
        }
    }

    /// Takes the next chunk of either direction and reports what it brought about.
    pub fn data(&mut self, chunk: Chunk<'_>, report: &mut dyn FnMut(CallEvent)) {
        match &mut self.opening {
            Some(opening) => match opening.role(&chunk) {
                Some(role) => {
                    self.open(role, report);
                    self.follow(chunk, report);
                }
                None => opening.hold(&chunk),
            },
            None => self.follow(chunk, report),
        }
    }

    /// The role is known: what was held back comes first.
    fn open(&mut self, role: Role, report: &mut dyn FnMut(CallEvent)) {
        if let Some(opening) = self.opening.take() {
            self.role = Some(role);
            for held in opening.held {
                self.follow(held.chunk(), report);
            }
        }
    }

    fn follow(&mut self, mut chunk: Chunk<'_>, report: &mut dyn FnMut(CallEvent)) {
        self.role = self.role.or_else(|| Role::of(chunk.direction, chunk.bytes));
        let Some(role) = self.role else {
            self.unclaimed += chunk.bytes.len() as u64;
            return;
        };
        chunk.direction = role.of_client(chunk.direction);
        let stream = match chunk.direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        };
        let piece = stream.push(&chunk);
        let calls = &mut self.calls;
        if !calls.has_seen_request() {
            self.unclaimed += piece.bytes.len() as u64;
        }
        let mut handle = |event: http::Event<'_>| calls.handle(role, event, report);
        if piece.gap > 0 {
            self.http
                .gap(chunk.direction, piece.gap, chunk.at, &mut handle);
        }
        if !piece.bytes.is_empty() {
            self.http.data(
                chunk.direction,
                chunk.at,
                chunk.origin,
                piece.bytes,
                &mut handle,
            );
        }
    }

    /// Says that `produced` bytes of a direction have been produced so far. Those that were not handed
    /// over are missing: without this, a loss shows only when bytes follow it.
    pub fn expect(
        &mut self,
        direction: Direction,
        produced: u64,
        at: Timestamp,
        report: &mut dyn FnMut(CallEvent),
    ) {
        if let Some(opening) = &self.opening
            && produced > opening.passed(direction)
        {
            // It is joined in the middle, or its beginning is missing.
            self.open(Role::Client, report);
        }
        let Some(role) = self.role else {
            return;
        };
        let direction = role.of_client(direction);
        let stream = match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        };
        let missing = stream.advance(produced);
        if missing > 0 {
            let calls = &mut self.calls;
            self.http.gap(direction, missing, at, &mut |event| {
                calls.handle(role, event, report)
            });
        }
    }

    /// Ends the connection: every open call ends now. `produced` is the number of bytes sent and
    /// received in all, if known, so that a loss at the very end shows.
    pub fn close(
        &mut self,
        close: Close,
        produced: Option<(u64, u64)>,
        at: Timestamp,
        report: &mut dyn FnMut(CallEvent),
    ) {
        self.open(Role::Client, report);
        if let Some((sent, received)) = produced {
            self.expect(Direction::Sent, sent, at, report);
            self.expect(Direction::Received, received, at, report);
        }
        let close = match (self.role, close) {
            (Some(Role::Server), Close::Local) => Close::Peer { clean: true },
            (Some(Role::Server), Close::Peer { .. }) => Close::Local,
            _ => close,
        };
        let Some(role) = self.role else {
            return;
        };
        let calls = &mut self.calls;
        let mut handle = |event: http::Event<'_>| calls.handle(role, event, report);
        self.http.close(close, at, &mut handle);
    }

    /// Whether the connection is worth following, by what has passed so far.
    pub fn verdict(&self) -> Verdict {
        let limit = if self.http.is_http2() {
            UNCLAIMED_HTTP2_BYTES
        } else {
            UNCLAIMED_BYTES
        };
        match self.calls.verdict() {
            Verdict::Undecided if self.unclaimed > limit => Verdict::Other,
            Verdict::Other if self.http.is_http2() && self.calls.strangers() < STRANGERS => {
                Verdict::Undecided
            }
            verdict => verdict,
        }
    }

    /// Which end of it the process is, if that is known.
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// Bytes held in memory, roughly.
    pub fn memory(&self) -> usize {
        let opening = self.opening.as_ref();
        opening.map_or(0, |opening| opening.memory()) + self.http.memory() + self.calls.memory()
    }
}

/// What passes on a connection by TLS before it is known which end it is: the beginning of a request, or the
/// settings that a server of HTTP/2 may send before it has read anything (RFC 9113 section 3.4).
#[derive(Default)]
struct Opening {
    held: Vec<Held>,
}

/// A chunk that is kept for later.
struct Held {
    direction: Direction,
    offset: u64,
    at: Timestamp,
    origin: Origin,
    bytes: Vec<u8>,
}

impl Opening {
    /// Most bytes that are held back.
    const BYTES: usize = 512;

    /// The role by what was held and this chunk; `None` if it is too early to say.
    fn role(&self, chunk: &Chunk<'_>) -> Option<Role> {
        let mut begin = [0; Self::BYTES];
        let [mut sent, mut received] = [0, 0];
        let held: usize = self.held.iter().map(|held| held.bytes.len()).sum();
        let pieces = self.held.iter().map(|held| (held.direction, &*held.bytes));
        // What was sent first is looked at in any case, so it need not be put together.
        for (direction, bytes) in pieces.chain([(chunk.direction, chunk.bytes)]) {
            match direction {
                Direction::Sent => {
                    if sent == 0 && !http::begins_settings(bytes) {
                        return Some(Role::Client);
                    }
                    sent += bytes.len();
                }
                Direction::Received => {
                    let length = bytes.len().min(begin.len() - received);
                    begin[received..received + length].copy_from_slice(&bytes[..length]);
                    received += length;
                }
            }
        }
        let begin = &begin[..received];
        if !http::may_begin_request(begin) {
            return Some(Role::Client);
        }
        let full = held + chunk.bytes.len() > Self::BYTES;
        if http::is_begun_request(begin) || (full && !begin.is_empty()) {
            return Some(Role::Server);
        }
        full.then_some(Role::Client)
    }

    fn hold(&mut self, chunk: &Chunk<'_>) {
        if chunk.bytes.is_empty() {
            return;
        }
        self.held.push(Held {
            direction: chunk.direction,
            offset: chunk.offset,
            at: chunk.at,
            origin: chunk.origin,
            bytes: chunk.bytes.to_vec(),
        });
    }

    /// Where a direction is.
    fn passed(&self, direction: Direction) -> u64 {
        let held = self.held.iter().filter(|held| held.direction == direction);
        held.map(|held| held.offset + held.bytes.len() as u64)
            .max()
            .unwrap_or(0)
    }

    fn memory(&self) -> usize {
        let bytes: usize = self.held.iter().map(|held| held.bytes.capacity()).sum();
        size_of::<Self>() + self.held.capacity() * size_of::<Held>() + bytes
    }
}

impl Held {
    fn chunk(&self) -> Chunk<'_> {
        Chunk {
            direction: self.direction,
            offset: self.offset,
            at: self.at,
            origin: self.origin,
            bytes: &self.bytes,
        }
    }
}

impl fmt::Debug for Connection {
    // Content must not reach a log through `{:?}`; the HTTP parser holds a part of a head.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}
