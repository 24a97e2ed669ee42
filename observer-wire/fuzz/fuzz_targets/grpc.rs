//! Messages of gRPC: the same comes out however the bytes are split, and memory follows the selection.

#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_wire::body::{
    grpc::Parser,
    json::Limits,
    protobuf::{Field, Keep, Kind, Message},
};
use serde_json::Value;

const LIMITS: Limits = Limits {
    string_chars: 64,
    kept_bytes: 16 * 1024,
};

static MESSAGE: Message = Message(&[
    field(1, "text", Keep::One, Kind::Text),
    field(2, "last", Keep::Last(2), Kind::Message(&MESSAGE)),
    field(3, "all", Keep::All, Kind::Message(&MESSAGE)),
    field(4, "mark", Keep::One, Kind::Mark),
    field(5, "float", Keep::One, Kind::Float),
    field(6, "integer", Keep::All, Kind::Integer),
    field(7, "bool", Keep::One, Kind::Bool),
]);

const fn field(number: u32, name: &'static str, keep: Keep, kind: Kind) -> Field {
    Field {
        number,
        name,
        keep,
        kind,
    }
}

/// What comes out of a body in pieces.
fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Value>> {
    let mut parser = Parser::new(&MESSAGE, "gzip", LIMITS);
    let mut messages = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut |message| messages.push(message));
        assert!(parser.memory() <= 64 * 1024, "{}", parser.memory());
    }
    messages
}

fuzz_target!(|data: &[u8]| {
    let [size, body @ ..] = data else { return };
    let whole = parse([body].into_iter());
    let split = parse(body.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, split);
});
