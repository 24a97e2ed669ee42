//! What calls tell about their run, where no recorded exchange shows it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use observer_wire::{
    Asked, CallEvent, Chunk, Connection, Direction, LlmCall, Options, Origin, Timestamp,
    evidence::Fingerprint,
};

const KEY: &str = "sk-GRAPEFRUIT";
const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;
const ANSWER: &str = r#"{"object":"chat.completion","model":"m","choices":[]}"#;

const SALTED: Options = Options {
    capture_content: true,
    output_preview_chars: 500,
    input_preview_chars: 500,
    salt: [3; 32],
};

/// What came of what passed, and all that was shown of it on the way.
#[derive(Default)]
struct Seen {
    asked: Vec<Asked>,
    calls: Vec<LlmCall>,
    shown: String,
}

fn pass(options: Options, pieces: &[(Direction, Vec<u8>)]) -> Seen {
    let mut connection = Connection::new(options);
    let mut seen = Seen::default();
    let mut offsets = [0, 0];
    for (direction, bytes) in pieces {
        let offset = &mut offsets[usize::from(*direction == Direction::Sent)];
        let mut events = Vec::new();
        let chunk = Chunk {
            direction: *direction,
            offset: *offset,
            at: Timestamp(1),
            origin: Origin(1),
            bytes,
        };
        connection.data(chunk, &mut |event| events.push(event));
        *offset += bytes.len() as u64;
        seen.shown += &format!("{connection:?} {events:?} {options:?}");
        for event in events {
            match event {
                CallEvent::Requested { request, .. } => seen.asked.push(*request),
                CallEvent::Ended { record, .. } => seen.calls.push(*record),
                _ => {}
            }
        }
    }
    seen
}

fn http1(target: &str, fields: &str, body: &str) -> Vec<(Direction, Vec<u8>)> {
    let length = body.len();
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    );
    let length = ANSWER.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{ANSWER}"
    );
    vec![
        (Direction::Sent, request.into_bytes()),
        (Direction::Received, answer.into_bytes()),
    ]
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// Fields that are added to the table (RFC 7541 section 6.2.1).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x40);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

fn http2(target: &str, fields: &[(&str, &str)]) -> Vec<(Direction, Vec<u8>)> {
    let pseudo = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.openai.com"),
        (":path", target),
    ];
    let all: Vec<(&str, &str)> = pseudo.into_iter().chain(fields.iter().copied()).collect();
    let first = block(&all);
    // The second request refers to what the first has put into the table: the last field is 62.
    let again: Vec<u8> = (0..all.len())
        .rev()
        .map(|place| 0x80 | u8::try_from(62 + place).unwrap())
        .collect();
    let answer = block(&[(":status", "200"), ("content-type", "application/json")]);
    let mut pieces = vec![(
        Direction::Sent,
        [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, &[]),
        ]
        .concat(),
    )];
    for (stream, head) in [(1, first), (3, again)] {
        pieces.push((
            Direction::Sent,
            [
                frame(1, 4, stream, &head),
                frame(0, 1, stream, BODY.as_bytes()),
            ]
            .concat(),
        ));
        pieces.push((
            Direction::Received,
            [
                frame(1, 4, stream, &answer),
                frame(0, 1, stream, ANSWER.as_bytes()),
            ]
            .concat(),
        ));
    }
    pieces
}

#[test]
fn of_a_key_only_its_fingerprint_is_left() {
    const PATH: &str = "/v1/chat/completions";
    let bearer = format!("Bearer {KEY}");
    let in_query = format!("{PATH}?key={KEY}");
    let mut prints: Vec<Option<Fingerprint>> = Vec::new();
    for pieces in [
        http1(PATH, &format!("Authorization: {bearer}\r\n"), BODY),
        http1(PATH, &format!("X-Api-Key: {KEY}\r\n"), BODY),
        http1(PATH, &format!("api-key: {KEY}\r\n"), BODY),
        http1(&in_query, "", BODY),
        http2(PATH, &[("authorization", &bearer)]),
        http2(PATH, &[("x-goog-api-key", KEY)]),
        http2(&in_query, &[]),
    ] {
        let seen = pass(SALTED, &pieces);
        assert!(!seen.calls.is_empty() && seen.asked.len() == seen.calls.len());
        for (asked, call) in seen.asked.iter().zip(&seen.calls) {
            assert_eq!(asked.evidence.credential, call.evidence.credential);
            prints.push(call.evidence.credential);
        }
        assert!(!seen.shown.contains("GRAPEFRUIT"), "{}", seen.shown);
        assert!(!seen.shown.contains("3, 3, 3, 3"), "{}", seen.shown);
        let unsalted = pass(Options::default(), &pieces);
        assert!(!unsalted.shown.contains("GRAPEFRUIT"));
        assert!(
            unsalted
                .calls
                .iter()
                .all(|call| call.evidence.credential.is_none())
        );
    }
    assert_eq!(prints.len(), 10);
    assert!(prints[0].is_some());
    assert!(prints.iter().all(|print| *print == prints[0]), "{prints:?}");
}

#[test]
fn each_attempt_has_the_same_body() {
    let body = |body: &str, retry: &str| {
        let fields = format!("X-Stainless-Retry-Count: {retry}\r\n");
        let seen = pass(SALTED, &http1("/v1/chat/completions", &fields, body));
        let asked = seen.asked.into_iter().next().unwrap();
        (asked.evidence.body, asked.attempts)
    };
    let (first, attempts) = body(BODY, "0");
    assert_eq!(attempts, Some(1));
    assert_eq!(body(BODY, "1"), (first, Some(2)));
    let (other, _) = body(&BODY.replace("Hi", "Ho"), "0");
    assert!(first != 0 && other != 0 && first != other);
}

#[test]
fn a_request_that_is_cut_is_not_asked_as_a_whole() {
    let [(_, request), answer] = http1("/v1/chat/completions", "", BODY).try_into().unwrap();
    let cut = request[..request.len() - 5].to_vec();
    let seen = pass(SALTED, &[(Direction::Sent, cut), answer]);
    assert!(seen.asked.is_empty());
    let evidence = &seen.calls[0].evidence;
    assert_eq!((evidence.body, evidence.messages.count), (0, 0));
}
