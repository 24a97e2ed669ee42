//! Ollama's own API (ollama-python 0.6 `_types.py`; docs/api.md of ollama/ollama): chat and generate. Its
//! other paths speak OpenAI's format or are no calls to a model.

use http::{Method, header};
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, preview, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. Its answers are their own usage.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["options.temperature"]),
        (Field::Parameter("max_tokens"), &["options.num_predict"]),
        (Field::Parameter("top_p"), &["options.top_p"]),
        (Field::Parameter("top_k"), &["options.top_k"]),
        (Field::Parameter("seed"), &["options.seed"]),
    ],
    answer: &[(Field::ResponseModel, &["model"])],
    usage: &[
        (Count::Prompt, &["prompt_eval_count"]),
        (Count::Completion, &["eval_count"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// What an answer says about usage.
const USAGE: &[&str] = &["prompt_eval_count", "eval_count"];

/// Path and operation.
const PATHS: &[(&str, &str)] = &[("/api/chat", "chat"), ("/api/generate", "text_completion")];

/// Where Ollama listens if nobody says otherwise.
pub(super) const PORT: u16 = 11434;

/// How many messages are shown.
const SHOWN: usize = 2;

const ROLE: Select = Select::Object(&[("role", Select::Scalar)]);

macro_rules! selection {
    ($messages:expr, $prompt:expr, $text:expr) => {{
        const ANSWER: Select = Select::Object(&[
            ("model", Select::Scalar),
            ("done", Select::Scalar),
            ("done_reason", Select::Scalar),
            ("prompt_eval_count", Select::Scalar),
            ("eval_count", Select::Scalar),
            ("error", Select::All),
            ("response", $text),
            ("thinking", Select::Mark),
            (
                "message",
                Select::Object(&[
                    ("content", $text),
                    ("thinking", Select::Mark),
                    (
                        "tool_calls",
                        Select::Array(
                            Keep::All,
                            &Select::Object(&[
                                ("id", Select::Scalar),
                                (
                                    "function",
                                    Select::Object(&[
                                        ("name", Select::Scalar),
                                        ("arguments", Select::Length),
                                    ]),
                                ),
                            ]),
                        ),
                    ),
                ]),
            ),
        ]);
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("stream", Select::Scalar),
                (
                    "options",
                    Select::Object(&[
                        ("temperature", Select::Scalar),
                        ("num_predict", Select::Scalar),
                        ("top_p", Select::Scalar),
                        ("top_k", Select::Scalar),
                        ("seed", Select::Scalar),
                    ]),
                ),
                ("messages", $messages),
                ("prompt", $prompt),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(
    Select::Array(Keep::First(1), &ROLE),
    Select::Mark,
    Select::Mark
);
static WITH_CONTENT: Selection = selection!(
    Select::Array(
        Keep::Last(SHOWN),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::Scalar)])
    ),
    Select::Scalar,
    Select::Scalar
);

/// See the module.
pub(super) struct Ollama;

/// How sure a path of Ollama's is meant so: web applications have such paths, too.
pub(super) fn certainty(head: &RequestHead) -> Certainty {
    let by_sdk = head
        .headers
        .get(header::USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"ollama-"));
    if head.port == Some(PORT) || hosts::of(head) == Some("ollama") {
        Certainty::Certain
    } else if by_sdk {
        Certainty::Likely
    } else {
        Certainty::Possible
    }
}

impl Provider for Ollama {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let (_, operation) = PATHS.iter().find(|(path, _)| head.path.ends_with(path))?;
        Some(Recognized {
            provider: "ollama",
            operation,
            model: None,
            // Unless the request says otherwise; the body of the response tells.
            stream: false,
            certainty: certainty(head),
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // Its bodies resemble those of others, and it does not speak HTTP/2, of which paths get lost.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Ollama",
            endpoints: &[
                ("POST …/api/chat", "chat"),
                ("POST …/api/generate", "text_completion"),
            ],
            bodies: "JSON; NDJSON",
            source: "ollama-python 0.6 `_types.py`; docs/api.md of ollama/ollama",
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
        document.get("model").is_some_and(Value::is_string)
            && (document.get("messages").is_some_and(Value::is_array)
                || document.get("prompt").is_some())
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("done").is_some_and(Value::is_boolean) && text(document, "model").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        call.stream(document.get("stream").and_then(Value::as_bool) != Some(false));
        if let Some(limit) = call.input_limit() {
            let messages = elements(document, "messages");
            match text(document, "prompt") {
                Some(prompt) => call.input(prompt),
                None => call.input_lines(messages.map(|message| preview::said(message, limit))),
            }
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if document.get("eval_count").is_some() {
            let usage = USAGE
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), document.get(*name)?.clone())));
            call.usage(&Value::Object(usage.collect()));
        }
        if let Some(message) = document.get("message") {
            for tool in elements(message, "tool_calls") {
                let function = tool.get("function").unwrap_or(&Value::Null);
                let place = call.another_tool_call(text(function, "name"));
                call.tool_id(place, text(tool, "id"));
                call.arguments(place, counter(function, "arguments"));
            }
        }
        if document.get("done") == Some(&Value::Bool(true)) {
            call.finish_reason(0, text(document, "done_reason"));
            call.terminal();
        }
        let message = document.get("message").unwrap_or(document);
        let said = text(message, "content").or_else(|| text(document, "response"));
        call.output(said.unwrap_or_default());
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else {
            return;
        };
        if document.get("error").is_some_and(|error| !error.is_null()) {
            call.stream_error(document);
        }
        let message = document.get("message").unwrap_or(document);
        if ["content", "response", "thinking", "tool_calls"]
            .iter()
            .any(|key| is_filled(message, key))
        {
            call.token();
        }
        self.response(document, call);
    }
}
