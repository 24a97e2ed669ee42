//! Probes in Go's `crypto/tls` (src/crypto/tls/conn.go) and `net/http`, ABIInternal, Go 1.17 and later.
//!
//! Never a uretprobe: the runtime walks and moves stacks and does not know the kernel's return address.
//! So every `RET` of `Read` has a probe of its own. A goroutine may leave `Read` on another thread than it
//! entered on, and on a stack that has moved: a call is found again by its goroutine, and by its distance
//! from the stack's end. Programs wait for answers in `Read`, often for long: what was entered before there
//! were probes is told by the arguments that `Read` keeps.

use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_user, generated::bpf_get_attach_cookie},
    macros::uprobe,
    programs::ProbeContext,
};
use observer_common::{Cookie, KIND_BROKEN, KIND_PEER_CLOSED, Loss, RECEIVED, SENT, go, task};

use crate::{
    calls,
    connection::{self, Transfer},
    goroutines,
    maps::{
        GOROUTINE_CALLS, OpenCall, Runtime, TaskKey, WRITERS, added, current, lost, stopped,
        watched,
    },
    registers::{self, GoRegisters, stack_pointer},
};

/// Offset of `stack.hi` in `runtime.g` (src/runtime/runtime2.go).
const STACK_END: u64 = 8;

/// Offset of `Err` in `net.OpError`, and of its value (src/net/net.go).
const OP_ERROR_VALUE: u64 = 72;

/// Offset of the value of `Err` in `os.SyscallError` (src/internal/oserror, src/os/error.go).
const SYSCALL_ERROR_VALUE: u64 = 24;

/// errno(3)
const ECONNRESET: u64 = 104;

/// The places that are probed in a Go program.
#[uprobe]
pub fn go_call(context: ProbeContext) -> u32 {
    let (tgid, tid, _) = current();
    if !watched(tgid) || stopped() {
        return 0;
    }
    // SAFETY: the context is the one that the kernel passed.
    let number = unsafe { bpf_get_attach_cookie(context.regs.cast()) };
    let cookie = Cookie::from_u64(number);
    let GoRegisters { g, words } = registers::go(context.regs);
    let [first, second, third] = words;
    if cookie.function == go::CLOSE {
        connection::freed(first, tgid, tid);
        goroutines::closed(first, tgid);
        return 0;
    }
    let runtime = Runtime {
        goid: cookie.goid,
        parent: cookie.parent,
    };
    if matches!(
        cookie.function,
        go::ROUND_TRIP | go::ROUND_TRIP_2 | go::SERVE
    ) {
        goroutines::answers(first, goroutines::of(g, runtime), cookie, tgid, tid);
        return 0;
    }
    if cookie.function == go::RUN_HANDLER {
        goroutines::handles(first, second, goroutines::of(g, runtime), cookie, tgid, tid);
        return 0;
    }
    let mut transfer = Transfer {
        object: first,
        buffer: second,
        bytes: third,
        // SAFETY: a helper without arguments.
        entered_at: unsafe { bpf_ktime_get_boot_ns() },
        task: 0,
        task_kind: task::GOROUTINE,
        tgid,
        tid,
        direction: SENT,
        half: 0,
    };
    let key = TaskKey {
        task: g,
        tgid: u64::from(tgid),
    };
    if cookie.function == go::WRITE_CHECK {
        let _ = WRITERS.insert(key, 1, 0);
        return 0;
    }
    if cookie.function == go::WRITE {
        // Where one file has probes under two paths, the second finds this done. `Write` writes all or
        // breaks the connection.
        if WRITERS.remove(key).is_err() || third == 0 {
            return 0;
        }
    } else {
        // SAFETY: the helper checks the address.
        let Ok(end) = (unsafe { bpf_probe_read_user((g + STACK_END) as *const u64) }) else {
            lost(Loss::Fault, 0);
            return 0;
        };
        let stack = stack_pointer(context.regs).wrapping_sub(end);
        if cookie.function == go::READ {
            let call = OpenCall {
                cookie: number,
                ssl: first,
                buffer: second,
                count: 0,
                entered_at: transfer.entered_at,
                stack,
            };
            let open = GOROUTINE_CALLS
                .get_ptr_mut(key)
                .or_else(|| added(&GOROUTINE_CALLS, key, &calls::NONE));
            match open {
                // SAFETY: a map value that only this goroutine uses.
                Some(open) => {
                    calls::push(unsafe { &mut *open }, &call);
                }
                None => lost(Loss::Untracked, 0),
            }
            return 0;
        }
        let open = GOROUTINE_CALLS.get_ptr_mut(key);
        // SAFETY: as above.
        let call = open.and_then(|open| calls::pop(unsafe { &mut *open }, stack));
        let kept = cookie.function == go::READ_RETURN_KEPT;
        let (object, buffer) = match call {
            // The stack may have moved, and a buffer with it.
            _ if kept && (call.is_some() || open.is_none()) => {
                let at = stack_pointer(context.regs).wrapping_add(8);
                // SAFETY: the helper checks the address.
                let Ok([object, buffer]) = (unsafe { bpf_probe_read_user(at as *const [u64; 2]) })
                else {
                    lost(Loss::Fault, 0);
                    return 0;
                };
                if open.is_none() {
                    // Entered before there were probes. Where one file has probes under two paths, the
                    // second finds that the goroutine is known, and has not entered.
                    let _ = GOROUTINE_CALLS.insert(key, &calls::NONE, 0);
                }
                (object, buffer)
            }
            Some(call) => (call.ssl, call.buffer),
            None => return 0,
        };
        let (bytes, failed, error) = (first, second != 0, third);
        if bytes != 0 && bytes <= i64::MAX as u64 {
            transfer.object = object;
            transfer.buffer = buffer;
            transfer.bytes = bytes;
            transfer.direction = RECEIVED;
            pass(&mut transfer, g, runtime);
        }
        if failed && let Some(kind) = ending(error) {
            connection::closing(object, tgid, tid, kind);
        }
        return 0;
    }
    pass(&mut transfer, g, runtime);
    0
}

/// Takes note of what passes, and of the goroutine that answers for it.
#[inline(always)]
fn pass(transfer: &mut Transfer, g: u64, runtime: Runtime) {
    let own = goroutines::of(g, runtime);
    let one = goroutines::responsible(transfer.object, own, transfer.tgid, transfer.tid);
    transfer.task = one.id;
    connection::transferred(transfer);
}

/// What an error that `Read` returned says of the connection. `error` is the value of the interface:
/// `io.EOF` is an `errors.errorString`, whose first word points to the text.
#[inline(always)]
fn ending(error: u64) -> Option<u32> {
    // SAFETY: the helper checks every address.
    let [text, length] = unsafe { bpf_probe_read_user(error as *const [u64; 2]) }.ok()?;
    if length == 3 {
        // SAFETY: as above.
        let text = unsafe { bpf_probe_read_user(text as *const [u8; 3]) }.ok()?;
        return (text == *b"EOF").then_some(KIND_PEER_CLOSED);
    }
    if length != 4 {
        return None;
    }
    // `net.OpError` begins with the operation: "read".
    // SAFETY: as above.
    let number = unsafe {
        let cause = bpf_probe_read_user((error + OP_ERROR_VALUE) as *const u64).ok()?;
        let number = bpf_probe_read_user((cause + SYSCALL_ERROR_VALUE) as *const u64).ok()?;
        bpf_probe_read_user(number as *const u64).ok()?
    };
    (number == ECONNRESET).then_some(KIND_BROKEN)
}
