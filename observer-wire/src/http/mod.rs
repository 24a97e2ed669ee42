//! HTTP exchanges from byte streams.
//!
//! A parser takes the bytes of both directions of a connection and reports [`Event`]s. Bodies come
//! de-framed (no chunked encoding) but still content-encoded; see [`crate::body::encoding`].

mod fields;
pub mod h1;
pub mod h2;
mod redact;
mod version;
pub mod websocket;

pub use version::Connection;

use ::http::{HeaderMap, Method, StatusCode};

use crate::{
    chunk::{Direction, Origin, Timestamp},
    evidence::Fingerprint,
};

/// Whether bytes begin a request: of HTTP/1, or the preface of HTTP/2 (RFC 9113 section 3.4).
pub(crate) fn begins_request(bytes: &[u8]) -> bool {
    h1::begins_request(bytes) || bytes.starts_with(b"PRI * HTTP/2.0")
}

/// Whether bytes begin a request, or are cut and may become one that does.
pub(crate) fn may_begin_request(bytes: &[u8]) -> bool {
    begins_request(bytes) || h2::PREFACE.starts_with(bytes)
}

/// Whether bytes begin a request beyond doubt: its first line is there.
pub(crate) fn is_begun_request(bytes: &[u8]) -> bool {
    (bytes.contains(&b'\n') && h1::begins_request(bytes)) || bytes.starts_with(h2::PREFACE)
}

/// Whether bytes begin as what a server of HTTP/2 sends first.
pub(crate) fn begins_settings(bytes: &[u8]) -> bool {
    h2::begins_settings(bytes)
}

/// Numbers the exchanges of one connection in the order of their requests: from 0, or by the stream of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// The head of a request. Credentials are left out when it is parsed, so nothing after the parser can
/// leak them.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The request method (RFC 9110 section 9).
    pub method: Method,
    /// Path of the target, without query; empty only if it is unknown.
    pub path: String,
    /// Query of the target without `?`, credentials (`key=`…) removed; empty if there is none.
    pub query: String,
    /// Host of the authority: the `Host` header, or that of an absolute-form target. No port.
    pub host: Option<String>,
    /// Port of the authority, if it is given.
    pub port: Option<u16>,
    /// The header fields, without those that carry credentials.
    pub headers: HeaderMap,
    /// Stands for the key that it carries, if credentials are hashed.
    pub credential: Option<Fingerprint>,
    /// Whether there were fields that are unknown: HTTP/2 refers to earlier heads, which may have passed
    /// unseen.
    pub partial: bool,
    /// Whether it asks for a WebSocket session (RFC 6455 section 4.1, RFC 8441 section 5).
    pub websocket: bool,
}

/// The head of a final (not 1xx) response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status code (RFC 9110 section 15), if it is known.
    pub status: Option<StatusCode>,
    /// The header fields, without those that carry credentials.
    pub headers: HeaderMap,
    /// As in a request.
    pub partial: bool,
}

impl ResponseHead {
    /// A head that passed unseen.
    pub(crate) fn unknown() -> Self {
        Self {
            status: None,
            headers: HeaderMap::new(),
            partial: true,
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed before the response was complete, or closed the WebSocket session.
    ClientClosed,
    /// Request and response are complete.
    Complete,
    /// The observer stopped before the exchange ended.
    Detached,
    /// Bytes that are missing took the place where this exchange ended.
    Lost,
    /// The bytes are no valid HTTP from here on.
    Malformed,
    /// The process exited or was killed before the response was complete.
    ProcessExit,
    /// The server closed before the response was complete, or without any, or closed the WebSocket
    /// session.
    ServerClosed,
    /// The connection changed to another protocol than WebSocket (101, or 2xx to CONNECT).
    Upgraded,
}

/// What happened on a connection, in order. An exchange begins with `RequestHead` and ends with
/// exactly one `End`; requests may be pipelined or have streams of their own, so events of different
/// exchanges interleave.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request began.
    RequestHead {
        /// The new exchange.
        exchange: ExchangeId,
        /// Its request head.
        head: RequestHead,
        /// When the first byte of the head was handed over.
        at: Timestamp,
        /// The mark of the chunk that held this first byte.
        origin: Origin,
    },
    /// A piece of the request body.
    RequestBody {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// The bytes, de-chunked, still content-encoded.
        bytes: &'a [u8],
        /// When they were handed over.
        at: Timestamp,
    },
    /// This many bytes of the request body are missing here; what follows continues after them.
    RequestGap {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// How many bytes.
        bytes: u64,
    },
    /// The request is complete.
    RequestEnd {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// When its last byte was handed over.
        at: Timestamp,
    },
    /// A final response began. It may come before the request has ended.
    ResponseHead {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// The response head.
        head: ResponseHead,
        /// When the head was complete.
        at: Timestamp,
    },
    /// A piece of the response body.
    ResponseBody {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// The bytes, de-chunked, still content-encoded.
        bytes: &'a [u8],
        /// When the process got them.
        at: Timestamp,
    },
    /// This many bytes of the response body are missing here; what follows continues after them.
    ResponseGap {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// How many bytes.
        bytes: u64,
    },
    /// The fields after the response's body; HTTP/2 only.
    ResponseTrailers {
        /// The exchange they belong to.
        exchange: ExchangeId,
        /// The fields, without those that carry credentials.
        headers: HeaderMap,
        /// As in a head.
        partial: bool,
        /// When they were complete.
        at: Timestamp,
    },
    /// A part of a message of the WebSocket session to which the exchange has changed with its response.
    /// Messages of one direction come one after the other, those of the two directions interleave.
    Message {
        /// The exchange it belongs to.
        exchange: ExchangeId,
        /// Who sends the message, as the client sees it.
        direction: Direction,
        /// The part.
        part: websocket::Part<'a>,
        /// When it was handed over (sent) or the process got it (received); of a begin, the first byte.
        at: Timestamp,
    },
    /// Nothing more will come of this exchange.
    End {
        /// The exchange that ended.
        exchange: ExchangeId,
        /// How it ended.
        end: End,
        /// When.
        at: Timestamp,
    },
}
