//! What a Go program says of itself to its own runtime: the table of functions, the version.
//!
//! Formats: src/debug/gosym/pclntab.go, src/internal/abi/symtab.go, src/debug/buildinfo/buildinfo.go,
//! src/runtime/symtab.go (`pcHeader`, `moduledata`, `_func`) of the Go sources.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::attach::{elf::Elf, scan};

/// Largest part of the table that is read, in bytes.
const TABLE_BYTES: u64 = 256 << 20;

/// Most functions of a program.
const FUNCTIONS: usize = 8 << 20;

/// What the table begins with since Go 1.16, 1.18 and 1.20, with instructions that may begin at each byte
/// and words of 8 bytes.
const MAGIC: [&[u8]; 3] = [
    b"\xfa\xff\xff\xff\0\0\x01\x08",
    b"\xf0\xff\xff\xff\0\0\x01\x08",
    b"\xf1\xff\xff\xff\0\0\x01\x08",
];

/// The one of [`MAGIC`] whose entries are addresses; later they are 32-bit offsets into the text.
const ABSOLUTE: usize = 0;

/// What the build information begins with.
const BUILD_MAGIC: &[u8] = b"\xff Go buildinf:";

/// The runtime's table of functions (`runtime.pcHeader`, and what it leads to).
pub(super) struct Table {
    /// Where the text begins, as linked; 0 where entries are addresses.
    text: u64,
    /// Names, each with a NUL behind.
    names: Vec<u8>,
    /// The list of functions, and the `runtime._func` of each, which the list points to.
    functions: Vec<u8>,
    count: usize,
    relative: bool,
}

/// Why there is no table.
pub(super) enum NoTable {
    /// It is no Go program.
    NotGo,
    /// It cannot be read: as a sentence for the user.
    Unreadable(String),
}

impl From<String> for NoTable {
    fn from(reason: String) -> Self {
        Self::Unreadable(reason)
    }
}

impl Table {
    /// Finds the table by its section, or where the linker put it into another, or sections are not
    /// described any more, by what it begins with.
    ///
    /// # Errors
    ///
    /// There is none, or none that is known.
    pub(super) fn of(elf: &Elf) -> Result<Self, NoTable> {
        let section = [".gopclntab", ".data.rel.ro.gopclntab"]
            .into_iter()
            .find_map(|name| elf.section(name));
        if let Some(section) = section {
            return Ok(Self::read(elf, section)?);
        }
        let of_go = |name| elf.section(name).is_some();
        if elf.has_sections() && ![".go.buildinfo", ".note.go.buildid"].into_iter().any(of_go) {
            return Err(NoTable::NotGo);
        }
        let places = scan::places(elf, &MAGIC, 8).map_err(|error| error.to_string())?;
        for (place, _) in places {
            if let Some(segment) = elf.loaded().find(|segment| segment.contains(&place))
                && let Ok(table) = Self::read(elf, place..segment.end)
            {
                return Ok(table);
            }
        }
        if elf.has_sections() {
            return Err("it has no table of functions".to_owned().into());
        }
        Err(NoTable::NotGo)
    }

    fn read(elf: &Elf, place: Range<u64>) -> Result<Self, String> {
        let unknown =
            || "its table of functions has a format that observer does not know".to_owned();
        let mut head = [0; 72];
        relocated(elf, place.start, &mut head).ok_or_else(unknown)?;
        let magic = MAGIC
            .iter()
            .position(|magic| head.starts_with(magic))
            .ok_or_else(unknown)?;
        let relative = magic != ABSOLUTE;
        let word = |index: usize| word64(&head, 8 + 8 * index);
        let offsets = if relative { 3 } else { 2 };
        let [names, units, _, _, list] = [0, 1, 2, 3, 4].map(|index| word(offsets + index));
        let (Some(names), Some(units), Some(list)) = (names, units, list) else {
            return Err(unknown());
        };
        let count = word(0)
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| (1..FUNCTIONS).contains(count))
            .ok_or_else(unknown)?;
        let length = place.end - place.start;
        let least = 8 + 8 * (offsets as u64 + 5);
        if !(least <= names && names < units && units < list && list < length) {
            return Err(unknown());
        }
        let part = |range: Range<u64>| -> Result<Vec<u8>, String> {
            let bytes = (range.end - range.start).min(TABLE_BYTES);
            let mut part = vec![0; usize::try_from(bytes).map_err(|error| error.to_string())?];
            relocated(elf, place.start + range.start, &mut part)
                .ok_or("its table of functions cannot be read")?;
            Ok(part)
        };
        let functions = part(list..length)?;
        let mut table = Self {
            text: 0,
            names: part(names..units)?,
            functions,
            count,
            relative,
        };
        if relative {
            table.text = word(2)
                .filter(|text| elf.is_code(*text))
                .or_else(|| table.text_by_module(elf, place.start, names))
                .ok_or_else(unknown)?;
        }
        Ok(table)
    }

    /// Where the text begins, by `runtime.firstmoduledata`: the table does not tell since Go 1.26.
    fn text_by_module(&self, elf: &Elf, table: u64, names: u64) -> Option<u64> {
        /// Words of `moduledata`, the same since Go 1.16.
        const HEADER: usize = 0;
        const NAMES: usize = 8;
        const FIRST: usize = 160;
        const TEXT: usize = 176;
        let known = elf.section(".go.module").map(|section| section.start);
        let places = match known {
            Some(place) => vec![place],
            None => elf.places_of(table).ok()?,
        };
        let first = u64::from(word32(&self.functions, 0)?);
        places.into_iter().find_map(|place| {
            let mut module = [0; TEXT + 8];
            relocated(elf, place, &mut module)?;
            let word = |at| word64(&module, at);
            let text = word(TEXT)?;
            let is_module = word(HEADER)? == table
                && word(NAMES)? == table + names
                && word(FIRST)? == text.checked_add(first)?
                && elf.is_code(text);
            is_module.then_some(text)
        })
    }

    /// The code of a function.
    pub(super) fn function(&self, name: &str) -> Option<Range<u64>> {
        let mut needle = Vec::with_capacity(name.len() + 2);
        needle.push(0);
        needle.extend_from_slice(name.as_bytes());
        needle.push(0);
        let before = AhoCorasick::new([needle]).ok()?.find(&self.names)?.start();
        let name = u32::try_from(before + 1).ok()?;
        let named = |index: &usize| {
            let (_, function) = self.entry(*index)?;
            // `runtime._func` begins with the entry, as in the list.
            let at = function.checked_add(if self.relative { 4 } else { 8 })?;
            (word32(&self.functions, at)? == name).then_some(())
        };
        let index = (0..self.count).find(|index| named(index).is_some())?;
        let (start, _) = self.entry(index)?;
        let (end, _) = self.entry(index + 1)?;
        (start < end).then_some(start..end)
    }

    /// Where a function begins, and where its `runtime._func` is. Behind the last function an entry tells
    /// where it ends.
    fn entry(&self, index: usize) -> Option<(u64, usize)> {
        if self.relative {
            let at = 8 * index;
            let start = self
                .text
                .checked_add(u64::from(word32(&self.functions, at)?))?;
            let function = word32(&self.functions, at + 4)?;
            Some((start, usize::try_from(function).ok()?))
        } else {
            let at = 16 * index;
            let function = word64(&self.functions, at + 8)?;
            Some((
                word64(&self.functions, at)?,
                usize::try_from(function).ok()?,
            ))
        }
    }
}

/// The version of Go that the program was built with, such as `go1.26.1`.
pub(super) fn version(elf: &Elf) -> Option<String> {
    /// The string follows, behind its length as a varint: since Go 1.18.
    const INLINE: u8 = 2;
    /// Longest version.
    const LONGEST: u64 = 127;
    let place = match elf.section(".go.buildinfo") {
        Some(section) => section.start,
        None => scan::places(elf, &[BUILD_MAGIC], 16).ok()?.first()?.0,
    };
    let mut head = [0; 33];
    relocated(elf, place, &mut head)?;
    if !head.starts_with(BUILD_MAGIC) {
        return None;
    }
    let (address, length) = if head[15] & INLINE != 0 {
        (place + 33, u64::from(head[32]))
    } else {
        // A pointer to a string, which is a pointer and a length.
        let mut string = [0; 16];
        relocated(elf, word64(&head, 16)?, &mut string)?;
        (word64(&string, 0)?, word64(&string, 8)?)
    };
    if length > LONGEST {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    elf.read_exact(address, &mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// Reads what lies at an address once the program is loaded.
fn relocated(elf: &Elf, address: u64, bytes: &mut [u8]) -> Option<()> {
    elf.read_exact(address, bytes).ok()?;
    elf.relocate(address, bytes).ok()
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}
