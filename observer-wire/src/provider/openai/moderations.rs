//! OpenAI's moderations (openai-python 3.54 `types/moderation*.py`). They count no tokens.

use serde_json::Value;

use super::{input_text, posted};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
    provider::{
        Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        elements,
        fields::{About, Count, Field, Fields, Included},
        text,
    },
};

/// Where its fields are. Mistral does count.
static FIELDS: Fields = Fields {
    request: &[(Field::Model, &["model"])],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[
        (Count::Prompt, &["prompt_tokens"]),
        (Count::Completion, &["completion_tokens"]),
        (Count::Total, &["total_tokens"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The end of the path.
const PATH: &str = "/moderations";

const OPERATION: &str = "moderation";

macro_rules! selection {
    ($input:expr) => {
        Selection {
            request: Select::Object(&[("model", Select::Scalar), ("input", $input)]),
            response: Select::Object(&[
                ("id", Select::Scalar),
                ("model", Select::Scalar),
                ("usage", Select::All),
                (
                    "results",
                    Select::Array(
                        Keep::First(1),
                        &Select::Object(&[
                            ("flagged", Select::Scalar),
                            ("categories", Select::Mark),
                        ]),
                    ),
                ),
            ]),
            event: Select::Mark,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(super::TEXTS);

/// See the module.
pub(in crate::provider) struct Moderations;

impl Provider for Moderations {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        posted(head, &[(PATH, OPERATION)])
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI moderations",
            endpoints: &[("POST …/moderations", OPERATION)],
            bodies: "JSON",
            source: "openai-python 3.54 `types/moderation*.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        text(document, "model").is_some() && document.get("input").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        elements(document, "results")
            .any(|result| result.get("flagged").is_some() || result.get("categories").is_some())
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(input) = input_text(document.get("input")) {
            call.input(&input);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
    }

    fn event(&self, _name: &str, _data: &Event<'_>, _call: &mut CallBuilder) {}
}
