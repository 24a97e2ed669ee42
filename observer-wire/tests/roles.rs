//! Plain connections, followed from either end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use observer_wire::{
    CallEvent, Chunk, Close, Connection, Direction, LlmCall, Options, Origin, Role, Timestamp,
    Verdict,
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
}

impl Followed {
    fn new() -> Self {
        Self {
            connection: Connection::plain(Options::default()),
            passed: [0, 0],
            now: 0,
            fingerprints: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn pass(&mut self, direction: Direction, bytes: &str) -> &mut Self {
        let position = &mut self.passed[usize::from(direction == Direction::Sent)];
        self.now += 1_000_000;
        let chunk = Chunk {
            direction,
            offset: *position,
            at: Timestamp(self.now),
            origin: Origin(1),
            bytes: bytes.as_bytes(),
        };
        *position += bytes.len() as u64;
        let (fingerprints, calls) = (&mut self.fingerprints, &mut self.calls);
        self.connection.data(chunk, &mut |event| match event {
            CallEvent::Started { fingerprint, .. } => fingerprints.push(fingerprint),
            CallEvent::Ended { record, .. } => calls.push(*record),
            _ => {}
        });
        self
    }

    fn close(&mut self, close: Close) -> &mut Self {
        let calls = &mut self.calls;
        let at = Timestamp(self.now + 1_000_000);
        self.connection.close(close, None, at, &mut |event| {
            if let CallEvent::Ended { record, .. } = event {
                calls.push(*record);
            }
        });
        self
    }
}

fn answer() -> String {
    format!("{HEAD}Content-Length: {}\r\n\r\n{BODY}", BODY.len())
}

#[test]
fn both_ends_see_the_same_call() {
    let mut seen = Vec::new();
    for (asks, role) in [
        (Direction::Sent, Role::Client),
        (Direction::Received, Role::Server),
    ] {
        let mut followed = Followed::new();
        followed
            .pass(asks, REQUEST)
            .pass(asks.opposite(), &answer())
            .pass(asks, REQUEST)
            .pass(asks.opposite(), &answer());
        assert_eq!(followed.connection.role(), Some(role));
        assert_eq!(followed.connection.verdict(), Verdict::Llm);
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
            &format!("{HEAD}Connection: close\r\n\r\n{BODY}"),
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
        .pass(Direction::Sent, &answer());
    assert_eq!(followed.connection.role(), Some(Role::Server));
    assert_eq!(followed.calls.len(), 1);
}

#[test]
fn what_never_becomes_http_is_of_no_interest() {
    let mut followed = Followed::new();
    for _ in 0..20 {
        followed.pass(Direction::Sent, &"x".repeat(1000));
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
