//! One direction of a connection as bytes in order, with marked gaps.

use crate::chunk::Chunk;

/// Puts the chunks of one direction in their place.
#[derive(Debug, Default)]
pub struct Stream {
    /// Offset of the next byte; `None` before the first chunk.
    expected: Option<u64>,
}

/// What a chunk brought: first the gap, then the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Bytes that are missing before `bytes`.
    pub gap: u64,
    /// The bytes that are new.
    pub bytes: &'a [u8],
}

impl Stream {
    /// Takes a chunk. The first one sets the place where the stream is joined; bytes that were
    /// already seen are left out.
    pub fn push<'a>(&mut self, chunk: &Chunk<'a>) -> Piece<'a> {
        let expected = self.expected.unwrap_or(chunk.offset);
        let gap = chunk.offset.saturating_sub(expected);
        let seen = usize::try_from(expected.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        let bytes = chunk.bytes.get(seen..).unwrap_or_default();
        let end = chunk.offset.max(expected);
        self.expected = Some(end.saturating_add(bytes.len() as u64));
        Piece { gap, bytes }
    }

    /// Goes to where `produced` bytes have been produced so far; returns how many of them are missing.
    pub fn advance(&mut self, produced: u64) -> u64 {
        let expected = self.expected.unwrap_or(0);
        if produced <= expected {
            return 0;
        }
        self.expected = Some(produced);
        produced - expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Direction, Origin, Timestamp};

    fn chunk(offset: u64, bytes: &[u8]) -> Chunk<'_> {
        Chunk {
            direction: Direction::Sent,
            offset,
            at: Timestamp(0),
            origin: Origin(0),
            bytes,
        }
    }

    #[test]
    fn the_first_chunk_sets_the_start() {
        let mut stream = Stream::default();
        assert_eq!(
            stream.push(&chunk(100, b"ab")),
            Piece {
                gap: 0,
                bytes: b"ab"
            }
        );
        assert_eq!(
            stream.push(&chunk(102, b"c")),
            Piece {
                gap: 0,
                bytes: b"c"
            }
        );
    }

    #[test]
    fn a_jump_is_a_gap_and_a_step_back_a_repetition() {
        let mut stream = Stream::default();
        stream.push(&chunk(0, b"abc"));
        assert_eq!(
            stream.push(&chunk(5, b"f")),
            Piece {
                gap: 2,
                bytes: b"f"
            }
        );
        assert_eq!(
            stream.push(&chunk(4, b"efg")),
            Piece {
                gap: 0,
                bytes: b"g"
            }
        );
        assert_eq!(stream.push(&chunk(0, b"abc")), Piece { gap: 0, bytes: b"" });
        assert_eq!(stream.advance(9), 2);
        assert_eq!((stream.advance(9), stream.advance(3)), (0, 0));
    }
}
