//! Where other observers of LLM calls fail, each with what comes out here. The failures are those of OpenTelemetry's
//! eBPF instrumentation 0.12 (measured or read in its source) and of SDKs for Python that instrument in the process.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

#[allow(dead_code, reason = "these tests make no use of all of it")]
mod frames;

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use observer_wire::{
    CallEvent, Chunk, Close, Connection, Direction, LlmCall, Options, Origin, Timestamp,
};
use serde_json::{Value, json};

/// Bytes of a TLS record.
const RECORD: usize = 16 * 1024;

/// A connection whose clock the test holds.
struct Talk {
    connection: Connection,
    sent: u64,
    received: u64,
    now: Duration,
    calls: Vec<LlmCall>,
    most_memory: usize,
}

impl Talk {
    fn new() -> Self {
        Self::with(Options {
            capture_content: true,
            ..Options::default()
        })
    }

    fn with(options: Options) -> Self {
        Self {
            connection: Connection::new(options),
            sent: 0,
            received: 0,
            now: Duration::ZERO,
            calls: Vec::new(),
            most_memory: 0,
        }
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.pass(Direction::Sent, bytes.as_ref())
    }

    fn receive(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.pass(Direction::Received, bytes.as_ref())
    }

    fn pass(&mut self, direction: Direction, bytes: &[u8]) -> &mut Self {
        for piece in bytes.chunks(RECORD) {
            let offset = match direction {
                Direction::Sent => &mut self.sent,
                Direction::Received => &mut self.received,
            };
            let chunk = Chunk {
                direction,
                offset: *offset,
                at: Timestamp(1 + u64::try_from(self.now.as_nanos()).unwrap()),
                origin: Origin(0),
                bytes: piece,
            };
            *offset += piece.len() as u64;
            let calls = &mut self.calls;
            self.connection.data(chunk, &mut |event| {
                if let CallEvent::Ended { record, .. } = event {
                    calls.push(*record);
                }
            });
            self.most_memory = self.most_memory.max(self.connection.memory());
        }
        self
    }

    fn close(&mut self) -> Vec<LlmCall> {
        let at = Timestamp(1 + u64::try_from(self.now.as_nanos()).unwrap());
        let calls = &mut self.calls;
        self.connection
            .close(Close::Peer { clean: true }, None, at, &mut |event| {
                if let CallEvent::Ended { record, .. } = event {
                    calls.push(*record);
                }
            });
        std::mem::take(calls)
    }

    fn only_call(&mut self) -> LlmCall {
        let mut calls = self.close();
        assert_eq!(calls.len(), 1, "{calls:#?}");
        calls.remove(0)
    }
}

fn post(host: &str, path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn openai(path: &str, body: &Value) -> String {
    post("api.openai.com", path, body)
}

fn answer(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn named(data: &Value) -> String {
    format!(
        "event: {}\ndata: {data}\n\n",
        data["type"].as_str().unwrap()
    )
}

fn messages() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

fn chat(model: &str) -> Value {
    json!({"object": "chat.completion", "id": "c", "model": model, "choices": [{"index": 0,
           "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
           "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}})
}

fn delta(index: u64, delta: &Value, reason: Option<&str>) -> String {
    event(
        &json!({"object": "chat.completion.chunk", "id": "c", "model": "m",
                  "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}),
    )
}

fn tokens(call: &LlmCall) -> (Option<u64>, Option<u64>) {
    (call.prompt_tokens, call.completion_tokens)
}

/// Only models named gpt… or text-embedding-… are recognised over HTTP/2.
#[test]
fn models_of_any_name_over_http2() {
    for model in [
        "o3-mini",
        "o4-mini",
        "chatgpt-4o-latest",
        "ft:gpt-4o-mini-2024-07-18:acme::AbCd",
        "codex-mini-latest",
        "gpt-5.3-codex",
    ] {
        let head = |path: &str| {
            format!(
                "HEADERS 1\n  :method: POST\n  :scheme: https\n  :authority: api.openai.com\n  :path: {path}\n  \
                 content-type: application/json\n"
            )
        };
        let (mut sent, mut received) = (frames::Encoder::default(), frames::Encoder::default());
        let body = json!({"model": model, "messages": messages()});
        let call = Talk::new()
            .send(sent.write(&format!(
                "preface\nSETTINGS\n{}DATA 1 end\n  {body}",
                head("/v1/chat/completions")
            )))
            .receive(received.write(&format!(
                "SETTINGS\nHEADERS 1\n  :status: 200\n  content-type: application/json\nDATA 1 end\n  {}",
                chat(model)
            )))
            .only_call();
        assert_eq!((call.provider, call.operation), ("openai", "chat"));
        assert_eq!(call.model.as_deref(), Some(model));
        assert_eq!(tokens(&call), (Some(3), Some(5)), "{model}");
    }
}

/// xAI is not known unless the user lists it; Azure not without a field `openai-…` in the answer.
#[test]
fn xai_and_azure_without_a_field_of_the_vendor() {
    for (host, path, provider, model) in [
        ("api.x.ai", "/v1/chat/completions", "xai", "grok-4"),
        (
            "mine.openai.azure.com",
            "/openai/deployments/mine/chat/completions?api-version=2024-10-21",
            "azure_openai",
            "mine",
        ),
        (
            "mine.openai.azure.com",
            "/openai/v1/chat/completions",
            "azure_openai",
            "grok-4",
        ),
    ] {
        let mut body = json!({"model": model, "messages": messages()});
        if model == "mine" {
            body.as_object_mut().unwrap().remove("model");
        }
        let call = Talk::new()
            .send(post(host, path, &body))
            .receive(answer(&chat("m-1")))
            .only_call();
        assert_eq!((call.provider, call.operation), (provider, "chat"));
        assert_eq!(call.model.as_deref(), Some(model), "{host}");
        assert_eq!(tokens(&call), (Some(3), Some(5)), "{host}");
    }
}

/// An answer that inflates to more than 256 KiB is not recognised at all.
#[test]
fn a_compressed_answer_of_any_size() {
    for size in [300_000, 4_000_000] {
        let mut body = chat("gpt-4o");
        body["choices"][0]["message"]["content"] = json!("marmalade ".repeat(size / 10));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body.to_string().as_bytes()).unwrap();
        let coded = encoder.finish().unwrap();
        assert!(coded.len() < 40_000);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            coded.len()
        );
        let call = Talk::new()
            .send(openai(
                "/v1/chat/completions",
                &json!({"model": "gpt-4o", "messages": messages()}),
            ))
            .receive([head.as_bytes(), &coded].concat())
            .only_call();
        assert_eq!(tokens(&call), (Some(3), Some(5)), "{size}");
        assert_eq!(call.finish_reasons, ["stop"]);
        assert_eq!(call.incomplete, None);
    }
}

/// The usage at the end of an answer of more than 256 KiB is lost.
#[test]
fn the_usage_at_the_end_of_ten_mebibytes() {
    let long = "QUJD".repeat(10 * 1024 * 1024 / 4);
    let mut chat = chat("gpt-4o");
    chat["choices"][0]["message"]["content"] = json!(long);
    // As the providers order them: the usage comes last.
    let embeddings = format!(
        r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":"{long}"}}],"model":"text-embedding-3-large","usage":{{"prompt_tokens":3,"total_tokens":3}}}}"#
    );
    let image = format!(
        r#"{{"created":1,"data":[{{"b64_json":"{long}"}}],"usage":{{"input_tokens":3,"output_tokens":5,"total_tokens":8}}}}"#
    );
    for (path, request, body, expected) in [
        (
            "/v1/chat/completions",
            json!({"model": "gpt-4o", "messages": messages()}),
            chat.to_string(),
            (Some(3), Some(5)),
        ),
        (
            "/v1/embeddings",
            json!({"model": "text-embedding-3-large", "input": "Hi"}),
            embeddings,
            (Some(3), None),
        ),
        (
            "/v1/images/generations",
            json!({"model": "gpt-image-1", "prompt": "A jar"}),
            image,
            (Some(3), Some(5)),
        ),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut talk = Talk::with(Options::default());
        talk.send(openai(path, &request))
            .receive(head)
            .receive(body);
        let call = talk.only_call();
        assert_eq!(tokens(&call), expected, "{path}");
        assert_eq!(call.incomplete, None);
        assert!(talk.most_memory < 64 * 1024, "{}", talk.most_memory);
    }
}

/// Usage at the end of a stream of 10 MiB, too.
#[test]
fn the_usage_at_the_end_of_a_long_stream() {
    let mut talk = Talk::with(Options::default());
    talk.send(openai(
        "/v1/chat/completions",
        &json!({"model": "gpt-4o", "messages": messages(), "stream": true}),
    ))
    .receive(STREAM);
    for _ in 0..10 {
        let word = "marmalade ".repeat(100 * 1024);
        talk.receive(delta(0, &json!({"content": word}), None));
    }
    talk.receive(delta(0, &json!({}), Some("stop")))
        .receive(event(
            &json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
        ));
    let call = talk.receive("data: [DONE]\n\n").only_call();
    assert_eq!(tokens(&call), (Some(3), Some(5)));
    assert_eq!(call.incomplete, None);
}

/// Arguments of tools in a stream are dropped, and with content off so are the tools; nobody times the first
/// token of one.
#[test]
fn tools_of_a_stream() {
    let mut talk = Talk::with(Options::default());
    let request = json!({"model": "gpt-4o", "messages": messages(), "stream": true});
    talk.send(openai("/v1/chat/completions", &request));
    talk.wait(Duration::from_millis(100)).receive(STREAM);
    talk.receive(delta(
        0,
        &json!({"role": "assistant", "content": null}),
        None,
    ));
    talk.wait(Duration::from_millis(50));
    for (tool, name) in ["get_weather", "search"].iter().enumerate() {
        let begin = json!({"index": tool, "id": "call_1", "type": "function",
                           "function": {"name": name, "arguments": ""}});
        talk.receive(delta(0, &json!({"tool_calls": [begin]}), None));
        for part in ["{\"city\":", "\"Oslo\"}"] {
            let part = json!({"index": tool, "function": {"arguments": part}});
            talk.wait(Duration::from_millis(10));
            talk.receive(delta(0, &json!({"tool_calls": [part]}), None));
        }
    }
    talk.receive(delta(0, &json!({}), Some("tool_calls")));
    let call = talk.receive("data: [DONE]\n\n").only_call();
    assert_eq!(call.tool_calls, ["get_weather", "search"]);
    assert_eq!(call.finish_reasons, ["tool_calls"]);
    assert_eq!(call.time_to_first_token, Some(Duration::from_millis(150)));
    assert_eq!(call.latency, Duration::from_millis(190));
}

/// Two choices are merged into one text, with the finish reason of the last.
#[test]
fn two_choices_of_a_stream() {
    let request = json!({"model": "gpt-4o", "messages": messages(), "stream": true, "n": 2});
    let call = Talk::new()
        .send(openai("/v1/chat/completions", &request))
        .receive(STREAM)
        .receive(delta(0, &json!({"content": "A"}), None))
        .receive(delta(1, &json!({"content": "B"}), None))
        .receive(delta(1, &json!({}), Some("length")))
        .receive(delta(0, &json!({}), Some("stop")))
        .receive("data: [DONE]\n\n")
        .only_call();
    assert_eq!(call.finish_reasons, ["stop", "length"]);
    assert_eq!(call.output_preview.as_deref(), Some("A"));
    assert_eq!(call.parameters["choice_count"], 2);
}

/// An error event in the middle of a stream is lost.
#[test]
fn errors_in_the_middle_of_streams() {
    let request = json!({"model": "gpt-4o", "messages": messages(), "stream": true});
    let call = Talk::new()
        .send(openai("/v1/chat/completions", &request))
        .receive(STREAM)
        .receive(delta(0, &json!({"content": "A"}), None))
        .receive(event(
            &json!({"error": {"message": "The server had an error", "type": "server_error"}}),
        ))
        .only_call();
    assert_eq!(call.error_type.as_deref(), Some("server_error"));
    assert_eq!(
        call.error_message.as_deref(),
        Some("The server had an error")
    );
    assert_eq!(
        (call.status_code, call.finish_reasons.len()),
        (Some(200), 0)
    );

    let request =
        json!({"model": "claude", "messages": messages(), "stream": true, "max_tokens": 9});
    let call = Talk::new()
        .send(post("api.anthropic.com", "/v1/messages", &request))
        .receive(STREAM)
        .receive(named(&json!({"type": "message_start", "message": {"type": "message", "id": "msg_1",
                               "model": "claude-4", "usage": {"input_tokens": 3, "output_tokens": 1}}})))
        .receive(named(
            &json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "A"}}),
        ))
        .receive(named(
            &json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ))
        .only_call();
    assert_eq!(call.error_type.as_deref(), Some("overloaded_error"));
    assert_eq!(call.error_message.as_deref(), Some("Overloaded"));
    assert_eq!(call.prompt_tokens, Some(3));
}

/// A stream of the Responses API gives tokens, but no text, no tool and no finish reason.
#[test]
fn a_stream_of_a_response() {
    let response = json!({"object": "response", "id": "resp_1", "model": "gpt-5-1", "status": "completed",
                          "output": [], "usage": {"input_tokens": 3, "output_tokens": 5}});
    let request = json!({"model": "gpt-5", "input": "Hi", "stream": true});
    let call = Talk::new()
        .send(openai("/v1/responses", &request))
        .receive(STREAM)
        .receive(named(
            &json!({"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"}),
        ))
        .receive(named(&json!({"type": "response.output_item.added", "output_index": 1,
                               "item": {"type": "function_call", "name": "search", "arguments": ""}})))
        .receive(named(&json!({"type": "response.completed", "response": response})))
        .only_call();
    assert_eq!(call.output_preview.as_deref(), Some("Hello"));
    assert_eq!(call.tool_calls, ["search"]);
    assert_eq!(call.finish_reasons, ["completed"]);
    assert_eq!(tokens(&call), (Some(3), Some(5)));
}

/// `max_completion_tokens`, `max_output_tokens` and `top_p` are not read, and a temperature of 0 is dropped.
#[test]
fn parameters_that_are_often_missed() {
    let mut request = json!({"model": "o3-mini", "messages": messages(), "max_completion_tokens": 99, "temperature": 0,
                             "top_p": 0.5});
    let call = Talk::new()
        .send(openai("/v1/chat/completions", &request))
        .receive(answer(&chat("o3-mini")))
        .only_call();
    assert_eq!(call.parameters["max_tokens"], 99);
    assert_eq!(call.parameters["top_p"], 0.5);
    assert_eq!(
        call.temperature.map(|value| value.to_string()).as_deref(),
        Some("0")
    );
    request = json!({"model": "gpt-5", "input": "Hi", "max_output_tokens": 98, "temperature": 0.0});
    let call = Talk::new()
        .send(openai("/v1/responses", &request))
        .receive(answer(
            &json!({"object": "response", "status": "completed", "temperature": 1.0}),
        ))
        .only_call();
    assert_eq!(call.parameters["max_tokens"], 98);
    assert_eq!(call.temperature.and_then(|value| value.as_f64()), Some(0.0));
}

/// Embeddings are said to have used 0 output tokens, of which nobody has spoken.
#[test]
fn what_is_not_counted_is_not_zero() {
    let call = Talk::new()
        .send(openai(
            "/v1/embeddings",
            &json!({"model": "text-embedding-3-small", "input": ["Hi"]}),
        ))
        .receive(answer(
            &json!({"object": "list", "data": [], "model": "text-embedding-3-small",
                                "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
        ))
        .only_call();
    assert_eq!(tokens(&call), (Some(3), None));
    assert_eq!(call.output_tokens, None);
}

/// `system` as blocks is read as nothing.
#[test]
fn the_system_prompt_as_blocks() {
    let request = json!({"model": "claude", "max_tokens": 9, "messages": messages(),
                         "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]});
    let call = Talk::new()
        .send(post("api.anthropic.com", "/v1/messages", &request))
        .receive(answer(
            &json!({"type": "message", "model": "claude-4", "stop_reason": "end_turn",
                                "content": [{"type": "text", "text": "Hello"}],
                                "usage": {"input_tokens": 3, "output_tokens": 5}}),
        ))
        .only_call();
    let preview = call.input_preview.unwrap();
    assert!(
        preview.contains("Be brief.") && preview.contains("[user] Hi"),
        "{preview}"
    );
}

/// A stream that is silent for 10 s is flushed as complete, and what comes then is lost.
#[test]
fn a_stream_that_is_silent_for_half_a_minute() {
    let mut talk = Talk::new();
    let request = json!({"model": "o3", "messages": messages(), "stream": true});
    talk.send(openai("/v1/chat/completions", &request))
        .receive(STREAM)
        .receive(delta(0, &json!({"role": "assistant", "content": ""}), None))
        .wait(Duration::from_secs(30))
        .receive(delta(0, &json!({"content": "Hello"}), None))
        .wait(Duration::from_secs(30))
        .receive(delta(0, &json!({}), Some("stop")))
        .receive(event(
            &json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
        ))
        .receive("data: [DONE]\n\n");
    let call = talk.only_call();
    assert_eq!(call.time_to_first_token, Some(Duration::from_secs(30)));
    assert_eq!(call.latency, Duration::from_secs(60));
    assert_eq!(tokens(&call), (Some(3), Some(5)));
    assert_eq!(call.incomplete, None);
}

/// The bodies of all streams of a connection are mixed.
#[test]
fn two_streams_of_one_connection() {
    let head = |stream: u32| {
        format!(
            "HEADERS {stream}\n  :method: POST\n  :scheme: https\n  :authority: api.openai.com\n  \
             :path: /v1/chat/completions\n  content-type: application/json\n"
        )
    };
    let mut sent = frames::Encoder::default();
    let mut received = frames::Encoder::default();
    let mut talk = Talk::new();
    talk.send(sent.write("preface\nSETTINGS"));
    for (stream, model) in [(1, "o3"), (3, "o4-mini")] {
        let body = json!({"model": model, "messages": messages(), "stream": true});
        talk.send(sent.write(&format!("{}DATA {stream} end\n  {body}", head(stream))));
        talk.receive(received.write(&format!(
            "HEADERS {stream}\n  :status: 200\n  content-type: text/event-stream"
        )));
    }
    let mut receive = |stream: u32, event: &str, end: &str| {
        let data = event.trim_end();
        talk.wait(Duration::from_millis(10));
        talk.receive(received.write(&format!("DATA {stream} event {end}\n  {data}")));
    };
    receive(1, &delta(0, &json!({"content": "one"}), None), "");
    receive(3, &delta(0, &json!({"content": "three"}), None), "");
    receive(
        1,
        &delta(0, &json!({"content": " and one"}), Some("stop")),
        "",
    );
    receive(
        3,
        &delta(0, &json!({"content": " and three"}), Some("length")),
        "",
    );
    for (stream, completion) in [(3, 33), (1, 11)] {
        let usage = event(
            &json!({"choices": [], "usage": {"prompt_tokens": stream, "completion_tokens": completion}}),
        );
        receive(stream, &usage, "end");
    }
    let calls = talk.close();
    let seen: Vec<_> = calls
        .iter()
        .map(|call| {
            (
                call.model.as_deref().unwrap(),
                call.output_preview.as_deref().unwrap(),
                call.finish_reasons[0].as_str(),
                call.completion_tokens.unwrap(),
                call.time_to_first_token.unwrap().as_millis(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("o4-mini", "three and three", "length", 33, 20),
            ("o3", "one and one", "stop", 11, 10)
        ]
    );
}

/// How long a text is on the wire, for `frames`.
fn wire_length(bytes: &[u8]) -> usize {
    bytes.len()
}
