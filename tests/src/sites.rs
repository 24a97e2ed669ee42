//! Proves with another disassembler that the places that observer would probe are right.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::harness::binary;

/// Registers of arguments and what objdump calls their parts.
const ARGUMENTS: [&[&str]; 5] = [
    &["%rdi", "%edi"],
    &["%rsi", "%esi"],
    &["%rdx", "%edx"],
    &["%rcx", "%ecx"],
    &["%r8", "%r8d"],
];

/// What `observer check` says of a file.
///
/// # Panics
///
/// It does not run.
pub fn check(path: &Path) -> Value {
    let output = Command::new(binary())
        .args(["check", "--format", "json", "--file"])
        .arg(path)
        .output()
        .expect("the agent");
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// The probes that it plans for a file.
///
/// # Panics
///
/// The file does not hold exactly one TLS library.
pub fn probes(path: &Path) -> Vec<Value> {
    let report = check(path);
    let libraries = report["libraries"].as_array().expect("a list");
    assert_eq!(libraries.len(), 1, "{}: {report:#}", path.display());
    libraries[0]["probes"].as_array().expect("a list").clone()
}

/// Instructions of a part of a file by another disassembler: address and text.
fn objdump(path: &Path, from: u64, to: u64) -> Vec<(u64, String)> {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(format!("--start-address={from:#x}"))
        .arg(format!("--stop-address={to:#x}"))
        .arg(path)
        .output()
        .expect("objdump (binutils)");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (address, text) = line.trim().split_once(":\t")?;
            let address = u64::from_str_radix(address, 16).ok()?;
            Some((address, text.trim().to_owned()))
        })
        .collect()
}

/// Whether the kernel emulates it (arch/x86/kernel/uprobes.c).
fn is_emulated(text: &str) -> bool {
    let mnemonic = text.split_whitespace().next().unwrap_or_default();
    let direct = !text.contains('*');
    (mnemonic == "push" && text.contains('%'))
        || (mnemonic == "call" && direct)
        || (mnemonic.starts_with('j') && direct && mnemonic != "jrcxz" && mnemonic != "jecxz")
        || mnemonic == "nop" && !text.contains('(')
}

/// Asserts that the way from the function's entry to the site is straight, leaves the arguments alone
/// and, where the return is probed, the stack too. A site that is not cheap is the entry.
///
/// # Panics
///
/// It is not so.
pub fn assert_right(path: &Path, probe: &Value) {
    let number = |field: &str| probe[field].as_u64().expect("a number");
    let (within, site) = (number("within"), number("address"));
    if probe["cost"] != "emulated" {
        assert_eq!(within, site, "{probe:#}");
        return;
    }
    let code = objdump(path, within, site + 16);
    let place = code.iter().position(|(address, _)| *address == site);
    let place = place.unwrap_or_else(|| panic!("no instruction begins at the site: {probe:#}"));
    assert!(is_emulated(&code[place].1), "{}: {probe:#}", code[place].1);
    let mut needed: Vec<&str> = Vec::new();
    let text = |field: &str| probe[field].as_str().expect("a text");
    let function = text("function");
    needed.extend(ARGUMENTS[0]);
    let transfers = ["read", "write", "send", "recv"];
    if transfers.iter().any(|name| function.contains(name)) {
        needed.extend(ARGUMENTS[1]);
    }
    match text("count") {
        "argument 3" => needed.extend(ARGUMENTS[3]),
        "argument 3 or 4" => needed.extend([ARGUMENTS[3], ARGUMENTS[4]].concat()),
        "argument 4" => needed.extend(ARGUMENTS[4]),
        _ => {}
    }
    for (_, text) in &code[..place] {
        let mnemonic = text.split_whitespace().next().unwrap_or_default();
        let written = text.rsplit([',', ' ']).next().unwrap_or_default();
        let compares = ["cmp", "test", "endbr64", "nop"]
            .iter()
            .any(|harmless| mnemonic.starts_with(harmless));
        // A move into the fifth argument's register makes it the place of the count.
        let moves = mnemonic == "mov" && probe["count"] == "argument 4" && written == "%r8";
        assert!(
            compares || moves || !needed.contains(&written),
            "{text} before {probe:#}"
        );
        assert!(
            !mnemonic.starts_with('j') && !["call", "ret"].contains(&mnemonic),
            "{text} before {probe:#}"
        );
        if probe["return"] == true {
            assert!(
                !text.contains("%rsp") && !["push", "pop", "leave"].contains(&mnemonic),
                "{text} before {probe:#}"
            );
        }
    }
}
