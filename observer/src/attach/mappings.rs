//! Which processes map a file as code: programs that start, and libraries that are loaded later.
//!
//! The kernel tells it by perf events (perf_event_open(2), `PERF_RECORD_MMAP2`), one buffer for each CPU.
//! Nobody else pays for that, where tracepoints of system calls slow down every system call of the machine.

use std::{collections::HashSet, fs, io, os::fd::BorrowedFd};

use perf_event::{
    Builder, Sampler,
    data::{Record, parse::ParseResult},
    events::Software,
};
use tracing::debug;

use super::{bpf, processes::Pid};

/// Size of the buffer of one CPU, in bytes: a power of two pages. A program that starts takes about 1 KiB.
const BUFFER: usize = 64 << 10;

/// The CPUs that are on (Documentation/admin-guide/cputopology.rst).
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// See the module.
pub struct Mappings {
    samplers: Vec<Sampler>,
}

/// What has been heard since somebody asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The processes that have mapped a file as code.
    pub pids: HashSet<Pid>,
    /// There was more than the buffers could hold.
    pub lost: bool,
    /// Code without a file: compilers within programs make it, at times in great number.
    pub others: usize,
}

impl Mappings {
    /// Listens to every CPU.
    ///
    /// # Errors
    ///
    /// As perf_event_open(2) and mmap(2): `CAP_PERFMON` is needed.
    pub fn open() -> io::Result<Self> {
        let online = fs::read_to_string(ONLINE)?;
        let samplers = cpus(&online)
            .ok_or_else(|| io::Error::other(format!("{ONLINE}: {online}")))?
            .into_iter()
            .filter_map(|cpu| match sampler(cpu) {
                // It has been switched off meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => None,
                result => Some(result),
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { samplers })
    }

    /// What becomes readable when there is something to take.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.samplers.iter().map(|sampler| bpf::borrow(sampler))
    }

    /// Takes what has come.
    pub fn take(&mut self) -> Heard {
        let mut heard = Heard::default();
        for sampler in &mut self.samplers {
            while let Some(record) = sampler.next_record() {
                heard.add(record.parse_record());
            }
        }
        heard
    }
}

impl Heard {
    fn add(&mut self, record: ParseResult<Record<'_>>) {
        match record {
            Ok(Record::Mmap2(map)) if is_file(&map.filename) => {
                self.pids.insert(Pid(map.pid));
            }
            Ok(Record::Mmap2(_)) => self.others += 1,
            Ok(Record::Lost(lost)) => {
                debug!(lost = lost.lost, "mappings were not heard of");
                self.lost = true;
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "a record of a mapping cannot be read");
                self.lost = true;
            }
        }
    }
}

/// Whether a mapping is of a file: the kernel calls others `//anon` and `[vdso]` (`perf_event_mmap_event` in
/// kernel/events/core.c).
fn is_file(name: &[u8]) -> bool {
    name.starts_with(b"/") && !name.starts_with(b"//")
}

fn sampler(cpu: usize) -> io::Result<Sampler> {
    Builder::new(Software::DUMMY)
        .any_pid()
        .one_cpu(cpu)
        .mmap(true)
        .mmap2(true)
        // Each record wakes: `wakeup_events` counts samples only.
        .wakeup_watermark(1)
        .enabled(true)
        .build()?
        .sampled(BUFFER)
}

/// Numbers in a list such as `0-3,8`.
fn cpus(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_come_in_ranges() {
        assert_eq!(cpus("0-1\n"), Some(vec![0, 1]));
        assert_eq!(cpus("0,2-4,9"), Some(vec![0, 2, 3, 4, 9]));
        assert_eq!(cpus("none"), None);
    }

    #[test]
    fn only_files_count() {
        assert!(is_file(b"/usr/lib/libssl.so.3"));
        for other in [&b"//anon"[..], b"[vdso]", b"anon_inode:x", b""] {
            assert!(!is_file(other));
        }
    }
}
