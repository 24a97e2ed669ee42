//! Who created whom: logical tasks, threads and processes.

use std::num::NonZeroUsize;

use lru::LruCache;
use observer_wire::Timestamp;

use crate::{
    attach::processes::Pid,
    capture::task::{Task, TaskKind},
};

/// Tasks and threads whose creators are remembered; past it those that were not asked for are forgotten.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// Generations that are looked back.
const GENERATIONS: usize = 32;

/// What makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// A thread, and nothing that tells more.
    Thread(Pid, u32),
    /// A logical task, on whatever thread.
    Task(Pid, Task),
}

impl Actor {
    /// The process.
    pub fn pid(self) -> Pid {
        match self {
            Self::Thread(pid, _) | Self::Task(pid, _) => pid,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lineage {
    /// What created a task, in which thread, and when.
    created: LruCache<Actor, (Actor, u32, Timestamp)>,
    /// What created a thread or the first thread of a process, by the new one's id.
    forked: LruCache<u32, (Actor, Timestamp)>,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            created: LruCache::new(REMEMBERED),
            forked: LruCache::new(REMEMBERED),
        }
    }
}

impl Lineage {
    /// A task was created, by another or by its thread.
    pub fn task(&mut self, pid: Pid, task: Task, by: Actor, tid: u32, at: Timestamp) {
        self.created.put(Actor::Task(pid, task), (by, tid, at));
    }

    /// A thread created another, or the first one of a process.
    pub fn forked(&mut self, by: Actor, child: u32, at: Timestamp) {
        self.forked.put(child, (by, at));
    }

    /// The same, as the new process tells: only if nothing better is known.
    pub fn child_of(&mut self, parent: Pid, child: Pid, at: Timestamp) {
        if !self.forked.contains(&child.0) {
            let by = Actor::Thread(parent, parent.0);
            self.forked.put(child.0, (by, at));
        }
    }

    /// A thread is gone: its id may come again.
    pub fn gone(&mut self, tid: u32) {
        self.forked.pop(&tid);
    }

    /// An actor and those who created it, the nearest first, each with when the one before it was created.
    /// `thread` is what executes the actor.
    pub fn ancestors(&mut self, actor: Actor, thread: u32) -> Vec<Ancestor> {
        let mut line = vec![Ancestor {
            actor: self.for_whom(actor, thread),
            child_created: None,
        }];
        while line.len() < GENERATIONS {
            let last = line[line.len() - 1].actor;
            let next = match last {
                Actor::Task(pid, _) => match self.created.get(&last) {
                    Some((by, _, at)) => {
                        let (by, at) = (*by, *at);
                        // One that is younger than what it is said to have created has the address of another.
                        let other = self
                            .created
                            .peek(&by)
                            .is_some_and(|(.., since)| *since > at);
                        let by = if other {
                            Actor::Thread(pid, thread)
                        } else {
                            by
                        };
                        Some((by, Some(at)))
                    }
                    None => Some((Actor::Thread(pid, thread), None)),
                },
                Actor::Thread(_, tid) => self.forked.get(&tid).map(|(by, at)| (*by, Some(*at))),
            };
            let Some((actor, child_created)) = next else {
                break;
            };
            if line.iter().any(|known| known.actor == actor) {
                break;
            }
            line.push(Ancestor {
                actor,
                child_created,
            });
        }
        line
    }

    /// The task that created a task, if another did.
    pub fn creating_task(&mut self, actor: Actor) -> Option<Actor> {
        let (by, ..) = self.created.get(&actor)?;
        matches!(by, Actor::Task(..)).then_some(*by)
    }

    /// For whom an actor works: a task of an event loop stays in its thread, so a Context that another thread has
    /// entered is a function's that somebody has handed over (`asyncio.to_thread`).
    fn for_whom(&mut self, mut actor: Actor, mut thread: u32) -> Actor {
        for _ in 0..GENERATIONS {
            let Actor::Task(_, task) = actor else { break };
            match self.created.get(&actor) {
                Some((by, tid, _)) if task.kind == TaskKind::PythonContext && *tid != thread => {
                    (actor, thread) = (*by, *tid);
                }
                _ => break,
            }
        }
        actor
    }
}

/// One of an actor's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Who.
    pub actor: Actor,
    /// When it created the next one of the line, if that is known; `None` for the actor itself.
    pub child_created: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: Pid = Pid(7);

    fn task(id: u64) -> Task {
        Task {
            kind: TaskKind::PythonContext,
            id,
        }
    }

    #[test]
    fn a_line_goes_from_tasks_by_threads_to_processes() {
        let mut lineage = Lineage::default();
        let thread = Actor::Thread(PID, 8);
        lineage.forked(Actor::Thread(PID, 7), 8, Timestamp(10));
        lineage.child_of(Pid(3), PID, Timestamp(5));
        lineage.task(PID, task(1), thread, 8, Timestamp(20));
        lineage.task(PID, task(2), Actor::Task(PID, task(1)), 8, Timestamp(30));
        let line = lineage.ancestors(Actor::Task(PID, task(2)), 8);
        let actors: Vec<Actor> = line.iter().map(|one| one.actor).collect();
        assert_eq!(
            actors,
            [
                Actor::Task(PID, task(2)),
                Actor::Task(PID, task(1)),
                thread,
                Actor::Thread(PID, 7),
                Actor::Thread(Pid(3), 3),
            ]
        );
        assert_eq!(line[1].child_created, Some(Timestamp(30)));
        assert_eq!(line[4].child_created, Some(Timestamp(5)));
    }

    #[test]
    fn what_is_handed_to_another_thread_is_done_for_its_creator() {
        let mut lineage = Lineage::default();
        let agent = Actor::Task(PID, task(1));
        lineage.task(PID, task(1), Actor::Thread(PID, 7), 7, Timestamp(20));
        lineage.task(PID, task(2), agent, 7, Timestamp(30));
        let handed = lineage.ancestors(Actor::Task(PID, task(2)), 9);
        assert_eq!(handed[0].actor, agent);
        let stays = lineage.ancestors(Actor::Task(PID, task(2)), 7);
        assert_eq!(stays[0].actor, Actor::Task(PID, task(2)));
    }

    #[test]
    fn an_address_that_is_anothers_by_now_is_no_creator() {
        let mut lineage = Lineage::default();
        let thread = Actor::Thread(PID, 7);
        lineage.task(PID, task(1), thread, 7, Timestamp(20));
        lineage.task(PID, task(2), Actor::Task(PID, task(1)), 7, Timestamp(30));
        lineage.task(PID, task(1), Actor::Task(PID, task(2)), 7, Timestamp(40));
        let line = lineage.ancestors(Actor::Task(PID, task(2)), 7);
        let actors: Vec<Actor> = line.iter().map(|one| one.actor).collect();
        assert_eq!(actors, [Actor::Task(PID, task(2)), thread]);
    }

    #[test]
    fn a_ring_of_creators_ends() {
        let mut lineage = Lineage::default();
        lineage.forked(Actor::Thread(PID, 8), 7, Timestamp(1));
        lineage.forked(Actor::Thread(PID, 7), 8, Timestamp(1));
        assert_eq!(lineage.ancestors(Actor::Thread(PID, 7), 7).len(), 2);
    }
}
