//! What connections cost in memory, as the allocator sees it.

use std::{
    alloc::System,
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use flate2::{Compression, write::GzEncoder};
use observer_wire::{Chunk, Connection, Direction, Options, Origin, Timestamp};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const MIB: usize = 1 << 20;

/// Bytes of a TLS record.
const RECORD: usize = 16 * 1024;

/// Bytes that are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// A connection with the bytes that it has carried.
struct Followed {
    connection: Connection,
    sent: u64,
    received: u64,
}

impl Followed {
    fn new() -> Self {
        Self {
            connection: Connection::new(Options::default()),
            sent: 0,
            received: 0,
        }
    }

    fn pass(&mut self, direction: Direction, bytes: &[u8]) {
        let position = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        for piece in bytes.chunks(RECORD) {
            let chunk = Chunk {
                direction,
                offset: *position,
                at: Timestamp(1),
                origin: Origin(1),
                bytes: piece,
            };
            *position += piece.len() as u64;
            self.connection.data(chunk, &mut |_| {});
        }
    }
}

/// The bytes that each of `count` connections costs when `step` has been done with it, the largest of a
/// few.
fn cost(count: usize, mut step: impl FnMut(&mut Followed)) -> usize {
    let before = allocated();
    let mut connections: Vec<Followed> = (0..count).map(|_| Followed::new()).collect();
    for connection in &mut connections {
        step(connection);
    }
    let each = (allocated() - before) / count;
    drop(connections);
    each
}

fn head(length: usize) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// A request of about this size: one long text, or many short ones.
fn request(bytes: usize, messages: usize) -> String {
    let text = "tell me more ".repeat(bytes / messages / 13);
    let messages: Vec<String> = (0..messages)
        .map(|_| format!(r#"{{"role":"user","content":"{text}"}}"#))
        .collect();
    format!(
        r#"{{"model":"gpt-4o","temperature":0.5,"messages":[{}],"stream":true}}"#,
        messages.join(",")
    )
}

#[test]
fn a_request_of_a_mebibyte_costs_at_most_64_kib() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for messages in [1, 10_000] {
        let body = request(MIB, messages);
        let head = head(body.len());
        let unfinished = &body[..body.len() - 30];
        let each = cost(1_000, |connection| {
            connection.pass(Direction::Sent, head.as_bytes());
            connection.pass(Direction::Sent, unfinished.as_bytes());
        });
        println!("{messages} messages: {each} bytes a request");
        assert!(each <= 64 * 1024, "{messages} messages: {each} bytes");
    }
}

#[test]
fn an_answer_of_a_mebibyte_does_not_cost_its_size() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let body = request(200, 1);
    let asked = format!("{}{body}", head(body.len()));
    let text = "word ".repeat(MIB / 5);
    let document = format!(
        r#"{{"id":"x","model":"gpt-4o","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}}}}],"usage":{{"prompt_tokens":1}}}}"#
    );
    let event = format!(
        "data: {{\"id\":\"x\",\"model\":\"gpt-4o\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "word ".repeat(20)
    );
    let events = event.repeat(MIB / event.len());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(document.as_bytes()).unwrap();
    let gzip = encoder.finish().unwrap();
    for (name, limit, headers, bytes) in [
        (
            "JSON",
            64 * 1024,
            "Content-Type: application/json",
            document.as_bytes(),
        ),
        (
            "SSE",
            64 * 1024,
            "Content-Type: text/event-stream",
            events.as_bytes(),
        ),
        (
            "gzip",
            // The window and the buffers of the decoder.
            192 * 1024,
            "Content-Type: application/json\r\nContent-Encoding: gzip",
            &gzip[..],
        ),
    ] {
        // The last bytes are missing.
        let head = format!(
            "HTTP/1.1 200 OK\r\n{headers}\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let unfinished = &bytes[..bytes.len() - 10];
        let each = cost(1_000, |connection| {
            connection.pass(Direction::Sent, asked.as_bytes());
            connection.pass(Direction::Received, head.as_bytes());
            connection.pass(Direction::Received, unfinished);
        });
        println!("{name}: {each} bytes an answer");
        assert!(each <= limit, "{name}: {each} bytes");
    }
}

#[test]
fn an_idle_connection_costs_at_most_2_kib() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let body = request(2_000, 3);
    let asked = format!("{}{body}", head(body.len()));
    let document = r#"{"id":"x","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":1}}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{document}",
        document.len()
    );
    let each = cost(10_000, |connection| {
        connection.pass(Direction::Sent, asked.as_bytes());
        connection.pass(Direction::Received, answer.as_bytes());
    });
    println!("{each} bytes an idle connection");
    assert!(each <= 2 * 1024, "{each} bytes");
}
