//! Which socket the two keys of a connection belong to (see `aead`): after a record was sealed the thread
//! writes it, and before one is opened the thread has read it. `syscalls` tells of both.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use observer_common::{BindRecord, ConnectionKey, RECEIVED, SENT};

use crate::{
    connection, emit,
    maps::{FileKey, HALVES, Pair, SOCKETS, THREADS, ThreadSockets, stopped},
};

/// The thread writes to a file descriptor.
#[inline(always)]
pub fn writes(thread: u64, tgid: u32, fd: u32) {
    let Some(state) = THREADS.get_ptr_mut(thread) else {
        return;
    };
    // SAFETY: a map value that only this thread uses.
    let sealing = unsafe { core::mem::take(&mut (*state).sealing) };
    if sealing != 0 {
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
        if half != 0 {
            connection::freed(half, tgid, tid);
            let _ = HALVES.remove(ConnectionKey {
                ssl: half,
                tgid: u64::from(tgid),
            });
        }
    }
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
    });
    if direction == SENT {
        pair.sent = object;
    } else {
        pair.received = object;
    }
    let _ = SOCKETS.insert(file, pair, 0);
    emit::bind(BindRecord {
        kind: observer_common::KIND_BIND,
        direction,
        tgid,
        fd,
        ssl: object,
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
    });
}
