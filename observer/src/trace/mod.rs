//! Which run of an agent a call belongs to, and the records of both.

pub mod attribution;
pub mod ends;
pub mod prices;
pub mod record;

pub use attribution::{CallContext, Traces};
pub use prices::Prices;
pub use record::{CallRecord, CallStarted, LlmUsage, OtherRequest, ToolStep, TraceRecord};
