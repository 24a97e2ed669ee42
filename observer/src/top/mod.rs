//! `observer top`: what is going on, on one screen.
//!
//! An exporter puts the records into a `Model`; a thread of its own reads keys and draws. What is held up by a slow
//! terminal is that thread alone: the model is locked while it is read, not while the terminal is written to.

pub mod log;
mod model;
mod terminal;
mod view;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::{Timestamp as Utc, tz::TimeZone};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::process::{Signal, getpid, kill_process};

use crate::{
    export::{Exporter, Health},
    records::Record,
    tail::Follower,
    trace::{CallRecord, CallStarted, OtherRequest, TraceRecord},
};
use model::{Call, Ended, Model};
use terminal::Terminal;
use view::{Action, Look, Screen};

/// The least time between two drawings because of records.
const FRAME: Duration = Duration::from_millis(250);

/// The least time between two drawings because of keys.
const KEY_FRAME: Duration = Duration::from_millis(30);

/// Keys that are taken before the screen is drawn.
const KEYS: usize = 256;

/// How long the screen may take to end: it may be stuck in writing to its terminal.
const END: Duration = Duration::from_secs(1);

/// How often it is looked whether it has ended.
const WAIT: Duration = Duration::from_millis(5);

/// How often a file is looked at for more.
const LOOK: Duration = Duration::from_millis(250);

/// The screen as an exporter.
pub struct Top {
    shared: Arc<Shared>,
    /// Until the agent is at work, and says so by its first record.
    prepared: Option<Screen>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the rest of the program may do with the screen.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    model: Mutex<Model>,
    message: Mutex<Option<String>>,
    /// The screen has to end, or has ended. Handlers of signals may set it.
    over: Arc<AtomicBool>,
}

impl Top {
    /// A screen about what is watched.
    ///
    /// # Errors
    ///
    /// Standard output is no terminal.
    pub fn open(subject: String, ascii: bool) -> anyhow::Result<Self> {
        Self::prepare(subject, true, ascii)
    }

    /// To talk to the screen once it belongs to its thread.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    fn prepare(subject: String, live: bool, ascii: bool) -> anyhow::Result<Self> {
        terminal::check()?;
        let look = Look::of_environment(ascii);
        Ok(Self {
            shared: Arc::new(Shared {
                model: Mutex::new(Model::new(Utc::now())),
                message: Mutex::new(None),
                over: Arc::default(),
            }),
            prepared: Some(Screen::new(subject, live, look, TimeZone::system())),
            thread: None,
        })
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(screen) = self.prepared.take() else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        let run = move || {
            let _end = End(&shared.over);
            show(&shared, screen)
        };
        let thread = thread::Builder::new().name("screen".to_owned());
        self.thread = Some(thread.spawn(run)?);
        Ok(())
    }

    fn take(&mut self, step: impl FnOnce(&mut Model)) -> io::Result<()> {
        self.start()?;
        if self.shared.is_over() {
            // Nobody looks any more.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        step(&mut self.shared.model());
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.shared.over.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let deadline = Instant::now() + END;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                // Whoever ends the program must not have to wait for a terminal that does nothing.
                terminal::let_go();
                return Ok(());
            }
            thread::sleep(WAIT);
        }
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the screen's thread panicked")))
    }
}

impl Exporter for Top {
    fn name(&self) -> &'static str {
        "top"
    }

    fn flush_after(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn is_live(&self) -> bool {
        true
    }

    fn call(&mut self, call: &CallRecord) -> io::Result<()> {
        self.take(|model| model.call_ended(Call::from(call)))
    }

    fn trace(&mut self, trace: &TraceRecord) -> io::Result<()> {
        self.take(|model| model.trace_ended(Ended::from(trace)))
    }

    fn started(&mut self, call: &CallStarted) -> io::Result<()> {
        self.take(|model| model.call_started(call))
    }

    fn dismissed(&mut self, span_id: &str) -> io::Result<()> {
        self.take(|model| model.call_dismissed(span_id))
    }

    fn other(&mut self, _request: &OtherRequest) -> io::Result<()> {
        self.take(Model::other)
    }

    fn health(&mut self, health: &Health) -> io::Result<()> {
        self.take(|model| model.health(health, Utc::now()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.end()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // The terminal is as it was before anything else is said.
        let _ = self.end();
    }
}

impl Handle {
    /// Shows a message, and lets the screen stay until the user ends it, or `stop` says so.
    pub fn stay(&self, message: &str, mut stop: impl FnMut() -> bool) {
        *lock(&self.0.message) = Some(message.to_owned());
        while !self.0.is_over() && !stop() {
            thread::sleep(FRAME);
        }
    }
}

/// The end of the screen, also by a panic: whoever waits for signals ends as if by Ctrl-C, which does not come from a
/// terminal that gives each key as it is.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if !self.0.swap(true, Ordering::AcqRel) {
            // Not allowed to signal oneself: there is no such case.
            let _ = kill_process(getpid(), Signal::INT);
        }
    }
}

impl Shared {
    fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// Whether there is a screen no longer, or nobody to see it.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || terminal::has_hung_up()
    }
}

/// Follows a file of records, as `tail -F` does, until a key or a signal ends it.
///
/// # Errors
///
/// Standard output is no terminal, or the file cannot be read.
pub fn follow(path: &Path, ascii: bool) -> anyhow::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        flag,
    };
    let name = path.display().to_string();
    std::fs::metadata(path).with_context(|| format!("cannot open {name}"))?;
    let mut top = Top::prepare(name.clone(), false, ascii)?;
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&top.shared.over)).context("cannot handle signals")?;
    }
    top.start().context("cannot start the screen")?;
    let mut follower = Follower::new(path);
    while !top.shared.is_over() {
        let mut taken = Vec::new();
        let result = follower.advance(&mut |record| taken.push(record));
        let (read, bad) = result.with_context(|| format!("cannot read {name}"))?;
        let mut model = top.shared.model();
        for record in taken {
            match record {
                Record::Call(call) => model.call_ended(Call::from(&*call)),
                Record::Trace(trace) => model.trace_ended(Ended::from(&*trace)),
            }
        }
        model.bad_lines(bad);
        drop(model);
        if read == 0 {
            thread::sleep(LOOK);
        }
    }
    top.end().context("cannot draw on the terminal")
}

/// Draws and reads keys until the end.
fn show(shared: &Shared, mut screen: Screen) -> io::Result<()> {
    let mut terminal = Terminal::open()?;
    // What stands still while the screen is paused, and when that began.
    let mut held: Option<(Model, Utc)> = None;
    let mut drawn = None;
    let mut drawn_at = Instant::now();
    let mut asked = true;
    while !shared.over.load(Ordering::Acquire) {
        if let Some(message) = lock(&shared.message).take().or_else(log::latest) {
            screen.say(message);
            asked = true;
        }
        let now = Utc::now();
        let state = (shared.model().changes(), now.as_second());
        let is_due = held.is_none() && drawn != Some(state) && drawn_at.elapsed() >= FRAME;
        if (asked && drawn_at.elapsed() >= KEY_FRAME) || is_due || drawn.is_none() {
            match &held {
                Some((model, then)) => terminal.draw(|buffer| screen.draw(buffer, model, *then))?,
                None => terminal.draw(|buffer| screen.draw(buffer, &shared.model(), now))?,
            }
            (drawn, drawn_at, asked) = (Some(state), Instant::now(), false);
        }
        let mut wait = if asked { KEY_FRAME } else { FRAME };
        for _ in 0..KEYS {
            if !terminal.wait(wait)? {
                break;
            }
            wait = Duration::ZERO;
            let action = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => screen.press(key),
                Event::Resize(..) => Action::Draw,
                _ => Action::Nothing,
            };
            match action {
                Action::Draw => asked = true,
                Action::Nothing => {}
                Action::Quit => return Ok(()),
            }
            if screen.is_paused() && held.is_none() {
                held = Some((shared.model().clone(), Utc::now()));
            } else if !screen.is_paused() {
                held = None;
            }
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
