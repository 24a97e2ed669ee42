//! What is parsed.

/// A request with one long conversation.
pub(crate) fn request(bytes: usize) -> String {
    let text =
        "The quick brown fox jumps over the lazy dog, \\\"again\\\" and again.\\n".repeat(30);
    let message = format!(r#"{{"role":"user","content":"{text}"}}"#);
    let messages = vec![message.as_str(); bytes / message.len()].join(",");
    let body =
        format!(r#"{{"model":"gpt-4o","temperature":0.5,"stream":true,"messages":[{messages}]}}"#);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nAccept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 1.99.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer sk-0123456789012345678901234567890123456789\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A connection with a request and the head of its answer.
pub(crate) fn begun_http2() -> [Vec<u8>; 2] {
    let mut head = vec![0x83];
    for (index, value) in [(0x41, "api.openai.com"), (0x44, "/v1/chat/completions")] {
        head.extend([index, value.len() as u8]);
        head.extend(value.bytes());
    }
    let answer = b"\x88\x5f\x11text/event-stream";
    let body = b"{\"model\":\"gpt-4o\",\"stream\":true}";
    [
        [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, b""),
            &frame(1, 4, 1, &head),
            &frame(0, 1, 1, body),
        ]
        .concat(),
        [frame(4, 0, 0, b""), frame(1, 4, 1, answer)].concat(),
    ]
}

/// A head that adds fields to the table, and others that refer to them.
pub(crate) fn heads_of(count: usize) -> Vec<Vec<u8>> {
    let fields = [
        (":authority", "api.openai.com"),
        (":path", "/v1/embeddings"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("user-agent", "OpenAI/Python 1.99.0"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "1.99.0"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.11.7"),
        (
            "authorization",
            "Bearer sk-0123456789012345678901234567890123456789",
        ),
    ];
    let mut head = vec![0x83];
    for (name, value) in fields {
        head.extend([0x40, name.len() as u8]);
        head.extend(name.bytes());
        head.push(value.len() as u8);
        head.extend(value.bytes());
    }
    let indexed: Vec<u8> = [0x83]
        .into_iter()
        .chain((0..fields.len() as u8).map(|index| 0x80 | (62 + index)))
        .collect();
    let mut heads = vec![frame(1, 5, 1, &head)];
    heads.extend((1..count).map(|number| frame(1, 5, number as u32 * 2 + 1, &indexed)));
    heads
}

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Events and their end as chunks of HTTP.
pub(crate) fn framed(events: &[String], end: &str) -> Vec<Vec<u8>> {
    events
        .iter()
        .map(String::as_str)
        .chain([end])
        .map(|event| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
        .collect()
}

/// Four fields by Huffman code: RFC 7541 appendix C.6.1.
pub(crate) const BLOCK: &[u8] = &[
    0x48, 0x82, 0x64, 0x02, 0x58, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b, 0x61, 0x96, 0xd0, 0x7a, 0xbe,
    0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6,
    0x2d, 0x1b, 0xff, 0x6e, 0x91, 0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8,
    0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3,
];
