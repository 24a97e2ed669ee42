//! Whether plaintext begins like a request to an LLM: asked of connections that were found to be of
//! no interest, so that one which turns to an LLM after all is taken up again. Nothing is copied out.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

/// Bytes of a request line that are looked at.
const LINE: usize = 128;

/// What the paths of LLM calls contain, eight bytes each: `/chat/completions`, `/completions`,
/// `/messages`, `/responses`, `/embeddings`, `:generateContent`, `:streamGenerateContent`, `/converse`.
const MARKS: [u64; 8] = [
    mark(b"/chat/co"),
    mark(b"/complet"),
    mark(b"/message"),
    mark(b"/respons"),
    mark(b"/embeddi"),
    mark(b":generat"),
    mark(b":streamG"),
    mark(b"/convers"),
];

const fn mark(text: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*text)
}

/// Whether `bytes` bytes at `address` begin with `POST` and a path of an LLM call.
#[inline(never)]
pub fn is_llm(address: u64, bytes: u64) -> bool {
    let mut line = [0u8; LINE];
    let length = if bytes < LINE as u64 {
        bytes
    } else {
        LINE as u64
    };
    if length < 16 {
        return false;
    }
    // SAFETY: `length` bytes fit; the helper checks the address.
    let read = unsafe {
        bpf_probe_read_user(
            line.as_mut_ptr().cast(),
            length as u32,
            address as *const core::ffi::c_void,
        )
    };
    if read < 0 || line[0] != b'P' || line[1] != b'O' || line[2] != b'S' || line[3] != b'T' {
        return false;
    }
    // The last eight bytes that were seen.
    let mut window = 0u64;
    for byte in line {
        if byte == b'\r' || byte == b'?' {
            return false;
        }
        window = window << 8 | u64::from(byte);
        if MARKS.contains(&window) {
            return true;
        }
    }
    false
}
