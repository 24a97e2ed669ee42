//! TLS libraries that observer knows and does not watch: so that `observer check` and a warning say so, and
//! nobody wonders why calls are missing.

use super::{Finding, Library};
use crate::attach::{elf::Elf, scan::Clues};

/// A library by its name and by two functions that only it defines.
pub(super) struct Unwatched {
    name: &'static str,
    functions: [&'static str; 2],
}

/// nss/ssl.h
pub(super) const NSS: Unwatched = Unwatched {
    name: "NSS",
    functions: ["SSL_ImportFD", "SSL_ResetHandshake"],
};

/// mbedtls/ssl.h
pub(super) const MBED_TLS: Unwatched = Unwatched {
    name: "Mbed TLS",
    functions: ["mbedtls_ssl_write", "mbedtls_ssl_read"],
};

/// wolfssl/ssl.h
pub(super) const WOLFSSL: Unwatched = Unwatched {
    name: "wolfSSL",
    functions: ["wolfSSL_write", "wolfSSL_read"],
};

/// s2n.h
pub(super) const S2N: Unwatched = Unwatched {
    name: "s2n-tls",
    functions: ["s2n_send", "s2n_recv"],
};

impl Unwatched {
    /// Whether a function of this name tells one of them.
    pub(super) fn is_wanted(name: &str) -> bool {
        [NSS, MBED_TLS, WOLFSSL, S2N]
            .iter()
            .any(|library| library.functions.contains(&name))
    }
}

impl Library for Unwatched {
    fn name(&self) -> &'static str {
        self.name
    }

    fn find(&self, elf: &Elf, _: &Clues) -> Finding {
        let defines = |name: &&str| elf.function(name).is_some();
        if self.functions.iter().all(defines) {
            Finding::Refused("observer does not watch this library yet".to_owned())
        } else {
            Finding::Absent
        }
    }
}
