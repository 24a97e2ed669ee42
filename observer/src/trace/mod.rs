//! Which run of an agent a call belongs to, and the records of both.

pub mod actors;
pub mod attempts;
pub mod attribution;
pub mod by;
pub mod conversation;
pub mod ends;
pub mod inbound;
pub mod lineage;
pub mod open;
pub mod prices;
pub mod record;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use attribution::{CallContext, Caller, Traces};
pub use by::TraceBy;
pub use prices::Prices;
pub use record::{
    CallRecord, CallStarted, ConversationId, LlmUsage, OtherRequest, ToolStep, TraceRecord,
};

/// How traces are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A trace ends this long after its last call.
    pub idle: Duration,
    /// Which rules are used.
    pub by: TraceBy,
    /// What traces are called, instead of the process's name or the route.
    pub name: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(10),
            by: TraceBy::Auto,
            name: None,
        }
    }
}
