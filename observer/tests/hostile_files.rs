//! Whatever a file says, it is examined without a panic, in bounded time and memory: whoever may execute a
//! file has the agent look at it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use observer::attach::examine::examine_file;
use proptest::{prelude::*, sample::Index, test_runner::Config};
use rustix::time::{ClockId, clock_gettime};

/// The processor time that one file may take, by a program that is not optimised.
const LONGEST: Duration = Duration::from_secs(10);

/// The most memory of all, in KiB.
const LARGEST: u64 = 400 << 10;

/// Sources of programs that look as if they held BoringSSL.
fn lookalikes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/lookalikes")
}

/// Real files: with and without a table for unwinders, with symbols and without, to a fixed address and to
/// none.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let mut files = Vec::new();
    for options in [
        &["-O2", "-s"][..],
        &["-O2", "-s", "-DCOLD", "-fno-pie", "-no-pie"],
        &["-O1", "-s", "-fno-asynchronous-unwind-tables"],
        &[
            "-O2",
            "-Dplain_read=SSL_read",
            "-Dplain_write=SSL_write",
            "-rdynamic",
        ],
        &[
            "-O2",
            "-Dplain_read=gnutls_record_recv",
            "-Dplain_write=gnutls_record_send",
        ],
    ] {
        let status = Command::new("cc")
            .args(options)
            .arg("-o")
            .arg(&program)
            .args(["ssl_lib.c", "err.c"].map(|name| lookalikes().join(name)))
            .status()
            .unwrap();
        assert!(status.success());
        let found = examine_file(&File::open(&program).unwrap()).unwrap();
        assert!(!found.found.is_empty(), "{options:?}");
        files.push(fs::read(&program).unwrap());
    }
    files
});

/// A part of a file that says what the rest is.
#[derive(Clone, Copy, Debug)]
enum Part {
    Head,
    Segments,
    Sections,
    Tables,
    Anywhere,
}

impl Part {
    fn range(self, file: &[u8]) -> std::ops::Range<usize> {
        let word = |at: usize| {
            let bytes = file[at..at + 8].try_into().unwrap();
            usize::try_from(u64::from_le_bytes(bytes)).unwrap()
        };
        match self {
            Self::Head => 0..64,
            Self::Segments => word(32)..word(32) + 56 * usize::from(file[56]),
            Self::Sections => word(40)..word(40) + 64 * usize::from(file[60]),
            // Notes, symbols, their names and how they are to be found.
            Self::Tables => 0x300..0x800,
            Self::Anywhere => 0..file.len(),
        }
    }
}

#[derive(Clone, Debug)]
struct Change {
    part: Part,
    place: Index,
    bytes: Vec<u8>,
}

fn change() -> impl Strategy<Value = Change> {
    let part = prop_oneof![
        Just(Part::Head),
        Just(Part::Segments),
        Just(Part::Sections),
        Just(Part::Tables),
        Just(Part::Anywhere),
    ];
    let words = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX - 15),
        Just(1 << 63),
        Just(u64::from(u32::MAX)),
        Just(1 << 47),
        0..0x5000_u64,
        any::<u64>(),
    ];
    let words = words.prop_map(|word: u64| word.to_le_bytes().to_vec());
    let bytes = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        words.clone(),
        words.prop_map(|bytes| bytes[..4].to_vec()),
    ];
    (part, any::<Index>(), bytes).prop_map(|(part, place, bytes)| Change { part, place, bytes })
}

fn examine(bytes: &[u8]) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let begun = now();
    let _ = examine_file(&file);
    let taken = now() - begun;
    assert!(taken < LONGEST, "{taken:?}");
}

/// The time that this thread has taken.
fn now() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap(),
    )
}

fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 2000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_changed_file_does_no_harm(
        number in any::<Index>(),
        changes in prop::collection::vec(change(), 1..6),
        cut in prop::option::weighted(0.1, any::<Index>()),
    ) {
        let original = number.get(FILES.as_slice());
        let mut bytes = original.clone();
        for Change { part, place, bytes: new } in changes {
            let range = part.range(original);
            // Words mostly lie at multiples of four.
            let at = range.start + place.index(range.len()) / 4 * 4;
            let end = (at + new.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&new[..end - at]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        examine(&bytes);
        prop_assert!(most_memory() < LARGEST);
    }
}
