//! `observer check`: what this machine, these rights and a process allow.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anstyle::{AnsiColor, Color, Style};
use observer_common::count;
use serde::Serialize;

use crate::attach::{
    Attacher, Watch,
    boundary::Start,
    examine::{Examination, Located, examine_file},
    java,
    processes::{self, Identity, MappedFile, Pid, Stamp},
    python,
    site::Cost,
    system,
    tls::Probe,
};

const GOOD: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const BAD: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red)));

/// Smallest ring buffer that the programs load with, in bytes.
const TEST_RING: u32 = 64 * 1024;

/// Form of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether everything that is needed is there.
    pub ok: bool,
    /// What was looked at, in the order of the text.
    pub findings: Vec<Finding>,
    /// The interface of the kernel that is taken.
    pub attach_by: Option<&'static str>,
    /// The TLS libraries of the process.
    pub libraries: Vec<LibraryReport>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Whether it is as it must be.
    pub ok: bool,
    /// What it is.
    pub what: &'static str,
    /// What was found, and what to do about it.
    pub text: String,
    /// More of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// A TLS library of the process.
#[derive(Debug, Serialize)]
pub struct LibraryReport {
    /// Which library.
    pub library: String,
    /// The file, as the process sees it.
    pub path: String,
    /// By what its functions were found.
    pub found_by: String,
    /// The places that are probed.
    pub probes: Vec<ProbeReport>,
}

/// A place that is probed.
#[derive(Debug, Serialize)]
pub struct ProbeReport {
    /// The function, or functions, whose calls pass there.
    pub function: String,
    /// Offset in the file.
    pub offset: u64,
    /// Address of the instruction, as linked.
    pub address: u64,
    /// Address of the function that the instruction is in.
    pub within: u64,
    /// Where the number of bytes is found: `result`, or the argument, from 0, that points to it.
    pub count: &'static str,
    /// Whether the return is probed too.
    pub r#return: bool,
    /// The instruction.
    pub site: String,
    /// `emulated` or `single-stepped`.
    pub cost: &'static str,
    /// By what the start of the function is known that the instruction is in.
    pub proved_by: Start,
    /// `certain`, `sure` or `likely`: how strong that is.
    pub confidence: &'static str,
}

/// Checks the machine and, if they are given, a process and files.
pub fn check(pid: Option<Pid>, files: &[PathBuf]) -> Report {
    let mut report = Report {
        ok: true,
        findings: Vec::new(),
        attach_by: None,
        libraries: Vec::new(),
    };
    report.machine();
    if let Some(pid) = pid {
        report.process(pid);
    }
    for path in files {
        report.file(path);
    }
    report
}

impl Report {
    /// Writes the report.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        if format == Format::Json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        for finding in &self.findings {
            let (style, mark) = if finding.ok {
                (GOOD, "ok")
            } else {
                (BAD, "no")
            };
            writeln!(
                out,
                "{style}{mark}{style:#}  {:<10} {}",
                finding.what, finding.text
            )?;
            for detail in &finding.details {
                writeln!(out, "               {detail}")?;
            }
        }
        Ok(())
    }

    fn machine(&mut self) {
        self.add(
            true,
            "kernel",
            format!("{} on {}", system::kernel_release(), std::env::consts::ARCH),
        );
        let missing = system::missing_capabilities();
        if missing.is_empty() {
            self.add(true, "rights", "all capabilities that are needed");
        } else {
            self.add(
                false,
                "rights",
                format!("{} missing: run observer with sudo", missing.join(", ")),
            );
        }
        match system::mounted_tracefs() {
            Some(path) => self.add(true, "tracefs", path.display().to_string()),
            None => self.add(
                true,
                "tracefs",
                "not mounted; observer mounts it at /sys/kernel/tracing",
            ),
        }
        let btf = fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false);
        self.add(
            true,
            "BTF",
            if btf {
                "available"
            } else {
                "not there; not needed"
            },
        );
        match Attacher::new(Watch::Processes, TEST_RING, None, false) {
            Ok((mut attacher, _)) => {
                let plaintext = attacher.capture_plaintext();
                let (rung, refusals) = attacher.rung();
                self.attach_by = Some(rung.as_str());
                self.add(true, "uprobes", format!("by {rung}"));
                self.details(refusals.iter().map(|refusal| format!("not by {refusal}")));
                match attacher.load_all() {
                    Ok(()) => self.add(
                        true,
                        "programs",
                        "all accepted by the verifier, and attached for a test",
                    ),
                    Err(error) => self.add(false, "programs", error.to_string()),
                }
                match plaintext {
                    Ok(()) => self.add(
                        true,
                        "plain HTTP",
                        "by system calls on sockets; what passes by io_uring is not seen",
                    ),
                    Err(error) => self.add(false, "plain HTTP", error.to_string()),
                }
            }
            Err(error) => self.add(false, "programs", error.to_string()),
        }
    }

    fn process(&mut self, pid: Pid) {
        if !processes::alive(pid) {
            self.add(false, "process", format!("there is no process {pid}"));
            return;
        }
        let identity = Identity::of(pid);
        let name = identity.comm.unwrap_or_default();
        let exe = identity
            .exe
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        self.add(true, "process", format!("{pid} {name} {exe}"));
        let files = match processes::mapped_files(pid) {
            Ok(files) => files,
            Err(error) => {
                self.add(false, "libraries", format!("cannot be listed: {error}"));
                return;
            }
        };
        let reached = self.java(pid, &files);
        if let Some(text) = python::check(pid, &files) {
            // Its calls are seen either way.
            self.add(true, "Python", text);
        }
        let mut known = HashSet::new();
        for mapped in &files {
            let file = match mapped.open() {
                Ok(file) => file,
                Err(error) => {
                    let text = format!("{} cannot be opened: {error}", mapped.path.display());
                    self.add(false, "file", text);
                    continue;
                }
            };
            // One file may be mapped more than once.
            if Stamp::of(&file).is_ok_and(|stamp| known.insert(stamp.id))
                && let Ok(examination) = examine_file(&file)
            {
                self.libraries(&mapped.path, examination);
            }
        }
        if self.libraries.is_empty() && !reached {
            let why = "it has not mapped a TLS library that observer can watch. A library that is loaded later \
                       is found then; plain HTTP is seen without one";
            self.add(false, "libraries", why);
        }
    }

    /// What a process that is a JVM allows. Returns whether the JDK's own TLS can be watched.
    fn java(&mut self, pid: Pid, files: &[MappedFile]) -> bool {
        if !files.iter().any(|file| file.path.ends_with("libjvm.so")) {
            return false;
        }
        match java::check(pid, files) {
            Ok(()) if !java::is_built() => {
                self.add(false, "Java", java::Error::NotBuilt.to_string());
                false
            }
            Ok(()) => {
                self.add(
                    true,
                    "Java",
                    "the JDK's own TLS needs --java-agent, which loads an agent into the JVM",
                );
                true
            }
            Err(error) => {
                let text = format!("the JDK's own TLS cannot be watched: {error}");
                self.add(false, "Java", text);
                false
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let examination = File::open(path)
            .map_err(|error| error.to_string())
            .and_then(|file| examine_file(&file));
        match examination {
            Ok(examination) if examination.is_empty() => {
                let text = format!(
                    "{} holds no TLS library that observer knows",
                    path.display()
                );
                self.add(false, "libraries", text);
            }
            Ok(examination) => self.libraries(path, examination),
            Err(reason) => self.add(false, "file", format!("{}: {reason}", path.display())),
        }
    }

    fn libraries(&mut self, path: &Path, examination: Examination) {
        let path = path.display().to_string();
        for located in examination.found {
            let Located {
                library,
                found,
                starts,
            } = located;
            self.add(
                true,
                "TLS",
                format!("{library} in {path}, found by {}", found.how),
            );
            let probes = || found.probes.iter().zip(starts.iter().copied());
            self.details(probes().map(line));
            self.libraries.push(LibraryReport {
                library,
                path: path.clone(),
                probes: probes().map(ProbeReport::from).collect(),
                found_by: found.how,
            });
        }
        for (library, reason) in examination.refused {
            let text = format!("{library} in {path} cannot be watched: {reason}");
            self.add(false, "TLS", text);
        }
    }

    fn add(&mut self, ok: bool, what: &'static str, text: impl Into<String>) {
        self.ok &= ok;
        self.findings.push(Finding {
            ok,
            what,
            text: text.into(),
            details: Vec::new(),
        });
    }

    fn details(&mut self, details: impl Iterator<Item = String>) {
        if let Some(finding) = self.findings.last_mut() {
            finding.details.extend(details);
        }
    }
}

fn line((probe, start): (&Probe, Start)) -> String {
    let names = probe.functions.join(", ");
    let site = &probe.site;
    let place = format!(
        "{} at {:#x}{}",
        site.instruction,
        probe.offset,
        if probe.returns { " and return" } else { "" }
    );
    let cost = match site.cost {
        Cost::Emulated => "cheap (emulated)",
        Cost::SingleStepped => "slow: no cheaper place could be proved right",
    };
    format!(
        "{names:<24} {place}, {cost}; {} by {start}",
        start.confidence()
    )
}

impl From<(&Probe, Start)> for ProbeReport {
    fn from((probe, start): (&Probe, Start)) -> Self {
        Self {
            function: probe.functions.join(","),
            offset: probe.offset,
            address: probe.site.address,
            within: probe.site.function,
            count: match probe.cookie.count {
                count::ARGUMENT_3 => "argument 3",
                count::ARGUMENT_4 => "argument 4",
                count::ARGUMENT_3_OR_4 => "argument 3 or 4",
                _ => "result",
            },
            r#return: probe.returns,
            site: probe.site.instruction.clone(),
            cost: probe.site.cost.as_str(),
            proved_by: start,
            confidence: start.confidence(),
        }
    }
}
