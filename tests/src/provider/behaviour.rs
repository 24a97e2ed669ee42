//! How an answer misbehaves: the request header `x-test-behaviour: key=value; key`.
//!
//! | key | effect |
//! |---|---|
//! | `bytes=N` | an answer of about N bytes of text |
//! | `cached=N`, `reasoning=N` | these token counts |
//! | `chunk-extensions`, `trailers` | in the chunked framing |
//! | `close` | close_notify after the answer |
//! | `cut=N` | the TCP connection is cut after N pieces of the body |
//! | `cut-clean=N` | as `cut`, with a close_notify |
//! | `cut-reset=N` | as `cut`, with a TCP reset instead of an end |
//! | `delay-ms=N` | a pause before the head |
//! | `early` | the answer comes before the request body is read |
//! | `encoding=gzip\|deflate\|br\|zstd` | content coding |
//! | `error=STATUS` | an error of that HTTP status, in the provider's form |
//! | `error-gateway` | the error is that of Azure's gateway |
//! | `error-text` | the error is a string, as xAI has it, in the form of OpenAI |
//! | `events=N` | pieces of text of a stream |
//! | `fails=N` | with `error`: only the first N attempts of an SDK that counts them fail |
//! | `framing=chunked\|length\|close` | how the end of the body is told |
//! | `hang` | no answer at all |
//! | `html` | the error's body is HTML |
//! | `interim` | 102 and 103 before the head (HTTP/1.1) |
//! | `malformed` | the body is no JSON |
//! | `pause-ms=N` | a pause in the middle of a stream |
//! | `redirect` | 307 to the same path with a query |
//! | `rekey` | the keys are updated in the middle of the body (TLS 1.3) |
//! | `reset=N` | HTTP/2: the stream is reset after N pieces of the body |
//! | `stream-error=N` | an error event after N events |
//! | `token-ms=N` | a pause before each event |
//! | `tools=N` | N tool calls instead of text |
//! | `usage=none` | no token counts |
//!
//! Sessions of WebSocket, for each answer:
//!
//! | key | effect |
//! |---|---|
//! | `audio=N` | N bytes of audio with each word |
//! | `binary` | messages in binary frames |
//! | `cut=N`, `stop=N` | the connection is cut, or the session closed, after N words |
//! | `deflate`, `deflate=no-takeover` | compression, if the client offers it |
//! | `error=STATUS` | the session is refused |
//! | `fail` | the response fails |
//! | `invalid` | `response.create` is refused |
//! | `late-usage` | the usage comes behind the end of the turn |
//! | `unanswered` | the connection is closed instead of an answer to the request for the session |
//! | `vad=N` | an answer to N pieces of audio, without being asked for |

use std::{collections::HashMap, time::Duration};

use super::http::Request;

/// The behaviour that a request asks for.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    keys: HashMap<String, String>,
}

impl Behaviour {
    /// Reads the header.
    pub(super) fn of(request: &Request) -> Self {
        let mut behaviour = Self::parse(request.header("x-test-behaviour").unwrap_or_default());
        let attempt = request
            .header("x-stainless-retry-count")
            .and_then(|count| count.parse().ok());
        if behaviour
            .number("fails")
            .is_some_and(|fails| attempt >= Some(fails))
        {
            behaviour.keys.remove("error");
        }
        behaviour
    }

    /// Reads the header's value.
    pub fn parse(value: &str) -> Self {
        let keys = value
            .split(';')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| {
                let (key, value) = item.split_once('=').unwrap_or((item, ""));
                (key.to_owned(), value.to_owned())
            })
            .collect();
        Self { keys }
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// A pause.
    pub fn pause(&self, key: &str) -> Duration {
        Duration::from_millis(self.number(key).unwrap_or(0))
    }

    /// Whether the connection ends with the answer.
    pub fn closes(&self) -> bool {
        self.has("close") || self.get("framing") == Some("close")
    }
}
