//! OpenAI's completions of a text, from before there were chats (openai-python 3.54
//! `types/completion*.py`); codex models, vLLM, and DeepSeek's and Mistral's completion in the middle of a text.

use serde_json::Value;

use super::{chat, input_text, posted, provider};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
    provider::{
        Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        counter, elements,
        fields::{About, Field, Fields, Included},
        is_filled, text,
    },
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["max_tokens"]),
        (Field::Parameter("top_p"), &["top_p"]),
        (
            Field::Parameter("frequency_penalty"),
            &["frequency_penalty"],
        ),
        (Field::Parameter("presence_penalty"), &["presence_penalty"]),
        (Field::Parameter("seed"), &["seed"]),
        (Field::Parameter("choice_count"), &["n"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: chat::USAGE,
    cost: chat::COST,
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The end of the path; that of chats, which ends like it, is asked for before.
const PATH: &str = "/completions";

const OPERATION: &str = "text_completion";

macro_rules! selection {
    ($prompt:expr, $text:expr) => {{
        // Mistral answers, and streams, as in a chat.
        const MESSAGE: Select = Select::Object(&[("content", $text)]);
        const ANSWER: Select = Select::Object(&[
            ("object", Select::Scalar),
            ("id", Select::Scalar),
            ("model", Select::Scalar),
            ("usage", Select::All),
            ("error", Select::All),
            (
                "choices",
                Select::Array(
                    Keep::All,
                    &Select::Object(&[
                        ("index", Select::Scalar),
                        ("finish_reason", Select::Scalar),
                        ("text", $text),
                        ("message", MESSAGE),
                        ("delta", MESSAGE),
                    ]),
                ),
            ),
        ]);
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_tokens", Select::Scalar),
                ("top_p", Select::Scalar),
                ("frequency_penalty", Select::Scalar),
                ("presence_penalty", Select::Scalar),
                ("seed", Select::Scalar),
                ("n", Select::Scalar),
                ("prompt", $prompt),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(super::TEXTS, Select::Scalar);

/// See the module.
pub(in crate::provider) struct Completions;

impl Provider for Completions {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.path.ends_with("/chat/completions") {
            return None;
        }
        posted(head, &[(PATH, OPERATION)])
    }

    fn by_shape(&self, head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some((provider(head), OPERATION))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI completions",
            endpoints: &[
                ("POST …/completions", OPERATION),
                ("POST …/deployments/MODEL/completions", OPERATION),
            ],
            bodies: "JSON; SSE",
            source: "openai-python 3.54 `types/completion*.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        text(document, "model").is_some() && document.get("prompt").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        text(document, "object") == Some("text_completion")
            || document.get("choices").is_some_and(Value::is_array)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(prompt) = input_text(document.get("prompt")) {
            call.input(&prompt);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        chat::usage(document, call);
        for (position, choice) in elements(document, "choices").enumerate() {
            let index = counter(choice, "index").unwrap_or(position as u64);
            call.finish_reason(index, text(choice, "finish_reason"));
            if index == 0 {
                let message = choice.get("message").or_else(|| choice.get("delta"));
                let said = text(choice, "text").or_else(|| text(message?, "content"));
                call.output(said.unwrap_or_default());
            }
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let document = match data {
            Event::Json(document) => *document,
            Event::Text(text) => {
                if text.starts_with(b"[DONE]") {
                    call.terminal();
                }
                return;
            }
        };
        if document.get("error").is_some_and(|error| !error.is_null()) {
            call.stream_error(document);
        }
        for choice in elements(document, "choices") {
            let delta = choice.get("delta");
            if is_filled(choice, "text") || delta.is_some_and(|delta| is_filled(delta, "content")) {
                call.token();
            }
            if text(choice, "finish_reason").is_some() {
                call.terminal();
            }
        }
        self.response(document, call);
    }
}
