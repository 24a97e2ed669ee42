//! Messages of `application/vnd.amazon.eventstream`
//! (<https://smithy.io/2.0/aws/amazon-eventstream.html>), as the bytes come.
//!
//! A message is a prelude (its length, that of its headers and a checksum of the two), headers, a payload and a
//! checksum of all that. The payload is handed on as it comes: only behind it is known whether it is right.

use std::fmt;

use crc32fast::Hasher;
use memchr::memchr2;

const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: u32 = 4;

/// Of a message without headers and payload.
const FRAME_BYTES: u32 = 16;

/// Longest headers (botocore 1.44 `eventstream.py`, `_MAX_HEADERS_LENGTH`).
const HEADERS_BYTES: u32 = 128 << 10;

/// Longest payload (botocore 1.44 `eventstream.py`, `_MAX_PAYLOAD_LENGTH`).
const PAYLOAD_BYTES: u32 = 24 << 20;

/// First bytes of the longest length: one that begins otherwise is too long.
const FIRST_BYTES: (u8, u8) = (0, 1);
const _: () = assert!(HEADERS_BYTES + PAYLOAD_BYTES + FRAME_BYTES < 2 << 24);

/// What comes of a stream: of each message `Begin`, `Payload` any number of times, and one of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A message begins.
    Begin(Headers<'a>),
    /// The next bytes of its payload.
    Payload(&'a [u8]),
    /// It is complete and right.
    End,
    /// It is not what was sent, or not all of it came; it may not have begun.
    Broken,
}

/// The headers of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

/// Reads the messages of one body.
pub struct Parser {
    state: State,
    /// The prelude, the headers or the checksum, as far as it has come.
    held: Vec<u8>,
    checksum: Hasher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prelude,
    Headers {
        length: usize,
        payload: u32,
    },
    Payload {
        left: u32,
    },
    Checksum,
    /// In a message that cannot be read, of which so much is left.
    Skip {
        left: u32,
    },
    /// Where the next message begins is not known: its prelude will tell by its checksum.
    Seek,
}

/// The lengths of a message.
#[derive(Clone, Copy)]
struct Prelude {
    headers: u32,
    payload: u32,
}

impl Parser {
    /// Takes the next bytes and hands over what they bring.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Part<'_>)) {
        while !bytes.is_empty() {
            match self.state {
                State::Prelude => {
                    if self.gather(&mut bytes, PRELUDE_BYTES) {
                        match Prelude::read(&self.held) {
                            Some(prelude) => self.begin(prelude),
                            None => {
                                take(Part::Broken);
                                self.state = State::Seek;
                                self.seek();
                            }
                        }
                    }
                }
                State::Headers { length, payload } => {
                    if self.gather(&mut bytes, length) {
                        self.checksum.update(&self.held);
                        self.state = match Headers::read(&self.held) {
                            Some(headers) => {
                                take(Part::Begin(headers));
                                State::Payload { left: payload }
                            }
                            None => {
                                take(Part::Broken);
                                State::Skip {
                                    left: payload + CHECKSUM_BYTES,
                                }
                            }
                        };
                        self.release();
                    }
                }
                State::Payload { left: 0 } => self.state = State::Checksum,
                State::Payload { left } => {
                    let piece = split(&mut bytes, left);
                    self.checksum.update(piece);
                    take(Part::Payload(piece));
                    self.state = State::Payload {
                        left: left - length(piece),
                    };
                }
                State::Checksum => {
                    if self.gather(&mut bytes, CHECKSUM_BYTES as usize) {
                        let right = number(&self.held) == self.checksum.clone().finalize();
                        take(if right { Part::End } else { Part::Broken });
                        self.release();
                        self.state = State::Prelude;
                    }
                }
                State::Skip { left } => {
                    let piece = split(&mut bytes, left);
                    self.skip(left - length(piece));
                }
                State::Seek => {
                    if self.held.is_empty() {
                        let (one, other) = FIRST_BYTES;
                        let begin = memchr2(one, other, bytes).unwrap_or(bytes.len());
                        bytes = &bytes[begin..];
                    }
                    if self.gather(&mut bytes, PRELUDE_BYTES) {
                        self.seek();
                    }
                }
            }
        }
    }

    /// Steps over bytes that are missing. The message that they are part of cannot be read; if they are more,
    /// the next one is searched for.
    pub fn gap(&mut self, bytes: u64, take: &mut dyn FnMut(Part<'_>)) {
        if bytes == 0 {
            return;
        }
        let left = match self.state {
            State::Prelude | State::Seek => None,
            State::Headers { length, payload } => {
                let missing = u32::try_from(length - self.held.len()).ok();
                missing.map(|missing| missing + payload + CHECKSUM_BYTES)
            }
            State::Payload { left } => Some(left + CHECKSUM_BYTES),
            State::Checksum => Some(CHECKSUM_BYTES - length(&self.held)),
            State::Skip { left } => Some(left),
        };
        if !matches!(self.state, State::Skip { .. } | State::Seek) {
            take(Part::Broken);
        }
        self.release();
        match left.and_then(|left| left.checked_sub(u32::try_from(bytes).ok()?)) {
            Some(left) => self.skip(left),
            None => self.state = State::Seek,
        }
    }

    /// Whether the body ends where a message does.
    pub fn is_between(&self) -> bool {
        self.state == State::Prelude && self.held.is_empty()
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.held.capacity()
    }

    fn begin(&mut self, prelude: Prelude) {
        self.checksum.reset();
        self.checksum.update(&self.held);
        self.held.clear();
        self.state = State::Headers {
            length: prelude.headers as usize,
            payload: prelude.payload,
        };
    }

    fn skip(&mut self, left: u32) {
        self.state = match left {
            0 => State::Prelude,
            left => State::Skip { left },
        };
    }

    /// Begins a message if what is held is a prelude, or lets go what is none.
    fn seek(&mut self) {
        if let Some(prelude) = Prelude::read(&self.held) {
            return self.begin(prelude);
        }
        let (one, other) = FIRST_BYTES;
        let next = memchr2(one, other, &self.held[1..]).map_or(self.held.len(), |next| next + 1);
        self.held.drain(..next);
    }

    /// Holds bytes until there are `wanted`; returns whether there are.
    fn gather(&mut self, bytes: &mut &[u8], wanted: usize) -> bool {
        let length = bytes.len().min(wanted - self.held.len());
        let (piece, rest) = bytes.split_at(length);
        self.held.extend_from_slice(piece);
        *bytes = rest;
        self.held.len() == wanted
    }

    fn release(&mut self) {
        self.held.clear();
        // One message with long headers must not keep its memory for a whole stream.
        self.held.shrink_to(1024);
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            state: State::Prelude,
            held: Vec::new(),
            checksum: Hasher::new(),
        }
    }
}

impl Prelude {
    /// The lengths, if they are possible and what was sent.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (total, headers) = (number(bytes), number(&bytes[4..]));
        let payload = total.checked_sub(FRAME_BYTES)?.checked_sub(headers)?;
        let possible = headers <= HEADERS_BYTES && payload <= PAYLOAD_BYTES;
        let right = possible && number(&bytes[8..]) == crc32fast::hash(&bytes[..8]);
        right.then_some(Self { headers, payload })
    }
}

impl<'a> Headers<'a> {
    /// The headers, if they can be read to their end.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            header(&mut rest)?;
        }
        Some(Self(bytes))
    }

    /// The first header of this name, if it is a string.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.0;
        while !rest.is_empty() {
            let (found, value) = header(&mut rest)?;
            if found == name.as_bytes() {
                return std::str::from_utf8(value?).ok();
            }
        }
        None
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Headers")
            .field(&format_args!("<{} bytes>", self.0.len()))
            .finish()
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The next header: its name, and its value if that is a string.
fn header<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let [length] = *take(rest, 1)? else {
        return None;
    };
    let name = take(rest, length.into())?;
    let [kind] = *take(rest, 1)? else {
        return None;
    };
    let length = match kind {
        // True and false.
        0 | 1 => 0,
        // Integers of 1, 2, 4 and 8 bytes, and a time.
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        // Bytes and a string, with their length in front.
        6 | 7 => {
            let [high, low] = *take(rest, 2)? else {
                return None;
            };
            u16::from_be_bytes([high, low]).into()
        }
        // A UUID.
        9 => 16,
        _ => return None,
    };
    let value = take(rest, length)?;
    Some((name, (kind == 7).then_some(value)))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// As many of the next bytes as there are, `most` of them.
fn split<'a>(bytes: &mut &'a [u8], most: u32) -> &'a [u8] {
    let (piece, rest) = bytes.split_at(bytes.len().min(most as usize));
    *bytes = rest;
    piece
}

/// The first four bytes as a number.
fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Of a piece of a message, which is no longer than that.
fn length(piece: &[u8]) -> u32 {
    u32::try_from(piece.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a whole message: name and payload; `None` stands for one that is broken.
    type Messages = Vec<Option<(String, Vec<u8>)>>;

    /// Gathers messages.
    #[derive(Default)]
    struct Taker {
        open: Option<(String, Vec<u8>)>,
        messages: Messages,
    }

    impl Taker {
        fn take(&mut self, part: Part<'_>) {
            match part {
                Part::Begin(headers) => {
                    assert!(self.open.is_none());
                    let name = headers.text(":event-type").unwrap_or_default();
                    self.open = Some((name.to_owned(), Vec::new()));
                }
                Part::Payload(piece) => self.open.as_mut().unwrap().1.extend_from_slice(piece),
                Part::End => self.messages.push(Some(self.open.take().unwrap())),
                Part::Broken => {
                    self.open = None;
                    self.messages.push(None);
                }
            }
        }
    }

    fn messages<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Messages {
        let (mut parser, mut taker) = (Parser::default(), Taker::default());
        for piece in pieces {
            parser.push(piece, &mut |part| taker.take(part));
        }
        taker.messages
    }

    fn header(name: &str, value: &str) -> Vec<u8> {
        let mut header = vec![u8::try_from(name.len()).unwrap()];
        header.extend_from_slice(name.as_bytes());
        header.push(7);
        header.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        header.extend_from_slice(value.as_bytes());
        header
    }

    fn frame(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let total = u32::try_from(headers.len() + payload.len() + 16).unwrap();
        let mut frame = total.to_be_bytes().to_vec();
        frame.extend_from_slice(&length(headers).to_be_bytes());
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        frame.extend_from_slice(headers);
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        frame
    }

    fn event(name: &str, payload: &str) -> Vec<u8> {
        frame(&header(":event-type", name), payload.as_bytes())
    }

    fn is(name: &str, payload: &str) -> Option<(String, Vec<u8>)> {
        Some((name.to_owned(), payload.as_bytes().to_vec()))
    }

    /// As botocore 1.44 reads it.
    const SAMPLE: &str = "0000009400000057b4ab9aee0b3a6576656e742d74797065070011636f6e74656e74426c6f636b44656c7461\
        0d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e74\
        7b22636f6e74656e74426c6f636b496e646578223a302c2264656c7461223a7b2274657874223a224869227d7d1f944657";

    fn sample() -> Vec<u8> {
        (0..SAMPLE.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&SAMPLE[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn the_sample_is_read_at_any_split() {
        let sample = sample();
        let expected = [is(
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"text":"Hi"}}"#,
        )];
        for size in 1..=sample.len() {
            assert_eq!(messages(sample.chunks(size)), expected, "{size}");
        }
        let mut parser = Parser::default();
        parser.push(&sample, &mut |part| {
            if let Part::Begin(headers) = part {
                assert_eq!(headers.text(":message-type"), Some("event"));
                assert_eq!(headers.text(":content-type"), Some("application/json"));
                assert_eq!(headers.text(":exception-type"), None);
            }
        });
        assert!(parser.is_between());
    }

    #[test]
    fn headers_have_ten_types() {
        let mut headers = Vec::new();
        for (kind, value) in [
            (0, &b""[..]),
            (1, b""),
            (2, b"1"),
            (3, b"12"),
            (4, b"1234"),
            (5, b"12345678"),
            (6, b"\0\x03123"),
            (7, b"\0\x03123"),
            (8, b"12345678"),
            (9, b"0123456789abcdef"),
        ] {
            headers.extend_from_slice(&[2, b'h', b'0' + kind, kind]);
            headers.extend_from_slice(value);
        }
        let read = Headers::read(&headers).unwrap();
        assert_eq!(read.text("h7"), Some("123"));
        assert_eq!(read.text("h6"), None);
        // Whatever is cut off, it ends in the middle of a header or between two.
        let ends: Vec<usize> = (0..headers.len())
            .filter(|end| Headers::read(&headers[..*end]).is_some())
            .collect();
        assert_eq!(ends, [0, 4, 8, 13, 19, 27, 39, 48, 57, 69]);
        assert!(Headers::read(&[1, b'h', 10]).is_none());
    }

    #[test]
    fn a_message_may_have_neither_headers_nor_payload() {
        let stream = [frame(&[], b""), event("a", ""), frame(&[], b"{}")].concat();
        for size in [1, 7, stream.len()] {
            assert_eq!(
                messages(stream.chunks(size)),
                [is("", ""), is("a", ""), is("", "{}")]
            );
        }
    }

    #[test]
    fn a_wrong_byte_costs_one_message() {
        let (first, second) = (event("a", "{\"x\":1}"), event("b", "{}"));
        for at in 0..first.len() {
            let mut stream = [first.clone(), second.clone()].concat();
            stream[at] ^= 0x55;
            for size in [1, 5, stream.len()] {
                let messages = messages(stream.chunks(size));
                assert_eq!(messages, [None, is("b", "{}")], "{at} by {size}");
            }
        }
    }

    #[test]
    fn what_follows_a_gap_is_read() {
        let frames = [event("a", "{\"x\":1}"), event("b", "{}"), event("c", "3")];
        let stream = frames.concat();
        let ends = [frames[0].len(), frames[0].len() + frames[1].len()];
        for from in 0..ends[1] {
            for to in from + 1..=ends[1] {
                let (mut parser, mut taker) = (Parser::default(), Taker::default());
                parser.push(&stream[..from], &mut |part| taker.take(part));
                parser.gap((to - from) as u64, &mut |part| taker.take(part));
                parser.push(&stream[to..], &mut |part| taker.take(part));
                let whole: Vec<String> = taker
                    .messages
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name)
                    .collect();
                let mut expected = Vec::new();
                if from >= ends[0] {
                    expected.push("a");
                }
                if to <= ends[0] {
                    expected.push("b");
                }
                expected.push("c");
                assert_eq!(whole, expected, "{from} to {to}");
                assert!(parser.is_between());
            }
        }
    }

    #[test]
    fn impossible_lengths_are_passed_over() {
        let prelude = |total: u32, headers: u32| {
            let lengths = [total.to_be_bytes(), headers.to_be_bytes()].concat();
            let checksum = crc32fast::hash(&lengths).to_be_bytes();
            [&lengths[..], &checksum].concat()
        };
        for (total, headers) in [
            (0, 0),
            (15, 0),
            (16, 1),
            (u32::MAX, 0),
            (u32::MAX, u32::MAX),
            (PAYLOAD_BYTES + FRAME_BYTES + 1, 0),
            (HEADERS_BYTES + FRAME_BYTES + 1, HEADERS_BYTES + 1),
        ] {
            let stream = [prelude(total, headers), event("a", "{}")].concat();
            for size in [1, 13, stream.len()] {
                assert_eq!(messages(stream.chunks(size)), [None, is("a", "{}")]);
            }
        }
        let headers = frame(&[200, b'a'], b"{}");
        let stream = [headers, event("a", "{}")].concat();
        assert_eq!(messages([&stream[..]]), [None, is("a", "{}")]);
        let text = "HTTP/1.1 is no event stream. ".repeat(100);
        assert_eq!(messages([text.as_bytes()]), [None]);
    }

    #[test]
    fn the_largest_message_costs_nothing() {
        let piece = vec![b'x'; 1 << 20];
        let lengths = [(PAYLOAD_BYTES + FRAME_BYTES).to_be_bytes(), [0; 4]].concat();
        let mut parser = Parser::default();
        let mut passed = 0;
        let mut ended = false;
        let mut checksum = Hasher::new();
        let prelude = [&lengths[..], &crc32fast::hash(&lengths).to_be_bytes()].concat();
        let pieces = std::iter::once(&prelude).chain(std::iter::repeat_n(&piece, 24));
        let mut take = |part: Part<'_>| match part {
            Part::Payload(piece) => passed += piece.len(),
            Part::Begin(_) => {}
            Part::End => ended = true,
            Part::Broken => panic!("broken"),
        };
        for piece in pieces {
            checksum.update(piece);
            parser.push(piece, &mut take);
            assert!(parser.memory() < 4096);
        }
        parser.push(&checksum.finalize().to_be_bytes(), &mut take);
        assert_eq!((passed, ended), (24 << 20, true));
    }

    #[test]
    fn a_stream_that_is_cut_does_not_end_between_messages() {
        let stream = event("a", "{}");
        for at in 0..stream.len() {
            let mut parser = Parser::default();
            parser.push(&stream[..at], &mut |_| ());
            assert_eq!(parser.is_between(), at == 0);
        }
    }
}
