//! JSON (RFC 8259) as the bytes come, of which only a [`Select`]ion is kept.
//!
//! Requests to LLMs are large: long conversations, images in base64. What nobody asked for is passed
//! over without being stored, so a document costs what its selection costs, not what it weighs.

use std::fmt;

use memchr::memchr2;
use serde_json::{Map, Number, Value};

/// Deepest nesting that is followed; deeper documents are malformed.
const DEPTH: usize = 128;

/// Longest key that can be selected, in bytes.
const KEY_BYTES: usize = 256;

/// Longest number or literal, in bytes.
const SCALAR_BYTES: usize = 1024;

/// What is kept of a value.
#[derive(Clone, Copy, Debug)]
pub enum Select {
    /// The value with all that is in it.
    All,
    /// These elements of an array, and of each this; nothing if it is no array.
    Array(Keep, &'static Select),
    /// Either of two forms.
    Either(&'static Select, &'static Select),
    /// These members of an object, and of each this; nothing if it is no object.
    Object(&'static [(&'static str, Select)]),
    /// A string, number, true, false or null; nothing if it is an object or an array.
    Scalar,
}

/// Which elements of an array are kept.
#[derive(Clone, Copy)]
pub enum Keep {
    /// All.
    All,
    /// The first of this number.
    First(usize),
    /// The last of this number.
    Last(usize),
    /// The last of this number for which the function holds.
    LastIf(usize, fn(&Value) -> bool),
}

/// Bounds of what is kept of a document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Code points of a string; the rest of it is cut off.
    pub string_chars: usize,
    /// Bytes of all that is kept, roughly; beyond it nothing more is.
    pub kept_bytes: usize,
}

/// Reads one document, or the elements of a top-level array.
pub struct Parser {
    select: &'static Select,
    limits: Limits,
    /// Elements of a top-level array are handed over one by one.
    elements: bool,
    stack: Vec<Frame>,
    state: State,
    /// The string, number or literal that is being read.
    text: Vec<u8>,
    chars: usize,
    /// First half of a surrogate pair (RFC 8259 section 7).
    surrogate: Option<u16>,
    kept: usize,
    document: Option<Value>,
}

/// What a document has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is complete.
    Complete,
    /// It is no JSON from some place on, or bytes are missing.
    Broken,
    /// More bytes are needed.
    Unfinished,
}

/// An object or array that is being kept.
enum Frame {
    Array { keep: Keep, select: &'static Select, items: Vec<Value> },
    Object { members: &'static [(&'static str, Select)], all: bool, key: Option<String>, map: Map<String, Value> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Behind a value: a comma or the end of the container.
    After,
    Broken,
    Done,
    /// In a string that is a key.
    Key(Escape),
    /// Before a key; `first` also allows the end of the object.
    KeyStart { first: bool },
    /// Between key and colon.
    Colon,
    /// In a number, true, false or null.
    Scalar { keep: bool },
    /// In a value that is passed over: nesting, and whether in a string and behind a backslash.
    Skip { depth: usize, string: bool, escaped: bool },
    /// In a string that is a value.
    Text { escape: Escape, keep: bool },
    /// Before a value; `first` also allows the end of the array.
    Value { first: bool },
}

/// Where in an escape sequence of a string the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Backslash,
    None,
    Unicode { digits: u8, value: u16 },
}

impl Parser {
    /// Reads a document of which `select` is kept.
    pub fn new(select: &'static Select, limits: Limits) -> Self {
        Self {
            select,
            limits,
            elements: false,
            stack: Vec::new(),
            state: State::Value { first: false },
            text: Vec::new(),
            chars: 0,
            surrogate: None,
            kept: 0,
            document: None,
        }
    }

    /// Reads a top-level array whose elements are handed over as they complete, `select` of each. A
    /// top-level value of another kind counts as one element.
    pub fn elements(select: &'static Select, limits: Limits) -> Self {
        Self { elements: true, ..Self::new(select, limits) }
    }

    /// Takes the next bytes; `sink` gets each element, or nothing where one document is read.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Value)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.state {
                State::Broken | State::Done => return,
                State::Text { escape, keep } => {
                    let used = self.string(bytes, escape, keep, |escape| State::Text { escape, keep });
                    bytes = &bytes[used..];
                    if self.state == State::After {
                        let value = keep.then(|| Value::String(self.take_text()));
                        self.complete(value, sink);
                    }
                    continue;
                }
                State::Key(escape) => {
                    let used = self.string(bytes, escape, true, State::Key);
                    bytes = &bytes[used..];
                    if self.state == State::After {
                        let key = self.take_text();
                        if let Some(Frame::Object { key: slot, .. }) = self.stack.last_mut() {
                            *slot = Some(key);
                        }
                        self.state = State::Colon;
                    }
                    continue;
                }
                State::Skip { .. } => {
                    let used = self.skip(bytes);
                    bytes = &bytes[used..];
                    if self.state == State::After {
                        self.complete(None, sink);
                    }
                    continue;
                }
                State::Scalar { keep } => {
                    if matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                        self.scalar_end(keep, sink);
                        // The byte itself comes next.
                        continue;
                    }
                    if self.text.len() >= SCALAR_BYTES {
                        self.state = State::Broken;
                        return;
                    }
                    self.text.push(byte);
                }
                _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {}
                State::Value { first } => self.value_start(byte, first, sink),
                State::KeyStart { first } => match byte {
                    b'"' => {
                        self.chars = 0;
                        self.state = State::Key(Escape::None);
                    }
                    b'}' if first => self.end_container(byte, sink),
                    _ => self.state = State::Broken,
                },
                State::Colon => {
                    self.state = if byte == b':' { State::Value { first: false } } else { State::Broken };
                }
                State::After => match (byte, self.stack.last()) {
                    (b',', Some(Frame::Array { .. })) => self.state = State::Value { first: false },
                    (b',', Some(Frame::Object { .. })) => self.state = State::KeyStart { first: false },
                    (b']' | b'}', Some(_)) => self.end_container(byte, sink),
                    _ => self.state = State::Broken,
                },
            }
            bytes = rest;
        }
    }

    /// The document is over: what was kept of it, also if it is not complete.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Value)) -> (Option<Value>, Status) {
        if let State::Scalar { keep } = self.state {
            self.scalar_end(keep, sink);
        }
        let status = match self.state {
            State::Broken => Status::Broken,
            State::Done => Status::Complete,
            _ => Status::Unfinished,
        };
        // A string that was cut is still worth something.
        let mut partial = match self.state {
            State::Text { keep: true, .. } => Some(Value::String(self.take_text())),
            _ => None,
        };
        while let Some(mut frame) = self.stack.pop() {
            if let Some(value) = partial.take() {
                frame.add(value);
            }
            if self.elements && self.stack.is_empty() {
                if let Frame::Array { items, .. } = frame {
                    items.into_iter().for_each(&mut *sink);
                }
                break;
            }
            partial = Some(frame.into_value());
        }
        (self.document.take().or(partial), status)
    }

    /// Bytes are missing: nothing that follows can be placed.
    pub fn gap(&mut self) {
        if self.state != State::Done {
            self.state = State::Broken;
        }
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.kept + self.text.capacity() + self.stack.capacity() * size_of::<Frame>()
    }

    /// What is selected of the value that comes next.
    fn selected(&self) -> Option<&'static Select> {
        if self.kept > self.limits.kept_bytes {
            return None;
        }
        match self.stack.last() {
            None => Some(self.select),
            Some(Frame::Array { keep, select, items }) => match keep {
                Keep::First(count) if items.len() >= *count => None,
                _ => Some(select),
            },
            Some(Frame::Object { members, all, key, .. }) => {
                if *all {
                    return Some(&Select::All);
                }
                let key = key.as_deref()?;
                members.iter().find(|(name, _)| *name == key).map(|(_, select)| select)
            }
        }
    }

    fn value_start(&mut self, byte: u8, first: bool, sink: &mut dyn FnMut(Value)) {
        let select = self.selected();
        match byte {
            b']' if first => self.end_container(byte, sink),
            b'{' | b'[' if self.stack.len() >= DEPTH => self.state = State::Broken,
            b'{' | b'[' => {
                let top = self.stack.is_empty() && self.elements && byte == b'[';
                let frame = if top {
                    Some(Frame::Array { keep: Keep::All, select: self.select, items: Vec::new() })
                } else {
                    select.and_then(|select| select.frame(byte))
                };
                match frame {
                    Some(frame) => {
                        self.kept += size_of::<Frame>();
                        self.state = match frame {
                            Frame::Array { .. } => State::Value { first: true },
                            Frame::Object { .. } => State::KeyStart { first: true },
                        };
                        self.stack.push(frame);
                    }
                    None => self.state = State::Skip { depth: 1, string: false, escaped: false },
                }
            }
            b'"' => {
                self.chars = 0;
                let keep = select.is_some_and(Select::takes_scalars);
                self.state = State::Text { escape: Escape::None, keep };
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                self.text.push(byte);
                self.state = State::Scalar { keep: select.is_some_and(Select::takes_scalars) };
            }
            _ => self.state = State::Broken,
        }
    }

    /// Reads on in a string; returns how many bytes it took. At its end the state is `After`.
    fn string(&mut self, bytes: &[u8], escape: Escape, keep: bool, within: impl Fn(Escape) -> State) -> usize {
        match escape {
            Escape::None => {
                let end = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                if keep {
                    self.append(&bytes[..end]);
                }
                match bytes.get(end) {
                    None => end,
                    Some(b'"') => {
                        self.end_surrogate();
                        self.state = State::After;
                        end + 1
                    }
                    Some(_) => {
                        self.state = within(Escape::Backslash);
                        end + 1
                    }
                }
            }
            Escape::Backslash => {
                let plain: &[u8] = match bytes[0] {
                    b'"' => b"\"",
                    b'\\' => b"\\",
                    b'/' => b"/",
                    b'b' => b"\x08",
                    b'f' => b"\x0c",
                    b'n' => b"\n",
                    b'r' => b"\r",
                    b't' => b"\t",
                    b'u' => {
                        self.state = within(Escape::Unicode { digits: 0, value: 0 });
                        return 1;
                    }
                    _ => {
                        self.state = State::Broken;
                        return bytes.len();
                    }
                };
                if keep {
                    self.append(plain);
                }
                self.state = within(Escape::None);
                1
            }
            Escape::Unicode { digits, value } => {
                let Some(digit) = (bytes[0] as char).to_digit(16) else {
                    self.state = State::Broken;
                    return bytes.len();
                };
                let value = value << 4 | u16::try_from(digit).unwrap_or(0);
                if digits < 3 {
                    self.state = within(Escape::Unicode { digits: digits + 1, value });
                } else {
                    if keep {
                        self.code_unit(value);
                    }
                    self.state = within(Escape::None);
                }
                1
            }
        }
    }

    /// Appends bytes of a string up to its limit.
    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.end_surrogate();
        let room = self.limits.string_chars.saturating_sub(self.chars);
        if bytes.len() <= room {
            // As many characters at most.
            self.chars += starts(bytes);
            self.text.extend_from_slice(bytes);
            return;
        }
        for &byte in bytes {
            if is_start(byte) {
                if self.chars >= self.limits.string_chars {
                    // Bytes that continue a character after this belong to one that is cut off.
                    self.chars = usize::MAX;
                    return;
                }
                self.chars += 1;
            } else if self.chars == usize::MAX {
                continue;
            }
            self.text.push(byte);
        }
    }

    fn code_unit(&mut self, unit: u16) {
        match (self.surrogate.take(), unit) {
            (Some(high), 0xdc00..=0xdfff) => {
                let scalar = 0x10000 + ((u32::from(high) - 0xd800) << 10) + (u32::from(unit) - 0xdc00);
                self.append_char(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (high, _) => {
                if high.is_some() {
                    self.append_char(char::REPLACEMENT_CHARACTER);
                }
                match unit {
                    0xd800..=0xdbff => self.surrogate = Some(unit),
                    _ => self.append_char(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    fn end_surrogate(&mut self) {
        if self.surrogate.take().is_some() {
            self.append_char(char::REPLACEMENT_CHARACTER);
        }
    }

    fn append_char(&mut self, character: char) {
        self.append(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn take_text(&mut self) -> String {
        self.kept += self.text.len();
        let text = String::from_utf8_lossy(&self.text).into_owned();
        self.text.clear();
        self.text.shrink_to(KEY_BYTES);
        text
    }

    /// Passes over a value; returns how many bytes it took.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let State::Skip { mut depth, mut string, mut escaped } = self.state else { return 0 };
        let mut at = 0;
        while at < bytes.len() {
            if escaped {
                escaped = false;
                at += 1;
            } else if string {
                let Some(end) = memchr2(b'"', b'\\', &bytes[at..]) else {
                    at = bytes.len();
                    break;
                };
                escaped = bytes[at + end] == b'\\';
                string = escaped;
                at += end + 1;
            } else {
                match bytes[at] {
                    b'"' => string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    self.state = State::After;
                    return at;
                }
            }
        }
        self.state = State::Skip { depth, string, escaped };
        at
    }

    fn scalar_end(&mut self, keep: bool, sink: &mut dyn FnMut(Value)) {
        let value = match self.text.as_slice() {
            b"null" => Some(Value::Null),
            b"true" => Some(Value::Bool(true)),
            b"false" => Some(Value::Bool(false)),
            number => serde_json::from_slice::<Number>(number).ok().map(Value::Number),
        };
        self.kept += self.text.len();
        self.text.clear();
        match value {
            Some(value) => {
                self.state = State::After;
                self.complete(keep.then_some(value), sink);
            }
            None => self.state = State::Broken,
        }
    }

    fn end_container(&mut self, byte: u8, sink: &mut dyn FnMut(Value)) {
        let fits = match self.stack.last() {
            Some(Frame::Array { .. }) => byte == b']',
            Some(Frame::Object { .. }) => byte == b'}',
            None => false,
        };
        match self.stack.pop() {
            Some(frame) if fits => {
                if self.elements && self.stack.is_empty() && byte == b']' {
                    self.state = State::Done;
                } else {
                    self.complete(Some(frame.into_value()), sink);
                }
            }
            _ => self.state = State::Broken,
        }
    }

    /// A value is complete; `None` if it was passed over.
    fn complete(&mut self, value: Option<Value>, sink: &mut dyn FnMut(Value)) {
        self.state = if self.stack.is_empty() { State::Done } else { State::After };
        let top_level = self.elements && self.stack.len() <= 1;
        match (self.stack.last_mut(), value) {
            (_, Some(value)) if top_level => {
                // An element that was handed over is not held any more.
                self.kept = 0;
                sink(value);
            }
            (Some(frame), Some(value)) => frame.add(value),
            (Some(Frame::Object { key, .. }), None) => *key = None,
            (Some(Frame::Array { .. }), None) => {}
            (None, value) => self.document = value,
        }
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser").field("state", &self.state).field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("All"),
            Self::First(count) => write!(f, "First({count})"),
            Self::Last(count) => write!(f, "Last({count})"),
            Self::LastIf(count, _) => write!(f, "LastIf({count})"),
        }
    }
}

impl Select {
    fn takes_scalars(&self) -> bool {
        match self {
            Self::All | Self::Scalar => true,
            Self::Either(one, other) => one.takes_scalars() || other.takes_scalars(),
            Self::Array(..) | Self::Object(_) => false,
        }
    }

    fn frame(&'static self, byte: u8) -> Option<Frame> {
        match (self, byte) {
            (Self::All, b'[') => Some(Frame::Array { keep: Keep::All, select: &Self::All, items: Vec::new() }),
            (Self::All, _) => Some(Frame::Object { members: &[], all: true, key: None, map: Map::new() }),
            (Self::Array(keep, select), b'[') => Some(Frame::Array { keep: *keep, select, items: Vec::new() }),
            (Self::Object(members), b'{') => {
                Some(Frame::Object { members, all: false, key: None, map: Map::new() })
            }
            (Self::Either(one, other), _) => one.frame(byte).or_else(|| other.frame(byte)),
            _ => None,
        }
    }
}

impl Frame {
    fn add(&mut self, value: Value) {
        match self {
            Self::Array { keep, items, .. } => {
                let last = match *keep {
                    Keep::All | Keep::First(_) => None,
                    Keep::Last(count) => Some(count),
                    Keep::LastIf(count, holds) if holds(&value) => Some(count),
                    Keep::LastIf(..) => return,
                };
                items.push(value);
                if last.is_some_and(|count| items.len() > count) {
                    items.remove(0);
                }
            }
            Self::Object { key, map, .. } => {
                if let Some(key) = key.take() {
                    map.insert(key, value);
                }
            }
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Array { items, .. } => Value::Array(items),
            Self::Object { map, .. } => Value::Object(map),
        }
    }
}

/// Whether a byte begins a character of UTF-8.
fn is_start(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

fn starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| is_start(**byte)).count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ROOM: Limits = Limits { string_chars: 1000, kept_bytes: 1 << 20 };

    fn read(select: &'static Select, limits: Limits, text: &str, step: usize) -> (Option<Value>, Status) {
        let mut parser = Parser::new(select, limits);
        for piece in text.as_bytes().chunks(step) {
            parser.push(piece, &mut |_| ());
        }
        parser.finish(&mut |_| ())
    }

    #[test]
    fn only_the_selection_is_kept() {
        static SELECT: Select = Select::Object(&[
            ("model", Select::Scalar),
            ("messages", Select::Array(Keep::Last(1), &Select::Object(&[("role", Select::Scalar)]))),
            ("config", Select::Object(&[("temperature", Select::Scalar)])),
        ]);
        let text = r#" {"x":[{"y":"}]\""}], "model":"m", "messages":[{"role":"a","content":[1]},{"content":"c","role":"b"}],
            "config":{"temperature":0.20,"deep":{"a":[[]]}}, "z":null} "#;
        for step in 1..30 {
            let (value, status) = read(&SELECT, ROOM, text, step);
            assert_eq!(status, Status::Complete);
            let value = value.unwrap();
            assert_eq!(value["model"], "m");
            assert_eq!(value["messages"], json!([{"role": "b"}]));
            assert_eq!(value["config"].to_string(), r#"{"temperature":0.20}"#);
            assert_eq!(value.as_object().unwrap().len(), 3);
        }
    }

    #[test]
    fn strings_are_cut_at_code_points() {
        let limits = Limits { string_chars: 3, ..ROOM };
        for step in 1..10 {
            let (value, _) = read(&Select::All, limits, r#"["漢字😀x","ab\ud83d\ude00yz",""]"#, step);
            assert_eq!(value.unwrap(), json!(["漢字😀", "ab😀", ""]));
        }
    }

    #[test]
    fn a_broken_document_keeps_what_was_seen() {
        let (value, status) = read(&Select::All, ROOM, r#"{"a":1,"b":["x",{"c":"par"#, 4);
        assert_eq!(status, Status::Unfinished);
        assert_eq!(value.unwrap(), json!({"a": 1, "b": ["x", {"c": "par"}]}));
        let (value, status) = read(&Select::All, ROOM, r#"{"a":1,"b":oops}"#, 4);
        assert_eq!(status, Status::Broken);
        assert_eq!(value.unwrap(), json!({"a": 1}));
    }

    #[test]
    fn elements_come_as_they_complete() {
        let mut parser = Parser::elements(&Select::All, ROOM);
        let mut found = Vec::new();
        parser.push(b"[{\"a\":1}\n,\r\n{\"a\":[2]},{\"a\"", &mut |value| found.push(value));
        assert_eq!(found, [json!({"a": 1}), json!({"a": [2]})]);
        parser.push(b":3}]", &mut |value| found.push(value));
        assert_eq!(found.len(), 3);
        assert_eq!(parser.finish(&mut |_| ()).1, Status::Complete);
    }

    #[test]
    fn what_is_passed_over_costs_nothing() {
        static SELECT: Select = Select::Object(&[("model", Select::Scalar)]);
        let mut parser = Parser::new(&SELECT, ROOM);
        parser.push(br#"{"image":""#, &mut |_| ());
        for _ in 0..1000 {
            parser.push(&[b'A'; 16 * 1024], &mut |_| ());
        }
        parser.push(br#"","model":"m"}"#, &mut |_| ());
        assert!(parser.memory() < 4096, "{}", parser.memory());
        assert_eq!(parser.finish(&mut |_| ()).0.unwrap(), json!({"model": "m"}));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let limits = Limits { string_chars: 1 << 20, kept_bytes: 64 * 1024 };
        let mut parser = Parser::new(&Select::All, limits);
        parser.push(b"[", &mut |_| ());
        for _ in 0..1000 {
            parser.push(format!("\"{}\",", "x".repeat(1000)).as_bytes(), &mut |_| ());
        }
        assert!(parser.memory() < 128 * 1024, "{}", parser.memory());
    }
}
