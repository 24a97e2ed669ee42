//! rustls with ring, or with whatever else does its cryptography: every record passes through the methods of
//! `MessageEncrypter` and `MessageDecrypter` (rustls::crypto::cipher; rustls::cipher until 0.21), in the clear
//! before `encrypt` and after `decrypt`. They are called through tables of methods, so they are there.
//!
//! With aws-lc-rs the records are taken there: see `aws_lc`.
//!
//! Without symbols the methods on ring are found by their tables. The functions that make the keys may panic,
//! and name the file that they come from then (`core::panic::Location`); they refer to the tables of what they
//! make. The table of an encrypter is known by its last method, which adds a constant to a length.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
};

use iced_x86::{Code, Decoder, DecoderOptions};
use object::Architecture;
use observer_common::{Cookie, rustls};
use rustc_demangle::demangle;

use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    scan::{self, Clues, Reference},
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

    fn needles(&self) -> &'static [&'static [u8]] {
        // Since rustls 0.22.
        &[b"/src/crypto/ring/tls13.rs", b"/src/crypto/ring/tls12.rs"]
    }

    fn find(&self, elf: &Elf, clues: &Clues) -> Finding {
        let (how, methods) = match by_symbols(elf) {
            methods if !methods.is_empty() => ("symbols", methods),
            _ => match by_tables(elf, clues) {
                Ok(methods) => (
                    "the tables of its methods on ring; there are no symbols",
                    methods,
                ),
                Err(error) => {
                    let reason = format!("with ring, without symbols: {error}");
                    return Finding::Refused(reason);
                }
            },
        };
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
            how: how.to_owned(),
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

/// The methods on ring by their address, where there are no symbols.
fn by_tables(elf: &Elf, clues: &Clues) -> io::Result<BTreeMap<u64, Method>> {
    let mut methods = BTreeMap::new();
    if (0..VERSIONS.len()).all(|needle| clues.texts(needle).next().is_none()) {
        return Ok(methods);
    }
    if elf.architecture() != Architecture::X86_64 {
        let reason = "its tables are known on x86-64 only";
        return Err(io::Error::other(reason));
    }
    let pointers = Pointers::read(elf)?;
    let locations: Vec<Vec<Range<u64>>> = (0..VERSIONS.len())
        .map(|needle| locations(elf, clues, &pointers, needle))
        .collect();
    let mut places = locations.concat();
    places.sort_by_key(|place| place.start);
    let references = scan::references(elf, &places)?;
    for (version, locations) in VERSIONS.iter().zip(locations) {
        let refers = |reference: &&Reference| {
            locations
                .iter()
                .any(|location| location.contains(&reference.target))
        };
        let at = references.iter().filter(refers).map(|one| one.at);
        let tables = Tables::of(elf, &pointers, at)?;
        // A cipher has one of each. TLS 1.3 treats all alike; TLS 1.2 knows two ways.
        let most = if *version == "1.3" { 1 } else { 2 };
        if tables.encrypters.len() != tables.decrypters.len() || tables.encrypters.len() > most {
            return Err(io::Error::other(format!(
                "of TLS {version}, {} tables look like those of encrypters and {} like those of decrypters",
                tables.encrypters.len(),
                tables.decrypters.len()
            )));
        }
        let named = |name: &str| format!("{name} (TLS {version})");
        for address in tables.encrypters {
            methods.insert(address, (named("encrypt"), rustls::ENCRYPT));
        }
        for address in tables.decrypters {
            methods.insert(address, (named("decrypt"), rustls::DECRYPT));
        }
    }
    Ok(methods)
}

/// The versions of TLS whose records the file of each needle is for.
const VERSIONS: [&str; 2] = ["1.3", "1.2"];

/// Where the `core::panic::Location`s of a file of sources lie, which begin with its name and length.
fn locations(elf: &Elf, clues: &Clues, pointers: &Pointers, needle: usize) -> Vec<Range<u64>> {
    let mut locations = Vec::new();
    for text in clues.texts(needle) {
        // The text may have others before it; a location says where it begins.
        let end = text.address + Rustls.needles()[needle].len() as u64;
        let of_text = |(place, target): (u64, u64)| {
            let length = word(elf, place + 8)?;
            (target.checked_add(length)? == end).then_some(place..place + 1)
        };
        locations.extend(pointers.to(text.start..end).filter_map(of_text));
    }
    locations.sort_by_key(|range| range.start);
    locations.dedup();
    locations
}

/// What the functions that make keys refer to: methods by their address.
#[derive(Default)]
struct Tables {
    encrypters: BTreeSet<u64>,
    decrypters: BTreeSet<u64>,
}

impl Tables {
    /// What is in the tables that the functions at these instructions refer to.
    fn of(
        elf: &Elf,
        pointers: &Pointers,
        instructions: impl Iterator<Item = u64>,
    ) -> io::Result<Self> {
        let functions = elf.unwind_table();
        let mut tables = Self::default();
        let mut seen = BTreeSet::new();
        for range in instructions.filter_map(|at| functions.range(elf, at)) {
            if !seen.insert(range.start) {
                continue;
            }
            let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let code = elf.code(range.start, length.min(CODE_BYTES))?;
            let loads = Decoder::with_ip(64, &code, range.start, DecoderOptions::NONE)
                .into_iter()
                .filter(|one| one.code() == Code::Lea_r64_m && one.is_ip_rel_memory_operand())
                .map(|one| one.ip_rel_memory_address());
            for table in loads.filter(|table| is_table(elf, pointers, *table)) {
                let method = |index: u64| pointers.at(table + TABLE_HEAD + 8 * index);
                let Some(first) = method(0).filter(|first| functions.is_start(*first)) else {
                    continue;
                };
                if method(1).is_some_and(|second| adds_constant(elf, second)) {
                    tables.encrypters.insert(first);
                } else {
                    tables.decrypters.insert(first);
                }
            }
        }
        Ok(tables)
    }
}

/// Longest function that is looked at, in bytes.
const CODE_BYTES: usize = 1 << 16;

/// A table of methods begins with the function that drops the object, its size and its alignment.
const TABLE_HEAD: u64 = 24;

/// A key has more bytes than this, an error fewer.
const KEY_BYTES: u64 = 64;

/// Whether a table of methods of a key may lie at the address.
fn is_table(elf: &Elf, pointers: &Pointers, address: u64) -> bool {
    let number = |place: u64| match pointers.at(place) {
        Some(_) => None,
        None => word(elf, place),
    };
    let drops = match pointers.at(address) {
        Some(function) => elf.is_code(function),
        None => word(elf, address) == Some(0),
    };
    drops
        && number(address + 8).is_some_and(|size| (KEY_BYTES..1 << 16).contains(&size))
        && number(address + 16).is_some_and(|align| align.is_power_of_two() && align <= 64)
}

/// Whether the function is `lea rax, [rsi + N]; ret`: `encrypted_payload_len` adds what a record is longer than
/// its content, 16 bytes for the tag, and one for the type or eight for the nonce.
fn adds_constant(elf: &Elf, function: u64) -> bool {
    elf.code(function, 5)
        .is_ok_and(|code| matches!(code[..], [0x48, 0x8d, 0x46, 0x10 | 0x11 | 0x18, 0xc3]))
}

fn word(elf: &Elf, address: u64) -> Option<u64> {
    let mut word = [0; 8];
    elf.read_exact(address, &mut word).ok()?;
    Some(u64::from_le_bytes(word))
}

/// The addresses that the loader puts into the data of a file: `R_X86_64_RELATIVE` (System V ABI, AMD64
/// supplement, 4.4), one by one or packed (System V gABI 4.3, `SHT_RELR`).
struct Pointers {
    /// Place and address, sorted by place.
    relocations: Vec<(u64, u64)>,
}

impl Pointers {
    fn read(elf: &Elf) -> io::Result<Self> {
        let whole = whole_section(elf, ".rela.dyn")?;
        let packed = whole_section(elf, ".relr.dyn")?;
        let mut relocations = relocations(&whole);
        relocations.extend(packed_relocations(elf, &packed));
        if relocations.is_empty() {
            let reason =
                "its tables are told by relocations (.rela.dyn, .relr.dyn), and there are none";
            return Err(io::Error::other(reason));
        }
        relocations.sort_unstable();
        Ok(Self { relocations })
    }

    /// The address that stands at a place.
    fn at(&self, place: u64) -> Option<u64> {
        let found = self
            .relocations
            .binary_search_by_key(&place, |relocation| relocation.0)
            .ok()?;
        Some(self.relocations[found].1)
    }

    /// The places where an address of a range stands, with the address.
    fn to(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        self.relocations
            .iter()
            .filter(move |relocation| range.contains(&relocation.1))
            .copied()
    }
}

/// The bytes of a section; none if there is no such section.
fn whole_section(elf: &Elf, name: &str) -> io::Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;
    let Some(section) = elf.section(name) else {
        return Ok(Vec::new());
    };
    let length = section.end - section.start;
    if length > MOST {
        return Err(io::Error::other(format!("{name} has {length} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    elf.read_exact(section.start, &mut bytes)?;
    Ok(bytes)
}

/// Entries of place, type and address.
fn relocations(section: &[u8]) -> Vec<(u64, u64)> {
    const RELATIVE: u64 = 8;
    let words: Vec<u64> = words(section).collect();
    words
        .chunks_exact(3)
        .filter(|entry| entry[1] == RELATIVE)
        .map(|entry| (entry[0], entry[2]))
        .collect()
}

/// As [`relocations`]. The addresses stand at their places already.
fn packed_relocations(elf: &Elf, section: &[u8]) -> Vec<(u64, u64)> {
    let mut block = Block::default();
    packed_places(section)
        .into_iter()
        .filter_map(|place| Some((place, block.word(elf, place)?)))
        .collect()
}

/// Entries of a place, or of a bit for each of the 63 words that follow.
fn packed_places(section: &[u8]) -> Vec<u64> {
    const WORDS: u64 = 63;
    let mut places = Vec::new();
    let mut next: u64 = 0;
    for entry in words(section) {
        if entry & 1 == 0 {
            places.push(entry);
            next = entry.wrapping_add(8);
            continue;
        }
        places.extend(
            (0..WORDS)
                .filter(|bit| entry >> (bit + 1) & 1 != 0)
                .map(|bit| next.wrapping_add(8 * bit)),
        );
        next = next.wrapping_add(8 * WORDS);
    }
    places
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word))
}

/// A part of the data, so that not each word takes a system call.
#[derive(Default)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn word(&mut self, elf: &Elf, address: u64) -> Option<u64> {
        const BYTES: usize = 1 << 16;
        if let Some(word) = self.held(address) {
            return Some(word);
        }
        self.start = address;
        self.bytes.resize(BYTES, 0);
        if elf.read_exact(address, &mut self.bytes).is_err() {
            // The segment ends before.
            self.bytes.resize(8, 0);
            elf.read_exact(address, &mut self.bytes).ok()?;
        }
        self.held(address)
    }

    fn held(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let word = self.bytes.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_name_methods() {
        let ring = "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$7encrypt17h1baf881342865a84E";
        let old = "_ZN89_$LT$rustls..tls13..Tls13MessageDecrypter$u20$as$u20$rustls..cipher..MessageDecrypter$GT$7decrypt17h1baf881342865a84E";
        let length = "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$21encrypted_payload_len17hd676c262afcc9b53E";
        let aws = "_ZN115_$LT$rustls..crypto..aws_lc_rs..tls13..AeadMessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$7encrypt17h1baf881342865a84E";
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
    #[test]
    fn relocations_say_what_is_where() {
        let section: Vec<u8> = [0x10_u64, 8, 0x1234, 0x18, 6 | 1 << 32, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(relocations(&section), [(0x10, 0x1234)]);
    }

    #[test]
    fn packed_relocations_name_places() {
        let section: Vec<u8> = [0x1000_u64, 1 | 1 << 1 | 1 << 63, 1 | 1 << 2, 0x9000]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        // A place; two of the 63 words that follow; one of the next 63; and another place.
        assert_eq!(
            packed_places(&section),
            [0x1000, 0x1008, 0x1008 + 62 * 8, 0x1008 + 64 * 8, 0x9000]
        );
    }
}
