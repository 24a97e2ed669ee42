//! Text generation as Hugging Face's TGI has it, at the root of a server.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, call, error, event};
use crate::provider::behaviour::Behaviour;

/// TGI gives no id; a proxy before it may.
const ID_HEADER: &str = "x-request-id";

pub(super) fn answer(behaviour: &Behaviour, document: &Value, completion: &Completion) -> Answer {
    let stream = document["stream"] == true;
    let mut truth = json!({
        "provider": "huggingface",
        "operation": "text_completion",
        "model": null,
        "temperature": document["parameters"]["temperature"],
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        let body =
            json!({"error": format!("It's refused with {status}"), "error_type": "overloaded"});
        let status = u16::try_from(status).unwrap_or(500);
        return error(status, ID_HEADER, behaviour, completion, &body, truth);
    }
    truth["completion_tokens"] = json!(completion.completion_tokens);
    truth["finish_reasons"] = json!(["eos_token"]);
    let mut details = json!({"finish_reason": "eos_token", "generated_tokens": completion.completion_tokens,
                             "seed": null, "prefill": [], "tokens": []});
    if !stream {
        let body = json!({"generated_text": completion.text(), "details": details});
        let body = Body::Whole(body.to_string().into_bytes());
        return call(200, "application/json", ID_HEADER, completion, body, truth);
    }
    truth["prompt_tokens"] = json!(completion.prompt_tokens);
    details["input_length"] = json!(completion.prompt_tokens);
    let last = completion.words.len() - 1;
    let events = completion
        .words
        .iter()
        .enumerate()
        .map(|(index, word)| {
            let token = json!({"id": index, "text": word, "logprob": -0.5, "special": false});
            let (text, details) = if index == last {
                (json!(completion.text()), details.clone())
            } else {
                (Value::Null, Value::Null)
            };
            let body =
                json!({"index": index, "token": token, "generated_text": text, "details": details});
            event(None, &body)
        })
        .collect();
    call(
        200,
        "text/event-stream",
        ID_HEADER,
        completion,
        Body::Stream(events),
        truth,
    )
}
