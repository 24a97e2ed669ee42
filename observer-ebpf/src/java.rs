//! Probes in the native library of the Java agent (observer-java/native/lib.rs): functions that do nothing,
//! and are called with plaintext.

use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, generated::bpf_get_attach_cookie},
    macros::uprobe,
    programs::ProbeContext,
};
use observer_common::{Cookie, KIND_BROKEN, KIND_FREE, RECEIVED, SENT, java, task};

use crate::{
    connection::{self, Transfer},
    maps::{current, stopped, watched},
    registers::counts,
};

/// Entry of a function.
#[uprobe]
pub fn java_call(context: ProbeContext) -> u32 {
    let (tgid, tid, _) = current();
    if !watched(tgid) || stopped() {
        return 0;
    }
    // SAFETY: the context is the one that the kernel passed.
    let cookie = Cookie::from_u64(unsafe { bpf_get_attach_cookie(context.regs.cast()) });
    let (Some(object), Some(second)) = (context.arg::<u64>(0), context.arg::<u64>(1)) else {
        return 0;
    };
    // An `int`: what else is in the register means nothing.
    let second = second as u32;
    if cookie.function == java::END {
        if second == KIND_FREE {
            connection::freed(object, tgid, tid);
        } else if second > KIND_FREE && second <= KIND_BROKEN {
            connection::closing(object, tgid, tid, second);
        }
        return 0;
    }
    let (bytes, _) = counts(context.regs);
    let Some(buffer) = context.arg::<u64>(2) else {
        return 0;
    };
    if bytes == 0 {
        return 0;
    }
    connection::transferred(&Transfer {
        object,
        buffer,
        bytes,
        // SAFETY: a helper without arguments.
        entered_at: unsafe { bpf_ktime_get_boot_ns() },
        task: 0,
        task_kind: task::NONE,
        tgid,
        tid,
        direction: if second == SENT { SENT } else { RECEIVED },
        half: 0,
    });
    0
}
