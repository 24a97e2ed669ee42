//! Tracepoints for the life of processes: who forks, executes and exits.

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::tracepoint, programs::TracePointContext};
use observer_common::{KIND_EXEC, KIND_EXIT, KIND_FORK, Loss, ProcessRecord, follow};

use crate::{
    emit,
    maps::{
        CALLS, RENEWED, SENDING, SPEAKERS, WATCHED, current, follows, fork_child_pid_offset,
        include, lost, watch_all, watched,
    },
    python,
};

/// `sched/sched_process_fork`, in the parent. Threads count as tasks too.
#[tracepoint]
pub fn process_fork(context: TracePointContext) -> u32 {
    let (tgid, tid, _) = current();
    let plaintext = follows() & follow::PLAINTEXT != 0;
    let python = python::is_one(tgid);
    // SAFETY: the value is not read, only its presence matters.
    let speaker = watch_all() && unsafe { SPEAKERS.get(tgid) }.is_some();
    if (watch_all() && !plaintext && !python && !speaker) || !watched(tgid) {
        return 0;
    }
    let offset = fork_child_pid_offset() as usize;
    // SAFETY: the agent read the offset from the tracepoint's format.
    let Ok(child) = (unsafe { context.read_at::<u32>(offset) }) else {
        return 0;
    };
    if plaintext {
        renew(child);
    }
    if python {
        python::forked(tgid, child);
    }
    if watch_all() {
        if speaker {
            report(KIND_FORK, child, tgid, tid);
        }
        return 0;
    }
    if WATCHED.insert(child, 1, 0).is_err() {
        lost(Loss::Untracked, 0);
    }
    report(KIND_FORK, child, tgid, tid);
    0
}

/// `sched/sched_process_exec`, in the process.
#[tracepoint]
pub fn process_exec(_context: TracePointContext) -> u32 {
    let (tgid, tid, _) = current();
    // A container's first program has the id of its runtime.
    include(tgid);
    if follows() & follow::PLAINTEXT != 0 && watched(tgid) {
        renew(tgid);
    }
    // SAFETY: the value is not read, only its presence matters.
    if (watch_all() && unsafe { SPEAKERS.get(tgid) }.is_some()) || (!watch_all() && watched(tgid)) {
        report(KIND_EXEC, 0, tgid, tid);
    }
    0
}

/// `sched/sched_process_exit`, in each thread that exits.
#[tracepoint]
pub fn process_exit(_context: TracePointContext) -> u32 {
    let (tgid, tid, thread) = current();
    let _ = CALLS.remove(thread);
    let _ = SENDING.remove(thread);
    // SAFETY: the value is not read, only its presence matters.
    let speaker = unsafe { SPEAKERS.get(tgid) }.is_some();
    if speaker || (!watch_all() && watched(tgid)) {
        report(KIND_EXIT, 0, tgid, tid);
    }
    python::gone(tid);
    if tid == tgid {
        // Another process may get the id.
        include(tgid);
    } else {
        // A thread got here by process_fork, which cannot tell it from a process.
        let _ = WATCHED.remove(tid);
    }
    0
}

/// What is known of the process's file descriptors holds no more.
#[inline(always)]
fn renew(tgid: u32) {
    // SAFETY: a helper without arguments.
    let _ = RENEWED.insert(tgid, unsafe { bpf_ktime_get_boot_ns() }, 0);
}

#[inline(always)]
fn report(kind: u32, other: u32, tgid: u32, tid: u32) {
    emit::process(ProcessRecord {
        kind,
        other,
        tgid,
        tid,
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
    });
}
