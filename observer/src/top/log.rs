//! What is logged while the screen is there: it must not be written over it.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write},
    sync::{Mutex, PoisonError},
};

use crate::text::shown;

/// Lines that are held.
const LINES: usize = 100;

static HELD: Mutex<Option<Held>> = Mutex::new(None);

#[derive(Default)]
struct Held {
    lines: VecDeque<Vec<u8>>,
    /// Lines that the screen has not shown.
    unseen: bool,
}

/// Standard error; or, while a screen is on the same terminal, what is written once that is gone.
pub struct Writer(());

/// For [`tracing_subscriber`], which writes a line at once.
pub fn writer() -> Writer {
    Writer(())
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = &mut *held else {
            return io::stderr().write(bytes);
        };
        if held.lines.len() >= LINES {
            held.lines.pop_front();
        }
        held.lines.push_back(bytes.to_vec());
        held.unseen = true;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Holds back what is written, if it would go to a terminal.
pub(super) fn hold() {
    if io::stderr().is_terminal() {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Held::default());
    }
}

/// Writes what was held back.
pub(super) fn release() {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
    for line in held.iter().flat_map(|held| &held.lines) {
        // There is no other place to complain at.
        let _ = io::stderr().write_all(line);
    }
}

/// The last line that was held back, once.
pub(super) fn latest() -> Option<String> {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let held = held.as_mut().filter(|held| held.unseen)?;
    held.unseen = false;
    let line = String::from_utf8_lossy(held.lines.back()?).into_owned();
    let text = anstream::adapter::strip_str(&line).to_string();
    Some(shown(text.trim()))
}
