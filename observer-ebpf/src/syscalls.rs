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
    plaintext, registers,
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
    let Some(call) = registers::system_call(context.arg::<*const pt_regs>(0)) else {
        return 0;
    };
    let result = context.arg::<i64>(1);
    exited(&call, result, tgid, tid, thread);
    0
}

/// Beside [`SENT`] and [`RECEIVED`]: a descriptor is closed.
const CLOSES: u32 = 2;

/// Commands of fcntl(2) that make another descriptor (linux/fcntl.h).
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

#[inline(always)]
fn exited(call: &SystemCall, result: i64, tgid: u32, tid: u32, thread: u64) {
    let [first, second, third, fourth] = call.arguments;
    let fd = first as u32;
    let transfer = plaintext::Call {
        tgid,
        tid,
        thread,
        fd,
        result,
    };
    match call.number {
        READ if third != 0 => transfer.buffer(second, RECEIVED, false, 0),
        WRITE => transfer.buffer(second, SENT, false, 0),
        RECVFROM if third != 0 => transfer.buffer(second, RECEIVED, true, fourth),
        SENDTO => transfer.buffer(second, SENT, true, 0),
        READV => transfer.vectors(second, third, RECEIVED),
        WRITEV => transfer.vectors(second, third, SENT),
        RECVMSG => transfer.message(second, RECEIVED, third),
        SENDMSG => transfer.message(second, SENT, 0),
        RECVMMSG => transfer.messages(second, RECEIVED, fourth),
        SENDMMSG => transfer.messages(second, SENT, 0),
        SENDFILE => transfer.unbuffered(fd, SENT),
        SPLICE => {
            transfer.unbuffered(fd, RECEIVED);
            transfer.unbuffered(third as u32, SENT);
        }
        SOCKET => plaintext::made(tgid, result, first, second),
        ACCEPT | ACCEPT4 => plaintext::accepted(tgid, result),
        SOCKETPAIR => plaintext::paired(tgid, result, first, second, fourth),
        DUP => plaintext::copied(tgid, fd, result),
        DUP2 | DUP3 if u64::from(fd) != second => {
            if result >= 0 {
                plaintext::closed(tgid, tid, second as u32);
            }
            plaintext::copied(tgid, fd, result);
        }
        FCNTL if second == F_DUPFD || second == F_DUPFD_CLOEXEC => {
            plaintext::copied(tgid, fd, result);
        }
        _ => {}
    }
}
