//! How the programs get to their places: the interfaces of the kernel, the best first.
//!
//! | rung | kernel | rights beside `CAP_BPF` and `CAP_PERFMON` |
//! |---|---|---|
//! | session | 6.13 | - |
//! | multi | 6.6 | - |
//! | perf | 5.15 | `CAP_SYS_ADMIN` where CVE-2025-38466 is fixed |
//! | tracefs | 5.15 | write access to tracefs |
//!
//! The first two take any number of probes in one link, which goes in milliseconds; a perf event
//! takes a tenth of a second each to go.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CStr, CString},
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use aya_obj::Object;
use rustix::io::Errno;
use tracing::{debug, info, warn};

use super::{
    bpf::{self, Multi},
    processes::{self, Pid},
    system,
    tls::Family,
};

/// Describes the PMU of uprobes.
const PMU: &str = "/sys/bus/event_source/devices/uprobe";

/// An interface of the kernel for uprobes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rung {
    /// uprobe_multi links whose program runs at entry and return.
    Session,
    /// uprobe_multi links, one for entries and one for returns.
    Multi,
    /// A perf event for each probe.
    Perf,
    /// An event in tracefs for each probe.
    Tracefs,
}

impl Rung {
    /// All rungs, the best first.
    pub const LADDER: [Self; 4] = [Self::Session, Self::Multi, Self::Perf, Self::Tracefs];

    /// What it is called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "uprobe session",
            Self::Multi => "uprobe_multi",
            Self::Perf => "perf events",
            Self::Tracefs => "tracefs events",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a rung cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("{rung}: {reason}")]
pub struct Refusal {
    /// Which rung.
    pub rung: Rung,
    /// Why not, and what is missing.
    pub reason: String,
    /// More rights would help.
    pub lacks_rights: bool,
}

/// Why a rung cannot be taken, before it is known for which.
#[derive(Debug)]
struct Lack {
    reason: String,
    rights: bool,
}

impl Lack {
    /// Another kernel would be needed.
    fn of_kernel(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            rights: false,
        }
    }

    /// These rights would be needed, if that is what the error says.
    fn from(error: &io::Error, rights: &str) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM | Errno::ACCESS) => Self {
                reason: format!("{rights} is missing"),
                rights: true,
            },
            _ => Self::of_kernel(error.to_string()),
        }
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Point {
    /// Offset of the instruction in the file.
    pub(super) offset: u64,
    /// Offset in the file of a 16-bit counter of the probes that stand (Documentation/trace/uprobetracer.rst:
    /// `REF_CTR_OFFSET`); 0 for none.
    pub(super) counter: u64,
    /// What the program gets.
    pub(super) cookie: u64,
    /// Whether the return is of interest too.
    pub(super) returns: bool,
    /// Which programs.
    pub(super) family: Family,
}

/// Probes that stand; they go when it is dropped.
#[derive(Debug)]
pub(super) struct Links(#[expect(dead_code, reason = "held until it is dropped")] Vec<Link>);

#[derive(Debug)]
enum Link {
    Descriptor(#[expect(dead_code, reason = "held until it is dropped")] OwnedFd),
    Event(#[expect(dead_code, reason = "held until it is dropped")] TracefsEvent),
}

/// An event in tracefs with a program.
#[derive(Debug)]
struct TracefsEvent {
    events: PathBuf,
    name: String,
    /// Taken when it goes: an event that is used cannot be removed.
    link: Option<OwnedFd>,
}

/// Puts programs in their places.
#[derive(Debug)]
pub(super) struct Linker {
    rung: Rung,
    /// Better rungs, and why they cannot be taken.
    refusals: Vec<Refusal>,
    programs: Programs,
    loaded: HashMap<Family, Loaded>,
    /// A link can be restricted to a process.
    scoped: bool,
}

/// The programs of a family, in the kernel.
#[derive(Debug)]
struct Loaded {
    /// The attach type that they were loaded for.
    kind: u32,
    /// Runs at entries, unless that is not needed; at returns too in a session.
    enter: Option<OwnedFd>,
    /// Runs at returns, unless that is not needed.
    leave: Option<OwnedFd>,
}

impl Linker {
    /// Takes the best rung, or `wanted`, and loads the programs for it. `maps` holds the maps that the
    /// programs of `object` use.
    ///
    /// # Errors
    ///
    /// No rung can be taken, or the kernel refuses the programs.
    pub(super) fn new(
        object: &[u8],
        maps: &Ebpf,
        wanted: Option<Rung>,
    ) -> Result<Self, super::Error> {
        let mut refusals = Vec::new();
        let ladder = Rung::LADDER
            .into_iter()
            .filter(|rung| wanted.is_none_or(|wanted| wanted == *rung));
        for rung in ladder {
            let scoped = match available(rung) {
                Ok(scoped) => scoped,
                Err(Lack { reason, rights }) => {
                    refusals.push(Refusal {
                        rung,
                        reason,
                        lacks_rights: rights,
                    });
                    continue;
                }
            };
            let programs = Programs::relocated(object, maps)?;
            let refused: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            let refused = refused.join("; ");
            // What rights can change is said aloud, what only another kernel can is not.
            if refusals.iter().any(|refusal| refusal.lacks_rights) {
                warn!(%rung, refused, "attaching by less than the best interface");
            } else {
                info!(%rung, refused, "attaching");
            }
            let mut linker = Self {
                rung,
                refusals,
                programs,
                loaded: HashMap::new(),
                scoped,
            };
            // Most processes need it, and a refusal of the kernel is to show now.
            linker.load(Family::C)?;
            return Ok(linker);
        }
        Err(super::Error::NoRung(refusals))
    }

    /// The rung that was taken.
    pub(super) fn rung(&self) -> Rung {
        self.rung
    }

    /// Better rungs, and why they cannot be taken.
    pub(super) fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Loads the programs of every family.
    ///
    /// # Errors
    ///
    /// The kernel refuses some.
    pub(super) fn load_all(&mut self) -> Result<(), super::Error> {
        Family::ALL
            .into_iter()
            .try_for_each(|family| self.load(family))
    }

    /// Loads the programs of a family, once.
    fn load(&mut self, family: Family) -> Result<(), super::Error> {
        if self.loaded.contains_key(&family) {
            return Ok(());
        }
        let (session, enter, leave) = match family {
            Family::C => ("tls_call", "tls_enter", Some("tls_return")),
            Family::Aead => ("aead_call", "aead_enter", Some("aead_return")),
            Family::Go => ("", "go_call", None),
            Family::Rustls => ("rustls_call", "rustls_enter", Some("rustls_return")),
            Family::Java => ("", "java_call", None),
            Family::Python => ("python_call", "", Some("python_return")),
        };
        let (kind, enter, leave) = match (self.rung, leave) {
            (Rung::Session, Some(_)) => (bpf::UPROBE_SESSION, session, None),
            (Rung::Session | Rung::Multi, leave) => (bpf::UPROBE_MULTI, enter, leave),
            (Rung::Perf | Rung::Tracefs, leave) => (0, enter, leave),
        };
        let loaded = Loaded {
            kind,
            enter: (!enter.is_empty())
                .then(|| self.programs.load(enter, kind))
                .transpose()?,
            leave: leave
                .map(|leave| self.programs.load(leave, kind))
                .transpose()?,
        };
        self.loaded.insert(family, loaded);
        Ok(())
    }

    /// Puts the programs at all points of a file, for one process or for every one.
    ///
    /// # Errors
    ///
    /// The kernel refuses one; none stands then.
    pub(super) fn attach(
        &mut self,
        path: &Path,
        points: &[Point],
        scope: Option<Pid>,
    ) -> Result<Links, Box<dyn std::error::Error + Send + Sync>> {
        let path = CString::new(path.as_os_str().as_encoded_bytes())?;
        let pid = match scope {
            Some(pid) if self.scoped => i32::try_from(pid.0)?,
            _ => 0,
        };
        let mut links = Vec::new();
        for family in Family::ALL {
            let points: Vec<Point> = points
                .iter()
                .filter(|point| point.family == family)
                .copied()
                .collect();
            if !points.is_empty() {
                self.load(family)?;
                let programs = &self.loaded[&family];
                links.extend(self.link(programs, &path, &points, pid)?);
            }
        }
        Ok(Links(links))
    }

    fn link(
        &self,
        programs: &Loaded,
        path: &CStr,
        points: &[Point],
        pid: i32,
    ) -> io::Result<Vec<Link>> {
        match self.rung {
            Rung::Session | Rung::Multi => {
                let mut links = Vec::new();
                let returning: Vec<Point> = points
                    .iter()
                    .filter(|point| point.returns)
                    .copied()
                    .collect();
                // Returns first, so that no entry is noted whose return would be missed.
                if let Some(leave) = &programs.leave
                    && !returning.is_empty()
                {
                    links.push(multi(leave, programs.kind, path, &returning, true, pid)?);
                }
                if let Some(enter) = &programs.enter {
                    links.push(multi(enter, programs.kind, path, points, false, pid)?);
                }
                Ok(links)
            }
            Rung::Perf => {
                let pmu = Pmu::read()?;
                each(programs, points, |program, at_return, point| {
                    let config = if at_return { pmu.return_probe } else { 0 }
                        | pmu.counter(point.counter)?;
                    let pid = if pid == 0 { -1 } else { pid };
                    let event = bpf::perf_uprobe(pmu.number, config, path, point.offset, pid)?;
                    bpf::link_perf(program.as_fd(), event.as_fd(), point.cookie)
                        .map(Link::Descriptor)
                })
            }
            Rung::Tracefs => each(programs, points, |program, at_return, point| {
                let kind = if at_return { 'r' } else { 'p' };
                let pid = if pid == 0 { -1 } else { pid };
                tracefs_link(program, kind, path, point, pid)
            }),
        }
    }
}

/// A link for each return and each entry, in this order: no entry is noted whose return would be
/// missed.
fn each(
    programs: &Loaded,
    points: &[Point],
    link: impl Fn(&OwnedFd, bool, &Point) -> io::Result<Link>,
) -> io::Result<Vec<Link>> {
    let returns = programs.leave.iter().flat_map(|leave| {
        let returning = points.iter().filter(|point| point.returns);
        returning.map(move |point| (leave, true, point))
    });
    let entries = programs
        .enter
        .iter()
        .flat_map(|enter| points.iter().map(move |point| (enter, false, point)));
    returns
        .chain(entries)
        .map(|(program, at_return, point)| link(program, at_return, point))
        .collect()
}

fn multi(
    program: &OwnedFd,
    attach_type: u32,
    path: &CStr,
    points: &[Point],
    at_return: bool,
    pid: i32,
) -> io::Result<Link> {
    let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
    let counters: Vec<u64> = points.iter().map(|point| point.counter).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
    bpf::link_multi(
        program.as_fd(),
        &Multi {
            attach_type,
            path,
            offsets: &offsets,
            counters: &counters,
            cookies: &cookies,
            at_return,
            pid,
        },
    )
    .map(Link::Descriptor)
}

/// Whether the kernel and our rights have the rung; if so, whether its links can be restricted to a
/// process.
fn available(rung: Rung) -> Result<bool, Lack> {
    match rung {
        Rung::Session => multi_available(bpf::UPROBE_SESSION, "6.13"),
        Rung::Multi => multi_available(bpf::UPROBE_MULTI, "6.6"),
        Rung::Perf => {
            let pmu = Pmu::read()
                .map_err(|error| Lack::of_kernel(format!("{PMU} cannot be read: {error}")))?;
            let own = i32::try_from(std::process::id()).unwrap_or(0);
            bpf::perf_uprobe(pmu.number, 0, c"/proc/self/exe", 0, own)
                .map(|_| true)
                .map_err(|error| {
                    let rights = "CAP_SYS_ADMIN (or CAP_PERFMON, before the fix of CVE-2025-38466)";
                    Lack::from(&error, rights)
                })
        }
        Rung::Tracefs => {
            let events = system::mounted_tracefs()
                .ok_or_else(|| Lack::of_kernel("tracefs is not mounted"))?
                .join("uprobe_events");
            remove_stale(&events);
            OpenOptions::new()
                .append(true)
                .open(&events)
                .map(|_| true)
                .map_err(|error| {
                    Lack::from(&error, &format!("the right to write {}", events.display()))
                })
        }
    }
}

fn multi_available(attach_type: u32, since: &str) -> Result<bool, Lack> {
    let too_old = || Lack::of_kernel(format!("needs Linux {since}"));
    let program = bpf::load_nothing(attach_type).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => too_old(),
        _ => Lack::from(&error, "CAP_BPF and CAP_PERFMON"),
    })?;
    let attempt = |pid| {
        // Never a link: it is no regular file.
        let to = Multi {
            attach_type,
            path: c"/",
            offsets: &[0],
            counters: &[],
            cookies: &[0],
            at_return: false,
            pid,
        };
        match bpf::link_multi(program.as_fd(), &to) {
            Ok(_) => io::Error::other("a folder was probed"),
            Err(error) => error,
        }
    };
    let error = attempt(0);
    match error.raw_os_error() {
        // Kernels that take a negative pid for one compare it with threads, not processes (fixed in
        // 6.10: "bpf: fix multi-uprobe PID filtering logic").
        Some(libc::EBADF) => Ok(attempt(-1).raw_os_error() == Some(libc::EINVAL)),
        Some(libc::EPERM | libc::EACCES) => Err(Lack::from(&error, "CAP_PERFMON")),
        _ => Err(too_old()),
    }
}

/// The PMU of uprobes.
struct Pmu {
    /// Its number (`perf_event_attr.type`).
    number: u32,
    /// The bit of `config` that makes a return probe.
    return_probe: u64,
}

impl Pmu {
    fn read() -> io::Result<Self> {
        let folder = Path::new(PMU);
        let number = fs::read_to_string(folder.join("type"))?;
        let number = number.trim().parse().map_err(io::Error::other)?;
        // `config:0`
        let format = fs::read_to_string(folder.join("format/retprobe"))?;
        let bit: u32 = format
            .trim()
            .strip_prefix("config:")
            .and_then(|bit| bit.parse().ok())
            .filter(|bit| *bit < 64)
            .ok_or_else(|| io::Error::other("the PMU has no return probes"))?;
        Ok(Self {
            number,
            return_probe: 1 << bit,
        })
    }

    /// The bits of `config` that name a counter.
    fn counter(&self, offset: u64) -> io::Result<u64> {
        /// `PERF_UPROBE_REF_CTR_OFFSET_SHIFT` (kernel/events/core.c; format/ref_ctr_offset)
        const SHIFT: u32 = 32;
        u32::try_from(offset)
            .map(|offset| u64::from(offset) << SHIFT)
            .map_err(io::Error::other)
    }
}

/// Makes an event and puts the program at it (Documentation/trace/uprobetracer.rst).
fn tracefs_link(
    program: &OwnedFd,
    kind: char,
    path: &CStr,
    point: &Point,
    pid: i32,
) -> io::Result<Link> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let tracefs = system::mounted_tracefs().ok_or_else(|| io::Error::other("no tracefs"))?;
    let group = format!("observer_{}", std::process::id());
    let name = format!("{kind}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let events = tracefs.join("uprobe_events");
    let path = path.to_str().map_err(io::Error::other)?;
    let counter = match point.counter {
        0 => String::new(),
        counter => format!("({counter:#x})"),
    };
    let definition = format!(
        "{kind}:{group}/{name} {path}:{:#x}{counter}\n",
        point.offset
    );
    OpenOptions::new()
        .append(true)
        .open(&events)?
        .write_all(definition.as_bytes())?;
    let mut event = TracefsEvent {
        events,
        name: format!("{group}/{name}"),
        link: None,
    };
    let id = fs::read_to_string(tracefs.join("events").join(&event.name).join("id"))?;
    let id = id.trim().parse().map_err(io::Error::other)?;
    let perf = bpf::perf_tracepoint(id, pid)?;
    event.link = Some(bpf::link_perf(program.as_fd(), perf.as_fd(), point.cookie)?);
    Ok(Link::Event(event))
}

impl Drop for TracefsEvent {
    fn drop(&mut self) {
        drop(self.link.take());
        remove_event(&self.events, &self.name);
    }
}

fn remove_event(events: &Path, name: &str) {
    let removed = OpenOptions::new()
        .append(true)
        .open(events)
        .and_then(|mut file| file.write_all(format!("-:{name}\n").as_bytes()));
    if let Err(error) = removed {
        debug!(name, %error, "cannot remove the event");
    }
}

/// Removes the events of agents that were killed.
fn remove_stale(events: &Path) {
    let Ok(list) = fs::read_to_string(events) else {
        return;
    };
    for line in list.lines() {
        // `p:observer_123/p_0 /path:0x1234`
        let Some(name) = line
            .split_whitespace()
            .next()
            .and_then(|first| first.split_once(':'))
            .map(|(_, name)| name)
        else {
            continue;
        };
        let owner = name
            .strip_prefix("observer_")
            .and_then(|rest| rest.split('/').next())
            .and_then(|pid| pid.parse().ok());
        if let Some(owner) = owner
            && !processes::alive(Pid(owner))
        {
            remove_event(events, name);
        }
    }
}

/// The programs, relocated but not loaded.
#[derive(Debug)]
struct Programs {
    object: Object,
    btf: Option<OwnedFd>,
}

impl Programs {
    fn relocated(object: &[u8], maps: &Ebpf) -> Result<Self, super::Error> {
        let refused = |error: Box<dyn std::error::Error + Send + Sync>| super::Error::Load(error);
        let mut object = Object::parse(object).map_err(|error| refused(error.into()))?;
        let btf = match aya::features().btf() {
            Some(features) => object
                .fixup_and_sanitize_btf(features)
                .map_err(|error| refused(error.into()))?
                .map(|btf| bpf::load_btf(&btf.to_bytes()))
                .transpose()
                .map_err(|error| refused(format!("BTF: {error}").into()))?,
            None => None,
        };
        let descriptors: HashMap<&str, RawFd> = maps
            .maps()
            .filter_map(|(name, map)| Some((name, data(map)?.fd().as_fd().as_raw_fd())))
            .collect();
        let definitions = object.maps.clone();
        let sections: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        object
            .relocate_maps(
                definitions.iter().filter_map(|(name, map)| {
                    Some((name.as_str(), *descriptors.get(name.as_str())?, map))
                }),
                &sections,
            )
            .map_err(|error| refused(error.into()))?;
        object
            .relocate_calls(&sections)
            .map_err(|error| refused(error.into()))?;
        Ok(Self { object, btf })
    }

    fn load(&self, name: &'static str, attach_type: u32) -> Result<OwnedFd, super::Error> {
        let function = self
            .object
            .programs
            .get(name)
            .and_then(|program| self.object.functions.get(&program.function_key()))
            .ok_or_else(|| super::missing(name))?;
        bpf::load(&bpf::Program {
            name,
            instructions: &function.instructions,
            license: &self.object.license,
            btf: self.btf.as_ref().map(OwnedFd::as_fd),
            functions: &function.func_info.func_info_bytes(),
            function_size: function.func_info_rec_size,
            attach_type,
        })
        .map_err(|error| super::Error::Load(format!("{name}: {error}").into()))
    }
}

/// What all maps that the programs use have in common.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
