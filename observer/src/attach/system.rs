//! What the kernel and the user's rights must allow, and what to do where they do not.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};

/// Where tracefs is looked for, the usual place first (Documentation/trace/ftrace.rst).
const TRACEFS: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The capabilities that are needed, by number (linux/capability.h). uprobes through perf events need
/// CAP_SYS_ADMIN.
const CAPABILITIES: &[(u32, &str)] = &[(19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// What is missing on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user may not load BPF programs.
    #[error("observer needs the rights of root: {missing} is missing. Run it with sudo")]
    Privileges {
        /// The first capability that is missing.
        missing: &'static str,
    },
    /// The kernel was built without uprobes.
    #[error(
        "this kernel has no uprobes ({0} is missing): a kernel with CONFIG_UPROBE_EVENTS is needed"
    )]
    NoUprobes(&'static str),
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
    let effective = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(number, _)| effective & (1 << number) == 0)
        .map(|&(_, name)| name)
        .collect()
}

/// Checks the rights and that the kernel has uprobes.
///
/// # Errors
///
/// Either is missing.
pub fn require_privileges() -> Result<(), Error> {
    if let Some(missing) = missing_capabilities().into_iter().next() {
        return Err(Error::Privileges { missing });
    }
    uprobes()
}

/// Whether the kernel has uprobes for perf events.
///
/// # Errors
///
/// It has not.
pub fn uprobes() -> Result<(), Error> {
    const PMU: &str = "/sys/bus/event_source/devices/uprobe/type";
    if Path::new(PMU).exists() {
        Ok(())
    } else {
        Err(Error::NoUprobes(PMU))
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
    fn the_field_is_found_in_old_and_new_formats() {
        let old = "\tfield:char child_comm[16];\toffset:28;\tsize:16;\tsigned:0;\n\tfield:pid_t child_pid;\toffset:44;\tsize:4;\tsigned:1;\n";
        let new = "\tfield:__data_loc char[] child_comm;\toffset:16;\tsize:4;\tsigned:0;\n\tfield:pid_t child_pid;\toffset:20;\tsize:4;\tsigned:1;\n";
        assert_eq!(offset_in(old, "child_pid"), Some(44));
        assert_eq!(offset_in(new, "child_pid"), Some(20));
        assert_eq!(offset_in(new, "nothing"), None);
    }
}
