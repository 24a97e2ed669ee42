//! JSON (RFC 8259) as the bytes come, of which only a [`Select`]ion is kept.
//!
//! Requests to LLMs are large: long conversations, images in base64. What nobody asked for is passed
//! over without being stored, so a document costs what its selection costs, not what it weighs.

mod frame;
mod select;
mod template;

use std::fmt;

use memchr::{memchr_iter, memchr2};
use serde_json::{Number, Value};

use self::{
    frame::{Frame, Members, weight},
    template::{Kind, Slot, Step},
};
pub use self::{
    select::{Keep, Limits, Select},
    template::{Taken, Template},
};

/// Deepest nesting that is followed; deeper documents are malformed.
const DEPTH: usize = 128;

/// Room that is held on to for the next string, in bytes.
const SPARE_BYTES: usize = 256;

/// Longest number or literal, in bytes.
const SCALAR_BYTES: usize = 1024;

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
    /// Bytes of what is kept, roughly.
    kept: usize,
    /// What was kept when the value began that the limit counts for.
    floor: usize,
    truncated: bool,
    document: Option<Value>,
    /// Where the byte that is being read is in the document; only while `slots` are collected.
    position: usize,
    /// Where the string or number began that is being read.
    began: usize,
    /// What may vary in documents that are otherwise the same, if anybody asked.
    slots: Option<Vec<Slot>>,
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

/// What is done with a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    Length,
    Mark,
    Nothing,
    Text,
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
    KeyStart {
        first: bool,
    },
    /// Between key and colon.
    Colon,
    /// In a number, true, false or null.
    Scalar {
        keep: bool,
    },
    /// In a value that is passed over: nesting, whether in a string and behind a backslash, and, if it
    /// is marked, whether anything is in it.
    Skip {
        depth: usize,
        string: bool,
        escaped: bool,
        mark: Option<bool>,
        /// How long it is so far, if that is wanted.
        length: Option<usize>,
    },
    /// In a string that is a value.
    Text {
        escape: Escape,
        take: Take,
    },
    /// Before a value; `first` also allows the end of the array.
    Value {
        first: bool,
    },
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
            floor: 0,
            truncated: false,
            document: None,
            position: 0,
            began: 0,
            slots: None,
        }
    }

    /// Reads a document that is there as a whole. Also gives a template for documents that differ little,
    /// if it is complete.
    pub fn whole(
        select: &'static Select,
        limits: Limits,
        bytes: &[u8],
    ) -> (Option<Value>, Status, Option<Template>) {
        let mut parser = Self {
            slots: Some(Vec::new()),
            ..Self::new(select, limits)
        };
        parser.push(bytes, &mut |_| ());
        let slots = parser.slots.take().unwrap_or_default();
        let (document, status) = parser.finish(&mut |_| ());
        let template = match &document {
            Some(document) if status == Status::Complete && !parser.truncated => {
                Template::new(bytes, slots, document.clone())
            }
            _ => None,
        };
        (document, status, template)
    }

    /// Reads a top-level array whose elements are handed over as they complete, `select` of each. A
    /// top-level value of another kind counts as one element.
    pub fn elements(select: &'static Select, limits: Limits) -> Self {
        Self {
            elements: true,
            ..Self::new(select, limits)
        }
    }

    /// Takes the next bytes; `sink` gets each element, or nothing where one document is read.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Value)) {
        let all = bytes.len();
        while let Some((&byte, rest)) = bytes.split_first() {
            self.position = all - bytes.len();
            match self.state {
                State::Broken | State::Done => return,
                State::Text { escape, take } => {
                    let used =
                        self.string(bytes, escape, take, |escape| State::Text { escape, take });
                    bytes = &bytes[used..];
                    if self.state == State::After {
                        match take {
                            Take::Length => self.length_slot(used - 1),
                            Take::Mark if self.chars > 0 => self.slot(Kind::Filled, used - 1),
                            Take::Nothing => self.slot(Kind::Text, used - 1),
                            Take::Mark | Take::Text => {}
                        }
                        let value = match take {
                            Take::Length => Some(Value::from(self.chars)),
                            Take::Mark => Some(Value::Bool(self.chars > 0)),
                            Take::Nothing => None,
                            Take::Text => Some(Value::String(self.take_text())),
                        };
                        self.complete(value, sink);
                    }
                    continue;
                }
                State::Key(escape) => {
                    let used = self.string(bytes, escape, Take::Text, State::Key);
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
                    let (used, value) = self.skip(bytes);
                    bytes = &bytes[used..];
                    if self.state == State::After {
                        self.complete(value, sink);
                    }
                    continue;
                }
                State::Scalar { keep } => {
                    if matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                        self.number_slot(keep);
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
                    self.state = if byte == b':' {
                        State::Value { first: false }
                    } else {
                        State::Broken
                    };
                }
                State::After => match (byte, self.stack.last()) {
                    (b',', Some(Frame::Array { .. })) => self.state = State::Value { first: false },
                    (b',', Some(Frame::Object { .. })) => {
                        self.state = State::KeyStart { first: false }
                    }
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
        let mut partial = self.partial_text();
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
        if let Some(text) = self.partial_text()
            && let Some(frame) = self.stack.last_mut()
        {
            frame.add(text);
        }
        if self.state != State::Done {
            self.state = State::Broken;
        }
    }

    /// Whether more was selected than the limits allow to keep.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.kept + self.text.capacity() + self.stack.capacity() * size_of::<Frame>()
    }

    /// A string that was cut is still worth something.
    fn partial_text(&mut self) -> Option<Value> {
        match self.state {
            State::Text {
                take: Take::Text, ..
            } => Some(Value::String(self.take_text())),
            State::Text {
                take: Take::Mark, ..
            } => Some(Value::Bool(self.chars > 0)),
            State::Text {
                take: Take::Length, ..
            } => Some(Value::from(self.chars)),
            _ => None,
        }
    }

    /// What is selected of the value that comes next, and whether it occurs once.
    fn selected(&mut self) -> (Option<&'static Select>, bool) {
        let (select, once, own_limit) = match self.stack.last() {
            None => (Some(self.select), true, true),
            Some(Frame::Array {
                keep,
                select,
                items,
            }) => match keep {
                Keep::First(count) if items.len() >= *count => (None, false, false),
                // What is pushed out makes room again.
                Keep::Ends(..) | Keep::Last(_) => (Some(*select), false, true),
                // Elements that are handed over are not held.
                Keep::All if self.elements && self.stack.len() == 1 => (Some(*select), true, true),
                Keep::All | Keep::First(_) => (Some(*select), false, false),
            },
            Some(Frame::Object {
                members: Members::All,
                ..
            }) => (Some(&Select::All), false, false),
            Some(Frame::Object {
                members: Members::Named(members),
                once,
                key,
                ..
            }) => {
                let select = key
                    .as_deref()
                    .and_then(|key| members.iter().find(|(name, _)| *name == key))
                    .map(|(_, select)| select);
                (select, *once, *once)
            }
        };
        if own_limit && select.is_some() {
            self.floor = self.kept;
        }
        if select.is_some() && self.kept.saturating_sub(self.floor) > self.limits.kept_bytes {
            self.truncated = true;
            return (None, once);
        }
        (select, once)
    }

    fn value_start(&mut self, byte: u8, first: bool, sink: &mut dyn FnMut(Value)) {
        if byte == b']' && first {
            return self.end_container(byte, sink);
        }
        let (select, once) = self.selected();
        match byte {
            b'{' | b'[' if self.stack.len() >= DEPTH => self.state = State::Broken,
            b'{' | b'[' => {
                let top = self.stack.is_empty() && self.elements && byte == b'[';
                let frame = if top {
                    Some(Frame::Array {
                        keep: Keep::All,
                        select: self.select,
                        items: Vec::new(),
                    })
                } else {
                    select.and_then(|select| Frame::selected(select, byte, once))
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
                    None => {
                        let mark = select.is_some_and(Select::is_mark).then_some(false);
                        let length = select.is_some_and(Select::is_length).then_some(1);
                        self.state = State::Skip {
                            depth: 1,
                            string: false,
                            escaped: false,
                            mark,
                            length,
                        };
                    }
                }
            }
            b'"' => {
                self.chars = 0;
                self.began = self.position + 1;
                let take = match select {
                    Some(select) if select.takes_scalars() => Take::Text,
                    Some(select) if select.is_mark() => Take::Mark,
                    Some(select) if select.is_length() => Take::Length,
                    _ => Take::Nothing,
                };
                self.state = State::Text {
                    escape: Escape::None,
                    take,
                };
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                self.text.push(byte);
                self.began = self.position;
                self.state = State::Scalar {
                    keep: select.is_some_and(Select::takes_scalars),
                };
            }
            _ => self.state = State::Broken,
        }
    }

    /// Reads on in a string; returns how many bytes it took. At its end the state is `After`.
    fn string(
        &mut self,
        bytes: &[u8],
        escape: Escape,
        take: Take,
        within: impl Fn(Escape) -> State,
    ) -> usize {
        let keep = take == Take::Text;
        match escape {
            Escape::None => {
                let end = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                if take == Take::Mark && (end > 0 || bytes[end] == b'\\') {
                    self.chars = 1;
                }
                if take == Take::Length {
                    self.chars += end;
                }
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
                        self.state = within(Escape::Unicode {
                            digits: 0,
                            value: 0,
                        });
                        return 1;
                    }
                    _ => {
                        self.state = State::Broken;
                        return bytes.len();
                    }
                };
                if take == Take::Length {
                    self.chars += plain.len();
                }
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
                    self.state = within(Escape::Unicode {
                        digits: digits + 1,
                        value,
                    });
                } else {
                    if take == Take::Length {
                        self.chars += match value {
                            0..0x80 => 1,
                            // Half of a pair, which is four bytes.
                            0x80..0x800 | 0xd800..0xe000 => 2,
                            _ => 3,
                        };
                    }
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
                let scalar =
                    0x10000 + ((u32::from(high) - 0xd800) << 10) + (u32::from(unit) - 0xdc00);
                self.append_char(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (high, _) => {
                if high.is_some() {
                    self.append_char(char::REPLACEMENT_CHARACTER);
                }
                match unit {
                    0xd800..=0xdbff => self.surrogate = Some(unit),
                    _ => self.append_char(
                        char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
                    ),
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
        let text = String::from_utf8_lossy(&self.text).into_owned();
        self.text.clear();
        self.text.shrink_to(SPARE_BYTES);
        text
    }

    /// Notes that a value may vary which ends `length` bytes from here.
    fn slot(&mut self, kind: Kind, length: usize) {
        if let Some(slots) = &mut self.slots {
            slots.push(Slot {
                start: self.began,
                end: self.position + length,
                kind,
            });
        }
    }

    /// Notes that the number may vary which ends here, if it is a whole one.
    fn number_slot(&mut self, keep: bool) {
        if self.slots.is_none() || !self.text.iter().all(u8::is_ascii_digit) {
            return;
        }
        let kind = if keep {
            self.path().map(|path| Kind::Kept(path, self.text.clone()))
        } else {
            Some(Kind::Number)
        };
        if let Some(kind) = kind {
            self.slot(kind, 0);
        }
    }

    /// Notes that the string may vary whose length is kept, and which ends `length` bytes from here.
    fn length_slot(&mut self, length: usize) {
        if self.slots.is_some()
            && let Some(path) = self.path()
        {
            self.slot(Kind::Length(path), length);
        }
    }

    /// The way to the value that is being read; `None` if it may end elsewhere.
    fn path(&self) -> Option<Vec<Step>> {
        let path = self.stack.iter().map(|frame| match frame {
            Frame::Array {
                keep: Keep::All,
                items,
                ..
            } => Some(Step::Index(items.len())),
            Frame::Array { .. } => None,
            Frame::Object { key, .. } => key.clone().map(Step::Key),
        });
        path.collect()
    }

    /// Passes over a value; returns how many bytes it took, and at its end its mark.
    fn skip(&mut self, bytes: &[u8]) -> (usize, Option<Value>) {
        let State::Skip {
            mut depth,
            mut string,
            mut escaped,
            mut mark,
            length,
        } = self.state
        else {
            return (0, None);
        };
        let mut at = 0;
        while at < bytes.len() {
            if escaped {
                escaped = false;
                at += 1;
            } else if string {
                match string_end(&bytes[at..]) {
                    Ok(end) => {
                        string = false;
                        at += end + 1;
                    }
                    Err(within) => {
                        escaped = within;
                        at = bytes.len();
                    }
                }
            } else {
                match bytes[at] {
                    b'"' => string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    self.state = State::After;
                    let value = match length {
                        Some(length) => Some(Value::from(length + at + 1)),
                        None => mark.map(Value::Bool),
                    };
                    return (at + 1, value);
                }
                if mark == Some(false) && !bytes[at].is_ascii_whitespace() {
                    mark = Some(true);
                }
                at += 1;
            }
        }
        self.state = State::Skip {
            depth,
            string,
            escaped,
            mark,
            length: length.map(|length| length + at),
        };
        (at, None)
    }

    fn scalar_end(&mut self, keep: bool, sink: &mut dyn FnMut(Value)) {
        let value = match self.text.as_slice() {
            b"null" => Some(Value::Null),
            b"true" => Some(Value::Bool(true)),
            b"false" => Some(Value::Bool(false)),
            number => serde_json::from_slice::<Number>(number)
                .ok()
                .map(Value::Number),
        };
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
        self.state = if self.stack.is_empty() {
            State::Done
        } else {
            State::After
        };
        let top_level = self.elements && self.stack.len() <= 1;
        match (self.stack.last_mut(), value) {
            (_, Some(value)) if top_level => {
                // An element that was handed over is not held any more.
                self.kept = 0;
                sink(value);
            }
            (Some(frame), Some(value)) => {
                // An object or array was counted when it began, and so was what is in it.
                if !(value.is_object() || value.is_array()) {
                    self.kept += weight(&value);
                }
                let (added, removed) = frame.add(value);
                self.kept = (self.kept + added).saturating_sub(removed);
            }
            (Some(Frame::Object { key, .. }), None) => *key = None,
            (Some(Frame::Array { .. }), None) => {}
            (None, value) => self.document = value,
        }
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser")
            .field("state", &self.state)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

/// Whether a byte begins a character of UTF-8.
fn is_start(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

fn starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| is_start(**byte)).count()
}
/// Where the string ends of which these are the next bytes, or, if it does not, whether the next byte is escaped.
pub(crate) fn string_end(bytes: &[u8]) -> Result<usize, bool> {
    // Of escapes there are many, most of them ends of lines: only those of quotes matter.
    let is_escaped = |at: usize| {
        let before = bytes[..at].iter().rev();
        before.take_while(|byte| **byte == b'\\').count() % 2 == 1
    };
    memchr_iter(b'"', bytes)
        .find(|at| !is_escaped(*at))
        .ok_or_else(|| is_escaped(bytes.len()))
}
