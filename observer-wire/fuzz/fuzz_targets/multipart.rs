//! Forms: the same fields come out however the bytes are split, and memory follows the selection.
//!
//! The input is a byte that is the length of the pieces, the content type up to a line end, and the form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_wire::body::{
    json::{Keep, Limits, Select, Status},
    multipart::Parser,
};
use serde_json::Value;

const LIMITS: Limits = Limits {
    string_chars: 64,
    kept_bytes: 16 * 1024,
};

static SELECT: Select = Select::Either(
    &Select::Object(&[
        ("a", Select::Scalar),
        ("model", Select::All),
        ("b", Select::Mark),
        ("c", Select::Array(Keep::Last(2), &Select::Scalar)),
    ]),
    &Select::Scalar,
);

fn parse<'a>(
    content_type: &str,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Option<Value>, Status) {
    let mut parser = Parser::new(content_type, &SELECT, LIMITS);
    for piece in pieces {
        parser.push(piece);
        assert!(parser.memory() <= 64 * 1024, "{}", parser.memory());
    }
    parser.finish()
}

fuzz_target!(|data: &[u8]| {
    let [size, rest @ ..] = data else { return };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (content_type, form) = rest.split_at(end.unwrap_or(rest.len()));
    let content_type = String::from_utf8_lossy(content_type);
    let form = form.get(1..).unwrap_or_default();
    let whole = parse(&content_type, [form].into_iter());
    let split = parse(&content_type, form.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, split);
});
