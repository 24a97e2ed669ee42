//! The client libraries, known by their request headers, and the exceptions that they raise.
//!
//! Sources: openai-python 3.54 and 2.54 `_exceptions.py`/`_client.py`, anthropic-sdk-python 2.12 and
//! 0.125 `_exceptions.py`/`_client.py`, google-genai 3.4 `errors.py`, google-api-core `exceptions.py`,
//! cohere 7.3 `core/api_error.py`, mistralai 3.7 `client/errors`, ollama 0.6 `_types.py`, huggingface_hub 2.4
//! `utils/_http.py` and `inference/_common.py`; of botocore see `botocore.rs`.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{
    anthropic_errors,
    botocore::Botocore,
    preview::{cut, mask},
    repr::repr,
    text,
};
use crate::http::RequestHead;

/// Longest error message, in code points.
pub(super) const MESSAGE_CHARS: usize = 4096;

/// A client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sdk {
    /// `@anthropic-ai/sdk` of npm.
    AnthropicJs,
    /// `anthropic` of PyPI with its major version.
    AnthropicPython(u32),
    /// `boto3` of PyPI, or another library on `botocore`.
    Botocore(Botocore),
    /// `cohere` of PyPI.
    CoherePython,
    /// Libraries of PyPI on `google-api-core`, such as `google-generativeai`.
    GoogleApiCore,
    /// `google-genai` of PyPI.
    GoogleGenAi,
    /// `huggingface_hub` of PyPI.
    HuggingFaceHub,
    /// `mistralai` of PyPI.
    MistralPython,
    /// `ollama` of PyPI.
    OllamaPython,
    /// `openai` of npm.
    OpenAiJs,
    /// `openai` of PyPI with its major version, or `groq`, which is generated alike.
    OpenAiPython(u32),
    /// Anything else.
    Unknown,
    /// `xai-sdk` of PyPI; whether it is the asynchronous client cannot be seen.
    XaiPython,
}

/// Codes of gRPC (`google.rpc.Code`) with the exception of google-api-core and its HTTP status.
const GRPC_CODES: &[(&str, &str, u16)] = &[
    ("OK", "GoogleAPICallError", 200),
    ("CANCELLED", "Cancelled", 499),
    ("UNKNOWN", "Unknown", 500),
    ("INVALID_ARGUMENT", "InvalidArgument", 400),
    ("DEADLINE_EXCEEDED", "DeadlineExceeded", 504),
    ("NOT_FOUND", "NotFound", 404),
    ("ALREADY_EXISTS", "AlreadyExists", 409),
    ("PERMISSION_DENIED", "PermissionDenied", 403),
    ("RESOURCE_EXHAUSTED", "ResourceExhausted", 429),
    ("FAILED_PRECONDITION", "FailedPrecondition", 400),
    ("ABORTED", "Aborted", 409),
    ("OUT_OF_RANGE", "OutOfRange", 400),
    ("UNIMPLEMENTED", "MethodNotImplemented", 501),
    ("INTERNAL", "InternalServerError", 500),
    ("UNAVAILABLE", "ServiceUnavailable", 503),
    ("DATA_LOSS", "DataLoss", 500),
    ("UNAUTHENTICATED", "Unauthenticated", 401),
];

/// An exception: class and text.
pub(super) type Exception = (String, Option<String>);

impl Sdk {
    /// The library that sent a request.
    pub(super) fn of(head: &RequestHead) -> Self {
        let headers = &head.headers;
        let field = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let agent = field("user-agent");
        let version = match field("x-stainless-package-version") {
            "" => agent.split_ascii_whitespace().last().unwrap_or_default(),
            version => version,
        };
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .unwrap_or(0);
        match agent.split('/').next().unwrap_or_default() {
            "OpenAI" | "AsyncOpenAI" | "AzureOpenAI" | "AsyncAzureOpenAI" | "Groq"
            | "AsyncGroq"
                if agent.contains("/Python") =>
            {
                Self::OpenAiPython(major)
            }
            // Also `AnthropicBedrock` and the like.
            name if name.trim_start_matches("Async").starts_with("Anthropic")
                && agent.contains("/Python") =>
            {
                Self::AnthropicPython(major)
            }
            "OpenAI" | "AzureOpenAI" if agent.contains("/JS") => Self::OpenAiJs,
            name if name.starts_with("Anthropic") && agent.contains("/JS") => Self::AnthropicJs,
            _ if field("x-goog-api-client").contains("google-genai-sdk")
                || agent.contains("google-genai-sdk") =>
            {
                Self::GoogleGenAi
            }
            "XaiSdk" => Self::XaiPython,
            "ollama-python" => Self::OllamaPython,
            "mistral-client-python" => Self::MistralPython,
            _ if field("x-fern-sdk-name") == "cohere" && field("x-fern-language") == "Python" => {
                Self::CoherePython
            }
            _ if agent.contains("hf_hub/") => Self::HuggingFaceHub,
            _ if field("x-goog-api-client").contains("gl-python/")
                && field("x-goog-api-client").contains("gax/") =>
            {
                Self::GoogleApiCore
            }
            _ => Botocore::of(head, agent).map_or_else(
                || Self::generated(&head.headers, agent, major),
                Self::Botocore,
            ),
        }
    }

    /// One that is generated as OpenAI's and Anthropic's are, by Stainless, and has another name: its own, or that
    /// of the program that uses it (langchain-openai with Azure).
    fn generated(headers: &HeaderMap, agent: &str, major: u32) -> Self {
        let language = headers
            .get("x-stainless-lang")
            .and_then(|value| value.to_str().ok());
        let anthropic = headers.contains_key("anthropic-version");
        match language {
            Some("python") if anthropic => Self::AnthropicPython(major),
            // Its version is no version of openai.
            Some("python") if agent.contains("/Python") => Self::OpenAiPython(1),
            Some("python") => Self::OpenAiPython(major),
            Some("js") if anthropic => Self::AnthropicJs,
            Some("js") => Self::OpenAiJs,
            _ => Self::Unknown,
        }
    }

    /// The exception for a status of gRPC other than OK.
    pub(super) fn grpc_error(self, code: u32, message: Option<&str>, stream: bool) -> Exception {
        let known = usize::try_from(code)
            .ok()
            .and_then(|code| GRPC_CODES.get(code));
        let (name, class, status) = *known.unwrap_or(&("UNKNOWN", "Unknown", 500));
        let (class, message) = match self {
            Self::GoogleApiCore => {
                let message = format!("{status} {}", message.unwrap_or_default());
                (class, Some(message))
            }
            // The text of the exception holds the state of the library; this is what it says of the call.
            Self::XaiPython if stream => ("_MultiThreadedRendezvous", message.map(str::to_owned)),
            Self::XaiPython => ("_InactiveRpcError", message.map(str::to_owned)),
            _ => (name, message.map(str::to_owned)),
        };
        (class.to_owned(), message.map(|message| bounded(&message)))
    }

    /// The exception for an HTTP status of 400 or more. `body` is the body as far as it is JSON, `raw`
    /// the beginning of it.
    pub(super) fn status_error(
        self,
        status: StatusCode,
        body: Option<&Value>,
        raw: &str,
    ) -> Exception {
        let code = status.as_u16();
        let (class, message) = match self {
            Self::OpenAiPython(major) => {
                let class = openai_class(code).to_owned();
                let message = match (body, major) {
                    (body, 3..) => {
                        let error = body.map(|body| body.get("error").unwrap_or(body));
                        match error
                            .and_then(|error| text(error, "message"))
                            .unwrap_or_default()
                        {
                            "" => format!("Error code: {code}"),
                            message => format!("Error code: {code} - {message}"),
                        }
                    }
                    (Some(body), _) => python_message(code, body),
                    (None, _) => raw_or_code(raw, code),
                };
                (class, Some(message))
            }
            Self::AnthropicPython(major) => {
                let class = match major {
                    2.. => body
                        .and_then(error_code)
                        .and_then(|error_code| anthropic_errors::class(code, error_code))
                        .unwrap_or_else(|| anthropic_class(code).to_owned()),
                    _ => anthropic_0_class(code).to_owned(),
                };
                let message = match body {
                    Some(body) => python_message(code, body),
                    None => raw_or_code(raw, code),
                };
                (class, Some(message))
            }
            Self::GoogleGenAi => {
                let reason = status.canonical_reason().unwrap_or_default();
                let wrapped;
                let body = match body {
                    Some(body) => body,
                    None => {
                        wrapped = serde_json::json!({"message": raw, "status": reason});
                        &wrapped
                    }
                };
                google_error(u64::from(code), body)
            }
            Self::OpenAiJs => {
                let error = body
                    .and_then(|body| body.get("error"))
                    .filter(|error| !error.is_null());
                let message = match error {
                    Some(error) => {
                        text(error, "message").map_or_else(|| error.to_string(), str::to_owned)
                    }
                    None => raw_unless(body, raw),
                };
                (js_class(code), Some(js_message(code, &message)))
            }
            Self::AnthropicJs => {
                // It keeps the whole body as the error, where OpenAI's keeps `error`.
                let message = body.map_or_else(
                    || raw.to_owned(),
                    |body| text(body, "message").map_or_else(|| body.to_string(), str::to_owned),
                );
                (js_class(code), Some(js_message(code, &message)))
            }
            Self::CoherePython => {
                // The text of the exception has the header fields, too.
                let body = body.map_or_else(|| raw.to_owned(), |body| repr(body, MESSAGE_CHARS));
                let message = format!("status_code: {code}, body: {body}");
                (cohere_class(code).to_owned(), Some(message))
            }
            Self::HuggingFaceHub => {
                let class = body.and_then(|body| text(body, "error_type"));
                let class = match class {
                    Some(kind) => generation_class(kind),
                    None if code == 400 => "BadRequestError",
                    None => "HfHubHTTPError",
                };
                (class.to_owned(), plain_message(body, raw))
            }
            Self::MistralPython if code == 422 && body.is_some() => {
                ("HTTPValidationError".to_owned(), Some(raw.to_owned()))
            }
            Self::MistralPython => {
                let body = if raw.is_empty() { "\"\"" } else { raw };
                let message = format!("API error occurred: Status {code}. Body: {body}");
                ("SDKError".to_owned(), Some(message))
            }
            Self::OllamaPython => {
                let message = body.and_then(|body| text(body, "error")).unwrap_or(raw);
                let message = format!("{message} (status code: {code})");
                ("ResponseError".to_owned(), Some(message))
            }
            Self::GoogleApiCore => {
                // The text of the exception has the URL, too.
                let message = plain_message(body, raw).unwrap_or_default();
                let message = format!("{code} {message}");
                (api_core_class(code).to_owned(), Some(message))
            }
            Self::Botocore(_) | Self::Unknown | Self::XaiPython => {
                let class = body
                    .and_then(error_type)
                    .map_or_else(|| format!("http_{code}"), str::to_owned);
                (class, plain_message(body, raw))
            }
        };
        (class, message.map(|message| bounded(&message)))
    }

    /// The exception for an error event in the middle of a stream of HTTP status 200.
    pub(super) fn stream_error(self, body: &Value) -> Exception {
        let message = error_text(body);
        let (class, message) = match self {
            Self::OpenAiPython(_) => {
                let message = body
                    .get("error")
                    .and_then(|error| text(error, "message"))
                    .unwrap_or_default();
                let message = if message.is_empty() {
                    "An error occurred during streaming"
                } else {
                    message
                };
                ("APIError".to_owned(), Some(message.to_owned()))
            }
            Self::Botocore(botocore) => {
                return botocore.stream_error(
                    error_type(body).unwrap_or_default(),
                    message.unwrap_or_default(),
                );
            }
            Self::AnthropicPython(_) => {
                ("APIStatusError".to_owned(), Some(repr(body, MESSAGE_CHARS)))
            }
            Self::GoogleGenAi => {
                let error = body.get("error").unwrap_or(body);
                google_error(error.get("code").and_then(Value::as_u64).unwrap_or(0), body)
            }
            Self::OpenAiJs => ("APIError".to_owned(), message.map(str::to_owned)),
            Self::AnthropicJs => ("APIError".to_owned(), Some(body.to_string())),
            Self::OllamaPython => (
                "ResponseError".to_owned(),
                message.map(|message| format!("{message} (status code: -1)")),
            ),
            Self::HuggingFaceHub if error_type(body).is_some() => {
                let class = generation_class(error_type(body).unwrap_or_default());
                (class.to_owned(), message.map(str::to_owned))
            }
            Self::CoherePython
            | Self::GoogleApiCore
            | Self::HuggingFaceHub
            | Self::MistralPython
            | Self::Unknown
            | Self::XaiPython => (
                error_type(body).unwrap_or("stream_error").to_owned(),
                message.map(str::to_owned),
            ),
        };
        (class, message.map(|message| bounded(&message)))
    }

    /// The exception when the server ends the connection: before it has answered, or in the middle.
    pub(super) fn disconnected(self, answered: bool, stream: bool) -> Exception {
        let (class, message) = match self {
            // They do not wrap what their HTTP library raises while a stream is read (measured with
            // anthropic 2.12 and google-genai 3.4; openai does so from 3.x).
            Self::AnthropicPython(_)
            | Self::CoherePython
            | Self::GoogleGenAi
            | Self::HuggingFaceHub
            | Self::MistralPython
            | Self::OllamaPython
            | Self::OpenAiPython(0..=2)
                if answered && stream =>
            {
                (
                    "RemoteProtocolError",
                    "peer closed connection without sending complete message body (incomplete chunked read)",
                )
            }
            Self::AnthropicJs
            | Self::AnthropicPython(_)
            | Self::OpenAiJs
            | Self::OpenAiPython(_) => ("APIConnectionError", "Connection error."),
            Self::CoherePython
            | Self::GoogleGenAi
            | Self::HuggingFaceHub
            | Self::MistralPython
            | Self::OllamaPython => (
                "RemoteProtocolError",
                "Server disconnected without sending a response.",
            ),
            // What they say depends on the moment.
            Self::Botocore(botocore) => return (botocore.disconnected(answered, stream), None),
            Self::GoogleApiCore => return ("ServiceUnavailable".to_owned(), None),
            Self::XaiPython => return self.grpc_error(14, None, stream),
            Self::Unknown => ("connection_error", "the server closed the connection"),
        };
        (class.to_owned(), Some(message.to_owned()))
    }

    /// The exception when the server refuses a WebSocket session with this HTTP status. Those of Python leave
    /// it to `websockets` 15, those of npm to `ws` 8.
    pub(super) fn session_refused(
        self,
        status: StatusCode,
        body: Option<&Value>,
        raw: &str,
    ) -> Exception {
        let code = status.as_u16();
        let (class, message) = match self {
            Self::GoogleGenAi | Self::OpenAiPython(_) => (
                "InvalidStatus",
                format!("server rejected WebSocket connection: HTTP {code}"),
            ),
            Self::AnthropicJs | Self::OpenAiJs => {
                ("Error", format!("Unexpected server response: {code}"))
            }
            _ => return self.status_error(status, body, raw),
        };
        (class.to_owned(), Some(message))
    }

    /// The exception when the server closes the connection instead of answering the request for a WebSocket session.
    pub(super) fn session_unanswered(self) -> Exception {
        match self {
            // websockets, `client.py`: `handshake_exc`.
            Self::GoogleGenAi | Self::OpenAiPython(_) => (
                "InvalidMessage".to_owned(),
                Some("did not receive a valid HTTP response".to_owned()),
            ),
            _ => self.session_closed(None, ""),
        }
    }

    /// The exception when the server ends a WebSocket session in the middle, with this code and reason or
    /// without a word.
    pub(super) fn session_closed(self, code: Option<u16>, reason: &str) -> Exception {
        /// No close frame (RFC 6455 section 7.1.5).
        const ABNORMAL: u16 = 1006;
        let (class, message) = match (self, code) {
            (Self::GoogleGenAi, code) => {
                let code = code.unwrap_or(ABNORMAL);
                let class = match code {
                    400..500 => "ClientError",
                    500..600 => "ServerError",
                    _ => "APIError",
                };
                (class, format!("{code} None. {reason}"))
            }
            (Self::OpenAiPython(_), None) => (
                "ConnectionClosedError",
                "no close frame received or sent".to_owned(),
            ),
            (Self::OpenAiPython(_), Some(code)) => {
                let class = if matches!(code, 1000 | 1001) {
                    "ConnectionClosedOK"
                } else {
                    "ConnectionClosedError"
                };
                let known = close_code(code);
                let received = match reason {
                    "" => format!("{code} ({known})"),
                    reason => format!("{code} ({known}) {reason}"),
                };
                (class, format!("received {received}; then sent {received}"))
            }
            (_, Some(code)) => ("connection_error", format!("closed with {code} {reason}")),
            (_, None) => (
                "connection_error",
                "the server closed the connection".to_owned(),
            ),
        };
        (class.to_owned(), Some(bounded(message.trim_end())))
    }

    /// The exception when the client has waited for as long as it would.
    pub(super) fn timed_out(self) -> Exception {
        let (class, message) = match self {
            Self::OpenAiPython(_) => ("APITimeoutError", "Request timed out."),
            Self::AnthropicPython(0..=1) => ("APITimeoutError", "Request timed out."),
            Self::AnthropicPython(_) => (
                "APITimeoutError",
                "Request timed out or interrupted. This could be due to a network timeout, dropped connection, \
                 or request cancellation. See https://docs.anthropic.com/en/api/errors#long-requests for more \
                 details.",
            ),
            Self::Botocore(_) => return ("ReadTimeoutError".to_owned(), None),
            Self::CoherePython | Self::GoogleGenAi | Self::MistralPython | Self::OllamaPython => {
                ("ReadTimeout", "timed out")
            }
            Self::HuggingFaceHub => ("InferenceTimeoutError", "Inference call timed out"),
            Self::AnthropicJs | Self::OpenAiJs => {
                ("APIConnectionTimeoutError", "Request timed out.")
            }
            Self::GoogleApiCore => ("DeadlineExceeded", "504 Deadline Exceeded"),
            Self::XaiPython => return self.grpc_error(4, Some("Deadline Exceeded"), false),
            Self::Unknown => ("timeout", "the client stopped waiting"),
        };
        (class.to_owned(), Some(message.to_owned()))
    }
}

/// What a provider says of a failure.
pub(super) fn reported(code: Option<&str>, message: Option<&str>) -> Exception {
    (bounded(code.unwrap_or("error")), message.map(bounded))
}

/// What `websockets` 15 calls a code of a close frame (`frames.py`, `CLOSE_CODE_EXPLANATIONS`).
fn close_code(code: u16) -> &'static str {
    match code {
        1000 => "OK",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1005 => "no status received [internal]",
        1006 => "abnormal closure [internal]",
        1007 => "invalid frame payload data",
        1008 => "policy violation",
        1009 => "message too big",
        1010 => "mandatory extension",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        1014 => "bad gateway",
        1015 => "TLS failure [internal]",
        3000..4000 => "registered",
        4000..5000 => "private use",
        _ => "unknown",
    }
}

fn bounded(message: &str) -> String {
    // Masking takes time with each key: what is cut off anyway need not be looked at.
    let near = message.floor_char_boundary(4 * MESSAGE_CHARS);
    cut(&mask(&message[..near]), MESSAGE_CHARS)
}

fn python_message(code: u16, body: &Value) -> String {
    format!("Error code: {code} - {}", repr(body, MESSAGE_CHARS))
}

fn raw_or_code(raw: &str, code: u16) -> String {
    if raw.is_empty() {
        format!("Error code: {code}")
    } else {
        raw.to_owned()
    }
}

/// `APIError` of google-genai.
fn google_error(code: u64, body: &Value) -> Exception {
    let body = match body {
        // A streamed error comes in an array.
        Value::Array(items) if items.len() == 1 => &items[0],
        body => body,
    };
    let class = match code {
        400..500 => "ClientError",
        500..600 => "ServerError",
        _ => "APIError",
    };
    let status = text(body, "status")
        .or_else(|| text(body.get("error")?, "status"))
        .unwrap_or("None");
    (
        class.to_owned(),
        Some(format!("{code} {status}. {}", repr(body, MESSAGE_CHARS))),
    )
}

fn js_class(code: u16) -> String {
    match openai_class(code) {
        "APIStatusError" => "APIError",
        class => class,
    }
    .to_owned()
}

/// `APIError.makeMessage` of the JavaScript SDKs.
fn js_message(code: u16, message: &str) -> String {
    if message.is_empty() {
        format!("{code} status code (no body)")
    } else {
        format!("{code} {message}")
    }
}

/// The text of a body that is no JSON.
fn raw_unless(body: Option<&Value>, raw: &str) -> String {
    if body.is_some() {
        String::new()
    } else {
        raw.to_owned()
    }
}

/// The message of an error body: OpenAI, Anthropic and Google put it into `error`, others do not.
fn error_text(body: &Value) -> Option<&str> {
    let body = match body {
        Value::Array(items) => items.first()?,
        body => body,
    };
    body.get("error")
        .and_then(|error| text(error, "message").or_else(|| error.as_str()))
        .or_else(|| text(body, "message"))
        .or_else(|| text(body, "detail"))
}

/// What an error body says, or its text if it is no JSON.
fn plain_message(body: Option<&Value>, raw: &str) -> Option<String> {
    match body {
        Some(body) => error_text(body).map(str::to_owned),
        None => (!raw.is_empty()).then(|| raw.to_owned()),
    }
}

fn error_type(body: &Value) -> Option<&str> {
    let body = match body {
        Value::Array(items) => items.first()?,
        body => body,
    };
    body.get("error")
        .and_then(|error| {
            text(error, "type")
                .or_else(|| text(error, "status"))
                .or_else(|| text(error, "code"))
        })
        .or_else(|| text(body, "code"))
        .or_else(|| text(body, "type"))
}

/// The code by which anthropic 2.x refines the class.
fn error_code(body: &Value) -> Option<&str> {
    text(body.get("error")?.get("details")?, "error_code")
}

fn openai_class(code: u16) -> &'static str {
    match code {
        400 => "BadRequestError",
        401 => "AuthenticationError",
        403 => "PermissionDeniedError",
        404 => "NotFoundError",
        409 => "ConflictError",
        422 => "UnprocessableEntityError",
        429 => "RateLimitError",
        500.. => "InternalServerError",
        _ => "APIStatusError",
    }
}

/// The class of google-api-core over REST.
fn api_core_class(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        411 => "LengthRequired",
        412 => "PreconditionFailed",
        416 => "RequestRangeNotSatisfiable",
        429 => "TooManyRequests",
        499 => "Cancelled",
        500 => "InternalServerError",
        501 => "MethodNotImplemented",
        502 => "BadGateway",
        503 => "ServiceUnavailable",
        504 => "GatewayTimeout",
        _ if code < 500 => "ClientError",
        _ => "ServerError",
    }
}

fn cohere_class(code: u16) -> &'static str {
    match code {
        400 => "BadRequestError",
        401 => "UnauthorizedError",
        403 => "ForbiddenError",
        404 => "NotFoundError",
        422 => "UnprocessableEntityError",
        429 => "TooManyRequestsError",
        498 => "InvalidTokenError",
        499 => "ClientClosedRequestError",
        500 => "InternalServerError",
        501 => "NotImplementedError",
        503 => "ServiceUnavailableError",
        504 => "GatewayTimeoutError",
        _ => "ApiError",
    }
}

/// The class for a kind of error of text generation.
fn generation_class(kind: &str) -> &'static str {
    match kind {
        "generation" => "GenerationError",
        "incomplete_generation" => "IncompleteGenerationError",
        "overloaded" => "OverloadedError",
        "validation" => "ValidationError",
        _ => "UnknownError",
    }
}

fn anthropic_0_class(code: u16) -> &'static str {
    match code {
        413 => "RequestTooLargeError",
        529 => "OverloadedError",
        _ => openai_class(code),
    }
}

fn anthropic_class(code: u16) -> &'static str {
    match code {
        402 => "PaymentRequiredError",
        408 => "RequestTimeoutError",
        412 => "PreconditionFailedError",
        413 => "ContentTooLargeError",
        431 => "RequestHeaderFieldsTooLargeError",
        499 => "ClientClosedRequestError",
        501 => "HTTPNotImplementedError",
        503 => "ServiceUnavailableError",
        504 => "GatewayTimeoutError",
        529 => "OverloadedError",
        _ => openai_class(code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sdk(fields: &[(&'static str, &'static str)]) -> Sdk {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_static(value),
                )
            })
            .collect();
        Sdk::of(&RequestHead {
            method: http::Method::POST,
            path: "/model/m/converse".to_owned(),
            query: String::new(),
            host: None,
            port: None,
            headers,
            credential: None,
            partial: false,
            websocket: false,
        })
    }

    #[test]
    fn headers_tell_the_library() {
        for (agent, version, expected) in [
            ("OpenAI/Python 3.54.0", "3.54.0", Sdk::OpenAiPython(3)),
            ("AsyncOpenAI/Python 2.54.0", "2.54.0", Sdk::OpenAiPython(2)),
            ("OpenAI/Python 1.109.1", "", Sdk::OpenAiPython(1)),
            (
                "AsyncAzureOpenAI/Python 3.54.0",
                "3.54.0",
                Sdk::OpenAiPython(3),
            ),
            ("Groq/Python 1.7.0", "1.7.0", Sdk::OpenAiPython(1)),
            ("Anthropic/Python 2.12.0", "2.12.0", Sdk::AnthropicPython(2)),
            (
                "AsyncAnthropicBedrock/Python 2.12.0",
                "2.12.0",
                Sdk::AnthropicPython(2),
            ),
            (
                "AsyncAnthropic/Python 0.125.0",
                "0.125.0",
                Sdk::AnthropicPython(0),
            ),
            (
                "AsyncAnthropicVertex/Python 2.12.0",
                "2.12.0",
                Sdk::AnthropicPython(2),
            ),
            ("OpenAI/JS 6.9.0", "6.9.0", Sdk::OpenAiJs),
            ("Anthropic/JS 0.70.0", "0.70.0", Sdk::AnthropicJs),
            (
                "google-genai-sdk/3.4.0 gl-python/3.11.7",
                "",
                Sdk::GoogleGenAi,
            ),
            (
                "ollama-python/0.6.3 (x86_64 linux) Python/3.11.7",
                "",
                Sdk::OllamaPython,
            ),
            ("mistral-client-python/3.7.0", "", Sdk::MistralPython),
            (
                "unknown/None; hf_hub/2.4.0; python/3.11.7",
                "",
                Sdk::HuggingFaceHub,
            ),
            ("curl/8.5.0", "", Sdk::Unknown),
            ("", "", Sdk::Unknown),
        ] {
            let fields = [
                ("user-agent", agent),
                ("x-stainless-package-version", version),
            ];
            let fields = if version.is_empty() {
                &fields[..1]
            } else {
                &fields[..]
            };
            assert_eq!(sdk(fields), expected, "{agent}");
        }
    }

    #[test]
    fn libraries_of_other_names_are_told_by_how_they_are_made() {
        for (agent, lang, version, expected) in [
            (
                "langchain-partner-python-azure-openai",
                "python",
                "3.57.0",
                Sdk::OpenAiPython(3),
            ),
            (
                "Cerebras/Python 3.1.0",
                "python",
                "3.1.0",
                Sdk::OpenAiPython(1),
            ),
            ("my-agent/1.0", "js", "7.57.0", Sdk::OpenAiJs),
            ("my-agent/1.0", "go", "3.98.0", Sdk::Unknown),
        ] {
            let fields = [
                ("user-agent", agent),
                ("x-stainless-lang", lang),
                ("x-stainless-package-version", version),
            ];
            assert_eq!(sdk(&fields), expected, "{agent}");
        }
        let fields = [
            ("user-agent", "my-agent/1.0"),
            ("x-stainless-lang", "python"),
            ("x-stainless-package-version", "2.12.0"),
            ("anthropic-version", "2023-06-01"),
        ];
        assert_eq!(sdk(&fields), Sdk::AnthropicPython(2));
    }

    #[test]
    fn statuses_have_the_classes_of_the_sdks() {
        const TABLE: &str = "
            400 BadRequestError          BadRequestError          BadRequestError                  ClientError BadRequestError BadRequestError
            401 AuthenticationError      AuthenticationError      AuthenticationError              ClientError AuthenticationError UnauthorizedError
            402 APIStatusError           APIStatusError           PaymentRequiredError             ClientError APIError ApiError
            403 PermissionDeniedError    PermissionDeniedError    PermissionDeniedError            ClientError PermissionDeniedError ForbiddenError
            404 NotFoundError            NotFoundError            NotFoundError                    ClientError NotFoundError NotFoundError
            408 APIStatusError           APIStatusError           RequestTimeoutError              ClientError APIError ApiError
            409 ConflictError            ConflictError            ConflictError                    ClientError ConflictError ApiError
            412 APIStatusError           APIStatusError           PreconditionFailedError          ClientError APIError ApiError
            413 APIStatusError           RequestTooLargeError     ContentTooLargeError             ClientError APIError ApiError
            418 APIStatusError           APIStatusError           APIStatusError                   ClientError APIError ApiError
            422 UnprocessableEntityError UnprocessableEntityError UnprocessableEntityError         ClientError UnprocessableEntityError UnprocessableEntityError
            429 RateLimitError           RateLimitError           RateLimitError                   ClientError RateLimitError TooManyRequestsError
            431 APIStatusError           APIStatusError           RequestHeaderFieldsTooLargeError ClientError APIError ApiError
            499 APIStatusError           APIStatusError           ClientClosedRequestError         ClientError APIError ClientClosedRequestError
            500 InternalServerError      InternalServerError      InternalServerError              ServerError InternalServerError InternalServerError
            501 InternalServerError      InternalServerError      HTTPNotImplementedError          ServerError InternalServerError NotImplementedError
            502 InternalServerError      InternalServerError      InternalServerError              ServerError InternalServerError ApiError
            503 InternalServerError      InternalServerError      ServiceUnavailableError          ServerError InternalServerError ServiceUnavailableError
            504 InternalServerError      InternalServerError      GatewayTimeoutError              ServerError InternalServerError GatewayTimeoutError
            529 InternalServerError      OverloadedError          OverloadedError                  ServerError InternalServerError ApiError
            598 InternalServerError      InternalServerError      InternalServerError              ServerError InternalServerError ApiError
        ";
        let sdks = [
            Sdk::OpenAiPython(3),
            Sdk::AnthropicPython(0),
            Sdk::AnthropicPython(2),
            Sdk::GoogleGenAi,
            Sdk::OpenAiJs,
            Sdk::CoherePython,
        ];
        for row in TABLE.trim().lines() {
            let (status, classes) = row.trim().split_once(' ').unwrap();
            for (sdk, class) in sdks.into_iter().zip(classes.split_whitespace()) {
                let status: StatusCode = status.parse().unwrap();
                assert_eq!(
                    sdk.status_error(status, None, "").0,
                    class,
                    "{sdk:?} {status}"
                );
            }
        }
    }

    #[test]
    fn messages_are_those_of_the_sdks() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let body = json!({"error": {"message": "it's enough", "type": "tokens", "code": null}});
        let bare = json!({"message": "it's enough"});
        let text = json!({"error": "it's enough"});
        for (sdk, body, raw, message) in [
            (
                Sdk::OpenAiPython(3),
                Some(&body),
                "",
                "Error code: 429 - it's enough",
            ),
            (
                Sdk::OpenAiPython(3),
                Some(&bare),
                "",
                "Error code: 429 - it's enough",
            ),
            (Sdk::OpenAiPython(3), Some(&text), "", "Error code: 429"),
            (Sdk::OpenAiPython(3), None, "it's enough", "Error code: 429"),
            (
                Sdk::OpenAiPython(2),
                Some(&body),
                "",
                "Error code: 429 - {'error': {'message': \"it's enough\", 'type': 'tokens', 'code': None}}",
            ),
            (Sdk::OpenAiPython(2), None, "it's enough", "it's enough"),
            (Sdk::OpenAiPython(1), None, "", "Error code: 429"),
            (
                Sdk::AnthropicPython(2),
                Some(&text),
                "",
                "Error code: 429 - {'error': \"it's enough\"}",
            ),
            (
                Sdk::GoogleGenAi,
                None,
                "it's enough",
                "429 Too Many Requests. {'message': \"it's enough\", 'status': 'Too Many Requests'}",
            ),
            (Sdk::OpenAiJs, Some(&body), "", "429 it's enough"),
            (Sdk::OpenAiJs, Some(&bare), "", "429 status code (no body)"),
            (Sdk::OpenAiJs, None, "it's enough", "429 it's enough"),
            (
                Sdk::AnthropicJs,
                Some(&text),
                "",
                r#"429 {"error":"it's enough"}"#,
            ),
            (
                Sdk::CoherePython,
                Some(&bare),
                "",
                "status_code: 429, body: {'message': \"it's enough\"}",
            ),
            (
                Sdk::MistralPython,
                Some(&bare),
                r#"{"message":"it's enough"}"#,
                r#"API error occurred: Status 429. Body: {"message":"it's enough"}"#,
            ),
            (
                Sdk::OllamaPython,
                Some(&text),
                "",
                "it's enough (status code: 429)",
            ),
            (Sdk::HuggingFaceHub, Some(&text), "", "it's enough"),
            (Sdk::Unknown, Some(&body), "", "it's enough"),
            (Sdk::Unknown, Some(&text), "", "it's enough"),
        ] {
            assert_eq!(
                sdk.status_error(status, body, raw).1.as_deref(),
                Some(message),
                "{sdk:?}"
            );
        }
        assert_eq!(
            Sdk::Unknown.status_error(status, Some(&body), "").0,
            "tokens"
        );
        assert_eq!(
            Sdk::Unknown.status_error(status, Some(&text), "").0,
            "http_429"
        );
    }

    #[test]
    fn messages_are_bounded() {
        let body = json!({"error": {"message": "x".repeat(10_000)}});
        for sdk in [
            Sdk::OpenAiPython(3),
            Sdk::OpenAiPython(2),
            Sdk::AnthropicJs,
            Sdk::Unknown,
        ] {
            let (_, message) = sdk.status_error(StatusCode::BAD_REQUEST, Some(&body), "");
            assert!(message.unwrap().len() <= MESSAGE_CHARS + 3);
        }
    }

    #[test]
    fn an_error_in_a_stream_without_a_message_has_one() {
        let body = json!({"error": {"code": 1}});
        assert_eq!(
            Sdk::OpenAiPython(3).stream_error(&body),
            (
                "APIError".to_owned(),
                Some("An error occurred during streaming".to_owned())
            )
        );
        assert_eq!(
            Sdk::Unknown.stream_error(&body),
            ("stream_error".to_owned(), None)
        );
    }
}
