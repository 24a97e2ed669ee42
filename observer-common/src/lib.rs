//! What the BPF programs and the agent agree on: the records of the ring buffer, the limits and
//! the cookies that tell probe sites apart.
//!
//! A record begins with a `u32` [`kind`](DataRecord::kind); the rest is one of the structs here, in
//! the byte order of the machine. Times are `bpf_ktime_get_boot_ns()`.

#![no_std]
#![forbid(unsafe_code)]

/// Largest number of plaintext bytes in one [`DataRecord`]; longer calls come in several.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Up to this many bytes of plaintext a record is exactly as long as it must be.
pub const EXACT_BYTES: usize = 1024;

/// Room for plaintext in longer records: the smallest that fits is taken.
pub const CHUNK_CLASSES: [usize; 4] = [2048, 4096, 8192, CHUNK_BYTES];

/// Calls of the TLS library that may be open at once on one thread, one inside the other (TLS in
/// TLS); deeper ones are counted as lost.
pub const NESTED_CALLS: usize = 4;

/// [`DataRecord`]: plaintext that a process wrote or read.
pub const KIND_DATA: u32 = 1;
/// [`CloseRecord`]: the process freed the connection.
pub const KIND_FREE: u32 = 2;
/// [`CloseRecord`]: the process sent a close_notify.
pub const KIND_SHUTDOWN: u32 = 3;
/// [`CloseRecord`]: the peer sent a close_notify.
pub const KIND_PEER_CLOSED: u32 = 4;
/// [`CloseRecord`]: the connection broke.
pub const KIND_BROKEN: u32 = 5;
/// [`ProcessRecord`]: `tgid` created the task `other`, a thread or a process.
pub const KIND_FORK: u32 = 6;
/// [`ProcessRecord`]: `tgid` executes another program.
pub const KIND_EXEC: u32 = 7;
/// [`ProcessRecord`]: the thread `tid` of `tgid` exits.
pub const KIND_EXIT: u32 = 8;
/// [`BindRecord`]: a direction of a connection has been seen at a socket.
pub const KIND_BIND: u32 = 9;

/// [`TaskRecord`]: a logical task was created by another.
pub const KIND_TASK: u32 = 10;

/// [`AnswersRecord`]: a task begins to answer a stream of HTTP/2.
pub const KIND_ANSWERS: u32 = 11;

/// [`DataRecord::direction`]: written by the process.
pub const SENT: u32 = 0;
/// [`DataRecord::direction`]: read by the process.
pub const RECEIVED: u32 = 1;

/// Plaintext of one call of a TLS library, or a part of it. The bytes follow the struct.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct DataRecord {
    /// [`KIND_DATA`].
    pub kind: u32,
    /// [`SENT`] or [`RECEIVED`].
    pub direction: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// Address of the connection's object in the process (`SSL *`), or a name of [`plain`].
    pub ssl: u64,
    /// When the connection was first seen: tells connections apart that reuse an address.
    pub generation: u64,
    /// When the call was entered (sent) or returned (received).
    pub at: u64,
    /// Bytes of this direction that came before this record's, lost ones included.
    pub offset: u64,
    /// Bytes of the other direction that have passed so far, lost ones included.
    pub opposite: u64,
    /// Bytes of the whole call.
    pub call_bytes: u64,
    /// The logical task that the thread executes, by [`task_kind`](Self::task_kind); 0 where the thread is
    /// all there is. A [`TaskRecord`] has said what created it, if that is known.
    pub task: u64,
    /// Bytes in this record, [`CHUNK_BYTES`] at most.
    pub bytes: u32,
    /// Not 0: `ssl` stands for this direction only; a [`BindRecord`] tells what it belongs to.
    pub half: u32,
    /// One of [`task`].
    pub task_kind: u32,
    /// 0.
    pub reserved: u32,
    /// Name of the thread, padded with 0.
    pub comm: [u8; 16],
}

/// The end of a connection, or of one side of it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct CloseRecord {
    /// [`KIND_FREE`], [`KIND_SHUTDOWN`], [`KIND_PEER_CLOSED`] or [`KIND_BROKEN`].
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// Address of the connection's object in the process (`SSL *`).
    pub ssl: u64,
    /// As in [`DataRecord::generation`].
    pub generation: u64,
    /// When it happened.
    pub at: u64,
    /// Bytes written since the connection was first seen, lost ones included.
    pub sent: u64,
    /// Bytes read since the connection was first seen, lost ones included.
    pub received: u64,
}

/// Tells through which file descriptor the bytes of one direction pass ([`DataRecord::half`]).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct BindRecord {
    /// [`KIND_BIND`].
    pub kind: u32,
    /// [`SENT`] or [`RECEIVED`].
    pub direction: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// The file descriptor.
    pub fd: u32,
    /// As in [`DataRecord::ssl`].
    pub ssl: u64,
    /// What stood for the direction until now, where the connection goes on under another name (a key of
    /// TLS 1.3 was updated); else 0.
    pub previous: u64,
    /// When it happened.
    pub at: u64,
}

/// A logical task was created by another one of the same process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct TaskRecord {
    /// [`KIND_TASK`].
    pub kind: u32,
    /// One of [`task`].
    pub task_kind: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// The task, as in [`DataRecord::task`].
    pub task: u64,
    /// Its creator; 0 if the thread itself created it.
    pub parent: u64,
    /// When it happened.
    pub at: u64,
}

/// A logical task begins to answer one of the requests of a connection of HTTP/2.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct AnswersRecord {
    /// [`KIND_ANSWERS`].
    pub kind: u32,
    /// One of [`task`].
    pub task_kind: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// The stream (RFC 9113 section 5.1.1).
    pub stream: u32,
    /// The connection, as in [`DataRecord::ssl`].
    pub object: u64,
    /// The task, as in [`DataRecord::task`].
    pub task: u64,
}

/// A step in the life of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct ProcessRecord {
    /// [`KIND_FORK`], [`KIND_EXEC`] or [`KIND_EXIT`].
    pub kind: u32,
    /// The created task for [`KIND_FORK`], else 0.
    pub other: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// When it happened.
    pub at: u64,
}

/// The cookie of a probe of a TLS library: which function it is in and where that function leaves
/// the number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie {
    /// One of [`function`], [`go`], [`aead`], [`rustls`] or [`java`], by the program.
    pub function: u8,
    /// One of [`count`], with [`function`]; else 0.
    pub count: u8,
    /// [`go`]: offset of `goid` in `runtime.g`; 0 if it is not known.
    pub goid: u16,
    /// [`go`]: offset of `parentGoid` in `runtime.g`; 0 if it is not known, or there is none.
    pub parent: u16,
    /// [`go`]: offset of the `net.Conn` in what the first argument points to, where that is no connection
    /// itself; else 0.
    pub conn: u16,
}

impl Cookie {
    /// Of a function as in OpenSSL.
    pub const fn new(function: u8, count: u8) -> Self {
        Self {
            function,
            count,
            goid: 0,
            parent: 0,
            conn: 0,
        }
    }

    /// As the kernel keeps it.
    pub const fn to_u64(self) -> u64 {
        self.function as u64
            | (self.count as u64) << 8
            | (self.goid as u64) << 16
            | (self.parent as u64) << 32
            | (self.conn as u64) << 48
    }

    /// From what the kernel keeps.
    pub const fn from_u64(cookie: u64) -> Self {
        Self {
            function: cookie as u8,
            count: (cookie >> 8) as u8,
            goid: (cookie >> 16) as u16,
            parent: (cookie >> 32) as u16,
            conn: (cookie >> 48) as u16,
        }
    }
}

/// What a logical task is ([`DataRecord::task_kind`]).
pub mod task {
    /// There is none: the thread is all there is.
    pub const NONE: u32 = 0;
    /// A goroutine: the task is its id (`runtime.g.goid`).
    pub const GOROUTINE: u32 = 1;
    /// A task of CPython: the task is the address of the `contextvars.Context` that the thread has entered
    /// (`PyThreadState.context`).
    pub const CPYTHON: u32 = 2;
}

/// What a probed function of a TLS library in C does ([`Cookie::function`]).
pub mod function {
    /// `int SSL_write(SSL *ssl, const void *buf, int num)`, and what has the same first three arguments
    pub const WRITE: u8 = 1;
    /// `int SSL_read(SSL *ssl, void *buf, int num)`, and what has the same first three arguments
    pub const READ: u8 = 2;
    /// `int SSL_get_error(const SSL *ssl, int ret)`
    pub const GET_ERROR: u8 = 3;
    /// `void SSL_free(SSL *ssl)`
    pub const FREE: u8 = 4;
    /// `int SSL_shutdown(SSL *ssl)`
    pub const SHUTDOWN: u8 = 5;
    /// As [`READ`], where the result 0 says that the peer has closed: `SSL_read` of BoringSSL,
    /// `gnutls_record_recv`
    pub const READ_TO_END: u8 = 6;
    /// `SSL *SSL_new(SSL_CTX *ctx)`, where it is not known what frees a connection
    pub const NEW: u8 = 7;
    /// A function that writes what has been written before and was kept back: `gnutls_record_uncork`
    pub const FLUSH: u8 = 8;
}

/// What a probe in Go's `crypto/tls` or `net/http` is at ([`Cookie::function`]).
pub mod go {
    /// `func (c *Conn) Write(b []byte) (int, error)`, behind the check of the stack
    pub const WRITE: u8 = 1;
    /// `func (c *Conn) Read(b []byte) (int, error)`, behind the check of the stack
    pub const READ: u8 = 2;
    /// A `RET` of `Read`, which does not keep its arguments
    pub const READ_RETURN: u8 = 3;
    /// `func (c *Conn) Close() error`, behind the check of the stack
    pub const CLOSE: u8 = 4;
    /// The check of the stack in `Write`: it comes before each [`WRITE`], once more where the stack grows
    pub const WRITE_CHECK: u8 = 5;
    /// A `RET` of `Read`, where the connection and the buffer lie behind the return address
    pub const READ_RETURN_KEPT: u8 = 6;
    /// `func (pc *persistConn) roundTrip(req *transportRequest) (*Response, error)` of net/http, behind the
    /// check of the stack: the goroutine makes the next call on the connection
    pub const ROUND_TRIP: u8 = 7;
    /// `func (cc *ClientConn) roundTrip(req *http.Request, …) (*http.Response, error)` of HTTP/2, behind the
    /// check of the stack: the goroutine makes a call on the connection, which one that it creates writes
    pub const ROUND_TRIP_2: u8 = 8;
    /// `func (c *conn) serve(ctx context.Context)` of net/http, behind the check of the stack: the goroutine
    /// serves the connection
    pub const SERVE: u8 = 9;
    /// `func (sc *serverConn) runHandler(rw *responseWriter, req *http.Request, …)` of HTTP/2, behind the check of
    /// the stack: the goroutine answers a stream of the connection
    pub const RUN_HANDLER: u8 = 10;
}

/// What a probed function of the Java agent's native library tells ([`Cookie::function`];
/// observer-java/native/lib.rs).
pub mod java {
    /// `void observer_java_data(int64_t connection, int32_t direction, const void *bytes, size_t length)`:
    /// plaintext that is written or has been read
    pub const DATA: u8 = 1;
    /// `void observer_java_end(int64_t connection, int32_t kind)`: how the connection ended
    /// ([`CloseRecord::kind`](super::CloseRecord::kind))
    pub const END: u8 = 2;
}

/// What a probed function of aws-lc does (openssl/aead.h; [`Cookie::function`]).
pub mod aead {
    /// `EVP_AEAD_CTX_seal(ctx, out, out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len)`
    pub const SEAL: u8 = 1;
    /// `EVP_AEAD_CTX_seal_scatter(ctx, out, out_tag, out_tag_len, max_out_tag_len, nonce, nonce_len, in,
    /// in_len, extra_in, extra_in_len, ad, ad_len)`
    pub const SEAL_SCATTER: u8 = 2;
    /// `EVP_AEAD_CTX_open(ctx, out, out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len)`
    pub const OPEN: u8 = 3;
    /// `EVP_AEAD_CTX_open_gather(ctx, out, nonce, nonce_len, in, in_len, in_tag, in_tag_len, ad, ad_len)`
    pub const OPEN_GATHER: u8 = 4;
}

/// What a probed method of rustls does ([`Cookie::function`]).
pub mod rustls {
    /// `rustls::crypto::cipher::MessageEncrypter::encrypt`
    pub const ENCRYPT: u8 = 1;
    /// `rustls::crypto::cipher::MessageDecrypter::decrypt`
    pub const DECRYPT: u8 = 2;
}

/// Where a function leaves the number of bytes that passed ([`Cookie::count`]).
pub mod count {
    /// In its result, if that is positive.
    pub const RESULT: u8 = 0;
    /// Behind its fourth argument, a `size_t *`, if the result is positive.
    pub const ARGUMENT_3: u8 = 1;
    /// Behind its fifth argument, a `size_t *`, if the result is positive.
    pub const ARGUMENT_4: u8 = 2;
    /// As [`ARGUMENT_3`], or as [`ARGUMENT_4`] where the fourth argument is no address but flags:
    /// `ssl_write_internal` before and since OpenSSL 3.3
    pub const ARGUMENT_3_OR_4: u8 = 3;
    /// As [`RESULT`], and a negative result is an error of GnuTLS.
    pub const RESULT_OR_GNUTLS_ERROR: u8 = 4;
}

/// How connections without TLS are named: in place of an address ([`DataRecord::ssl`]) there are these
/// bits, a part of the time at which the socket was first seen, and the file descriptor.
pub mod plain {
    /// Marks such a name. No address of user space has this bit.
    pub const MARK: u64 = 1 << 61;
    /// The descriptor was not seen to be made, and may be no socket.
    pub const UNPROVED: u64 = 1 << 60;
    /// Bits of the file descriptor; those of the time lie above.
    pub const FD_BITS: u32 = 24;
    /// Bits of the time.
    pub const TIME_BITS: u32 = 36;
}

/// What the agent tells the programs: indexes into the map `AGENT`.
pub mod agent {
    /// What it does, so that a program knows whether to wake it: one of the values below.
    pub const STATE: u32 = 0;
    /// Not 0 once it has stopped: its probes go, and nothing is sent any more.
    pub const STOPPED: u32 = 1;

    /// [`STATE`]: it reads the ring buffer.
    pub const RUNNING: u32 = 0;
    /// [`STATE`]: it will look into the ring buffer within milliseconds. It is woken where the buffer
    /// would fill up until then.
    pub const DOZING: u32 = 1;
    /// [`STATE`]: it sleeps until it is woken.
    pub const ASLEEP: u32 = 2;
}

/// What system calls are looked at for: bits of the one value in the map `FOLLOW`.
pub mod follow {
    /// Which socket a key of [`aead`](super::aead) belongs to.
    pub const KEYS: u32 = 1;
    /// HTTP that passes through sockets as it is.
    pub const PLAINTEXT: u32 = 2;
}

/// Names a connection: the key of the map `VERDICTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// Address of the connection's object in the process (`SSL *`).
    pub ssl: u64,
    /// Process id in the initial PID namespace.
    pub tgid: u64,
}

/// The value of the map `VERDICTS`: a connection is of no interest.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As in [`DataRecord::generation`].
    pub generation: u64,
    /// Bytes of the requests' direction that had passed when the agent found so: what has passed since may
    /// be a request that changes its mind.
    pub asked: u64,
}

/// The value of the map `PYTHONS`: how the current `contextvars.Context` of a thread of a CPython is read.
/// Places are offsets but for the two that are addresses in the process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python {
    /// In the kernel's `struct task_struct`: the thread pointer.
    pub thread_pointer: u64,
    /// From the thread pointer: the thread's values of the first pthread keys.
    pub slots: u64,
    /// Address of the `Py_tss_t` of the key under which a thread keeps its `PyThreadState`.
    pub key: u64,
    /// In `PyThreadState`: `thread_id`.
    pub thread_id: u64,
    /// In `PyThreadState`: `context`.
    pub context: u64,
    /// Address of `PyContext_Type`.
    pub context_type: u64,
    /// In `PyObject`: `ob_type`.
    pub object_type: u64,
    /// In `PyContext`: `ctx_entered`.
    pub entered: u64,
}

impl Python {
    /// As the map holds it.
    pub const fn to_words(self) -> [u64; 8] {
        [
            self.thread_pointer,
            self.slots,
            self.key,
            self.thread_id,
            self.context,
            self.context_type,
            self.object_type,
            self.entered,
        ]
    }
}

/// Causes of loss: indexes into the map `LOST`, two counters each: events, then bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer was full.
    RingFull = 0,
    /// The plaintext could not be read from the process (paged out, or unmapped).
    Fault = 1,
    /// A call of the TLS library could not be followed to its return: a table was full, or calls
    /// were nested too deep.
    Untracked = 2,
    /// A step in the life of a process could not be reported: the ring buffer was full.
    ProcessEvent = 3,
    /// Bytes passed through a socket without a buffer of the process: sendfile(2), splice(2), MSG_TRUNC.
    Unbuffered = 4,
}

impl Loss {
    /// All causes, in the order of their index.
    pub const ALL: [Self; 5] = [
        Self::RingFull,
        Self::Fault,
        Self::Untracked,
        Self::ProcessEvent,
        Self::Unbuffered,
    ];

    /// A short name for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RingFull => "ring buffer full",
            Self::Fault => "memory not readable",
            Self::Untracked => "call not tracked",
            Self::ProcessEvent => "process event dropped",
            Self::Unbuffered => "passed without a buffer",
        }
    }
}
