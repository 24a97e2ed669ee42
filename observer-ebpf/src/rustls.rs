//! Probes on rustls' `MessageEncrypter::encrypt` and `MessageDecrypter::decrypt` (rustls::crypto::cipher),
//! through which every record passes, whoever does the cryptography:
//!
//! ```text
//! fn encrypt(&mut self, msg: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error>
//! fn decrypt<'a>(&mut self, msg: InboundOpaqueMessage<'a>, seq: u64) -> Result<InboundPlainMessage<'a>, Error>
//! ```
//!
//! Result and message are passed by their addresses. As in `aead`, the object is a key of one direction.
//! rustc orders the members of a message by their alignment:
//!
//! | rustls | message | words |
//! |---|---|---|
//! | 0.21, 0.22 | to encrypt | bytes, length, head |
//! | 0.23 | to encrypt, in one piece | 0, bytes, length, -, head |
//! | 0.23 | to encrypt, in several | slices, their count, start, end, head |
//! | 0.21, 0.22 | decrypted | capacity, bytes, length, head |
//! | 0.23 | decrypted | bytes, length, head |
//!
//! The head is type and version, in either order: each is a number (one byte, two bytes) that says which it
//! is, and as much again for those that are unknown. What does not fit is not taken. Records are decrypted in
//! place. Where in a result the message begins depends on how many errors there are, so the buffer is looked
//! for; an error does not hold it.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_boot_ns, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_func_ip, bpf_loop},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{Cookie, Loss, RECEIVED, SENT, rustls, task};

use crate::{
    aead::{KEY_UPDATE, KEY_UPDATE_BYTES, RECORD_BYTES},
    calls::{self, RETURN_UNWANTED, RETURN_WANTED},
    connection::{self, Transfer},
    maps::{MESSAGES, Message, OpenCall, current, lost, stopped, watched},
    python,
    registers::{instruction_pointer, stack_pointer, stack_pointer_before_return},
    sockets,
};

/// Places of `rustls::ContentType::Handshake` and `ApplicationData` in the enumeration.
const HANDSHAKE: u64 = 2;
const APPLICATION_DATA: u64 = 3;

/// Places of `rustls::ProtocolVersion::TLSv1_2` and `TLSv1_3`.
const TLS_1_2: u64 = 4;
const TLS_1_3: u64 = 5;

/// Slices of one message that are looked at (`UIO_MAXIOV`, include/uapi/linux/uio.h).
const SLICES: u64 = 1024;

/// Words of a result.
const RESULT_WORDS: usize = 7;

/// Entry and return of a probed function, by a uprobe session (Linux 6.13).
#[uprobe]
pub fn rustls_call(context: ProbeContext) -> u32 {
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
pub fn rustls_enter(context: ProbeContext) -> u32 {
    entered(&context);
    0
}

/// Return of a probed function.
#[uretprobe]
pub fn rustls_return(context: RetProbeContext) -> u32 {
    left(&context);
    0
}

#[inline(always)]
fn entered(context: &ProbeContext) -> u32 {
    let (tgid, tid, thread) = current();
    if !watched(tgid) || stopped() {
        return RETURN_UNWANTED;
    }
    let (Some(key), Some(message)) = (context.arg::<u64>(1), context.arg::<u64>(2)) else {
        return RETURN_UNWANTED;
    };
    // SAFETY: the context is the one that the kernel passed.
    let number = unsafe { bpf_get_attach_cookie(context.regs.cast()) };
    // SAFETY: the helper checks the address.
    let Ok(words) = (unsafe { bpf_probe_read_user(message as *const [u64; 5]) }) else {
        lost(Loss::Fault, 0);
        return RETURN_UNWANTED;
    };
    // SAFETY: a helper without arguments.
    let entered_at = unsafe { bpf_ktime_get_boot_ns() };
    if Cookie::from_u64(number).function == rustls::DECRYPT {
        let buffer = match (kind(words[2]), kind(words[3])) {
            (Some(APPLICATION_DATA), _) => words[0],
            // Older compilers have the address first. It is more than any capacity.
            (None, Some(APPLICATION_DATA)) if words[0] > words[1] => words[0],
            (None, Some(APPLICATION_DATA)) => words[1],
            _ => return RETURN_UNWANTED,
        };
        let call = OpenCall {
            cookie: number,
            ssl: sockets::opening(key),
            buffer,
            count: 0,
            entered_at,
            stack: stack_pointer(context.regs),
        };
        return if calls::enter(thread, &call) {
            RETURN_WANTED
        } else {
            RETURN_UNWANTED
        };
    }
    let of_slices = words[3].wrapping_sub(words[2]);
    // In several pieces where `count` is not 0.
    let (kind, text, bytes, count) = match (kind(words[4]), kind(words[2])) {
        (Some(kind), _) if words[0] == 0 => (kind, words[1], words[2], 0),
        (Some(kind), _) if words[1] != 0 && of_slices <= u64::from(RECORD_BYTES) => {
            (kind, words[0], of_slices, words[1])
        }
        (_, Some(kind)) => (kind, words[0], words[1], 0),
        _ => return RETURN_UNWANTED,
    };
    if bytes == 0 || bytes > u64::from(RECORD_BYTES) {
        return RETURN_UNWANTED;
    }
    if kind != APPLICATION_DATA {
        if kind == HANDSHAKE && count == 0 {
            handshake(key, text, bytes, tgid, SENT);
        }
        return RETURN_UNWANTED;
    }
    sockets::sealed(thread, key);
    if count == 0 {
        let (context, _) = python::current_task(tgid);
        record(key, text, bytes, entered_at, SENT, tgid, tid, context);
        return RETURN_UNWANTED;
    }
    let message = Message {
        key,
        entered_at,
        slices: text,
        skip: words[2],
        bytes,
        context: python::current_task(tgid).0,
        tgid,
        tid,
    };
    if MESSAGES.insert(thread, message, 0).is_err() {
        lost(Loss::Untracked, bytes);
        return RETURN_UNWANTED;
    }
    let mut thread = thread;
    let slices = if count > SLICES { SLICES } else { count };
    // SAFETY: the callback has the signature that bpf_loop asks for and `thread` outlives it.
    unsafe {
        bpf_loop(
            slices as u32,
            slice as *mut c_void,
            ptr::from_mut(&mut thread).cast(),
            0,
        );
    }
    // SAFETY: the value is copied at once.
    let left = unsafe { MESSAGES.get(thread) }.map_or(0, |message| message.bytes);
    if left > 0 {
        lost(Loss::Untracked, left);
    }
    RETURN_UNWANTED
}

/// Takes the next slice: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn slice(_index: u32, thread: *const u64) -> i64 {
    if thread.is_null() {
        return 1;
    }
    // SAFETY: `entered` passes a valid pointer.
    let Some(message) = MESSAGES.get_ptr_mut(unsafe { *thread }) else {
        return 1;
    };
    // SAFETY: a map value that only this thread uses.
    let message = unsafe { &mut *message };
    // SAFETY: the helper checks the address.
    let Ok([text, length]) = (unsafe { bpf_probe_read_user(message.slices as *const [u64; 2]) })
    else {
        return 1;
    };
    message.slices += size_of::<[u64; 2]>() as u64;
    let Some(left) = length.checked_sub(message.skip) else {
        message.skip -= length;
        return 0;
    };
    let text = text + message.skip;
    message.skip = 0;
    let bytes = if left < message.bytes {
        left
    } else {
        message.bytes
    };
    if bytes == 0 {
        return i64::from(message.bytes == 0);
    }
    message.bytes -= bytes;
    record(
        message.key,
        text,
        bytes,
        message.entered_at,
        SENT,
        message.tgid,
        message.tid,
        message.context,
    );
    i64::from(message.bytes == 0)
}

#[inline(always)]
fn left(context: &RetProbeContext) {
    let (tgid, tid, thread) = current();
    let Some(call) = calls::leave(thread, stack_pointer_before_return(context.regs)) else {
        return;
    };
    if stopped() {
        return;
    }
    // SAFETY: the helper checks the address.
    let Ok(words) =
        (unsafe { bpf_probe_read_user(context.ret::<u64>() as *const [u64; RESULT_WORDS]) })
    else {
        lost(Loss::Fault, 0);
        return;
    };
    let mut found = (0, 0);
    for place in 0..RESULT_WORDS - 3 {
        if words[place] != call.buffer {
            continue;
        }
        if let Some(kind) = kind(words[place + 2]) {
            found = (kind, words[place + 1]);
        } else if let Some(kind) = kind(words[place + 3]) {
            found = (kind, words[place + 2]);
        }
    }
    let (kind, bytes) = found;
    if bytes == 0 || bytes > u64::from(RECORD_BYTES) {
        return;
    }
    match kind {
        APPLICATION_DATA => {
            sockets::opened(thread, call.ssl, tgid);
            record(
                call.ssl,
                call.buffer,
                bytes,
                call.entered_at,
                RECEIVED,
                tgid,
                tid,
                python::current_task(tgid).0,
            );
        }
        HANDSHAKE => handshake(call.ssl, call.buffer, bytes, tgid, RECEIVED),
        _ => {}
    }
}

/// Notes what a message of the handshake means for its key.
#[inline(always)]
fn handshake(key: u64, text: u64, bytes: u64, tgid: u32, direction: u32) {
    if bytes != KEY_UPDATE_BYTES {
        return;
    }
    // SAFETY: the helper checks the address.
    if unsafe { bpf_probe_read_user(text as *const u8) } == Ok(KEY_UPDATE) {
        sockets::changes(key, tgid, direction);
    }
}

/// The type of a message, if this is its head.
#[inline(always)]
fn kind(head: u64) -> Option<u64> {
    let fits = |kind: u64, version: u64| {
        (version & 0xffff == TLS_1_2 || version & 0xffff == TLS_1_3)
            && (kind & 0xff == HANDSHAKE || kind & 0xff == APPLICATION_DATA)
    };
    if fits(head, head >> 16) {
        Some(head & 0xff)
    } else if fits(head >> 32, head) {
        Some((head >> 32) & 0xff)
    } else {
        None
    }
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
    context: u64,
) {
    connection::transferred(&Transfer {
        object,
        buffer,
        bytes,
        entered_at,
        task: context,
        task_kind: if context == 0 {
            task::NONE
        } else {
            task::CPYTHON
        },
        tgid,
        tid,
        direction,
        half: 1,
    });
}
