//! Frames (RFC 9113 sections 4 and 6).

use crate::chunk::Direction;

/// Length of a frame's header, in bytes.
pub(super) const HEADER_BYTES: usize = 9;

/// Longest frame by which a connection is joined, in bytes. Peers take 16 KiB unless they say more.
const JOINED_BYTES: u32 = 64 * 1024;

/// The frame ends the stream (DATA, HEADERS) or acknowledges (SETTINGS, PING).
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes that follow.
    pub(super) length: u32,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    /// 0 is the connection.
    pub(super) stream: u32,
}

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Continuation,
    Data,
    GoAway,
    Headers,
    Other,
    Ping,
    Priority,
    PushPromise,
    ResetStream,
    Settings,
    WindowUpdate,
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind: match kind {
                0x0 => Kind::Data,
                0x1 => Kind::Headers,
                0x2 => Kind::Priority,
                0x3 => Kind::ResetStream,
                0x4 => Kind::Settings,
                0x5 => Kind::PushPromise,
                0x6 => Kind::Ping,
                0x7 => Kind::GoAway,
                0x8 => Kind::WindowUpdate,
                0x9 => Kind::Continuation,
                _ => Kind::Other,
            },
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a peer may send it: stream and length are those of its type.
    pub(super) fn is_valid(self, direction: Direction) -> bool {
        let of_stream = self.stream != 0;
        match self.kind {
            Kind::Continuation | Kind::Data | Kind::Headers => of_stream,
            Kind::GoAway => !of_stream && self.length >= 8,
            Kind::Other => true,
            Kind::Ping => !of_stream && self.length == 8,
            Kind::Priority => of_stream && self.length == 5,
            Kind::PushPromise => of_stream && self.length >= 4 && direction == Direction::Received,
            Kind::ResetStream => of_stream && self.length == 4,
            Kind::Settings => !of_stream && self.length.is_multiple_of(6),
            Kind::WindowUpdate => self.length == 4,
        }
    }

    /// Whether bytes that could be anything are a frame: also everything that is left open is as usual.
    fn is_plausible(self, direction: Direction) -> bool {
        let flags = match self.kind {
            Kind::Continuation => END_HEADERS,
            Kind::Data => END_STREAM | PADDED,
            Kind::GoAway | Kind::Priority | Kind::ResetStream | Kind::WindowUpdate => 0,
            Kind::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            Kind::Other => return false,
            Kind::Ping | Kind::Settings => END_STREAM,
            Kind::PushPromise => END_HEADERS | PADDED,
        };
        // Streams of clients have odd numbers (section 5.1.1).
        let client = self.stream % 2 == 1 || self.stream == 0;
        self.is_valid(direction)
            && client
            && self.flags & !flags == 0
            && self.length <= JOINED_BYTES
    }
}

/// Whether bytes at the start of a write or read are frames, as far as they go.
pub(in super::super) fn begins_frames(direction: Direction, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut frames = 0;
    while let Some((header, payload)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let parsed = Header::parse(*header);
        let reserved = header[5] & 0x80 != 0;
        let middle = frames == 0 && parsed.kind == Kind::Continuation;
        if reserved || middle || !parsed.is_plausible(direction) {
            return false;
        }
        frames += 1;
        rest = payload.get(parsed.length as usize..).unwrap_or_default();
    }
    frames > 0
}

/// Whether bytes are, as far as they go, the header of the settings with which a server begins
/// (section 3.4).
pub(in super::super) fn begins_settings(bytes: &[u8]) -> bool {
    const KIND: usize = 3;
    bytes
        .iter()
        .take(HEADER_BYTES)
        .enumerate()
        .all(|(place, byte)| match place {
            0 | 1 => *byte == 0,
            2 => byte.is_multiple_of(6),
            KIND => *byte == 4,
            _ => *byte == 0,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_from_other_bytes() {
        let data = [0, 0, 2, 0, 1, 0, 0, 0, 5, b'h', b'i'];
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let both = [&ping[..], &data, &[0, 0]].concat();
        for direction in [Direction::Sent, Direction::Received] {
            assert!(begins_frames(direction, &data));
            assert!(begins_frames(direction, &both));
            assert!(begins_frames(direction, &both[..20]));
            for other in [
                &b"POST /v1/chat/completions HTTP/1.1\r\n"[..],
                b"HTTP/1.1 200 OK\r\n\r\n",
                b"{\"model\":\"gpt-4o\"}",
                &[0; 64],
                // An even stream, an unknown flag, a continuation, and another frame that is none.
                &[0, 0, 2, 0, 1, 0, 0, 0, 4, 1, 1],
                &[0, 0, 2, 0, 2, 0, 0, 0, 5, 1, 1],
                &[0, 0, 2, 9, 4, 0, 0, 0, 5, 1, 1],
                &[0, 0, 2, 0, 1, 0, 0, 0, 5, 1, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7],
            ] {
                assert!(!begins_frames(direction, other), "{other:?}");
            }
        }
    }
}
