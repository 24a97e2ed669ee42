//! OpenAI Responses.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, break_off, call, error, event, openai};
use crate::provider::{behaviour::Behaviour, http::Request};

/// The model of responses that are fetched: their request does not name it.
const FETCHED_MODEL: &str = "gpt-5-2026-03-05";

pub(super) fn answer(
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let model = document["model"].as_str().unwrap_or_default();
    let response_model = format!("{model}-2026-03-05");
    let stream = document["stream"] == true;
    let mut truth = json!({
        "provider": openai::provider(request),
        "operation": "chat",
        "model": model,
        "temperature": document["temperature"],
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        let body = openai::error_body(status, behaviour);
        return error(
            u16::try_from(status).unwrap_or(500),
            openai::id_header(request),
            behaviour,
            completion,
            &body,
            truth,
        );
    }
    truth["response_model"] = json!(response_model);
    if document["background"] == true {
        let queued = response(&response_model, "queued", &[], completion);
        let body = Body::Whole(queued.to_string().into_bytes());
        let id_header = openai::id_header(request);
        return call(200, "application/json", id_header, completion, body, truth);
    }
    truth["finish_reasons"] = json!(["completed"]);
    truth["tool_calls"] = json!(completion.tools);
    if completion.usage {
        truth["prompt_tokens"] = json!(completion.prompt_tokens);
        truth["completion_tokens"] = json!(completion.completion_tokens);
        truth["cached_tokens"] = json!(completion.cached.unwrap_or(0));
        truth["reasoning_tokens"] = json!(completion.reasoning.unwrap_or(0));
    }
    let body = if stream {
        Body::Stream(events(&response_model, completion, &mut truth))
    } else {
        let output = items(completion);
        Body::Whole(
            response(&response_model, "completed", &output, completion)
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
        openai::id_header(request),
        completion,
        body,
        truth,
    )
}

/// A response that ran in the background, with its tokens, which belong to the call that asked for it.
pub(super) fn fetched(request: &Request, completion: &Completion) -> Answer {
    let response = response(FETCHED_MODEL, "completed", &items(completion), completion);
    let truth = json!({
        "provider": openai::provider(request),
        "operation": "fetch_response",
        "model": null, "temperature": null, "stream": false,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": FETCHED_MODEL, "finish_reasons": ["completed"], "tool_calls": [],
    });
    call(
        200,
        "application/json",
        openai::id_header(request),
        completion,
        Body::Whole(response.to_string().into_bytes()),
        truth,
    )
}

/// The response object, as it stands with `status`.
fn response(model: &str, status: &str, output: &[Value], completion: &Completion) -> Value {
    let usage = json!({
        "input_tokens": completion.prompt_tokens,
        "input_tokens_details": {"cached_tokens": completion.cached.unwrap_or(0)},
        "output_tokens": completion.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": completion.reasoning.unwrap_or(0)},
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
    });
    let with_usage = completion.usage && status == "completed";
    json!({
        "id": format!("resp_{}", completion.id), "object": "response", "created_at": 1, "status": status,
        "error": null, "incomplete_details": null, "instructions": null, "model": model,
        "output": output, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto",
        "tools": [], "top_p": 1.0, "metadata": {},
        "usage": if with_usage { usage } else { Value::Null },
    })
}

/// What the model has said: a message, or calls of tools.
fn items(completion: &Completion) -> Vec<Value> {
    if completion.tools.is_empty() {
        return vec![message(
            completion,
            "completed",
            json!([text_part(&completion.text())]),
        )];
    }
    completion
        .tools
        .iter()
        .enumerate()
        .map(|(index, tool)| tool_call(completion, index, tool, "{\"city\": \"Oslo\"}"))
        .collect()
}

fn message(completion: &Completion, status: &str, content: Value) -> Value {
    json!({"type": "message", "id": format!("msg_{}", completion.id), "status": status,
           "role": "assistant", "content": content})
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "annotations": [], "text": text})
}

fn tool_call(completion: &Completion, index: usize, tool: &str, arguments: &str) -> Value {
    json!({"type": "function_call", "id": format!("fc_{index}_{}", completion.id), "status": "completed",
           "call_id": format!("call_{index}"), "name": tool, "arguments": arguments})
}

fn events(model: &str, completion: &Completion, truth: &mut Value) -> Vec<Vec<u8>> {
    let mut number = 0;
    let mut numbered = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(number);
        number += 1;
        event(Some(kind), &data)
    };
    let begun = response(model, "in_progress", &[], completion);
    let mut events = vec![
        numbered("response.created", json!({"response": begun})),
        numbered("response.in_progress", json!({"response": begun})),
    ];
    if completion.tools.is_empty() {
        let place = json!({"item_id": format!("msg_{}", completion.id), "output_index": 0, "content_index": 0});
        let with = |key: &str, value: Value| {
            let mut data = place.clone();
            data[key] = value;
            data
        };
        let empty = message(completion, "in_progress", json!([]));
        events.push(numbered(
            "response.output_item.added",
            json!({"output_index": 0, "item": empty}),
        ));
        events.push(numbered(
            "response.content_part.added",
            with("part", text_part("")),
        ));
        for word in &completion.words {
            events.push(numbered(
                "response.output_text.delta",
                with("delta", json!(word)),
            ));
        }
        let text = completion.text();
        events.push(numbered(
            "response.output_text.done",
            with("text", json!(text)),
        ));
        events.push(numbered(
            "response.content_part.done",
            with("part", text_part(&text)),
        ));
    }
    for (index, tool) in completion.tools.iter().enumerate() {
        let item = tool_call(completion, index, tool, "");
        let id = item["id"].clone();
        events.push(numbered(
            "response.output_item.added",
            json!({"output_index": index, "item": item}),
        ));
        for part in ["{\"city\":", " \"Oslo\"}"] {
            events.push(numbered(
                "response.function_call_arguments.delta",
                json!({"item_id": id, "output_index": index, "delta": part}),
            ));
        }
    }
    let output = items(completion);
    for (index, item) in output.iter().enumerate() {
        events.push(numbered(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
        ));
    }
    let body = json!({"type": "error", "code": "server_error", "message": "The server had an error",
                      "param": null, "sequence_number": number});
    if break_off(&mut events, completion, event(Some("error"), &body)) {
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
    let whole = response(model, "completed", &output, completion);
    events.push(event(
        Some("response.completed"),
        &json!({"type": "response.completed", "sequence_number": number, "response": whole}),
    ));
    events
}
