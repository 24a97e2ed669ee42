//! GenerateContent and StreamGenerateContent over gRPC, of Gemini (descriptors of
//! google-ai-generativelanguage 0.12.1, `google.ai.generativelanguage.v1beta`) and of Vertex AI
//! (`google.cloud.aiplatform.v1`), whose fields have other numbers. Messages become the documents of the
//! REST API.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Messages, Provider, Recognized,
    builder::CallBuilder,
    fields::About,
    gemini::{self, Gemini},
    text,
};
use crate::{
    body::protobuf::{Field, Keep, Kind, Message},
    http::RequestHead,
};

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

static NAMED: Message = Message(&[one(1, "name", Kind::Text)]);
static FEEDBACK: Message = Message(&[one(1, "block_reason", Kind::Integer)]);

/// Numbers of one of the two services.
macro_rules! messages {
    (
        request: $model:literal $contents:literal $config:literal,
        content: $parts:literal,
        part: $text:literal $call:literal $thought:literal,
        config: $temperature:literal $max:literal $top_p:literal $top_k:literal $top_k_kind:expr,
        response: $candidates:literal $feedback:literal $usage:literal $version:literal $id:literal,
        candidate: $content:literal $reason:literal $index:literal,
        usage: $cached:literal $thoughts:literal $($tools:literal)?
    ) => {
        static CONFIG: Message = Message(&[
            one($temperature, "temperature", Kind::Float),
            one($max, "max_output_tokens", Kind::Integer),
            one($top_p, "top_p", Kind::Float),
            one($top_k, "top_k", $top_k_kind),
        ]);
        static USAGE: Message = Message(&[
            one(1, "prompt_token_count", Kind::Integer),
            one(2, "candidates_token_count", Kind::Integer),
            one(3, "total_token_count", Kind::Integer),
            $(one($tools, "tool_use_prompt_token_count", Kind::Integer),)?
            one($cached, "cached_content_token_count", Kind::Integer),
            one($thoughts, "thoughts_token_count", Kind::Integer),
        ]);
        static SHOWN_PART: Message = Message(&[
            one($text, "text", Kind::Text),
            one($call, "function_call", Kind::Message(&NAMED)),
            one($thought, "thought", Kind::Bool),
        ]);
        static SHOWN_CONTENT: Message =
            Message(&[all($parts, "parts", Kind::Message(&SHOWN_PART))]);
        static SHOWN_CANDIDATE: Message = Message(&[
            one($content, "content", Kind::Message(&SHOWN_CONTENT)),
            one($reason, "finish_reason", Kind::Integer),
            one($index, "index", Kind::Integer),
        ]);
        static PART: Message = Message(&[
            one($text, "text", Kind::Mark),
            one($call, "function_call", Kind::Message(&NAMED)),
            one($thought, "thought", Kind::Bool),
        ]);
        static CONTENT: Message = Message(&[all($parts, "parts", Kind::Message(&PART))]);
        static CANDIDATE: Message = Message(&[
            one($content, "content", Kind::Message(&CONTENT)),
            one($reason, "finish_reason", Kind::Integer),
            one($index, "index", Kind::Integer),
        ]);
        const fn response(candidate: &'static Message) -> [Field; 5] {
            [
                all($candidates, "candidates", Kind::Message(candidate)),
                one($feedback, "prompt_feedback", Kind::Message(&FEEDBACK)),
                one($usage, "usage_metadata", Kind::Message(&USAGE)),
                one($version, "model_version", Kind::Text),
                one($id, "response_id", Kind::Text),
            ]
        }
        static FIELDS: [Field; 5] = response(&CANDIDATE);
        static SHOWN_FIELDS: [Field; 5] = response(&SHOWN_CANDIDATE);
        pub(super) static WITHOUT_CONTENT: Messages = Messages {
            request: Message(&[
                one($model, "model", Kind::Text),
                one($config, "generation_config", Kind::Message(&CONFIG)),
                one($contents, "contents", Kind::Mark),
            ]),
            response: Message(&FIELDS),
            event: Message(&FIELDS),
        };
        pub(super) static WITH_CONTENT: Messages = Messages {
            request: Message(&[
                one($model, "model", Kind::Text),
                one($config, "generation_config", Kind::Message(&CONFIG)),
                Field {
                    number: $contents,
                    name: "contents",
                    keep: Keep::Last(2),
                    kind: Kind::Message(&SHOWN_CONTENT),
                },
            ]),
            response: Message(&SHOWN_FIELDS),
            event: Message(&SHOWN_FIELDS),
        };
    };
}

mod generative_language {
    use super::*;
    messages! {
        request: 1 2 4,
        content: 1,
        part: 2 4 11,
        config: 5 4 6 7 Kind::Integer,
        response: 1 2 3 4 5,
        candidate: 1 2 3,
        usage: 4 10 8
    }
}

mod ai_platform {
    use super::*;
    messages! {
        request: 5 2 4,
        content: 2,
        part: 1 5 10,
        config: 1 5 2 3 Kind::Float,
        response: 2 3 4 11 13,
        candidate: 2 3 1,
        usage: 5 14
    }
}

/// A service; see the module.
pub(super) struct GeminiGrpc {
    about: &'static About,
    provider: &'static str,
    /// Its package, before the version, and its name.
    package: &'static str,
    service: &'static str,
    /// How the names of its models begin.
    models: [&'static str; 2],
    with_content: &'static Messages,
    without_content: &'static Messages,
}

/// Gemini.
pub(super) const GEMINI: GeminiGrpc = GeminiGrpc {
    about: &About {
        title: "Gemini over gRPC",
        endpoints: &[
            (
                "/google.ai.generativelanguage.VERSION.GenerativeService/GenerateContent",
                "generate_content",
            ),
            (
                "/google.ai.generativelanguage.VERSION.GenerativeService/StreamGenerateContent",
                "generate_content",
            ),
        ],
        bodies: "protobuf; a stream of it",
        source: "google-ai-generativelanguage 0.12.1",
        fields: &gemini::FIELDS,
    },
    provider: "google",
    package: "google.ai.generativelanguage.",
    service: ".GenerativeService",
    models: ["models/", "tunedModels/"],
    with_content: &generative_language::WITH_CONTENT,
    without_content: &generative_language::WITHOUT_CONTENT,
};

/// Vertex AI.
pub(super) const VERTEX: GeminiGrpc = GeminiGrpc {
    about: &About {
        title: "Vertex AI over gRPC",
        endpoints: &[
            (
                "/google.cloud.aiplatform.VERSION.PredictionService/GenerateContent",
                "generate_content",
            ),
            (
                "/google.cloud.aiplatform.VERSION.PredictionService/StreamGenerateContent",
                "generate_content",
            ),
        ],
        bodies: "protobuf; a stream of it",
        source: "`google.cloud.aiplatform.v1`",
        fields: &gemini::FIELDS,
    },
    provider: "vertex_ai",
    package: "google.cloud.aiplatform.",
    service: ".PredictionService",
    models: ["projects/", "publishers/"],
    with_content: &ai_platform::WITH_CONTENT,
    without_content: &ai_platform::WITHOUT_CONTENT,
};

impl Provider for GeminiGrpc {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        recognize(head, self.provider, self.package, self.service)
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some((self.provider, "generate_content"))
    }

    fn about(&self) -> &'static About {
        self.about
    }

    fn messages(&self, content: bool) -> Option<&'static Messages> {
        Some(if content {
            self.with_content
        } else {
            self.without_content
        })
    }

    fn is_request(&self, document: &Value) -> bool {
        is_request(document, &self.models)
    }

    fn is_response(&self, document: &Value) -> bool {
        Gemini.is_response(document)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        request(document, call);
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        Gemini.chunk(document, call);
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        Gemini.event(name, data, call);
    }
}

fn recognize(
    head: &RequestHead,
    provider: &'static str,
    package: &str,
    service: &str,
) -> Option<Recognized> {
    if head.method != Method::POST {
        return None;
    }
    let (place, method) = head.path.strip_prefix('/')?.rsplit_once('/')?;
    // Between package and service stands the version.
    place.strip_prefix(package)?.strip_suffix(service)?;
    let stream = match method {
        "GenerateContent" => false,
        "StreamGenerateContent" => true,
        _ => return None,
    };
    Some(Recognized {
        provider,
        operation: "generate_content",
        model: None,
        stream,
        certainty: Certainty::Certain,
    })
}

fn is_request(document: &Value, resources: &[&str]) -> bool {
    let model = text(document, "model").unwrap_or_default();
    document.get("contents").is_some() && resources.iter().any(|name| model.starts_with(name))
}

fn request(document: &Value, call: &mut CallBuilder) {
    // `models/NAME`, `tunedModels/NAME`, `projects/…/publishers/google/models/NAME`.
    let model = text(document, "model").and_then(|model| model.rsplit('/').next());
    call.request_model(model);
    Gemini.request(document, call);
}
