//! OpenAI Responses (openai-python 3.54 `types/responses`), and servers that speak it.

use http::Method;
use serde_json::Value;

use super::{posted, provider, recognized};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
    provider::{
        Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        counter, elements,
        fields::{About, Count, Field, Fields, Included},
        is_filled, preview, text,
    },
};

/// Where its fields are.
pub(in crate::provider) static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["max_output_tokens"]),
        (Field::Parameter("top_p"), &["top_p"]),
        (Field::Parameter("reasoning_level"), &["reasoning.effort"]),
        (Field::Parameter("service_tier"), &["service_tier"]),
        (Field::Parameter("background"), &["background"]),
        (Field::PreviousResponse, &["previous_response_id"]),
        (Field::Conversation, &["conversation.id", "conversation"]),
        // Codex's, and what many write.
        (
            Field::Session,
            &["client_metadata.session_id", "metadata.session_id"],
        ),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
        (Field::ServiceTier, &["service_tier"]),
    ],
    usage: &[
        (Count::Prompt, &["input_tokens"]),
        (Count::Completion, &["output_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["input_tokens_details.cached_tokens"]),
        (
            Count::CacheWrite,
            &["input_tokens_details.cache_write_tokens"],
        ),
        (
            Count::Reasoning,
            &["output_tokens_details.reasoning_tokens"],
        ),
    ],
    cost: &[("cost", 1.0), ("cost_in_usd_ticks", 1e10)],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

const OPERATION: &str = "chat";

/// The ends of the paths. Others cancel a response or count its tokens and are no calls.
const PATHS: &[(&str, &str)] = &[(PATH, OPERATION), ("/responses/compact", "compact")];

pub(in crate::provider) const PATH: &str = "/responses";

/// A response that is fetched: its tokens belong to the call that asked for it.
const FETCH: &str = "fetch_response";

/// How many messages are shown.
const SHOWN: usize = 2;

macro_rules! response {
    ($text:expr) => {
        Select::Object(&[
            ("object", Select::Scalar),
            ("id", Select::Scalar),
            ("service_tier", Select::Scalar),
            ("model", Select::Scalar),
            ("status", Select::Scalar),
            ("usage", Select::All),
            ("error", Select::All),
            (
                "incomplete_details",
                Select::Object(&[("reason", Select::Scalar)]),
            ),
            (
                "output",
                Select::Array(
                    Keep::All,
                    &Select::Object(&[
                        ("type", Select::Scalar),
                        ("name", Select::Scalar),
                        ("call_id", Select::Scalar),
                        ("arguments", Select::Length),
                        ("input", Select::Length),
                        ("role", Select::Scalar),
                        (
                            "content",
                            Select::Array(Keep::All, &Select::Object(&[("text", $text)])),
                        ),
                    ]),
                ),
            ),
        ])
    };
}

macro_rules! selection {
    ($input:expr, $text:expr, $events_text:expr) => {
        Selection {
            request: Select::Object(&[
                // Over WebSocket.
                ("type", Select::Scalar),
                ("stream_id", Select::Scalar),
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_output_tokens", Select::Scalar),
                ("top_p", Select::Scalar),
                ("reasoning", Select::Object(&[("effort", Select::Scalar)])),
                ("service_tier", Select::Scalar),
                ("background", Select::Scalar),
                ("previous_response_id", Select::Scalar),
                (
                    "conversation",
                    Select::Either(&Select::Scalar, &Select::Object(&[("id", Select::Scalar)])),
                ),
                (
                    "client_metadata",
                    Select::Object(&[("session_id", Select::Scalar)]),
                ),
                (
                    "metadata",
                    Select::Object(&[("session_id", Select::Scalar)]),
                ),
                ("input", $input),
            ]),
            response: response!($text),
            event: Select::Object(&[
                ("type", Select::Scalar),
                ("delta", $events_text),
                ("code", Select::Scalar),
                ("message", Select::Scalar),
                // Over WebSocket.
                ("error", Select::All),
                ("status", Select::Scalar),
                ("stream_id", Select::Scalar),
                ("response", response!(Select::Mark)),
                ("output_index", Select::Scalar),
                (
                    "item",
                    Select::Object(&[
                        ("type", Select::Scalar),
                        ("name", Select::Scalar),
                        ("call_id", Select::Scalar),
                        ("arguments", Select::Length),
                        ("input", Select::Length),
                    ]),
                ),
            ]),
        }
    };
}

pub(in crate::provider) static WITHOUT_CONTENT: Selection =
    selection!(Select::Mark, Select::Mark, Select::Mark);
pub(in crate::provider) static WITH_CONTENT: Selection = selection!(
    Select::Either(
        &Select::Scalar,
        &Select::Array(
            Keep::Ends(SHOWN, is_shown),
            &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
        )
    ),
    Select::Scalar,
    Select::Scalar
);

/// See the module.
pub(in crate::provider) struct Responses;

impl Provider for Responses {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        posted(head, PATHS)
    }

    fn by_shape(&self, head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some((provider(head), OPERATION))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI Responses",
            endpoints: &[
                ("POST …/responses", OPERATION),
                ("POST …/responses/compact", "compact"),
            ],
            bodies: "JSON; SSE",
            source: "openai-python 3.54 `types/responses`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn messages_at(&self) -> &'static [&'static str] {
        &["input"]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("model").is_some_and(Value::is_string) && document.get("input").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        matches!(
            text(document, "object"),
            Some("response" | "response.compaction")
        ) || text(document, "type").is_some_and(|kind| kind.starts_with("response."))
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        let Some(limit) = call.input_limit() else {
            return;
        };
        match document.get("input") {
            Some(Value::String(input)) => {
                let shown: String = input.chars().take(limit).collect();
                call.input(&shown);
            }
            Some(Value::Array(messages)) => {
                let messages: Vec<&Value> = messages.iter().filter(|one| is_shown(one)).collect();
                let shown = &messages[messages.len().saturating_sub(SHOWN)..];
                call.input_lines(shown.iter().map(|message| preview::said(message, limit)));
            }
            _ => {}
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        whole(document, call);
        usage(document, call);
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else {
            return;
        };
        event(document, call);
        if let Some(response) = document.get("response") {
            usage(response, call);
        }
    }
}

/// A response that was asked for before, mostly to run in the background, is fetched by its id. It may be
/// fetched many times, and says each time how many tokens it used: they are not counted again.
pub(in crate::provider) struct Fetched;

/// Where its fields are.
static FETCHED: Fields = Fields {
    request: &[],
    answer: FIELDS.answer,
    usage: &[],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

impl Provider for Fetched {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let (base, id) = head.path.rsplit_once('/')?;
        let fetches = head.method == Method::GET && base.ends_with("/responses") && !id.is_empty();
        fetches.then(|| recognized(head, FETCH))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI Responses, fetched",
            endpoints: &[("GET …/responses/ID", FETCH)],
            bodies: "none; JSON, SSE",
            source: "openai-python 3.54 `resources/responses`",
            fields: &FETCHED,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        Responses.selections()
    }

    fn is_request(&self, _document: &Value) -> bool {
        false
    }

    fn is_response(&self, document: &Value) -> bool {
        Responses.is_response(document)
    }

    fn request(&self, _document: &Value, _call: &mut CallBuilder) {}

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        whole(document, call);
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            event(document, call);
        }
    }
}

/// Reads a response in one piece, but its usage.
fn whole(document: &Value, call: &mut CallBuilder) {
    outcome(document, call);
    // What is compacted has the input with it.
    let said = elements(document, "output").filter(|item| text(item, "role") != Some("user"));
    for item in said {
        for part in elements(item, "content") {
            call.output(text(part, "text").unwrap_or_default());
        }
    }
}

/// Reads one event of a stream, but its usage.
fn event(document: &Value, call: &mut CallBuilder) {
    let kind = text(document, "type").unwrap_or_default();
    match kind {
        "response.completed" | "response.incomplete" | "response.failed" => {
            if let Some(response) = document.get("response") {
                outcome(response, call);
            }
            call.terminal();
        }
        "error" => {
            if document.get("error").is_some_and(Value::is_object) {
                call.stream_error(document);
            } else {
                call.failed(text(document, "code"), text(document, "message"));
            }
            call.terminal();
        }
        "response.created" => {
            if let Some(response) = document.get("response") {
                call.answer_fields(response);
            }
        }
        "response.output_item.added" | "response.output_item.done" => {
            if let (Some(index), Some(item)) =
                (counter(document, "output_index"), document.get("item"))
            {
                tool_call(index, item, call);
            }
        }
        _ if kind.ends_with(".delta") && is_filled(document, "delta") => {
            call.token();
            if kind == "response.output_text.delta" {
                call.output(text(document, "delta").unwrap_or_default());
            }
        }
        _ => {}
    }
}

fn is_shown(message: &Value) -> bool {
    matches!(text(message, "role"), Some("system" | "developer" | "user"))
}

/// What a response object says, but its text and usage.
fn outcome(response: &Value, call: &mut CallBuilder) {
    call.answer_fields(response);
    for (index, item) in (0..).zip(elements(response, "output")) {
        tool_call(index, item, call);
    }
    let status = text(response, "status");
    let reason = response
        .get("incomplete_details")
        .and_then(|details| text(details, "reason"));
    // One that runs in the background has not come to its end.
    let ended = status.filter(|status| !matches!(*status, "queued" | "in_progress"));
    call.finish_reason(0, reason.or(ended));
    // No library raises an exception for it.
    if let Some(error) = response.get("error").filter(|error| error.is_object()) {
        call.failed(text(error, "code"), text(error, "message"));
    }
}

fn usage(response: &Value, call: &mut CallBuilder) {
    if let Some(usage) = response.get("usage") {
        call.usage(usage);
    }
}

/// Each item that is not a message or reasoning calls a tool: `function_call`, `web_search_call`. `index` is
/// its place in the output.
fn tool_call(index: u64, item: &Value, call: &mut CallBuilder) {
    let kind = text(item, "type").unwrap_or_default();
    if kind.ends_with("_call") {
        let place = (0, index);
        call.tool_call(place, text(item, "name").or(Some(kind)));
        call.tool_id(place, text(item, "call_id"));
        let arguments = counter(item, "arguments").or_else(|| counter(item, "input"));
        call.arguments(place, arguments);
    }
}
