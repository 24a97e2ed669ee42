//! Writing records into the ring buffer.

use core::{
    ffi::c_void,
    mem::offset_of,
    ptr::{self, addr_of_mut},
};

use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_loop, bpf_probe_read_user};
use observer_common::{
    CHUNK_BYTES, CHUNK_CLASSES, CloseRecord, DataRecord, KIND_DATA, Loss, ProcessRecord,
};

use crate::maps::{EVENTS, lost};

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
    pub tgid: u32,
    pub tid: u32,
    pub direction: u32,
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
    match EVENTS.reserve::<CloseRecord>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(0);
        }
        None => lost(Loss::RingFull, 0),
    }
}

/// Sends a process record.
#[inline(always)]
pub fn process(record: ProcessRecord) {
    match EVENTS.reserve::<ProcessRecord>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(0);
        }
        None => lost(Loss::ProcessEvent, 0),
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
        entry.discard(0);
        return;
    }
    // SAFETY: `record` points to reserved memory of this size; the verifier checks every access.
    let result = unsafe {
        addr_of_mut!((*record).head).write(DataRecord {
            kind: KIND_DATA,
            direction: text.direction,
            tgid: text.tgid,
            tid: text.tid,
            ssl: text.ssl,
            generation: text.generation,
            at: text.at,
            offset: text.offset + done,
            opposite: text.opposite,
            call_bytes: text.bytes,
            bytes: bytes as u32,
            reserved: 0,
            comm: [0; 16],
        });
        bpf_get_current_comm(
            record
                .cast::<u8>()
                .add(offset_of!(DataRecord, comm))
                .cast::<c_void>(),
            16,
        );
        bpf_probe_read_user(
            addr_of_mut!((*record).bytes).cast(),
            bytes as u32,
            (text.address + done) as *const c_void,
        )
    };
    if result < 0 {
        entry.discard(0);
        lost(Loss::Fault, bytes);
    } else {
        entry.submit(0);
    }
}
