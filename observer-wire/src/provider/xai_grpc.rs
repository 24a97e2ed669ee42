//! xAI's chat service over gRPC (descriptors of xai-sdk 1.21.0, package `xai_api`).

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Messages, Provider, Recognized,
    builder::CallBuilder,
    counter, elements,
    fields::{self, About, Count, Fields, Included},
    is_filled, text,
};
use crate::{
    body::protobuf::{Field, Keep, Kind, Message},
    http::RequestHead,
};

/// Where its fields are, by their names in the descriptors.
static FIELDS: Fields = Fields {
    request: &[
        (fields::Field::Model, &["model"]),
        (fields::Field::Temperature, &["temperature"]),
        (fields::Field::Parameter("max_tokens"), &["max_tokens"]),
        (fields::Field::Parameter("top_p"), &["top_p"]),
        (fields::Field::Parameter("seed"), &["seed"]),
        (fields::Field::Parameter("choice_count"), &["n"]),
    ],
    answer: &[
        (fields::Field::ResponseModel, &["model"]),
        (fields::Field::ResponseId, &["id"]),
    ],
    usage: &[
        (Count::Prompt, &["prompt_tokens"]),
        (Count::Completion, &["completion_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["cached_prompt_text_tokens"]),
        (Count::Reasoning, &["reasoning_tokens"]),
    ],
    cost: &[("cost_in_usd_ticks", 1e10)],
    cached: Included::Yes,
    reasoning: Included::Likely,
};

const SERVICE: &str = "/xai_api.Chat/";

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        keep: Keep::One,
        kind,
    }
}

const fn all(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        keep: Keep::All,
        kind,
    }
}

static USAGE: Message = Message(&[
    one(1, "completion_tokens", Kind::Integer),
    one(2, "prompt_tokens", Kind::Integer),
    one(3, "total_tokens", Kind::Integer),
    one(6, "reasoning_tokens", Kind::Integer),
    one(7, "cached_prompt_text_tokens", Kind::Integer),
    one(11, "cost_in_usd_ticks", Kind::Integer),
]);
static FUNCTION: Message = Message(&[one(1, "name", Kind::Text)]);
static TOOL_CALL: Message = Message(&[one(10, "function", Kind::Message(&FUNCTION))]);

/// A message of an answer, or what is added to one.
const fn answer(content: Kind) -> [Field; 3] {
    [
        one(1, "content", content),
        all(3, "tool_calls", Kind::Message(&TOOL_CALL)),
        one(4, "reasoning_content", Kind::Mark),
    ]
}

static ANSWER_FIELDS: [Field; 3] = answer(Kind::Mark);
static SHOWN_ANSWER_FIELDS: [Field; 3] = answer(Kind::Text);
static ANSWER: Message = Message(&ANSWER_FIELDS);
static SHOWN_ANSWER: Message = Message(&SHOWN_ANSWER_FIELDS);

/// `CompletionOutput`.
const fn output(answer: &'static Message) -> [Field; 3] {
    [
        one(1, "finish_reason", Kind::Integer),
        one(2, "index", Kind::Integer),
        one(3, "message", Kind::Message(answer)),
    ]
}

/// `CompletionOutputChunk`.
const fn chunk(answer: &'static Message) -> [Field; 3] {
    [
        one(1, "message", Kind::Message(answer)),
        one(3, "finish_reason", Kind::Integer),
        one(4, "index", Kind::Integer),
    ]
}

static OUTPUT_FIELDS: [Field; 3] = output(&ANSWER);
static SHOWN_OUTPUT_FIELDS: [Field; 3] = output(&SHOWN_ANSWER);
static CHUNK_FIELDS: [Field; 3] = chunk(&ANSWER);
static SHOWN_CHUNK_FIELDS: [Field; 3] = chunk(&SHOWN_ANSWER);
static OUTPUT: Message = Message(&OUTPUT_FIELDS);
static SHOWN_OUTPUT: Message = Message(&SHOWN_OUTPUT_FIELDS);
static CHUNK: Message = Message(&CHUNK_FIELDS);
static SHOWN_CHUNK: Message = Message(&SHOWN_CHUNK_FIELDS);

/// `GetChatCompletionResponse`.
const fn response(output: &'static Message) -> [Field; 4] {
    [
        one(1, "id", Kind::Text),
        all(2, "outputs", Kind::Message(output)),
        one(6, "model", Kind::Text),
        one(9, "usage", Kind::Message(&USAGE)),
    ]
}

/// `GetChatCompletionChunk`.
const fn event(output: &'static Message) -> [Field; 4] {
    [
        one(1, "id", Kind::Text),
        all(2, "outputs", Kind::Message(output)),
        one(4, "model", Kind::Text),
        one(6, "usage", Kind::Message(&USAGE)),
    ]
}

static RESPONSE: [Field; 4] = response(&OUTPUT);
static SHOWN_RESPONSE: [Field; 4] = response(&SHOWN_OUTPUT);
static EVENT: [Field; 4] = event(&CHUNK);
static SHOWN_EVENT: [Field; 4] = event(&SHOWN_CHUNK);

static WITHOUT_CONTENT: Messages = Messages {
    request: Message(&[
        one(1, "messages", Kind::Mark),
        one(2, "model", Kind::Text),
        one(7, "max_tokens", Kind::Integer),
        one(8, "n", Kind::Integer),
        one(11, "seed", Kind::Integer),
        one(14, "temperature", Kind::Float),
        one(15, "top_p", Kind::Float),
    ]),
    response: Message(&RESPONSE),
    event: Message(&EVENT),
};

static CONTENT: Message = Message(&[one(1, "text", Kind::Text)]);
static MESSAGE: Message = Message(&[
    all(1, "content", Kind::Message(&CONTENT)),
    one(2, "role", Kind::Integer),
]);
static WITH_CONTENT: Messages = Messages {
    request: Message(&[
        Field {
            number: 1,
            name: "messages",
            keep: Keep::Last(2),
            kind: Kind::Message(&MESSAGE),
        },
        one(2, "model", Kind::Text),
        one(7, "max_tokens", Kind::Integer),
        one(8, "n", Kind::Integer),
        one(11, "seed", Kind::Integer),
        one(14, "temperature", Kind::Float),
        one(15, "top_p", Kind::Float),
    ]),
    response: Message(&SHOWN_RESPONSE),
    event: Message(&SHOWN_EVENT),
};

/// `MessageRole`, as its names are in other formats.
const ROLES: &[&str] = &[
    "unknown",
    "user",
    "assistant",
    "system",
    "function",
    "tool",
    "developer",
];

/// `FinishReason`; 0 is none.
const FINISH_REASONS: &[&str] = &[
    "REASON_INVALID",
    "REASON_MAX_LEN",
    "REASON_MAX_CONTEXT",
    "REASON_STOP",
    "REASON_TOOL_CALLS",
    "REASON_TIME_LIMIT",
];

/// See the module.
pub(super) struct XaiGrpc;

impl Provider for XaiGrpc {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let stream = match head.path.strip_prefix(SERVICE)? {
            "GetCompletion" => false,
            "GetCompletionChunk" => true,
            _ => return None,
        };
        Some(Recognized {
            provider: "xai",
            operation: "chat",
            model: None,
            stream,
            certainty: Certainty::Certain,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // One of its messages has other fields in a stream, which only the path would tell.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "xAI over gRPC",
            endpoints: &[
                ("/xai_api.Chat/GetCompletion", "chat"),
                ("/xai_api.Chat/GetCompletionChunk", "chat"),
            ],
            bodies: "protobuf; a stream of it",
            source: "descriptors of xai-sdk 1.21.0",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn messages(&self, content: bool) -> Option<&'static Messages> {
        Some(if content {
            &WITH_CONTENT
        } else {
            &WITHOUT_CONTENT
        })
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("messages").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("outputs").is_some()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if call.input_limit().is_some() {
            let shown: Vec<String> = elements(document, "messages")
                .map(|message| {
                    let role = counter(message, "role").and_then(|role| named(ROLES, role));
                    let texts: Vec<&str> = elements(message, "content")
                        .filter_map(|content| text(content, "text"))
                        .collect();
                    format!("[{}] {}", role.unwrap_or("unknown"), texts.concat())
                })
                .collect();
            call.input_lines(shown);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        read(document, call);
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        if let Event::Json(document) = data {
            read(document, call);
        }
    }
}

fn read(document: &Value, call: &mut CallBuilder) {
    call.answer_fields(document);
    if let Some(usage) = document.get("usage") {
        call.usage(usage);
    }
    for output in elements(document, "outputs") {
        let index = counter(output, "index").unwrap_or(0);
        if let Some(message) = output.get("message") {
            if is_filled(message, "content") || is_filled(message, "reasoning_content") {
                call.token();
            }
            if index == 0 {
                call.output(text(message, "content").unwrap_or_default());
            }
            // A chunk has whole calls.
            for tool in elements(message, "tool_calls") {
                call.token();
                call.another_tool_call(tool.get("function").and_then(|tool| text(tool, "name")));
            }
        }
        if let Some(reason) = counter(output, "finish_reason").filter(|reason| *reason > 0) {
            let unknown = || format!("REASON_{reason}");
            let reason = named(FINISH_REASONS, reason).map_or_else(unknown, str::to_owned);
            call.finish_reason(index, Some(&reason));
            call.terminal();
        }
    }
}

fn named(names: &[&'static str], number: u64) -> Option<&'static str> {
    names.get(usize::try_from(number).ok()?).copied()
}
