//! OpenAI chat completions, and everything that speaks that format (openai-python 3.54
//! `types/chat`). xAI is told by its name, as infinium-o2 does.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, preview, text, vertex,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are. Some hosts have a usage of their own: DeepSeek and Moonshot their caches, OpenRouter,
/// Perplexity and xAI their prices.
pub(super) static FIELDS: Fields = Fields {
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
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[
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
    ],
    cost: &[
        ("cost", 1.0),
        ("cost.total_cost", 1.0),
        ("cost_in_usd_ticks", 1e10),
    ],
    cached: Included::Yes,
    // xAI leaves it out.
    reasoning: Included::Likely,
};

/// The end of the path of chat completions.
const PATH: &str = "/chat/completions";

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
const FUNCTION: Select = Select::Object(&[("name", Select::Scalar)]);
const TOOL_CALL: Select = Select::Object(&[
    ("index", Select::Scalar),
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
                ("messages", $messages),
            ]),
            response: Select::Object(&[
                ("object", Select::Scalar),
                ("id", Select::Scalar),
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
                            ("usage", Select::All),
                            (
                                "delta",
                                Select::Object(&[
                                    ("content", $delta),
                                    ("reasoning_content", Select::Mark),
                                    ("reasoning", Select::Mark),
                                    ("refusal", Select::Mark),
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

pub(super) static WITHOUT_CONTENT: Selection = selection!(
    Select::Array(Keep::First(1), &ROLE),
    Select::Mark,
    Select::Mark
);
pub(super) static WITH_CONTENT: Selection = selection!(
    Select::Array(
        Keep::Ends(SHOWN, is_shown),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    ),
    CONTENT,
    CONTENT
);

/// See the module.
pub(super) struct OpenAi;

impl Provider for OpenAi {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let host = head.host.as_deref().unwrap_or_default();
        let known = hosts::of(head);
        let on_vertex = vertex::openai(&head.path);
        let named_xai = [host, &head.path].iter().any(|place| {
            ["x.ai", "grok", "xai"]
                .iter()
                .any(|name| place.contains(name))
        });
        let on_path = on_vertex.is_some() || head.path.ends_with(PATH);
        let certainty = match (on_path, known) {
            (true, Some(_)) => Certainty::Certain,
            (true, None) => Certainty::Likely,
            // Known hosts have other operations than chat; those are not guessed at.
            (false, Some(_)) => return None,
            (false, None) if is_json(head) => Certainty::Possible,
            (false, None) => return None,
        };
        Some(Recognized {
            provider: if named_xai {
                "xai"
            } else {
                known.unwrap_or("openai")
            },
            operation: "chat",
            // Azure names the deployment in the path; the body may not have it.
            model: on_vertex.or_else(|| {
                let (_, rest) = head.path.split_once("/deployments/")?;
                rest.split('/').next().map(str::to_owned)
            }),
            stream: false,
            certainty,
        })
    }

    fn by_shape(&self, head: &RequestHead) -> Option<(&'static str, &'static str)> {
        let host = head.host.as_deref().unwrap_or_default();
        Some((hosts::provider(host).unwrap_or("openai"), "chat"))
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

    fn selection(&self, content: bool) -> &'static Selection {
        if content {
            &WITH_CONTENT
        } else {
            &WITHOUT_CONTENT
        }
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("model").is_some_and(Value::is_string)
            && document
                .get("messages")
                .and_then(Value::as_array)
                .is_some_and(|messages| {
                    messages.first().is_none_or(|message| {
                        text(message, "role").is_some_and(|role| ROLES.contains(&role))
                    })
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
            let shown: Vec<String> = messages[messages.len().saturating_sub(SHOWN)..]
                .iter()
                .map(|message| {
                    preview::message(
                        text(message, "role").unwrap_or_default(),
                        message.get("content"),
                        limit,
                    )
                })
                .collect();
            if !shown.is_empty() {
                call.input(&shown.join("\n"));
            }
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
                call.tool_call((index, position as u64), tool_name(tool));
            }
            call.tool_call(
                (index, u64::MAX),
                message
                    .get("function_call")
                    .and_then(|function| text(function, "name")),
            );
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
                for key in ["content", "reasoning_content", "reasoning", "refusal"] {
                    if is_filled(delta, key) {
                        call.token();
                    }
                }
                for (position, tool) in elements(delta, "tool_calls").enumerate() {
                    call.token();
                    let position = counter(tool, "index").unwrap_or(position as u64);
                    call.tool_call((index, position), tool_name(tool));
                }
                if let Some(function) = delta.get("function_call") {
                    call.token();
                    call.tool_call((index, u64::MAX), text(function, "name"));
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

fn is_json(head: &RequestHead) -> bool {
    head.headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

fn tool_name(tool: &Value) -> Option<&str> {
    ["function", "custom"]
        .iter()
        .find_map(|kind| text(tool.get(kind)?, "name"))
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
fn usage(document: &Value, call: &mut CallBuilder) {
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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn recognize(
        method: Method,
        host: Option<&str>,
        path: &str,
    ) -> Option<(&'static str, Certainty)> {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let head = RequestHead {
            method,
            path: path.to_owned(),
            query: String::new(),
            host: host.map(str::to_owned),
            port: None,
            headers,
            partial: false,
        };
        OpenAi
            .recognize(&head)
            .map(|recognized| (recognized.provider, recognized.certainty))
    }

    #[test]
    fn hosts_and_paths_tell_the_provider() {
        for (host, path, expected) in [
            (
                "api.openai.com",
                "/v1/chat/completions",
                ("openai", Certainty::Certain),
            ),
            (
                "eu.api.openai.com",
                "/v1/chat/completions",
                ("openai", Certainty::Certain),
            ),
            (
                "api.x.ai",
                "/v1/chat/completions",
                ("xai", Certainty::Certain),
            ),
            // A substring counts, as with infinium-o2.
            (
                "matrix.ai",
                "/v1/chat/completions",
                ("xai", Certainty::Likely),
            ),
            (
                "localhost",
                "/xai/v1/chat/completions",
                ("xai", Certainty::Likely),
            ),
            (
                "proxy.local",
                "/grok/chat/completions",
                ("xai", Certainty::Likely),
            ),
            (
                "api.groq.com",
                "/openai/v1/chat/completions",
                ("groq", Certainty::Certain),
            ),
            (
                "api.mistral.ai",
                "/v1/chat/completions",
                ("mistral", Certainty::Certain),
            ),
            (
                "api.deepseek.com",
                "/chat/completions",
                ("deepseek", Certainty::Certain),
            ),
            (
                "r.openai.azure.com",
                "/openai/v1/chat/completions",
                ("azure_openai", Certainty::Certain),
            ),
            (
                "notapi.openai.com.evil",
                "/v1/chat/completions",
                ("openai", Certainty::Likely),
            ),
            (
                "evilapi.openai.com",
                "/v1/chat/completions",
                ("openai", Certainty::Likely),
            ),
            (
                "127.0.0.1",
                "/v1/chat/completions",
                ("openai", Certainty::Likely),
            ),
            ("127.0.0.1", "/anything", ("openai", Certainty::Possible)),
        ] {
            assert_eq!(
                recognize(Method::POST, Some(host), path),
                Some(expected),
                "{host}{path}"
            );
        }
        assert_eq!(
            recognize(Method::POST, None, "/v1/chat/completions"),
            Some(("openai", Certainty::Likely))
        );
    }

    #[test]
    fn other_requests_are_none() {
        for (method, host, path) in [
            (Method::GET, "api.openai.com", "/v1/chat/completions"),
            (Method::OPTIONS, "api.openai.com", "/v1/chat/completions"),
            (
                Method::DELETE,
                "api.openai.com",
                "/v1/chat/completions/chatcmpl-1",
            ),
            (Method::POST, "api.openai.com", "/v1/embeddings"),
            (
                Method::POST,
                "api.groq.com",
                "/openai/v1/audio/transcriptions",
            ),
        ] {
            assert_eq!(recognize(method, Some(host), path), None, "{path}");
        }
    }
}
