//! What a thread executes at the moment, where the thread is not all there is.

use observer_common::task;
use serde::{Deserialize, Serialize};

/// A logical task of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Task {
    /// What it is.
    pub kind: TaskKind,
    /// Names it among those of its kind in its process, while it lives.
    pub id: u64,
}

/// What a logical task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A goroutine, by its id.
    Goroutine,
    /// A task of CPython, by the address of its `contextvars.Context`.
    PythonContext,
}

impl Task {
    /// From what the programs say; `None` where the thread is all there is.
    pub(super) fn of(kind: u32, id: u64) -> Option<Self> {
        let kind = match kind {
            task::GOROUTINE => TaskKind::Goroutine,
            task::CPYTHON => TaskKind::PythonContext,
            _ => return None,
        };
        (id != 0).then_some(Self { kind, id })
    }
}
