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

/// Functions through which plaintext passes, and what is at a probe there.
const FUNCTIONS: [(&str, u8); 3] = [
    ("crypto/tls.(*Conn).Write", go::WRITE),
    ("crypto/tls.(*Conn).Read", go::READ),
    ("crypto/tls.(*Conn).Close", go::CLOSE),
];

/// Functions that run in the goroutine that makes or answers a call. Of each line the first that is there.
const CALLERS: [Caller; 8] = [
    // `roundTrip` is there since Go 1.22; before, `RoundTrip` did it.
    Caller {
        names: &[
            "net/http.(*http2ClientConn).roundTrip",
            "net/http.(*http2ClientConn).RoundTrip",
        ],
        function: go::ROUND_TRIP_2,
        conn: TCONN,
    },
    Caller {
        names: &["net/http/internal/http2.(*ClientConn).roundTrip"],
        function: go::ROUND_TRIP_2,
        conn: TCONN,
    },
    Caller {
        names: &[
            "golang.org/x/net/http2.(*ClientConn).roundTrip",
            "golang.org/x/net/http2.(*ClientConn).RoundTrip",
        ],
        function: go::ROUND_TRIP_2,
        conn: TCONN,
    },
    Caller {
        names: &["net/http.(*persistConn).roundTrip"],
        function: go::ROUND_TRIP,
        conn: 80,
    },
    Caller {
        names: &["net/http.(*conn).serve"],
        function: go::SERVE,
        conn: 16,
    },
    Caller {
        names: &["net/http.(*http2serverConn).runHandler"],
        function: go::RUN_HANDLER,
        conn: 16,
    },
    Caller {
        names: &["net/http/internal/http2.(*serverConn).runHandler"],
        function: go::RUN_HANDLER,
        conn: 16,
    },
    Caller {
        names: &["golang.org/x/net/http2.(*serverConn).runHandler"],
        function: go::RUN_HANDLER,
        conn: 16,
    },
];

/// Offset of `tconn` in HTTP/2's `ClientConn`.
const TCONN: u16 = 8;

/// A function that runs in the goroutine that makes or answers a call.
struct Caller {
    names: &'static [&'static str],
    /// What is at the probe.
    function: u8,
    /// Offset of the `net.Conn` in the receiver: the same by the DWARF of programs built with Go 1.18 to 1.26,
    /// and in the sources of golang.org/x/net 0.30 to 0.62. A wrong one would stand for no connection.
    conn: u16,
}

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
        let runtime = Runtime::of(elf, &table, version.as_deref());
        let goid = runtime.goid;
        match probes(elf, &functions, &runtime) {
            Ok(mut probes) => {
                if goid != 0 {
                    probes.extend(callers(elf, &table, &runtime));
                }
                Finding::Found(Found {
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
                })
            }
            Err(reason) => Finding::Refused(reason),
        }
    }
}

type Range = std::ops::Range<u64>;

fn probes(
    elf: &Elf,
    functions: &[(&'static str, u8, Range)],
    runtime: &Runtime,
) -> Result<Vec<Probe>, String> {
    let mut probes = Vec::new();
    for (name, function, range) in functions {
        let code = Code::decode(elf, range.clone())
            .ok_or_else(|| format!("the code of {name} cannot be followed"))?;
        let mut add = |instruction: &Instruction, function: u8| {
            let cookie = runtime.cookie(function, 0);
            probes.push(probe(elf, name, range, instruction, cookie)?);
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

/// Where goroutines that make or answer calls pass. Without these, calls are captured all the same.
fn callers(elf: &Elf, table: &Table, runtime: &Runtime) -> Vec<Probe> {
    CALLERS
        .iter()
        .filter_map(|caller| {
            let mut names = caller.names.iter();
            let (name, range) = names.find_map(|name| Some((name, table.function(name)?)))?;
            let code = Code::decode(elf, range.clone())?;
            let cookie = runtime.cookie(caller.function, caller.conn);
            probe(elf, name, &range, &code.begin, cookie).ok()
        })
        .collect()
}

fn probe(
    elf: &Elf,
    name: &str,
    range: &Range,
    instruction: &Instruction,
    cookie: Cookie,
) -> Result<Probe, String> {
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
    Ok(Probe {
        functions: vec![name.to_owned()],
        site,
        offset,
        cookie,
        returns: false,
        family: Family::Go,
    })
}

/// Offsets in `runtime.g` (src/runtime/runtime2.go); 0 for what is not known, or not there.
struct Runtime {
    goid: u16,
    parent: u16,
}

impl Runtime {
    /// `goid` by the DWARF of programs built with each version. `parentGoid` (Go 1.21) by the code that sets it,
    /// or where that is not as expected, by DWARF too.
    fn of(elf: &Elf, table: &Table, version: Option<&str>) -> Self {
        let minor = version
            .and_then(|version| version.strip_prefix("go1."))
            .and_then(|rest| {
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse()
                    .ok()
            });
        let (goid, parent) = match minor {
            Some(17..=20) => (152, None),
            Some(21..=22 | 25) => (152, Some(272)),
            // With `syscallbp`, and still with `gobuf.ret`.
            Some(23..=24) => (160, Some(280)),
            Some(26) => (152, Some(280)),
            _ => (0, None),
        };
        Self {
            goid,
            parent: parent.map_or(0, |known| parent_by_code(elf, table, goid).unwrap_or(known)),
        }
    }

    fn cookie(&self, function: u8, conn: u16) -> Cookie {
        Cookie {
            function,
            count: 0,
            goid: self.goid,
            parent: self.parent,
            conn,
        }
    }
}

/// Where `runtime.newproc1` puts the id of the goroutine that it runs for: `newg.parentGoid = callergp.goid`, and
/// `newg.gopc = callerpc` into the next word.
fn parent_by_code(elf: &Elf, table: &Table, goid: u16) -> Option<u16> {
    const WORD: u64 = 8;
    /// Instructions within which the one follows the other.
    const NEAR: usize = 6;
    let code = decode(elf, &table.function("runtime.newproc1")?)?;
    let moves = |one: &Instruction| one.mnemonic() == Mnemonic::Mov;
    // A move of a whole register to a place behind another one.
    let puts = |one: &Instruction| {
        let field = moves(one)
            && one.op0_kind() == OpKind::Memory
            && one.op1_register().is_gpr64()
            && ![Register::RSP, Register::RBP].contains(&one.memory_base());
        field.then(|| (one.memory_base(), one.memory_displacement64()))
    };
    code.iter().enumerate().find_map(|(index, load)| {
        let is_goid = moves(load)
            && load.op0_register().is_gpr64()
            && load.op1_kind() == OpKind::Memory
            && ![Register::RSP, Register::RBP].contains(&load.memory_base())
            && load.memory_displacement64() == u64::from(goid);
        if !is_goid {
            return None;
        }
        let mut after = code.iter().skip(index + 1).take(NEAR);
        let (base, place) = after
            .find_map(|one| puts(one).filter(|_| one.op1_register() == load.op0_register()))?;
        let next = after.any(|one| puts(one) == Some((base, place + WORD)));
        u16::try_from(place).ok().filter(|_| next)
    })
}

/// The instructions of a function, if it holds nothing else.
fn decode(elf: &Elf, range: &Range) -> Option<Vec<Instruction>> {
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
    (!instructions.iter().any(Instruction::is_invalid)).then_some(instructions)
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
        let instructions = decode(elf, &range)?;
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
