//! The TLS libraries that can be watched: one file each, and one line in [`LIBRARIES`].

mod openssl;

use std::path::{Path, PathBuf};

use observer_common::Cookie;

use crate::attach::{elf::Elf, site::Site};

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
    /// The functions whose calls pass there, for messages.
    pub functions: Vec<&'static str>,
    /// The instruction.
    pub site: Site,
    /// Offset of the instruction in the file.
    pub offset: u64,
    /// What the program gets to know which function it is.
    pub cookie: Cookie,
    /// Whether the return is probed too.
    pub returns: bool,
    /// The programs that are put there.
    pub family: Family,
}

/// Programs that go together: they know a calling convention and what the functions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Functions as in OpenSSL: `observer_common::function`.
    C,
    /// Functions of Go: `observer_common::go`.
    Go,
    /// aws-lc's functions for records: `observer_common::aead`.
    Aead,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::C, Self::Go, Self::Aead];
}
