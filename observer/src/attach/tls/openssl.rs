//! OpenSSL 1.1 and 3.x as a shared library (`libssl.so.1.1`, `libssl.so.3`, the renamed copies in
//! Python wheels), and what has the same interface: LibreSSL, BoringSSL and aws-lc with symbols.

use std::{
    fs,
    path::{Path, PathBuf},
};

use observer_common::{Cookie, function};

use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    scan::Clues,
    site::{self, Needs, Site},
};

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

/// A function: its name, what it does and what its probe needs.
pub(super) type Function = (&'static str, u8, Needs);

/// The functions. One that reads and one that writes must be there.
const FUNCTIONS: &[Function] = &[
    ("SSL_write", function::WRITE, Needs::Transfer),
    ("SSL_write_ex", function::WRITE, Needs::TransferEx),
    ("SSL_read", function::READ, Needs::Transfer),
    ("SSL_read_ex", function::READ, Needs::TransferEx),
    ("SSL_get_error", function::GET_ERROR, Needs::FirstAndResult),
    ("SSL_free", function::FREE, Needs::First),
    ("SSL_shutdown", function::SHUTDOWN, Needs::First),
];

/// See the module.
pub(super) struct OpenSsl;

impl Library for OpenSsl {
    fn name(&self) -> &'static str {
        "OpenSSL"
    }

    fn usual_files(&self, root: &Path) -> Vec<PathBuf> {
        files(root, is_library)
    }

    fn find(&self, elf: &Elf, _: &Clues) -> Finding {
        // libgnutls-openssl has the names too, and hands everything on: it would be seen twice.
        if !has_symbols(elf) || elf.imports("gnutls_record_send") {
            return Finding::Absent;
        }
        let functions: Vec<(&Function, u64)> = FUNCTIONS
            .iter()
            .filter_map(|function| Some((function, elf.function(function.0)?)))
            .collect();
        probes(elf, &functions).map_or_else(Finding::Refused, |probes| {
            Finding::Found(Found {
                how: "symbols".to_owned(),
                probes,
            })
        })
    }
}

/// Whether the file names a function that writes and one that reads.
pub(super) fn has_symbols(elf: &Elf) -> bool {
    let has = |kind| {
        FUNCTIONS
            .iter()
            .any(|(name, function, _)| *function == kind && elf.function(name).is_some())
    };
    has(function::WRITE) && has(function::READ)
}

/// The places to probe for these functions.
pub(super) fn probes(elf: &Elf, functions: &[(&Function, u64)]) -> Result<Vec<Probe>, String> {
    let found: Vec<Place> = functions
        .iter()
        .map(|&(&(name, function, needs), address)| Place {
            name,
            function,
            needs,
            address,
            own: site::direct(elf, address, needs),
            inner: site::inner(elf, address, needs),
        })
        .collect();
    let mut probes: Vec<Probe> = Vec::new();
    for one in &found {
        let site = match (&one.inner, &one.own) {
            // Also where this one could do without: one probe instead of two, one in the other.
            (Some(inner), _) if is_confirmed(inner, &found) && is_needed(inner, &found) => {
                inner.clone()
            }
            (_, Some(own)) => own.clone(),
            (_, None) => site::entry(elf, one.address, one.needs),
        };
        let cookie = Cookie::new(one.function, site.count);
        if let Some(probe) = probes.iter_mut().find(|probe| probe.site == site) {
            probe.functions.push(one.name.to_owned());
            continue;
        }
        let offset = elf
            .file_offset(site.address)
            .ok_or_else(|| format!("{} is not in the file", one.name))?;
        probes.push(Probe {
            functions: vec![one.name.to_owned()],
            site,
            offset,
            cookie,
            returns: one.needs != Needs::First,
            family: Family::C,
        });
    }
    Ok(probes)
}

/// The files in the usual folders below `root` whose name is of interest.
pub(super) fn files(root: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    FOLDERS
        .iter()
        .filter_map(|folder| fs::read_dir(root.join(folder)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(&is_wanted)
        })
        .collect()
}

/// Whether a file is the library, by its name.
fn is_library(name: &str) -> bool {
    // `libssl-<hash>.so.3` in Python wheels. `libssl3.so` is NSS.
    name.strip_prefix("libssl").is_some_and(|rest| {
        rest.starts_with(".so") || (rest.starts_with('-') && rest.contains(".so"))
    })
}

/// A function with the places that it could be probed at, beside its entry.
struct Place {
    name: &'static str,
    function: u8,
    needs: Needs,
    address: u64,
    /// In the function itself.
    own: Option<Site>,
    /// In the one function that this one calls with the same arguments.
    inner: Option<Site>,
}

/// A function within the library counts only if both of its callers lead to it, `SSL_read` as well as
/// `SSL_read_ex`, and none that does something else: an error handler is called by all.
fn is_confirmed(inner: &Site, found: &[Place]) -> bool {
    let mut callers = found.iter().filter(|one| one.inner.as_ref() == Some(inner));
    let Some(first) = callers.next() else {
        return false;
    };
    let mut others = callers.peekable();
    others.peek().is_some() && others.all(|other| other.function == first.function)
}

/// Some function has no good place of its own but this.
fn is_needed(inner: &Site, found: &[Place]) -> bool {
    found
        .iter()
        .any(|one| one.own.is_none() && one.inner.as_ref() == Some(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_name() {
        for yes in ["libssl.so.3", "libssl-81ffa89e.so.1.1", "libssl.so.1.1.1k"] {
            assert!(is_library(yes), "{yes}");
        }
        for no in ["libssl.a", "libcrypto.so.3", "libssl3.so", "ssl"] {
            assert!(!is_library(no), "{no}");
        }
    }
}
