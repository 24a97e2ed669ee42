//! Writing records into the ring buffer.

use core::{
    ffi::c_void,
    mem::offset_of,
    ptr::{self, addr_of_mut},
};

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_current_comm, bpf_loop, bpf_probe_read_user, bpf_ringbuf_output},
};
use observer_common::{
    AnswersRecord, BindRecord, CHUNK_BYTES, CHUNK_CLASSES, CloseRecord, DataRecord, EXACT_BYTES,
    KIND_DATA, Loss, ProcessRecord, TaskRecord,
};

use crate::maps::{EVENTS, SCRATCH, Scratch, current, lost, take, wake_agent};

/// Plaintext of one call of the TLS library, about to be cut into records.
#[repr(C)]
pub struct Plaintext {
    pub address: u64,
    pub bytes: u64,
    pub ssl: u64,
    pub generation: u64,
    pub at: u64,
    pub offset: u64,
    pub opposite: u64,
    pub direction: u8,
    pub task: u64,
    pub task_kind: u8,
    pub half: u8,
}

/// A record with room for `N` bytes of plaintext.
#[repr(C)]
struct Sized<const N: usize> {
    head: DataRecord,
    bytes: [u8; N],
}

/// Sends plaintext as one record or, past [`CHUNK_BYTES`], as several.
#[inline(always)]
pub fn plaintext(text: &mut Plaintext) {
    if text.bytes <= CHUNK_BYTES as u64 {
        chunk(0, text);
        return;
    }
    let chunks = text.bytes.div_ceil(CHUNK_BYTES as u64);
    // SAFETY: the callback has the signature that bpf_loop asks for and `text` outlives it.
    unsafe {
        bpf_loop(
            chunks as u32,
            chunk as *mut c_void,
            ptr::from_mut(text).cast(),
            0,
        );
    }
}

/// Sends a close record.
#[inline(always)]
pub fn close(record: CloseRecord) {
    send(record, Loss::RingFull);
}

/// Sends a bind record.
#[inline(always)]
pub fn bind(record: BindRecord) {
    send(record, Loss::RingFull);
}

/// Sends a process record.
#[inline(always)]
pub fn process(record: ProcessRecord) {
    send(record, Loss::ProcessEvent);
}

/// Sends a task record. Returns whether there was room for it.
#[inline(always)]
pub fn task(record: TaskRecord) -> bool {
    send(record, Loss::RingFull)
}

/// Sends which request a task answers.
#[inline(always)]
pub fn answers(record: AnswersRecord) {
    send(record, Loss::RingFull);
}

/// Sends a record, or counts it as lost for this cause. Returns whether there was room for it.
#[inline(always)]
fn send<T: 'static>(record: T, cause: Loss) -> bool {
    match EVENTS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(wakeup());
            true
        }
        None => {
            lost(cause, 0);
            false
        }
    }
}

/// Sends the chunk of this index: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn chunk(index: u32, text: *mut Plaintext) -> i64 {
    if text.is_null() {
        return 1;
    }
    // SAFETY: `plaintext` passes a valid pointer; nobody else has it meanwhile.
    let text = unsafe { &*text };
    let done = u64::from(index) * CHUNK_BYTES as u64;
    if done >= text.bytes {
        return 1;
    }
    let left = text.bytes - done;
    if left <= EXACT_BYTES as u64 && exact(text, done, left) {
        return 0;
    }
    let [small, medium, large, _] = CHUNK_CLASSES;
    if left <= small as u64 {
        sized::<{ CHUNK_CLASSES[0] }>(text, done, left);
    } else if left <= medium as u64 {
        sized::<{ CHUNK_CLASSES[1] }>(text, done, left);
    } else if left <= large as u64 {
        sized::<{ CHUNK_CLASSES[2] }>(text, done, left);
    } else if left <= CHUNK_BYTES as u64 {
        sized::<CHUNK_BYTES>(text, done, left);
    } else {
        sized::<CHUNK_BYTES>(text, done, CHUNK_BYTES as u64);
    }
    0
}

/// The flag with which a record is added to the ring buffer.
#[inline(always)]
fn wakeup() -> u64 {
    u64::from(if wake_agent() {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    })
}

/// Sends a record that is as long as it must be: the kernel can reserve only a length known to the
/// verifier, so it is put together elsewhere and copied. Returns false if that place is taken by a
/// thread which this one has interrupted.
#[inline(always)]
fn exact(text: &Plaintext, done: u64, bytes: u64) -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a map value.
    if !take(unsafe { addr_of_mut!((*scratch).busy) }) {
        return false;
    }
    // SAFETY: `bytes` is a valid local; see `sized`.
    let bytes = unsafe { ptr::read_volatile(&bytes) };
    if bytes <= EXACT_BYTES as u64 {
        // SAFETY: a map value that nobody else uses while it is taken.
        let read = unsafe {
            fill(
                addr_of_mut!((*scratch).head),
                addr_of_mut!((*scratch).bytes).cast(),
                text,
                done,
                bytes as u32,
            )
        };
        if read < 0 {
            lost(Loss::Fault, bytes);
        } else {
            // SAFETY: head and bytes lie one behind the other, and `bytes` is in bounds.
            let sent = unsafe {
                bpf_ringbuf_output(
                    ptr::from_ref(&EVENTS).cast_mut().cast(),
                    scratch
                        .cast::<u8>()
                        .add(offset_of!(Scratch, head))
                        .cast::<c_void>(),
                    size_of::<DataRecord>() as u64 + bytes,
                    wakeup(),
                )
            };
            if sent < 0 {
                lost(Loss::RingFull, bytes);
            }
        }
    }
    // SAFETY: a map value that this program has taken.
    unsafe { ptr::write_volatile(addr_of_mut!((*scratch).busy), 0) };
    true
}

#[inline(always)]
fn sized<const N: usize>(text: &Plaintext, done: u64, bytes: u64) {
    let Some(mut entry) = EVENTS.reserve::<Sized<N>>(0) else {
        lost(Loss::RingFull, bytes);
        return;
    };
    let record = entry.as_mut_ptr();
    // The compiler knows that `bytes` fits and would drop the check, but the verifier does not know.
    // SAFETY: `bytes` is a valid local.
    let bytes = unsafe { ptr::read_volatile(&bytes) };
    if bytes > N as u64 {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        return;
    }
    // SAFETY: `record` points to reserved memory of this size; the verifier checks every access.
    let read = unsafe {
        fill(
            addr_of_mut!((*record).head),
            addr_of_mut!((*record).bytes).cast(),
            text,
            done,
            bytes as u32,
        )
    };
    if read < 0 {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        lost(Loss::Fault, bytes);
    } else {
        entry.submit(wakeup());
    }
}

/// Writes a record: its head, and `bytes` bytes of plaintext from `done` on. Negative if they cannot
/// be read.
///
/// # Safety
///
/// `head` and `room` must be valid for writing, `room` for `bytes` bytes.
#[inline(always)]
unsafe fn fill(
    head: *mut DataRecord,
    room: *mut u8,
    text: &Plaintext,
    done: u64,
    bytes: u32,
) -> i64 {
    macro_rules! set {
        ($($field:ident: $value:expr),* $(,)?) => {
            $(addr_of_mut!((*head).$field).write($value);)*
        };
    }
    // Nobody else's bytes are sent.
    let (tgid, tid, _) = current();
    // Field by field: zeros for the name would be written by a call, whose stack adds to all others.
    // SAFETY: the caller's promise.
    unsafe {
        set! {
            kind: KIND_DATA,
            direction: u32::from(text.direction),
            tgid: tgid,
            tid: tid,
            ssl: text.ssl,
            generation: text.generation,
            at: text.at,
            offset: text.offset + done,
            opposite: text.opposite,
            call_bytes: text.bytes,
            task: text.task,
            bytes: bytes,
            half: u32::from(text.half),
            task_kind: u32::from(text.task_kind),
            reserved: 0,
        }
        // All of it: what is left is filled with zeros.
        bpf_get_current_comm(
            head.cast::<u8>()
                .add(offset_of!(DataRecord, comm))
                .cast::<c_void>(),
            16,
        );
        bpf_probe_read_user(room.cast(), bytes, (text.address + done) as *const c_void)
    }
}
