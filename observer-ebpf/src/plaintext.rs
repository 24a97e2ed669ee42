//! HTTP that passes through sockets as it is.
//!
//! A connection is (process, file descriptor, when that was first seen). The first bytes decide: those of
//! a request or a response of HTTP are followed, from then on by `connection`. Anything else is passed
//! over for good where the socket was seen to be made. Where it was not (it is older than the agent, or
//! inherited), every transfer has another chance, and the agent asks whether the descriptor is a socket at
//! all.

use core::{ffi::c_void, mem, ptr};

use aya_ebpf::helpers::{
    bpf_ktime_get_boot_ns, bpf_probe_read_user as bpf_probe_read_user_value,
    generated::{bpf_loop, bpf_probe_read_user},
};
use observer_common::{
    ConnectionKey, KIND_BROKEN, KIND_PEER_CLOSED, Loss, RECEIVED, SENT, plain, task,
};

use crate::{
    connection::{self, Transfer},
    goroutines,
    maps::{ALIASES, FILES, File, FileKey, RENEWED, SENDING, WALK, Walk, lost},
    python, request,
};

/// What a descriptor is ([`File::kind`]).
mod kind {
    /// A socket that was seen to be made, and has carried nothing yet.
    pub const NEW: u64 = 1;
    /// A connection that speaks HTTP.
    pub const HTTP: u64 = 2;
    /// Nothing to look at until it is closed.
    pub const OTHER: u64 = 3;
}

/// Address families and types of sockets (linux/socket.h, linux/net.h).
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const SOCK_STREAM: u64 = 1;
/// The rest of the type argument is flags.
const SOCK_TYPE_MASK: u64 = 0xf;

/// Flags of recv(2): nothing is taken off the socket; nothing is stored; errors, not bytes.
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;

/// Errors that end a connection (asm-generic/errno.h).
const EPIPE: i64 = 32;
const ECONNABORTED: i64 = 103;
const ECONNRESET: i64 = 104;
const ETIMEDOUT: i64 = 110;

/// Flag of close_range(2): only marks them.
const CLOSE_RANGE_CLOEXEC: u64 = 4;

/// Descriptors of a range that are looked at.
const RANGE: u64 = 1024;

/// Buffers of one call that are looked at: the kernel takes 1024 (UIO_MAXIOV, linux/uio.h), and a step
/// goes for each message.
const STEPS: u32 = 2048;

/// A system call that moves bytes, and has returned.
#[derive(Clone, Copy)]
pub struct Call {
    pub tgid: u32,
    pub tid: u32,
    pub thread: u64,
    pub fd: u32,
    pub result: i64,
    /// [`Walk::registers`]
    pub registers: u64,
}

/// Where the bytes are that a system call moves.
#[derive(Clone, Copy)]
pub enum Buffers {
    /// In one buffer.
    One,
    /// In those of an array of `struct iovec`, of this length.
    Vectors(u64),
    /// In those of a `struct msghdr`.
    Message,
    /// In those of an array of `struct mmsghdr`, of which the result says how many count.
    Messages,
}

/// [`Walk::kind`], as [`Buffers`].
const ONE: u32 = 0;
const VECTORS: u32 = 1;
const MESSAGE: u32 = 2;
const MESSAGES: u32 = 3;

impl Call {
    /// Bytes have passed from or into what is at an address. `socket`: only a socket takes this call.
    ///
    /// For all calls at once, and by way of memory: the verifier walks through what follows for each value
    /// that it knows.
    #[inline(always)]
    pub fn passed(self, buffers: Buffers, address: u64, direction: u32, socket: bool, flags: u64) {
        let Some(walk) = WALK.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: a map value of this CPU. The programs on raw tracepoints are not preempted
        // (kernel/trace/bpf_trace.c: __bpf_trace_run, include/trace/bpf_probe.h), and no other uses it.
        let walk = unsafe { &mut *walk };
        let (kind, count) = match buffers {
            Buffers::One => (ONE, 0),
            Buffers::Vectors(count) => (VECTORS, count),
            Buffers::Message => (MESSAGE, 0),
            Buffers::Messages => (MESSAGES, 0),
        };
        *walk = Walk {
            entered_at: 0,
            buffer: address,
            message: 0,
            messages: 0,
            vector: 0,
            vectors: count,
            left: self.result as u64,
            flags,
            registers: self.registers,
            context: 0,
            fd: self.fd,
            direction,
            tgid: self.tgid,
            tid: self.tid,
            socket: u32::from(socket),
            kind,
        };
        // SAFETY: as above.
        let (direction, flags, kind) = unsafe {
            (
                ptr::read_volatile(&walk.direction),
                ptr::read_volatile(&walk.flags),
                ptr::read_volatile(&walk.kind),
            )
        };
        if !self.moves(self.fd, direction, flags) {
            return;
        }
        if let Some(file) = known(self.tgid, self.fd)
            && file.kind == kind::OTHER
        {
            return;
        }
        walk.entered_at = self.entered_at(direction);
        (walk.context, _) = python::current_task(self.tgid);
        match kind {
            VECTORS => walk.vector = mem::take(&mut walk.buffer),
            MESSAGE => {
                let message = mem::take(&mut walk.buffer);
                if !enter(walk, message) {
                    return;
                }
            }
            MESSAGES => {
                walk.message = mem::take(&mut walk.buffer);
                walk.messages = mem::take(&mut walk.left);
            }
            _ => {}
        }
        through();
    }

    /// When the call was entered, if it is one that sends; else now.
    #[inline(always)]
    fn entered_at(&self, direction: u32) -> u64 {
        if direction == SENT
            // SAFETY: the value is copied at once.
            && let Some(entered_at) = unsafe { SENDING.get(self.thread) }
        {
            return *entered_at;
        }
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    /// Bytes have passed between the socket and something in the kernel.
    #[inline(always)]
    pub fn unbuffered(self, fd: u32, direction: u32) {
        if self.result > 0
            && let Some(file) = known(self.tgid, fd)
            && file.kind == kind::HTTP
        {
            connection::skipped(file.object, self.tgid, direction, self.result as u64);
        }
    }

    /// Whether bytes have moved that are to be looked at. Sees to it where the connection has ended.
    #[inline(always)]
    fn moves(&self, fd: u32, direction: u32, flags: u64) -> bool {
        if flags & (MSG_PEEK | MSG_ERRQUEUE) != 0 {
            return false;
        }
        if self.result > 0 && flags & MSG_TRUNC == 0 {
            return true;
        }
        if self.result > 0 {
            self.unbuffered(fd, direction);
            return false;
        }
        let end = match -self.result {
            0 if direction == RECEIVED => KIND_PEER_CLOSED,
            EPIPE | ECONNABORTED | ECONNRESET | ETIMEDOUT => KIND_BROKEN,
            _ => return false,
        };
        if let Some(file) = known(self.tgid, fd)
            && file.kind == kind::HTTP
        {
            connection::closing(file.object, self.tgid, self.tid, end);
        }
        false
    }
}

/// `socket(domain, type, protocol)` has returned.
#[inline(always)]
pub fn made(tgid: u32, result: i64, domain: u64, kind: u64) {
    if result >= 0 {
        note(tgid, result as u32, is_stream(domain, kind));
    }
}

/// `accept(…)` has returned.
#[inline(always)]
pub fn accepted(tgid: u32, result: i64) {
    if result >= 0 {
        note(tgid, result as u32, true);
    }
}

/// `socketpair(domain, type, protocol, descriptors)` has returned.
#[inline(always)]
pub fn paired(tgid: u32, result: i64, domain: u64, kind: u64, descriptors: u64) {
    if result != 0 {
        return;
    }
    // SAFETY: the helper checks the address.
    if let Ok([one, other]) = unsafe { bpf_probe_read_user_value(descriptors as *const [u32; 2]) } {
        note(tgid, one, is_stream(domain, kind));
        note(tgid, other, is_stream(domain, kind));
    }
}

/// A descriptor has been copied to another, which is the result.
#[inline(always)]
pub fn copied(tgid: u32, fd: u32, result: i64) {
    if result < 0 {
        return;
    }
    let Some(file) = known(tgid, fd) else {
        return;
    };
    let copy = FileKey {
        tgid,
        fd: result as u32,
    };
    if FILES.insert(copy, file, 0).is_ok() && file.kind != kind::OTHER {
        let key = ConnectionKey {
            ssl: file.object,
            tgid: u64::from(tgid),
        };
        // SAFETY: the value is copied at once.
        let count = unsafe { ALIASES.get(key) }.copied().unwrap_or(0);
        let _ = ALIASES.insert(key, count + 1, 0);
    }
}

/// What the connection of a descriptor is called, if it is one that may be followed.
#[inline(always)]
pub fn object(tgid: u32, fd: u32) -> Option<u64> {
    let file = known(tgid, fd)?;
    (file.kind != kind::OTHER).then_some(file.object)
}

/// A descriptor is closed.
#[inline(always)]
pub fn closed(tgid: u32, tid: u32, fd: u32) {
    let Some(file) = known(tgid, fd) else {
        return;
    };
    let _ = FILES.remove(FileKey { tgid, fd });
    if file.kind == kind::OTHER {
        return;
    }
    let key = ConnectionKey {
        ssl: file.object,
        tgid: u64::from(tgid),
    };
    match ALIASES.get_ptr_mut(key) {
        // SAFETY: a map value; at worst two threads that close copies at once leave a count behind.
        Some(count) if unsafe { *count } > 0 => unsafe { *count -= 1 },
        _ => connection::freed(file.object, tgid, tid),
    }
}

/// `close_range(first, last, flags)` is entered.
#[inline(always)]
pub fn range_closed(tgid: u32, tid: u32, first: u32, last: u64, flags: u64) {
    let last = u64::from(last as u32);
    let Some(count) = (last + 1).checked_sub(u64::from(first)) else {
        return;
    };
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        return;
    }
    let count = if count < RANGE { count } else { RANGE };
    let mut range = Range { tgid, tid, first };
    // SAFETY: the callback has the signature that bpf_loop asks for and `range` outlives it.
    unsafe {
        bpf_loop(
            count as u32,
            close_one as *mut c_void,
            ptr::from_mut(&mut range).cast(),
            0,
        );
    }
}

#[repr(C)]
struct Range {
    tgid: u32,
    tid: u32,
    first: u32,
}

/// Closes the descriptor of this index: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn close_one(index: u32, range: *mut Range) -> i64 {
    if range.is_null() {
        return 1;
    }
    // SAFETY: `range_closed` passes a valid pointer; nobody else has it meanwhile.
    let range = unsafe { &*range };
    closed(range.tgid, range.tid, range.first.wrapping_add(index));
    0
}

/// Goes through the buffers of `WALK`.
#[inline(always)]
fn through() {
    // SAFETY: the callback has the signature that bpf_loop asks for and uses no context.
    unsafe { bpf_loop(STEPS, step as *mut c_void, ptr::null_mut(), 0) };
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: see `Call::passed`.
    let (left, messages) = unsafe { ((*walk).left, (*walk).messages) };
    if left > 0 || messages > 0 {
        lost(Loss::Untracked, left);
    }
}

/// Takes the next buffer, or the next message: the callback of `bpf_loop`, whose 0 means "go on".
#[inline(never)]
extern "C" fn step(_index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: see `Call::passed`.
    let walk = unsafe { &mut *walk };
    if walk.left == 0 {
        if walk.messages == 0 {
            return 1;
        }
        let message = walk.message;
        walk.messages -= 1;
        walk.message = message + MESSAGE_BYTES;
        // SAFETY: the helper checks the address.
        let length = unsafe { bpf_probe_read_user_value((message + MESSAGE_LENGTH) as *const u32) };
        let Ok(length) = length else {
            lost(Loss::Fault, 0);
            return 1;
        };
        walk.left = u64::from(length);
        return i64::from(!enter(walk, message));
    }
    if walk.buffer != 0 {
        piece(walk, walk.buffer, walk.left);
        walk.left = 0;
        return 1;
    }
    if walk.vectors == 0 {
        return 1;
    }
    // SAFETY: as above.
    let Ok([address, length]) =
        (unsafe { bpf_probe_read_user_value(walk.vector as *const [u64; 2]) })
    else {
        lost(Loss::Fault, walk.left);
        walk.left = 0;
        return 1;
    };
    walk.vector += 16;
    walk.vectors -= 1;
    let bytes = if length < walk.left {
        length
    } else {
        walk.left
    };
    walk.left -= bytes;
    if bytes > 0 {
        piece(walk, address, bytes);
    }
    0
}

/// Size of `struct mmsghdr`, and where its length lies, behind `struct msghdr` (linux/socket.h).
const MESSAGE_BYTES: u64 = 64;
const MESSAGE_LENGTH: u64 = 56;

/// Where `msg_iov` lies in `struct msghdr`, with `msg_iovlen` behind it.
const MESSAGE_VECTORS: u64 = 16;

/// Begins with the buffers of a `struct msghdr`.
#[inline(always)]
fn enter(walk: &mut Walk, message: u64) -> bool {
    let place = (message + MESSAGE_VECTORS) as *const [u64; 2];
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user_value(place) } {
        Ok([vector, vectors]) => {
            walk.vector = vector;
            walk.vectors = vectors;
            true
        }
        Err(_) => {
            lost(Loss::Fault, walk.left);
            walk.left = 0;
            false
        }
    }
}

/// Bytes that have passed. Inlined: with a frame more the stack would be too small for Linux 6.1.
#[inline(always)]
fn piece(walk: &Walk, address: u64, bytes: u64) {
    let object = followed(walk, address, bytes);
    if object == 0 {
        return;
    }
    let asks = request::is_llm(address, bytes);
    pass(walk, address, bytes, object, asks);
}

#[inline(never)]
fn pass(walk: &Walk, address: u64, bytes: u64, object: u64, asks: bool) {
    let goroutine = goroutines::of_system_call(walk, object);
    connection::passed(
        &Transfer {
            object,
            buffer: address,
            bytes,
            entered_at: walk.entered_at,
            task: if walk.context != 0 {
                walk.context
            } else {
                goroutine.id
            },
            task_kind: match (walk.context, goroutine.id) {
                (0, 0) => task::NONE,
                (0, _) => task::GOROUTINE,
                _ => task::CPYTHON,
            },
            tgid: walk.tgid,
            tid: walk.tid,
            direction: walk.direction,
            half: 0,
        },
        asks,
    );
}

/// What the connection is called that the bytes pass on; 0 if it is none to follow.
#[inline(never)]
fn followed(walk: &Walk, address: u64, bytes: u64) -> u64 {
    let key = FileKey {
        tgid: walk.tgid,
        fd: walk.fd,
    };
    if let Some(file) = known(walk.tgid, walk.fd) {
        if file.kind != kind::NEW {
            return if file.kind == kind::HTTP {
                file.object
            } else {
                0
            };
        }
        let is_http = shape(address, bytes) == Shape::Http;
        let kind = if is_http { kind::HTTP } else { kind::OTHER };
        let _ = FILES.insert(key, File { kind, ..file }, 0);
        return if is_http { file.object } else { 0 };
    }
    let shape = shape(address, bytes);
    if shape == Shape::Other {
        return 0;
    }
    let (mut file, is_http) = (file(walk.fd), shape == Shape::Http);
    if walk.socket == 0 {
        file.object |= plain::UNPROVED;
    }
    file.kind = if is_http { kind::HTTP } else { kind::OTHER };
    let _ = FILES.insert(key, file, 0);
    if is_http { file.object } else { 0 }
}

/// What bytes begin like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A request or a response of HTTP/1, or the preface of HTTP/2.
    Http,
    Other,
    /// A record of TLS: alert, handshake or data.
    Tls,
}

#[inline(always)]
fn shape(address: u64, bytes: u64) -> Shape {
    const WORD: u64 = 8;

    let length = if bytes < WORD { bytes } else { WORD };
    let mut word = [0_u8; WORD as usize];
    // SAFETY: `length` bytes fit; the helper checks the address.
    let read = unsafe {
        bpf_probe_read_user(
            word.as_mut_ptr().cast(),
            length as u32,
            address as *const c_void,
        )
    };
    if read < 0 {
        return Shape::Other;
    }
    let word = u64::from_be_bytes(word);
    // A record's type and the major version (RFC 8446 section 5.1).
    if length > 1 && matches!(word >> 48, 0x1503 | 0x1603 | 0x1703) {
        return Shape::Tls;
    }
    // What is there must be like the beginning. RFC 9110 section 9, RFC 9112 section 4, RFC 9113 section 3.4.
    macro_rules! begins {
        ($($text:literal),*) => {
            false $(|| begins_like(word, length, $text))*
        };
    }
    if begins!(
        b"POST ",
        b"GET ",
        b"HTTP/1.",
        b"PUT ",
        b"HEAD ",
        b"PATCH ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PRI * HT"
    ) {
        Shape::Http
    } else {
        Shape::Other
    }
}

#[inline(always)]
fn begins_like<const N: usize>(word: u64, length: u64, text: &[u8; N]) -> bool {
    let mut wanted = [0; 8];
    wanted[..N].copy_from_slice(text);
    let compared = if length < N as u64 { length } else { N as u64 };
    let ignored = 64 - 8 * compared as u32;
    ignored < 64 && (word ^ u64::from_be_bytes(wanted)) >> ignored == 0
}

/// What is known of a descriptor, if that still holds.
#[inline(always)]
fn known(tgid: u32, fd: u32) -> Option<File> {
    // SAFETY: the value is copied at once.
    let file = *unsafe { FILES.get(FileKey { tgid, fd }) }?;
    // SAFETY: as above.
    match unsafe { RENEWED.get(tgid) } {
        Some(since) if *since > file.since => None,
        _ => Some(file),
    }
}

/// Notes a descriptor that is new.
#[inline(always)]
fn note(tgid: u32, fd: u32, is_stream: bool) {
    let file = File {
        kind: if is_stream { kind::NEW } else { kind::OTHER },
        ..file(fd)
    };
    let _ = FILES.insert(FileKey { tgid, fd }, file, 0);
}

#[inline(always)]
fn file(fd: u32) -> File {
    // SAFETY: a helper without arguments.
    let since = unsafe { bpf_ktime_get_boot_ns() };
    let time = since & ((1 << plain::TIME_BITS) - 1);
    let fd = u64::from(fd) & ((1 << plain::FD_BITS) - 1);
    File {
        object: plain::MARK | time << plain::FD_BITS | fd,
        since,
        kind: kind::OTHER,
    }
}

#[inline(always)]
fn is_stream(domain: u64, kind: u64) -> bool {
    kind & SOCK_TYPE_MASK == SOCK_STREAM && matches!(domain, AF_UNIX | AF_INET | AF_INET6)
}
