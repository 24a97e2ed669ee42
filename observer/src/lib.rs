//! The agent: it attaches uprobes to the TLS libraries of the watched processes, takes the plaintext
//! from the kernel, has [`observer_wire`] turn it into LLM calls, puts each into a trace and hands
//! the records to exporters.
//!
//! ```text
//! attach ─► kernel ─► capture ─► observer_wire ─► trace ─► export
//! ```

// `attach::bpf` is the one place that needs it.
#![deny(unsafe_code)]

pub mod agent;
pub mod attach;
pub mod capture;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod exec;
pub mod export;
pub mod inventory;
pub mod kubernetes;
pub mod recording;
pub mod records;
pub mod replay;
pub mod report;
pub mod salt;
pub mod spread;
pub mod tail;
pub mod text;
pub mod top;
pub mod trace;
