//! One HTTP exchange that is, or may be, a call.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use http::{HeaderMap, StatusCode};

use super::{
    Certainty, Provider, Recognized,
    body::{NAME_CHARS, Reader, Request, Response, State},
    botocore,
    builder::{CallBuilder, Finish, Start, name},
    fields::Fields,
    headers, hosts, marks, percent,
    sdk::Sdk,
};
use crate::{
    call::{Incomplete, LlmCall},
    chunk::{Origin, Timestamp},
    connection::{CallEvent, CallId, Options},
    http::{End, RequestHead, ResponseHead},
};

/// Longest path of a record, in bytes of UTF-8.
const PATH_BYTES: usize = 2048;

/// Longest host of a record: RFC 1035 section 2.3.4.
const HOST_BYTES: usize = 255;

/// Header fields in which providers give the id of a request, the usual one first.
const REQUEST_ID: &[&str] = &[
    "x-request-id",
    "request-id",
    "apim-request-id",
    "x-ms-request-id",
    "x-amzn-requestid",
];

/// How the names of header fields begin that tell how much more may be asked for: OpenAI and those
/// that do as it does, Anthropic, and RFC 9110 section 10.2.3.
const RATE_LIMIT: &[&str] = &["x-ratelimit-", "anthropic-ratelimit-", "retry-after"];

/// Most of these fields, and the longest, in bytes.
const RATE_LIMITS: usize = 32;
const RATE_LIMIT_BYTES: usize = 64;

/// An exchange that is, or may be, a call.
pub(super) struct Exchange {
    pub(super) call: CallId,
    provider: &'static dyn Provider,
    pub(super) certainty: Certainty,
    builder: CallBuilder,
    request: Option<Request>,
    /// Bytes of the request are missing.
    request_lost: bool,
    /// Whether the request had the shape of the format.
    pub(super) request_fits: bool,
    /// The path asks for a stream.
    stream_path: bool,
    read_timeout: Option<Duration>,
    status: Option<StatusCode>,
    request_id: Option<String>,
    rate_limit: BTreeMap<String, String>,
    response: Option<Response>,
    state: State,
    /// Whether it has been reported that a call began.
    pub(super) announced: bool,
    last_byte: Timestamp,
    origin: Origin,
    fingerprint: u64,
    /// The status of gRPC, which comes behind the answer.
    grpc: Option<Status>,
    /// Fields of its heads are unknown.
    partial: bool,
    options: Options,
}

/// The status of gRPC (`grpc-status`, `grpc-message`).
struct Status {
    code: u32,
    message: Option<String>,
}

impl Status {
    const OK: u32 = 0;
    const CANCELLED: u32 = 1;

    /// If it is one of the fields that are unknown, it is what it mostly is.
    fn of(headers: &HeaderMap, partial: bool) -> Option<Self> {
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = field("grpc-status").and_then(|code| code.parse().ok());
        Some(Self {
            code: code.or(partial.then_some(Self::OK))?,
            message: field("grpc-message").map(percent::decoded),
        })
    }
}

/// A path in its bounds.
pub(super) fn bounded(path: &str) -> &str {
    &path[..path.floor_char_boundary(PATH_BYTES)]
}

/// A request that was recognised.
pub(super) struct Begin<'a> {
    pub(super) call: CallId,
    pub(super) head: &'a RequestHead,
    pub(super) at: Timestamp,
    pub(super) origin: Origin,
    /// The port of a request that names none.
    pub(super) usual_port: u16,
}

impl Begin<'_> {
    /// What is known of a call before its bodies are read.
    pub(super) fn start(&self, recognized: Recognized, fields: &'static Fields) -> Start {
        let head = self.head;
        Start {
            provider: recognized.provider,
            operation: recognized.operation,
            fields,
            model: recognized.model.as_deref().map(name),
            at: self.at,
            origin: self.origin,
            attempts: head
                .headers
                .get("x-stainless-retry-count")
                .or_else(|| head.headers.get("grpc-previous-rpc-attempts"))
                .and_then(|count| count.to_str().ok()?.parse::<u32>().ok())
                .map(|count| count.saturating_add(1))
                .or_else(|| botocore::attempt(&head.headers)),
            evidence: marks::of_head(head),
            server_address: head
                .host
                .as_ref()
                .map(|host| host[..host.floor_char_boundary(HOST_BYTES)].to_owned()),
            server_port: head
                .host
                .as_ref()
                .map(|_| head.port.unwrap_or(self.usual_port)),
            url_path: Some(bounded(&head.path))
                .filter(|path| !path.is_empty())
                .map(str::to_owned),
            sdk: Sdk::of(head),
        }
    }
}

impl Exchange {
    /// Begins with a request that is, or may be, in a format.
    pub(super) fn new(
        begin: &Begin<'_>,
        provider: &'static dyn Provider,
        recognized: Recognized,
        options: Options,
    ) -> Self {
        let head = begin.head;
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let (stream, certainty) = (recognized.stream, recognized.certainty);
        let start = begin.start(recognized, provider.about().fields);
        let mut builder = CallBuilder::new(start, options);
        builder.stream(stream);
        Self {
            call: begin.call,
            provider,
            certainty,
            builder,
            request: Some(Request::new(provider, head, options)),
            request_lost: false,
            request_fits: false,
            stream_path: stream,
            read_timeout: field("x-stainless-read-timeout")
                .or_else(|| field("x-stainless-timeout"))
                .and_then(|seconds| seconds.parse::<f64>().ok())
                .or_else(|| field("grpc-timeout").and_then(grpc_timeout))
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            status: None,
            request_id: None,
            rate_limit: BTreeMap::new(),
            response: None,
            state: State::default(),
            announced: certainty != Certainty::Possible,
            last_byte: begin.at,
            origin: begin.origin,
            fingerprint: fingerprint(head),
            grpc: None,
            partial: head.partial,
            options,
        }
    }

    /// The host, if it is one of LLM providers.
    pub(super) fn llm_host(&self) -> Option<String> {
        let host = self.builder.server_address()?;
        hosts::is_llm(host).then(|| host.to_owned())
    }

    /// What is reported of its beginning.
    pub(super) fn started(&self) -> CallEvent {
        CallEvent::Started {
            call: self.call,
            at: self.builder.started_at(),
            origin: self.origin,
            fingerprint: self.fingerprint,
        }
    }

    /// Reports what is asked, if that is known.
    pub(super) fn asked(&self, report: &mut dyn FnMut(CallEvent)) {
        let fits = self.request_fits || self.certainty == Certainty::Certain;
        if self.announced && fits && !self.request_lost {
            report(CallEvent::Requested {
                call: self.call,
                request: Box::new(self.builder.asked()),
            });
        }
    }

    pub(super) fn request_body(&mut self, bytes: &[u8], at: Timestamp) {
        self.last_byte = at;
        if let Some(request) = &mut self.request {
            request.push(bytes);
        }
    }

    pub(super) fn request_gap(&mut self, bytes: u64) {
        self.state.lost = true;
        self.request_lost = true;
        if let Some(request) = &mut self.request {
            request.gap(bytes);
        }
    }

    /// Nothing more comes of the request; `whole` if that is where it ends.
    pub(super) fn request_end(&mut self, whole: bool) {
        let Some(request) = self.request.take() else {
            return;
        };
        let (document, told) = request.finish(whole);
        self.builder.told(told);
        if let Some(document) = document {
            self.request_fits = self.provider.is_request(&document);
            if self.request_fits && self.provider.is_settled_by_request() {
                self.certainty = Certainty::Certain;
            }
            self.provider.request(&document, &mut self.builder);
        }
    }

    pub(super) fn response_head(&mut self, head: &ResponseHead, at: Timestamp) {
        self.last_byte = at;
        self.builder.head_at(at);
        self.status = head.status;
        self.partial |= head.partial;
        self.request_id = request_id(&head.headers);
        self.rate_limit = rate_limit(&head.headers);
        // An answer of gRPC without a body has its status at once.
        if self.provider.messages(false).is_some() {
            self.grpc = Status::of(&head.headers, false);
        }
        headers::read(&head.headers, &mut self.builder);
        self.provider.response_head(head, &mut self.builder);
        let stream_path = self.stream_path;
        let (mut reader, _) = self.reader();
        let response = Response::new(head, stream_path, &mut reader);
        self.response = Some(response);
    }

    pub(super) fn response_body(&mut self, bytes: &[u8], at: Timestamp) {
        self.last_byte = at;
        self.builder.received_at(at);
        if let (mut reader, Some(response)) = self.reader() {
            response.push(bytes, &mut reader);
        }
    }

    pub(super) fn response_gap(&mut self, bytes: u64) {
        self.state.lost = true;
        if let (mut reader, Some(response)) = self.reader() {
            response.gap(bytes, &mut reader);
        }
    }

    pub(super) fn response_trailers(&mut self, headers: &HeaderMap, partial: bool, at: Timestamp) {
        self.last_byte = at;
        self.grpc = Status::of(headers, partial);
        self.partial |= partial;
    }

    /// The answer, and what reads it.
    fn reader(&mut self) -> (Reader<'_>, Option<&mut Response>) {
        let reader = Reader {
            provider: self.provider,
            options: self.options,
            builder: &mut self.builder,
            state: &mut self.state,
        };
        (reader, self.response.as_mut())
    }

    /// The record, unless it was no call after all.
    pub(super) fn end(mut self, end: End, at: Timestamp) -> Option<LlmCall> {
        self.request_end(false);
        let mut error = None;
        let status = self.status;
        if let (mut reader, Some(response)) = self.reader() {
            response.finish(&mut reader);
            error = response.error(&mut reader);
        }
        let grpc = self.grpc.take();
        if let Some(status) = &grpc {
            if status.code == Status::OK {
                self.state.whole = true;
            } else {
                let (sdk, message) = (self.builder.sdk(), status.message.as_deref());
                error = Some(sdk.grpc_error(status.code, message, self.stream_path));
            }
        }
        let cancelled = grpc.is_some_and(|status| status.code == Status::CANCELLED);
        let accepted = match self.certainty {
            Certainty::Certain => true,
            Certainty::Likely => self.request_fits || self.state.fits,
            Certainty::Possible => self.request_fits && self.state.fits,
        };
        if !accepted {
            return None;
        }
        let complete = error.is_some()
            || self.state.whole
            || (self.state.streamed && self.builder.is_terminal());
        let waited = at.since(self.builder.started_at());
        let sdk = self.builder.sdk();
        let incomplete = match end {
            End::Complete | End::Upgraded if self.state.lost => Some(Incomplete::BytesLost),
            End::Complete if cancelled => Some(Incomplete::ClientCancelled),
            End::Complete if self.state.unparsable => Some(Incomplete::Unparsable),
            End::Complete | End::Upgraded if complete => None,
            // HTTP/1.0 and proxies end a stream that broke off like one that is complete.
            End::Complete if self.state.streamed => Some(Incomplete::ServerDisconnected),
            End::Complete => Some(Incomplete::Unparsable),
            End::Upgraded => None,
            End::Lost => Some(Incomplete::BytesLost),
            End::Malformed => Some(Incomplete::Unparsable),
            _ if complete => self.state.lost.then_some(Incomplete::BytesLost),
            End::ClientClosed => {
                let timed_out =
                    status.is_none() && self.read_timeout.is_some_and(|timeout| waited >= timeout);
                error = error.or_else(|| timed_out.then(|| sdk.timed_out()));
                Some(Incomplete::ClientCancelled)
            }
            End::ServerClosed => {
                error = error
                    .or_else(|| Some(sdk.disconnected(status.is_some(), self.builder.is_stream())));
                Some(Incomplete::ServerDisconnected)
            }
            End::ProcessExit => Some(Incomplete::ProcessExited),
            End::Detached => Some(Incomplete::ObserverStopped),
        };
        let incomplete = incomplete.or(self.partial.then_some(Incomplete::HeadersUnknown));
        // Without an answer the end is where the wait ended, with one it is where the answer ended.
        let ended = end == End::Complete && (complete || !self.state.streamed);
        let last = if ended || status.is_none() {
            at
        } else {
            self.last_byte
        };
        let latency = last.since(self.builder.started_at());
        Some(self.builder.finish(Finish {
            latency,
            status_code: status.map(|status| status.as_u16()),
            request_id: self.request_id,
            rate_limit: self.rate_limit,
            error,
            incomplete,
        }))
    }

    /// Bytes held, roughly.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.builder.memory()
            + self.request.as_ref().map_or(0, Request::memory)
            + self.response.as_ref().map_or(0, Response::memory)
            + self.rate_limit.len() * 2 * RATE_LIMIT_BYTES
    }
}

/// The provider's id of a request.
pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    REQUEST_ID
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .map(|id| id.chars().take(NAME_CHARS).collect())
}

/// What differs between attempts at one call, and on the two sides of a proxy that is part of a trace (W3C Trace
/// Context, W3C Baggage).
const OF_TRACE: [&str; 3] = ["baggage", "traceparent", "tracestate"];

/// A hash of a request's head, without its credentials and its place in a trace.
pub(super) fn fingerprint(head: &RequestHead) -> u64 {
    let mut hasher = DefaultHasher::new();
    (head.method.as_str(), &head.path, &head.query).hash(&mut hasher);
    (&head.host, head.port).hash(&mut hasher);
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value));
    for (name, value) in fields.filter(|(name, _)| !OF_TRACE.contains(name)) {
        (name, value.as_bytes()).hash(&mut hasher);
    }
    hasher.finish()
}

/// The fields that tell how much more may be asked for.
pub(super) fn rate_limit(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .filter(|(name, _)| {
            RATE_LIMIT
                .iter()
                .any(|begin| name.as_str().starts_with(begin))
        })
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .filter(|(name, value)| name.len().max(value.len()) <= RATE_LIMIT_BYTES)
        .take(RATE_LIMITS)
        .collect()
}

/// Seconds of a `grpc-timeout`, such as `600S`.
fn grpc_timeout(value: &str) -> Option<f64> {
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let unit = match unit {
        "H" => 3600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}
