//! HTTP/2, from its beginning or joined: whatever comes, the events of an exchange lie between its head and
//! its one end, and memory is bounded.
//!
//! The input is a script: steps of a byte that says what happens, two bytes of a length
//! (little-endian) and, where bytes are sent or received, so many bytes.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use observer_wire::{
    Close, Direction, Origin, Timestamp,
    http::{Event, h2::Connection},
};

/// Two blocks of fields of the longest kind with the room that a growing buffer takes, two tables, and what
/// the longest strings are decoded into.
const MEMORY: usize = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let mut connection = Connection::default();
    let mut open = BTreeSet::new();
    let mut last = None;
    let mut check = |event: Event<'_>| match event {
        Event::RequestHead { exchange, .. } => {
            // The streams of one client, which are numbered upwards (RFC 9113 section 5.1.1).
            assert!(last < Some(exchange));
            last = Some(exchange);
            open.insert(exchange);
        }
        Event::RequestBody { exchange, .. }
        | Event::RequestGap { exchange, .. }
        | Event::RequestEnd { exchange, .. }
        | Event::ResponseHead { exchange, .. }
        | Event::ResponseBody { exchange, .. }
        | Event::ResponseGap { exchange, .. }
        | Event::ResponseTrailers { exchange, .. }
        | Event::Message { exchange, .. } => assert!(open.contains(&exchange)),
        Event::End { exchange, .. } => assert!(open.remove(&exchange)),
    };
    let at = Timestamp(0);
    let mut script = data;
    while let [step, low, high, rest @ ..] = script {
        let length = u16::from_le_bytes([*low, *high]);
        script = rest;
        let direction = if step & 1 == 0 {
            Direction::Received
        } else {
            Direction::Sent
        };
        match step >> 1 & 3 {
            0 => connection.gap(direction, length.into(), at, &mut check),
            1 if step & 0xf0 == 0xf0 => {
                let close = match length % 4 {
                    0 => Close::Local,
                    1 => Close::Peer { clean: true },
                    2 => Close::Peer { clean: false },
                    _ => Close::ProcessExit,
                };
                connection.close(close, at, &mut check);
            }
            _ => {
                let (bytes, rest) = script.split_at(script.len().min(length.into()));
                script = rest;
                connection.data(direction, at, Origin(0), bytes, &mut check);
            }
        }
        assert!(connection.memory() <= MEMORY, "{}", connection.memory());
    }
    connection.close(Close::Detached, at, &mut check);
    assert!(open.is_empty(), "exchanges without an end");
});
