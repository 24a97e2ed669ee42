//! DashScope's own API (help.aliyun.com, "DashScope API reference"; dashscope 1.25 of PyPI): text and multimodal
//! generation, and embeddings of text. The text of a stream is all that has come so far, unless the client asks
//! for increments.

use http::Method;
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

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["parameters.temperature"]),
        (Field::Parameter("max_tokens"), &["parameters.max_tokens"]),
        (Field::Parameter("top_p"), &["parameters.top_p"]),
        (Field::Parameter("top_k"), &["parameters.top_k"]),
        (Field::Parameter("seed"), &["parameters.seed"]),
        (Field::Parameter("dimensions"), &["parameters.dimension"]),
    ],
    answer: &[(Field::ResponseId, &["request_id"])],
    usage: &[
        // Of embeddings there is the total only.
        (Count::Prompt, &["input_tokens", "total_tokens"]),
        (Count::Completion, &["output_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["prompt_tokens_details.cached_tokens"]),
        (
            Count::Reasoning,
            &["output_tokens_details.reasoning_tokens"],
        ),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// Ends of paths, with operations.
const PATHS: &[(&str, &str)] = &[
    ("/services/aigc/multimodal-generation/generation", "chat"),
    ("/services/aigc/text-generation/generation", "chat"),
    (
        "/services/embeddings/text-embedding/text-embedding",
        "embeddings",
    ),
];

const TOOLS: Select = Select::Array(
    Keep::All,
    &Select::Object(&[("function", Select::Object(&[("name", Select::Scalar)]))]),
);

macro_rules! selection {
    ($messages:expr, $text:expr, $content:expr) => {{
        const ANSWER: Select = Select::Object(&[
            ("request_id", Select::Scalar),
            ("code", Select::Scalar),
            ("message", Select::Scalar),
            ("usage", Select::All),
            (
                "output",
                Select::Object(&[
                    ("text", $text),
                    ("finish_reason", Select::Scalar),
                    ("embeddings", Select::Mark),
                    (
                        "choices",
                        Select::Array(
                            Keep::All,
                            &Select::Object(&[
                                ("index", Select::Scalar),
                                ("finish_reason", Select::Scalar),
                                (
                                    "message",
                                    Select::Object(&[
                                        ("content", $content),
                                        ("reasoning_content", Select::Mark),
                                        ("tool_calls", TOOLS),
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
                (
                    "parameters",
                    Select::Object(&[
                        ("temperature", Select::Scalar),
                        ("max_tokens", Select::Scalar),
                        ("top_p", Select::Scalar),
                        ("top_k", Select::Scalar),
                        ("seed", Select::Scalar),
                        ("dimension", Select::Scalar),
                        ("incremental_output", Select::Scalar),
                    ]),
                ),
                (
                    "input",
                    Select::Object(&[
                        ("messages", $messages),
                        ("prompt", $text),
                        ("texts", Select::Mark),
                    ]),
                ),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Array(
        Keep::Last(2),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    ),
    Select::Scalar,
    Select::Either(
        &Select::Scalar,
        &Select::Array(Keep::All, &Select::Object(&[("text", Select::Scalar)]))
    )
);

/// What of a request's parameters says that a stream comes in increments.
const INCREMENTAL: &str = "incremental_output";

/// See the module.
pub(super) struct DashScope;

impl Provider for DashScope {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let (_, operation) = PATHS.iter().find(|(path, _)| head.path.ends_with(path))?;
        let known = hosts::of(head);
        Some(Recognized {
            provider: known.unwrap_or("dashscope"),
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
        // Embeddings look the same.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "DashScope",
            endpoints: &[
                (
                    "POST …/services/aigc/multimodal-generation/generation",
                    "chat",
                ),
                ("POST …/services/aigc/text-generation/generation", "chat"),
                (
                    "POST …/services/embeddings/text-embedding/text-embedding",
                    "embeddings",
                ),
            ],
            bodies: "JSON; SSE",
            source: "help.aliyun.com, DashScope API reference",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("model").is_some_and(Value::is_string)
            && document.get("input").is_some_and(Value::is_object)
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("output").is_some_and(Value::is_object)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        let member = |name: &str, key: &str| document.get(name).and_then(|value| value.get(key));
        call.cumulative(member("parameters", INCREMENTAL) != Some(&Value::Bool(true)));
        let Some(limit) = call.input_limit() else {
            return;
        };
        let Some(input) = document.get("input") else {
            return;
        };
        let messages = elements(input, "messages").map(|message| preview::said(message, limit));
        call.input_lines(messages.chain(text(input, "prompt").map(str::to_owned)));
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        let Some(output) = document.get("output") else {
            return;
        };
        if is_filled(output, "text") {
            call.token();
        }
        call.output(text(output, "text").unwrap_or_default());
        end(0, output, call);
        for (position, choice) in elements(output, "choices").enumerate() {
            let index = counter(choice, "index").unwrap_or(position as u64);
            let message = choice.get("message").unwrap_or(&Value::Null);
            if ["content", "reasoning_content", "tool_calls"]
                .iter()
                .any(|key| is_filled(message, key))
            {
                call.token();
            }
            for (position, tool) in elements(message, "tool_calls").enumerate() {
                let function = tool.get("function").unwrap_or(&Value::Null);
                call.tool_call((index, position as u64), text(function, "name"));
            }
            if index == 0 {
                call.output(text(message, "content").unwrap_or_default());
                for part in elements(message, "content") {
                    call.output(text(part, "text").unwrap_or_default());
                }
            }
            end(index, choice, call);
        }
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        if name == "error" || (document.get("output").is_none() && document.get("code").is_some()) {
            call.stream_error(document);
            return;
        }
        call.next_part();
        self.response(document, call);
    }
}

/// Reads why a choice ended; until then the reason is the word `null`.
fn end(index: u64, choice: &Value, call: &mut CallBuilder) {
    let reason = text(choice, "finish_reason").filter(|reason| *reason != "null");
    if let Some(reason) = reason {
        call.finish_reason(index, Some(reason));
        call.terminal();
    }
}
