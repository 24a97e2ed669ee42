//! HTTP/2 as text, and what it is on the wire; `exchanges/README.md` has the form.

pub(crate) mod eventstream;
pub(crate) mod websocket;

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

/// Around what is lost to the observer.
pub(crate) const LOST_START: &[u8] = b"<<lost";
pub(crate) const LOST_END: &[u8] = b">>";

/// One direction of a connection: what HPACK's encoder has put into the table.
#[derive(Default)]
pub(crate) struct Encoder {
    /// The newest first.
    table: Vec<(String, String)>,
}

impl Encoder {
    /// The bytes of one write.
    pub(crate) fn write(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(title) = lines.next() {
            let mut content = Vec::new();
            while let Some(line) = lines.next_if(|line| line.is_empty() || line.starts_with("  ")) {
                content.push(line.get(2..).unwrap_or_default());
            }
            self.frame(title, &content, &mut bytes);
        }
        bytes
    }

    fn frame(&mut self, title: &str, content: &[&str], bytes: &mut Vec<u8>) {
        let words: Vec<&str> = title.split_whitespace().collect();
        let has = |flag: &str| words.contains(&flag);
        let number = |place: usize| -> u32 { words[place].parse().unwrap() };
        let padding = words
            .iter()
            .find_map(|word| word.strip_prefix("padded=")?.parse().ok());
        let (kind, stream, payload): (u8, u32, Vec<u8>) = match words[0] {
            "preface" => return bytes.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            "DATA" => (0, number(1), data(content, &words)),
            "HEADERS" => {
                let mut payload = Vec::new();
                if has("priority") {
                    payload.extend([0, 0, 0, 0, 15]);
                }
                payload.extend(self.block(content));
                (1, number(1), payload)
            }
            "PRIORITY" => (2, number(1), vec![0, 0, 0, 0, 15]),
            "RST_STREAM" => (3, number(1), number(2).to_be_bytes().to_vec()),
            "SETTINGS" => (4, 0, Vec::new()),
            "PUSH_PROMISE" => {
                let mut payload = number(2).to_be_bytes().to_vec();
                payload.extend(self.block(content));
                (5, number(1), payload)
            }
            "PING" => (6, 0, vec![7; 8]),
            "GOAWAY" => {
                let mut payload = number(1).to_be_bytes().to_vec();
                payload.extend([0, 0, 0, 0]);
                payload.extend(content.concat().bytes());
                (7, 0, payload)
            }
            "WINDOW_UPDATE" => (8, number(1), vec![0, 0, 1, 0]),
            "EXTENSION" => (0xc8, 0, vec![9; 11]),
            other => panic!("what is a frame {other}?"),
        };
        // A block of fields goes on in further frames if it says so.
        if has("continued") {
            let (first, rest) = payload.split_at(payload.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            let flags = flags(&words, padding) & !4;
            put(bytes, kind, flags, stream, first, padding);
            put(bytes, 9, 0, stream, second, None);
            put(bytes, 9, 4, stream, third, None);
        } else {
            put(
                bytes,
                kind,
                flags(&words, padding),
                stream,
                &payload,
                padding,
            );
        }
    }

    /// A block of fields: known ones by their index, others are added to the table.
    fn block(&mut self, fields: &[&str]) -> Vec<u8> {
        let mut block = Vec::new();
        for field in fields {
            let (name, value) = field
                .split_at_checked(1)
                .and_then(|(first, rest)| {
                    let (name, value) = rest.split_once(": ")?;
                    Some((format!("{first}{name}"), value.to_owned()))
                })
                .unwrap();
            let place = |known: &(String, String)| (&known.0, &known.1) == (&name, &value);
            match (name.as_str(), value.as_str()) {
                (":method", "POST") => block.push(0x83),
                (":status", "200") => block.push(0x88),
                _ => {
                    if let Some(place) = self.table.iter().position(place) {
                        integer(&mut block, 0x80, 7, 62 + place);
                        continue;
                    }
                    match self.table.iter().position(|(known, _)| *known == name) {
                        Some(place) => integer(&mut block, 0x40, 6, 62 + place),
                        None => {
                            block.push(0x40);
                            string(&mut block, &name);
                        }
                    }
                    string(&mut block, &value);
                    self.table.insert(0, (name, value));
                }
            }
        }
        block
    }
}

fn flags(words: &[&str], padding: Option<u8>) -> u8 {
    let mut flags = 0;
    for word in words {
        flags |= match *word {
            "end" | "ack" => 0x1,
            "HEADERS" | "PUSH_PROMISE" => 0x4,
            "priority" => 0x20,
            _ => 0,
        };
    }
    flags | if padding.is_some() { 0x8 } else { 0 }
}

fn put(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8], padding: Option<u8>) {
    let padded = padding.map_or(0, |padding| usize::from(padding) + 1);
    let length = super::wire_length(payload) + padded;
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(padding);
    bytes.extend_from_slice(payload);
    bytes.extend(vec![0; usize::from(padding.unwrap_or(0))]);
}

fn data(content: &[&str], words: &[&str]) -> Vec<u8> {
    let has = |word: &str| words.contains(&word);
    let gzipped = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    if has("message") || has("message-gzip") {
        let message = protobuf(&mut content.iter());
        let message = if has("message-gzip") {
            gzipped(&message)
        } else {
            message
        };
        let mut framed = vec![u8::from(has("message-gzip"))];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        return framed;
    }
    if has("eventstream") {
        return content
            .iter()
            .flat_map(|line| eventstream::message(line))
            .collect();
    }
    let mut body = content.join("\n").into_bytes();
    if has("event") {
        body.extend(b"\n\n");
    }
    if has("gzip") { gzipped(&body) } else { body }
}

/// A message of protobuf: `NUMBER: VALUE` a line, where a value is a text in quotes, an integer or, with a
/// point, a float; or `NUMBER {`, the lines of a message, and `}`.
fn protobuf(lines: &mut std::slice::Iter<'_, &str>) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some(line) = lines.next().map(|line| line.trim()) {
        if line == "}" {
            break;
        }
        if let Some(number) = line.strip_suffix(" {") {
            let inner = protobuf(lines);
            varint(&mut message, number.parse::<u64>().unwrap() << 3 | 2);
            varint(&mut message, inner.len() as u64);
            message.extend(inner);
            continue;
        }
        let (number, value) = line.split_once(": ").unwrap();
        let number: u64 = number.parse().unwrap();
        if let Some(text) = value
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
        {
            varint(&mut message, number << 3 | 2);
            varint(&mut message, text.len() as u64);
            message.extend(text.bytes());
        } else if value.contains('.') {
            varint(&mut message, number << 3 | 5);
            message.extend(value.parse::<f32>().unwrap().to_le_bytes());
        } else {
            varint(&mut message, number << 3);
            varint(&mut message, value.parse().unwrap());
        }
    }
    message
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// RFC 7541 section 5.1.
fn integer(block: &mut Vec<u8>, mark: u8, prefix: u32, value: usize) {
    let full = (1_usize << prefix) - 1;
    if value < full {
        block.push(mark | value as u8);
    } else {
        block.push(mark | full as u8);
        varint(block, (value - full) as u64);
    }
}

fn string(block: &mut Vec<u8>, text: &str) {
    integer(block, 0, 7, text.len());
    block.extend(text.bytes());
}
