//! OpenSSL 1.1 and 3.x linked into an executable and stripped.
//!
//! Its functions say who they are when they raise an error: `ERR_set_debug(file, line, func)` with the name
//! of the function since 3.0 (openssl/err.h), `ERR_put_error(ERR_LIB_SSL, func, reason, file, line)` with its
//! number before (openssl/sslerr.h).

use std::collections::{BTreeMap, BTreeSet};

use observer_common::function;

use super::{
    Finding, Found, Library,
    openssl::{self, Function},
};
use crate::attach::{elf::Elf, flow::CallSite, functions, scan::Clues, site::Needs};

/// `ERR_LIB_SSL` (openssl/err.h).
const SSL: u64 = 20;

/// A function that raises errors: its name, and the number that it has in OpenSSL 1.1.
type Raiser = (&'static [u8], u64);

const WRITE: Raiser = (b"SSL_write", 208);
const READ: Raiser = (b"SSL_read", 223);
const SHUTDOWN: Raiser = (b"SSL_shutdown", 224);
const NEW: Raiser = (b"SSL_new", 186);
const WRITE_INTERNAL: Raiser = (b"ssl_write_internal", 524);
const READ_INTERNAL: Raiser = (b"ssl_read_internal", 523);

/// How the bytes of one direction pass.
struct Direction {
    /// The function of the library that all others call.
    inner: Raiser,
    /// What that is.
    function: u8,
    /// `SSL_read` or `SSL_write`.
    outer: Raiser,
    /// `SSL_read_ex` or `SSL_write_ex`.
    ex: &'static str,
    /// What that is.
    function_ex: u8,
    /// What the probes of the inner one and of that one need.
    needs: Needs,
}

/// Since OpenSSL 3.3 `ssl_write_internal` takes flags, as `SSL_write_ex2` does.
const SENT: Direction = Direction {
    inner: WRITE_INTERNAL,
    function: function::WRITE,
    outer: WRITE,
    ex: "SSL_write_ex",
    function_ex: function::WRITE,
    needs: Needs::TransferFlags,
};

/// The result 0 tells the end of the connection, but in `SSL_read_ex`, where it also tells that there is
/// nothing to read yet.
const RECEIVED: Direction = Direction {
    inner: READ_INTERNAL,
    function: function::READ_TO_END,
    outer: READ,
    ex: "SSL_read_ex",
    function_ex: function::READ,
    needs: Needs::TransferEx,
};

/// The functions, in the order of the needles.
const RAISERS: [Raiser; 6] = [WRITE, READ, SHUTDOWN, NEW, WRITE_INTERNAL, READ_INTERNAL];

/// The file that they are in: the needle behind those.
const FILE: usize = RAISERS.len();

const NEEDLES: &[&[u8]] = &[
    WRITE.0,
    READ.0,
    SHUTDOWN.0,
    NEW.0,
    WRITE_INTERNAL.0,
    READ_INTERNAL.0,
    b"ssl/ssl_lib.c",
];

/// Functions that a compiler may put another one into.
const COPIES: usize = 4;

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
        if openssl::has_symbols(elf) {
            return Finding::Absent;
        }
        let raisers = match Raisers::find(elf, clues) {
            Ok(raisers) => raisers,
            Err(error) => return Finding::Refused(error.to_string()),
        };
        if raisers.entries.is_empty() {
            return Finding::Absent;
        }
        let (Some(write), Some(read)) = (raisers.transfers(&SENT), raisers.transfers(&RECEIVED))
        else {
            let reason = "its functions to write and to read cannot be told from others";
            return Finding::Refused(reason.to_owned());
        };
        let mut functions: Vec<(Function, u64)> = Vec::new();
        functions.extend(write.into_iter().chain(read));
        // SSL_free and SSL_get_error raise nothing. That a connection is over is seen when its address is
        // given to another one.
        for (raiser, name, function, needs) in [
            (SHUTDOWN, "SSL_shutdown", function::SHUTDOWN, Needs::First),
            (NEW, "SSL_new", function::NEW, Needs::FirstAndResult),
        ] {
            // The compiler may have put it into a few others, such as SSL_dup, which do the same.
            let entries = raisers.of(raiser);
            if entries.len() <= COPIES {
                functions.extend(
                    entries
                        .iter()
                        .map(|address| ((name, function, needs), *address)),
                );
            }
        }
        let functions: Vec<(&Function, u64)> = functions
            .iter()
            .map(|(function, address)| (function, *address))
            .collect();
        openssl::probes(elf, &functions).map_or_else(Finding::Refused, |probes| {
            Finding::Found(Found {
                how: "the errors that its functions raise; there are no symbols".to_owned(),
                probes,
            })
        })
    }
}

/// The functions that raise errors as one of [`RAISERS`].
struct Raisers {
    entries: BTreeMap<Raiser, BTreeSet<u64>>,
}

impl Raisers {
    fn find(elf: &Elf, clues: &Clues) -> std::io::Result<Self> {
        let mut names: BTreeMap<u64, Raiser> = BTreeMap::new();
        for (number, raiser) in RAISERS.into_iter().enumerate() {
            names.extend(clues.texts(number).map(|text| (text.address, raiser)));
        }
        let files: BTreeSet<u64> = clues.references(FILE).map(|one| one.target).collect();
        let references: Vec<u64> = clues.references(FILE).map(|one| one.at).collect();
        let mut entries: BTreeMap<Raiser, BTreeSet<u64>> = BTreeMap::new();
        if references.is_empty() {
            return Ok(Self { entries });
        }
        for (entry, function) in functions::referring(elf, &references)? {
            for call in &function.flow.calls {
                let raiser = by_name(call, &files, &names).or_else(|| by_number(call, &files));
                if let Some(raiser) = raiser {
                    entries.entry(raiser).or_default().insert(entry);
                }
            }
        }
        Ok(Self { entries })
    }

    /// The one function that raises errors by this name.
    fn only(&self, raiser: Raiser) -> Option<u64> {
        match self.of(raiser).as_slice() {
            [address] => Some(*address),
            _ => None,
        }
    }

    fn of(&self, raiser: Raiser) -> Vec<u64> {
        self.entries
            .get(&raiser)
            .map_or_else(Vec::new, |entries| entries.iter().copied().collect())
    }

    /// The functions through which all bytes of one direction pass.
    fn transfers(&self, direction: &Direction) -> Option<Vec<(Function, u64)>> {
        let inner = self.of(direction.inner);
        let outer = self.only(direction.outer);
        let name = |raiser: Raiser| std::str::from_utf8(raiser.0).unwrap_or_default();
        let plain = (name(direction.outer), direction.function, Needs::Transfer);
        match (inner.as_slice(), outer) {
            // Before OpenSSL 1.1.1 there is no other.
            (&[], Some(outer)) => Some(vec![(plain, outer)]),
            (&[inner], outer) if outer != Some(inner) => {
                let function = (name(direction.inner), direction.function, direction.needs);
                Some(vec![(function, inner)])
            }
            // The compiler has put it into its callers: SSL_read, and those with the arguments of
            // SSL_read_ex.
            (callers, Some(outer)) if callers.contains(&outer) && callers.len() <= COPIES => {
                let others = callers.iter().filter(|caller| **caller != outer);
                let ex = (direction.ex, direction.function_ex, direction.needs);
                Some(
                    [(plain, outer)]
                        .into_iter()
                        .chain(others.map(|caller| (ex, *caller)))
                        .collect(),
                )
            }
            _ => None,
        }
    }
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
