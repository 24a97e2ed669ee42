//! Gemini Live over WebSocket (google-genai 3.4 `live.py`), of Google and of Vertex AI. A call is a turn: from
//! the client's first content, or where the server answers to speech from its first content, to
//! `turnComplete`. Keys may be written in camel or in snake case.

use serde_json::Value;

use super::{
    Certainty, Recognized,
    builder::CallBuilder,
    counter_of, elements,
    fields::{About, Count, Fields, Included},
    gemini::{self, either, is_audio},
    is_filled,
    session::{Dialogue, Spoken, Turns},
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are: those of requests in `setup`.
static FIELDS: Fields = Fields {
    request: gemini::FIELDS.request,
    answer: &[],
    usage: &[
        (Count::Prompt, &["promptTokenCount", "prompt_token_count"]),
        (
            Count::Completion,
            &["responseTokenCount", "response_token_count"],
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

/// The method's name, with which the path ends but for `Constrained` (ephemeral tokens).
const METHOD: &str = "BidiGenerateContent";

const SETUP: Select = Select::Object(&[
    ("model", Select::Scalar),
    ("generationConfig", gemini::CONFIG),
    ("generation_config", gemini::CONFIG),
]);
const FUNCTIONS: Select =
    Select::Object(&[("functionCalls", FUNCTION), ("function_calls", FUNCTION)]);
const FUNCTION: Select = Select::Array(Keep::All, &Select::Object(&[("name", Select::Scalar)]));

macro_rules! spoken {
    ($turns:expr, $text:expr) => {
        Spoken {
            sent: Select::Object(&[
                ("setup", SETUP),
                ("clientContent", $turns),
                ("client_content", $turns),
                ("realtimeInput", Select::Object(&[("text", $text)])),
                ("realtime_input", Select::Object(&[("text", $text)])),
                ("toolResponse", Select::Mark),
                ("tool_response", Select::Mark),
            ]),
            received: Select::Object(&[
                ("error", Select::All),
                ("usageMetadata", Select::All),
                ("usage_metadata", Select::All),
                ("serverContent", content!($text)),
                ("server_content", content!($text)),
                ("toolCall", FUNCTIONS),
                ("tool_call", FUNCTIONS),
            ]),
        }
    };
}
macro_rules! content {
    ($text:expr) => {
        Select::Object(&[
            ("modelTurn", parts!($text)),
            ("model_turn", parts!($text)),
            ("outputTranscription", Select::Object(&[("text", $text)])),
            ("output_transcription", Select::Object(&[("text", $text)])),
            ("inputTranscription", Select::Object(&[("text", $text)])),
            ("input_transcription", Select::Object(&[("text", $text)])),
            ("turnComplete", Select::Scalar),
            ("turn_complete", Select::Scalar),
            ("turnCompleteReason", Select::Scalar),
            ("turn_complete_reason", Select::Scalar),
            ("interrupted", Select::Scalar),
        ])
    };
}
macro_rules! parts {
    ($text:expr) => {
        Select::Object(&[
            ("role", Select::Scalar),
            (
                "parts",
                Select::Array(
                    Keep::All,
                    &Select::Object(&[
                        ("text", $text),
                        ("thought", Select::Scalar),
                        ("inlineData", Select::Mark),
                        ("inline_data", Select::Mark),
                    ]),
                ),
            ),
        ])
    };
}

static WITHOUT_CONTENT: Spoken = spoken!(Select::Mark, Select::Mark);
static WITH_CONTENT: Spoken = spoken!(
    Select::Object(&[(
        "turns",
        Select::Array(Keep::Last(2), &parts!(Select::Scalar))
    )]),
    Select::Scalar
);

/// See the module.
pub(super) struct GeminiLive;

impl Dialogue for GeminiLive {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let (_, method) = head.path.rsplit_once(['.', '/'])?;
        let rest = method.strip_prefix(METHOD)?;
        if !matches!(rest, "" | "Constrained") {
            return None;
        }
        let vertex = head.path.contains("google.cloud.aiplatform.");
        Some(Recognized {
            provider: if vertex { "vertex_ai" } else { "google" },
            operation: "realtime",
            model: None,
            stream: true,
            certainty: Certainty::Certain,
        })
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Gemini Live",
            endpoints: &[
                (
                    "WebSocket …GenerativeService.BidiGenerateContent",
                    "realtime",
                ),
                ("WebSocket …LlmBidiService/BidiGenerateContent", "realtime"),
            ],
            bodies: "messages of JSON; a call is a turn",
            source: "google-genai 3.4 `live.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Spoken; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn sent(&self, message: &Value, turns: &mut Turns) {
        if let Some(setup) = message.get("setup") {
            turns.setup(setup);
            if let Some(model) = text(setup, "model") {
                turns.request_model(model.rsplit('/').next().unwrap_or(model));
            }
        }
        let content = either(message, "clientContent", "client_content");
        for said in content
            .into_iter()
            .flat_map(|content| elements(content, "turns"))
        {
            let role = text(said, "role").unwrap_or("user");
            for part in elements(said, "parts") {
                turns.input(role, text(part, "text").unwrap_or_default());
            }
        }
        let typed = either(message, "realtimeInput", "realtime_input")
            .filter(|input| is_filled(input, "text"));
        if let Some(typed) = typed {
            turns.input("user", text(typed, "text").unwrap_or_default());
        }
        // Speech flows all the time: when the model answers to it the server decides.
        let tool = either(message, "toolResponse", "tool_response");
        let said = content.or(typed).is_some();
        if said || tool.is_some() {
            // One that is complete may still be waiting for its usage. Content that comes in the middle of an
            // answer interrupts it.
            if !turns.has(|turn| !turn.is_complete()) || (said && turns.are_answered()) {
                turns.begin_by_client();
            }
        }
    }

    fn received(&self, message: &Value, turns: &mut Turns) {
        let content = either(message, "serverContent", "server_content");
        let functions = either(message, "toolCall", "tool_call");
        let usage = either(message, "usageMetadata", "usage_metadata");
        let heard =
            content.and_then(|one| either(one, "inputTranscription", "input_transcription"));
        if let Some(heard) = heard {
            turns.input("user", text(heard, "text").unwrap_or_default());
        }
        let answers = functions.is_some()
            || content.is_some_and(|content| {
                either(content, "modelTurn", "model_turn").is_some()
                    || either(content, "outputTranscription", "output_transcription").is_some()
            });
        if answers {
            turns.end(|turn| turn.is_complete());
            if turns.is_idle() {
                turns.begin_by_server();
            }
        }
        // Usage by itself is that of a turn that is complete, also where the client has begun the next.
        let late = usage.is_some() && content.or(functions).is_none();
        let late = late && turns.has(|turn| turn.is_complete());
        let any = !turns.has(|turn| turn.is_complete() == late);
        let Some(turn) = turns.find(|turn| any || turn.is_complete() == late) else {
            return;
        };
        if message.get("error").is_some_and(Value::is_object) {
            turn.call.stream_error(message);
        }
        if let Some(content) = content {
            said(content, &mut turn.call);
        }
        for function in functions.into_iter().flat_map(|functions| {
            elements(functions, "functionCalls").chain(elements(functions, "function_calls"))
        }) {
            turn.call.token();
            turn.call.another_tool_call(text(function, "name"));
        }
        let counted = usage.is_some();
        if let Some(usage) = usage {
            count(usage, &mut turn.call);
        }
        let flag = |camel: &str, snake: &str| {
            content
                .and_then(|content| either(content, camel, snake))
                .and_then(Value::as_bool)
                == Some(true)
        };
        let failed = turn.call.is_terminal();
        let number = turn.number();
        if flag("turnComplete", "turn_complete") {
            turns.complete(number);
        }
        // The usage may come with the end of the turn or behind it.
        turns.end(|turn| turn.number() == number && (failed || (turn.is_complete() && counted)));
    }
}

/// What the model says.
fn said(content: &Value, call: &mut CallBuilder) {
    let turn = either(content, "modelTurn", "model_turn");
    for part in turn.into_iter().flat_map(|turn| elements(turn, "parts")) {
        let audio = is_filled(part, "inlineData") || is_filled(part, "inline_data");
        if audio || is_filled(part, "text") {
            call.token();
        }
        if part.get("thought").and_then(Value::as_bool) != Some(true) {
            call.output(text(part, "text").unwrap_or_default());
        }
    }
    if let Some(spoken) = either(content, "outputTranscription", "output_transcription") {
        if is_filled(spoken, "text") {
            call.token();
        }
        call.output(text(spoken, "text").unwrap_or_default());
    }
    let reason = either(content, "turnCompleteReason", "turn_complete_reason");
    if let Some(reason) = reason.and_then(Value::as_str) {
        call.finish_reason(0, Some(reason));
    } else if content.get("interrupted").and_then(Value::as_bool) == Some(true) {
        call.finish_reason(0, Some("interrupted"));
    }
}

fn count(usage: &Value, call: &mut CallBuilder) {
    call.usage(usage);
    for (count, details) in [
        (Count::AudioInput, "promptTokensDetails"),
        (Count::AudioInput, "prompt_tokens_details"),
        (Count::AudioOutput, "responseTokensDetails"),
        (Count::AudioOutput, "response_tokens_details"),
    ] {
        let audio = elements(usage, details).find(|one| is_audio(one));
        let tokens = audio.and_then(|one| either(one, "tokenCount", "token_count"));
        call.count(count, tokens.and_then(counter_of));
    }
}
