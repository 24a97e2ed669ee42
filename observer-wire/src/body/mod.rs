//! From body bytes to documents and events, without holding what nobody asked for.

pub mod encoding;
pub mod grpc;
pub mod json;
pub mod protobuf;
pub mod sse;
