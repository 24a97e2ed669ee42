//! OpenAI's images: made, changed and varied (openai-python 3.54 `types/image*.py`). Answers hold them in
//! base64 and are large.

use serde_json::Value;

use super::{input_text, posted};
use crate::{
    body::json::Select,
    http::RequestHead,
    provider::{
        Event, Provider, Recognized, Selection,
        builder::CallBuilder,
        fields::{About, Count, Field, Fields, Included},
        is_filled, text,
    },
};

/// Where its fields are. The usage as it is says how many tokens were text and how many images.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("choice_count"), &["n"]),
        (Field::Parameter("size"), &["size"]),
        (Field::Parameter("quality"), &["quality"]),
        (Field::Parameter("output_format"), &["output_format"]),
    ],
    answer: &[(Field::ResponseModel, &["model"])],
    usage: &[
        (Count::Prompt, &["input_tokens", "prompt_tokens"]),
        (Count::Completion, &["output_tokens", "completion_tokens"]),
        (Count::Total, &["total_tokens"]),
        (Count::CacheRead, &["input_tokens_details.cached_tokens"]),
    ],
    cost: &[("cost", 1.0), ("cost_in_usd_ticks", 1e10)],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

const OPERATION: &str = "image_generation";

/// The ends of the paths.
const PATHS: &[(&str, &str)] = &[
    ("/images/generations", OPERATION),
    ("/images/edits", OPERATION),
    ("/images/variations", OPERATION),
];

macro_rules! selection {
    ($prompt:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("stream", Select::Scalar),
                ("n", Select::Scalar),
                ("size", Select::Scalar),
                ("quality", Select::Scalar),
                ("output_format", Select::Scalar),
                ("prompt", $prompt),
                ("image", Select::Mark),
            ]),
            response: Select::Object(&[
                ("created", Select::Scalar),
                ("model", Select::Scalar),
                ("data", Select::Mark),
                ("usage", Select::All),
            ]),
            event: Select::Object(&[
                ("type", Select::Scalar),
                ("usage", Select::All),
                ("b64_json", Select::Mark),
                ("error", Select::All),
            ]),
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar);

/// See the module.
pub(in crate::provider) struct Images;

impl Provider for Images {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        posted(head, PATHS)
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // Anything may have a prompt and data.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI images",
            endpoints: &[
                ("POST …/images/generations", OPERATION),
                ("POST …/images/edits", OPERATION),
                ("POST …/images/variations", OPERATION),
            ],
            bodies: "JSON, multipart/form-data; JSON, SSE",
            source: "openai-python 3.54 `types/image*.py`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        // DALL·E 2 need not be named, but others have paths like these.
        document.get("model").is_some()
            && (document.get("prompt").is_some() || document.get("image").is_some())
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("created").is_some() && document.get("data").is_some()
            || text(document, "type").is_some_and(|kind| kind.starts_with("image_"))
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(prompt) = input_text(document.get("prompt")) {
            call.input(&prompt);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else {
            return;
        };
        if document.get("error").is_some_and(|error| !error.is_null()) {
            call.stream_error(document);
        }
        if is_filled(document, "b64_json") {
            call.token();
        }
        // `image_generation.completed`, `image_edit.completed`
        if text(document, "type").is_some_and(|kind| kind.ends_with(".completed")) {
            call.terminal();
        }
        self.response(document, call);
    }
}
