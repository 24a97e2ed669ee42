//! Writing answers, in pieces that are cut at random places.

use std::{
    io::{self, Read as _, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use rustix::net::sockopt::set_socket_linger;

use super::{
    Exchange, Stream,
    answer::{Answer, Body},
    behaviour::Behaviour,
};

const CRLF: &[u8] = b"\r\n";

/// Longest end of a block of a content coding, behind the content.
const CODED_END_BYTES: usize = 16;

/// Most pieces into which one part of an answer is cut.
const PIECES: usize = 6;

/// How an exchange ended.
pub(super) enum Ending {
    ClientGone,
    Complete,
    Cut,
}

/// How far an answer has come.
pub(super) struct Progress<'a> {
    exchange: &'a Exchange<'a>,
    /// Parts of the body that were sent.
    pub(super) sent: usize,
    /// When the last write of content began, which is before the client can have read it all.
    pub(super) wrote_at: Option<Instant>,
    /// Bytes that were written, with head and framing.
    written: usize,
    /// How many of them hold all content, once that is known.
    enough: Option<usize>,
}

/// Writes an answer as the behaviour wants it.
pub(super) fn answer(
    stream: &mut Stream,
    answer: Answer,
    behaviour: &Behaviour,
    random: &mut fastrand::Rng,
    progress: &mut Progress<'_>,
) -> Ending {
    if behaviour.has("hang") {
        wait_for_end(stream);
        return Ending::ClientGone;
    }
    thread::sleep(behaviour.pause("delay-ms"));
    match write(stream, answer, behaviour, random, progress) {
        Ok(ending) => ending,
        Err(_) => Ending::ClientGone,
    }
}

fn write(
    stream: &mut Stream,
    answer: Answer,
    behaviour: &Behaviour,
    random: &mut fastrand::Rng,
    progress: &mut Progress<'_>,
) -> io::Result<Ending> {
    let mut coder = Coder::new(behaviour.get("encoding"));
    let (parts, streamed) = match answer.body {
        Body::None => (Vec::new(), false),
        Body::Stream(events) => (events, true),
        Body::Whole(bytes) => (vec![bytes], false),
    };
    let framing = behaviour
        .get("framing")
        .unwrap_or(if streamed { "chunked" } else { "length" });
    let middle = parts.len() / 2;
    let last = parts.iter().rposition(|part| !part.is_empty());
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(encoding) = behaviour.get("encoding") {
        head.push_str(&format!("content-encoding: {encoding}\r\n"));
    }
    let mut coded = Vec::with_capacity(parts.len());
    for part in parts {
        coded.push(coder.push(&part)?);
    }
    coded.push(coder.finish()?);
    match framing {
        "length" => {
            let length: usize = coded.iter().map(Vec::len).sum();
            if answer.status != 204 && answer.status != 304 {
                head.push_str(&format!(
                    "content-length: {}\r\n",
                    answer.declared_length.unwrap_or(length)
                ));
            }
        }
        "close" => head.push_str("connection: close\r\n"),
        _ => head.push_str("transfer-encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    if behaviour.has("interim") {
        head.insert_str(
            0,
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n",
        );
    }
    pieces(stream, head.as_bytes(), random, progress)?;
    let cut = ["cut", "cut-clean", "cut-reset"]
        .iter()
        .find_map(|key| behaviour.number(key));
    // A decoder may have the content before the end of its coding's last block.
    let spare = behaviour.get("encoding").map_or(0, |_| CODED_END_BYTES);
    if last.is_none() {
        progress.enough = Some(progress.written);
    }
    let paced = streamed && (behaviour.has("token-ms") || behaviour.has("pause-ms"));
    let mut pending = Vec::new();
    for (index, part) in coded.into_iter().enumerate() {
        if behaviour.has("rekey") && index == middle {
            pieces(stream, &std::mem::take(&mut pending), random, progress)?;
            stream
                .conn
                .refresh_traffic_keys()
                .map_err(io::Error::other)?;
        }
        if cut == Some(index as u64) {
            pieces(stream, &pending, random, progress)?;
            progress.sent = index;
            progress.exchange.ends();
            if behaviour.has("cut-clean") {
                stream.conn.send_close_notify();
                stream.flush()?;
            }
            if behaviour.has("cut-reset") {
                // What lingers for no time is reset when it is closed.
                set_socket_linger(&stream.sock, Some(Duration::ZERO))?;
            } else {
                stream.sock.shutdown(Shutdown::Both)?;
            }
            return Ok(Ending::Cut);
        }
        if streamed && !part.is_empty() {
            thread::sleep(behaviour.pause("token-ms"));
            if index == middle {
                thread::sleep(behaviour.pause("pause-ms"));
            }
        }
        if part.is_empty() {
            continue;
        }
        if framing == "chunked" {
            pending.extend_from_slice(&chunk(&part, behaviour));
        } else {
            pending.extend_from_slice(&part);
        }
        if last == Some(index) {
            let framed = if framing == "chunked" { CRLF.len() } else { 0 };
            let behind = framed + spare.min(part.len());
            progress.enough = Some(progress.written + pending.len() - behind);
        }
        // A provider in a hurry puts several events, and the end too, into one record.
        if paced || random.bool() {
            let result = pieces(stream, &pending, random, progress);
            if result.is_err() && progress.has_content() {
                return Ok(Ending::Complete);
            }
            result?;
            pending.clear();
            progress.sent = index + 1;
        }
    }
    if framing == "chunked" {
        let end: &[u8] = if behaviour.has("trailers") {
            b"0\r\nx-checksum: 1\r\nx-more: 2\r\n\r\n"
        } else {
            b"0\r\n\r\n"
        };
        pending.extend_from_slice(end);
    }
    // A client that has everything but the end of the coding and of the framing may close.
    match pieces(stream, &pending, random, progress) {
        Err(error) if !progress.has_content() => Err(error),
        _ => Ok(Ending::Complete),
    }
}

fn chunk(part: &[u8], behaviour: &Behaviour) -> Vec<u8> {
    let extension = if behaviour.has("chunk-extensions") {
        ";note=\"a b\""
    } else {
        ""
    };
    let mut framed = format!("{:x}{extension}\r\n", part.len()).into_bytes();
    framed.extend_from_slice(part);
    framed.extend_from_slice(CRLF);
    framed
}

/// Each piece is a TLS record of its own, so that the client reads it by itself.
fn pieces(
    stream: &mut Stream,
    mut bytes: &[u8],
    random: &mut fastrand::Rng,
    progress: &mut Progress<'_>,
) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    for _ in 1..random.usize(1..=PIECES) {
        if bytes.len() < 2 {
            break;
        }
        let (piece, rest) = bytes.split_at(random.usize(1..bytes.len()));
        progress.write(stream, piece)?;
        bytes = rest;
    }
    progress.write(stream, bytes)
}

impl<'a> Progress<'a> {
    pub(super) fn of(exchange: &'a Exchange<'a>) -> Self {
        Self {
            exchange,
            sent: 0,
            wrote_at: None,
            written: 0,
            enough: None,
        }
    }

    fn write(&mut self, stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
        if !self.has_content() {
            self.wrote_at = Some(Instant::now());
        }
        if self.is_enough(self.written + bytes.len()) {
            self.exchange.ends();
        }
        stream.write_all(bytes)?;
        stream.flush()?;
        self.written += bytes.len();
        Ok(())
    }

    /// Whether all content has been written.
    fn has_content(&self) -> bool {
        self.is_enough(self.written)
    }

    fn is_enough(&self, written: usize) -> bool {
        self.enough.is_some_and(|enough| written >= enough)
    }
}

fn wait_for_end(stream: &mut Stream) {
    let _ = stream.sock.set_read_timeout(Some(Duration::from_secs(60)));
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        413 => "Content Too Large",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}

/// A content coding that is flushed after each part.
pub(super) enum Coder {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
    Identity,
    Zstd(Option<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Coder {
    pub(super) fn new(encoding: Option<&str>) -> Self {
        match encoding {
            Some("br") => Self::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                4096,
                4,
                20,
            ))),
            Some("deflate") => Self::Deflate(ZlibEncoder::new(Vec::new(), Compression::default())),
            Some("gzip") => Self::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            Some("zstd") => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 3).ok()),
            _ => Self::Identity,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        macro_rules! through {
            ($coder:expr) => {{
                $coder.write_all(bytes)?;
                $coder.flush()?;
                Ok(std::mem::take($coder.get_mut()))
            }};
        }
        match self {
            Self::Brotli(coder) => through!(coder),
            Self::Deflate(coder) => through!(coder),
            Self::Gzip(coder) => through!(coder),
            Self::Identity => Ok(bytes.to_vec()),
            Self::Zstd(Some(coder)) => through!(coder),
            Self::Zstd(None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Brotli(coder) => Ok(coder.into_inner()),
            Self::Deflate(coder) => coder.finish(),
            Self::Gzip(coder) => coder.finish(),
            Self::Identity => Ok(Vec::new()),
            Self::Zstd(coder) => coder.map_or(Ok(Vec::new()), zstd::stream::write::Encoder::finish),
        }
    }
}
