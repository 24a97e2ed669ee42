//! The rules that place calls in traces.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A rule that places calls in traces ([`attribution`](super::attribution)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum TraceBy {
    /// The first that applies, in the order of their evidence
    #[default]
    Auto,
    /// The `traceparent` of the call's request, else the thread
    Traceparent,
    /// The request that the process is answering, else the thread
    Inbound,
    /// What the call goes on from, else the thread
    Conversation,
    /// The logical task, else the thread
    Task,
    /// The thread alone
    Thread,
}
