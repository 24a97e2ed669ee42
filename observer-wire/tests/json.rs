//! The push parser of JSON, against serde_json and by itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

use std::collections::BTreeMap;

use observer_wire::body::json::{Keep, Limits, Parser, Select, Status};
use proptest::{collection, prelude::*};
use serde_json::{Map, Number, Value, json};

const ROOM: Limits = Limits {
    string_chars: 1000,
    kept_bytes: 1 << 20,
};

fn read(
    select: &'static Select,
    limits: Limits,
    text: &str,
    step: usize,
) -> (Option<Value>, Status) {
    let mut parser = Parser::new(select, limits);
    for piece in text.as_bytes().chunks(step) {
        parser.push(piece, &mut |_| ());
    }
    parser.finish(&mut |_| ())
}

#[test]
fn only_the_selection_is_kept() {
    static SELECT: Select = Select::Object(&[
        ("model", Select::Scalar),
        (
            "messages",
            Select::Array(Keep::Last(1), &Select::Object(&[("role", Select::Scalar)])),
        ),
        ("config", Select::Object(&[("temperature", Select::Scalar)])),
    ]);
    let text = r#" {"x":[{"y":"}]\""}], "model":"m", "messages":[{"role":"a","content":[1]},{"content":"c","role":"b"}],
        "config":{"temperature":0.20,"deep":{"a":[[]]}}, "z":null} "#;
    for step in 1..30 {
        let (value, status) = read(&SELECT, ROOM, text, step);
        assert_eq!(status, Status::Complete);
        let value = value.unwrap();
        assert_eq!(value["model"], "m");
        assert_eq!(value["messages"], json!([{"role": "b"}]));
        assert_eq!(value["config"].to_string(), r#"{"temperature":0.20}"#);
        assert_eq!(value.as_object().unwrap().len(), 3);
    }
}

#[test]
fn strings_are_cut_at_code_points() {
    let limits = Limits {
        string_chars: 3,
        ..ROOM
    };
    for step in 1..10 {
        let (value, _) = read(
            &Select::All,
            limits,
            r#"["漢字😀x","ab\ud83d\ude00yz",""]"#,
            step,
        );
        assert_eq!(value.unwrap(), json!(["漢字😀", "ab😀", ""]));
    }
}

#[test]
fn a_broken_document_keeps_what_was_seen() {
    let (value, status) = read(&Select::All, ROOM, r#"{"a":1,"b":["x",{"c":"par"#, 4);
    assert_eq!(status, Status::Unfinished);
    assert_eq!(value.unwrap(), json!({"a": 1, "b": ["x", {"c": "par"}]}));
    let (value, status) = read(&Select::All, ROOM, r#"{"a":1,"b":oops}"#, 4);
    assert_eq!(status, Status::Broken);
    assert_eq!(value.unwrap(), json!({"a": 1}));
}

#[test]
fn elements_come_as_they_complete() {
    let mut parser = Parser::elements(&Select::All, ROOM);
    let mut found = Vec::new();
    parser.push(b"[{\"a\":1}\n,\r\n{\"a\":[2]},{\"a\"", &mut |value| {
        found.push(value)
    });
    assert_eq!(found, [json!({"a": 1}), json!({"a": [2]})]);
    parser.push(b":3}]", &mut |value| found.push(value));
    assert_eq!(found.len(), 3);
    assert_eq!(parser.finish(&mut |_| ()).1, Status::Complete);
}

#[test]
fn what_is_passed_over_costs_nothing() {
    static SELECT: Select = Select::Object(&[("model", Select::Scalar)]);
    let mut parser = Parser::new(&SELECT, ROOM);
    parser.push(br#"{"image":""#, &mut |_| ());
    for _ in 0..1000 {
        parser.push(&[b'A'; 16 * 1024], &mut |_| ());
    }
    parser.push(br#"","model":"m"}"#, &mut |_| ());
    assert!(parser.memory() < 4096, "{}", parser.memory());
    assert_eq!(parser.finish(&mut |_| ()).0.unwrap(), json!({"model": "m"}));
}

#[test]
fn what_is_kept_is_bounded() {
    let limits = Limits {
        string_chars: 1 << 20,
        kept_bytes: 64 * 1024,
    };
    let mut parser = Parser::new(&Select::All, limits);
    parser.push(b"[", &mut |_| ());
    for _ in 0..1000 {
        parser.push(format!("\"{}\",", "x".repeat(1000)).as_bytes(), &mut |_| ());
    }
    assert!(parser.memory() < 128 * 1024, "{}", parser.memory());
}

#[test]
fn numbers_stay_as_they_are_written() {
    let text = "[0.20,-0,1E5,1e-7,12345678901234567890123,0]";
    let (value, status) = read(&Select::All, ROOM, text, 3);
    assert_eq!(status, Status::Complete);
    assert_eq!(
        value.unwrap().to_string().to_lowercase(),
        "[0.20,-0,1e+5,1e-7,12345678901234567890123,0]"
    );
}

#[test]
fn malformed_documents_are_broken() {
    for text in [
        "{\"a\" 1}",
        "{\"a\":1,}",
        "[1,]",
        "[1 2]",
        "{1:2}",
        "[}",
        "{]",
        "nul",
        "[01]",
        "[-]",
        "[\"\\x\"]",
        "[\"\\u12g4\"]",
        "[1]]",
        "]",
        ",",
        "[+1]",
        "'a'",
    ] {
        for step in 1..4 {
            let (_, status) = read(&Select::All, ROOM, text, step);
            assert!(status == Status::Broken || text == "[1]]", "{text}");
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(100_000);
    let (_, status) = read(&Select::All, ROOM, &deep, 1000);
    assert_eq!(status, Status::Broken);
    // What is passed over may be deeper: it costs nothing.
    static SELECT: Select = Select::Object(&[("model", Select::Scalar)]);
    let text = format!("{{\"x\":{deep}{},\"model\":\"m\"}}", "]".repeat(100_000));
    assert_eq!(
        read(&SELECT, ROOM, &text, 1000).0.unwrap(),
        json!({"model": "m"})
    );
}

#[test]
fn a_mark_says_whether_there_is_anything() {
    static SELECT: Select = Select::Array(Keep::All, &Select::Mark);
    let text = r#"["", "x", "\n", [], [ ], [1], {}, {"a":[]}, null, 1, true, "\u0000"]"#;
    for step in 1..9 {
        let (value, _) = read(&SELECT, ROOM, text, step);
        assert_eq!(
            value.unwrap(),
            json!([false, true, true, false, false, true, false, true, true])
        );
    }
}

#[test]
fn the_ends_of_an_array_are_kept() {
    static SELECT: Select = Select::Array(
        Keep::Ends(2, |value| value.as_u64() > Some(10)),
        &Select::Scalar,
    );
    for (text, kept) in [
        ("[]", json!([])),
        ("[1,2,3]", json!([1])),
        ("[1,20,3,30,40,5]", json!([1, 30, 40])),
        ("[50,20]", json!([50, 20])),
    ] {
        assert_eq!(read(&SELECT, ROOM, text, 2).0.unwrap(), kept);
    }
}

#[test]
fn a_gap_keeps_what_was_seen() {
    let mut parser = Parser::new(&Select::All, ROOM);
    parser.push(br#"{"a":1,"b":["x","par"#, &mut |_| ());
    parser.gap();
    parser.push(br#"t"],"c":2}"#, &mut |_| ());
    let (value, status) = parser.finish(&mut |_| ());
    assert_eq!(status, Status::Broken);
    assert_eq!(value.unwrap(), json!({"a": 1, "b": ["x", "par"]}));
}

#[test]
fn what_occurs_once_is_kept_behind_what_was_too_long() {
    static SELECT: Select = Select::Object(&[
        ("model", Select::Scalar),
        ("messages", Select::Array(Keep::Last(2), &Select::All)),
        ("system", Select::All),
        ("rest", Select::Array(Keep::All, &Select::Scalar)),
    ]);
    let limits = Limits {
        string_chars: 100,
        kept_bytes: 10_000,
    };
    let long: Vec<Value> = (0..1000)
        .map(|number| json!({"text": format!("part {number}")}))
        .collect();
    let text = json!({
        "rest": (0..1000).collect::<Vec<_>>(),
        "messages": [long, long, long, "last but one", "last"],
        "system": ["short"],
        "model": "m",
    })
    .to_string();
    let mut parser = Parser::new(&SELECT, limits);
    for piece in text.as_bytes().chunks(1000) {
        parser.push(piece, &mut |_| ());
        assert!(parser.memory() < 50_000, "{}", parser.memory());
    }
    assert!(parser.is_truncated());
    let (value, status) = parser.finish(&mut |_| ());
    let value = value.unwrap();
    assert_eq!(status, Status::Complete);
    assert_eq!(value["messages"], json!(["last but one", "last"]));
    assert_eq!(value["system"], json!(["short"]));
    assert_eq!(value["model"], "m");
    assert!(value["rest"].as_array().unwrap().len() < 1000);
}

#[test]
fn elements_of_a_stream_have_a_limit_each() {
    let limits = Limits {
        string_chars: 100,
        kept_bytes: 1000,
    };
    let mut parser = Parser::elements(&Select::All, limits);
    let mut count = 0;
    parser.push(b"[", &mut |_| ());
    for _ in 0..1000 {
        parser.push(br#"{"a":["some text"]},"#, &mut |value| {
            assert_eq!(value, json!({"a": ["some text"]}));
            count += 1;
        });
    }
    assert_eq!(count, 1000);
    assert!(!parser.is_truncated());
}

/// Any JSON, with keys and strings that need escapes.
fn document() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        any::<f64>().prop_filter_map("finite", Number::from_f64),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number.prop_map(Value::Number),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map: BTreeMap<_, _>| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// The text of a document, with every character beyond ASCII as escapes, or none.
fn written(document: &Value, pretty: bool, escaped: bool) -> String {
    let text = if pretty {
        format!("{document:#}")
    } else {
        document.to_string()
    };
    if !escaped {
        return text;
    }
    let mut out = String::new();
    for character in text.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04X}"));
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn everything_equals_serde_json_at_any_split(
        document in document(),
        pretty: bool,
        escaped: bool,
        lengths in collection::vec(1_usize..20, 1..50),
    ) {
        let text = written(&document, pretty, escaped);
        let expected: Value = serde_json::from_str(&text).unwrap();
        let room = Limits { string_chars: usize::MAX - 1, kept_bytes: usize::MAX };
        let mut parser = Parser::new(&Select::All, room);
        let mut rest = text.as_bytes();
        for length in lengths.into_iter().cycle() {
            let (piece, tail) = rest.split_at(length.min(rest.len()));
            parser.push(piece, &mut |_| ());
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let (value, status) = parser.finish(&mut |_| ());
        prop_assert_eq!(status, Status::Complete);
        prop_assert_eq!(value, Some(expected));
    }

    #[test]
    fn elements_equal_those_of_serde_json(documents in collection::vec(document(), 0..5), step in 1_usize..30) {
        let text = Value::Array(documents.clone()).to_string();
        let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
        let mut parser = Parser::elements(&Select::All, ROOM);
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            parser.push(piece, &mut |value| found.push(value));
        }
        let (_, status) = parser.finish(&mut |value| found.push(value));
        prop_assert_eq!(status, Status::Complete);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_are_too_strange(
        bytes in collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(br#"{}[],:"\u0dD8c1 tfn-."#.to_vec()),
        ], 0..300),
        step in 1_usize..20,
    ) {
        let limits = Limits { string_chars: 5, kept_bytes: 200 };
        for elements in [false, true] {
            let select = &Select::All;
            let make = || if elements { Parser::elements(select, limits) } else { Parser::new(select, limits) };
            let (mut whole, mut split) = (make(), make());
            let (mut of_whole, mut of_split) = (Vec::new(), Vec::new());
            whole.push(&bytes, &mut |value| of_whole.push(value));
            for piece in bytes.chunks(step) {
                split.push(piece, &mut |value| of_split.push(value));
            }
            let end = whole.finish(&mut |value| of_whole.push(value));
            prop_assert_eq!(end, split.finish(&mut |value| of_split.push(value)));
            prop_assert_eq!(of_whole, of_split);
        }
    }

    #[test]
    fn every_beginning_gives_a_beginning(document in document(), part in 0.0..1.0_f64) {
        let text = document.to_string();
        let length = (text.len() as f64 * part) as usize;
        let mut parser = Parser::new(&Select::All, ROOM);
        parser.push(&text.as_bytes()[..length], &mut |_| ());
        let (_, status) = parser.finish(&mut |_| ());
        // A cut number or literal is complete, or broken.
        let is_container = document.is_array() || document.is_object();
        prop_assert!(!is_container || status != Status::Complete);
    }
}

#[test]
fn of_a_length_nothing_else_is_kept() {
    static SELECT: Select = Select::Object(&[
        ("text", Select::Length),
        ("object", Select::Length),
        ("list", Select::Length),
        ("number", Select::Length),
    ]);
    let document =
        r#"{"text":"a\"\né\u00e9\ud83d\ude00","object":{"a": [1, "}"]} ,"list":[],"number":12}"#;
    let expected = json!({"text": 1 + 1 + 1 + 2 + 2 + 4, "object": 15, "list": 2});
    for size in 1..document.len() {
        let mut parser = Parser::new(&SELECT, ROOM);
        for piece in document.as_bytes().chunks(size) {
            parser.push(piece, &mut |_| ());
        }
        let (kept, status) = parser.finish(&mut |_| ());
        assert_eq!(
            (kept, status),
            (Some(expected.clone()), Status::Complete),
            "{size}"
        );
    }
}
