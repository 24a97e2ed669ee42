//! Events that are like one before are not read again. With content every event is read, so both must
//! come to the same record.

use observer_wire::{CallEvent, Chunk, Connection, Direction, LlmCall, Options, Origin, Timestamp};
use proptest::prelude::*;

/// A string of JSON, without its quotes: plain, escaped, or broken.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z ]{1,12}",
        Just(r#"say \"hi\" \\ \/ \n"#.to_owned()),
        Just(r"\u0075sage é".to_owned()),
        Just(r"\ud83d\ude00".to_owned()),
        Just("größer 😀".to_owned()),
        Just(r#"\\"#.to_owned()),
        Just(r"\x".to_owned()),
        Just(r#"","usage":{"prompt_tokens":7},"x":""#.to_owned()),
        Just(r"\u12".to_owned()),
    ]
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        (0..2000u32).prop_map(|number| number.to_string()),
        Just("007".to_owned()),
        Just("-1".to_owned()),
        Just("1.5e2".to_owned()),
    ]
}

fn openai() -> impl Strategy<Value = String> {
    let reason = prop_oneof![Just("null"), Just(r#""stop""#), Just(r#""tool_calls""#)];
    let model = prop_oneof![4 => Just("gpt-4o"), 1 => Just("gpt-5")];
    let delta = prop_oneof![
        4 => text().prop_map(|text| format!(r#"{{"content":"{text}"}}"#)),
        1 => (text(), 0..3u32).prop_map(|(text, index)| format!(
            r#"{{"tool_calls":[{{"index":{index},"function":{{"name":"f{index}","arguments":"{text}"}}}}]}}"#
        )),
        1 => text().prop_map(|text| format!(r#"{{"reasoning":"{text}","content":null}}"#)),
        1 => Just("{}".to_owned()),
    ];
    let padding = prop_oneof![
        Just(String::new()),
        text().prop_map(|text| format!(r#","obfuscation":"{text}""#)),
        (number(), number()).prop_map(|(prompt, completion)| format!(
            r#","usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}"#
        )),
    ];
    let space = prop_oneof![5 => Just(""), 1 => Just(" ")];
    (model, 0..2u32, delta, reason, padding, number(), space).prop_map(
        |(model, index, delta, reason, padding, created, space)| {
            format!(
                r#"data: {{"id":"x",{space}"created":{created},"model":"{model}","choices":[{{"index":{index},"delta":{delta},"finish_reason":{reason}}}]{padding}}}"#
            )
        },
    )
}

fn anthropic() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (text(), 0..2u32).prop_map(|(text, index)| format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}"
        )),
        1 => Just("event: ping\ndata: {\"type\":\"ping\"}".to_owned()),
        1 => (0..3u32).prop_map(|index| format!(
            "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{{}}}}}}"
        )),
        1 => (number(), number()).prop_map(|(input, output)| format!(
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{{\"input_tokens\":{input},\"output_tokens\":{output}}}}}"
        )),
        1 => Just("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}".to_owned()),
    ]
}

fn gemini() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (text(), number()).prop_map(|(text, tokens)| format!(
            r#"data: {{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}},"index":0}}],"usageMetadata":{{"promptTokenCount":5,"candidatesTokenCount":{tokens}}}}}"#
        )),
        1 => Just(
            r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]}}]}"#.to_owned()
        ),
    ]
}

/// The record of a stream of these events.
fn record(path: &str, host: &str, events: &[String], content: bool) -> LlmCall {
    let options = Options {
        capture_content: content,
        ..Options::default()
    };
    let mut connection = Connection::new(options);
    let mut record = None;
    let mut positions = [0; 2];
    let mut at = 0;
    let mut pass = |direction: Direction, bytes: &str| {
        at += 1_000;
        let position = &mut positions[usize::from(direction == Direction::Sent)];
        let chunk = Chunk {
            direction,
            offset: *position,
            at: Timestamp(at),
            origin: Origin(1),
            bytes: bytes.as_bytes(),
        };
        *position += bytes.len() as u64;
        connection.data(chunk, &mut |event| {
            if let CallEvent::Ended { record: ended, .. } = event {
                record = Some(*ended);
            }
        });
    };
    let body = r#"{"model":"m","stream":true,"max_tokens":1,"messages":[{"role":"user","content":"Hi"}],"contents":[]}"#;
    pass(
        Direction::Sent,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    pass(
        Direction::Received,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for event in events {
        let event = format!("{event}\n\n");
        pass(
            Direction::Received,
            &format!("{:x}\r\n{event}\r\n", event.len()),
        );
    }
    pass(Direction::Received, "0\r\n\r\n");
    let mut record = record.expect("the answer is complete");
    record.input_preview = None;
    record.output_preview = None;
    record
}

fn assert_same(path: &str, host: &str, events: &[String]) {
    let read = record(path, host, events, true);
    let matched = record(path, host, events, false);
    assert_eq!(format!("{read:?}"), format!("{matched:?}"), "{events:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn openai_streams(events in prop::collection::vec(openai(), 1..24)) {
        assert_same("/v1/chat/completions", "api.openai.com", &events);
    }

    #[test]
    fn anthropic_streams(events in prop::collection::vec(anthropic(), 1..24)) {
        assert_same("/v1/messages", "api.anthropic.com", &events);
    }

    #[test]
    fn gemini_streams(events in prop::collection::vec(gemini(), 1..16)) {
        let path = "/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse";
        assert_same(path, "generativelanguage.googleapis.com", &events);
    }
}
