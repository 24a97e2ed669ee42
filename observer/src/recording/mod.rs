//! Recordings: what the [`Engine`](crate::engine::Engine) was given, in a file, to be given to it once
//! more. They hold plaintext: prompts, answers and credentials.
//!
//! # Format
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `OBSERVER` |
//! | 4 | version of the format, little-endian: 2 |
//! | | then frames to the end of the file |
//!
//! | bytes of a frame | what |
//! |---|---|
//! | 4 | length of the payload, little-endian, 64 KiB at most |
//! | 4 | CRC-32 of the payload (that of zlib), little-endian |
//! | length | the payload, in [postcard](https://postcard.jamesmunns.com/wire-format)'s format |
//!
//! The first frame holds the `Head`: what made the recording and the settings that the records depend on.
//! Each of the others holds an `Entry`, in the order in which the engine was given them; the last is
//! `Entry::End`. A file that ends before it was cut, and is good up to there. Other settings, such as which
//! previews are taken, are the reader's.
//!
//! Frames are not compressed: what has been written can be read whatever becomes of the writer.

mod reader;
mod writer;

pub use reader::{Error, Next, Recording};
pub use writer::{Created, Recorder};

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt as _, path::PathBuf, time::Duration};

use observer_wire::{Close, Direction, Timestamp};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    attach::{
        cgroup,
        pod::Pod,
        processes::{Identity, Pid},
    },
    capture::{ConnectionKey, loss::Losses, task::Task},
    engine::{Bytes, Input},
    salt::Salt,
};

/// What a recording begins with.
const MAGIC: &[u8; 8] = b"OBSERVER";

/// The version of the format. It changes with `Head` and `Entry`, whose order and types are the format.
const VERSION: u32 = 3;

/// The longest payload. The longest `Entry` holds 16 KiB of plaintext.
const LONGEST: usize = 64 * 1024;

/// The longest name of a process: the kernel has 15 bytes, each of which may stand as a character of three.
const COMM: usize = 64;

/// The longest path of an executable, that of the kernel (`PATH_MAX`).
const EXE: usize = 4096;

/// The longest id of a container: 64 hexadecimal digits are usual.
const CONTAINER_ID: usize = 128;

/// What the records depend on beside what was captured.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the observer that made it.
    pub observer: String,
    /// As in [`Settings`](crate::engine::Settings).
    pub seed: u64,
    /// As in [`Settings`](crate::engine::Settings).
    pub all_hosts: bool,
    /// As in [`Settings`](crate::engine::Settings).
    pub trace_idle: Duration,
    /// As in [`Options`](observer_wire::Options): credentials have the same fingerprints in a replay.
    pub salt: Salt,
}

impl fmt::Debug for Head {
    // The salt is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("observer", &self.observer)
            .field("seed", &self.seed)
            .field("all_hosts", &self.all_hosts)
            .field("trace_idle", &self.trace_idle)
            .finish_non_exhaustive()
    }
}

/// An [`Input`], or the end. Times are nanoseconds of boot time.
#[derive(Serialize, Deserialize)]
enum Entry<'a> {
    Clock {
        /// UTC minus boot time.
        offset: i64,
    },
    Process {
        pid: u32,
        /// In clock ticks after boot.
        start_time: Option<u64>,
        comm: Option<String>,
        #[serde(borrow, serialize_with = "optional_whole")]
        exe: Option<&'a [u8]>,
        ppid: Option<u32>,
        container_id: Option<String>,
        cgroup: Option<String>,
        uid: Option<u32>,
        namespace_pid: Option<u32>,
    },
    Data {
        connection: Place,
        tid: u32,
        task: Option<Task>,
        sent: bool,
        offset: u64,
        opposite: u64,
        at: u64,
        #[serde(borrow, serialize_with = "whole")]
        bytes: &'a [u8],
    },
    Close {
        connection: Place,
        close: End,
        freed: bool,
        sent: u64,
        received: u64,
        at: u64,
    },
    Exec {
        pid: u32,
        at: u64,
    },
    Fork {
        pid: u32,
        tid: u32,
        child: u32,
        at: u64,
    },
    Task {
        pid: u32,
        tid: u32,
        task: Task,
        parent: Option<Task>,
        at: u64,
    },
    Answers {
        pid: u32,
        object: u64,
        stream: u32,
        task: Task,
    },
    ThreadGone {
        pid: u32,
        tid: u32,
    },
    Gone {
        pid: u32,
        at: u64,
    },
    Tick {
        now: u64,
    },
    End {
        now: u64,
        /// Events and bytes by cause, in the order of `observer_common::Loss`.
        lost: Vec<(u64, u64)>,
        malformed: u64,
    },
}

/// A [`ConnectionKey`].
#[derive(Serialize, Deserialize)]
struct Place {
    pid: u32,
    object: u64,
    generation: u64,
}

/// A [`Close`].
#[derive(Serialize, Deserialize)]
enum End {
    Local,
    PeerClean,
    PeerBroken,
    ProcessExit,
    Detached,
}

impl<'a> Entry<'a> {
    fn of(input: &'a Input<'a>) -> Self {
        match input {
            Input::Clock { offset } => Self::Clock { offset: *offset },
            Input::Close {
                connection,
                close,
                freed,
                produced: (sent, received),
                at,
            } => Self::Close {
                connection: (*connection).into(),
                close: (*close).into(),
                freed: *freed,
                sent: *sent,
                received: *received,
                at: at.0,
            },
            Input::Data {
                connection,
                tid,
                task,
                direction,
                offset,
                opposite,
                at,
                bytes,
            } => Self::Data {
                connection: (*connection).into(),
                tid: *tid,
                task: *task,
                sent: *direction == Direction::Sent,
                offset: *offset,
                opposite: *opposite,
                at: at.0,
                bytes: bytes.0,
            },
            Input::Exec { pid, at } => Self::Exec {
                pid: pid.0,
                at: at.0,
            },
            Input::Gone { pid, at } => Self::Gone {
                pid: pid.0,
                at: at.0,
            },
            Input::Process { pid, identity } => Self::Process {
                pid: pid.0,
                start_time: identity.start_time,
                comm: identity.comm.clone(),
                exe: identity.exe.as_ref().map(|exe| exe.as_os_str().as_bytes()),
                ppid: identity.ppid,
                container_id: identity.container_id.clone(),
                cgroup: identity.cgroup.clone(),
                uid: identity.uid,
                namespace_pid: identity.namespace_pid,
            },
            Input::Fork {
                pid,
                tid,
                child,
                at,
            } => Self::Fork {
                pid: pid.0,
                tid: *tid,
                child: *child,
                at: at.0,
            },
            Input::Task {
                pid,
                tid,
                task,
                parent,
                at,
            } => Self::Task {
                pid: pid.0,
                tid: *tid,
                task: *task,
                parent: *parent,
                at: at.0,
            },
            Input::Answers {
                pid,
                object,
                stream,
                task,
            } => Self::Answers {
                pid: pid.0,
                object: *object,
                stream: *stream,
                task: *task,
            },
            Input::ThreadGone { pid, tid } => Self::ThreadGone {
                pid: pid.0,
                tid: *tid,
            },
            Input::Tick { now } => Self::Tick { now: now.0 },
        }
    }

    fn into_next(self) -> Next<'a> {
        Next::Input(match self {
            Self::Clock { offset } => Input::Clock { offset },
            Self::Process {
                pid,
                start_time,
                comm,
                exe,
                ppid,
                container_id,
                cgroup,
                uid,
                namespace_pid,
            } => Input::Process {
                pid: Pid(pid),
                identity: Identity {
                    start_time,
                    comm,
                    exe: exe.map(|exe| PathBuf::from(OsStr::from_bytes(exe))),
                    ppid,
                    container_id,
                    // The cluster is not asked again.
                    pod: (cgroup.as_deref().and_then(cgroup::container))
                        .and_then(|container| Pod::of_container(&container)),
                    cgroup,
                    uid,
                    namespace_pid,
                },
            },
            Self::Fork {
                pid,
                tid,
                child,
                at,
            } => Input::Fork {
                pid: Pid(pid),
                tid,
                child,
                at: Timestamp(at),
            },
            Self::Answers {
                pid,
                object,
                stream,
                task,
            } => Input::Answers {
                pid: Pid(pid),
                object,
                stream,
                task,
            },
            Self::Task {
                pid,
                tid,
                task,
                parent,
                at,
            } => Input::Task {
                pid: Pid(pid),
                tid,
                task,
                parent,
                at: Timestamp(at),
            },
            Self::Data {
                connection,
                tid,
                task,
                sent,
                offset,
                opposite,
                at,
                bytes,
            } => Input::Data {
                connection: connection.into(),
                tid,
                task,
                direction: if sent {
                    Direction::Sent
                } else {
                    Direction::Received
                },
                offset,
                opposite,
                at: Timestamp(at),
                bytes: Bytes(bytes),
            },
            Self::Close {
                connection,
                close,
                freed,
                sent,
                received,
                at,
            } => Input::Close {
                connection: connection.into(),
                close: close.into(),
                freed,
                produced: (sent, received),
                at: Timestamp(at),
            },
            Self::Exec { pid, at } => Input::Exec {
                pid: Pid(pid),
                at: Timestamp(at),
            },
            Self::ThreadGone { pid, tid } => Input::ThreadGone { pid: Pid(pid), tid },
            Self::Gone { pid, at } => Input::Gone {
                pid: Pid(pid),
                at: Timestamp(at),
            },
            Self::Tick { now } => Input::Tick {
                now: Timestamp(now),
            },
            Self::End {
                now,
                lost,
                malformed,
            } => {
                return Next::End {
                    now: Timestamp(now),
                    losses: Losses::from_counts(&lost, malformed),
                };
            }
        })
    }

    /// What is longer than on any machine, and would be kept for each of many processes.
    fn excess(&self) -> Option<String> {
        let Self::Process {
            comm,
            exe,
            container_id,
            cgroup,
            ..
        } = self
        else {
            return None;
        };
        let lengths = [
            ("a name", comm.as_ref().map(String::len), COMM),
            ("a path", exe.map(<[u8]>::len), EXE),
            (
                "an id of a container",
                container_id.as_ref().map(String::len),
                CONTAINER_ID,
            ),
            ("a cgroup", cgroup.as_ref().map(String::len), EXE),
        ];
        lengths.into_iter().find_map(|(what, length, most)| {
            let length = length.filter(|length| *length > most)?;
            Some(format!("{what} of {length} bytes"))
        })
    }

    /// The latest time that it tells.
    fn time(&self) -> Option<u64> {
        match self {
            Self::Close { at, .. }
            | Self::Data { at, .. }
            | Self::Exec { at, .. }
            | Self::Fork { at, .. }
            | Self::Task { at, .. }
            | Self::Gone { at, .. } => Some(*at),
            Self::Tick { now } | Self::End { now, .. } => Some(*now),
            Self::Answers { .. }
            | Self::Clock { .. }
            | Self::Process { .. }
            | Self::ThreadGone { .. } => None,
        }
    }
}

impl From<ConnectionKey> for Place {
    fn from(key: ConnectionKey) -> Self {
        Self {
            pid: key.pid.0,
            object: key.ssl,
            generation: key.generation,
        }
    }
}

impl From<Place> for ConnectionKey {
    fn from(place: Place) -> Self {
        Self {
            pid: Pid(place.pid),
            ssl: place.object,
            generation: place.generation,
        }
    }
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        match close {
            Close::Detached => Self::Detached,
            Close::Local => Self::Local,
            Close::Peer { clean: true } => Self::PeerClean,
            Close::Peer { clean: false } => Self::PeerBroken,
            Close::ProcessExit => Self::ProcessExit,
        }
    }
}

impl From<End> for Close {
    fn from(end: End) -> Self {
        match end {
            End::Detached => Self::Detached,
            End::Local => Self::Local,
            End::PeerBroken => Self::Peer { clean: false },
            End::PeerClean => Self::Peer { clean: true },
            End::ProcessExit => Self::ProcessExit,
        }
    }
}

/// In one piece; serde would take them one by one.
fn whole<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

fn optional_whole<S: Serializer>(bytes: &Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    struct Whole<'a>(&'a [u8]);
    impl Serialize for Whole<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
    bytes.map(Whole).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        path::Path,
        sync::{Arc, Mutex, mpsc},
    };

    use observer_wire::Options;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        capture::task::TaskKind,
        engine::{Engine, Settings},
        export::Record,
        trace,
    };

    /// A file that can be looked at, with room for so many bytes.
    #[derive(Clone)]
    struct Disk(Arc<Mutex<Vec<u8>>>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.0.lock().unwrap();
            let room = self.1 - written.len();
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let bytes = &bytes[..bytes.len().min(room)];
            written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn head() -> Head {
        Head {
            observer: "0".to_owned(),
            seed: 7,
            all_hosts: false,
            trace_idle: Duration::from_secs(10),
            salt: [7; 32],
        }
    }

    /// A recording of these inputs, as far as there is room.
    fn written(inputs: &[Input<'_>], room: usize) -> Vec<u8> {
        let disk = Disk(Arc::default(), room);
        let mut recorder = Recorder::start(disk.clone(), Path::new("disk"), &head()).unwrap();
        for input in inputs {
            recorder.input(input);
        }
        recorder.finish(Timestamp(9_000_000_000), &Losses::from_counts(&[(1, 2)], 3));
        disk.0.lock().unwrap().clone()
    }

    /// What a replay comes to: the records, and whether the end, a cut or an error came.
    fn replayed(file: &[u8]) -> (Vec<String>, Result<bool, Error>) {
        let mut recording = match Recording::open(file) {
            Ok(recording) => recording,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let mut engine = Engine::new(settings(recording.head()));
        let end = loop {
            match recording.next() {
                Ok(Next::Input(input)) => {
                    engine.take(input);
                }
                Ok(Next::End { .. }) => break Ok(true),
                Ok(Next::Cut { .. }) => break Ok(false),
                Err(error) => break Err(error),
            }
        };
        engine.finish(recording.latest());
        (lines(&mut engine), end)
    }

    fn settings(head: &Head) -> Settings {
        Settings {
            wire: Options {
                capture_content: true,
                ..Options::default()
            },
            providers: Vec::new(),
            all_hosts: head.all_hosts,
            trace: trace::Settings {
                idle: head.trace_idle,
                ..trace::Settings::default()
            },
            seed: head.seed,
            prices: None,
        }
    }

    fn lines(engine: &mut Engine) -> Vec<String> {
        let records = engine.records();
        records
            .map(|record| match record {
                Record::Call(call) => serde_json::to_string(&call).unwrap(),
                Record::Trace(trace) => serde_json::to_string(&trace).unwrap(),
                record => format!("{record:?}"),
            })
            .collect()
    }

    /// Two processes: one asks once and waits, the other serves.
    fn inputs() -> Vec<Input<'static>> {
        let request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: 62\r\n\r\n\
            {\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}";
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 81\r\n\r\n\
            {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}    ";
        let connection = |pid, ssl| ConnectionKey {
            pid: Pid(pid),
            ssl,
            generation: 3,
        };
        let data = |connection, direction, at, offset, opposite, bytes| Input::Data {
            connection,
            tid: 8,
            task: None,
            direction,
            offset,
            opposite,
            at: Timestamp(at),
            bytes: Bytes(bytes),
        };
        let plain = observer_common::plain::MARK | 5;
        let (sent, received) = (Direction::Sent, Direction::Received);
        let (asked, answered) = (request.len() as u64, answer.len() as u64);
        vec![
            Input::Clock {
                offset: 1_790_000_000_000_000_000,
            },
            Input::Process {
                pid: Pid(7),
                identity: Identity {
                    start_time: Some(1),
                    comm: Some("python".to_owned()),
                    exe: Some(PathBuf::from(OsStr::from_bytes(b"/bin/\xff"))),
                    ppid: None,
                    container_id: Some("c".to_owned()),
                    cgroup: Some("/c".to_owned()),
                    pod: None,
                    uid: Some(1000),
                    namespace_pid: Some(1),
                },
            },
            data(connection(7, 0x1000), sent, 1_000, 0, 0, &request[..]),
            data(connection(9, plain), received, 2_000, 0, 0, &request[..]),
            data(connection(9, plain), sent, 3_000, 0, asked, &answer[..]),
            Input::Tick {
                now: Timestamp(300_000_000),
            },
            data(
                connection(7, 0x1000),
                received,
                300_000_001,
                0,
                asked,
                &answer[..],
            ),
            Input::Close {
                connection: connection(7, 0x1000),
                close: Close::Peer { clean: true },
                freed: false,
                produced: (asked, answered),
                at: Timestamp(300_000_002),
            },
            Input::Exec {
                pid: Pid(9),
                at: Timestamp(300_000_003),
            },
            Input::Answers {
                pid: Pid(7),
                object: 0x7f00_0000_1000,
                stream: 3,
                task: Task {
                    kind: TaskKind::Goroutine,
                    id: 41,
                },
            },
            Input::ThreadGone {
                pid: Pid(7),
                tid: 8,
            },
            data(connection(9, 0x2000), sent, 300_000_004, 0, 0, &request[..]),
            Input::Gone {
                pid: Pid(7),
                at: Timestamp(300_000_005),
            },
        ]
    }

    #[test]
    fn what_was_written_is_read() {
        let file = written(&inputs(), usize::MAX);
        let mut recording = Recording::open(&file[..]).unwrap();
        assert_eq!(recording.head(), &head());
        for expected in inputs() {
            match recording.next().unwrap() {
                Next::Input(input) => assert_eq!(input, expected),
                other => panic!("{other:?}"),
            }
        }
        match recording.next().unwrap() {
            Next::End { now, losses } => {
                assert_eq!(now, Timestamp(9_000_000_000));
                assert_eq!(losses, Losses::from_counts(&[(1, 2)], 3));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_engine_says_the_same_of_it() {
        let mut engine = Engine::new(settings(&head()));
        for input in inputs() {
            engine.take(input);
        }
        engine.finish(Timestamp(9_000_000_000));
        let live = lines(&mut engine);
        let calls = live.iter().filter(|line| line.contains("llm_call"));
        assert_eq!(calls.count(), 2, "{live:#?}");
        let (records, end) = replayed(&written(&inputs(), usize::MAX));
        assert!(end.unwrap());
        assert_eq!(records, live);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_good_up_to_there() {
        let file = written(&inputs(), usize::MAX);
        let (whole, _) = replayed(&file);
        for length in 0..file.len() {
            let (records, end) = replayed(&file[..length]);
            match end {
                Ok(ended) => assert!(!ended),
                Err(Error::Foreign) => assert_eq!(length, 0),
                Err(Error::NoHead) => assert!((1..72).contains(&length), "{length}"),
                Err(error) => panic!("{length}: {error}"),
            }
            assert!(records.len() <= whole.len());
        }
        // As a full disk leaves it.
        for room in [0, 1, 100, file.len() - 1] {
            assert_eq!(written(&inputs(), room), file[..room]);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let file = written(&inputs(), usize::MAX);
        let error = |file: &[u8]| replayed(file).1.unwrap_err().to_string();
        assert_eq!(error(b"PK\x03\x04"), "it is no recording of observer's");
        let mut other = file.clone();
        other[8] = 4;
        assert_eq!(
            error(&other),
            "it has version 4 of the format, and this observer reads version 3"
        );
        // The second frame begins behind the head's.
        let at = 20 + usize::from(file[12]);
        let mut long = file.clone();
        long[at + 3] = 0x7f;
        assert_eq!(
            error(&long),
            format!(
                "it is damaged: a length of {} bytes in entry 1, at byte {at}",
                0x7f00_0000 + u32::from(file[at])
            )
        );
        let mut flipped = file.clone();
        flipped[at + 8] ^= 0x40;
        assert_eq!(
            error(&flipped),
            format!("it is damaged: a wrong checksum in entry 1, at byte {at}")
        );
    }

    #[test]
    fn a_file_stays_only_with_a_recording() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        drop(Recorder::create(&path).unwrap());
        assert!(!path.exists());
        let recorder = Recorder::create(&path).unwrap().start(&head()).unwrap();
        assert!(Recorder::create(&path).is_err());
        recorder.finish(Timestamp(1), &Losses::default());
        let (_, end) = replayed(&std::fs::read(&path).unwrap());
        assert!(end.unwrap());
    }

    #[test]
    fn what_is_too_long_to_be_kept_is_refused() {
        let identity = |comm: usize, exe: usize, container: usize| {
            let input = Input::Process {
                pid: Pid(7),
                identity: Identity {
                    start_time: None,
                    comm: Some("c".repeat(comm)),
                    exe: Some("e".repeat(exe).into()),
                    ppid: None,
                    container_id: Some("d".repeat(container)),
                    ..Identity::default()
                },
            };
            let payload = postcard::to_stdvec(&Entry::of(&input)).unwrap();
            replayed(&framed(&[payload])).1
        };
        assert!(matches!(identity(COMM, EXE, CONTAINER_ID), Ok(false)));
        for (error, what) in [
            (identity(COMM + 1, 1, 1), "a name of 65 bytes"),
            (identity(1, EXE + 1, 1), "a path of 4097 bytes"),
            (
                identity(1, 1, CONTAINER_ID + 1),
                "an id of a container of 129 bytes",
            ),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("it is damaged: {what} in entry 1,")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_disk_that_stalls_costs_nothing_while_little_waits() {
        /// Takes nothing until it is told to.
        struct Stalled(mpsc::Receiver<()>, Disk);

        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let tick = Input::Tick { now: Timestamp(1) };
        let bytes = vec![b'x'; 16 * 1024];
        let data = Input::Data {
            connection: ConnectionKey {
                pid: Pid(7),
                ssl: 1,
                generation: 0,
            },
            tid: 8,
            task: None,
            direction: Direction::Sent,
            offset: 0,
            opposite: 0,
            at: Timestamp(1),
            bytes: Bytes(&bytes),
        };
        // Little at a time for long; more at last than a block holds; more than may wait.
        for (large, ends) in [(0, true), (40, true), (6_000, false)] {
            let (go, stalled) = mpsc::channel();
            let disk = Disk(Arc::default(), usize::MAX);
            let file = Stalled(stalled, disk.clone());
            let mut recorder = Recorder::start(file, Path::new("disk"), &head()).unwrap();
            for _ in 0..2_000 {
                recorder.input(&tick);
                recorder.flush();
            }
            for _ in 0..large {
                recorder.input(&data);
            }
            drop(go);
            recorder.finish(Timestamp(2), &Losses::default());
            let file = disk.0.lock().unwrap().clone();
            let mut recording = Recording::open(&file[..]).unwrap();
            let mut inputs = 0;
            let end = loop {
                match recording.next().unwrap() {
                    Next::Input(_) => inputs += 1,
                    Next::End { .. } => break true,
                    Next::Cut { .. } => break false,
                }
            };
            assert_eq!(end, ends, "{large}");
            assert!(inputs == 2_000 + large || !ends, "{inputs}");
        }
    }

    /// A recording with this head's frame and these payloads, all checksums right.
    fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut file = written(&[], usize::MAX);
        file.truncate(20 + usize::from(file[12]));
        for payload in payloads {
            file.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
            file.extend(crc32fast::hash(payload).to_le_bytes());
            file.extend(payload);
        }
        file
    }

    /// Any number, and those at which sums overflow.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0..4_u64,
            (0..400_u64).prop_map(|less| u64::MAX - less)
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8),
        ) {
            let _ = replayed(&framed(&payloads));
        }

        #[test]
        fn no_change_brings_it_down(changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
            // With the checksums of what was changed, so that it is looked at.
            let mut payloads: Vec<Vec<u8>> = inputs()
                .iter()
                .map(|input| postcard::to_stdvec(&Entry::of(input)).unwrap())
                .collect();
            for (at, byte) in changes {
                let count = payloads.len();
                let payload = &mut payloads[usize::from(at) % count];
                let length = payload.len();
                payload[(usize::from(at) / count) % length] = byte;
            }
            let _ = replayed(&framed(&payloads));
        }

        #[test]
        fn no_numbers_bring_it_down(
            numbers in proptest::collection::vec((0..12_usize, number(), number(), number()), 1..12),
        ) {
            let mut inputs = inputs();
            for (index, one, two, three) in numbers {
                match &mut inputs[index] {
                    Input::Clock { offset } => *offset = one.cast_signed(),
                    Input::Close { produced, at, .. } => {
                        *produced = (one, two);
                        at.0 = three;
                    }
                    Input::Data { offset, opposite, at, task, .. } => {
                        *offset = one;
                        *opposite = two;
                        at.0 = three;
                        *task = Some(Task {
                            kind: TaskKind::Goroutine,
                            id: one,
                        });
                    }
                    Input::Exec { at, .. }
                    | Input::Fork { at, .. }
                    | Input::Gone { at, .. }
                    | Input::Task { at, .. } => at.0 = one,
                    Input::Tick { now } => now.0 = one,
                    Input::Answers { object, .. } => *object = one,
                    Input::Process { .. } | Input::ThreadGone { .. } => {}
                }
            }
            let (_, end) = replayed(&written(&inputs, usize::MAX));
            prop_assert!(end.unwrap());
        }
    }
}
