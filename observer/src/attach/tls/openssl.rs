//! OpenSSL 1.1 and 3.x as a shared library (`libssl.so.1.1`, `libssl.so.3`, the renamed copies in
//! Python wheels), and what has the same interface: LibreSSL, BoringSSL and aws-lc with symbols.

use std::{
    fs,
    path::{Path, PathBuf},
};

use observer_common::function;

use super::{Library, Probe, Program};
use crate::attach::elf::Elf;

/// Folders of shared libraries on Debian, Ubuntu, Fedora, Alpine and Arch.
const FOLDERS: &[&str] = &[
    "lib",
    "lib64",
    "lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib",
    "usr/lib64",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/local/lib",
    "usr/local/lib64",
];

/// Functions with an entry and a return probe. One of each pair must be there.
const FOLLOWED: &[(&str, u64)] = &[
    ("SSL_write", function::SSL_WRITE),
    ("SSL_write_ex", function::SSL_WRITE_EX),
    ("SSL_read", function::SSL_READ),
    ("SSL_read_ex", function::SSL_READ_EX),
    ("SSL_get_error", function::SSL_GET_ERROR),
];

/// See the module.
pub(super) struct OpenSsl;

impl Library for OpenSsl {
    fn name(&self) -> &'static str {
        "OpenSSL"
    }

    fn may_be(&self, path: &Path) -> bool {
        path.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("libssl"))
            // `libssl-<hash>.so.3` in Python wheels. `libssl3.so` is NSS.
            .is_some_and(|rest| {
                rest.starts_with(".so") || (rest.starts_with('-') && rest.contains(".so"))
            })
    }

    fn usual_files(&self, root: &Path) -> Vec<PathBuf> {
        FOLDERS
            .iter()
            .filter_map(|folder| fs::read_dir(root.join(folder)).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| self.may_be(path))
            .collect()
    }

    fn probes(&self, elf: &Elf) -> Result<Vec<Probe>, String> {
        let mut probes = Vec::new();
        for &(function, cookie) in FOLLOWED {
            if let Some(offset) = elf.function(function) {
                for program in [Program::Return, Program::Enter] {
                    probes.push(Probe {
                        program,
                        function,
                        offset,
                        cookie,
                    });
                }
            }
        }
        for needed in ["SSL_write", "SSL_read"] {
            if !probes
                .iter()
                .any(|probe| probe.function.starts_with(needed))
            {
                return Err(format!("it has no symbol {needed}"));
            }
        }
        for (function, program) in [
            ("SSL_free", Program::Free),
            ("SSL_shutdown", Program::Shutdown),
        ] {
            if let Some(offset) = elf.function(function) {
                probes.push(Probe {
                    program,
                    function,
                    offset,
                    cookie: 0,
                });
            }
        }
        Ok(probes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_name() {
        for yes in [
            "usr/lib/libssl.so.3",
            "/x/libssl-81ffa89e.so.1.1",
            "/libssl.so.3 (deleted)",
        ] {
            assert!(OpenSsl.may_be(Path::new(yes)), "{yes}");
        }
        for no in [
            "usr/lib/libssl.a",
            "usr/lib/libcrypto.so.3",
            "usr/lib/libssl3.so",
            "/usr/bin/ssl",
        ] {
            assert!(!OpenSsl.may_be(Path::new(no)), "{no}");
        }
    }
}
