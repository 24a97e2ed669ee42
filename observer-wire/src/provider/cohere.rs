//! Cohere chat, version 2 (cohere-python 7.3 `v2/types`). Its counts are floats, its answers name no model.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, preview, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: REQUEST,
    answer: &[(Field::ResponseId, &["id"])],
    usage: USAGE,
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// What both versions of its chat ask for.
pub(super) const REQUEST: &[(Field, &[&str])] = &[
    (Field::Model, &["model"]),
    (Field::Temperature, &["temperature"]),
    (Field::Stream, &["stream"]),
    (Field::Parameter("max_tokens"), &["max_tokens"]),
    (Field::Parameter("top_p"), &["p"]),
    (Field::Parameter("top_k"), &["k"]),
    (
        Field::Parameter("frequency_penalty"),
        &["frequency_penalty"],
    ),
    (Field::Parameter("presence_penalty"), &["presence_penalty"]),
    (Field::Parameter("seed"), &["seed"]),
];

/// What all of Cohere's formats count. OpenTelemetry wants what is billed.
pub(super) const USAGE: &[(Count, &[&str])] = &[
    (
        Count::Prompt,
        &["tokens.input_tokens", "billed_units.input_tokens"],
    ),
    (
        Count::Completion,
        &["tokens.output_tokens", "billed_units.output_tokens"],
    ),
    (Count::BilledInput, &["billed_units.input_tokens"]),
    (Count::BilledOutput, &["billed_units.output_tokens"]),
    (Count::CacheRead, &["cached_tokens"]),
];

/// Where the older formats have the usage.
pub(super) const META: Select = Select::Object(&[
    ("billed_units", Select::All),
    ("tokens", Select::All),
    ("cached_tokens", Select::Scalar),
]);

/// The end of the path.
const PATH: &str = "/v2/chat";

/// How many messages are shown.
const SHOWN: usize = 2;

const ROLE: Select = Select::Object(&[("role", Select::Scalar)]);
const TOOL: Select = Select::Object(&[
    ("id", Select::Scalar),
    (
        "function",
        Select::Object(&[("name", Select::Scalar), ("arguments", Select::Length)]),
    ),
]);

macro_rules! selection {
    ($messages:expr, $text:expr) => {{
        const PART: Select = Select::Object(&[("text", $text), ("thinking", Select::Mark)]);
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_tokens", Select::Scalar),
                ("p", Select::Scalar),
                ("k", Select::Scalar),
                ("frequency_penalty", Select::Scalar),
                ("presence_penalty", Select::Scalar),
                ("seed", Select::Scalar),
                ("messages", $messages),
            ]),
            response: Select::Object(&[
                ("id", Select::Scalar),
                ("finish_reason", Select::Scalar),
                ("usage", Select::All),
                (
                    "message",
                    Select::Object(&[
                        ("content", Select::Array(Keep::All, &PART)),
                        ("tool_calls", Select::Array(Keep::All, &TOOL)),
                    ]),
                ),
            ]),
            event: Select::Object(&[
                ("type", Select::Scalar),
                ("id", Select::Scalar),
                ("index", Select::Scalar),
                (
                    "delta",
                    Select::Object(&[
                        ("error", Select::Scalar),
                        ("finish_reason", Select::Scalar),
                        ("usage", Select::All),
                        (
                            "message",
                            Select::Object(&[
                                ("content", PART),
                                ("tool_plan", Select::Mark),
                                (
                                    "tool_calls",
                                    Select::Either(&TOOL, &Select::Array(Keep::All, &TOOL)),
                                ),
                            ]),
                        ),
                    ]),
                ),
            ]),
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Array(Keep::First(1), &ROLE), Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Array(
        Keep::Last(SHOWN),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    ),
    Select::Scalar
);

/// See the module.
pub(super) struct Cohere;

impl Provider for Cohere {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        recognize(head, PATH, "chat")
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("cohere", "chat"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Cohere chat, version 2",
            endpoints: &[("POST …/v2/chat", "chat")],
            bodies: "JSON; SSE",
            source: "cohere-python 7.3 `v2/types`",
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
        document.get("model").is_some_and(Value::is_string)
            && document.get("messages").is_some_and(Value::is_array)
    }

    fn is_response(&self, document: &Value) -> bool {
        let is_message = |document: &Value| {
            document.get("message").is_some_and(Value::is_object)
                && document.get("finish_reason").is_some_and(Value::is_string)
        };
        is_message(document) || text(document, "type") == Some("message-start")
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(limit) = call.input_limit() {
            let messages = elements(document, "messages");
            call.input_lines(messages.map(|message| preview::said(message, limit)));
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        end(document, call);
        let Some(message) = document.get("message") else {
            return;
        };
        for tool in elements(message, "tool_calls") {
            let place = call.another_tool_call(tool_name(tool));
            call.tool_id(place, text(tool, "id"));
            call.arguments(place, arguments(tool));
        }
        for part in elements(message, "content") {
            call.output(text(part, "text").unwrap_or_default());
        }
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        call.answer_fields(document);
        let Some(delta) = document.get("delta") else {
            return;
        };
        let message = delta.get("message").unwrap_or(&Value::Null);
        match text(document, "type").unwrap_or(name) {
            "content-start" | "content-delta" => {
                let content = message.get("content").unwrap_or(&Value::Null);
                if is_filled(content, "text") || is_filled(content, "thinking") {
                    call.token();
                }
                call.output(text(content, "text").unwrap_or_default());
            }
            "tool-plan-delta" => call.token(),
            kind @ ("tool-call-start" | "tool-call-delta") => {
                if kind == "tool-call-start" {
                    call.token();
                }
                let index = counter(document, "index").unwrap_or(0);
                let tools = message.get("tool_calls").unwrap_or(&Value::Null);
                let tool = tools.as_array().map_or(Some(tools), |tools| tools.first());
                let place = (0, index);
                call.tool_call(place, tool.and_then(tool_name));
                call.tool_id(place, tool.and_then(|tool| text(tool, "id")));
                call.more_arguments(place, tool.and_then(arguments));
            }
            "message-end" => {
                if let Some(error) = text(delta, "error") {
                    call.stream_error(&serde_json::json!({ "message": error }));
                }
                end(delta, call);
                call.terminal();
            }
            _ => {}
        }
    }
}

/// A request to a path of Cohere's API.
pub(super) fn recognize(
    head: &RequestHead,
    path: &str,
    operation: &'static str,
) -> Option<Recognized> {
    if head.method != Method::POST || !head.path.ends_with(path) {
        return None;
    }
    let known = hosts::of(head);
    let by_sdk = head
        .headers
        .get("x-fern-sdk-name")
        .is_some_and(|name| name == "cohere");
    Some(Recognized {
        provider: known.unwrap_or("cohere"),
        operation,
        model: None,
        stream: false,
        // Web applications have paths of these names too.
        certainty: if known == Some("cohere") {
            Certainty::Certain
        } else if by_sdk {
            Certainty::Likely
        } else {
            Certainty::Possible
        },
    })
}

/// Reads how an answer ended.
fn end(document: &Value, call: &mut CallBuilder) {
    call.finish_reason(0, text(document, "finish_reason"));
    if let Some(usage) = document.get("usage") {
        call.usage(usage);
    }
}

fn tool_name(tool: &Value) -> Option<&str> {
    text(tool.get("function")?, "name")
}

/// How long the arguments are.
fn arguments(tool: &Value) -> Option<u64> {
    counter(tool.get("function")?, "arguments")
}
