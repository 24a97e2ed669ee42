//! Messages of an event stream, with gaps: the same comes out however the bytes are split, every message has
//! one end, and memory is bounded.
//!
//! The input is a byte that is the length of the pieces, two of where a gap is and one of its length (0 is
//! none), then the stream.

#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_wire::body::{
    base64,
    eventstream::{Parser, Part},
};

/// The longest headers, with the room that a growing buffer takes.
const MEMORY: usize = (256 << 10) + 1024;

/// Type, payload, what is in it, and whether it is right.
type Message = (String, Vec<u8>, Vec<u8>, bool);

fn parse<'a>(before: impl Iterator<Item = &'a [u8]>, gap: u8, after: impl Iterator<Item = &'a [u8]>) -> Vec<Message> {
    let mut parser = Parser::default();
    let mut messages = Vec::new();
    let mut open: Option<(Message, base64::Parser)> = None;
    let mut take = |part: Part<'_>| match part {
        Part::Begin(headers) => {
            assert!(open.is_none());
            let name = headers.text(":event-type").unwrap_or_default().to_owned();
            open = Some((
                (name, Vec::new(), Vec::new(), false),
                base64::Parser::new("bytes"),
            ));
        }
        Part::Payload(piece) => {
            let ((_, payload, decoded, _), inner) = open.as_mut().expect("a message has begun");
            payload.extend_from_slice(piece);
            inner.push(piece, &mut |bytes| decoded.extend_from_slice(bytes));
        }
        Part::End => {
            let (mut message, inner) = open.take().expect("a message has begun");
            message.3 = !inner.is_broken();
            messages.push(message);
        }
        Part::Broken => open = None,
    };
    for piece in before {
        parser.push(piece, &mut take);
        assert!(parser.memory() <= MEMORY, "{}", parser.memory());
    }
    parser.gap(gap.into(), &mut take);
    for piece in after {
        parser.push(piece, &mut take);
        assert!(parser.memory() <= MEMORY, "{}", parser.memory());
    }
    messages
}

fuzz_target!(|data: &[u8]| {
    let [size, high, low, gap, stream @ ..] = data else {
        return;
    };
    let at = usize::from(u16::from_be_bytes([*high, *low])).min(stream.len());
    let (before, after) = stream.split_at(at);
    let size = usize::from(*size).max(1);
    let whole = parse([before].into_iter(), *gap, [after].into_iter());
    let split = parse(before.chunks(size), *gap, after.chunks(size));
    assert_eq!(whole, split);
});
