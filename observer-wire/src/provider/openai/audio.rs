//! OpenAI's speech, transcriptions and translations (openai-python 3.54 `types/audio`). Speech is answered
//! with audio, or with events that hold it; transcriptions with JSON, plain text, subtitles or events.

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

/// Where its fields are. Whisper's usage is a duration, in seconds, which is kept as it is.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["temperature"]),
        (Field::Stream, &["stream"]),
        (Field::Parameter("voice"), &["voice.id", "voice"]),
        (Field::Parameter("language"), &["language"]),
        (Field::Parameter("output_format"), &["response_format"]),
    ],
    answer: &[(Field::ResponseModel, &["model"])],
    usage: &[
        (Count::Prompt, &["input_tokens", "prompt_tokens"]),
        (Count::Completion, &["output_tokens", "completion_tokens"]),
        (Count::Total, &["total_tokens"]),
        (
            Count::AudioInput,
            &[
                "input_token_details.audio_tokens",
                "input_tokens_details.audio_tokens",
            ],
        ),
        (
            Count::AudioOutput,
            &[
                "output_token_details.audio_tokens",
                "output_tokens_details.audio_tokens",
            ],
        ),
    ],
    cost: &[("cost", 1.0)],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The ends of the paths.
const PATHS: &[(&str, &str)] = &[
    ("/audio/speech", "speech"),
    ("/audio/transcriptions", "transcription"),
    ("/audio/translations", "translation"),
];

macro_rules! selection {
    ($input:expr, $text:expr) => {
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("temperature", Select::Scalar),
                ("stream", Select::Scalar),
                (
                    "voice",
                    Select::Either(&Select::Scalar, &Select::Object(&[("id", Select::Scalar)])),
                ),
                ("language", Select::Scalar),
                ("response_format", Select::Scalar),
                ("input", $input),
                ("file", Select::Mark),
            ]),
            response: Select::Object(&[
                ("model", Select::Scalar),
                ("text", $text),
                ("usage", Select::All),
            ]),
            event: Select::Object(&[
                ("type", Select::Scalar),
                ("delta", $text),
                ("audio", Select::Mark),
                ("usage", Select::All),
                ("error", Select::All),
            ]),
        }
    };
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark, Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar, Select::Scalar);

/// See the module.
pub(in crate::provider) struct Audio;

impl Provider for Audio {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        posted(head, PATHS)
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // Speech is audio, and anything may have a text.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI audio",
            endpoints: &[
                ("POST …/audio/speech", "speech"),
                ("POST …/audio/transcriptions", "transcription"),
                ("POST …/audio/translations", "translation"),
            ],
            bodies: "JSON, multipart/form-data; audio, JSON, text, SSE",
            source: "openai-python 3.54 `types/audio`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        text(document, "model").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        document.get("text").is_some()
            || text(document, "type")
                .is_some_and(|kind| kind.starts_with("transcript.") || kind.starts_with("speech."))
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(input) = input_text(document.get("input")) {
            call.input(&input);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        call.output(text(document, "text").unwrap_or_default());
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else {
            return;
        };
        if document.get("error").is_some_and(|error| !error.is_null()) {
            call.stream_error(document);
        }
        if is_filled(document, "delta") || is_filled(document, "audio") {
            call.token();
        }
        call.output(text(document, "delta").unwrap_or_default());
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        // `transcript.text.done`, `speech.audio.done`
        if text(document, "type").is_some_and(|kind| kind.ends_with(".done")) {
            call.terminal();
        }
    }
}
