//! Probes on aws-lc's functions for records (openssl/aead.h), through which rustls passes with aws-lc-rs.
//!
//! The object is a key of one direction, not a connection: `sockets` tells what belongs together. What is
//! sealed may be the plaintext in place, so it is taken at the entry.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_boot_ns, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_func_ip, bpf_loop},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{Cookie, Loss, RECEIVED, SENT, aead};

use crate::{
    calls::{self, RETURN_UNWANTED, RETURN_WANTED},
    connection::{self, Transfer},
    maps::{OpenCall, current, lost, stopped, watched},
    python,
    registers::{
        instruction_pointer, sixth, stack_arguments, stack_pointer, stack_pointer_before_return,
    },
    sockets,
};

/// `application_data` (RFC 8446 section 5.1).
const APPLICATION_DATA: u8 = 23;

/// `handshake` (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// `key_update`, and its length with its head (RFC 8446 sections 4 and 4.6.3).
pub const KEY_UPDATE: u8 = 24;
pub const KEY_UPDATE_BYTES: u64 = 5;

/// Longest plaintext of a record (RFC 8446 section 5.1).
pub const RECORD_BYTES: u32 = 1 << 14;

/// Bytes that are looked at in one step.
const WORD_BYTES: u32 = 8;

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
            ssl: sockets::opening(key),
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
    let apart = function == aead::SEAL_SCATTER && inside != 0 && words[4] == 1;
    let inner = if apart {
        // The type is not behind the text, it comes by itself.
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(words[3] as *const u8) }
            .ok()
            .map(|kind| Inner { kind, bytes })
    } else {
        inner(text, bytes, inside)
    };
    let Some(bytes) = inner.and_then(|inner| application_data(&inner, key, text, tgid, SENT))
    else {
        return RETURN_UNWANTED;
    };
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
    let Some(bytes) = inner(call.buffer, bytes, call.cookie & TYPE_INSIDE)
        .and_then(|inner| application_data(&inner, call.ssl, call.buffer, tgid, RECEIVED))
    else {
        return;
    };
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

/// What a record holds.
struct Inner {
    kind: u8,
    bytes: u64,
}

/// How much of the plaintext is content, and of which type. In TLS 1.3 the type stands behind it, and zeros
/// may follow (RFC 8446 section 5.4).
#[inline(always)]
fn inner(text: u64, bytes: u64, inside: u64) -> Option<Inner> {
    if inside == 0 {
        return Some(Inner {
            kind: APPLICATION_DATA,
            bytes,
        });
    }
    let length = bytes.checked_sub(1)?;
    // SAFETY: the helper checks the address.
    let kind = unsafe { bpf_probe_read_user((text + length) as *const u8) }.ok()?;
    if kind != 0 {
        return Some(Inner {
            kind,
            bytes: length,
        });
    }
    let mut padded = Padded {
        text,
        bytes: length,
        kind: 0,
    };
    // SAFETY: the callback has the signature that bpf_loop asks for and `padded` outlives it.
    unsafe {
        bpf_loop(
            RECORD_BYTES / WORD_BYTES,
            unpad as *mut c_void,
            ptr::from_mut(&mut padded).cast(),
            0,
        );
    }
    (padded.kind != 0).then_some(Inner {
        kind: padded.kind as u8,
        bytes: padded.bytes,
    })
}

/// A plaintext of which the end is looked for.
#[repr(C)]
struct Padded {
    text: u64,
    /// Bytes that have not been looked at.
    bytes: u64,
    /// The last byte that is not 0; it is no more among `bytes`.
    kind: u64,
}

/// Looks at the last bytes: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn unpad(_index: u32, padded: *mut Padded) -> i64 {
    if padded.is_null() {
        return 1;
    }
    // SAFETY: `inner` passes a valid pointer; nobody else has it meanwhile.
    let padded = unsafe { &mut *padded };
    let step = if padded.bytes >= u64::from(WORD_BYTES) {
        u64::from(WORD_BYTES)
    } else {
        1
    };
    let Some(left) = padded.bytes.checked_sub(step) else {
        return 1;
    };
    let place = padded.text + left;
    let word = if step == 1 {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(place as *const u8) }.map(u64::from)
    } else {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(place as *const u64) }
    };
    let Ok(word) = word else {
        return 1;
    };
    if word == 0 {
        padded.bytes = left;
        return 0;
    }
    let mut behind = word;
    let mut last = 0;
    for place in 0..u64::from(WORD_BYTES) {
        if behind & 0xff != 0 {
            padded.kind = behind & 0xff;
            last = place;
        }
        behind >>= 8;
    }
    padded.bytes = left + last;
    1
}

/// The length of application data. Of what else there is, notes what concerns the key.
#[inline(always)]
fn application_data(inner: &Inner, key: u64, text: u64, tgid: u32, direction: u32) -> Option<u64> {
    if inner.kind == APPLICATION_DATA {
        return (inner.bytes > 0).then_some(inner.bytes);
    }
    if inner.kind == HANDSHAKE && inner.bytes == KEY_UPDATE_BYTES {
        // SAFETY: the helper checks the address.
        let message = unsafe { bpf_probe_read_user(text as *const u8) };
        if message == Ok(KEY_UPDATE) {
            sockets::changes(key, tgid, direction);
        }
    }
    None
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
    let (task, task_kind) = python::current_task(tgid);
    connection::transferred(&Transfer {
        object,
        buffer,
        bytes,
        entered_at,
        task,
        task_kind,
        tgid,
        tid,
        direction,
        half: 1,
    });
}
