//! OpenAI chat completions, and everything that speaks that format (openai-python 3.54
//! `types/chat`). xAI is told by its name, as infinium-o2 does.

use http::Method;
use serde_json::Value;

use super::{is_json, posted, provider, recognized};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
    provider::{
        Certainty, Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        counter, elements,
        fields::{About, Count, Field, Fields, Included},
        hosts, is_filled, preview, text, vertex,
    },
};

/// Where its fields are. Some hosts have a usage of their own: DeepSeek and Moonshot their caches, OpenRouter,
/// Perplexity and xAI their prices.
pub(in crate::provider) static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (
            Field::Parameter("max_tokens"),
            &["max_completion_tokens", "max_tokens"],
        ),
        (Field::Parameter("top_p"), &["top_p"]),
        (Field::Parameter("top_k"), &["top_k"]),
        (
            Field::Parameter("frequency_penalty"),
            &["frequency_penalty"],
        ),
        (Field::Parameter("presence_penalty"), &["presence_penalty"]),
        (Field::Parameter("seed"), &["seed", "random_seed"]),
        (Field::Parameter("choice_count"), &["n"]),
        (Field::Parameter("reasoning_level"), &["reasoning_effort"]),
        (Field::Parameter("service_tier"), &["service_tier"]),
        // OpenRouter's and LiteLLM's.
        (
            Field::Session,
            &["session_id", "litellm_session_id", "metadata.session_id"],
        ),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
        (Field::ServiceTier, &["service_tier"]),
    ],
    usage: USAGE,
    cost: COST,
    cached: Included::Yes,
    // xAI leaves it out.
    reasoning: Included::Likely,
};

/// What an answer says about its usage.
pub(super) const USAGE: &[(Count, &[&str])] = &[
    (Count::Prompt, &["prompt_tokens"]),
    (Count::Completion, &["completion_tokens"]),
    (Count::Total, &["total_tokens"]),
    (
        Count::CacheRead,
        &[
            "prompt_tokens_details.cached_tokens",
            "prompt_cache_hit_tokens",
            "cached_tokens",
        ],
    ),
    (
        Count::CacheWrite,
        &["prompt_tokens_details.cache_write_tokens"],
    ),
    (
        Count::Reasoning,
        &[
            "completion_tokens_details.reasoning_tokens",
            "reasoning_tokens",
        ],
    ),
    (Count::AudioInput, &["prompt_tokens_details.audio_tokens"]),
    (
        Count::AudioOutput,
        &["completion_tokens_details.audio_tokens"],
    ),
];

pub(super) const COST: &[(&str, f64)] = &[
    ("cost", 1.0),
    ("cost.total_cost", 1.0),
    ("cost_in_usd_ticks", 1e10),
];

/// The end of the path.
const PATH: &str = "/chat/completions";

const OPERATION: &str = "chat";

/// How many messages infinium-o2 shows.
const SHOWN: usize = 2;

/// Roles of the first message (openai-python `ChatCompletionMessageParam`).
const ROLES: &[&str] = &[
    "assistant",
    "developer",
    "function",
    "system",
    "tool",
    "user",
];

const ROLE: Select = Select::Object(&[("role", Select::Scalar)]);
const GROQ: Select = Select::Object(&[("usage", Select::All), ("error", Select::All)]);
const FUNCTION: Select = Select::Object(&[
    ("name", Select::Scalar),
    ("arguments", Select::Length),
    // Of tools that take any text.
    ("input", Select::Length),
]);
const TOOL_CALL: Select = Select::Object(&[
    ("index", Select::Scalar),
    ("id", Select::Scalar),
    ("function", FUNCTION),
    ("custom", FUNCTION),
]);

macro_rules! selection {
    ($messages:expr, $content:expr, $delta:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("max_completion_tokens", Select::Scalar),
                ("max_tokens", Select::Scalar),
                ("top_p", Select::Scalar),
                ("top_k", Select::Scalar),
                ("frequency_penalty", Select::Scalar),
                ("presence_penalty", Select::Scalar),
                ("seed", Select::Scalar),
                ("random_seed", Select::Scalar),
                ("n", Select::Scalar),
                ("reasoning_effort", Select::Scalar),
                ("service_tier", Select::Scalar),
                ("session_id", Select::Scalar),
                ("litellm_session_id", Select::Scalar),
                (
                    "metadata",
                    Select::Object(&[("session_id", Select::Scalar), ("user_id", Select::Scalar)]),
                ),
                ("messages", $messages),
            ]),
            response: Select::Object(&[
                ("object", Select::Scalar),
                ("id", Select::Scalar),
                ("service_tier", Select::Scalar),
                ("model", Select::Scalar),
                ("usage", Select::All),
                ("x_groq", GROQ),
                (
                    "choices",
                    Select::Array(
                        Keep::All,
                        &Select::Object(&[
                            ("index", Select::Scalar),
                            ("finish_reason", Select::Scalar),
                            // Of models on AWS Bedrock.
                            ("stop_reason", Select::Scalar),
                            ("text", $content),
                            (
                                "message",
                                Select::Object(&[
                                    ("content", $content),
                                    ("tool_calls", Select::Array(Keep::All, &TOOL_CALL)),
                                    ("function_call", FUNCTION),
                                ]),
                            ),
                        ]),
                    ),
                ),
            ]),
            event: Select::Object(&[
                ("object", Select::Scalar),
                ("id", Select::Scalar),
                ("service_tier", Select::Scalar),
                ("model", Select::Scalar),
                ("usage", Select::All),
                ("x_groq", GROQ),
                ("error", Select::All),
                (
                    "choices",
                    Select::Array(
                        Keep::All,
                        &Select::Object(&[
                            ("index", Select::Scalar),
                            ("finish_reason", Select::Scalar),
                            ("stop_reason", Select::Scalar),
                            ("text", $delta),
                            ("message", Select::Object(&[("content", $delta)])),
                            ("usage", Select::All),
                            (
                                "delta",
                                Select::Object(&[
                                    ("content", $delta),
                                    ("reasoning_content", Select::Mark),
                                    ("reasoning", Select::Mark),
                                    ("refusal", Select::Mark),
                                    ("audio", Select::Mark),
                                    ("tool_calls", Select::Array(Keep::All, &TOOL_CALL)),
                                    ("function_call", FUNCTION),
                                ]),
                            ),
                        ]),
                    ),
                ),
            ]),
        }
    };
}

const PARTS: Select = Select::Array(Keep::All, &Select::Object(&[("text", Select::Scalar)]));
/// Mistral writes content as a list of parts.
const CONTENT: Select = Select::Either(&Select::Scalar, &PARTS);

pub(in crate::provider) static WITHOUT_CONTENT: Selection = selection!(
    Select::Array(Keep::First(1), &ROLE),
    Select::Mark,
    Select::Mark
);
pub(in crate::provider) static WITH_CONTENT: Selection = selection!(
    Select::Array(
        Keep::Ends(SHOWN, is_shown),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    ),
    CONTENT,
    CONTENT
);

/// See the module.
pub(in crate::provider) struct Chat;

impl Provider for Chat {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method == Method::POST
            && let Some(model) = vertex::openai(&head.path)
        {
            return Some(Recognized {
                model: Some(model),
                provider: "vertex_ai",
                certainty: Certainty::Certain,
                ..recognized(head, OPERATION)
            });
        }
        posted(head, &[(PATH, OPERATION)]).or_else(|| {
            // Known hosts have other operations than chat; those are not guessed at.
            let guessed = head.method == Method::POST && is_json(head) && hosts::of(head).is_none();
            guessed.then(|| Recognized {
                certainty: Certainty::Possible,
                ..recognized(head, OPERATION)
            })
        })
    }

    fn by_shape(&self, head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some((provider(head), OPERATION))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI chat completions",
            endpoints: &[
                ("POST …/chat/completions", "chat"),
                ("POST …/deployments/MODEL/chat/completions", "chat"),
            ],
            bodies: "JSON; SSE",
            source: "openai-python 3.54 `types/chat`",
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
        let named = document.get("model").is_some_and(Value::is_string);
        let messages = document.get("messages").and_then(Value::as_array);
        // The path may name the model, or the server have but one.
        messages.is_some_and(|messages| match messages.first() {
            Some(message) => text(message, "role").is_some_and(|role| ROLES.contains(&role)),
            None => named,
        })
    }

    fn is_response(&self, document: &Value) -> bool {
        text(document, "object").is_some_and(|object| object.starts_with("chat.completion"))
            || document.get("choices").is_some_and(Value::is_array)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(limit) = call.input_limit() {
            let messages: Vec<&Value> = elements(document, "messages")
                .filter(|message| is_shown(message))
                .collect();
            let shown = &messages[messages.len().saturating_sub(SHOWN)..];
            call.input_lines(shown.iter().map(|message| preview::said(message, limit)));
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        usage(document, call);
        for (position, choice) in elements(document, "choices").enumerate() {
            let index = counter(choice, "index").unwrap_or(position as u64);
            call.finish_reason(index, text(choice, "finish_reason"));
            let Some(message) = choice.get("message") else {
                continue;
            };
            for (position, tool) in elements(message, "tool_calls").enumerate() {
                let place = (index, position as u64);
                call.tool_call(place, tool_name(tool));
                call.tool_id(place, text(tool, "id"));
                call.arguments(place, arguments(tool));
            }
            if let Some(function) = message.get("function_call") {
                let place = (index, u64::MAX);
                call.tool_call(place, text(function, "name"));
                call.arguments(place, counter(function, "arguments"));
            }
            if position == 0 {
                output(message.get("content"), call);
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
        let groq = document.get("x_groq").unwrap_or(&Value::Null);
        for document in [document, groq] {
            if document.get("error").is_some_and(|error| !error.is_null()) {
                call.stream_error(document);
            }
        }
        call.answer_fields(document);
        usage(document, call);
        for choice in elements(document, "choices") {
            let index = counter(choice, "index").unwrap_or(0);
            if let Some(delta) = choice.get("delta") {
                for key in [
                    "content",
                    "reasoning_content",
                    "reasoning",
                    "refusal",
                    "audio",
                ] {
                    if is_filled(delta, key) {
                        call.token();
                    }
                }
                for (position, tool) in elements(delta, "tool_calls").enumerate() {
                    call.token();
                    let position = counter(tool, "index").unwrap_or(position as u64);
                    let place = (index, position);
                    call.tool_call(place, tool_name(tool));
                    call.tool_id(place, text(tool, "id"));
                    call.more_arguments(place, arguments(tool));
                }
                if let Some(function) = delta.get("function_call") {
                    call.token();
                    let place = (index, u64::MAX);
                    call.tool_call(place, text(function, "name"));
                    call.more_arguments(place, counter(function, "arguments"));
                }
                if index == 0 {
                    output(delta.get("content"), call);
                }
            }
            if let Some(reason) = text(choice, "finish_reason") {
                call.finish_reason(index, Some(reason));
                call.terminal();
            }
        }
    }
}

/// infinium-o2 shows messages of these roles.
fn is_shown(message: &Value) -> bool {
    matches!(text(message, "role"), Some("system" | "user"))
}

fn tool_name(tool: &Value) -> Option<&str> {
    ["function", "custom"]
        .iter()
        .find_map(|kind| text(tool.get(kind)?, "name"))
}

/// How long the arguments are.
fn arguments(tool: &Value) -> Option<u64> {
    ["function", "custom"].iter().find_map(|kind| {
        let called = tool.get(kind)?;
        counter(called, "arguments").or_else(|| counter(called, "input"))
    })
}

fn output(content: Option<&Value>, call: &mut CallBuilder) {
    match content {
        Some(Value::String(text)) => call.output(text),
        Some(Value::Array(parts)) => {
            for part in parts {
                call.output(text(part, "text").unwrap_or_default());
            }
        }
        _ => {}
    }
}

/// The last usage that is not null counts: some hosts send it with every chunk.
pub(super) fn usage(document: &Value, call: &mut CallBuilder) {
    let groq = document.get("x_groq").and_then(|groq| groq.get("usage"));
    // Moonshot puts it into the choice.
    let moonshot = elements(document, "choices").filter_map(|choice| choice.get("usage"));
    for usage in groq
        .into_iter()
        .chain(moonshot)
        .chain(document.get("usage"))
        .filter(|usage| usage.is_object())
    {
        call.usage(usage);
    }
}
