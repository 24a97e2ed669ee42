//! The terminal: taken, and given back as it was, however the program ends.

use std::{
    env,
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use ratatui::{
    backend::CrosstermBackend,
    buffer::Buffer,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use super::{log, view::Look};

/// Whether it has to be given back.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while the screen is on it.
pub(super) struct Terminal(ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>);

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
            ratatui::Terminal::new(CrosstermBackend::new(writer))
        });
        match opened {
            Ok(terminal) => Ok(Self(terminal)),
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
        self.0.draw(|frame| draw(frame.buffer_mut())).map(|_| ())
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
