//! BoringSSL within an executable or another library, without symbols: Bun, Claude Code, gRPC.
//!
//! Each `OPENSSL_PUT_ERROR(SSL, reason)` becomes a call of `ERR_put_error(ERR_LIB_SSL, 0, reason, file,
//! line)` (openssl/err.h), whose constants survive every compiler. `SSL_write` and `SSL_read` are told by
//! their reasons (ssl/ssl_lib.cc), in the order of their lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use observer_common::{Cookie, count, function};

use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    flow::CallSite,
    functions::{self, Function},
    scan::Clues,
    site::{self, Needs},
};

/// `ERR_LIB_SSL` (openssl/err.h).
const SSL: u64 = 16;

/// `SSL_R_UNINITIALIZED` (openssl/ssl.h).
const UNINITIALIZED: u64 = 226;
/// `SSL_R_SSL_HANDSHAKE_FAILURE`
const HANDSHAKE_FAILURE: u64 = 215;
/// `SSL_R_PROTOCOL_IS_SHUTDOWN`
const PROTOCOL_IS_SHUTDOWN: u64 = 194;
/// `SSL_R_BAD_LENGTH`
const BAD_LENGTH: u64 = 111;
/// `ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED` (openssl/err.h)
const SHOULD_NOT_HAVE_BEEN_CALLED: u64 = 66;

/// Lines between the first and the last error of `SSL_write`.
const WRITE_LINES: u64 = 60;

/// Lines from the error of `SSL_read`, or of the helper within it, to the first of `SSL_write`.
const READ_LINES: RangeInclusive<u64> = 10..=60;

/// See the module.
pub(super) struct BoringSsl;

impl Library for BoringSsl {
    fn name(&self) -> &'static str {
        "BoringSSL"
    }

    fn needles(&self) -> &'static [&'static [u8]] {
        &[b"ssl/ssl_lib.c", b"ssl/ssl_lib.cc"]
    }

    fn find(&self, elf: &Elf, clues: &Clues) -> Finding {
        // With symbols it is found as OpenSSL is.
        if elf.function("SSL_write").is_some() && elf.function("SSL_read").is_some() {
            return Finding::Absent;
        }
        match Search::new(elf, clues) {
            Ok(Some(search)) => match search.functions() {
                Ok((read, write)) => found(elf, read, write),
                Err(reason) => Finding::Refused(reason),
            },
            Ok(None) => Finding::Absent,
            Err(error) => Finding::Refused(error.to_string()),
        }
    }
}

fn found(elf: &Elf, read: u64, write: u64) -> Finding {
    let mut probes = Vec::new();
    for (name, function, address) in [
        ("SSL_write", function::WRITE, write),
        ("SSL_read", function::READ_TO_END, read),
    ] {
        let site = site::direct(elf, address, Needs::Transfer)
            .unwrap_or_else(|| site::entry(elf, address, Needs::Transfer));
        let Some(offset) = elf.file_offset(site.address) else {
            return Finding::Refused(format!("{name} is not in the file"));
        };
        probes.push(Probe {
            functions: vec![name.to_owned()],
            site,
            offset,
            cookie: Cookie::new(function, count::RESULT),
            returns: true,
            family: Family::C,
        });
    }
    Finding::Found(Found {
        how: "the errors that its functions raise; there are no symbols".to_owned(),
        probes,
    })
}

/// The functions that raise errors in `ssl_lib.cc`.
struct Search {
    functions: BTreeMap<u64, Raises>,
}

/// What a function raises.
struct Raises {
    /// Line and reason.
    errors: BTreeSet<(u64, u64)>,
    /// It is called from somewhere, directly.
    called: bool,
    instructions: usize,
}

impl Search {
    /// `None` if the file does not hold the library.
    fn new(elf: &Elf, clues: &Clues) -> std::io::Result<Option<Self>> {
        let mut references: Vec<u64> = Vec::new();
        let mut names: BTreeSet<u64> = BTreeSet::new();
        for reference in [0, 1]
            .into_iter()
            .flat_map(|needle| clues.references(needle))
        {
            references.push(reference.at);
            names.insert(reference.target);
        }
        if references.is_empty() {
            return Ok(None);
        }
        references.sort_unstable();
        let flows = functions::referring(elf, &references)?;
        let raises = raiser(&flows, &names);
        let mut functions = BTreeMap::new();
        for (entry, Function { flow, called }) in flows {
            let errors: BTreeSet<(u64, u64)> = flow
                .calls
                .iter()
                .filter(|call| Some(call.target) == raises)
                .filter_map(|call| error(call, &names))
                .collect();
            if !errors.is_empty() {
                let instructions = flow.instructions.len();
                functions.insert(
                    entry,
                    Raises {
                        errors,
                        called,
                        instructions,
                    },
                );
            }
        }
        // OpenSSL has a file of this name too.
        Ok((!functions.is_empty()).then_some(Self { functions }))
    }

    /// `SSL_read` and `SSL_write`.
    fn functions(&self) -> Result<(u64, u64), String> {
        let writes: Vec<(u64, u64)> = self
            .functions
            .iter()
            .filter_map(|(entry, raises)| Some((*entry, first_line_of_write(&raises.errors)?)))
            .collect();
        let &[(write, line)] = writes.as_slice() else {
            return Err(format!(
                "it holds BoringSSL, but {} functions could be SSL_write",
                writes.len()
            ));
        };
        let mut reads: Vec<(u64, &Raises)> = self
            .functions
            .iter()
            .filter(|(_, raises)| is_read(&raises.errors, line))
            .map(|(entry, raises)| (*entry, raises))
            .collect();
        // SSL_peek is within SSL_read, which then takes away what was read: it is the larger one. Where
        // only the smaller one is called, it is not so.
        reads.sort_by_key(|(_, raises)| std::cmp::Reverse(raises.instructions));
        if let [(_, first), (_, second), ..] = reads.as_slice()
            && first.instructions > second.instructions
            && (first.called || reads.iter().all(|(_, raises)| !raises.called))
        {
            reads.truncate(1);
        }
        match reads.as_slice() {
            [(read, _)] => Ok((*read, write)),
            _ => Err(format!(
                "it holds BoringSSL, but {} functions could be SSL_read",
                reads.len()
            )),
        }
    }
}

/// Line and reason of an error, if the call raises one: `(library, 0, reason, file, line)`, or, where the
/// compiler has dropped the unused argument, `(library, reason, file, line)`.
fn error(call: &CallSite, names: &BTreeSet<u64>) -> Option<(u64, u64)> {
    let is_name = |value: Option<u64>| value.is_some_and(|value| names.contains(&value));
    let [library, second, third, fourth, fifth, _] = call.arguments;
    if library? != SSL {
        return None;
    }
    if is_name(fourth) && second? == 0 {
        Some((fifth?, third?))
    } else if is_name(third) {
        Some((fourth?, second?))
    } else {
        None
    }
}

/// `ERR_put_error`: what most calls with an error lead to.
fn raiser(flows: &BTreeMap<u64, Function>, names: &BTreeSet<u64>) -> Option<u64> {
    let mut targets: BTreeMap<u64, usize> = BTreeMap::new();
    for function in flows.values() {
        for call in &function.flow.calls {
            if error(call, names).is_some() {
                *targets.entry(call.target).or_default() += 1;
            }
        }
    }
    targets
        .into_iter()
        .max_by_key(|(_, calls)| *calls)
        .map(|(target, _)| target)
}

/// The line of the first error, if these are the errors of `SSL_write`.
fn first_line_of_write(errors: &BTreeSet<(u64, u64)>) -> Option<u64> {
    let (first, _) = errors.first()?;
    let (last, _) = errors.last()?;
    let reasons: Vec<u64> = errors
        .iter()
        .map(|(_, reason)| *reason)
        // Raised by versions of 2017 to 2021.
        .filter(|reason| *reason != PROTOCOL_IS_SHUTDOWN)
        .collect();
    let is_write = matches!(
        reasons.as_slice(),
        [
            SHOULD_NOT_HAVE_BEEN_CALLED,
            UNINITIALIZED,
            HANDSHAKE_FAILURE
        ] | [
            SHOULD_NOT_HAVE_BEEN_CALLED,
            UNINITIALIZED,
            HANDSHAKE_FAILURE,
            BAD_LENGTH
        ]
    );
    (is_write && last - first <= WRITE_LINES).then_some(*first)
}

/// Whether these are the errors of `SSL_read`, where those of `SSL_write` begin at a line.
fn is_read(errors: &BTreeSet<(u64, u64)>, write: u64) -> bool {
    let mut errors = errors.iter();
    let (Some(&(line, reason)), None) = (errors.next(), errors.next()) else {
        return false;
    };
    reason == SHOULD_NOT_HAVE_BEEN_CALLED
        && write
            .checked_sub(line)
            .is_some_and(|lines| READ_LINES.contains(&lines))
}
