//! Bodies of requests and answers, and how a format gets what they hold.

use http::{HeaderMap, header};
use serde_json::Value;

use super::{Event, Failure, Provider, builder::CallBuilder, sdk::Exception};
use crate::{
    body::{
        encoding::Decoder,
        grpc,
        json::{Limits, Parser, Select, Status, Taken, Template},
        ndjson, sse,
    },
    connection::Options,
    http::{RequestHead, ResponseHead},
};

/// Bytes that are kept of one body, beside previews.
const KEPT_BYTES: usize = 48 * 1024;

/// Longest string that is kept while no content is, in code points: model names and the like.
pub(super) const NAME_CHARS: usize = 256;

/// Bytes of an error body that are kept in case it is no JSON.
const RAW_ERROR_BYTES: usize = 2048;

/// Longest string of an error, in code points.
const ERROR_CHARS: usize = 4096;

/// Types of bodies of which each line is a document: Ollama's, Cohere's and those of others.
const LINES: &[&str] = &[
    "application/x-ndjson",
    "application/stream+json",
    "application/jsonl",
    "application/ndjson",
];

/// The body of a request.
pub(super) enum Request {
    Document {
        decoder: Decoder,
        parser: Parser,
    },
    Messages {
        parser: grpc::Parser,
        first: Option<Value>,
    },
}

impl Request {
    /// Nothing of it yet; its format follows from the head.
    pub(super) fn new(provider: &dyn Provider, head: &RequestHead, options: Options) -> Self {
        let bounds = limits(options, options.input_preview_chars, NAME_CHARS);
        if let Some(messages) = provider.messages(options.capture_content) {
            return Self::Messages {
                parser: grpc::Parser::new(&messages.request, grpc_encoding(&head.headers), bounds),
                first: None,
            };
        }
        let selection = provider.selection(options.capture_content);
        Self::Document {
            decoder: Decoder::new(&content_encoding(&head.headers)),
            parser: Parser::new(&selection.request, bounds),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
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

    pub(super) fn gap(&mut self, bytes: u64) {
        match self {
            Self::Document { parser, .. } => parser.gap(),
            Self::Messages { parser, .. } => parser.gap(bytes, &mut |_| ()),
        }
    }

    /// The document, or as much of it as came.
    pub(super) fn finish(self) -> Option<Value> {
        match self {
            Self::Document { mut parser, .. } => parser.finish(&mut |_| ()).0,
            Self::Messages { first, .. } => first,
        }
    }

    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Document { decoder, parser } => decoder_bytes(decoder) + parser.memory(),
            Self::Messages { parser, .. } => parser.memory(),
        }
    }
}

/// The body of an answer.
pub(super) struct Response {
    decoder: Decoder,
    body: Body,
    /// Whether the coding is unknown, too: the first byte will tell.
    coded: bool,
}

enum Body {
    Document(Parser),
    /// Elements of a JSON array.
    Elements(Parser),
    /// Of an answer whose status is an error.
    Error {
        head: Box<ResponseHead>,
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

/// What is known of an answer while it comes.
#[derive(Debug, Default)]
pub(super) struct State {
    /// A part of it had the shape of the format.
    pub(super) fits: bool,
    /// It comes in pieces that tell by themselves when they are complete.
    pub(super) streamed: bool,
    /// It is one piece, and that is complete.
    pub(super) whole: bool,
    /// Not all of it was understood.
    pub(super) unparsable: bool,
    /// Bytes of it are missing.
    pub(super) lost: bool,
}

/// What an answer is read into.
pub(super) struct Reader<'a> {
    pub(super) provider: &'static dyn Provider,
    pub(super) options: Options,
    pub(super) builder: &'a mut CallBuilder,
    pub(super) state: &'a mut State,
}

impl Response {
    /// Nothing of it yet. Its format follows from its head, and from the path if that asked for a stream.
    pub(super) fn new(head: &ResponseHead, stream_path: bool, reader: &mut Reader<'_>) -> Self {
        Self {
            decoder: Decoder::new(&content_encoding(&head.headers)),
            body: Body::new(head, stream_path, reader),
            coded: head.partial && !head.headers.contains_key(header::CONTENT_ENCODING),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8], reader: &mut Reader<'_>) {
        if std::mem::take(&mut self.coded) {
            self.decoder = Decoder::new(match bytes.first() {
                // RFC 1952 and RFC 8878; no text and no message begins so.
                Some(0x1f) => "gzip",
                Some(0x28) => "zstd",
                _ => "",
            });
        }
        let body = &mut self.body;
        let decoded = self
            .decoder
            .push(bytes, &mut |bytes| body.push(bytes, reader));
        reader.state.unparsable |= decoded.is_err();
    }

    /// This many bytes are missing.
    pub(super) fn gap(&mut self, bytes: u64, reader: &mut Reader<'_>) {
        if !self.decoder.is_identity() {
            // Nothing after the gap can be decoded.
            self.decoder = Decoder::new("lost");
        }
        match &mut self.body {
            Body::Document(parser) | Body::Elements(parser) | Body::Error { parser, .. } => {
                parser.gap()
            }
            Body::Events(parser, _) => parser.gap(),
            Body::Lines(parser, _) => parser.gap(),
            Body::Messages(parser) => parser.gap(bytes, &mut |message| {
                // What is missing is said elsewhere.
                if message.is_some() {
                    reader.message(message);
                }
            }),
            Body::Other | Body::Unknown => {}
        }
    }

    /// Reads what is left.
    pub(super) fn finish(&mut self, reader: &mut Reader<'_>) {
        match &mut self.body {
            Body::Document(parser) => {
                let (document, status) = parser.finish(&mut |_| ());
                reader.state.whole = status == Status::Complete;
                reader.state.unparsable |= status == Status::Broken;
                if let Some(document) = document {
                    reader.document(&document);
                }
            }
            Body::Elements(parser) => {
                let (_, status) = parser.finish(&mut |element| reader.element(&element));
                reader.state.unparsable |= status == Status::Broken;
            }
            Body::Events(parser, templates) => {
                parser.finish(&mut |event| reader.event(event, templates));
                reader.state.lost |= parser.dropped() > 0;
            }
            Body::Lines(parser, templates) => {
                parser.finish(&mut |line| reader.line(line, templates));
                reader.state.lost |= parser.dropped() > 0;
            }
            Body::Messages(parser) => {
                reader.state.unparsable |= !reader.state.lost && !parser.is_between();
            }
            Body::Other => reader.state.whole = true,
            Body::Error { .. } | Body::Unknown => {}
        }
    }

    /// The exception that a status of an error stands for; after [`finish`](Self::finish).
    pub(super) fn error(&mut self, reader: &mut Reader<'_>) -> Option<Exception> {
        let Body::Error { head, parser, raw } = &mut self.body else {
            return None;
        };
        let (document, status) = parser.finish(&mut |_| ());
        let document = document.filter(|document| {
            status == Status::Complete && (document.is_object() || document.is_array())
        });
        let raw = String::from_utf8_lossy(raw);
        let failure = Failure {
            status: head.status?,
            headers: &head.headers,
            body: document.as_ref(),
            raw: raw.trim(),
        };
        Some(reader.provider.error(&failure, reader.builder))
    }

    pub(super) fn memory(&self) -> usize {
        let body = match &self.body {
            Body::Document(parser) | Body::Elements(parser) => parser.memory(),
            Body::Error { parser, raw, .. } => parser.memory() + raw.capacity(),
            Body::Events(parser, templates) => parser.memory() + templates.memory(),
            Body::Lines(parser, templates) => parser.memory() + templates.memory(),
            Body::Messages(parser) => parser.memory(),
            Body::Other | Body::Unknown => 0,
        };
        decoder_bytes(&self.decoder) + body
    }
}

impl Body {
    fn new(head: &ResponseHead, stream_path: bool, reader: &mut Reader<'_>) -> Self {
        let options = reader.options;
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        let bounds = limits(options, options.output_preview_chars, ERROR_CHARS);
        if head.status.is_some_and(|status| status.as_u16() >= 400) {
            let bounds = Limits {
                string_chars: ERROR_CHARS,
                kept_bytes: KEPT_BYTES,
            };
            return Self::Error {
                head: Box::new(head.clone()),
                parser: Parser::new(&Select::All, bounds),
                raw: Vec::new(),
            };
        }
        if head.status.is_some_and(|status| !status.is_success()) {
            return Self::Other;
        }
        if let Some(messages) = reader.provider.messages(options.capture_content) {
            reader.state.streamed = stream_path;
            let message = if stream_path {
                &messages.event
            } else {
                &messages.response
            };
            let encoding = grpc_encoding(&head.headers);
            return Self::Messages(grpc::Parser::new(message, encoding, bounds));
        }
        let selection = reader.provider.selection(options.capture_content);
        if content_type.starts_with("text/event-stream") {
            reader.stream();
            Self::Events(sse::Parser::default(), Templates::default())
        } else if LINES.iter().any(|kind| content_type.starts_with(kind)) {
            reader.stream();
            Self::Lines(ndjson::Parser::default(), Templates::default())
        } else if head.partial && content_type.is_empty() {
            Self::Unknown
        } else if stream_path {
            reader.state.streamed = true;
            Self::Elements(Parser::elements(&selection.event, bounds))
        } else {
            Self::Document(Parser::new(&selection.response, bounds))
        }
    }

    /// One of unknown type, by how it begins.
    fn guess(bytes: &[u8], reader: &mut Reader<'_>) -> Self {
        let options = reader.options;
        let bounds = limits(options, options.output_preview_chars, ERROR_CHARS);
        let selection = reader.provider.selection(options.capture_content);
        match bytes.trim_ascii_start().first() {
            Some(b'{') => Self::Document(Parser::new(&selection.response, bounds)),
            Some(b'[') => {
                reader.stream();
                Self::Elements(Parser::elements(&selection.event, bounds))
            }
            Some(_) => {
                reader.stream();
                Self::Events(sse::Parser::default(), Templates::default())
            }
            None => Self::Unknown,
        }
    }

    /// Takes bytes without content coding.
    fn push(&mut self, bytes: &[u8], reader: &mut Reader<'_>) {
        if let Self::Unknown = self {
            *self = Self::guess(bytes, reader);
        }
        match self {
            Self::Document(parser) => parser.push(bytes, &mut |_| ()),
            Self::Elements(parser) => parser.push(bytes, &mut |element| reader.element(&element)),
            Self::Events(parser, templates) => {
                parser.push(bytes, &mut |event| reader.event(event, templates));
            }
            Self::Lines(parser, templates) => {
                parser.push(bytes, &mut |line| reader.line(line, templates));
            }
            Self::Messages(parser) => parser.push(bytes, &mut |message| reader.message(message)),
            Self::Error { parser, raw, .. } => {
                let room = RAW_ERROR_BYTES.saturating_sub(raw.len());
                raw.extend_from_slice(&bytes[..bytes.len().min(room)]);
                parser.push(bytes, &mut |_| ());
            }
            Self::Other | Self::Unknown => {}
        }
    }
}

impl Reader<'_> {
    fn stream(&mut self) {
        self.builder.stream(true);
        self.state.streamed = true;
    }

    /// An answer in one piece.
    fn document(&mut self, document: &Value) {
        self.state.fits |= self.provider.is_response(document);
        self.provider.response(document, self.builder);
    }

    fn event(&mut self, event: sse::Event<'_>, templates: &mut Templates) {
        let name = std::str::from_utf8(event.name).unwrap_or_default();
        let data = event.data.trim_ascii_start();
        if !data.starts_with(b"{") {
            templates.last = None;
            self.provider.event(name, &Event::Text(data), self.builder);
            return;
        }
        let options = self.options;
        // With content nearly every event is another document.
        if !options.capture_content
            && let Some((document, same)) = templates.take(event.name, data)
        {
            if !(same && self.provider.is_idempotent()) {
                self.provider
                    .event(name, &Event::Json(document), self.builder);
            }
            return;
        }
        let (document, status, template) = Parser::whole(
            &self.provider.selection(options.capture_content).event,
            limits(options, options.output_preview_chars, ERROR_CHARS),
            data,
        );
        self.state.unparsable |= status != Status::Complete;
        templates.last = None;
        if let Some(document) = document {
            self.state.fits |= self.provider.is_response(&document);
            self.provider
                .event(name, &Event::Json(&document), self.builder);
        }
        if let Some(template) = template
            && !options.capture_content
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

    fn message(&mut self, message: Option<Value>) {
        match message {
            Some(message) if self.state.streamed => self.element(&message),
            Some(message) => {
                // Where the path is unknown a second message tells that it is a stream.
                self.builder.stream(self.state.fits);
                self.document(&message);
            }
            None => self.state.unparsable = true,
        }
    }

    fn element(&mut self, element: &Value) {
        self.state.fits |= self.provider.is_response(element);
        self.provider.event("", &Event::Json(element), self.builder);
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

/// How the messages of gRPC are compressed that are.
fn grpc_encoding(headers: &HeaderMap) -> &str {
    headers
        .get("grpc-encoding")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn content_encoding(headers: &HeaderMap) -> String {
    let codings: Vec<&str> = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    codings.join(",")
}
