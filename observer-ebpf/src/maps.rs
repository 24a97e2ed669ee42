//! Maps, settings and counters.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::BPF_RB_AVAIL_DATA,
    helpers::bpf_get_current_pid_tgid,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use observer_common::{
    ConnectionKey, DataRecord, EXACT_BYTES, Loss, NESTED_CALLS, Python, Verdict, agent,
};

/// All records for user space. The agent sets the size when it loads the programs.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 24, 0);

/// Process ids that are watched; unused when `WATCH_ALL` is set. Children of a watched process are
/// added when they are forked, so that their first instruction is already covered.
#[map]
pub static WATCHED: HashMap<u32, u8> = HashMap::with_max_entries(1 << 16, 0);

/// Process ids that are left out; unused unless `SELECTING` is set. Another program of the process is another
/// matter.
#[map]
pub static EXCLUDED: HashMap<u32, u8> =
    HashMap::with_max_entries(1 << 16, 1 /* BPF_F_NO_PREALLOC */);

/// Calls of the TLS library that a thread (`pid_tgid`) has entered and not yet left.
#[map]
pub static CALLS: HashMap<u64, OpenCalls> =
    HashMap::with_max_entries(1 << 16, 1 /* BPF_F_NO_PREALLOC */);

/// Calls that a goroutine has entered and not yet left.
#[map]
pub static GOROUTINE_CALLS: LruHashMap<TaskKey, OpenCalls> =
    LruHashMap::with_max_entries(1 << 14, 0);

/// Goroutines that are about to write.
#[map]
pub static WRITERS: LruHashMap<TaskKey, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// The goroutine that answers for what passes on a connection of Go's net/http.
#[map]
pub static CALLERS: LruHashMap<CallerKey, Goroutine> = LruHashMap::with_max_entries(1 << 14, 0);

/// The creators of goroutines, by id, that the agent has been told of.
#[map]
pub static CREATORS: LruHashMap<TaskKey, u64> = LruHashMap::with_max_entries(1 << 14, 0);

/// Where the runtime of a process in Go keeps the ids of goroutines.
#[map]
pub static RUNTIMES: LruHashMap<u32, Runtime> = LruHashMap::with_max_entries(1 << 12, 0);

/// What a thread (`pid_tgid`) is about to encrypt. In a map, and not on the stack: there the verifier would
/// follow each value from slice to slice.
#[map]
pub static MESSAGES: LruHashMap<u64, Message> = LruHashMap::with_max_entries(1 << 14, 0);

/// The sockets that a thread (`pid_tgid`) uses.
#[map]
pub static THREADS: LruHashMap<u64, ThreadSockets> = LruHashMap::with_max_entries(1 << 14, 0);

/// The file descriptor that a key of one direction belongs to.
#[map]
pub static HALVES: LruHashMap<ConnectionKey, u32> = LruHashMap::with_max_entries(1 << 14, 0);

/// The keys of both directions, by file descriptor.
#[map]
pub static SOCKETS: LruHashMap<FileKey, Pair> = LruHashMap::with_max_entries(1 << 14, 0);

/// What is known of file descriptors, where plaintext is followed.
#[map]
pub static FILES: LruHashMap<FileKey, File> = LruHashMap::with_max_entries(1 << 16, 0);

/// How many descriptors a connection has beside the first, if any.
#[map]
pub static ALIASES: LruHashMap<ConnectionKey, u64> = LruHashMap::with_max_entries(1 << 12, 0);

/// Since when `FILES` holds of a process: it was forked, or has executed another program.
#[map]
pub static RENEWED: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1 << 14, 0);

/// When a thread (`pid_tgid`) has entered the system call by which it sends.
#[map]
pub static SENDING: HashMap<u64, u64> =
    HashMap::with_max_entries(1 << 16, 1 /* BPF_F_NO_PREALLOC */);

/// The system call whose buffers are being walked through.
#[map]
pub static WALK: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// What is known of a connection.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, Connection> =
    LruHashMap::with_max_entries(1 << 16, 0);

/// Connections that the agent has found to be of no interest. An entry is taken out when the
/// connection's own entry has taken note.
#[map]
pub static VERDICTS: LruHashMap<ConnectionKey, Verdict> = LruHashMap::with_max_entries(1 << 14, 0);

/// How many verdicts there have been: tells whether looking into `VERDICTS` can bring anything new.
#[map]
static VERDICT_COUNT: Array<u64> = Array::with_max_entries(1, 0);

/// Processes that are a CPython. The agent adds them, and forks copy them.
#[map]
pub static PYTHONS: LruHashMap<u32, Python> = LruHashMap::with_max_entries(1 << 14, 0);

/// Not 0 once there has been a CPython: tells whether looking into `PYTHONS` can bring anything.
#[map]
static PYTHON_KNOWN: Array<u32> = Array::with_max_entries(1, 0);

/// Which `contextvars.Context` was copied from which.
#[map]
pub static CONTEXTS: LruHashMap<TaskKey, Lineage> = LruHashMap::with_max_entries(1 << 15, 0);

/// Processes that have used a TLS library: their exit is reported.
#[map]
pub static SPEAKERS: LruHashMap<u32, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// What the agent tells: `observer_common::agent`.
#[map]
static AGENT: Array<u32> = Array::with_max_entries(2, 0);

/// What system calls are looked at for: bits of `observer_common::follow`.
#[map]
static FOLLOW: Array<u32> = Array::with_max_entries(1, 0);

/// Where a record is put together whose length is not known beforehand.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Losses: for each cause of [`Loss`] the number of events and of bytes.
#[map]
static LOST: Array<u64> = Array::with_max_entries(2 * Loss::ALL.len() as u32, 0);

/// Whether every process is watched. Set by the agent at load.
#[unsafe(no_mangle)]
static WATCH_ALL: u8 = 0;

/// The agent's own process id, never watched. Set by the agent at load.
#[unsafe(no_mangle)]
static AGENT_TGID: u32 = 0;

/// Whether some processes are left out. Set by the agent at load.
#[unsafe(no_mangle)]
static SELECTING: u8 = 0;

/// Pending bytes of the ring buffer from which on the agent is woken even if it would look by
/// itself soon. Set by the agent at load.
#[unsafe(no_mangle)]
static HIGH_WATER: u64 = 1 << 22;

/// Offset of `child_pid` in the tracepoint `sched_process_fork`, which differs between kernels. Set
/// by the agent at load.
#[unsafe(no_mangle)]
static FORK_CHILD_PID_OFFSET: u32 = 44;

/// What is known of a connection: when it was first seen, and the bytes that have passed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Connection {
    pub generation: u64,
    pub sent: u64,
    pub received: u64,
    /// When a write was begun that could not be completed yet (SSL_ERROR_WANT_WRITE) and has to be
    /// repeated; else 0.
    pub write_since: u64,
    /// Where the bytes of that write are.
    pub write_buffer: u64,
    /// `VERDICT_COUNT` when `VERDICTS` was last looked into.
    pub verdicts: u64,
    /// Where the last request began that looked like one to an LLM: its position and 1; 0 if there was none.
    pub asked_at: u64,
    /// Not 0: of no interest, nothing is copied.
    pub ignored: u64,
}

/// A call of the TLS library that was entered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenCall {
    /// The cookie of the probe; 0 marks a free place.
    pub cookie: u64,
    pub ssl: u64,
    /// The caller's buffer.
    pub buffer: u64,
    /// Where the function will store the number of bytes, if it does.
    pub count: u64,
    pub entered_at: u64,
    /// Stack pointer at the entry: finds the call again at its return.
    pub stack: u64,
}

/// The open calls of one thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenCalls {
    pub calls: [OpenCall; NESTED_CALLS],
}

/// Names a logical task.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TaskKey {
    /// Address of its `runtime.g`, or of its `contextvars.Context`; in `CREATORS` its id.
    pub task: u64,
    pub tgid: u64,
}

/// Names who makes calls on a connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CallerKey {
    /// What stands for the connection, as in `ConnectionKey`.
    pub object: u64,
    /// Id of the goroutine, where several make calls at the same time; else 0.
    pub goroutine: u64,
    pub tgid: u64,
}

/// A goroutine by its id, and the one that created it; 0 where it is not known.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Goroutine {
    pub id: u64,
    pub parent: u64,
}

/// Offsets in `runtime.g`, as in `Cookie`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Runtime {
    pub goid: u16,
    pub parent: u16,
}

/// Where a `contextvars.Context` is from.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Lineage {
    /// The Context that was current when it was made, the one that was so when that was made, and so on; 0
    /// from the thread itself on.
    pub ancestors: [u64; ANCESTORS],
    /// When it was made: tells it from others that have had its address.
    pub at: u64,
    /// The thread that made it.
    pub tid: u32,
    /// Not 0: the agent has been told.
    pub told: u32,
}

/// Ancestors of a Context that are kept with it.
pub const ANCESTORS: usize = 4;

/// Names an open file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FileKey {
    pub tgid: u32,
    pub fd: u32,
}

/// What is known of a file descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct File {
    /// What its connection is called: `observer_common::plain`.
    pub object: u64,
    /// When this was noted.
    pub since: u64,
    /// One of `plaintext::kind`.
    pub kind: u64,
}

/// The buffers of a system call, as far as they have not been looked at.
#[repr(C)]
pub struct Walk {
    pub entered_at: u64,
    /// The only buffer, if there is one.
    pub buffer: u64,
    /// The next `struct mmsghdr`, and how many there are.
    pub message: u64,
    pub messages: u64,
    /// The next `struct iovec`.
    pub vector: u64,
    pub vectors: u64,
    /// Bytes of this message that have passed.
    pub left: u64,
    /// Those of recv(2).
    pub flags: u64,
    /// Address of the thread's registers in user space, as the kernel has saved them.
    pub registers: u64,
    /// The task, if it is one of CPython.
    pub context: u64,
    pub fd: u32,
    pub direction: u32,
    pub tgid: u32,
    pub tid: u32,
    /// Not 0: only a socket takes this system call.
    pub socket: u32,
    /// One of `plaintext::ONE` and so on.
    pub kind: u32,
}

/// What a thread does at sockets.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ThreadSockets {
    /// The key with which a record was sealed that is not written yet; 0 if there is none.
    pub sealing: u64,
    /// The descriptor that was read last, and 1; 0 if there is none.
    pub reading: u64,
}

/// A message that comes in slices, and is to be encrypted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Message {
    pub key: u64,
    pub entered_at: u64,
    /// Address of the slices that are not looked at yet.
    pub slices: u64,
    /// Bytes of them that are to be passed over.
    pub skip: u64,
    /// Bytes of them that are the message's.
    pub bytes: u64,
    /// The task, if it is one of CPython.
    pub context: u64,
    pub tgid: u32,
    pub tid: u32,
}

/// The keys of a connection, 0 where none is known.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pair {
    pub sent: u64,
    pub received: u64,
    /// A bit for each direction whose key is about to be replaced.
    pub changing: u64,
}

/// A record that is being put together.
#[repr(C)]
pub struct Scratch {
    /// Not 0 while a program uses it: another thread may enter a program on the same CPU half-way.
    pub busy: u64,
    pub head: DataRecord,
    pub bytes: [u8; EXACT_BYTES],
}

/// Whether the agent has to be woken for a record that is added now. If so, it counts as woken.
#[inline(always)]
pub fn wake_agent() -> bool {
    let Some(state) = AGENT.get_ptr_mut(agent::STATE) else {
        return false;
    };
    // SAFETY: a map value. The agent may set it at the same time; at worst it is woken twice, or a
    // millisecond late.
    let wake = match unsafe { ptr::read_volatile(state) } {
        agent::ASLEEP => true,
        agent::DOZING => EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) >= setting(&HIGH_WATER),
        _ => false,
    };
    if wake {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(state, agent::RUNNING) };
    }
    wake
}

/// Whether the agent has stopped.
#[inline(always)]
pub fn stopped() -> bool {
    AGENT
        .get(agent::STOPPED)
        .is_some_and(|stopped| *stopped != 0)
}

/// Whether there has been a CPython.
#[inline(always)]
pub fn python_known() -> bool {
    PYTHON_KNOWN.get(0).is_some_and(|known| *known != 0)
}

/// What system calls are looked at for: bits of `observer_common::follow`.
#[inline(always)]
pub fn follows() -> u32 {
    FOLLOW.get(0).copied().unwrap_or(0)
}

/// How many verdicts there have been.
#[inline(always)]
pub fn verdict_count() -> u64 {
    VERDICT_COUNT.get(0).copied().unwrap_or(0)
}

/// Whether the current process is watched.
#[inline(always)]
pub fn watched(tgid: u32) -> bool {
    if tgid == setting(&AGENT_TGID) {
        return false;
    }
    // SAFETY: the value is not read, only its presence matters.
    if selecting() && unsafe { EXCLUDED.get(tgid) }.is_some() {
        return false;
    }
    // SAFETY: as above.
    setting(&WATCH_ALL) != 0 || unsafe { WATCHED.get(tgid) }.is_some()
}

/// Whether some processes are left out.
#[inline(always)]
pub fn selecting() -> bool {
    setting(&SELECTING) != 0
}

/// The process is left out no more, if it was.
#[inline(always)]
pub fn include(tgid: u32) {
    if selecting() {
        let _ = EXCLUDED.remove(tgid);
    }
}

/// Where `sched_process_fork` keeps the child's pid.
#[inline(always)]
pub fn fork_child_pid_offset() -> u32 {
    setting(&FORK_CHILD_PID_OFFSET)
}

/// Whether every process is watched.
#[inline(always)]
pub fn watch_all() -> bool {
    setting(&WATCH_ALL) != 0
}

/// Process and thread id of the current task.
#[inline(always)]
pub fn current() -> (u32, u32, u64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    ((pid_tgid >> 32) as u32, pid_tgid as u32, pid_tgid)
}

/// Adds an entry. Tried twice: another thread may take it out at once, as one that closes the connection does, and the
/// kernel may refuse to add to a bucket that is in use.
#[inline(always)]
pub fn added<K: Copy, V>(map: &LruHashMap<K, V>, key: K, value: &V) -> Option<*mut V> {
    let add = || {
        let _ = map.insert(key, value, 0);
        map.get_ptr_mut(key)
    };
    add().or_else(add)
}

/// Counts one lost event of `bytes` bytes.
#[inline(always)]
pub fn lost(cause: Loss, bytes: u64) {
    add(2 * cause as u32, 1);
    add(2 * cause as u32 + 1, bytes);
}

/// Takes a flag that is 0 when nobody has it. Returns whether it was free.
#[inline(always)]
pub fn take(flag: *mut u64) -> bool {
    let mut value: u64 = 1;
    // `AtomicU64::swap` does not exist for this target; the instruction (BPF_ATOMIC | BPF_XCHG,
    // instruction-set.rst) does.
    // SAFETY: the caller passes an aligned map value.
    unsafe { asm!("{0} = xchg_64({1} + 0, {0})", inout(reg) value, in(reg) flag) };
    value == 0
}

#[inline(always)]
fn add(index: u32, n: u64) {
    if let Some(counter) = LOST.get_ptr_mut(index) {
        // `AtomicU64::fetch_add` does not exist for this target; the instruction (BPF_ATOMIC | BPF_ADD,
        // instruction-set.rst) does.
        // SAFETY: a map value is aligned and lives as long as the map.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n) };
    }
}

#[inline(always)]
fn setting<T: Copy>(value: &'static T) -> T {
    // The agent patches the value at load, so the compiler must not fold the one that is here.
    // SAFETY: a static is valid and aligned.
    unsafe { ptr::read_volatile(value) }
}
