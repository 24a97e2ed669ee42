//! InvokeModel and InvokeModelWithResponseStream of AWS Bedrock: bodies are those of the model's vendor, and
//! the events of a stream are in base64. What the vendor is the bodies tell, since the name of a model may be
//! an ARN that tells nothing (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html>).

use serde_json::{Map, Value};

use super::{
    Event, Failure, Provider, Recognized, Selection,
    anthropic::{self, Anthropic},
    bedrock::{self, Converse},
    builder::CallBuilder,
    counter_of, elements,
    fields::{About, Count, Field, Fields, Included, find},
    is_filled,
    openai::chat::{self, Chat},
    sdk::Exception,
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::{RequestHead, ResponseHead},
};

/// Where its fields are, of all vendors.
static FIELDS: Fields = Fields {
    request: &[
        (
            Field::Temperature,
            &[
                "temperature",
                "inferenceConfig.temperature",
                "textGenerationConfig.temperature",
            ],
        ),
        (
            Field::Parameter("max_tokens"),
            &[
                "max_completion_tokens",
                "max_tokens",
                "max_gen_len",
                "max_tokens_to_sample",
                "inferenceConfig.maxTokens",
                "inferenceConfig.max_new_tokens",
                "textGenerationConfig.maxTokenCount",
                "maxTokens",
            ],
        ),
        (
            Field::Parameter("top_p"),
            &[
                "top_p",
                "p",
                "inferenceConfig.topP",
                "inferenceConfig.top_p",
                "textGenerationConfig.topP",
                "topP",
            ],
        ),
        (
            Field::Parameter("top_k"),
            &[
                "top_k",
                "k",
                "inferenceConfig.topK",
                "inferenceConfig.top_k",
            ],
        ),
        (
            Field::Parameter("frequency_penalty"),
            &["frequency_penalty"],
        ),
        (Field::Parameter("presence_penalty"), &["presence_penalty"]),
        (Field::Parameter("seed"), &["seed"]),
        (
            Field::Parameter("choice_count"),
            &["n", "num_generations", "numResults"],
        ),
        (Field::Parameter("reasoning_level"), &["reasoning_effort"]),
    ],
    answer: &[
        (Field::ResponseModel, &["model"]),
        (Field::ResponseId, &["id"]),
    ],
    usage: &[
        (
            Count::Prompt,
            &[
                "input_tokens",
                "inputTokens",
                "prompt_tokens",
                "prompt_token_count",
                "inputTextTokenCount",
                "inputTokenCount",
            ],
        ),
        (
            Count::Completion,
            &[
                "output_tokens",
                "outputTokens",
                "completion_tokens",
                "generation_token_count",
                "totalOutputTextTokenCount",
                "tokenCount",
                "outputTokenCount",
            ],
        ),
        (
            Count::CacheRead,
            &[
                "cache_read_input_tokens",
                "cacheReadInputTokens",
                "cacheReadInputTokenCount",
            ],
        ),
        (
            Count::CacheWrite,
            &[
                "cache_creation_input_tokens",
                "cacheWriteInputTokens",
                "cacheWriteInputTokenCount",
            ],
        ),
        (
            Count::Reasoning,
            &[
                "output_tokens_details.thinking_tokens",
                "output_tokens_details.reasoning_tokens",
            ],
        ),
    ],
    cost: &[],
    cached: Included::No,
    reasoning: Included::Yes,
};

/// What Bedrock itself adds to the last event of any vendor.
const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// Header fields with counts, of answers in one piece.
const INPUT_TOKENS: &str = "x-amzn-bedrock-input-token-count";
const OUTPUT_TOKENS: &str = "x-amzn-bedrock-output-token-count";

/// Counts that some vendors have beside the text instead of in a usage: Meta and Amazon's Titan.
const COUNTS: &[&str] = &[
    "prompt_token_count",
    "generation_token_count",
    "inputTextTokenCount",
    "totalOutputTextTokenCount",
];

/// Events of Converse, which Amazon's Nova nests in its own.
const NESTED: &[&str] = &[
    "contentBlockStart",
    "contentBlockDelta",
    "messageStop",
    "metadata",
];

macro_rules! parts {
    ($text:expr) => {
        Select::Array(
            Keep::All,
            &Select::Object(&[
                ("text", $text),
                ("outputText", $text),
                ("data", Select::Object(&[("text", $text)])),
                ("tokenCount", Select::Scalar),
                ("stop_reason", Select::Scalar),
                ("finish_reason", Select::Scalar),
                ("completionReason", Select::Scalar),
                (
                    "finishReason",
                    Select::Object(&[("reason", Select::Scalar)]),
                ),
            ]),
        )
    };
}

/// What is kept of vendors whose formats are in no other file.
macro_rules! others {
    (request $text:expr) => {
        &[
            ("anthropic_version", Select::Scalar),
            ("max_gen_len", Select::Scalar),
            ("max_tokens_to_sample", Select::Scalar),
            ("maxTokens", Select::Scalar),
            ("topP", Select::Scalar),
            ("p", Select::Scalar),
            ("k", Select::Scalar),
            ("num_generations", Select::Scalar),
            ("numResults", Select::Scalar),
            ("schemaVersion", Select::Scalar),
            ("taskType", Select::Scalar),
            ("input_type", Select::Scalar),
            (
                "textGenerationConfig",
                Select::Object(&[
                    ("temperature", Select::Scalar),
                    ("topP", Select::Scalar),
                    ("maxTokenCount", Select::Scalar),
                ]),
            ),
            ("prompt", $text),
            ("inputText", $text),
            ("message", $text),
            ("texts", Select::Mark),
            ("documents", Select::Mark),
            ("query", Select::Mark),
        ]
    };
    (answer $text:expr) => {
        &[
            ("prompt_token_count", Select::Scalar),
            ("generation_token_count", Select::Scalar),
            ("inputTextTokenCount", Select::Scalar),
            ("totalOutputTextTokenCount", Select::Scalar),
            ("stop_reason", Select::Scalar),
            ("finish_reason", Select::Scalar),
            ("completionReason", Select::Scalar),
            ("generation", $text),
            ("outputText", $text),
            ("completion", $text),
            ("text", $text),
            ("embedding", Select::Mark),
            ("embeddings", Select::Mark),
            ("embeddingsByType", Select::Mark),
            ("images", Select::Mark),
            (METRICS, Select::All),
            ("results", parts!($text)),
            ("outputs", parts!($text)),
            ("generations", parts!($text)),
            ("completions", parts!($text)),
        ]
    };
}

/// All vendors' members together.
macro_rules! joined {
    ($part:ident, $others:expr, $content:ident) => {{
        const OTHERS: Members = $others;
        const OBJECTS: &[Members] = &[
            OTHERS,
            anthropic::$content.$part.members(),
            chat::$content.$part.members(),
            bedrock::$content.$part.members(),
        ];
        static JOINED: [(&str, Select); count(OBJECTS)] = Select::joined(OBJECTS);
        Select::Object(&JOINED)
    }};
}

type Members = &'static [(&'static str, Select)];

const fn count(objects: &[Members]) -> usize {
    let (mut count, mut object) = (0, 0);
    while object < objects.len() {
        count += objects[object].len();
        object += 1;
    }
    count
}

macro_rules! selection {
    ($content:ident, $text:expr) => {
        Selection {
            request: joined!(request, others!(request $text), $content),
            response: joined!(response, others!(answer $text), $content),
            event: {
                static NESTED: [(&str, Select); 4] = [
                    ("contentBlockStart", bedrock::$content.event),
                    ("contentBlockDelta", bedrock::$content.event),
                    ("messageStop", bedrock::$content.event),
                    ("metadata", bedrock::$content.event),
                ];
                const OWN: Members = others!(answer $text);
                static ALL: [(&str, Select); NESTED.len() + OWN.len()] =
                    Select::joined(&[&NESTED, OWN]);
                joined!(event, &ALL, $content)
            },
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(WITHOUT_CONTENT, Select::Mark);
static WITH_CONTENT: Selection = selection!(WITH_CONTENT, Select::Scalar);

/// See the module.
pub(super) struct Invoke;

impl Provider for Invoke {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        let recognized =
            bedrock::recognize(head, &["InvokeModel", "InvokeModelWithResponseStream"])?;
        let embeds = recognized
            .model
            .as_ref()
            .is_some_and(|model| model.contains("embed"));
        Some(Recognized {
            operation: if embeds { "embeddings" } else { "chat" },
            ..recognized
        })
    }

    /// A body of any vendor's format is more likely one of that vendor.
    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "AWS Bedrock InvokeModel",
            endpoints: &[
                (
                    "POST …/model/MODEL/invoke",
                    "by body: chat, text_completion, embeddings, generate_content",
                ),
                (
                    "POST …/model/MODEL/invoke-with-response-stream",
                    "by body, as above",
                ),
            ],
            bodies: "JSON of the vendor; AWS event stream of it, in base64",
            source: "botocore 1.44 `data/bedrock-runtime/2023-09-30`, Bedrock's user guide",
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
        operation(document).is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        Anthropic.is_response(document)
            || Chat.is_response(document)
            || Converse.is_response(document)
            || ["embedding", "embeddings", "embeddingsByType", METRICS]
                .iter()
                .any(|key| document.get(key).is_some())
            || !parts(document).is_empty()
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        // Titan's embeddings have nothing but the text: what the model's name says stays.
        let operation = operation(document)
            .filter(|name| *name != "text_completion" || !call.is_operation("embeddings"));
        if let Some(operation) = operation {
            call.operation(operation);
        }
        if document.get("anthropic_version").is_some() {
            Anthropic.request(document, call);
        } else if document.get("inferenceConfig").is_some()
            || document.get("schemaVersion").is_some()
        {
            call.request_fields(document);
            bedrock::show(document, call);
        } else if document.get("messages").is_some() {
            Chat.request(document, call);
        } else {
            call.request_fields(document);
            let prompt = ["prompt", "inputText", "message"]
                .iter()
                .find_map(|key| text(document, key));
            if let Some(prompt) = prompt {
                call.input(prompt);
            }
        }
    }

    fn response_head(&self, head: &ResponseHead, call: &mut CallBuilder) {
        bedrock::response_head(head, call);
        let number = |name: &str| head.headers.get(name)?.to_str().ok()?.parse().ok();
        call.count(Count::Prompt, number(INPUT_TOKENS));
        call.count(Count::Completion, number(OUTPUT_TOKENS));
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        if Anthropic.is_response(document) {
            Anthropic.response(document, call);
        } else if Chat.is_response(document) {
            call.read_as(&chat::FIELDS);
            Chat.response(document, call);
            choices(document, call);
        } else if document.get("output").is_some() {
            Converse.response(document, call);
        } else {
            other(document, call);
            let embeds = ["embedding", "embeddings", "embeddingsByType"];
            if embeds.iter().any(|key| document.get(key).is_some()) {
                call.operation("embeddings");
            }
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        let nested = NESTED
            .iter()
            .find_map(|name| Some((*name, document.get(*name)?)));
        if let Some((name, event)) = nested {
            Converse.event(name, &Event::Json(event), call);
        } else if document.get("type").is_some() {
            Anthropic.event("", data, call);
        } else if Chat.is_response(document) {
            call.read_as(&chat::FIELDS);
            Chat.event("", data, call);
            choices(document, call);
        } else {
            other(document, call);
        }
        if let Some(metrics) = document.get(METRICS) {
            call.usage_unless_known(metrics, &FIELDS);
            call.terminal();
        }
    }

    fn error(&self, failure: &Failure<'_>, call: &CallBuilder) -> Exception {
        bedrock::error(failure, call)
    }

    fn wrapped(&self) -> Option<&'static str> {
        Some("bytes")
    }
}

/// What a request asks for, as far as its body tells.
fn operation(document: &Value) -> Option<&'static str> {
    let has = |key: &str| document.get(key).is_some();
    let task = text(document, "taskType").unwrap_or_default();
    match () {
        () if has("messages") || has("message") => Some("chat"),
        () if has("texts") || has("input_type") || task.contains("EMBEDDING") => Some("embeddings"),
        () if !task.is_empty() => Some("generate_content"),
        () if has("documents") && has("query") => Some("rerank"),
        () if has("prompt") || has("inputText") => Some("text_completion"),
        () => None,
    }
}

/// The parts of an answer of one of the other vendors, or the answer itself if it has none.
fn parts(document: &Value) -> Vec<&Value> {
    let parts: Vec<&Value> = ["results", "outputs", "generations", "completions"]
        .iter()
        .flat_map(|key| elements(document, key))
        .collect();
    let own = ["generation", "outputText", "completion", "text"]
        .iter()
        .any(|key| document.get(key).is_some());
    if parts.is_empty() && own {
        vec![document]
    } else {
        parts
    }
}

/// Reads an answer, or an event, of one of the other vendors.
fn other(document: &Value, call: &mut CallBuilder) {
    call.answer_fields(document);
    let mut usage: Map<String, Value> = COUNTS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), document.get(*key)?.clone())))
        .collect();
    let mut tokens = None;
    for (index, part) in (0..).zip(parts(document)) {
        let shown = ["generation", "outputText", "completion", "text"]
            .iter()
            .map(|key| (part, *key))
            .chain(part.get("data").map(|data| (data, "text")))
            .find(|(value, key)| is_filled(value, key));
        if let Some((value, key)) = shown {
            call.token();
            if index == 0 {
                call.output(text(value, key).unwrap_or_default());
            }
        }
        finish(index, part, call);
        if let Some(count) = part.get("tokenCount").and_then(counter_of) {
            tokens = Some(tokens.unwrap_or(0_u64).saturating_add(count));
        }
    }
    // The last event may be nothing but the reason.
    finish(0, document, call);
    if let Some(tokens) = tokens {
        usage.insert("tokenCount".to_owned(), tokens.into());
    }
    if let Some(own) = document.get("usage") {
        call.usage(own);
    }
    call.usage(&Value::Object(usage));
}

/// What Mistral's and DeepSeek's models have in the choices of OpenAI's format: other reasons, and texts of
/// completions.
fn choices(document: &Value, call: &mut CallBuilder) {
    for (index, choice) in (0..).zip(elements(document, "choices")) {
        if is_filled(choice, "text") {
            call.token();
            if index == 0 {
                call.output(text(choice, "text").unwrap_or_default());
            }
        }
        // The message of a stream may come as a whole.
        if call.is_stream()
            && let Some(message) = choice.get("message")
            && is_filled(message, "content")
        {
            call.token();
            call.output(text(message, "content").unwrap_or_default());
        }
        finish(index, choice, call);
    }
}

fn finish(choice: u64, part: &Value, call: &mut CallBuilder) {
    const PLACES: &[&str] = &[
        "stop_reason",
        "finish_reason",
        "completionReason",
        "finishReason.reason",
    ];
    if let Some(reason) = find(part, PLACES).and_then(Value::as_str) {
        call.finish_reason(choice, Some(reason));
        call.terminal();
    }
}
