//! What the kernel and the user's rights must allow, and what to do where they do not.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, mount},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities},
};
use tracing::debug;

use super::link::Rung;

/// Where tracefs is looked for, the usual place first (Documentation/trace/ftrace.rst).
const TRACEFS: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The capabilities that the agent needs, and the older one that holds it (capabilities(7)).
const CAPABILITIES: &[(CapabilitySet, &str, CapabilitySet)] = &[
    (CapabilitySet::BPF, "CAP_BPF", CapabilitySet::SYS_ADMIN),
    (
        CapabilitySet::PERFMON,
        "CAP_PERFMON",
        CapabilitySet::SYS_ADMIN,
    ),
    // /proc/PID of other users.
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        CapabilitySet::empty(),
    ),
];

/// What it can do without: libraries in folders that only their owner may read, and those that are deleted as
/// soon as they are mapped, as Java's.
const HELPFUL: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE"),
];

/// What it takes to become the user of a JVM, who alone may attach to it.
const JAVA: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// What is missing on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user may not load BPF programs.
    #[error(
        "{missing} is missing: run observer with sudo, or give it CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE \
         and CAP_DAC_READ_SEARCH"
    )]
    Privileges {
        /// The first capability that is missing.
        missing: &'static str,
    },
    /// The kernel would let seccomp filters kill programs that are probed.
    #[error(
        "Linux {0} has return probes come back by a system call that seccomp filters get to see: a program whose \
         filter does not know it would be killed. Update to 6.12.13, 6.13.2, 6.14 or later"
    )]
    Seccomp(String),
    /// There is no tracefs and it cannot be mounted.
    #[error(
        "tracefs is not mounted and cannot be mounted: {0}. Try `mount -t tracefs tracefs \
         /sys/kernel/tracing`"
    )]
    NoTracefs(#[source] io::Error),
    /// A tracepoint is missing or has another form.
    #[error("the tracepoint {tracepoint} has no field {field}")]
    Tracepoint {
        /// Category and name.
        tracepoint: String,
        /// The field that is needed.
        field: String,
    },
}

/// The capabilities that are missing.
pub fn missing_capabilities() -> Vec<&'static str> {
    let own = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    CAPABILITIES
        .iter()
        .filter(|(capability, _, older)| !own.intersects(*capability | *older))
        .map(|&(_, name, _)| name)
        .collect()
}

/// Checks the rights.
///
/// # Errors
///
/// A capability is missing.
pub fn require_privileges() -> Result<(), Error> {
    match missing_capabilities().into_iter().next() {
        Some(missing) => Err(Error::Privileges { missing }),
        None => Ok(()),
    }
}

/// Checks that probes can do no harm to programs under seccomp filters: Linux 6.11 has return probes come
/// back by a system call, and 6.14 and updates of 6.12 and 6.13 let it pass every filter (kernel/seccomp.c).
///
/// # Errors
///
/// They can.
pub fn require_harmless_returns() -> Result<(), Error> {
    let release = kernel_release();
    let may_harm = cfg!(target_arch = "x86_64") && has_filtered_returns(&release);
    // Distributions have put the change into other versions too.
    if may_harm && super::bpf::seccomp_sees_return_probes().unwrap_or(true) {
        return Err(Error::Seccomp(release));
    }
    Ok(())
}

/// Whether it is one of the versions that may not let return probes pass.
fn has_filtered_returns(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|word| word.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(6), Some(11..14)))
}

/// Gives up every capability of this thread, and of threads that it will start, but those that the agent
/// needs from now on; `java` is whether it attaches to JVMs. Returns what is left.
///
/// # Errors
///
/// As capset(2).
pub fn drop_capabilities(rung: Rung, java: bool) -> io::Result<Vec<&'static str>> {
    let sets = capabilities(None)?;
    let mut kept = CapabilitySet::empty();
    kept.extend(CAPABILITIES.iter().map(|(capability, _, _)| *capability));
    kept.extend(HELPFUL.iter().map(|(capability, _)| *capability));
    if rung == Rung::Perf
        || !sets
            .permitted
            .contains(CapabilitySet::BPF | CapabilitySet::PERFMON)
    {
        kept |= CapabilitySet::SYS_ADMIN;
    }
    if java {
        kept |= JAVA;
    }
    let kept = kept & sets.permitted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    let names = CAPABILITIES
        .iter()
        .map(|&(capability, name, _)| (capability, name));
    Ok(names
        .chain(HELPFUL.iter().copied())
        .chain([
            (CapabilitySet::SETUID, "CAP_SETUID"),
            (CapabilitySet::SETGID, "CAP_SETGID"),
            (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
        ])
        .filter(|(capability, _)| kept.contains(*capability))
        .map(|(_, name)| name)
        .collect())
}

/// Gives up every capability of this thread, which was started while the agent still had them and needs none.
pub fn drop_all_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    if let Err(error) = set_capabilities(None, none) {
        debug!(%error, "cannot give up capabilities");
    }
}

/// Where tracefs is mounted; mounts it if it is not.
///
/// # Errors
///
/// It is not mounted, and cannot be.
pub fn tracefs() -> Result<PathBuf, Error> {
    if let Some(mounted) = mounted_tracefs() {
        return Ok(mounted);
    }
    let place = TRACEFS[0];
    mount(
        "tracefs",
        place,
        "tracefs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .map_err(|error| Error::NoTracefs(error.into()))?;
    Ok(PathBuf::from(place))
}

/// Where tracefs is mounted.
pub fn mounted_tracefs() -> Option<PathBuf> {
    TRACEFS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.join("events").is_dir())
}

/// Offset of a field in the record of a tracepoint (`category/name`).
///
/// # Errors
///
/// The tracepoint or the field is not there.
pub fn field_offset(tracefs: &Path, tracepoint: &str, field: &str) -> Result<u32, Error> {
    let format = tracefs.join("events").join(tracepoint).join("format");
    fs::read_to_string(format)
        .ok()
        .and_then(|format| offset_in(&format, field))
        .ok_or_else(|| Error::Tracepoint {
            tracepoint: tracepoint.to_owned(),
            field: field.to_owned(),
        })
}

/// The kernel's release, as `uname -r` says it.
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Where to keep what took long to find out (XDG Base Directory Specification; file-hierarchy(7)): as root
/// in the system's cache, else in the user's.
pub fn cache_folder() -> Option<PathBuf> {
    let folder = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/cache")
    } else {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?
    };
    Some(folder.join("observer"))
}

fn offset_in(format: &str, field: &str) -> Option<u32> {
    let wanted = format!(" {field};");
    let line = format.lines().find(|line| line.contains(&wanted))?;
    line.split("offset:")
        .nth(1)?
        .split(';')
        .next()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_filtered_returns() {
        for yes in ["6.11.0-9-generic", "6.12.43+deb13-amd64", "6.13.1"] {
            assert!(has_filtered_returns(yes), "{yes}");
        }
        for no in [
            "5.15.0",
            "6.1.0-50-cloud-amd64",
            "6.10.14",
            "6.14",
            "6.18.44",
            "7.0.1",
            "x",
        ] {
            assert!(!has_filtered_returns(no), "{no}");
        }
    }

    #[test]
    fn the_field_is_found_in_old_and_new_formats() {
        let old = "\tfield:char child_comm[16];\toffset:28;\tsize:16;\tsigned:0;\n\tfield:pid_t child_pid;\toffset:44;\tsize:4;\tsigned:1;\n";
        let new = "\tfield:__data_loc char[] child_comm;\toffset:16;\tsize:4;\tsigned:0;\n\tfield:pid_t child_pid;\toffset:20;\tsize:4;\tsigned:1;\n";
        assert_eq!(offset_in(old, "child_pid"), Some(44));
        assert_eq!(offset_in(new, "child_pid"), Some(20));
        assert_eq!(offset_in(new, "nothing"), None);
    }
}
