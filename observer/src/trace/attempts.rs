//! Attempts at one call: a request that failed in a way that libraries try again, and the same request
//! once more.

use std::time::Duration;

use observer_wire::{Incomplete, LlmCall, Timestamp};

use super::lineage::Actor;
use crate::clock::nanoseconds_of;

/// How long another attempt is waited for. OpenAI's and Anthropic's libraries wait 8 seconds at most unless
/// the provider says how long (`MAX_RETRY_DELAY` in openai/_constants.py).
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait that those libraries let a provider ask for (`_calculate_retry_timeout` in
/// openai/_base_client.py), and a little more.
const LONGEST: Duration = Duration::from_secs(65);

/// No library tries again sooner than this after an answer that does not ask for it: whoever asks the same at once has
/// asked twice. google-genai waits for a second (`_retry.py`), LangChain's and Vercel's for more.
const PAUSE: Duration = Duration::from_millis(100);

/// Failed calls that are kept back; past it another is recorded at once.
const KEPT: usize = 4_096;

/// Calls that may be tried again, each with what is kept of it.
#[derive(Debug)]
pub struct Attempts<T> {
    failed: Vec<Failed<T>>,
}

/// A request that may be an attempt at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What makes it.
    pub actor: Actor,
    /// Hash of its head.
    pub head: u64,
    /// Hash of its body; 0 if there is none.
    pub body: u64,
    /// Which attempt it is by the library's account.
    pub attempt: Option<u32>,
    /// When it was begun.
    pub at: Timestamp,
}

#[derive(Debug)]
struct Failed<T> {
    actor: Actor,
    head: u64,
    body: u64,
    /// The same request is sent elsewhere, by whatever follows redirects below the library.
    redirected: bool,
    /// When it may be tried again by a library that does not say which attempt it is.
    from: Timestamp,
    until: Timestamp,
    kept: T,
}

impl<T> Default for Attempts<T> {
    fn default() -> Self {
        Self { failed: Vec::new() }
    }
}

impl<T> Attempts<T> {
    /// Keeps a call back that may be tried again; returns it if it will not be.
    pub fn ended(&mut self, actor: Actor, head: u64, call: &LlmCall, kept: T) -> Option<T> {
        let body = call.evidence.body;
        if body == 0 || self.failed.len() >= KEPT || !may_be_tried_again(call) {
            return Some(kept);
        }
        let asked = call.rate_limit.get("retry-after");
        let asked = asked.and_then(|seconds| seconds.parse::<f64>().ok());
        let asked = asked.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let wait = asked.map_or(PATIENCE, |asked| (asked + PATIENCE).min(LONGEST));
        let redirected = matches!(call.status_code, Some(307 | 308));
        // What has had no answer, such as on a connection that was idle, is sent again at once.
        let at_once = redirected || asked.is_some() || call.status_code.is_none();
        let pause = if at_once { Duration::ZERO } else { PAUSE };
        let after = |time| Timestamp(call.ended().0.saturating_add(nanoseconds_of(time)));
        self.failed.push(Failed {
            actor,
            head,
            body,
            redirected,
            from: after(pause),
            until: after(wait),
            kept,
        });
        None
    }

    /// A request has been read. Returns the call of which it is another attempt, and those of the same actor that have
    /// found an end, since it does something else.
    pub fn requested(&mut self, request: Request) -> (Option<T>, Vec<T>) {
        let Request { actor, body, .. } = request;
        let again = |one: &Failed<T>| match request.attempt {
            Some(attempt) => attempt > 1 || one.redirected,
            // A redirect leads elsewhere.
            None => one.redirected || one.head == request.head && one.from <= request.at,
        };
        let same = |one: &Failed<T>| body != 0 && one.body == body && again(one);
        let own = self
            .failed
            .iter()
            .position(|one| same(one) && one.actor == actor);
        // A task may try again in a child of its own.
        let found = own.or_else(|| {
            let others = |one: &Failed<T>| same(one) && one.actor.pid() == actor.pid();
            self.failed.iter().position(others)
        });
        let earlier = found.map(|at| self.failed.remove(at).kept);
        let over = self.take(|one| one.actor == actor);
        (earlier, over)
    }

    /// Takes out those that nobody has tried again in time; all without a time.
    pub fn expire(&mut self, now: Option<Timestamp>) -> Vec<T> {
        self.take(|one| now.is_none_or(|now| now > one.until))
    }

    /// Takes out those of actors that are gone.
    pub fn gone(&mut self, which: impl Fn(Actor) -> bool) -> Vec<T> {
        self.take(|one| which(one.actor))
    }

    /// Whether none is kept back.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    fn take(&mut self, over: impl Fn(&Failed<T>) -> bool) -> Vec<T> {
        self.failed
            .extract_if(.., |one| over(one))
            .map(|one| one.kept)
            .collect()
    }
}

/// What OpenAI's and Anthropic's libraries try again (`_should_retry` in openai/_base_client.py: 408, 409, 429,
/// 5xx, and requests that got no answer), and redirects that repeat the request (RFC 9110 sections 15.4.8 and
/// 15.4.9).
fn may_be_tried_again(call: &LlmCall) -> bool {
    match call.status_code {
        Some(307 | 308 | 408 | 409 | 429 | 500..=599) => true,
        Some(_) => false,
        None => {
            matches!(
                call.incomplete,
                Some(Incomplete::ServerDisconnected | Incomplete::ClientCancelled)
            ) && call.error_type.is_some()
        }
    }
}
