//! OpenAI Realtime over WebSocket (openai-python 3.54 `types/realtime`), and servers that speak it: Azure,
//! xAI. A call is a response: from the client's `response.create`, or where the server answers by itself
//! (voice activity detection) from `response.created`, to `response.done`. Sessions that only transcribe or
//! translate have no responses and give no calls.

use serde_json::Value;

use super::super::{
    Certainty, Recognized,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, percent,
    session::{Dialogue, Spoken, Turns},
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are: those of requests in `session` and in `response`.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (
            Field::Parameter("max_tokens"),
            &["max_output_tokens", "max_response_output_tokens"],
        ),
        (Field::Parameter("reasoning_level"), &["reasoning.effort"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[
        (Count::Prompt, &["input_tokens"]),
        (Count::Completion, &["output_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["input_token_details.cached_tokens"]),
        (Count::AudioInput, &["input_token_details.audio_tokens"]),
        (Count::AudioOutput, &["output_token_details.audio_tokens"]),
        // Not in the SDK's types; as in Responses.
        (Count::Reasoning, &["output_token_details.reasoning_tokens"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The end of the path.
const PATH: &str = "/realtime";

/// The error of a `response.create` that comes while another response is under way.
const ALREADY_ACTIVE: &str = "conversation_already_has_active_response";

const ASKED: Select = Select::Object(&[
    ("model", Select::Scalar),
    ("temperature", Select::Scalar),
    ("max_output_tokens", Select::Scalar),
    ("max_response_output_tokens", Select::Scalar),
    ("reasoning", Select::Object(&[("effort", Select::Scalar)])),
]);

macro_rules! spoken {
    ($item:expr, $text:expr) => {
        Spoken {
            sent: Select::Object(&[
                ("type", Select::Scalar),
                ("event_id", Select::Scalar),
                ("session", ASKED),
                ("response", ASKED),
                ("item", $item),
            ]),
            received: Select::Object(&[
                ("type", Select::Scalar),
                ("response_id", Select::Scalar),
                ("output_index", Select::Scalar),
                ("delta", $text),
                ("transcript", $text),
                ("error", Select::All),
                ("session", Select::Object(&[("model", Select::Scalar)])),
                (
                    "item",
                    Select::Object(&[
                        ("type", Select::Scalar),
                        ("name", Select::Scalar),
                        ("call_id", Select::Scalar),
                        ("arguments", Select::Length),
                    ]),
                ),
                (
                    "response",
                    Select::Object(&[
                        ("id", Select::Scalar),
                        ("model", Select::Scalar),
                        ("status", Select::Scalar),
                        ("status_details", Select::All),
                        ("usage", Select::All),
                        (
                            "output",
                            Select::Array(
                                Keep::All,
                                &Select::Object(&[
                                    ("type", Select::Scalar),
                                    ("name", Select::Scalar),
                                    ("call_id", Select::Scalar),
                                    ("arguments", Select::Length),
                                ]),
                            ),
                        ),
                    ]),
                ),
            ]),
        }
    };
}

static WITHOUT_CONTENT: Spoken = spoken!(Select::Mark, Select::Mark);
static WITH_CONTENT: Spoken = spoken!(
    Select::Object(&[
        ("role", Select::Scalar),
        (
            "content",
            Select::Array(Keep::Last(4), &Select::Object(&[("text", Select::Scalar)]))
        ),
    ]),
    Select::Scalar
);

/// See the module.
pub(in crate::provider) struct Realtime;

impl Dialogue for Realtime {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if !head.path.ends_with(PATH) {
            return None;
        }
        let known = hosts::of(head);
        let parameter = |name: &str| {
            head.query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, value)| *key == name && !value.is_empty())
                .map(|(_, value)| percent::decoded(value))
        };
        // Azure names its deployment.
        let model = parameter("model").or_else(|| parameter("deployment"));
        Some(Recognized {
            provider: known.unwrap_or("openai"),
            operation: "realtime",
            certainty: if known.is_some() || model.is_some() {
                Certainty::Certain
            } else {
                Certainty::Likely
            },
            model,
            stream: true,
        })
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI Realtime",
            endpoints: &[("WebSocket …/realtime", "realtime")],
            bodies: "messages of JSON; a call is a response",
            source: "openai-python 3.54 `types/realtime`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Spoken; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn sent(&self, message: &Value, turns: &mut Turns) {
        match text(message, "type").unwrap_or_default() {
            "session.update" => {
                if let Some(session) = message.get("session") {
                    turns.setup(session);
                }
            }
            "conversation.item.create" => {
                if let Some(item) = message.get("item") {
                    let role = text(item, "role").unwrap_or_default();
                    for part in elements(item, "content") {
                        turns.input(role, text(part, "text").unwrap_or_default());
                    }
                }
            }
            "response.create" => {
                // An error that nothing followed was that of the response.
                turns.end(|turn| turn.key.is_none() && turn.is_at_fault());
                let Some(turn) = turns.begin_by_client() else {
                    return;
                };
                turn.tag = text(message, "event_id").map(str::to_owned);
                let number = turn.number();
                if let Some(response) = message.get("response") {
                    turn.call.request_fields(response);
                }
                if turns.claim(text(message, "event_id")) {
                    turns.end(|turn| turn.number() == number);
                }
            }
            _ => {}
        }
    }

    fn received(&self, message: &Value, turns: &mut Turns) {
        let kind = text(message, "type").unwrap_or_default();
        match kind {
            "session.created" | "session.updated" => {
                if let Some(model) = message.get("session").and_then(|one| text(one, "model")) {
                    turns.request_model(model);
                    turns.response_model(model);
                }
            }
            "conversation.item.input_audio_transcription.completed" => {
                turns.input("user", text(message, "transcript").unwrap_or_default());
            }
            "error" => fail(message, turns),
            "response.created" => {
                if let Some(response) = message.get("response") {
                    let turn = match turns.find(|turn| turn.key.is_none()) {
                        Some(_) => turns.find(|turn| turn.key.is_none()),
                        None => Some(turns.begin_by_server()),
                    };
                    if let Some(turn) = turn {
                        turn.forgive();
                        turn.key = Some(text(response, "id").unwrap_or_default().to_owned());
                        turn.call.answer_fields(response);
                    }
                }
            }
            "response.done" => {
                if let Some(response) = message.get("response") {
                    done(response, turns);
                }
            }
            _ => {
                let Some(id) = text(message, "response_id") else {
                    return;
                };
                let Some(turn) = turns.find(|turn| turn.key.as_deref() == Some(id)) else {
                    return;
                };
                if let (Some(index), Some(item)) =
                    (counter(message, "output_index"), message.get("item"))
                {
                    tool_call(index, item, &mut turn.call);
                }
                if kind.ends_with(".delta") && is_filled(message, "delta") {
                    turn.call.token();
                    if matches!(
                        kind,
                        "response.output_text.delta"
                            | "response.text.delta"
                            | "response.output_audio_transcript.delta"
                            | "response.audio_transcript.delta"
                    ) {
                        turn.call.output(text(message, "delta").unwrap_or_default());
                    }
                }
            }
        }
    }
}

/// An error. If the client numbers its messages, it says which it is about.
fn fail(message: &Value, turns: &mut Turns) {
    let error = message.get("error").unwrap_or(&Value::Null);
    if let Some(id) = text(error, "event_id") {
        if let Some(turn) = turns.find(|turn| turn.tag.as_deref() == Some(id)) {
            turn.call.stream_error(message);
            turns.end(|turn| turn.tag.as_deref() == Some(id));
        } else {
            turns.stray(message);
        }
        return;
    }
    let waits = turns.find(|turn| turn.key.is_none()).is_some();
    let Some(turn) = turns.find(|turn| !waits || turn.key.is_none()) else {
        return;
    };
    // What follows tells whether it was about this response.
    turn.fault(message);
    if waits && text(error, "code") == Some(ALREADY_ACTIVE) {
        turns.end(|turn| turn.key.is_none() && turn.is_at_fault());
    }
}

/// A response is over.
fn done(response: &Value, turns: &mut Turns) {
    let id = text(response, "id").unwrap_or_default();
    let known = turns.find(|turn| turn.key.as_deref() == Some(id)).is_some();
    if !known {
        // That it was created was lost.
        match turns.find(|turn| turn.key.is_none()) {
            Some(turn) => turn.key = Some(id.to_owned()),
            None => {
                let turn = turns.begin_by_server();
                turn.key = Some(id.to_owned());
                turn.lost();
            }
        }
    }
    let Some(turn) = turns.find(|turn| turn.key.as_deref() == Some(id)) else {
        return;
    };
    turn.forgive();
    turn.call.answer_fields(response);
    if let Some(usage) = response.get("usage") {
        turn.call.usage(usage);
    }
    for (index, item) in (0..).zip(elements(response, "output")) {
        tool_call(index, item, &mut turn.call);
    }
    let details = response.get("status_details").unwrap_or(&Value::Null);
    let reason = text(details, "reason");
    turn.call
        .finish_reason(0, reason.or_else(|| text(response, "status")));
    if details.get("error").is_some_and(Value::is_object) {
        turn.call.stream_error(details);
    }
    turn.cancelled = reason == Some("client_cancelled");
    turns.end(|turn| turn.key.as_deref() == Some(id));
}

fn tool_call(index: u64, item: &Value, call: &mut CallBuilder) {
    let kind = text(item, "type").unwrap_or_default();
    if kind.ends_with("_call") {
        let place = (0, index);
        call.tool_call(place, text(item, "name").or(Some(kind)));
        call.tool_id(place, text(item, "call_id"));
        let arguments = counter(item, "arguments").or_else(|| counter(item, "input"));
        call.arguments(place, arguments);
    }
}
