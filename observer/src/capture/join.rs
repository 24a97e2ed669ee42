//! Joins the two directions of a connection where the library has an object for each: rustls keeps a
//! key for what it seals and one for what it opens. What they have in common is the socket.
//!
//! Plaintext is sealed before it is written, so its socket is known only afterwards: it waits.

use std::collections::HashMap;

use observer_wire::{Direction, Timestamp};

use super::{ConnectionKey, Event, Step, task::Task};
use crate::attach::processes::Pid;

/// Marks [`ConnectionKey::ssl`] as made from a file descriptor.
const JOINED: u64 = 1 << 62;

/// Plaintext that waits for its socket, in bytes; past it the oldest goes on alone.
const WAITING_BYTES: usize = 4 << 20;

/// How long plaintext waits for its socket, in nanoseconds.
const PATIENCE: u64 = 500_000_000;

/// Keys that are remembered; past it all are forgotten, and learned again.
const KEYS: usize = 65_536;

/// A key of one direction, in a process.
type Key = (Pid, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    halves: HashMap<Key, Half>,
    /// By file descriptor.
    connections: HashMap<(Pid, u32), Joined>,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct Half {
    generation: u64,
    fd: Option<u32>,
    waiting: Vec<Waiting>,
}

/// A connection with the keys that it is known by.
#[derive(Debug)]
struct Joined {
    generation: u64,
    sent: Direct,
    received: Direct,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Direct {
    key: u64,
    /// 0 until bytes have passed under this key.
    generation: u64,
    /// Bytes that had passed under the keys before this one.
    base: u64,
    produced: u64,
}

#[derive(Debug)]
struct Waiting {
    tid: u32,
    task: Option<Task>,
    direction: Direction,
    offset: u64,
    at: Timestamp,
    comm: Vec<u8>,
    bytes: Vec<u8>,
}

impl Joiner {
    /// Whether an event is to be taken here.
    pub(super) fn concerns(&mut self, event: &Event<'_>) -> bool {
        match event {
            Event::Data { half, .. } => *half,
            Event::Bind { .. } => true,
            Event::Close { connection, .. } => self
                .halves
                .get(&(connection.pid, connection.ssl))
                .is_some_and(|half| half.generation == connection.generation),
            Event::Task { .. } | Event::Answers { .. } => false,
            Event::Process { pid, tid, step, .. } => {
                let over = *step == Step::Exec || (*step == Step::Exit && *tid == pid.0);
                if over && !self.halves.is_empty() {
                    self.gone(*pid);
                }
                false
            }
        }
    }

    /// Takes an event of a half connection.
    pub(super) fn take(&mut self, event: Event<'_>, handle: &mut dyn FnMut(Event<'_>)) {
        match event {
            Event::Data {
                connection,
                tid,
                task,
                direction,
                offset,
                at,
                comm,
                bytes,
                ..
            } => {
                if self.halves.len() >= KEYS {
                    *self = Self::default();
                }
                let key = (connection.pid, connection.ssl);
                let half = self.halves.entry(key).or_insert_with(|| Half {
                    generation: connection.generation,
                    fd: None,
                    waiting: Vec::new(),
                });
                if half.generation != connection.generation {
                    // The address is used again, unless this is the first of it.
                    if half.generation != 0 {
                        half.fd = None;
                    }
                    half.generation = connection.generation;
                }
                let waiting = Waiting {
                    tid,
                    task,
                    direction,
                    offset,
                    at,
                    comm: comm.to_owned(),
                    bytes: bytes.to_owned(),
                };
                match half.fd {
                    Some(fd) => self.deliver(key, fd, &waiting, handle),
                    None => {
                        self.waiting_bytes += waiting.bytes.len();
                        half.waiting.push(waiting);
                        if self.waiting_bytes > WAITING_BYTES {
                            self.release(u64::MAX, handle);
                        }
                    }
                }
            }
            Event::Close {
                connection,
                close,
                freed,
                produced,
                at,
            } => {
                let key = (connection.pid, connection.ssl);
                let Some(half) = self.halves.remove(&key) else {
                    return;
                };
                self.waiting_bytes -= half
                    .waiting
                    .iter()
                    .map(|one| one.bytes.len())
                    .sum::<usize>();
                let Some(fd) = half.fd else {
                    return;
                };
                // The first of the two keys that goes takes the connection with it.
                if let Some(joined) = self.connections.remove(&(connection.pid, fd)) {
                    let mut totals = (joined.sent.produced, joined.received.produced);
                    if joined.sent.key == connection.ssl {
                        totals.0 = joined.sent.base + produced.0;
                    } else {
                        totals.1 = joined.received.base + produced.1;
                    }
                    handle(Event::Close {
                        connection: joined.name(connection.pid, fd),
                        close,
                        freed,
                        produced: totals,
                        at,
                    });
                }
            }
            Event::Bind {
                pid,
                direction,
                object,
                fd,
                previous,
                ..
            } => {
                if previous != 0 {
                    self.replace(pid, fd, direction, (previous, object));
                }
                let Some(half) = self.halves.get_mut(&(pid, object)) else {
                    // What it opens comes right behind.
                    self.halves.insert(
                        (pid, object),
                        Half {
                            generation: 0,
                            fd: Some(fd),
                            waiting: Vec::new(),
                        },
                    );
                    return;
                };
                half.fd = Some(fd);
                let waiting = std::mem::take(&mut half.waiting);
                if waiting.is_empty() {
                    // What comes next belongs to this file, whether the address was used before or not.
                    half.generation = 0;
                }
                for one in &waiting {
                    self.waiting_bytes -= one.bytes.len();
                    self.deliver((pid, object), fd, one, handle);
                }
            }
            Event::Process { .. } | Event::Task { .. } | Event::Answers { .. } => {}
        }
    }

    /// The key with which a connection is written, as the kernel knows it, and how much had been sent under
    /// it when `sent` bytes had been sent on the connection.
    pub(super) fn sender(
        &self,
        connection: ConnectionKey,
        sent: u64,
    ) -> Option<(ConnectionKey, u64)> {
        let fd = u32::try_from(connection.ssl & !JOINED).ok()?;
        let joined = self
            .connections
            .get(&(connection.pid, fd))
            .filter(|joined| joined.generation == connection.generation)?;
        let key = ConnectionKey {
            pid: connection.pid,
            ssl: joined.sent.key,
            generation: joined.sent.generation,
        };
        Some((key, sent.saturating_sub(joined.sent.base)))
    }

    /// Whether plaintext waits for its socket.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting_bytes > 0
    }

    /// Lets plaintext go that has waited for too long: its socket was not seen. It is a connection of
    /// its own then.
    pub(super) fn release(&mut self, now: u64, handle: &mut dyn FnMut(Event<'_>)) {
        let late: Vec<Key> = self
            .halves
            .iter()
            .filter(|(_, half)| {
                half.waiting
                    .first()
                    .is_some_and(|first| now.saturating_sub(first.at.0) > PATIENCE)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            let Some(half) = self.halves.get_mut(&key) else {
                continue;
            };
            let generation = half.generation;
            for one in std::mem::take(&mut half.waiting) {
                self.waiting_bytes -= one.bytes.len();
                let connection = ConnectionKey {
                    pid: key.0,
                    ssl: key.1,
                    generation,
                };
                handle(one.event(connection, one.offset, 0));
            }
        }
    }

    /// Forgets a process.
    fn gone(&mut self, pid: Pid) {
        self.halves.retain(|key, half| {
            if key.0 == pid {
                self.waiting_bytes -= half
                    .waiting
                    .iter()
                    .map(|one| one.bytes.len())
                    .sum::<usize>();
            }
            key.0 != pid
        });
        self.connections.retain(|key, _| key.0 != pid);
    }

    /// A connection goes on with another key in one direction: from the first to the second.
    fn replace(&mut self, pid: Pid, fd: u32, direction: Direction, keys: (u64, u64)) {
        let (from, to) = keys;
        let Some(joined) = self.connections.get_mut(&(pid, fd)) else {
            return;
        };
        let direct = joined.direct(direction);
        if direct.key != from {
            return;
        }
        // By now the address may be that of another connection's key.
        if self
            .halves
            .get(&(pid, from))
            .is_some_and(|half| half.generation == direct.generation)
        {
            self.halves.remove(&(pid, from));
        }
        *direct = Direct {
            key: to,
            generation: 0,
            base: direct.produced,
            produced: direct.produced,
        };
    }

    fn deliver(&mut self, key: Key, fd: u32, one: &Waiting, handle: &mut dyn FnMut(Event<'_>)) {
        let (pid, object) = key;
        let Some(half) = self.halves.get(&key) else {
            return;
        };
        let generation = half.generation;
        let joined = self.connections.entry((pid, fd)).or_insert_with(|| Joined {
            generation,
            sent: Direct::default(),
            received: Direct::default(),
        });
        let direct = joined.direct(one.direction);
        if direct.key == object && direct.generation == 0 {
            direct.generation = generation;
        }
        if direct.key != object || direct.generation != generation {
            if direct.key != 0 {
                // Other keys: another connection by the same descriptor, whose end was not seen.
                *joined = Joined {
                    generation,
                    sent: Direct::default(),
                    received: Direct::default(),
                };
            }
            *joined.direct(one.direction) = Direct {
                key: object,
                generation,
                base: 0,
                produced: 0,
            };
        }
        let opposite = joined.direct(one.direction.opposite()).produced;
        let direct = joined.direct(one.direction);
        let offset = direct.base + one.offset;
        direct.produced = offset + one.bytes.len() as u64;
        let connection = joined.name(pid, fd);
        handle(one.event(connection, offset, opposite));
    }
}

impl Joined {
    fn direct(&mut self, direction: Direction) -> &mut Direct {
        match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        }
    }

    fn name(&self, pid: Pid, fd: u32) -> ConnectionKey {
        ConnectionKey {
            pid,
            ssl: JOINED | u64::from(fd),
            generation: self.generation,
        }
    }
}

impl Waiting {
    fn event(&self, connection: ConnectionKey, offset: u64, opposite: u64) -> Event<'_> {
        Event::Data {
            connection,
            tid: self.tid,
            task: self.task,
            half: false,
            direction: self.direction,
            offset,
            opposite,
            at: self.at,
            comm: &self.comm,
            bytes: &self.bytes,
        }
    }
}

/// Whether the connection was put together here: the kernel knows nothing by this name.
pub(super) fn is_joined(connection: ConnectionKey) -> bool {
    connection.ssl & JOINED != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_wire::Close;

    const PID: Pid = Pid(7);

    fn data(
        object: u64,
        generation: u64,
        direction: Direction,
        offset: u64,
        bytes: &[u8],
    ) -> Event<'_> {
        Event::Data {
            connection: ConnectionKey {
                pid: PID,
                ssl: object,
                generation,
            },
            tid: 8,
            task: None,
            half: true,
            direction,
            offset,
            opposite: 0,
            at: Timestamp(1),
            comm: b"rust",
            bytes,
        }
    }

    fn bind(object: u64, direction: Direction, fd: u32) -> Event<'static> {
        rebind(object, direction, fd, 0)
    }

    fn rebind(object: u64, direction: Direction, fd: u32, previous: u64) -> Event<'static> {
        Event::Bind {
            pid: PID,
            direction,
            object,
            fd,
            previous,
            at: Timestamp(2),
        }
    }

    /// What comes out, a line each.
    fn lines(joiner: &mut Joiner, events: Vec<Event<'_>>) -> Vec<String> {
        let mut lines = Vec::new();
        for event in events {
            joiner.take(event, &mut |event| match event {
                Event::Data {
                    connection,
                    direction,
                    offset,
                    opposite,
                    bytes,
                    ..
                } => lines.push(format!(
                    "{}/{} {direction:?} {offset} {opposite} {}",
                    connection.ssl & !JOINED,
                    connection.generation,
                    String::from_utf8_lossy(bytes)
                )),
                Event::Close {
                    connection,
                    produced: (sent, received),
                    ..
                } => lines.push(format!(
                    "{}/{} closed {sent} {received}",
                    connection.ssl & !JOINED,
                    connection.generation
                )),
                _ => {}
            });
        }
        lines
    }

    #[test]
    fn what_was_sealed_waits_for_its_socket() {
        use Direction::{Received, Sent};
        let mut joiner = Joiner::default();
        let lines = lines(
            &mut joiner,
            vec![
                data(1, 10, Sent, 0, b"ask"),
                data(3, 11, Sent, 0, b"other"),
                bind(1, Sent, 5),
                bind(3, Sent, 6),
                bind(2, Received, 5),
                data(2, 12, Received, 0, b"answer"),
                data(1, 10, Sent, 3, b"more"),
            ],
        );
        assert_eq!(
            lines,
            [
                "5/10 Sent 0 0 ask",
                "6/11 Sent 0 0 other",
                "5/10 Received 0 3 answer",
                "5/10 Sent 3 6 more"
            ]
        );
        assert_eq!(joiner.waiting_bytes, 0);
    }

    #[test]
    fn a_descriptor_that_is_used_again_is_another_connection() {
        use Direction::{Received, Sent};
        let mut joiner = Joiner::default();
        let close = Event::Close {
            connection: ConnectionKey {
                pid: PID,
                ssl: 1,
                generation: 10,
            },
            close: Close::Local,
            freed: true,
            produced: (3, 0),
            at: Timestamp(4),
        };
        let lines = lines(
            &mut joiner,
            vec![
                data(1, 10, Sent, 0, b"ask"),
                bind(1, Sent, 5),
                close,
                data(1, 20, Sent, 0, b"new"),
                bind(1, Sent, 5),
                // The end of that one was not seen.
                data(4, 30, Sent, 0, b"third"),
                bind(4, Sent, 5),
                bind(2, Received, 5),
                data(2, 31, Received, 0, b"answer"),
            ],
        );
        assert_eq!(
            lines,
            [
                "5/10 Sent 0 0 ask",
                "5/10 closed 3 0",
                "5/20 Sent 0 0 new",
                "5/30 Sent 0 0 third",
                "5/30 Received 0 5 answer"
            ]
        );
    }

    #[test]
    fn a_key_that_is_updated_is_the_same_connection() {
        use Direction::{Received, Sent};
        let mut joiner = Joiner::default();
        let lines = lines(
            &mut joiner,
            vec![
                data(1, 10, Sent, 0, b"ask"),
                bind(1, Sent, 5),
                bind(2, Received, 5),
                data(2, 12, Received, 0, b"ans"),
                rebind(3, Received, 5, 2),
                data(3, 13, Received, 0, b"wer"),
                data(4, 14, Sent, 0, b"more"),
                rebind(4, Sent, 5, 1),
                data(3, 13, Received, 3, b"!"),
                Event::Close {
                    connection: ConnectionKey {
                        pid: PID,
                        ssl: 4,
                        generation: 14,
                    },
                    close: Close::Local,
                    freed: true,
                    produced: (4, 0),
                    at: Timestamp(5),
                },
            ],
        );
        assert_eq!(
            lines,
            [
                "5/10 Sent 0 0 ask",
                "5/10 Received 0 3 ans",
                "5/10 Received 3 3 wer",
                "5/10 Sent 3 6 more",
                "5/10 Received 6 7 !",
                "5/10 closed 7 7"
            ]
        );
    }

    #[test]
    fn what_waits_too_long_goes_on_alone() {
        let mut joiner = Joiner::default();
        assert!(lines(&mut joiner, vec![data(1, 10, Direction::Sent, 0, b"ask")]).is_empty());
        let mut released = 0;
        joiner.release(PATIENCE, &mut |_| released += 1);
        assert_eq!(released, 0);
        joiner.release(PATIENCE + 2, &mut |_| released += 1);
        assert_eq!((released, joiner.waiting_bytes), (1, 0));
    }
}
