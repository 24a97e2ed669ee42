//! Which calls are seen from both ends, so that each is recorded once.
//!
//! A server that is watched shows the calls that it answers. They are recorded unless the same call is
//! recorded where it is made:
//!
//! * The client is watched too, in another process or in this one. Both ends see the same head of the
//!   request, and the client begins first and is not done before the server has begun. Addresses would
//!   not tell more: they change on the way through a proxy that passes bytes on, and those of a short
//!   connection are gone before anybody can look them up.
//! * The server passes the call on: its process makes a call itself in the meantime. Its tokens must not
//!   count twice. What it answers by itself, such as from a cache, is recorded.

use std::{collections::VecDeque, time::Duration};

use observer_wire::{Role, Timestamp};

use crate::attach::processes::Pid;

/// How long a server's call waits after its end for what its client has to say.
const PATIENCE: Duration = Duration::from_millis(200);

/// How late a client's first byte may be dated: where the beginning of the system call was not seen.
const SLACK: Duration = Duration::from_millis(10);

/// Calls of clients that are remembered; past it the oldest are forgotten.
const CLIENTS: usize = 16_384;

/// Calls of servers that are under way or waited for; past it another is recorded without waiting.
const SERVERS: usize = 16_384;

/// Names a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndId(u64);

/// Where a call of a server's is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Here: nobody else has seen it.
    Alone,
    /// Where it was made, or passed on.
    Other,
}

/// The calls that may have another end. `T` is what is kept of a server's until that is known.
#[derive(Debug)]
pub struct Ends<T> {
    next: u64,
    clients: VecDeque<Client>,
    servers: Vec<Server<T>>,
}

#[derive(Debug)]
struct Client {
    id: EndId,
    pid: Pid,
    fingerprint: u64,
    start: Timestamp,
    end: Option<Timestamp>,
    /// The server's end has been found.
    paired: bool,
    /// It passes on a call that its process answers.
    passes_on: bool,
}

#[derive(Debug)]
struct Server<T> {
    id: EndId,
    pid: Pid,
    fingerprint: u64,
    start: Timestamp,
    /// With what is kept.
    end: Option<(Timestamp, T)>,
}

impl<T> Default for Ends<T> {
    fn default() -> Self {
        Self {
            next: 0,
            clients: VecDeque::new(),
            servers: Vec::new(),
        }
    }
}

impl<T> Ends<T> {
    /// A call begins at one end.
    pub fn started(&mut self, pid: Pid, role: Role, fingerprint: u64, start: Timestamp) -> EndId {
        let id = EndId(self.next);
        self.next += 1;
        match role {
            Role::Client => {
                if self.clients.len() >= CLIENTS {
                    self.clients.pop_front();
                }
                self.clients.push_back(Client {
                    id,
                    pid,
                    fingerprint,
                    start,
                    end: None,
                    paired: false,
                    passes_on: false,
                });
            }
            Role::Server if self.servers.len() >= SERVERS => {}
            Role::Server => self.servers.push(Server {
                id,
                pid,
                fingerprint,
                start,
                end: None,
            }),
        }
        id
    }

    /// It was no call.
    pub fn dismissed(&mut self, id: EndId) {
        self.clients.retain(|client| client.id != id);
        self.servers.retain(|server| server.id != id);
    }

    /// The call is over. What is to be kept of it comes back if it is a client's; of a server's it comes out
    /// of [`settle`](Self::settle).
    pub fn ended(&mut self, id: EndId, at: Timestamp, kept: T) -> Option<T> {
        if let Some(server) = self.servers.iter_mut().find(|server| server.id == id) {
            server.end = Some((at, kept));
            return None;
        }
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.end = Some(at);
        }
        Some(kept)
    }

    /// Decides about the calls of servers that are over, as far as that can be told now; about all of them
    /// without a time.
    pub fn settle(&mut self, now: Option<Timestamp>) -> Vec<(T, Side)> {
        let mut settled = Vec::new();
        let mut waiting = Vec::new();
        for mut server in std::mem::take(&mut self.servers) {
            let Some((end, kept)) = server.end.take() else {
                waiting.push(server);
                continue;
            };
            if self.is_elsewhere(&server, end) {
                settled.push((kept, Side::Other));
            } else if now.is_none_or(|now| now.since(end) > PATIENCE) {
                settled.push((kept, Side::Alone));
            } else {
                server.end = Some((end, kept));
                waiting.push(server);
            }
        }
        self.servers = waiting;
        if let Some(now) = now {
            let oldest = self.servers.iter().map(|server| server.start).min();
            let oldest = oldest.unwrap_or(now).min(now);
            self.clients.retain(|client| {
                client
                    .end
                    .is_none_or(|end| oldest.since(end) <= PATIENCE + SLACK)
            });
        }
        settled
    }

    /// Whether no call is remembered.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.servers.is_empty()
    }

    fn is_elsewhere(&mut self, server: &Server<T>, end: Timestamp) -> bool {
        let partner = self.clients.iter_mut().find(|client| {
            !client.paired
                && client.fingerprint == server.fingerprint
                && client.start.since(server.start) <= SLACK
                && client
                    .end
                    .is_none_or(|end| server.start.since(end) <= SLACK)
        });
        if let Some(client) = partner {
            client.paired = true;
            return true;
        }
        let passing = self.clients.iter_mut().find(|client| {
            !client.passes_on
                && client.pid == server.pid
                && (server.start..=end).contains(&client.start)
        });
        if let Some(client) = passing {
            client.passes_on = true;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Pid = Pid(1);
    const SERVER: Pid = Pid(2);

    fn ms(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds * 1_000_000)
    }

    #[test]
    fn a_call_seen_from_both_ends_is_the_clients() {
        let mut ends = Ends::default();
        let client = ends.started(CLIENT, Role::Client, 7, ms(100));
        let server = ends.started(SERVER, Role::Server, 7, ms(101));
        assert_eq!(ends.ended(server, ms(120), "server"), None);
        // While the client still reads.
        assert_eq!(ends.settle(Some(ms(121))), [("server", Side::Other)]);
        assert_eq!(ends.ended(client, ms(125), "client"), Some("client"));
        assert!(ends.settle(None).is_empty());
    }

    #[test]
    fn each_client_stands_for_one_server() {
        let mut ends = Ends::default();
        ends.started(CLIENT, Role::Client, 7, ms(100));
        for (kept, at) in [("one", 101), ("other", 102)] {
            let server = ends.started(SERVER, Role::Server, 7, ms(at));
            ends.ended(server, ms(120), kept);
        }
        assert_eq!(ends.settle(Some(ms(121))), [("one", Side::Other)]);
        assert_eq!(ends.settle(Some(ms(321))), [("other", Side::Alone)]);
    }

    #[test]
    fn a_server_whose_client_nobody_sees_has_the_call() {
        let mut ends = Ends::default();
        let earlier = ends.started(CLIENT, Role::Client, 7, ms(10));
        ends.ended(earlier, ms(20), "earlier");
        let server = ends.started(SERVER, Role::Server, 7, ms(100));
        let other = ends.started(CLIENT, Role::Client, 8, ms(99));
        ends.ended(other, ms(130), "other");
        ends.ended(server, ms(120), "server");
        assert!(ends.settle(Some(ms(250))).is_empty() && ends.servers.len() == 1);
        assert_eq!(ends.settle(Some(ms(321))), [("server", Side::Alone)]);
        assert!(ends.servers.is_empty());
    }

    #[test]
    fn a_call_that_is_passed_on_counts_where_it_is_made() {
        let mut ends = Ends::default();
        let inbound = ends.started(SERVER, Role::Server, 7, ms(100));
        let outbound = ends.started(SERVER, Role::Client, 8, ms(105));
        assert_eq!(ends.ended(outbound, ms(115), "outbound"), Some("outbound"));
        ends.ended(inbound, ms(120), "inbound");
        let cached = ends.started(SERVER, Role::Server, 9, ms(110));
        ends.ended(cached, ms(111), "cached");
        assert_eq!(ends.settle(Some(ms(121))), [("inbound", Side::Other)]);
        assert_eq!(ends.settle(None), [("cached", Side::Alone)]);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut ends = Ends::<()>::default();
        let client = ends.started(CLIENT, Role::Client, 7, ms(10));
        ends.ended(client, ms(20), ());
        ends.started(CLIENT, Role::Client, 8, ms(10));
        ends.settle(Some(ms(1000)));
        assert_eq!(ends.clients.len(), 1);
    }

    #[test]
    fn servers_beyond_the_limit_do_not_wait() {
        let mut ends = Ends::default();
        for _ in 0..SERVERS {
            ends.started(SERVER, Role::Server, 7, ms(10));
        }
        let one_more = ends.started(SERVER, Role::Server, 7, ms(10));
        assert_eq!(ends.ended(one_more, ms(20), "one more"), Some("one more"));
        assert_eq!(ends.servers.len(), SERVERS);
    }
}
