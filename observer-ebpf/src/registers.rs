//! The registers of a probed function, by architecture. Reads are volatile: the compiler would choose the
//! address first and then read, which the verifier does not allow in a context.

use core::ptr::addr_of;

use aya_ebpf::{bindings::pt_regs, helpers::bpf_probe_read_kernel};

/// A system call as its registers tell.
pub struct SystemCall {
    pub number: u64,
    pub arguments: [u64; 4],
}

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

    /// The system call that the kernel has saved these registers for; `None` where it is one of 32 bits,
    /// which have other numbers. The arguments are there until it returns.
    #[inline(always)]
    pub fn system_call(registers: *const pt_regs) -> Option<SystemCall> {
        /// Selector of 64-bit code (`__USER_CS`, arch/x86/include/asm/segment.h).
        const USER_CS: u64 = 0x33;

        // r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs
        // SAFETY: the helper checks the address.
        let words = unsafe { addr_of!((*registers).r10) }.cast::<[u64; 11]>();
        let [r10, _, _, _, _, rdx, rsi, rdi, number, _, cs] =
            // SAFETY: as above.
            unsafe { bpf_probe_read_kernel(words) }.ok()?;
        (cs == USER_CS).then_some(SystemCall {
            number,
            arguments: [rdi, rsi, rdx, r10],
        })
    }

    /// Where the current `runtime.g` is if the thread executes a goroutine, and the stack pointer, of
    /// registers that the kernel has saved.
    #[inline(always)]
    pub fn go_saved(registers: *const pt_regs) -> Option<(u64, u64)> {
        // SAFETY: the helper checks the address.
        unsafe {
            let g = bpf_probe_read_kernel(addr_of!((*registers).r14)).ok()?;
            let stack = bpf_probe_read_kernel(addr_of!((*registers).rsp)).ok()?;
            Some((g, stack))
        }
    }

    /// Numbers of system calls (arch/x86/entry/syscalls/syscall_64.tbl).
    pub mod number {
        pub const READ: u64 = 0;
        pub const WRITE: u64 = 1;
        pub const CLOSE: u64 = 3;
        pub const READV: u64 = 19;
        pub const WRITEV: u64 = 20;
        pub const DUP: u64 = 32;
        pub const DUP2: u64 = 33;
        pub const SENDFILE: u64 = 40;
        pub const SOCKET: u64 = 41;
        pub const ACCEPT: u64 = 43;
        pub const SENDTO: u64 = 44;
        pub const RECVFROM: u64 = 45;
        pub const SENDMSG: u64 = 46;
        pub const RECVMSG: u64 = 47;
        pub const SOCKETPAIR: u64 = 53;
        pub const FCNTL: u64 = 72;
        pub const SPLICE: u64 = 275;
        pub const ACCEPT4: u64 = 288;
        pub const DUP3: u64 = 292;
        pub const RECVMMSG: u64 = 299;
        pub const SENDMMSG: u64 = 307;
        pub const CLOSE_RANGE: u64 = 436;
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

    /// The system call that the kernel has saved these registers for; `None` where it is one of 32 bits,
    /// which have other numbers. The arguments are there until it returns.
    #[inline(always)]
    pub fn system_call(registers: *const pt_regs) -> Option<SystemCall> {
        /// Where `pstate`, `orig_x0` and `syscallno` lie (arch/arm64/include/asm/ptrace.h).
        const PSTATE: usize = 33 * 8;
        /// `PSR_MODE32_BIT` of `pstate` (arch/arm64/include/uapi/asm/ptrace.h).
        const MODE_32: u64 = 0x10;

        // SAFETY: the helper checks the address.
        let [_, x1, x2, x3] =
            unsafe { bpf_probe_read_kernel(registers.cast::<[u64; 4]>()) }.ok()?;
        let words = (registers as usize + PSTATE) as *const [u64; 3];
        // SAFETY: as above.
        let [pstate, x0, number] = unsafe { bpf_probe_read_kernel(words) }.ok()?;
        (pstate & MODE_32 == 0).then_some(SystemCall {
            number: u64::from(number as u32),
            arguments: [x0, x1, x2, x3],
        })
    }

    /// Where the current `runtime.g` is if the thread executes a goroutine, and the stack pointer, of
    /// registers that the kernel has saved.
    #[inline(always)]
    pub fn go_saved(registers: *const pt_regs) -> Option<(u64, u64)> {
        let registers = registers.cast::<user_pt_regs>();
        // SAFETY: the helper checks the address.
        unsafe {
            let g = bpf_probe_read_kernel(addr_of!((*registers).regs[28])).ok()?;
            let stack = bpf_probe_read_kernel(addr_of!((*registers).sp)).ok()?;
            Some((g, stack))
        }
    }

    /// Numbers of system calls (include/uapi/asm-generic/unistd.h).
    pub mod number {
        pub const DUP: u64 = 23;
        pub const DUP3: u64 = 24;
        pub const FCNTL: u64 = 25;
        pub const CLOSE: u64 = 57;
        pub const READ: u64 = 63;
        pub const WRITE: u64 = 64;
        pub const READV: u64 = 65;
        pub const WRITEV: u64 = 66;
        pub const SENDFILE: u64 = 71;
        pub const SPLICE: u64 = 76;
        pub const SOCKET: u64 = 198;
        pub const SOCKETPAIR: u64 = 199;
        pub const ACCEPT: u64 = 202;
        pub const SENDTO: u64 = 206;
        pub const RECVFROM: u64 = 207;
        pub const SENDMSG: u64 = 211;
        pub const RECVMSG: u64 = 212;
        pub const ACCEPT4: u64 = 242;
        pub const RECVMMSG: u64 = 243;
        pub const SENDMMSG: u64 = 269;
        pub const CLOSE_RANGE: u64 = 436;
        /// There is none here.
        pub const DUP2: u64 = u64::MAX;
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
