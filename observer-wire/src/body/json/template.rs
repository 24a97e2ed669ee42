//! Documents that differ from one before only in what is not kept.
//!
//! The events of a stream are the same document again and again with another text. Once one has been
//! read, the bytes between the values that vary tell that the next has the same structure, and it
//! need not be read again. What varies may only be what the selection passes over, marks or measures,
//! and numbers, which are put in their place.

use serde_json::{Number, Value};

/// Longest document that is remembered, in bytes.
const DOCUMENT_BYTES: usize = 4096;

/// Most values of a document that may vary.
const SLOTS: usize = 16;

/// A value that may vary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where it is in the document, without quotes.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) kind: Kind,
}

/// What a value that varies must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A string that is passed over.
    Text,
    /// A string that is marked, and has something in it.
    Filled,
    /// A string of which the length is kept: where.
    Length(Vec<Step>),
    /// A number that is passed over.
    Number,
    /// A number that is kept: where, and its digits as they are now.
    Kept(Vec<Step>, Vec<u8>),
}

/// A step to a value in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Index(usize),
    Key(String),
}

/// A document that was read, and what of it may vary.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    document: Value,
}

impl Template {
    /// Remembers a document with its bytes and its slots, in their order.
    pub(super) fn new(bytes: &[u8], slots: Vec<Slot>, document: Value) -> Option<Self> {
        let small = bytes.len() <= DOCUMENT_BYTES && slots.len() <= SLOTS;
        small.then(|| Self {
            bytes: bytes.to_vec(),
            slots,
            document,
        })
    }

    /// Whether `bytes` are this document with other values in its slots. If so, [`document`] is what is
    /// kept of them.
    ///
    /// [`document`]: Self::document
    pub fn take(&mut self, bytes: &[u8]) -> Option<Taken> {
        let (mut rest, mut done) = (bytes, 0);
        let mut changed = false;
        for slot in &self.slots {
            rest = rest.strip_prefix(self.bytes.get(done..slot.start)?)?;
            let length = match &slot.kind {
                Kind::Text => text(rest)?,
                Kind::Filled => text(rest).filter(|length| *length > 0)?,
                Kind::Length(_) => {
                    // The same length once more is another piece of the same size.
                    changed = true;
                    text(rest)?
                }
                Kind::Number => number(rest)?,
                Kind::Kept(_, digits) => {
                    let length = number(rest)?;
                    changed |= rest[..length] != digits[..];
                    length
                }
            };
            rest = &rest[length..];
            done = slot.end;
        }
        if rest != self.bytes.get(done..)? {
            return None;
        }
        if !changed {
            return Some(Taken::Same);
        }
        self.change(bytes)?;
        Some(Taken::Changed)
    }

    /// Puts the numbers that are kept of `bytes`, which fit, in their places.
    fn change(&mut self, bytes: &[u8]) -> Option<()> {
        let (mut at, mut done) = (0, 0);
        for slot in &mut self.slots {
            at += slot.start - done;
            done = slot.end;
            let rest = bytes.get(at..)?;
            at += match &mut slot.kind {
                Kind::Text | Kind::Filled => text(rest)?,
                Kind::Length(path) => {
                    let length = text(rest)?;
                    *find(&mut self.document, path)? = Value::from(unescaped(&rest[..length]));
                    length
                }
                Kind::Number => number(rest)?,
                Kind::Kept(path, digits) => {
                    let length = number(rest)?;
                    if rest[..length] != digits[..] {
                        let number = serde_json::from_slice::<Number>(&rest[..length]).ok()?;
                        *find(&mut self.document, path)? = Value::Number(number);
                        digits.clear();
                        digits.extend_from_slice(&rest[..length]);
                    }
                    length
                }
            };
        }
        Some(())
    }

    /// What is kept of the document that was taken last.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
            + self.slots.capacity() * size_of::<Slot>()
            + super::frame::weight(&self.document)
    }
}

/// How a document that was taken compares with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// What is kept of it is the same.
    Same,
    /// Numbers that are kept have changed.
    Changed,
}

/// Length of the string that `bytes` begin with, up to its closing quote; `None` if it has to be read
/// properly.
fn text(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        match bytes.get(at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
            _ => return None,
        }
    }
}

/// Length of a string without its escapes, all of which are of one character.
fn unescaped(text: &[u8]) -> usize {
    let (mut at, mut escapes) = (0, 0);
    while let Some(found) = memchr::memchr(b'\\', &text[at..]) {
        escapes += 1;
        at = (at + found + 2).min(text.len());
    }
    text.len() - escapes
}

/// Length of the whole number that `bytes` begin with.
fn number(bytes: &[u8]) -> Option<usize> {
    let length = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    // A leading zero is no JSON.
    (length == 1 || (length > 1 && bytes[0] != b'0')).then_some(length)
}

fn find<'a>(document: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |value, step| match step {
        Step::Index(index) => value.get_mut(*index),
        Step::Key(key) => value.get_mut(key),
    })
}
