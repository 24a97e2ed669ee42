//! AWS event streams as text, and what they are on the wire; `exchanges/README.md` has the form.

/// The bytes of one message.
pub(crate) fn message(line: &str) -> Vec<u8> {
    if let Some(line) = line.strip_prefix("lost ") {
        return [super::LOST_START, &message(line), super::LOST_END].concat();
    }
    if let Some(line) = line.strip_prefix("corrupt ") {
        let mut bytes = message(line);
        *bytes.last_mut().unwrap() ^= 1;
        return bytes;
    }
    let (kind, rest) = line.split_once(' ').unwrap();
    let (name, payload) = rest.split_once(' ').unwrap_or((rest, ""));
    let json = ":content-type: application/json";
    match kind {
        "event" => framed(
            &[
                &format!(":event-type: {name}"),
                json,
                ":message-type: event",
            ],
            payload,
        ),
        "chunk" => {
            let payload = format!(
                r#"{{"bytes":"{}","p":"abcdefghij"}}"#,
                base64(rest.as_bytes())
            );
            framed(
                &[":event-type: chunk", json, ":message-type: event"],
                &payload,
            )
        }
        "exception" => framed(
            &[
                &format!(":exception-type: {name}"),
                json,
                ":message-type: exception",
            ],
            payload,
        ),
        "error" => framed(
            &[
                &format!(":error-code: {name}"),
                &format!(":error-message: {payload}"),
                ":message-type: error",
            ],
            "",
        ),
        other => panic!("what is a message {other}?"),
    }
}

fn framed(headers: &[&str], payload: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        block.push(u8::try_from(name.len()).unwrap());
        block.extend(name.bytes());
        block.push(7);
        block.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        block.extend(value.bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let mut bytes = [
        length(block.len() + payload.len() + 16),
        length(block.len()),
    ]
    .concat();
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes.extend(block);
    bytes.extend(payload.bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let bits = piece
            .iter()
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - piece.len()));
        for place in 0..4 {
            text.push(if place <= piece.len() {
                char::from(ALPHABET[bits >> (18 - 6 * place) & 63])
            } else {
                '='
            });
        }
    }
    text
}
