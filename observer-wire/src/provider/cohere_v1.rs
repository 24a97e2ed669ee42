//! Cohere chat, version 1 (cohere-python 7.3 `types`). A stream of it is lines of JSON, or SSE if the client
//! asks for that.

use serde_json::Value;

use super::{
    Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    cohere, elements,
    fields::{About, Field, Fields, Included},
    is_filled, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: cohere::REQUEST,
    answer: &[(Field::ResponseId, &["response_id", "generation_id"])],
    usage: cohere::USAGE,
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The end of the path.
const PATH: &str = "/v1/chat";

macro_rules! selection {
    ($text:expr) => {{
        const TOOLS: Select =
            Select::Array(Keep::All, &Select::Object(&[("name", Select::Scalar)]));
        const ANSWER: Select = Select::Object(&[
            ("response_id", Select::Scalar),
            ("generation_id", Select::Scalar),
            ("finish_reason", Select::Scalar),
            ("text", $text),
            ("tool_calls", TOOLS),
            ("meta", cohere::META),
        ]);
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
                ("message", $text),
            ]),
            response: ANSWER,
            event: Select::Object(&[
                ("event_type", Select::Scalar),
                ("generation_id", Select::Scalar),
                ("finish_reason", Select::Scalar),
                ("text", $text),
                ("tool_calls", TOOLS),
                ("response", ANSWER),
            ]),
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar);

/// See the module.
pub(super) struct CohereV1;

impl Provider for CohereV1 {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        cohere::recognize(head, PATH, "chat")
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("cohere", "chat"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Cohere chat, version 1",
            endpoints: &[("POST …/v1/chat", "chat")],
            bodies: "JSON; NDJSON; SSE",
            source: "cohere-python 7.3 `types`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document
            .get("message")
            .is_some_and(|message| message.is_string() || message == &Value::Bool(true))
    }

    fn is_response(&self, document: &Value) -> bool {
        text(document, "event_type") == Some("stream-start")
            || (text(document, "generation_id").is_some() && document.get("text").is_some())
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(message) = text(document, "message") {
            call.input(message);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        end(document, call);
        for tool in elements(document, "tool_calls") {
            call.another_tool_call(text(tool, "name"));
        }
        call.output(text(document, "text").unwrap_or_default());
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        call.answer_fields(document);
        match text(document, "event_type").unwrap_or(name) {
            "text-generation" => {
                if is_filled(document, "text") {
                    call.token();
                }
                call.output(text(document, "text").unwrap_or_default());
            }
            "tool-calls-chunk" => call.token(),
            "tool-calls-generation" => {
                call.token();
                for tool in elements(document, "tool_calls") {
                    call.another_tool_call(text(tool, "name"));
                }
            }
            "stream-end" => {
                // The whole answer once more.
                end(document.get("response").unwrap_or(document), call);
                call.finish_reason(0, text(document, "finish_reason"));
                call.terminal();
            }
            _ => {}
        }
    }

    /// Tool calls are not numbered: each event has its own.
    fn is_idempotent(&self) -> bool {
        false
    }
}

fn end(document: &Value, call: &mut CallBuilder) {
    call.answer_fields(document);
    call.finish_reason(0, text(document, "finish_reason"));
    if let Some(meta) = document.get("meta") {
        call.usage(meta);
    }
}
