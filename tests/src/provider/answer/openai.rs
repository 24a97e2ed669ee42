//! OpenAI chat completions.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, break_off, call, error, event};
use crate::provider::{behaviour::Behaviour, http::Request};

/// Hosts and their providers; tests have their names stand for the address of the provider.
const HOSTS: &[(&str, &str)] = &[
    ("api.groq.com", "groq"),
    ("openai.azure.com", "azure_openai"),
];

/// Whom a request asks.
pub(super) fn provider(request: &Request) -> &'static str {
    let host = request.header("host").unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    if let Some((_, provider)) = HOSTS.iter().find(|(domain, _)| host.ends_with(domain)) {
        return provider;
    }
    let xai = ["x.ai", "grok", "xai"]
        .iter()
        .any(|name| request.path.contains(name));
    if xai || host.contains("x.ai") {
        "xai"
    } else {
        "openai"
    }
}

/// The provider's name for the header with the request's id.
pub(super) fn id_header(request: &Request) -> &'static str {
    match provider(request) {
        "azure_openai" => "apim-request-id",
        _ => "x-request-id",
    }
}

/// An error of an HTTP status.
pub(super) fn error_body(status: u64, behaviour: &Behaviour) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", "invalid_api_key"),
        429 => ("tokens", "rate_limit_exceeded"),
        500.. => ("server_error", "server_error"),
        _ => ("invalid_request_error", "invalid_value"),
    };
    let message = format!("It's refused with {status}: naïve \"quote\"");
    if behaviour.has("error-text") {
        json!({"code": code, "error": message})
    } else if behaviour.has("error-gateway") {
        json!({"statusCode": status, "message": message})
    } else {
        json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
    }
}

pub(super) fn answer(
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let model = document["model"].as_str().unwrap_or_default();
    let response_model = format!("{model}-2024-08-06");
    let stream = document["stream"] == true;
    let mut truth = json!({
        "provider": provider(request),
        "operation": "chat",
        "model": model,
        "temperature": document["temperature"],
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        let body = error_body(status, behaviour);
        return error(
            u16::try_from(status).unwrap_or(500),
            id_header(request),
            behaviour,
            completion,
            &body,
            truth,
        );
    }
    truth["response_model"] = json!(response_model);
    truth["tool_calls"] = json!(completion.tools);
    let usage_wanted =
        completion.usage && (!stream || document["stream_options"]["include_usage"] == true);
    if usage_wanted {
        truth["prompt_tokens"] = json!(completion.prompt_tokens);
        truth["completion_tokens"] = json!(completion.completion_tokens);
        truth["cached_tokens"] = json!(completion.cached.unwrap_or(0));
        truth["reasoning_tokens"] = json!(completion.reasoning.unwrap_or(0));
    }
    let reason = if completion.tools.is_empty() {
        "stop"
    } else {
        "tool_calls"
    };
    truth["finish_reasons"] = json!(vec![reason; completion.choices]);
    let id = format!("chatcmpl-{}", completion.id);
    let body = if stream {
        let mut events = events(
            &id,
            &response_model,
            reason,
            usage_wanted,
            completion,
            &mut truth,
        );
        if provider(request) == "azure_openai" {
            // What the filter says of the prompt comes first.
            let filter = json!([{"prompt_index": 0, "content_filter_results": {}}]);
            let first = json!({"choices": [], "created": 0, "id": "", "model": "", "object": "",
                               "prompt_filter_results": filter});
            events.insert(0, event(None, &first));
        }
        Body::Stream(events)
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
    call(
        200,
        content_type,
        id_header(request),
        completion,
        body,
        truth,
    )
}

fn usage(completion: &Completion) -> Value {
    json!({
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": completion.cached.unwrap_or(0)},
        "completion_tokens_details": {"reasoning_tokens": completion.reasoning.unwrap_or(0)},
    })
}

fn whole(id: &str, model: &str, reason: &str, completion: &Completion) -> Value {
    let choices: Vec<Value> = (0..completion.choices)
        .map(|index| {
            let mut message =
                json!({"role": "assistant", "content": completion.text(), "refusal": null});
            if !completion.tools.is_empty() {
                message["content"] = Value::Null;
                message["tool_calls"] = completion
                    .tools
                    .iter()
                    .enumerate()
                    .map(|(index, tool)| {
                        json!({"id": format!("call_{index}"), "type": "function",
                               "function": {"name": tool, "arguments": "{\"city\": \"Oslo\"}"}})
                    })
                    .collect();
            }
            json!({"index": index, "message": message, "finish_reason": reason, "logprobs": null})
        })
        .collect();
    let mut document = json!({"id": id, "object": "chat.completion", "created": 1, "model": model, "choices": choices});
    if completion.usage {
        document["usage"] = usage(completion);
    }
    document
}

fn events(
    id: &str,
    model: &str,
    reason: &str,
    with_usage: bool,
    completion: &Completion,
    truth: &mut Value,
) -> Vec<Vec<u8>> {
    let chunk = |choices: Value, usage: Value| {
        event(
            None,
            &json!({"id": id, "object": "chat.completion.chunk", "created": 1, "model": model,
                    "choices": choices, "usage": usage}),
        )
    };
    let delta = |index: usize, delta: Value| {
        chunk(
            json!([{"index": index, "delta": delta, "finish_reason": null}]),
            Value::Null,
        )
    };
    let mut events = vec![b": a comment to keep the connection alive\n\n".to_vec()];
    for index in 0..completion.choices {
        events.push(delta(index, json!({"role": "assistant", "content": ""})));
    }
    for word in &completion.words {
        for index in 0..completion.choices {
            events.push(delta(index, json!({"content": word})));
        }
    }
    for (position, tool) in completion.tools.iter().enumerate() {
        let call = json!({"index": position, "id": format!("call_{position}"), "type": "function",
                          "function": {"name": tool, "arguments": ""}});
        events.push(delta(0, json!({"tool_calls": [call]})));
        for part in ["{\"city\":", " \"Oslo\"}"] {
            let part = json!({"index": position, "function": {"arguments": part}});
            events.push(delta(0, json!({"tool_calls": [part]})));
        }
    }
    let body = json!({"error": {"message": "The server had an error", "type": "server_error", "code": null}});
    if break_off(&mut events, completion, event(None, &body)) {
        truth["finish_reasons"] = json!([]);
        for key in [
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "reasoning_tokens",
        ] {
            truth[key] = Value::Null;
        }
        truth["error_body"] = body;
        return events;
    }
    for index in 0..completion.choices {
        events.push(chunk(
            json!([{"index": index, "delta": {}, "finish_reason": reason}]),
            Value::Null,
        ));
    }
    if with_usage {
        events.push(chunk(json!([]), usage(completion)));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}
