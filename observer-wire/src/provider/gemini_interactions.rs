//! Gemini's Interactions API (google-genai 3.4 `_gaos/types/interactions`).

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    gemini, hosts, is_filled,
    repr::repr_without_base64,
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. An agent may stand in for the model.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model", "agent"]),
        (Field::Temperature, &["generation_config.temperature"]),
        (Field::Stream, &["stream"]),
        (Field::PreviousResponse, &["previous_interaction_id"]),
        (
            Field::Parameter("max_tokens"),
            &["generation_config.max_output_tokens"],
        ),
        (Field::Parameter("top_p"), &["generation_config.top_p"]),
        (Field::Parameter("seed"), &["generation_config.seed"]),
        (
            Field::Parameter("reasoning_level"),
            &["generation_config.thinking_level"],
        ),
        (Field::Parameter("service_tier"), &["service_tier"]),
        (Field::Parameter("background"), &["background"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[
        (Count::Prompt, &["total_input_tokens"]),
        (Count::Completion, &["total_output_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["total_cached_tokens"]),
        (Count::Reasoning, &["total_thought_tokens"]),
        (Count::ToolPrompt, &["total_tool_use_tokens"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::No,
};

/// The end of the path; `/interactions/ID` and what follows it are no calls.
const PATH: &str = "/interactions";

/// States in which an interaction goes on.
const UNFINISHED: &[&str] = &["in_progress", "queued"];

macro_rules! selection {
    ($input:expr, $text:expr) => {{
        const PARTS: Select = Select::Array(Keep::All, &Select::Object(&[("text", $text)]));
        const STEP: Select = Select::Object(&[
            ("type", Select::Scalar),
            ("name", Select::Scalar),
            ("content", PARTS),
        ]);
        const ANSWER: Select = Select::Object(&[
            ("id", Select::Scalar),
            ("model", Select::Scalar),
            ("status", Select::Scalar),
            ("steps", Select::Array(Keep::All, &STEP)),
            ("usage", Select::All),
        ]);
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("agent", Select::Scalar),
                ("stream", Select::Scalar),
                ("background", Select::Scalar),
                ("service_tier", Select::Scalar),
                (
                    "generation_config",
                    Select::Object(&[
                        ("temperature", Select::Scalar),
                        ("max_output_tokens", Select::Scalar),
                        ("top_p", Select::Scalar),
                        ("seed", Select::Scalar),
                        ("thinking_level", Select::Scalar),
                    ]),
                ),
                ("previous_interaction_id", Select::Scalar),
                ("input", $input),
            ]),
            response: ANSWER,
            event: Select::Object(&[
                ("event_type", Select::Scalar),
                ("index", Select::Scalar),
                ("status", Select::Scalar),
                ("error", Select::All),
                ("usage", Select::All),
                ("interaction", ANSWER),
                ("step", STEP),
                (
                    "delta",
                    Select::Object(&[
                        ("type", Select::Scalar),
                        ("text", $text),
                        ("arguments", Select::Mark),
                        ("content", Select::Mark),
                        ("data", Select::Mark),
                    ]),
                ),
            ]),
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Either(
        &Select::Scalar,
        &Select::Either(&Select::Array(Keep::Last(2), &Select::All), &Select::All)
    ),
    Select::Scalar
);

/// See the module.
pub(super) struct Interactions;

impl Provider for Interactions {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST || !head.path.ends_with(PATH) {
            return None;
        }
        let host = head.host.as_deref().unwrap_or_default();
        let certain = matches!(hosts::provider(host), Some("google" | "vertex_ai"));
        Some(Recognized {
            provider: gemini::provider(head),
            operation: "chat",
            model: None,
            stream: false,
            // Others have paths of this name too.
            certainty: if certain {
                Certainty::Certain
            } else {
                Certainty::Possible
            },
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("google", "chat"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Gemini interactions",
            endpoints: &[("POST …/interactions", "chat")],
            bodies: "JSON; SSE",
            source: "google-genai 3.4 `_gaos/types/interactions`",
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
        ["model", "agent"]
            .iter()
            .any(|key| document.get(key).is_some_and(Value::is_string))
            && document.get("input").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        text(document, "event_type").is_some_and(|name| name.starts_with("interaction."))
            || (document.get("steps").is_some() && text(document, "status").is_some())
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(limit) = call.input_limit() {
            match document.get("input") {
                Some(Value::String(input)) => call.input(input),
                Some(input) => call.input(&repr_without_base64(input, limit.saturating_add(1))),
                None => {}
            }
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        interaction(document, call);
        for (index, step) in elements(document, "steps").enumerate() {
            tool(index as u64, step, call);
            if text(step, "type") == Some("model_output") {
                for part in elements(step, "content") {
                    call.output(text(part, "text").unwrap_or_default());
                }
            }
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let document = match data {
            Event::Json(document) => *document,
            Event::Text(text) => {
                if text.starts_with(b"[DONE]") {
                    call.terminal();
                }
                return;
            }
        };
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        match text(document, "event_type").unwrap_or_default() {
            "error" => call.stream_error(document),
            "step.start" => {
                if let Some(step) = document.get("step") {
                    tool(counter(document, "index").unwrap_or(0), step, call);
                }
            }
            "step.delta" => {
                let Some(delta) = document.get("delta") else {
                    return;
                };
                if ["text", "arguments", "content", "data"]
                    .iter()
                    .any(|key| is_filled(delta, key))
                {
                    call.token();
                }
                if text(delta, "type") == Some("text") {
                    call.output(text(delta, "text").unwrap_or_default());
                }
            }
            name if name.starts_with("interaction.") => {
                interaction(document.get("interaction").unwrap_or(&Value::Null), call);
            }
            _ => {}
        }
    }
}

/// Reads what an interaction says of itself.
fn interaction(document: &Value, call: &mut CallBuilder) {
    call.answer_fields(document);
    if let Some(usage) = document.get("usage") {
        call.usage(usage);
    }
    if let Some(status) = text(document, "status").filter(|status| !UNFINISHED.contains(status)) {
        call.finish_reason(0, Some(status));
        call.terminal();
    }
}

fn tool(index: u64, step: &Value, call: &mut CallBuilder) {
    if matches!(
        text(step, "type"),
        Some("function_call" | "mcp_server_tool_call")
    ) {
        call.tool_call((0, index), text(step, "name"));
    }
}
