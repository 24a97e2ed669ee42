//! Traffic of any size, of the kinds that might cost more than their size.

#![allow(clippy::unwrap_used, reason = "of tests and benchmarks only")]

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use observer_wire::{Chunk, Connection, Direction, Options, Origin, Timestamp};

/// A kind of traffic: its name, what stands before it, and as many bytes of it as are wanted.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// What twice as much of it is called.
    #[allow(dead_code, reason = "only the benchmark names both")]
    pub(crate) twice: &'static str,
    /// How many bytes a read or write has.
    pub(crate) piece: usize,
    asked: Vec<u8>,
    direction: Direction,
    bytes: Box<dyn Fn(usize) -> Vec<u8>>,
}

impl Shape {
    /// What passes behind the beginning, of about this size.
    pub(crate) fn bytes(&self, size: usize) -> Vec<u8> {
        (self.bytes)(size)
    }

    /// Hands it to a connection.
    pub(crate) fn play(&self, bytes: &[u8]) {
        let mut connection = Connection::new(Options::default());
        let mut positions = [0; 2];
        let mut pass = |direction: Direction, bytes: &[u8]| {
            let position = &mut positions[usize::from(direction == Direction::Sent)];
            let chunk = Chunk {
                direction,
                offset: *position,
                at: Timestamp(1),
                origin: Origin(1),
                bytes,
            };
            *position += bytes.len() as u64;
            connection.data(chunk, &mut |_| {});
        };
        pass(Direction::Sent, &self.asked);
        for piece in bytes.chunks(self.piece) {
            pass(self.direction, piece);
        }
    }
}

/// A name, and that of twice as much.
macro_rules! twice {
    ($name:literal) => {
        [$name, concat!("twice ", $name)]
    };
}

/// Every kind.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut answer = |[name, twice]: [&'static str; 2],
                      piece,
                      kind: &'static str,
                      body: fn(usize) -> Vec<u8>| {
        shapes.push(Shape {
            name,
            twice,
            piece,
            asked: ask(r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#),
            direction: Direction::Received,
            bytes: Box::new(move |size| {
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{kind}\r\n\r\n");
                [head.into_bytes(), body(size)].concat()
            }),
        });
    };
    const SSE: &str = "Content-Type: text/event-stream";
    const JSON: &str = "Content-Type: application/json";
    answer(twice!("an event of one line"), 16, SSE, |size| {
        [b"data: {\"a\":\"", "x".repeat(size).as_bytes()].concat()
    });
    answer(twice!("an event of many lines"), 4096, SSE, |size| {
        b"data:\n".repeat(size / 6)
    });
    answer(twice!("comments"), 4096, SSE, |size| {
        b": \n\n".repeat(size / 4)
    });
    answer(twice!("events of other names"), 4096, SSE, |size| {
        lines(size, &|n| {
            format!("event: e{n}\ndata: {{\"model\":\"m{n}\"}}\n\n")
        })
    });
    answer(twice!("events with other usage"), 4096, SSE, |size| {
        lines(size, &|n| {
            format!("data: {{\"choices\":[],\"usage\":{{\"k{n}\":{n},\"prompt_tokens\":{n}}}}}\n\n")
        })
    });
    answer(twice!("tool calls of other places"), 4096, SSE, |size| {
        lines(size, &|n| {
            format!(
                "data: {{\"choices\":[{{\"index\":{n},\"delta\":{{\"tool_calls\":[{{\"index\":{n},\
                 \"function\":{{\"name\":\"f\"}}}}]}},\"finish_reason\":\"f{n}\"}}]}}\n\n"
            )
        })
    });
    answer(twice!("a string, byte by byte"), 1, JSON, |size| {
        [b"{\"a\":\"", "x".repeat(size).as_bytes()].concat()
    });
    answer(twice!("escapes"), 4096, JSON, |size| {
        [b"{\"model\":\"", "\\u00e9".repeat(size / 6).as_bytes()].concat()
    });
    answer(twice!("usage of many members"), 4096, JSON, |size| {
        [
            b"{\"usage\":{\"a\":1",
            lines(size, &|n| format!(",\"k{n}\":{n}")).as_slice(),
        ]
        .concat()
    });
    answer(twice!("arrays in arrays"), 4096, JSON, |size| {
        [b"{\"choices\":[", "[],".repeat(size / 3).as_bytes()].concat()
    });
    answer(twice!("nesting"), 4096, JSON, |size| {
        [b"{\"usage\":", "[".repeat(size).as_bytes()].concat()
    });
    answer(
        twice!("chunks of a byte"),
        4096,
        "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked",
        |size| b"1\r\nx\r\n".repeat(size / 6),
    );
    answer(
        twice!("lines of NDJSON"),
        4096,
        "Content-Type: application/x-ndjson",
        |size| lines(size, &|n| format!("{{\"done\":false,\"n\":{n}}}\n")),
    );
    answer(
        twice!("a bomb"),
        4096,
        "Content-Type: application/json\r\nContent-Encoding: gzip",
        |size| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            // A thousandth is left of it.
            let zeros = vec![b'0'; 64 * 1024];
            for _ in 0..size / 64 {
                encoder.write_all(&zeros).unwrap();
            }
            encoder.finish().unwrap()
        },
    );
    answer(
        twice!("AWS messages"),
        4096,
        "Content-Type: application/vnd.amazon.eventstream",
        |size| {
            let text = b"{\"contentBlockIndex\":0,\"delta\":{\"text\":\"Hi\"}}";
            aws_message(text).repeat(size / 100)
        },
    );
    answer(
        twice!("an AWS message"),
        16,
        "Content-Type: application/vnd.amazon.eventstream",
        |size| aws_message("x".repeat(size).as_bytes()),
    );
    for (name, piece, bytes) in [
        (
            twice!("WebSocket frames of a byte"),
            4096,
            (|size| [&[0x01, 1, b'{'][..], &[0x00, 1, b' '].repeat(size / 3)].concat())
                as fn(usize) -> Vec<u8>,
        ),
        (twice!("WebSocket messages"), 4096, |size| {
            let text = b"{\"type\":\"response.created\",\"response\":{}}";
            [&[0x81, u8::try_from(text.len()).unwrap()][..], text]
                .concat()
                .repeat(size / 45)
        }),
        (twice!("WebSocket pings"), 4096, |size| {
            [0x89, 0].repeat(size / 2)
        }),
    ] {
        shapes.push(Shape {
            name: name[0],
            twice: name[1],
            piece,
            asked: b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: api.openai.com\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\n\r\n"
                .to_vec(),
            direction: Direction::Received,
            bytes: Box::new(move |size| {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                [head.as_slice(), &bytes(size)].concat()
            }),
        });
    }
    let mut sent = |[name, twice]: [&'static str; 2], piece, bytes: fn(usize) -> Vec<u8>| {
        shapes.push(Shape {
            name,
            twice,
            piece,
            asked: Vec::new(),
            direction: Direction::Sent,
            bytes: Box::new(bytes),
        });
    };
    sent(twice!("a head without end"), 16, |size| {
        [
            b"POST /v1/chat/completions HTTP/1.1\r\n",
            lines(size, &|n| format!("x-{n}: y\r\n")).as_slice(),
        ]
        .concat()
    });
    sent(twice!("a form of many parts"), 4096, |size| {
        let head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: api.openai.com\r\nTransfer-Encoding: chunked\r\n\
            Content-Type: multipart/form-data; boundary=b\r\n\r\n";
        let parts = lines(size, &|n| {
            format!("--b\r\nContent-Disposition: form-data; name=\"n{n}\"\r\n\r\n-\r\n")
        });
        [
            head.as_bytes(),
            format!("{:x}\r\n", parts.len()).as_bytes(),
            &parts,
        ]
        .concat()
    });
    sent(twice!("requests without answers"), 4096, |size| {
        ask("{}").repeat(size / 100)
    });
    sent(twice!("HTTP/2 data of a byte"), 4096, |size| {
        [
            begun().as_slice(),
            &frame(1, 4, 1, &head()),
            &frame(0, 0, 1, b"x").repeat(size / 10),
        ]
        .concat()
    });
    sent(twice!("HTTP/2 streams without end"), 4096, |size| {
        let mut bytes = begun();
        for number in 0..u32::try_from(size / 60).unwrap() {
            bytes.extend(frame(1, 4, number * 2 + 1, &head()));
        }
        bytes
    });
    sent(twice!("HTTP/2 streams that are reset"), 4096, |size| {
        let mut bytes = begun();
        for number in 0..u32::try_from(size / 73).unwrap() {
            bytes.extend(frame(1, 4, number * 2 + 1, &head()));
            bytes.extend(frame(3, 0, number * 2 + 1, &[0, 0, 0, 8]));
        }
        bytes
    });
    sent(twice!("HTTP/2 continuations"), 4096, |size| {
        [
            begun().as_slice(),
            &frame(1, 0, 1, &head()),
            &frame(9, 0, 1, b"").repeat(size / 9),
        ]
        .concat()
    });
    sent(twice!("HTTP/2 fields that fill the table"), 4096, |size| {
        let mut bytes = begun();
        for number in 0..u32::try_from(size / 90).unwrap() {
            let mut block = head();
            block.extend(b"\x40\x04name\x10");
            block.extend(format!("{number:016}").bytes());
            bytes.extend(frame(1, 5, number * 2 + 1, &block));
        }
        bytes
    });
    shapes
}

/// A message of an AWS event stream without headers; both checksums are right.
fn aws_message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 16).unwrap();
    let mut message = [length.to_be_bytes(), [0; 4]].concat();
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

fn ask(body: &str) -> Vec<u8> {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn lines(size: usize, line: &dyn Fn(usize) -> String) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 256);
    for number in 0.. {
        if bytes.len() >= size {
            break;
        }
        bytes.extend(line(number).bytes());
    }
    bytes
}

fn begun() -> Vec<u8> {
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, b""),
    ]
    .concat()
}

/// `POST` to a path of an unknown host.
fn head() -> Vec<u8> {
    let mut block = vec![0x83, 0x87, 0x04, 20];
    block.extend(b"/v1/chat/completions");
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
