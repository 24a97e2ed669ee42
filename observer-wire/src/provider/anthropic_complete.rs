//! Anthropic's text completions, which messages have replaced (anthropic-sdk-python 0.125 `types/completion.py`).
//! They count no tokens.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection, anthropic,
    builder::CallBuilder,
    fields::{About, Field, Fields, Included},
    is_filled, text,
};
use crate::{body::json::Select, http::RequestHead};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["max_tokens_to_sample"]),
        (Field::Parameter("top_p"), &["top_p"]),
        (Field::Parameter("top_k"), &["top_k"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[],
    cost: &[],
    cached: Included::No,
    reasoning: Included::Yes,
};

/// The end of the path.
const PATH: &str = "/v1/complete";

macro_rules! selection {
    ($text:expr) => {{
        const ANSWER: Select = Select::Object(&[
            ("type", Select::Scalar),
            ("id", Select::Scalar),
            ("model", Select::Scalar),
            ("stop_reason", Select::Scalar),
            ("completion", $text),
            ("error", Select::All),
        ]);
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_tokens_to_sample", Select::Scalar),
                ("top_p", Select::Scalar),
                ("top_k", Select::Scalar),
                ("prompt", $text),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar);

/// See the module.
pub(super) struct AnthropicComplete;

impl Provider for AnthropicComplete {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST || !head.path.ends_with(PATH) {
            return None;
        }
        Some(Recognized {
            provider: anthropic::provider(head),
            operation: "text_completion",
            model: None,
            stream: false,
            certainty: if anthropic::is_certain(head) {
                Certainty::Certain
            } else {
                Certainty::Possible
            },
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("anthropic", "text_completion"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Anthropic text completions",
            endpoints: &[("POST …/v1/complete", "text_completion")],
            bodies: "JSON; SSE",
            source: "anthropic-sdk-python 0.125 `types/completion.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("prompt").is_some() && document.get("max_tokens_to_sample").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("completion").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(prompt) = text(document, "prompt") {
            call.input(prompt);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        call.output(text(document, "completion").unwrap_or_default());
        if let Some(reason) = text(document, "stop_reason") {
            call.finish_reason(0, Some(reason));
            call.terminal();
        }
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        if text(document, "type").unwrap_or(name) == "error" {
            call.stream_error(document);
            return;
        }
        if is_filled(document, "completion") {
            call.token();
        }
        self.response(document, call);
    }
}
