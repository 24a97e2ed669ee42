//! Records of a file that may be being written: whole lines first, and what is behind the last one at the end.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::records::{self, LINE_BYTES, Record, Tally};

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// Turns bytes into records as the lines become whole.
#[derive(Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// Whether a line that is too long is being left out.
    leaving_out: bool,
    tally: Tally,
}

impl Lines {
    /// Takes the next bytes, and hands on the records that they end.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Record)) {
        if self.leaving_out {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                return;
            };
            self.leaving_out = false;
            bytes = &bytes[end + 1..];
        }
        if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
            let (whole, rest) = bytes.split_at(end + 1);
            let first = whole.iter().position(|byte| *byte == b'\n').unwrap_or(end);
            let (first, whole) = whole.split_at(first + 1);
            self.begun.extend_from_slice(first);
            let begun = std::mem::take(&mut self.begun);
            self.read(&begun, take);
            self.read(whole, take);
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.len() as u64 >= LINE_BYTES {
            self.begun = Vec::new();
            self.leaving_out = true;
            self.tally.bad += 1;
        }
    }

    /// Nothing more will come: what is there counts if it is a record. Returns whether the last line was cut.
    pub fn finish(mut self, take: &mut dyn FnMut(Record)) -> (Tally, bool) {
        let before = self.tally;
        let begun = std::mem::take(&mut self.begun);
        self.read(&begun, take);
        let is_cut = self.tally.bad > before.bad;
        self.tally.bad = before.bad;
        (self.tally, is_cut || self.leaving_out)
    }

    /// What the whole lines were.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn read(&mut self, lines: &[u8], take: &mut dyn FnMut(Record)) {
        // Reading from memory does not fail.
        if let Ok(tally) = records::read(lines, take) {
            self.tally.records += tally.records;
            self.tally.others += tally.others;
            self.tally.bad += tally.bad;
        }
    }
}

/// A file that grows, is cut short, or is replaced by another of its name, as `tail -F` follows it.
pub struct Follower {
    path: PathBuf,
    open: Option<Open>,
    block: Vec<u8>,
}

struct Open {
    file: File,
    inode: (u64, u64),
    position: u64,
    lines: Lines,
    /// Bad lines that have been told.
    told: u64,
}

impl Follower {
    /// Follows `path` from its beginning. It need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            block: vec![0; BLOCK],
        }
    }

    /// Takes the next block, if there is one. Returns how many bytes it had, and how many lines were no records.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn advance(&mut self, take: &mut dyn FnMut(Record)) -> io::Result<(usize, u64)> {
        if self.open.is_none() {
            self.open = Open::at(&self.path)?;
        }
        let Some(open) = &mut self.open else {
            return Ok((0, 0));
        };
        let read = open.file.read(&mut self.block)?;
        open.position += read as u64;
        open.lines.push(&self.block[..read], take);
        let bad = open.lines.tally().bad;
        let news = bad - open.told;
        open.told = bad;
        if read == 0 && open.is_over(&self.path) {
            self.open = None;
        }
        Ok((read, news))
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        Ok(Some(Self {
            file,
            inode: (metadata.dev(), metadata.ino()),
            position: 0,
            lines: Lines::default(),
            told: 0,
        }))
    }

    /// Whether another file has its name, or it is shorter than it was.
    fn is_over(&self, path: &Path) -> bool {
        let Ok(metadata) = path.metadata() else {
            // It may be moved away before the other is there.
            return false;
        };
        (metadata.dev(), metadata.ino()) != self.inode || metadata.len() < self.position
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;
    use crate::trace::record::tests::call;

    fn line() -> String {
        serde_json::to_string(&call()).unwrap() + "\n"
    }

    #[test]
    fn lines_are_whole_wherever_they_are_cut() {
        let text = format!("{}nonsense\n\n{}", line(), line().trim_end());
        for size in [1, 7, 100, text.len()] {
            let mut lines = Lines::default();
            let mut found = 0;
            for bytes in text.as_bytes().chunks(size) {
                lines.push(bytes, &mut |_| found += 1);
            }
            assert_eq!((found, lines.tally().bad), (1, 1));
            let (tally, cut) = lines.finish(&mut |_| ());
            assert_eq!((tally.records, tally.bad, cut), (2, 1, false));
        }
        let mut lines = Lines::default();
        lines.push(&text.as_bytes()[..text.len() - 5], &mut |_| ());
        let (tally, cut) = lines.finish(&mut |_| ());
        assert_eq!((tally.records, tally.bad, cut), (1, 1, true));
    }

    #[test]
    fn a_line_without_end_costs_what_a_line_may_cost() {
        let mut lines = Lines::default();
        for _ in 0..40 {
            lines.push(&vec![b'x'; BLOCK], &mut |_| ());
            assert!(lines.begun.len() as u64 <= LINE_BYTES);
        }
        lines.push(b"x\n", &mut |_| ());
        let mut found = 0;
        lines.push(line().as_bytes(), &mut |_| found += 1);
        assert_eq!((found, lines.tally().bad), (1, 1));
    }

    #[test]
    fn a_file_is_followed_when_it_grows_is_cut_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls.jsonl");
        let mut follower = Follower::new(&path);
        let mut found = || {
            let mut found = 0;
            for _ in 0..4 {
                follower.advance(&mut |_| found += 1).unwrap();
            }
            found
        };
        assert_eq!(found(), 0);
        let mut file = File::create(&path).unwrap();
        file.write_all(line().as_bytes()).unwrap();
        file.write_all(&line().as_bytes()[..50]).unwrap();
        assert_eq!(found(), 1);
        file.write_all(&line().as_bytes()[50..]).unwrap();
        assert_eq!(found(), 1);
        fs::rename(&path, folder.path().join("calls.jsonl.1")).unwrap();
        file.write_all(line().as_bytes()).unwrap();
        assert_eq!(found(), 1);
        fs::write(&path, line() + &line()).unwrap();
        assert_eq!(found(), 2);
        fs::write(&path, line()).unwrap();
        assert_eq!(found(), 1);
    }
}
