//! The TLS libraries that can be watched: one file each, and one line in [`LIBRARIES`].

mod aws_lc;
mod boringssl;
mod gnutls;
mod go;
mod openssl;
mod openssl_static;
mod rustls;
mod unwatched;

use std::path::{Path, PathBuf};

use observer_common::Cookie;
use serde::{Deserialize, Serialize};

use crate::attach::{elf::Elf, scan::Clues, site::Site};

/// Every library that observer knows.
pub const LIBRARIES: &[&dyn Library] = &[
    &openssl::OpenSsl,
    &openssl_static::OpenSslStatic,
    &boringssl::BoringSsl,
    &go::Go,
    &gnutls::GnuTls,
    &aws_lc::AwsLc,
    &rustls::Rustls,
    &unwatched::NSS,
    &unwatched::MBED_TLS,
    &unwatched::WOLFSSL,
    &unwatched::S2N,
];

/// How to find the functions through which a TLS library's plaintext passes.
pub trait Library: Sync {
    /// The library's name, for messages.
    fn name(&self) -> &'static str;

    /// The files of this library in the usual places below `root`: they can be probed before any
    /// process maps them.
    fn usual_files(&self, _root: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Strings, or ends of strings, by which the library is known where there are no symbols.
    fn needles(&self) -> &'static [&'static [u8]] {
        &[]
    }

    /// Looks for the library in a file. `clues` knows the needles by the order of [`Self::needles`].
    fn find(&self, elf: &Elf, clues: &Clues) -> Finding;
}

/// Whether a function of this name may be one that a library looks for.
pub fn is_wanted(name: &str) -> bool {
    name.starts_with("SSL_")
        || name.starts_with("gnutls_")
        || name.starts_with("aws_lc_") && name.contains("_EVP_AEAD_CTX_")
        || name.contains("MessageEncrypter")
        || name.contains("MessageDecrypter")
        || unwatched::Unwatched::is_wanted(name)
}

/// What a file holds of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing.
    Absent,
    /// It is there, and can be probed.
    Found(Found),
    /// It is there, but where to probe it cannot be proved: why, as a sentence for the user.
    Refused(String),
}

/// A library that can be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// By what the functions were found, for messages.
    pub how: String,
    /// The places to probe.
    pub probes: Vec<Probe>,
}

/// A place to probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The functions whose calls pass there, for messages.
    pub functions: Vec<String>,
    /// The instruction.
    pub site: Site,
    /// Offset of the instruction in the file.
    pub offset: u64,
    /// What the program gets to know which function it is.
    #[serde(with = "cookie")]
    pub cookie: Cookie,
    /// Whether the return is probed too.
    pub returns: bool,
    /// The programs that are put there.
    pub family: Family,
}

/// Programs that go together: they know a calling convention and what the functions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// Functions as in OpenSSL: `observer_common::function`.
    C,
    /// Functions of Go: `observer_common::go`.
    Go,
    /// aws-lc's functions for records: `observer_common::aead`.
    Aead,
    /// rustls' methods for records: `observer_common::rustls`.
    Rustls,
    /// Functions of the Java agent's native library: `observer_common::java`.
    Java,
    /// `PyContext_CopyCurrent` of CPython, which no TLS passes through.
    Python,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::C,
        Self::Go,
        Self::Aead,
        Self::Rustls,
        Self::Java,
        Self::Python,
    ];

    /// Whether what stands for a connection is a key of one direction.
    pub fn has_keys(self) -> bool {
        matches!(self, Self::Aead | Self::Rustls)
    }
}

/// A cookie as the number that the kernel keeps.
mod cookie {
    use observer_common::Cookie;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(cookie: &Cookie, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(cookie.to_u64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Cookie, D::Error> {
        u64::deserialize(from).map(Cookie::from_u64)
    }
}
