//! The Responses API, whole and streamed.

use observer_wire::{
    CallEvent, Chunk, Close, Connection, Direction, LlmCall, Options, Origin, Timestamp,
};

const REQUEST: &str =
    r#"{"model":"gpt-5","stream":true,"input":[{"role":"user","content":"Hello"}]}"#;

/// The calls of one exchange.
fn calls(answer: &str, capture_content: bool) -> Vec<LlmCall> {
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost:1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{REQUEST}",
        REQUEST.len()
    );
    let mut connection = Connection::new(Options {
        capture_content,
        ..Options::default()
    });
    let mut calls = Vec::new();
    let mut report = |event| {
        if let CallEvent::Ended { record, .. } = event {
            calls.push(*record);
        }
    };
    for (at, direction, bytes) in [
        (1, Direction::Sent, request.as_bytes()),
        (2, Direction::Received, answer.as_bytes()),
    ] {
        let chunk = Chunk {
            direction,
            offset: 0,
            at: Timestamp(at),
            origin: Origin(0),
            bytes,
        };
        connection.data(chunk, &mut report);
    }
    connection.close(Close::Peer { clean: true }, None, Timestamp(3), &mut report);
    calls
}

fn stream(events: &[&str]) -> String {
    let mut text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_owned();
    for event in events {
        text.push_str(&format!("data: {event}\n\n"));
    }
    text
}

#[test]
fn a_stream_ends_with_the_completed_response() {
    let answer = stream(&[
        r#"{"type":"response.created","response":{"object":"response","model":"gpt-5-2025-08-07","status":"in_progress"}}"#,
        r#"{"type":"response.output_text.delta","delta":"Hi"}"#,
        r#"{"type":"response.output_text.delta","delta":" there"}"#,
        r#"{"type":"response.completed","response":{"object":"response","model":"gpt-5-2025-08-07","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"Hi there"}]},{"type":"function_call","name":"shell"}],"usage":{"input_tokens":11,"input_tokens_details":{"cached_tokens":3},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":2}}}}"#,
    ]);
    for content in [false, true] {
        let calls = calls(&answer, content);
        let [call] = calls.as_slice() else {
            panic!("{} calls", calls.len());
        };
        assert_eq!(call.model.as_deref(), Some("gpt-5"));
        assert_eq!(call.response_model.as_deref(), Some("gpt-5-2025-08-07"));
        assert_eq!(
            (
                call.prompt_tokens,
                call.completion_tokens,
                call.cached_tokens,
                call.reasoning_tokens
            ),
            (Some(11), Some(7), Some(3), Some(2))
        );
        assert_eq!(call.finish_reasons, ["completed"]);
        assert_eq!(call.tool_calls, ["shell"]);
        assert!(call.stream && call.time_to_first_token.is_some() && call.error_type.is_none());
        assert_eq!(call.incomplete, None);
        assert_eq!(
            call.output_preview.as_deref(),
            content.then_some("Hi there")
        );
        assert_eq!(call.input_preview.is_some(), content);
    }
}

#[test]
fn a_stream_may_fail() {
    let answer = stream(&[
        r#"{"type":"response.failed","response":{"object":"response","status":"failed","error":{"code":"server_error","message":"no"}}}"#,
    ]);
    let calls = calls(&answer, false);
    assert_eq!(calls.len(), 1);
    assert!(calls[0].error_type.is_some());
}

#[test]
fn an_answer_in_one_piece() {
    let body = r#"{"object":"response","model":"gpt-5","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[{"type":"message","content":[{"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":1,"output_tokens":2}}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let calls = calls(&answer, true);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].finish_reasons, ["max_output_tokens"]);
    assert_eq!(calls[0].output_preview.as_deref(), Some("Hi"));
}
