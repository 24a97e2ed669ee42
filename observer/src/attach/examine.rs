//! Finds the TLS libraries of files, each build once: in memory, and on disk where it took long.
//!
//! What is there at the start is examined at once, but for large files that nobody has named. Later files,
//! and those, are examined by a thread, while the capture goes on.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{
    elf::Elf,
    processes::FileId,
    scan::Clues,
    tls::{self, Finding, Found, LIBRARIES},
};

/// Files up to this size are examined at once, in bytes.
const SMALL: u64 = 32 << 20;

/// What takes longer is remembered on disk.
const LONG: Duration = Duration::from_millis(100);

/// Builds that are remembered in memory.
const REMEMBERED: usize = 4_096;

/// Largest file of the memory on disk, in bytes.
const MEMORY_FILE: u64 = 1 << 20;

/// Changes whenever files are examined in another way.
const VERSION: u32 = 2;

/// Bytes of code that are compared before remembered probes are used again.
const CODE: usize = 16;

/// The TLS libraries of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Those that can be probed.
    pub found: Vec<(String, Found)>,
    /// Those that cannot, and why, as a sentence for the user.
    pub refused: Vec<(String, String)>,
}

impl Examination {
    /// Nothing of interest is in the file.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty() && self.refused.is_empty()
    }
}

/// What the memory on disk holds of a build.
#[derive(Serialize, Deserialize)]
struct Remembered {
    version: u32,
    examination: Examination,
    /// The code at each probe.
    code: Vec<[u8; CODE]>,
}

/// See the module.
#[derive(Debug)]
pub struct Examiner {
    memory: Memory,
    /// Jobs for the thread, until it runs.
    deferred: Vec<Job>,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    jobs: Sender<Job>,
    results: Receiver<(FileId, Result<Examination, String>)>,
    /// A byte comes with each result.
    bell: UnixStream,
}

#[derive(Debug)]
struct Job {
    id: FileId,
    file: File,
}

/// How urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Now,
    /// It may take its time if it must.
    Soon,
}

impl Examiner {
    /// `cache` is a folder for what took long.
    pub fn new(cache: Option<PathBuf>) -> Self {
        Self {
            memory: Memory {
                builds: HashMap::new(),
                cache,
            },
            deferred: Vec::new(),
            worker: None,
        }
    }

    /// The result, if it is there at once; else it comes by [`Self::finished`].
    pub fn submit(
        &mut self,
        id: FileId,
        file: &File,
        urgency: Urgency,
    ) -> Option<Result<Examination, String>> {
        let small = file
            .metadata()
            .is_ok_and(|metadata| metadata.len() <= SMALL);
        if self.worker.is_none() && (small || urgency == Urgency::Now) {
            return Some(self.memory.examine(file));
        }
        let job = Job {
            id,
            file: match file.try_clone() {
                Ok(file) => file,
                Err(error) => return Some(Err(error.to_string())),
            },
        };
        match &self.worker {
            None => self.deferred.push(job),
            Some(worker) => {
                if worker.jobs.send(job).is_err() {
                    return Some(Err("the thread that examines files has ended".to_owned()));
                }
            }
        }
        None
    }

    /// Has a thread do the rest. It has the rights of the thread that calls this.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn go_on_in_background(&mut self) -> io::Result<()> {
        let (jobs, todo) = channel::<Job>();
        let (done, results) = channel();
        let (bell, mut ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let mut memory = std::mem::take(&mut self.memory);
        thread::Builder::new()
            .name("observer-elf".to_owned())
            .spawn(move || {
                for Job { id, file } in todo {
                    if done.send((id, memory.examine(&file))).is_err() {
                        return;
                    }
                    // A full pipe wakes as well.
                    let _ = ring.write(&[0]);
                }
            })?;
        for job in self.deferred.drain(..) {
            let _ = jobs.send(job);
        }
        self.worker = Some(Worker {
            jobs,
            results,
            bell,
        });
        Ok(())
    }

    /// Becomes readable when there is a result, once the thread runs.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.worker.as_ref().map(|worker| worker.bell.as_fd())
    }

    /// A file that the thread has examined.
    pub fn finished(&mut self) -> Option<(FileId, Result<Examination, String>)> {
        let worker = self.worker.as_mut()?;
        let _ = worker.bell.read(&mut [0; 64]);
        worker.results.try_recv().ok()
    }
}

/// What is known of builds.
#[derive(Debug, Default)]
struct Memory {
    builds: HashMap<Vec<u8>, Examination>,
    cache: Option<PathBuf>,
}

impl Memory {
    fn examine(&mut self, file: &File) -> Result<Examination, String> {
        let started = Instant::now();
        let elf = read(file)?;
        let key = key(&elf, file);
        if let Some(key) = &key {
            if let Some(known) = self.builds.get(key) {
                return Ok(known.clone());
            }
            if let Some(known) = self.recall(key, &elf) {
                self.builds.insert(key.clone(), known.clone());
                return Ok(known);
            }
        }
        let examination = examine(&elf);
        let took = started.elapsed();
        if let Some(key) = key {
            if took >= LONG
                && let Err(error) = self.remember(&key, &examination, &elf)
            {
                debug!(%error, "cannot remember what was found in a file");
            }
            if self.builds.len() < REMEMBERED {
                self.builds.insert(key, examination.clone());
            }
        }
        debug!(?took, found = examination.found.len(), "examined a file");
        Ok(examination)
    }

    fn path(&self, key: &[u8]) -> Option<PathBuf> {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.cache.as_ref()?.join(format!("{name}.json")))
    }

    fn recall(&self, key: &[u8], elf: &Elf) -> Option<Examination> {
        let path = self.path(key)?;
        // Whoever else could write there could have any place probed.
        if !is_ours(path.parent()?) || !is_ours(&path) {
            return None;
        }
        let mut text = Vec::new();
        File::open(path)
            .ok()?
            .take(MEMORY_FILE)
            .read_to_end(&mut text)
            .ok()?;
        let remembered: Remembered = serde_json::from_slice(&text).ok()?;
        let same = remembered.version == VERSION
            && codes(&remembered.examination, elf).as_ref() == Some(&remembered.code);
        same.then_some(remembered.examination)
    }

    fn remember(&self, key: &[u8], examination: &Examination, elf: &Elf) -> io::Result<()> {
        let (Some(path), Some(code)) = (self.path(key), codes(examination, elf)) else {
            return Ok(());
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        if !is_ours(folder) {
            return Err(io::Error::other(format!(
                "{} can be written by others",
                folder.display()
            )));
        }
        let text = serde_json::to_vec(&Remembered {
            version: VERSION,
            examination: examination.clone(),
            code,
        })?;
        // Another agent may do the same.
        let partial = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(&text)?;
        fs::rename(partial, path)
    }
}

/// Whether nobody else can write there.
fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
    })
}

/// Tells builds apart: the build id, or where and when the file was written.
fn key(elf: &Elf, file: &File) -> Option<Vec<u8>> {
    if let Some(build) = elf.build_id() {
        return Some(build.to_vec());
    }
    let metadata = file.metadata().ok()?;
    let mut key = Vec::new();
    for word in [
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime().cast_unsigned(),
        metadata.mtime_nsec().cast_unsigned(),
    ] {
        key.extend(word.to_be_bytes());
    }
    Some(key)
}

/// The code at each probe; `None` if one is not in the file.
fn codes(examination: &Examination, elf: &Elf) -> Option<Vec<[u8; CODE]>> {
    let probes = examination
        .found
        .iter()
        .flat_map(|(_, found)| &found.probes);
    probes
        .map(|probe| {
            let mut code = [0; CODE];
            (elf.file_offset(probe.site.address)? == probe.offset).then_some(())?;
            elf.file().read_exact_at(&mut code, probe.offset).ok()?;
            Some(code)
        })
        .collect()
}

/// Reads an ELF file, with the symbols of the libraries.
///
/// # Errors
///
/// It is none, as a sentence for the user.
fn read(file: &File) -> Result<Elf, String> {
    Elf::read(file, tls::is_wanted).map_err(|error| format!("it is no readable ELF file: {error}"))
}

/// Looks for every library in a file.
///
/// # Errors
///
/// It is no ELF file, as a sentence for the user.
pub fn examine_file(file: &File) -> Result<Examination, String> {
    read(file).map(|elf| examine(&elf))
}

fn examine(elf: &Elf) -> Examination {
    let needles: Vec<&[u8]> = LIBRARIES
        .iter()
        .flat_map(|library| library.needles())
        .copied()
        .collect();
    let clues = Clues::find(elf, &needles).unwrap_or_else(|error| {
        warn!(%error, "cannot look through a file");
        Clues::default()
    });
    let mut examination = Examination::default();
    let mut first = 0;
    for library in LIBRARIES {
        let name = library.name().to_owned();
        let of_library = clues.of(first..first + library.needles().len());
        first += library.needles().len();
        match library.find(elf, &of_library) {
            Finding::Absent => {}
            Finding::Found(found) => examination.found.push((name, found)),
            Finding::Refused(reason) => examination.refused.push((name, reason)),
        }
    }
    examination
}
