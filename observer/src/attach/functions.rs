//! Functions of a file without symbols: those that refer to something.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

use super::{
    elf::{Elf, UnwindTable},
    flow::{Flow, Step, Way, flow_within},
    scan::{self, BranchKind},
};

/// Bytes before a reference in which the function that it is in begins.
const WINDOW: u64 = 0x1800;

/// Instructions that are followed for one file: some seconds.
const STEPS: usize = 20_000_000;

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// What it does.
    pub flow: Flow,
    /// It is called from somewhere, directly.
    pub called: bool,
}

/// The functions with one of these instructions, by address. `references` is sorted.
///
/// # Errors
///
/// The file cannot be read.
pub fn referring(elf: &Elf, references: &[u64]) -> io::Result<BTreeMap<u64, Function>> {
    let table = elf.unwind_table();
    // Some files have a table for a part of their functions only, and some references are none.
    let (known, unknown): (Vec<u64>, Vec<u64>) = references
        .iter()
        .partition(|at| table.range(elf, **at).is_some());
    let mut functions = without_table(elf, &unknown)?;
    functions.extend(with_table(elf, &table, &known)?);
    Ok(functions)
}

/// The functions with a reference, by the table of the unwinder.
fn with_table(
    elf: &Elf,
    table: &UnwindTable,
    references: &[u64],
) -> io::Result<BTreeMap<u64, Function>> {
    let mut ranges: Vec<Range<u64>> = references
        .iter()
        .filter_map(|at| table.range(elf, *at))
        .collect();
    ranges.sort_by_key(|range| range.start);
    ranges.dedup();
    let branches = scan::branches(elf, &ranges)?;
    let mut entries: BTreeSet<u64> = ranges.iter().map(|range| range.start).collect();
    let mut called: BTreeSet<u64> = BTreeSet::new();
    for branch in &branches {
        let (Some(from), Some(into)) =
            (table.range(elf, branch.at), table.range(elf, branch.target))
        else {
            continue;
        };
        if branch.kind == BranchKind::Call && branch.target == into.start {
            called.insert(into.start);
        }
        // A part that was put elsewhere because it is rarely executed.
        if branch.kind == BranchKind::Conditional && from != into {
            entries.remove(&into.start);
            entries.insert(from.start);
        }
    }
    let mut budget = STEPS;
    let inside = |step: Step| step.way == Way::ConditionalJump || !table.is_start(step.target);
    Ok(entries
        .into_iter()
        .filter_map(|entry| {
            let flow = flow_within(elf, entry, &inside, &mut budget)?;
            // A part that was put elsewhere is described like a function.
            (!flow.is_part).then(|| {
                let called = called.contains(&entry);
                (entry, Function { flow, called })
            })
        })
        .collect())
}

/// The functions with a reference, by what is called and by what lies between them.
fn without_table(elf: &Elf, references: &[u64]) -> io::Result<BTreeMap<u64, Function>> {
    let mut windows: Vec<Range<u64>> = Vec::new();
    for at in references {
        let first = elf.code_start(*at).unwrap_or(*at);
        let window = at.saturating_sub(WINDOW).max(first)..at + 1;
        match windows.last_mut() {
            Some(last) if window.start <= last.end => last.end = window.end,
            _ => windows.push(window),
        }
    }
    let called: BTreeSet<u64> = scan::branches(elf, &windows)?
        .into_iter()
        .filter(|branch| branch.kind == BranchKind::Call)
        .map(|branch| branch.target)
        // Bytes within an instruction may look like a call, of a place within a function.
        .filter(|target| is_behind_an_end(elf, *target))
        .collect();
    let mut entries = called.clone();
    for window in &windows {
        entries.extend(padded(elf, window)?);
    }
    let mut budget = STEPS;
    let mut flows: BTreeMap<u64, Function> = BTreeMap::new();
    for at in references {
        if flows
            .values()
            .any(|function| function.flow.instructions.contains(at))
        {
            continue;
        }
        let before: Vec<u64> = entries
            .range(at.saturating_sub(WINDOW)..=*at)
            .rev()
            .copied()
            .collect();
        for entry in before {
            let inside = |step: Step| match step.way {
                Way::ConditionalJump => true,
                Way::Next => !entries.contains(&step.target),
                Way::Jump => {
                    step.target.abs_diff(entry) < 2 * WINDOW && !entries.contains(&step.target)
                }
            };
            if let Some(flow) = flow_within(elf, entry, &inside, &mut budget)
                && flow.instructions.contains(at)
                && !flow.is_part
            {
                let called = called.contains(&entry);
                flows.insert(entry, Function { flow, called });
                break;
            }
        }
    }
    Ok(flows)
}

/// Whether what lies before an address may end a function, or fill the room behind one.
fn is_behind_an_end(elf: &Elf, address: u64) -> bool {
    /// The longest instruction.
    const LONGEST: u64 = 15;
    let Some(start) = elf.code_start(address) else {
        return false;
    };
    let from = address.saturating_sub(LONGEST).max(start);
    let length = usize::try_from(address - from).unwrap_or(0);
    let Ok(code) = elf.code(from, length) else {
        return false;
    };
    // Functions may follow the start of the code, too.
    address == start
        || (0..code.len()).any(|at| {
            let instruction = Decoder::new(64, &code[at..], DecoderOptions::NONE).decode();
            instruction.len() == code.len() - at
                && (matches!(
                    instruction.flow_control(),
                    FlowControl::Return
                        | FlowControl::UnconditionalBranch
                        | FlowControl::IndirectBranch
                ) || matches!(
                    instruction.mnemonic(),
                    Mnemonic::Int3 | Mnemonic::Nop | Mnemonic::Ud2
                ))
        })
}

/// Addresses behind `int3`, with which linkers fill the room between functions.
fn padded(elf: &Elf, window: &Range<u64>) -> io::Result<Vec<u64>> {
    let length = usize::try_from(window.end - window.start).map_err(io::Error::other)?;
    let code = elf.code(window.start, length)?;
    Ok((window.start..)
        .zip(code.windows(2))
        .filter(|(_, pair)| pair[0] == 0xcc && pair[1] != 0xcc)
        .map(|(address, _)| address + 1)
        .filter(|address| address % 16 == 0)
        .collect())
}
