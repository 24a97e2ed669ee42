//! Ollama's embeddings (ollama-python 0.6 `_types.py`). The older of its two paths counts nothing.

use http::Method;
use serde_json::Value;

use super::{
    Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    elements,
    fields::{About, Count, Field, Fields, Included},
    ollama, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. Its answers are their own usage.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Parameter("dimensions"), &["dimensions"]),
    ],
    answer: &[(Field::ResponseModel, &["model"])],
    usage: &[(Count::Prompt, &["prompt_eval_count"])],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// Ends of paths.
const PATHS: &[&str] = &["/api/embed", "/api/embeddings"];

const ANSWER: Select = Select::Object(&[
    ("model", Select::Scalar),
    ("embedding", Select::Mark),
    ("embeddings", Select::Mark),
    ("prompt_eval_count", Select::Scalar),
]);

macro_rules! selection {
    ($input:expr, $prompt:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("dimensions", Select::Scalar),
                ("input", $input),
                ("prompt", $prompt),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Either(
        &Select::Scalar,
        &Select::Array(Keep::Last(2), &Select::Scalar)
    ),
    Select::Scalar
);

/// See the module.
pub(super) struct OllamaEmbed;

impl Provider for OllamaEmbed {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let on_path = PATHS.iter().any(|path| head.path.ends_with(path));
        if head.method != Method::POST || !on_path {
            return None;
        }
        Some(Recognized {
            provider: "ollama",
            operation: "embeddings",
            model: None,
            stream: false,
            certainty: ollama::certainty(head),
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // It does not speak HTTP/2, of which paths get lost.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Ollama embeddings",
            endpoints: &[
                ("POST …/api/embed", "embeddings"),
                ("POST …/api/embeddings", "embeddings"),
            ],
            bodies: "JSON",
            source: "ollama-python 0.6 `_types.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("model").is_some_and(Value::is_string)
            && (document.get("input").is_some() || document.get("prompt").is_some())
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("embeddings").is_some() || document.get("embedding").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        let texts: Vec<&str> = elements(document, "input")
            .filter_map(Value::as_str)
            .chain(text(document, "input"))
            .chain(text(document, "prompt"))
            .collect();
        if !texts.is_empty() {
            call.input(&texts.join("\n"));
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if let Some(count) = document.get("prompt_eval_count") {
            call.usage(&serde_json::json!({ "prompt_eval_count": count }));
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            self.response(document, call);
        }
    }
}
