//! What /proc says of a process.

use std::{
    fmt,
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::PathBuf,
    sync::Arc,
};

use procfs::process::{MMPermissions, MMapPath, Process};

use super::{
    cgroup::{self, Container},
    pod::Pod,
};

/// A process id in the initial PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a file whatever its path: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// An open file as it was when it was looked at: an inode may come to hold another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which file.
    pub id: FileId,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    ///
    /// As fstat(2).
    pub fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            id: FileId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            bytes: metadata.size(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A file that a process has mapped as executable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MappedFile {
    /// The path as the process's mount namespace has it, for people: it may be deleted, replaced, or
    /// somewhere else from here.
    pub path: PathBuf,
    /// Inode, as the kernel gives it in the map.
    pub inode: u64,
    pid: Pid,
    range: (u64, u64),
}

impl MappedFile {
    /// Where it is mapped.
    pub fn base(&self) -> u64 {
        self.range.0
    }

    /// Opens the very file that is mapped.
    ///
    /// # Errors
    ///
    /// Neither the mapping nor the path in the process's root leads to it any more.
    pub fn open(&self) -> std::io::Result<File> {
        let (start, end) = self.range;
        let mapping = format!("/proc/{}/map_files/{start:x}-{end:x}", self.pid);
        // The mapping itself works for deleted and replaced files, but asks for CAP_SYS_ADMIN or
        // CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)).
        File::open(mapping).or_else(|_| {
            let root = PathBuf::from(format!("/proc/{}/root", self.pid));
            let file = File::open(root.join(self.path.strip_prefix("/").unwrap_or(&self.path)))?;
            if file.metadata()?.ino() == self.inode {
                Ok(file)
            } else {
                Err(std::io::Error::other(
                    "the file has been replaced since it was mapped, and CAP_CHECKPOINT_RESTORE is missing",
                ))
            }
        })
    }
}

/// Whether there is a process of this id that is not a zombie.
pub fn alive(pid: Pid) -> bool {
    let Ok(tasks) = process(pid).and_then(|process| process.tasks()) else {
        return false;
    };
    tasks.flatten().any(|task| {
        task.stat()
            .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'))
    })
}

/// Whether the task `id` is a process of its own, and not a thread of another.
pub fn is_process(id: u32) -> bool {
    process(Pid(id))
        .and_then(|process| process.status())
        .is_ok_and(|status| u32::try_from(status.tgid) == Ok(id))
}

/// Whether a process has a socket at this file descriptor.
pub fn is_socket(pid: Pid, fd: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:["))
}

/// All processes.
pub fn all() -> Vec<Pid> {
    procfs::process::all_processes()
        .map(|processes| {
            processes
                .flatten()
                .filter_map(|process| u32::try_from(process.pid).ok().map(Pid))
                .collect()
        })
        .unwrap_or_default()
}

/// The processes whose parent is one of `parents`, and theirs, and so on.
pub fn descendants(parents: &[Pid]) -> Vec<Pid> {
    // To look at every process there is takes long on a large machine.
    follow(parents, children).unwrap_or_else(|| descendants_by_parent(parents))
}

/// `parents`' children, and theirs, and so on; `None` if those of one cannot be told.
fn follow(parents: &[Pid], children: impl Fn(Pid) -> Option<Vec<Pid>>) -> Option<Vec<Pid>> {
    let mut found: Vec<Pid> = parents.to_vec();
    let mut next = 0;
    while next < found.len() {
        for child in children(found[next])? {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    Some(found.split_off(parents.len()))
}

/// The children of a process by its own word (proc_tid_children(5)); `None` if the kernel does not tell.
fn children(pid: Pid) -> Option<Vec<Pid>> {
    let Ok(tasks) = process(pid).and_then(|process| process.tasks()) else {
        // It is gone, and has no children any more.
        return Some(Vec::new());
    };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        match task.children() {
            Ok(pids) => children.extend(pids.into_iter().map(Pid)),
            // A thread that has just ended; else the kernel was built without.
            Err(_) if task.stat().is_err() => {}
            Err(_) => return None,
        }
    }
    Some(children)
}

/// As [`descendants`], by what every process says of its parent.
fn descendants_by_parent(parents: &[Pid]) -> Vec<Pid> {
    let family: Vec<(Pid, Pid)> = all()
        .into_iter()
        .filter_map(|pid| {
            Some((
                pid,
                Pid(u32::try_from(process(pid).ok()?.stat().ok()?.ppid).ok()?),
            ))
        })
        .collect();
    let children = |parent| {
        let of_parent = family.iter().filter(|(_, of)| *of == parent);
        Some(of_parent.map(|(child, _)| *child).collect())
    };
    follow(parents, children).unwrap_or_default()
}

/// The files that a process has mapped as executable, each once.
///
/// # Errors
///
/// The process is gone, or may not be looked at.
pub fn mapped_files(pid: Pid) -> procfs::ProcResult<Vec<MappedFile>> {
    let mut files: Vec<MappedFile> = Vec::new();
    for map in process(pid)?.maps()? {
        if let MMapPath::Path(path) = map.pathname
            && map.perms.contains(MMPermissions::EXECUTE)
            && !files
                .iter()
                .any(|file| file.inode == map.inode && file.path == path)
        {
            files.push(MappedFile {
                path,
                inode: map.inode,
                pid,
                range: map.address,
            });
        }
    }
    Ok(files)
}

/// What a record says of its process. What cannot be found out is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Start time in clock ticks after boot (proc_pid_stat(5), field 22): tells processes apart that
    /// had the same id.
    pub start_time: Option<u64>,
    /// Name of the process's main thread.
    pub comm: Option<String>,
    /// The executed file.
    pub exe: Option<PathBuf>,
    /// The parent.
    pub ppid: Option<u32>,
    /// Id of the container, from the cgroup.
    pub container_id: Option<String>,
    /// Path of the cgroup: that which names the container, else that of version 2 or of the first controller that is
    /// in one.
    pub cgroup: Option<String>,
    /// The pod, as far as it is known: from the cgroup, its uid.
    pub pod: Option<Arc<Pod>>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Process id in the process's own PID namespace, if that is not the first one.
    pub namespace_pid: Option<u32>,
}

impl Identity {
    /// Path of the executed file, as people read it.
    pub fn exe_name(&self) -> Option<String> {
        let path = self.exe.as_ref()?;
        Some(path.to_string_lossy().into_owned())
    }

    /// Looks a process up.
    pub fn of(pid: Pid) -> Self {
        let Ok(process) = process(pid) else {
            return Self::default();
        };
        let stat = process.stat().ok();
        let status = process.status().ok();
        let cgroup = cgroup_of(pid).ok().flatten();
        let container = cgroup.as_deref().and_then(cgroup::container);
        Self {
            start_time: stat.as_ref().map(|stat| stat.starttime),
            comm: stat.as_ref().map(|stat| stat.comm.clone()),
            exe: process.exe().ok(),
            ppid: stat.and_then(|stat| u32::try_from(stat.ppid).ok()),
            pod: container.as_ref().and_then(Pod::of_container),
            container_id: container.map(|container| container.id),
            cgroup,
            uid: status.as_ref().map(|status| status.ruid),
            namespace_pid: status
                .and_then(|status| u32::try_from(*status.nspid.as_ref()?.last()?).ok())
                .filter(|own| *own != pid.0),
        }
    }
}

/// The container that a process is in, if it is in one.
///
/// # Errors
///
/// The process is gone.
pub fn container_of(pid: Pid) -> std::io::Result<Option<Container>> {
    Ok(cgroup_of(pid)?.as_deref().and_then(cgroup::container))
}

fn cgroup_of(pid: Pid) -> std::io::Result<Option<String>> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(cgroup::path(&cgroup).map(str::to_owned))
}

fn process(pid: Pid) -> procfs::ProcResult<Process> {
    Process::new(i32::try_from(pid.0).unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let own = Pid(std::process::id());
        assert!(alive(own) && is_process(own.0));
        let identity = Identity::of(own);
        assert_eq!(identity.exe, std::env::current_exe().ok());
        assert!(identity.start_time.is_some() && identity.ppid.is_some());
        assert!(!mapped_files(own).unwrap().is_empty());
    }

    #[test]
    fn children_are_found_either_way() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 20 & wait"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let parent = [Pid(child.id())];
        let mut found = Vec::new();
        for _ in 0..500 {
            found = descendants(&parent);
            if !found.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(found.len(), 1);
        assert_eq!(descendants_by_parent(&parent), found);
        child.kill().unwrap();
        child.wait().unwrap();
        let sleeper = rustix::process::Pid::from_raw(i32::try_from(found[0].0).unwrap());
        let _ = rustix::process::kill_process(sleeper.unwrap(), rustix::process::Signal::KILL);
    }

    #[test]
    fn a_process_that_is_not_there_is_not_alive() {
        assert!(!alive(Pid(u32::MAX)));
        assert_eq!(Identity::of(Pid(u32::MAX)), Identity::default());
    }
}
