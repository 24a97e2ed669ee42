//! Services of gRPC, with protobuf made by hand: Gemini's GenerateContent and StreamGenerateContent
//! (`google.ai.generativelanguage.v1beta`), and xAI's GetCompletion and GetCompletionChunk (`xai_api`).

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::{Value, json};

use super::{Answer, Body, Completion, call, gemini};
use crate::provider::{behaviour::Behaviour, http::Request};

/// The path of Gemini's service, without its version.
pub(super) const GEMINI: &str = "/google.ai.generativelanguage.";

/// The path of xAI's service.
pub(super) const XAI: &str = "/xai_api.Chat/";

const CONTENT_TYPE: &str = "application/grpc";

/// HTTP status and code of gRPC (`google.rpc.Code`).
const CODES: &[(u64, u32)] = &[
    (400, 3),
    (401, 16),
    (403, 7),
    (404, 5),
    (429, 8),
    (500, 13),
    (503, 14),
];

pub(super) fn gemini(request: &Request, behaviour: &Behaviour, completion: &Completion) -> Answer {
    let message = message(request).unwrap_or_default();
    let model = field(&message, 1).map_or_else(String::new, |value| value.text());
    let model = model.rsplit('/').next().unwrap_or_default();
    let temperature = field(&message, 4)
        .and_then(|config| field(config.bytes, 5).and_then(|value| value.float()));
    let stream = request.path.ends_with("/StreamGenerateContent");
    let mut truth = gemini::truth(model, temperature.unwrap_or(Value::Null), stream);
    if let Some(refused) = refuse(behaviour, completion, &truth) {
        return refused;
    }
    let version = format!("{model}-001");
    gemini::succeed(&mut truth, &version, completion);
    let messages = gemini::chunks(&version, stream, completion)
        .iter()
        .map(gemini_response)
        .collect();
    succeed(messages, stream, behaviour, completion, truth)
}

pub(super) fn xai(request: &Request, behaviour: &Behaviour, completion: &Completion) -> Answer {
    let message = message(request).unwrap_or_default();
    let model = field(&message, 2).map_or_else(String::new, |value| value.text());
    let stream = request.path.ends_with("Chunk");
    let mut truth = json!({
        "provider": "xai", "operation": "chat", "model": model, "stream": stream,
        "temperature": field(&message, 14).and_then(|value| value.float()),
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(refused) = refuse(behaviour, completion, &truth) {
        return refused;
    }
    let reason = if completion.tools.is_empty() {
        "REASON_STOP"
    } else {
        "REASON_TOOL_CALLS"
    };
    truth["response_model"] = json!(format!("{model}-0709"));
    truth["prompt_tokens"] = json!(completion.prompt_tokens);
    truth["completion_tokens"] = json!(completion.completion_tokens);
    truth["cached_tokens"] = json!(completion.cached);
    truth["reasoning_tokens"] = json!(completion.reasoning);
    truth["finish_reasons"] = json!([reason]);
    truth["tool_calls"] = json!(completion.tools);
    let messages = if stream {
        let last = xai_message(completion, &model, "", true, true);
        let words = completion.words.iter();
        words
            .map(|word| xai_message(completion, &model, word, false, true))
            .chain([last])
            .collect()
    } else {
        vec![xai_message(
            completion,
            &model,
            &completion.text(),
            true,
            false,
        )]
    };
    succeed(messages, stream, behaviour, completion, truth)
}

fn refuse(behaviour: &Behaviour, completion: &Completion, truth: &Value) -> Option<Answer> {
    let status = behaviour.number("error")?;
    let code = CODES.iter().find(|(known, _)| *known == status);
    let code = code.map_or(2, |(_, code)| *code);
    let mut answer = call(
        200,
        CONTENT_TYPE,
        gemini::ID_HEADER,
        completion,
        Body::None,
        truth.clone(),
    );
    let text = format!("It's refused with {status}: naïve 100%");
    answer.headers.extend(status_fields(code, &text));
    answer.truth["error_body"] = json!({"code": code, "message": text});
    Some(answer)
}

fn succeed(
    messages: Vec<Vec<u8>>,
    stream: bool,
    behaviour: &Behaviour,
    completion: &Completion,
    mut truth: Value,
) -> Answer {
    let gzip = behaviour.get("encoding") == Some("gzip");
    let mut messages: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| framed(message, gzip))
        .collect();
    let mut trailers = status_fields(0, "");
    if let Some(after) = completion.error_after
        && after < messages.len()
    {
        messages.truncate(after);
        super::unfinished(&mut truth, after, false);
        let text = "The model is overloaded.";
        truth["error_body"] = json!({"code": 14, "message": text});
        trailers = status_fields(14, text);
    }
    let body = if stream {
        Body::Stream(messages)
    } else {
        Body::Whole(messages.concat())
    };
    let mut answer = call(
        200,
        CONTENT_TYPE,
        gemini::ID_HEADER,
        completion,
        body,
        truth,
    );
    if gzip {
        let encoding = ("grpc-encoding".to_owned(), "gzip".to_owned());
        answer.headers.push(encoding);
    }
    answer.trailers = trailers;
    answer
}

fn status_fields(code: u32, message: &str) -> Vec<(String, String)> {
    let encoded = message
        .bytes()
        .map(|byte| match byte {
            b' '..=b'$' | b'&'..=b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let mut fields = vec![("grpc-status".to_owned(), code.to_string())];
    if !message.is_empty() {
        fields.push(("grpc-message".to_owned(), encoded));
    }
    fields
}

/// The message of a request.
fn message(request: &Request) -> Option<Vec<u8>> {
    let (prefix, message) = request.body.split_first_chunk::<5>()?;
    if prefix[0] == 0 {
        return Some(message.to_vec());
    }
    let mut inflated = Vec::new();
    GzDecoder::new(message).read_to_end(&mut inflated).ok()?;
    Some(inflated)
}

fn framed(message: &[u8], gzip: bool) -> Vec<u8> {
    let mut coder = GzEncoder::new(Vec::new(), Compression::default());
    let packed = if gzip && coder.write_all(message).is_ok() {
        coder.finish().unwrap_or_default()
    } else {
        message.to_vec()
    };
    let length = u32::try_from(packed.len()).unwrap_or(u32::MAX);
    [&[u8::from(gzip)][..], &length.to_be_bytes(), &packed].concat()
}

/// `GetChatCompletionResponse` or `GetChatCompletionChunk`.
fn xai_message(
    completion: &Completion,
    model: &str,
    text: &str,
    last: bool,
    chunk: bool,
) -> Vec<u8> {
    let mut said = Vec::new();
    bytes(&mut said, 1, text.as_bytes());
    integer(&mut said, 2, 2);
    for tool in completion.tools.iter().filter(|_| last) {
        let (mut function, mut call) = (Vec::new(), Vec::new());
        bytes(&mut function, 1, tool.as_bytes());
        bytes(&mut function, 2, b"{}");
        bytes(&mut call, 10, &function);
        bytes(&mut said, 3, &call);
    }
    // Number of: message, reason, index.
    let numbers = if chunk { [1, 3, 4] } else { [3, 1, 2] };
    let mut output = Vec::new();
    bytes(&mut output, numbers[0], &said);
    if last {
        let reason = if completion.tools.is_empty() { 3 } else { 4 };
        integer(&mut output, numbers[1], reason);
    }
    integer(&mut output, numbers[2], 0);
    let mut message = Vec::new();
    bytes(&mut message, 1, completion.id.as_bytes());
    bytes(&mut message, 2, &output);
    bytes(
        &mut message,
        if chunk { 4 } else { 6 },
        format!("{model}-0709").as_bytes(),
    );
    if last {
        let mut usage = Vec::new();
        let sum = completion.prompt_tokens + completion.completion_tokens;
        let reasoning = completion.reasoning.unwrap_or(0);
        for (number, count) in [
            (1, Some(completion.completion_tokens)),
            (2, Some(completion.prompt_tokens)),
            (3, Some(sum + reasoning)),
            (6, completion.reasoning),
            (7, completion.cached),
        ] {
            if let Some(count) = count {
                integer(&mut usage, number, count);
            }
        }
        bytes(&mut message, if chunk { 6 } else { 9 }, &usage);
    }
    message
}

/// `GenerateContentResponse`.
fn gemini_response(chunk: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    for candidate in chunk["candidates"].as_array().into_iter().flatten() {
        let mut content = Vec::new();
        for part in candidate["content"]["parts"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let mut encoded = Vec::new();
            if let Some(text) = part["text"].as_str() {
                bytes(&mut encoded, 2, text.as_bytes());
            }
            if let Some(name) = part["functionCall"]["name"].as_str() {
                let mut function = Vec::new();
                bytes(&mut function, 1, name.as_bytes());
                bytes(&mut encoded, 4, &function);
            }
            if part["thought"] == true {
                integer(&mut encoded, 11, 1);
            }
            bytes(&mut content, 1, &encoded);
        }
        bytes(&mut content, 2, b"model");
        let mut encoded = Vec::new();
        bytes(&mut encoded, 1, &content);
        if candidate["finishReason"] == "STOP" {
            integer(&mut encoded, 2, 1);
        }
        bytes(&mut message, 1, &encoded);
    }
    if chunk["usageMetadata"].is_object() {
        let mut usage = Vec::new();
        for (number, name) in [
            (1, "promptTokenCount"),
            (2, "candidatesTokenCount"),
            (3, "totalTokenCount"),
            (4, "cachedContentTokenCount"),
            (10, "thoughtsTokenCount"),
        ] {
            if let Some(count) = chunk["usageMetadata"][name].as_u64() {
                integer(&mut usage, number, count);
            }
        }
        bytes(&mut message, 3, &usage);
    }
    let version = chunk["modelVersion"].as_str().unwrap_or_default();
    bytes(&mut message, 4, version.as_bytes());
    message
}

fn bytes(message: &mut Vec<u8>, number: u64, value: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

fn integer(message: &mut Vec<u8>, number: u64, value: u64) {
    varint(message, number << 3);
    varint(message, value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// The value of a field.
struct Found<'a> {
    bytes: &'a [u8],
}

impl Found<'_> {
    fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes).into_owned()
    }

    /// As short as a client may have written it.
    fn float(&self) -> Option<Value> {
        let value = f32::from_le_bytes(self.bytes.try_into().ok()?);
        serde_json::from_str(&format!("{value:?}")).ok()
    }
}

/// The first field of a number.
fn field(mut message: &[u8], number: u64) -> Option<Found<'_>> {
    let take = |message: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let (&byte, rest) = message.split_first()?;
            *message = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    };
    while !message.is_empty() {
        let tag = take(&mut message)?;
        let length = match tag & 7 {
            0 => {
                take(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(take(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (bytes, rest) = message.split_at_checked(length)?;
        message = rest;
        if tag >> 3 == number {
            return Some(Found { bytes });
        }
    }
    None
}
