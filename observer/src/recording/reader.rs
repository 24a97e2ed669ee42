//! Reading a recording, which anybody may have written.

use std::{
    io::{self, Read},
    time::Duration,
};

use observer_wire::Timestamp;

use super::{Entry, Head, LONGEST, MAGIC, VERSION};
use crate::{capture::loss::Losses, engine::Input, salt::Salt};

/// A recording that is being read.
pub struct Recording<R> {
    reader: R,
    head: Head,
    payload: Vec<u8>,
    /// Bytes that were read.
    position: u64,
    /// Entries that were read.
    entries: u64,
    /// The latest time of an entry.
    latest: u64,
}

/// What comes next in a recording.
#[derive(Debug)]
pub enum Next<'a> {
    /// What the engine was given.
    Input(Input<'a>),
    /// The end.
    End {
        /// When the capture ended.
        now: Timestamp,
        /// What was lost.
        losses: Losses,
    },
    /// The file ends before the recording does.
    Cut {
        /// Where, in bytes.
        at: u64,
        /// The latest time that is known.
        now: Timestamp,
    },
}

/// Why a recording cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An entry is not as it was written.
    #[error("it is damaged: {what} in entry {entry}, at byte {at}")]
    Damaged {
        /// Which entry, from 1.
        entry: u64,
        /// Where it begins.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// Another kind of file.
    #[error("it is no recording of observer's")]
    Foreign,
    /// It ends within the head.
    #[error("it is cut before its first entry")]
    NoHead,
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A version of the format that is not known.
    #[error("it has version {0} of the format, and this observer reads version {VERSION}")]
    Version(u32),
}

/// What is there of a frame.
enum Frame {
    Cut,
    End,
    Whole,
}

impl<R: Read> Recording<R> {
    /// Reads the head.
    ///
    /// # Errors
    ///
    /// It is no recording, or of another version, or damaged.
    pub fn open(mut reader: R) -> Result<Self, Error> {
        let mut magic = [0; MAGIC.len()];
        let length = fill(&mut reader, &mut magic)?;
        if magic[..length] != MAGIC[..length] || length == 0 {
            return Err(Error::Foreign);
        }
        let mut version = [0; 4];
        if fill(&mut reader, &mut version)? < version.len() {
            return Err(Error::NoHead);
        }
        let version = u32::from_le_bytes(version);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let mut recording = Self {
            reader,
            head: Head {
                observer: String::new(),
                seed: 0,
                all_hosts: false,
                trace_idle: Duration::ZERO,
                salt: Salt::default(),
            },
            payload: Vec::new(),
            position: (MAGIC.len() + size_of_val(&VERSION)) as u64,
            entries: 0,
            latest: 0,
        };
        let at = recording.position;
        let Frame::Whole = recording.frame()? else {
            return Err(Error::NoHead);
        };
        recording.head = decode(&recording.payload).map_err(|what| damaged(0, at, what))?;
        Ok(recording)
    }

    /// What the records depend on.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The latest time that an entry has told so far.
    pub fn latest(&self) -> Timestamp {
        Timestamp(self.latest)
    }

    /// Reads the next entry. Nothing follows [`Next::End`] and [`Next::Cut`].
    ///
    /// # Errors
    ///
    /// The file cannot be read, or the entry is not as it was written.
    #[expect(clippy::should_implement_trait, reason = "entries borrow from it")]
    pub fn next(&mut self) -> Result<Next<'_>, Error> {
        let at = self.position;
        self.entries += 1;
        match self.frame()? {
            Frame::Cut | Frame::End => Ok(Next::Cut {
                at: self.position,
                now: self.latest(),
            }),
            Frame::Whole => {
                let entry: Entry<'_> =
                    decode(&self.payload).map_err(|what| damaged(self.entries, at, what))?;
                if let Some(what) = entry.excess() {
                    return Err(damaged(self.entries, at, what));
                }
                self.latest = self.latest.max(entry.time().unwrap_or(0));
                Ok(entry.into_next())
            }
        }
    }

    /// Reads a frame into `payload`.
    fn frame(&mut self) -> Result<Frame, Error> {
        let at = self.position;
        let mut prefix = [0; 8];
        let length = fill(&mut self.reader, &mut prefix)?;
        self.position += length as u64;
        if length < prefix.len() {
            return Ok(if length == 0 { Frame::End } else { Frame::Cut });
        }
        let [a, b, c, d, e, f, g, h] = prefix;
        let length = u32::from_le_bytes([a, b, c, d]);
        let sum = u32::from_le_bytes([e, f, g, h]);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= LONGEST)
            .ok_or_else(|| damaged(self.entries, at, format!("a length of {length} bytes")))?;
        self.payload.resize(length, 0);
        let read = fill(&mut self.reader, &mut self.payload)?;
        self.position += read as u64;
        if read < length {
            return Ok(Frame::Cut);
        }
        if crc32fast::hash(&self.payload) != sum {
            return Err(damaged(self.entries, at, "a wrong checksum".to_owned()));
        }
        Ok(Frame::Whole)
    }
}

fn decode<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

fn damaged(entry: u64, at: u64, what: String) -> Error {
    Error::Damaged { entry, at, what }
}

/// Reads as much as fits, less only at the end.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
