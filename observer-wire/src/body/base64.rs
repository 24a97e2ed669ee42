//! Bytes in base64 (RFC 4648 section 4) that are a member of a JSON object, as they come: documents in
//! documents.

/// Longest key that is looked at, in bytes.
const KEY_BYTES: usize = 64;

/// Decodes one member of one object; everything else in it is passed over. Whether the object is JSON to its
/// end is not looked at.
#[derive(Debug)]
pub struct Parser {
    key: &'static str,
    state: State,
    depth: usize,
    /// The key that came last, as far as it matters.
    found: Vec<u8>,
    /// Bits that make no byte yet, and how many.
    bits: u32,
    count: u32,
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between strings; `key` if the next one is a key of the object.
    Between { key: bool },
    /// In a string.
    Text { kind: Kind, escape: Escape },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Key,
    Other,
    Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Backslash,
    None,
    Unicode { digits: u8, value: u32 },
}

impl Parser {
    /// Decodes the member `key`.
    pub fn new(key: &'static str) -> Self {
        Self {
            key,
            state: State::Between { key: false },
            depth: 0,
            found: Vec::new(),
            bits: 0,
            count: 0,
            broken: false,
        }
    }

    /// Takes the next bytes of the object and hands over those that they stand for, in pieces.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        let mut decoded = Vec::with_capacity(bytes.len().min(768));
        for &byte in bytes {
            match self.state {
                State::Between { key } => self.between(byte, key),
                State::Text { kind, escape } => self.text(byte, kind, escape, &mut decoded),
            }
            if decoded.len() >= 768 {
                sink(&decoded);
                decoded.clear();
            }
        }
        if !decoded.is_empty() {
            sink(&decoded);
        }
    }

    /// Whether there were bytes that are no base64.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn between(&mut self, byte: u8, key: bool) {
        let mut next = key;
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                next = byte == b'{';
                if self.depth > 1 {
                    self.found.clear();
                }
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' => {
                next = true;
                self.found.clear();
            }
            b':' => next = false,
            b'"' => {
                let kind = match self.depth {
                    1 if key => {
                        self.found.clear();
                        Kind::Key
                    }
                    1 if self.found == self.key.as_bytes() => Kind::Wanted,
                    _ => Kind::Other,
                };
                self.state = State::Text {
                    kind,
                    escape: Escape::None,
                };
                return;
            }
            _ => {}
        }
        self.state = State::Between { key: next };
    }

    fn text(&mut self, byte: u8, kind: Kind, escape: Escape, decoded: &mut Vec<u8>) {
        let mut next = Escape::None;
        let mut char = None;
        match (escape, byte) {
            (Escape::None, b'"') => {
                self.state = State::Between { key: false };
                return;
            }
            (Escape::None, b'\\') => next = Escape::Backslash,
            (Escape::None, byte) => char = Some(byte),
            (Escape::Backslash, b'u') => {
                next = Escape::Unicode {
                    digits: 0,
                    value: 0,
                }
            }
            (Escape::Backslash, b'"' | b'/' | b'\\') => char = Some(byte),
            // A control character.
            (Escape::Backslash, _) => char = Some(0),
            (Escape::Unicode { digits, value }, byte) => {
                let digit = char::from(byte).to_digit(16).unwrap_or_else(|| {
                    self.broken |= kind == Kind::Wanted;
                    0
                });
                let value = value << 4 | digit;
                if digits < 3 {
                    next = Escape::Unicode {
                        digits: digits + 1,
                        value,
                    };
                } else {
                    char = Some(u8::try_from(value).unwrap_or(0));
                }
            }
        }
        self.state = State::Text { kind, escape: next };
        match (kind, char) {
            (Kind::Key, Some(char)) if self.found.len() < KEY_BYTES => self.found.push(char),
            (Kind::Wanted, Some(char)) => self.decode(char, decoded),
            _ => {}
        }
    }

    fn decode(&mut self, char: u8, decoded: &mut Vec<u8>) {
        let value = match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => return,
            _ => {
                self.broken = true;
                return;
            }
        };
        self.bits = self.bits << 6 | u32::from(value);
        self.count += 6;
        if self.count >= 8 {
            self.count -= 8;
            decoded.extend_from_slice(&[(self.bits >> self.count) as u8]);
            self.bits &= (1 << self.count) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(object: &str, size: usize) -> (String, bool) {
        let mut parser = Parser::new("bytes");
        let mut decoded = Vec::new();
        for piece in object.as_bytes().chunks(size) {
            parser.push(piece, &mut |bytes| decoded.extend_from_slice(bytes));
        }
        (String::from_utf8(decoded).unwrap(), parser.is_broken())
    }

    #[test]
    fn the_member_is_decoded_at_any_split() {
        for (object, expected) in [
            (r#"{"bytes":"eyJhIjoxfQ==","p":"abc"}"#, r#"{"a":1}"#),
            (
                r#"{ "p" : "bytes" , "bytes" : "eyJhIjoiPz8ifQ" }"#,
                r#"{"a":"??"}"#,
            ),
            (r#"{"bytes":"Pz8\/Pw\u003d\u003D"}"#, "????"),
            (
                r#"{"a":{"bytes":"AAAA"},"b":["bytes","AAAA"],"by\u0074es":"YQ=="}"#,
                "a",
            ),
            (r#"{"bytes":{"bytes":"AAAA"},"c":"AAAA"}"#, ""),
            (r#"{"bytes":["AAAA"],"c":"\"bytes\":\"AAAA\""}"#, ""),
            (r#"{"bytes":7,"c":"AAAA"}"#, ""),
            (r#"["bytes","AAAA"]"#, ""),
            (r#""bytes""#, ""),
            ("", ""),
        ] {
            for size in 1..=object.len().max(1) {
                assert_eq!(
                    decode(object, size),
                    (expected.to_owned(), false),
                    "{object}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_base64_is_said() {
        for object in [
            r#"{"bytes":"ey Jh"}"#,
            r#"{"bytes":"ey\n"}"#,
            r#"{"bytes":"\u00g1"}"#,
        ] {
            assert!(decode(object, 3).1, "{object}");
        }
    }

    #[test]
    fn a_long_member_comes_in_pieces() {
        let object = format!(r#"{{"bytes":"{}"}}"#, "QUJD".repeat(100_000));
        let mut parser = Parser::new("bytes");
        let mut length = 0;
        parser.push(object.as_bytes(), &mut |bytes| {
            assert!(bytes.len() <= 768);
            length += bytes.len();
        });
        assert_eq!(length, 300_000);
    }
}
