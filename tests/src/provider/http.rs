//! Reading requests, by hand, so that the server can also do what no HTTP library would.

use std::{
    io::{self, Read, Write},
    time::Instant,
};

use anyhow::{Context as _, bail};

use super::behaviour::Behaviour;

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) first_byte: Instant,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the next request; `None` at the end of the connection. `buffer` holds what came too early.
pub(crate) fn read<S: Read + Write>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> anyhow::Result<Option<Request>> {
    let mut first_byte = Instant::now();
    let (mut request, length) = loop {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(length) = head.parse(buffer)? {
            let headers = head
                .headers
                .iter()
                .map(|field| {
                    (
                        field.name.to_owned(),
                        String::from_utf8_lossy(field.value).into_owned(),
                    )
                })
                .collect();
            let request = Request {
                method: head.method.unwrap_or_default().to_owned(),
                path: head.path.unwrap_or_default().to_owned(),
                headers,
                body: Vec::new(),
                first_byte,
            };
            break (request, length);
        }
        let empty = buffer.is_empty();
        if !fill(stream, buffer)? {
            return Ok(None);
        }
        if empty {
            first_byte = Instant::now();
        }
    };
    buffer.drain(..length);
    if request
        .header("expect")
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.flush()?;
    }
    if !Behaviour::of(&request).has("early") {
        read_body(stream, buffer, &mut request)?;
    }
    Ok(Some(request))
}

/// Reads the body that follows a head.
pub(super) fn read_body<S: Read>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    request: &mut Request,
) -> anyhow::Result<()> {
    let chunked = request
        .header("transfer-encoding")
        .is_some_and(|value| value.contains("chunked"));
    request.body = if chunked {
        read_chunked(stream, buffer)?
    } else {
        let length: usize = match request.header("content-length") {
            Some(length) => length.parse().context("content-length")?,
            None => 0,
        };
        while buffer.len() < length {
            if !fill(stream, buffer)? {
                bail!("the client closed in the middle of a request");
            }
        }
        buffer.drain(..length).collect()
    };
    Ok(())
}

fn read_chunked<S: Read>(stream: &mut S, buffer: &mut Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = loop {
            match httparse::parse_chunk_size(buffer) {
                Ok(httparse::Status::Complete((used, size))) => {
                    buffer.drain(..used);
                    break usize::try_from(size)?;
                }
                Ok(httparse::Status::Partial) => {}
                Err(error) => bail!("chunk size: {error}"),
            }
            if !fill(stream, buffer)? {
                bail!("the client closed in the middle of a request");
            }
        };
        while buffer.len() < size + 2 {
            if !fill(stream, buffer)? {
                bail!("the client closed in the middle of a request");
            }
        }
        body.extend(buffer.drain(..size));
        buffer.drain(..2);
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Reads some bytes more; false at the end.
pub(super) fn fill<S: Read>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; 64 * 1024];
    let length = stream.read(&mut bytes)?;
    buffer.extend_from_slice(&bytes[..length]);
    Ok(length > 0)
}
