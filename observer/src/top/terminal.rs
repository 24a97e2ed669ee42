//! The terminal: taken, and given back as it was, however the program ends.

use std::{
    env,
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
    os::fd::AsFd as _,
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    backend::CrosstermBackend,
    buffer::Buffer,
    crossterm::{
        Command as _,
        cursor::Show,
        event, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Timespec,
    io::Errno,
};

use super::{log, view::Look};

/// Whether it has to be given back.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while the screen is on it.
pub(super) struct Terminal {
    screen: ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    /// What keys are read from where standard input is something else, as crossterm does.
    keys: Option<File>,
}

impl Terminal {
    /// Takes it.
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                report(info);
            }));
        });
        log::hold();
        TAKEN.store(true, Ordering::Release);
        let opened = enable_raw_mode().and_then(|()| {
            let mut writer = BufWriter::with_capacity(64 * 1024, io::stdout());
            execute!(writer, EnterAlternateScreen)?;
            let keys = (!io::stdin().is_terminal()).then(|| File::open("/dev/tty"));
            Ok(Self {
                screen: ratatui::Terminal::new(CrosstermBackend::new(writer))?,
                keys: keys.transpose()?,
            })
        });
        match opened {
            Ok(terminal) => Ok(terminal),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Writes what is different from the last time.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        if !TAKEN.load(Ordering::Acquire) {
            // Another thread panicked.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let drawn = self.screen.draw(|frame| draw(frame.buffer_mut()));
        drawn.map(|_| ()).map_err(|error| {
            match Errno::from_io_error(&error) {
                // It has hung up.
                Some(Errno::IO) => io::ErrorKind::BrokenPipe.into(),
                _ => error,
            }
        })
    }

    /// Waits for a key or another size. Returns whether there is one.
    ///
    /// It is not crossterm that waits: when the terminal hangs up meanwhile, it reads in vain for ever.
    pub(super) fn wait(&self, longest: Duration) -> io::Result<bool> {
        let stdin = io::stdin();
        let keys = self.keys.as_ref().map_or(stdin.as_fd(), File::as_fd);
        let longest = Timespec::try_from(longest).map_err(io::Error::other)?;
        let mut keys = [PollFd::new(&keys, PollFlags::IN)];
        match poll(&mut keys, Some(&longest)) {
            // Such as another size.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if is_gone(keys[0].revents()) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        event::poll(Duration::ZERO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether there is one.
pub(super) fn check() -> anyhow::Result<()> {
    anyhow::ensure!(
        io::stdout().is_terminal(),
        "standard output is no terminal; `observer watch` writes records anywhere"
    );
    Ok(())
}

/// Whether the terminal has hung up.
pub(super) fn has_hung_up() -> bool {
    let stdout = io::stdout();
    let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut stdout, Some(&Timespec::default())).is_ok() && is_gone(stdout[0].revents())
}

fn is_gone(events: PollFlags) -> bool {
    events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// Gives it back while another thread is stuck in reading it, or in writing, which no other must wait for then.
pub(super) fn let_go() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    let _ = disable_raw_mode();
    let stdout = io::stdout();
    let mut takes = [PollFd::new(&stdout, PollFlags::OUT)];
    if poll(&mut takes, Some(&Timespec::default())).is_ok_and(|ready| ready == 1) {
        let mut codes = String::new();
        let _ = LeaveAlternateScreen.write_ansi(&mut codes);
        let _ = Show.write_ansi(&mut codes);
        // Not by `Stdout`, which the other thread may have locked.
        let _ = rustix::io::write(&stdout, codes.as_bytes());
    }
    log::release();
}

impl Look {
    /// By `TERM`, `NO_COLOR` and the locale.
    pub(super) fn of_environment(ascii: bool) -> Self {
        Self::of(ascii, |name| env::var(name).ok())
    }

    fn of(ascii: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let said = |name: &str| variable(name).filter(|value| !value.is_empty());
        let terminal = said("TERM").unwrap_or_else(|| "dumb".to_owned());
        let is_simple = terminal == "dumb" || terminal.starts_with("vt");
        // The order of setlocale(3).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(said);
        let locale = locale.unwrap_or_default().to_lowercase();
        Self {
            // https://no-color.org
            colour: !is_simple && said("NO_COLOR").is_none(),
            unicode: !ascii && !is_simple && (locale.contains("utf-8") || locale.contains("utf8")),
        }
    }
}

fn give_back() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    // If one fails the others still help.
    let _ = disable_raw_mode();
    let mut stdout = io::stdout();
    let _ = execute!(stdout, LeaveAlternateScreen, Show);
    let _ = stdout.flush();
    log::release();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ascii: bool, variables: &[(&str, &str)]) -> (bool, bool) {
        let look = Look::of(ascii, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        (look.colour, look.unicode)
    }

    #[test]
    fn the_environment_says_what_a_terminal_can_do() {
        let usual = [("TERM", "xterm-256color"), ("LANG", "de_DE.UTF-8")];
        assert_eq!(look(false, &usual), (true, true));
        assert_eq!(look(true, &usual), (true, false));
        let with = |name, value| [&[(name, value)], &usual[..]].concat();
        assert_eq!(look(false, &with("NO_COLOR", "1")), (false, true));
        assert_eq!(look(false, &with("NO_COLOR", "")), (true, true));
        assert_eq!(look(false, &with("TERM", "vt100")), (false, false));
        assert_eq!(look(false, &with("TERM", "dumb")), (false, false));
        assert_eq!(look(false, &with("LC_ALL", "C")), (true, false));
        assert_eq!(look(false, &with("LC_CTYPE", "C.utf8")), (true, true));
        assert_eq!(look(false, &[]), (false, false));
    }
}
