//! Ollama's own API: chat, generate and embeddings.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, call, error};
use crate::provider::behaviour::Behaviour;

/// Ollama gives no id; a proxy before it may.
const ID_HEADER: &str = "x-request-id";

/// Ends of the paths, with operations.
const PATHS: &[(&str, &str)] = &[
    ("/api/chat", "chat"),
    ("/api/embed", "embeddings"),
    ("/api/embeddings", "embeddings"),
    ("/api/generate", "text_completion"),
];

/// What a path asks for.
pub(super) fn operation(path: &str) -> Option<&'static str> {
    let known = PATHS.iter().find(|(end, _)| path.ends_with(end));
    known.map(|(_, operation)| *operation)
}

pub(super) fn answer(
    path: &str,
    operation: &str,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let embeds = operation == "embeddings";
    // Unless it is told otherwise it answers as a stream.
    let stream = !embeds && document["stream"] != false;
    let mut truth = json!({
        "provider": "ollama",
        "operation": operation,
        "model": document["model"],
        "temperature": document["options"]["temperature"],
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        let body = json!({"error": format!("It's refused with {status}")});
        let status = u16::try_from(status).unwrap_or(500);
        return error(status, ID_HEADER, behaviour, completion, &body, truth);
    }
    let whole = |body: &Value, truth: Value| {
        let body = Body::Whole(body.to_string().into_bytes());
        call(200, "application/json", ID_HEADER, completion, body, truth)
    };
    if path.ends_with("/api/embeddings") {
        return whole(&json!({"embedding": [0.25, 0.5]}), truth);
    }
    truth["response_model"] = document["model"].clone();
    truth["prompt_tokens"] = json!(completion.prompt_tokens);
    if embeds {
        let body = json!({"model": document["model"], "embeddings": [[0.25, 0.5]], "total_duration": 14_143_917,
                          "prompt_eval_count": completion.prompt_tokens});
        return whole(&body, truth);
    }
    truth["completion_tokens"] = json!(completion.completion_tokens);
    truth["finish_reasons"] = json!(["stop"]);
    truth["tool_calls"] = json!(completion.tools);
    let line = |text: &str, tools: &[String], done: bool| {
        let mut line =
            json!({"model": document["model"], "created_at": "2026-01-01T00:00:00Z", "done": done});
        if operation == "chat" {
            let tools: Vec<Value> = tools
                .iter()
                .map(|tool| json!({"function": {"name": tool, "arguments": {"city": "Oslo"}}}))
                .collect();
            line["message"] = json!({"role": "assistant", "content": text});
            if !tools.is_empty() {
                line["message"]["tool_calls"] = json!(tools);
            }
        } else {
            line["response"] = json!(text);
        }
        if done {
            line["done_reason"] = json!("stop");
            line["total_duration"] = json!(900_000_000);
            line["prompt_eval_count"] = json!(completion.prompt_tokens);
            line["eval_count"] = json!(completion.completion_tokens);
        }
        line
    };
    if !stream {
        return whole(&line(&completion.text(), &completion.tools, true), truth);
    }
    let tools = (!completion.tools.is_empty()).then(|| line("", &completion.tools, false));
    let events = completion
        .words
        .iter()
        .map(|word| line(word, &[], false))
        .chain(tools)
        .chain([line("", &[], true)])
        .map(|line| format!("{line}\n").into_bytes())
        .collect();
    call(
        200,
        "application/x-ndjson",
        ID_HEADER,
        completion,
        Body::Stream(events),
        truth,
    )
}
