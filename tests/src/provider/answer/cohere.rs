//! Cohere: chat of both versions, embeddings and rerank.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, break_off, call, error, event};
use crate::provider::behaviour::Behaviour;

/// Cohere has another id; a proxy before it may give this one.
const ID_HEADER: &str = "x-request-id";

/// What is counted and not billed: the provider's own preamble.
const PREAMBLE: u64 = 66;

/// Ends of the paths.
const PATHS: &[(&str, Kind)] = &[
    ("/v1/chat", Kind::Chat1),
    ("/v1/embed", Kind::Embed),
    ("/v1/rerank", Kind::Rerank),
    ("/v2/chat", Kind::Chat2),
    ("/v2/embed", Kind::Embed),
    ("/v2/rerank", Kind::Rerank),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat1,
    Chat2,
    Embed,
    Rerank,
}

impl Kind {
    /// What a path asks for.
    pub(super) fn of(path: &str) -> Option<Self> {
        let known = PATHS.iter().find(|(end, _)| path.ends_with(end));
        known.map(|(_, kind)| *kind)
    }
}

pub(super) fn answer(
    kind: Kind,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let stream = document["stream"] == true;
    let mut truth = json!({
        "provider": "cohere",
        "operation": match kind {
            Kind::Chat1 | Kind::Chat2 => "chat",
            Kind::Embed => "embeddings",
            Kind::Rerank => "rerank",
        },
        "model": document["model"],
        "temperature": document["temperature"],
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        let body = json!({"id": completion.id, "message": format!("It's refused with {status}")});
        let status = u16::try_from(status).unwrap_or(500);
        return error(status, ID_HEADER, behaviour, completion, &body, truth);
    }
    let whole = |body: &Value, truth: Value| {
        let body = Body::Whole(body.to_string().into_bytes());
        call(200, "application/json", ID_HEADER, completion, body, truth)
    };
    match kind {
        Kind::Embed => {
            let tokens = completion.prompt_tokens;
            truth["prompt_tokens"] = json!(tokens);
            let meta = json!({"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens as f64}});
            let vectors = json!({"float": [[0.25, 0.5]]});
            let body = json!({"id": completion.id, "embeddings": vectors, "texts": document["texts"],
                              "response_type": "embeddings_by_type", "meta": meta});
            whole(&body, truth)
        }
        Kind::Rerank => {
            let meta =
                json!({"api_version": {"version": "2"}, "billed_units": {"search_units": 1.0}});
            let results = json!([{"index": 0, "relevance_score": 0.75}]);
            whole(
                &json!({"id": completion.id, "results": results, "meta": meta}),
                truth,
            )
        }
        Kind::Chat1 | Kind::Chat2 => {
            truth["prompt_tokens"] = json!(completion.prompt_tokens + PREAMBLE);
            truth["completion_tokens"] = json!(completion.completion_tokens);
            truth["cached_tokens"] = json!(completion.cached);
            truth["tool_calls"] = json!(completion.tools);
            truth["finish_reasons"] = json!([reason(completion)]);
            let (one, many, content_type) = if kind == Kind::Chat2 {
                (
                    chat_2(completion),
                    events_2(completion),
                    "text/event-stream",
                )
            } else {
                (
                    chat_1(completion),
                    events_1(completion),
                    "application/stream+json",
                )
            };
            if !stream {
                return whole(&one, truth);
            }
            let mut events = many;
            let end = json!({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "It failed"}});
            if kind == Kind::Chat2
                && break_off(&mut events, completion, event(Some("message-end"), &end))
            {
                for key in ["prompt_tokens", "completion_tokens", "cached_tokens"] {
                    truth[key] = Value::Null;
                }
                truth["finish_reasons"] = json!(["ERROR"]);
                truth["error_body"] = end;
            }
            call(
                200,
                content_type,
                ID_HEADER,
                completion,
                Body::Stream(events),
                truth,
            )
        }
    }
}

fn reason(completion: &Completion) -> &'static str {
    if completion.tools.is_empty() {
        "COMPLETE"
    } else {
        "TOOL_CALL"
    }
}

/// Counts are floats.
fn usage(completion: &Completion) -> Value {
    let (input, output) = (
        completion.prompt_tokens as f64,
        completion.completion_tokens as f64,
    );
    let mut usage = json!({
        "billed_units": {"input_tokens": input, "output_tokens": output},
        "tokens": {"input_tokens": input + PREAMBLE as f64, "output_tokens": output},
    });
    if let Some(cached) = completion.cached {
        usage["cached_tokens"] = json!(cached as f64);
    }
    usage
}

fn chat_2(completion: &Completion) -> Value {
    let tools: Vec<Value> = completion
        .tools
        .iter()
        .map(|tool| json!({"id": tool, "type": "function", "function": {"name": tool, "arguments": "{}"}}))
        .collect();
    let mut message = json!({"role": "assistant", "tool_calls": tools});
    if tools.is_empty() {
        message =
            json!({"role": "assistant", "content": [{"type": "text", "text": completion.text()}]});
    }
    json!({"id": completion.id, "message": message, "finish_reason": reason(completion), "usage": usage(completion)})
}

fn events_2(completion: &Completion) -> Vec<Vec<u8>> {
    let named = |document: &Value| event(document["type"].as_str(), document);
    let mut events = vec![named(
        &json!({"type": "message-start", "id": completion.id, "delta": {"message": {"role": "assistant"}}}),
    )];
    for word in &completion.words {
        let content = json!({"message": {"content": {"text": word}}});
        events.push(named(
            &json!({"type": "content-delta", "index": 0, "delta": content}),
        ));
    }
    for (index, tool) in completion.tools.iter().enumerate() {
        let call =
            json!({"id": tool, "type": "function", "function": {"name": tool, "arguments": ""}});
        let start = json!({"message": {"tool_calls": call}});
        events.push(named(
            &json!({"type": "tool-call-start", "index": index, "delta": start}),
        ));
        let more = json!({"message": {"tool_calls": {"function": {"arguments": "{}"}}}});
        events.push(named(
            &json!({"type": "tool-call-delta", "index": index, "delta": more}),
        ));
        events.push(named(&json!({"type": "tool-call-end", "index": index})));
    }
    let end = json!({"finish_reason": reason(completion), "usage": usage(completion)});
    events.push(named(&json!({"type": "message-end", "delta": end})));
    events
}

fn chat_1(completion: &Completion) -> Value {
    let tools: Vec<Value> = completion
        .tools
        .iter()
        .map(|tool| json!({"name": tool, "parameters": {"city": "Oslo"}}))
        .collect();
    json!({"response_id": completion.id, "generation_id": completion.id, "text": completion.text(),
           "finish_reason": reason(completion), "tool_calls": tools, "meta": usage(completion)})
}

fn events_1(completion: &Completion) -> Vec<Vec<u8>> {
    let line = |document: &Value| format!("{document}\n").into_bytes();
    let mut events = vec![line(
        &json!({"is_finished": false, "event_type": "stream-start", "generation_id": completion.id}),
    )];
    for word in &completion.words {
        events.push(line(
            &json!({"is_finished": false, "event_type": "text-generation", "text": word}),
        ));
    }
    let whole = chat_1(completion);
    if !completion.tools.is_empty() {
        events.push(line(
            &json!({"is_finished": false, "event_type": "tool-calls-generation", "tool_calls": whole["tool_calls"]}),
        ));
    }
    events.push(line(
        &json!({"is_finished": true, "event_type": "stream-end", "finish_reason": reason(completion),
                "response": whole}),
    ));
    events
}
