//! Tasks of CPython: the `contextvars.Context` that a thread has entered, and which was copied from which.
//!
//! asyncio, uvloop and trio run each task in a Context of its own. The interpreter keeps the current one in
//! the thread's `PyThreadState`, which the thread finds by a pthread key, whoever holds the GIL. The agent
//! says where all that is in a process (`observer_common::Python`), and two facts prove it each time: a
//! `PyThreadState` holds its thread's id, which is the thread pointer (glibc), and a Context its type. Where
//! either is wrong there is no task.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::{
        bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_probe_read_user,
        generated::{bpf_get_func_ip, bpf_loop},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{KIND_TASK, Python, TaskRecord, task};

use crate::{
    calls::{RETURN_UNWANTED, RETURN_WANTED},
    emit,
    maps::{
        ANCESTORS, CONTEXTS, Lineage, PYTHONS, TaskKey, current, python_known, stopped, watched,
    },
    registers::instruction_pointer,
};

/// Keys whose values lie in the thread's own block (glibc, nptl/descr.h: `PTHREAD_KEY_2NDLEVEL_SIZE`).
const KEYS: u32 = 32;

/// Bytes of a key's value with its sequence number, and where the value lies (nptl/descr.h: `struct
/// pthread_key_data`).
const KEY_BYTES: u64 = 16;
const KEY_VALUE: u64 = 8;

/// Generations that the agent is told of at once.
const GENERATIONS: u32 = 8;

/// Entry and return of `PyContext_CopyCurrent`, by a uprobe session (Linux 6.13).
#[uprobe]
pub fn python_call(context: ProbeContext) -> u32 {
    let (tgid, tid, _) = current();
    // SAFETY: the context is the one that the kernel passed.
    let function = unsafe { bpf_get_func_ip(context.regs.cast()) };
    if instruction_pointer(context.regs) == function {
        return if watched(tgid) && is_one(tgid) {
            RETURN_WANTED
        } else {
            RETURN_UNWANTED
        };
    }
    made(RetProbeContext::new(context.regs.cast()).ret(), tgid, tid);
    0
}

/// Return of `PyContext_CopyCurrent`, which gives the new Context.
#[uretprobe]
pub fn python_return(context: RetProbeContext) -> u32 {
    let (tgid, tid, _) = current();
    if watched(tgid) {
        made(context.ret(), tgid, tid);
    }
    0
}

/// Whether the process is a CPython whose tasks can be read.
#[inline(always)]
pub fn is_one(tgid: u32) -> bool {
    // SAFETY: the value is not read, only its presence matters.
    python_known() && unsafe { PYTHONS.get(tgid) }.is_some()
}

/// A process has made a copy of itself, or a thread, which gets an entry that nobody asks for.
#[inline(always)]
pub fn forked(tgid: u32, child: u32) {
    if let Some(python) = PYTHONS.get_ptr(tgid) {
        // SAFETY: a map value, which is copied at once.
        let _ = PYTHONS.insert(child, unsafe { &*python }, 0);
    }
}

/// A thread is gone.
#[inline(always)]
pub fn gone(tid: u32) {
    if python_known() {
        let _ = PYTHONS.remove(tid);
    }
}

/// The task of the current thread and its kind (`observer_common::DataRecord`), of which the agent has been
/// told. The call that moves bytes has not left the task that made it. To be asked for before what goes
/// through them piece by piece: the stack would be too small there.
#[inline(always)]
pub fn current_task(tgid: u32) -> (u64, u32) {
    match executes(tgid) {
        0 => (0, task::NONE),
        context => (context, task::CPYTHON),
    }
}

/// The Context that the current thread has entered, of which the agent has been told; 0 if it has entered
/// none.
#[inline(never)]
fn executes(tgid: u32) -> u64 {
    let context = entered(tgid);
    if context != 0 {
        tell(tgid, context);
    }
    context
}

/// The Context that the current thread has entered; 0 if it has entered none. One that it has, but has not
/// entered, is the thread's own.
#[inline(always)]
fn entered(tgid: u32) -> u64 {
    if !python_known() {
        return 0;
    }
    // SAFETY: the value is only read, and lives as long as the program runs.
    unsafe { PYTHONS.get(tgid) }
        .and_then(|python| read(python))
        .unwrap_or(0)
}

#[inline(always)]
fn read(python: &Python) -> Option<u64> {
    // SAFETY: the helpers check every address.
    unsafe {
        let place = bpf_get_current_task().wrapping_add(python.thread_pointer);
        let pointer = bpf_probe_read_kernel(place as *const u64).ok()?;
        let [is_made, key] = bpf_probe_read_user(python.key as *const [u32; 2]).ok()?;
        if is_made != 1 || key >= KEYS {
            return None;
        }
        let value = pointer
            .wrapping_add(python.slots)
            .wrapping_add(u64::from(key) * KEY_BYTES + KEY_VALUE);
        let state = bpf_probe_read_user(value as *const u64).ok()?;
        let id = bpf_probe_read_user(state.wrapping_add(python.thread_id) as *const u64).ok()?;
        if state == 0 || id != pointer {
            return None;
        }
        let context = bpf_probe_read_user(state.wrapping_add(python.context) as *const u64).ok()?;
        if context == 0 {
            return None;
        }
        let place = context.wrapping_add(python.object_type);
        if bpf_probe_read_user(place as *const u64).ok()? != python.context_type {
            return None;
        }
        let place = context.wrapping_add(python.entered);
        let entered = bpf_probe_read_user(place as *const u32).ok()?;
        (entered != 0).then_some(context)
    }
}

/// A copy of the current Context was made.
#[inline(always)]
fn made(context: u64, tgid: u32, tid: u32) {
    if context == 0 || stopped() || !is_one(tgid) {
        return;
    }
    let mut lineage = Lineage {
        ancestors: [0; ANCESTORS],
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        tid,
        told: 0,
    };
    let parent = entered(tgid);
    lineage.ancestors[0] = parent;
    // SAFETY: the value is copied at once.
    if let Some(of_parent) = unsafe { CONTEXTS.get(key(tgid, parent)) } {
        let [first, second, third, _] = of_parent.ancestors;
        lineage.ancestors = [parent, first, second, third];
    }
    let _ = CONTEXTS.insert(key(tgid, context), &lineage, 0);
}

/// What is told of a Context and of those that it descends from.
#[repr(C)]
struct Telling {
    context: u64,
    tgid: u32,
}

/// Tells the agent of a Context and its ancestors, each once.
#[inline(always)]
fn tell(tgid: u32, context: u64) {
    // Mostly that is done.
    // SAFETY: the value is only looked at.
    match unsafe { CONTEXTS.get(key(tgid, context)) } {
        Some(lineage) if lineage.told == 0 => {}
        _ => return,
    }
    let mut telling = Telling { context, tgid };
    // SAFETY: the callback has the signature that bpf_loop asks for and `telling` outlives it.
    unsafe {
        bpf_loop(
            GENERATIONS,
            tell_one as *mut c_void,
            ptr::from_mut(&mut telling).cast(),
            0,
        );
    }
}

/// Tells of one generation: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn tell_one(_index: u32, telling: *mut Telling) -> i64 {
    if telling.is_null() {
        return 1;
    }
    // SAFETY: `tell` passes a valid pointer; nobody else has it meanwhile.
    let telling = unsafe { &mut *telling };
    let Some(lineage) = CONTEXTS.get_ptr_mut(key(telling.tgid, telling.context)) else {
        return 1;
    };
    // SAFETY: a map value. Another thread may tell of it too; then the agent hears it twice.
    let lineage = unsafe { &mut *lineage };
    if lineage.told != 0 {
        return 1;
    }
    let parent = living(telling.tgid, lineage);
    lineage.told = u32::from(emit::task(TaskRecord {
        kind: KIND_TASK,
        task_kind: task::CPYTHON,
        tgid: telling.tgid,
        tid: lineage.tid,
        task: telling.context,
        parent,
        at: lineage.at,
    }));
    telling.context = parent;
    i64::from(parent == 0)
}

/// The nearest ancestor whose address is not another's by now: those that a loop makes for a moment (a
/// callback's) are soon gone.
#[inline(always)]
fn living(tgid: u32, lineage: &Lineage) -> u64 {
    for &ancestor in &lineage.ancestors {
        // SAFETY: the value is only looked at.
        match unsafe { CONTEXTS.get(key(tgid, ancestor)) } {
            Some(of_ancestor) if of_ancestor.at > lineage.at => {}
            _ => return ancestor,
        }
    }
    0
}

#[inline(always)]
fn key(tgid: u32, context: u64) -> TaskKey {
    TaskKey {
        task: context,
        tgid: u64::from(tgid),
    }
}
