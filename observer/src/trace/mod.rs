//! Which run of an agent a call belongs to, and the records of both.

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

pub use attribution::{CallContext, Caller, Settings, Traces};
pub use by::TraceBy;
pub use prices::Prices;
pub use record::{CallRecord, CallStarted, LlmUsage, OtherRequest, ToolStep, TraceRecord};
