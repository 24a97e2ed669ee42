//! Gemini generateContent and streamGenerateContent over REST (google-genai 3.4 `types.py`). Keys
//! may be written in camel or in snake case.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, counter_of, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, percent,
    repr::repr_without_base64,
    text, vertex,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are.
pub(super) static FIELDS: Fields = Fields {
    request: &[
        (
            Field::Temperature,
            &[
                "generationConfig.temperature",
                "generation_config.temperature",
            ],
        ),
        (
            Field::Parameter("max_tokens"),
            &[
                "generationConfig.maxOutputTokens",
                "generationConfig.max_output_tokens",
                "generation_config.maxOutputTokens",
                "generation_config.max_output_tokens",
            ],
        ),
        (
            Field::Parameter("top_p"),
            &[
                "generationConfig.topP",
                "generationConfig.top_p",
                "generation_config.topP",
                "generation_config.top_p",
            ],
        ),
        (
            Field::Parameter("top_k"),
            &[
                "generationConfig.topK",
                "generationConfig.top_k",
                "generation_config.topK",
                "generation_config.top_k",
            ],
        ),
        (
            Field::Parameter("frequency_penalty"),
            &[
                "generationConfig.frequencyPenalty",
                "generationConfig.frequency_penalty",
                "generation_config.frequencyPenalty",
                "generation_config.frequency_penalty",
            ],
        ),
        (
            Field::Parameter("presence_penalty"),
            &[
                "generationConfig.presencePenalty",
                "generationConfig.presence_penalty",
                "generation_config.presencePenalty",
                "generation_config.presence_penalty",
            ],
        ),
        (
            Field::Parameter("seed"),
            &["generationConfig.seed", "generation_config.seed"],
        ),
        (
            Field::Parameter("choice_count"),
            &[
                "generationConfig.candidateCount",
                "generationConfig.candidate_count",
                "generation_config.candidateCount",
                "generation_config.candidate_count",
            ],
        ),
        (
            Field::Parameter("reasoning_level"),
            &[
                "generationConfig.thinkingConfig.thinkingLevel",
                "generation_config.thinking_config.thinking_level",
            ],
        ),
    ],
    answer: &[
        (Field::ResponseModel, &["modelVersion", "model_version"]),
        (Field::ResponseId, &["responseId", "response_id"]),
    ],
    usage: &[
        (Count::Prompt, &["promptTokenCount", "prompt_token_count"]),
        (
            Count::Completion,
            &["candidatesTokenCount", "candidates_token_count"],
        ),
        (Count::Total, &["totalTokenCount", "total_token_count"]),
        (
            Count::CacheRead,
            &["cachedContentTokenCount", "cached_content_token_count"],
        ),
        (
            Count::Reasoning,
            &["thoughtsTokenCount", "thoughts_token_count"],
        ),
        (
            Count::ToolPrompt,
            &["toolUsePromptTokenCount", "tool_use_prompt_token_count"],
        ),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::No,
};

pub(super) const CONFIG: Select = Select::Object(&[
    ("temperature", Select::Scalar),
    ("maxOutputTokens", Select::Scalar),
    ("max_output_tokens", Select::Scalar),
    ("topP", Select::Scalar),
    ("top_p", Select::Scalar),
    ("topK", Select::Scalar),
    ("top_k", Select::Scalar),
    ("frequencyPenalty", Select::Scalar),
    ("frequency_penalty", Select::Scalar),
    ("presencePenalty", Select::Scalar),
    ("presence_penalty", Select::Scalar),
    ("seed", Select::Scalar),
    ("candidateCount", Select::Scalar),
    ("candidate_count", Select::Scalar),
    ("thinkingConfig", THINKING),
    ("thinking_config", THINKING),
]);
const THINKING: Select = Select::Object(&[
    ("thinkingLevel", Select::Scalar),
    ("thinking_level", Select::Scalar),
    ("thinkingBudget", Select::Scalar),
    ("thinking_budget", Select::Scalar),
]);
const FUNCTION: Select = Select::Object(&[
    ("id", Select::Scalar),
    ("name", Select::Scalar),
    ("args", Select::Length),
]);

macro_rules! selection {
    ($contents:expr, $text:expr) => {
        Selection {
            request: Select::Object(&[
                ("generationConfig", CONFIG),
                ("generation_config", CONFIG),
                ("contents", $contents),
            ]),
            response: response!($text),
            // Each chunk of a stream is a whole response.
            event: response!($text),
        }
    };
}
macro_rules! response {
    ($text:expr) => {
        Select::Object(&[
            ("error", Select::All),
            ("responseId", Select::Scalar),
            ("response_id", Select::Scalar),
            ("modelVersion", Select::Scalar),
            ("model_version", Select::Scalar),
            ("usageMetadata", Select::All),
            ("usage_metadata", Select::All),
            (
                "promptFeedback",
                Select::Object(&[
                    ("blockReason", Select::Scalar),
                    ("block_reason", Select::Scalar),
                ]),
            ),
            (
                "prompt_feedback",
                Select::Object(&[
                    ("blockReason", Select::Scalar),
                    ("block_reason", Select::Scalar),
                ]),
            ),
            (
                "candidates",
                Select::Array(
                    Keep::All,
                    &Select::Object(&[
                        ("index", Select::Scalar),
                        ("finishReason", Select::Scalar),
                        ("finish_reason", Select::Scalar),
                        (
                            "content",
                            Select::Object(&[(
                                "parts",
                                Select::Array(
                                    Keep::All,
                                    &Select::Object(&[
                                        ("text", $text),
                                        ("thought", Select::Scalar),
                                        ("functionCall", FUNCTION),
                                        ("function_call", FUNCTION),
                                    ]),
                                ),
                            )]),
                        ),
                    ]),
                ),
            ),
        ])
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(
    Select::Either(&Select::Array(Keep::Last(2), &Select::All), &Select::All),
    Select::Scalar
);

/// See the module.
pub(super) struct Gemini;

impl Provider for Gemini {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let (resource, verb) = head.path.rsplit_once(':')?;
        let stream = match verb {
            "generateContent" => false,
            "streamGenerateContent" => true,
            _ => return None,
        };
        Some(Recognized {
            provider: provider(head),
            operation: "generate_content",
            model: resource.rsplit('/').next().map(percent::decoded),
            stream,
            certainty: Certainty::Certain,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("google", "generate_content"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Gemini generateContent",
            endpoints: &[
                ("POST …/MODEL:generateContent", "generate_content"),
                ("POST …/MODEL:streamGenerateContent", "generate_content"),
            ],
            bodies: "JSON; SSE; JSON array",
            source: "google-genai 3.4 `types.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn messages_at(&self) -> &'static [&'static str] {
        &["contents"]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("contents").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        either(document, "candidates", "candidates").is_some()
            || either(document, "usageMetadata", "usage_metadata").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(limit) = call.input_limit() {
            let contents = match document.get("contents") {
                Some(Value::Array(contents)) => contents.iter().collect(),
                Some(content) => vec![content],
                None => Vec::new(),
            };
            let shown: Vec<String> = contents
                .iter()
                .map(|content| shown(content, limit))
                .collect();
            call.input_lines(shown);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        self.chunk(document, call);
    }

    /// Tool calls are not numbered: each event has its own.
    fn is_idempotent(&self) -> bool {
        false
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            self.chunk(document, call);
        }
    }
}

impl Gemini {
    /// Reads a response, of which each event of a stream is one.
    pub(super) fn chunk(&self, document: &Value, call: &mut CallBuilder) {
        if document.get("error").is_some_and(Value::is_object) {
            call.stream_error(document);
        }
        call.answer_fields(document);
        if let Some(usage) = either(document, "usageMetadata", "usage_metadata") {
            call.usage(usage);
            for (count, details) in [
                (Count::AudioInput, "promptTokensDetails"),
                (Count::AudioInput, "prompt_tokens_details"),
                (Count::AudioOutput, "candidatesTokensDetails"),
                (Count::AudioOutput, "candidates_tokens_details"),
            ] {
                let audio = elements(usage, details).find(|one| is_audio(one));
                let tokens = audio.and_then(|one| either(one, "tokenCount", "token_count"));
                call.count(count, tokens.and_then(counter_of));
            }
        }
        for (position, candidate) in elements(document, "candidates").enumerate() {
            let index = counter(candidate, "index").unwrap_or(position as u64);
            let parts = candidate
                .get("content")
                .into_iter()
                .flat_map(|content| elements(content, "parts"));
            for part in parts {
                if let Some(function) = either(part, "functionCall", "function_call") {
                    call.token();
                    let place = call.another_tool_call(text(function, "name"));
                    call.tool_id(place, text(function, "id"));
                    call.arguments(place, counter(function, "args"));
                }
                if is_filled(part, "text") {
                    call.token();
                }
                if index == 0 && part.get("thought").and_then(Value::as_bool) != Some(true) {
                    call.output(text(part, "text").unwrap_or_default());
                }
            }
            // The generated REST transport writes enumerations as integers.
            let reason = match either(candidate, "finishReason", "finish_reason") {
                Some(Value::String(reason)) => Some(reason.clone()),
                Some(Value::Number(number)) => {
                    Some(name(FINISH_REASONS, number.as_u64()).to_owned())
                }
                _ => None,
            };
            if let Some(reason) = reason {
                call.finish_reason(index, Some(&reason));
                call.terminal();
            }
        }
        let blocked = either(document, "promptFeedback", "prompt_feedback")
            .and_then(|feedback| either(feedback, "blockReason", "block_reason"));
        let reason = match blocked {
            Some(Value::String(reason)) => Some(reason.as_str()),
            Some(Value::Number(number)) => Some(name(BLOCK_REASONS, number.as_u64())),
            _ => None,
        };
        if let Some(reason) = reason {
            call.finish_reason(0, Some(reason));
            call.terminal();
        }
    }
}

/// Which of Google's services it is: a gateway has the paths, too.
pub(super) fn provider(head: &RequestHead) -> &'static str {
    let host = head.host.as_deref().unwrap_or_default();
    if vertex::is_path(&head.path) || hosts::provider(host) == Some("vertex_ai") {
        "vertex_ai"
    } else {
        "google"
    }
}

/// Whether a `ModalityTokenCount` counts audio; the generated REST transport writes its number.
pub(super) fn is_audio(details: &Value) -> bool {
    const AUDIO: u64 = 4;
    match details.get("modality") {
        Some(Value::String(name)) => name == "AUDIO",
        Some(number) => number.as_u64() == Some(AUDIO),
        None => false,
    }
}

/// `Candidate.FinishReason` of google.ai.generativelanguage.v1beta.
const FINISH_REASONS: &[&str] = &[
    "FINISH_REASON_UNSPECIFIED",
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "RECITATION",
    "OTHER",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MALFORMED_FUNCTION_CALL",
    "IMAGE_SAFETY",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_OTHER",
    "NO_IMAGE",
    "IMAGE_RECITATION",
];

/// `PromptFeedback.BlockReason` of google.ai.generativelanguage.v1beta.
const BLOCK_REASONS: &[&str] = &[
    "BLOCK_REASON_UNSPECIFIED",
    "SAFETY",
    "OTHER",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "IMAGE_SAFETY",
];

/// The name of a value of an enumeration.
fn name(names: &[&'static str], number: Option<u64>) -> &'static str {
    number
        .and_then(|number| names.get(usize::try_from(number).ok()?))
        .or(names.first())
        .copied()
        .unwrap_or_default()
}

/// Text parts joined; other parts as Python prints them.
pub(super) fn shown(content: &Value, limit: usize) -> String {
    let Some(parts) = content.get("parts") else {
        return repr_without_base64(content, limit.saturating_add(1));
    };
    let texts: Option<Vec<&str>> = parts
        .as_array()
        .and_then(|parts| parts.iter().map(|part| text(part, "text")).collect());
    match texts {
        Some(texts) => texts.concat(),
        None => repr_without_base64(parts, limit.saturating_add(1)),
    }
}

pub(super) fn either<'a>(value: &'a Value, camel: &str, snake: &str) -> Option<&'a Value> {
    value.get(camel).or_else(|| value.get(snake))
}
