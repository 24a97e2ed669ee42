//! What Mistral has beside chat completions (mistralai 3.7 `client/{agents,fim}.py`): chat of agents, and text
//! to be filled in. Both are answered as chat is.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    fields::{About, Field, Fields},
    hosts,
    openai::chat::{self, Chat},
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. An agent stands in for the model.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model", "agent_id"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["max_tokens"]),
        (Field::Parameter("top_p"), &["top_p"]),
        (
            Field::Parameter("frequency_penalty"),
            &["frequency_penalty"],
        ),
        (Field::Parameter("presence_penalty"), &["presence_penalty"]),
        (Field::Parameter("seed"), &["random_seed"]),
        (Field::Parameter("choice_count"), &["n"]),
    ],
    ..chat::FIELDS
};

/// Ends of paths, with operations. OCR counts pages and is no call.
const PATHS: &[(&str, &str)] = &[
    ("/agents/completions", "chat"),
    ("/fim/completions", "text_completion"),
];

macro_rules! request {
    ($prompt:expr, $messages:expr) => {
        Select::Object(&[
            ("model", Select::Scalar),
            ("agent_id", Select::Scalar),
            ("temperature", Select::Scalar),
            ("stream", Select::Scalar),
            ("max_tokens", Select::Scalar),
            ("top_p", Select::Scalar),
            ("frequency_penalty", Select::Scalar),
            ("presence_penalty", Select::Scalar),
            ("random_seed", Select::Scalar),
            ("n", Select::Scalar),
            ("prompt", $prompt),
            ("messages", $messages),
        ])
    };
}

static WITHOUT_CONTENT: Selection = Selection {
    request: request!(Select::Mark, Select::Mark),
    ..chat::WITHOUT_CONTENT
};
static WITH_CONTENT: Selection = Selection {
    request: request!(
        Select::Scalar,
        Select::Array(
            Keep::Last(2),
            &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
        )
    ),
    ..chat::WITH_CONTENT
};

/// See the module.
pub(super) struct Mistral;

impl Provider for Mistral {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let (_, operation) = PATHS.iter().find(|(path, _)| head.path.ends_with(path))?;
        let known = hosts::of(head);
        Some(Recognized {
            provider: known.unwrap_or("mistral"),
            operation,
            model: None,
            stream: false,
            certainty: match known {
                Some(_) => Certainty::Certain,
                None => Certainty::Likely,
            },
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // It is OpenAI's.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Mistral agents and fill-in-the-middle",
            endpoints: &[
                ("POST …/agents/completions", "chat"),
                ("POST …/fim/completions", "text_completion"),
            ],
            bodies: "JSON; SSE",
            source: "mistralai 3.7 `client/{agents,fim}.py`",
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
        ["model", "agent_id"]
            .iter()
            .any(|key| document.get(key).is_some_and(Value::is_string))
            && ["messages", "prompt"]
                .iter()
                .any(|key| document.get(key).is_some())
    }

    fn is_response(&self, document: &Value) -> bool {
        Chat.is_response(document)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        Chat.request(document, call);
        if let Some(prompt) = text(document, "prompt") {
            call.input(prompt);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        Chat.response(document, call);
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        Chat.event(name, data, call);
    }
}
