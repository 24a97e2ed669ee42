//! Our parsers against memcpy and against the same work by the usual crates, in one run: modes take turns,
//! the smallest of the medians counts. `--json` prints one JSON object.

mod inputs;
mod peers;
#[path = "../../tests/shapes/mod.rs"]
mod shapes;

use std::{hint::black_box, time::Instant};

use inputs::{BLOCK, begun_http2, frame, framed, heads_of, request};
use observer_wire::{
    CallEvent, Chunk, Connection, Direction, Options, Origin, Timestamp,
    body::sse,
    http::{self, h2::hpack},
};
use peers::{payload, skip, typed};

/// Rounds in which all modes take their turn.
const ROUNDS: usize = 7;

/// Heads of a connection.
const HEADS: usize = 100;

/// Repetitions in a round, of which the median counts.
const REPETITIONS: usize = 15;

/// Events of a stream.
const EVENTS: usize = 300;

/// Bytes of a TLS record.
const RECORD: usize = 16 * 1024;

/// Bytes of the smaller one of two that are alike.
const SHAPE: usize = 256 * 1024;

/// How much longer twice the bytes may take.
const TWICE: f64 = 2.2;

/// A mode: its name, and the work, which returns something that depends on all of it.
struct Mode<'a> {
    name: &'static str,
    /// Units of work in one call, to divide by.
    units: usize,
    work: Box<dyn FnMut() -> u64 + 'a>,
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let words = [
        "Hello", " there", ", how", " are", " you", " today", "? \\n",
    ];
    let events: Vec<String> = (0..EVENTS)
        .map(|number| {
            let word = words[number % words.len()];
            format!(
                "data: {{\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"gpt-4o-2024-08-06\",\"system_fingerprint\":\"fp_0123456789\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
            )
        })
        .collect();
    // As OpenAI sends them since 2025: with padding of random length.
    let padded: Vec<String> = events
        .iter()
        .enumerate()
        .map(|(number, event)| {
            let padding = &"aBcDeFgHiJkLmNoPq"[..number * 7 % 17];
            event.replace(
                "}]}\n\n",
                &format!("}}],\"obfuscation\":\"{padding}\"}}\n\n"),
            )
        })
        .collect();
    let end = "data: {\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":300,\"total_tokens\":312}}\n\ndata: [DONE]\n\n";
    let usage = end
        .split("\n\n")
        .next()
        .map_or(String::new(), |event| format!("{event}\n\n"));
    let with_usage: Vec<String> = (0..EVENTS)
        .map(|number| usage.replace("300", &(100 + number).to_string()))
        .collect();
    let joined = events.concat();
    let small = request(132_000);
    let large = request(1 << 20);
    let (head, _) = small.split_at(small.find("{\"model\"").unwrap_or(0));
    let body = |request: &str| request[request.find("{\"model\"").unwrap_or(0)..].to_owned();
    let (small_body, large_body) = (body(&small), body(&large));

    let [events_framed, padded_framed, with_usage_framed] =
        [&events, &padded, &with_usage].map(|events| framed(events, end));

    let events_http2: Vec<Vec<u8>> = events
        .iter()
        .map(String::as_str)
        .chain([end])
        .map(|event| frame(0, 0, 1, event.as_bytes()))
        .collect();
    let heads_http2 = heads_of(HEADS);
    let heads_coded = vec![frame(1, 4, 1, BLOCK); HEADS];

    let shapes = shapes::shapes();
    let mut modes = vec![
        Mode {
            name: "memcpy of the events",
            units: EVENTS,
            work: Box::new(|| {
                let copy = black_box(joined.as_bytes()).to_vec();
                black_box(&copy);
                copy.len() as u64
            }),
        },
        Mode {
            name: "sse framing",
            units: EVENTS,
            work: Box::new(|| {
                let mut parser = sse::Parser::default();
                let mut bytes = 0;
                for event in &events {
                    parser.push(event.as_bytes(), &mut |event| {
                        bytes += event.data.len() as u64
                    });
                }
                bytes
            }),
        },
        Mode {
            name: "sse framing, eventsource-stream",
            units: EVENTS,
            work: Box::new(|| peers::eventsource(&events)),
        },
        Mode {
            name: "events, serde_json typed",
            units: EVENTS,
            work: Box::new(|| typed(&events)),
        },
        Mode {
            name: "events, serde_json Value",
            units: EVENTS,
            work: Box::new(|| {
                events
                    .iter()
                    .map(|event| {
                        let value: serde_json::Value =
                            serde_json::from_str(payload(event)).unwrap_or_default();
                        value["model"]
                            .as_str()
                            .map_or(0, |model| model.len() as u64)
                    })
                    .sum()
            }),
        },
        Mode {
            name: "events, observer",
            units: EVENTS,
            work: Box::new(|| stream(&events_framed)),
        },
        Mode {
            name: "HTTP/2 frames, heads of frames only",
            units: EVENTS,
            work: Box::new(|| peers::walk(&events_http2)),
        },
        Mode {
            name: "HTTP/2 frames, observer",
            units: EVENTS,
            work: Box::new(|| frames(&events_http2)),
        },
        Mode {
            name: "events over HTTP/2, observer",
            units: EVENTS,
            work: Box::new(|| stream_http2(&events_http2)),
        },
        Mode {
            name: "HTTP/2 heads that refer to the table, observer",
            units: HEADS,
            work: Box::new(|| heads(&heads_http2)),
        },
        Mode {
            name: "HPACK by reference, observer",
            units: HEADS,
            work: Box::new(|| blocks(&heads_http2)),
        },
        Mode {
            name: "HPACK by reference, httlib-hpack",
            units: HEADS,
            work: Box::new(|| peers::blocks(&heads_http2)),
        },
        Mode {
            name: "HPACK by Huffman code, observer",
            units: HEADS,
            work: Box::new(|| blocks(&heads_coded)),
        },
        Mode {
            name: "HPACK by Huffman code, httlib-hpack",
            units: HEADS,
            work: Box::new(|| peers::blocks(&heads_coded)),
        },
        Mode {
            name: "padded events, serde_json typed",
            units: EVENTS,
            work: Box::new(|| typed(&padded)),
        },
        Mode {
            name: "padded events, observer",
            units: EVENTS,
            work: Box::new(|| stream(&padded_framed)),
        },
        Mode {
            name: "events with usage, serde_json typed",
            units: EVENTS,
            work: Box::new(|| typed(&with_usage)),
        },
        Mode {
            name: "events with usage, observer",
            units: EVENTS,
            work: Box::new(|| stream(&with_usage_framed)),
        },
        Mode {
            name: "132 kB request, serde_json typed",
            units: 1,
            work: Box::new(|| skip(&small_body)),
        },
        Mode {
            name: "132 kB request, observer",
            units: 1,
            work: Box::new(|| asked(&small, RECORD)),
        },
        Mode {
            name: "1 MiB request, memcpy",
            units: 1,
            work: Box::new(|| {
                let copy = black_box(large_body.as_bytes()).to_vec();
                black_box(&copy);
                copy.len() as u64
            }),
        },
        Mode {
            name: "1 MiB request, sonic-rs typed",
            units: 1,
            work: Box::new(|| peers::skip_sonic(&large_body)),
        },
        Mode {
            name: "1 MiB request, serde_json Value",
            units: 1,
            work: Box::new(|| peers::value(&large_body)),
        },
        Mode {
            name: "1 MiB request, serde_json typed",
            units: 1,
            work: Box::new(|| skip(&large_body)),
        },
        Mode {
            name: "1 MiB request, observer",
            units: 1,
            work: Box::new(|| asked(&large, RECORD)),
        },
        Mode {
            name: "132 kB request, observer, byte by byte",
            units: 1,
            work: Box::new(|| asked(&small, 1)),
        },
        Mode {
            name: "request head, observer",
            units: 1,
            work: Box::new(|| asked(head, RECORD)),
        },
    ];
    for shape in &shapes {
        for (name, size) in [(shape.name, SHAPE), (shape.twice, 2 * SHAPE)] {
            let bytes = shape.bytes(size);
            modes.push(Mode {
                name,
                units: 1,
                work: Box::new(move || {
                    shape.play(&bytes);
                    1
                }),
            });
        }
    }
    let best = measure(&mut modes);
    let time = |name: &str| {
        let found = best.iter().find(|(mode, _)| *mode == name);
        found.map_or(f64::NAN, |(_, time)| *time)
    };
    let mut ratios = vec![
        (
            "sse framing / memcpy",
            "sse framing",
            "memcpy of the events",
            4.0,
        ),
        (
            "sse framing / eventsource-stream",
            "sse framing",
            "sse framing, eventsource-stream",
            1.0 / 1.5,
        ),
        (
            "events with usage / serde_json typed",
            "events with usage, observer",
            "events with usage, serde_json typed",
            1.0,
        ),
        (
            "events without usage / serde_json typed",
            "events, observer",
            "events, serde_json typed",
            0.25,
        ),
        (
            "HTTP/2 frames / memcpy",
            "HTTP/2 frames, observer",
            "memcpy of the events",
            4.0,
        ),
        (
            "HTTP/2 frames / a walk over their heads",
            "HTTP/2 frames, observer",
            "HTTP/2 frames, heads of frames only",
            2.0,
        ),
        (
            "HPACK by reference / httlib-hpack",
            "HPACK by reference, observer",
            "HPACK by reference, httlib-hpack",
            1.0,
        ),
        (
            "HPACK by Huffman code / httlib-hpack",
            "HPACK by Huffman code, observer",
            "HPACK by Huffman code, httlib-hpack",
            1.0,
        ),
        (
            "events over HTTP/2 / over HTTP/1.1",
            "events over HTTP/2, observer",
            "events, observer",
            1.2,
        ),
        (
            "HTTP/2 head / HTTP/1.1 head",
            "HTTP/2 heads that refer to the table, observer",
            "request head, observer",
            1.0,
        ),
        (
            "padded events without usage / serde_json typed",
            "padded events, observer",
            "padded events, serde_json typed",
            0.25,
        ),
        (
            "events without usage / serde_json Value",
            "events, observer",
            "events, serde_json Value",
            1.0 / 3.0,
        ),
        (
            "132 kB request / serde_json typed",
            "132 kB request, observer",
            "132 kB request, serde_json typed",
            1.0,
        ),
        (
            "1 MiB request / serde_json typed",
            "1 MiB request, observer",
            "1 MiB request, serde_json typed",
            1.0,
        ),
        (
            "1 MiB request / memcpy",
            "1 MiB request, observer",
            "1 MiB request, memcpy",
            40.0,
        ),
        (
            "1 MiB request / sonic-rs typed",
            "1 MiB request, observer",
            "1 MiB request, sonic-rs typed",
            1.0,
        ),
        (
            "1 MiB request / serde_json Value",
            "1 MiB request, observer",
            "1 MiB request, serde_json Value",
            1.0 / 3.0,
        ),
        (
            "8 x the request / the request, per byte x 8",
            "1 MiB request, observer",
            "132 kB request, observer",
            8.8,
        ),
    ];
    ratios.extend(
        shapes
            .iter()
            .map(|shape| (shape.twice, shape.twice, shape.name, TWICE)),
    );
    let rows: Vec<serde_json::Value> = ratios
        .iter()
        .map(|(name, over, under, goal)| {
            let ratio = time(over) / time(under);
            serde_json::json!({"name": name, "ratio": ratio, "goal": goal, "met": ratio <= *goal})
        })
        .collect();
    if json {
        let times: serde_json::Map<String, serde_json::Value> = best
            .iter()
            .map(|(name, time)| ((*name).to_owned(), (*time).into()))
            .collect();
        println!(
            "{}",
            serde_json::json!({"ratios": rows, "ns": times, "rounds": ROUNDS})
        );
        return;
    }
    for (name, time) in &best {
        println!("{name:<45} {time:>12.1} ns");
    }
    for row in rows {
        println!(
            "{:<50} {:>6.2}  goal {:.2}",
            row["name"].as_str().unwrap_or_default(),
            row["ratio"].as_f64().unwrap_or(f64::NAN),
            row["goal"].as_f64().unwrap_or(f64::NAN)
        );
    }
}

/// The time of a unit of each mode, in nanoseconds.
fn measure<'a>(modes: &mut [Mode<'a>]) -> Vec<(&'static str, f64)> {
    let mut best = vec![f64::INFINITY; modes.len()];
    for _ in 0..ROUNDS {
        for (mode, best) in modes.iter_mut().zip(&mut best) {
            let mut times: Vec<f64> = (0..REPETITIONS)
                .map(|_| {
                    let begun = Instant::now();
                    black_box((mode.work)());
                    begun.elapsed().as_nanos() as f64 / mode.units as f64
                })
                .collect();
            times.sort_by(f64::total_cmp);
            *best = best.min(times[REPETITIONS / 2]);
        }
    }
    modes.iter().map(|mode| mode.name).zip(best).collect()
}

/// Hands bytes to a connection as the agent does.
struct Feed {
    connection: Connection,
    positions: [u64; 2],
    ended: u64,
}

impl Feed {
    fn new() -> Self {
        Self {
            connection: Connection::new(Options::default()),
            positions: [0; 2],
            ended: 0,
        }
    }

    fn pass(&mut self, direction: Direction, bytes: &[u8]) {
        let side = usize::from(direction == Direction::Received);
        let (offset, opposite) = (self.positions[side], self.positions[1 - side]);
        self.positions[side] += bytes.len() as u64;
        let ended = &mut self.ended;
        let mut report = |event| {
            if let CallEvent::Ended { record, .. } = event {
                *ended += record.completion_tokens.unwrap_or(1);
            }
        };
        self.connection
            .expect(direction.opposite(), opposite, Timestamp(1), &mut report);
        let chunk = Chunk {
            direction,
            offset,
            at: Timestamp(1),
            origin: Origin(1),
            bytes,
        };
        self.connection.data(chunk, &mut report);
    }
}

/// A stream, one chunk of HTTP's an event, as servers send it.
fn stream(framed: &[Vec<u8>]) -> u64 {
    let mut feed = Feed::new();
    feed.pass(Direction::Sent, b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: 32\r\n\r\n{\"model\":\"gpt-4o\",\"stream\":true}");
    feed.pass(
        Direction::Received,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for event in framed {
        feed.pass(Direction::Received, event);
    }
    feed.pass(Direction::Received, b"0\r\n\r\n");
    feed.ended
}

/// As `stream`, over HTTP/2, one frame an event.
fn stream_http2(framed: &[Vec<u8>]) -> u64 {
    let mut feed = Feed::new();
    let [sent, received] = begun_http2();
    feed.pass(Direction::Sent, &sent);
    feed.pass(Direction::Received, &received);
    for event in framed {
        feed.pass(Direction::Received, event);
    }
    feed.pass(Direction::Received, &frame(0, 1, 1, b""));
    feed.ended
}

/// The blocks of frames that hold one each.
fn blocks(frames: &[Vec<u8>]) -> u64 {
    let mut decoder = hpack::Decoder::default();
    let mut bytes = 0;
    for frame in frames {
        let block = frame.get(9..).unwrap_or_default();
        let decoded = decoder.decode(block, &mut |field| {
            bytes += field.value.map_or(0, <[u8]>::len) as u64;
        });
        assert!(decoded.is_ok());
    }
    bytes
}

/// The frames alone.
fn frames(framed: &[Vec<u8>]) -> u64 {
    let mut connection = http::Connection::default();
    let mut bytes = 0;
    let mut sink = |event: http::Event<'_>| {
        if let http::Event::ResponseBody { bytes: body, .. } = event {
            bytes += body.len() as u64;
        }
    };
    let [sent, received] = begun_http2();
    let at = Timestamp(1);
    connection.data(Direction::Sent, at, Origin(1), &sent, &mut sink);
    connection.data(Direction::Received, at, Origin(1), &received, &mut sink);
    for event in framed {
        connection.data(Direction::Received, at, Origin(1), event, &mut sink);
    }
    bytes
}

fn heads(heads: &[Vec<u8>]) -> u64 {
    let mut feed = Feed::new();
    feed.pass(Direction::Sent, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for head in heads {
        feed.pass(Direction::Sent, head);
    }
    feed.positions[0]
}

fn asked(request: &str, piece: usize) -> u64 {
    let mut feed = Feed::new();
    for piece in request.as_bytes().chunks(piece) {
        feed.pass(Direction::Sent, piece);
    }
    feed.positions[0]
}
