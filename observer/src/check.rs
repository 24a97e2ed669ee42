//! `observer check`: what this kernel, these rights and a process allow, and what to do about it.

use std::{fs, io::Write};

use anstyle::{AnsiColor, Color, Style};

use crate::attach::{
    self, Attacher, Watch,
    processes::{self, Identity, Pid},
    system,
    tls::{LIBRARIES, Program},
};

const GOOD: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const BAD: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red)));

/// Smallest ring buffer that the programs load with, in bytes.
const TEST_RING: u32 = 64 * 1024;

/// Checks the machine and, if one is given, a process. Returns whether everything that is needed is
/// there.
///
/// # Errors
///
/// The output cannot be written.
pub fn run(pid: Option<Pid>, out: &mut impl Write) -> std::io::Result<bool> {
    let mut report = Report { out, fine: true };
    report.machine()?;
    if let Some(pid) = pid {
        report.process(pid)?;
    }
    Ok(report.fine)
}

struct Report<'a, W> {
    out: &'a mut W,
    fine: bool,
}

impl<W: Write> Report<'_, W> {
    fn machine(&mut self) -> std::io::Result<()> {
        self.line(
            true,
            "kernel",
            &format!("{} on {}", system::kernel_release(), std::env::consts::ARCH),
        )?;
        let missing = system::missing_capabilities();
        if missing.is_empty() {
            self.line(true, "rights", "all capabilities that are needed")?;
        } else {
            self.line(
                false,
                "rights",
                &format!("{} missing: run observer with sudo", missing.join(", ")),
            )?;
        }
        match system::uprobes() {
            Ok(()) => self.line(true, "uprobes", "available through perf events")?,
            Err(error) => self.line(false, "uprobes", &error.to_string())?,
        }
        match system::mounted_tracefs() {
            Some(path) => self.line(true, "tracefs", &path.display().to_string())?,
            None => self.line(
                true,
                "tracefs",
                "not mounted; observer mounts it at /sys/kernel/tracing",
            )?,
        }
        let btf = fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false);
        self.line(
            true,
            "BTF",
            if btf {
                "available"
            } else {
                "not there; not needed"
            },
        )?;
        match Attacher::new(Watch::Processes, TEST_RING) {
            Ok(_) => self.line(
                true,
                "programs",
                "accepted by the verifier and attached for a test",
            ),
            Err(error) => self.line(false, "programs", &error.to_string()),
        }
    }

    fn process(&mut self, pid: Pid) -> std::io::Result<()> {
        if !processes::alive(pid) {
            return self.line(false, "process", &format!("there is no process {pid}"));
        }
        let identity = Identity::of(pid);
        let name = identity.comm.unwrap_or_default();
        let exe = identity
            .exe
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        self.line(true, "process", &format!("{pid} {name} {exe}"))?;
        let files = match processes::mapped_files(pid) {
            Ok(files) => files,
            Err(error) => {
                return self.line(false, "libraries", &format!("cannot be listed: {error}"));
            }
        };
        let mut found = false;
        for mapped in &files {
            let Some(library) = LIBRARIES
                .iter()
                .find(|library| library.may_be(&mapped.path))
            else {
                continue;
            };
            let path = mapped.path.display();
            let probes = mapped
                .open()
                .map_err(|error| error.to_string())
                .and_then(|file| attach::find(*library, &file));
            match probes {
                Ok(probes) => {
                    found = true;
                    self.line(true, library.name(), &format!("{path} (symbols)"))?;
                    for probe in probes
                        .iter()
                        .filter(|probe| probe.program != Program::Return)
                    {
                        writeln!(
                            self.out,
                            "               {:<14} at {:#x}, function entry",
                            probe.function, probe.offset
                        )?;
                    }
                }
                Err(reason) => self.line(
                    false,
                    library.name(),
                    &format!("{path} cannot be probed: {reason}"),
                )?,
            }
        }
        if !found {
            let why = "it has not mapped a TLS library that observer knows (libssl as a shared library). A library \
                       that is loaded later is found then";
            self.line(false, "libraries", why)?;
        }
        Ok(())
    }

    fn line(&mut self, good: bool, what: &str, text: &str) -> std::io::Result<()> {
        self.fine &= good;
        let (style, mark) = if good { (GOOD, "ok") } else { (BAD, "no") };
        writeln!(self.out, "{style}{mark}{style:#}  {what:<10} {text}")
    }
}
