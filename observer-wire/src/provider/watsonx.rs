//! Chat of IBM's watsonx (cloud.ibm.com/apidocs/watsonx-ai, `text_chat`), which is OpenAI's but for the name of
//! the model.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    fields::{About, Field, Fields},
    hosts,
    openai::chat::{self, Chat},
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model_id"]),
        (Field::Temperature, &["temperature"]),
        (
            Field::Parameter("max_tokens"),
            &["max_completion_tokens", "max_tokens"],
        ),
        (Field::Parameter("top_p"), &["top_p"]),
        (
            Field::Parameter("frequency_penalty"),
            &["frequency_penalty"],
        ),
        (Field::Parameter("presence_penalty"), &["presence_penalty"]),
        (Field::Parameter("seed"), &["seed"]),
        (Field::Parameter("choice_count"), &["n"]),
    ],
    ..chat::FIELDS
};

/// Ends of paths, and whether a stream is asked for.
const PATHS: &[(&str, bool)] = &[
    ("/ml/v1/text/chat", false),
    ("/ml/v1/text/chat_stream", true),
];

macro_rules! request {
    ($messages:expr) => {
        Select::Object(&[
            ("model_id", Select::Scalar),
            ("temperature", Select::Scalar),
            ("max_completion_tokens", Select::Scalar),
            ("max_tokens", Select::Scalar),
            ("top_p", Select::Scalar),
            ("frequency_penalty", Select::Scalar),
            ("presence_penalty", Select::Scalar),
            ("seed", Select::Scalar),
            ("n", Select::Scalar),
            ("messages", $messages),
        ])
    };
}

static WITHOUT_CONTENT: Selection = Selection {
    request: request!(Select::Mark),
    ..chat::WITHOUT_CONTENT
};
static WITH_CONTENT: Selection = Selection {
    request: request!(Select::Array(
        Keep::Last(2),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    )),
    ..chat::WITH_CONTENT
};

/// See the module.
pub(super) struct Watsonx;

impl Provider for Watsonx {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let (_, stream) = PATHS.iter().find(|(path, _)| head.path.ends_with(path))?;
        let known = hosts::of(head);
        Some(Recognized {
            provider: known.unwrap_or("watsonx"),
            operation: "chat",
            model: None,
            stream: *stream,
            certainty: match known {
                Some(_) => Certainty::Certain,
                None => Certainty::Likely,
            },
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("watsonx", "chat"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "watsonx chat",
            endpoints: &[
                ("POST …/ml/v1/text/chat", "chat"),
                ("POST …/ml/v1/text/chat_stream", "chat"),
            ],
            bodies: "JSON; SSE",
            source: "cloud.ibm.com/apidocs/watsonx-ai, `text_chat`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn messages_at(&self) -> &'static [&'static str] {
        &["messages"]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("model_id").is_some() && document.get("messages").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        Chat.is_response(document)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        Chat.request(document, call);
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        Chat.response(document, call);
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        Chat.event(name, data, call);
    }
}
