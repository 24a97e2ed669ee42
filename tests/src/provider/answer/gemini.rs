//! Gemini generateContent and streamGenerateContent.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, break_off, call, error, event, unfinished, vertex};
use crate::provider::{behaviour::Behaviour, http::Request};

/// Google gives no id of its own; a proxy before it may.
pub(super) const ID_HEADER: &str = "x-request-id";

pub(super) fn answer(
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let (resource, verb) = path.rsplit_once(':').unwrap_or_default();
    let model = resource.rsplit('/').next().unwrap_or_default();
    let version = format!("{model}-001");
    let stream = verb == "streamGenerateContent";
    let sse = query.contains("alt=sse");
    let mut truth = truth(
        model,
        document["generationConfig"]["temperature"].clone(),
        stream,
    );
    if vertex::is_path(path) {
        truth["provider"] = json!("vertex_ai");
    }
    if let Some(status) = behaviour.number("error") {
        let name = match status {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            429 => "RESOURCE_EXHAUSTED",
            503 => "UNAVAILABLE",
            _ => "INTERNAL",
        };
        let body = json!({"error": {"code": status, "message": format!("It's refused with {status}"), "status": name}});
        return error(
            u16::try_from(status).unwrap_or(500),
            ID_HEADER,
            behaviour,
            completion,
            &body,
            truth,
        );
    }
    succeed(&mut truth, &version, completion);
    let mut chunks = chunks(&version, stream, completion);
    // The generated transport of google-ai-generativelanguage asks for numbers.
    if query.contains("enum-encoding") {
        for chunk in &mut chunks {
            if let Some(reason) = chunk.pointer_mut("/candidates/0/finishReason") {
                *reason = json!(1);
            }
        }
    }
    if !stream {
        let whole = chunks.pop().unwrap_or_default().to_string().into_bytes();
        return call(
            200,
            "application/json; charset=UTF-8",
            ID_HEADER,
            completion,
            Body::Whole(whole),
            truth,
        );
    }
    let mut events: Vec<Vec<u8>> = if sse {
        chunks.iter().map(|chunk| event(None, chunk)).collect()
    } else {
        let last = chunks.len() - 1;
        chunks
            .iter()
            .enumerate()
            .map(|(index, chunk)| {
                let before = if index == 0 { "[" } else { ",\r\n" };
                let after = if index == last { "]" } else { "" };
                format!("{before}{chunk:#}{after}").into_bytes()
            })
            .collect()
    };
    let body = json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}});
    let chunks = events.len();
    if sse && break_off(&mut events, completion, event(None, &body)) {
        if events.len() <= chunks {
            unfinished(&mut truth, events.len() - 1, false);
        }
        truth["error_body"] = body;
    }
    let content_type = if sse {
        "text/event-stream"
    } else {
        "application/json; charset=UTF-8"
    };
    call(
        200,
        content_type,
        ID_HEADER,
        completion,
        Body::Stream(events),
        truth,
    )
}

/// The truth about a call of which nothing has come yet.
pub(super) fn truth(model: &str, temperature: Value, stream: bool) -> Value {
    json!({
        "provider": "google",
        "operation": "generate_content",
        "model": model,
        "temperature": temperature,
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    })
}

/// Adds the truth about an answer.
pub(super) fn succeed(truth: &mut Value, version: &str, completion: &Completion) {
    truth["response_model"] = json!(version);
    truth["tool_calls"] = json!(completion.tools);
    truth["finish_reasons"] = json!(["STOP"]);
    if completion.usage {
        truth["prompt_tokens"] = json!(completion.prompt_tokens);
        truth["completion_tokens"] = json!(completion.completion_tokens);
        truth["cached_tokens"] = json!(completion.cached);
        truth["reasoning_tokens"] = json!(completion.reasoning);
    }
}

pub(super) fn chunks(version: &str, stream: bool, completion: &Completion) -> Vec<Value> {
    let calls = |tools: &[String]| -> Vec<Value> {
        tools
            .iter()
            .map(|tool| json!({"functionCall": {"name": tool, "args": {"city": "Oslo"}}}))
            .collect()
    };
    let mut parts: Vec<Vec<Value>> = if stream {
        let mut parts: Vec<Vec<Value>> = completion
            .words
            .iter()
            .map(|word| vec![json!({"text": word})])
            .collect();
        parts.extend(
            completion
                .tools
                .iter()
                .map(|tool| calls(std::slice::from_ref(tool))),
        );
        parts
    } else {
        let mut whole = calls(&completion.tools);
        if !completion.words.is_empty() {
            whole.insert(0, json!({"text": completion.text()}));
        }
        vec![whole]
    };
    if completion.reasoning.is_some() {
        parts[0].insert(0, json!({"text": "Let me think", "thought": true}));
    }
    let last = parts.len() - 1;
    parts
        .into_iter()
        .enumerate()
        .map(|(index, parts)| {
            let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
            let mut document = json!({"modelVersion": version, "responseId": completion.id});
            if index == last {
                candidate["finishReason"] = json!("STOP");
            }
            if completion.usage {
                // Cumulative on every chunk; the last counts.
                let sofar = if index == last { completion.completion_tokens } else { index as u64 };
                let mut usage = json!({"promptTokenCount": completion.prompt_tokens, "candidatesTokenCount": sofar,
                                       "totalTokenCount": completion.prompt_tokens + sofar});
                if let Some(cached) = completion.cached {
                    usage["cachedContentTokenCount"] = json!(cached);
                }
                if let Some(reasoning) = completion.reasoning {
                    usage["thoughtsTokenCount"] = json!(reasoning);
                }
                document["usageMetadata"] = usage;
            }
            document["candidates"] = json!([candidate]);
            document
        })
        .collect()
}
