//! Which goroutine answers for what passes on a connection of a Go program, and what created it.
//!
//! Over HTTP/1.1 net/http writes and reads in goroutines of the connection, over HTTP/2 it writes in one that it
//! creates for each call. So those that make the calls are noted, by connection, when they hand one over.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_user},
};
use observer_common::{
    AnswersRecord, Cookie, KIND_ANSWERS, KIND_TASK, TaskRecord, go, plain, task,
};

use crate::{
    emit,
    maps::{CALLERS, CREATORS, CallerKey, Goroutine, RUNTIMES, Runtime, TaskKey, Walk},
    plaintext, registers,
};

/// Where the value of an interface lies, behind what tells its type.
const VALUE: u64 = 8;

/// Offset of `Sysfd` in `net.netFD` (src/internal/poll/fd_unix.go), which a `net.TCPConn` begins with a pointer to.
const DESCRIPTOR: u64 = 16;

/// No goroutine that is known.
pub const NONE: Goroutine = Goroutine { id: 0, parent: 0 };

/// The goroutine of a `runtime.g`.
#[inline(always)]
pub fn of(g: u64, runtime: Runtime) -> Goroutine {
    Goroutine {
        id: field(g, runtime.goid),
        parent: field(g, runtime.parent),
    }
}

/// The goroutine that answers for what passes on a connection, as far as is known, where `own` writes or
/// reads. It is reported.
#[inline(always)]
pub fn responsible(object: u64, own: Goroutine, tgid: u32, tid: u32) -> Goroutine {
    let mut key = CallerKey {
        object,
        goroutine: 0,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is copied at once.
    let mut caller = unsafe { CALLERS.get(key) }.copied();
    if caller.is_none() && own.parent != 0 {
        key.goroutine = own.parent;
        // SAFETY: as above.
        caller = unsafe { CALLERS.get(key) }.copied();
    }
    let one = caller.unwrap_or(own);
    created(tgid, tid, one.id, one.parent);
    one
}

/// The goroutine that answers for what a system call has moved; `NONE` if it is not one of Go that made it.
#[inline(always)]
pub fn of_system_call(walk: &Walk, object: u64) -> Goroutine {
    // SAFETY: the value is copied at once.
    let Some(runtime) = (unsafe { RUNTIMES.get(walk.tgid) }).copied() else {
        return NONE;
    };
    let Some((g, stack)) = registers::go_saved(walk.registers as *const pt_regs) else {
        return NONE;
    };
    // C that is called from Go has the register, but a stack of its own.
    // SAFETY: the helper checks the address.
    let own = match unsafe { bpf_probe_read_user(g as *const [u64; 2]) } {
        Ok([low, high]) if low <= stack && stack < high => of(g, runtime),
        _ => NONE,
    };
    responsible(object, own, walk.tgid, walk.tid)
}

/// A goroutine begins to answer for a connection: `holder` has it, and the cookie says where.
#[inline(always)]
pub fn answers(holder: u64, one: Goroutine, cookie: Cookie, tgid: u32, tid: u32) {
    if one.id == 0 {
        return;
    }
    let runtime = Runtime {
        goid: cookie.goid,
        parent: cookie.parent,
    };
    // SAFETY: the value is compared at once.
    if unsafe { RUNTIMES.get(tgid) }.is_none_or(|known| *known != runtime) {
        let _ = RUNTIMES.insert(tgid, runtime, 0);
    }
    let place = holder + u64::from(cookie.conn) + VALUE;
    // SAFETY: the helper checks the address.
    if let Ok(conn) = unsafe { bpf_probe_read_user(place as *const u64) } {
        let mut key = CallerKey {
            object: conn,
            goroutine: if cookie.function == go::ROUND_TRIP_2 {
                one.id
            } else {
                0
            },
            tgid: u64::from(tgid),
        };
        let _ = CALLERS.insert(key, one, 0);
        if let Some(object) = without_tls(tgid, conn) {
            key.object = object;
            let _ = CALLERS.insert(key, one, 0);
        }
    }
    created(tgid, tid, one.id, one.parent);
}

/// A goroutine begins to answer a request of a connection of HTTP/2: `server` has the connection, and the cookie
/// says where, `writer` the request's stream.
#[inline(always)]
pub fn handles(server: u64, writer: u64, one: Goroutine, cookie: Cookie, tgid: u32, tid: u32) {
    if one.id == 0 {
        return;
    }
    created(tgid, tid, one.id, one.parent);
    let place = server + u64::from(cookie.conn) + VALUE;
    // SAFETY: the helper checks every address.
    let found = unsafe {
        bpf_probe_read_user(place as *const u64).and_then(|conn| {
            let state = bpf_probe_read_user(writer as *const u64)?;
            let stream = bpf_probe_read_user(state as *const u64)?;
            Ok((conn, bpf_probe_read_user(stream as *const [u64; 2])?))
        })
    };
    // A stream begins with its connection; what does not is laid out otherwise.
    if let Ok((conn, [of, number])) = found
        && of == server
    {
        emit::answers(AnswersRecord {
            kind: KIND_ANSWERS,
            task_kind: task::GOROUTINE,
            tgid,
            stream: number as u32,
            object: without_tls(tgid, conn).unwrap_or(conn),
            task: one.id,
        });
    }
}

/// A connection is closed: its address may become another's.
#[inline(always)]
pub fn closed(object: u64, tgid: u32) {
    let _ = CALLERS.remove(CallerKey {
        object,
        goroutine: 0,
        tgid: u64::from(tgid),
    });
}

/// What the connection is called in `plaintext` that a `net.TCPConn` at this address stands for. What is no such
/// thing has no descriptor there, or one that carries something else.
#[inline(always)]
fn without_tls(tgid: u32, conn: u64) -> Option<u64> {
    // SAFETY: the helper checks every address.
    let fd = unsafe {
        let descriptor = bpf_probe_read_user(conn as *const u64).ok()?;
        bpf_probe_read_user((descriptor + DESCRIPTOR) as *const u64).ok()?
    };
    if fd >= 1 << plain::FD_BITS {
        return None;
    }
    plaintext::object(tgid, fd as u32)
}

/// Tells the agent what created a goroutine, once. On a stack of its own, of which there is little.
#[inline(never)]
fn created(tgid: u32, tid: u32, id: u64, parent: u64) {
    if id == 0 || parent == 0 {
        return;
    }
    let key = TaskKey {
        task: id,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is compared at once.
    if unsafe { CREATORS.get(key) }.is_some_and(|known| *known == parent) {
        return;
    }
    let sent = emit::task(TaskRecord {
        kind: KIND_TASK,
        task_kind: task::GOROUTINE,
        tgid,
        tid,
        task: id,
        parent,
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
    });
    if sent {
        let _ = CREATORS.insert(key, parent, 0);
    }
}

/// A word of `runtime.g`; 0 if it is not known where it lies.
#[inline(always)]
fn field(g: u64, offset: u16) -> u64 {
    if offset == 0 {
        return 0;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user((g + u64::from(offset)) as *const u64) }.unwrap_or(0)
}
