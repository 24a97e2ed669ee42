//! OpenAI's operations beside chats: completions of a text, embeddings, images, audio and moderations.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, break_off, call, error, event, openai};
use crate::provider::{behaviour::Behaviour, http::Request};

/// The end of the path of each, and its operation.
const OPERATIONS: &[(&str, &str)] = &[
    ("/completions", "text_completion"),
    ("/embeddings", "embeddings"),
    ("/images/generations", "image_generation"),
    ("/images/edits", "image_generation"),
    ("/audio/speech", "speech"),
    ("/audio/transcriptions", "transcription"),
    ("/audio/translations", "translation"),
    ("/moderations", "moderation"),
];

/// The operation of a path.
pub(super) fn of(path: &str) -> Option<&'static str> {
    OPERATIONS
        .iter()
        .find(|(end, _)| path.ends_with(end))
        .map(|&(_, operation)| operation)
}

pub(super) fn answer(
    operation: &str,
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let form = form(request);
    let document = form.as_ref().unwrap_or(document);
    let model = document["model"].as_str().unwrap_or_default();
    let speech = document["stream_format"] == "sse";
    let stream = document["stream"] == true || document["stream"] == "true" || speech;
    let mut truth = json!({
        "provider": openai::provider(request),
        "operation": operation,
        "model": model,
        "temperature": number(&document["temperature"]),
        "stream": stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    let id_header = openai::id_header(request);
    if let Some(status) = behaviour.number("error") {
        // What streams answers with an error in one piece, and who asks for speech so does not say it.
        truth["stream"] = json!(stream && !speech);
        let body = openai::error_body(status, behaviour);
        return error(
            u16::try_from(status).unwrap_or(500),
            id_header,
            behaviour,
            completion,
            &body,
            truth,
        );
    }
    let (content_type, body) = match operation {
        "text_completion" => completions(document, stream, completion, &mut truth),
        "embeddings" => embeddings(document, behaviour, completion, &mut truth),
        "image_generation" => images(stream, completion, &mut truth),
        "speech" => spoken(stream, completion, &mut truth),
        "moderation" => moderations(model, &mut truth),
        _ => transcriptions(document, stream, completion, &mut truth),
    };
    call(200, content_type, id_header, completion, body, truth)
}

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream; charset=utf-8";

fn whole(document: &Value) -> Body {
    Body::Whole(document.to_string().into_bytes())
}

fn completions(
    document: &Value,
    stream: bool,
    completion: &Completion,
    truth: &mut Value,
) -> (&'static str, Body) {
    let model = format!("{}:2023", document["model"].as_str().unwrap_or_default());
    truth["response_model"] = json!(model);
    truth["finish_reasons"] = json!(["length"]);
    let usage = json!({"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens,
                       "total_tokens": completion.prompt_tokens + completion.completion_tokens});
    let object = |choices: Value, usage: Value| {
        json!({"id": format!("cmpl-{}", completion.id), "object": "text_completion", "created": 1,
               "model": model, "choices": choices, "usage": usage})
    };
    let choice = |text: &str, reason: Value| json!([{"text": text, "index": 0, "logprobs": null, "finish_reason": reason}]);
    let counted = !stream || document["stream_options"]["include_usage"] == true;
    if counted {
        count(
            truth,
            completion.prompt_tokens,
            Some(completion.completion_tokens),
        );
    }
    if !stream {
        return (
            JSON,
            whole(&object(choice(&completion.text(), json!("length")), usage)),
        );
    }
    let mut events: Vec<Vec<u8>> = completion
        .words
        .iter()
        .map(|word| event(None, &object(choice(word, Value::Null), Value::Null)))
        .collect();
    let failed = json!({"error": {"message": "The server had an error", "type": "server_error", "code": null}});
    if break_off(&mut events, completion, event(None, &failed)) {
        truth["finish_reasons"] = json!([]);
        truth["prompt_tokens"] = Value::Null;
        truth["completion_tokens"] = Value::Null;
        truth["error_body"] = failed;
        return (SSE, Body::Stream(events));
    }
    events.push(event(
        None,
        &object(choice("", json!("length")), Value::Null),
    ));
    if counted {
        events.push(event(None, &object(json!([]), usage)));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    (SSE, Body::Stream(events))
}

/// Vectors of zeros, of as many bytes as the behaviour wants; the usage stands behind them.
fn embeddings(
    document: &Value,
    behaviour: &Behaviour,
    completion: &Completion,
    truth: &mut Value,
) -> (&'static str, Body) {
    let model = &document["model"];
    truth["response_model"] = model.clone();
    count(truth, completion.prompt_tokens, None);
    let count = document["input"].as_array().map_or(1, Vec::len);
    let vector = if document["encoding_format"] == "base64" {
        // Three floats in 16 digits of base64.
        let digits = behaviour.number("bytes").unwrap_or(4096) / 16 * 16;
        json!("A".repeat(usize::try_from(digits).unwrap_or(0)))
    } else {
        json!([0.5, -0.25, 1e-5])
    };
    let data: Vec<String> = (0..count)
        .map(|index| format!(r#"{{"object":"embedding","index":{index},"embedding":{vector}}}"#))
        .collect();
    let body = format!(
        r#"{{"object":"list","data":[{}],"model":{model},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#,
        data.join(","),
        tokens = completion.prompt_tokens
    );
    (JSON, Body::Whole(body.into_bytes()))
}

fn images(stream: bool, completion: &Completion, truth: &mut Value) -> (&'static str, Body) {
    count(
        truth,
        completion.prompt_tokens,
        Some(completion.completion_tokens),
    );
    let usage = json!({"input_tokens": completion.prompt_tokens, "output_tokens": completion.completion_tokens,
                       "input_tokens_details": {"text_tokens": completion.prompt_tokens, "image_tokens": 0},
                       "total_tokens": completion.prompt_tokens + completion.completion_tokens});
    let image = "iVBORw0KGgo=".repeat(4000);
    if !stream {
        let body = json!({"created": 1, "data": [{"b64_json": image}], "output_format": "png", "usage": usage});
        return (JSON, whole(&body));
    }
    let shown = |kind: &str, more: &Value| {
        let mut data = json!({"type": kind, "b64_json": image, "created_at": 1, "size": "1024x1024",
                              "quality": "low", "background": "opaque", "output_format": "png"});
        data.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        event(Some(kind), &data)
    };
    let events = vec![
        shown(
            "image_generation.partial_image",
            &json!({"partial_image_index": 0}),
        ),
        shown("image_generation.completed", &json!({"usage": usage})),
    ];
    (SSE, Body::Stream(events))
}

fn spoken(stream: bool, completion: &Completion, truth: &mut Value) -> (&'static str, Body) {
    if !stream {
        // The head of a frame of MPEG, which is no UTF-8 either.
        return (
            "audio/mpeg",
            Body::Whole([0xff, 0xfb, 0x90, 0x64].repeat(5000)),
        );
    }
    count(
        truth,
        completion.prompt_tokens,
        Some(completion.completion_tokens),
    );
    let usage = json!({"input_tokens": completion.prompt_tokens, "output_tokens": completion.completion_tokens,
                       "total_tokens": completion.prompt_tokens + completion.completion_tokens});
    let delta = json!({"type": "speech.audio.delta", "audio": "//uQZA==".repeat(500)});
    let mut events = vec![event(Some("speech.audio.delta"), &delta); 5];
    events.push(event(
        Some("speech.audio.done"),
        &json!({"type": "speech.audio.done", "usage": usage}),
    ));
    (SSE, Body::Stream(events))
}

fn transcriptions(
    document: &Value,
    stream: bool,
    completion: &Completion,
    truth: &mut Value,
) -> (&'static str, Body) {
    let text = completion.text();
    if document["response_format"] == "text" {
        return ("text/plain; charset=utf-8", Body::Whole(text.into_bytes()));
    }
    if document["model"] == "whisper-1" {
        let usage = json!({"type": "duration", "seconds": 9});
        return (JSON, whole(&json!({"text": text, "usage": usage})));
    }
    count(
        truth,
        completion.prompt_tokens,
        Some(completion.completion_tokens),
    );
    let usage = json!({"type": "tokens", "input_tokens": completion.prompt_tokens,
                       "input_token_details": {"audio_tokens": completion.prompt_tokens, "text_tokens": 0},
                       "output_tokens": completion.completion_tokens,
                       "total_tokens": completion.prompt_tokens + completion.completion_tokens});
    if !stream {
        return (JSON, whole(&json!({"text": text, "usage": usage})));
    }
    let mut events: Vec<Vec<u8>> = completion
        .words
        .iter()
        .map(|word| {
            event(
                None,
                &json!({"type": "transcript.text.delta", "delta": word}),
            )
        })
        .collect();
    events.push(event(
        None,
        &json!({"type": "transcript.text.done", "text": text, "usage": usage}),
    ));
    (SSE, Body::Stream(events))
}

fn moderations(model: &str, truth: &mut Value) -> (&'static str, Body) {
    let model = format!("{model}-2024-09-26");
    truth["response_model"] = json!(model);
    let result = json!({"flagged": false, "categories": {"violence": false},
                        "category_scores": {"violence": 1e-5}, "category_applied_input_types": {}});
    (
        JSON,
        whole(&json!({"id": "modr-1", "model": model, "results": [result]})),
    )
}

fn count(truth: &mut Value, prompt: u64, completion: Option<u64>) {
    truth["prompt_tokens"] = json!(prompt);
    truth["completion_tokens"] = json!(completion);
}

/// A number, which stands as text in a form.
fn number(value: &Value) -> Value {
    match value.as_str() {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => value.clone(),
    }
}

/// The fields of a form of several parts (RFC 7578), if the request is one.
fn form(request: &Request) -> Option<Value> {
    let (_, boundary) = request.header("content-type")?.split_once("boundary=")?;
    let body = String::from_utf8_lossy(&request.body);
    let mut fields = json!({});
    for part in body.split(&format!("--{}", boundary.trim_matches('"'))) {
        let Some((head, value)) = part.split_once("\r\n\r\n") else {
            continue;
        };
        let name = head
            .split_once("name=\"")
            .and_then(|(_, rest)| rest.split('"').next());
        if let Some(name) = name.filter(|_| !head.contains("filename=")) {
            fields[name] = json!(value.trim_end_matches("\r\n"));
        }
    }
    Some(fields)
}
