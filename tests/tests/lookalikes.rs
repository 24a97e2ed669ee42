//! Files without a TLS library, and files that look as if they had one: wrong detection is worse than none.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use observer_e2e::{clients, harness::binary};
use serde_json::Value;

/// Folders of programs and libraries.
const FOLDERS: [&str; 3] = ["/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu"];

/// `e_machine` of x86-64 (elf(5)).
const X86_64: [u8; 2] = [62, 0];

/// What may be told of a file in this processor time and memory, whatever it says.
const LONGEST: Duration = Duration::from_secs(20);
const LARGEST: u64 = 300 << 20;

/// The time on the clock after which it would not end by itself, however busy the machine.
const HUNG: Duration = Duration::from_secs(300);

/// The unit of times in /proc (time(7), `USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// The ELF files of this machine's architecture below a folder, each inode once.
fn elf_files(folder: &Path, seen: &mut HashSet<(u64, u64)>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let metadata = entry.metadata().unwrap();
                let mut head = [0; 20];
                let is_elf = File::open(&path)
                    .and_then(|mut file| file.read_exact(&mut head))
                    .is_ok_and(|()| head.starts_with(b"\x7fELF\x02\x01") && head[18..] == X86_64);
                if is_elf && seen.insert((metadata.dev(), metadata.ino())) {
                    files.push(path);
                }
            }
        }
    }
    files.sort();
    files
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `observer check` says of files.
fn check(files: &[PathBuf]) -> Value {
    let mut command = Command::new(binary());
    command.args(["check", "--format", "json"]);
    for file in files {
        command.arg("--file").arg(file);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}: {error}", output.status))
}

/// The libraries that are found in files, by path.
fn found(files: &[PathBuf]) -> BTreeMap<PathBuf, BTreeSet<String>> {
    let mut found: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for library in check(files)["libraries"].as_array().unwrap() {
        assert_ne!(library["probes"].as_array().unwrap().len(), 0);
        let name = library["library"].as_str().unwrap().to_owned();
        let path = library["path"].as_str().unwrap();
        found.entry(path.into()).or_default().insert(name);
    }
    found
}

/// The files that define functions of such names, by binutils.
fn defining(files: &[PathBuf], names: &[&str]) -> BTreeSet<PathBuf> {
    let mut defined: BTreeMap<PathBuf, HashSet<String>> = BTreeMap::new();
    for options in [
        &["-A", "--defined-only"][..],
        &["-A", "-D", "--defined-only"],
    ] {
        let text = output(Command::new("nm").args(options).args(files));
        for line in text.lines() {
            // `FILE:ADDRESS KIND NAME@@VERSION`
            let mut words = line.rsplitn(3, ' ');
            let (Some(name), Some("T" | "t" | "W" | "i"), Some(place)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let name = name.split('@').next().unwrap();
            if names.contains(&name) {
                let (path, _) = place.rsplit_once(':').unwrap();
                let of_file = defined.entry(path.into()).or_default();
                of_file.insert(name.to_owned());
            }
        }
    }
    defined.retain(|_, of_file| of_file.len() == names.len());
    defined.into_keys().collect()
}

/// The files that Go has built with its `crypto/tls`, by Go.
fn built_by_go(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let text = output(Command::new("go").arg("version").args(files));
    let paths = text.lines().filter_map(|line| line.split_once(": go"));
    paths
        .map(|(path, _)| PathBuf::from(path))
        .filter(|path| {
            let name = b"crypto/tls.(*Conn).Write\0";
            let bytes = fs::read(path).unwrap();
            bytes.windows(name.len()).any(|window| window == name)
        })
        .collect()
}

#[test]
fn of_all_programs_and_libraries_of_a_system_those_with_tls() {
    let mut seen = HashSet::new();
    let mut files: Vec<PathBuf> = FOLDERS
        .iter()
        .flat_map(|folder| elf_files(Path::new(folder), &mut seen))
        .collect();
    // The agent holds every name that it looks for; wheels hold compiled code of every kind.
    let agent = fs::canonicalize(binary()).unwrap();
    files.push(agent.clone());
    let python = clients::python().unwrap();
    let packages = python.parent().unwrap().parent().unwrap().join("lib");
    files.extend(elf_files(&packages, &mut seen));
    assert!(files.len() > 500, "{}", files.len());
    let started = Instant::now();
    let found = found(&files);
    println!("{} files in {:?}", files.len(), started.elapsed());
    let of = |library: &str| -> BTreeSet<PathBuf> {
        let with = |(path, names): (&PathBuf, &BTreeSet<String>)| {
            names.contains(library).then(|| path.clone())
        };
        found.iter().filter_map(with).collect()
    };
    let mut openssl = defining(&files, &["SSL_read", "SSL_write"]);
    // Its functions call those of libgnutls, which are probed.
    openssl.retain(|path| !path.to_string_lossy().contains("/libgnutls-openssl.so"));
    assert!(!openssl.is_empty());
    assert_eq!(of("OpenSSL"), openssl);
    let gnutls = defining(&files, &["gnutls_record_send", "gnutls_record_recv"]);
    assert_eq!(of("GnuTLS"), gnutls);
    let go = built_by_go(&files);
    let others: Vec<_> = found
        .iter()
        .filter(|(path, _)| ![&openssl, &gnutls, &go].iter().any(|of| of.contains(*path)))
        .collect();
    // Its exporters use it.
    let rustls = BTreeSet::from(["rustls".to_owned()]);
    assert_eq!(others, [(&agent, &rustls)]);
    for path in &go {
        assert_eq!(
            found.get(path).map(BTreeSet::len),
            Some(1),
            "{}",
            path.display()
        );
    }
}

/// Builds a program of `clients/lookalikes`, without symbols, and says where its functions are.
fn build(folder: &Path, name: &str, options: &[&str]) -> (PathBuf, BTreeMap<String, u64>) {
    let program = folder.join(name);
    let sources = ["ssl_lib.c", "err.c"].map(|name| clients::script("lookalikes").join(name));
    clients::run(
        Command::new("gcc")
            .args(options)
            .arg("-o")
            .arg(&program)
            .args(&sources),
    )
    .unwrap();
    let symbols = output(Command::new("nm").arg(&program))
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((words.nth(1)?.to_owned(), address))
        })
        .collect();
    clients::run(Command::new("strip").arg(&program)).unwrap();
    (program, symbols)
}

const PIE: &[&str] = &["-fpie", "-pie"];
const FIXED: &[&str] = &["-fno-pie", "-no-pie"];

/// Ways to build it: with and without a table for unwinders, to a fixed address and to none.
fn ways() -> Vec<Vec<&'static str>> {
    let mut ways = Vec::new();
    for level in ["-O1", "-O2", "-O3", "-Os"] {
        for linked in [PIE, FIXED] {
            for more in [&[][..], &["-fno-asynchronous-unwind-tables"], &["-DCOLD"]] {
                ways.push([&[level], linked, more].concat());
            }
        }
    }
    ways
}

#[test]
fn functions_are_found_by_their_errors_however_they_are_built() {
    let folder = tempfile::tempdir().unwrap();
    for (number, way) in ways().iter().enumerate() {
        let (program, symbols) = build(folder.path(), &format!("program-{number}"), way);
        let report = check(&[program]);
        let probes = report["libraries"][0]["probes"].as_array();
        let probes = probes.unwrap_or_else(|| panic!("{way:?}: {report:#}"));
        let at = |name: &str| {
            let probe = probes.iter().find(|probe| probe["function"] == name);
            probe.unwrap()["within"].as_u64().unwrap()
        };
        assert_eq!(at("SSL_read"), symbols["plain_read"], "{way:?}");
        assert_eq!(at("SSL_write"), symbols["plain_write"], "{way:?}");
        assert_eq!(probes.len(), 2);
    }
}

#[test]
fn what_differs_in_one_point_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (change, reason)) in [
        // Another library, another file, no file.
        ("-DLIBRARY=20", ""),
        ("-DNAME=\"third_party/crypto/err/err.cc\"", ""),
        ("-DNAME=\"ssl/ssl_lib.cc and more\"", ""),
        // Other errors, or in another order.
        ("-DFIRST=68", "0 functions could be SSL_write"),
        ("-DSECOND=215|-DTHIRD=226", "0 functions could be SSL_write"),
        ("-DTHIRD=216", "0 functions could be SSL_write"),
        ("-DFOURTH=112", "0 functions could be SSL_write"),
        // Too far apart.
        ("-DLAST_LINE=1200", "0 functions could be SSL_write"),
        ("-DREAD_LINE=900", "0 functions could be SSL_read"),
        ("-DREAD_LINE=1100", "0 functions could be SSL_read"),
        // Two of one kind.
        ("-DSECOND_WRITE", "2 functions could be SSL_write"),
        ("-DSECOND_READ", "2 functions could be SSL_read"),
    ]
    .into_iter()
    .enumerate()
    {
        for linked in [PIE, FIXED] {
            // No function is to be merged with its like.
            let mut options = vec!["-O2", "-fno-ipa-icf"];
            options.extend(linked);
            options.extend(change.split('|'));
            let (program, _) = build(folder.path(), &format!("program-{number}"), &options);
            let report = check(&[program]);
            assert_eq!(report["libraries"], serde_json::json!([]), "{options:?}");
            let findings = report["findings"].as_array().unwrap();
            let text = findings.last().unwrap()["text"].as_str().unwrap();
            let expected = if reason.is_empty() {
                "holds no TLS library"
            } else {
                reason
            };
            assert!(text.contains(expected), "{options:?}: {text}");
        }
    }
}

#[test]
fn names_that_are_no_functions_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    for (number, code) in [
        "int SSL_read[4] = {1}; int SSL_write[4] = {2};",
        "const char *needles[] = {\"ssl/ssl_lib.cc\", \"SSL_read\", \"SSL_write\", \"ssl_read_internal\"};",
        "int SSL_read(void *, void *, int); int SSL_write(void *, void *, int);
         int both(void *s, void *b, int n) { return SSL_read(s, b, n) + SSL_write(s, b, n); }",
        // Functions, but not in the code.
        "__asm__(\".data\\n.globl SSL_read, SSL_write\\n.type SSL_read, @function\\n\\
          .type SSL_write, @function\\nSSL_read: nop\\nret\\nSSL_write: nop\\nret\\n.text\");",
        // Functions by name at an address of nothing.
        "__asm__(\".globl SSL_read, SSL_write\\n.type SSL_read, @function\\n.type SSL_write, @function\\n\
          .set SSL_read, 0x7000000\\n.set SSL_write, 0x7000010\");",
        // One of the two.
        "int SSL_read(void *s, void *b, int n) { return n; }",
        "int gnutls_record_send(void *s, void *b, int n) { return n; }",
    ]
    .iter()
    .enumerate()
    {
        let source = folder.path().join("source.c");
        fs::write(&source, code).unwrap();
        let library = folder.path().join(format!("library-{number}.so"));
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-fPIC", "-shared", "-o"]).args([&library, &source]);
        clients::run(&mut gcc).unwrap();
        let report = check(&[library]);
        assert_eq!(report["libraries"], serde_json::json!([]), "{code}");
    }
}

/// Runs `observer check` on a file that may be hostile. It ends by itself, soon, and with little memory.
fn bounded(path: &Path) -> Output {
    let started = Instant::now();
    let mut child = Command::new(binary())
        .args(["check", "--format", "json", "--file"])
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let stat = format!("/proc/{}/stat", child.id());
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
            assert!(kib * 1024 <= LARGEST, "{}: {kib} KiB", path.display());
        }
        let taken = processor_time(&fs::read_to_string(&stat).unwrap());
        if taken > LONGEST || started.elapsed() > HUNG {
            child.kill().unwrap();
            panic!("{}: not through with it after {taken:?}", path.display());
        }
        thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("panicked"), "{}: {error}", path.display());
    assert!(
        output.status.code().is_some_and(|code| code <= 1),
        "{}",
        output.status
    );
    output
}

/// What a process has taken by its /proc/PID/stat (proc_pid_stat(5)): `utime` and `stime`.
fn processor_time(stat: &str) -> Duration {
    // The second field is a name in parentheses, the third follows it.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let times = fields.split(' ').skip(11).take(2);
    TICK * times.map(|field| field.parse::<u32>().unwrap()).sum()
}

#[test]
fn a_truncated_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (program, _) = build(folder.path(), "program", &["-O2", "-fno-pie", "-no-pie"]);
    let bytes = fs::read(&program).unwrap();
    let path = folder.path().join("truncated");
    for length in [
        0,
        1,
        16,
        40,
        63,
        64,
        100,
        600,
        4096,
        5000,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        fs::write(&path, &bytes[..length]).unwrap();
        let report: Value = serde_json::from_slice(&bounded(&path).stdout).unwrap();
        assert_eq!(report["libraries"], serde_json::json!([]), "{length}");
        let last = report["findings"].as_array().unwrap().last().unwrap();
        assert_eq!(last["ok"], false, "{length}: {last:#}");
        let text = last["text"].as_str().unwrap();
        assert!(text.contains("ELF") || text.contains("no TLS"), "{text}");
    }
}

/// A sparse file: what lies between is zeros that take no room.
struct Sparse(File);

impl Sparse {
    fn new(path: &Path, length: u64) -> Self {
        let file = File::create(path).unwrap();
        file.set_len(length).unwrap();
        Self(file)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> &Self {
        self.0.write_all_at(bytes, at).unwrap();
        self
    }

    /// The head of an ELF file (elf(5)): program headers follow it, section headers are at `sections`.
    fn head(&self, programs: u16, sections: u64, section_count: u16) -> &Self {
        self.put(0, b"\x7fELF\x02\x01\x01")
            .put(16, &[3, 0, 62, 0, 1, 0, 0, 0])
            .put(32, &64_u64.to_le_bytes())
            .put(40, &sections.to_le_bytes())
            .put(52, &[64, 0, 56, 0])
            .put(56, &programs.to_le_bytes())
            .put(58, &[64, 0])
            .put(60, &section_count.to_le_bytes())
    }

    /// A loadable segment, readable and executable.
    fn segment(&self, number: u64, offset: u64, address: u64, bytes: u64) -> &Self {
        let at = 64 + 56 * number;
        self.put(at, &[1, 0, 0, 0, 5, 0, 0, 0]);
        for (place, word) in [
            (8, offset),
            (16, address),
            (24, address),
            (32, bytes),
            (40, bytes),
        ] {
            self.put(at + place, &word.to_le_bytes());
        }
        self
    }

    /// A section: its type, where it lies, what it is linked to, and the size of its entries.
    fn section(&self, at: u64, kind: u32, offset: u64, bytes: u64, link: u32, entry: u64) -> &Self {
        self.put(at + 4, &kind.to_le_bytes())
            .put(at + 16, &offset.to_le_bytes())
            .put(at + 24, &offset.to_le_bytes())
            .put(at + 32, &bytes.to_le_bytes())
            .put(at + 40, &link.to_le_bytes())
            .put(at + 56, &entry.to_le_bytes())
    }
}

const GIB: u64 = 1 << 30;

#[test]
fn a_hostile_file_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // A segment of a tebibyte.
    let file = Sparse::new(&path("large"), 1024 * GIB);
    file.head(1, 0, 0).segment(0, 0, 0, 1024 * GIB);
    // The same gibibyte sixty thousand times.
    let file = Sparse::new(&path("overlapping"), 2 * GIB);
    file.head(60_000, 0, 0);
    for number in 0..60_000 {
        file.segment(number, 0, 0, GIB);
    }
    // Segments at the ends of all addresses.
    let file = Sparse::new(&path("far"), 1 << 20);
    file.head(3, 0, 0)
        .segment(0, 0, u64::MAX - 4096, 4096)
        .segment(1, u64::MAX - 10, 0, 100)
        .segment(2, 0, 1 << 62, u64::MAX);
    // Sections without number: the first says how many (elf(5), e_shnum).
    let file = Sparse::new(&path("sections"), 64 * GIB);
    file.head(1, 4096, 0).segment(0, 0, 0, 1 << 20);
    file.section(4096, 0, 0, 900_000_000, 0, 0);
    // A table of symbols of 32 GiB.
    let file = Sparse::new(&path("symbols"), 64 * GIB);
    file.head(1, 4096, 3).segment(0, 0, 0, 1 << 20);
    file.section(4096 + 64, 2, 1 << 20, 32 * GIB, 2, 24);
    file.section(4096 + 128, 3, 40 * GIB, 20 * GIB, 0, 0);
    // Strings that seem to be of a library, and code that refers to each, over and over.
    let file = Sparse::new(&path("references"), 64 << 20);
    file.head(1, 0, 0).segment(0, 0, 0, 64 << 20);
    file.put(0x10000, b"\0ssl/ssl_lib.cc\0");
    let code: Vec<u8> = (0..1_000_000_u32)
        .flat_map(|number| {
            // lea rcx, [rip + d]; call to the next.
            let at = 0x10_0000 + number * 12;
            let name = 0x10001_u32.wrapping_sub(at + 7).to_le_bytes();
            [[0x48, 0x8d, 0x0d].as_slice(), &name, &[0xe8, 0, 0, 0, 0]].concat()
        })
        .collect();
    file.put(0x10_0000, &code);
    for name in [
        "large",
        "overlapping",
        "far",
        "sections",
        "symbols",
        "references",
    ] {
        let started = Instant::now();
        let output = bounded(&path(name));
        println!("{name}: {:?}", started.elapsed());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["libraries"], serde_json::json!([]), "{name}");
    }
}
