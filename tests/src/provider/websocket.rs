//! The server's side of WebSocket (RFC 6455) with permessage-deflate (RFC 7692), apart from the parser that it
//! tests.

use std::{io::Write as _, thread, time::Duration};

use anyhow::{Context as _, bail};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use ring::digest;
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

use super::{Stream, behaviour::Behaviour, http::Request};

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// A session that was accepted.
pub(super) struct Session<'a> {
    stream: &'a mut Stream,
    /// What came too early.
    buffer: Vec<u8>,
    deflate: Option<Deflate>,
    random: fastrand::Rng,
    /// Messages go in frames of this kind.
    opcode: u8,
}

struct Deflate {
    compress: Compress,
    decompress: Decompress,
    takeover: bool,
}

/// Whether a request asks for a session.
pub(super) fn is_upgrade(request: &Request) -> bool {
    request
        .header("upgrade")
        .is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

impl<'a> Session<'a> {
    /// Accepts a session.
    pub(super) fn accept(
        stream: &'a mut Stream,
        buffer: Vec<u8>,
        request: &Request,
        behaviour: &Behaviour,
        id: &str,
        random: fastrand::Rng,
    ) -> anyhow::Result<Self> {
        let key = request.header("sec-websocket-key").context("no key")?;
        let accept = digest::digest(
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
            format!("{key}{GUID}").as_bytes(),
        );
        let offered = request
            .header("sec-websocket-extensions")
            .unwrap_or_default();
        let takeover = behaviour.get("deflate") != Some("no-takeover");
        let deflate =
            (behaviour.has("deflate") && offered.contains("permessage-deflate")).then(|| Deflate {
                compress: Compress::new(Compression::default(), false),
                decompress: Decompress::new(false),
                takeover,
            });
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nx-request-id: {id}\r\nSec-WebSocket-Accept: {}\r\n",
            base64(accept.as_ref())
        );
        if deflate.is_some() {
            head.push_str("Sec-WebSocket-Extensions: permessage-deflate");
            if !takeover {
                head.push_str("; server_no_context_takeover; client_no_context_takeover");
            }
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.flush()?;
        let opcode = if behaviour.has("binary") {
            BINARY
        } else {
            TEXT
        };
        Ok(Self {
            stream,
            buffer,
            deflate,
            random,
            opcode,
        })
    }

    /// The next message of the client; `None` when it closes.
    pub(super) fn read(&mut self) -> anyhow::Result<Option<Value>> {
        let mut message = Vec::new();
        let mut compressed = false;
        loop {
            let head: [u8; 2] = self.take(2)?.try_into().unwrap_or_default();
            let length = match head[1] & 0x7f {
                126 => u64::from(u16::from_be_bytes(
                    self.take(2)?.try_into().unwrap_or_default(),
                )),
                127 => u64::from_be_bytes(self.take(8)?.try_into().unwrap_or_default()),
                length => u64::from(length),
            };
            if head[1] & 0x80 == 0 {
                bail!("a client masks its frames");
            }
            let key = self.take(4)?;
            let mut payload = self.take(usize::try_from(length)?)?;
            for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
                *byte ^= key;
            }
            match head[0] & 0x0f {
                CLOSE => {
                    self.frame(FIN | CLOSE, &payload)?;
                    return Ok(None);
                }
                PING => self.frame(FIN | PONG, &payload)?,
                PONG => {}
                TEXT | BINARY | CONTINUATION => {
                    compressed |= head[0] & RSV1 != 0;
                    message.extend(payload);
                    if head[0] & FIN != 0 {
                        break;
                    }
                }
                other => bail!("what is a frame {other}?"),
            }
        }
        if compressed {
            message = self.inflate(&message)?;
        }
        Ok(Some(serde_json::from_slice(&message)?))
    }

    /// Sends a message, now and then in several frames with pings between them.
    pub(super) fn write(&mut self, message: &Value) -> anyhow::Result<()> {
        let mut payload = message.to_string().into_bytes();
        let mut first = self.opcode;
        if let Some(deflate) = &mut self.deflate {
            payload = deflate.compress(&payload)?;
            first |= RSV1;
        }
        let frames = if self.random.u8(..4) == 0 { 3 } else { 1 };
        let size = payload.len().div_ceil(frames).max(1);
        let mut pieces = payload.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            self.frame(if last { FIN | first } else { first }, piece)?;
            first = CONTINUATION;
            if !last {
                self.frame(FIN | PING, b"are you there")?;
            }
        }
        Ok(())
    }

    /// Closes the session and waits for the client to do so, too.
    pub(super) fn close(&mut self, code: u16, reason: &str) -> anyhow::Result<()> {
        self.frame(
            FIN | CLOSE,
            &[&code.to_be_bytes(), reason.as_bytes()].concat(),
        )?;
        while self.read()?.is_some() {}
        Ok(())
    }

    /// Breaks the connection off.
    pub(super) fn cut(&mut self) -> anyhow::Result<()> {
        set_socket_linger(&self.stream.sock, Some(Duration::ZERO))?;
        Ok(())
    }

    fn frame(&mut self, first: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(u8::try_from(length)?),
            length @ 126..0x1_0000 => {
                frame.push(126);
                frame.extend(u16::try_from(length)?.to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        // Here and there a frame comes in pieces.
        let cut = if self.random.u8(..3) == 0 {
            self.random.usize(1..frame.len())
        } else {
            frame.len()
        };
        self.stream.write_all(&frame[..cut])?;
        self.stream.flush()?;
        if cut < frame.len() {
            thread::sleep(Duration::from_micros(300));
            self.stream.write_all(&frame[cut..])?;
            self.stream.flush()?;
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !super::http::fill(self.stream, &mut self.buffer)? {
                bail!("the client is gone");
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn inflate(&mut self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let deflate = self.deflate.as_mut().context("compression is not agreed")?;
        let input = [message, &[0, 0, 0xff, 0xff]].concat();
        let start = deflate.decompress.total_in();
        let mut output = Vec::new();
        loop {
            let taken = usize::try_from(deflate.decompress.total_in() - start)?;
            output.reserve(64 * 1024);
            let before = output.len();
            deflate.decompress.decompress_vec(
                &input[taken..],
                &mut output,
                FlushDecompress::Sync,
            )?;
            if taken == input.len() && output.len() == before {
                break;
            }
        }
        if !deflate.takeover {
            deflate.decompress.reset(false);
        }
        Ok(output)
    }
}

impl Deflate {
    fn compress(&mut self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut output = Vec::with_capacity(message.len() + 4096);
        self.compress
            .compress_vec(message, &mut output, FlushCompress::Sync)?;
        if !output.ends_with(&[0, 0, 0xff, 0xff]) {
            bail!("the room was too small");
        }
        output.truncate(output.len() - 4);
        if !self.takeover {
            self.compress.reset();
        }
        Ok(output)
    }
}

/// RFC 4648 section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .chain(&[0; 2])
            .take(3)
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place) & 63) as usize;
            out.push(if place <= group.len() {
                char::from(ALPHABET[index])
            } else {
                '='
            });
        }
    }
    out
}
