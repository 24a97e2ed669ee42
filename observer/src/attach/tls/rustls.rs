//! rustls with ring, or with whatever else does its cryptography: every record passes through the methods of
//! `MessageEncrypter` and `MessageDecrypter` (rustls::crypto::cipher; rustls::cipher until 0.21), in the clear
//! before `encrypt` and after `decrypt`. They are called through tables of methods, so they are there.
//!
//! With aws-lc-rs the records are taken there: see `aws_lc`.

use std::collections::BTreeMap;

use observer_common::{Cookie, rustls};
use rustc_demangle::demangle;

use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    scan::Clues,
    site::{self, Needs},
};

/// Where the traits are: since rustls 0.22, and before.
const TRAITS: [&str; 2] = ["rustls::crypto::cipher::", "rustls::cipher::"];

/// The methods: of which trait, their name, and what they do.
const METHODS: [(&str, &str, u8); 2] = [
    ("MessageEncrypter", "encrypt", rustls::ENCRYPT),
    ("MessageDecrypter", "decrypt", rustls::DECRYPT),
];

/// Where rustls' methods on aws-lc-rs are.
const AWS_LC: &str = "rustls::crypto::aws_lc_rs::";

/// A method that is to be probed: its name, and what it does.
type Method = (String, u8);

/// See the module.
pub(super) struct Rustls;

impl Library for Rustls {
    fn name(&self) -> &'static str {
        "rustls"
    }

    fn find(&self, elf: &Elf, _clues: &Clues) -> Finding {
        let methods = by_symbols(elf);
        if methods.is_empty() {
            return Finding::Absent;
        }
        let has = |kind: u8| methods.values().any(|(_, one)| *one == kind);
        if !has(rustls::ENCRYPT) || !has(rustls::DECRYPT) {
            let reason = "only one direction of its methods for records is there";
            return Finding::Refused(reason.to_owned());
        }
        let mut probes = Vec::new();
        for (address, (name, function)) in methods {
            let Some(offset) = elf.file_offset(address) else {
                return Finding::Refused(format!("{name} is not in the file"));
            };
            probes.push(Probe {
                functions: vec![name],
                site: site::entry(elf, address, Needs::First),
                offset,
                cookie: Cookie::new(function, 0),
                returns: function == rustls::DECRYPT,
                family: Family::Rustls,
            });
        }
        Finding::Found(Found {
            how: "symbols".to_owned(),
            probes,
        })
    }
}

/// The methods by their address.
fn by_symbols(elf: &Elf) -> BTreeMap<u64, Method> {
    elf.functions()
        .filter_map(|(name, address)| Some((address, method(name)?)))
        .collect()
}

/// Which method a symbol names, such as `<rustls::crypto::ring::tls13::Tls13MessageEncrypter as
/// rustls::crypto::cipher::MessageEncrypter>::encrypt`.
fn method(symbol: &str) -> Option<Method> {
    let name = format!("{:#}", demangle(symbol));
    let (implementor, rest) = name.strip_prefix('<')?.rsplit_once(" as ")?;
    let (path, name) = rest.split_once(">::")?;
    let of_trait = TRAITS.iter().find_map(|place| path.strip_prefix(place))?;
    let (.., function) = METHODS
        .into_iter()
        .find(|(known, method, _)| of_trait == *known && name == *method)?;
    let short = implementor.rsplit("::").next()?;
    // What stands in for a key that is not there yet.
    let is_real = !short.starts_with("Invalid") && !implementor.starts_with(AWS_LC);
    is_real.then(|| (format!("{short}::{name}"), function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_name_methods() {
        let ring = "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$7encrypt17h1baf881342865a84E";
        let old = "_ZN92_$LT$rustls..tls13..Tls13MessageDecrypter$u20$as$u20$rustls..cipher..MessageDecrypter$GT$7decrypt17h1baf881342865a84E";
        let length = "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$21encrypted_payload_len17hd676c262afcc9b53E";
        let aws = "_ZN116_$LT$rustls..crypto..aws_lc_rs..tls13..AeadMessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$7encrypt17h1baf881342865a84E";
        let none = "_ZN108_$LT$rustls..crypto..cipher..InvalidMessageDecrypter$u20$as$u20$rustls..crypto..cipher..MessageDecrypter$GT$7decrypt17ha22312a4ba46b3b2E";
        assert_eq!(
            method(ring),
            Some(("Tls13MessageEncrypter::encrypt".to_owned(), rustls::ENCRYPT))
        );
        assert_eq!(
            method(old),
            Some(("Tls13MessageDecrypter::decrypt".to_owned(), rustls::DECRYPT))
        );
        for other in [length, aws, none, "SSL_write"] {
            assert_eq!(method(other), None);
        }
    }
}
