//! CPython: where the programs find the `contextvars.Context` that a thread has entered.
//!
//! A release is known by its minor version; what differs between builds of it, the programs notice: they
//! take nothing for a thread's state or for a Context that does not say of itself that it is one.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use observer_common::{Cookie, Python};
use tracing::{debug, warn};

use super::{
    Probed,
    boundary::Prover,
    elf::Elf,
    processes::{FileId, MappedFile, Pid, Stamp},
    site::{self, Needs},
    tls::{Family, Probe},
};

/// The interpreter's state; the type of a Context; the version, since 3.11; what copies the current Context.
const RUNTIME: &str = "_PyRuntime";
const CONTEXT_TYPE: &str = "PyContext_Type";
const VERSION: &str = "Py_Version";
const COPY: &str = "PyContext_CopyCurrent";

/// glibc's description of `struct pthread`, for debuggers (nptl_db/structs.def): the size in bits of a member,
/// how many there are, and its offset.
const SPECIFIC: &str = "_thread_db_pthread_specific";

/// Where a thread's first block of values lies, where glibc does not say (2.36): right before `specific`.
const SLOTS: u64 = 0x310;

/// Bytes of that block: 32 of `struct pthread_key_data` (nptl/descr.h).
const BLOCK: u64 = 32 * 16;

/// Files that are remembered.
const FILES: usize = 4096;

/// Pages, by which segments are mapped.
const PAGE: u64 = 4096;

/// Offsets of a release.
struct Layout {
    /// Its minor version.
    minor: u8,
    /// In `_PyRuntime`: `gilstate.autoTSSkey`, or `autoTSSkey` since 3.12.
    key: u64,
    /// In `PyThreadState`: `thread_id`.
    thread_id: u64,
    /// In `PyThreadState`: `context`.
    context: u64,
}

/// Computed by a C compiler from the headers of 3.7.16, 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1, 3.13.0 and
/// 3.14.10, on x86-64.
const LAYOUTS: &[Layout] = &[
    layout(7, 1504, 176, 256),
    layout(8, 1392, 176, 240),
    layout(9, 584, 176, 240),
    layout(10, 584, 176, 240),
    layout(11, 592, 152, 224),
    layout(12, 1544, 136, 208),
    layout(13, 2160, 152, 208),
    layout(14, 2336, 152, 208),
];

/// In `PyObject`: `ob_type`; in `PyContext`: `ctx_entered` (pycore_context.h).
const OBJECT_TYPE: u64 = 8;
const ENTERED: u64 = 40;

/// The same, of a build without the GIL, whose `PyObject` is larger (object.h: `Py_GIL_DISABLED`).
const OBJECT_TYPE_FREE_THREADED: u64 = 24;
const ENTERED_FREE_THREADED: u64 = 56;

const fn layout(minor: u8, key: u64, thread_id: u64, context: u64) -> Layout {
    Layout {
        minor,
        key,
        thread_id,
        context,
    }
}

/// What is known of the CPythons that are watched.
pub(super) struct Pythons {
    map: BpfHashMap<MapData, u32, [u64; 8]>,
    known: Array<MapData, u32>,
    /// `None` for a file that is no CPython.
    files: HashMap<FileId, (Stamp, Option<Known>)>,
    /// Where libcs keep a thread's values.
    slots: HashMap<FileId, u64>,
    /// Offset of the thread pointer in the kernel's tasks, once it has been looked for.
    thread_pointer: Option<Option<u64>>,
    members: HashSet<Pid>,
}

/// A file that holds a CPython.
struct Known {
    interpreter: Interpreter,
    /// What is probed in it, if anything is.
    probed: Option<Probed>,
}

/// A CPython, as its file tells.
#[derive(Clone, Debug)]
struct Interpreter {
    /// Such as `3.11.7`, or `3.8`.
    version: String,
    /// Addresses are those of the file.
    layout: Result<Places, String>,
    /// Where the code begins, as linked.
    code: u64,
}

/// Where it all is, as linked.
#[derive(Clone, Copy, Debug)]
struct Places {
    key: u64,
    thread_id: u64,
    context: u64,
    context_type: u64,
    object_type: u64,
    entered: u64,
}

impl Pythons {
    pub(super) fn new(map: BpfHashMap<MapData, u32, [u64; 8]>, known: Array<MapData, u32>) -> Self {
        Self {
            map,
            known,
            files: HashMap::new(),
            slots: HashMap::new(),
            thread_pointer: None,
            members: HashSet::new(),
        }
    }

    /// Looks at what a process has mapped. Returns what is to be probed.
    pub(super) fn see(&mut self, pid: Pid, mapped: &[MappedFile]) -> Option<&mut Probed> {
        let exe = executable(pid);
        let found = mapped
            .iter()
            .filter(|file| may_be_one(&exe, &file.path))
            .find_map(|file| Some((self.look(file)?, file.base())));
        let Some((id, base)) = found else {
            // It may have been one, or another process of its number.
            if self.members.remove(&pid) {
                let _ = self.map.remove(&pid.0);
            }
            return None;
        };
        let interpreter = self.files.get(&id)?.1.as_ref()?.interpreter.clone();
        let version = interpreter.version.as_str();
        let python = interpreter
            .layout
            .clone()
            .and_then(|places| self.place(&interpreter, places, base, mapped));
        match python {
            Ok(python) => {
                let told = self
                    .map
                    .insert(pid.0, python.to_words(), 0)
                    .and_then(|()| self.known.set(0, 1, 0));
                if let Err(error) = told {
                    warn!(pid = pid.0, %error, "cannot have the tasks of CPython read");
                }
                if self.members.insert(pid) {
                    debug!(pid = pid.0, version, "reading the tasks of CPython");
                }
            }
            Err(reason) => {
                debug!(
                    pid = pid.0,
                    version, reason, "the calls of a CPython are attributed by thread"
                );
                return None;
            }
        }
        self.files.get_mut(&id)?.1.as_mut()?.probed.as_mut()
    }

    /// All that is probed.
    pub(super) fn probed(&mut self) -> impl Iterator<Item = &mut Probed> {
        self.files
            .values_mut()
            .filter_map(|(_, known)| known.as_mut()?.probed.as_mut())
    }

    /// A process is gone.
    pub(super) fn gone(&mut self, pid: Pid) {
        if self.members.remove(&pid) {
            let _ = self.map.remove(&pid.0);
        }
    }

    /// The file, if it holds a CPython.
    fn look(&mut self, mapped: &MappedFile) -> Option<FileId> {
        let file = mapped.open().ok()?;
        let stamp = Stamp::of(&file).ok()?;
        let id = stamp.id;
        if self.files.get(&id).is_none_or(|(known, _)| *known != stamp) {
            if self.files.len() >= FILES {
                self.files.retain(|_, (_, known)| known.is_some());
            }
            let known = Elf::read(&file, is_wanted).ok().and_then(|elf| {
                let interpreter = Interpreter::find(&elf, &mapped.path)?;
                let probe = probe(&elf);
                if let Err(reason) = &probe {
                    debug!(path = %mapped.path.display(), reason, "cannot tell which task of CPython made which");
                }
                let probed = probe.ok().map(|probe| Probed {
                    file,
                    path: mapped.path.clone(),
                    probes: vec![probe],
                    links: HashMap::new(),
                    refused: false,
                });
                Some(Known {
                    interpreter,
                    probed,
                })
            });
            self.files.insert(id, (stamp, known));
        }
        self.files[&id].1.is_some().then_some(id)
    }

    /// Where it all is in a process that has mapped the interpreter's code at `base`.
    fn place(
        &mut self,
        interpreter: &Interpreter,
        places: Places,
        base: u64,
        mapped: &[MappedFile],
    ) -> Result<Python, String> {
        let thread_pointer = *self.thread_pointer.get_or_insert_with(thread_pointer);
        let thread_pointer =
            thread_pointer.ok_or("the kernel does not tell where it keeps the thread pointer")?;
        let slots = slots(mapped, &mut self.slots)?;
        Ok(interpreter.placed(places, base, thread_pointer, slots))
    }
}

impl Interpreter {
    /// The CPython in a file, if there is one.
    fn find(elf: &Elf, path: &Path) -> Option<Self> {
        let runtime = elf.object(RUNTIME)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let exact = elf.object(VERSION).and_then(|address| {
            let mut word = [0; 8];
            elf.read_exact(address, &mut word).ok()?;
            Some(version_of(u64::from_le_bytes(word)))
        });
        let named = || version_in(&name).map(|minor| (3, minor, format!("3.{minor}")));
        let version = exact.or_else(named);
        let code = elf.executable().map(|range| range.start).min()? & !(PAGE - 1);
        let (version, layout) = match version {
            Some((3, minor, version)) => {
                let places = LAYOUTS
                    .iter()
                    .find(|layout| layout.minor == minor)
                    .ok_or_else(|| format!("unknown version {version}"))
                    .and_then(|layout| Places::of(elf, runtime, layout));
                (version, places)
            }
            Some((_, _, version)) => {
                let unknown = format!("unknown version {version}");
                (version, Err(unknown))
            }
            None => (
                "of an unknown version".to_owned(),
                Err("neither a symbol nor its name tells its version".to_owned()),
            ),
        };
        Some(Self {
            version,
            layout,
            code,
        })
    }

    fn placed(&self, places: Places, base: u64, thread_pointer: u64, slots: u64) -> Python {
        let moved = |address: u64| base.wrapping_sub(self.code).wrapping_add(address);
        Python {
            thread_pointer,
            slots,
            key: moved(places.key),
            thread_id: places.thread_id,
            context: places.context,
            context_type: moved(places.context_type),
            object_type: places.object_type,
            entered: places.entered,
        }
    }
}

impl Places {
    fn of(elf: &Elf, runtime: u64, layout: &Layout) -> Result<Self, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("its tasks are read on x86-64 only".to_owned());
        }
        let context_type = elf
            .object(CONTEXT_TYPE)
            .ok_or_else(|| format!("it has no symbol {CONTEXT_TYPE}"))?;
        let (object_type, entered) = if is_free_threaded(elf, runtime) {
            (OBJECT_TYPE_FREE_THREADED, ENTERED_FREE_THREADED)
        } else {
            (OBJECT_TYPE, ENTERED)
        };
        Ok(Self {
            key: runtime + layout.key,
            thread_id: layout.thread_id,
            context: layout.context,
            context_type,
            object_type,
            entered,
        })
    }
}

/// What is known of the tasks of a process, for people; `None` if it is no CPython.
pub fn check(pid: Pid, mapped: &[MappedFile]) -> Option<String> {
    let exe = executable(pid);
    let mut files = mapped.iter().filter(|file| may_be_one(&exe, &file.path));
    let (interpreter, base) = files.find_map(|file| {
        let elf = Elf::read(&file.open().ok()?, is_wanted).ok()?;
        Some((Interpreter::find(&elf, &file.path)?, file.base()))
    })?;
    let version = &interpreter.version;
    let python = interpreter.layout.clone().and_then(|places| {
        let pointer =
            thread_pointer().ok_or("the kernel does not tell where it keeps the thread pointer")?;
        let slots = slots(mapped, &mut HashMap::new())?;
        let python = interpreter.placed(places, base, pointer, slots);
        key_is_made(pid, python.key)?;
        Ok(python)
    });
    Some(match python {
        Ok(_) => format!("tasks of CPython {version} are read"),
        Err(reason) => {
            format!("calls of CPython {version} are attributed by thread: {reason}")
        }
    })
}

/// Whether the key is where it should be, by the process's memory.
fn key_is_made(pid: Pid, address: u64) -> Result<(), String> {
    use std::os::unix::fs::FileExt as _;

    let mut words = [0; 8];
    let read = fs::File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_exact_at(&mut words, address));
    if let Err(error) = read {
        return Err(format!("its memory cannot be read: {error}"));
    }
    let [is_made, _, _, _, key, rest @ ..] = words;
    if is_made == 1 && u64::from(key) < BLOCK / 16 && rest == [0; 3] {
        Ok(())
    } else {
        Err("the key of its threads is not where it is in other builds, or not made yet".to_owned())
    }
}

/// The file that a process executes, as its mappings call it.
fn executable(pid: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// Whether a file may hold a CPython: its name says so, or it is what the process executes.
fn may_be_one(exe: &Path, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("libpython") || name.starts_with("python") || path == exe
}

fn is_wanted(name: &str) -> bool {
    matches!(name, RUNTIME | CONTEXT_TYPE | VERSION | COPY)
}

/// `PY_VERSION_HEX` (patchlevel.h): major, minor, and all of it for people.
fn version_of(number: u64) -> (u8, u8, String) {
    let [_, micro, minor, major] = (number as u32).to_le_bytes();
    (major, minor, format!("{major}.{minor}.{micro}"))
}

/// The minor version in the name of a program or library: `python3.8`, `libpython3.8.so.1.0`.
fn version_in(name: &str) -> Option<u8> {
    let (_, rest) = name.split_once("python3.")?;
    let digits = rest
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// Whether it is a build without the GIL: `struct _Py_DebugOffsets` says so, with which `_PyRuntime` begins
/// since 3.13 (pycore_debug_offsets.h).
fn is_free_threaded(elf: &Elf, runtime: u64) -> bool {
    let mut head = [0; 24];
    elf.read_exact(runtime, &mut head).is_ok()
        && head.starts_with(b"xdebugpy")
        && head[16..] != [0; 8]
}

/// What is probed to tell which Context was copied from which.
fn probe(elf: &Elf) -> Result<Probe, String> {
    let function = elf
        .function(COPY)
        .ok_or_else(|| format!("it has no symbol {COPY}"))?;
    let site = site::direct(elf, function, Needs::FirstAndResult)
        .unwrap_or_else(|| site::entry(elf, function, Needs::FirstAndResult));
    let offset = elf
        .file_offset(site.address)
        .ok_or_else(|| format!("{COPY} is not in the file"))?;
    let probe = Probe {
        functions: vec![COPY.to_owned()],
        offset,
        cookie: Cookie::new(0, site.count),
        site,
        returns: true,
        family: Family::Python,
    };
    Prover::new(elf).prove(std::slice::from_ref(&probe))?;
    Ok(probe)
}

/// Where the libc of a process keeps the values of a thread's first keys.
fn slots(mapped: &[MappedFile], known: &mut HashMap<FileId, u64>) -> Result<u64, String> {
    for file in mapped {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("ld-musl") {
            return Err("musl keeps the values of threads elsewhere".to_owned());
        }
        // Threads had a library of their own before glibc 2.34.
        if !name.starts_with("libc.so.6")
            && !name.starts_with("libc-2.")
            && !name.starts_with("libpthread")
        {
            continue;
        }
        let Ok(open) = file.open() else {
            continue;
        };
        let Ok(Stamp { id, .. }) = Stamp::of(&open) else {
            continue;
        };
        if let Some(slots) = known.get(&id) {
            return Ok(*slots);
        }
        let slots = Elf::read(&open, |name| name == SPECIFIC)
            .ok()
            .and_then(|elf| {
                let mut words = [0; 12];
                elf.read_exact(elf.object(SPECIFIC)?, &mut words).ok()?;
                let [.., a, b, c, d] = words;
                u64::from(u32::from_le_bytes([a, b, c, d])).checked_sub(BLOCK)
            });
        if let Some(slots) = slots {
            known.insert(id, slots);
            return Ok(slots);
        }
    }
    Ok(SLOTS)
}

/// Where the kernel keeps the thread pointer in a task: `thread.fsbase`, by its type information.
fn thread_pointer() -> Option<u64> {
    let btf = fs::read("/sys/kernel/btf/vmlinux").ok()?;
    let thread = member(&btf, "task_struct", "thread")?;
    let pointer = member(&btf, "thread_struct", "fsbase")?;
    Some(thread + pointer)
}

/// Offset in bytes of a member of a struct (Documentation/bpf/btf.rst).
fn member(btf: &[u8], structure: &str, member: &str) -> Option<u64> {
    const MAGIC: u32 = 0xeb9f;
    const STRUCT: u32 = 4;
    /// Bytes of `struct btf_type`, and of `struct btf_member`.
    const TYPE: usize = 12;
    const MEMBER: usize = 12;

    let word = |at: usize| {
        let bytes = btf.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    if word(0)? & 0xffff != MAGIC {
        return None;
    }
    // hdr_len, type_off, type_len, str_off
    let head = word(4)? as usize;
    let types = head.checked_add(word(8)? as usize)?;
    let end = types.checked_add(word(12)? as usize)?;
    let strings = head.checked_add(word(16)? as usize)?;
    let is_named = |offset: u32, name: &str| {
        let text = strings
            .checked_add(offset as usize)
            .and_then(|at| btf.get(at..));
        text.is_some_and(|text| {
            text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0)
        })
    };
    let mut at = types;
    while at < end {
        let info = word(at + 4)?;
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let members = at + TYPE;
        if kind == STRUCT && is_named(word(at)?, structure) {
            let place = (0..count)
                .map(|index| members + index * MEMBER)
                .find(|place| word(*place).is_some_and(|name| is_named(name, member)))?;
            // Where there are bit fields, the upper bits tell their size.
            return Some(u64::from(word(place + 8)? & 0x00ff_ffff) / 8);
        }
        at = members
            + match kind {
                // An integer; a variable; the side of a declaration tag.
                1 | 14 | 17 => 4,
                // An array.
                3 => 12,
                // A struct, a union, a section.
                4 | 5 | 15 => count * 12,
                // An enumeration of 32 bits; parameters of a function.
                6 | 13 => count * 8,
                // An enumeration of 64 bits.
                19 => count * 12,
                _ => 0,
            };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_by_a_number_or_a_name() {
        assert_eq!(version_of(0x030b_07f0), (3, 11, "3.11.7".to_owned()));
        assert_eq!(version_in("libpython3.8.so.1.0"), Some(8));
        assert_eq!(version_in("python3.13t"), Some(13));
        assert_eq!(version_in("libpython3.so"), None);
        assert_eq!(version_in("python"), None);
    }

    #[test]
    fn this_kernel_tells_where_the_thread_pointer_is() {
        if fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false) && cfg!(target_arch = "x86_64") {
            assert!(thread_pointer().is_some());
        }
    }

    #[test]
    fn malformed_types_are_none() {
        assert_eq!(member(&[], "task_struct", "thread"), None);
        let mut btf = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        btf.extend([0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        btf.extend([0xff; 64]);
        assert_eq!(member(&btf, "task_struct", "thread"), None);
    }
}
