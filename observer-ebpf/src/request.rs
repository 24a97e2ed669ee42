//! Whether plaintext begins like a request to an LLM, so that a connection that was found to be of no
//! interest and turns to an LLM after all is taken up again. Nothing is copied out.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_loop};

/// Bytes of a request line that are looked at.
const LINE: u64 = 128;

/// Bytes of the shortest request line that can be one: `POST`, a path and the version.
const SHORTEST: u64 = 16;

/// What the paths of LLM calls contain, eight bytes each: `/chat/completions`, `/completions`,
/// `/messages`, `/responses`, `/embeddings`, `:generateContent`, `:streamGenerateContent`, `/converse`,
/// `/api/chat`, `/api/generate`, `/api/embed`, Cohere's `/v1/chat` and `/v2/chat`, `/generate`; and the end of
/// the path under which tools are called.
const MARKS: [u64; 15] = [
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
    mark(b"/api/emb"),
    mark(b"/v1/chat"),
    mark(b"/v2/chat"),
    mark(b"/generat"),
    mark(b"/mcp HTT"),
];

const fn mark(text: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*text)
}

/// Bytes that are looked at in one step.
const STEP: u64 = 8;

/// In [`Line::window`]: it is one. No path holds such bytes.
const FOUND: u64 = u64::MAX;

/// A request line that is being looked through. The line itself stays where it is: this is called from deep
/// within, and the stacks of all callers together have 512 bytes.
#[repr(C)]
struct Line {
    /// Address of the next byte.
    next: u64,
    end: u64,
    /// The last eight bytes that were seen.
    window: u64,
}

/// Whether `bytes` bytes at `address` begin with `POST` and a path of an LLM call.
#[inline(never)]
pub fn is_llm(address: u64, bytes: u64) -> bool {
    if bytes < SHORTEST {
        return false;
    }
    // Most writes are settled by this.
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(address as *const [u8; 4]) } {
        Ok([b'P', b'O', b'S', b'T']) => {}
        _ => return false,
    }
    let length = if bytes < LINE { bytes } else { LINE };
    let mut line = Line {
        next: address,
        end: address + length,
        window: 0,
    };
    // SAFETY: the callback has the signature that bpf_loop asks for and `line` outlives it. A loop in
    // the program would be walked through by the verifier, which takes longer than all the rest.
    unsafe {
        bpf_loop(
            (LINE / STEP + STEP) as u32,
            look as *mut c_void,
            ptr::from_mut(&mut line).cast(),
            0,
        );
    }
    line.window == FOUND
}

/// Looks at the next bytes: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn look(_index: u32, line: *mut Line) -> i64 {
    if line.is_null() {
        return 1;
    }
    // SAFETY: `is_llm` passes a valid pointer; nobody else has it meanwhile.
    let line = unsafe { &mut *line };
    if line.next >= line.end {
        return 1;
    }
    let step = if line.end - line.next >= STEP {
        STEP
    } else {
        1
    };
    // SAFETY: the helper checks the address.
    let word = if step == STEP {
        unsafe { bpf_probe_read_user(line.next as *const u64) }
    } else {
        unsafe { bpf_probe_read_user(line.next as *const u8) }.map(u64::from)
    };
    let Ok(mut word) = word else {
        return 1;
    };
    line.next += step;
    for _ in 0..STEP {
        let byte = word & 0xff;
        if byte == u64::from(b'\r') || byte == u64::from(b'?') {
            return 1;
        }
        line.window = line.window << 8 | byte;
        if MARKS.contains(&line.window) {
            line.window = FOUND;
            return 1;
        }
        if step == 1 {
            return 0;
        }
        word >>= 8;
    }
    0
}
