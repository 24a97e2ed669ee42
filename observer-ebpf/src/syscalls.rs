//! System calls on file descriptors, at their entry and at their exit.
//!
//! Two raw tracepoints for all of them: a link each for the names would take its time to go, and the
//! kernel would prepare a record for each call where a raw tracepoint gets the registers as they are. The
//! arguments still stand in the registers when the call returns, so most is done there, when it is known
//! how many bytes passed. What must be known before: when a write began, and which descriptor is about to
//! be closed, since its number may be another file's by the time that the call returns.
//!
//! Calls that pass by io_uring are not seen here.

use aya_ebpf::{
    bindings::pt_regs, helpers::bpf_ktime_get_boot_ns, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use observer_common::{RECEIVED, SENT, follow};

use crate::{
    maps::{SENDING, current, follows, stopped, watched},
    plaintext,
    plaintext::Buffers,
    registers,
    registers::{SystemCall, number::*},
    sockets,
};

/// `sys_enter`: the registers and the number of the call.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn syscall_enter(context: RawTracePointContext) -> u32 {
    let direction = match context.arg::<u64>(1) {
        READ | READV | RECVFROM | RECVMSG | RECVMMSG => RECEIVED,
        WRITE | WRITEV | SENDTO | SENDMSG | SENDMMSG => SENT,
        CLOSE | CLOSE_RANGE => CLOSES,
        _ => return 0,
    };
    let follows = follows();
    let (tgid, tid, thread) = current();
    if follows == 0 || stopped() || !watched(tgid) {
        return 0;
    }
    let plaintext = follows & follow::PLAINTEXT != 0;
    if direction == SENT && plaintext {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        match SENDING.get_ptr_mut(thread) {
            // SAFETY: a map value that only this thread uses.
            Some(entered_at) => unsafe { *entered_at = now },
            None => {
                let _ = SENDING.insert(thread, now, 0);
            }
        }
    }
    let keys = follows & follow::KEYS != 0;
    if !keys && direction != CLOSES {
        return 0;
    }
    let Some(call) = registers::system_call(context.arg::<*const pt_regs>(0)) else {
        return 0;
    };
    let fd = call.arguments[0] as u32;
    match direction {
        RECEIVED => sockets::reads(thread, fd),
        SENT => sockets::writes(thread, tgid, fd, call.arguments[1]),
        _ => {
            if keys && call.number == CLOSE {
                sockets::closed(tgid, tid, fd);
            }
            if plaintext && call.number == CLOSE {
                plaintext::closed(tgid, tid, fd);
            } else if plaintext {
                plaintext::range_closed(tgid, tid, fd, call.arguments[1], call.arguments[2]);
            }
        }
    }
    0
}

/// `sys_exit`: the registers and the result of the call.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_exit(context: RawTracePointContext) -> u32 {
    let (tgid, tid, thread) = current();
    if follows() & follow::PLAINTEXT == 0 || !watched(tgid) || stopped() {
        return 0;
    }
    let registers = context.arg::<*const pt_regs>(0);
    let Some(call) = registers::system_call(registers) else {
        return 0;
    };
    let result = context.arg::<i64>(1);
    exited(&call, registers, result, tgid, tid, thread);
    0
}

/// Beside [`SENT`] and [`RECEIVED`]: a descriptor is closed.
const CLOSES: u32 = 2;

/// Commands of fcntl(2) that make another descriptor (linux/fcntl.h).
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

#[inline(always)]
fn exited(
    call: &SystemCall,
    registers: *const pt_regs,
    result: i64,
    tgid: u32,
    tid: u32,
    thread: u64,
) {
    let [first, second, third, fourth] = call.arguments;
    let fd = first as u32;
    let transfer = plaintext::Call {
        tgid,
        tid,
        thread,
        fd,
        result,
        registers: registers as u64,
    };
    let (buffers, direction, socket, flags) = match call.number {
        READ if third != 0 => (Buffers::One, RECEIVED, false, 0),
        WRITE => (Buffers::One, SENT, false, 0),
        RECVFROM if third != 0 => (Buffers::One, RECEIVED, true, fourth),
        SENDTO => (Buffers::One, SENT, true, 0),
        READV => (Buffers::Vectors(third), RECEIVED, false, 0),
        WRITEV => (Buffers::Vectors(third), SENT, false, 0),
        RECVMSG => (Buffers::Message, RECEIVED, true, third),
        SENDMSG => (Buffers::Message, SENT, true, 0),
        RECVMMSG => (Buffers::Messages, RECEIVED, true, fourth),
        SENDMMSG => (Buffers::Messages, SENT, true, 0),
        SENDFILE => return transfer.unbuffered(fd, SENT),
        SPLICE => {
            transfer.unbuffered(fd, RECEIVED);
            return transfer.unbuffered(third as u32, SENT);
        }
        SOCKET => return plaintext::made(tgid, result, first, second),
        ACCEPT | ACCEPT4 => return plaintext::accepted(tgid, result),
        SOCKETPAIR => return plaintext::paired(tgid, result, first, second, fourth),
        DUP => return plaintext::copied(tgid, fd, result),
        DUP2 | DUP3 if u64::from(fd) != second => {
            if result >= 0 {
                plaintext::closed(tgid, tid, second as u32);
            }
            return plaintext::copied(tgid, fd, result);
        }
        FCNTL if second == F_DUPFD || second == F_DUPFD_CLOEXEC => {
            return plaintext::copied(tgid, fd, result);
        }
        _ => return,
    };
    transfer.passed(buffers, second, direction, socket, flags);
}
