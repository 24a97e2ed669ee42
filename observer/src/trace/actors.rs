//! What is known of those who make calls: where each made its last, and which traces it is part of.

use std::collections::{BTreeSet, HashMap};

use observer_wire::Timestamp;

use super::{attribution::TraceKey, lineage::Actor};
use crate::attach::processes::Pid;

/// What is known of an actor. Traces that are named here are open, or have been.
#[derive(Debug, Default)]
pub struct Known {
    /// Where it made its last call.
    pub last: Option<TraceKey>,
    /// Where the tasks belong that it has created at once, and when that was.
    pub burst: Option<(TraceKey, Timestamp)>,
    /// Where the last task belongs that it has created for a single call.
    pub errand: Option<TraceKey>,
    /// The last that it began beside another: it is an event loop.
    pub beside: Option<TraceKey>,
    /// Its calls in flight, by number, and where they are.
    pub flying: Vec<(u64, Option<TraceKey>)>,
    /// The open traces that have it among their actors.
    of: Vec<TraceKey>,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.last.is_none()
            && self.burst.is_none()
            && self.errand.is_none()
            && self.beside.is_none()
            && self.flying.is_empty()
            && self.of.is_empty()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Actors {
    processes: HashMap<Pid, Process>,
}

#[derive(Debug, Default)]
struct Process {
    actors: HashMap<Actor, Known>,
    /// The open traces in which it has made calls.
    traces: BTreeSet<TraceKey>,
}

impl Actors {
    /// What is known of an actor.
    pub fn get(&self, actor: Actor) -> Option<&Known> {
        self.processes.get(&actor.pid())?.actors.get(&actor)
    }

    /// The same, to change it, of one that need not be known.
    pub fn entry(&mut self, actor: Actor) -> &mut Known {
        let process = self.processes.entry(actor.pid()).or_default();
        process.actors.entry(actor).or_default()
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        let processes = self.processes.values();
        processes.map(|process| process.actors.len()).sum()
    }

    /// An actor is part of a trace. Returns whether it was not.
    pub fn joins(&mut self, actor: Actor, trace: TraceKey) -> bool {
        let known = self.entry(actor);
        let new = !known.of.contains(&trace);
        if new {
            known.of.push(trace);
        }
        new
    }

    /// A process makes calls in a trace.
    pub fn calls_in(&mut self, pid: Pid, trace: TraceKey) {
        self.processes.entry(pid).or_default().traces.insert(trace);
    }

    /// Whether a process has made calls in an open trace.
    pub fn concern(&self, pid: Pid) -> bool {
        self.processes
            .get(&pid)
            .is_some_and(|process| !process.traces.is_empty())
    }

    /// A call in flight is in a trace.
    pub fn placed(&mut self, actor: Actor, number: u64, trace: TraceKey) {
        self.change(actor, |known| {
            let own = known.flying.iter_mut().find(|(own, _)| *own == number);
            own.into_iter().for_each(|own| own.1 = Some(trace));
        });
    }

    /// The address of an actor is another task's now.
    pub fn renewed(&mut self, actor: Actor) {
        self.change(actor, |known| {
            known.last = None;
            known.burst = None;
            known.errand = None;
        });
    }

    /// A call is not in flight any more.
    pub fn landed(&mut self, actor: Actor, number: u64) {
        self.change(actor, |known| {
            known.flying.retain(|(flying, _)| *flying != number);
        });
    }

    /// A thread is gone. Returns the open traces that it was part of.
    pub fn thread_gone(&mut self, thread: Actor) -> Vec<TraceKey> {
        let mut of = Vec::new();
        self.change(thread, |known| {
            let flying = std::mem::take(&mut known.flying);
            of = std::mem::take(known).of;
            known.flying = flying;
        });
        of
    }

    /// A process is gone. Returns the open traces that it, or an actor of it, was part of.
    pub fn process_gone(&mut self, pid: Pid) -> BTreeSet<TraceKey> {
        let Some(process) = self.processes.remove(&pid) else {
            return BTreeSet::new();
        };
        let mut traces = process.traces;
        traces.extend(process.actors.into_values().flat_map(|known| known.of));
        traces
    }

    /// A trace is over, which had this actor.
    pub fn trace_over(&mut self, actor: Actor, trace: TraceKey) {
        self.change(actor, |known| {
            known.last = known.last.filter(|last| *last != trace);
            known.burst = known.burst.filter(|(burst, _)| *burst != trace);
            known.errand = known.errand.filter(|errand| *errand != trace);
            known.beside = known.beside.filter(|beside| *beside != trace);
            known.of.retain(|of| *of != trace);
        });
    }

    /// The same, of a process.
    pub fn trace_left(&mut self, pid: Pid, trace: TraceKey) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.traces.remove(&trace);
            self.tidy(pid);
        }
    }

    fn change(&mut self, actor: Actor, change: impl FnOnce(&mut Known)) {
        let pid = actor.pid();
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let Some(known) = process.actors.get_mut(&actor) else {
            return;
        };
        change(known);
        if known.is_empty() {
            process.actors.remove(&actor);
            self.tidy(pid);
        }
    }

    fn tidy(&mut self, pid: Pid) {
        let of = |process: &Process| process.actors.is_empty() && process.traces.is_empty();
        if self.processes.get(&pid).is_some_and(of) {
            self.processes.remove(&pid);
        }
    }
}
