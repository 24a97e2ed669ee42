//! Searches in OpenAI's vector stores (openai-python 3.54 `types/vector_store_search*.py`). They count no
//! tokens and name no model.

use serde_json::Value;

use super::{input_text, posted};
use crate::{
    body::json::Select,
    http::RequestHead,
    provider::{
        Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        fields::{About, Field, Fields, Included},
        text,
    },
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[(Field::Parameter("top_k"), &["max_num_results"])],
    answer: &[],
    usage: &[],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

const OPERATION: &str = "retrieval";

macro_rules! selection {
    ($query:expr) => {
        Selection {
            request: Select::Object(&[("max_num_results", Select::Scalar), ("query", $query)]),
            response: Select::Object(&[("object", Select::Scalar)]),
            event: Select::Mark,
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(super::TEXTS);

/// See the module.
pub(in crate::provider) struct Retrieval;

impl Provider for Retrieval {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if !head.path.contains("/vector_stores/") {
            return None;
        }
        posted(head, &[("/search", OPERATION)])
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI vector stores",
            endpoints: &[("POST …/vector_stores/ID/search", OPERATION)],
            bodies: "JSON",
            source: "openai-python 3.54 `types/vector_store_search*.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("query").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        text(document, "object").is_some_and(|object| object.starts_with("vector_store."))
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(query) = input_text(document.get("query")) {
            call.input(&query);
        }
    }

    fn response(&self, _document: &Value, _call: &mut CallBuilder) {}

    fn event(&self, _name: &str, _data: &Event<'_>, _call: &mut CallBuilder) {}
}
