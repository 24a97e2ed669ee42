//! Which trace a conversation was in last, by what its requests and answers have in common.

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    num::NonZeroUsize,
};

use lru::LruCache;
use observer_wire::{Evidence, LlmCall};

use super::{attribution::TraceKey, record::ConversationId};
use crate::attach::processes::Pid;

/// Marks of conversations that are remembered; past it those that were not met for longest are forgotten.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// Conversations that may have one mark in common.
const ALIKE: usize = 4;

/// Longest name of a conversation, in bytes.
const NAME_BYTES: usize = 128;

/// A conversation, and where it was last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// What it is called.
    pub id: ConversationId,
    /// The trace of its last call. That may have ended.
    pub trace: TraceKey,
    pid: Pid,
}

/// See the module.
#[derive(Debug)]
pub struct Conversations {
    marks: LruCache<u64, Vec<Conversation>>,
}

impl Default for Conversations {
    fn default() -> Self {
        Self {
            marks: LruCache::new(REMEMBERED),
        }
    }
}

impl Conversations {
    /// The conversation that a request goes on with. Of several that are alike, the one for which `is_own`
    /// speaks; none if it speaks for none.
    pub fn of_request(
        &mut self,
        pid: Pid,
        evidence: &Evidence,
        is_own: impl Fn(&Conversation) -> bool,
    ) -> Option<Conversation> {
        for mark in marks_of_request(pid, evidence) {
            let Some(alike) = self.marks.get(&mark) else {
                continue;
            };
            let here = alike.iter().filter(|one| one.pid == pid);
            let found = match alike.as_slice() {
                [one] => Some(one),
                _ => here.clone().find(|one| is_own(one)),
            };
            if let Some(found) = found {
                return Some(found.clone());
            }
        }
        None
    }

    /// A request belongs to a conversation.
    pub fn asked(&mut self, pid: Pid, evidence: &Evidence, conversation: &Conversation) {
        for session in sessions(evidence) {
            self.note(hash((SESSION, session)), conversation);
        }
        if let Some(whole) = evidence.messages.whole() {
            self.note(hash((LIST, pid.0, whole)), conversation);
        }
    }

    /// Its answer came.
    pub fn answered(&mut self, pid: Pid, call: &LlmCall, conversation: &Conversation) {
        if let Some(id) = &call.response_id {
            self.note(hash((RESPONSE, id.as_str())), conversation);
        }
        for id in call
            .evidence
            .tool_calls
            .iter()
            .filter_map(|tool| tool.id.as_deref())
        {
            self.note(hash((TOOL, pid.0, id)), conversation);
        }
    }

    fn note(&mut self, mark: u64, conversation: &Conversation) {
        let alike = self.marks.get_or_insert_mut(mark, Vec::new);
        match alike.iter_mut().find(|known| known.id == conversation.id) {
            Some(known) => known.trace = conversation.trace,
            None => {
                if alike.len() >= ALIKE {
                    alike.remove(0);
                }
                alike.push(conversation.clone());
            }
        }
    }
}

impl Conversation {
    /// A conversation that is met for the first time; `unnamed` is what it is called if nobody says.
    pub fn new(pid: Pid, evidence: &Evidence, trace: TraceKey, unnamed: String) -> Self {
        let given = sessions(evidence).next();
        let id = ConversationId {
            given: given.is_some(),
            name: given.map_or(unnamed, |name| {
                name[..name.floor_char_boundary(NAME_BYTES)].to_owned()
            }),
        };
        Self { id, trace, pid }
    }
}

const SESSION: u8 = 0;
const RESPONSE: u8 = 1;
const TOOL: u8 = 2;
const LIST: u8 = 3;

/// The surest first.
fn marks_of_request(pid: Pid, evidence: &Evidence) -> impl Iterator<Item = u64> {
    let previous = evidence.previous_response.iter();
    let previous = previous.map(|id| hash((RESPONSE, id.as_str())));
    // The latest result is the one that continues.
    let results = evidence.tool_results.iter().rev();
    let results = results.map(move |result| hash((TOOL, pid.0, result.id.as_str())));
    // The whole list is what was asked before only if nothing was added.
    let longer = evidence.messages.beginnings.iter().skip(1);
    let lists = longer.map(move |list| hash((LIST, pid.0, *list)));
    let sessions = sessions(evidence).map(|session| hash((SESSION, session)));
    previous.chain(results).chain(lists).chain(sessions)
}

fn sessions(evidence: &Evidence) -> impl Iterator<Item = &str> {
    [&evidence.conversation, &evidence.session]
        .into_iter()
        .filter_map(|name| name.as_deref())
}

fn hash(mark: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    mark.hash(&mut hasher);
    hasher.finish()
}
