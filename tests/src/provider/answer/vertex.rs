//! Vertex AI: the formats of others behind its own paths.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, anthropic, call, openai};
use crate::provider::{behaviour::Behaviour, http::Request};

/// Whether it is a path of Vertex AI and not of the Gemini API.
pub(super) fn is_path(path: &str) -> bool {
    path.contains("/publishers/") || path.contains("/projects/")
}

/// A request that is passed on to a model as it is.
pub(super) fn passed_on(
    path: &str,
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let (resource, _) = path.rsplit_once(':').unwrap_or_default();
    let model = resource.rsplit('/').next().unwrap_or_default();
    let mut document = document.clone();
    document["model"] = json!(model);
    let mut answer = if path.contains("/publishers/anthropic/") {
        anthropic::answer(behaviour, &document, completion)
    } else {
        openai::answer(request, behaviour, &document, completion)
    };
    answer.truth["provider"] = json!("vertex_ai");
    answer
}

/// Embeddings of Gemini, by either of its services.
pub(super) fn embeddings(path: &str, completion: &Completion) -> Answer {
    let (resource, verb) = path.rsplit_once(':').unwrap_or_default();
    let model = resource.rsplit('/').next().unwrap_or_default();
    let on_vertex = is_path(path);
    let tokens = completion.prompt_tokens;
    let (body, counted) = match verb {
        "predict" => {
            let statistics = json!({"token_count": tokens as f64, "truncated": false});
            let one = json!({"embeddings": {"values": [0.25, 0.5], "statistics": statistics}});
            (
                json!({"predictions": [one], "metadata": {"billableCharacterCount": 9}}),
                true,
            )
        }
        "batchEmbedContents" => (json!({"embeddings": [{"values": [0.25, 0.5]}]}), false),
        _ => {
            let mut body = json!({"embedding": {"values": [0.25, 0.5]}});
            if on_vertex {
                body["usageMetadata"] =
                    json!({"promptTokenCount": tokens, "totalTokenCount": tokens});
            }
            (body, on_vertex)
        }
    };
    let truth = json!({
        "provider": if on_vertex { "vertex_ai" } else { "google" },
        "operation": "embeddings",
        "model": model,
        "temperature": null,
        "stream": false,
        "prompt_tokens": counted.then_some(tokens),
        "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    let body = Body::Whole(body.to_string().into_bytes());
    call(
        200,
        "application/json",
        "x-request-id",
        completion,
        body,
        truth,
    )
}
