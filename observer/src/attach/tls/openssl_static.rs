//! OpenSSL 1.1 and 3.x linked into an executable and stripped.
//!
//! Its functions say who they are when they raise an error: `ERR_set_debug(file, line, func)` with the name
//! of the function since 3.0 (openssl/err.h), `ERR_put_error(ERR_LIB_SSL, func, reason, file, line)` with its
//! number before (openssl/sslerr.h).

use std::collections::{BTreeMap, BTreeSet};

use observer_common::{Cookie, count, function};

use super::{Finding, Found, Library, Probe, openssl};
use crate::attach::{elf::Elf, flow::CallSite, functions, scan::Clues, site::Needs};

/// `ERR_LIB_SSL` (openssl/err.h).
const SSL: u64 = 20;

/// A function that raises errors: its name, and the number that it has in OpenSSL 1.1.
type Raiser = (&'static [u8], u64);

const WRITE: Raiser = (b"SSL_write", 208);
const READ: Raiser = (b"SSL_read", 223);
const SHUTDOWN: Raiser = (b"SSL_shutdown", 224);
const WRITE_INTERNAL: Raiser = (b"ssl_write_internal", 524);
const READ_INTERNAL: Raiser = (b"ssl_read_internal", 523);

/// The functions, in the order of the needles.
const RAISERS: [Raiser; 5] = [WRITE, READ, SHUTDOWN, WRITE_INTERNAL, READ_INTERNAL];

/// The file that they are in: the needle behind those.
const FILE: usize = RAISERS.len();

const NEEDLES: &[&[u8]] = &[
    WRITE.0,
    READ.0,
    SHUTDOWN.0,
    WRITE_INTERNAL.0,
    READ_INTERNAL.0,
    b"ssl/ssl_lib.c",
];

/// See the module.
pub(super) struct OpenSslStatic;

impl Library for OpenSslStatic {
    fn name(&self) -> &'static str {
        "OpenSSL"
    }

    fn needles(&self) -> &'static [&'static [u8]] {
        NEEDLES
    }

    fn find(&self, elf: &Elf, clues: &Clues) -> Finding {
        if elf.function("SSL_write").is_some() && elf.function("SSL_read").is_some() {
            return Finding::Absent;
        }
        let entries = match entries(elf, clues) {
            Ok(entries) => entries,
            Err(error) => return Finding::Refused(error.to_string()),
        };
        let one = |wanted: Raiser| match entries.get(&wanted) {
            Some(entries) if entries.len() == 1 => entries.first().copied(),
            _ => None,
        };
        if entries.is_empty() {
            return Finding::Absent;
        }
        // Functions within the library carry the calls of SSL_write and of SSL_write_ex, and of programs
        // for which the linker has left one of those out.
        let choose = |within: Raiser, outside: Raiser, names: [&'static str; 2], function| {
            let inner = one(within).map(|at| (at, (names[0], function, Needs::TransferEx)));
            let outer = || one(outside).map(|at| (at, (names[1], function, Needs::Transfer)));
            inner.or_else(outer)
        };
        let write = ["ssl_write_internal", "SSL_write"];
        let read = ["ssl_read_internal", "SSL_read"];
        let (Some(write), Some(read)) = (
            choose(WRITE_INTERNAL, WRITE, write, function::WRITE),
            choose(READ_INTERNAL, READ, read, function::READ),
        ) else {
            let reason = "its functions to write and to read cannot be told from others";
            return Finding::Refused(reason.to_owned());
        };
        let probes =
            openssl::probes(elf, &[(&write.1, write.0), (&read.1, read.0)]).map(|probes| {
                let either = |mut probe: Probe| {
                    if probe.cookie == Cookie::new(function::WRITE, count::ARGUMENT_3) {
                        probe.cookie.count = count::ARGUMENT_3_OR_4;
                    }
                    probe
                };
                probes.into_iter().map(either).collect::<Vec<Probe>>()
            });
        // Where SSL_free is, is not known: what was shut down is taken for freed.
        let shutdown = ("SSL_shutdown", function::FREE, Needs::First);
        let probes = probes.and_then(|mut probes| {
            if let Some(address) = one(SHUTDOWN) {
                probes.extend(openssl::probes(elf, &[(&shutdown, address)])?);
            }
            Ok(probes)
        });
        probes.map_or_else(Finding::Refused, |probes| {
            Finding::Found(Found {
                how: "the errors that its functions raise; there are no symbols".to_owned(),
                probes,
            })
        })
    }
}

/// The functions that raise errors as one of [`RAISERS`].
fn entries(elf: &Elf, clues: &Clues) -> std::io::Result<BTreeMap<Raiser, BTreeSet<u64>>> {
    let mut names: BTreeMap<u64, Raiser> = BTreeMap::new();
    for (number, raiser) in RAISERS.into_iter().enumerate() {
        names.extend(clues.texts(number).map(|text| (text.address, raiser)));
    }
    let files: BTreeSet<u64> = clues.references(FILE).map(|one| one.target).collect();
    let references: Vec<u64> = clues.references(FILE).map(|one| one.at).collect();
    let mut entries: BTreeMap<Raiser, BTreeSet<u64>> = BTreeMap::new();
    if references.is_empty() {
        return Ok(entries);
    }
    for (entry, function) in functions::referring(elf, &references)? {
        for call in &function.flow.calls {
            let raiser = by_name(call, &files, &names).or_else(|| by_number(call, &files));
            if let Some(raiser) = raiser {
                entries.entry(raiser).or_default().insert(entry);
            }
        }
    }
    Ok(entries)
}

/// `ERR_set_debug(file, line, func)`
fn by_name(
    call: &CallSite,
    files: &BTreeSet<u64>,
    names: &BTreeMap<u64, Raiser>,
) -> Option<Raiser> {
    let [file, _, name, ..] = call.arguments;
    if !files.contains(&file?) {
        return None;
    }
    names.get(&name?).copied()
}

/// `ERR_put_error(lib, func, reason, file, line)`
fn by_number(call: &CallSite, files: &BTreeSet<u64>) -> Option<Raiser> {
    let [library, function, _, file, ..] = call.arguments;
    if library? != SSL || !files.contains(&file?) {
        return None;
    }
    RAISERS
        .into_iter()
        .find(|(_, number)| Some(*number) == function)
}
