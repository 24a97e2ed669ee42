//! Gemini generateContent and streamGenerateContent over REST (google-genai 3.4 `types.py`). Keys
//! may be written in camel or in snake case.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection, builder::CallBuilder, counter, elements,
    hosts, is_filled, repr::repr_without_base64, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

const CONFIG: Select = Select::Object(&[("temperature", Select::Scalar)]);
const USAGE: Select = Select::Object(&[
    ("promptTokenCount", Select::Scalar),
    ("prompt_token_count", Select::Scalar),
    ("candidatesTokenCount", Select::Scalar),
    ("candidates_token_count", Select::Scalar),
    ("cachedContentTokenCount", Select::Scalar),
    ("cached_content_token_count", Select::Scalar),
    ("thoughtsTokenCount", Select::Scalar),
    ("thoughts_token_count", Select::Scalar),
]);
const FUNCTION: Select = Select::Object(&[("name", Select::Scalar)]);

macro_rules! selection {
    ($contents:expr, $text:expr) => {
        Selection {
            request: Select::Object(&[
                ("generationConfig", CONFIG),
                ("generation_config", CONFIG),
                ("contents", $contents),
            ]),
            response: response!($text),
            // Each chunk of a stream is a whole response.
            event: response!($text),
        }
    };
}
macro_rules! response {
    ($text:expr) => {
        Select::Object(&[
            ("error", Select::All),
            ("modelVersion", Select::Scalar),
            ("model_version", Select::Scalar),
            ("usageMetadata", USAGE),
            ("usage_metadata", USAGE),
            (
                "promptFeedback",
                Select::Object(&[
                    ("blockReason", Select::Scalar),
                    ("block_reason", Select::Scalar),
                ]),
            ),
            (
                "prompt_feedback",
                Select::Object(&[
                    ("blockReason", Select::Scalar),
                    ("block_reason", Select::Scalar),
                ]),
            ),
            (
                "candidates",
                Select::Array(
                    Keep::All,
                    &Select::Object(&[
                        ("index", Select::Scalar),
                        ("finishReason", Select::Scalar),
                        ("finish_reason", Select::Scalar),
                        (
                            "content",
                            Select::Object(&[(
                                "parts",
                                Select::Array(
                                    Keep::All,
                                    &Select::Object(&[
                                        ("text", $text),
                                        ("thought", Select::Scalar),
                                        ("functionCall", FUNCTION),
                                        ("function_call", FUNCTION),
                                    ]),
                                ),
                            )]),
                        ),
                    ]),
                ),
            ),
        ])
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Either(&Select::Array(Keep::Last(2), &Select::All), &Select::All),
    Select::Scalar
);

/// See the module.
pub(super) struct Gemini;

impl Provider for Gemini {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let (resource, verb) = head.path.rsplit_once(':')?;
        let stream = match verb {
            "generateContent" => false,
            "streamGenerateContent" => true,
            _ => return None,
        };
        let host = head.host.as_deref().unwrap_or_default();
        let vertex = host.contains("aiplatform.") && hosts::is_within(host, "googleapis.com");
        Some(Recognized {
            provider: if vertex { "vertex_ai" } else { "google" },
            operation: "generate_content",
            model: resource.rsplit('/').next().map(percent_decoded),
            stream,
            certainty: Certainty::Certain,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("google", "generate_content"))
    }

    fn selection(&self, content: bool) -> &'static Selection {
        if content {
            &WITH_CONTENT
        } else {
            &WITHOUT_CONTENT
        }
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("contents").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        either(document, "candidates", "candidates").is_some()
            || either(document, "usageMetadata", "usage_metadata").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        let config = either(document, "generationConfig", "generation_config");
        call.temperature(config.and_then(|config| config.get("temperature")));
        if let Some(limit) = call.input_limit() {
            let contents = match document.get("contents") {
                Some(Value::Array(contents)) => contents.iter().collect(),
                Some(content) => vec![content],
                None => Vec::new(),
            };
            let shown: Vec<String> = contents
                .iter()
                .map(|content| shown(content, limit))
                .collect();
            if !shown.is_empty() {
                call.input(&shown.join("\n"));
            }
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        self.chunk(document, call);
    }

    /// Tool calls are not numbered: each event has its own.
    fn is_idempotent(&self) -> bool {
        false
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            self.chunk(document, call);
        }
    }
}

impl Gemini {
    /// Reads a response, of which each event of a stream is one.
    pub(super) fn chunk(&self, document: &Value, call: &mut CallBuilder) {
        if document.get("error").is_some_and(Value::is_object) {
            call.stream_error(document);
        }
        call.response_model(
            either(document, "modelVersion", "model_version").and_then(Value::as_str),
        );
        if let Some(usage) = either(document, "usageMetadata", "usage_metadata") {
            let count =
                |camel: &str, snake: &str| counter(usage, camel).or_else(|| counter(usage, snake));
            let tokens = call.usage();
            tokens.prompt = count("promptTokenCount", "prompt_token_count").or(tokens.prompt);
            tokens.completion =
                count("candidatesTokenCount", "candidates_token_count").or(tokens.completion);
            tokens.cached =
                count("cachedContentTokenCount", "cached_content_token_count").or(tokens.cached);
            tokens.reasoning =
                count("thoughtsTokenCount", "thoughts_token_count").or(tokens.reasoning);
        }
        for (position, candidate) in elements(document, "candidates").enumerate() {
            let index = counter(candidate, "index").unwrap_or(position as u64);
            let parts = candidate
                .get("content")
                .into_iter()
                .flat_map(|content| elements(content, "parts"));
            for part in parts {
                if let Some(function) = either(part, "functionCall", "function_call") {
                    call.token();
                    call.another_tool_call(text(function, "name"));
                }
                if is_filled(part, "text") {
                    call.token();
                }
                if index == 0 && part.get("thought").and_then(Value::as_bool) != Some(true) {
                    call.output(text(part, "text").unwrap_or_default());
                }
            }
            // The generated REST transport writes enumerations as integers.
            let reason = match either(candidate, "finishReason", "finish_reason") {
                Some(Value::String(reason)) => Some(reason.clone()),
                Some(Value::Number(number)) => {
                    Some(name(FINISH_REASONS, number.as_u64()).to_owned())
                }
                _ => None,
            };
            if let Some(reason) = reason {
                call.finish_reason(index, Some(&reason));
                call.terminal();
            }
        }
        let blocked = either(document, "promptFeedback", "prompt_feedback")
            .and_then(|feedback| either(feedback, "blockReason", "block_reason"));
        let reason = match blocked {
            Some(Value::String(reason)) => Some(reason.as_str()),
            Some(Value::Number(number)) => Some(name(BLOCK_REASONS, number.as_u64())),
            _ => None,
        };
        if let Some(reason) = reason {
            call.finish_reason(0, Some(reason));
            call.terminal();
        }
    }
}

/// `Candidate.FinishReason` of google.ai.generativelanguage.v1beta.
const FINISH_REASONS: &[&str] = &[
    "FINISH_REASON_UNSPECIFIED",
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "RECITATION",
    "OTHER",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MALFORMED_FUNCTION_CALL",
    "IMAGE_SAFETY",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_OTHER",
    "NO_IMAGE",
    "IMAGE_RECITATION",
];

/// `PromptFeedback.BlockReason` of google.ai.generativelanguage.v1beta.
const BLOCK_REASONS: &[&str] = &[
    "BLOCK_REASON_UNSPECIFIED",
    "SAFETY",
    "OTHER",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "IMAGE_SAFETY",
];

/// The name of a value of an enumeration.
fn name(names: &[&'static str], number: Option<u64>) -> &'static str {
    number
        .and_then(|number| names.get(usize::try_from(number).ok()?))
        .or(names.first())
        .copied()
        .unwrap_or_default()
}

/// Text parts joined; other parts as Python prints them.
fn shown(content: &Value, limit: usize) -> String {
    let Some(parts) = content.get("parts") else {
        return repr_without_base64(content, limit.saturating_add(1));
    };
    let texts: Option<Vec<&str>> = parts
        .as_array()
        .and_then(|parts| parts.iter().map(|part| text(part, "text")).collect());
    match texts {
        Some(texts) => texts.concat(),
        None => repr_without_base64(parts, limit.saturating_add(1)),
    }
}

fn either<'a>(value: &'a Value, camel: &str, snake: &str) -> Option<&'a Value> {
    value.get(camel).or_else(|| value.get(snake))
}

/// RFC 3986 section 2.1; model names of tuned models may be encoded.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
