//! Uprobes on OpenSSL's functions (ssl.h, 1.1.1 to 3.x; the same names in BoringSSL, aws-lc and
//! LibreSSL), and on GnuTLS's, which are like them (gnutls.h).
//!
//! A call is noted at its entry and sent at its return, when it is known how many bytes really
//! passed: a write that has to be repeated (SSL_ERROR_WANT_WRITE) counts once. The same probe may
//! stand twice at one place (one file under two paths of an overlay): the second finds the call
//! gone and does nothing.

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_boot_ns, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_func_ip},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{
    Cookie, KIND_BROKEN, KIND_PEER_CLOSED, KIND_SHUTDOWN, Loss, RECEIVED, SENT, count, function,
};

use crate::{
    calls::{self, RETURN_UNWANTED, RETURN_WANTED},
    connection::{self, Transfer},
    maps::{OpenCall, current, lost, stopped, watched},
    python,
    registers::{counts, instruction_pointer, stack_pointer, stack_pointer_before_return},
};

/// `SSL_get_error` results (openssl/ssl.h).
const SSL_ERROR_SSL: i32 = 1;
const SSL_ERROR_SYSCALL: i32 = 5;
const SSL_ERROR_ZERO_RETURN: i32 = 6;

/// Results of GnuTLS's functions that say that the connection is of no more use (gnutls/gnutls.h).
const GNUTLS_E_UNEXPECTED_PACKET_LENGTH: i32 = -9;
const GNUTLS_E_FATAL_ALERT_RECEIVED: i32 = -12;
const GNUTLS_E_DECRYPTION_FAILED: i32 = -24;
const GNUTLS_E_PUSH_ERROR: i32 = -53;
const GNUTLS_E_PULL_ERROR: i32 = -54;
const GNUTLS_E_PREMATURE_TERMINATION: i32 = -110;

/// Nothing is mapped below this address (vm.mmap_min_addr; Documentation/admin-guide/sysctl/vm.rst).
const LOWEST_ADDRESS: u64 = 4096;

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
            connection::freed(ssl, tgid, tid);
            return RETURN_UNWANTED;
        }
        function::SHUTDOWN => {
            connection::closing(ssl, tgid, tid, KIND_SHUTDOWN);
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
            count::ARGUMENT_3_OR_4 if third < LOWEST_ADDRESS => fourth,
            count::ARGUMENT_3_OR_4 => third,
            _ => context.arg(2).unwrap_or(0),
        },
        // SAFETY: a helper without arguments.
        entered_at: unsafe { bpf_ktime_get_boot_ns() },
        stack: stack_pointer(context.regs),
    };
    if calls::enter(thread, &call) {
        RETURN_WANTED
    } else {
        RETURN_UNWANTED
    }
}

#[inline(always)]
fn left(context: &RetProbeContext) {
    let (tgid, tid, thread) = current();
    if let Some(call) = calls::leave(thread, stack_pointer_before_return(context.regs)) {
        returned(&call, context.ret::<u64>(), tgid, tid);
    }
}

#[inline(always)]
fn returned(call: &OpenCall, result: u64, tgid: u32, tid: u32) {
    if stopped() {
        return;
    }
    let cookie = Cookie::from_u64(call.cookie);
    match cookie.function {
        function::NEW => {
            connection::freed(result, tgid, tid);
            return;
        }
        function::FLUSH => return,
        _ => {}
    }
    let result = result as i32;
    if cookie.function == function::GET_ERROR {
        match result {
            SSL_ERROR_ZERO_RETURN => connection::closing(call.ssl, tgid, tid, KIND_PEER_CLOSED),
            SSL_ERROR_SSL | SSL_ERROR_SYSCALL => {
                connection::closing(call.ssl, tgid, tid, KIND_BROKEN)
            }
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
    } else if matches!(cookie.count, count::RESULT | count::RESULT_OR_GNUTLS_ERROR) {
        result as u64
    } else {
        // SAFETY: the helper checks the address.
        let Ok(bytes) = (unsafe { bpf_probe_read_user(call.count as *const u64) }) else {
            lost(Loss::Fault, 0);
            return;
        };
        bytes
    };
    if cookie.count == count::RESULT_OR_GNUTLS_ERROR && is_broken(result) {
        connection::closing(call.ssl, tgid, tid, KIND_BROKEN);
        return;
    }
    if bytes == 0 && direction != SENT {
        // An empty buffer reads nothing either.
        if cookie.function == function::READ_TO_END && result == 0 && call.count as u32 != 0 {
            connection::closing(call.ssl, tgid, tid, KIND_PEER_CLOSED);
        }
        return;
    }
    // GnuTLS lets a write be repeated without saying again what.
    let buffer = if call.buffer == 0 && direction == SENT {
        connection::repeated(call.ssl, tgid)
    } else {
        call.buffer
    };
    let (task, task_kind) = python::current_task(tgid);
    connection::transferred(&Transfer {
        object: call.ssl,
        buffer,
        bytes,
        entered_at: call.entered_at,
        task,
        task_kind,
        tgid,
        tid,
        direction,
        half: 0,
    });
}

/// Whether this result of a function of GnuTLS says that the connection is of no more use.
#[inline(always)]
fn is_broken(result: i32) -> bool {
    matches!(
        result,
        GNUTLS_E_UNEXPECTED_PACKET_LENGTH
            | GNUTLS_E_FATAL_ALERT_RECEIVED
            | GNUTLS_E_DECRYPTION_FAILED
            | GNUTLS_E_PUSH_ERROR
            | GNUTLS_E_PULL_ERROR
            | GNUTLS_E_PREMATURE_TERMINATION
    )
}
