//! Cohere's embeddings and rerank, versions 1 and 2 (cohere-python 7.3 `types`). OpenTelemetry has no name for
//! the latter: it is `rerank`.

use serde_json::Value;

use super::{
    Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    cohere, elements,
    fields::{About, Field, Fields, Included},
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. A rerank is counted in search units, which the usage has.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Parameter("dimensions"), &["output_dimension"]),
        (Field::Parameter("input_type"), &["input_type"]),
        (Field::Parameter("top_n"), &["top_n"]),
    ],
    answer: &[(Field::ResponseId, &["id"])],
    usage: cohere::USAGE,
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// Ends of paths, with operations.
const PATHS: &[(&str, &str)] = &[
    ("/v1/embed", "embeddings"),
    ("/v1/rerank", "rerank"),
    ("/v2/embed", "embeddings"),
    ("/v2/rerank", "rerank"),
];

const ANSWER: Select = Select::Object(&[
    ("id", Select::Scalar),
    ("embeddings", Select::Mark),
    ("results", Select::Mark),
    ("meta", cohere::META),
]);

macro_rules! selection {
    ($texts:expr, $query:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("output_dimension", Select::Scalar),
                ("input_type", Select::Scalar),
                ("top_n", Select::Scalar),
                ("texts", $texts),
                ("images", Select::Mark),
                ("inputs", Select::Mark),
                ("query", $query),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Array(Keep::Last(2), &Select::Scalar),
    Select::Scalar
);

/// See the module.
pub(super) struct CohereEmbed;

impl Provider for CohereEmbed {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        PATHS
            .iter()
            .find_map(|(path, operation)| cohere::recognize(head, path, operation))
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // Only the path tells which of the two it is.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Cohere embeddings and rerank",
            endpoints: &[
                ("POST …/v1/embed", "embeddings"),
                ("POST …/v1/rerank", "rerank"),
                ("POST …/v2/embed", "embeddings"),
                ("POST …/v2/rerank", "rerank"),
            ],
            bodies: "JSON",
            source: "cohere-python 7.3 `types`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        ["texts", "images", "inputs", "query"]
            .iter()
            .any(|key| document.get(key).is_some())
    }

    fn is_response(&self, document: &Value) -> bool {
        ["embeddings", "results"]
            .iter()
            .any(|key| document.get(key).is_some())
            && document.get("meta").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        let shown: Vec<&str> = elements(document, "texts")
            .filter_map(Value::as_str)
            .chain(text(document, "query"))
            .collect();
        call.input_lines(shown);
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if let Some(meta) = document.get("meta") {
            call.usage(meta);
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            self.response(document, call);
        }
    }
}
