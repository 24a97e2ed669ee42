//! Looks through the whole of a file that has no symbols: for strings, and for code that refers to them.
//!
//! A file is read in pieces, so that memory stays small whatever its size.

use std::{io, ops::Range};

use aho_corasick::AhoCorasick;

use super::elf::Elf;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Longest string that is looked at, in bytes.
const LONGEST: usize = 512;

/// Bytes of a file that are looked through at most.
const BYTES: u64 = 2 << 30;

/// Strings, references and branches that are kept at most: more than any library has. Whoever may execute
/// a file can make it hold anything.
const FOUND: usize = 100_000;

/// A string that ends with a NUL, or in `.rs`, in which a needle is the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    /// Address of the needle, as linked.
    pub address: u64,
    /// Address of the first byte of the text that it ends: where the string begins, or, where others
    /// without a NUL lie before it, one of them.
    pub start: u64,
    /// The needle's index.
    pub needle: usize,
}

/// What a file says of itself.
#[derive(Clone, Debug, Default)]
pub struct Clues {
    texts: Vec<Text>,
    references: Vec<Reference>,
}

impl Clues {
    /// Looks for strings that end in one of `needles`, and for what refers to them.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn find(elf: &Elf, needles: &[&[u8]]) -> io::Result<Self> {
        let texts = strings(elf, needles)?;
        let mut targets: Vec<Range<u64>> = texts.iter().map(Text::range).collect();
        targets.sort_unstable_by_key(|range| range.start);
        let references = references(elf, &joined(targets))?;
        Ok(Self { texts, references })
    }

    /// Those of some needles, numbered from 0.
    pub fn of(&self, needles: Range<usize>) -> Self {
        let texts: Vec<Text> = self
            .texts
            .iter()
            .filter(|text| needles.contains(&text.needle))
            .map(|text| Text {
                needle: text.needle - needles.start,
                ..*text
            })
            .collect();
        let refers = |reference: &&Reference| {
            texts
                .iter()
                .any(|text| text.range().contains(&reference.target))
        };
        let references = self.references.iter().filter(refers).copied().collect();
        Self { texts, references }
    }

    /// The strings that end in a needle.
    pub fn texts(&self, needle: usize) -> impl Iterator<Item = &Text> {
        self.texts.iter().filter(move |text| text.needle == needle)
    }

    /// The references to strings that end in a needle, by the address of the instruction.
    pub fn references(&self, needle: usize) -> impl Iterator<Item = &Reference> {
        self.references.iter().filter(move |reference| {
            self.texts(needle)
                .any(|text| text.range().contains(&reference.target))
        })
    }
}

impl Text {
    /// Where the string may begin.
    fn range(&self) -> Range<u64> {
        self.start..self.address + 1
    }
}

/// Sorted ranges, without overlaps.
fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// An operand of an instruction that is the address of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Address of the instruction.
    pub at: u64,
    /// The address that it refers to.
    pub target: u64,
}

/// A direct call or jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// Where it leads.
    pub target: u64,
    /// Address of the instruction, unless the bytes are none.
    pub at: u64,
    /// What it is.
    pub kind: BranchKind,
}

/// Kinds of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BranchKind {
    /// `call rel32`
    Call,
    /// `jmp rel32`
    Jump,
    /// `jcc rel32`
    Conditional,
}

/// The strings, in the data or between the code, that end in one of `needles`.
///
/// # Errors
///
/// The file cannot be read.
pub fn strings(elf: &Elf, needles: &[&[u8]]) -> io::Result<Vec<Text>> {
    let finder = AhoCorasick::new(needles).map_err(io::Error::other)?;
    let mut found = Vec::new();
    check_size(elf.readable())?;
    for segment in elf.readable() {
        pieces(elf, segment, LONGEST, |address, piece, fresh| {
            for hit in finder.find_overlapping_iter(piece) {
                let at = hit.start();
                let needle = needles[hit.pattern().as_usize()];
                // Rust puts no NUL behind the names of its sources, or does so only lately.
                let ends = needle.ends_with(b".rs") || piece.get(hit.end()) == Some(&0);
                if !fresh.contains(&at) || !ends {
                    continue;
                }
                let start = piece[..at]
                    .iter()
                    .rposition(|byte| !(0x20..0x7f).contains(byte))
                    .map_or(0, |before| before + 1);
                found.push(Text {
                    address: address + at as u64,
                    start: address + start as u64,
                    needle: hit.pattern().as_usize(),
                });
            }
            check_number(&found)
        })?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Where one of `needles` lies at an address that is a multiple of `alignment`, in all that is loaded; with
/// the index of the needle.
///
/// # Errors
///
/// The file cannot be read, or holds too much.
pub fn places(elf: &Elf, needles: &[&[u8]], alignment: u64) -> io::Result<Vec<(u64, usize)>> {
    let finder = AhoCorasick::new(needles).map_err(io::Error::other)?;
    let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or(0);
    check_size(elf.loaded())?;
    let mut found = Vec::new();
    for segment in elf.loaded() {
        pieces(elf, segment, longest, |address, piece, fresh| {
            for hit in finder.find_overlapping_iter(piece) {
                let place = address + hit.start() as u64;
                if fresh.contains(&hit.start()) && place.is_multiple_of(alignment) {
                    found.push((place, hit.pattern().as_usize()));
                }
            }
            check_number(&found)
        })?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The instructions that put an address of these ranges into a register: `lea r64, [rip + d32]`, or
/// `mov r32, imm32` where the file is linked to a fixed address. `targets` is sorted and without overlaps.
///
/// # Errors
///
/// The file cannot be read.
pub fn references(elf: &Elf, targets: &[Range<u64>]) -> io::Result<Vec<Reference>> {
    let (Some(first), Some(last)) = (
        targets.first().map(|range| range.start),
        targets.last().map(|range| range.end),
    ) else {
        return Ok(Vec::new());
    };
    let hit = |target: u64| {
        let place = targets.partition_point(|range| range.end <= target);
        targets
            .get(place)
            .is_some_and(|range| range.contains(&target))
    };
    let span = last - first;
    let fixed = elf.is_fixed() && u32::try_from(last).is_ok();
    let mut found = Vec::new();
    check_size(elf.executable())?;
    for segment in elf.executable() {
        pieces(elf, segment, 16, |address, piece, fresh| {
            // The displacement counts from its end.
            let base = address.wrapping_add(4).wrapping_sub(first);
            each_word(piece, &fresh, |at, word| {
                let relative = base
                    .wrapping_add(at as u64)
                    .wrapping_add_signed(i64::from(word.cast_signed()));
                if relative <= span {
                    let target = first + relative;
                    if hit(target)
                        && let Some(start) = load_relative(piece, at)
                    {
                        found.push(Reference {
                            at: address + start as u64,
                            target,
                        });
                    }
                }
                let absolute = u64::from(word).wrapping_sub(first);
                if fixed && absolute <= span {
                    let target = first + absolute;
                    if hit(target)
                        && let Some(start) = load_absolute(piece, at)
                    {
                        found.push(Reference {
                            at: address + start as u64,
                            target,
                        });
                    }
                }
            });
            check_number(&found)
        })?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The direct calls and jumps with 32-bit displacements that lead into one of these ranges, by target.
/// `ranges` is sorted and without overlaps. Bytes that only look like a branch are among them.
///
/// # Errors
///
/// The file cannot be read.
pub fn branches(elf: &Elf, ranges: &[Range<u64>]) -> io::Result<Vec<Branch>> {
    let (Some(first), Some(last)) = (
        ranges.first().map(|range| range.start),
        ranges.last().map(|range| range.end),
    ) else {
        return Ok(Vec::new());
    };
    let span = last - first;
    let mut found = Vec::new();
    check_size(elf.executable())?;
    for segment in elf.executable() {
        pieces(elf, segment, 16, |address, piece, fresh| {
            let base = address.wrapping_add(4).wrapping_sub(first);
            each_word(piece, &fresh, |at, word| {
                let relative = base
                    .wrapping_add(at as u64)
                    .wrapping_add_signed(i64::from(word.cast_signed()));
                if relative >= span {
                    return;
                }
                let (kind, length) = match piece[..at] {
                    [.., 0xe8] => (BranchKind::Call, 1),
                    [.., 0xe9] => (BranchKind::Jump, 1),
                    [.., 0x0f, 0x80..=0x8f] => (BranchKind::Conditional, 2),
                    _ => return,
                };
                let target = first + relative;
                let place = ranges.partition_point(|range| range.end <= target);
                if ranges
                    .get(place)
                    .is_some_and(|range| range.contains(&target))
                {
                    found.push(Branch {
                        target,
                        at: address + (at - length) as u64,
                        kind,
                    });
                }
            });
            check_number(&found)
        })?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Where the instruction begins whose displacement lies at `at`, if it is `lea r64, [rip + d32]`.
fn load_relative(piece: &[u8], at: usize) -> Option<usize> {
    match piece[..at] {
        [.., 0x48 | 0x4c, 0x8d, modrm] if modrm & 0xc7 == 0x05 => Some(at - 3),
        _ => None,
    }
}

/// Where the instruction begins whose immediate lies at `at`, if it is `mov r32, imm32`.
fn load_absolute(piece: &[u8], at: usize) -> Option<usize> {
    match piece[..at] {
        [.., 0x41, 0xb8..=0xbf] => Some(at - 2),
        [.., 0xb8..=0xbf] => Some(at - 1),
        _ => None,
    }
}

/// Every four bytes, at any offset, as a word; those that begin in `fresh`.
#[inline]
fn each_word(piece: &[u8], fresh: &Range<usize>, mut take: impl FnMut(usize, u32)) {
    let end = fresh.end.min(piece.len().saturating_sub(3));
    if fresh.start >= end {
        return;
    }
    for (at, word) in (fresh.start..end).zip(piece[fresh.start..end + 3].windows(4)) {
        take(at, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    }
}

/// An error if there is more than any library has.
fn check_number<T>(found: &[T]) -> io::Result<()> {
    if found.len() > FOUND {
        return Err(io::Error::other("it holds too many references"));
    }
    Ok(())
}

/// An error if it would take too long.
fn check_size(mut segments: impl Iterator<Item = Range<u64>>) -> io::Result<()> {
    let bytes = segments.try_fold(0_u64, |sum, one| sum.checked_add(one.end - one.start));
    match bytes {
        Some(..=BYTES) => Ok(()),
        _ => Err(io::Error::other("it is too large to be looked through")),
    }
}

/// Hands over a range of the file's memory in pieces that overlap by `overlap` bytes, with the address of
/// the piece and the part of it that was not the end of the one before.
fn pieces(
    elf: &Elf,
    segment: Range<u64>,
    overlap: usize,
    mut take: impl FnMut(u64, &[u8], Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE + 2 * overlap];
    let mut from = segment.start;
    while from < segment.end {
        let start = from.saturating_sub(overlap as u64).max(segment.start);
        let end = (from + PIECE as u64 + overlap as u64).min(segment.end);
        let length = usize::try_from(end - start).map_err(io::Error::other)?;
        let piece = &mut buffer[..length];
        elf.read_exact(start, piece)?;
        let before = usize::try_from(from - start).map_err(io::Error::other)?;
        let fresh = before..(before + PIECE).min(length);
        take(start, piece, fresh)?;
        from += PIECE as u64;
    }
    Ok(())
}
