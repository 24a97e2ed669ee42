//! TLS of the JDK (JSSE): Java code, which no uprobe can reach. An agent of ours is loaded into the JVM, which
//! hands the plaintext to functions of a native library that are probed: observer-java/.
//!
//! The library's file is written for each JVM and probed before the JVM loads it, so that no plaintext
//! passes before. The kernel counts the probes in the library, by which the agent knows when to leave.
//!
//! A thread for each JVM does what takes time, with the rights of the JVM's own user.

mod folder;
mod hotspot;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use observer_common::{Cookie, java};

pub use self::hotspot::{Error, check};
use self::hotspot::{HotSpot, Stage};
use super::{
    elf::Elf,
    link::{Links, Point},
    processes::{MappedFile, Pid},
    tls::Family,
};

/// The agent, as build.rs has built it: empty if there was no JDK.
static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/java/agent.jar"));
/// Its part for the boot class path.
static BOOT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/java/boot.jar"));
/// Its native library.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/java/libobserver_java.so"));

/// Where its files have these names (observer-java/agent).
const AGENT_NAME: &str = "agent.jar";
const BOOT_NAME: &str = "boot.jar";
const LIBRARY_NAME: &str = "libobserver_java.so";

/// How long a JVM may take until it can be attached to, from when its library is mapped.
const START: Duration = Duration::from_secs(30);

/// How long the probes may take.
const PROBING: Duration = Duration::from_secs(10);

/// How often a JVM that starts is looked at: at first, and once it takes its time.
const LOOK_SOON: Duration = Duration::from_millis(5);
const LOOK_LATER: Duration = Duration::from_millis(100);

/// How long the threads may take to tidy up when the agent ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whether this build has the agent: building it takes a JDK.
pub fn is_built() -> bool {
    !AGENT.is_empty() && !BOOT.is_empty() && !LIBRARY.is_empty()
}

/// The JVMs that are watched, and those that will be.
#[derive(Debug)]
pub(super) struct Java {
    jvms: HashMap<Pid, Jvm>,
    sender: Sender<News>,
    news: Receiver<News>,
    /// A byte comes with the news.
    bell: UnixStream,
    ring: UnixStream,
}

#[derive(Debug)]
struct Jvm {
    /// Where libjvm.so is mapped: tells programs apart that one process executed after the other.
    base: u64,
    links: Option<Links>,
    thread: Option<JoinHandle<()>>,
    /// Tells the thread to end.
    stop: Arc<AtomicBool>,
}

impl Drop for Jvm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a thread says.
#[derive(Debug)]
pub(super) enum News {
    /// The library is there, to be probed. What is sent back says whether it is.
    Library {
        /// The JVM.
        pid: Pid,
        /// As in [`Jvm::base`].
        base: u64,
        /// The file.
        file: File,
        /// For the answer.
        probed: SyncSender<bool>,
    },
    /// The agent is loaded, or not.
    Loaded {
        /// The JVM.
        pid: Pid,
        /// As in [`Jvm::base`].
        base: u64,
        /// Why not.
        result: Result<(), Error>,
    },
}

impl Java {
    /// Nothing is loaded yet.
    ///
    /// # Errors
    ///
    /// This build has no agent, or there are no descriptors left.
    pub(super) fn new() -> Result<Self, Error> {
        if !is_built() {
            return Err(Error::NotBuilt);
        }
        let (sender, news) = channel();
        let pair = || -> io::Result<_> {
            let (bell, ring) = UnixStream::pair()?;
            bell.set_nonblocking(true)?;
            ring.set_nonblocking(true)?;
            Ok((bell, ring))
        };
        let (bell, ring) = pair().map_err(|source| Error::Io {
            doing: "make a pipe",
            source,
        })?;
        Ok(Self {
            jvms: HashMap::new(),
            sender,
            news,
            bell,
            ring,
        })
    }

    /// Becomes readable when there are news.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What a thread has to say.
    pub(super) fn news(&mut self) -> Option<News> {
        let _ = self.bell.read(&mut [0; 64]);
        self.news.try_recv().ok()
    }

    /// Begins to watch a process, if it is a JVM. `files` are those that it has mapped.
    pub(super) fn see(&mut self, pid: Pid, files: &[MappedFile]) {
        let Some(base) = hotspot::base(files) else {
            return;
        };
        if self.jvms.get(&pid).is_some_and(|jvm| jvm.base == base) {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let begun =
            HotSpot::find(pid, files).and_then(|jvm| self.begin(pid, base, jvm, Arc::clone(&stop)));
        let thread = match begun {
            Ok(thread) => Some(thread),
            Err(error) => {
                let result = Err(error);
                let _ = self.sender.send(News::Loaded { pid, base, result });
                let _ = (&self.ring).write(&[0]);
                None
            }
        };
        let jvm = Jvm {
            base,
            links: None,
            thread,
            stop,
        };
        self.jvms.insert(pid, jvm);
    }

    fn begin(
        &self,
        pid: Pid,
        base: u64,
        jvm: HotSpot,
        stop: Arc<AtomicBool>,
    ) -> Result<JoinHandle<()>, Error> {
        let context = |source| Error::Io {
            doing: "start a thread for the JVM",
            source,
        };
        let sender = self.sender.clone();
        let mut ring = self.ring.try_clone().map_err(context)?;
        thread::Builder::new()
            .name("observer-java".to_owned())
            .spawn(move || {
                let result = enter(&jvm, &stop, |file| {
                    let (probed, answer) = sync_channel(1);
                    let _ = sender.send(News::Library {
                        pid,
                        base,
                        file,
                        probed,
                    });
                    let _ = ring.write(&[0]);
                    answer.recv_timeout(PROBING).unwrap_or(false)
                });
                let _ = sender.send(News::Loaded { pid, base, result });
                let _ = ring.write(&[0]);
            })
            .map_err(context)
    }

    /// Whether a JVM has not been dealt with yet.
    pub(super) fn is_busy(&self) -> bool {
        self.jvms.values().any(|jvm| {
            let thread = jvm.thread.as_ref();
            thread.is_some_and(|thread| !thread.is_finished())
        })
    }

    /// Keeps the probes of a JVM, or takes them away: it has no agent. Returns whether it is still there.
    pub(super) fn keep(&mut self, pid: Pid, base: u64, links: Option<Links>) -> bool {
        match self.jvms.get_mut(&pid) {
            Some(jvm) if jvm.base == base => {
                jvm.links = links;
                true
            }
            _ => false,
        }
    }

    /// A process is gone.
    pub(super) fn gone(&mut self, pid: Pid) {
        self.jvms.remove(&pid);
    }
}

impl Drop for Java {
    /// Threads that are at work leave files in other processes' folders if they are not waited for.
    fn drop(&mut self) {
        for jvm in self.jvms.values_mut() {
            jvm.stop.store(true, Ordering::Relaxed);
            jvm.links = None;
        }
        let deadline = Instant::now() + FAREWELL;
        while self.is_busy() && Instant::now() < deadline {
            while let Some(news) = self.news() {
                drop(news);
            }
            thread::sleep(LOOK_SOON);
        }
    }
}

/// Where to probe the library, a file as [`LIBRARY`].
///
/// # Errors
///
/// The library is not as it was built.
pub(super) fn points(file: &File) -> Result<Vec<Point>, Error> {
    let incomplete = || Error::Refused("its native library is incomplete".to_owned());
    let elf = Elf::read(file, |name| name.starts_with("observer_java_"))
        .map_err(|error| Error::Refused(error.to_string()))?;
    let counter = elf.section(".probes").ok_or_else(incomplete)?;
    let counter = elf.data_offset(counter.start).ok_or_else(incomplete)?;
    [
        ("observer_java_data", java::DATA),
        ("observer_java_end", java::END),
    ]
    .into_iter()
    .map(|(name, function)| {
        let offset = elf
            .function(name)
            .and_then(|address| elf.file_offset(address))
            .ok_or_else(incomplete)?;
        Ok(Point {
            offset,
            counter,
            cookie: Cookie::new(function, 0).to_u64(),
            returns: false,
            family: Family::Java,
        })
    })
    .collect()
}

/// Loads the agent into a JVM, once that is possible. `probe` is to probe the native library.
fn enter(jvm: &HotSpot, stop: &AtomicBool, probe: impl FnOnce(File) -> bool) -> Result<(), Error> {
    jvm.become_its_user()?;
    let began = Instant::now();
    loop {
        let waited = began.elapsed();
        match jvm.stage(waited)? {
            Stage::Ready => break,
            Stage::Starting if waited > START => return Err(Error::NoHandler),
            Stage::Starting if stop.load(Ordering::Relaxed) => return Err(Error::Stopped),
            Stage::Starting => {}
        }
        thread::sleep(if waited < Duration::from_secs(2) {
            LOOK_SOON
        } else {
            LOOK_LATER
        });
    }
    let folder = jvm.folder()?;
    let write = |name, bytes| {
        folder.write(name, bytes).map_err(|source| Error::Io {
            doing: "write a file that the JVM can read",
            source,
        })
    };
    write(AGENT_NAME, AGENT)?;
    write(BOOT_NAME, BOOT)?;
    let library = write(LIBRARY_NAME, LIBRARY)?;
    if !probe(library) {
        return Err(Error::Refused(
            "its native library cannot be probed".to_owned(),
        ));
    }
    jvm.load(&folder, AGENT_NAME, stop)
}
