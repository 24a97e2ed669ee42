//! Request and response heads of HTTP/1.1 (RFC 9112 sections 2 to 5).

use http::{HeaderMap, Method, StatusCode, Uri, header};

use super::super::{
    RequestHead, ResponseHead,
    fields::{FIELDS, HEAD_BYTES, append, split_authority, split_target},
    redact::Salt,
    websocket::is_upgrade,
};
use crate::evidence::Fingerprint;

/// Length of request lines that every server takes (RFC 9112 section 3), in bytes.
const REQUEST_LINE_BYTES: usize = 8000;

/// Methods of requests (RFC 9110 section 9, RFC 5789) that begin a message that is worth parsing.
const METHODS: &[&str] = &[
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// What the framing of the body needs from a head (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// `Transfer-Encoding` ends with `chunked`.
    Chunked,
    /// `Content-Length`.
    Known(u64),
    /// Neither.
    Unstated,
}

/// Collects the bytes of a head until it is complete, over as many chunks as it takes.
#[derive(Debug, Default)]
pub(super) struct HeadBuffer {
    bytes: Vec<u8>,
}

/// How far a head has come.
pub(super) enum Progress<'a> {
    /// The head, and the number of bytes of the chunk that belong to it.
    Complete(std::borrow::Cow<'a, [u8]>, usize),
    /// More bytes are needed.
    Incomplete,
    /// It is longer than any head may be.
    TooLong,
}

impl HeadBuffer {
    /// Takes the next bytes.
    pub(super) fn push<'a>(&mut self, bytes: &'a [u8]) -> Progress<'a> {
        if self.bytes.is_empty()
            && let Some(end) = end_of_head(bytes, 0)
        {
            return Progress::Complete(bytes[..end].into(), end);
        }
        let before = self.bytes.len();
        let room = HEAD_BYTES - before;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        // The end may straddle the chunks.
        match end_of_head(&self.bytes, before.saturating_sub(3)) {
            Some(end) => {
                self.bytes.truncate(end);
                Progress::Complete(std::mem::take(&mut self.bytes).into(), end - before)
            }
            None if self.bytes.len() >= HEAD_BYTES => Progress::TooLong,
            None => Progress::Incomplete,
        }
    }

    /// Whether what has come so far can become a request.
    pub(super) fn may_be_request(&self) -> bool {
        // A request line that is longer is not looked at again and again.
        self.bytes.len() > REQUEST_LINE_BYTES || begins_request(&self.bytes)
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Whether bytes at the start of a write begin a request.
pub(in super::super) fn begins_request(bytes: &[u8]) -> bool {
    let Some(method) = METHODS
        .iter()
        .find(|method| bytes.starts_with(method.as_bytes()))
    else {
        // A method may be cut.
        return !bytes.is_empty()
            && METHODS
                .iter()
                .any(|method| method.as_bytes().starts_with(bytes));
    };
    let rest = &bytes[method.len()..];
    if rest.first().is_some_and(|byte| *byte != b' ') {
        return false;
    }
    match memchr::memchr(b'\n', rest) {
        Some(end) => {
            rest[..end].trim_ascii_end().ends_with(b" HTTP/1.1")
                || rest[..end].trim_ascii_end().ends_with(b" HTTP/1.0")
        }
        None => true,
    }
}

/// A request head, its body's length, and whether it expects 100-continue.
pub(super) fn request(bytes: &[u8], salt: &Salt) -> Option<(RequestHead, Length)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    let target = request.path?;
    let mut credential = None;
    let (headers, length) = fields_of(request.headers, salt, &mut credential)?;
    let authority = match target
        .parse::<Uri>()
        .ok()
        .and_then(|uri| uri.authority().cloned())
    {
        Some(authority) if target.contains("://") || method == Method::CONNECT => {
            Some(authority.to_string())
        }
        _ => headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .map(str::to_owned),
    };
    let (host, port) = authority
        .map(|authority| split_authority(&authority))
        .unwrap_or_default();
    let target = match target.find("://") {
        Some(scheme) => target[scheme + 3..]
            .find('/')
            .map_or("/", |path| &target[scheme + 3 + path..]),
        None => target,
    };
    let (path, query) = split_target(target, salt, &mut credential);
    Some((
        RequestHead {
            // RFC 6455 section 4.1.
            websocket: method == Method::GET && is_upgrade(&headers),
            method,
            path,
            query,
            host,
            port,
            headers,
            credential,
            partial: false,
        },
        length,
    ))
}

/// A response head, its status, and its body's length as its fields say it.
pub(super) fn response(bytes: &[u8]) -> Option<(ResponseHead, StatusCode, Length)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = httparse::ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response(&mut response, bytes)
        .ok()?;
    if !parsed.is_complete() {
        return None;
    }
    let status = StatusCode::from_u16(response.code?).ok()?;
    let (headers, length) = fields_of(response.headers, &[0; 32], &mut None)?;
    let head = ResponseHead {
        status: Some(status),
        headers,
        partial: false,
    };
    Some((head, status, length))
}

/// The fields without credentials, and the length that they state. `None` if lengths contradict each
/// other (RFC 9112 section 6.3).
fn fields_of(
    fields: &[httparse::Header<'_>],
    salt: &Salt,
    credential: &mut Option<Fingerprint>,
) -> Option<(HeaderMap, Length)> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut chunked = false;
    let mut known = None;
    for field in fields {
        let is = |name: header::HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        if is(header::TRANSFER_ENCODING) {
            let last = field
                .value
                .rsplit(|byte| *byte == b',')
                .next()
                .unwrap_or_default();
            chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        } else if is(header::CONTENT_LENGTH) {
            for value in field.value.split(|byte| *byte == b',') {
                let length: u64 = std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()?;
                if known.is_some_and(|known| known != length) {
                    return None;
                }
                known = Some(length);
            }
        }
        append(
            &mut headers,
            salt,
            credential,
            field.name.as_bytes(),
            field.value,
        );
    }
    let length = match known {
        _ if chunked => Length::Chunked,
        Some(length) => Length::Known(length),
        None => Length::Unstated,
    };
    Some((headers, length))
}

/// Where the head ends: after an empty line. A bare LF counts as a line end (RFC 9112 section 2.2).
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[from..])
        .map(|at| from + at)
        .find_map(|at| match bytes.get(at + 1..) {
            Some([b'\n', ..]) => Some(at + 2),
            Some([b'\r', b'\n', ..]) => Some(at + 3),
            _ => None,
        })
}
