//! OpenAI's embeddings, and everything that speaks that format (openai-python 3.54
//! `types/create_embedding_response.py`, `embedding_create_params.py`). The vectors make an answer large, and
//! its usage comes last.

use serde_json::Value;

use super::{input_text, posted, provider};
use crate::{
    body::json::Select,
    http::RequestHead,
    provider::{
        Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        fields::{About, Count, Field, Fields, Included},
        text,
    },
};

/// Where its fields are. There is no output to count: who names only a total (Jina, Voyage) counts the input.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Parameter("dimensions"), &["dimensions"]),
        (Field::Parameter("encoding_formats"), &["encoding_format"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[
        (Count::Prompt, &["prompt_tokens", "total_tokens"]),
        (Count::Completion, &["completion_tokens"]),
        (Count::Total, &["total_tokens"]),
    ],
    cost: &[("cost", 1.0)],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The end of the path.
const PATH: &str = "/embeddings";

const OPERATION: &str = "embeddings";

macro_rules! selection {
    ($input:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("dimensions", Select::Scalar),
                ("encoding_format", Select::Scalar),
                ("input", $input),
            ]),
            response: Select::Object(&[
                ("object", Select::Scalar),
                ("id", Select::Scalar),
                ("model", Select::Scalar),
                ("usage", Select::All),
                ("data", Select::Mark),
            ]),
            event: Select::Mark,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(super::TEXTS);

/// See the module.
pub(in crate::provider) struct Embeddings;

impl Provider for Embeddings {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        posted(head, &[(PATH, OPERATION)])
    }

    fn by_shape(&self, head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some((provider(head), OPERATION))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI embeddings",
            endpoints: &[
                ("POST …/embeddings", OPERATION),
                ("POST …/deployments/MODEL/embeddings", OPERATION),
            ],
            bodies: "JSON",
            source: "openai-python 3.54 `types/create_embedding_response.py`",
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
        // A list of models names none beside it.
        text(document, "object") == Some("list")
            && document.get("data").is_some()
            && text(document, "model").is_some()
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
