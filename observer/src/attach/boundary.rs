//! Whether a place is one that may be probed: the start of an instruction, in a function whose own start
//! is known for certain.
//!
//! The kernel replaces a byte of the place. In the middle of an instruction, or in data between the code,
//! that would change what the program does. So whatever a library's file says of a place, it is proved
//! here once more, from other evidence, before anything is put there.

use std::{cell::OnceCell, collections::HashMap, fmt};

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use object::Architecture;
use serde::{Deserialize, Serialize};

use super::{
    elf::{Elf, UnwindTable},
    scan::{self, BranchKind},
    tls::{Family, Probe},
};

/// Longest way from the start of a function to a place in it, in bytes.
const LONGEST: u64 = 64 << 10;

/// By what the start of a function is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A symbol and the table of the unwinder say the same.
    SymbolAndUnwindTable,
    /// A symbol; the unwinder knows nothing of it.
    Symbol,
    /// The table that Go's runtime finds its functions by.
    RuntimeTable,
    /// The table of the unwinder (`.eh_frame_hdr`).
    UnwindTable,
    /// A call leads there.
    Called,
    /// It lies aligned behind the filling between functions, and begins as functions do.
    Padding,
}

impl Start {
    /// How sure it is, for people.
    pub fn confidence(self) -> &'static str {
        match self {
            Self::SymbolAndUnwindTable | Self::RuntimeTable => "certain",
            Self::Symbol | Self::UnwindTable => "sure",
            Self::Called | Self::Padding => "likely",
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SymbolAndUnwindTable => "symbol and unwind table",
            Self::Symbol => "symbol",
            Self::RuntimeTable => "the runtime's table",
            Self::UnwindTable => "unwind table",
            Self::Called => "calls of it",
            Self::Padding => "padding before it",
        })
    }
}

/// Proves the places of one file.
pub(super) struct Prover<'a> {
    elf: &'a Elf,
    table: OnceCell<UnwindTable>,
    /// Functions that a call leads to, of those that were asked for.
    calls: HashMap<u64, bool>,
}

impl<'a> Prover<'a> {
    pub(super) fn new(elf: &'a Elf) -> Self {
        Self {
            elf,
            table: OnceCell::new(),
            calls: HashMap::new(),
        }
    }

    /// By what the starts of the functions are known that the probes are in, one for each probe.
    ///
    /// # Errors
    ///
    /// One of the places is not proved: why, as a sentence for the user.
    pub(super) fn prove(&mut self, probes: &[Probe]) -> Result<Vec<Start>, String> {
        let of_probe = |probe: &Probe, reason: String| {
            format!(
                "{} at {:#x}: {reason}",
                probe.functions.join(", "),
                probe.offset
            )
        };
        let mut known = Vec::new();
        for probe in probes {
            let start = self
                .instruction(probe)
                .and_then(|()| self.by_tables(probe))
                .map_err(|reason| of_probe(probe, reason))?;
            known.push(start);
        }
        let unproved: Vec<u64> = probes
            .iter()
            .zip(&known)
            .filter(|(_, start)| start.is_none())
            .map(|(probe, _)| probe.site.function)
            .collect();
        self.look_for_calls(&unproved);
        probes
            .iter()
            .zip(known)
            .map(|(probe, start)| match start {
                Some(start) => Ok(start),
                None => self
                    .by_code(probe.site.function)
                    .map_err(|reason| of_probe(probe, reason)),
            })
            .collect()
    }

    /// An instruction begins at the place, as they follow each other from the start of the function.
    fn instruction(&self, probe: &Probe) -> Result<(), String> {
        let site = &probe.site;
        if self.elf.file_offset(site.address) != Some(probe.offset) {
            return Err("it is not in the code of the file".to_owned());
        }
        let distance = site
            .address
            .checked_sub(site.function)
            .filter(|distance| *distance <= LONGEST)
            .ok_or_else(|| "it lies too far from the start of its function".to_owned())?;
        if self.elf.architecture() != Architecture::X86_64 {
            // Instructions of one length: every aligned place begins one.
            let aligned = site.address.is_multiple_of(4);
            return aligned
                .then_some(())
                .ok_or_else(|| "no instruction".to_owned());
        }
        // The longest instruction has 15 bytes.
        let length = usize::try_from(distance + 15).map_err(|error| error.to_string())?;
        let code = self
            .elf
            .code(site.function, length)
            .map_err(|error| error.to_string())?;
        let mut decoder = Decoder::with_ip(64, &code, site.function, DecoderOptions::NONE);
        loop {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return Err("what lies before it is no code".to_owned());
            }
            if instruction.ip() == site.address {
                return Ok(());
            }
            if instruction.ip() > site.address {
                return Err("it is in the middle of an instruction".to_owned());
            }
        }
    }

    /// By a symbol or a table; `None` if there is neither.
    fn by_tables(&self, probe: &Probe) -> Result<Option<Start>, String> {
        let function = probe.site.function;
        if probe.family == Family::Go {
            return Ok(Some(Start::RuntimeTable));
        }
        let named = self.elf.functions().any(|(_, address)| address == function);
        let table = self.table.get_or_init(|| self.elf.unwind_table());
        match table.range(self.elf, function) {
            Some(range) if range.start != function => {
                Err("it is not where the unwinder has the start of a function".to_owned())
            }
            Some(_) if named => Ok(Some(Start::SymbolAndUnwindTable)),
            Some(_) => Ok(Some(Start::UnwindTable)),
            None => Ok(named.then_some(Start::Symbol)),
        }
    }

    /// By a call that leads there, or by what lies before it.
    fn by_code(&self, function: u64) -> Result<Start, String> {
        if self.calls.get(&function) == Some(&true) {
            Ok(Start::Called)
        } else if self.is_padded(function) {
            Ok(Start::Padding)
        } else {
            Err("nothing proves that a function begins there".to_owned())
        }
    }

    fn look_for_calls(&mut self, functions: &[u64]) {
        let mut ranges: Vec<std::ops::Range<u64>> = functions
            .iter()
            .filter(|function| !self.calls.contains_key(function))
            .map(|function| *function..function + 1)
            .collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup();
        if ranges.is_empty() {
            return;
        }
        let branches = scan::branches(self.elf, &ranges).unwrap_or_default();
        for range in ranges {
            let called = branches
                .iter()
                .any(|branch| branch.target == range.start && branch.kind == BranchKind::Call);
            self.calls.insert(range.start, called);
        }
    }

    /// Whether the function lies on a multiple of 16 behind filling, and begins with what functions begin
    /// with.
    fn is_padded(&self, function: u64) -> bool {
        let Some(before) = function.checked_sub(1) else {
            return false;
        };
        if !function.is_multiple_of(16) || self.elf.architecture() != Architecture::X86_64 {
            return false;
        }
        let (Ok(filling), Ok(code)) = (self.elf.code(before, 1), self.elf.code(function, 15))
        else {
            return false;
        };
        // `int3`, `nop`, `ret`: linkers and compilers fill with the first two.
        let ends = matches!(filling.first(), Some(0xcc | 0x90 | 0xc3));
        let first: Instruction =
            Decoder::with_ip(64, &code, function, DecoderOptions::NONE).decode();
        ends && matches!(
            first.mnemonic(),
            Mnemonic::Push | Mnemonic::Sub | Mnemonic::Endbr64
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use object::{
        Endianness, elf,
        write::elf::{FileHeader, ProgramHeader, Writer},
    };
    use observer_common::Cookie;

    use super::*;
    use crate::attach::site::{Cost, Site};

    /// Where the code of [`file`] is loaded, and where it lies in the file.
    const ADDRESS: u64 = 0x40_1000;
    const OFFSET: u64 = 0x1000;

    /// A program that consists of this code, without symbols or tables.
    fn file(code: &[u8]) -> Elf {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
        writer.reserve_file_header();
        writer.reserve_program_headers(1);
        writer.reserve_until(usize::try_from(OFFSET).unwrap());
        writer.reserve(code.len(), 1);
        writer
            .write_file_header(&FileHeader {
                os_abi: elf::ELFOSABI_NONE,
                abi_version: 0,
                e_type: elf::ET_EXEC,
                e_machine: elf::EM_X86_64,
                e_entry: ADDRESS,
                e_flags: 0,
            })
            .unwrap();
        writer.write_program_header(&ProgramHeader {
            p_type: elf::PT_LOAD,
            p_flags: elf::PF_R | elf::PF_X,
            p_offset: OFFSET,
            p_vaddr: ADDRESS,
            p_paddr: ADDRESS,
            p_filesz: code.len() as u64,
            p_memsz: code.len() as u64,
            p_align: 0x1000,
        });
        writer.pad_until(usize::try_from(OFFSET).unwrap());
        writer.write(code);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        Elf::read(&file, |_| true).unwrap()
    }

    fn probe(function: u64, address: u64) -> Probe {
        Probe {
            functions: vec!["SSL_write".to_owned()],
            site: Site {
                address,
                function,
                instruction: "push".to_owned(),
                cost: Cost::Emulated,
                count: 0,
            },
            offset: address.wrapping_sub(ADDRESS).wrapping_add(OFFSET),
            cookie: Cookie::new(1, 0),
            returns: true,
            family: Family::C,
        }
    }

    fn prove(code: &[u8], function: u64, address: u64) -> Result<Start, String> {
        Prover::new(&file(code))
            .prove(&[probe(function, address)])
            .map(|starts| starts[0])
    }

    /// A function behind filling; `push rbp; mov rbp, rsp; sub rsp, 0x20; ret`.
    const CODE: [u8; 32] = [
        0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
        0xcc, // 0x10
        0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
        0xcc,
    ];

    #[test]
    fn the_starts_of_instructions_are_proved_and_nothing_else() {
        let function = ADDRESS + 0x10;
        for within in [0, 1, 4, 8] {
            assert_eq!(
                prove(&CODE, function, function + within),
                Ok(Start::Padding),
                "{within}"
            );
        }
        for within in [2, 3, 5, 6, 7] {
            let refused = prove(&CODE, function, function + within).unwrap_err();
            assert!(refused.contains("middle of an instruction"), "{refused}");
        }
    }

    #[test]
    fn a_place_without_a_proved_function_is_refused() {
        // In the middle of a function: nothing says that one begins there.
        let refused = prove(&CODE, ADDRESS + 0x11, ADDRESS + 0x11).unwrap_err();
        assert!(refused.contains("nothing proves"), "{refused}");
        // Before its function, and outside of the code.
        assert!(prove(&CODE, ADDRESS + 0x10, ADDRESS + 0xf).is_err());
        assert!(prove(&CODE, ADDRESS + 0x100, ADDRESS + 0x100).is_err());
    }

    #[test]
    fn a_function_that_is_called_is_one() {
        // `call` of what lies behind it, not aligned.
        let code = [0xe8, 1, 0, 0, 0, 0xc3, 0x55, 0xc3];
        assert_eq!(prove(&code, ADDRESS + 6, ADDRESS + 6), Ok(Start::Called));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        // 0x06 is no instruction in 64-bit mode.
        let mut code = CODE;
        code[0x12] = 0x06;
        code[0x11] = 0x06;
        let refused = prove(&code, ADDRESS + 0x10, ADDRESS + 0x14).unwrap_err();
        assert!(refused.contains("no code"), "{refused}");
    }

    #[test]
    fn symbols_of_this_program_agree_with_its_unwind_table() {
        let file = fs::File::open("/proc/self/exe").unwrap();
        let elf = Elf::read(&file, |name| name.contains("boundary")).unwrap();
        let mut functions: Vec<u64> = elf.functions().map(|(_, address)| address).collect();
        functions.sort_unstable();
        assert!(functions.len() > 5, "{functions:?}");
        for function in functions {
            let Some(offset) = elf.file_offset(function) else {
                continue;
            };
            let mut probe = probe(function, function);
            probe.offset = offset;
            let starts = Prover::new(&elf).prove(&[probe.clone()]).unwrap();
            assert_eq!(starts, [Start::SymbolAndUnwindTable], "{function:#x}");
            // The same place, as if a function began one byte later.
            probe.site.function += 1;
            probe.site.address += 1;
            probe.offset += 1;
            assert!(Prover::new(&elf).prove(&[probe]).is_err());
        }
    }
}
