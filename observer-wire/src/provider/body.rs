//! Bodies of requests and answers, and how a format gets what they hold.

use http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::{Value, json};

use super::{Event, Failure, Provider, builder::CallBuilder, digest::Digest, sdk::Exception};
use crate::{
    body::{
        base64,
        encoding::Decoder,
        eventstream, grpc,
        json::{Limits, Parser, Select, Status, Taken, Template},
        multipart, ndjson, sse,
    },
    connection::Options,
    evidence::{MessageList, ToolResult},
    hash::Hasher,
    http::{RequestHead, ResponseHead},
};

/// Bytes that are kept of one body, beside previews.
pub(super) const KEPT_BYTES: usize = 48 * 1024;

/// Longest string that is kept while no content is, in code points: model names and the like.
pub(super) const NAME_CHARS: usize = 256;

/// Bytes of an error body that are kept in case it is no JSON.
pub(super) const RAW_ERROR_BYTES: usize = 2048;

/// Longest string of an error, in code points.
const ERROR_CHARS: usize = 4096;

/// Types of bodies of which each line is a document: Ollama's, Cohere's and those of others.
const LINES: &[&str] = &[
    "application/x-ndjson",
    "application/stream+json",
    "application/jsonl",
    "application/ndjson",
];

/// How types begin of which there is nothing to be read.
const MEDIA: &[&str] = &["audio/", "image/", "video/"];

/// Header fields that say something about an error, and the longest that is kept, in bytes.
static TOLD: [HeaderName; 1] = [HeaderName::from_static("x-amzn-errortype")];
const TOLD_BYTES: usize = 256;

/// The body of a request.
pub(super) struct Request {
    body: Asked,
    /// What its messages tell, where a format has any.
    digest: Option<Box<Digest>>,
    /// The hash of the body as it is sent, and whether it was seen so far.
    hash: Box<Hasher>,
    whole: bool,
}

/// What a request tells about the run that it is part of.
#[derive(Default)]
pub(super) struct Told {
    pub(super) messages: MessageList,
    pub(super) tool_results: Vec<ToolResult>,
    /// As in [`Evidence`](crate::Evidence).
    pub(super) body: u64,
}

enum Asked {
    Document {
        decoder: Decoder,
        parser: Parser,
    },
    /// A form of several parts.
    Form {
        decoder: Decoder,
        parser: multipart::Parser,
    },
    Messages {
        parser: grpc::Parser,
        first: Option<Value>,
    },
}

impl Request {
    /// Nothing of it yet; its format follows from the head.
    pub(super) fn new(provider: &dyn Provider, head: &RequestHead, options: Options) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = options.salt;
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let body = Asked::new(provider, head, options);
        let places = provider.messages_at();
        let digested = matches!(body, Asked::Document { .. }) && !places.is_empty();
        Self {
            body,
            digest: digested.then(|| Box::new(Digest::new(places, seed))),
            hash: Box::new(Hasher::new(seed)),
            whole: true,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        let digest = &mut self.digest;
        match &mut self.body {
            Asked::Document { decoder, parser } => {
                let decoded = decoder.push(bytes, &mut |bytes| {
                    if let Some(digest) = digest {
                        digest.push(bytes);
                    }
                    parser.push(bytes, &mut |_| ());
                });
                if decoded.is_err() {
                    parser.gap();
                    if let Some(digest) = digest {
                        digest.gap();
                    }
                }
            }
            Asked::Form { decoder, parser } => {
                if decoder
                    .push(bytes, &mut |bytes| parser.push(bytes))
                    .is_err()
                {
                    parser.gap();
                }
            }
            Asked::Messages { parser, first } => parser.push(bytes, &mut |message| {
                if first.is_none() {
                    *first = message;
                }
            }),
        }
    }

    pub(super) fn gap(&mut self, bytes: u64) {
        self.whole = false;
        if let Some(digest) = &mut self.digest {
            digest.gap();
        }
        match &mut self.body {
            Asked::Document { parser, .. } => parser.gap(),
            Asked::Form { parser, .. } => parser.gap(),
            Asked::Messages { parser, .. } => parser.gap(bytes, &mut |_| ()),
        }
    }

    /// The document, or as much of it as came, and what it tells; `whole` if its end was seen.
    pub(super) fn finish(self, whole: bool) -> (Option<Value>, Told) {
        let document = match self.body {
            Asked::Document { mut parser, .. } => parser.finish(&mut |_| ()).0,
            Asked::Form { mut parser, .. } => parser.finish().0,
            Asked::Messages { first, .. } => first,
        };
        let (messages, tool_results) = self
            .digest
            .map(|digest| digest.finish())
            .unwrap_or_default();
        let body = if whole && self.whole && !self.hash.is_empty() {
            self.hash.finish().max(1)
        } else {
            0
        };
        let told = Told {
            messages,
            tool_results,
            body,
        };
        (document, told)
    }

    pub(super) fn memory(&self) -> usize {
        let digest = self.digest.as_ref().map_or(0, |digest| digest.memory());
        let body = match &self.body {
            Asked::Document { decoder, parser } => decoder_bytes(decoder) + parser.memory(),
            Asked::Form { decoder, parser } => decoder_bytes(decoder) + parser.memory(),
            Asked::Messages { parser, .. } => parser.memory(),
        };
        size_of::<Hasher>() + digest + body
    }
}

impl Asked {
    fn new(provider: &dyn Provider, head: &RequestHead, options: Options) -> Self {
        let bounds = limits(options, options.input_preview_chars, NAME_CHARS);
        if let Some(messages) = provider.messages(options.capture_content) {
            return Self::Messages {
                parser: grpc::Parser::new(&messages.request, grpc_encoding(&head.headers), bounds),
                first: None,
            };
        }
        let select = &provider.selection(options.capture_content).request;
        let decoder = Decoder::new(&content_encoding(&head.headers));
        let content_type = content_type(&head.headers);
        if multipart::is_form(content_type) {
            let parser = multipart::Parser::new(content_type, select, bounds);
            return Self::Form { decoder, parser };
        }
        Self::Document {
            decoder,
            parser: Parser::new(select, bounds),
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
        status: StatusCode,
        headers: HeaderMap,
        parser: Parser,
        raw: Vec<u8>,
    },
    Events(sse::Parser, Templates),
    /// An AWS event stream.
    Frames(eventstream::Parser, Option<Frame>),
    /// Of gRPC.
    Messages(grpc::Parser),
    Lines(ndjson::Parser, Templates),
    /// Of a redirection, audio and the like, or none at all.
    Other,
    /// The first byte will tell what it is; `foreign` if its type is named, and is none that can be read.
    Unknown {
        foreign: bool,
    },
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
            Body::Frames(parser, open) => {
                // What is missing is said elsewhere.
                parser.gap(bytes, &mut |_| *open = None);
            }
            Body::Lines(parser, _) => parser.gap(),
            Body::Messages(parser) => parser.gap(bytes, &mut |message| {
                // What is missing is said elsewhere.
                if message.is_some() {
                    reader.message(message);
                }
            }),
            Body::Other | Body::Unknown { .. } => {}
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
            Body::Frames(parser, _) => {
                reader.state.unparsable |= !reader.state.lost && !parser.is_between();
            }
            Body::Lines(parser, templates) => {
                parser.finish(&mut |line| reader.line(line, templates));
                reader.state.lost |= parser.dropped() > 0;
            }
            Body::Messages(parser) => {
                reader.state.unparsable |= !reader.state.lost && !parser.is_between();
            }
            Body::Other | Body::Unknown { foreign: true } => reader.state.whole = true,
            Body::Error { .. } | Body::Unknown { foreign: false } => {}
        }
    }

    /// The exception that a status of an error stands for; after [`finish`](Self::finish).
    pub(super) fn error(&mut self, reader: &mut Reader<'_>) -> Option<Exception> {
        let Body::Error {
            status: code,
            headers,
            parser,
            raw,
        } = &mut self.body
        else {
            return None;
        };
        let (document, status) = parser.finish(&mut |_| ());
        let document = document.filter(|document| {
            status == Status::Complete && (document.is_object() || document.is_array())
        });
        let raw = String::from_utf8_lossy(raw);
        let failure = Failure {
            status: *code,
            headers,
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
            Body::Frames(parser, open) => parser.memory() + open.as_ref().map_or(0, Frame::memory),
            Body::Lines(parser, templates) => parser.memory() + templates.memory(),
            Body::Messages(parser) => parser.memory(),
            Body::Other | Body::Unknown { .. } => 0,
        };
        decoder_bytes(&self.decoder) + body
    }
}

impl Body {
    fn new(head: &ResponseHead, stream_path: bool, reader: &mut Reader<'_>) -> Self {
        let options = reader.options;
        let content_type = content_type(&head.headers).to_ascii_lowercase();
        let bounds = limits(options, options.output_preview_chars, ERROR_CHARS);
        if let Some(status) = head.status
            && status.as_u16() >= 400
        {
            let bounds = Limits {
                string_chars: ERROR_CHARS,
                kept_bytes: KEPT_BYTES,
            };
            return Self::Error {
                status,
                headers: TOLD
                    .iter()
                    .filter_map(|name| Some((name.clone(), head.headers.get(name)?.clone())))
                    .filter(|(_, value)| value.len() <= TOLD_BYTES)
                    .collect(),
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
        } else if content_type.starts_with("application/vnd.amazon.eventstream") {
            reader.stream();
            Self::Frames(eventstream::Parser::default(), None)
        } else if head.partial && content_type.is_empty() {
            Self::Unknown { foreign: false }
        } else if stream_path {
            reader.state.streamed = true;
            Self::Elements(Parser::elements(&selection.event, bounds))
        } else if content_type.is_empty() || is_json(&content_type) {
            Self::Document(Parser::new(&selection.response, bounds))
        } else if MEDIA.iter().any(|kind| content_type.starts_with(kind)) {
            Self::Other
        } else {
            Self::Unknown { foreign: true }
        }
    }

    /// One of unknown type, by how it begins.
    fn guess(bytes: &[u8], foreign: bool, reader: &mut Reader<'_>) -> Self {
        let options = reader.options;
        let bounds = limits(options, options.output_preview_chars, ERROR_CHARS);
        let selection = reader.provider.selection(options.capture_content);
        match bytes.trim_ascii_start().first() {
            Some(b'{') => Self::Document(Parser::new(&selection.response, bounds)),
            // A page of a gateway, or whatever: there is nothing in it to be read.
            Some(_) if foreign => Self::Other,
            // The length of a message.
            Some(0 | 1) => {
                reader.stream();
                Self::Frames(eventstream::Parser::default(), None)
            }
            Some(b'[') => {
                reader.stream();
                Self::Elements(Parser::elements(&selection.event, bounds))
            }
            Some(_) => {
                reader.stream();
                Self::Events(sse::Parser::default(), Templates::default())
            }
            None => Self::Unknown { foreign },
        }
    }

    /// Takes bytes without content coding.
    fn push(&mut self, bytes: &[u8], reader: &mut Reader<'_>) {
        if let Self::Unknown { foreign } = self {
            *self = Self::guess(bytes, *foreign, reader);
        }
        match self {
            Self::Document(parser) => parser.push(bytes, &mut |_| ()),
            Self::Elements(parser) => parser.push(bytes, &mut |element| reader.element(&element)),
            Self::Events(parser, templates) => {
                parser.push(bytes, &mut |event| reader.event(event, templates));
            }
            Self::Frames(parser, open) => {
                parser.push(bytes, &mut |part| reader.part(&part, open));
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
            Self::Other | Self::Unknown { .. } => {}
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

    /// A part of an AWS event stream.
    fn part(&mut self, part: &eventstream::Part<'_>, open: &mut Option<Frame>) {
        match part {
            eventstream::Part::Begin(headers) => *open = Some(Frame::new(headers, self)),
            eventstream::Part::Payload(bytes) => {
                if let Some(frame) = open {
                    frame.push(bytes);
                }
            }
            eventstream::Part::End => {
                if let Some(frame) = open.take() {
                    self.frame(frame);
                }
            }
            eventstream::Part::Broken => {
                *open = None;
                self.state.unparsable = true;
            }
        }
    }

    fn frame(&mut self, mut frame: Frame) {
        let (document, status) = frame.parser.finish(&mut |_| ());
        if let Some(message) = frame.failure {
            let message = message.or_else(|| {
                let body = document.as_ref()?;
                let message = body.get("message").or_else(|| body.get("Message"))?;
                Some(message.as_str()?.to_owned())
            });
            self.state.fits = true;
            self.builder.stream_error(&json!({
                "type": "error",
                "error": {"type": frame.name, "message": message.unwrap_or_default()},
            }));
            return;
        }
        let broken = frame.wrapped.is_some_and(|wrapped| wrapped.is_broken());
        self.state.unparsable |= broken || status != Status::Complete;
        if let Some(document) = document {
            self.state.fits |= self.provider.is_response(&document);
            self.provider
                .event(&frame.name, &Event::Json(&document), self.builder);
        }
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

/// A message of an AWS event stream.
struct Frame {
    /// The type of its event, or of its exception.
    name: String,
    /// It says that the call failed, and may say more of that.
    failure: Option<Option<String>>,
    /// The event is in base64.
    wrapped: Option<base64::Parser>,
    parser: Parser,
}

impl Frame {
    fn new(headers: &eventstream::Headers<'_>, reader: &Reader<'_>) -> Self {
        let text = |name: &str, most: usize| -> Option<String> {
            Some(headers.text(name)?.chars().take(most).collect())
        };
        let (kind, failure) = match headers.text(":message-type") {
            Some("error") => (":error-code", Some(text(":error-message", ERROR_CHARS))),
            Some("exception") => (":exception-type", Some(None)),
            _ => (":event-type", None),
        };
        let options = reader.options;
        let bounds = limits(options, options.output_preview_chars, ERROR_CHARS);
        let (wrapped, select) = if failure.is_some() {
            (None, &Select::All)
        } else {
            (
                reader.provider.wrapped().map(base64::Parser::new),
                &reader.provider.selection(options.capture_content).event,
            )
        };
        Self {
            name: text(kind, NAME_CHARS).unwrap_or_default(),
            failure,
            wrapped,
            parser: Parser::new(select, bounds),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let parser = &mut self.parser;
        match &mut self.wrapped {
            Some(wrapped) => wrapped.push(bytes, &mut |bytes| parser.push(bytes, &mut |_| ())),
            None => parser.push(bytes, &mut |_| ()),
        }
    }

    fn memory(&self) -> usize {
        self.name.capacity() + self.parser.memory()
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
pub(super) fn limits(options: Options, preview_chars: usize, string_chars: usize) -> Limits {
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

/// Whether a media type is JSON (RFC 6839 section 3.1, too).
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.ends_with("/json") || kind.ends_with("+json")
}

/// How the messages of gRPC are compressed that are.
fn grpc_encoding(headers: &HeaderMap) -> &str {
    headers
        .get("grpc-encoding")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
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

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::{super::openai::chat::Chat, *};

    #[test]
    fn a_form_is_read_like_json() {
        const FORM: &str = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n\
            --x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
            --x\r\nContent-Disposition: form-data; name=\"temperature\"\r\n\r\n0.2\r\n--x--\r\n";
        let mut headers = HeaderMap::new();
        let content_type = HeaderValue::from_static("multipart/form-data; boundary=x");
        headers.insert(header::CONTENT_TYPE, content_type);
        let head = RequestHead {
            method: Method::POST,
            path: "/v1/audio/transcriptions".to_owned(),
            query: String::new(),
            host: None,
            port: None,
            headers,
            credential: None,
            partial: false,
            websocket: false,
        };
        let mut request = Request::new(&Chat, &head, Options::default());
        for byte in FORM.as_bytes().chunks(1) {
            request.push(byte);
            assert!(request.memory() < 4096);
        }
        let (document, told) = request.finish(true);
        let document = document.unwrap();
        assert_ne!(told.body, 0);
        assert_eq!(
            document.to_string(),
            r#"{"model":"whisper-1","temperature":0.2}"#
        );
    }
}
