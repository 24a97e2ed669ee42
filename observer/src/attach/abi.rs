//! How functions in C are called (System V ABI, AMD64 supplement).

use iced_x86::Register;

/// The registers of the first arguments (System V ABI, AMD64 supplement, 3.2.3).
pub(super) const ARGUMENTS: [Register; 6] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::RCX,
    Register::R8,
    Register::R9,
];

/// Registers that a called function need not preserve (same place).
pub(super) const CLOBBERED: [Register; 9] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];
