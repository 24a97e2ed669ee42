//! What the end-to-end tests are made of: the local LLM [`provider`], real [`clients`] and a
//! [`harness`] that runs the agent.

#![forbid(unsafe_code)]

pub mod clients;
pub mod cluster;
pub mod commands;
pub mod corpus;
pub mod coverage;
pub mod environments;
pub mod front;
pub mod golang;
pub mod guest;
pub mod harness;
pub mod images;
pub mod infinium;
pub mod java;
pub mod provider;
pub mod proxy;
pub mod rustls;
pub mod sites;
pub mod telemetry;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also where a test has panicked meanwhile.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
