//! From processes to probes: which files to probe, where, and for whom.
//!
//! A file is probed once, whatever its paths: the kernel keys uprobes by inode. With `--pid` and a
//! process without children the probes are scoped to it, so that nobody else pays for them. As soon
//! as there is a second process they stand for everyone, and the programs let the watched processes
//! pass: a child could be through with its first call before probes of its own would be in.

mod abi;
pub mod boundary;
#[expect(
    unsafe_code,
    reason = "bpf(2) and perf_event_open(2) have no safe interface"
)]
pub mod bpf;
pub mod cgroup;
pub mod elf;
pub mod examine;
pub mod flow;
pub mod functions;
pub mod java;
pub mod link;
pub mod mappings;
pub mod pod;
pub mod processes;
pub mod python;
pub mod scan;
pub mod site;
pub mod system;
pub mod tls;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap as BpfHashMap, MapData, RingBuf},
    programs::{ProgramError, RawTracePoint, TracePoint},
};
use observer_common::follow;
use tracing::{debug, warn};

use self::{
    examine::{Examination, Examiner, Urgency},
    java::{Java, News},
    link::{Linker, Links, Point, Refusal, Rung},
    mappings::{Heard, Mappings},
    processes::{FileId, MappedFile, Pid, Stamp},
    python::Pythons,
    tls::{LIBRARIES, Probe},
};

/// The BPF object, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-programs"));

/// Tracepoints for the life of processes: program, category, name.
const TRACEPOINTS: &[(&str, &str, &str)] = &[
    ("process_exit", "sched", "sched_process_exit"),
    ("process_fork", "sched", "sched_process_fork"),
    ("process_exec", "sched", "sched_process_exec"),
];

/// Raw tracepoints that see the system calls on sockets: program, name, and what it is needed for.
const SYSCALLS: &[(&str, &str, u32)] = &[
    (
        "syscall_enter",
        "sys_enter",
        follow::KEYS | follow::PLAINTEXT,
    ),
    ("syscall_exit", "sys_exit", follow::PLAINTEXT),
];

/// Files remembered as "nothing to probe here", so that they are not read again.
const REMEMBERED_FILES: usize = 65_536;

/// The wakeup share of the ring buffer: the agent is woken when a fourth of it is full.
const HIGH_WATER_SHARE: u64 = 4;

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or the user's rights do not allow it.
    #[error(transparent)]
    System(#[from] system::Error),
    /// The kernel refused the programs.
    #[error("cannot load the BPF programs: {}", chain(.0.as_ref()))]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel has no interface for uprobes that may be used.
    #[error("no way to attach uprobes: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoRung(Vec<Refusal>),
    /// Probes could not be attached.
    #[error("cannot attach to {place}: {}", chain(.source.as_ref()))]
    Attach {
        /// Where they should go.
        place: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The JDK's own TLS cannot be watched.
    #[error(transparent)]
    Java(#[from] java::Error),
    /// A process that should be watched is not there.
    #[error("there is no process {0}")]
    NoProcess(Pid),
}

/// Who is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Every process but the agent.
    All,
    /// The processes that are added, and their children.
    Processes,
}

/// Loads the programs, attaches them, and lets go of everything when it is dropped.
pub struct Attacher {
    /// Holds the tracepoints.
    programs: Ebpf,
    /// What system calls are looked at for: bits of `observer_common::follow`, by which their programs go.
    follow: Array<MapData, u32>,
    follows: u32,
    linker: Linker,
    mappings: Mappings,
    watch: Watch,
    watched: BpfHashMap<MapData, u32, u8>,
    /// Processes that are left out, if some may be.
    excluded: Option<BpfHashMap<MapData, u32, u8>>,
    /// Processes that were heard of since somebody asked; `None` if nobody asks.
    met: Option<Vec<Pid>>,
    members: HashSet<Pid>,
    /// Probes stand for every process, not for one.
    for_everyone: bool,
    /// A watched process has mapped a TLS library.
    mapped: bool,
    probed: HashMap<FileId, Probed>,
    examiner: Examiner,
    /// JVMs, if an agent is to be loaded into them.
    java: Option<Java>,
    pythons: Pythons,
    /// Files that are being examined.
    examining: HashMap<FileId, Waiting>,
    /// Of these, those that were there at the start.
    first: Option<HashSet<FileId>>,
    /// Files that hold no library that can be probed.
    uninteresting: HashMap<FileId, Stamp>,
    /// The first refusal since somebody asked.
    refused: Option<Error>,
}

/// A file that has probes.
struct Probed {
    file: File,
    path: PathBuf,
    probes: Vec<Probe>,
    /// Probes that stand, by the process that they are scoped to; `None` is everyone.
    links: HashMap<Option<Pid>, Links>,
    /// The kernel refused them.
    refused: bool,
}

/// A file that is being examined.
struct Waiting {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    /// The processes that use it.
    pids: Vec<Pid>,
    /// One of them has mapped it.
    mapped: bool,
}

/// The maps that the capture shares with the programs.
pub struct Sources {
    /// The records.
    pub events: RingBuf<MapData>,
    /// The losses.
    pub lost: Array<MapData, u64>,
    /// What the agent does.
    pub agent: Array<MapData, u32>,
    /// `observer_common::Verdict` by `observer_common::ConnectionKey`.
    pub verdicts: BpfHashMap<MapData, [u64; 2], [u64; 2]>,
    /// How many verdicts there have been.
    pub verdict_count: Array<MapData, u64>,
}

impl Attacher {
    /// Loads the programs and attaches those that follow processes. No TLS library is probed yet.
    /// `ring_bytes` is the size of the ring buffer, a power of two and a multiple of the page size;
    /// `rung` is the interface to take instead of the best. If `selecting`, processes may be left out
    /// ([`Self::exclude`]).
    ///
    /// # Errors
    ///
    /// The kernel or the user's rights do not allow it.
    pub fn new(
        watch: Watch,
        ring_bytes: u32,
        rung: Option<Rung>,
        selecting: bool,
    ) -> Result<(Self, Sources), Error> {
        system::require_privileges()?;
        system::require_harmless_returns()?;
        let tracefs = system::tracefs()?;
        let watch_all = u8::from(watch == Watch::All);
        let own = std::process::id();
        let high_water = u64::from(ring_bytes) / HIGH_WATER_SHARE;
        let child_pid = system::field_offset(&tracefs, "sched/sched_process_fork", "child_pid")?;
        let load = |error: aya::EbpfError| Error::Load(error.into());
        let mut programs = EbpfLoader::new()
            .override_global("WATCH_ALL", &watch_all, true)
            .override_global("AGENT_TGID", &own, true)
            .override_global("SELECTING", &u8::from(selecting), true)
            .override_global("HIGH_WATER", &high_water, true)
            .override_global("FORK_CHILD_PID_OFFSET", &child_pid, true)
            .map_max_entries("EVENTS", ring_bytes)
            .load(OBJECT)
            .map_err(load)?;
        let linker = Linker::new(OBJECT, &programs, rung)?;
        let sources = Sources {
            events: take_map(&mut programs, "EVENTS", RingBuf::try_from)?,
            lost: take_map(&mut programs, "LOST", Array::try_from)?,
            agent: take_map(&mut programs, "AGENT", Array::try_from)?,
            verdicts: take_map(&mut programs, "VERDICTS", BpfHashMap::try_from)?,
            verdict_count: take_map(&mut programs, "VERDICT_COUNT", Array::try_from)?,
        };
        let watched = take_map(&mut programs, "WATCHED", BpfHashMap::try_from)?;
        let excluded = match selecting {
            true => Some(take_map(&mut programs, "EXCLUDED", BpfHashMap::try_from)?),
            // It stays where it is: programs that are loaded later refer to it.
            false => None,
        };
        let follow = take_map(&mut programs, "FOLLOW", Array::try_from)?;
        let pythons = Pythons::new(
            take_map(&mut programs, "PYTHONS", BpfHashMap::try_from)?,
            take_map(&mut programs, "PYTHON_KNOWN", Array::try_from)?,
        );
        for &(program, category, name) in TRACEPOINTS {
            trace(&mut programs, program, category, &[name])?;
        }
        let mappings = Mappings::open().map_err(|error| Error::Attach {
            place: "the perf events of mappings".to_owned(),
            source: error.into(),
        })?;
        let attacher = Self {
            programs,
            mappings,
            follow,
            follows: 0,
            linker,
            watch,
            watched,
            excluded,
            met: None,
            members: HashSet::new(),
            for_everyone: watch == Watch::All,
            mapped: false,
            probed: HashMap::new(),
            examiner: Examiner::new(system::cache_folder()),
            java: None,
            pythons,
            examining: HashMap::new(),
            first: None,
            uninteresting: HashMap::new(),
            refused: None,
        };
        Ok((attacher, sources))
    }

    /// Also captures HTTP that passes through sockets as it is.
    ///
    /// # Errors
    ///
    /// The kernel refuses the programs.
    pub fn capture_plaintext(&mut self) -> Result<(), Error> {
        self.look_for(follow::PLAINTEXT)
    }

    /// Watches processes and the children that they have and will have.
    ///
    /// # Errors
    ///
    /// A process is not there, or the kernel refused every probe.
    pub fn add(&mut self, pids: &[Pid]) -> Result<(), Error> {
        for &pid in pids {
            // A thread's id names no process.
            if !processes::alive(pid) || !processes::is_process(pid.0) {
                return Err(Error::NoProcess(pid));
            }
            self.admit(pid);
        }
        // A child that is born before its parent is admitted is found here, later ones by the fork
        // tracepoint.
        loop {
            let members: Vec<Pid> = self.members.iter().copied().collect();
            let new: Vec<Pid> = processes::descendants(&members)
                .into_iter()
                .filter(|pid| !self.members.contains(pid) && pid.0 != std::process::id())
                .collect();
            if new.is_empty() {
                break;
            }
            for pid in new {
                self.admit(pid);
            }
        }
        let members: Vec<Pid> = self.members.iter().copied().collect();
        for pid in members {
            self.scan(pid);
            // A library that is loaded later is most likely one of these, and then it is too late to
            // be quick.
            self.probe_usual_files(&PathBuf::from(format!("/proc/{pid}/root")), Some(pid));
        }
        self.verdict()
    }

    /// From here on keeps the processes that are heard of, for [`Self::met`].
    pub fn meet(&mut self) {
        self.met.get_or_insert_default();
    }

    /// The processes that have been heard of since this was last asked: they execute a program, or have mapped
    /// something to execute.
    pub fn met(&mut self) -> Vec<Pid> {
        self.met.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Has nothing captured of a process, until it executes another program.
    pub fn exclude(&mut self, pid: Pid) {
        if let Some(excluded) = &mut self.excluded
            && let Err(error) = excluded.insert(pid.0, 1, 0)
        {
            debug!(pid = pid.0, %error, "cannot leave the process out");
        }
    }

    /// A process that may be left out is not: probes whatever it has mapped.
    pub fn include(&mut self, pid: Pid) {
        if let Some(excluded) = &mut self.excluded {
            let _ = excluded.remove(&pid.0);
            self.look(pid, true);
        }
    }

    /// It is not known yet whether a process is left out: until then it is not, but nothing in it is changed.
    pub fn await_word_of(&mut self, pid: Pid) {
        if let Some(excluded) = &mut self.excluded {
            let _ = excluded.remove(&pid.0);
            self.look(pid, false);
        }
    }

    /// A process executes a program or has mapped something to execute. Where processes may be left out, nothing of it
    /// is looked at before somebody says what it is.
    pub fn heard_of(&mut self, pid: Pid) {
        if let Some(met) = &mut self.met {
            met.push(pid);
        }
        if self.excluded.is_none() {
            self.scan(pid);
        }
    }

    /// Whether all files have been examined that were there when this was first asked.
    pub fn is_settled(&mut self) -> bool {
        let examining = &self.examining;
        let first = self
            .first
            .get_or_insert_with(|| examining.keys().copied().collect());
        first.retain(|id| examining.contains_key(id));
        first.is_empty()
    }

    /// From here on loads an agent into watched JVMs, which shows the plaintext of the JDK's own TLS.
    ///
    /// # Errors
    ///
    /// This build has no agent.
    pub fn reach_java(&mut self) -> Result<(), Error> {
        self.java = Some(Java::new()?);
        Ok(())
    }

    /// Waits until the JVMs that have been seen are dealt with, `longest` at most.
    pub fn await_java(&mut self, longest: Duration) {
        let deadline = Instant::now() + longest;
        while self.java.as_ref().is_some_and(Java::is_busy) && Instant::now() < deadline {
            self.take_java();
            std::thread::sleep(Duration::from_millis(5));
        }
        self.take_java();
    }

    /// Whether a watched process has mapped a library that is probed.
    pub fn is_speaking(&self) -> bool {
        self.mapped
    }

    /// A watched process has a child process.
    pub fn child(&mut self, pid: Pid) {
        if self.watch == Watch::Processes && !self.members.contains(&pid) {
            self.admit(pid);
            self.widen();
        }
    }

    /// Probes files that will be executed, so that their first call is not missed.
    pub fn expect(&mut self, files: &[PathBuf]) {
        for path in files {
            if let Ok(file) = File::open(path) {
                self.probe(file, path, None, Urgency::Now, false);
            }
        }
    }

    /// Probes whatever a process has mapped. That it is gone, or a file cannot be probed, does not
    /// concern the others.
    pub fn scan(&mut self, pid: Pid) {
        self.look(pid, true);
    }

    /// See [`scan`](Self::scan); into JVMs an agent is loaded, if `java`.
    fn look(&mut self, pid: Pid, java: bool) {
        match processes::mapped_files(pid) {
            Ok(files) => {
                if let Some(jvms) = &mut self.java
                    && java
                    && (self.watch == Watch::All || self.members.contains(&pid))
                {
                    jvms.see(pid, &files);
                }
                if let Some(probed) = self.pythons.see(pid, &files) {
                    let scope = if self.for_everyone { None } else { Some(pid) };
                    // Calls are seen without.
                    attach(&mut self.linker, probed, scope, &mut None);
                }
                let urgency = if self.members.contains(&pid) {
                    Urgency::Now
                } else {
                    Urgency::Soon
                };
                for mapped in files {
                    self.consider(&mapped, pid, urgency);
                }
            }
            Err(error) => debug!(pid = pid.0, %error, "cannot list the mapped files"),
        }
    }

    /// Probes what every process has mapped and what is installed in the usual places, so that
    /// processes that start later are covered from their first instruction.
    ///
    /// # Errors
    ///
    /// The kernel refused every probe.
    pub fn scan_everything(&mut self) -> Result<(), Error> {
        self.widen();
        self.probe_usual_files(Path::new("/"), None);
        if self.watch == Watch::All {
            self.scan_again();
        }
        self.verdict()
    }

    /// The processes that are watched by their ids.
    pub fn members(&self) -> impl Iterator<Item = Pid> {
        self.members.iter().copied()
    }

    /// The interface of the kernel that was taken, and why not a better one.
    pub fn rung(&self) -> (Rung, &[Refusal]) {
        (self.linker.rung(), self.linker.refusals())
    }

    /// Loads all programs that any library may need, to see whether the kernel takes them.
    ///
    /// # Errors
    ///
    /// It refuses some.
    pub fn load_all(&mut self) -> Result<(), Error> {
        self.linker.load_all()?;
        self.look_for(follow::KEYS)
    }

    /// A process is gone. Returns whether any watched process is left.
    pub fn gone(&mut self, pid: Pid) -> bool {
        let _ = self.watched.remove(&pid.0);
        self.members.remove(&pid);
        if let Some(java) = &mut self.java {
            java.gone(pid);
        }
        self.pythons.gone(pid);
        self.watch == Watch::All || !self.members.is_empty()
    }

    fn admit(&mut self, pid: Pid) {
        if let Err(error) = self.watched.insert(pid.0, 1, 0) {
            warn!(pid = pid.0, %error, "cannot watch the process");
        }
        self.members.insert(pid);
        if self.members.len() > 1 {
            self.for_everyone = true;
        }
    }

    /// Looks at system calls for this too, from now on: bits of `observer_common::follow`.
    fn look_for(&mut self, what: u32) -> Result<(), Error> {
        // Each costs every system call of the machine.
        for &(program, name, needed_for) in SYSCALLS {
            if needed_for & what != 0 && needed_for & self.follows == 0 {
                trace_raw(&mut self.programs, program, name)?;
            }
        }
        self.follows |= what;
        self.follow
            .set(0, self.follows, 0)
            .map_err(|error| Error::Load(error.into()))
    }

    /// From probes for one process to probes for everyone.
    fn widen(&mut self) {
        self.for_everyone = true;
        for probed in self.pythons.probed() {
            attach(&mut self.linker, probed, None, &mut None);
        }
        for probed in self.probed.values_mut() {
            attach(&mut self.linker, probed, None, &mut self.refused);
        }
    }

    fn probe_usual_files(&mut self, root: &Path, pid: Option<Pid>) {
        for library in LIBRARIES {
            for path in library.usual_files(root) {
                if let Ok(file) = File::open(&path) {
                    self.probe(file, &path, pid, Urgency::Now, false);
                }
            }
        }
    }

    fn consider(&mut self, mapped: &MappedFile, pid: Pid, urgency: Urgency) {
        match mapped.open() {
            Ok(file) => self.probe(file, &mapped.path, Some(pid), urgency, true),
            Err(error) => {
                debug!(pid = pid.0, path = %mapped.path.display(), %error, "cannot open the mapped file");
            }
        }
    }

    /// Probes a file that `pid` uses, if it holds a TLS library.
    fn probe(&mut self, file: File, path: &Path, pid: Option<Pid>, urgency: Urgency, mapped: bool) {
        let Ok(stamp) = Stamp::of(&file) else {
            return;
        };
        let id = stamp.id;
        if self.uninteresting.get(&id) == Some(&stamp) {
            return;
        }
        let scope = if self.for_everyone { None } else { pid };
        if let Some(probed) = self.probed.get_mut(&id) {
            self.mapped |= mapped;
            attach(&mut self.linker, probed, scope, &mut self.refused);
            return;
        }
        if let Some(waiting) = self.examining.get_mut(&id) {
            waiting.pids.extend(pid);
            return;
        }
        let waiting = Waiting {
            file,
            path: path.to_owned(),
            stamp,
            pids: pid.into_iter().collect(),
            mapped,
        };
        match self.examiner.submit(id, &waiting.file, urgency) {
            Some(result) => self.examined(waiting, result),
            None => {
                self.examining.insert(id, waiting);
            }
        }
    }

    /// Takes in what has been found meanwhile.
    pub fn take_examined(&mut self) {
        while let Some((id, result)) = self.examiner.finished() {
            if let Some(waiting) = self.examining.remove(&id) {
                self.examined(waiting, result);
            }
        }
        self.take_java();
    }

    fn take_java(&mut self) {
        while let Some(news) = self.java.as_mut().and_then(Java::news) {
            match news {
                News::Library {
                    pid,
                    base,
                    file,
                    probed,
                } => {
                    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                    let links = java::points(&file)
                        .map_err(Into::into)
                        .and_then(|points| self.linker.attach(&path, &points, None));
                    let answer = match (links, &mut self.java) {
                        (Ok(links), Some(java)) => java.keep(pid, base, Some(links)),
                        (Err(error), _) => {
                            warn!(pid = pid.0, %error, "cannot probe the Java agent");
                            false
                        }
                        (Ok(_), None) => false,
                    };
                    let _ = probed.send(answer);
                }
                News::Loaded {
                    pid,
                    result: Ok(()),
                    ..
                } => {
                    debug!(pid = pid.0, "loaded the Java agent");
                    self.mapped = true;
                }
                News::Loaded {
                    pid,
                    base,
                    result: Err(error),
                } => {
                    let is_there = self
                        .java
                        .as_mut()
                        .is_some_and(|java| java.keep(pid, base, None));
                    // A process that has just ended is nothing to warn of.
                    if is_there && processes::alive(pid) {
                        warn!(pid = pid.0, %error, "cannot watch the JDK's own TLS");
                    }
                }
            }
        }
    }

    /// Probes what the watched processes have mapped meanwhile. Returns whether the kernel had something to
    /// say, and none of it was of interest: processes that are not watched are heard of too.
    pub fn take_mapped(&mut self) -> bool {
        let Heard { pids, lost, others } = self.mappings.take();
        let mut vain = others > 0 || !pids.is_empty();
        if lost {
            warn!("mappings were not heard of in time: looking at every process");
            self.scan_again();
            return false;
        }
        for pid in pids {
            // A child is in the map as soon as it is born.
            let watched = match self.watch {
                Watch::All => pid.0 != std::process::id(),
                Watch::Processes => self.watched.get(&pid.0, 0).is_ok(),
            };
            if watched {
                self.heard_of(pid);
                vain = false;
            }
        }
        vain
    }

    /// Looks at every watched process.
    fn scan_again(&mut self) {
        let pids: Vec<Pid> = match self.watch {
            Watch::All => processes::all(),
            Watch::Processes => self.members.iter().copied().collect(),
        };
        for pid in pids {
            if pid.0 != std::process::id() {
                self.heard_of(pid);
            }
        }
    }

    /// From here on files are examined by a thread, which has the rights that this one has now.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn go_on_in_background(&mut self) -> std::io::Result<()> {
        self.examiner.go_on_in_background()
    }

    /// Become readable when [`Self::take_examined`] or [`Self::take_mapped`] has something to take in.
    pub fn bells(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.examiner
            .bell()
            .into_iter()
            .chain(self.mappings.descriptors())
            .chain(self.java.as_ref().map(Java::bell))
    }

    fn examined(&mut self, waiting: Waiting, result: Result<Examination, String>) {
        let Waiting {
            file,
            path,
            stamp,
            pids,
            mapped,
        } = waiting;
        if Stamp::of(&file).ok().as_ref() != Some(&stamp) {
            // What was found may be somewhere else by now. Whoever maps it next has it examined again.
            debug!(path = %path.display(), "the file was changed while it was examined");
            return;
        }
        let probes: Vec<Probe> = match result {
            Ok(examination) => {
                for (library, reason) in &examination.refused {
                    warn!(path = %path.display(), library, reason, "cannot probe the library");
                }
                let found = examination.found.into_iter();
                found.flat_map(|located| located.found.probes).collect()
            }
            Err(reason) => {
                debug!(path = %path.display(), reason, "nothing to probe");
                Vec::new()
            }
        };
        if probes.is_empty() {
            if self.uninteresting.len() >= REMEMBERED_FILES {
                self.uninteresting.clear();
            }
            self.uninteresting.insert(stamp.id, stamp);
            return;
        }
        self.mapped |= mapped;
        if probes.iter().any(|probe| probe.family.has_keys())
            && let Err(error) = self.look_for(follow::KEYS)
        {
            warn!(%error, "cannot tell which keys belong to one connection");
        }
        let mut probed = Probed {
            file,
            path,
            probes,
            links: HashMap::new(),
            refused: false,
        };
        if self.for_everyone || pids.is_empty() {
            attach(&mut self.linker, &mut probed, None, &mut self.refused);
        }
        for pid in pids {
            attach(&mut self.linker, &mut probed, Some(pid), &mut self.refused);
        }
        self.probed.insert(stamp.id, probed);
    }

    /// An error if there is something to probe and the kernel refused all of it.
    fn verdict(&mut self) -> Result<(), Error> {
        match self.refused.take() {
            Some(error) if self.probed.values().all(|probed| probed.refused) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Puts probes for `scope`, or for everyone, into a file, once. A file whose probes are refused is not
/// tried again.
fn attach(
    linker: &mut Linker,
    probed: &mut Probed,
    scope: Option<Pid>,
    refused: &mut Option<Error>,
) {
    if probed.refused || probed.links.contains_key(&None) || probed.links.contains_key(&scope) {
        return;
    }
    let points: Vec<Point> = probed
        .probes
        .iter()
        .map(|probe| Point {
            offset: probe.offset,
            counter: 0,
            cookie: probe.cookie.to_u64(),
            returns: probe.returns,
            family: probe.family,
        })
        .collect();
    // The open file, not its path: it may be deleted, replaced, or in another mount namespace.
    let file = PathBuf::from(format!("/proc/self/fd/{}", probed.file.as_raw_fd()));
    match linker.attach(&file, &points, scope) {
        Ok(links) => {
            debug!(path = %probed.path.display(), ?scope, probes = points.len(), "probed");
            if scope.is_none() {
                // Probes for everyone cover those that they replace. To take these away takes long on
                // old kernels, and must not hold up the capture.
                let replaced: Vec<Links> = probed.links.drain().map(|(_, links)| links).collect();
                if !replaced.is_empty() {
                    std::thread::spawn(move || drop(replaced));
                }
            }
            probed.links.insert(scope, links);
        }
        Err(source) => {
            let error = Error::Attach {
                place: probed.path.display().to_string(),
                source,
            };
            warn!(%error, "cannot probe the library");
            probed.refused = true;
            refused.get_or_insert(error);
        }
    }
}

/// Loads a program and attaches it to tracepoints of a category.
fn trace(
    programs: &mut Ebpf,
    program: &'static str,
    category: &str,
    names: &[&str],
) -> Result<(), Error> {
    let tracepoint: &mut TracePoint = programs
        .program_mut(program)
        .ok_or_else(|| missing(program))?
        .try_into()
        .map_err(|error: ProgramError| Error::Load(error.into()))?;
    tracepoint
        .load()
        .map_err(|error| Error::Load(error.into()))?;
    for name in names {
        tracepoint
            .attach(category, name)
            .map_err(|error| Error::Attach {
                place: format!("the tracepoint {category}/{name}"),
                source: error.into(),
            })?;
    }
    Ok(())
}

/// Loads a program and attaches it to a raw tracepoint.
fn trace_raw(programs: &mut Ebpf, program: &'static str, name: &'static str) -> Result<(), Error> {
    let tracepoint: &mut RawTracePoint = programs
        .program_mut(program)
        .ok_or_else(|| missing(program))?
        .try_into()
        .map_err(|error: ProgramError| Error::Load(error.into()))?;
    tracepoint
        .load()
        .map_err(|error| Error::Load(error.into()))?;
    tracepoint.attach(name).map_err(|error| Error::Attach {
        place: format!("the raw tracepoint {name}"),
        source: error.into(),
    })?;
    Ok(())
}

fn take_map<M, E>(
    programs: &mut Ebpf,
    name: &'static str,
    convert: impl Fn(aya::maps::Map) -> Result<M, E>,
) -> Result<M, Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let map = programs.take_map(name).ok_or_else(|| missing(name))?;
    convert(map).map_err(|error| Error::Load(error.into()))
}

fn missing(what: &str) -> Error {
    Error::Load(format!("the BPF object has no {what}").into())
}

/// An error with its causes, on one line.
fn chain(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}
