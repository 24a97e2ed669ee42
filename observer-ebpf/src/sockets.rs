//! Which socket the two keys of a connection belong to (see `aead`): after a record was sealed the thread
//! writes it, and before one is opened the thread has read it. `syscalls` tells of both.

use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_user};
use observer_common::{BindRecord, ConnectionKey, RECEIVED, SENT};

use crate::{
    connection, emit,
    maps::{FileKey, HALVES, Pair, SOCKETS, THREADS, ThreadSockets, stopped},
};

/// Offset of `msg_iov` in `struct msghdr`.
const MESSAGE_VECTOR: u64 = 16;

/// The thread writes to a file descriptor what lies at `place`: itself, by a `struct iovec` or by a `struct
/// msghdr`.
#[inline(always)]
pub fn writes(thread: u64, tgid: u32, fd: u32, place: u64) {
    let Some(state) = THREADS.get_ptr_mut(thread) else {
        return;
    };
    // SAFETY: a map value that only this thread uses.
    let sealing = unsafe { (*state).sealing };
    if sealing != 0 && is_record(place) {
        // SAFETY: as above.
        unsafe { (*state).sealing = 0 };
        bind(sealing, tgid, fd, SENT);
    }
}

/// The thread reads from a file descriptor.
#[inline(always)]
pub fn reads(thread: u64, fd: u32) {
    match THREADS.get_ptr_mut(thread) {
        // SAFETY: a map value that only this thread uses.
        Some(state) => unsafe { (*state).reading = u64::from(fd) + 1 },
        None => {
            let state = ThreadSockets {
                sealing: 0,
                reading: u64::from(fd) + 1,
            };
            let _ = THREADS.insert(thread, state, 0);
        }
    }
}

/// A file descriptor is closed: what has passed through it is over.
#[inline(always)]
pub fn closed(tgid: u32, tid: u32, fd: u32) {
    let key = FileKey { tgid, fd };
    // SAFETY: the value is copied at once.
    let Some(pair) = (unsafe { SOCKETS.get(key) }).copied() else {
        return;
    };
    let _ = SOCKETS.remove(key);
    for half in [pair.sent, pair.received] {
        let name = ConnectionKey {
            ssl: half,
            tgid: u64::from(tgid),
        };
        // The address may be that of another key by now.
        // SAFETY: the value is copied at once.
        if unsafe { HALVES.get(name) } == Some(&fd) {
            connection::freed(half, tgid, tid);
            let _ = HALVES.remove(name);
        }
    }
}

/// The name of a key that opens records. Keys are updated often enough for the address of one that sealed to be
/// used again by one that opens, on the same connection; no address of a key is odd.
#[inline(always)]
pub fn opening(key: u64) -> u64 {
    key | 1
}

/// The thread has sealed a record with this key, and will write it.
#[inline(always)]
pub fn sealed(thread: u64, key: u64) {
    match THREADS.get_ptr_mut(thread) {
        // SAFETY: a map value that only this thread uses.
        Some(state) => unsafe { (*state).sealing = key },
        None => {
            let state = ThreadSockets {
                sealing: key,
                reading: 0,
            };
            let _ = THREADS.insert(thread, state, 0);
        }
    }
}

/// The thread has opened a record with this key, which it has read before.
#[inline(always)]
pub fn opened(thread: u64, key: u64, tgid: u32) {
    // SAFETY: the value is copied at once.
    if let Some(state) = unsafe { THREADS.get(thread) }.copied()
        && state.reading != 0
    {
        bind(key, tgid, (state.reading - 1) as u32, RECEIVED);
    }
}

/// A key is about to be replaced by another (RFC 8446 section 4.6.3), which stands for the same direction of
/// the same connection. Its address may be that of a key of any connection from now on.
#[inline(always)]
pub fn changes(key: u64, tgid: u32, direction: u32) {
    let name = ConnectionKey {
        ssl: key,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is copied at once.
    let Some(fd) = (unsafe { HALVES.get(name) }).copied() else {
        return;
    };
    if let Some(pair) = SOCKETS.get_ptr_mut(FileKey { tgid, fd }) {
        // SAFETY: a map value. Both directions change it, but not at the same time: each answers the other.
        unsafe { (*pair).changing |= 1 << direction };
    }
    let _ = HALVES.remove(name);
    connection::forget(name);
}

/// The key with which the connection is written that this one opens.
#[inline(always)]
pub fn sender(name: ConnectionKey) -> Option<ConnectionKey> {
    let pair = socket(name)?;
    Some(ConnectionKey {
        ssl: pair.sent,
        ..name
    })
}

/// The key that opens what comes on the connection that this one writes.
#[inline(always)]
pub fn receiver(name: ConnectionKey) -> Option<ConnectionKey> {
    let pair = socket(name)?;
    Some(ConnectionKey {
        ssl: pair.received,
        ..name
    })
}

/// The connection that the key writes is a new one for the agent: both keys are bound anew.
#[inline(always)]
pub fn renewed(name: ConnectionKey, generation: u64) {
    if let Some(receiver) = receiver(name) {
        connection::renew(receiver, generation);
        let _ = HALVES.remove(receiver);
    }
    let _ = HALVES.remove(name);
}

#[inline(always)]
fn socket(name: ConnectionKey) -> Option<Pair> {
    // SAFETY: the values are copied at once.
    unsafe {
        let fd = *HALVES.get(name)?;
        SOCKETS
            .get(FileKey {
                tgid: name.tgid as u32,
                fd,
            })
            .copied()
    }
}

/// Whether what is written begins with a record of TLS (RFC 8446 section 5.1): the thread may write elsewhere
/// before it writes what it has sealed. It lies at `place` as in [`writes`].
#[inline(always)]
fn is_record(place: u64) -> bool {
    begins_record(place)
        || word(place).is_some_and(begins_record)
        || word(place + MESSAGE_VECTOR)
            .and_then(word)
            .is_some_and(begins_record)
}

#[inline(always)]
fn begins_record(address: u64) -> bool {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const [u8; 3]) }
        .is_ok_and(|[kind, major, minor]| matches!(kind, 20..=24) && major == 3 && minor <= 4)
}

#[inline(always)]
fn word(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}

/// Reports what the key belongs to, where that is new.
#[inline(always)]
fn bind(object: u64, tgid: u32, fd: u32, direction: u32) {
    if stopped() {
        return;
    }
    let key = ConnectionKey {
        ssl: object,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is not kept.
    if unsafe { HALVES.get(key) } == Some(&fd) {
        return;
    }
    if HALVES.insert(key, fd, 0).is_err() {
        return;
    }
    let file = FileKey { tgid, fd };
    // SAFETY: the value is copied at once.
    let mut pair = unsafe { SOCKETS.get(file) }.copied().unwrap_or(Pair {
        sent: 0,
        received: 0,
        changing: 0,
    });
    let previous = if direction == SENT {
        core::mem::replace(&mut pair.sent, object)
    } else {
        core::mem::replace(&mut pair.received, object)
    };
    let changing = pair.changing & (1 << direction) != 0;
    pair.changing &= !(1 << direction);
    let _ = SOCKETS.insert(file, pair, 0);
    emit::bind(BindRecord {
        kind: observer_common::KIND_BIND,
        direction,
        tgid,
        fd,
        ssl: object,
        previous: if changing { previous } else { 0 },
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
    });
}
