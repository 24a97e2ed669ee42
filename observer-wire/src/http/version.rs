//! Which version of HTTP a connection speaks.

use std::fmt;

use super::{Event, h1, h2, redact};
use crate::chunk::{Close, Direction, Origin, Timestamp};

/// Follows the exchanges of one connection, be it HTTP/1.1 or HTTP/2: its first bytes tell, not what was
/// negotiated.
pub struct Connection {
    version: Version,
    /// What credentials are hashed under.
    salt: redact::Salt,
}

#[derive(Debug)]
enum Version {
    Http1(h1::Connection),
    Http2(Box<h2::Connection>),
    /// HTTP/1.1 until there is a reason to think otherwise.
    Open {
        http1: h1::Connection,
        /// How much of HTTP/2's preface has come, with the time and mark of its first byte.
        preface: usize,
        at: Timestamp,
        origin: Origin,
        /// Whether the client has received anything.
        received: bool,
    },
}

impl fmt::Debug for Connection {
    // The salt is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Default for Connection {
    /// One of which credentials leave nothing.
    fn default() -> Self {
        Self::new([0; 32])
    }
}

impl Connection {
    /// Nothing has passed yet. Credentials are hashed under `salt`, unless it is zero.
    pub fn new(salt: [u8; 32]) -> Self {
        Self {
            salt,
            version: Version::Open {
                http1: h1::Connection::new(salt),
                preface: 0,
                at: Timestamp::default(),
                origin: Origin::default(),
                received: false,
            },
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
        if let Version::Http2(http2) = &self.version
            && direction == Direction::Sent
            && http2.is_lost()
            && h1::begins_request(bytes)
            && bytes.contains(&b'\n')
        {
            // It was joined by bytes that only looked like frames.
            self.version = Version::Http1(h1::Connection::new(self.salt));
        }
        if let Version::Open {
            http1,
            preface,
            at: begun,
            origin: mark,
            received,
        } = &mut self.version
        {
            let mut begin = None;
            match direction {
                Direction::Sent => {
                    if *preface == 0 {
                        (*begun, *mark) = (at, origin);
                    }
                    let wanted = &h2::PREFACE[*preface..];
                    let length = wanted.len().min(bytes.len());
                    if bytes[..length] == wanted[..length] {
                        *preface += length;
                        bytes = &bytes[length..];
                        if *preface < h2::PREFACE.len() {
                            return;
                        }
                        let mut http2 = h2::Connection::new(self.salt);
                        http2.data(direction, *begun, *mark, h2::PREFACE, sink);
                        if *received {
                            http2.join_received();
                        }
                        begin = Some(http2);
                    } else if *preface > 0 {
                        let seen = &h2::PREFACE[..*preface];
                        *preface = 0;
                        http1.data(direction, *begun, *mark, seen, sink);
                    } else if h2::begins_frames(direction, bytes) {
                        begin = Some(h2::Connection::new(self.salt));
                    }
                }
                Direction::Received if h2::begins_frames(direction, bytes) => {
                    begin = Some(h2::Connection::new(self.salt));
                }
                Direction::Received => *received = true,
            }
            if let Some(http2) = begin {
                self.version = Version::Http2(Box::new(http2));
            }
        }
        match &mut self.version {
            Version::Http1(http1) | Version::Open { http1, .. } => {
                http1.data(direction, at, origin, bytes, sink);
            }
            Version::Http2(http2) => http2.data(direction, at, origin, bytes, sink),
        }
        if let Version::Open { http1, .. } = &mut self.version
            && http1.has_seen_request()
        {
            self.version = Version::Http1(std::mem::take(http1));
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
        match &mut self.version {
            Version::Http1(http1) => http1.gap(direction, bytes, at, sink),
            Version::Http2(http2) => http2.gap(direction, bytes, at, sink),
            Version::Open { http1, preface, .. } => {
                if direction == Direction::Sent {
                    *preface = 0;
                }
                http1.gap(direction, bytes, at, sink);
            }
        }
    }

    /// Ends every exchange: no bytes will follow, or none that could be understood.
    pub fn close(&mut self, close: Close, at: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        match &mut self.version {
            Version::Http1(http1) | Version::Open { http1, .. } => http1.close(close, at, sink),
            Version::Http2(http2) => http2.close(close, at, sink),
        }
    }

    /// Whether it is HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.version, Version::Http2(_))
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        match &self.version {
            Version::Http1(http1) | Version::Open { http1, .. } => http1.memory(),
            Version::Http2(http2) => http2.memory(),
        }
    }
}
