//! Bytes of a connection in, LLM calls out.
//!
//! ```text
//! Chunk ─► stream ─► http ─► body ─► provider ─► CallEvent
//! ```
//!
//! Everything here is sans-IO: the caller hands over bytes with their times and takes values; there
//! is no socket, clock, thread or `unsafe`. One [`Connection`] follows one TLS (or plain)
//! connection of one process and reports each LLM call that the process makes on it as a client.

#![forbid(unsafe_code)]

pub mod body;
pub mod call;
pub mod chunk;
pub mod http;
pub mod provider;
pub mod stream;

mod connection;

pub use call::LlmCall;
pub use chunk::{Chunk, Close, Direction, Origin, Timestamp};
pub use connection::{CallEvent, CallId, Connection, Options};
