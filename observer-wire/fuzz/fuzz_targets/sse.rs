//! Server-sent events: the events do not depend on how the bytes are split.
//!
//! The first byte is the length of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_wire::body::sse::{Event, Parser};

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let whole = events(stream, stream.len().max(1));
    let pieces = events(stream, usize::from(size).max(1));
    assert!(whole == pieces, "events differ by pieces of {size}");
});

fn events(stream: &[u8], size: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    let mut keep = |event: Event<'_>| events.push((event.name.to_vec(), event.data.to_vec()));
    for piece in stream.chunks(size) {
        parser.push(piece, &mut keep);
        assert!(parser.memory() <= 4 * stream.len() + (1 << 16));
    }
    parser.finish(&mut keep);
    events
}
