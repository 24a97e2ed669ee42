//! A whole connection: whatever comes, every call that started ends once, and memory is bounded.
//!
//! The input is a script: a byte of options, then steps of a byte that says what happens, two bytes
//! of a length (little-endian) and, where bytes are sent or received, so many bytes.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use observer_wire::{CallEvent, Chunk, Close, Connection, Direction, Options, Origin, Timestamp};

/// A body that is compressed may grow by so much: the longest event, and the room to double it.
const DECODED_BYTES: usize = 64 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&options, mut script)) = data.split_first() else {
        return;
    };
    let mut connection = Connection::new(Options {
        capture_content: options & 1 != 0,
        output_preview_chars: usize::from(options >> 1),
        input_preview_chars: usize::from(options >> 1),
        salt: [1; 32],
    });
    let (mut open, mut requested, mut inbound) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut report = |event: CallEvent| match event {
        CallEvent::Started { call, .. } => assert!(open.insert(call), "{call:?} started twice"),
        CallEvent::Ended { call, record } => {
            assert!(open.remove(&call), "{call:?} ended without a start");
            assert!(
                record
                    .error_message
                    .is_none_or(|message| message.chars().count() <= 4100)
            );
        }
        CallEvent::Dismissed { call } => {
            assert!(open.remove(&call), "{call:?} was dismissed without a start");
        }
        CallEvent::Requested { call, .. } => {
            assert!(open.contains(&call), "{call:?} was read without a start");
            assert!(requested.insert(call), "{call:?} was read twice");
        }
        CallEvent::InboundStarted { exchange, .. } => {
            assert!(inbound.insert(exchange), "{exchange} came in twice");
        }
        CallEvent::InboundEnded { exchange, .. } => {
            assert!(inbound.remove(&exchange), "{exchange} ended without a start");
        }
        CallEvent::Unread { .. } => {}
    };
    let encoded = data
        .windows(8)
        .any(|window| window.eq_ignore_ascii_case(b"encoding"));
    let bound = (1 << 20) + 16 * data.len() + if encoded { DECODED_BYTES } else { 0 };
    let mut offsets = [0_u64; 2];
    let mut at = 0;
    let mut closed = false;
    while let [step, low, high, rest @ ..] = script {
        let length = u16::from_le_bytes([*low, *high]);
        script = rest;
        let side = usize::from(step & 1);
        let direction = if side == 1 {
            Direction::Sent
        } else {
            Direction::Received
        };
        match step >> 1 & 7 {
            0 => offsets[side] += u64::from(length),
            1 => offsets[side] = offsets[side].saturating_sub(length.into()),
            2 => at += u64::from(length) << 24,
            3 => {
                let close = match length & 7 {
                    0 => Close::Detached,
                    1 => Close::Local,
                    2 => Close::Peer { clean: false },
                    3 => Close::Peer { clean: true },
                    _ => Close::ProcessExit,
                };
                let produced = (step & 16 != 0).then_some((offsets[1], offsets[0]));
                connection.close(close, produced, Timestamp(at), &mut report);
                closed = true;
            }
            _ => {
                let (bytes, rest) = script.split_at(script.len().min(length.into()));
                script = rest;
                let chunk = Chunk {
                    direction,
                    offset: offsets[side],
                    at: Timestamp(at),
                    origin: Origin(0),
                    bytes,
                };
                connection.data(chunk, &mut report);
                offsets[side] += bytes.len() as u64;
                at += 1_000_000;
                closed = false;
            }
        }
        assert!(
            connection.memory() <= bound,
            "{} of {bound}",
            connection.memory()
        );
    }
    if !closed {
        connection.close(Close::Local, None, Timestamp(at), &mut report);
    }
    assert!(open.is_empty(), "{open:?} did not end");
    assert!(inbound.is_empty(), "{inbound:?} did not end");
});
