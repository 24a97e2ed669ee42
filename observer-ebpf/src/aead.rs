//! Probes on aws-lc's functions for records (openssl/aead.h), through which rustls passes with aws-lc-rs.
//!
//! The object is a key of one direction, not a connection: `sockets` tells what belongs together. What is
//! sealed may be the plaintext in place, so it is taken at the entry.

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_boot_ns, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_func_ip},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{Cookie, Loss, RECEIVED, SENT, aead};

use crate::{
    calls::{self, RETURN_UNWANTED, RETURN_WANTED},
    connection::{self, Transfer},
    maps::{OpenCall, current, lost, stopped, watched},
    registers::{
        instruction_pointer, sixth, stack_arguments, stack_pointer, stack_pointer_before_return,
    },
    sockets,
};

/// `application_data` (RFC 8446 section 5.1).
const APPLICATION_DATA: u8 = 23;

/// Length of the additional data of TLS 1.3: the head of the record (RFC 8446 section 5.2).
const HEAD_BYTES: u64 = 5;

/// Length of the additional data of TLS 1.2: sequence number, type, version and length (RFC 5246 section
/// 6.2.3.3).
const SEQUENCE_AND_HEAD_BYTES: u64 = 13;

/// Bit of [`OpenCall::cookie`]: the last byte of the plaintext is its type (TLS 1.3).
const TYPE_INSIDE: u64 = 1 << 32;

/// Entry and return of a probed function, by a uprobe session (Linux 6.13).
#[uprobe]
pub fn aead_call(context: ProbeContext) -> u32 {
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
pub fn aead_enter(context: ProbeContext) -> u32 {
    entered(&context);
    0
}

/// Return of a probed function.
#[uretprobe]
pub fn aead_return(context: RetProbeContext) -> u32 {
    left(&context);
    0
}

#[inline(always)]
fn entered(context: &ProbeContext) -> u32 {
    let (tgid, tid, thread) = current();
    if !watched(tgid) || stopped() {
        return RETURN_UNWANTED;
    }
    let (Some(key), Some(second), Some(third)) = (
        context.arg::<u64>(0),
        context.arg::<u64>(1),
        context.arg::<u64>(2),
    ) else {
        return RETURN_UNWANTED;
    };
    // SAFETY: the context is the one that the kernel passed.
    let number = unsafe { bpf_get_attach_cookie(context.regs.cast()) };
    let function = Cookie::from_u64(number).function;
    let words = stack_arguments(context.regs) as *const [u64; 8];
    // SAFETY: the helper checks the address.
    let Ok(words) = (unsafe { bpf_probe_read_user(words) }) else {
        lost(Loss::Fault, 0);
        return RETURN_UNWANTED;
    };
    let (text, bytes, additional, additional_bytes) = match function {
        aead::SEAL => (words[0], words[1], words[2], words[3]),
        aead::SEAL_SCATTER => (words[1], words[2], words[5], words[6]),
        aead::OPEN => (second, third, words[2], words[3]),
        _ => (second, sixth(context.regs), words[2], words[3]),
    };
    let inside = match additional_bytes {
        HEAD_BYTES => TYPE_INSIDE,
        SEQUENCE_AND_HEAD_BYTES => 0,
        // No record of TLS.
        _ => return RETURN_UNWANTED,
    };
    let place = if inside != 0 { 0 } else { 8 };
    // SAFETY: as above.
    let outer = unsafe { bpf_probe_read_user((additional + place) as *const u8) };
    if outer != Ok(APPLICATION_DATA) {
        return RETURN_UNWANTED;
    }
    // SAFETY: a helper without arguments.
    let entered_at = unsafe { bpf_ktime_get_boot_ns() };
    if function == aead::OPEN || function == aead::OPEN_GATHER {
        let call = OpenCall {
            cookie: number | inside,
            ssl: key,
            buffer: text,
            count: bytes,
            entered_at,
            stack: stack_pointer(context.regs),
        };
        return if calls::enter(thread, &call) {
            RETURN_WANTED
        } else {
            RETURN_UNWANTED
        };
    }
    let mut bytes = bytes;
    if function == aead::SEAL_SCATTER && inside != 0 && words[4] == 1 {
        // The type is not behind the text, it comes by itself.
        // SAFETY: as above.
        if unsafe { bpf_probe_read_user(words[3] as *const u8) } != Ok(APPLICATION_DATA) {
            return RETURN_UNWANTED;
        }
    } else if inside != 0 {
        match stripped(text, bytes) {
            Some(stripped) => bytes = stripped,
            None => return RETURN_UNWANTED,
        }
    }
    sockets::sealed(thread, key);
    record(key, text, bytes, entered_at, SENT, tgid, tid);
    RETURN_UNWANTED
}

#[inline(always)]
fn left(context: &RetProbeContext) {
    let (tgid, tid, thread) = current();
    let Some(call) = calls::leave(thread, stack_pointer_before_return(context.regs)) else {
        return;
    };
    if stopped() || context.ret::<i32>() != 1 {
        return;
    }
    let mut bytes = call.count;
    if Cookie::from_u64(call.cookie).function == aead::OPEN {
        // SAFETY: the helper checks the address.
        let Ok(written) = (unsafe { bpf_probe_read_user(call.count as *const u64) }) else {
            lost(Loss::Fault, 0);
            return;
        };
        bytes = written;
    }
    if call.cookie & TYPE_INSIDE != 0 {
        match stripped(call.buffer, bytes) {
            Some(stripped) => bytes = stripped,
            None => return,
        }
    }
    sockets::opened(thread, call.ssl, tgid);
    record(
        call.ssl,
        call.buffer,
        bytes,
        call.entered_at,
        RECEIVED,
        tgid,
        tid,
    );
}

/// Length without the type at the end of a plaintext of TLS 1.3, if that is application data. Padding
/// (RFC 8446 section 5.4) is not looked behind.
#[inline(always)]
fn stripped(text: u64, bytes: u64) -> Option<u64> {
    let length = bytes.checked_sub(1)?;
    // SAFETY: the helper checks the address.
    let kind = unsafe { bpf_probe_read_user((text + length) as *const u8) }.ok()?;
    if kind == 0 {
        lost(Loss::Untracked, bytes);
    }
    (kind == APPLICATION_DATA).then_some(length)
}

#[inline(always)]
fn record(
    object: u64,
    buffer: u64,
    bytes: u64,
    entered_at: u64,
    direction: u32,
    tgid: u32,
    tid: u32,
) {
    if bytes == 0 {
        return;
    }
    connection::transferred(&Transfer {
        object,
        buffer,
        bytes,
        entered_at,
        task: 0,
        tgid,
        tid,
        direction,
        half: 1,
    });
}
