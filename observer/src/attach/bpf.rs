//! The calls of bpf(2) and perf_event_open(2) that no library makes: programs with the attach types
//! of uprobe_multi, and their links; and a trial of what seccomp does at return probes. All `unsafe` of the
//! agent is here.
//!
//! Layouts: include/uapi/linux/bpf.h (`union bpf_attr`) and include/uapi/linux/perf_event.h.

use std::{
    ffi::{CStr, c_long},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::bpf_insn;
use zerocopy::{Immutable, IntoBytes};

/// `BPF_TRACE_UPROBE_MULTI` (`bpf_attach_type`)
pub const UPROBE_MULTI: u32 = 48;
/// `BPF_TRACE_UPROBE_SESSION` (`bpf_attach_type`)
pub const UPROBE_SESSION: u32 = 57;

/// `bpf_cmd`
const BPF_PROG_LOAD: u32 = 5;
const BPF_BTF_LOAD: u32 = 18;
const BPF_LINK_CREATE: u32 = 28;

/// `BPF_PROG_TYPE_KPROBE`: uprobes are of this type too.
const KPROBE: u32 = 2;
/// `BPF_PERF_EVENT`
const PERF_EVENT: u32 = 41;
/// `BPF_F_UPROBE_MULTI_RETURN`
const MULTI_RETURN: u32 = 1;

/// A descriptor that its owner hands out as a number only.
pub fn borrow(owner: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the owner is borrowed for as long, and has the descriptor open.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Bytes of the verifier's log.
const LOG_BYTES: usize = 1 << 20;

/// `PERF_TYPE_TRACEPOINT`
const TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC`
const CLOEXEC: u64 = 8;

/// `union bpf_attr`, the part for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: i32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    padding: u32,
}

/// `union bpf_attr`, the part for `BPF_BTF_LOAD`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct BtfLoad {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    padding: u32,
}

/// `union bpf_attr`, the part for `BPF_LINK_CREATE` of a perf event.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkPerf {
    prog_fd: i32,
    target_fd: i32,
    attach_type: u32,
    flags: u32,
    bpf_cookie: u64,
}

/// `union bpf_attr`, the part for `BPF_LINK_CREATE` of a uprobe_multi link.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkMulti {
    prog_fd: i32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: i32,
    padding: u32,
}

/// `struct perf_event_attr` up to version 1 (`PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
struct PerfEventAttr {
    r#type: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    /// `uprobe_path` for the uprobe PMU.
    config1: u64,
    /// `probe_offset` for the uprobe PMU.
    config2: u64,
}

/// Where a link of many probes goes.
#[derive(Clone, Copy, Debug)]
pub struct Multi<'a> {
    /// [`UPROBE_MULTI`] or [`UPROBE_SESSION`], as the program was loaded.
    pub attach_type: u32,
    /// The file.
    pub path: &'a CStr,
    /// Offsets in the file.
    pub offsets: &'a [u64],
    /// For each offset, where in the file the kernel counts the probes; 0 for nowhere. Empty for nowhere at
    /// all.
    pub counters: &'a [u64],
    /// A cookie for each offset.
    pub cookies: &'a [u64],
    /// Whether the program runs at the return.
    pub at_return: bool,
    /// Only this process; 0 is every process.
    pub pid: i32,
}

/// A program to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// For people; the kernel keeps 15 bytes.
    pub name: &'a str,
    /// Relocated.
    pub instructions: &'a [bpf_insn],
    /// Decides which helpers may be called.
    pub license: &'a CStr,
    /// Types of the functions: callbacks are not accepted without.
    pub btf: Option<BorrowedFd<'a>>,
    /// `struct bpf_func_info` of each function, and the size of one.
    pub functions: &'a [u8],
    /// Bytes of one entry of `functions`.
    pub function_size: usize,
    /// [`UPROBE_MULTI`], [`UPROBE_SESSION`], or 0 for perf events.
    pub attach_type: u32,
}

/// Loads type information.
///
/// # Errors
///
/// As bpf(2).
pub fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let attr = BtfLoad {
        btf: btf.as_ptr().addr() as u64,
        btf_log_buf: 0,
        btf_size: u32::try_from(btf.len()).map_err(io::Error::other)?,
        btf_log_size: 0,
        btf_log_level: 0,
        padding: 0,
    };
    // SAFETY: `btf` outlives the call.
    unsafe { bpf(BPF_BTF_LOAD, attr.as_bytes()) }
}

/// Loads a program of type kprobe, which uprobes are too.
///
/// # Errors
///
/// As bpf(2); where the verifier refused the program, with the reason from its log.
pub fn load(program: &Program<'_>) -> io::Result<OwnedFd> {
    let mut attr = ProgLoad {
        prog_type: KPROBE,
        insn_cnt: u32::try_from(program.instructions.len()).map_err(io::Error::other)?,
        insns: program.instructions.as_ptr().addr() as u64,
        license: program.license.as_ptr().addr() as u64,
        expected_attach_type: program.attach_type,
        ..ProgLoad::default()
    };
    if let Some(btf) = program.btf {
        let size = program.function_size.max(1);
        attr.prog_btf_fd = btf.as_raw_fd();
        attr.func_info = program.functions.as_ptr().addr() as u64;
        attr.func_info_cnt =
            u32::try_from(program.functions.len() / size).map_err(io::Error::other)?;
        attr.func_info_rec_size = u32::try_from(size).map_err(io::Error::other)?;
    }
    // The last byte stays 0.
    for (to, from) in attr.prog_name[..15].iter_mut().zip(program.name.bytes()) {
        *to = from;
    }
    // SAFETY: every pointer in `attr` points to memory that outlives the call, with the stated lengths.
    let result = unsafe { bpf(BPF_PROG_LOAD, attr.as_bytes()) };
    let error = match result {
        Ok(fd) => return Ok(fd),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err(error),
        Err(error) => error,
    };
    let mut log = vec![0u8; LOG_BYTES];
    attr.log_level = 1;
    attr.log_size = LOG_BYTES as u32;
    attr.log_buf = log.as_mut_ptr().addr() as u64;
    // SAFETY: as above; the kernel writes at most `log_size` bytes to `log`, which nobody else uses.
    if let Ok(fd) = unsafe { bpf(BPF_PROG_LOAD, attr.as_bytes()) } {
        return Ok(fd);
    }
    let log = CStr::from_bytes_until_nul(&log)
        .map_or(String::new(), |log| log.to_string_lossy().into_owned());
    // The last line counts instructions.
    let reason = log
        .lines()
        .rev()
        .find(|line| !line.is_empty() && !line.starts_with("processed "));
    match reason {
        Some(reason) => Err(io::Error::new(
            error.kind(),
            format!("{error}; the verifier says: {reason}"),
        )),
        None => Err(error),
    }
}

/// Loads a program that does nothing: to try an interface, or to measure what a probe costs by itself.
///
/// # Errors
///
/// As bpf(2).
pub fn load_nothing(attach_type: u32) -> io::Result<OwnedFd> {
    // r0 = 0; exit (instruction-set.rst)
    let instructions = [0xb7, 0x95].map(|code| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    });
    load(&Program {
        name: "nothing",
        instructions: &instructions,
        license: c"GPL",
        btf: None,
        functions: &[],
        function_size: 0,
        attach_type,
    })
}

/// Attaches a program to many places of a file at once (Linux 6.6).
///
/// # Errors
///
/// As bpf(2).
pub fn link_multi(program: BorrowedFd<'_>, to: &Multi<'_>) -> io::Result<OwnedFd> {
    let counted = to.counters.is_empty() || to.offsets.len() == to.counters.len();
    if to.offsets.len() != to.cookies.len() || !counted {
        return Err(io::Error::other(
            "offsets, counters and cookies differ in number",
        ));
    }
    let attr = LinkMulti {
        prog_fd: program.as_raw_fd(),
        target_fd: 0,
        attach_type: to.attach_type,
        flags: 0,
        path: to.path.as_ptr().addr() as u64,
        offsets: to.offsets.as_ptr().addr() as u64,
        ref_ctr_offsets: if to.counters.is_empty() {
            0
        } else {
            to.counters.as_ptr().addr() as u64
        },
        cookies: to.cookies.as_ptr().addr() as u64,
        cnt: u32::try_from(to.offsets.len()).map_err(io::Error::other)?,
        multi_flags: if to.at_return { MULTI_RETURN } else { 0 },
        pid: to.pid,
        padding: 0,
    };
    // SAFETY: the pointers point to a C string and to `cnt` numbers each, which outlive the call.
    unsafe { bpf(BPF_LINK_CREATE, attr.as_bytes()) }
}

/// Attaches a program to a perf event (Linux 5.15).
///
/// # Errors
///
/// As bpf(2).
pub fn link_perf(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let attr = LinkPerf {
        prog_fd: program.as_raw_fd(),
        target_fd: event.as_raw_fd(),
        attach_type: PERF_EVENT,
        flags: 0,
        bpf_cookie: cookie,
    };
    // SAFETY: `attr` holds no pointer.
    unsafe { bpf(BPF_LINK_CREATE, attr.as_bytes()) }
}

/// Opens a uprobe as a perf event of the PMU `pmu` (/sys/bus/event_source/devices/uprobe). `config`
/// says whether it is a return probe. `pid` -1 is every process.
///
/// # Errors
///
/// As perf_event_open(2).
pub fn perf_uprobe(
    pmu: u32,
    config: u64,
    path: &CStr,
    offset: u64,
    pid: i32,
) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        r#type: pmu,
        config,
        config1: path.as_ptr().addr() as u64,
        config2: offset,
        ..PerfEventAttr::default()
    };
    perf_event(attr, pid)
}

/// Opens a tracepoint as a perf event, by its id in tracefs. `pid` -1 is every process.
///
/// # Errors
///
/// As perf_event_open(2).
pub fn perf_tracepoint(id: u64, pid: i32) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        r#type: TRACEPOINT,
        config: id,
        ..PerfEventAttr::default()
    };
    perf_event(attr, pid)
}

fn perf_event(mut attr: PerfEventAttr, pid: i32) -> io::Result<OwnedFd> {
    attr.size = size_of::<PerfEventAttr>() as u32;
    // An event of all processes must name a CPU; the program runs on every one all the same.
    let cpu = if pid == -1 { 0 } else { -1 };
    // SAFETY: `attr` and the path in it outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_bytes().as_ptr(),
            pid,
            cpu,
            -1,
            CLOEXEC,
        )
    };
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { descriptor(result) }
}

/// Whether seccomp filters get to see the system call through which a return probe comes back, so that one
/// that does not know it kills the program. A process of its own tries it. Without that system call (before
/// Linux 6.11, and but for x86-64) the answer means nothing.
///
/// # Errors
///
/// As fork(2) and waitpid(2).
pub fn seccomp_sees_return_probes() -> io::Result<bool> {
    /// `uretprobe` (arch/x86/entry/syscalls/syscall_64.tbl)
    const URETPROBE: u32 = 335;
    /// What the filter answers: no system call would.
    const ANSWER: u32 = 0xfff;
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The number is the first field of `struct seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, URETPROBE),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | ANSWER,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the child makes system calls only, with memory of its own.
    let child = unsafe { libc::fork() };
    match child {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above. The filter is passed as prctl(2) wants it. The system call is one that
            // ends the process with SIGILL if it gets through.
            unsafe {
                libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
                let filtered = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::prctl(
                        libc::PR_SET_SECCOMP,
                        libc::SECCOMP_MODE_FILTER,
                        &raw const program,
                    ) == 0;
                let answered = filtered
                    && libc::syscall(c_long::from(URETPROBE)) == -1
                    && *libc::__errno_location() == ANSWER as i32;
                libc::_exit(i32::from(answered));
            }
        }
        child => {
            let mut status = 0;
            // SAFETY: it is a child of this process, and nobody else waits for it.
            while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1)
        }
    }
}

/// # Safety
///
/// Pointers within `attr` must be valid for what the command does with them.
unsafe fn bpf(command: u32, attr: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is valid for its length, which the kernel is told; the rest is the caller's
    // promise. Both commands return a new descriptor.
    unsafe {
        let result = libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), attr.len());
        descriptor(result)
    }
}

/// # Safety
///
/// A result that is not negative must be a descriptor that nobody else owns.
unsafe fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the caller's promise.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_probes_pass_the_filters_of_this_kernel() {
        let release = crate::attach::system::kernel_release();
        let version: Vec<u32> = release
            .split(['.', '-'])
            .map_while(|word| word.parse().ok())
            .collect();
        // Linux 6.14 lets them pass; before 6.11 there is nothing to pass.
        if version.as_slice() >= [6, 14].as_slice() {
            assert!(!seccomp_sees_return_probes().unwrap());
        } else if version.as_slice() < [6, 11].as_slice() {
            assert!(seccomp_sees_return_probes().unwrap());
        }
    }
}
