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
//! | `delay-ms=N` | a pause before the head |
//! | `early` | the answer comes before the request body is read |
//! | `encoding=gzip\|deflate\|br\|zstd` | content coding |
//! | `error=STATUS` | an error of that HTTP status, in the provider's form |
//! | `events=N` | pieces of text of a stream |
//! | `framing=chunked\|length\|close` | how the end of the body is told |
//! | `hang` | no answer at all |
//! | `html` | the error's body is HTML |
//! | `malformed` | the body is no JSON |
//! | `pause-ms=N` | a pause in the middle of a stream |
//! | `stream-error=N` | an error event after N events |
//! | `token-ms=N` | a pause before each event |
//! | `tools=N` | N tool calls instead of text |
//! | `usage=none` | no token counts |

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
        Self::parse(request.header("x-test-behaviour").unwrap_or_default())
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
