//! Text generation as Hugging Face has it: TGI (huggingface/text-generation-inference, `docs/openapi.json`) and
//! the Inference API, whose models are in the path.

use http::{Method, header};
use serde_json::Value;

use super::{
    Certainty, Event, Provider, Recognized, Selection,
    builder::CallBuilder,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, percent, text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Model, &["model"]),
        (Field::Temperature, &["parameters.temperature"]),
        (Field::Stream, &["stream"]),
        (
            Field::Parameter("max_tokens"),
            &["parameters.max_new_tokens"],
        ),
        (Field::Parameter("top_p"), &["parameters.top_p"]),
        (Field::Parameter("top_k"), &["parameters.top_k"]),
        (Field::Parameter("seed"), &["parameters.seed"]),
    ],
    answer: &[],
    usage: &[
        (Count::Prompt, &["input_length"]),
        (Count::Completion, &["generated_tokens"]),
    ],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// Paths of TGI.
const PATHS: &[&str] = &["/generate", "/generate_stream"];

/// What stands before the model in paths of the Inference API.
const MODELS: &str = "/models/";

macro_rules! selection {
    ($text:expr) => {{
        const ANSWER: Select = Select::Object(&[
            ("generated_text", $text),
            (
                "token",
                Select::Object(&[("text", $text), ("special", Select::Scalar)]),
            ),
            (
                "details",
                Select::Object(&[
                    ("finish_reason", Select::Scalar),
                    ("generated_tokens", Select::Scalar),
                    ("input_length", Select::Scalar),
                ]),
            ),
            ("error", Select::Scalar),
            ("error_type", Select::Scalar),
        ]);
        const ONE_OR_MORE: Select = Select::Either(&ANSWER, &Select::Array(Keep::All, &ANSWER));
        Selection {
            request: Select::Object(&[
                ("model", Select::Scalar),
                ("stream", Select::Scalar),
                (
                    "parameters",
                    Select::Object(&[
                        ("temperature", Select::Scalar),
                        ("max_new_tokens", Select::Scalar),
                        ("top_p", Select::Scalar),
                        ("top_k", Select::Scalar),
                        ("seed", Select::Scalar),
                    ]),
                ),
                ("inputs", $text),
            ]),
            response: ONE_OR_MORE,
            event: ONE_OR_MORE,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(Select::Mark);
static WITH_CONTENT: Selection = selection!(Select::Scalar);

/// See the module.
pub(super) struct Tgi;

impl Provider for Tgi {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if head.method != Method::POST {
            return None;
        }
        let known = hosts::of(head);
        let model = (known == Some("huggingface"))
            .then(|| head.path.split_once(MODELS))
            .flatten()
            .map(|(_, model)| percent::decoded(model));
        // The library asks the root of a server of one's own, which answers both ways.
        let by_sdk = head.headers.get(header::USER_AGENT).is_some_and(|agent| {
            agent
                .to_str()
                .is_ok_and(|agent| agent.contains("hf_hub/") && head.path == "/")
        });
        let on_path = by_sdk || model.is_some() || PATHS.contains(&head.path.as_str());
        on_path.then(|| Recognized {
            provider: known.unwrap_or("huggingface"),
            operation: "text_completion",
            model,
            stream: false,
            // Models of other kinds have the same paths.
            certainty: Certainty::Possible,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        // It does not speak HTTP/2, of which paths get lost.
        None
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "Text generation of Hugging Face",
            endpoints: &[
                ("POST / of huggingface_hub", "text_completion"),
                ("POST /generate", "text_completion"),
                ("POST /generate_stream", "text_completion"),
                ("POST …/models/MODEL", "text_completion"),
            ],
            bodies: "JSON; SSE",
            source: "huggingface/text-generation-inference, `docs/openapi.json`",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        document.get("inputs").is_some()
    }

    fn is_response(&self, document: &Value) -> bool {
        ["generated_text", "token"]
            .iter()
            .any(|key| first(document).get(key).is_some())
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        if let Some(inputs) = text(document, "inputs") {
            call.input(inputs);
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        let document = first(document);
        call.output(text(document, "generated_text").unwrap_or_default());
        end(document, call);
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        if let Some(error) = text(document, "error") {
            let kind = text(document, "error_type");
            call.stream_error(&serde_json::json!({ "message": error, "type": kind }));
            return;
        }
        let token = document.get("token").unwrap_or(&Value::Null);
        if is_filled(token, "text") {
            call.token();
        }
        if token.get("special") != Some(&Value::Bool(true)) {
            call.output(text(token, "text").unwrap_or_default());
        }
        // The last event has the whole text once more.
        end(document, call);
    }
}

fn end(document: &Value, call: &mut CallBuilder) {
    let Some(details) = document
        .get("details")
        .filter(|details| details.is_object())
    else {
        return;
    };
    let usage = ["generated_tokens", "input_length"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), details.get(*name)?.clone())));
    call.usage(&Value::Object(usage.collect()));
    if let Some(reason) = text(details, "finish_reason") {
        call.finish_reason(0, Some(reason));
        call.terminal();
    }
}

/// The answer, which the Inference API puts into a list.
fn first(document: &Value) -> &Value {
    document.get(0).unwrap_or(document)
}
