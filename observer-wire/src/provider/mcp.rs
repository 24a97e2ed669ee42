//! Tools that are called over HTTP by the Model Context Protocol (modelcontextprotocol.io, revisions 2025-03-26
//! and later; mcp 2.3 of PyPI). Each POST that calls tools is a record; what else is asked of a server is none.

use http::{Method, header};
use serde_json::Value;

use super::{
    Certainty, Event, Failure, Provider, Recognized, Selection,
    builder::CallBuilder,
    elements,
    fields::{About, Fields, Included},
    sdk::Exception,
    text,
};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// Nothing is counted, and no model is asked.
static FIELDS: Fields = Fields {
    request: &[],
    answer: &[],
    usage: &[],
    cost: &[],
    cached: Included::Yes,
    reasoning: Included::Yes,
};

/// The method of JSON-RPC that calls a tool.
const CALL: &str = "tools/call";

/// The error type of a tool that failed (OpenTelemetry's conventions for MCP).
const TOOL_ERROR: &str = "tool_error";

const ASK: Select = Select::Object(&[
    ("jsonrpc", Select::Scalar),
    ("id", Select::Scalar),
    ("method", Select::Scalar),
    ("params", Select::Object(&[("name", Select::Scalar)])),
]);
/// With what is handed to the tool.
const ASK_WITH_CONTENT: Select = Select::Object(&[
    ("jsonrpc", Select::Scalar),
    ("id", Select::Scalar),
    ("method", Select::Scalar),
    (
        "params",
        Select::Object(&[("name", Select::Scalar), ("arguments", Select::All)]),
    ),
]);

macro_rules! selection {
    ($ask:expr, $text:expr) => {{
        const ANSWER: Select = Select::Object(&[
            ("jsonrpc", Select::Scalar),
            ("id", Select::Scalar),
            ("method", Select::Scalar),
            (
                "error",
                Select::Object(&[("code", Select::Scalar), ("message", Select::Scalar)]),
            ),
            (
                "result",
                Select::Object(&[
                    ("isError", Select::Scalar),
                    (
                        "content",
                        Select::Array(Keep::All, &Select::Object(&[("text", $text)])),
                    ),
                ]),
            ),
        ]);
        const ONE_OR_MORE: Select = Select::Either(&ANSWER, &Select::Array(Keep::All, &ANSWER));
        Selection {
            // A revision has batches.
            request: Select::Either(&$ask, &Select::Array(Keep::All, &$ask)),
            response: ONE_OR_MORE,
            event: ONE_OR_MORE,
        }
    }};
}

static WITHOUT_CONTENT: Selection = selection!(ASK, Select::Mark);
static WITH_CONTENT: Selection = selection!(ASK_WITH_CONTENT, Select::Scalar);

/// See the module.
pub(super) struct Mcp;

/// Whether a request belongs to a session with an MCP server: clients must take both kinds of answers, and
/// say the revision once it is agreed upon. Nobody else asks so, and other JSON is not looked into.
pub(super) fn is_session(head: &RequestHead) -> bool {
    let field = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let (accept, kind) = (
        field(header::ACCEPT.as_str()),
        field(header::CONTENT_TYPE.as_str()),
    );
    head.method == Method::POST
        && kind.starts_with("application/json")
        && (head.headers.contains_key("mcp-protocol-version")
            || head.headers.contains_key("mcp-session-id")
            || is_mcp(accept)
            || head.path.ends_with("/mcp"))
}

/// Whether a client accepts what those of MCP must, and nothing else: GraphQL's accept more.
fn is_mcp(accept: &str) -> bool {
    let mut kinds: Vec<&str> = accept
        .split(',')
        .map(|kind| kind.split(';').next().unwrap_or_default().trim())
        .collect();
    kinds.sort_unstable();
    kinds == ["application/json", "text/event-stream"]
}

impl Provider for Mcp {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        is_session(head).then_some(Recognized {
            provider: "mcp",
            operation: "execute_tool",
            model: None,
            stream: false,
            certainty: Certainty::Possible,
        })
    }

    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        Some(("mcp", "execute_tool"))
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "MCP tools",
            endpoints: &[("POST … with the method tools/call", "execute_tool")],
            bodies: "JSON-RPC; SSE",
            source: "modelcontextprotocol.io, revisions 2025-03-26 and later; mcp 2.3",
            fields: &FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Selection; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn is_request(&self, document: &Value) -> bool {
        calls(document).next().is_some()
    }

    fn is_settled_by_request(&self) -> bool {
        true
    }

    fn is_response(&self, document: &Value) -> bool {
        messages(document).any(is_answer)
    }

    fn request(&self, document: &Value, call: &mut CallBuilder) {
        for (index, message) in calls(document).enumerate() {
            let params = message.get("params").unwrap_or(&Value::Null);
            call.tool_call((0, index as u64), text(params, "name"));
            call.awaits(message.get("id").unwrap_or(&Value::Null));
            if let Some(arguments) = params.get("arguments").filter(|_| index == 0) {
                call.input(&arguments.to_string());
            }
        }
    }

    fn response(&self, document: &Value, call: &mut CallBuilder) {
        for message in messages(document).filter(|message| is_answer(message)) {
            if !call.answered(message.get("id").unwrap_or(&Value::Null)) {
                continue;
            }
            if let Some(error) = message.get("error").filter(|error| error.is_object()) {
                let (code, message) = failure(error);
                call.failed(Some(&code), message.as_deref());
            }
            let Some(result) = message.get("result") else {
                continue;
            };
            if result.get("isError") == Some(&Value::Bool(true)) {
                // What the tool says of it is content.
                call.failed(Some(TOOL_ERROR), None);
            }
            for part in elements(result, "content") {
                call.output(text(part, "text").unwrap_or_default());
            }
        }
        if call.is_answered() {
            call.terminal();
        }
    }

    fn event(&self, _name: &str, data: &Event<'_>, call: &mut CallBuilder) {
        // Notifications, and what the server asks in turn, may come before the answer.
        if let Event::Json(document) = data {
            self.response(document, call);
        }
    }

    fn error(&self, failed: &Failure<'_>, call: &CallBuilder) -> Exception {
        let error = failed.body.and_then(|body| body.get("error"));
        match error.filter(|error| error.get("code").is_some_and(Value::is_number)) {
            Some(error) => failure(error),
            None => call
                .sdk()
                .status_error(failed.status, failed.body, failed.raw),
        }
    }
}

/// The messages of a body: one, or a batch.
fn messages(document: &Value) -> impl Iterator<Item = &Value> {
    match document {
        Value::Array(messages) => messages.as_slice(),
        message => std::slice::from_ref(message),
    }
    .iter()
    .filter(|message| text(message, "jsonrpc") == Some("2.0"))
}

/// Those of a request that call tools.
fn calls(document: &Value) -> impl Iterator<Item = &Value> {
    messages(document).filter(|message| {
        let name = message
            .get("params")
            .and_then(|params| text(params, "name"));
        text(message, "method") == Some(CALL) && name.is_some_and(|name| !name.is_empty())
    })
}

fn is_answer(message: &Value) -> bool {
    message.get("method").is_none()
        && (message.get("result").is_some() || message.get("error").is_some())
}

/// An error of JSON-RPC: its code stands for the type.
fn failure(error: &Value) -> Exception {
    let code = error.get("code").unwrap_or(&Value::Null);
    (code.to_string(), text(error, "message").map(str::to_owned))
}
