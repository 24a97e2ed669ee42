//! Finds the TLS libraries of files, each build once: in memory, and on disk where it took long.
//!
//! What is there at the start is examined at once, but for large files that nobody has named. Later files,
//! and those, are examined by threads, while the capture goes on: one for large files, so that no small one
//! has to wait for them.

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
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{
    boundary::{Prover, Start},
    elf::Elf,
    processes::FileId,
    scan::Clues,
    tls::{self, Finding, Found, LIBRARIES},
};

/// Files up to this size are examined at once, in bytes.
const SMALL: u64 = 32 << 20;

/// What takes longer is remembered on disk.
const LONG: Duration = Duration::from_millis(10);

/// Builds that are remembered in memory, and on disk.
const REMEMBERED: usize = 4_096;

/// Builds that are left on disk when there are too many: the latest.
const KEPT: usize = REMEMBERED / 4 * 3;

/// Files of the folder on disk that are looked at, whatever else is there.
const LOOKED_AT: usize = 4 * REMEMBERED;

/// Largest file of the memory on disk, in bytes.
const MEMORY_FILE: u64 = 1 << 20;

/// Changes whenever files are examined in another way: of the sources of this module's folder, by build.rs.
const EXAMINED_BY: &str = env!("EXAMINED_BY");

/// Bytes of code that are compared before remembered probes are used again.
const CODE: usize = 32;

/// The TLS libraries of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Those that can be probed.
    pub found: Vec<Located>,
    /// Those that cannot, and why, as a sentence for the user.
    pub refused: Vec<(String, String)>,
}

/// A TLS library that was found, with every place proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// Its name.
    pub library: String,
    /// The places.
    pub found: Found,
    /// By what the start of the function is known that a place is in, for each of them.
    pub starts: Vec<Start>,
}

impl Examination {
    /// Nothing of interest is in the file.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty() && self.refused.is_empty()
    }
}

/// What is remembered of a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    examined_by: String,
    examination: Examination,
    /// The code at each probe; `None` if one is not in the file.
    code: Option<Vec<[u8; CODE]>>,
}

/// See the module.
#[derive(Debug)]
pub struct Examiner {
    memory: Memory,
    /// Jobs for the thread, until it runs.
    deferred: Vec<Job>,
    worker: Option<Worker>,
}

/// Two threads: what is small need not wait for the hundreds of megabytes before it.
#[derive(Debug)]
struct Worker {
    small: Sender<Job>,
    large: Sender<Job>,
    results: Receiver<(FileId, Result<Learnt, String>)>,
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
            memory: Memory::new(cache),
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
        if let Some(known) = self.memory.known(file) {
            return Some(Ok(known));
        }
        let small = is_small(file);
        if self.worker.is_none() && (small || urgency == Urgency::Now) {
            return Some(self.memory.learn(file));
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
                let lane = if small { &worker.small } else { &worker.large };
                if lane.send(job).is_err() {
                    return Some(Err("the thread that examines files has ended".to_owned()));
                }
            }
        }
        None
    }

    /// Has threads do the rest. They have the rights of the thread that calls this.
    ///
    /// # Errors
    ///
    /// They cannot be started.
    pub fn go_on_in_background(&mut self) -> io::Result<()> {
        let (done, results) = channel();
        let (bell, ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let lane = |name: &str| -> io::Result<Sender<Job>> {
            let (jobs, todo) = channel::<Job>();
            let disk = self.memory.disk.clone();
            let (done, mut ring) = (done.clone(), ring.try_clone()?);
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || {
                    for Job { id, file } in todo {
                        if done.send((id, learn(&file, &disk))).is_err() {
                            return;
                        }
                        // A full pipe wakes as well.
                        let _ = ring.write(&[0]);
                    }
                })?;
            Ok(jobs)
        };
        let worker = Worker {
            small: lane("observer-elf")?,
            large: lane("observer-elf-2")?,
            results,
            bell,
        };
        // All that was put off is large.
        for job in self.deferred.drain(..) {
            let _ = worker.large.send(job);
        }
        self.worker = Some(worker);
        Ok(())
    }

    /// Becomes readable when there is a result, once the thread runs.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.worker.as_ref().map(|worker| worker.bell.as_fd())
    }

    /// A file that a thread has examined.
    pub fn finished(&mut self) -> Option<(FileId, Result<Examination, String>)> {
        let worker = self.worker.as_mut()?;
        let _ = worker.bell.read(&mut [0; 64]);
        let (id, learnt) = worker.results.try_recv().ok()?;
        Some((id, learnt.map(|learnt| self.memory.keep(learnt))))
    }
}

/// What is known of builds.
#[derive(Debug)]
struct Memory {
    builds: HashMap<Vec<u8>, Remembered>,
    disk: Disk,
}

impl Memory {
    fn new(cache: Option<PathBuf>) -> Self {
        Self {
            builds: HashMap::new(),
            disk: Disk(cache),
        }
    }

    /// What is known of a file, without looking through it.
    fn known(&mut self, file: &File) -> Option<Examination> {
        let elf = Elf::outline(file).ok()?;
        for key in [of_build(&elf), of_place(file)].into_iter().flatten() {
            let known = self.builds.get(&key).filter(|known| known.is_of(&elf));
            if let Some(known) = known {
                return Some(known.examination.clone());
            }
            if let Some(known) = self.disk.recall(&key, &elf) {
                return Some(self.keep(Learnt { key, known }));
            }
        }
        None
    }

    fn learn(&mut self, file: &File) -> Result<Examination, String> {
        learn(file, &self.disk).map(|learnt| self.keep(learnt))
    }

    fn keep(&mut self, learnt: Learnt) -> Examination {
        let examination = learnt.known.examination.clone();
        if self.builds.len() < REMEMBERED {
            self.builds.insert(learnt.key, learnt.known);
        }
        examination
    }
}

/// What has been learnt of a file, and by which key it is known.
#[derive(Debug)]
struct Learnt {
    key: Vec<u8>,
    known: Remembered,
}

/// Examines a file.
///
/// # Errors
///
/// It is no ELF file, as a sentence for the user.
fn learn(file: &File, disk: &Disk) -> Result<Learnt, String> {
    let started = Instant::now();
    let elf = read(file)?;
    let examination = examine(&elf);
    let took = started.elapsed();
    debug!(?took, found = examination.found.len(), "examined a file");
    // A file in which nothing is found must not speak for others that claim to be of the same build.
    let build = of_build(&elf).filter(|_| !examination.found.is_empty());
    let learnt = Learnt {
        key: build.or_else(|| of_place(file)).unwrap_or_default(),
        known: Remembered {
            examined_by: EXAMINED_BY.to_owned(),
            code: codes(&examination, &elf),
            examination,
        },
    };
    if took >= LONG
        && let Err(error) = disk.remember(&learnt)
    {
        debug!(%error, "cannot remember what was found in a file");
    }
    Ok(learnt)
}

/// A folder for what took long.
#[derive(Clone, Debug)]
struct Disk(Option<PathBuf>);

impl Disk {
    fn path(&self, key: &[u8]) -> Option<PathBuf> {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.0.as_ref()?.join(format!("{name}.json")))
    }

    fn recall(&self, key: &[u8], elf: &Elf) -> Option<Remembered> {
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
        remembered.is_of(elf).then_some(remembered)
    }

    fn remember(&self, learnt: &Learnt) -> io::Result<()> {
        let Some(path) = self.path(&learnt.key) else {
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
        make_room(folder, REMEMBERED, KEPT)?;
        let text = serde_json::to_vec(&learnt.known)?;
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

/// Removes the oldest files of a folder that holds `most` or more, down to `kept`. Another agent may do the
/// same: what it has removed is gone.
fn make_room(folder: &Path, most: usize, kept: usize) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)?.take(LOOKED_AT) {
        names.push(entry?.file_name());
    }
    let mut count = names.len();
    if count < most {
        return Ok(());
    }
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for name in names {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => files.push((metadata.modified()?, path)),
            // Another agent has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => count -= 1,
            _ => {}
        }
    }
    files.sort_unstable();
    let excess = files.len().saturating_sub(kept);
    for (_, path) in files.into_iter().take(excess) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                debug!(path = %path.display(), %error, "cannot forget what was found in a file");
            }
            _ => count -= 1,
        }
    }
    if count >= most {
        return Err(io::Error::other(format!("{} is full", folder.display())));
    }
    Ok(())
}

fn is_small(file: &File) -> bool {
    file.metadata()
        .is_ok_and(|metadata| metadata.len() <= SMALL)
}

impl Remembered {
    /// Whether it holds for a file: builds may share an id.
    fn is_of(&self, elf: &Elf) -> bool {
        self.examined_by == EXAMINED_BY
            && self.code.is_some()
            && codes(&self.examination, elf) == self.code
    }
}

/// Whether nobody else can write there.
fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
    })
}

/// Tells builds apart: the build id and the size of the code.
fn of_build(elf: &Elf) -> Option<Vec<u8>> {
    let code = elf.executable().map(|range| range.end - range.start);
    let bytes = code.fold(0_u64, u64::wrapping_add);
    Some([elf.build_id()?, &bytes.to_be_bytes()].concat())
}

/// Tells files apart: where and when it was written.
fn of_place(file: &File) -> Option<Vec<u8>> {
    let metadata = file.metadata().ok()?;
    let words = [
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime().cast_unsigned(),
        metadata.mtime_nsec().cast_unsigned(),
        metadata.ctime().cast_unsigned(),
        metadata.ctime_nsec().cast_unsigned(),
    ];
    Some(words.into_iter().flat_map(u64::to_be_bytes).collect())
}

/// The code at each probe; `None` if one is not in the file.
fn codes(examination: &Examination, elf: &Elf) -> Option<Vec<[u8; CODE]>> {
    let probes = examination
        .found
        .iter()
        .flat_map(|located| &located.found.probes);
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
    let mut prover = Prover::new(elf);
    let mut first = 0;
    for library in LIBRARIES {
        let name = library.name().to_owned();
        let of_library = clues.of(first..first + library.needles().len());
        first += library.needles().len();
        match library.find(elf, &of_library) {
            Finding::Absent => {}
            Finding::Found(found) => match prover.prove(&found.probes) {
                Ok(starts) => examination.found.push(Located {
                    library: name,
                    found,
                    starts,
                }),
                Err(reason) => examination.refused.push((name, reason)),
            },
            Finding::Refused(reason) => examination.refused.push((name, reason)),
        }
    }
    examination
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    /// A program with OpenSSL's names, and a place to remember what was found.
    struct Scene {
        folder: TempDir,
        program: PathBuf,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let program = build(folder.path(), "program", "int i;");
            Self { folder, program }
        }

        fn memory(&self) -> Memory {
            Memory::new(Some(self.folder.path().join("cache")))
        }

        fn elf(&self) -> Elf {
            read(&File::open(&self.program).unwrap()).unwrap()
        }

        /// Remembers something that cannot have been found.
        fn mark(&self) -> PathBuf {
            let (memory, elf) = (self.memory(), self.elf());
            let mut examination = examine(&elf);
            examination.found[0].found.how = "a mark".to_owned();
            let key = of_build(&elf).unwrap();
            let path = memory.disk.path(&key).unwrap();
            let known = Remembered {
                examined_by: EXAMINED_BY.to_owned(),
                code: codes(&examination, &elf),
                examination,
            };
            memory.disk.remember(&Learnt { key, known }).unwrap();
            path
        }

        /// Whether that is what an agent goes by that starts now.
        fn is_marked(&self) -> bool {
            let examination = ask(&mut self.memory(), &self.program);
            examination.found[0].found.how == "a mark"
        }
    }

    /// What an agent comes to know of a file.
    fn ask(memory: &mut Memory, path: &Path) -> Examination {
        let file = File::open(path).unwrap();
        memory
            .known(&file)
            .unwrap_or_else(|| memory.learn(&file).unwrap())
    }

    /// Builds a library with functions of OpenSSL's names and a build id that is always the same.
    fn build(folder: &Path, name: &str, more: &str) -> PathBuf {
        let source = folder.join("source.c");
        let code = format!(
            "{more}
             int SSL_read(void *s, void *b, int n) {{ *(int *)b = n; return n; }}
             int SSL_write(void *s, const void *b, int n) {{ *(int *)s = *(int *)b; return n; }}"
        );
        fs::write(&source, code).unwrap();
        let library = folder.join(name);
        let status = std::process::Command::new("cc")
            .args([
                "-O1",
                "-fPIC",
                "-shared",
                "-Wl,--build-id=0x0123456789abcdef",
                "-o",
            ])
            .args([&library, &source])
            .status()
            .unwrap();
        assert!(status.success());
        library
    }

    #[test]
    fn what_was_found_is_used_again_by_the_next_agent() {
        let scene = Scene::new();
        let path = scene.mark();
        assert!(scene.is_marked());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    /// A folder with so many files, each a second older than the one before.
    fn filled(folder: &Path, files: usize) {
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        for age in 0..files {
            let file = File::create(folder.join(age.to_string())).unwrap();
            let written = SystemTime::now() - Duration::from_secs(age as u64 + 1);
            file.set_modified(written).unwrap();
        }
    }

    /// The ages of the files of such a folder.
    fn ages(folder: &Path) -> Vec<usize> {
        let names = fs::read_dir(folder).unwrap().flatten();
        let mut ages: Vec<usize> = names
            .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
            .collect();
        ages.sort_unstable();
        ages
    }

    #[test]
    fn the_oldest_makes_room_for_what_was_found_last() {
        let scene = Scene::new();
        let folder = scene.folder.path().join("cache");
        filled(&folder, REMEMBERED);
        scene.mark();
        assert!(scene.is_marked());
        assert_eq!(ages(&folder), (0..KEPT).collect::<Vec<_>>());
        // That is room for many more.
        scene.mark();
        assert_eq!(ages(&folder).len(), KEPT);
    }

    #[test]
    fn nothing_is_forgotten_without_need() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 7);
        make_room(folder.path(), 8, 6).unwrap();
        assert_eq!(ages(folder.path()).len(), 7);
    }

    #[test]
    fn two_agents_make_room_at_once() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 2_000);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| make_room(folder.path(), 1_000, 750).unwrap());
            }
        });
        assert_eq!(ages(folder.path()), (0..750).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_file_cannot_make_room() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 2);
        for number in 10..18 {
            fs::create_dir(folder.path().join(number.to_string())).unwrap();
        }
        let error = make_room(folder.path(), 8, 6).unwrap_err();
        assert!(error.to_string().ends_with("is full"), "{error}");
        assert_eq!(ages(folder.path()).len(), 10);
    }

    #[test]
    fn what_others_could_have_written_is_not_used() {
        for (of_folder, bits) in [(true, 0o770), (true, 0o707), (false, 0o620), (false, 0o602)] {
            let scene = Scene::new();
            let path = scene.mark();
            let path = if of_folder {
                path.parent().unwrap()
            } else {
                &path
            };
            fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
            assert!(!scene.is_marked(), "{bits:o}");
        }
        let scene = Scene::new();
        let path = scene.mark();
        let elsewhere = scene.folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(!scene.is_marked(), "a link");
        // Only root can give a file away.
        let given = rustix::fs::chown(&elsewhere, Some(rustix::fs::Uid::from_raw(1)), None);
        fs::remove_file(&path).unwrap();
        fs::rename(&elsewhere, &path).unwrap();
        assert_eq!(scene.is_marked(), given.is_err(), "of another user");
    }

    #[test]
    fn what_is_broken_is_not_used() {
        let scene = Scene::new();
        let path = scene.mark();
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let mut broken = vec![Vec::new(), b"null".to_vec(), b"[[[[".repeat(100_000)];
        broken.extend((1..whole.len()).map(|length| whole[..length].to_vec()));
        broken.push(text.replace(EXAMINED_BY, "another").into_bytes());
        broken.push(text.replace("\"offset\":", "\"offset\":1").into_bytes());
        broken.push(text.replace("\"address\":", "\"address\":9").into_bytes());
        for bytes in broken {
            fs::write(&path, &bytes).unwrap();
            assert!(!scene.is_marked(), "{}", String::from_utf8_lossy(&bytes));
        }
        fs::write(&path, &whole).unwrap();
        assert!(scene.is_marked());
    }

    #[test]
    fn another_build_with_the_same_id_is_told_by_its_code() {
        let scene = Scene::new();
        scene.mark();
        let mut memory = scene.memory();
        let known = ask(&mut memory, &scene.program);
        assert_eq!(known.found[0].found.how, "a mark");
        let other = build(
            scene.folder.path(),
            "other",
            "int before(int a) { return a * 3; }",
        );
        let elf = read(&File::open(&other).unwrap()).unwrap();
        assert_eq!(elf.build_id(), scene.elf().build_id());
        // By what is in memory, and by what is on disk.
        for memory in [&mut memory, &mut scene.memory()] {
            let found = ask(memory, &other);
            assert_eq!(found, examine(&elf));
            assert_ne!(found, known);
        }
    }

    #[test]
    fn a_file_with_nothing_does_not_speak_for_its_build() {
        let scene = Scene::new();
        let mut memory = scene.memory();
        let empty = build(scene.folder.path(), "empty", "");
        let bytes = fs::read(&empty).unwrap();
        // The names are gone, the code and the build id are not.
        let mut without = bytes.clone();
        for at in 0..bytes.len() - 4 {
            if &bytes[at..at + 4] == b"SSL_" {
                without[at] = b'T';
            }
        }
        fs::write(&empty, &without).unwrap();
        assert!(ask(&mut memory, &empty).is_empty());
        let found = ask(&mut memory, &scene.program);
        assert!(!found.is_empty());
    }
}
