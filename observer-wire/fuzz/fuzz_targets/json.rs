//! The push parser of JSON: at any split it must agree with itself, and with serde_json.

#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_wire::body::json::{Keep, Limits, Parser, Select, Status};
use serde_json::Value;

/// A selection with everything that there is to select with.
static SELECT: Select = Select::Either(
    &Select::Object(&[
        ("a", Select::Scalar),
        (
            "b",
            Select::Array(
                Keep::Ends(2, Value::is_object),
                &Select::Object(&[("a", Select::Scalar), ("b", Select::All)]),
            ),
        ),
        ("c", Select::Array(Keep::Last(1), &Select::All)),
        ("d", Select::Mark),
        (
            "e",
            Select::Either(
                &Select::Scalar,
                &Select::Array(Keep::First(2), &Select::Mark),
            ),
        ),
        ("f", Select::All),
    ]),
    &Select::Array(Keep::All, &Select::Scalar),
);

const TIGHT: Limits = Limits {
    string_chars: 8,
    kept_bytes: 512,
};
const ROOM: Limits = Limits {
    string_chars: 1 << 20,
    kept_bytes: 1 << 30,
};

/// How serde_json writes numbers of any precision into a tree: as an object with this key.
const NUMBER_KEY: &[u8] = b"$serde_json::private::Number";

fuzz_target!(|data: &[u8]| {
    let Some((&step, text)) = data.split_first() else {
        return;
    };
    let step = usize::from(step).max(1);
    for elements in [false, true] {
        for (select, limits) in [(&Select::All, TIGHT), (&SELECT, TIGHT)] {
            let whole = read(select, limits, elements, text, text.len().max(1));
            assert_eq!(read(select, limits, elements, text, step), whole);
        }
    }
    let (_, document, status) = read(&Select::All, ROOM, false, text, step);
    // Longer numbers are not followed.
    if text.len() <= 1024
        && !text
            .windows(NUMBER_KEY.len())
            .any(|window| window == NUMBER_KEY)
        && let Ok(expected) = serde_json::from_slice::<Value>(text)
    {
        assert_eq!(status, Status::Complete);
        assert_eq!(document, Some(expected));
    }
});

/// The elements, the document and how it ended.
fn read(
    select: &'static Select,
    limits: Limits,
    elements: bool,
    text: &[u8],
    step: usize,
) -> (Vec<Value>, Option<Value>, Status) {
    let mut parser = if elements {
        Parser::elements(select, limits)
    } else {
        Parser::new(select, limits)
    };
    let mut found = Vec::new();
    for piece in text.chunks(step) {
        parser.push(piece, &mut |value| found.push(value));
        if limits.kept_bytes == TIGHT.kept_bytes {
            assert!(parser.memory() < 128 * 1024, "{}", parser.memory());
        }
    }
    let (document, status) = parser.finish(&mut |value| found.push(value));
    (found, document, status)
}
