//! What the capture hands over: pieces of plaintext with their place and time.

use std::{fmt, time::Duration};

/// A time in nanoseconds of `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns`, bpf-helpers(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time from `earlier` to `self`; zero if `earlier` is the later one.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Which way bytes travel, seen from the watched process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Read by the process.
    Received,
    /// Written by the process.
    Sent,
}

impl Direction {
    /// The other one.
    pub fn opposite(self) -> Self {
        match self {
            Self::Received => Self::Sent,
            Self::Sent => Self::Received,
        }
    }
}

/// A mark of the caller's (such as a thread id) that comes back with the call whose request began
/// in the chunk that carried it. This crate never looks inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u128);

/// Consecutive bytes of one direction of a connection.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Which way the bytes travel.
    pub direction: Direction,
    /// How many bytes of this direction came before this chunk since capture began. A jump marks a
    /// gap, a step back a repetition.
    pub offset: u64,
    /// When the process handed the bytes over (sent) or got them (received).
    pub at: Timestamp,
    /// The caller's mark.
    pub origin: Origin,
    /// The plaintext.
    pub bytes: &'a [u8],
}

impl fmt::Debug for Chunk<'_> {
    // Content must not reach a log through `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("direction", &self.direction)
            .field("offset", &self.offset)
            .field("at", &self.at)
            .field("origin", &self.origin)
            .field("bytes", &format_args!("<{} bytes>", self.bytes.len()))
            .finish()
    }
}

/// Why no more bytes will come on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Close {
    /// The observer stopped looking; the connection itself may live on.
    Detached,
    /// The process closed or freed its end.
    Local,
    /// The peer ended the stream: `clean` with a TLS close_notify, else by a reset or a bare EOF.
    Peer {
        /// Whether a close_notify was seen (RFC 8446 section 6.1).
        clean: bool,
    },
    /// The process exited or was killed.
    ProcessExit,
}
