//! Functions of a file without symbols: those that refer to something.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
};

use super::{
    elf::{Elf, UnwindTable},
    flow::{Flow, Step, Way, flow},
    scan::{self, BranchKind},
};

/// Bytes before a reference in which the function that it is in begins.
const WINDOW: u64 = 0x1800;

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
    Ok(entries
        .into_iter()
        .filter_map(|entry| {
            let inside =
                |step: Step| step.way == Way::ConditionalJump || !table.is_start(step.target);
            Some((
                entry,
                Function {
                    flow: flow(elf, entry, &inside)?,
                    called: called.contains(&entry),
                },
            ))
        })
        .collect())
}

/// The functions with a reference, by what is called and by what lies between them.
fn without_table(elf: &Elf, references: &[u64]) -> io::Result<BTreeMap<u64, Function>> {
    let mut windows: Vec<Range<u64>> = Vec::new();
    for at in references {
        let window = at.saturating_sub(WINDOW)..at + 1;
        match windows.last_mut() {
            Some(last) if window.start <= last.end => last.end = window.end,
            _ => windows.push(window),
        }
    }
    let called: BTreeSet<u64> = scan::branches(elf, &windows)?
        .into_iter()
        .filter(|branch| branch.kind == BranchKind::Call)
        .map(|branch| branch.target)
        .collect();
    let mut entries = called.clone();
    for window in &windows {
        entries.extend(padded(elf, window)?);
    }
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
                Way::Next => !called.contains(&step.target),
                Way::Jump => {
                    step.target.abs_diff(entry) < 2 * WINDOW && !called.contains(&step.target)
                }
            };
            if let Some(flow) = flow(elf, entry, &inside)
                && flow.instructions.contains(at)
            {
                let called = called.contains(&entry);
                flows.insert(entry, Function { flow, called });
                break;
            }
        }
    }
    Ok(flows)
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
