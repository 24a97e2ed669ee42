//! llama.cpp's own completions (tools/server/README.md of ggml-org/llama.cpp). Its other paths speak the formats
//! of OpenAI, Anthropic and Ollama.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    fields::{About, Count, Field, Fields, Included},
    is_filled, text,
};
use crate::{body::json::Select, http::RequestHead};

/// Where its fields are. Its answers are their own usage.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("max_tokens"), &["n_predict"]),
        (Field::Parameter("top_p"), &["top_p"]),
        (Field::Parameter("top_k"), &["top_k"]),
        (
            Field::Parameter("frequency_penalty"),
            &["frequency_penalty"],
        ),
        (Field::Parameter("presence_penalty"), &["presence_penalty"]),
        (Field::Parameter("seed"), &["seed"]),
    ],
    answer: &[(Field::ResponseModel, &["model"])],
    usage: &[
        (Count::Prompt, &["tokens_evaluated"]),
        (Count::Completion, &["tokens_predicted"]),
        (Count::CacheRead, &["timings.cache_n"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// What an answer says about usage.
const USAGE: &[&str] = &[
    "tokens_evaluated",
    "tokens_predicted",
    "tokens_cached",
    "timings",
];

/// Ends of the path.
const PATHS: &[&str] = &["/completion", "/completions", "/infill"];

macro_rules! selection {
    ($text:expr) => {{
        const ANSWER: Select = Select::Object(&[
            ("model", Select::Scalar),
            ("content", $text),
            ("stop", Select::Scalar),
            ("stop_type", Select::Scalar),
            ("tokens_evaluated", Select::Scalar),
            ("tokens_predicted", Select::Scalar),
            ("tokens_cached", Select::Scalar),
            ("timings", Select::All),
            ("error", Select::All),
        ]);
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                ("n_predict", Select::Scalar),
                ("top_p", Select::Scalar),
                ("top_k", Select::Scalar),
                ("frequency_penalty", Select::Scalar),
                ("presence_penalty", Select::Scalar),
                ("seed", Select::Scalar),
                ("prompt", Select::Either(&$text, &Select::Mark)),
                ("input_prefix", Select::Mark),
            ]),
            response: ANSWER,
            event: ANSWER,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar);

/// See the module.
pub(super) struct LlamaCpp;

impl Provider for LlamaCpp {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        // `/v1/completions` is OpenAI's.
        let on_path = PATHS.contains(&head.path.as_str());
        (head.method == Method::POST && on_path).then_some(Recognized {
            provider: "llama_cpp",
            operation: "text_completion",
            model: None,
            stream: false,
            certainty: Certainty::Possible,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // It does not speak HTTP/2, of which paths get lost.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "llama.cpp",
            endpoints: &[
                ("POST /completion", "text_completion"),
                ("POST /completions", "text_completion"),
                ("POST /infill", "text_completion"),
            ],
            bodies: "JSON; SSE",
            source: "tools/server/README.md of ggml-org/llama.cpp",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("prompt").is_some() || document.get("input_prefix").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("content").is_some() && document.get("stop").is_some_and(Value::is_boolean)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(prompt) = text(document, "prompt") {
            call.input(prompt);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        call.output(text(document, "content").unwrap_or_default());
        if document.get("stop") != Some(&Value::Bool(true)) {
            return;
        }
        let usage = USAGE
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), document.get(*name)?.clone())));
        call.usage(&Value::Object(usage.collect()));
        call.finish_reason(0, text(document, "stop_type"));
        call.terminal();
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        if document.get("error").is_some_and(|error| !error.is_null()) {
            call.stream_error(document);
        }
        if is_filled(document, "content") {
            call.token();
        }
        self.response(document, call);
    }
}
