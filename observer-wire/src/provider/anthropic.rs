//! Anthropic messages (anthropic-sdk-python 2.12 `types/message*.py`).

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, ollama, preview, text, vertex,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are.
pub(super) static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["max_tokens"]),
        (Field::Parameter("top_p"), &["top_p"]),
        (Field::Parameter("top_k"), &["top_k"]),
        (Field::Parameter("service_tier"), &["service_tier"]),
        (Field::SessionOfUser, &["metadata.user_id"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
        (Field::ServiceTier, &["usage.service_tier"]),
    ],
    usage: &[
        (Count::Prompt, &["input_tokens"]),
        (Count::Completion, &["output_tokens"]),
        (Count::CacheRead, &["cache_read_input_tokens"]),
        (Count::CacheWrite, &["cache_creation_input_tokens"]),
        (
            Count::Reasoning,
            &[
                "output_tokens_details.thinking_tokens",
                "output_tokens_details.reasoning_tokens",
            ],
        ),
    ],
    cost: &[],
    cached: Included::No,
    reasoning: Included::Yes,
};

/// The end of the path; `/v1/messages/count_tokens` and `/v1/messages/batches` are no calls.
const PATH: &str = "/v1/messages";

const ROLE: Select = Select::Object(&[("role", Select::Scalar)]);

macro_rules! selection {
    ($system:expr, $messages:expr, $text:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_tokens", Select::Scalar),
                ("top_p", Select::Scalar),
                ("top_k", Select::Scalar),
                ("service_tier", Select::Scalar),
                (
                    "metadata",
                    Select::Object(&[("session_id", Select::Scalar), ("user_id", Select::Scalar)]),
                ),
                ("system", $system),
                ("messages", $messages),
            ]),
            response: Select::Object(&[
                ("type", Select::Scalar),
                ("id", Select::Scalar),
                ("model", Select::Scalar),
                ("stop_reason", Select::Scalar),
                ("usage", Select::All),
                (
                    "content",
                    Select::Array(
                        Keep::All,
                        &Select::Object(&[
                            ("type", Select::Scalar),
                            ("id", Select::Scalar),
                            ("name", Select::Scalar),
                            ("input", Select::Length),
                            ("text", $text),
                        ]),
                    ),
                ),
            ]),
            event: Select::Object(&[
                ("type", Select::Scalar),
                ("index", Select::Scalar),
                ("error", Select::All),
                ("request_id", Select::Scalar),
                ("usage", Select::All),
                (
                    "message",
                    Select::Object(&[
                        ("id", Select::Scalar),
                        ("model", Select::Scalar),
                        ("usage", Select::All),
                    ]),
                ),
                (
                    "content_block",
                    Select::Object(&[
                        ("type", Select::Scalar),
                        ("id", Select::Scalar),
                        ("name", Select::Scalar),
                        ("text", Select::Mark),
                    ]),
                ),
                (
                    "delta",
                    Select::Object(&[
                        ("stop_reason", Select::Scalar),
                        ("text", $text),
                        ("partial_json", Select::Length),
                        ("thinking", Select::Mark),
                    ]),
                ),
            ]),
        }
    };
}

pub(super) static WITHOUT_CONTENT: Selection = selection!(
    Select::Mark,
    Select::Array(Keep::First(1), &ROLE),
    Select::Mark
);
pub(super) static WITH_CONTENT: Selection = selection!(
    Select::All,
    Select::Array(
        Keep::Last(2),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    ),
    Select::Scalar
);

/// See the module.
pub(super) struct Anthropic;

impl Provider for Anthropic {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let on_vertex = vertex::anthropic(&head.path);
        if head.method != Method::POST || !(on_vertex.is_some() || head.path.ends_with(PATH)) {
            return None;
        }
        Some(Recognized {
            provider: if on_vertex.is_some() {
                "vertex_ai"
            } else {
                provider(head)
            },
            operation: "chat",
            certainty: if on_vertex.is_some() || is_certain(head) {
                Certainty::Certain
            } else {
                Certainty::Likely
            },
            model: on_vertex,
            // The body says it, on Vertex AI too.
            stream: false,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("anthropic", "chat"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Anthropic messages",
            endpoints: &[
                ("POST …/v1/messages", "chat"),
                (
                    "POST …/publishers/anthropic/models/MODEL:rawPredict",
                    "chat",
                ),
                (
                    "POST …/publishers/anthropic/models/MODEL:streamRawPredict",
                    "chat",
                ),
            ],
            bodies: "JSON; SSE",
            source: "anthropic-sdk-python 2.12 `types/message*.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn messages_at(&self) -> &'static [&'static str] {
        &["messages"]
    }

    fn is_request(&self, document: &Value) -> bool {
        ["model", "max_tokens"]
            .iter()
            .all(|key| document.get(key).is_some())
            && document.get("messages").is_some_and(Value::is_array)
    }

    fn is_response(&self, document: &Value) -> bool {
        matches!(text(document, "type"), Some("message" | "message_start"))
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(limit) = call.input_limit() {
            let system = document.get("system").filter(|system| is_true(system));
            let system = system.map(|system| preview::message("system", Some(system), limit));
            let messages = elements(document, "messages");
            let messages = messages.map(|message| preview::said(message, limit));
            call.input_lines(system.into_iter().chain(messages));
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        call.finish_reason(0, text(document, "stop_reason"));
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        for (index, block) in elements(document, "content").enumerate() {
            tool(index as u64, block, call);
        }
        if let Some(text) = elements(document, "content").find_map(|block| text(block, "text")) {
            call.output(text);
        }
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        match text(document, "type").unwrap_or(name) {
            "message_start" => {
                let Some(message) = document.get("message") else {
                    return;
                };
                call.answer_fields(message);
                if let Some(usage) = message.get("usage").and_then(Value::as_object) {
                    // It is not the final count.
                    let mut usage = usage.clone();
                    usage.remove("output_tokens");
                    call.usage(&Value::Object(usage));
                }
            }
            "content_block_start" => {
                let Some(block) = document.get("content_block") else {
                    return;
                };
                tool(counter(document, "index").unwrap_or(0), block, call);
                if is_filled(block, "text") {
                    call.token();
                }
            }
            "content_block_delta" => {
                let Some(delta) = document.get("delta") else {
                    return;
                };
                if ["text", "partial_json", "thinking"]
                    .iter()
                    .any(|key| is_filled(delta, key))
                {
                    call.token();
                }
                let index = counter(document, "index").unwrap_or(0);
                call.more_arguments((0, index), counter(delta, "partial_json"));
                call.output(text(delta, "text").unwrap_or_default());
            }
            "message_delta" => {
                // Cumulative for the whole message.
                if let Some(usage) = document.get("usage") {
                    call.usage(usage);
                }
                if let Some(reason) = document
                    .get("delta")
                    .and_then(|delta| text(delta, "stop_reason"))
                {
                    call.finish_reason(0, Some(reason));
                    call.terminal();
                }
            }
            "message_stop" => call.terminal(),
            "error" => call.stream_error(document),
            _ => {}
        }
    }
}

/// Who serves a request in this format: other hosts do, too.
pub(super) fn provider(head: &RequestHead) -> &'static str {
    hosts::of(head).unwrap_or(if head.port == Some(ollama::PORT) {
        "ollama"
    } else {
        "anthropic"
    })
}

/// Whether nobody else asks so.
pub(super) fn is_certain(head: &RequestHead) -> bool {
    head.headers.contains_key("anthropic-version")
        || matches!(hosts::of(head), Some("anthropic" | "aws_bedrock"))
}

fn tool(index: u64, block: &Value, call: &mut CallBuilder) {
    if matches!(
        text(block, "type"),
        Some("tool_use" | "server_tool_use" | "mcp_tool_use")
    ) {
        let place = (0, index);
        call.tool_call(place, text(block, "name"));
        call.tool_id(place, text(block, "id"));
        call.arguments(place, counter(block, "input"));
    }
}

/// Python's truth of a value.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}
