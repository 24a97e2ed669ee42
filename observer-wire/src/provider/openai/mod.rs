//! The formats of OpenAI, and of everything that speaks them.

pub(super) mod chat;
pub(super) mod responses;
