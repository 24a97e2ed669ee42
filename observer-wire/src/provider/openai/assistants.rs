//! Runs of OpenAI's assistants (openai-python 3.54 `types/beta`). Only their streams say what was used: a run
//! that is not streamed has only begun when it is answered.

use serde_json::Value;

use super::posted;
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
    provider::{
        Certainty, Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        counter, elements,
        fields::{About, Count, Field, Fields, Included},
        is_filled, text,
    },
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["max_completion_tokens"]),
        (Field::Parameter("top_p"), &["top_p"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
        (Field::Conversation, &["thread_id"]),
    ],
    usage: &[
        (Count::Prompt, &["prompt_tokens"]),
        (Count::Completion, &["completion_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["prompt_token_details.cached_tokens"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

const OPERATION: &str = "invoke_agent";

/// The ends of the paths.
const PATHS: &[(&str, &str)] = &[("/runs", OPERATION), ("/submit_tool_outputs", OPERATION)];

const TOOL_CALLS: Select = Select::Array(
    Keep::All,
    &Select::Object(&[
        ("index", Select::Scalar),
        ("type", Select::Scalar),
        ("id", Select::Scalar),
        (
            "function",
            Select::Object(&[("name", Select::Scalar), ("arguments", Select::Length)]),
        ),
    ]),
);

macro_rules! selection {
    ($text:expr) => {{
        const RUN: Select = Select::Object(&[
            ("object", Select::Scalar),
            ("id", Select::Scalar),
            ("thread_id", Select::Scalar),
            ("model", Select::Scalar),
            ("status", Select::Scalar),
            ("usage", Select::All),
            ("last_error", Select::All),
            ("error", Select::All),
            ("code", Select::Scalar),
            ("message", Select::Scalar),
            (
                "required_action",
                Select::Object(&[(
                    "submit_tool_outputs",
                    Select::Object(&[("tool_calls", TOOL_CALLS)]),
                )]),
            ),
            (
                "delta",
                Select::Object(&[
                    (
                        "content",
                        Select::Array(
                            Keep::All,
                            &Select::Object(&[("text", Select::Object(&[("value", $text)]))]),
                        ),
                    ),
                    ("step_details", Select::Mark),
                ]),
            ),
        ]);
        Selection {
            request: Select::Object(&[
                ("assistant_id", Select::Scalar),
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_completion_tokens", Select::Scalar),
                ("top_p", Select::Scalar),
                ("tool_outputs", Select::Mark),
            ]),
            response: RUN,
            event: RUN,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar);

/// See the module.
pub(in crate::provider) struct Assistants;

impl Provider for Assistants {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if !head.path.contains("/threads/") {
            return None;
        }
        // Others have runs of assistants on threads too (LangGraph).
        let beta = head.headers.get("openai-beta");
        let beta = beta
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        posted(head, PATHS).filter(|recognized| {
            recognized.certainty == Certainty::Certain || beta.contains("assistants")
        })
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI assistants",
            endpoints: &[
                ("POST …/threads/runs", OPERATION),
                ("POST …/threads/ID/runs", OPERATION),
                ("POST …/threads/ID/runs/ID/submit_tool_outputs", OPERATION),
            ],
            bodies: "JSON; SSE",
            source: "openai-python 3.54 `types/beta`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("assistant_id").is_some() || document.get("tool_outputs").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        text(document, "object").is_some_and(|object| object.starts_with("thread."))
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        if text(document, "object") != Some("thread.run") {
            return;
        }
        call.answer_fields(document);
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        let tools = document
            .get("required_action")
            .and_then(|action| action.get("submit_tool_outputs"));
        for (index, tool) in (0..).zip(tools.into_iter().flat_map(|it| elements(it, "tool_calls")))
        {
            let index = counter(tool, "index").unwrap_or(index);
            let function = tool.get("function").unwrap_or(&Value::Null);
            call.tool_call((0, index), text(function, "name"));
            call.tool_id((0, index), text(tool, "id"));
            call.arguments((0, index), counter(function, "arguments"));
        }
        let status = text(document, "status");
        let ended = status.filter(|it| !matches!(*it, "queued" | "in_progress" | "cancelling"));
        call.finish_reason(0, ended);
        if let Some(error) = document.get("last_error").filter(|error| error.is_object()) {
            call.failed(text(error, "code"), text(error, "message"));
        }
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let document = match data {
            Event::Json(document) => *document,
            Event::Text(text) => {
                if text.starts_with(b"[DONE]") {
                    call.terminal();
                }
                return;
            }
        };
        if name == "error" {
            // openai-python raises what is in `error`, and else does not look at it.
            if document.get("error").is_some_and(Value::is_object) {
                call.stream_error(document);
            } else {
                call.failed(text(document, "code"), text(document, "message"));
            }
        }
        if let Some(delta) = document.get("delta") {
            for text_part in elements(delta, "content").filter_map(|part| part.get("text")) {
                if is_filled(text_part, "value") {
                    call.token();
                }
                call.output(text(text_part, "value").unwrap_or_default());
            }
            if is_filled(delta, "step_details") {
                call.token();
            }
        }
        self.response(document, call);
    }
}
