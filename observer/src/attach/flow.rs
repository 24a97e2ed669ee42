//! What the code of a function calls, and with which constants.
//!
//! Every way through the function is followed, each with the constants that its registers hold there:
//! compilers load an argument far from the call, and let several places share one call.

use std::collections::{BTreeSet, HashMap, HashSet};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use super::{
    abi::{ARGUMENTS, CLOBBERED},
    elf::Elf,
};

/// Instructions of a function that are followed, on all ways together.
const STEPS: usize = 60_000;

/// What the stack pointer must be at a call a multiple of (System V ABI, AMD64 supplement, 3.2.2).
const ALIGNMENT: i64 = 16;

/// Bytes of the return address.
const RETURN_ADDRESS: i64 = 8;

/// Ways with different constants that are followed through one instruction.
const WAYS: usize = 24;

/// Bytes of code that are read at once.
const PIECE: usize = 4096;

/// A call, and the arguments that are constants there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallSite {
    /// Address of the instruction.
    pub at: u64,
    /// The function that is called.
    pub target: u64,
    /// The first arguments, where they are known.
    pub arguments: [Option<u64>; 6],
}

/// What a function does.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Its calls, in the order of their addresses.
    pub calls: BTreeSet<CallSite>,
    /// Where its instructions begin.
    pub instructions: BTreeSet<u64>,
    /// Where it returns (`ret`).
    pub returns: BTreeSet<u64>,
    /// Jumps that lead out of it, to the start of another function.
    pub tails: BTreeSet<u64>,
    /// A call is made with the stack where it cannot be if the function begins at the entry: it begins
    /// somewhere else.
    pub is_part: bool,
}

/// A step from one instruction to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it leads.
    pub target: u64,
    /// What it is.
    pub way: Way,
}

/// How one instruction comes after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It lies behind it: where another function begins there, the one before did not return.
    Next,
    /// A jump.
    Jump,
    /// A jump under a condition.
    ConditionalJump,
}

type Constants = [Option<u64>; 16];

/// What is known before an instruction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    /// By [`Register::number`].
    constants: Constants,
    /// How far the stack pointer is below the return address, in bytes.
    depth: Option<i64>,
}

/// Follows every way from `entry`, along the steps that `is_inside` says to stay within the function.
/// `None` if it is no code, or there is too much of it.
pub fn flow(elf: &Elf, entry: u64, is_inside: &dyn Fn(Step) -> bool) -> Option<Flow> {
    flow_within(elf, entry, is_inside, &mut { STEPS })
}

/// As [`flow`], with at most so many steps, which are taken away.
pub fn flow_within(
    elf: &Elf,
    entry: u64,
    is_inside: &dyn Fn(Step) -> bool,
    budget: &mut usize,
) -> Option<Flow> {
    let mut flow = Flow::default();
    let mut infos = InstructionInfoFactory::new();
    let mut seen: HashMap<u64, HashSet<State>> = HashMap::new();
    let mut steps = 0;
    let start_state = State {
        constants: [None; 16],
        depth: Some(0),
    };
    let mut ways: Vec<(u64, State)> = vec![(entry, start_state)];
    let mut code = Vec::new();
    let mut start = 0;
    let mut instruction = Instruction::default();
    while let Some((mut address, mut state)) = ways.pop() {
        let mut called = false;
        loop {
            steps += 1;
            *budget = budget.checked_sub(1)?;
            if steps > STEPS {
                return None;
            }
            let known = seen.entry(address).or_default();
            if known.len() >= WAYS || !known.insert(state) {
                break;
            }
            // The longest instruction has 15 bytes.
            let end = start + code.len() as u64;
            if address < start || address + 15 > end {
                start = address;
                code = elf.code(address, PIECE).ok()?;
            }
            let offset = usize::try_from(address - start).ok()?;
            let mut decoder =
                Decoder::with_ip(64, code.get(offset..)?, address, DecoderOptions::NONE);
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                return None;
            }
            flow.instructions.insert(address);
            let target = instruction.near_branch_target();
            let kind = instruction.flow_control();
            // A function that does not return is the end of this one, and another may begin behind the room
            // between them.
            if called && matches!(instruction.mnemonic(), Mnemonic::Int3 | Mnemonic::Nop) {
                state.depth = None;
            }
            called = matches!(kind, FlowControl::Call | FlowControl::IndirectCall);
            let arguments = ARGUMENTS.map(|register| state.constants[register.number()]);
            if called {
                flow.is_part |= state
                    .depth
                    .is_some_and(|depth| (depth + RETURN_ADDRESS) % ALIGNMENT != 0);
            }
            if kind == FlowControl::Call {
                flow.calls.insert(CallSite {
                    at: address,
                    target,
                    arguments,
                });
            }
            state.depth = depth_after(&instruction, state.depth);
            step(&instruction, &mut state.constants, &mut infos);
            match kind {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {}
                FlowControl::ConditionalBranch => {
                    let way = Way::ConditionalJump;
                    if is_inside(Step { target, way }) {
                        ways.push((target, state));
                    }
                }
                FlowControl::UnconditionalBranch => {
                    let way = Way::Jump;
                    if !is_inside(Step { target, way }) {
                        flow.tails.insert(target);
                        flow.calls.insert(CallSite {
                            at: address,
                            target,
                            arguments,
                        });
                        break;
                    }
                    address = target;
                    continue;
                }
                FlowControl::Return => {
                    flow.returns.insert(address);
                    break;
                }
                _ => break,
            }
            address = instruction.next_ip();
            if !is_inside(Step {
                target: address,
                way: Way::Next,
            }) {
                break;
            }
        }
    }
    Some(flow)
}

/// How far the stack pointer is below the return address after an instruction.
fn depth_after(instruction: &Instruction, depth: Option<i64>) -> Option<i64> {
    let depth = depth?;
    let writes_rsp = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().full_register() == Register::RSP;
    let amount = || {
        matches!(
            instruction.op1_kind(),
            OpKind::Immediate8to64 | OpKind::Immediate32to64
        )
        .then(|| instruction.immediate(1).cast_signed())
    };
    match instruction.mnemonic() {
        // What is called puts it back.
        Mnemonic::Call | Mnemonic::Cmp | Mnemonic::Test => Some(depth),
        Mnemonic::Leave | Mnemonic::Enter => None,
        Mnemonic::Sub if writes_rsp => depth.checked_add(amount()?),
        Mnemonic::Add if writes_rsp => depth.checked_sub(amount()?),
        Mnemonic::Lea if writes_rsp => (instruction.memory_base() == Register::RSP
            && instruction.memory_index() == Register::None)
            .then(|| instruction.memory_displacement64().cast_signed())
            .and_then(|by| depth.checked_sub(by)),
        _ if writes_rsp => None,
        _ => depth.checked_sub(i64::from(instruction.stack_pointer_increment())),
    }
}

fn step(instruction: &Instruction, constants: &mut Constants, infos: &mut InstructionInfoFactory) {
    let value = result(instruction, constants);
    let exchanged = instruction.mnemonic() == Mnemonic::Xor
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register();
    for register in infos.info(instruction).used_registers() {
        let writes = !matches!(
            register.access(),
            OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
        );
        if writes && register.register().is_gpr() {
            constants[register.register().full_register().number()] = None;
        }
    }
    if matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    ) {
        for register in CLOBBERED {
            constants[register.number()] = None;
        }
    }
    let value = if exchanged { Some(0) } else { value };
    if let Some(value) = value {
        constants[instruction.op0_register().full_register().number()] = Some(value);
    }
}

/// The constant that the instruction puts into its first operand, a register of 32 or 64 bits.
fn result(instruction: &Instruction, constants: &Constants) -> Option<u64> {
    let wide = instruction.op0_register().is_gpr64();
    if instruction.op_count() < 2
        || instruction.op0_kind() != OpKind::Register
        || !wide && !instruction.op0_register().is_gpr32()
    {
        return None;
    }
    let get = |register: Register| constants[register.full_register().number()];
    let value = match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
            get(instruction.op1_register())?
        }
        Mnemonic::Mov => match instruction.op1_kind() {
            OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64 => {
                instruction.immediate(1)
            }
            _ => return None,
        },
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
            instruction.ip_rel_memory_address()
        }
        Mnemonic::Lea if instruction.memory_index() == Register::None => {
            get(instruction.memory_base())?.wrapping_add(instruction.memory_displacement64())
        }
        _ => return None,
    };
    Some(if wide { value } else { value & 0xffff_ffff })
}
