//! A WebSocket session: whatever comes, the parts of a message lie between its begin and its end, nothing comes
//! behind the end of the session, and memory is bounded.
//!
//! The input is a script: a byte that says what is agreed on compression, then steps of a byte that says what
//! happens, two bytes of a length (little-endian) and, where bytes are sent or received, so many bytes. Bytes
//! are the payload of a frame, whose first byte comes before the length, or frames as they are.

#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_wire::{
    Close, Direction, Origin, Timestamp,
    http::{Event, h1::Connection, websocket::Part},
};

/// Two heads with the room that a growing buffer takes, and two inflaters.
const MEMORY: usize = 256 << 10;

/// Bytes of a message that are handed over at a time.
const PIECE: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((&agreed, mut script)) = data.split_first() else {
        return;
    };
    let mut connection = Connection::default();
    let mut ended = false;
    let mut open = [false; 2];
    let mut check = |event: Event<'_>| {
        assert!(!ended, "{event:?} behind the end");
        match event {
            Event::Message {
                direction, part, ..
            } => {
                let open = &mut open[usize::from(direction == Direction::Sent)];
                match part {
                    Part::Begin { .. } => assert!(!std::mem::replace(open, true)),
                    Part::Bytes(bytes) => assert!(*open && bytes.len() <= PIECE),
                    Part::End => assert!(std::mem::replace(open, false)),
                    Part::Gap(_) | Part::Close { .. } => {}
                }
            }
            Event::End { .. } => ended = true,
            _ => {}
        }
    };
    let at = Timestamp(0);
    let extensions = match agreed % 4 {
        0 => "",
        1 => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        2 => "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
        _ => "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n",
    };
    let request = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
    connection.data(Direction::Sent, at, Origin(0), request, &mut check);
    let response =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{extensions}\r\n");
    let response = response.as_bytes();
    connection.data(Direction::Received, at, Origin(0), response, &mut check);
    while let [step, first, low, high, rest @ ..] = script {
        let length = u16::from_le_bytes([*low, *high]);
        script = rest;
        let direction = if step & 1 == 0 {
            Direction::Received
        } else {
            Direction::Sent
        };
        match step >> 1 & 3 {
            0 => connection.gap(direction, length.into(), at, &mut check),
            kind => {
                let (bytes, rest) = script.split_at(script.len().min(length.into()));
                script = rest;
                if kind > 1 {
                    let mask = if step & 1 == 0 { 0 } else { 0x80 };
                    let mut head = vec![*first];
                    match u8::try_from(bytes.len()) {
                        Ok(length @ ..126) => head.push(mask | length),
                        _ => {
                            head.push(mask | 126);
                            head.extend((bytes.len() as u16).to_be_bytes());
                        }
                    }
                    if mask != 0 {
                        // A key of zeroes.
                        head.extend([0; 4]);
                    }
                    connection.data(direction, at, Origin(0), &head, &mut check);
                }
                connection.data(direction, at, Origin(0), bytes, &mut check);
            }
        }
        assert!(connection.memory() <= MEMORY, "{}", connection.memory());
    }
    connection.close(Close::Detached, at, &mut check);
    assert!(ended, "a session without an end");
});
