//! Who created whom: logical tasks, threads and processes.

use std::num::NonZeroUsize;

use lru::LruCache;
use observer_wire::Timestamp;

use crate::{attach::processes::Pid, capture::task::Task};

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
    /// What created an actor, and when. No creator: nobody who is known.
    created: LruCache<Actor, (Option<Actor>, Timestamp)>,
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
    pub fn task(&mut self, pid: Pid, task: Task, by: Actor, at: Timestamp) {
        self.created.put(Actor::Task(pid, task), (Some(by), at));
    }

    /// Whether it is known who created a task.
    pub fn knows_task(&self, pid: Pid, task: Task) -> bool {
        self.created.contains(&Actor::Task(pid, task))
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
    /// Of a task that nobody is known to have created, `thread` is what executes it.
    pub fn ancestors(&mut self, actor: Actor, thread: u32) -> Vec<Ancestor> {
        let mut line = vec![Ancestor {
            actor,
            child_created: None,
        }];
        while line.len() < GENERATIONS {
            let last = line[line.len() - 1].actor;
            let next = match last {
                Actor::Task(pid, _) => match self.created.get(&last) {
                    Some((Some(by), at)) => Some((*by, Some(*at))),
                    Some((None, at)) => Some((Actor::Thread(pid, thread), Some(*at))),
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

    /// When a task was created, if that is known.
    pub fn created_at(&mut self, actor: Actor) -> Option<Timestamp> {
        self.created.get(&actor).map(|(_, at)| *at)
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
    use crate::capture::task::TaskKind;

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
        lineage.task(PID, task(1), thread, Timestamp(20));
        lineage.task(PID, task(2), Actor::Task(PID, task(1)), Timestamp(30));
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
    fn a_ring_of_creators_ends() {
        let mut lineage = Lineage::default();
        lineage.forked(Actor::Thread(PID, 8), 7, Timestamp(1));
        lineage.forked(Actor::Thread(PID, 7), 8, Timestamp(1));
        assert_eq!(lineage.ancestors(Actor::Thread(PID, 7), 7).len(), 2);
    }
}
