//! Bytes of a connection in, LLM calls out.
//!
//! ```text
//! Chunk ─► stream ─► http ─► body ─► provider ─► CallEvent
//! ```
//!
//! Everything here is sans-IO: the caller hands over bytes with their times and takes values; there
//! is no socket, clock, thread or `unsafe`. One [`Connection`] follows one TLS (or plain)
//! connection of one process and reports each LLM call that the process makes on it as a client, or
//! answers as a server.
//!
//! ```
//! use observer_wire::{CallEvent, Chunk, Connection, Direction, Options, Origin, Timestamp};
//!
//! let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;
//! let request = format!(
//!     "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: {}\r\n\r\n{body}",
//!     body.len()
//! );
//! let body = r#"{"model":"gpt-4o-2024-08-06","choices":[],"usage":{"prompt_tokens":8,"completion_tokens":2}}"#;
//! let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
//!
//! let mut connection = Connection::new(Options::default());
//! let mut calls = Vec::new();
//! for (direction, at, bytes) in [
//!     (Direction::Sent, Timestamp(0), request.as_bytes()),
//!     (Direction::Received, Timestamp(40_000_000), response.as_bytes()),
//! ] {
//!     connection.data(Chunk { direction, offset: 0, at, origin: Origin(7), bytes }, &mut |event| {
//!         if let CallEvent::Ended { record, .. } = event {
//!             calls.push(record);
//!         }
//!     });
//! }
//! assert_eq!(calls[0].provider, "openai");
//! assert_eq!(calls[0].prompt_tokens, Some(8));
//! assert_eq!(calls[0].latency.as_millis(), 40);
//! ```

#![forbid(unsafe_code)]

pub mod body;
pub mod call;
pub mod chunk;
pub mod evidence;
pub mod http;
pub mod provider;
pub mod stream;

mod connection;
mod hash;

pub use call::{Incomplete, LlmCall};
pub use chunk::{Chunk, Close, Direction, Origin, Timestamp};
pub use connection::{Asked, CallEvent, CallId, Connection, Inbound, Options, Role, Verdict};
pub use evidence::Evidence;
