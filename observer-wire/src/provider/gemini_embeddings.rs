//! Gemini embedContent and batchEmbedContents over REST (google-genai 3.4 `types.py`). The Gemini API counts no
//! tokens there, Vertex AI does.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    elements,
    fields::{About, Count, Field, Fields, Included},
    gemini::{self, either, shown},
    percent,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. The model is in the path.
static FIELDS: Fields = Fields {
    request: &[(
        Field::Parameter("dimensions"),
        &[
            "outputDimensionality",
            "output_dimensionality",
            "embedContentConfig.outputDimensionality",
        ],
    )],
    answer: &[],
    usage: &[
        (Count::Prompt, &["promptTokenCount", "prompt_token_count"]),
        (Count::Total, &["totalTokenCount", "total_token_count"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

const ANSWER: Select = Select::Object(&[
    ("embedding", Select::Mark),
    ("embeddings", Select::Mark),
    ("usageMetadata", Select::All),
    ("usage_metadata", Select::All),
]);

macro_rules! selection {
    ($content:expr, $requests:expr) => {
        Selection {
            request: Select::Object(&[
                ("outputDimensionality", Select::Scalar),
                ("output_dimensionality", Select::Scalar),
                (
                    "embedContentConfig",
                    Select::Object(&[("outputDimensionality", Select::Scalar)]),
                ),
                ("content", $content),
                ("requests", $requests),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::All,
    Select::Array(Keep::Last(2), &Select::Object(&[("content", Select::All)]))
);

/// See the module.
pub(super) struct GeminiEmbeddings;

impl Provider for GeminiEmbeddings {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let (resource, verb) = head.path.rsplit_once(':')?;
        let is_call = matches!(verb, "embedContent" | "batchEmbedContents");
        (head.method == Method::POST && is_call).then(|| Recognized {
            provider: gemini::provider(head),
            operation: "embeddings",
            model: resource.rsplit('/').next().map(percent::decoded),
            stream: false,
            certainty: Certainty::Certain,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // Nothing in it names the model.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Gemini embedContent",
            endpoints: &[
                ("POST …/MODEL:embedContent", "embeddings"),
                ("POST …/MODEL:batchEmbedContents", "embeddings"),
            ],
            bodies: "JSON",
            source: "google-genai 3.4 `types.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("content").is_some() || document.get("requests").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("embedding").is_some() || document.get("embeddings").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(limit) = call.input_limit() {
            let contents = elements(document, "requests")
                .filter_map(|request| request.get("content"))
                .chain(document.get("content"));
            let shown: Vec<String> = contents.map(|content| shown(content, limit)).collect();
            call.input_lines(shown);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        if let Some(usage) = either(document, "usageMetadata", "usage_metadata") {
            call.usage(usage);
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            self.response(document, call);
        }
    }
}
