//! From body bytes to documents and events, without holding what nobody asked for.

pub mod base64;
pub mod encoding;
pub mod eventstream;
pub mod grpc;
pub mod json;
pub mod multipart;
pub mod ndjson;
pub mod protobuf;
pub mod sse;
