//! Uprobes on OpenSSL's functions (ssl.h, 1.1.1 to 3.x; the same names in BoringSSL, aws-lc and
//! LibreSSL).
//!
//! A call is noted at its entry and sent at its return, when it is known how many bytes really
//! passed: a write that has to be repeated (SSL_ERROR_WANT_WRITE) counts once. The same probe may
//! stand twice at one place (one file under two paths of an overlay): the second finds the call
//! gone and does nothing.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_user, generated::bpf_get_attach_cookie},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{
    CloseRecord, KIND_BROKEN, KIND_FREE, KIND_PEER_CLOSED, KIND_SHUTDOWN, Loss, NESTED_CALLS,
    RECEIVED, SENT, function,
};

use crate::{
    emit::{self, Plaintext},
    maps::{
        CALLS, CONNECTIONS, Connection, ConnectionKey, OpenCall, OpenCalls, SPEAKERS, current,
        lost, stopped, watched,
    },
};

/// `SSL_get_error` results (openssl/ssl.h).
const SSL_ERROR_SSL: i32 = 1;
const SSL_ERROR_SYSCALL: i32 = 5;
const SSL_ERROR_ZERO_RETURN: i32 = 6;

const NO_CALL: OpenCall = OpenCall {
    function: 0,
    ssl: 0,
    buffer: 0,
    count: 0,
    entered_at: 0,
    stack: 0,
};

/// Entry of a function of [`function`]; the cookie says which.
#[uprobe]
pub fn ssl_enter(context: ProbeContext) -> u32 {
    let (tgid, _, thread) = current();
    if !watched(tgid) {
        return 0;
    }
    let Some(ssl) = context.arg::<u64>(0) else {
        return 0;
    };
    let call = OpenCall {
        // SAFETY: the context is the one that the kernel passed.
        function: unsafe { bpf_get_attach_cookie(context.regs.cast()) },
        ssl,
        buffer: context.arg(1).unwrap_or(0),
        count: context.arg(3).unwrap_or(0),
        // SAFETY: a helper without arguments.
        entered_at: unsafe { bpf_ktime_get_boot_ns() },
        stack: stack_pointer(context.regs),
    };
    if CALLS.get_ptr_mut(thread).is_none()
        && CALLS
            .insert(
                thread,
                OpenCalls {
                    calls: [NO_CALL; NESTED_CALLS],
                },
                0,
            )
            .is_err()
    {
        lost(Loss::Untracked, 0);
        return 0;
    }
    let Some(open) = CALLS.get_ptr_mut(thread) else {
        return 0;
    };
    for place in 0..NESTED_CALLS {
        // SAFETY: a map value; only this thread uses it, and `place` is in bounds.
        let slot = unsafe { &mut (*open).calls[place] };
        // Of calls on the same object, one inside the other, the innermost counts. A frame at or
        // below this one is gone: its return was never seen.
        if slot.function == 0 || slot.ssl == call.ssl || slot.stack <= call.stack {
            *slot = call;
            return 0;
        }
    }
    lost(Loss::Untracked, 0);
    0
}

/// Return of a function of [`function`].
#[uretprobe]
pub fn ssl_return(context: RetProbeContext) -> u32 {
    let (tgid, tid, thread) = current();
    let Some(open) = CALLS.get_ptr_mut(thread) else {
        return 0;
    };
    let stack = stack_pointer_before_return(context.regs);
    for place in 0..NESTED_CALLS {
        // SAFETY: a map value; only this thread uses it, and `place` is in bounds.
        let slot = unsafe { &mut (*open).calls[place] };
        if slot.function != 0 && slot.stack == stack {
            let call = *slot;
            slot.function = 0;
            returned(&call, context.ret::<i32>(), tgid, tid);
            return 0;
        }
    }
    0
}

/// Entry of `void SSL_free(SSL *ssl)`.
#[uprobe]
pub fn ssl_free(context: ProbeContext) -> u32 {
    let (tgid, tid, _) = current();
    if let Some(ssl) = context.arg::<u64>(0)
        && closing(ssl, tgid, tid, KIND_FREE)
    {
        let _ = CONNECTIONS.remove(ConnectionKey {
            ssl,
            tgid: u64::from(tgid),
        });
    }
    0
}

/// Entry of `int SSL_shutdown(SSL *ssl)`.
#[uprobe]
pub fn ssl_shutdown(context: ProbeContext) -> u32 {
    let (tgid, tid, _) = current();
    if let Some(ssl) = context.arg::<u64>(0) {
        closing(ssl, tgid, tid, KIND_SHUTDOWN);
    }
    0
}

#[inline(always)]
fn returned(call: &OpenCall, result: i32, tgid: u32, tid: u32) {
    if stopped() {
        return;
    }
    let direction = match call.function {
        function::SSL_WRITE | function::SSL_WRITE_EX => SENT,
        _ => RECEIVED,
    };
    let bytes = match call.function {
        function::SSL_WRITE | function::SSL_READ if result > 0 => result as u64,
        function::SSL_WRITE_EX | function::SSL_READ_EX if result == 1 => {
            // SAFETY: the helper checks the address.
            let Ok(bytes) = (unsafe { bpf_probe_read_user(call.count as *const u64) }) else {
                lost(Loss::Fault, 0);
                return;
            };
            bytes
        }
        function::SSL_WRITE | function::SSL_WRITE_EX => 0,
        function::SSL_GET_ERROR => {
            match result {
                SSL_ERROR_ZERO_RETURN => closing(call.ssl, tgid, tid, KIND_PEER_CLOSED),
                SSL_ERROR_SSL | SSL_ERROR_SYSCALL => closing(call.ssl, tgid, tid, KIND_BROKEN),
                _ => false,
            };
            return;
        }
        _ => return,
    };
    if bytes == 0 && direction != SENT {
        return;
    }
    let key = ConnectionKey {
        ssl: call.ssl,
        tgid: u64::from(tgid),
    };
    if CONNECTIONS.get_ptr_mut(key).is_none() {
        let connection = Connection {
            generation: call.entered_at,
            sent: 0,
            received: 0,
            write_since: 0,
        };
        if CONNECTIONS.insert(key, connection, 0).is_err() {
            lost(Loss::Untracked, bytes);
            return;
        }
        let _ = SPEAKERS.insert(tgid, 1, 0);
    }
    let Some(connection) = CONNECTIONS.get_ptr_mut(key) else {
        lost(Loss::Untracked, bytes);
        return;
    };
    // SAFETY: a map value. The library allows one call at a time on a connection.
    let connection = unsafe { &mut *connection };
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
