//! From HTTP exchanges to calls.

use std::{collections::BTreeMap, fmt};

use http::Method;

use super::{
    Certainty, DIALOGUES, PROVIDERS, Provider, Recognized,
    exchange::{Begin, Exchange, bounded},
    hosts,
    marks::trace_context,
    mcp,
    session::Session,
};
use crate::{
    chunk::{Origin, Timestamp},
    connection::{CallEvent, CallId, Inbound, Options, Role, Verdict},
    http::{End, Event, ExchangeId, RequestHead},
};

/// Port of https (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// Port of http (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// The calls of one connection.
pub struct Calls {
    options: Options,
    /// Where a request names no port.
    usual_port: u16,
    /// An exchange whose head leaves doubt is read in several formats.
    active: BTreeMap<ExchangeId, Vec<Exchange>>,
    /// WebSocket sessions, whose messages give calls.
    sessions: BTreeMap<ExchangeId, Session>,
    next: u64,
    verdict: Verdict,
    seen_request: bool,
    /// Requests that were no calls.
    strangers: u64,
    /// What a server answers, with the status if it is known.
    inbound: BTreeMap<ExchangeId, Option<u16>>,
}

impl Calls {
    /// No calls yet, by TLS.
    pub fn new(options: Options) -> Self {
        Self::with(options, HTTPS_PORT)
    }

    /// No calls yet, without TLS.
    pub fn plain(options: Options) -> Self {
        Self::with(options, HTTP_PORT)
    }

    fn with(options: Options, usual_port: u16) -> Self {
        Self {
            options,
            usual_port,
            active: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next: 0,
            verdict: Verdict::Undecided,
            seen_request: false,
            strangers: 0,
            inbound: BTreeMap::new(),
        }
    }

    /// Whether these are calls to an LLM, by the requests so far.
    pub fn verdict(&self) -> Verdict {
        match self.verdict {
            // One that may be a call is under way.
            Verdict::Other if !self.active.is_empty() || !self.sessions.is_empty() => {
                Verdict::Undecided
            }
            verdict => verdict,
        }
    }

    /// Whether there has been a request of any kind.
    pub fn has_seen_request(&self) -> bool {
        self.seen_request
    }

    /// How many requests were no calls.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// What the first request that tells says, holds; but a call is a call.
    fn judge(&mut self, verdict: Verdict) {
        self.strangers += u64::from(verdict == Verdict::Other);
        if self.verdict == Verdict::Undecided || verdict == Verdict::Llm {
            self.verdict = verdict;
        }
    }

    /// Takes the next event of the connection, of which the process has this role.
    pub fn handle(&mut self, role: Role, event: Event<'_>, report: &mut dyn FnMut(CallEvent)) {
        if role == Role::Server {
            self.begin_inbound(&event, report);
        }
        let ended = match &event {
            Event::End { exchange, at, .. } => Some((*exchange, *at)),
            _ => None,
        };
        self.follow(event, report);
        if let Some((exchange, at)) = ended
            && let Some(status) = self.inbound.remove(&exchange)
        {
            let exchange = exchange.0;
            report(CallEvent::InboundEnded {
                exchange,
                at,
                status,
            });
        }
    }

    /// A server is asked, or answers.
    fn begin_inbound(&mut self, event: &Event<'_>, report: &mut dyn FnMut(CallEvent)) {
        match event {
            Event::RequestHead {
                exchange,
                head,
                at,
                origin,
            } => {
                self.inbound.insert(*exchange, None);
                report(CallEvent::InboundStarted {
                    exchange: exchange.0,
                    at: *at,
                    origin: *origin,
                    request: Box::new(Inbound {
                        method: head.method.as_str().to_owned(),
                        path: bounded(&head.path).to_owned(),
                        trace_context: trace_context(head),
                    }),
                });
            }
            Event::ResponseHead { exchange, head, .. } => {
                if let Some(status) = self.inbound.get_mut(exchange) {
                    *status = head.status.map(|status| status.as_u16());
                }
            }
            _ => {}
        }
    }

    fn follow(&mut self, event: Event<'_>, report: &mut dyn FnMut(CallEvent)) {
        match event {
            Event::RequestHead {
                exchange,
                head,
                at,
                origin,
            } => {
                self.seen_request = true;
                let host = head.host.as_deref().unwrap_or_default();
                // What follows a CONNECT is another connection, most likely by TLS.
                let to_llm =
                    hosts::is_llm(host) && (head.method != Method::CONNECT || head.websocket);
                if to_llm || mcp::is_session(&head) {
                    self.judge(Verdict::Llm);
                }
                let mut unread = || {
                    if to_llm {
                        let host = host.to_owned();
                        report(CallEvent::Unread { host });
                    }
                };
                if head.websocket {
                    if !self.begin_session(exchange, &head, at, origin) {
                        unread();
                    }
                    return;
                }
                let begun = self.begin(&head, at, origin);
                if begun.is_empty() {
                    unread();
                }
                match begun.first().map(|active| active.certainty) {
                    Some(Certainty::Certain) => self.judge(Verdict::Llm),
                    // The bodies will tell.
                    Some(Certainty::Likely | Certainty::Possible) => {}
                    None => self.judge(Verdict::Other),
                }
                for active in begun.iter().filter(|active| active.announced) {
                    report(active.started());
                }
                if !begun.is_empty() {
                    self.active.insert(exchange, begun);
                }
            }
            Event::RequestBody {
                exchange,
                bytes,
                at,
            } => {
                for active in self.find(exchange) {
                    active.request_body(bytes, at);
                }
            }
            Event::RequestGap { exchange, bytes } => {
                for active in self.find(exchange) {
                    active.request_gap(bytes);
                }
            }
            Event::RequestEnd { exchange, .. } => self.request_end(exchange, report),
            Event::ResponseHead { exchange, head, at } => {
                for active in self.find(exchange) {
                    active.response_head(&head, at);
                }
                if let Some(session) = self.session(exchange) {
                    session.response_head(&head);
                }
            }
            Event::ResponseBody {
                exchange,
                bytes,
                at,
            } => {
                for active in self.find(exchange) {
                    active.response_body(bytes, at);
                }
                if let Some(session) = self.session(exchange) {
                    session.response_body(bytes);
                }
            }
            Event::ResponseGap { exchange, bytes } => {
                for active in self.find(exchange) {
                    active.response_gap(bytes);
                }
            }
            Event::ResponseTrailers {
                exchange,
                headers,
                partial,
                at,
            } => {
                for active in self.find(exchange) {
                    active.response_trailers(&headers, partial, at);
                }
            }
            Event::Message {
                exchange,
                direction,
                part,
                at,
            } => {
                let (before, mut next) = (self.next, self.next);
                if let Some(session) = self.session(exchange) {
                    session.message(direction, part, at, &mut next, report);
                }
                self.next = next;
                if next > before {
                    self.judge(Verdict::Llm);
                }
            }
            Event::End { exchange, end, at } => self.end(exchange, end, at, report),
        }
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        let exchanges = self.active.values().flatten().map(Exchange::memory);
        let sessions = self.sessions.values().map(Session::memory);
        let inbound = self.inbound.len() * size_of::<(ExchangeId, Option<u16>)>();
        exchanges.chain(sessions).sum::<usize>() + inbound
    }

    fn find(&mut self, exchange: ExchangeId) -> impl Iterator<Item = &mut Exchange> {
        self.active.get_mut(&exchange).into_iter().flatten()
    }

    fn session(&mut self, exchange: ExchangeId) -> Option<&mut Session> {
        self.sessions.get_mut(&exchange)
    }

    /// A WebSocket session is asked for. Returns whether it is in a format that is known.
    fn begin_session(
        &mut self,
        id: ExchangeId,
        head: &RequestHead,
        at: Timestamp,
        origin: Origin,
    ) -> bool {
        let found = DIALOGUES
            .iter()
            .find_map(|format| Some((*format, format.recognize(head)?)));
        let Some((format, recognized)) = found else {
            self.judge(Verdict::Other);
            return false;
        };
        // Elsewhere its messages will tell.
        if recognized.certainty == Certainty::Certain {
            self.judge(Verdict::Llm);
        }
        let begin = Begin {
            call: CallId(self.next),
            head,
            at,
            origin,
            usual_port: self.usual_port,
        };
        let session = Session::new(&begin, format, recognized, self.options);
        self.sessions.insert(id, session);
        true
    }

    fn request_end(&mut self, exchange: ExchangeId, report: &mut dyn FnMut(CallEvent)) {
        let Some(active) = self.active.get_mut(&exchange) else {
            return;
        };
        let mut host = None;
        active.retain_mut(|active| {
            active.request_end(true);
            let fits = active.certainty != Certainty::Possible || active.request_fits;
            if !fits {
                host = active.llm_host();
            }
            fits
        });
        match active.as_mut_slice() {
            [] => {
                self.active.remove(&exchange);
                self.judge(Verdict::Other);
                if let Some(host) = host {
                    report(CallEvent::Unread { host });
                }
                return;
            }
            // Which of several it is the answer will tell.
            [active] if !active.announced => {
                active.announced = true;
                report(active.started());
            }
            _ => {}
        }
        if let [active] = active.as_slice() {
            active.asked(report);
        }
    }

    fn end(
        &mut self,
        exchange: ExchangeId,
        end: End,
        at: Timestamp,
        report: &mut dyn FnMut(CallEvent),
    ) {
        if let Some(session) = self.sessions.remove(&exchange) {
            let host = session.llm_host();
            let spoke = session.end(end, at, &mut self.next, report);
            if !spoke && let Some(host) = host {
                report(CallEvent::Unread { host });
            }
            self.judge(if spoke { Verdict::Llm } else { Verdict::Other });
            return;
        }
        let Some(ended) = self.active.remove(&exchange) else {
            return;
        };
        let mut recorded = false;
        let mut host = None;
        for active in ended {
            if active.certainty != Certainty::Certain {
                host = active.llm_host();
            }
            let (call, announced, started) = (active.call, active.announced, active.started());
            let record = if recorded { None } else { active.end(end, at) };
            match record {
                Some(record) => {
                    recorded = true;
                    if !announced {
                        report(started);
                    }
                    report(CallEvent::Ended {
                        call,
                        record: Box::new(record),
                    });
                }
                None if announced => report(CallEvent::Dismissed { call }),
                None => {}
            }
        }
        if !recorded && let Some(host) = host {
            report(CallEvent::Unread { host });
        }
        self.judge(if recorded {
            Verdict::Llm
        } else {
            Verdict::Other
        });
    }

    fn begin(&mut self, head: &RequestHead, at: Timestamp, origin: Origin) -> Vec<Exchange> {
        let recognized = recognized(head);
        let exchange = |(provider, recognized)| {
            let begin = Begin {
                call: CallId(self.next),
                head,
                at,
                origin,
                usual_port: self.usual_port,
            };
            self.next += 1;
            Exchange::new(&begin, provider, recognized, self.options)
        };
        recognized.into_iter().map(exchange).collect()
    }
}

/// The formats that a request is, or may be, in. One that the head settles is alone. Of those of which only
/// the bodies can tell there may be several, and they come before one that the path speaks for.
fn recognized(head: &RequestHead) -> Vec<(&'static dyn Provider, Recognized)> {
    let mut possible = Vec::new();
    if head.path.is_empty() && head.partial {
        if head.method == Method::POST {
            possible.extend(PROVIDERS.iter().filter_map(|provider| {
                let (name, operation) = provider.by_shape(head)?;
                let recognized = Recognized {
                    provider: name,
                    operation,
                    model: None,
                    stream: false,
                    certainty: Certainty::Possible,
                };
                Some((*provider, recognized))
            }));
        }
        return possible;
    }
    for provider in PROVIDERS {
        match provider.recognize(head) {
            Some(recognized) if recognized.certainty == Certainty::Certain => {
                return vec![(*provider, recognized)];
            }
            Some(recognized) => {
                let likely = recognized.certainty == Certainty::Likely;
                possible.push((*provider, recognized));
                if likely {
                    break;
                }
            }
            None => {}
        }
    }
    possible
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("active", &self.active.len())
            .finish_non_exhaustive()
    }
}
