//! Which run of an agent a call belongs to, and the records of both.

pub mod attribution;
pub mod by;
pub mod ends;
pub mod prices;
pub mod record;

use std::time::Duration;

pub use attribution::{CallContext, Traces};
pub use by::TraceBy;
pub use prices::Prices;
pub use record::{CallRecord, CallStarted, LlmUsage, OtherRequest, ToolStep, TraceRecord};

/// How traces are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A trace ends this long after its last call.
    pub idle: Duration,
    /// The one kind of evidence that counts, if one does.
    pub by: Option<TraceBy>,
    /// What traces are called, in place of a name of their own.
    pub name: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(10),
            by: None,
            name: None,
        }
    }
}
