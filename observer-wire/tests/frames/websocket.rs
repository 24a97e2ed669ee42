//! Messages of WebSocket (RFC 6455), and what they are on the wire.

use flate2::{Compress, Compression, FlushCompress};

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The last frame of a message.
pub(crate) const FIN: u8 = 0x80;

/// A compressed message begins.
pub(crate) const RSV1: u8 = 0x40;

/// The length of a payload without the marks of what is lost of it.
fn wire_length(payload: &[u8]) -> u64 {
    let marks = payload
        .windows(b"<<lost".len())
        .filter(|window| window == b"<<lost")
        .count();
    (payload.len() - marks * b"<<lost>>".len()) as u64
}

/// Messages of one direction.
pub(crate) struct Encoder {
    /// A client's frames are masked.
    masked: bool,
    deflate: Compress,
    next_key: u32,
}

impl Encoder {
    pub(crate) fn new(masked: bool) -> Self {
        Self {
            masked,
            deflate: Compress::new(Compression::default(), false),
            next_key: 0x37fa_213d,
        }
    }

    /// A frame of this first byte; `length` is what it says of the payload's length.
    pub(crate) fn frame_of_length(&mut self, first: u8, length: u64, payload: &[u8]) -> Vec<u8> {
        let mask = if self.masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        match length {
            ..126 => frame.push(mask | length as u8),
            126..0x1_0000 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend(length.to_be_bytes());
            }
        }
        if self.masked {
            self.next_key = self.next_key.wrapping_mul(0x9e37_79b9).wrapping_add(1);
            let key = self.next_key.to_be_bytes();
            frame.extend(key);
            frame.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
        } else {
            frame.extend(payload);
        }
        frame
    }

    pub(crate) fn frame(&mut self, first: u8, payload: &[u8]) -> Vec<u8> {
        self.frame_of_length(first, wire_length(payload), payload)
    }

    /// A message in so many frames.
    pub(crate) fn message(
        &mut self,
        opcode: u8,
        compressed: bool,
        frames: usize,
        payload: &[u8],
    ) -> Vec<Vec<u8>> {
        let payload = if compressed {
            self.compress(payload)
        } else {
            payload.to_vec()
        };
        let size = payload.len().div_ceil(frames).max(1);
        (0..frames)
            .map(|index| {
                let from = (index * size).min(payload.len());
                let to = ((index + 1) * size).min(payload.len());
                let mut first = if index == 0 { opcode } else { CONTINUATION };
                if index == 0 && compressed {
                    first |= RSV1;
                }
                if index + 1 == frames {
                    first |= FIN;
                }
                self.frame(first, &payload[from..to])
            })
            .collect()
    }

    /// RFC 7692 section 7.2.1.
    pub(crate) fn compress(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut compressed = Vec::with_capacity(payload.len() + 1024);
        let start = self.deflate.total_in();
        loop {
            let taken = (self.deflate.total_in() - start) as usize;
            self.deflate
                .compress_vec(&payload[taken..], &mut compressed, FlushCompress::Sync)
                .unwrap();
            if compressed.len() < compressed.capacity() {
                break;
            }
            compressed.reserve(1024);
        }
        assert!(compressed.ends_with(&[0, 0, 0xff, 0xff]));
        compressed.truncate(compressed.len() - 4);
        compressed
    }

    /// What comes next does not refer to what came before.
    pub(crate) fn forget(&mut self) {
        self.deflate.reset();
    }

    /// The bytes of one write, from text; `exchanges/README.md` has the form.
    pub(crate) fn write(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(title) = lines.next() {
            let mut content = Vec::new();
            while let Some(line) = lines.next_if(|line| line.is_empty() || line.starts_with("  ")) {
                content.push(line.get(2..).unwrap_or_default());
            }
            let words: Vec<&str> = title.split_whitespace().collect();
            let has = |flag: &str| words.contains(&flag);
            let opcode = match words[0] {
                "binary" => BINARY,
                "close" => {
                    let (code, reason) = match title.splitn(3, ' ').collect::<Vec<_>>()[..] {
                        [_, code, reason] => (code, reason),
                        [_, code] => (code, ""),
                        _ => panic!("a close has a code"),
                    };
                    bytes.extend(self.close(code.parse().unwrap(), reason));
                    continue;
                }
                "ping" => {
                    bytes.extend(self.frame(FIN | PING, b"are you there"));
                    continue;
                }
                "pong" => {
                    bytes.extend(self.frame(FIN | PONG, b"are you there"));
                    continue;
                }
                "text" => TEXT,
                other => panic!("what is a frame {other}?"),
            };
            let frames = words
                .iter()
                .find_map(|word| word.strip_prefix("frames=")?.parse().ok())
                .unwrap_or(1);
            let payload = content.join("\n").into_bytes();
            for (index, frame) in self
                .message(opcode, has("deflate"), frames, &payload)
                .into_iter()
                .enumerate()
            {
                if index > 0 && has("pinged") {
                    bytes.extend(self.frame(FIN | PING, b"are you there"));
                }
                bytes.extend(frame);
            }
            if has("forget") {
                self.forget();
            }
        }
        bytes
    }

    pub(crate) fn close(&mut self, code: u16, reason: &str) -> Vec<u8> {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        self.frame(FIN | CLOSE, &payload)
    }
}
