//! Go's `crypto/tls`, Go 1.17 and later, with symbols or without: the runtime's own table of functions stays
//! in every program ([`table`]).

mod table;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use observer_common::{Cookie, go};

use self::table::{NoTable, Table};
use super::{Family, Finding, Found, Library, Probe};
use crate::attach::{
    elf::Elf,
    scan::Clues,
    site::{self, Cost, Site},
};

/// Largest function that is decoded, in bytes.
const FUNCTION_BYTES: u64 = 64 << 10;

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
        let table = match Table::of(elf) {
            Ok(table) => table,
            Err(NoTable::NotGo) => return Finding::Absent,
            Err(NoTable::Unreadable(reason)) => return Finding::Refused(reason),
        };
        let mut functions = Vec::new();
        for (name, function) in FUNCTIONS {
            match table.function(name) {
                Some(range) => functions.push((name, function, range)),
                // Not linked: the program does not use it.
                None if function == go::CLOSE => {}
                None => return Finding::Absent,
            }
        }
        let version = table::version(elf);
        let goid = goid(version.as_deref());
        match probes(elf, &functions, goid) {
            Ok(probes) => Finding::Found(Found {
                how: format!(
                    "the runtime's table of functions; {}{}",
                    version.as_deref().unwrap_or("unknown version of Go"),
                    if goid == 0 {
                        ", of which observer does not know how it numbers goroutines"
                    } else {
                        ""
                    }
                ),
                probes,
            }),
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
            let kind = if code.keeps_arguments() {
                go::READ_RETURN_KEPT
            } else {
                go::READ_RETURN
            };
            for instruction in &code.returns {
                add(instruction, kind)?;
            }
        }
    }
    Ok(probes)
}

/// Offset of `goid` in `runtime.g` (src/runtime/runtime2.go), by DWARF of programs built with each
/// version; 0 if the version is not known.
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

/// A function that has been decoded.
struct Code {
    /// The jump to where the stack is made larger. The function begins once more after that.
    check: Instruction,
    /// The first instruction behind: passed once for each call, with nothing changed.
    begin: Instruction,
    returns: Vec<Instruction>,
    /// From `begin` on.
    body: Vec<Instruction>,
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
        let leaves = instructions.iter().any(|one| match one.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                !range.contains(&one.near_branch_target())
            }
            FlowControl::IndirectBranch => true,
            _ => false,
        });
        if returns.is_empty() || leaves {
            return None;
        }
        Some(Self {
            check: instructions[check],
            begin,
            returns,
            body: instructions[check + 1..].to_vec(),
        })
    }

    /// Whether the function puts its first two words of arguments where its caller has made room for them
    /// (cmd/compile/abi-internal.md, "spill area"), and leaves them there: then they lie behind the return
    /// address when it returns.
    fn keeps_arguments(&self) -> bool {
        const WORD: u64 = 8;
        const KEPT: [(u64, Register); 2] = [(WORD, Register::RAX), (2 * WORD, Register::RBX)];
        let prologue = self
            .body
            .iter()
            .position(|one| one.flow_control() != FlowControl::Next)
            .unwrap_or(0);
        let mut information = InstructionInfoFactory::new();
        // How far the stack pointer is below the return address.
        let mut frame = 0;
        let mut intact = [true; 2];
        let mut kept = [None; 2];
        for (index, one) in self.body[..prologue].iter().enumerate() {
            match one.mnemonic() {
                Mnemonic::Push => frame += WORD,
                Mnemonic::Sub if one.op0_register() == Register::RSP => frame += one.immediate(1),
                _ => {}
            }
            for (slot, (at, register)) in KEPT.into_iter().enumerate() {
                let keeps = one.mnemonic() == Mnemonic::Mov
                    && one.op0_kind() == OpKind::Memory
                    && one.memory_base() == Register::RSP
                    && one.memory_index() == Register::None
                    && one.memory_displacement64() == frame + at
                    && one.op1_register() == register;
                if keeps && intact[slot] {
                    kept[slot] = Some(index);
                }
                intact[slot] &= !information.info(one).used_registers().iter().any(|used| {
                    used.register().full_register() == register && is_written(used.access())
                });
            }
        }
        let slots = frame + WORD..frame + (1 + KEPT.len() as u64) * WORD;
        let mut harms = |one: &Instruction| {
            let moves_stack = one.op0_register() == Register::RSP
                && !matches!(one.mnemonic(), Mnemonic::Add | Mnemonic::Cmp);
            let (base, index) = (one.memory_base(), one.memory_index());
            if base == Register::RBP || index == Register::RSP || index == Register::RBP {
                return true;
            }
            if base != Register::RSP {
                return moves_stack;
            }
            let first = one.memory_displacement64();
            let end = first.saturating_add(one.memory_size().size().max(1) as u64);
            let written = one.mnemonic() == Mnemonic::Lea
                || information
                    .info(one)
                    .used_memory()
                    .iter()
                    .any(|used| is_written(used.access()));
            moves_stack
                || written && (index != Register::None || first < slots.end && slots.start < end)
        };
        let [Some(first), Some(second)] = kept else {
            return false;
        };
        !self.body.iter().enumerate().any(|(index, one)| {
            let prepares = index < prologue && one.op0_register() == Register::RSP;
            !prepares && ![first, second].contains(&index) && harms(one)
        })
    }
}

fn is_written(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::NoMemAccess | OpAccess::Read | OpAccess::CondRead
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> Code {
        let body: Vec<Instruction> = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE)
            .into_iter()
            .collect();
        Code {
            check: body[0],
            begin: body[0],
            returns: Vec::new(),
            body,
        }
    }

    /// `push rbp; mov rbp, rsp; sub rsp, 16; mov [rsp + 32], rax; mov [rsp + 40], rbx; call $+5`
    const KEEPS: &[u8] =
        b"\x55\x48\x89\xe5\x48\x83\xec\x10\x48\x89\x44\x24\x20\x48\x89\x5c\x24\x28\xe8\0\0\0\0";

    #[test]
    fn arguments_that_are_kept() {
        // `mov rax, [rsp + 32]; add rsp, 16; pop rbp; ret`
        let rest = b"\x48\x8b\x44\x24\x20\x48\x83\xc4\x10\x5d\xc3";
        assert!(code(&[KEEPS, rest].concat()).keeps_arguments());
    }

    #[test]
    fn arguments_that_are_not_kept() {
        let after: [&[u8]; 4] = [
            b"\x48\x89\x4c\x24\x28", // mov [rsp + 40], rcx
            b"\xc6\x44\x24\x23\0",   // mov byte [rsp + 35], 0
            b"\x48\x8d\x4c\x24\x20", // lea rcx, [rsp + 32]
            b"\x48\x83\xec\x08",     // sub rsp, 8
        ];
        for rest in after {
            assert!(
                !code(&[KEEPS, rest].concat()).keeps_arguments(),
                "{rest:x?}"
            );
        }
        // `xor eax, eax` comes first.
        assert!(!code(&[b"\x31\xc0", KEEPS].concat()).keeps_arguments());
        assert!(!code(&KEEPS[8..]).keeps_arguments());
    }
}
