//! Go's `crypto/tls`, Go 1.17 and later, with symbols or without: the runtime's own table of functions stays
//! in every program.
//!
//! Formats: src/debug/gosym/pclntab.go, src/internal/abi/symtab.go, src/debug/buildinfo/buildinfo.go,
//! src/runtime/symtab.go (`moduledata`) of the Go sources.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};
use observer_common::{Cookie, go};

use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    scan::Clues,
    site::{self, Cost, Site},
};

/// Largest table that is read, in bytes.
const TABLE_BYTES: u64 = 256 << 20;

/// Largest function that is decoded, in bytes.
const FUNCTION_BYTES: u64 = 64 << 10;

/// Offset of the text's address in `runtime.moduledata`, since Go 1.16.
const MODULE_TEXT: u64 = 176;

/// What is at a probe.
const FUNCTIONS: [(&str, u8); 3] = [
    ("crypto/tls.(*Conn).Write", go::WRITE),
    ("crypto/tls.(*Conn).Read", go::READ),
    ("crypto/tls.(*Conn).Close", go::CLOSE),
];

/// See the module.
pub(super) struct Go;

impl Library for Go {
    fn name(&self) -> &'static str {
        "Go crypto/tls"
    }

    fn find(&self, elf: &Elf, _: &Clues) -> Finding {
        let Some(table) = [".gopclntab", ".data.rel.ro.gopclntab"]
            .into_iter()
            .find_map(|name| elf.section(name))
        else {
            return Finding::Absent;
        };
        let found = Table::read(elf, table).and_then(|table| {
            let mut functions = Vec::new();
            for (name, function) in FUNCTIONS {
                match table.function(name) {
                    Some(range) => functions.push((name, function, range)),
                    // Not linked: the program does not use it.
                    None if function == go::CLOSE => {}
                    None => return Ok(None),
                }
            }
            let version = version(elf);
            let probes = probes(elf, &functions, goid(version.as_deref()))?;
            Ok(Some(Found {
                how: format!(
                    "the runtime's table of functions; {}",
                    version.as_deref().unwrap_or("unknown version of Go")
                ),
                probes,
            }))
        });
        match found {
            Ok(Some(found)) => Finding::Found(found),
            Ok(None) => Finding::Absent,
            Err(reason) => Finding::Refused(reason),
        }
    }
}

type Range = std::ops::Range<u64>;

fn probes(
    elf: &Elf,
    functions: &[(&'static str, u8, Range)],
    goid: u16,
) -> Result<Vec<Probe>, String> {
    let mut probes = Vec::new();
    for (name, function, range) in functions {
        let code = Code::decode(elf, range.clone())
            .ok_or_else(|| format!("the code of {name} cannot be followed"))?;
        let mut add = |instruction: &Instruction, function: u8| {
            let site = Site {
                address: instruction.ip(),
                function: range.start,
                instruction: site::name(instruction),
                cost: if site::is_emulated(instruction) {
                    Cost::Emulated
                } else {
                    Cost::SingleStepped
                },
                count: 0,
            };
            let offset = elf
                .file_offset(site.address)
                .ok_or_else(|| format!("{name} is not in the file"))?;
            probes.push(Probe {
                functions: vec![(*name).to_owned()],
                site,
                offset,
                cookie: Cookie {
                    function,
                    count: 0,
                    goid,
                },
                returns: false,
                family: Family::Go,
            });
            Ok::<(), String>(())
        };
        if *function == go::WRITE {
            add(&code.check, go::WRITE_CHECK)?;
        }
        add(&code.begin, *function)?;
        if *function == go::READ {
            for instruction in &code.returns {
                add(instruction, go::READ_RETURN)?;
            }
        }
    }
    Ok(probes)
}

/// Offset of `goid` in `runtime.g` (src/runtime/runtime2.go), by DWARF of programs built with each
/// version from 1.18 on; 0 if the version is not known.
fn goid(version: Option<&str>) -> u16 {
    let minor = version
        .and_then(|version| version.strip_prefix("go1."))
        .and_then(|rest| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        });
    match minor {
        Some(17..=22 | 25..=26) => 152,
        // With `syscallbp`, and still with `gobuf.ret`.
        Some(23..=24) => 160,
        _ => 0,
    }
}

/// The version of Go that the program was built with, such as `go1.26.1`.
fn version(elf: &Elf) -> Option<String> {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    /// The strings follow, each behind its length as a varint: since Go 1.18.
    const INLINE: u8 = 2;
    let section = elf.section(".go.buildinfo")?;
    let mut head = [0; 96];
    elf.read_exact(section.start, &mut head).ok()?;
    if !head.starts_with(MAGIC) || head[15] & INLINE == 0 {
        return None;
    }
    let length = usize::from(head[32]);
    if length >= 0x80 {
        return None;
    }
    let text = std::str::from_utf8(head.get(33..33 + length)?).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// A function that has been decoded.
struct Code {
    /// The jump to where the stack is made larger. The function begins once more after that.
    check: Instruction,
    /// The first instruction behind: passed once for each call, with nothing changed.
    begin: Instruction,
    returns: Vec<Instruction>,
}

impl Code {
    /// Decodes a function that begins with the check of its stack.
    fn decode(elf: &Elf, range: Range) -> Option<Self> {
        let length = range.end.checked_sub(range.start)?;
        if length > FUNCTION_BYTES {
            return None;
        }
        let bytes = elf.code(range.start, usize::try_from(length).ok()?).ok()?;
        // Go puts nothing but code into its functions.
        let instructions: Vec<Instruction> =
            Decoder::with_ip(64, &bytes, range.start, DecoderOptions::NONE)
                .into_iter()
                .collect();
        if instructions.iter().any(Instruction::is_invalid) {
            return None;
        }
        let check = instructions
            .iter()
            .take(4)
            .position(|one| one.flow_control() == FlowControl::ConditionalBranch)?;
        // `cmp rsp, [r14 + 16]`, or with the stack pointer less the frame in r12 or r13.
        let compares = instructions[..check].iter().any(|one| {
            one.mnemonic() == Mnemonic::Cmp
                && one.memory_base() == Register::R14
                && one.memory_displacement64() == 16
        });
        let only_scratch = instructions[..check].iter().all(|one| {
            one.mnemonic() == Mnemonic::Cmp
                || matches!(one.op0_register(), Register::R12 | Register::R13)
        });
        let begin = *instructions.get(check + 1)?;
        let again = instructions.iter().any(|one| {
            one.flow_control() != FlowControl::Next && one.near_branch_target() == begin.ip()
        });
        if !compares || !only_scratch || again {
            return None;
        }
        let returns: Vec<Instruction> = instructions
            .iter()
            .filter(|one| one.flow_control() == FlowControl::Return)
            .copied()
            .collect();
        // A jump out of the function would be a way to leave it that has no probe.
        let leaves = instructions.iter().any(|one| {
            one.flow_control() == FlowControl::UnconditionalBranch
                && !range.contains(&one.near_branch_target())
        });
        if returns.is_empty() || leaves {
            return None;
        }
        Some(Self {
            check: instructions[check],
            begin,
            returns,
        })
    }
}

/// The runtime's table of functions (`runtime.pcHeader`).
struct Table {
    bytes: Vec<u8>,
    /// Where the text begins, as linked.
    text: u64,
    functions: usize,
    /// Offsets in the table.
    names: usize,
    lines: usize,
    /// Entries are 32-bit offsets into the text, not addresses.
    relative: bool,
}

impl Table {
    fn read(elf: &Elf, section: Range) -> Result<Self, String> {
        /// Go 1.16, 1.18 and 1.20 (src/internal/abi/symtab.go).
        const MAGIC: [u32; 3] = [0xffff_fffa, 0xffff_fff0, 0xffff_fff1];
        let length = section.end - section.start;
        if length > TABLE_BYTES {
            return Err("its table of functions is too large".to_owned());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|error| error.to_string())?];
        elf.read_exact(section.start, &mut bytes)
            .map_err(|error| format!("its table of functions cannot be read: {error}"))?;
        let unknown =
            || "its table of functions has a format that observer does not know".to_owned();
        let magic = word32(&bytes, 0).ok_or_else(unknown)?;
        if !MAGIC.contains(&magic) || bytes.get(7) != Some(&8) {
            return Err(unknown());
        }
        let relative = magic != MAGIC[0];
        let word = |index: usize| word64(&bytes, 8 + 8 * index).ok_or_else(unknown);
        let offset = |index: usize| {
            word(index).and_then(|word| usize::try_from(word).map_err(|_| unknown()))
        };
        let (text, names, lines) = if relative {
            (word(2)?, offset(3)?, offset(7)?)
        } else {
            (0, offset(2)?, offset(6)?)
        };
        let functions = offset(0)?;
        let text = if !relative {
            0
        } else if text != 0 && elf.is_code(text) {
            text
        } else {
            text_of_module(elf, section.start)
                .or_else(|| Some(elf.section(".text")?.start))
                .ok_or_else(unknown)?
        };
        Ok(Self {
            text,
            functions,
            names,
            lines,
            relative,
            bytes,
        })
    }

    /// The code of a function.
    fn function(&self, name: &str) -> Option<Range> {
        let entry = |index: usize| {
            if self.relative {
                let at = self.lines + 8 * index;
                let start = self.text + u64::from(word32(&self.bytes, at)?);
                Some((start, word32(&self.bytes, at + 4).unwrap_or(0) as usize))
            } else {
                let at = self.lines + 16 * index;
                let data = word64(&self.bytes, at + 8).unwrap_or(0);
                Some((word64(&self.bytes, at)?, usize::try_from(data).ok()?))
            }
        };
        // `runtime._func` begins with the entry, as in the list.
        let name_at = if self.relative { 4 } else { 8 };
        let named = |index: usize| {
            let (_, data) = entry(index)?;
            let at = word32(&self.bytes, self.lines + data + name_at)? as usize;
            let text = self.bytes.get(self.names + at..)?;
            text.strip_prefix(name.as_bytes())
                .and_then(|rest| rest.first())
                .filter(|byte| **byte == 0)
        };
        let limit = self.bytes.len() / 8;
        let index = (0..self.functions.min(limit)).find(|index| named(*index).is_some())?;
        let (start, _) = entry(index)?;
        let (end, _) = entry(index + 1)?;
        (start < end).then_some(start..end)
    }
}

/// Where the text begins, by `runtime.firstmoduledata`: since Go 1.26 in a section of its own.
fn text_of_module(elf: &Elf, table: u64) -> Option<u64> {
    let module = elf.section(".go.module")?.start;
    let word = |address: u64| {
        let mut bytes = [0; 8];
        elf.read_exact(address, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    if word(module)? != table {
        return None;
    }
    word(module + MODULE_TEXT).filter(|text| elf.is_code(*text))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}
