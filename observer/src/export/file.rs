//! What records are written to: standard output, or a file that is kept from growing without bound.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
};

use anstream::{AutoStream, ColorChoice, adapter::StripBytes};
use tracing::warn;

/// Bytes that are collected before they are written.
const BUFFER: usize = 64 * 1024;

/// Something that lines are written to.
pub trait Sink: Write + Send {
    /// Opens anew what has been opened by name.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output; without colours where it is no terminal.
pub struct Stdout(anstream::Stdout);

/// What is written without colours and other sequences for terminals.
pub struct Plain<S> {
    sink: S,
    state: StripBytes,
}

/// When a file is full, and how many full ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Longest file, in bytes; a longer line has a file of its own.
    pub max_size: u64,
    /// Full files that are kept beside the one that is written: `FILE.1` is the latest.
    pub max_files: usize,
}

/// A file that lines are appended to. Every line is in one file as a whole.
pub struct LineFile {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Option<Rotation>,
    /// Lines that are not yet written, and the beginning of another.
    buffer: Vec<u8>,
    /// Whether it has been said that files cannot be renamed.
    complained: bool,
}

impl Default for Stdout {
    fn default() -> Self {
        Self(anstream::stdout())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Stdout {}

impl<S: Sink> Plain<S> {
    /// Writes to `sink`.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            state: StripBytes::new(),
        }
    }
}

impl<S: Sink> Write for Plain<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for plain in self.state.strip_next(bytes) {
            self.sink.write_all(plain)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl<S: Sink> Sink for Plain<S> {
    fn reopen(&mut self) -> io::Result<()> {
        self.sink.reopen()
    }
}

impl LineFile {
    /// Opens a file, or creates it. Previews may be in it, so nobody else may read it.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for writing.
    pub fn open(path: &Path, rotation: Option<Rotation>) -> anyhow::Result<Self> {
        let (file, size) = open(path).map_err(|error| {
            anyhow::anyhow!("cannot open {} for writing: {error}", path.display())
        })?;
        if let Some(mode) = mode_for_others(&file) {
            warn!(
                file = %path.display(),
                mode = format!("{mode:o}"),
                "other users have access to the file that records are written to"
            );
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            rotation,
            buffer: Vec::new(),
            complained: false,
        })
    }

    /// Whether it is a terminal, and colours are wanted there.
    pub fn takes_colours(&self) -> bool {
        AutoStream::choice(&self.file) != ColorChoice::Never
    }

    /// Writes the lines that are complete.
    fn write_lines(&mut self) -> io::Result<()> {
        let Some(last) = self.buffer.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let rest = self.buffer.split_off(last + 1);
        let lines = mem::replace(&mut self.buffer, rest);
        let mut left = lines.as_slice();
        while !left.is_empty() {
            let mut now = self.that_fit(left);
            if now == 0 && self.size > 0 && self.rotate() {
                now = self.that_fit(left);
            }
            if now == 0 {
                // Longer than a file may be, or files cannot be renamed.
                now = line(left);
            }
            let (lines, others) = left.split_at(now);
            self.file.write_all(lines)?;
            self.size += now as u64;
            left = others;
        }
        Ok(())
    }

    /// How many bytes of `lines` are lines that there is room for.
    fn that_fit(&self, lines: &[u8]) -> usize {
        let room = self.rotation.map_or(u64::MAX, |rotation| {
            rotation.max_size.saturating_sub(self.size)
        });
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
        lines[..room]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1)
    }

    /// Gives the file another name and begins one anew. Returns whether that went well.
    fn rotate(&mut self) -> bool {
        let max_files = self.rotation.map_or(0, |rotation| rotation.max_files);
        match make_room(&self.path, max_files).and_then(|()| open(&self.path)) {
            Ok(opened) => {
                (self.file, self.size) = opened;
                true
            }
            Err(error) => {
                if !mem::replace(&mut self.complained, true) {
                    warn!(
                        file = %self.path.display(),
                        %error,
                        "cannot begin a full file anew; it grows on"
                    );
                }
                false
            }
        }
    }
}

impl Write for LineFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.write_lines()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_lines()
    }
}

impl Sink for LineFile {
    fn reopen(&mut self) -> io::Result<()> {
        self.write_lines()?;
        match open(&self.path) {
            Ok(opened) => (self.file, self.size) = opened,
            Err(error) => warn!(
                file = %self.path.display(),
                %error,
                "cannot open the file anew; records go on to where they went until the next signal"
            ),
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let mut size = file.metadata()?.len();
    if is_within_line(path, size) {
        // Whoever wrote it was killed, or had no room. Only that line is to be lost.
        file.write_all(b"\n")?;
        size += 1;
    }
    Ok((file, size))
}

/// Whether a file ends within a line, as far as it may be read.
fn is_within_line(path: &Path, size: u64) -> bool {
    use std::os::unix::fs::FileExt as _;
    let Some(last) = size.checked_sub(1) else {
        return false;
    };
    let mut byte = [b'\n'];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut byte, last));
    read.is_ok() && byte != *b"\n"
}

/// The mode of a file that others than its owner may do something with.
fn mode_for_others(file: &File) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = file.metadata().ok()?;
    let mode = metadata.permissions().mode() & 0o777;
    (metadata.is_file() && mode & 0o077 != 0).then_some(mode)
}

/// The length of the first line.
fn line(lines: &[u8]) -> usize {
    let end = lines.iter().position(|byte| *byte == b'\n');
    end.map_or(lines.len(), |end| end + 1)
}

/// Renames `FILE.1` to `FILE.2` and so on, the oldest being lost, and `FILE` to `FILE.1`.
fn make_room(path: &Path, max_files: usize) -> io::Result<()> {
    let numbered = |number: usize| {
        let mut name = OsString::from(path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let moved = |result: io::Result<()>| match result {
        // Somebody else has moved it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    // There may have been more, once.
    let mut beyond = max_files + 1;
    while fs::remove_file(numbered(beyond)).is_ok() {
        beyond += 1;
    }
    if max_files == 0 {
        return moved(fs::remove_file(path));
    }
    // No further than there are files.
    let used = (1..max_files)
        .find(|number| !numbered(*number).exists())
        .unwrap_or(max_files);
    for number in (1..used).rev() {
        moved(fs::rename(numbered(number), numbered(number + 1)))?;
    }
    moved(fs::rename(path, numbered(1)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn written(directory: &TempDir, name: &str) -> String {
        fs::read_to_string(directory.path().join(name)).unwrap_or_default()
    }

    #[test]
    fn full_files_are_renamed_and_no_line_is_split_or_lost() {
        let directory = TempDir::new().unwrap();
        let rotation = Rotation {
            max_size: 100,
            max_files: 1_000,
        };
        let path = directory.path().join("calls");
        let mut file = LineFile::open(&path, Some(rotation)).unwrap();
        let lines: Vec<String> = (0..500)
            .map(|n| format!("{n:0>width$}\n", width = 3 + n % 40))
            .collect();
        let all = lines.concat();
        // However it comes.
        for bytes in all.as_bytes().chunks(17) {
            file.write_all(bytes).unwrap();
            file.flush().unwrap();
        }
        let files = fs::read_dir(directory.path()).unwrap().count();
        let mut read = String::new();
        for number in (1..files).rev() {
            let text = written(&directory, &format!("calls.{number}"));
            assert!(text.len() <= 100 && text.ends_with('\n'), "{text:?}");
            read += &text;
        }
        assert_eq!(read + &written(&directory, "calls"), all);
    }

    #[test]
    fn the_oldest_file_goes_and_a_long_line_has_its_own() {
        let directory = TempDir::new().unwrap();
        let rotation = Rotation {
            max_size: 8,
            max_files: 2,
        };
        let path = directory.path().join("calls");
        // There were more, once.
        for number in 1..5 {
            fs::write(directory.path().join(format!("calls.{number}")), "old\n").unwrap();
        }
        let mut file = LineFile::open(&path, Some(rotation)).unwrap();
        for line in ["one\n", "two\n", "a long line\n", "three\n", "four\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        assert_eq!(written(&directory, "calls"), "four\n");
        assert_eq!(written(&directory, "calls.1"), "three\n");
        assert_eq!(written(&directory, "calls.2"), "a long line\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_cannot_be_begun_anew_grows_on() {
        let directory = TempDir::new().unwrap();
        let folder = directory.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let rotation = Rotation {
            max_size: 4,
            max_files: 2,
        };
        let mut file = LineFile::open(&folder.join("calls"), Some(rotation)).unwrap();
        let moved = directory.path().join("moved");
        fs::rename(&folder, &moved).unwrap();
        for line in ["one\n", "two\n", "six\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        assert_eq!(
            fs::read_to_string(moved.join("calls")).unwrap(),
            "one\ntwo\nsix\n"
        );
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("calls");
        let mut file = LineFile::open(&path, None).unwrap();
        file.write_all(b"one\ntw").unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        file.reopen().unwrap();
        file.write_all(b"o\n").unwrap();
        file.flush().unwrap();
        assert_eq!(written(&directory, "moved"), "one\n");
        assert_eq!(written(&directory, "calls"), "two\n");
    }

    #[test]
    fn a_line_that_was_cut_ends_where_it_was() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("calls");
        fs::write(&path, "one\ntw").unwrap();
        let rotation = Rotation {
            max_size: 11,
            max_files: 1,
        };
        let mut file = LineFile::open(&path, Some(rotation)).unwrap();
        file.write_all(b"two\n").unwrap();
        file.flush().unwrap();
        assert_eq!(written(&directory, "calls"), "one\ntw\ntwo\n");
        // What was added counts.
        file.write_all(b"\n").unwrap();
        file.flush().unwrap();
        assert_eq!(written(&directory, "calls.1"), "one\ntw\ntwo\n");
        fs::write(&path, "thr").unwrap();
        file.reopen().unwrap();
        file.write_all(b"four\n").unwrap();
        file.flush().unwrap();
        assert_eq!(written(&directory, "calls"), "thr\nfour\n");
        drop(LineFile::open(&path, None).unwrap());
        assert_eq!(written(&directory, "calls"), "thr\nfour\n");
    }

    #[test]
    fn it_is_noticed_who_else_may_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("calls");
        let mode = || mode_for_others(&open(&path).unwrap().0);
        assert_eq!(mode(), None);
        for (set, said) in [(0o644, Some(0o644)), (0o640, Some(0o640)), (0o600, None)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(set)).unwrap();
            assert_eq!(mode(), said);
        }
        let (null, _) = open(Path::new("/dev/null")).unwrap();
        assert_eq!(mode_for_others(&null), None);
    }

    #[test]
    fn colours_are_for_terminals() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("calls");
        let file = LineFile::open(&path, None).unwrap();
        assert!(!file.takes_colours());
        let mut plain = Plain::new(file);
        // However it comes.
        for bytes in "\x1b[1;31mré\x1b[0md\n".as_bytes().chunks(1) {
            plain.write_all(bytes).unwrap();
        }
        plain.flush().unwrap();
        assert_eq!(written(&directory, "calls"), "réd\n");
    }
}
