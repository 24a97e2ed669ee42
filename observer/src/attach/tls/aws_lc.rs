//! rustls with aws-lc-rs, without symbols or with: records pass through aws-lc's functions for authenticated
//! encryption, in the clear before `seal` and after `open`.
//!
//! The functions are found by the errors that they raise (crypto/fipsmodule/cipher/aead.c,
//! openssl/cipher.h): `ERR_put_error(ERR_LIB_CIPHER, 0, reason, file, line)`.

use std::collections::BTreeSet;

use observer_common::{Cookie, aead};

use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    functions,
    scan::Clues,
    site::{self, Needs},
};

/// `ERR_LIB_CIPHER` (openssl/err.h).
const CIPHER: u64 = 30;

/// `CIPHER_R_BAD_DECRYPT` (openssl/cipher.h).
const BAD_DECRYPT: u64 = 101;
/// `CIPHER_R_BUFFER_TOO_SMALL`
const BUFFER_TOO_SMALL: u64 = 103;
/// `CIPHER_R_CTRL_NOT_IMPLEMENTED`
const CTRL_NOT_IMPLEMENTED: u64 = 104;
/// `CIPHER_R_INVALID_OPERATION`
const INVALID_OPERATION: u64 = 112;
/// `CIPHER_R_OUTPUT_ALIASES_INPUT`
const OUTPUT_ALIASES_INPUT: u64 = 115;
/// `CIPHER_R_TOO_LARGE`
const TOO_LARGE: u64 = 117;

/// A function: its name, what it does, the errors that it must raise, and those that it may raise because
/// another was inlined or follows.
type Function = (&'static str, u8, &'static [u64], &'static [u64]);

const FUNCTIONS: [Function; 4] = [
    (
        "EVP_AEAD_CTX_seal",
        aead::SEAL,
        &[TOO_LARGE, BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT],
        &[],
    ),
    (
        "EVP_AEAD_CTX_seal_scatter",
        aead::SEAL_SCATTER,
        &[INVALID_OPERATION, OUTPUT_ALIASES_INPUT],
        &[],
    ),
    (
        "EVP_AEAD_CTX_open",
        aead::OPEN,
        &[BAD_DECRYPT, BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT],
        &[CTRL_NOT_IMPLEMENTED],
    ),
    (
        "EVP_AEAD_CTX_open_gather",
        aead::OPEN_GATHER,
        &[CTRL_NOT_IMPLEMENTED, OUTPUT_ALIASES_INPUT],
        &[],
    ),
];

/// See the module.
pub(super) struct AwsLc;

impl Library for AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc (rustls)"
    }

    fn needles(&self) -> &'static [&'static [u8]] {
        &[b"/aws-lc/crypto/fipsmodule/cipher/aead.c"]
    }

    fn find(&self, elf: &Elf, clues: &Clues) -> Finding {
        let (how, functions) = match by_symbols(elf) {
            Some(functions) => ("symbols", functions),
            None => match by_errors(elf, clues) {
                Ok(functions) => (
                    "the errors that its functions raise; there are no symbols",
                    functions,
                ),
                Err(error) => return Finding::Refused(error.to_string()),
            },
        };
        let has = |kinds: [u8; 2]| functions.iter().any(|(one, _)| kinds.contains(&one.1));
        if functions.is_empty() {
            return Finding::Absent;
        }
        // BoringSSL has the same functions, and its records pass through them beneath SSL_write.
        if elf.function("SSL_write").is_some() {
            return Finding::Absent;
        }
        if !has([aead::SEAL, aead::SEAL_SCATTER]) || !has([aead::OPEN, aead::OPEN_GATHER]) {
            let reason = "its functions to seal and to open records cannot be told from others";
            return Finding::Refused(reason.to_owned());
        }
        let mut probes = Vec::new();
        for ((name, function, ..), address) in functions {
            let site = site::entry(elf, address, Needs::First);
            let Some(offset) = elf.file_offset(address) else {
                return Finding::Refused(format!("{name} is not in the file"));
            };
            probes.push(Probe {
                functions: vec![name.to_owned()],
                site,
                offset,
                cookie: Cookie::new(function, 0),
                returns: matches!(function, aead::OPEN | aead::OPEN_GATHER),
                family: Family::Aead,
            });
        }
        Finding::Found(Found {
            how: how.to_owned(),
            probes,
        })
    }
}

/// By names such as `aws_lc_0_35_0_EVP_AEAD_CTX_seal`.
fn by_symbols(elf: &Elf) -> Option<Vec<(Function, u64)>> {
    let mut found = Vec::new();
    for function in FUNCTIONS {
        let of_name = elf.functions().filter(|(name, _)| {
            name.strip_suffix(function.0)
                .is_some_and(|before| before.starts_with("aws_lc_"))
        });
        let addresses: BTreeSet<u64> = of_name.map(|(_, address)| address).collect();
        // Two versions may be linked.
        found.extend(addresses.into_iter().map(|address| (function, address)));
    }
    (!found.is_empty()).then_some(found)
}

fn by_errors(elf: &Elf, clues: &Clues) -> std::io::Result<Vec<(Function, u64)>> {
    let names: BTreeSet<u64> = clues.references(0).map(|one| one.target).collect();
    let references: Vec<u64> = clues.references(0).map(|one| one.at).collect();
    let mut found = Vec::new();
    if references.is_empty() {
        return Ok(found);
    }
    for (entry, function) in functions::referring(elf, &references)? {
        let reasons: BTreeSet<u64> = function
            .flow
            .calls
            .iter()
            .filter(|call| {
                call.arguments[0] == Some(CIPHER)
                    && call.arguments[3].is_some_and(|name| names.contains(&name))
            })
            .filter_map(|call| call.arguments[2])
            .collect();
        let fits = |(_, _, must, may): &Function| {
            must.iter().all(|reason| reasons.contains(reason))
                && reasons
                    .iter()
                    .all(|reason| must.contains(reason) || may.contains(reason))
        };
        found.extend(
            FUNCTIONS
                .into_iter()
                .filter(fits)
                .map(|function| (function, entry)),
        );
    }
    Ok(found)
}
