//! Our parsers against the same work by `serde_json`, in one run: modes take turns, the smallest of the
//! medians counts. `--json` prints one JSON object.

use std::{hint::black_box, time::Instant};

use observer_wire::{
    CallEvent, Chunk, Connection, Direction, Options, Origin, Timestamp, body::sse, http,
};
use serde::Deserialize;

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

/// What an SDK reads of an event.
#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow)]
    model: Option<&'a str>,
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: u64,
    #[serde(borrow)]
    delta: Delta<'a>,
    #[serde(borrow)]
    finish_reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// What a gateway reads of a request.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: &'a str,
    temperature: Option<f64>,
    stream: Option<bool>,
    messages: serde::de::IgnoredAny,
}

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
    let best = measure(&mut modes);
    let time = |name: &str| {
        let found = best.iter().find(|(mode, _)| *mode == name);
        found.map_or(f64::NAN, |(_, time)| *time)
    };
    let ratios = [
        (
            "sse framing / memcpy",
            "sse framing",
            "memcpy of the events",
            4.0,
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
            "8 x the request / the request, per byte x 8",
            "1 MiB request, observer",
            "132 kB request, observer",
            8.8,
        ),
    ];
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

fn payload(event: &str) -> &str {
    event.strip_prefix("data: ").unwrap_or_default().trim_end()
}

fn typed(events: &[String]) -> u64 {
    let mut sum = 0;
    for event in events {
        let Ok(completion) = serde_json::from_str::<Completion<'_>>(payload(event)) else {
            continue;
        };
        sum += completion.model.map_or(0, str::len) as u64;
        for choice in &completion.choices {
            sum += choice.index + choice.finish_reason.map_or(0, str::len) as u64;
            sum += choice.delta.content.as_ref().map_or(0, |text| text.len()) as u64;
        }
        if let Some(usage) = completion.usage {
            sum += usage.prompt_tokens + usage.completion_tokens;
        }
    }
    sum
}

fn skip(body: &str) -> u64 {
    serde_json::from_str::<Request<'_>>(body).map_or(0, |request| {
        let serde::de::IgnoredAny = request.messages;
        request.model.len() as u64
            + u64::from(request.stream == Some(true))
            + request.temperature.map_or(0, |value| value as u64)
    })
}

/// A request with one long conversation.
fn request(bytes: usize) -> String {
    let text =
        "The quick brown fox jumps over the lazy dog, \\\"again\\\" and again.\\n".repeat(30);
    let message = format!(r#"{{"role":"user","content":"{text}"}}"#);
    let messages = vec![message.as_str(); bytes / message.len()].join(",");
    let body =
        format!(r#"{{"model":"gpt-4o","temperature":0.5,"stream":true,"messages":[{messages}]}}"#);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nAccept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 1.99.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer sk-0123456789012345678901234567890123456789\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
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

/// A connection with a request and the head of its answer.
fn begun_http2() -> [Vec<u8>; 2] {
    let mut head = vec![0x83];
    for (index, value) in [(0x41, "api.openai.com"), (0x44, "/v1/chat/completions")] {
        head.extend([index, value.len() as u8]);
        head.extend(value.bytes());
    }
    let answer = b"\x88\x5f\x11text/event-stream";
    let body = b"{\"model\":\"gpt-4o\",\"stream\":true}";
    [
        [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, b""),
            &frame(1, 4, 1, &head),
            &frame(0, 1, 1, body),
        ]
        .concat(),
        [frame(4, 0, 0, b""), frame(1, 4, 1, answer)].concat(),
    ]
}

/// A head that adds fields to the table, and others that refer to them.
fn heads_of(count: usize) -> Vec<Vec<u8>> {
    let fields = [
        (":authority", "api.openai.com"),
        (":path", "/v1/embeddings"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("user-agent", "OpenAI/Python 1.99.0"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "1.99.0"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.11.7"),
        (
            "authorization",
            "Bearer sk-0123456789012345678901234567890123456789",
        ),
    ];
    let mut head = vec![0x83];
    for (name, value) in fields {
        head.extend([0x40, name.len() as u8]);
        head.extend(name.bytes());
        head.push(value.len() as u8);
        head.extend(value.bytes());
    }
    let indexed: Vec<u8> = [0x83]
        .into_iter()
        .chain((0..fields.len() as u8).map(|index| 0x80 | (62 + index)))
        .collect();
    let mut heads = vec![frame(1, 5, 1, &head)];
    heads.extend((1..count).map(|number| frame(1, 5, number as u32 * 2 + 1, &indexed)));
    heads
}

fn heads(heads: &[Vec<u8>]) -> u64 {
    let mut feed = Feed::new();
    feed.pass(Direction::Sent, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for head in heads {
        feed.pass(Direction::Sent, head);
    }
    feed.positions[0]
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Events and their end as chunks of HTTP.
fn framed(events: &[String], end: &str) -> Vec<Vec<u8>> {
    events
        .iter()
        .map(String::as_str)
        .chain([end])
        .map(|event| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
        .collect()
}

fn asked(request: &str, piece: usize) -> u64 {
    let mut feed = Feed::new();
    for piece in request.as_bytes().chunks(piece) {
        feed.pass(Direction::Sent, piece);
    }
    feed.positions[0]
}
