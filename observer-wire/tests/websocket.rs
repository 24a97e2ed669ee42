//! WebSocket as a whole: any split, fragmentation and compression gives the same messages, a loss is always
//! said, hostile frames do no harm, and time and memory follow the bytes.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]
#![allow(dead_code, reason = "frames are shared with other tests")]

#[path = "frames/websocket.rs"]
mod frames;

use std::time::{Duration, Instant};

use observer_wire::{
    CallEvent, Chunk, Close, Direction, Options, Origin, Timestamp,
    http::{Connection, End, Event, websocket::Part},
};
use proptest::prelude::*;

use self::frames::{BINARY, CLOSE, CONTINUATION, Encoder, FIN, PING, PONG, RSV1, TEXT};

const REQUEST: &[u8] = b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A message as it was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    direction: Direction,
    text: bool,
    bytes: Vec<u8>,
    missing: u64,
}

/// What happened in a session.
#[derive(Debug, Default)]
struct Seen {
    messages: Vec<Message>,
    /// By direction: the message that is not complete.
    open: [Option<Message>; 2],
    closes: Vec<(Direction, Option<u16>, String)>,
    /// Bytes missing between messages.
    missing: u64,
    largest: usize,
    end: Option<End>,
}

impl Seen {
    fn take(&mut self, event: Event<'_>) {
        assert_eq!(self.end, None, "{event:?} behind the end");
        match event {
            Event::Message {
                direction, part, ..
            } => {
                let open = &mut self.open[usize::from(direction == Direction::Sent)];
                match part {
                    Part::Begin { text, .. } => {
                        assert_eq!(*open, None);
                        *open = Some(Message {
                            direction,
                            text,
                            bytes: Vec::new(),
                            missing: 0,
                        });
                    }
                    Part::Bytes(bytes) => {
                        self.largest = self.largest.max(bytes.len());
                        open.as_mut().unwrap().bytes.extend(bytes);
                    }
                    Part::Gap(bytes) => match open {
                        Some(message) => message.missing += bytes,
                        None => self.missing += bytes,
                    },
                    Part::End => self.messages.push(open.take().unwrap()),
                    Part::Close { code, reason } => {
                        self.closes.push((direction, code, reason.to_owned()));
                    }
                }
            }
            Event::End { end, .. } => self.end = Some(end),
            _ => {}
        }
    }
}

struct Session {
    connection: Connection,
    seen: Seen,
}

impl Session {
    fn new(extensions: &str) -> Self {
        let mut session = Self {
            connection: Connection::default(),
            seen: Seen::default(),
        };
        session.pass(Direction::Sent, REQUEST);
        let extensions = match extensions {
            "" => String::new(),
            other => format!("Sec-WebSocket-Extensions: {other}\r\n"),
        };
        let accepted = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: upgrade\r\n{extensions}\r\n"
        );
        session.pass(Direction::Received, accepted.as_bytes());
        session
    }

    fn pass(&mut self, direction: Direction, bytes: &[u8]) {
        let seen = &mut self.seen;
        self.connection
            .data(direction, Timestamp(1), Origin(7), bytes, &mut |event| {
                seen.take(event);
            });
    }

    fn lose(&mut self, direction: Direction, bytes: usize) {
        let seen = &mut self.seen;
        self.connection
            .gap(direction, bytes as u64, Timestamp(1), &mut |event| {
                seen.take(event);
            });
    }

    fn close(mut self, close: Close) -> Seen {
        let seen = &mut self.seen;
        self.connection
            .close(close, Timestamp(2), &mut |event| seen.take(event));
        self.seen
    }
}

/// A message to be sent: by whom, whether it is text, compressed, and in how many frames.
#[derive(Clone, Debug)]
struct Shape {
    sent: bool,
    text: bool,
    compressed: bool,
    frames: usize,
    /// Also tells how much it repeats itself.
    length: usize,
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let length = prop_oneof![9 => 0_usize..200, 1 => 65_500_usize..65_600];
    let shape = (any::<[bool; 3]>(), 1_usize..4, length).prop_map(
        |([sent, text, compressed], frames, length)| Shape {
            sent,
            text,
            compressed,
            frames,
            length,
        },
    );
    prop::collection::vec(shape, 1..12)
}

/// A direction, the bytes of a frame, and to which message it belongs.
type Write = (Direction, Vec<u8>, usize);

/// The wire bytes of messages, a write for each frame, and the messages.
fn conversation(shapes: &[Shape], deflate: bool, takeover: bool) -> (Vec<Write>, Vec<Message>) {
    let mut encoders = [Encoder::new(false), Encoder::new(true)];
    let (mut writes, mut messages) = (Vec::new(), Vec::new());
    for (index, shape) in shapes.iter().enumerate() {
        let direction = if shape.sent {
            Direction::Sent
        } else {
            Direction::Received
        };
        let bytes: Vec<u8> = (0..shape.length)
            .map(|place| b' ' + ((place * place / 7 + index) % 90) as u8)
            .collect();
        let encoder = &mut encoders[usize::from(shape.sent)];
        let opcode = if shape.text { TEXT } else { BINARY };
        let compressed = deflate && shape.compressed;
        for frame in encoder.message(opcode, compressed, shape.frames, &bytes) {
            writes.push((direction, frame, index));
            // Control frames may come between fragments (RFC 6455 section 5.5).
            let control = if index % 2 == 0 { PING } else { PONG };
            writes.push((
                direction,
                encoder.frame(FIN | control, b"are you there"),
                index,
            ));
        }
        if !takeover {
            encoder.forget();
        }
        messages.push(Message {
            direction,
            text: shape.text,
            bytes,
            missing: 0,
        });
    }
    (writes, messages)
}

fn extensions(deflate: bool, takeover: bool) -> &'static str {
    match (deflate, takeover) {
        (false, _) => "",
        (true, true) => "permessage-deflate; server_max_window_bits=12; client_max_window_bits=15",
        (true, false) => {
            "permessage-deflate; client_no_context_takeover;server_no_context_takeover"
        }
    }
}

fn of(messages: &[Message], direction: Direction) -> Vec<Message> {
    let of = messages.iter().filter(|one| one.direction == direction);
    of.cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_split_gives_the_same_messages(shapes in shapes(), deflate: bool, takeover: bool, piece in 1_usize..5_000) {
        let (writes, expected) = conversation(&shapes, deflate, takeover);
        let mut session = Session::new(extensions(deflate, takeover));
        for (direction, bytes, _) in writes {
            for bytes in bytes.chunks(piece) {
                session.pass(direction, bytes);
            }
        }
        prop_assert_eq!(&session.seen.messages, &expected);
        prop_assert!(session.seen.largest <= 4096);
        prop_assert_eq!(session.close(Close::Local).end, Some(End::ClientClosed));
    }

    #[test]
    fn what_is_lost_is_said(shapes in shapes(), deflate: bool, takeover: bool, piece in 130_usize..5_000, losses in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let (writes, expected) = conversation(&shapes, deflate, takeover);
        let pieces: Vec<(Direction, &[u8])> = writes
            .iter()
            .flat_map(|(direction, bytes, _)| bytes.chunks(piece).map(|bytes| (*direction, bytes)))
            .collect();
        let lost: Vec<usize> = losses.iter().map(|index| index.index(pieces.len())).collect();
        let mut session = Session::new(extensions(deflate, takeover));
        for (index, (direction, bytes)) in pieces.iter().enumerate() {
            if session.seen.end.is_some() {
                break;
            }
            if lost.contains(&index) {
                session.lose(*direction, bytes.len());
            } else {
                session.pass(*direction, bytes);
            }
        }
        let ended = session.seen.end;
        prop_assert!(matches!(ended, None | Some(End::Lost)), "{:?}", ended);
        prop_assert!(ended.is_none() || (deflate && takeover));
        let seen = session.close(Close::Local);
        for direction in [Direction::Sent, Direction::Received] {
            // Those that are whole are the ones that were sent, in order.
            let mut whole = of(&expected, direction).into_iter();
            for message in of(&seen.messages, direction).iter().filter(|one| one.missing == 0) {
                prop_assert!(whole.any(|one| one == *message), "{:?}", message);
            }
        }
    }

    #[test]
    fn arbitrary_frames_do_no_harm(steps in prop::collection::vec((any::<bool>(), 0_u8..20, prop::collection::vec(any::<u8>(), 0..300)), 0..40), deflate: bool) {
        let mut session = Session::new(extensions(deflate, true));
        for (sent, first, bytes) in steps {
            let direction = if sent { Direction::Sent } else { Direction::Received };
            if session.seen.end.is_some() {
                break;
            }
            match first {
                // Frames that may well be valid.
                0..17 => {
                    let mut encoder = Encoder::new(sent);
                    let first = [0x81, 0xc1, 0x01, 0x41, 0x00, 0x80, 0x88, 0x89][usize::from(first) % 8];
                    let payload = &bytes[..bytes.len().min(if first & 8 == 0 { 300 } else { 125 })];
                    session.pass(direction, &encoder.frame(first, payload));
                }
                17 => session.lose(direction, bytes.len()),
                _ => session.pass(direction, &bytes),
            }
        }
        session.close(Close::Peer { clean: true });
    }
}

#[test]
fn fragments_and_control_frames_interleave() {
    let mut session = Session::new("");
    let mut encoder = Encoder::new(false);
    for frame in [
        encoder.frame(TEXT, b"{\"type\":"),
        encoder.frame(FIN | PING, b"1"),
        encoder.frame(CONTINUATION, b"\"a\""),
        encoder.frame(FIN | PONG, b""),
        encoder.frame(CONTINUATION, b""),
        encoder.frame(FIN | CONTINUATION, b"}"),
        encoder.frame(FIN | TEXT, b""),
    ] {
        session.pass(Direction::Received, &frame);
    }
    let texts: Vec<&[u8]> = session
        .seen
        .messages
        .iter()
        .map(|one| one.bytes.as_slice())
        .collect();
    assert_eq!(texts, [&b"{\"type\":\"a\"}"[..], b""]);
}

#[test]
fn who_closes_first_ends_the_session() {
    for (first, expected) in [
        (Direction::Sent, End::ClientClosed),
        (Direction::Received, End::ServerClosed),
    ] {
        let mut session = Session::new("");
        session.pass(
            first,
            &Encoder::new(first == Direction::Sent).close(1011, "internal error"),
        );
        assert_eq!(session.seen.end, None);
        let second = first.opposite();
        session.pass(
            second,
            &Encoder::new(second == Direction::Sent).frame(FIN | CLOSE, b""),
        );
        assert_eq!(session.seen.end, Some(expected));
        let closes = [
            (first, Some(1011), "internal error".to_owned()),
            (second, None, String::new()),
        ];
        assert_eq!(session.seen.closes, closes);
        // The connection may end without an answer.
        let mut session = Session::new("");
        session.pass(
            first,
            &Encoder::new(first == Direction::Sent).close(1000, ""),
        );
        assert_eq!(
            session.close(Close::Peer { clean: true }).end,
            Some(expected)
        );
    }
}

#[test]
fn frames_that_may_not_be_end_the_session() {
    let sent = |first, payload: &[u8]| (Direction::Sent, Encoder::new(true).frame(first, payload));
    let received = |first, payload: &[u8]| {
        (
            Direction::Received,
            Encoder::new(false).frame(first, payload),
        )
    };
    let endless = |length| {
        let frame = Encoder::new(false).frame_of_length(FIN | TEXT, length, b"{");
        (Direction::Received, frame)
    };
    let cases = [
        ("reserved opcode", received(FIN | 3, b"x")),
        ("reserved control opcode", sent(FIN | 11, b"x")),
        ("reserved bit", received(FIN | 0x20 | TEXT, b"x")),
        (
            "compression that is not agreed",
            received(FIN | RSV1 | TEXT, b"x"),
        ),
        ("a long ping", received(FIN | PING, &[0; 126])),
        ("a fragmented close", received(CLOSE, b"")),
        ("a fragment without a start", sent(FIN | CONTINUATION, b"x")),
        (
            "a server that masks",
            (
                Direction::Received,
                Encoder::new(true).frame(FIN | TEXT, b"x"),
            ),
        ),
        (
            "a client that does not",
            (Direction::Sent, Encoder::new(false).frame(FIN | TEXT, b"x")),
        ),
        ("a length of 2^63", endless(1 << 63)),
    ];
    for (name, (direction, frame)) in cases {
        let mut session = Session::new("");
        session.pass(direction, &frame);
        assert_eq!(session.seen.end, Some(End::Malformed), "{name}");
        assert!(session.seen.messages.is_empty(), "{name}");
    }
    let mut session = Session::new("");
    session.pass(Direction::Sent, &Encoder::new(true).frame(TEXT, b"a"));
    session.pass(Direction::Sent, &Encoder::new(true).frame(TEXT, b"b"));
    assert_eq!(
        session.seen.end,
        Some(End::Malformed),
        "a message in a message"
    );

    let mut session = Session::new("");
    session.pass(endless(0).0, &endless((1 << 63) - 1).1);
    assert_eq!(session.seen.end, None, "a message may be endless");
    assert!(session.connection.memory() < 4096);

    let mut session = Session::new("permessage-deflate");
    let (direction, frame) = received(FIN | RSV1 | TEXT, &[0xff; 40]);
    session.pass(direction, &frame);
    assert_eq!(session.seen.end, Some(End::Malformed), "no deflate");
    let (direction, frame) = received(FIN | RSV1 | CONTINUATION, b"x");
    let mut session = Session::new("permessage-deflate");
    session.pass(direction, &frame);
    assert_eq!(
        session.seen.end,
        Some(End::Malformed),
        "compressed continuation"
    );
}

#[test]
fn other_extensions_are_not_read() {
    for extensions in ["x-webkit-deflate-frame", "permessage-deflate, x-other"] {
        let session = Session::new(extensions);
        assert_eq!(session.seen.end, Some(End::Upgraded), "{extensions}");
    }
}

#[test]
fn a_stream_of_deflate_may_end_with_a_message() {
    let mut session = Session::new("permessage-deflate");
    let mut encoder = Encoder::new(false);
    // RFC 7692 section 7.2.3.4: "Hello" in a block with BFINAL, and a byte of zeroes.
    let hello = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    for _ in 0..2 {
        session.pass(
            Direction::Received,
            &encoder.frame(FIN | RSV1 | TEXT, &hello),
        );
    }
    // Section 7.2.3.2: the second refers to the first.
    for payload in [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
    ] {
        session.pass(
            Direction::Received,
            &encoder.frame(FIN | RSV1 | TEXT, payload),
        );
    }
    let texts: Vec<&[u8]> = session
        .seen
        .messages
        .iter()
        .map(|one| one.bytes.as_slice())
        .collect();
    assert_eq!(texts, [b"Hello"; 4]);
}

#[test]
fn frames_are_found_again() {
    let mut encoder = Encoder::new(false);
    let mut session = Session::new("");
    let long = encoder.frame(FIN | TEXT, &[b'A'; 30_000]);
    session.pass(Direction::Received, &long[..10_000]);
    session.lose(Direction::Received, 25_000);
    assert_eq!(session.seen.messages[0].missing, 25_000);
    session.pass(Direction::Received, &[b'A'; 3_000]);
    session.pass(Direction::Received, &encoder.frame(CONTINUATION, b"orphan"));
    session.pass(
        Direction::Received,
        &encoder.frame(FIN | CONTINUATION, b"orphan"),
    );
    session.pass(Direction::Received, &encoder.frame(FIN | TEXT, b"next"));
    assert_eq!(session.seen.messages.len(), 2);
    assert_eq!(session.seen.messages[1].bytes, b"next");
    assert_eq!(session.seen.end, None);
}

#[test]
fn a_message_that_refers_to_a_lost_one_is_missing() {
    let compressed =
        |encoder: &mut Encoder, text: &[u8]| encoder.message(TEXT, true, 1, text).remove(0);
    // The client's are not needed, so the session goes on.
    let mut encoder = Encoder::new(true);
    let mut session = Session::new("permessage-deflate");
    let lost = compressed(&mut encoder, b"lost");
    session.lose(Direction::Sent, lost.len());
    session.pass(Direction::Sent, &compressed(&mut encoder, b"unreadable"));
    session.pass(Direction::Sent, &encoder.frame(FIN | TEXT, b"plain"));
    assert!(session.seen.messages[0].missing > 0 && session.seen.messages[0].bytes.is_empty());
    assert_eq!(session.seen.messages[1].bytes, b"plain");
    assert_eq!(session.seen.end, None);
    session.lose(Direction::Received, 10);
    assert_eq!(session.seen.end, Some(End::Lost));
}

/// Where one thread reads and another writes, a read may return before the write that it answers.
#[test]
fn an_answer_may_be_seen_before_its_question() {
    let created = |id: &str| format!(r#"{{"type":"response.created","response":{{"id":"{id}"}}}}"#);
    let done = |id: &str| {
        format!(
            r#"{{"type":"response.done","response":{{"id":"{id}","status":"completed","usage":{{"input_tokens":3}}}}}}"#
        )
    };
    let mut server = Encoder::new(false);
    let mut client = Encoder::new(true);
    let accepted =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    let mut text = |text: &str| server.frame(FIN | TEXT, text.as_bytes());
    let create = client.frame(FIN | TEXT, br#"{"type":"response.create"}"#);
    let refused = r#"{"type":"error","error":{"type":"invalid_request_error","event_id":"mine"}}"#;
    // By when they were handed over, in milliseconds, in the order in which they are seen.
    let steps = [
        (Direction::Received, 3, 2, accepted.to_vec()),
        (Direction::Sent, 1, 1, REQUEST.to_vec()),
        (Direction::Received, 12, 2, text(&created("a"))),
        (Direction::Sent, 10, 1, create.clone()),
        (Direction::Received, 15, 2, text(&done("a"))),
        // All of the answer is there before its question.
        (Direction::Received, 22, 2, text(&created("b"))),
        (Direction::Received, 23, 2, text(&done("b"))),
        (Direction::Sent, 20, 1, create.clone()),
        // An error about what was not seen yet.
        (Direction::Received, 27, 2, text(refused)),
        (
            Direction::Sent,
            26,
            1,
            client.frame(
                FIN | TEXT,
                br#"{"type":"response.create","event_id":"mine"}"#,
            ),
        ),
        // By itself.
        (Direction::Received, 30, 2, text(&created("c"))),
        (Direction::Received, 35, 2, text(&done("c"))),
        (Direction::Sent, 40, 1, create),
    ];
    let mut connection = observer_wire::Connection::new(Options::default());
    let (mut offsets, mut started, mut calls) = ([0; 2], Vec::new(), Vec::new());
    let mut report = |event: CallEvent| match event {
        CallEvent::Started { at, origin, .. } => started.push((at.0 / 1_000_000, origin.0)),
        CallEvent::Ended { record, .. } => calls.push(*record),
        CallEvent::Requested { .. } => {}
        event => panic!("each is a call: {event:?}"),
    };
    for (direction, at, thread, bytes) in &steps {
        let offset = &mut offsets[usize::from(*direction == Direction::Sent)];
        let chunk = Chunk {
            direction: *direction,
            offset: *offset,
            at: Timestamp(at * 1_000_000),
            origin: Origin(*thread),
            bytes,
        };
        *offset += bytes.len() as u64;
        connection.data(chunk, &mut report);
    }
    connection.close(Close::Local, None, Timestamp(50_000_000), &mut report);
    let seen: Vec<_> = calls
        .iter()
        .map(|call| {
            let id = call.response_id.as_deref().unwrap_or("-");
            (
                id,
                call.start.0 / 1_000_000,
                call.latency.as_millis(),
                call.origin.0,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("a", 10, 5, 1),
            ("b", 22, 1, 2),
            ("-", 26, 1, 1),
            ("c", 30, 5, 2),
            ("-", 40, 10, 1)
        ]
    );
    assert_eq!(started, [(10, 1), (22, 2), (26, 1), (30, 2), (40, 1)]);
    let incomplete: Vec<bool> = calls.iter().map(|call| call.incomplete.is_some()).collect();
    assert_eq!(incomplete, [false, false, false, false, true]);
    assert_eq!(
        calls[2].error_type.as_deref(),
        Some("invalid_request_error")
    );
}

#[test]
fn a_bomb_costs_neither_memory_nor_more_than_its_time() {
    let mut encoder = Encoder::new(false);
    let bomb = encoder
        .message(TEXT, true, 1, &vec![b'0'; 8 << 20])
        .remove(0);
    assert!(bomb.len() < 100_000);
    let mut connection = Session::new("permessage-deflate").connection;
    let (mut total, mut largest) = (0, 0);
    for piece in bomb.chunks(1000) {
        connection.data(
            Direction::Received,
            Timestamp(1),
            Origin(0),
            piece,
            &mut |event| {
                if let Event::Message {
                    part: Part::Bytes(bytes),
                    ..
                } = event
                {
                    total += bytes.len();
                    largest = largest.max(bytes.len());
                }
            },
        );
        assert!(connection.memory() < 64 * 1024);
    }
    assert_eq!((total, largest), (8 << 20, 4096));
}

/// Twice as many bytes may take twice as long: what is most expensive for each byte.
#[test]
fn time_follows_the_bytes() {
    let empty: Vec<u8> = Encoder::new(true).frame(FIN | TEXT, b"");
    let ping: Vec<u8> = Encoder::new(true).frame(FIN | PING, b"");
    let restart = Encoder::new(true).frame(RSV1 | TEXT, &[3, 0].repeat(50));
    let go_on = Encoder::new(true).frame(CONTINUATION, &[3, 0].repeat(50));
    let fragment = Encoder::new(true).frame(CONTINUATION, b"x");
    let begin = Encoder::new(true).frame(TEXT, b"x");
    for (name, first, frame) in [
        ("empty messages", empty.clone(), empty),
        ("pings", ping.clone(), ping),
        ("streams of deflate", restart, go_on),
        ("fragments", begin, fragment),
    ] {
        let took = |count: usize| {
            let bytes = frame.repeat(count);
            (0..3)
                .map(|_| {
                    let mut session = Session::new("permessage-deflate");
                    session.pass(Direction::Sent, &first);
                    let began = Instant::now();
                    for piece in bytes.chunks(16 * 1024) {
                        session.pass(Direction::Sent, piece);
                    }
                    assert_eq!(session.seen.end, None, "{name}");
                    began.elapsed()
                })
                .min()
                .unwrap()
        };
        let (small, large) = (took(200), took(1_600));
        assert!(
            large < 8 * 3 * small + Duration::from_millis(5),
            "{name}: {small:?}, then {large:?}"
        );
    }
}
