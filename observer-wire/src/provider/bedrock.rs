//! Converse and ConverseStream of AWS Bedrock (botocore 1.44 `data/bedrock-runtime/2023-09-30`), and what all
//! operations of its runtime have in common.

use http::Method;
use serde_json::Value;

use super::{
    Certainty, Event, Failure, Provider, Recognized, Selection,
    builder::CallBuilder,
    counter, elements,
    fields::{About, Count, Field, Fields, Included},
    hosts, is_filled, percent, preview,
    sdk::{Exception, Sdk},
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::{RequestHead, ResponseHead},
};

/// Where its fields are.
static FIELDS: Fields = Fields {
    request: &[
        (Field::Temperature, &["inferenceConfig.temperature"]),
        (
            Field::Parameter("max_tokens"),
            &["inferenceConfig.maxTokens"],
        ),
        (Field::Parameter("top_p"), &["inferenceConfig.topP"]),
        (
            Field::Parameter("top_k"),
            &[
                "additionalModelRequestFields.top_k",
                "additionalModelRequestFields.inferenceConfig.topK",
            ],
        ),
        (Field::Parameter("service_tier"), &["serviceTier.type"]),
    ],
    answer: &[(Field::ServiceTier, &["serviceTier.type"])],
    usage: USAGE,
    cost: &[],
    cached: Included::No,
    reasoning: Included::Yes,
};

const USAGE: &[(Count, &[&str])] = &[
    (Count::Prompt, &["inputTokens"]),
    (Count::Completion, &["outputTokens"]),
    (Count::CacheRead, &["cacheReadInputTokens"]),
    (Count::CacheWrite, &["cacheWriteInputTokens"]),
    (Count::Total, &["totalTokens"]),
];

/// The operations that are calls: the end of the path, the name, and whether the answer is a stream.
const OPERATIONS: &[(&str, &str, bool)] = &[
    ("converse", "Converse", false),
    ("converse-stream", "ConverseStream", true),
    ("invoke", "InvokeModel", false),
    (
        "invoke-with-response-stream",
        "InvokeModelWithResponseStream",
        true,
    ),
];

/// The header in which the id of a request, and so of its answer, is.
const ID: &str = "x-amzn-requestid";

const INFERENCE: Select = Select::Object(&[
    ("temperature", Select::Scalar),
    ("maxTokens", Select::Scalar),
    ("max_new_tokens", Select::Scalar),
    ("topP", Select::Scalar),
    ("top_p", Select::Scalar),
    ("topK", Select::Scalar),
    ("top_k", Select::Scalar),
]);
const TOOL: Select = Select::Object(&[
    ("name", Select::Scalar),
    ("toolUseId", Select::Scalar),
    ("input", Select::Length),
]);

macro_rules! selection {
    ($system:expr, $messages:expr, $text:expr) => {
        Selection {
            request: Select::Object(&[
                ("inferenceConfig", INFERENCE),
                (
                    "additionalModelRequestFields",
                    Select::Object(&[("top_k", Select::Scalar), ("inferenceConfig", INFERENCE)]),
                ),
                ("serviceTier", Select::Object(&[("type", Select::Scalar)])),
                ("system", $system),
                ("messages", $messages),
                // So that it is not taken for what it is not.
                ("model", Select::Mark),
            ]),
            response: Select::Object(&[
                ("stopReason", Select::Scalar),
                ("serviceTier", Select::Object(&[("type", Select::Scalar)])),
                ("usage", Select::All),
                (
                    "output",
                    Select::Object(&[(
                        "message",
                        Select::Object(&[
                            ("role", Select::Scalar),
                            (
                                "content",
                                Select::Array(
                                    Keep::All,
                                    &Select::Object(&[("text", $text), ("toolUse", TOOL)]),
                                ),
                            ),
                        ]),
                    )]),
                ),
            ]),
            event: Select::Object(&[
                ("role", Select::Scalar),
                ("contentBlockIndex", Select::Scalar),
                ("stopReason", Select::Scalar),
                ("serviceTier", Select::Object(&[("type", Select::Scalar)])),
                ("usage", Select::All),
                ("start", Select::Object(&[("toolUse", TOOL)])),
                (
                    "delta",
                    Select::Object(&[
                        ("text", $text),
                        ("toolUse", Select::Object(&[("input", Select::Length)])),
                        (
                            "reasoningContent",
                            Select::Object(&[
                                ("text", Select::Mark),
                                ("redactedContent", Select::Mark),
                            ]),
                        ),
                    ]),
                ),
            ]),
        }
    };
}

pub(super) static WITHOUT_CONTENT: Selection = selection!(
    Select::Mark,
    Select::Array(Keep::First(1), &Select::Object(&[("role", Select::Scalar)])),
    Select::Mark
);
pub(super) static WITH_CONTENT: Selection = selection!(
    Select::All,
    Select::Array(
        Keep::Last(2),
        &Select::Object(&[("role", Select::Scalar), ("content", Select::All)])
    ),
    Select::Scalar
);

/// See the module.
pub(super) struct Converse;

impl Provider for Converse {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        recognize(head, &["Converse", "ConverseStream"])
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("aws_bedrock", "chat"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "AWS Bedrock Converse",
            endpoints: &[
                ("POST …/model/MODEL/converse", "chat"),
                ("POST …/model/MODEL/converse-stream", "chat"),
            ],
            bodies: "JSON; AWS event stream",
            source: "botocore 1.44 `data/bedrock-runtime/2023-09-30`",
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
        document.get("messages").is_some_and(Value::is_array) && document.get("model").is_none()
    }

    fn is_response(&self, document: &Value) -> bool {
        ["contentBlockIndex", "stopReason"]
            .iter()
            .any(|key| document.get(key).is_some())
            || document
                .get("output")
                .is_some_and(|output| output.get("message").is_some())
            || document
                .get("usage")
                .is_some_and(|usage| counter(usage, "inputTokens").is_some())
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        call.request_fields(document);
        show(document, call);
    }

    fn response_head(&self, head: &ResponseHead, call: &mut CallBuilder) {
        response_head(head, call);
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        call.answer_fields(document);
        call.finish_reason(0, text(document, "stopReason"));
        if let Some(usage) = document.get("usage") {
            call.usage(usage);
        }
        let message = document
            .get("output")
            .and_then(|output| output.get("message"));
        for (index, block) in (0..).zip(message.into_iter().flat_map(|it| elements(it, "content")))
        {
            if let Some(tool) = block.get("toolUse") {
                call.tool_call((0, index), text(tool, "name"));
                call.tool_id((0, index), text(tool, "toolUseId"));
                call.arguments((0, index), counter(tool, "input"));
            }
            call.output(text(block, "text").unwrap_or_default());
        }
    }

    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        let Event::Json(document) = data else { return };
        match name {
            "contentBlockStart" => {
                let index = counter(document, "contentBlockIndex").unwrap_or(0);
                let tool = document.get("start").and_then(|start| start.get("toolUse"));
                if let Some(tool) = tool {
                    call.tool_call((0, index), text(tool, "name"));
                    call.tool_id((0, index), text(tool, "toolUseId"));
                }
            }
            "contentBlockDelta" => {
                let Some(delta) = document.get("delta") else {
                    return;
                };
                let within = |kind: &str, key: &str| {
                    delta.get(kind).is_some_and(|inner| is_filled(inner, key))
                };
                if is_filled(delta, "text")
                    || within("toolUse", "input")
                    || within("reasoningContent", "text")
                    || within("reasoningContent", "redactedContent")
                {
                    call.token();
                }
                if let Some(tool) = delta.get("toolUse") {
                    let index = counter(document, "contentBlockIndex").unwrap_or(0);
                    call.more_arguments((0, index), counter(tool, "input"));
                }
                call.output(text(delta, "text").unwrap_or_default());
            }
            "messageStop" => {
                call.finish_reason(0, text(document, "stopReason"));
                call.terminal();
            }
            "metadata" => {
                call.answer_fields(document);
                if let Some(usage) = document.get("usage") {
                    call.usage(usage);
                }
            }
            _ => {}
        }
    }

    fn error(&self, failure: &Failure<'_>, call: &CallBuilder) -> Exception {
        error(failure, call)
    }
}

/// The name of the operation of Bedrock's runtime that a request is, if it is a call.
pub(super) fn operation(head: &RequestHead) -> Option<&'static str> {
    place(head).map(|(_, operation, _)| operation)
}

/// Whether a request is one of these operations.
pub(super) fn recognize(head: &RequestHead, operations: &[&str]) -> Option<Recognized> {
    let (model, operation, stream) = place(head)?;
    if !operations.contains(&operation) {
        return None;
    }
    let certain = hosts::is_bedrock(head.host.as_deref().unwrap_or_default())
        || ["amz-sdk-request", "x-amz-date"]
            .iter()
            .any(|name| head.headers.contains_key(*name));
    Some(Recognized {
        provider: "aws_bedrock",
        operation: "chat",
        model: Some(percent::decoded(model)),
        stream,
        certainty: if certain {
            Certainty::Certain
        } else if operation.starts_with("Converse") {
            Certainty::Likely
        } else {
            // Others invoke models too.
            Certainty::Possible
        },
    })
}

/// Model, operation and whether the answer is a stream, of `…/model/MODEL/OPERATION`. The name of a model may
/// be an ARN with slashes.
fn place(head: &RequestHead) -> Option<(&str, &'static str, bool)> {
    if head.method != Method::POST {
        return None;
    }
    let (resource, end) = head.path.rsplit_once('/')?;
    let (_, model) = resource.split_once("/model/")?;
    let (_, operation, stream) = OPERATIONS.iter().find(|(known, ..)| *known == end)?;
    (!model.is_empty()).then_some((model, *operation, *stream))
}

/// The id of an answer is that of its request.
pub(super) fn response_head(head: &ResponseHead, call: &mut CallBuilder) {
    let id = head.headers.get(ID).and_then(|value| value.to_str().ok());
    call.response_id(id);
}

/// Shows system prompt and messages, whose content is a list of blocks.
pub(super) fn show(document: &Value, call: &mut CallBuilder) {
    let Some(limit) = call.input_limit() else {
        return;
    };
    let message = |role: &str, content: &Value| match plain(content) {
        Some(text) => format!("[{role}] {text}"),
        None => preview::message(role, Some(content), limit),
    };
    let system = document.get("system").filter(|system| !system.is_null());
    let shown: Vec<String> = system
        .map(|system| message("system", system))
        .into_iter()
        .chain(elements(document, "messages").map(|one| {
            message(
                text(one, "role").unwrap_or_default(),
                one.get("content").unwrap_or(&Value::Null),
            )
        }))
        .collect();
    call.input_lines(shown);
}

/// The text of blocks that are nothing else.
fn plain(content: &Value) -> Option<String> {
    let blocks = content.as_array()?;
    blocks.iter().map(|block| text(block, "text")).collect()
}

/// The exception for an answer whose status is an error: the code is in a header, sometimes in the body.
pub(super) fn error(failure: &Failure<'_>, call: &CallBuilder) -> Exception {
    let sdk = call.sdk();
    let body = failure.body;
    let status = failure.status.as_u16().to_string();
    let header = failure.headers.get("x-amzn-errortype");
    let code = header
        .and_then(|value| value.to_str().ok())
        .or_else(|| body.and_then(|body| text(body, "code").or_else(|| text(body, "__type"))))
        .map(|code| code.split(':').next().unwrap_or_default())
        .map(|code| code.rsplit('#').next().unwrap_or_default());
    let message = match body {
        Some(body) => text(body, "message").or_else(|| text(body, "Message")),
        None => Some(failure.raw),
    };
    // Something between the service and its client gave this answer.
    let foreign = failure.status.is_server_error()
        && (failure.raw.is_empty() || failure.raw.starts_with("<html>"));
    match sdk {
        Sdk::Botocore(botocore) if foreign => {
            let reason = failure.status.canonical_reason().unwrap_or_default();
            botocore.error(&status, reason)
        }
        Sdk::Botocore(botocore) => {
            botocore.error(code.unwrap_or(&status), message.unwrap_or_default())
        }
        Sdk::Unknown => {
            let (class, text) = sdk.status_error(failure.status, body, failure.raw);
            (code.map_or(class, str::to_owned), text)
        }
        sdk => sdk.status_error(failure.status, body, failure.raw),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn head(method: Method, host: &str, path: &str) -> RequestHead {
        RequestHead {
            method,
            path: path.to_owned(),
            query: String::new(),
            host: Some(host.to_owned()),
            port: None,
            headers: HeaderMap::new(),
            credential: None,
            partial: false,
            websocket: false,
        }
    }

    const HOST: &str = "bedrock-runtime.us-east-1.amazonaws.com";

    #[test]
    fn the_path_names_model_and_operation() {
        for (path, model, name, stream) in [
            (
                "/model/us.amazon.nova-lite-v1%3A0/converse",
                "us.amazon.nova-lite-v1:0",
                "Converse",
                false,
            ),
            (
                "/model/anthropic.claude-v2:1/converse-stream",
                "anthropic.claude-v2:1",
                "ConverseStream",
                true,
            ),
            (
                "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fabc/invoke",
                "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
                "InvokeModel",
                false,
            ),
            (
                "/gateway/model/arn:aws:bedrock:us-east-1:1:imported-model/model/invoke-with-response-stream",
                "arn:aws:bedrock:us-east-1:1:imported-model/model",
                "InvokeModelWithResponseStream",
                true,
            ),
        ] {
            let head = head(Method::POST, HOST, path);
            assert_eq!(operation(&head), Some(name), "{path}");
            let recognized = recognize(&head, &[name]).unwrap();
            assert_eq!(recognized.model.as_deref(), Some(model));
            assert_eq!(recognized.stream, stream);
            assert_eq!(recognized.certainty, Certainty::Certain);
            assert!(recognize(&head, &["CountTokens"]).is_none());
        }
    }

    #[test]
    fn other_operations_are_none() {
        for (method, path) in [
            (Method::POST, "/model/m/count-tokens"),
            (Method::POST, "/model/m/invoke-with-bidirectional-stream"),
            (Method::POST, "/model//converse"),
            (Method::GET, "/model/m/converse"),
            (Method::POST, "/guardrail/g/version/1/apply"),
            (Method::POST, "/async-invoke"),
            (Method::POST, "/guardrail-checks/invoke"),
            (Method::POST, "/converse"),
        ] {
            let head = head(method, HOST, path);
            for provider in super::super::PROVIDERS {
                assert!(provider.recognize(&head).is_none(), "{path}");
            }
        }
    }

    #[test]
    fn other_hosts_are_known_by_what_the_sdks_send() {
        let mut head = head(Method::POST, "localhost", "/model/m/converse");
        let certainty = |head: &RequestHead| Converse.recognize(head).unwrap().certainty;
        assert_eq!(certainty(&head), Certainty::Likely);
        let date = HeaderValue::from_static("20261126T033229Z");
        head.headers.insert("x-amz-date", date);
        assert_eq!(certainty(&head), Certainty::Certain);
    }
}
