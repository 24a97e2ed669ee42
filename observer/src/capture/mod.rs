//! From the ring buffer to typed events, in the order in which the kernel wrote them.

mod join;
pub mod loss;
pub mod task;
mod wake;

use std::{io, time::Duration};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, RingBuf};
use observer_common::{
    AnswersRecord, BindRecord, CloseRecord, DataRecord, KIND_ANSWERS, KIND_BIND, KIND_BROKEN,
    KIND_DATA, KIND_EXEC, KIND_EXIT, KIND_FORK, KIND_FREE, KIND_PEER_CLOSED, KIND_SHUTDOWN,
    KIND_TASK, ProcessRecord, RECEIVED, SENT, TaskRecord, plain,
};
use observer_wire::{Close, Direction, Timestamp};
use rustix::fd::AsFd;
use tracing::warn;
use zerocopy::FromBytes as _;

use self::{join::Joiner, loss::Losses, task::Task, wake::Waker};
use crate::{
    attach::{Sources, processes::Pid},
    clock,
};

/// Names a connection of a process; the generation tells connections apart that reuse an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// The process.
    pub pid: Pid,
    /// Address of the TLS library's object for the connection.
    pub ssl: u64,
    /// When it was first seen, in nanoseconds of boot time.
    pub generation: u64,
}

impl ConnectionKey {
    /// Whether it is a connection without TLS.
    pub fn is_plain(self) -> bool {
        is_plain(self.ssl)
    }

    /// The file descriptor of a connection without TLS that may be no socket.
    pub fn unproved(self) -> Option<u32> {
        let unproved = self.is_plain() && self.ssl & plain::UNPROVED != 0;
        unproved
            .then(|| u32::try_from(self.ssl & ((1 << plain::FD_BITS) - 1)).ok())
            .flatten()
    }
}

/// Whether this is the name of a connection without TLS.
pub fn is_plain(ssl: u64) -> bool {
    ssl & plain::MARK != 0
}

/// Something that happened in a watched process.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// The connection ended, or one side of it.
    Close {
        /// Which connection.
        connection: ConnectionKey,
        /// How.
        close: Close,
        /// Whether the object was freed: nothing can follow.
        freed: bool,
        /// Bytes written and read since the connection was first seen, lost ones included.
        produced: (u64, u64),
        /// When.
        at: Timestamp,
    },
    /// The process wrote or read plaintext.
    Data {
        /// On which connection.
        connection: ConnectionKey,
        /// The thread.
        tid: u32,
        /// What the thread executes, where it is not all there is.
        task: Option<Task>,
        /// The connection's object stands for this direction only.
        half: bool,
        /// Which way.
        direction: Direction,
        /// Bytes of this direction that came before.
        offset: u64,
        /// Bytes of the other direction that have passed so far, lost ones included.
        opposite: u64,
        /// When.
        at: Timestamp,
        /// Name of the thread.
        comm: &'a [u8],
        /// The plaintext.
        bytes: &'a [u8],
    },
    /// It is known through which file descriptor one direction of a connection passes.
    Bind {
        /// The process.
        pid: Pid,
        /// Which way.
        direction: Direction,
        /// Address of what stands for this direction in the process.
        object: u64,
        /// The file descriptor.
        fd: u32,
        /// What stood for it until now, where it goes on under another address; else 0.
        previous: u64,
        /// When.
        at: Timestamp,
    },
    /// A logical task was created.
    Task {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: u32,
        /// The task.
        task: Task,
        /// What created it; `None` if the thread itself did.
        parent: Option<Task>,
        /// When.
        at: Timestamp,
    },
    /// A logical task answers a request of a connection of HTTP/2.
    Answers {
        /// The process.
        pid: Pid,
        /// The connection.
        object: u64,
        /// The request's stream.
        stream: u32,
        /// The task.
        task: Task,
    },
    /// A step in the life of a process.
    Process {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: u32,
        /// What happened.
        step: Step,
        /// When.
        at: Timestamp,
    },
}

/// A step in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another program is executed.
    Exec,
    /// The thread exits.
    Exit,
    /// A task was created, a thread or a process.
    Fork(u32),
}

/// Reads the records of the kernel programs, and tells the programs what to leave out.
pub struct Capture {
    events: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    verdicts: BpfHashMap<MapData, [u64; 2], [u64; 2]>,
    verdict_count: Array<MapData, u64>,
    verdicts_given: u64,
    waker: Waker,
    joiner: Joiner,
    records: u64,
    malformed: u64,
}

impl Capture {
    /// Reads from these maps.
    ///
    /// # Errors
    ///
    /// As epoll_create(2).
    pub fn new(sources: Sources) -> io::Result<Self> {
        let Sources {
            events,
            lost,
            agent,
            verdicts,
            verdict_count,
        } = sources;
        let waker = Waker::new(&events, agent)?;
        Ok(Self {
            events,
            lost,
            verdicts,
            verdict_count,
            verdicts_given: 0,
            waker,
            joiner: Joiner::default(),
            records: 0,
            malformed: 0,
        })
    }

    /// Also wakes up when `other` can be read.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    pub fn wake_for(&self, other: impl AsFd) -> io::Result<()> {
        self.waker.also(other)
    }

    /// Waits until it is time to look for records, `longest` at most. `handled` is how many there were
    /// the last time.
    ///
    /// # Errors
    ///
    /// The kernel does not let the agent wait.
    pub fn wait(&mut self, handled: usize, longest: Duration) -> io::Result<()> {
        self.waker.wait(handled, longest)
    }

    /// Ends the capture in one instant. Probes may take a while to go: without this, requests would still
    /// be seen when answers are not any more.
    pub fn stop(&mut self) {
        if let Err(error) = self.waker.stop() {
            warn!(%error, "cannot stop the programs");
        }
    }

    /// Has the programs copy nothing more of a connection, unless a request of it begins like one to an
    /// LLM. `asked` is how much had passed in the direction of requests of what led to this.
    pub fn ignore(&mut self, connection: ConnectionKey, asked: u64) {
        if join::is_joined(connection) {
            if let Some((key, asked)) = self.joiner.sender(connection, asked) {
                self.ignore(key, asked);
            }
            return;
        }
        // As `observer_common::ConnectionKey` and `Verdict`.
        let key = [connection.ssl, u64::from(connection.pid.0)];
        let verdict = [connection.generation, asked];
        self.verdicts_given += 1;
        let told = self
            .verdicts
            .insert(key, verdict, 0)
            .and_then(|()| self.verdict_count.set(0, self.verdicts_given, 0));
        if let Err(error) = told {
            warn!(pid = connection.pid.0, %error, "cannot pass on a verdict");
        }
    }

    /// Hands over what is in the ring buffer, `limit` events at most. Returns how many.
    pub fn drain(&mut self, limit: usize, mut handle: impl FnMut(Event<'_>)) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(record) = self.events.next()
        {
            count += 1;
            match parse(&record) {
                Some(event) if self.joiner.concerns(&event) => {
                    self.joiner.take(event, &mut handle);
                }
                Some(event) => handle(event),
                None => self.malformed += 1,
            }
        }
        if self.joiner.is_waiting() {
            self.joiner.release(clock::now().0, &mut handle);
        }
        self.records += count as u64;
        count
    }

    /// Records that have been read, and how often a program has woken the agent for them.
    pub fn activity(&self) -> (u64, u64) {
        (self.records, self.waker.wakeups())
    }

    /// What has been lost so far.
    pub fn losses(&self) -> Losses {
        Losses::read(
            |index| self.lost.get(&index, 0).unwrap_or(0),
            self.malformed,
        )
    }
}

fn parse(record: &[u8]) -> Option<Event<'_>> {
    let (kind, _) = u32::read_from_prefix(record).ok()?;
    match kind {
        KIND_DATA => {
            let (head, bytes) = DataRecord::read_from_prefix(record).ok()?;
            let (_, comm) = record.split_at_checked(size_of::<DataRecord>() - head.comm.len())?;
            let comm = comm.get(..head.comm.len())?;
            Some(Event::Data {
                connection: key(head.tgid, head.ssl, head.generation),
                tid: head.tid,
                task: Task::of(head.task_kind, head.task),
                half: head.half != 0,
                direction: direction(head.direction)?,
                offset: head.offset,
                opposite: head.opposite,
                at: Timestamp(head.at),
                comm: comm.split(|&byte| byte == 0).next()?,
                bytes: bytes.get(..usize::try_from(head.bytes).ok()?)?,
            })
        }
        KIND_FREE | KIND_SHUTDOWN | KIND_PEER_CLOSED | KIND_BROKEN => {
            let (record, _) = CloseRecord::read_from_prefix(record).ok()?;
            Some(Event::Close {
                connection: key(record.tgid, record.ssl, record.generation),
                close: match kind {
                    KIND_PEER_CLOSED => Close::Peer { clean: true },
                    KIND_BROKEN => Close::Peer { clean: false },
                    _ => Close::Local,
                },
                freed: kind == KIND_FREE,
                produced: (record.sent, record.received),
                at: Timestamp(record.at),
            })
        }
        KIND_BIND => {
            let (record, _) = BindRecord::read_from_prefix(record).ok()?;
            Some(Event::Bind {
                pid: Pid(record.tgid),
                direction: direction(record.direction)?,
                object: record.ssl,
                fd: record.fd,
                previous: record.previous,
                at: Timestamp(record.at),
            })
        }
        KIND_TASK => {
            let (record, _) = TaskRecord::read_from_prefix(record).ok()?;
            Some(Event::Task {
                pid: Pid(record.tgid),
                tid: record.tid,
                task: Task::of(record.task_kind, record.task)?,
                parent: Task::of(record.task_kind, record.parent),
                at: Timestamp(record.at),
            })
        }
        KIND_ANSWERS => {
            let (record, _) = AnswersRecord::read_from_prefix(record).ok()?;
            Some(Event::Answers {
                pid: Pid(record.tgid),
                object: record.object,
                stream: record.stream,
                task: Task::of(record.task_kind, record.task)?,
            })
        }
        KIND_FORK | KIND_EXEC | KIND_EXIT => {
            let (record, _) = ProcessRecord::read_from_prefix(record).ok()?;
            Some(Event::Process {
                pid: Pid(record.tgid),
                tid: record.tid,
                step: match kind {
                    KIND_FORK => Step::Fork(record.other),
                    KIND_EXEC => Step::Exec,
                    _ => Step::Exit,
                },
                at: Timestamp(record.at),
            })
        }
        _ => None,
    }
}

fn direction(direction: u32) -> Option<Direction> {
    match direction {
        SENT => Some(Direction::Sent),
        RECEIVED => Some(Direction::Received),
        _ => None,
    }
}

fn key(tgid: u32, ssl: u64, generation: u64) -> ConnectionKey {
    ConnectionKey {
        pid: Pid(tgid),
        ssl,
        generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: u32, room: usize) -> Vec<u8> {
        let mut record = Vec::new();
        for word in [KIND_DATA, RECEIVED, 7, 8] {
            record.extend(word.to_ne_bytes());
        }
        for word in [0x1000_u64, 5, 99, 40, 0, 3, 0] {
            record.extend(word.to_ne_bytes());
        }
        record.extend(bytes.to_ne_bytes());
        record.extend([0; 12]);
        record.extend(b"python\0\0\0\0\0\0\0\0\0\0");
        record.extend(vec![b'x'; room]);
        record
    }

    #[test]
    fn a_data_record_is_as_long_as_it_says_not_as_its_room() {
        let record = data(3, 256);
        assert!(matches!(
            parse(&record),
            Some(Event::Data {
                bytes: b"xxx",
                comm: b"python",
                offset: 40,
                ..
            })
        ));
    }

    #[test]
    fn a_malformed_record_is_no_event() {
        assert!(parse(&[]).is_none());
        assert!(parse(&99_u32.to_ne_bytes()).is_none());
        assert!(parse(&data(300, 256)).is_none());
        assert!(parse(&data(3, 256)[..40]).is_none());
    }
}
