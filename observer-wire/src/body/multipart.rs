//! Forms of several parts (`multipart/form-data`, RFC 7578 and RFC 2046 section 5.1), as the bytes come.
//!
//! Fields that are selected become members of a JSON object, as if the request had been written in JSON; files
//! and everything else are passed over.

use memchr::memchr;
use serde_json::{Map, Value};

use super::json::{Limits, Select, Status};

/// Longest boundary (RFC 2046 section 5.1.1).
const BOUNDARY_BYTES: usize = 70;

/// Longest line of a part's head that is read; of a longer one this is.
const LINE_BYTES: usize = 1024;

/// Most values of a field that may come more than once.
const LISTED: usize = 64;

/// Fields of which the value is a text even if it looks like a number (openai-python 3.54
/// `types/audio`, `types/image_edit_params.py`).
const TEXTS: &[&str] = &["input", "language", "model", "prompt", "user"];

/// Whether a `content-type` is that of a form of several parts.
pub fn is_form(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("multipart/form-data")
}

/// Reads one form.
pub struct Parser {
    select: &'static Select,
    limits: Limits,
    /// CR, LF, two hyphens and the boundary. CR is nowhere else in it.
    delimiter: Vec<u8>,
    state: State,
    /// The line of a head, or the value of a field, as far as it has come.
    held: Vec<u8>,
    fields: Map<String, Value>,
}

#[derive(Debug)]
enum State {
    /// There is no boundary.
    Broken,
    /// In a part or before the first one; so much of a delimiter has come.
    Content {
        field: Field,
        matched: usize,
    },
    Done,
    /// Behind a delimiter; what has come there, if it is a part of it or of what may follow.
    End {
        field: Field,
        behind: Behind,
    },
    /// In the head of a part.
    Head {
        field: Field,
        cut: bool,
    },
}

/// What follows a delimiter.
#[derive(Clone, Copy, Debug)]
enum Behind {
    /// Nothing yet.
    Nothing,
    /// The first of the two hyphens of the last one.
    Hyphen,
    /// Blanks, so many.
    Blanks(u64),
    /// A CR behind blanks, so many.
    Return(u64),
}

/// What is kept of a part.
#[derive(Debug, Default)]
struct Field {
    name: String,
    file: bool,
    take: Take,
    /// Whether there is anything in it.
    filled: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Take {
    #[default]
    Nothing,
    Mark,
    Text {
        list: bool,
    },
}

impl Parser {
    /// Reads a form of which `select` is kept, as its `content-type` says.
    pub fn new(content_type: &str, select: &'static Select, limits: Limits) -> Self {
        let boundary = parameter(content_type, "boundary")
            .filter(|boundary| (1..=BOUNDARY_BYTES).contains(&boundary.len()))
            .filter(|boundary| !boundary.contains(['\r', '\n']));
        Self {
            select,
            limits,
            // The first one may be where the body begins, without a line end.
            state: match boundary {
                Some(_) => State::Content {
                    field: Field::default(),
                    matched: 2,
                },
                None => State::Broken,
            },
            delimiter: format!("\r\n--{}", boundary.unwrap_or_default()).into_bytes(),
            held: Vec::new(),
            fields: Map::new(),
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Broken | State::Done => return,
                State::Content { field, matched: 0 } => {
                    let end = memchr(b'\r', bytes).unwrap_or(bytes.len());
                    field.hold(&bytes[..end], self.limits, &mut self.held);
                    bytes = &bytes[end..];
                    if let [_, rest @ ..] = bytes {
                        bytes = rest;
                        self.state = State::Content {
                            field: std::mem::take(field),
                            matched: 1,
                        };
                    }
                }
                State::Content { field, matched } if self.delimiter[*matched] == byte => {
                    bytes = rest;
                    *matched += 1;
                    if *matched == self.delimiter.len() {
                        self.state = State::End {
                            field: std::mem::take(field),
                            behind: Behind::Nothing,
                        };
                    }
                }
                State::Content { field, matched } => {
                    // It was no delimiter; the byte itself comes next.
                    let seen = &self.delimiter[..std::mem::take(matched)];
                    field.hold(seen, self.limits, &mut self.held);
                }
                State::End { field, behind } => {
                    let next = match (*behind, byte) {
                        (Behind::Nothing, b'-') => Some(Behind::Hyphen),
                        (Behind::Hyphen, b'-') => {
                            let field = std::mem::take(field);
                            self.keep(field);
                            self.state = State::Done;
                            return;
                        }
                        (Behind::Nothing, b' ' | b'\t') => Some(Behind::Blanks(1)),
                        (Behind::Blanks(count), b' ' | b'\t') => Some(Behind::Blanks(count + 1)),
                        (Behind::Nothing, b'\r') => Some(Behind::Return(0)),
                        (Behind::Blanks(count), b'\r') => Some(Behind::Return(count)),
                        (Behind::Return(_), b'\n') => {
                            let field = std::mem::take(field);
                            self.keep(field);
                            self.state = State::Head {
                                field: Field::default(),
                                cut: false,
                            };
                            bytes = rest;
                            continue;
                        }
                        _ => None,
                    };
                    match next {
                        Some(next) => {
                            *behind = next;
                            bytes = rest;
                        }
                        None => {
                            // It was none: the boundary begins another word. The byte itself comes next.
                            let mut field = std::mem::take(field);
                            let matched = field.resume(*behind, self);
                            self.state = State::Content { field, matched };
                        }
                    }
                }
                State::Head { field, cut } => {
                    let end = memchr(b'\n', bytes);
                    let piece = &bytes[..end.unwrap_or(bytes.len())];
                    let room = LINE_BYTES.saturating_sub(self.held.len()).min(piece.len());
                    self.held.extend_from_slice(&piece[..room]);
                    *cut |= room < piece.len();
                    let Some(end) = end else { return };
                    bytes = &bytes[end + 1..];
                    let line = self.held.trim_ascii_end();
                    if line.is_empty() && !*cut {
                        field.select(self.select);
                        self.state = State::Content {
                            field: std::mem::take(field),
                            matched: 0,
                        };
                    } else {
                        field.head(line);
                        *cut = false;
                    }
                    self.held.clear();
                }
            }
        }
    }

    /// Bytes are missing: what they are part of is not kept.
    pub fn gap(&mut self) {
        if !matches!(self.state, State::Broken | State::Done) {
            self.held.clear();
            self.state = State::Content {
                field: Field::default(),
                matched: 0,
            };
        }
    }

    /// The form is over: the fields that are selected and came as a whole. `None` if there is no boundary.
    pub fn finish(&mut self) -> (Option<Value>, Status) {
        let status = match self.state {
            State::Broken => return (None, Status::Broken),
            State::Done => Status::Complete,
            _ => Status::Unfinished,
        };
        (
            Some(Value::Object(std::mem::take(&mut self.fields))),
            status,
        )
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        let fields: usize = self
            .fields
            .iter()
            .map(|(name, value)| {
                let values = match value {
                    Value::Array(values) => values.as_slice(),
                    value => std::slice::from_ref(value),
                };
                let texts = values
                    .iter()
                    .map(|value| size_of::<Value>() + value.as_str().map_or(0, str::len));
                name.len() + texts.sum::<usize>()
            })
            .sum();
        size_of::<Self>() + self.delimiter.capacity() + self.held.capacity() + fields
    }

    fn keep(&mut self, field: Field) {
        let text = std::mem::take(&mut self.held);
        let value = match field.take {
            Take::Nothing => return,
            Take::Mark => Value::Bool(field.filled),
            Take::Text { .. } => value(&field.name, &text, self.limits.string_chars),
        };
        if field.take != (Take::Text { list: true }) {
            self.fields.insert(field.name, value);
        } else if let Value::Array(values) = self
            .fields
            .entry(field.name)
            .or_insert_with(|| Value::Array(Vec::new()))
            && values.len() < LISTED
        {
            values.push(value);
        }
    }
}

impl Field {
    /// Reads a line of the head.
    fn head(&mut self, line: &[u8]) {
        let Some((name, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
        else {
            return;
        };
        if name.trim().eq_ignore_ascii_case("content-disposition") {
            self.file =
                parameter(value, "filename").is_some() || parameter(value, "filename*").is_some();
            self.name = parameter(value, "name").unwrap_or_default();
        }
    }

    /// The head is over: what is kept of the part. Names of lists may end with brackets.
    fn select(&mut self, select: &'static Select) {
        self.name.truncate(self.name.trim_end_matches("[]").len());
        self.take = match select.member(&self.name) {
            Some(select) if select.is_mark() => Take::Mark,
            _ if self.file => Take::Nothing,
            Some(select) if select.takes_scalars() => Take::Text { list: false },
            Some(Select::Array(_, select)) if select.takes_scalars() => Take::Text { list: true },
            _ => Take::Nothing,
        };
        if self.take == Take::Nothing {
            self.name = String::new();
        }
    }

    fn hold(&mut self, bytes: &[u8], limits: Limits, held: &mut Vec<u8>) {
        self.filled |= !bytes.is_empty();
        if let Take::Text { .. } = self.take {
            // A code point takes up to four bytes.
            let most = limits.string_chars.saturating_mul(4);
            let room = most.saturating_sub(held.len()).min(bytes.len());
            held.extend_from_slice(&bytes[..room]);
        }
    }

    /// What looked like a delimiter is part of the content; returns how much of another one it ends with.
    fn resume(&mut self, behind: Behind, parser: &mut Parser) -> usize {
        self.hold(&parser.delimiter, parser.limits, &mut parser.held);
        let (blanks, matched) = match behind {
            Behind::Nothing => (0, 0),
            Behind::Hyphen => {
                self.hold(b"-", parser.limits, &mut parser.held);
                (0, 0)
            }
            Behind::Blanks(count) => (count, 0),
            Behind::Return(count) => (count, 1),
        };
        // Which blanks they were is not known.
        for _ in 0..blanks.min(parser.limits.string_chars as u64) {
            self.hold(b" ", parser.limits, &mut parser.held);
        }
        matched
    }
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser")
            .field("fields", &self.fields.len())
            .finish_non_exhaustive()
    }
}

/// The value of a field as JSON would have it.
fn value(name: &str, text: &[u8], chars: usize) -> Value {
    let text = String::from_utf8_lossy(text);
    if !TEXTS.contains(&name)
        && let Ok(value @ (Value::Bool(_) | Value::Number(_))) = serde_json::from_str(text.trim())
    {
        return value;
    }
    Value::String(text.chars().take(chars).collect())
}

/// A parameter of a header's value (RFC 9110 section 5.6.6).
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        // One without a value is none.
        let name = name.rsplit(';').next().unwrap_or_default().trim();
        let (value, after) = parameter_value(after);
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// A parameter's value, be it quoted or not, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.trim_start().strip_prefix('"') else {
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, char)| char)),
            char => value.push(char),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::body::json::Keep;

    static SELECT: Select = Select::Object(&[
        ("model", Select::Scalar),
        ("temperature", Select::Scalar),
        ("stream", Select::Scalar),
        ("response_format", Select::Scalar),
        ("n", Select::Scalar),
        ("prompt", Select::Mark),
        ("image", Select::Mark),
        (
            "timestamp_granularities",
            Select::Array(Keep::All, &Select::Scalar),
        ),
    ]);

    const LIMITS: Limits = Limits {
        string_chars: 64,
        kept_bytes: 1024,
    };

    const TYPE: &str = "multipart/form-data; boundary=0123abc";

    fn read(content_type: &str, body: &[u8], size: usize) -> (Option<Value>, Status) {
        let mut parser = Parser::new(content_type, &SELECT, LIMITS);
        for piece in body.chunks(size) {
            parser.push(piece);
            assert!(parser.memory() < 8192, "{}", parser.memory());
        }
        parser.finish()
    }

    /// A body of parts, each with its disposition.
    fn body(parts: &[(&str, &str)]) -> String {
        let parts: String = parts
            .iter()
            .map(|(disposition, content)| {
                format!(
                    "--0123abc\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n"
                )
            })
            .collect();
        format!("{parts}--0123abc--\r\n")
    }

    #[test]
    fn fields_become_members_at_any_split() {
        let file =
            "RIFF\r\n--0123ab\r\n--0123abcd\r\r\n-\r\n--0123abc-\r\n--0123abc  x\r\n\0\u{fffd}";
        let body = body(&[
            (r#"name="file"; filename="a;b=\"c\".wav""#, file),
            ("name=\"model\"", "whisper-1"),
            ("name=\"temperature\"", "0.20"),
            ("name=stream", "true"),
            ("name=\"response_format\"", "verbose_json"),
            ("name=\"prompt\"", "a\r\n--secret"),
            ("name=\"n\"", "2"),
            ("name=\"timestamp_granularities[]\"", "word"),
            ("name=\"timestamp_granularities[]\"", "segment"),
            ("name=\"image[]\"; filename=\"a.png\"", "PNG"),
            ("name=\"user\"", "not asked for"),
        ]);
        let expected = json!({
            "model": "whisper-1",
            "temperature": serde_json::from_str::<Value>("0.20").unwrap(),
            "stream": true,
            "response_format": "verbose_json",
            "prompt": true,
            "n": 2,
            "timestamp_granularities": ["word", "segment"],
            "image": true,
        });
        for size in 1..=body.len() {
            assert_eq!(
                read(TYPE, body.as_bytes(), size),
                (Some(expected.clone()), Status::Complete),
                "{size}"
            );
        }
    }

    #[test]
    fn headers_are_read_as_they_are_written() {
        let body = "what comes before\r\n--a b\t \r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION: form-data; \
                    x; Name = \"mod\\el\"\r\nno header\r\n\r\n5\r\n--a b\r\n\r\nno name\r\n--a b--what comes behind";
        let content_type = "Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"";
        for size in 1..=body.len() {
            assert_eq!(
                read(content_type, body.as_bytes(), size),
                (Some(json!({"model": "5"})), Status::Complete)
            );
        }
    }

    #[test]
    fn a_value_that_looks_like_a_delimiter_is_whole() {
        let text = "a\r\n--0123abcd\r\r\n--0123abc-\r\n--0123abc  b\r\n--0123abc \rc";
        let body = body(&[("name=\"response_format\"", text)]);
        for size in 1..=body.len() {
            assert_eq!(
                read(TYPE, body.as_bytes(), size).0,
                Some(json!({"response_format": text}))
            );
        }
    }

    #[test]
    fn what_is_cut_is_not_kept() {
        let body = body(&[("name=\"model\"", "whisper-1"), ("name=\"n\"", "12")]);
        for at in 0..body.len() {
            let (document, status) = read(TYPE, &body.as_bytes()[..at], 8);
            let document = document.unwrap();
            assert!(
                [
                    json!({}),
                    json!({"model": "whisper-1"}),
                    json!({"model": "whisper-1", "n": 12})
                ]
                .contains(&document),
                "{at}: {document}"
            );
            let complete = at >= body.len() - 2;
            assert_eq!(status == Status::Complete, complete, "{at}");
        }
    }

    #[test]
    fn after_a_gap_the_next_field_is_read() {
        let body = body(&[("name=\"model\"", "whisper-1"), ("name=\"n\"", "12")]);
        let first = body.find("\r\n--0123abc\r\n").unwrap();
        for from in 0..first {
            for to in from + 1..=first {
                let mut parser = Parser::new(TYPE, &SELECT, LIMITS);
                parser.push(&body.as_bytes()[..from]);
                parser.gap();
                parser.push(&body.as_bytes()[to..]);
                assert_eq!(
                    parser.finish(),
                    (Some(json!({"n": 12})), Status::Complete),
                    "{from} to {to}"
                );
            }
        }
    }

    #[test]
    fn without_a_boundary_there_is_nothing() {
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for content_type in [
            "",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"",
            "multipart/form-data; boundary",
            "multipart/form-data; boundary=\"a\rb\"",
            &long,
        ] {
            let body = body(&[("name=\"model\"", "whisper-1")]);
            assert_eq!(
                read(content_type, body.as_bytes(), 8),
                (None, Status::Broken),
                "{content_type}"
            );
        }
    }

    #[test]
    fn hostile_forms_cost_nothing() {
        let long = "x".repeat(100_000);
        let lines = format!("a: b\r\n{long}\r\n").repeat(10);
        let head =
            format!("--0123abc\r\n{lines}Content-Disposition: form-data; name=\"model\"\r\n\r\nm");
        let many =
            body(&[("name=\"timestamp_granularities[]\"", "word")]).replace("--\r\n", "\r\n");
        for body in [
            long.clone(),
            "\r\n--0123ab".repeat(10_000),
            format!("\r\n--0123abc{}", " ".repeat(100_000)),
            head,
            body(&[("name=\"model\"", &long)]),
            body(&[(&format!("name=\"{long}\""), "")]),
            body(&[(&"name=".repeat(10_000), "")]),
            many.repeat(1000),
        ] {
            for size in [1, 1000, body.len()] {
                read(TYPE, body.as_bytes(), size);
            }
        }
        let body = body(&[("name=\"model\"", &long)]);
        let (document, _) = read(TYPE, body.as_bytes(), 1000);
        assert_eq!(document, Some(json!({"model": "x".repeat(64)})));
    }
}
