//! From HTTP exchanges to calls.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

use super::{
    Certainty, Event as StreamEvent, PROVIDERS, Provider, Recognized, Selection,
    builder::{CallBuilder, Finish, Start},
    gemini::percent_decoded,
    hosts,
    sdk::{Exception, Sdk},
};
use crate::{
    body::{
        encoding::Decoder,
        grpc,
        json::{self, Limits, Parser, Select, Taken, Template},
        ndjson, sse,
    },
    call::{Incomplete, LlmCall},
    chunk::{Origin, Timestamp},
    connection::{CallEvent, CallId, Options, Verdict},
    http::{End, Event, ExchangeId, RequestHead, ResponseHead},
};

/// Port of https (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// Port of http (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// Bytes that are kept of one body, beside previews.
const KEPT_BYTES: usize = 48 * 1024;

/// Longest string that is kept while no content is, in code points: model names and the like.
const NAME_CHARS: usize = 256;

/// Bytes of an error body that are kept in case it is no JSON.
const RAW_ERROR_BYTES: usize = 2048;

/// Longest string of an error, in code points.
const ERROR_CHARS: usize = 4096;

/// Longest path of a record, in bytes of UTF-8.
const PATH_BYTES: usize = 2048;

/// Header fields in which providers give the id of a request, the usual one first.
const REQUEST_ID: &[&str] = &[
    "x-request-id",
    "request-id",
    "apim-request-id",
    "x-ms-request-id",
];

/// The calls of one connection.
pub struct Calls {
    options: Options,
    /// Where a request names no port.
    usual_port: u16,
    active: Vec<Active>,
    next: u64,
    verdict: Verdict,
    seen_request: bool,
    /// Requests that were no calls.
    strangers: u64,
}

/// An exchange that is, or may be, a call.
struct Active {
    exchange: ExchangeId,
    call: CallId,
    provider: &'static dyn Provider,
    certainty: Certainty,
    builder: CallBuilder,
    request: Option<Request>,
    /// Whether the bodies had the shape of the format.
    request_fits: bool,
    response_fits: bool,
    /// The path asks for a stream.
    stream_path: bool,
    read_timeout: Option<Duration>,
    response: Option<Response>,
    /// The answer comes in pieces that tell by themselves when they are complete.
    streamed: bool,
    /// The answer is one piece, and that is complete.
    whole: bool,
    announced: bool,
    last_byte: Timestamp,
    lost: bool,
    unparsable: bool,
    origin: Origin,
    fingerprint: u64,
    /// The status of gRPC, which comes behind the answer.
    grpc: Option<Status>,
    /// Fields of its heads are unknown.
    partial: bool,
}

/// The body of a request.
enum Request {
    Document {
        decoder: Decoder,
        parser: Parser,
    },
    Messages {
        parser: grpc::Parser,
        first: Option<Value>,
    },
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
            message: field("grpc-message").map(percent_decoded),
        })
    }
}

/// The answer as far as it has come.
struct Response {
    status: Option<StatusCode>,
    request_id: Option<String>,
    decoder: Decoder,
    body: Body,
    /// Whether the coding is unknown, too: the first byte will tell.
    coded: bool,
}

enum Body {
    Document(Parser),
    /// Elements of a JSON array.
    Elements(Parser),
    Error {
        status: StatusCode,
        parser: Parser,
        raw: Vec<u8>,
    },
    Events(sse::Parser, Templates),
    /// Of gRPC.
    Messages(grpc::Parser),
    Lines(ndjson::Parser, Templates),
    /// Of a redirection, or none at all.
    Other,
    /// Of unknown type: the first byte will tell.
    Unknown,
}

impl Calls {
    /// No calls yet, by TLS.
    pub fn new(options: Options) -> Self {
        Self::with(options, HTTPS_PORT)
    }

    /// No calls yet, without TLS.
    pub fn plain(options: Options) -> Self {
        Self::with(options, HTTP_PORT)
    }

    fn with(options: Options, usual_port: u16) -> Self {
        Self {
            options,
            usual_port,
            active: Vec::new(),
            next: 0,
            verdict: Verdict::Undecided,
            seen_request: false,
            strangers: 0,
        }
    }

    /// Whether these are calls to an LLM, by the requests so far.
    pub fn verdict(&self) -> Verdict {
        match self.verdict {
            // One that may be a call is under way.
            Verdict::Other if !self.active.is_empty() => Verdict::Undecided,
            verdict => verdict,
        }
    }

    /// Whether there has been a request of any kind.
    pub fn has_seen_request(&self) -> bool {
        self.seen_request
    }

    /// How many requests were no calls.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// What the first request that tells says, holds; but a call is a call.
    fn judge(&mut self, verdict: Verdict) {
        self.strangers += u64::from(verdict == Verdict::Other);
        if self.verdict == Verdict::Undecided || verdict == Verdict::Llm {
            self.verdict = verdict;
        }
    }

    /// Takes the next event of the connection.
    pub fn handle(&mut self, event: Event<'_>, report: &mut dyn FnMut(CallEvent)) {
        match event {
            Event::RequestHead {
                exchange,
                head,
                at,
                origin,
            } => {
                self.seen_request = true;
                let host = head.host.as_deref().unwrap_or_default();
                // What follows a CONNECT is another connection, most likely by TLS.
                if hosts::is_llm(host) && head.method != Method::CONNECT {
                    self.judge(Verdict::Llm);
                }
                let begun = self.begin(exchange, &head, at, origin);
                match begun.first().map(|active| active.certainty) {
                    Some(Certainty::Certain) => self.judge(Verdict::Llm),
                    // The bodies will tell.
                    Some(Certainty::Likely | Certainty::Possible) => {}
                    None => self.judge(Verdict::Other),
                }
                for active in begun {
                    if active.announced {
                        report(active.started());
                    }
                    self.active.push(active);
                }
            }
            Event::RequestBody {
                exchange,
                bytes,
                at,
            } => {
                for active in self.find(exchange) {
                    active.last_byte = at;
                    if let Some(request) = &mut active.request {
                        request.push(bytes);
                    }
                }
            }
            Event::RequestGap { exchange, bytes } => {
                for active in self.find(exchange) {
                    active.lost = true;
                    if let Some(request) = &mut active.request {
                        request.gap(bytes);
                    }
                }
            }
            Event::RequestEnd { exchange, .. } => self.request_end(exchange, report),
            Event::ResponseHead { exchange, head, at } => {
                let options = self.options;
                for active in self.find(exchange) {
                    active.last_byte = at;
                    active.response_head(&head, options);
                }
            }
            Event::ResponseBody {
                exchange,
                bytes,
                at,
            } => {
                let options = self.options;
                for active in self.find(exchange) {
                    active.last_byte = at;
                    active.builder.received_at(at);
                    active.response_body(bytes, options);
                }
            }
            Event::ResponseGap { exchange, bytes } => {
                let options = self.options;
                for active in self.find(exchange) {
                    active.response_gap(bytes, options);
                }
            }
            Event::ResponseTrailers {
                exchange,
                headers,
                partial,
                at,
            } => {
                for active in self.find(exchange) {
                    active.last_byte = at;
                    active.grpc = Status::of(&headers, partial);
                    active.partial |= partial;
                }
            }
            Event::Message { .. } => {}
            Event::End { exchange, end, at } => self.end(exchange, end, at, report),
        }
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.active.iter().map(Active::memory).sum()
    }

    /// An exchange whose head leaves doubt is read in several formats.
    fn find(&mut self, exchange: ExchangeId) -> impl Iterator<Item = &mut Active> {
        self.active
            .iter_mut()
            .filter(move |active| active.exchange == exchange)
    }

    fn request_end(&mut self, exchange: ExchangeId, report: &mut dyn FnMut(CallEvent)) {
        let before = self.active.len();
        self.active.retain_mut(|active| {
            if active.exchange != exchange {
                return true;
            }
            active.request_end();
            active.certainty != Certainty::Possible || active.request_fits
        });
        let removed = self.active.len() < before;
        let mut left = self.find(exchange);
        match (left.next(), left.next()) {
            (None, _) if removed => {
                drop(left);
                self.judge(Verdict::Other);
            }
            // Which of several it is the answer will tell.
            (Some(active), None) if !active.announced => {
                active.announced = true;
                report(active.started());
            }
            _ => {}
        }
    }

    fn end(
        &mut self,
        exchange: ExchangeId,
        end: End,
        at: Timestamp,
        report: &mut dyn FnMut(CallEvent),
    ) {
        let (ended, left) = std::mem::take(&mut self.active)
            .into_iter()
            .partition::<Vec<_>, _>(|active| active.exchange == exchange);
        self.active = left;
        if ended.is_empty() {
            return;
        }
        let mut recorded = false;
        for active in ended {
            let (call, announced, started) = (active.call, active.announced, active.started());
            let record = if recorded {
                None
            } else {
                active.end(end, at, self.options)
            };
            match record {
                Some(record) => {
                    recorded = true;
                    if !announced {
                        report(started);
                    }
                    report(CallEvent::Ended {
                        call,
                        record: Box::new(record),
                    });
                }
                None if announced => report(CallEvent::Dismissed { call }),
                None => {}
            }
        }
        self.judge(if recorded {
            Verdict::Llm
        } else {
            Verdict::Other
        });
    }

    fn begin(
        &mut self,
        exchange: ExchangeId,
        head: &RequestHead,
        at: Timestamp,
        origin: Origin,
    ) -> Vec<Active> {
        if head.path.is_empty() && head.partial && head.method == Method::POST {
            let shapes = PROVIDERS.iter().filter_map(|provider| {
                let (name, operation) = provider.by_shape(head)?;
                let recognized = Recognized {
                    provider: name,
                    operation,
                    model: None,
                    stream: false,
                    certainty: Certainty::Possible,
                };
                Some((*provider, recognized))
            });
            return shapes
                .map(|(provider, recognized)| {
                    self.active(exchange, head, provider, recognized, at, origin)
                })
                .collect();
        }
        PROVIDERS
            .iter()
            .find_map(|provider| Some((*provider, provider.recognize(head)?)))
            .map(|(provider, recognized)| {
                self.active(exchange, head, provider, recognized, at, origin)
            })
            .into_iter()
            .collect()
    }

    fn active(
        &mut self,
        exchange: ExchangeId,
        head: &RequestHead,
        provider: &'static dyn Provider,
        recognized: Recognized,
        at: Timestamp,
        origin: Origin,
    ) -> Active {
        let call = CallId(self.next);
        self.next += 1;
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let start = Start {
            provider: recognized.provider,
            operation: recognized.operation,
            model: recognized.model,
            at,
            origin,
            attempts: field("x-stainless-retry-count")
                .and_then(|count| count.parse::<u32>().ok())
                .map(|count| count.saturating_add(1)),
            server_address: head.host.clone(),
            server_port: head
                .host
                .as_ref()
                .map(|_| head.port.unwrap_or(self.usual_port)),
            url_path: Some(&head.path[..head.path.floor_char_boundary(PATH_BYTES)])
                .filter(|path| !path.is_empty())
                .map(str::to_owned),
            sdk: Sdk::of(&head.headers),
        };
        let mut builder = CallBuilder::new(start, self.options);
        builder.stream(recognized.stream);
        let selection = provider.selection(self.options.capture_content);
        let bounds = limits(self.options, self.options.input_preview_chars, NAME_CHARS);
        Active {
            exchange,
            call,
            provider,
            certainty: recognized.certainty,
            builder,
            request: Some(match provider.messages(self.options.capture_content) {
                Some(messages) => Request::Messages {
                    parser: grpc::Parser::new(
                        &messages.request,
                        grpc_encoding(&head.headers),
                        bounds,
                    ),
                    first: None,
                },
                None => Request::Document {
                    decoder: Decoder::new(&content_encoding(&head.headers)),
                    parser: Parser::new(&selection.request, bounds),
                },
            }),
            request_fits: false,
            response_fits: false,
            stream_path: recognized.stream,
            read_timeout: field("x-stainless-read-timeout")
                .or_else(|| field("x-stainless-timeout"))
                .and_then(|seconds| seconds.parse::<f64>().ok())
                .or_else(|| field("grpc-timeout").and_then(grpc_timeout))
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            response: None,
            streamed: false,
            whole: false,
            announced: recognized.certainty != Certainty::Possible,
            last_byte: at,
            lost: false,
            unparsable: false,
            origin,
            fingerprint: fingerprint(head),
            grpc: None,
            partial: head.partial,
        }
    }
}

impl Active {
    fn started(&self) -> CallEvent {
        CallEvent::Started {
            call: self.call,
            at: self.builder.started_at(),
            origin: self.origin,
            fingerprint: self.fingerprint,
        }
    }

    fn request_end(&mut self) {
        let Some(request) = self.request.take() else {
            return;
        };
        if let Some(document) = request.finish() {
            self.request_fits = self.provider.is_request(&document);
            self.provider.request(&document, &mut self.builder);
        }
    }

    fn response_head(&mut self, head: &ResponseHead, options: Options) {
        let selection = self.provider.selection(options.capture_content);
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        let bounds = limits(options, options.output_preview_chars, ERROR_CHARS);
        let failed = head.status.filter(|status| status.as_u16() >= 400);
        let body = if let Some(status) = failed {
            let bounds = Limits {
                string_chars: ERROR_CHARS,
                kept_bytes: KEPT_BYTES,
            };
            Body::Error {
                status,
                parser: Parser::new(&Select::All, bounds),
                raw: Vec::new(),
            }
        } else if head.status.is_some_and(|status| !status.is_success()) {
            Body::Other
        } else if let Some(messages) = self.provider.messages(options.capture_content) {
            self.streamed = self.stream_path;
            // An answer without a body has its status at once.
            self.grpc = Status::of(&head.headers, false);
            let message = if self.stream_path {
                &messages.event
            } else {
                &messages.response
            };
            Body::Messages(grpc::Parser::new(
                message,
                grpc_encoding(&head.headers),
                bounds,
            ))
        } else if content_type.starts_with("text/event-stream") {
            self.builder.stream(true);
            self.streamed = true;
            Body::Events(sse::Parser::default(), Templates::default())
        } else if content_type.starts_with("application/x-ndjson") {
            self.builder.stream(true);
            self.streamed = true;
            Body::Lines(ndjson::Parser::default(), Templates::default())
        } else if head.partial && content_type.is_empty() {
            Body::Unknown
        } else if self.stream_path {
            self.streamed = true;
            Body::Elements(Parser::elements(&selection.event, bounds))
        } else {
            Body::Document(Parser::new(&selection.response, bounds))
        };
        self.response = Some(Response {
            status: head.status,
            request_id: REQUEST_ID
                .iter()
                .find_map(|name| head.headers.get(*name)?.to_str().ok())
                .map(|id| id.chars().take(NAME_CHARS).collect()),
            decoder: Decoder::new(&content_encoding(&head.headers)),
            body,
            coded: head.partial && !head.headers.contains_key(header::CONTENT_ENCODING),
        });
        self.partial |= head.partial;
    }

    fn response_body(&mut self, bytes: &[u8], options: Options) {
        let Some(response) = &mut self.response else {
            return;
        };
        let mut reader = Reader {
            provider: self.provider,
            selection: self.provider.selection(options.capture_content),
            options,
            builder: &mut self.builder,
            fits: &mut self.response_fits,
            unparsable: &mut self.unparsable,
        };
        let streamed = &mut self.streamed;
        if std::mem::take(&mut response.coded) {
            response.decoder = Decoder::new(match bytes.first() {
                // RFC 1952 and RFC 8878; no text and no message begins so.
                Some(0x1f) => "gzip",
                Some(0x28) => "zstd",
                _ => "",
            });
        }
        let body = &mut response.body;
        let decoded = response.decoder.push(bytes, &mut |bytes| {
            if let Body::Unknown = body {
                *body = reader.body(bytes, streamed);
            }
            match body {
                Body::Document(parser) => parser.push(bytes, &mut |_| ()),
                Body::Elements(parser) => {
                    parser.push(bytes, &mut |element| reader.element(&element))
                }
                Body::Events(parser, templates) => {
                    parser.push(bytes, &mut |event| reader.event(event, templates));
                }
                Body::Lines(parser, templates) => {
                    parser.push(bytes, &mut |line| reader.line(line, templates));
                }
                Body::Messages(parser) => parser.push(bytes, &mut |message| {
                    reader.message(message, *streamed);
                }),
                Body::Error { parser, raw, .. } => {
                    let room = RAW_ERROR_BYTES.saturating_sub(raw.len());
                    raw.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    parser.push(bytes, &mut |_| ());
                }
                Body::Other | Body::Unknown => {}
            }
        });
        self.unparsable |= decoded.is_err();
    }

    fn response_gap(&mut self, bytes: u64, options: Options) {
        self.lost = true;
        let Some(response) = &mut self.response else {
            return;
        };
        let mut reader = Reader {
            provider: self.provider,
            selection: self.provider.selection(options.capture_content),
            options,
            builder: &mut self.builder,
            fits: &mut self.response_fits,
            unparsable: &mut self.unparsable,
        };
        if !response.decoder.is_identity() {
            // Nothing after the gap can be decoded.
            response.decoder = Decoder::new("lost");
        }
        match &mut response.body {
            Body::Document(parser) | Body::Elements(parser) | Body::Error { parser, .. } => {
                parser.gap()
            }
            Body::Events(parser, _) => parser.gap(),
            Body::Lines(parser, _) => parser.gap(),
            Body::Messages(parser) => parser.gap(bytes, &mut |message| {
                // What is missing is said elsewhere.
                if message.is_some() {
                    reader.message(message, self.streamed);
                }
            }),
            Body::Other | Body::Unknown => {}
        }
    }

    /// The record, unless it was no call after all.
    fn end(mut self, end: End, at: Timestamp, options: Options) -> Option<LlmCall> {
        self.request_end();
        let mut error = None;
        let response = self.response.take();
        let (status, request_id) = match &response {
            Some(response) => (response.status, response.request_id.clone()),
            None => (None, None),
        };
        if let Some(response) = response {
            error = self.response_end(response, options);
        }
        let grpc = self.grpc.take();
        if let Some(status) = &grpc {
            if status.code == Status::OK {
                self.whole = true;
            } else {
                let (sdk, message) = (self.builder.sdk(), status.message.as_deref());
                error = Some(sdk.grpc_error(status.code, message, self.stream_path));
            }
        }
        let cancelled = grpc.is_some_and(|status| status.code == Status::CANCELLED);
        let accepted = match self.certainty {
            Certainty::Certain => true,
            Certainty::Likely => self.request_fits || self.response_fits,
            Certainty::Possible => self.request_fits && self.response_fits,
        };
        if !accepted {
            return None;
        }
        let complete =
            error.is_some() || self.whole || (self.streamed && self.builder.is_terminal());
        let waited = at.since(self.builder.started_at());
        let sdk = self.builder.sdk();
        let incomplete = match end {
            End::Complete | End::Upgraded if self.lost => Some(Incomplete::BytesLost),
            End::Complete if cancelled => Some(Incomplete::ClientCancelled),
            End::Complete if self.unparsable => Some(Incomplete::Unparsable),
            End::Complete | End::Upgraded if complete => None,
            // HTTP/1.0 and proxies end a stream that broke off like one that is complete.
            End::Complete if self.streamed => Some(Incomplete::ServerDisconnected),
            End::Complete => Some(Incomplete::Unparsable),
            End::Upgraded => None,
            End::Lost => Some(Incomplete::BytesLost),
            End::Malformed => Some(Incomplete::Unparsable),
            _ if complete => self.lost.then_some(Incomplete::BytesLost),
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
        let ended = end == End::Complete && (complete || !self.streamed);
        let last = if ended || status.is_none() {
            at
        } else {
            self.last_byte
        };
        let latency = last.since(self.builder.started_at());
        Some(self.builder.finish(Finish {
            latency,
            status_code: status.map(|status| status.as_u16()),
            request_id,
            error,
            incomplete,
        }))
    }

    /// Reads what is left of the answer; returns the error that an HTTP status stands for.
    fn response_end(&mut self, mut response: Response, options: Options) -> Option<Exception> {
        let mut reader = Reader {
            provider: self.provider,
            selection: self.provider.selection(options.capture_content),
            options,
            builder: &mut self.builder,
            fits: &mut self.response_fits,
            unparsable: &mut self.unparsable,
        };
        match &mut response.body {
            Body::Document(parser) => {
                let (document, status) = parser.finish(&mut |_| ());
                self.whole = status == json::Status::Complete;
                self.unparsable |= status == json::Status::Broken;
                if let Some(document) = document {
                    self.response_fits |= self.provider.is_response(&document);
                    self.provider.response(&document, &mut self.builder);
                }
                None
            }
            Body::Elements(parser) => {
                let (_, status) = parser.finish(&mut |element| reader.element(&element));
                self.unparsable |= status == json::Status::Broken;
                None
            }
            Body::Events(parser, templates) => {
                parser.finish(&mut |event| reader.event(event, templates));
                self.lost |= parser.dropped() > 0;
                None
            }
            Body::Lines(parser, templates) => {
                parser.finish(&mut |line| reader.line(line, templates));
                self.lost |= parser.dropped() > 0;
                None
            }
            Body::Messages(parser) => {
                self.unparsable |= !self.lost && !parser.is_between();
                None
            }
            Body::Error {
                status: code,
                parser,
                raw,
            } => {
                let (document, status) = parser.finish(&mut |_| ());
                let document = document.filter(|document| {
                    status == json::Status::Complete
                        && (document.is_object() || document.is_array())
                });
                let raw = String::from_utf8_lossy(raw);
                Some(
                    self.builder
                        .sdk()
                        .status_error(*code, document.as_ref(), raw.trim()),
                )
            }
            Body::Other => {
                self.whole = true;
                None
            }
            Body::Unknown => None,
        }
    }

    fn memory(&self) -> usize {
        let request = self.request.as_ref().map_or(0, Request::memory);
        let decoder = self
            .response
            .as_ref()
            .map_or(0, |response| decoder_bytes(&response.decoder));
        let response = match self.response.as_ref().map(|response| &response.body) {
            Some(Body::Document(parser) | Body::Elements(parser)) => parser.memory(),
            Some(Body::Error { parser, raw, .. }) => parser.memory() + raw.capacity(),
            Some(Body::Events(parser, templates)) => parser.memory() + templates.memory(),
            Some(Body::Lines(parser, templates)) => parser.memory() + templates.memory(),
            Some(Body::Messages(parser)) => parser.memory(),
            Some(Body::Other | Body::Unknown) | None => 0,
        };
        size_of::<Self>() + self.builder.memory() + request + decoder + response
    }
}

impl Request {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Document { decoder, parser } => {
                if decoder
                    .push(bytes, &mut |bytes| parser.push(bytes, &mut |_| ()))
                    .is_err()
                {
                    parser.gap();
                }
            }
            Self::Messages { parser, first } => parser.push(bytes, &mut |message| {
                if first.is_none() {
                    *first = message;
                }
            }),
        }
    }

    fn gap(&mut self, bytes: u64) {
        match self {
            Self::Document { parser, .. } => parser.gap(),
            Self::Messages { parser, .. } => parser.gap(bytes, &mut |_| ()),
        }
    }

    /// The document, or as much of it as came.
    fn finish(self) -> Option<Value> {
        match self {
            Self::Document { mut parser, .. } => parser.finish(&mut |_| ()).0,
            Self::Messages { first, .. } => first,
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Document { decoder, parser } => decoder_bytes(decoder) + parser.memory(),
            Self::Messages { parser, .. } => parser.memory(),
        }
    }
}

/// The last events of a stream that had to be read: most that follow are like one of them.
#[derive(Debug, Default)]
struct Templates {
    /// With the names of the events.
    known: Vec<(Vec<u8>, Template)>,
    /// The one that was used last, if nothing else came since.
    last: Option<usize>,
    /// The one that goes next.
    oldest: usize,
}

impl Templates {
    /// Kinds of events that take turns: choices of an answer, text and its padding.
    const KINDS: usize = 4;

    /// What is kept of an event that is like one before, and whether what was kept of the last event is
    /// the very same.
    fn take(&mut self, name: &[u8], data: &[u8]) -> Option<(&Value, bool)> {
        let newest = self.last.unwrap_or(0);
        let count = self.known.len();
        let (index, taken) = (0..count).find_map(|step| {
            let index = (newest + step) % count;
            let (known, template) = &mut self.known[index];
            // Most streams name no event, and comparing nothing with nothing was a third of an event's cost.
            let named_alike = known.len() == name.len() && (name.is_empty() || known == name);
            if !named_alike {
                return None;
            }
            Some((index, template.take(data)?))
        })?;
        let same = taken == Taken::Same && self.last == Some(index);
        self.last = Some(index);
        Some((self.known[index].1.document(), same))
    }

    fn add(&mut self, name: &[u8], template: Template) {
        let entry = (name.to_vec(), template);
        if self.known.len() < Self::KINDS {
            self.last = Some(self.known.len());
            self.known.push(entry);
        } else {
            self.last = Some(self.oldest);
            self.known[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % Self::KINDS;
        }
    }

    fn memory(&self) -> usize {
        self.known
            .iter()
            .map(|(name, template)| name.capacity() + template.memory())
            .sum()
    }
}

/// Hands the parts of a streamed answer to the format.
struct Reader<'a> {
    provider: &'static dyn Provider,
    selection: &'static Selection,
    options: Options,
    builder: &'a mut CallBuilder,
    fits: &'a mut bool,
    unparsable: &'a mut bool,
}

impl Reader<'_> {
    fn event(&mut self, event: sse::Event<'_>, templates: &mut Templates) {
        let name = std::str::from_utf8(event.name).unwrap_or_default();
        let data = event.data.trim_ascii_start();
        if !data.starts_with(b"{") {
            templates.last = None;
            self.provider
                .event(name, &StreamEvent::Text(data), self.builder);
            return;
        }
        // With content nearly every event is another document.
        if !self.options.capture_content
            && let Some((document, same)) = templates.take(event.name, data)
        {
            if !(same && self.provider.is_idempotent()) {
                self.provider
                    .event(name, &StreamEvent::Json(document), self.builder);
            }
            return;
        }
        let (document, status, template) = Parser::whole(
            &self.selection.event,
            limits(self.options, self.options.output_preview_chars, ERROR_CHARS),
            data,
        );
        *self.unparsable |= status != json::Status::Complete;
        templates.last = None;
        if let Some(document) = document {
            *self.fits |= self.provider.is_response(&document);
            self.provider
                .event(name, &StreamEvent::Json(&document), self.builder);
        }
        if let Some(template) = template
            && !self.options.capture_content
        {
            templates.add(event.name, template);
        }
    }

    /// A line is an event without a name.
    fn line(&mut self, line: &[u8], templates: &mut Templates) {
        let event = sse::Event {
            name: b"",
            data: line,
        };
        self.event(event, templates);
    }

    /// The reader of a body of unknown type, by how it begins.
    fn body(&mut self, bytes: &[u8], streamed: &mut bool) -> Body {
        let bounds = limits(self.options, self.options.output_preview_chars, ERROR_CHARS);
        match bytes.trim_ascii_start().first() {
            Some(b'{') => Body::Document(Parser::new(&self.selection.response, bounds)),
            Some(b'[') => {
                *streamed = true;
                self.builder.stream(true);
                Body::Elements(Parser::elements(&self.selection.event, bounds))
            }
            Some(_) => {
                *streamed = true;
                self.builder.stream(true);
                Body::Events(sse::Parser::default(), Templates::default())
            }
            None => Body::Unknown,
        }
    }

    fn message(&mut self, message: Option<Value>, streamed: bool) {
        match message {
            Some(message) if streamed => self.element(&message),
            Some(message) => {
                // Where the path is unknown a second message tells that it is a stream.
                self.builder.stream(*self.fits);
                *self.fits |= self.provider.is_response(&message);
                self.provider.response(&message, self.builder);
            }
            None => *self.unparsable = true,
        }
    }

    fn element(&mut self, element: &Value) {
        *self.fits |= self.provider.is_response(element);
        self.provider
            .event("", &StreamEvent::Json(element), self.builder);
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("active", &self.active.len())
            .finish_non_exhaustive()
    }
}

/// Bytes that a decoder holds, roughly: the window of deflate and its tables.
fn decoder_bytes(decoder: &Decoder) -> usize {
    if decoder.is_identity() { 0 } else { 44 * 1024 }
}

/// Bounds of a body whose preview is `preview_chars` long and whose other strings are at most
/// `string_chars` long.
fn limits(options: Options, preview_chars: usize, string_chars: usize) -> Limits {
    if options.capture_content {
        Limits {
            // A character more than is shown, so that the cut is marked.
            string_chars: preview_chars.saturating_add(1).max(string_chars),
            kept_bytes: KEPT_BYTES.saturating_add(preview_chars.saturating_mul(16)),
        }
    } else {
        Limits {
            string_chars,
            kept_bytes: KEPT_BYTES,
        }
    }
}

/// A hash of a request's head, without its credentials.
fn fingerprint(head: &RequestHead) -> u64 {
    let mut hasher = DefaultHasher::new();
    (head.method.as_str(), &head.path, &head.query).hash(&mut hasher);
    (&head.host, head.port).hash(&mut hasher);
    for (name, value) in &head.headers {
        (name.as_str(), value.as_bytes()).hash(&mut hasher);
    }
    hasher.finish()
}

/// How the messages of gRPC are compressed that are.
fn grpc_encoding(headers: &HeaderMap) -> &str {
    headers
        .get("grpc-encoding")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
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

fn content_encoding(headers: &HeaderMap) -> String {
    let codings: Vec<&str> = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    codings.join(",")
}
