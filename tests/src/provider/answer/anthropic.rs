//! Anthropic messages.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, break_off, call, error, event};
use crate::provider::behaviour::Behaviour;

const ID_HEADER: &str = "request-id";

pub(super) fn answer(behaviour: &Behaviour, document: &Value, completion: &Completion) -> Answer {
    let model = document["model"].as_str().unwrap_or_default();
    let response_model = format!("{model}-20250929");
    let stream = document["stream"] == true;
    let mut truth = json!({
        "provider": "anthropic",
        "operation": "chat",
        "model": model,
        "temperature": document["temperature"],
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        let kind = match status {
            400 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            _ => "api_error",
        };
        let body = json!({"type": "error", "request_id": completion.id,
                          "error": {"type": kind, "message": format!("It's refused with {status}")}});
        return error(
            u16::try_from(status).unwrap_or(500),
            ID_HEADER,
            behaviour,
            completion,
            &body,
            truth,
        );
    }
    truth["response_model"] = json!(response_model);
    truth["prompt_tokens"] = json!(completion.prompt_tokens);
    truth["completion_tokens"] = json!(completion.completion_tokens);
    truth["cached_tokens"] = json!(completion.cached.unwrap_or(0));
    truth["tool_calls"] = json!(completion.tools);
    let reason = if completion.tools.is_empty() {
        "end_turn"
    } else {
        "tool_use"
    };
    truth["finish_reasons"] = json!([reason]);
    let id = format!("msg_{}", completion.id);
    let body = if stream {
        let mut events = events(&id, &response_model, reason, completion);
        let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        if break_off(&mut events, completion, body.clone()) {
            truth["finish_reasons"] = json!([]);
            truth["completion_tokens"] = Value::Null;
            truth["error_body"] = body;
        }
        let named = |data: &Value| event(data["type"].as_str(), data);
        Body::Stream(events.iter().map(named).collect())
    } else {
        Body::Whole(
            whole(&id, &response_model, reason, completion)
                .to_string()
                .into_bytes(),
        )
    };
    let content_type = if stream {
        "text/event-stream; charset=utf-8"
    } else {
        "application/json"
    };
    call(200, content_type, ID_HEADER, completion, body, truth)
}

pub(super) fn whole(id: &str, model: &str, reason: &str, completion: &Completion) -> Value {
    let mut content = Vec::new();
    if !completion.words.is_empty() {
        content.push(json!({"type": "text", "text": completion.text()}));
    }
    for (index, tool) in completion.tools.iter().enumerate() {
        content.push(json!({"type": "tool_use", "id": format!("toolu_{index}"), "name": tool, "input": {"city": "Oslo"}}));
    }
    json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": content,
           "stop_reason": reason, "stop_sequence": null,
           "usage": {"input_tokens": completion.prompt_tokens, "output_tokens": completion.completion_tokens,
                     "cache_creation_input_tokens": 0, "cache_read_input_tokens": completion.cached.unwrap_or(0)}})
}

pub(super) fn events(id: &str, model: &str, reason: &str, completion: &Completion) -> Vec<Value> {
    let mut events = vec![
        json!({"type": "message_start", "message": {
            "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": completion.prompt_tokens, "output_tokens": 1,
                      "cache_creation_input_tokens": 0,
                      "cache_read_input_tokens": completion.cached.unwrap_or(0)}}}),
        json!({"type": "ping"}),
    ];
    let mut block = 0;
    if !completion.words.is_empty() {
        events.push(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}));
        for word in &completion.words {
            events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}));
        }
        events.push(json!({"type": "content_block_stop", "index": 0}));
        block = 1;
    }
    for (index, tool) in completion.tools.iter().enumerate() {
        let index = block + index;
        events.push(
            json!({"type": "content_block_start", "index": index, "content_block":
            {"type": "tool_use", "id": format!("toolu_{index}"), "name": tool, "input": {}}}),
        );
        for part in ["{\"city\":", " \"Oslo\"}"] {
            events.push(json!({"type": "content_block_delta", "index": index,
                "delta": {"type": "input_json_delta", "partial_json": part}}));
        }
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(
        json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null},
                             "usage": {"output_tokens": completion.completion_tokens}}),
    );
    events.push(json!({"type": "message_stop"}));
    events
}
