//! Uprobes on OpenSSL's functions (ssl.h, 1.1.1 to 3.x; the same names in BoringSSL, aws-lc and
//! LibreSSL).
//!
//! A call is noted at its entry and sent at its return, when it is known how many bytes really
//! passed: a write that has to be repeated (SSL_ERROR_WANT_WRITE) counts once. The same probe may
//! stand twice at one place (one file under two paths of an overlay): the second finds the call
//! gone and does nothing.

use core::ptr::addr_of;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_ktime_get_boot_ns, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_func_ip},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{
    CloseRecord, ConnectionKey, Cookie, KIND_BROKEN, KIND_FREE, KIND_PEER_CLOSED, KIND_SHUTDOWN,
    Loss, NESTED_CALLS, RECEIVED, SENT, count, function,
};

use crate::{
    emit::{self, Plaintext},
    maps::{
        CALLS, CONNECTIONS, Connection, OpenCall, OpenCalls, SPEAKERS, VERDICTS, current, lost,
        stopped, verdict_count, watched,
    },
    request,
};

/// `SSL_get_error` results (openssl/ssl.h).
const SSL_ERROR_SSL: i32 = 1;
const SSL_ERROR_SYSCALL: i32 = 5;
const SSL_ERROR_ZERO_RETURN: i32 = 6;

/// What a program of a uprobe session answers at the entry: whether to be called at the return too.
const RETURN_WANTED: u32 = 0;
const RETURN_UNWANTED: u32 = 1;

const NO_CALL: OpenCall = OpenCall {
    cookie: 0,
    ssl: 0,
    buffer: 0,
    count: 0,
    entered_at: 0,
    stack: 0,
};

/// Entry and return of a probed function, by a uprobe session (Linux 6.13).
#[uprobe]
pub fn tls_call(context: ProbeContext) -> u32 {
    // SAFETY: the context is the one that the kernel passed.
    let function = unsafe { bpf_get_func_ip(context.regs.cast()) };
    if instruction_pointer(context.regs) == function {
        return entered(&context);
    }
    left(&RetProbeContext::new(context.regs.cast()));
    0
}

/// Entry of a probed function.
#[uprobe]
pub fn tls_enter(context: ProbeContext) -> u32 {
    entered(&context);
    0
}

/// Return of a probed function.
#[uretprobe]
pub fn tls_return(context: RetProbeContext) -> u32 {
    left(&context);
    0
}

#[inline(always)]
fn entered(context: &ProbeContext) -> u32 {
    let (tgid, tid, thread) = current();
    if !watched(tgid) {
        return RETURN_UNWANTED;
    }
    let Some(ssl) = context.arg::<u64>(0) else {
        return RETURN_UNWANTED;
    };
    // SAFETY: the context is the one that the kernel passed.
    let number = unsafe { bpf_get_attach_cookie(context.regs.cast()) };
    let cookie = Cookie::from_u64(number);
    match cookie.function {
        function::FREE => {
            if closing(ssl, tgid, tid, KIND_FREE) {
                let _ = CONNECTIONS.remove(ConnectionKey {
                    ssl,
                    tgid: u64::from(tgid),
                });
            }
            return RETURN_UNWANTED;
        }
        function::SHUTDOWN => {
            closing(ssl, tgid, tid, KIND_SHUTDOWN);
            return RETURN_UNWANTED;
        }
        _ => {}
    }
    let (third, fourth) = counts(context.regs);
    let call = OpenCall {
        cookie: number,
        ssl,
        buffer: context.arg(1).unwrap_or(0),
        count: match cookie.count {
            count::ARGUMENT_3 => third,
            count::ARGUMENT_4 => fourth,
            _ => 0,
        },
        // SAFETY: a helper without arguments.
        entered_at: unsafe { bpf_ktime_get_boot_ns() },
        stack: stack_pointer(context.regs),
    };
    let open = match CALLS.get_ptr_mut(thread) {
        Some(open) => open,
        None => {
            let mut calls = [NO_CALL; NESTED_CALLS];
            calls[0] = call;
            // The entry stays and is used again, until the thread exits.
            if CALLS.insert(thread, OpenCalls { calls }, 0).is_err() {
                lost(Loss::Untracked, 0);
                return RETURN_UNWANTED;
            }
            return RETURN_WANTED;
        }
    };
    for place in 0..NESTED_CALLS {
        // SAFETY: a map value; only this thread uses it, and `place` is in bounds.
        let slot = unsafe { &mut (*open).calls[place] };
        // Of calls on the same object, one inside the other, the innermost counts. A frame at or
        // below this one is gone: its return was never seen.
        if slot.cookie == 0 || slot.ssl == call.ssl || slot.stack <= call.stack {
            *slot = call;
            return RETURN_WANTED;
        }
    }
    lost(Loss::Untracked, 0);
    RETURN_UNWANTED
}

#[inline(always)]
fn left(context: &RetProbeContext) {
    let (tgid, tid, thread) = current();
    let Some(open) = CALLS.get_ptr_mut(thread) else {
        return;
    };
    let stack = stack_pointer_before_return(context.regs);
    for place in 0..NESTED_CALLS {
        // SAFETY: a map value; only this thread uses it, and `place` is in bounds.
        let slot = unsafe { &mut (*open).calls[place] };
        if slot.cookie != 0 && slot.stack == stack {
            let call = *slot;
            slot.cookie = 0;
            returned(&call, context.ret::<i32>(), tgid, tid);
            return;
        }
    }
}

#[inline(always)]
fn returned(call: &OpenCall, result: i32, tgid: u32, tid: u32) {
    if stopped() {
        return;
    }
    let cookie = Cookie::from_u64(call.cookie);
    if cookie.function == function::GET_ERROR {
        match result {
            SSL_ERROR_ZERO_RETURN => closing(call.ssl, tgid, tid, KIND_PEER_CLOSED),
            SSL_ERROR_SSL | SSL_ERROR_SYSCALL => closing(call.ssl, tgid, tid, KIND_BROKEN),
            _ => false,
        };
        return;
    }
    let direction = if cookie.function == function::WRITE {
        SENT
    } else {
        RECEIVED
    };
    let bytes = if result <= 0 {
        0
    } else if cookie.count == count::RESULT {
        result as u64
    } else {
        // SAFETY: the helper checks the address.
        let Ok(bytes) = (unsafe { bpf_probe_read_user(call.count as *const u64) }) else {
            lost(Loss::Fault, 0);
            return;
        };
        bytes
    };
    if bytes == 0 && direction != SENT {
        return;
    }
    let key = ConnectionKey {
        ssl: call.ssl,
        tgid: u64::from(tgid),
    };
    let connection = match CONNECTIONS.get_ptr_mut(key) {
        Some(connection) => connection,
        None => {
            let connection = Connection {
                generation: call.entered_at,
                sent: 0,
                received: 0,
                write_since: 0,
                verdicts: verdict_count(),
                asked_at: 0,
                ignored: 0,
            };
            if CONNECTIONS.insert(key, connection, 0).is_err() {
                lost(Loss::Untracked, bytes);
                return;
            }
            let _ = SPEAKERS.insert(tgid, 1, 0);
            let Some(connection) = CONNECTIONS.get_ptr_mut(key) else {
                lost(Loss::Untracked, bytes);
                return;
            };
            connection
        }
    };
    // SAFETY: a map value. The library allows one call at a time on a connection.
    let connection = unsafe { &mut *connection };
    let asks = direction == SENT && request::is_llm(call.buffer, bytes);
    if asks {
        connection.asked_at = connection.sent + 1;
    }
    let verdicts = verdict_count();
    if connection.verdicts != verdicts {
        connection.verdicts = verdicts;
        // SAFETY: the value is copied at once.
        if let Some(verdict) = unsafe { VERDICTS.get(key) }.copied() {
            let applies =
                verdict.generation == connection.generation && verdict.sent >= connection.asked_at;
            if applies {
                connection.ignored = 1;
            }
            let _ = VERDICTS.remove(key);
        }
    }
    if connection.ignored != 0 {
        if !asks {
            return;
        }
        // Nobody knows the position of what follows: it is a new connection for the agent.
        connection.generation = call.entered_at;
        connection.sent = 0;
        connection.received = 0;
        connection.write_since = 0;
        connection.asked_at = 1;
        connection.ignored = 0;
    }
    let (offset, opposite, at) = if direction == SENT {
        if connection.write_since == 0 {
            connection.write_since = call.entered_at;
        }
        if bytes == 0 {
            return;
        }
        let offset = connection.sent;
        connection.sent = offset + bytes;
        (
            offset,
            connection.received,
            core::mem::take(&mut connection.write_since),
        )
    } else {
        let offset = connection.received;
        connection.received = offset + bytes;
        // SAFETY: a helper without arguments.
        (offset, connection.sent, unsafe { bpf_ktime_get_boot_ns() })
    };
    emit::plaintext(&mut Plaintext {
        address: call.buffer,
        bytes,
        ssl: call.ssl,
        generation: connection.generation,
        at,
        offset,
        opposite,
        tgid,
        tid,
        direction,
    });
}

/// Reports the end of a connection if bytes of it have been seen.
#[inline(always)]
fn closing(ssl: u64, tgid: u32, tid: u32, kind: u32) -> bool {
    if stopped() {
        return false;
    }
    let key = ConnectionKey {
        ssl,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is copied at once.
    let Some(connection) = (unsafe { CONNECTIONS.get(key) }).copied() else {
        return false;
    };
    emit::close(CloseRecord {
        kind,
        reserved: 0,
        tgid,
        tid,
        ssl,
        generation: connection.generation,
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        sent: connection.sent,
        received: connection.received,
    });
    true
}

/// The arguments 3 and 4, counted from 0. Volatile: the compiler would choose the address first and then
/// read, which the verifier does not allow in a context.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn counts(registers: *mut pt_regs) -> (u64, u64) {
    // SAFETY: the kernel passed the registers as context.
    unsafe {
        (
            addr_of!((*registers).rcx).read_volatile(),
            addr_of!((*registers).r8).read_volatile(),
        )
    }
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn instruction_pointer(registers: *mut pt_regs) -> u64 {
    // SAFETY: the kernel passed the registers as context.
    unsafe { (*registers).rip }
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn stack_pointer(registers: *mut pt_regs) -> u64 {
    // SAFETY: the kernel passed the registers as context.
    unsafe { (*registers).rsp }
}

/// The stack pointer that the function had at its entry.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn stack_pointer_before_return(registers: *mut pt_regs) -> u64 {
    // `ret` has taken the return address off the stack.
    stack_pointer(registers).wrapping_sub(8)
}

/// The arguments 3 and 4, counted from 0. Volatile: the compiler would choose the address first and then
/// read, which the verifier does not allow in a context.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn counts(registers: *mut pt_regs) -> (u64, u64) {
    let registers = registers.cast::<aya_ebpf::bindings::user_pt_regs>();
    // SAFETY: the kernel passed the registers as context.
    unsafe {
        (
            addr_of!((*registers).regs[3]).read_volatile(),
            addr_of!((*registers).regs[4]).read_volatile(),
        )
    }
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn instruction_pointer(registers: *mut pt_regs) -> u64 {
    // SAFETY: the kernel passed the registers as context.
    unsafe { (*registers.cast::<aya_ebpf::bindings::user_pt_regs>()).pc }
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn stack_pointer(registers: *mut pt_regs) -> u64 {
    // SAFETY: the kernel passed the registers as context.
    unsafe { (*registers.cast::<aya_ebpf::bindings::user_pt_regs>()).sp }
}

/// The stack pointer that the function had at its entry.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn stack_pointer_before_return(registers: *mut pt_regs) -> u64 {
    stack_pointer(registers)
}
