//! HotSpot's attach protocol, by which a JVM is asked to load an agent.
//!
//! Sources: src/hotspot/os/posix/attachListener_posix.cpp and
//! src/jdk.attach/linux/classes/sun/tools/attach/VirtualMachineImpl.java of the JDK. The JVM is sent SIGQUIT;
//! where it finds a file `.attach_pidN` it makes the socket `/tmp/.java_pidN`, where N is its process id as
//! itself knows it. Without the file it writes a list of its threads to standard output, and without a
//! handler of the signal it dies: so neither may be left to chance.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Uid, fstat, openat, openat2,
        unlinkat,
    },
    io::Errno,
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::folder::{Folder, open_folder};
use crate::attach::processes::{MappedFile, Pid};

/// Bit of SIGQUIT in the masks of proc_pid_status(5).
const SIGQUIT: u64 = 1 << (3 - 1);

/// How long a JVM may take to open its socket, and to answer. The JDK's own tools give it as long.
const OPENING: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(20);

/// How long a process without a handler of SIGQUIT may take to become a JVM.
const HANDLER: Duration = Duration::from_secs(10);

/// How long it takes at most until what a JVM tells of itself is of this one.
const STALE: Duration = Duration::from_secs(2);

/// How long a JVM whose state cannot be seen is given to start.
const BLIND: Duration = Duration::from_secs(3);

/// Longest answer and longest file of counters that is read, in bytes.
const ANSWER_BYTES: u64 = 64 * 1024;
const COUNTER_BYTES: u64 = 1 << 20;

/// Options that forbid and allow what we do.
const DISABLE: &str = "-XX:+DisableAttachMechanism";
const ENABLE: &str = "-XX:-DisableAttachMechanism";

/// Where a JVM takes options from beside its command line (java(1)).
const OPTION_VARIABLES: &[&str] = &["JAVA_TOOL_OPTIONS=", "JDK_JAVA_OPTIONS=", "_JAVA_OPTIONS="];

/// Why a JVM's own TLS cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was forbidden.
    #[error("the JVM was started with {DISABLE}, which keeps every agent out")]
    Disabled,
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What should be done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It did not answer.
    #[error("the JVM does not answer; is it stopped, or does it have another /tmp?")]
    NoAnswer,
    /// There is no way in.
    #[error(
        "the JVM does not handle SIGQUIT, by which attaching begins: was it started with -Xrs?"
    )]
    NoHandler,
    /// There was no JDK.
    #[error(
        "this build of observer has no Java agent: build it where a JDK (javac and jar, 9 or later) is installed"
    )]
    NotBuilt,
    /// Another JVM.
    #[error("it is Eclipse OpenJ9, and only HotSpot's attach protocol is known")]
    OpenJ9,
    /// Rights are missing.
    #[error(
        "the JVM runs as another user (uid {uid}, gid {gid}): CAP_SETUID and CAP_SETGID are needed"
    )]
    OtherUser {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The JVM, or the agent in it, said no.
    #[error("the Java agent cannot be loaded: {0}")]
    Refused(String),
    /// The agent ends.
    #[error("observer was stopped")]
    Stopped,
    /// It is gone.
    #[error("the process is gone")]
    Gone,
}

/// How far a JVM has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It cannot be attached to yet.
    Starting,
    /// It can.
    Ready,
}

/// A process that runs HotSpot.
#[derive(Debug)]
pub(super) struct HotSpot {
    pid: Pid,
    /// Its process id as itself knows it.
    inner: i32,
    uid: u32,
    gid: u32,
    process: OwnedFd,
    root: OwnedFd,
}

/// Where a JVM is mapped, if there is one among the files that a process has mapped.
pub(super) fn base(files: &[MappedFile]) -> Option<u64> {
    files
        .iter()
        .find(|file| file.path.ends_with("libjvm.so"))
        .map(MappedFile::base)
}

/// Whether an agent can be loaded into a process that has mapped `files`, among them a JVM. It does not
/// notice.
///
/// # Errors
///
/// Why not.
pub fn check(pid: Pid, files: &[MappedFile]) -> Result<(), Error> {
    let jvm = HotSpot::find(pid, files)?;
    match jvm.stage(HANDLER)? {
        Stage::Starting if !jvm.handles_quit()? => Err(Error::NoHandler),
        Stage::Starting | Stage::Ready => Ok(()),
    }
}

impl HotSpot {
    /// Looks at a process that has mapped `files`, among them a JVM.
    pub(super) fn find(pid: Pid, files: &[MappedFile]) -> Result<Self, Error> {
        let is_openj9 = files.iter().any(|file| {
            let name = file.path.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b"libj9vm")
        });
        if is_openj9 {
            return Err(Error::OpenJ9);
        }
        let process = i32::try_from(pid.0)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .ok_or(Error::Gone)?;
        // A descriptor of the process: its number may be another's when it is signalled.
        let process = pidfd_open(process, PidfdFlags::empty()).map_err(|_| Error::Gone)?;
        let root = File::open(format!("/proc/{pid}/root")).map_err(|source| Error::Io {
            doing: "look into the process's files",
            source,
        })?;
        let status = status(pid)?;
        Ok(Self {
            pid,
            inner: status
                .nspid
                .as_ref()
                .and_then(|ids| ids.last().copied())
                .unwrap_or(status.pid),
            uid: status.euid,
            gid: status.egid,
            process,
            root: root.into(),
        })
    }

    /// Gives this thread the effective user and group of the JVM, which serves no other, and no more rights
    /// than that user has.
    pub(super) fn become_its_user(&self) -> Result<(), Error> {
        let other = |_: Errno| Error::OtherUser {
            uid: self.uid,
            gid: self.gid,
        };
        // The user last: it takes the rights away.
        if rustix::process::getegid().as_raw() != self.gid {
            set_thread_res_gid(None, Gid::from_raw(self.gid), None).map_err(other)?;
        }
        if rustix::process::geteuid().as_raw() != self.uid {
            set_thread_res_uid(None, Uid::from_raw(self.uid), None).map_err(other)?;
        }
        let none = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        set_capabilities(None, sets).map_err(|error| Error::Io {
            doing: "give up rights",
            source: error.into(),
        })
    }

    /// Whether the JVM can be attached to, after it was waited for.
    pub(super) fn stage(&self, waited: Duration) -> Result<Stage, Error> {
        // Before it handles the signal, what it seems to tell of itself may be of one that had its number
        // before: in a container that is started again.
        if !self.handles_quit()? {
            let is_without = waited > STALE && self.counters().is_some_and(|all| all.started);
            return if is_without || waited > HANDLER {
                Err(Error::NoHandler)
            } else {
                Ok(Stage::Starting)
            };
        }
        let counters = self.counters();
        if self.is_forbidden(counters.as_ref()) {
            return Err(Error::Disabled);
        }
        let started = match counters {
            Some(counters) => counters.started,
            None => self.has_started_by_its_threads() || waited > BLIND,
        };
        Ok(if started {
            Stage::Ready
        } else {
            Stage::Starting
        })
    }

    /// A folder where the JVM can read.
    pub(super) fn folder(&self) -> Result<Folder, Error> {
        Folder::create(&self.root).map_err(|source| Error::Io {
            doing: "make a folder in the JVM's /tmp",
            source,
        })
    }

    /// Has the JVM load the agent in `folder`, which says in the file `status` what came of it.
    pub(super) fn load(
        &self,
        folder: &Folder,
        archive: &str,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let context = |doing| move |source| Error::Io { doing, source };
        let mut socket = self.connect(stop)?;
        socket
            .set_read_timeout(Some(ANSWER))
            .map_err(context("speak to the JVM"))?;
        let path = folder.path().display();
        // Version, command, and three arguments: library, whether that is a path, options.
        let request = format!("1\0load\0instrument\0false\0{path}/{archive}={path}\0");
        socket
            .write_all(request.as_bytes())
            .map_err(context("speak to the JVM"))?;
        let mut answer = Vec::new();
        let read = socket.take(ANSWER_BYTES).read_to_end(&mut answer);
        match folder.read("status") {
            Ok(status) if status == "on" => return Ok(()),
            Ok(status) => return Err(Error::Refused(status)),
            Err(_) => {}
        }
        read.map_err(|_| Error::NoAnswer)?;
        Err(Error::Refused(reason(&String::from_utf8_lossy(&answer))))
    }

    /// Opens the JVM's socket, which it makes when it is asked for the first time.
    fn connect(&self, stop: &AtomicBool) -> Result<UnixStream, Error> {
        let context = |source| Error::Io {
            doing: "look into the JVM's /tmp",
            source,
        };
        let tmp = open_folder(&self.root, "tmp").map_err(context)?;
        let name = format!(".java_pid{}", self.inner);
        if let Some(socket) = self.try_connect(&tmp, &name)? {
            return Ok(socket);
        }
        let _trigger = Trigger::create(&tmp, format!(".attach_pid{}", self.inner))?;
        // A program that has been executed meanwhile would have no handler yet.
        if !self.handles_quit()? {
            return Err(Error::NoHandler);
        }
        pidfd_send_signal(&self.process, Signal::QUIT).map_err(|error| Error::Io {
            doing: "signal the JVM",
            source: error.into(),
        })?;
        let deadline = Instant::now() + OPENING;
        while Instant::now() < deadline {
            if let Some(socket) = self.try_connect(&tmp, &name)? {
                return Ok(socket);
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            thread::sleep(super::LOOK_SOON);
        }
        Err(Error::NoAnswer)
    }

    fn try_connect(&self, tmp: &OwnedFd, name: &str) -> Result<Option<UnixStream>, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(place) = openat(tmp, name, flags, Mode::empty()) else {
            return Ok(None);
        };
        let is_its_own = fstat(&place).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::Socket && stat.st_uid == self.uid
        });
        if !is_its_own {
            return Err(Error::Refused(format!("/tmp/{name} is not the JVM's")));
        }
        // By its descriptor: nobody can replace it, and the path is never too long.
        match UnixStream::connect(format!("/proc/self/fd/{}", place.as_raw_fd())) {
            Ok(socket) => Ok(Some(socket)),
            // Left behind by a JVM that is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(source) => Err(Error::Io {
                doing: "connect to the JVM",
                source,
            }),
        }
    }

    /// Whether SIGQUIT is handled. It is the signal's default to end the process.
    fn handles_quit(&self) -> Result<bool, Error> {
        let status = status(self.pid)?;
        Ok(status.sigcgt & SIGQUIT != 0)
    }

    /// Whether it was started so that nobody can attach: by its own word, else by its command line and
    /// environment.
    fn is_forbidden(&self, counters: Option<&Counters>) -> bool {
        if let Some(attachable) = counters.and_then(|counters| counters.attachable) {
            return !attachable;
        }
        let read = |name| fs::read(format!("/proc/{}/{name}", self.pid)).unwrap_or_default();
        let environment = read("environ");
        let variables = environment
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .filter(|variable| {
                OPTION_VARIABLES
                    .iter()
                    .any(|name| variable.starts_with(name))
            });
        let mut options: String = variables.map(|variable| format!("{variable} ")).collect();
        options = options.replace('=', " ") + &String::from_utf8_lossy(&read("cmdline"));
        forbids(&options)
    }

    /// What the JVM tells of itself; `None` if it does not (`-XX:-UsePerfData`).
    fn counters(&self) -> Option<Counters> {
        let tmp = open_folder(&self.root, "tmp").ok()?;
        let mut buffer = Vec::with_capacity(8 * 1024);
        let mut entries = RawDir::new(&tmp, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name();
            if !name.to_bytes().starts_with(b"hsperfdata_") {
                continue;
            }
            let path = format!("{}/{}", name.to_string_lossy(), self.inner);
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let Ok(file) = openat2(&tmp, &path, flags, Mode::empty(), resolve) else {
                continue;
            };
            // Another user's JVM may have had the number before.
            if !fstat(&file).is_ok_and(|stat| stat.st_uid == self.uid) {
                continue;
            }
            let mut bytes = Vec::new();
            let read = File::from(file).take(COUNTER_BYTES).read_to_end(&mut bytes);
            return read.ok().and_then(|_| Counters::parse(&bytes));
        }
        None
    }

    /// The thread for periodic tasks is the last that a JVM starts before the program's own code
    /// (`Threads::create_vm`).
    fn has_started_by_its_threads(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid));
        tasks.into_iter().flatten().flatten().any(|task| {
            fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.starts_with("VM Periodic Tas"))
        })
    }
}

/// A file by which the JVM knows what SIGQUIT means.
struct Trigger<'a> {
    tmp: &'a OwnedFd,
    /// Unless somebody else is about to attach too, and has made it.
    name: Option<String>,
}

impl<'a> Trigger<'a> {
    fn create(tmp: &'a OwnedFd, name: String) -> Result<Self, Error> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let name = match openat(tmp, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(_) => Some(name),
            Err(Errno::EXIST) => None,
            Err(error) => {
                return Err(Error::Io {
                    doing: "make a file in the JVM's /tmp",
                    source: error.into(),
                });
            }
        };
        Ok(Self { tmp, name })
    }
}

impl Drop for Trigger<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = unlinkat(self.tmp, name, AtFlags::empty());
        }
    }
}

/// Some of the counters that a JVM shows in /tmp/hsperfdata_USER/N (src/hotspot/share/runtime/perfMemory.hpp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    /// Whether it lets itself be attached to.
    attachable: Option<bool>,
    /// Whether it can load agents.
    started: bool,
}

impl Counters {
    fn parse(bytes: &[u8]) -> Option<Self> {
        const MAGIC: [u8; 4] = [0xca, 0xfe, 0xc0, 0xc0];
        let word = |at: usize| -> Option<usize> {
            let word = bytes.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(i32::from_ne_bytes(word)).ok()
        };
        if bytes.get(..4)? != MAGIC {
            return None;
        }
        let mut counters = Self {
            attachable: None,
            // `accessible`: set once agents may be loaded (`Threads::create_vm`).
            started: *bytes.get(7)? == 1,
        };
        let mut entry = word(24)?;
        for _ in 0..word(28)? {
            let length = word(entry)?;
            let name = bytes.get(entry + word(entry + 4)?..)?;
            let value = bytes.get(entry + word(entry + 16)?..)?;
            let name = name.split(|byte| *byte == 0).next()?;
            if name == b"sun.rt.jvmCapabilities" {
                counters.attachable = Some(*value.first()? == b'1');
            }
            if length == 0 {
                return None;
            }
            entry += length;
        }
        Some(counters)
    }
}

/// Whether options forbid to attach: the last word counts.
fn forbids(options: &str) -> bool {
    options
        .split(|c: char| c == '\0' || c.is_whitespace())
        .rev()
        .find_map(|word| match word {
            DISABLE => Some(true),
            ENABLE => Some(false),
            _ => None,
        })
        .unwrap_or(false)
}

/// What an answer that is not a success says: a number, then `return code: N` or a text.
fn reason(answer: &str) -> String {
    let mut lines = answer.lines();
    let code = lines.next().unwrap_or_default();
    let text: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    match text.as_slice() {
        [] => format!("the JVM answers {code:?}; is java.instrument missing from its modules?"),
        text => text.join(" "),
    }
}

fn status(pid: Pid) -> Result<procfs::process::Status, Error> {
    let pid = i32::try_from(pid.0).map_err(|_| Error::Gone)?;
    let status = Process::new(pid)
        .and_then(|process| process.status())
        .map_err(|_| Error::Gone)?;
    if status.state.starts_with(['Z', 'X']) {
        return Err(Error::Gone);
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_option_counts() {
        assert!(forbids("java\0-XX:+DisableAttachMechanism\0Main\0"));
        assert!(!forbids(
            "JAVA_TOOL_OPTIONS -XX:+DisableAttachMechanism -Xmx1g java\0-XX:-DisableAttachMechanism\0"
        ));
        assert!(!forbids("java\0Main\0"));
    }

    #[test]
    fn counters_are_found() {
        let mut bytes = vec![0xca, 0xfe, 0xc0, 0xc0, 1, 2, 0, 0];
        bytes.resize(24, 0);
        bytes.extend(32i32.to_ne_bytes());
        bytes.extend(2i32.to_ne_bytes());
        for (name, value) in [
            ("java.threads.started", *b"12345678"),
            ("sun.rt.jvmCapabilities", *b"01000000"),
        ] {
            for word in [64i32, 20, 0, 0, 56] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(name.bytes());
            bytes.resize(bytes.len() + 36 - name.len(), 0);
            bytes.extend(value);
        }
        for started in [false, true] {
            bytes[7] = u8::from(started);
            assert_eq!(
                Counters::parse(&bytes),
                Some(Counters {
                    attachable: Some(false),
                    started,
                })
            );
        }
        for length in 0..bytes.len() {
            let _ = Counters::parse(&bytes[..length]);
        }
    }

    #[test]
    fn a_process_that_does_not_handle_the_signal_is_not_ready() {
        let mut child = std::process::Command::new("sleep")
            .arg("20")
            .spawn()
            .unwrap();
        let jvm = HotSpot::find(Pid(child.id()), &[]).unwrap();
        assert_eq!(jvm.stage(Duration::ZERO).unwrap(), Stage::Starting);
        assert!(matches!(
            jvm.stage(HANDLER + Duration::from_secs(1)),
            Err(Error::NoHandler)
        ));
        assert!(matches!(
            jvm.connect(&AtomicBool::new(false)),
            Err(Error::NoHandler)
        ));
        assert!(child.try_wait().unwrap().is_none(), "it was signalled");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
