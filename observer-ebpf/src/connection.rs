//! What passes on a connection, whatever library it was seen in.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use observer_common::{CloseRecord, ConnectionKey, KIND_FREE, Loss, RECEIVED, SENT};

use crate::{
    emit::{self, Plaintext},
    maps::{CONNECTIONS, Connection, SPEAKERS, VERDICTS, added, lost, stopped, verdict_count},
    request, sockets,
};

/// Bytes that a process has handed over or got.
pub struct Transfer {
    /// Address of what stands for the connection in the process.
    pub object: u64,
    /// Where the bytes are.
    pub buffer: u64,
    /// How many. 0 for a write that has to be repeated.
    pub bytes: u64,
    /// When the call was entered.
    pub entered_at: u64,
    /// The logical task that the thread executes, and what it is: `observer_common::DataRecord`.
    pub task: u64,
    pub task_kind: u32,
    pub tgid: u32,
    pub tid: u32,
    pub direction: u32,
    /// Not 0: the object stands for this direction only.
    pub half: u32,
}

/// Takes note of the bytes and sends them.
#[inline(always)]
pub fn transferred(transfer: &Transfer) {
    let asks = transfer.direction == SENT && request::is_llm(transfer.buffer, transfer.bytes);
    passed(transfer, asks);
}

/// Where the bytes of a connection's write are that has to be repeated, for a library that lets it be repeated
/// without saying again what; 0 if there is none.
#[inline(always)]
pub fn repeated(object: u64, tgid: u32) -> u64 {
    let key = ConnectionKey {
        ssl: object,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is copied at once.
    unsafe { CONNECTIONS.get(key) }.map_or(0, |connection| connection.write_buffer)
}

/// Takes note of the bytes, which begin like a request to an LLM or not, and sends them.
#[inline(always)]
pub fn passed(transfer: &Transfer, asks: bool) {
    let Transfer {
        bytes,
        tgid,
        direction,
        ..
    } = *transfer;
    let key = ConnectionKey {
        ssl: transfer.object,
        tgid: u64::from(tgid),
    };
    let connection = CONNECTIONS.get_ptr_mut(key).or_else(|| {
        let connection = Connection {
            generation: transfer.entered_at,
            sent: 0,
            received: 0,
            write_since: 0,
            write_buffer: 0,
            verdicts: verdict_count(),
            asked_at: 0,
            ignored: 0,
        };
        let _ = SPEAKERS.insert(tgid, 1, 0);
        added(&CONNECTIONS, key, &connection)
    });
    let Some(connection) = connection else {
        lost(Loss::Untracked, bytes);
        return;
    };
    // SAFETY: a map value. The library allows one call at a time on a connection, a socket one in each
    // direction, which has its own position.
    let connection = unsafe { &mut *connection };
    let buffer = transfer.buffer;
    if asks {
        connection.asked_at = 1 + if direction == SENT {
            connection.sent
        } else {
            connection.received
        };
        if transfer.half != 0
            && let Some(receiver) = sockets::receiver(key)
        {
            listen(receiver);
        }
    }
    let verdicts = verdict_count();
    if transfer.half != 0 && direction == RECEIVED {
        // The verdict is on what is sent.
        if connection.verdicts != verdicts {
            connection.verdicts = verdicts;
            if sockets::sender(key).is_some_and(is_of_no_interest) {
                connection.ignored = 1;
            }
        }
    } else if connection.verdicts != verdicts {
        connection.verdicts = verdicts;
        // SAFETY: the value is copied at once.
        if let Some(verdict) = unsafe { VERDICTS.get(key) }.copied() {
            let applies =
                verdict.generation == connection.generation && verdict.asked >= connection.asked_at;
            if applies {
                connection.ignored = 1;
            }
            let _ = VERDICTS.remove(key);
        }
    }
    if connection.ignored != 0 {
        if !asks {
            return;
        }
        // Nobody knows the position of what follows: it is a new connection for the agent.
        connection.generation = transfer.entered_at;
        connection.sent = 0;
        connection.received = 0;
        connection.write_since = 0;
        connection.asked_at = 1;
        connection.ignored = 0;
        if transfer.half != 0 {
            sockets::renewed(key, transfer.entered_at);
        }
    }
    let (offset, opposite, at) = if direction == SENT {
        if connection.write_since == 0 {
            connection.write_since = transfer.entered_at;
        }
        if bytes == 0 {
            connection.write_buffer = buffer;
            return;
        }
        (
            connection.sent,
            connection.received,
            core::mem::take(&mut connection.write_since),
        )
    } else {
        // SAFETY: a helper without arguments.
        (connection.received, connection.sent, unsafe {
            bpf_ktime_get_boot_ns()
        })
    };
    let mut text = Plaintext {
        address: buffer,
        bytes,
        ssl: transfer.object,
        generation: connection.generation,
        at,
        offset,
        opposite,
        direction: direction as u8,
        task: transfer.task,
        task_kind: transfer.task_kind as u8,
        half: transfer.half as u8,
    };
    emit::plaintext(&mut text);
    // Not before they are sent: a record of the other direction, by another thread, would count them, and
    // could be ahead of theirs.
    if direction == SENT {
        connection.sent = offset + bytes;
    } else {
        connection.received = offset + bytes;
    }
}

/// Takes note of bytes that cannot be had.
#[inline(always)]
pub fn skipped(object: u64, tgid: u32, direction: u32, bytes: u64) {
    let key = ConnectionKey {
        ssl: object,
        tgid: u64::from(tgid),
    };
    let Some(connection) = CONNECTIONS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: as above.
    let connection = unsafe { &mut *connection };
    if connection.ignored != 0 {
        return;
    }
    if direction == SENT {
        connection.sent += bytes;
    } else {
        connection.received += bytes;
    }
    lost(Loss::Unbuffered, bytes);
}

/// Reports the end of a connection if bytes of it have been seen.
#[inline(always)]
pub fn closing(ssl: u64, tgid: u32, tid: u32, kind: u32) -> bool {
    if stopped() {
        return false;
    }
    let key = ConnectionKey {
        ssl,
        tgid: u64::from(tgid),
    };
    // SAFETY: the value is copied at once.
    let Some(connection) = (unsafe { CONNECTIONS.get(key) }).copied() else {
        return false;
    };
    emit::close(CloseRecord {
        kind,
        reserved: 0,
        tgid,
        tid,
        ssl,
        generation: connection.generation,
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        sent: connection.sent,
        received: connection.received,
    });
    true
}

/// Reports the end of a connection, and forgets it.
#[inline(always)]
pub fn freed(object: u64, tgid: u32, tid: u32) {
    if closing(object, tgid, tid, KIND_FREE) {
        let _ = CONNECTIONS.remove(ConnectionKey {
            ssl: object,
            tgid: u64::from(tgid),
        });
    }
}

/// Forgets a connection that goes on under another name.
#[inline(always)]
pub fn forget(key: ConnectionKey) {
    let _ = CONNECTIONS.remove(key);
}

/// Whether there is a verdict on a connection, noted or not yet.
#[inline(always)]
fn is_of_no_interest(key: ConnectionKey) -> bool {
    // SAFETY: the values are copied at once.
    let (Some(connection), verdict) =
        (unsafe { (CONNECTIONS.get(key).copied(), VERDICTS.get(key).copied()) })
    else {
        return false;
    };
    connection.ignored != 0
        || verdict.is_some_and(|verdict| {
            verdict.generation == connection.generation && verdict.asked >= connection.asked_at
        })
}

/// What is received is of interest again.
#[inline(always)]
fn listen(key: ConnectionKey) {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: a map value. While it is of no interest nothing else is done with it.
        unsafe { (*connection).ignored = 0 };
    }
}

/// A half goes on as a new connection.
#[inline(always)]
pub fn renew(key: ConnectionKey, generation: u64) {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: a map value. What is received next answers what is about to be sent.
        let connection = unsafe { &mut *connection };
        connection.generation = generation;
        connection.received = 0;
    }
}
