//! Writing a recording. A thread of its own does it behind a bounded queue, so that a slow disk does not
//! hold up the capture. A recording has no holes: where the disk is full or too slow, it ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    mem,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use observer_wire::Timestamp;
use rustix::fs::OFlags;
use serde::Serialize;
use tracing::warn;

use super::{Entry, Head, LONGEST, MAGIC, VERSION};
use crate::{capture::loss::Losses, engine::Input};

/// Bytes that are handed to the thread at once.
const BLOCK: usize = 256 * 1024;

/// Blocks that may wait for the disk.
const BLOCKS: usize = 256;

/// Bytes that may wait for it: 64 MiB.
const WAITING: usize = BLOCKS * BLOCK;

/// Writes down what the engine is given.
pub struct Recorder {
    block: Vec<u8>,
    /// Reused for the payload of one frame.
    payload: Vec<u8>,
    /// `None` once the recording has ended.
    blocks: Option<SyncSender<Vec<u8>>>,
    /// Bytes that were handed over and are not written.
    waiting: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
    path: PathBuf,
}

/// A file for a recording. Is removed again if none is begun.
#[derive(Debug)]
pub struct Created {
    /// `None` once a recording has begun.
    file: Option<File>,
    path: PathBuf,
}

impl Created {
    /// Begins the recording.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn start(mut self, head: &Head) -> anyhow::Result<Recorder> {
        let file = self.file.as_ref().map(File::try_clone);
        let file = file.context("the recording has begun")??;
        let recorder = Recorder::start(file, &self.path, head)?;
        self.file = None;
        Ok(recorder)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            let path = self.path.display();
            warn!("cannot remove {path}, which holds no recording: {error}");
        }
    }
}

impl Recorder {
    /// Creates the file, which nobody else may read.
    ///
    /// # Errors
    ///
    /// There is something by this name, a symbolic link included; or it cannot be created.
    pub fn create(path: &Path) -> anyhow::Result<Created> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => anyhow::anyhow!(
                    "{} is there already, and recordings are neither appended to nor overwritten: take another name or remove it",
                    path.display()
                ),
                _ => anyhow::anyhow!("cannot create {}: {error}", path.display()),
            })?;
        Ok(Created {
            file: Some(file),
            path: path.to_owned(),
        })
    }

    /// Begins a recording in `file`. `path` is for messages.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn start(
        file: impl Write + Send + 'static,
        path: &Path,
        head: &Head,
    ) -> anyhow::Result<Self> {
        let (sender, blocks) = mpsc::sync_channel(BLOCKS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let name = path.to_owned();
        let thread = thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || {
                if let Err(error) = write_all(file, &blocks, &left) {
                    let path = name.display();
                    warn!("the recording {path} has ended early: {error}; the capture goes on");
                }
            })
            .context("cannot start the thread that records")?;
        let mut recorder = Self {
            block: Vec::with_capacity(BLOCK),
            payload: Vec::new(),
            blocks: Some(sender),
            waiting,
            thread,
            path: path.to_owned(),
        };
        recorder.block.extend_from_slice(MAGIC);
        recorder.block.extend_from_slice(&VERSION.to_le_bytes());
        recorder.frame(head);
        Ok(recorder)
    }

    /// Notes what the engine is given next.
    pub fn input(&mut self, input: &Input<'_>) {
        if self.blocks.is_none() {
            return;
        }
        self.frame(&Entry::of(input));
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }

    /// Hands what is there to the thread. Where too many blocks wait, however small, it is kept.
    pub fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let Some(blocks) = &self.blocks else {
            self.block = Vec::new();
            return;
        };
        let length = self.block.len();
        // Before the thread takes them off again.
        let waiting = self.waiting.fetch_add(length, Ordering::Relaxed);
        if waiting + length > WAITING {
            self.give_up("the disk is too slow");
            return;
        }
        match blocks.try_send(mem::take(&mut self.block)) {
            Ok(()) => self.block.reserve(BLOCK),
            Err(TrySendError::Full(block)) => {
                self.waiting.fetch_sub(length, Ordering::Relaxed);
                self.block = block;
            }
            // The thread has said why.
            Err(TrySendError::Disconnected(_)) => self.blocks = None,
        }
    }

    /// Whether anything has not been handed over.
    pub fn is_holding(&self) -> bool {
        !self.block.is_empty()
    }

    /// Writes the end, and waits until all is written.
    pub fn finish(mut self, now: Timestamp, losses: &Losses) {
        if self.blocks.is_some() {
            self.frame(&Entry::End {
                now: now.0,
                lost: losses.counts().to_vec(),
                malformed: losses.malformed(),
            });
        }
        if let Some(blocks) = self.blocks.take() {
            self.waiting.fetch_add(self.block.len(), Ordering::Relaxed);
            let _ = blocks.send(self.block);
        }
        if self.thread.join().is_err() {
            warn!("the thread that records panicked");
        }
    }

    fn frame(&mut self, content: &impl Serialize) {
        self.payload.clear();
        match postcard::to_extend(content, mem::take(&mut self.payload)) {
            Ok(payload) if payload.len() <= LONGEST => {
                // Not longer than the limit, so it fits.
                let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                self.block.extend_from_slice(&length.to_le_bytes());
                self.block
                    .extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
                self.block.extend_from_slice(&payload);
                self.payload = payload;
            }
            Ok(payload) => self.give_up(&format!("an entry has {} bytes", payload.len())),
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    fn give_up(&mut self, why: &str) {
        let path = self.path.display();
        warn!("the recording {path} has ended early: {why}; the capture goes on");
        self.blocks = None;
        self.block = Vec::new();
    }
}

fn write_all(
    mut file: impl Write,
    blocks: &mpsc::Receiver<Vec<u8>>,
    waiting: &AtomicUsize,
) -> io::Result<()> {
    for block in blocks {
        file.write_all(&block)?;
        waiting.fetch_sub(block.len(), Ordering::Relaxed);
    }
    file.flush()
}
