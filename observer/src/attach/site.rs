//! Which instruction of a function to probe.
//!
//! The kernel emulates a few instructions (arch/x86/kernel/uprobes.c: `push`, `nop`, near `call`,
//! `jmp` and conditional jumps); any other it executes out of line under single-step, which costs
//! several times as much, and twenty times in a virtual machine. So the probe goes to the first
//! emulated instruction on the straight way from the entry where every argument is provably still
//! in its register and, if the return is of interest too, the stack pointer still points at the
//! return address. Where a function only prepares a call of another one with the same arguments, as
//! OpenSSL's `SSL_read` and `SSL_read_ex` do, that one is looked at. Whatever cannot be proved
//! leaves the entry of the function, which is always right.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, MemorySize,
    Mnemonic, OpAccess, OpKind, Register,
};
use object::Architecture;
use observer_common::count;
use serde::{Deserialize, Serialize};

use super::{
    abi::{ARGUMENTS, CLOBBERED},
    elf::Elf,
};

/// Bytes of a function that are decoded.
const CODE_BYTES: usize = 4096;

/// Instructions of a function that are followed.
const INSTRUCTIONS: usize = 512;

/// Instructions between the entry and the probe.
const STRAIGHT: usize = 32;

/// Calls that are followed, one inside the other.
const DEPTH: usize = 3;

/// What a probe needs of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The first argument, at the entry.
    First,
    /// The first argument, at the entry; and the result.
    FirstAndResult,
    /// `(SSL *, buffer, int)` at the entry; the result is the number of bytes.
    Transfer,
    /// `(SSL *, buffer, size_t, size_t *count)` at the entry; the result says whether it worked.
    TransferEx,
    /// As [`TransferEx`](Self::TransferEx), or `(SSL *, buffer, size_t, uint64_t flags, size_t *count)`.
    TransferFlags,
}

/// What a probe at a place costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cost {
    /// The kernel emulates the instruction: about half a microsecond.
    Emulated,
    /// The kernel executes the instruction out of line: one to ten microseconds.
    SingleStepped,
}

impl Cost {
    /// What it is called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::SingleStepped => "single-stepped",
        }
    }
}

/// A place to probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Site {
    /// Address of the instruction, as linked.
    pub address: u64,
    /// Entry of the function that it is in: the one asked for, or one that it calls.
    pub function: u64,
    /// The instruction's mnemonic.
    pub instruction: String,
    /// What a probe costs there.
    pub cost: Cost,
    /// Where the number of bytes is found: one of [`count`].
    pub count: u8,
}

impl fmt::Display for Site {
    /// `push at +0x0, emulated`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {:#x}+{:#x}, {}",
            self.instruction,
            self.function,
            self.address - self.function,
            self.cost.as_str()
        )
    }
}

/// The best place in the function at `function` itself, if one but its entry can be proved, or the entry
/// is the best.
pub fn direct(elf: &Elf, function: u64, needs: Needs) -> Option<Site> {
    if elf.architecture() != Architecture::X86_64 {
        return None;
    }
    Goal { elf, needs }.direct(function, &State::entry(), Asked::Itself)
}

/// The best place in the function that the one at `function` calls with the same arguments, if there is
/// exactly one such function.
pub fn inner(elf: &Elf, function: u64, needs: Needs) -> Option<Site> {
    if elf.architecture() != Architecture::X86_64 {
        return None;
    }
    Goal { elf, needs }.inner(function, &State::entry(), DEPTH)
}

/// The entry of the function, where every probe is right, whatever it costs.
pub fn entry(elf: &Elf, function: u64, needs: Needs) -> Site {
    Goal { elf, needs }.entry(function)
}

impl Needs {
    fn result(self) -> bool {
        self != Self::First
    }

    fn transfer(self) -> bool {
        matches!(
            self,
            Self::Transfer | Self::TransferEx | Self::TransferFlags
        )
    }

    fn count(self) -> u8 {
        match self {
            Self::TransferEx => count::ARGUMENT_3,
            Self::TransferFlags => count::ARGUMENT_3_OR_4,
            _ => count::RESULT,
        }
    }
}

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Value {
    /// The argument of this number, from 0.
    Argument(u8),
    /// An address in the frame of the function that was asked for, or of one that it called.
    Frame,
    Unknown,
}

/// What is known before an instruction is executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// By [`Register::number`].
    registers: [Value; 16],
    /// How far the stack pointer is below the return address, in bytes.
    depth: Option<i64>,
    /// Something may have been written over the return address.
    overwritten: bool,
}

impl State {
    fn entry() -> Self {
        let mut registers = [Value::Unknown; 16];
        for (number, register) in (0..).zip(ARGUMENTS) {
            registers[register.number()] = Value::Argument(number);
        }
        registers[Register::RSP.number()] = Value::Frame;
        Self {
            registers,
            depth: Some(0),
            overwritten: false,
        }
    }

    /// As a function finds it that is called, or jumped to, in this state.
    fn called(&self) -> Self {
        Self {
            depth: Some(0),
            overwritten: false,
            ..self.clone()
        }
    }

    fn get(&self, register: Register) -> Value {
        self.registers[register.full_register().number()]
    }

    fn set(&mut self, register: Register, value: Value) {
        self.registers[register.full_register().number()] = value;
    }

    /// Whether the stack pointer points at the untouched return address.
    fn at_return_address(&self) -> bool {
        self.depth == Some(0) && !self.overwritten
    }

    /// What the instruction leaves behind.
    fn step(&mut self, instruction: &Instruction, infos: &mut InstructionInfoFactory) {
        let value = self.result(instruction);
        let depth = self.depth_after(instruction);
        let info = infos.info(instruction);
        for memory in info.used_memory() {
            let writes = !matches!(
                memory.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
            );
            // A write relative to the stack pointer, at or above the return address.
            let pushes = matches!(instruction.flow_control(), FlowControl::Call)
                || instruction.mnemonic() == Mnemonic::Push;
            if writes && !pushes && self.get(memory.base()) == Value::Frame {
                let end = memory.displacement().cast_signed() + size(memory.memory_size());
                let above = self.depth.is_none_or(|depth| end > depth);
                let plain = memory.base() == Register::RSP && memory.index() == Register::None;
                self.overwritten |= above || !plain;
            }
        }
        for register in info.used_registers() {
            if matches!(
                register.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
            ) || !register.register().is_gpr()
            {
                continue;
            }
            self.set(register.register(), Value::Unknown);
        }
        if matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        ) {
            for register in CLOBBERED {
                self.set(register, Value::Unknown);
            }
        }
        if let Some(value) = value {
            self.set(instruction.op0_register(), value);
        }
        self.depth = depth;
        self.set(Register::RSP, Value::Frame);
    }

    /// The value of the register that the instruction writes, where it is known.
    fn result(&self, instruction: &Instruction) -> Option<Value> {
        if instruction.op_count() != 2
            || instruction.op0_kind() != OpKind::Register
            || !instruction.op0_register().is_gpr64() && !instruction.op0_register().is_gpr32()
        {
            return None;
        }
        let wide = instruction.op0_register().is_gpr64();
        match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
                match self.get(instruction.op1_register()) {
                    // The `int` of the third argument.
                    Value::Argument(2) => Some(Value::Argument(2)),
                    value if wide => Some(value),
                    _ => None,
                }
            }
            Mnemonic::Movsxd if instruction.op1_kind() == OpKind::Register => {
                (self.get(instruction.op1_register()) == Value::Argument(2))
                    .then_some(Value::Argument(2))
            }
            Mnemonic::Lea
                if wide
                    && instruction.memory_index() == Register::None
                    && instruction.memory_base().is_gpr64()
                    && self.get(instruction.memory_base()) == Value::Frame =>
            {
                Some(Value::Frame)
            }
            _ => None,
        }
    }

    fn depth_after(&self, instruction: &Instruction) -> Option<i64> {
        let depth = self.depth?;
        let writes_rsp = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::Call => Some(depth),
            Mnemonic::Sub | Mnemonic::Add if writes_rsp => {
                let is_immediate = matches!(
                    instruction.op1_kind(),
                    OpKind::Immediate8to64 | OpKind::Immediate32to64
                );
                let amount = is_immediate.then(|| instruction.immediate(1).cast_signed())?;
                if instruction.mnemonic() == Mnemonic::Sub {
                    depth.checked_add(amount)
                } else {
                    depth.checked_sub(amount)
                }
            }
            Mnemonic::Lea if writes_rsp && instruction.memory_base() == Register::RSP => {
                (instruction.memory_index() == Register::None)
                    .then(|| instruction.memory_displacement64().cast_signed())
                    .and_then(|by| depth.checked_sub(by))
            }
            // Not of interest but where the stack pointer is still known afterwards.
            Mnemonic::Test | Mnemonic::Cmp => Some(depth),
            _ if writes_rsp => None,
            Mnemonic::Leave | Mnemonic::Enter => None,
            _ => depth.checked_sub(i64::from(instruction.stack_pointer_increment())),
        }
    }
}

/// Whether a function is the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Itself,
    ByIt,
}

/// What is looked for.
struct Goal<'a> {
    elf: &'a Elf,
    needs: Needs,
}

impl Goal<'_> {
    fn entry(&self, function: u64) -> Site {
        let first = self
            .elf
            .code(function, 16)
            .ok()
            .filter(|_| self.elf.architecture() == Architecture::X86_64)
            .map(|code| Decoder::with_ip(64, &code, function, DecoderOptions::NONE).decode());
        Site {
            address: function,
            function,
            instruction: first.map_or_else(|| "entry".to_owned(), |first| name(&first)),
            cost: match first {
                Some(first) if is_emulated(&first) => Cost::Emulated,
                _ => Cost::SingleStepped,
            },
            count: self.needs.count(),
        }
    }

    /// The first emulated instruction on the straight way from the entry, if it will do.
    fn direct(&self, function: u64, entry: &State, asked: Asked) -> Option<Site> {
        let code = self.elf.code(function, CODE_BYTES).ok()?;
        let mut decoder = Decoder::with_ip(64, &code, function, DecoderOptions::NONE);
        let mut infos = InstructionInfoFactory::new();
        let mut state = entry.clone();
        for _ in 0..STRAIGHT {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return None;
            }
            if is_emulated(&instruction) {
                let count = self.arguments(&state, asked)?;
                if self.needs.result() && !state.at_return_address() {
                    return None;
                }
                let address = instruction.ip();
                if address != function && is_entered_again(function, address, &code) {
                    return None;
                }
                return Some(Site {
                    address,
                    function,
                    instruction: name(&instruction),
                    cost: Cost::Emulated,
                    count,
                });
            }
            if instruction.flow_control() != FlowControl::Next {
                return None;
            }
            state.step(&instruction, &mut infos);
        }
        None
    }

    /// The place in the one function that this one calls with the same arguments.
    fn inner(&self, function: u64, entry: &State, depth: usize) -> Option<Site> {
        if !self.needs.transfer() || depth == 0 {
            return None;
        }
        let code = self.elf.code(function, CODE_BYTES).ok()?;
        let mut targets: HashMap<u64, State> = HashMap::new();
        walk(function, &code, entry, &mut |instruction, state, within| {
            let leaves = match instruction.flow_control() {
                FlowControl::Call => true,
                FlowControl::UnconditionalBranch => !within,
                _ => false,
            };
            let target = instruction.near_branch_target();
            if leaves
                && self.arguments(state, Asked::ByIt).is_some()
                && state.get(Register::RDX) == Value::Argument(2)
                && !self.is_stub(target)
            {
                targets.insert(target, state.called());
            }
        })?;
        // Two functions that could be meant: neither is proved.
        if targets.len() != 1 {
            return None;
        }
        let (target, state) = targets.into_iter().next()?;
        self.direct(target, &state, Asked::ByIt)
            .or_else(|| self.inner(target, &state, depth - 1))
    }

    /// Where the number of bytes is to be found, if the arguments are in their registers.
    fn arguments(&self, state: &State, asked: Asked) -> Option<u8> {
        if state.get(Register::RDI) != Value::Argument(0) {
            return None;
        }
        if !self.needs.transfer() {
            return Some(count::RESULT);
        }
        if state.get(Register::RSI) != Value::Argument(1) {
            return None;
        }
        let pointer = match (self.needs, asked) {
            (Needs::TransferFlags, _) => {
                let both = state.get(Register::RCX) == Value::Argument(3)
                    && state.get(Register::R8) == Value::Argument(4);
                return both.then_some(count::ARGUMENT_3_OR_4);
            }
            (Needs::TransferEx, _) => Value::Argument(3),
            // Its caller has no place for the number, so it makes one in its own frame.
            (_, Asked::ByIt) => Value::Frame,
            (_, Asked::Itself) => return Some(count::RESULT),
        };
        if state.get(Register::RCX) == pointer {
            Some(count::ARGUMENT_3)
        } else if state.get(Register::R8) == pointer {
            Some(count::ARGUMENT_4)
        } else {
            None
        }
    }

    /// Whether a call goes on to another library (PLT).
    fn is_stub(&self, target: u64) -> bool {
        let Ok(code) = self.elf.code(target, 32) else {
            return true;
        };
        let mut decoder = Decoder::with_ip(64, &code, target, DecoderOptions::NONE);
        let mut instruction = decoder.decode();
        if instruction.mnemonic() == Mnemonic::Endbr64 {
            instruction = decoder.decode();
        }
        instruction.is_invalid() || instruction.flow_control() == FlowControl::IndirectBranch
    }
}

/// Whether the function jumps back to a place between its entry and `site`: the probe would be hit more
/// than once a call.
fn is_entered_again(function: u64, site: u64, code: &[u8]) -> bool {
    let end = function + code.len() as u64;
    let mut seen: HashSet<u64> = HashSet::new();
    let mut ways = vec![function];
    while let Some(address) = ways.pop() {
        let rest = usize::try_from(address - function)
            .ok()
            .and_then(|offset| code.get(offset..))
            .unwrap_or_default();
        for instruction in Decoder::with_ip(64, rest, address, DecoderOptions::NONE) {
            if !seen.insert(instruction.ip()) {
                break;
            }
            let flow = instruction.flow_control();
            if matches!(
                flow,
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            ) {
                let target = instruction.near_branch_target();
                if function < target && target <= site {
                    return true;
                }
                if (function..end).contains(&target) {
                    ways.push(target);
                }
            }
            if !matches!(
                flow,
                FlowControl::Next
                    | FlowControl::Call
                    | FlowControl::IndirectCall
                    | FlowControl::ConditionalBranch
            ) {
                break;
            }
        }
    }
    false
}

/// Follows every way through a function and shows each instruction with what is known before it, and
/// whether a branch stays within the code. `None` if there is too much of it, or a way cannot be
/// followed.
fn walk(
    function: u64,
    code: &[u8],
    entry: &State,
    show: &mut dyn FnMut(&Instruction, &State, bool),
) -> Option<()> {
    let end = function + code.len() as u64;
    let mut infos = InstructionInfoFactory::new();
    let mut seen: HashSet<(u64, State)> = HashSet::new();
    let mut ways = vec![(function, entry.clone())];
    while let Some((address, mut state)) = ways.pop() {
        let offset = usize::try_from(address - function).ok()?;
        let mut decoder = Decoder::with_ip(64, code.get(offset..)?, address, DecoderOptions::NONE);
        loop {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return None;
            }
            if !seen.insert((instruction.ip(), state.clone())) {
                break;
            }
            if seen.len() > INSTRUCTIONS {
                return None;
            }
            let target = instruction.near_branch_target();
            let within = (function..end).contains(&target);
            show(&instruction, &state, within);
            let flow = instruction.flow_control();
            state.step(&instruction, &mut infos);
            match flow {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {}
                FlowControl::ConditionalBranch => {
                    if within {
                        ways.push((target, state.clone()));
                    }
                }
                FlowControl::UnconditionalBranch => {
                    if within {
                        ways.push((target, state));
                    }
                    break;
                }
                _ => break,
            }
        }
    }
    Some(())
}

/// Whether the kernel emulates the instruction instead of executing it out of line
/// (`branch_setup_xol_ops` and `push_setup_xol_ops` in arch/x86/kernel/uprobes.c, the same since
/// Linux 5.15). Long nops are left out: only newer kernels emulate them, and the optimised five-byte
/// one writes below the stack pointer.
pub(super) fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Push_r64 => {
            // At most a REX prefix with nothing but B.
            instruction.len() == 1
                || (instruction.len() == 2 && instruction.op0_register().number() >= 8)
        }
        Code::Nopd => instruction.len() == 1,
        Code::Call_rel32_64 | Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => true,
        _ => instruction.is_jcc_short_or_near(),
    }
}

/// Bytes of a memory operand; much where that is not known.
fn size(size: MemorySize) -> i64 {
    match i64::try_from(size.size()) {
        Ok(0) | Err(_) => 4096,
        Ok(bytes) => bytes,
    }
}

pub(super) fn name(instruction: &Instruction) -> String {
    format!("{:?}", instruction.mnemonic()).to_lowercase()
}
