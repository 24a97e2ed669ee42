//! Looks through the whole of a file that has no symbols: for strings, and for code that refers to them.
//!
//! A file is read in pieces, so that memory stays small whatever its size.

use std::{io, ops::Range};

use memchr::memmem;

use super::elf::Elf;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Longest string that is looked at, in bytes.
const LONGEST: usize = 512;

/// A string that ends with a NUL, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Address of its first byte, as linked.
    pub address: u64,
    /// Its bytes without the NUL.
    pub bytes: Vec<u8>,
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

/// The strings in the data, or between the code, that end in one of `endings`, each of which begins with
/// `common`.
///
/// # Errors
///
/// The file cannot be read.
pub fn strings(elf: &Elf, common: &[u8], endings: &[&[u8]]) -> io::Result<Vec<Text>> {
    let finder = memmem::Finder::new(common);
    let mut found = Vec::new();
    for segment in elf.readable() {
        pieces(elf, segment, LONGEST, |address, piece, fresh| {
            for at in finder.find_iter(piece) {
                if !fresh.contains(&at) {
                    continue;
                }
                let rest = &piece[at..];
                let Some(ending) = endings
                    .iter()
                    .find(|ending| rest.starts_with(ending) && rest.get(ending.len()) == Some(&0))
                else {
                    continue;
                };
                let start = piece[..at]
                    .iter()
                    .rposition(|byte| !(0x20..0x7f).contains(byte))
                    .map_or(0, |before| before + 1);
                found.push(Text {
                    address: address + start as u64,
                    bytes: piece[start..at + ending.len()].to_vec(),
                });
            }
        })?;
    }
    found.sort_by_key(|text| text.address);
    found.dedup();
    Ok(found)
}

/// The instructions that put one of these addresses into a register: `lea r64, [rip + d32]`, or
/// `mov r32, imm32` where the file is linked to a fixed address. `targets` is sorted.
///
/// # Errors
///
/// The file cannot be read.
pub fn references(elf: &Elf, targets: &[u64]) -> io::Result<Vec<Reference>> {
    let (Some(&first), Some(&last)) = (targets.first(), targets.last()) else {
        return Ok(Vec::new());
    };
    let span = last - first;
    let fixed = elf.is_fixed() && u32::try_from(last).is_ok();
    let mut found = Vec::new();
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
                    if targets.binary_search(&target).is_ok()
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
                    if targets.binary_search(&target).is_ok()
                        && let Some(start) = load_absolute(piece, at)
                    {
                        found.push(Reference {
                            at: address + start as u64,
                            target,
                        });
                    }
                }
            });
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

/// Hands over a range of the file's memory in pieces that overlap by `overlap` bytes, with the address of
/// the piece and the part of it that was not the end of the one before.
fn pieces(
    elf: &Elf,
    segment: Range<u64>,
    overlap: usize,
    mut take: impl FnMut(u64, &[u8], Range<usize>),
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
        take(start, piece, fresh);
        from += PIECE as u64;
    }
    Ok(())
}
