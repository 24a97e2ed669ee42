//! The registers of a probed function, by architecture. Reads are volatile: the compiler would choose the
//! address first and then read, which the verifier does not allow in a context.

use core::ptr::addr_of;

use aya_ebpf::bindings::pt_regs;

/// What Go's functions keep in registers (cmd/compile/abi-internal.md).
pub struct GoRegisters {
    /// The current goroutine's `runtime.g`.
    pub g: u64,
    /// The first three words of the arguments, or of the results.
    pub words: [u64; 3],
}

#[cfg(bpf_target_arch = "x86_64")]
mod architecture {
    use super::*;

    macro_rules! read {
        ($registers:expr, $name:ident) => {
            // SAFETY: the kernel passed the registers as context.
            unsafe { addr_of!((*$registers).$name).read_volatile() }
        };
    }

    /// The arguments 3 and 4, counted from 0.
    #[inline(always)]
    pub fn counts(registers: *mut pt_regs) -> (u64, u64) {
        (read!(registers, rcx), read!(registers, r8))
    }

    /// The argument 5, counted from 0.
    #[inline(always)]
    pub fn sixth(registers: *mut pt_regs) -> u64 {
        read!(registers, r9)
    }

    #[inline(always)]
    pub fn instruction_pointer(registers: *mut pt_regs) -> u64 {
        read!(registers, rip)
    }

    #[inline(always)]
    pub fn stack_pointer(registers: *mut pt_regs) -> u64 {
        read!(registers, rsp)
    }

    /// The stack pointer that the function had at its entry.
    #[inline(always)]
    pub fn stack_pointer_before_return(registers: *mut pt_regs) -> u64 {
        // `ret` has taken the return address off the stack.
        stack_pointer(registers).wrapping_sub(8)
    }

    /// Where the arguments begin, at the entry, that are passed on the stack.
    #[inline(always)]
    pub fn stack_arguments(registers: *mut pt_regs) -> u64 {
        stack_pointer(registers).wrapping_add(8)
    }

    #[inline(always)]
    pub fn go(registers: *mut pt_regs) -> GoRegisters {
        GoRegisters {
            g: read!(registers, r14),
            words: [
                read!(registers, rax),
                read!(registers, rbx),
                read!(registers, rcx),
            ],
        }
    }
}

#[cfg(bpf_target_arch = "aarch64")]
mod architecture {
    use aya_ebpf::bindings::user_pt_regs;

    use super::*;

    #[inline(always)]
    fn register<const N: usize>(registers: *mut pt_regs) -> u64 {
        // SAFETY: the kernel passed the registers as context.
        unsafe { addr_of!((*registers.cast::<user_pt_regs>()).regs[N]).read_volatile() }
    }

    /// The arguments 3 and 4, counted from 0.
    #[inline(always)]
    pub fn counts(registers: *mut pt_regs) -> (u64, u64) {
        (register::<3>(registers), register::<4>(registers))
    }

    /// The argument 5, counted from 0.
    #[inline(always)]
    pub fn sixth(registers: *mut pt_regs) -> u64 {
        register::<5>(registers)
    }

    #[inline(always)]
    pub fn instruction_pointer(registers: *mut pt_regs) -> u64 {
        // SAFETY: the kernel passed the registers as context.
        unsafe { addr_of!((*registers.cast::<user_pt_regs>()).pc).read_volatile() }
    }

    #[inline(always)]
    pub fn stack_pointer(registers: *mut pt_regs) -> u64 {
        // SAFETY: the kernel passed the registers as context.
        unsafe { addr_of!((*registers.cast::<user_pt_regs>()).sp).read_volatile() }
    }

    /// The stack pointer that the function had at its entry.
    #[inline(always)]
    pub fn stack_pointer_before_return(registers: *mut pt_regs) -> u64 {
        stack_pointer(registers)
    }

    #[inline(always)]
    pub fn go(registers: *mut pt_regs) -> GoRegisters {
        GoRegisters {
            g: register::<28>(registers),
            words: [
                register::<0>(registers),
                register::<1>(registers),
                register::<2>(registers),
            ],
        }
    }
}

pub use architecture::*;
