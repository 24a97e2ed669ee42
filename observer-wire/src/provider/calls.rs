//! From HTTP exchanges to calls.

use std::fmt;

use http::Method;

use super::{
    Certainty, PROVIDERS, Provider, Recognized,
    exchange::{Begin, Exchange},
    hosts, mcp,
};
use crate::{
    chunk::{Origin, Timestamp},
    connection::{CallEvent, CallId, Options, Verdict},
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
    active: Vec<Exchange>,
    next: u64,
    verdict: Verdict,
    seen_request: bool,
    /// Requests that were no calls.
    strangers: u64,
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
            active: Vec::new(),
            next: 0,
            verdict: Verdict::Undecided,
            seen_request: false,
            strangers: 0,
        }
    }

    /// Whether these are calls to an LLM, by the requests so far.
    pub fn verdict(&self) -> Verdict {
        match self.verdict {
            // One that may be a call is under way.
            Verdict::Other if !self.active.is_empty() => Verdict::Undecided,
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

    /// Takes the next event of the connection.
    pub fn handle(&mut self, event: Event<'_>, report: &mut dyn FnMut(CallEvent)) {
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
                let is_known = hosts::is_llm(host) || mcp::is_session(&head);
                if is_known && head.method != Method::CONNECT {
                    self.judge(Verdict::Llm);
                }
                let begun = self.begin(exchange, &head, at, origin);
                match begun.first().map(|active| active.certainty) {
                    Some(Certainty::Certain) => self.judge(Verdict::Llm),
                    // The bodies will tell.
                    Some(Certainty::Likely | Certainty::Possible) => {}
                    None => self.judge(Verdict::Other),
                }
                for active in begun {
                    if active.announced {
                        report(active.started());
                    }
                    self.active.push(active);
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
            }
            Event::ResponseBody {
                exchange,
                bytes,
                at,
            } => {
                for active in self.find(exchange) {
                    active.response_body(bytes, at);
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
            Event::End { exchange, end, at } => self.end(exchange, end, at, report),
        }
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.active.iter().map(Exchange::memory).sum()
    }

    /// An exchange whose head leaves doubt is read in several formats.
    fn find(&mut self, exchange: ExchangeId) -> impl Iterator<Item = &mut Exchange> {
        self.active
            .iter_mut()
            .filter(move |active| active.id == exchange)
    }

    fn request_end(&mut self, exchange: ExchangeId, report: &mut dyn FnMut(CallEvent)) {
        let before = self.active.len();
        self.active.retain_mut(|active| {
            if active.id != exchange {
                return true;
            }
            active.request_end();
            active.certainty != Certainty::Possible || active.request_fits
        });
        let removed = self.active.len() < before;
        let mut left = self.find(exchange);
        match (left.next(), left.next()) {
            (None, _) if removed => {
                drop(left);
                self.judge(Verdict::Other);
            }
            // Which of several it is the answer will tell.
            (Some(active), None) if !active.announced => {
                active.announced = true;
                report(active.started());
            }
            _ => {}
        }
    }

    fn end(
        &mut self,
        exchange: ExchangeId,
        end: End,
        at: Timestamp,
        report: &mut dyn FnMut(CallEvent),
    ) {
        let (ended, left) = std::mem::take(&mut self.active)
            .into_iter()
            .partition::<Vec<_>, _>(|active| active.id == exchange);
        self.active = left;
        if ended.is_empty() {
            return;
        }
        let mut recorded = false;
        for active in ended {
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
        self.judge(if recorded {
            Verdict::Llm
        } else {
            Verdict::Other
        });
    }

    fn begin(
        &mut self,
        id: ExchangeId,
        head: &RequestHead,
        at: Timestamp,
        origin: Origin,
    ) -> Vec<Exchange> {
        let recognized = recognized(head);
        let exchange = |(provider, recognized)| {
            let begin = Begin {
                id,
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

/// The formats that a request is, or may be, in. One that the path speaks for is alone; of those of which
/// only the bodies can tell there may be several.
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
            Some(recognized) if recognized.certainty == Certainty::Possible => {
                possible.push((*provider, recognized));
            }
            Some(recognized) => return vec![(*provider, recognized)],
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
