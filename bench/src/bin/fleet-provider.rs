//! Answers calls with what is ready, over TLS: the cheapest provider there can be. For `bench/src/fleet.rs`.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, ensure};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

/// Events of a streamed answer that carry text.
const EVENTS: usize = 50;

/// Where ids go, that of the request and that of the answer.
const ID: &str = "################";

/// An answer, in the pieces that are written, each with the place of its id.
struct Canned(Vec<(Vec<u8>, Vec<usize>)>);

impl Canned {
    fn plain() -> Self {
        let content = "I am sorry that your order has not come. The carrier says that it was left at the \
                       door on Monday at 11:42. Please look at the picture that was taken, which is under \
                       Orders. If it shows another door, answer here, and we send the order once more. ";
        let body = json!({
            "id": format!("chatcmpl-{ID}"),
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": null, "annotations": []},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": usage(),
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
        })
        .to_string();
        let mut bytes = head(
            "application/json",
            &format!("content-length: {}", body.len()),
        );
        bytes.extend_from_slice(body.as_bytes());
        Self::of(vec![bytes])
    }

    fn of(pieces: Vec<Vec<u8>>) -> Self {
        let placed = pieces.into_iter().map(|piece| {
            let windows = piece.windows(ID.len()).enumerate();
            let places = windows.filter(|(_, window)| *window == ID.as_bytes());
            let places = places.map(|(place, _)| place).collect();
            (piece, places)
        });
        Self(placed.collect())
    }

    fn streamed() -> Self {
        let chunk = |choices: Value, usage: Value| {
            let data = json!({
                "id": format!("chatcmpl-{ID}"),
                "object": "chat.completion.chunk",
                "created": 1_760_000_000,
                "model": "gpt-4o-mini-2024-07-18",
                "service_tier": "default",
                "system_fingerprint": "fp_0123456789",
                "choices": choices,
                "usage": usage,
            });
            let event = format!("data: {data}\n\n");
            format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
        };
        let delta = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
        let text = delta(json!({"content": " order"}), Value::Null);
        let mut pieces = vec![head(
            "text/event-stream; charset=utf-8",
            "transfer-encoding: chunked",
        )];
        pieces.extend(vec![chunk(text, Value::Null); EVENTS]);
        pieces.push(chunk(delta(json!({}), json!("stop")), Value::Null));
        let mut last = chunk(json!([]), usage());
        last.extend_from_slice(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
        pieces.push(last);
        Self::of(pieces)
    }

    /// Writes it as the answer to the request of this number, each piece as a TLS record of its own.
    fn write(&self, number: u64, to: &mut impl Write) -> anyhow::Result<()> {
        // Odd factors make no two the same, and no one like the next: what is sent is compressed.
        let id = format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (piece, places) in &self.0 {
            let mut piece = piece.clone();
            for place in places {
                piece[*place..place + id.len()].copy_from_slice(id.as_bytes());
            }
            to.write_all(&piece)?;
        }
        Ok(())
    }
}

fn usage() -> Value {
    json!({
        "prompt_tokens": 212,
        "completion_tokens": 52,
        "total_tokens": 264,
        "prompt_tokens_details": {"cached_tokens": 128, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn head(kind: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ndate: Mon, 01 Dec 2025 10:00:00 GMT\r\ncontent-type: {kind}\r\n{body}\r\n\
         connection: keep-alive\r\naccess-control-expose-headers: X-Request-ID\r\n\
         openai-organization: org-bench\r\nopenai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\n\
         x-ratelimit-limit-requests: 30000\r\nx-ratelimit-limit-tokens: 150000000\r\n\
         x-ratelimit-remaining-requests: 29999\r\nx-ratelimit-remaining-tokens: 149999724\r\n\
         x-ratelimit-reset-requests: 2ms\r\nx-ratelimit-reset-tokens: 0s\r\nx-request-id: req_{ID}\r\n\
         strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n\
         x-content-type-options: nosniff\r\nserver: bench\r\n\r\n"
    )
    .into_bytes()
}

/// Takes requests off what was read.
#[derive(Default)]
struct Requests(Vec<u8>);

impl Requests {
    /// Whether the next request wants a stream, once it is there as a whole.
    fn next(&mut self) -> anyhow::Result<Option<bool>> {
        let find = |bytes: &[u8], text: &[u8]| {
            let mut windows = bytes.windows(text.len());
            windows.position(|window| window == text)
        };
        let Some(end) = find(&self.0, b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&self.0[..end])?;
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.context("a request without its length")?.parse()?;
        let (begin, end) = (end + 4, end + 4 + length);
        let Some(body) = self.0.get(begin..end) else {
            return Ok(None);
        };
        let streamed = find(body, b"\"stream\":true").is_some();
        self.0.drain(..end);
        Ok(Some(streamed))
    }
}

fn serve(
    stream: impl Read + Write,
    answers: &[Canned; 2],
    served: &AtomicU64,
) -> anyhow::Result<()> {
    let mut stream = stream;
    let mut requests = Requests::default();
    let mut room = [0; 16 * 1024];
    loop {
        let streamed = loop {
            if let Some(streamed) = requests.next()? {
                break streamed;
            }
            let length = stream.read(&mut room)?;
            ensure!(length > 0, "closed");
            requests.0.extend_from_slice(&room[..length]);
        };
        let number = served.fetch_add(1, Ordering::Relaxed);
        answers[usize::from(streamed)].write(number, &mut stream)?;
        stream.flush()?;
    }
}

fn main() -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["api.openai.com".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    // Not OpenSSL, which is watched.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))?;
    let config = Arc::new(config);
    let answers = Arc::new([Canned::plain(), Canned::streamed()]);
    let served = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let stream: TcpStream = stream?;
        stream.set_nodelay(true)?;
        let connection = ServerConnection::new(Arc::clone(&config))?;
        let (answers, served) = (Arc::clone(&answers), Arc::clone(&served));
        thread::spawn(move || {
            // It ends with the client.
            let _ = serve(StreamOwned::new(connection, stream), &answers, &served);
        });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_however_they_come() {
        let all = b"POST / HTTP/1.1\r\nContent-Length: 15\r\n\r\n{\"stream\":true}POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        for piece in [1, 7, all.len()] {
            let mut requests = Requests::default();
            let mut seen = Vec::new();
            for bytes in all.chunks(piece) {
                requests.0.extend_from_slice(bytes);
                while let Some(streamed) = requests.next().unwrap() {
                    seen.push(streamed);
                }
            }
            assert_eq!(seen, [true, false]);
            assert!(requests.0.is_empty());
        }
        let mut requests = Requests(b"GET / HTTP/1.1\r\n\r\n".to_vec());
        assert!(requests.next().is_err());
    }

    #[test]
    fn answers_are_as_long_as_they_say_and_have_their_number() {
        let mut plain = Vec::new();
        Canned::plain().write(7, &mut plain).unwrap();
        let plain = String::from_utf8(plain).unwrap();
        let (head, body) = plain.split_once("\r\n\r\n").unwrap();
        let id = format!("{:016x}", 7_u64.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(head.contains(&format!("\r\nx-request-id: req_{id}\r\n")));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["usage"]["prompt_tokens"], 212);
        assert_eq!(body["id"], format!("chatcmpl-{id}"));
        let streamed = Canned::streamed();
        assert_eq!(streamed.0.len(), EVENTS + 3);
        let mut bytes = Vec::new();
        streamed.write(1, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (_, mut body) = text.split_once("\r\n\r\n").unwrap();
        let mut data = String::new();
        while let Some((length, rest)) = body.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16).unwrap();
            data.push_str(&rest[..length]);
            body = rest[length..].strip_prefix("\r\n").unwrap();
        }
        assert!(data.ends_with("data: [DONE]\n\n"));
        assert_eq!(data.matches("data: {").count(), EVENTS + 2);
    }
}
