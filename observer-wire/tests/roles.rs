//! Connections, followed from either end, and what a server is asked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use observer_wire::{
    CallEvent, Chunk, Close, Connection, Direction, Inbound, LlmCall, Options, Origin, Role,
    Timestamp, Verdict,
};

const REQUEST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 57\r\n\r\n{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
const BODY: &str = r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

/// A connection with what it has reported.
struct Followed {
    connection: Connection,
    passed: [u64; 2],
    now: u64,
    fingerprints: Vec<u64>,
    calls: Vec<LlmCall>,
    /// What came in, and the status of what has ended.
    inbound: Vec<(u64, Inbound)>,
    answered: Vec<(u64, Option<u16>)>,
    order: Vec<&'static str>,
}

impl Followed {
    fn new() -> Self {
        Self::with(Connection::plain(Options::default()))
    }

    fn tls() -> Self {
        Self::with(Connection::new(Options::default()))
    }

    fn with(connection: Connection) -> Self {
        Self {
            connection,
            passed: [0, 0],
            now: 0,
            fingerprints: Vec::new(),
            calls: Vec::new(),
            inbound: Vec::new(),
            answered: Vec::new(),
            order: Vec::new(),
        }
    }

    fn pass(&mut self, direction: Direction, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let position = &mut self.passed[usize::from(direction == Direction::Sent)];
        self.now += 1_000_000;
        let chunk = Chunk {
            direction,
            offset: *position,
            at: Timestamp(self.now),
            origin: Origin(self.now.into()),
            bytes,
        };
        *position += bytes.len() as u64;
        let mut events = Vec::new();
        self.connection.data(chunk, &mut |event| events.push(event));
        self.report(events);
        self
    }

    fn close(&mut self, close: Close) -> &mut Self {
        let mut events = Vec::new();
        let at = Timestamp(self.now + 1_000_000);
        self.connection
            .close(close, None, at, &mut |event| events.push(event));
        self.report(events);
        self
    }

    fn report(&mut self, events: Vec<CallEvent>) {
        for event in events {
            self.order.push(match event {
                CallEvent::Started { fingerprint, .. } => {
                    self.fingerprints.push(fingerprint);
                    "started"
                }
                CallEvent::Ended { record, .. } => {
                    self.calls.push(*record);
                    "ended"
                }
                CallEvent::InboundStarted {
                    exchange,
                    request,
                    at,
                    origin,
                } => {
                    assert_eq!(u128::from(at.0), origin.0);
                    self.inbound.push((exchange, *request));
                    "asked"
                }
                CallEvent::InboundEnded {
                    exchange, status, ..
                } => {
                    self.answered.push((exchange, status));
                    "answered"
                }
                CallEvent::Requested { .. } => "requested",
                CallEvent::Dismissed { .. } => "dismissed",
                CallEvent::Unread { .. } => "unread",
            });
        }
    }
}

fn answer() -> String {
    format!("{HEAD}Content-Length: {}\r\n\r\n{BODY}", BODY.len())
}

#[test]
fn both_ends_see_the_same_call() {
    let mut seen = Vec::new();
    for (mut followed, asks, role) in [
        (Followed::new(), Direction::Sent, Role::Client),
        (Followed::new(), Direction::Received, Role::Server),
    ] {
        followed
            .pass(asks, REQUEST)
            .pass(asks.opposite(), answer())
            .pass(asks, REQUEST)
            .pass(asks.opposite(), answer());
        assert_eq!(followed.connection.role(), Some(role));
        assert_eq!(followed.connection.verdict(), Verdict::Llm);
        for call in &followed.calls {
            assert_eq!(u128::from(call.start.0), call.origin.0);
        }
        seen.push((followed.fingerprints, followed.calls));
    }
    assert_eq!(seen[0], seen[1]);
    let (fingerprints, calls) = &seen[0];
    assert_eq!((fingerprints.len(), calls.len()), (2, 2));
    assert_eq!(calls[0].server_port, Some(80));
    assert_eq!(calls[0].completion_tokens, Some(2));
    assert_eq!(calls[0].incomplete, None);
}

#[test]
fn whoever_closes_is_told_by_the_role() {
    let cut = format!("{HEAD}Content-Length: 1000\r\n\r\n{}", &BODY[..90]);
    let end = |asks: Direction, close| {
        let mut followed = Followed::new();
        followed.pass(asks, REQUEST).pass(asks.opposite(), &cut);
        followed.close(close);
        let call = followed.calls.first().unwrap();
        call.incomplete.unwrap().as_str()
    };
    let peer = Close::Peer { clean: true };
    assert_eq!(end(Direction::Sent, Close::Local), "client_cancelled");
    assert_eq!(end(Direction::Sent, peer), "server_disconnected");
    assert_eq!(
        end(Direction::Received, Close::Local),
        "server_disconnected"
    );
    assert_eq!(end(Direction::Received, peer), "client_cancelled");
}

#[test]
fn an_answer_that_ends_with_the_connection_is_complete_at_the_server_too() {
    let mut followed = Followed::new();
    followed
        .pass(Direction::Received, REQUEST)
        .pass(
            Direction::Sent,
            format!("{HEAD}Connection: close\r\n\r\n{BODY}"),
        )
        .close(Close::Local);
    assert_eq!(followed.calls[0].incomplete, None);
}

#[test]
fn a_connection_that_is_joined_in_the_middle_waits_for_a_request() {
    let mut followed = Followed::new();
    followed
        .pass(Direction::Sent, "the rest of a body")
        .pass(Direction::Received, "more of something");
    assert_eq!(followed.connection.role(), None);
    followed
        .pass(Direction::Received, REQUEST)
        .pass(Direction::Sent, answer());
    assert_eq!(followed.connection.role(), Some(Role::Server));
    assert_eq!(followed.calls.len(), 1);
}

#[test]
fn what_never_becomes_http_is_of_no_interest() {
    let mut followed = Followed::new();
    for _ in 0..20 {
        followed.pass(Direction::Sent, "x".repeat(1000));
    }
    assert_eq!(followed.connection.verdict(), Verdict::Other);
}

#[test]
fn the_ciphertext_of_a_tunnel_is_of_no_interest() {
    let mut followed = Followed::new();
    let request = "CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com:443\r\n\r\n";
    followed
        .pass(Direction::Sent, request)
        .pass(
            Direction::Received,
            "HTTP/1.1 200 Connection established\r\n\r\n",
        )
        .pass(Direction::Sent, "\u{16}\u{3}\u{1}...");
    assert_eq!(followed.connection.verdict(), Verdict::Other);
    assert!(followed.calls.is_empty());
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn page(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app\r\nTraceparent: {TRACE}\r\n\r\n")
}

#[test]
fn a_server_tells_what_it_is_asked() {
    for mut followed in [Followed::new(), Followed::tls()] {
        followed
            .pass(Direction::Received, page("/agents/7?key=secret&x=1"))
            .pass(
                Direction::Sent,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
            )
            .pass(Direction::Received, REQUEST)
            .pass(Direction::Sent, answer())
            .pass(Direction::Received, page("/last"))
            .close(Close::Local)
            .close(Close::Local);
        assert_eq!(followed.connection.role(), Some(Role::Server));
        let asked: Vec<(&str, &str, bool)> = followed
            .inbound
            .iter()
            .map(|(_, inbound)| {
                let traced = inbound
                    .trace_context
                    .is_some_and(|context| context.parent_id == 0x00f0_67aa_0ba9_02b7);
                (inbound.method.as_str(), inbound.path.as_str(), traced)
            })
            .collect();
        assert_eq!(
            asked,
            [
                ("GET", "/agents/7", true),
                ("POST", "/v1/chat/completions", false),
                ("GET", "/last", true)
            ]
        );
        assert_eq!(
            followed.answered,
            [(0, Some(404)), (1, Some(200)), (2, None)]
        );
        assert_eq!(
            followed.order,
            [
                "asked",
                "answered",
                "asked",
                "started",
                "requested",
                "ended",
                "answered",
                "asked",
                "answered"
            ]
        );
    }
}

#[test]
fn a_client_is_asked_nothing() {
    let mut followed = Followed::tls();
    followed
        .pass(Direction::Sent, page("/"))
        .pass(Direction::Received, answer())
        .close(Close::Local);
    assert_eq!(followed.connection.role(), Some(Role::Client));
    assert!(followed.inbound.is_empty() && followed.answered.is_empty());
}

#[test]
fn a_server_by_tls_is_known_by_what_it_receives_first() {
    for cut in 1..REQUEST.len() {
        let (begin, rest) = REQUEST.split_at(cut);
        let mut followed = Followed::tls();
        followed
            .pass(Direction::Received, begin)
            .pass(Direction::Received, rest)
            .pass(Direction::Sent, answer());
        assert_eq!(followed.connection.role(), Some(Role::Server), "{cut}");
        assert_eq!((followed.calls.len(), followed.inbound.len()), (1, 1));
        assert_eq!(followed.calls[0].start, Timestamp(1_000_000));
    }
    let mut followed = Followed::tls();
    for byte in REQUEST.as_bytes().chunks(1) {
        followed.pass(Direction::Received, byte);
    }
    followed.pass(Direction::Sent, answer());
    assert_eq!((followed.calls.len(), followed.inbound.len()), (1, 1));
    let long = page(&format!("/{}", "x".repeat(5000)));
    let mut followed = Followed::tls();
    followed.pass(Direction::Received, &long[..4000]);
    followed.pass(Direction::Received, &long[4000..]);
    assert_eq!(followed.inbound.len(), 1);
}

#[test]
fn what_is_joined_in_the_middle_by_tls_is_a_clients() {
    for (direction, bytes) in [
        (Direction::Received, "the rest of an answer"),
        (Direction::Received, "HTTP/1.1 200 OK\r\n"),
        (Direction::Received, "GET out of here, she said"),
        (Direction::Sent, "the rest of a request"),
    ] {
        let mut followed = Followed::tls();
        followed
            .pass(direction, bytes)
            .pass(Direction::Sent, REQUEST)
            .pass(Direction::Received, answer());
        assert_eq!(followed.connection.role(), Some(Role::Client), "{bytes}");
        assert_eq!(followed.calls.len(), 1, "{bytes}");
    }
    // An answer may be seen before its request; what is cut of it could be a method's.
    let answer = answer();
    let mut followed = Followed::tls();
    followed.pass(Direction::Received, &answer[..1]);
    assert_eq!(followed.connection.role(), None);
    followed.pass(Direction::Received, &answer[1..]);
    assert_eq!(followed.connection.role(), Some(Role::Client));
    assert!(Followed::tls().close(Close::Local).calls.is_empty());
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

#[test]
fn a_server_of_http2_may_speak_first() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = frame(4, 0, 0, &[]);
    // `:method: GET`, `:scheme: https`, `:path: /` and `:path: /a` without indexing, `:status: 200`.
    let root = frame(1, 5, 1, &[0x82, 0x87, 0x84]);
    let other = frame(1, 5, 3, &[0x82, 0x87, 0x04, 2, b'/', b'a']);
    let hello = [PREFACE, &settings].concat();
    for cut in [1, 3, 10, PREFACE.len(), hello.len()] {
        for speaks_first in [false, true] {
            let mut followed = Followed::tls();
            if speaks_first {
                followed.pass(Direction::Sent, &settings);
            }
            followed.pass(Direction::Received, &hello[..cut]);
            followed.pass(Direction::Received, &hello[cut..]);
            if !speaks_first {
                followed.pass(Direction::Sent, &settings);
            }
            followed
                .pass(Direction::Received, &root)
                .pass(Direction::Received, &other)
                .pass(Direction::Sent, frame(1, 5, 3, &[0x88]))
                .close(Close::Peer { clean: true });
            assert_eq!(followed.connection.role(), Some(Role::Server));
            let paths: Vec<&str> = followed
                .inbound
                .iter()
                .map(|(_, inbound)| inbound.path.as_str())
                .collect();
            assert_eq!(paths, ["/", "/a"]);
            assert_eq!(followed.answered, [(3, Some(200)), (1, None)]);
        }
    }
}

#[test]
fn what_comes_in_and_is_no_call_is_not_kept() {
    let mut followed = Followed::tls();
    let length = 64 * 1024 * 1024;
    let head = format!("PUT /files/1 HTTP/1.1\r\nHost: app\r\nContent-Length: {length}\r\n\r\n");
    followed.pass(Direction::Received, &head);
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..length / piece.len() {
        followed.pass(Direction::Received, &piece);
        assert!(followed.connection.memory() < 8 * 1024);
    }
    followed.pass(
        Direction::Sent,
        "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(followed.answered, [(0, Some(201))]);
}
