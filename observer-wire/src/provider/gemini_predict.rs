//! Google's `:predict` for embeddings, Imagen and Veo (google-genai 3.4 `models.py`; cloud.google.com
//! `text-embeddings-api`). It serves any model on Vertex AI: what none of these families makes is no call.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter_of, elements,
    fields::{About, Count, Field, Fields, Included, find},
    gemini, hosts, percent, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. The model is in the path; tokens are counted for each prediction.
static FIELDS: Fields = Fields {
    request: &[
        (
            Field::Parameter("dimensions"),
            &["parameters.outputDimensionality"],
        ),
        (
            Field::Parameter("choice_count"),
            &["parameters.sampleCount"],
        ),
        (Field::Parameter("seed"), &["parameters.seed"]),
    ],
    answer: &[],
    usage: &[(Count::Prompt, &["token_count"])],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// Families of models, by what is in their names, with the operation.
const FAMILIES: &[(&str, &str)] = &[
    ("embedding", "embeddings"),
    ("imagen", "image_generation"),
    ("imagetext", "image_generation"),
    ("veo-", "video_generation"),
];

const ANSWER: Select = Select::Object(&[
    (
        "predictions",
        Select::Array(
            Keep::All,
            &Select::Object(&[(
                "embeddings",
                Select::Object(&[(
                    "statistics",
                    Select::Object(&[("token_count", Select::Scalar)]),
                )]),
            )]),
        ),
    ),
    (
        "metadata",
        Select::Object(&[("billableCharacterCount", Select::Scalar)]),
    ),
]);

macro_rules! selection {
    ($instances:expr) => {
        Selection {
            request: Select::Object(&[
                (
                    "parameters",
                    Select::Object(&[
                        ("outputDimensionality", Select::Scalar),
                        ("sampleCount", Select::Scalar),
                        ("seed", Select::Scalar),
                    ]),
                ),
                ("instances", $instances),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Array(
    Keep::Last(2),
    &Select::Object(&[("content", Select::Scalar), ("prompt", Select::Scalar)])
));

/// See the module.
pub(super) struct GeminiPredict;

impl Provider for GeminiPredict {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let (resource, verb) = head.path.rsplit_once(':')?;
        if head.method != Method::POST || !matches!(verb, "predict" | "predictLongRunning") {
            return None;
        }
        let model = resource.rsplit('/').next().map(percent::decoded)?;
        // Other servers of models have paths like this (TensorFlow Serving), with bodies like these.
        let known = matches!(hosts::of(head), Some("google" | "vertex_ai"))
            || head.path.contains("/publishers/")
            || head.headers.contains_key("x-goog-api-client");
        if !known {
            return None;
        }
        let (_, operation) = FAMILIES.iter().find(|(name, _)| model.contains(name))?;
        Some(Recognized {
            provider: gemini::provider(head),
            operation,
            model: Some(model),
            stream: false,
            certainty: Certainty::Certain,
        })
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Gemini predict",
            endpoints: &[
                ("POST …/…embedding…:predict", "embeddings"),
                ("POST …/imagen…:predict", "image_generation"),
                ("POST …/veo-…:predictLongRunning", "video_generation"),
            ],
            bodies: "JSON",
            source: "google-genai 3.4 `models.py`; cloud.google.com `text-embeddings-api`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("instances").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("predictions").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        let shown: Vec<&str> = elements(document, "instances")
            .filter_map(|instance| text(instance, "content").or_else(|| text(instance, "prompt")))
            .collect();
        call.input_lines(shown);
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        if let Some(metadata) = document.get("metadata") {
            call.usage(metadata);
        }
        let counted = elements(document, "predictions")
            .filter_map(|one| find(one, &["embeddings.statistics.token_count"]))
            .filter_map(counter_of);
        if let Some(sum) = counted.reduce(u64::saturating_add) {
            call.usage(&serde_json::json!({"token_count": sum}));
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            self.response(document, call);
        }
    }
}
