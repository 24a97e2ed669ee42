//! The requests that processes answer at the moment, and which of them a call is made for.

use std::{collections::HashMap, time::Duration};

use observer_wire::{Inbound, Timestamp, evidence::TraceContext};

use super::{
    attribution::TraceKey,
    lineage::{Actor, Ancestor},
};
use crate::{attach::processes::Pid, capture::task::TaskKind};

/// Requests that may be open at once; past it others are not noted.
const OPEN: usize = 65_536;

/// How long after the request was read a task is created for it, at most: event loops do it in the same
/// callback.
const PROMPTLY: Duration = Duration::from_millis(50);

/// Longest name of a trace, in bytes.
const NAME_BYTES: usize = 200;

/// Names a request: its process, the connection's place and generation, and its number there.
pub type InboundId = (Pid, u64, u64, u64);

/// A request that is being answered.
#[derive(Debug)]
pub struct Served {
    /// What read it.
    actor: Actor,
    /// When its first byte was read.
    at: Timestamp,
    /// `METHOD /route`.
    pub name: String,
    /// The client's place in a distributed trace.
    pub context: Option<TraceContext>,
    /// The trace of the calls that were made for it.
    pub trace: Option<TraceKey>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Inbounds {
    open: HashMap<InboundId, Served>,
    by_actor: HashMap<Actor, Vec<InboundId>>,
}

impl Inbounds {
    /// A request was read.
    pub fn started(&mut self, id: InboundId, actor: Actor, at: Timestamp, request: &Inbound) {
        self.ended(id);
        if self.open.len() >= OPEN {
            return;
        }
        let served = Served {
            actor,
            at,
            name: name(request),
            context: request.trace_context,
            trace: None,
        };
        self.open.insert(id, served);
        self.by_actor.entry(actor).or_default().push(id);
    }

    /// It is this that answers it.
    pub fn answered(&mut self, id: InboundId, by: Actor) {
        let Some(mut served) = self.take(id) else {
            return;
        };
        served.actor = by;
        self.open.insert(id, served);
        self.by_actor.entry(by).or_default().push(id);
    }

    /// It is answered, or will not be.
    pub fn ended(&mut self, id: InboundId) {
        self.take(id);
    }

    fn take(&mut self, id: InboundId) -> Option<Served> {
        let served = self.open.remove(&id)?;
        if let Some(ids) = self.by_actor.get_mut(&served.actor) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_actor.remove(&served.actor);
            }
        }
        Some(served)
    }

    /// A process is gone.
    pub fn process_gone(&mut self, pid: Pid) {
        if self.open.is_empty() {
            return;
        }
        self.open.retain(|id, _| id.0 != pid);
        self.by_actor.retain(|actor, _| actor.pid() != pid);
    }

    /// How many are being answered.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The request that a call is made for: one that the caller, or an ancestor of it, has read.
    pub fn serving(&mut self, line: &[Ancestor], at: Timestamp) -> Option<&mut Served> {
        if self.open.is_empty() {
            return None;
        }
        let found = line.iter().enumerate().find_map(|(index, ancestor)| {
            let ids = self.by_actor.get(&ancestor.actor)?;
            if index == 0 {
                return self.only(ancestor.actor, ids, at);
            }
            match ancestor.actor {
                // A goroutine that reads several serves a connection of HTTP/2, and creates others for them when it
                // likes to.
                Actor::Task(_, task) if task.kind == TaskKind::Goroutine => {
                    self.only(ancestor.actor, ids, at)
                }
                // It has read it and created a task for it.
                Actor::Task(..) => self.before(ids, ancestor.child_created.unwrap_or(at)),
                Actor::Thread(..) => self.promptly(ids, &line[..=index]),
            }
        })?;
        self.open.get_mut(&found)
    }

    /// What the caller itself has read: a thread that serves several at once is an event loop, and nothing tells
    /// for which of them it works.
    fn only(&self, actor: Actor, ids: &[InboundId], at: Timestamp) -> Option<InboundId> {
        let mut read = ids.iter().filter(|id| self.read_at(id) <= at);
        match (actor, read.next(), read.next_back()) {
            (_, Some(id), None) => Some(*id),
            (Actor::Task(_, task), Some(_), Some(last)) if task.kind != TaskKind::Goroutine => {
                Some(*last)
            }
            _ => None,
        }
    }

    /// The last that was read before a time.
    fn before(&self, ids: &[InboundId], at: Timestamp) -> Option<InboundId> {
        let read = ids.iter().filter(|id| self.read_at(id) <= at);
        read.max_by_key(|id| self.read_at(id)).copied()
    }

    /// What a thread has read just before it created one of the line: event loops that read outside of any
    /// task (libuv).
    fn promptly(&self, ids: &[InboundId], line: &[Ancestor]) -> Option<InboundId> {
        let read = line.iter().filter_map(|ancestor| {
            let created = ancestor.child_created?;
            let id = self.before(ids, created)?;
            Some((created.since(self.read_at(&id)), id))
        });
        let (gap, id) = read.min_by_key(|(gap, _)| *gap)?;
        // Where there is but one there is no doubt.
        (gap <= PROMPTLY || ids.len() == 1).then_some(id)
    }

    fn read_at(&self, id: &InboundId) -> Timestamp {
        self.open.get(id).map_or(Timestamp(u64::MAX), |one| one.at)
    }
}

/// Method and route: what looks like an id in the path is left out, so that names stay few.
fn name(request: &Inbound) -> String {
    let segment = |segment: &str| {
        let digits = segment.bytes().filter(u8::is_ascii_digit).count();
        let id = !segment.is_empty() && digits == segment.len()
            || segment.len() >= 16
                && digits > 0
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if id {
            "{id}".to_owned()
        } else {
            segment.to_owned()
        }
    };
    let path: Vec<String> = request.path.split('/').map(segment).collect();
    let mut name = format!("{} {}", request.method, path.join("/"));
    name.truncate(name.floor_char_boundary(NAME_BYTES));
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::task::{Task, TaskKind};

    const PID: Pid = Pid(7);
    const LOOP: Actor = Actor::Thread(PID, 7);

    fn task(id: u64) -> Actor {
        Actor::Task(
            PID,
            Task {
                kind: TaskKind::PythonContext,
                id,
            },
        )
    }

    fn request(path: &str) -> Inbound {
        Inbound {
            method: "POST".to_owned(),
            path: path.to_owned(),
            trace_context: None,
        }
    }

    fn line(actors: &[(Actor, Option<u64>)]) -> Vec<Ancestor> {
        let ancestor = |(actor, at): &(Actor, Option<u64>)| Ancestor {
            actor: *actor,
            child_created: at.map(Timestamp),
        };
        actors.iter().map(ancestor).collect()
    }

    fn serving(inbounds: &mut Inbounds, actors: &[(Actor, Option<u64>)]) -> Option<String> {
        let served = inbounds.serving(&line(actors), Timestamp(1_000))?;
        Some(served.name.clone())
    }

    #[test]
    fn names_have_no_ids() {
        assert_eq!(
            name(&request(
                "/users/42/chat/4bf92f35-77b3-4da6-a3ce-929d0e0e4736/now"
            )),
            "POST /users/{id}/chat/{id}/now"
        );
        assert_eq!(name(&request("")), "POST ");
    }

    #[test]
    fn a_thread_that_serves_one_works_for_it_and_one_that_serves_two_is_an_event_loop() {
        let mut inbounds = Inbounds::default();
        inbounds.started((PID, 1, 0, 0), LOOP, Timestamp(10), &request("/a"));
        let caller = [(LOOP, None)];
        assert_eq!(serving(&mut inbounds, &caller).unwrap(), "POST /a");
        inbounds.started((PID, 2, 0, 0), LOOP, Timestamp(20), &request("/b"));
        assert_eq!(serving(&mut inbounds, &caller), None);
        inbounds.ended((PID, 1, 0, 0));
        assert_eq!(serving(&mut inbounds, &caller).unwrap(), "POST /b");
        inbounds.process_gone(PID);
        assert_eq!(serving(&mut inbounds, &caller), None);
    }

    #[test]
    fn a_task_works_for_what_its_creator_had_read_last() {
        let mut inbounds = Inbounds::default();
        let reader = task(1);
        inbounds.started((PID, 1, 0, 0), reader, Timestamp(10), &request("/a"));
        inbounds.started((PID, 1, 0, 1), reader, Timestamp(20), &request("/b"));
        let created = |at| [(task(2), None), (reader, Some(at))];
        assert_eq!(serving(&mut inbounds, &created(15)).unwrap(), "POST /a");
        assert_eq!(serving(&mut inbounds, &created(25)).unwrap(), "POST /b");
        assert_eq!(serving(&mut inbounds, &created(5)), None);
    }

    #[test]
    fn what_answers_a_request_works_for_it_and_what_has_read_it_does_not() {
        let mut inbounds = Inbounds::default();
        let (reader, [first, second]) = (task(1), [2, 3].map(task));
        for (stream, path) in [(1, "/a"), (3, "/b")] {
            inbounds.started((PID, 1, 0, stream), reader, Timestamp(10), &request(path));
        }
        inbounds.answered((PID, 1, 0, 1), first);
        inbounds.answered((PID, 1, 0, 3), second);
        let of = |one| [(task(4), None), (one, Some(20)), (reader, Some(15))];
        assert_eq!(serving(&mut inbounds, &of(first)).unwrap(), "POST /a");
        assert_eq!(serving(&mut inbounds, &of(second)).unwrap(), "POST /b");
        assert_eq!(serving(&mut inbounds, &[(reader, None)]), None);
        inbounds.ended((PID, 1, 0, 1));
        assert_eq!(serving(&mut inbounds, &of(first)), None);
    }

    #[test]
    fn a_loop_that_reads_outside_of_tasks_creates_one_at_once() {
        let mut inbounds = Inbounds::default();
        for (connection, at, path) in [(1, 100, "/a"), (2, 200, "/b"), (3, 300, "/c")] {
            inbounds.started((PID, connection, 0, 0), LOOP, Timestamp(at), &request(path));
        }
        // A child that was created later, the task of the request, and that of the connection.
        let line = [
            (task(3), None),
            (task(2), Some(390)),
            (task(1), Some(201)),
            (LOOP, Some(50)),
        ];
        assert_eq!(serving(&mut inbounds, &line).unwrap(), "POST /b");
    }
}
