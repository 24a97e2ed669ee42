//! The TLS libraries that can be watched: one file each, and one line in [`LIBRARIES`].

mod openssl;

use std::path::{Path, PathBuf};

use crate::attach::elf::Elf;

/// Every library that observer knows, in the order in which they are tried.
pub const LIBRARIES: &[&dyn Library] = &[&openssl::OpenSsl];

/// How to find the functions through which a TLS library's plaintext passes.
pub trait Library: Sync {
    /// The library's name, for messages.
    fn name(&self) -> &'static str;

    /// Whether a mapped file of this path may hold the library.
    fn may_be(&self, path: &Path) -> bool;

    /// The files of this library in the usual places below `root`: they can be probed before any
    /// process maps them.
    fn usual_files(&self, root: &Path) -> Vec<PathBuf>;

    /// The places to probe in a file.
    ///
    /// # Errors
    ///
    /// What is missing, as a sentence for the user.
    fn probes(&self, elf: &Elf) -> Result<Vec<Probe>, String>;
}

/// A place to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The BPF program, by its name in the object.
    pub program: Program,
    /// The function, for messages.
    pub function: &'static str,
    /// Offset of the function's first instruction in the file.
    pub offset: u64,
    /// What the program gets to know which function it is; 0 if it needs nothing.
    pub cookie: u64,
}

/// The BPF programs for TLS libraries (observer-ebpf/src/tls.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// Notes a call at its entry.
    Enter,
    /// The connection is freed.
    Free,
    /// Sends what a call brought at its return.
    Return,
    /// A close_notify is sent.
    Shutdown,
}

impl Program {
    /// All programs. `Return` comes before `Enter`, so that no entry is noted whose return would be
    /// missed.
    pub const ALL: [Self; 4] = [Self::Return, Self::Enter, Self::Free, Self::Shutdown];

    /// Its name in the BPF object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enter => "ssl_enter",
            Self::Free => "ssl_free",
            Self::Return => "ssl_return",
            Self::Shutdown => "ssl_shutdown",
        }
    }
}
