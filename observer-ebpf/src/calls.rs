//! Calls of a library that have been entered and not yet left.

use observer_common::{Cookie, Loss, NESTED_CALLS, function};

use crate::maps::{CALLS, OpenCall, OpenCalls, lost};

/// What a program of a uprobe session answers at the entry: whether to be called at the return too.
pub const RETURN_WANTED: u32 = 0;
pub const RETURN_UNWANTED: u32 = 1;

/// No call: what a new entry of a map begins with. It lies outside the stack, of which there is little.
pub static NONE: OpenCalls = OpenCalls {
    calls: [OpenCall {
        cookie: 0,
        ssl: 0,
        buffer: 0,
        count: 0,
        entered_at: 0,
        stack: 0,
    }; NESTED_CALLS],
};

/// Notes that the thread has entered a call. Returns whether there was room for it.
#[inline(always)]
pub fn enter(thread: u64, call: &OpenCall) -> bool {
    let open = CALLS.get_ptr_mut(thread).or_else(|| {
        // The entry stays and is used again, until the thread exits.
        CALLS.insert(thread, &NONE, 0).ok()?;
        CALLS.get_ptr_mut(thread)
    });
    match open {
        // SAFETY: a map value that only this thread uses.
        Some(open) => push(unsafe { &mut *open }, call),
        None => {
            lost(Loss::Untracked, 0);
            false
        }
    }
}

/// The call that the thread leaves: the one that was entered with this stack pointer.
#[inline(always)]
pub fn leave(thread: u64, stack: u64) -> Option<OpenCall> {
    // SAFETY: a map value that only this thread uses.
    CALLS
        .get_ptr_mut(thread)
        .and_then(|open| pop(unsafe { &mut *open }, stack))
}

/// Adds a call, unless its bytes have been counted before.
#[inline(always)]
pub fn push(open: &mut OpenCalls, call: &OpenCall) -> bool {
    for slot in &open.calls {
        let flushes = Cookie::from_u64(slot.cookie).function == function::FLUSH;
        if flushes && slot.ssl == call.ssl && slot.stack > call.stack {
            return false;
        }
    }
    for slot in &mut open.calls {
        // Of calls on the same object, one inside the other, the innermost counts. A frame at or
        // below this one is gone: its return was never seen.
        if slot.cookie == 0 || slot.ssl == call.ssl || slot.stack <= call.stack {
            *slot = *call;
            return true;
        }
    }
    lost(Loss::Untracked, 0);
    false
}

/// Takes out the call that was entered with this stack pointer.
#[inline(always)]
pub fn pop(open: &mut OpenCalls, stack: u64) -> Option<OpenCall> {
    for slot in &mut open.calls {
        if slot.cookie != 0 && slot.stack == stack {
            let call = *slot;
            slot.cookie = 0;
            return Some(call);
        }
    }
    None
}
