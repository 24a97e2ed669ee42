//! Protocol Buffers (<https://protobuf.dev/programming-guides/encoding/>): a push parser that keeps only
//! what was selected, by the numbers of fields, as JSON.
//!
//! Memory follows the selection, not the message.

use std::fmt;

use serde_json::{Map, Number, Value};

use super::json::Limits;

/// Most messages in one another.
const DEPTH: usize = 24;

/// What a value counts beside its text, in bytes.
const VALUE_BYTES: usize = 64;

/// What is kept of a message.
#[derive(Clone, Copy)]
pub struct Message(pub &'static [Field]);

/// A field that is kept.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Its name in JSON.
    pub name: &'static str,
    /// Which of its values are kept.
    pub keep: Keep,
    /// What they are.
    pub kind: Kind,
}

/// Which values of a field are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All, as an array.
    All,
    /// The last of this number, as an array.
    Last(usize),
    /// The last one, as itself.
    One,
}

/// What a value is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// `bool`.
    Bool,
    /// `float` or `double`.
    Float,
    /// `int32`, `int64`, `uint32`, `uint64` or an enumeration.
    Integer,
    /// Text, bytes or a message, of which only is kept whether there is anything in it.
    Mark,
    /// A message.
    Message(&'static Message),
    /// `string`.
    Text,
}

/// Whether a message was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is no message of this kind.
    Broken,
    /// To its end.
    Complete,
    /// It ends in the middle of a field.
    Incomplete,
}

/// Reads one message.
pub struct Parser {
    limits: Limits,
    stack: Vec<Open>,
    /// Bytes that have passed.
    position: u64,
    state: State,
    /// What is kept so far, in bytes.
    kept: usize,
    broken: bool,
}

/// A message that is being read.
struct Open {
    message: &'static Message,
    /// Where it ends; the outermost ends with the input.
    end: u64,
    value: Map<String, Value>,
    /// Its place in the message around it.
    place: Option<&'static Field>,
}

enum State {
    /// In bytes of a field of fixed size.
    Fixed {
        field: Option<&'static Field>,
        bytes: [u8; 8],
        held: usize,
        size: usize,
    },
    /// In bytes that are not kept.
    Skip { left: u64 },
    /// In the text of a field.
    Text {
        field: &'static Field,
        text: Vec<u8>,
        left: u64,
    },
    /// In a number.
    Varint {
        what: Varint,
        value: u64,
        shift: u32,
    },
}

#[derive(Clone, Copy)]
enum Varint {
    /// The length of a field.
    Length(Option<&'static Field>),
    /// The number and type of a field.
    Tag,
    /// The value of a field.
    Value(Option<&'static Field>),
}

impl Parser {
    /// Begins a message.
    pub fn new(message: &'static Message, limits: Limits) -> Self {
        Self {
            limits,
            stack: vec![Open {
                message,
                end: u64::MAX,
                value: Map::new(),
                place: None,
            }],
            position: 0,
            state: State::varint(Varint::Tag),
            kept: 0,
            broken: false,
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            let used = match &mut self.state {
                State::Skip { left } => {
                    let used = take(left, bytes.len());
                    if *left == 0 {
                        self.state = State::varint(Varint::Tag);
                    }
                    used
                }
                State::Text { field, text, left } => {
                    let used = take(left, bytes.len());
                    // What is longer than is shown is cut, a character behind.
                    let room = self
                        .limits
                        .string_chars
                        .saturating_add(1)
                        .saturating_mul(4)
                        .saturating_sub(text.len());
                    text.extend_from_slice(&bytes[..used.min(room)]);
                    if *left == 0 {
                        let (field, text) = (*field, std::mem::take(text));
                        let text = String::from_utf8_lossy(&text);
                        let text: String = text.chars().take(self.limits.string_chars).collect();
                        self.keep(field, Value::String(text));
                        self.state = State::varint(Varint::Tag);
                    }
                    used
                }
                State::Fixed {
                    field,
                    bytes: value,
                    held,
                    size,
                } => {
                    let used = (*size - *held).min(bytes.len());
                    value[*held..*held + used].copy_from_slice(&bytes[..used]);
                    *held += used;
                    if held == size {
                        let (field, size, value) = (*field, *size, *value);
                        self.fixed(field, size, value);
                        self.state = State::varint(Varint::Tag);
                    }
                    used
                }
                State::Varint { what, value, shift } => {
                    let byte = bytes[0];
                    // Ten bytes at most.
                    if *shift > 63 {
                        self.broken = true;
                        return;
                    }
                    *value |= u64::from(byte & 0x7f) << *shift;
                    *shift += 7;
                    if byte & 0x80 == 0 {
                        let (what, value) = (*what, *value);
                        self.position += 1;
                        self.varint(what, value);
                        self.position -= 1;
                    }
                    1
                }
            };
            self.position += used as u64;
            bytes = &bytes[used..];
            self.close();
        }
    }

    /// The message, as far as it came.
    pub fn finish(mut self) -> (Value, Status) {
        let between = matches!(
            self.state,
            State::Varint {
                what: Varint::Tag,
                shift: 0,
                ..
            }
        );
        let status = match () {
            () if self.broken => Status::Broken,
            () if between && self.stack.len() == 1 => Status::Complete,
            () => Status::Incomplete,
        };
        while self.stack.len() > 1 {
            self.close_one();
        }
        let value = self.stack.pop().map(|open| open.value).unwrap_or_default();
        (Value::Object(value), status)
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        let text = match &self.state {
            State::Text { text, .. } => text.capacity(),
            _ => 0,
        };
        self.kept + text + self.stack.capacity() * size_of::<Open>()
    }

    fn varint(&mut self, what: Varint, value: u64) {
        self.state = State::varint(Varint::Tag);
        match what {
            Varint::Tag => self.tag(value),
            Varint::Length(field) => self.length(field, value),
            Varint::Value(Some(field)) => {
                let value = match field.kind {
                    Kind::Bool => Value::Bool(value != 0),
                    Kind::Integer => integer(value),
                    _ => return,
                };
                self.keep(field, value);
            }
            Varint::Value(None) => {}
        }
    }

    fn tag(&mut self, tag: u64) {
        let number = tag >> 3;
        let field = self.stack.last().and_then(|open| {
            let mut fields = open.message.0.iter();
            fields.find(|field| u64::from(field.number) == number)
        });
        let fixed = |size| State::Fixed {
            field,
            bytes: [0; 8],
            held: 0,
            size,
        };
        self.state = match tag & 7 {
            _ if number == 0 => return self.broken = true,
            0 => State::varint(Varint::Value(field)),
            1 => fixed(8),
            2 => State::varint(Varint::Length(field)),
            5 => fixed(4),
            // Groups have not been used since 2008.
            _ => return self.broken = true,
        };
    }

    fn length(&mut self, field: Option<&'static Field>, length: u64) {
        let end = self.position.saturating_add(length);
        if self.stack.last().is_none_or(|open| end > open.end) {
            self.broken = true;
            return;
        }
        match field {
            Some(field) => match field.kind {
                Kind::Mark => {
                    self.keep(field, Value::Bool(length > 0));
                    self.skip(length);
                }
                Kind::Message(message) if self.stack.len() < DEPTH => self.stack.push(Open {
                    message,
                    end,
                    value: Map::new(),
                    place: Some(field),
                }),
                Kind::Text if length == 0 => self.keep(field, Value::String(String::new())),
                Kind::Text => {
                    self.state = State::Text {
                        field,
                        text: Vec::new(),
                        left: length,
                    };
                }
                _ => self.skip(length),
            },
            None => self.skip(length),
        }
    }

    fn skip(&mut self, length: u64) {
        if length > 0 {
            self.state = State::Skip { left: length };
        }
    }

    fn fixed(&mut self, field: Option<&'static Field>, size: usize, bytes: [u8; 8]) {
        let Some(field) = field.filter(|field| matches!(field.kind, Kind::Float)) else {
            return;
        };
        // Written as short as it is still the same number, which is how it was asked for.
        let [a, b, c, d, ..] = bytes;
        let text = match size {
            4 => format!("{:?}", f32::from_le_bytes([a, b, c, d])),
            _ => format!("{:?}", f64::from_le_bytes(bytes)),
        };
        if let Ok(number) = text.parse::<Number>() {
            self.keep(field, Value::Number(number));
        }
    }

    /// Ends what ends here.
    fn close(&mut self) {
        let between = |state: &State| {
            matches!(
                state,
                State::Varint {
                    what: Varint::Tag,
                    shift: 0,
                    ..
                }
            )
        };
        while !self.broken
            && let Some(open) = self.stack.last()
            && self.position >= open.end
        {
            // A field that is longer than the message around it.
            if self.position > open.end || !between(&self.state) {
                self.broken = true;
                return;
            }
            self.close_one();
        }
    }

    fn close_one(&mut self) {
        if let Some(open) = self.stack.pop()
            && let Some(field) = open.place
        {
            self.keep(field, Value::Object(open.value));
        }
    }

    /// Counts no longer what a message holds that is not kept itself.
    fn drop(&mut self, value: &Value) {
        if value.is_object() {
            self.kept = self.kept.saturating_sub(bytes(value) - VALUE_BYTES);
        }
    }

    /// Puts a value in its place, unless there is too much already.
    fn keep(&mut self, field: &'static Field, value: Value) {
        let Some(open) = self.stack.last_mut() else {
            return;
        };
        let size = match &value {
            Value::String(text) => VALUE_BYTES + text.len(),
            _ => VALUE_BYTES,
        };
        match field.keep {
            Keep::One if self.kept + size > self.limits.kept_bytes => self.drop(&value),
            Keep::One => {
                self.kept += size;
                if let Some(old) = open.value.insert(field.name.to_owned(), value) {
                    self.kept = self.kept.saturating_sub(bytes(&old));
                }
            }
            Keep::All | Keep::Last(_) => {
                let most = match field.keep {
                    Keep::Last(most) => most,
                    _ => usize::MAX,
                };
                let entry = open
                    .value
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(values) = entry else { return };
                if values.len() >= most && !values.is_empty() {
                    self.kept = self.kept.saturating_sub(bytes(&values.remove(0)));
                }
                if self.kept + size <= self.limits.kept_bytes {
                    self.kept += size;
                    values.push(value);
                } else {
                    self.drop(&value);
                }
            }
        }
    }
}

impl fmt::Debug for Message {
    // A message may hold others of its own kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} fields)", self.0.len())
    }
}

impl State {
    fn varint(what: Varint) -> Self {
        Self::Varint {
            what,
            value: 0,
            shift: 0,
        }
    }
}

impl fmt::Debug for Parser {
    // Content must not reach a log through `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser")
            .field("position", &self.position)
            .field("depth", &self.stack.len())
            .finish_non_exhaustive()
    }
}

/// What a value that was kept counts. An array counts nothing itself.
fn bytes(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(bytes).sum(),
        Value::Object(members) => VALUE_BYTES + members.values().map(bytes).sum::<usize>(),
        Value::String(text) => VALUE_BYTES + text.len(),
        _ => VALUE_BYTES,
    }
}

/// An integer, which is negative if it is that of 64 bits.
fn integer(value: u64) -> Value {
    Value::from(value.cast_signed())
}

/// Takes up to `available` bytes from what is left.
fn take(left: &mut u64, available: usize) -> usize {
    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
    *left -= bytes as u64;
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits {
        string_chars: 8,
        kept_bytes: 4096,
    };

    static INNER: Message = Message(&[
        Field {
            number: 1,
            name: "text",
            keep: Keep::One,
            kind: Kind::Text,
        },
        Field {
            number: 2,
            name: "inner",
            keep: Keep::One,
            kind: Kind::Message(&INNER),
        },
    ]);
    static OUTER: Message = Message(&[
        Field {
            number: 1,
            name: "model",
            keep: Keep::One,
            kind: Kind::Text,
        },
        Field {
            number: 2,
            name: "contents",
            keep: Keep::Last(2),
            kind: Kind::Message(&INNER),
        },
        Field {
            number: 3,
            name: "image",
            keep: Keep::One,
            kind: Kind::Mark,
        },
        Field {
            number: 5,
            name: "temperature",
            keep: Keep::One,
            kind: Kind::Float,
        },
        Field {
            number: 16,
            name: "count",
            keep: Keep::All,
            kind: Kind::Integer,
        },
    ]);

    fn parse(message: &[u8], split: usize) -> (Value, Status) {
        let mut parser = Parser::new(&OUTER, LIMITS);
        for bytes in message.chunks(split) {
            parser.push(bytes);
            assert!(parser.memory() < 16 * 1024, "{}", parser.memory());
        }
        parser.finish()
    }

    #[test]
    fn fields_are_known_by_their_numbers() {
        let message = [
            &b"\x0a\x03abc"[..],                                 // 1: "abc"
            b"\x12\x03\x0a\x01x",                                // 2 { 1: "x" }
            b"\x12\x07\x12\x03\x0a\x01y\x0a\x00",                // 2 { 2 { 1: "y" } 1: "" }
            b"\x12\x00",                                         // 2 {}
            b"\x1a\x02\xff\xfe",                                 // 3: bytes
            b"\x2d\x33\x33\x33\x3f",                             // 5: 0.7
            b"\x80\x01\x96\x01",                                 // 16: 150
            b"\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // 16: -1
            b"\x72\x02zz\x79\x01\x02\x03\x04\x05\x06\x07\x08",   // unknown ones
        ]
        .concat();
        let expected = json!({
            "model": "abc",
            "contents": [{"inner": {"text": "y"}, "text": ""}, {}],
            "image": true,
            "temperature": 0.7,
            "count": [150, -1],
        });
        for split in 1..=message.len() {
            let (value, status) = parse(&message, split);
            assert_eq!((&value, status), (&expected, Status::Complete), "{split}");
        }
        for end in 1..message.len() {
            assert_ne!(parse(&message[..end], 7).1, Status::Broken);
        }
    }

    #[test]
    fn what_is_no_message_is_said() {
        for message in [
            &b"\x00"[..],                                            // field 0
            b"\x0b",                                                 // a group
            b"\x12\x02\x0a\x05hello",        // longer than what is around it
            b"\x12\x01\x0d\x00\x00\x00\x00", // the same, of a fixed size
            b"\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a number without end
        ] {
            assert_eq!(parse(message, 3).1, Status::Broken, "{message:x?}");
        }
    }

    #[test]
    fn memory_follows_the_selection() {
        let text = [b"\x0a\x80\x80\x40".to_vec(), vec![b'a'; 1 << 20]].concat();
        assert_eq!(parse(&text, 1000).0["model"], "aaaaaaaa");
        let many = b"\x12\x05\x0a\x03abc".repeat(100_000);
        let (value, status) = parse(&many, 4096);
        assert_eq!(value["contents"].as_array().map(Vec::len), Some(2));
        assert_eq!(status, Status::Complete);
        let counts = b"\x80\x01\x05".repeat(100_000);
        assert!(parse(&counts, 4096).0["count"].as_array().unwrap().len() < 100);
        // One after the other of those that are left, with an array that stayed empty as there was no room.
        let full = [b"\x80\x01\x05".repeat(100), b"\x12\x00".repeat(3)].concat();
        assert_eq!(parse(&full, 5).1, Status::Complete);
        let mut deep = Vec::new();
        for _ in 0..100 {
            let mut length = vec![0x12];
            let mut rest = deep.len();
            while rest >= 0x80 {
                length.push(rest as u8 & 0x7f | 0x80);
                rest >>= 7;
            }
            length.push(rest as u8);
            deep = [length, deep].concat();
        }
        assert_eq!(parse(&deep, 10).1, Status::Complete);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(message in prop::collection::vec(any::<u8>(), 0..300), split in 1_usize..40) {
            prop_assert_eq!(parse(&message, split), parse(&message, message.len().max(1)));
        }
    }
}
