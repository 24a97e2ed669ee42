//! Whether plaintext begins like a request to an LLM, so that a connection that was found to be of no
//! interest and turns to an LLM after all is taken up again. Nothing is copied out.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::{
    bpf_probe_read_user as bpf_probe_read_user_value,
    generated::{bpf_loop, bpf_probe_read_user},
};

/// Bytes of a request line that are looked at.
const LINE: usize = 128;

/// Bytes of the shortest request line that can be one: `POST`, a path and the version.
const SHORTEST: u64 = 16;

/// What the paths of LLM calls contain, eight bytes each: `/chat/completions`, `/completions`,
/// `/messages`, `/responses`, `/embeddings`, `:generateContent`, `:streamGenerateContent`, `/converse`,
/// `/api/chat`, `/api/generate`.
const MARKS: [u64; 10] = [
    mark(b"/chat/co"),
    mark(b"/complet"),
    mark(b"/message"),
    mark(b"/respons"),
    mark(b"/embeddi"),
    mark(b":generat"),
    mark(b":streamG"),
    mark(b"/convers"),
    mark(b"/api/cha"),
    mark(b"/api/gen"),
];

const fn mark(text: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*text)
}

/// A request line that is being looked through.
#[repr(C)]
struct Line {
    bytes: [u8; LINE],
    /// The last eight bytes that were seen.
    window: u64,
    found: u64,
}

/// Whether `bytes` bytes at `address` begin with `POST` and a path of an LLM call.
#[inline(never)]
pub fn is_llm(address: u64, bytes: u64) -> bool {
    if bytes < SHORTEST {
        return false;
    }
    // Most writes are settled by this.
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user_value(address as *const [u8; 4]) } {
        Ok([b'P', b'O', b'S', b'T']) => {}
        _ => return false,
    }
    let mut line = Line {
        bytes: [0; LINE],
        window: 0,
        found: 0,
    };
    let length = if bytes < LINE as u64 {
        bytes
    } else {
        LINE as u64
    };
    // SAFETY: `length` bytes fit; the helper checks the address.
    let read = unsafe {
        bpf_probe_read_user(
            line.bytes.as_mut_ptr().cast(),
            length as u32,
            address as *const c_void,
        )
    };
    if read < 0 {
        return false;
    }
    // SAFETY: the callback has the signature that bpf_loop asks for and `line` outlives it. A loop in
    // the program would be walked through by the verifier, which takes longer than all the rest.
    unsafe {
        bpf_loop(
            LINE as u32,
            look as *mut c_void,
            ptr::from_mut(&mut line).cast(),
            0,
        );
    }
    line.found != 0
}

/// Looks at the byte of this index: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn look(index: u32, line: *mut Line) -> i64 {
    if line.is_null() {
        return 1;
    }
    // The compiler knows that the index is in bounds and would drop a check, the verifier does not know.
    // SAFETY: `index` is a valid local.
    let index = unsafe { ptr::read_volatile(&index) } as usize;
    if index >= LINE {
        return 1;
    }
    // SAFETY: `is_llm` passes a valid pointer; nobody else has it meanwhile.
    let line = unsafe { &mut *line };
    let byte = line.bytes[index];
    if byte == b'\r' || byte == b'?' {
        return 1;
    }
    line.window = line.window << 8 | u64::from(byte);
    if MARKS.contains(&line.window) {
        line.found = 1;
        return 1;
    }
    0
}
