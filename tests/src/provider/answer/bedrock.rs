//! AWS Bedrock: Converse and InvokeModel, the latter in the formats of several vendors.

use serde_json::{Value, json};

use super::{Answer, Body, Completion, anthropic, break_off, call, error};
use crate::provider::{behaviour::Behaviour, http::Request};

const ID_HEADER: &str = "x-amzn-RequestId";

/// What a path asks for.
pub(super) struct Place {
    model: String,
    converse: bool,
    stream: bool,
}

impl Place {
    /// What a request asks for, if it is one of the four operations.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let (resource, operation) = request.path.rsplit_once('/')?;
        let model = resource.strip_prefix("/model/")?;
        let (converse, stream) = match operation {
            "converse" => (true, false),
            "converse-stream" => (true, true),
            "invoke" => (false, false),
            "invoke-with-response-stream" => (false, true),
            _ => return None,
        };
        (request.method == "POST").then(|| Self {
            model: model.replace("%3A", ":").replace("%2F", "/"),
            converse,
            stream,
        })
    }
}

pub(super) fn answer(
    place: &Place,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let vendor = Vendor::of(place);
    let mut truth = json!({
        "provider": "aws_bedrock",
        "operation": vendor.operation(),
        "model": place.model,
        "temperature": vendor.temperature(document),
        "stream": place.stream,
        "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
        "response_model": null, "finish_reasons": [], "tool_calls": [],
    });
    if let Some(status) = behaviour.number("error") {
        return refusal(status, behaviour, completion, truth);
    }
    vendor.succeed(completion, &mut truth);
    if !place.stream {
        let body = vendor.whole(completion).to_string().into_bytes();
        let body = Body::Whole(body);
        let mut answer = call(200, "application/json", ID_HEADER, completion, body, truth);
        if !place.converse {
            let counts = [
                ("Input", completion.prompt_tokens),
                ("Output", completion.completion_tokens),
            ];
            answer.headers.extend(counts.map(|(name, count)| {
                let name = format!("X-Amzn-Bedrock-{name}-Token-Count");
                (name, count.to_string())
            }));
        }
        return answer;
    }
    let mut events: Vec<Vec<u8>> = if place.converse {
        converse_events(completion)
            .iter()
            .map(|(name, data)| message(&[(":event-type", name), EVENT], data))
            .collect()
    } else {
        vendor.events(completion).iter().map(chunk).collect()
    };
    let text = "Too many tokens, please wait before trying again.";
    let body = json!({"message": text});
    let exception = [
        (":exception-type", "throttlingException"),
        (":message-type", "exception"),
    ];
    let sent = events.len();
    if break_off(&mut events, completion, message(&exception, &body)) && events.len() <= sent {
        super::unfinished(&mut truth, events.len() - 1, false);
        truth["error_body"] = body;
    }
    call(
        200,
        "application/vnd.amazon.eventstream",
        ID_HEADER,
        completion,
        Body::Stream(events),
        truth,
    )
}

fn refusal(status: u64, behaviour: &Behaviour, completion: &Completion, truth: Value) -> Answer {
    let code = match status {
        400 => "ValidationException",
        403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        424 => "ModelErrorException",
        429 => "ThrottlingException",
        500 => "InternalServerException",
        503 => "ServiceUnavailableException",
        _ => "NovelException",
    };
    let body = json!({"message": format!("It's refused with {status}")});
    let mut answer = error(
        u16::try_from(status).unwrap_or(500),
        ID_HEADER,
        behaviour,
        completion,
        &body,
        truth,
    );
    if !behaviour.has("html") {
        let code = format!("{code}:http://internal.amazon.com/coral/com.amazon.bedrock/");
        answer.headers.push(("x-amzn-ErrorType".to_owned(), code));
    }
    answer
}

/// In whose format an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Anthropic,
    /// Bedrock's own, which Amazon's Nova shares.
    Converse,
    Embeddings,
    Meta,
    Titan,
}

impl Vendor {
    fn of(place: &Place) -> Self {
        match place.model.as_str() {
            _ if place.converse => Self::Converse,
            model if model.contains("anthropic.") => Self::Anthropic,
            model if model.contains("embed") => Self::Embeddings,
            model if model.contains("meta.") => Self::Meta,
            model if model.contains("titan") => Self::Titan,
            _ => Self::Converse,
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Anthropic | Self::Converse => "chat",
            Self::Embeddings => "embeddings",
            Self::Meta | Self::Titan => "text_completion",
        }
    }

    fn temperature(self, document: &Value) -> Value {
        let place = match self {
            Self::Anthropic | Self::Embeddings | Self::Meta => document,
            Self::Converse => &document["inferenceConfig"],
            Self::Titan => &document["textGenerationConfig"],
        };
        place["temperature"].clone()
    }

    fn reason(self, completion: &Completion) -> &'static str {
        match self {
            Self::Anthropic | Self::Converse if completion.tools.is_empty() => "end_turn",
            Self::Anthropic | Self::Converse => "tool_use",
            Self::Embeddings => "",
            Self::Meta => "stop",
            Self::Titan => "FINISH",
        }
    }

    /// Adds the truth about an answer.
    fn succeed(self, completion: &Completion, truth: &mut Value) {
        truth["prompt_tokens"] = json!(completion.prompt_tokens);
        truth["completion_tokens"] = json!(completion.completion_tokens);
        if self == Self::Embeddings {
            return;
        }
        truth["finish_reasons"] = json!([self.reason(completion)]);
        if matches!(self, Self::Anthropic | Self::Converse) {
            truth["tool_calls"] = json!(completion.tools);
            truth["cached_tokens"] = json!(completion.cached.unwrap_or(0));
        }
        if self == Self::Anthropic {
            truth["response_model"] = json!(ANTHROPIC);
        }
    }

    fn whole(self, completion: &Completion) -> Value {
        let (input, output) = (completion.prompt_tokens, completion.completion_tokens);
        let reason = self.reason(completion);
        match self {
            Self::Anthropic => {
                let id = format!("msg_bdrk_{}", completion.id);
                anthropic::whole(&id, ANTHROPIC, reason, completion)
            }
            Self::Converse => {
                let mut content = vec![];
                if !completion.words.is_empty() {
                    content.push(json!({"text": completion.text()}));
                }
                content.extend(completion.tools.iter().map(|tool| {
                    json!({"toolUse": {"toolUseId": "tooluse_1", "name": tool, "input": {"city": "Oslo"}}})
                }));
                json!({"output": {"message": {"role": "assistant", "content": content}},
                       "stopReason": reason, "usage": usage(completion), "metrics": {"latencyMs": 7}})
            }
            Self::Embeddings => json!({"embedding": [0.1, -0.2], "inputTextTokenCount": input}),
            Self::Meta => json!({"generation": completion.text(), "prompt_token_count": input,
                                 "generation_token_count": output, "stop_reason": reason}),
            Self::Titan => json!({"inputTextTokenCount": input, "results": [
                {"tokenCount": output, "outputText": completion.text(), "completionReason": reason}]}),
        }
    }

    /// The events of a stream of InvokeModel; to the last of them Bedrock adds its own counts.
    fn events(self, completion: &Completion) -> Vec<Value> {
        let (input, output) = (completion.prompt_tokens, completion.completion_tokens);
        let reason = self.reason(completion);
        let last = completion.words.len().saturating_sub(1);
        let words = completion.words.iter().enumerate();
        let mut events: Vec<Value> = match self {
            Self::Anthropic => {
                let id = format!("msg_bdrk_{}", completion.id);
                anthropic::events(&id, ANTHROPIC, reason, completion)
            }
            Self::Converse | Self::Embeddings => converse_events(completion)
                .into_iter()
                .map(|(name, data)| json!({name: data}))
                .collect(),
            Self::Meta => words
                .map(|(index, word)| {
                    let end = index == last;
                    json!({"generation": word, "prompt_token_count": (index == 0).then_some(input),
                           "generation_token_count": if end { output } else { index as u64 + 1 },
                           "stop_reason": end.then_some(reason)})
                })
                .collect(),
            Self::Titan => words
                .map(|(index, word)| {
                    let end = index == last;
                    json!({"outputText": word, "index": 0, "completionReason": end.then_some(reason),
                           "inputTextTokenCount": (index == 0).then_some(input),
                           "totalOutputTextTokenCount": end.then_some(output)})
                })
                .collect(),
        };
        if let Some(event) = events.last_mut() {
            event["amazon-bedrock-invocationMetrics"] = json!({"inputTokenCount": input,
                "outputTokenCount": output, "invocationLatency": 7, "firstByteLatency": 3});
        }
        events
    }
}

/// What models of Anthropic call themselves.
const ANTHROPIC: &str = "claude-sonnet-4-5-20250929";

fn usage(completion: &Completion) -> Value {
    let (input, output) = (completion.prompt_tokens, completion.completion_tokens);
    json!({"inputTokens": input, "outputTokens": output, "totalTokens": input + output,
           "cacheReadInputTokens": completion.cached.unwrap_or(0), "cacheWriteInputTokens": 0})
}

fn converse_events(completion: &Completion) -> Vec<(&'static str, Value)> {
    let mut events = vec![("messageStart", json!({"role": "assistant"}))];
    for word in &completion.words {
        let data = json!({"contentBlockIndex": 0, "delta": {"text": word}});
        events.push(("contentBlockDelta", data));
    }
    if !completion.words.is_empty() {
        events.push(("contentBlockStop", json!({"contentBlockIndex": 0})));
    }
    for (index, tool) in completion.tools.iter().enumerate() {
        let start = json!({"toolUse": {"toolUseId": format!("tooluse_{index}"), "name": tool}});
        events.push((
            "contentBlockStart",
            json!({"contentBlockIndex": index, "start": start}),
        ));
        for part in ["{\"city\":", " \"Oslo\"}"] {
            let data = json!({"contentBlockIndex": index, "delta": {"toolUse": {"input": part}}});
            events.push(("contentBlockDelta", data));
        }
        events.push(("contentBlockStop", json!({"contentBlockIndex": index})));
    }
    let reason = Vendor::Converse.reason(completion);
    events.push(("messageStop", json!({"stopReason": reason})));
    let metadata = json!({"usage": usage(completion), "metrics": {"latencyMs": 7}});
    events.push(("metadata", metadata));
    events
}

const EVENT: (&str, &str) = (":message-type", "event");

/// An event of a stream of InvokeModel, with padding as Bedrock has it.
fn chunk(event: &Value) -> Vec<u8> {
    let data = json!({"bytes": base64(event.to_string().as_bytes()), "p": "abcdefghijklmnop"});
    message(&[(":event-type", "chunk"), EVENT], &data)
}

/// A message of `application/vnd.amazon.eventstream`.
fn message(headers: &[(&str, &str)], payload: &Value) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers
        .iter()
        .chain(&[(":content-type", "application/json")])
    {
        block.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        block.extend_from_slice(name.as_bytes());
        // A string.
        block.push(7);
        block.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    let payload = payload.to_string();
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length(block.len() + payload.len() + 16).to_vec();
    bytes.extend(length(block.len()));
    bytes.extend(checksum(&bytes));
    bytes.extend(block);
    bytes.extend_from_slice(payload.as_bytes());
    bytes.extend(checksum(&bytes));
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut checksum = flate2::Crc::new();
    checksum.update(bytes);
    checksum.sum().to_be_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let bits = piece
            .iter()
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - piece.len()));
        for place in 0..4 {
            text.push(if place <= piece.len() {
                char::from(ALPHABET[bits >> (18 - 6 * place) & 63])
            } else {
                '='
            });
        }
    }
    text
}
