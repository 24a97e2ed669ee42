//! Recorded exchanges and the calls that come out of them; see `exchanges/README.md`.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

mod frames;

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use frames::{LOST_END, LOST_START};
use observer_wire::{
    CallEvent, CallId, Chunk, Close, Connection, Direction, LlmCall, Options, Origin, Timestamp,
};
use serde_json::{Map, Value, json};

/// Time between two writes or reads.
const STEP: Duration = Duration::from_millis(10);

/// Stands in all prompts and answers.
const SECRET: &str = "MARMALADE";

const CONTENT: Options = Options {
    capture_content: true,
    output_preview_chars: 500,
    input_preview_chars: 500,
    salt: [0x5a; 32],
};

/// As [`CONTENT`], without content.
const PRIVATE: Options = Options {
    capture_content: false,
    ..CONTENT
};

#[test]
fn recorded_exchanges_give_the_calls_expected() {
    for case in cases() {
        let script = Script::read(&case);
        let name = case.file_stem().unwrap().to_str().unwrap();
        let calls = play(&script, CONTENT, &mut whole);
        let records: Vec<Value> = calls.iter().map(record).collect();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(case.parent().unwrap());
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| {
            insta::assert_snapshot!(name, serde_json::to_string_pretty(&records).unwrap());
        });
    }
}

#[test]
fn the_calls_do_not_depend_on_how_the_bytes_are_split() {
    for case in cases() {
        let script = Script::read(&case);
        let expected = play(&script, CONTENT, &mut whole);
        let every_byte = play(&script, CONTENT, &mut |bytes| {
            let mut lengths = vec![1; bytes];
            if script.seeks {
                let first = bytes.min(FRAME_HEADER);
                lengths.splice(..first, [first]);
            }
            lengths
        });
        assert_eq!(every_byte, expected, "{} at every byte", case.display());
        for seed in 1..=20_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let split = play(&script, CONTENT, &mut |mut bytes| {
                let mut lengths = Vec::new();
                if script.seeks {
                    let first = bytes.min(FRAME_HEADER);
                    lengths.push(first);
                    bytes -= first;
                }
                while bytes > 0 {
                    // xorshift64 (Marsaglia 2003).
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let length = (1 + usize::try_from(random % 97).unwrap()).min(bytes);
                    lengths.push(length);
                    bytes -= length;
                }
                lengths
            });
            assert_eq!(
                split,
                expected,
                "{} at random places, seed {seed}",
                case.display()
            );
        }
    }
}

#[test]
fn without_content_only_the_previews_are_missing() {
    for case in cases() {
        let script = Script::read(&case);
        let with = play(&script, CONTENT, &mut whole);
        let without = play(&script, PRIVATE, &mut whole);
        assert_eq!(with.len(), without.len(), "{}", case.display());
        for (mut with, without) in with.into_iter().zip(without) {
            with.input_preview = None;
            with.output_preview = None;
            assert_eq!(with, without, "{}", case.display());
            assert!(
                !format!("{without:?}").contains(SECRET),
                "{}",
                case.display()
            );
        }
    }
}

#[test]
fn debugging_a_connection_shows_no_content() {
    for case in cases() {
        let script = Script::read(&case);
        let mut connection = Connection::new(CONTENT);
        let mut offsets = [0, 0];
        for step in &script.steps {
            if let Step::Bytes {
                direction, bytes, ..
            } = step
            {
                let offset = &mut offsets[usize::from(*direction == Direction::Sent)];
                // A byte is held back, so that the end is always open.
                let bytes = &bytes[..bytes.len() - 1];
                let chunk = Chunk {
                    direction: *direction,
                    offset: *offset,
                    at: Timestamp(0),
                    origin: Origin(0),
                    bytes,
                };
                connection.data(chunk, &mut |_| ());
                *offset += bytes.len() as u64;
                let shown = format!("{connection:?} {chunk:?}");
                assert!(
                    !shown.contains(SECRET) && !shown.contains("77, 65, 82, 77"),
                    "{shown}"
                );
            }
        }
    }
}

#[test]
fn a_long_conversation_is_shown_by_its_end() {
    let long = format!("{SECRET} ").repeat(60);
    let part = json!({"type": "text", "text": format!("x {SECRET}")});
    let mut messages = vec![json!({"role": "user", "content": long}); 300];
    messages.push(json!({"role": "user", "content": vec![part; 2000]}));
    messages.push(json!({"role": "user", "content": "last but one"}));
    messages.push(json!({"role": "user", "content": "last"}));
    let openai = json!({"messages": messages, "model": "gpt-4o", "temperature": 0.5}).to_string();
    let anthropic =
        json!({"max_tokens": 9, "messages": messages, "model": "claude", "system": "Be brief."})
            .to_string();
    for (path, host, body, preview) in [
        (
            "/v1/chat/completions",
            "api.openai.com",
            openai,
            "[user] last but one\n[user] last",
        ),
        (
            "/v1/messages",
            "api.anthropic.com",
            anthropic,
            "[system] Be brief.\n[user] last but one\n[user] last",
        ),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = Connection::new(CONTENT);
        let mut offset = 0;
        for bytes in [head.as_bytes()]
            .into_iter()
            .chain(body.as_bytes().chunks(16 * 1024))
        {
            let chunk = Chunk {
                direction: Direction::Sent,
                offset,
                at: Timestamp(0),
                origin: Origin(0),
                bytes,
            };
            connection.data(chunk, &mut |_| ());
            offset += bytes.len() as u64;
            assert!(connection.memory() < 256 * 1024, "{}", connection.memory());
        }
        let mut records = Vec::new();
        connection.close(Close::Local, None, Timestamp(1), &mut |event| {
            if let CallEvent::Ended { record, .. } = event {
                records.push(record);
            }
        });
        assert_eq!(records[0].input_preview.as_deref(), Some(preview));
        assert!(records[0].model.is_some());
    }
}

/// 1,000 of these at a time must fit into 64 MB.
#[test]
fn a_large_request_costs_little_without_content() {
    let text = "All work and no play makes Jack a dull boy. ".repeat(24 * 1024);
    let image = format!("data:image/png;base64,{}", "QUJD".repeat(256 * 1024));
    let many: Vec<Value> = (0..20_000)
        .map(|n| json!({"role": "user", "content": format!("message {n}")}))
        .collect();
    let contents: Vec<Value> = (0..20_000)
        .map(|n| json!({"role": "user", "parts": [{"text": format!("{n}")}]}))
        .collect();
    let bodies = [
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": text}], "model": "m"}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}], "model": "m"}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": many, "model": "m"}),
        ),
        ("/any/path", json!({"messages": many, "model": "m"})),
        ("/any/mcp", json!({"messages": many, "model": "m"})),
        (
            "/any/mcp",
            json!({"jsonrpc": "2.0", "id": text, "method": "tools/call", "params": {"name": text, "arguments": many}}),
        ),
        (
            "/any/mcp",
            json!(vec![
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t"}});
                20_000
            ]),
        ),
        ("/v2/chat", json!({"messages": many, "model": "m"})),
        ("/completion", json!({"prompt": many})),
        (
            "/v1/messages",
            json!({"max_tokens": 1, "messages": many, "model": "m", "system": text}),
        ),
        (
            "/v1beta/models/m:generateContent",
            json!({"contents": contents, "systemInstruction": text}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": text, "messages": many}),
        ),
        (
            "/model/m/converse",
            json!({"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": image}}}]}]}),
        ),
        ("/model/m/converse", json!({"messages": many})),
        (
            "/model/m/invoke",
            json!({"anthropic_version": "bedrock-2023-05-31", "system": text, "messages": many}),
        ),
        (
            "/model/m/invoke",
            json!({"inputText": text, "prompt": text}),
        ),
    ];
    for (path, body) in bodies {
        let body = body.to_string();
        assert!(body.len() > 800_000, "{}", body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: llm.internal\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len() + 1
        );
        let mut connection = Connection::new(Options::default());
        let mut offset = 0;
        for bytes in [head.as_bytes()]
            .into_iter()
            .chain(body.as_bytes().chunks(16 * 1024))
        {
            let chunk = Chunk {
                direction: Direction::Sent,
                offset,
                at: Timestamp(0),
                origin: Origin(0),
                bytes,
            };
            connection.data(chunk, &mut |_| ());
            offset += bytes.len() as u64;
            assert!(
                connection.memory() <= 64 * 1024,
                "{path}: {}",
                connection.memory()
            );
        }
    }
}

/// The form is that of `fuzz/fuzz_targets/call.rs`. `cargo xtask fuzz` begins with them.
#[test]
fn every_case_is_a_seed_for_fuzzing() {
    let folder = env::var_os("OBSERVER_WRITE_SEEDS").map(PathBuf::from);
    for case in cases() {
        for options in [0, 0xff] {
            let seed = Script::read(&case).seed(options);
            assert!(seed.len() > 1, "{}", case.display());
            if let Some(folder) = &folder {
                let provider = case.parent().and_then(Path::file_name).unwrap();
                let name = case.file_stem().unwrap();
                let name = [provider, name]
                    .map(|part| part.to_str().unwrap())
                    .join("-");
                fs::write(folder.join(format!("{name}-{options}")), seed).unwrap();
            }
        }
    }
}

/// One thing that happens on a connection.
enum Step {
    Bytes {
        direction: Direction,
        bytes: Vec<u8>,
        at: Timestamp,
        /// They are frames of WebSocket.
        websocket: bool,
    },
    Close {
        close: Close,
        at: Timestamp,
    },
    Lost {
        direction: Direction,
        bytes: u64,
    },
}

struct Script {
    steps: Vec<Step>,
    /// Frames must be found again at the beginning of a write: of HTTP/2 their headers may not be split, of
    /// WebSocket writes.
    seeks: bool,
}

/// Length of the header of a frame (RFC 9113 section 4.1).
const FRAME_HEADER: usize = 9;

impl Script {
    /// A byte of options, then for each step what happens, a length of two bytes, and the bytes.
    fn seed(&self, options: u8) -> Vec<u8> {
        const LONGEST: usize = u16::MAX as usize;
        let mut seed = vec![options];
        let mut step = |what: u8, direction: Direction, length: usize, bytes: &[u8]| {
            let length = u16::try_from(length).unwrap().to_le_bytes();
            seed.extend([what << 1 | u8::from(direction == Direction::Sent)]);
            seed.extend(length);
            seed.extend(bytes);
        };
        for one in &self.steps {
            match one {
                Step::Bytes {
                    direction, bytes, ..
                } => {
                    for bytes in bytes.chunks(LONGEST) {
                        step(4, *direction, bytes.len(), bytes);
                    }
                }
                Step::Lost { direction, bytes } => {
                    step(
                        0,
                        *direction,
                        usize::try_from(*bytes).unwrap().min(LONGEST),
                        &[],
                    );
                }
                Step::Close { close, .. } => {
                    let who = match close {
                        Close::Detached => 0,
                        Close::Local => 1,
                        Close::Peer { clean } => 2 + usize::from(*clean),
                        Close::ProcessExit => 4,
                    };
                    step(3, Direction::Received, who, &[]);
                }
            }
        }
        seed
    }

    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut script = Self {
            steps: Vec::new(),
            seeks: false,
        };
        let mut encoders = [frames::Encoder::default(), frames::Encoder::default()];
        let mut messages = [
            frames::websocket::Encoder::new(false),
            frames::websocket::Encoder::new(true),
        ];
        let mut at = Duration::ZERO;
        for section in text.trim_end_matches('\n').split("\n=== ").skip(1) {
            let (title, message) = section.split_once('\n').unwrap_or((section, ""));
            let mut words = title.split_whitespace();
            let direction = match words.next().unwrap() {
                "close" => {
                    let close = match words.next().unwrap() {
                        "detached" => Close::Detached,
                        "local" => Close::Local,
                        "peer" => Close::Peer { clean: true },
                        "process-exit" => Close::ProcessExit,
                        other => panic!("{}: who is {other}?", path.display()),
                    };
                    script.steps.push(Step::Close {
                        close,
                        at: timestamp(at),
                    });
                    continue;
                }
                "unseen" | "lost" | "sent" | "received" => {
                    let sent = title.ends_with("sent");
                    let direction = if sent {
                        Direction::Sent
                    } else {
                        Direction::Received
                    };
                    let websocket = message.starts_with(|first: char| first.is_lowercase())
                        && !message.starts_with("preface");
                    let bytes = if websocket {
                        messages[usize::from(sent)].write(message)
                    } else {
                        encoders[usize::from(sent)].write(message)
                    };
                    script.seeks |= title.contains(' ') || find(&bytes, LOST_START).is_some();
                    if title.starts_with("lost") {
                        let bytes = bytes.len() as u64;
                        script.steps.push(Step::Lost { direction, bytes });
                    } else if !title.starts_with("unseen") {
                        script.add(direction, &bytes, timestamp(at), websocket);
                        at += STEP;
                    }
                    continue;
                }
                "request" => Direction::Sent,
                "response" => Direction::Received,
                "wait" => {
                    let duration = words.next().unwrap();
                    at += match duration.strip_suffix("ms") {
                        Some(number) => Duration::from_millis(number.parse().unwrap()),
                        None => Duration::from_secs(
                            duration.strip_suffix('s').unwrap().parse().unwrap(),
                        ),
                    };
                    continue;
                }
                other => panic!("{}: what is {other}?", path.display()),
            };
            for piece in pieces(message, words.next().is_none()) {
                script.add(direction, &piece, timestamp(at), false);
                at += STEP;
            }
        }
        script
    }

    /// Adds a piece without what is lost of it.
    fn add(&mut self, direction: Direction, mut piece: &[u8], at: Timestamp, websocket: bool) {
        while let Some(start) = find(piece, LOST_START) {
            let end = start + find(&piece[start..], LOST_END).unwrap();
            self.bytes(direction, &piece[..start], at, websocket);
            self.steps.push(Step::Lost {
                direction,
                bytes: (end - start - LOST_START.len()) as u64,
            });
            piece = &piece[end + LOST_END.len()..];
        }
        self.bytes(direction, piece, at, websocket);
    }

    fn bytes(&mut self, direction: Direction, bytes: &[u8], at: Timestamp, websocket: bool) {
        if !bytes.is_empty() {
            self.steps.push(Step::Bytes {
                direction,
                bytes: bytes.to_owned(),
                at,
                websocket,
            });
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Length of a text on the wire.
fn wire_length(bytes: &[u8]) -> usize {
    let marks = bytes
        .windows(LOST_START.len())
        .filter(|window| *window == LOST_START)
        .count();
    bytes.len() - marks * (LOST_START.len() + LOST_END.len())
}

/// The writes of a message.
fn pieces(message: &str, finished: bool) -> Vec<Vec<u8>> {
    let (head, body) = message.split_once("\n\n").unwrap_or((message, ""));
    let has = |field: &str| head.to_ascii_lowercase().contains(field);
    let chunked = has("\ntransfer-encoding: chunked");
    let mut bodies: Vec<Vec<u8>> = match () {
        () if body.is_empty() => Vec::new(),
        () if chunked && has("\ncontent-type: text/event-stream") => body
            .trim_end()
            .split("\n\n")
            .map(|event| format!("{event}\n\n").into_bytes())
            .collect(),
        () if has("\ncontent-type: application/vnd.amazon.eventstream") => {
            body.lines().map(frames::eventstream::message).collect()
        }
        () if has("\ncontent-type: multipart/form-data") => {
            vec![body.replace('\n', "\r\n").into_bytes()]
        }
        () if chunked => body
            .split_inclusive('\n')
            .map(|line| line.as_bytes().to_vec())
            .collect(),
        () => vec![body.as_bytes().to_vec()],
    };
    if has("\ncontent-encoding: gzip") {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        for body in &mut bodies {
            encoder.write_all(body).unwrap();
            encoder.flush().unwrap();
            *body = std::mem::take(encoder.get_mut());
        }
        if finished {
            bodies.last_mut().unwrap().extend(encoder.finish().unwrap());
        }
    }
    let mut first = head.replace('\n', "\r\n").into_bytes();
    let framed = has("\ncontent-length:") || has("\nconnection: close") || has("\nupgrade:");
    if !chunked && !framed {
        let length: usize = bodies.iter().map(|body| wire_length(body)).sum();
        first.extend(format!("\r\ncontent-length: {length}").bytes());
    }
    first.extend(b"\r\n\r\n");
    let mut pieces = vec![first];
    for body in bodies {
        pieces.push(if chunked {
            [
                format!("{:x}\r\n", wire_length(&body)).as_bytes(),
                &body,
                b"\r\n",
            ]
            .concat()
        } else {
            body
        });
    }
    if chunked && finished {
        pieces.push(b"0\r\n\r\n".to_vec());
    }
    pieces
}

/// Runs a script on a connection; `split` says in which lengths a piece is handed over.
fn play(
    script: &Script,
    options: Options,
    split: &mut dyn FnMut(usize) -> Vec<usize>,
) -> Vec<LlmCall> {
    let mut connection = Connection::new(options);
    let mut open: Vec<CallId> = Vec::new();
    let mut requested: Vec<CallId> = Vec::new();
    let mut calls = Vec::new();
    let mut report = |event: CallEvent| match event {
        CallEvent::Started { call, origin, .. } => {
            assert_eq!(origin, Origin(7));
            open.push(call);
        }
        CallEvent::Ended { call, record } => {
            assert!(open.contains(&call), "{call:?} ended without a start");
            open.retain(|open| *open != call);
            calls.push(*record);
        }
        CallEvent::Dismissed { call } => {
            assert!(
                open.contains(&call),
                "{call:?} was dismissed without a start"
            );
            open.retain(|open| *open != call);
        }
        CallEvent::Requested { call, request } => {
            assert!(open.contains(&call), "{call:?} was read without a start");
            assert!(!requested.contains(&call), "{call:?} was read twice");
            assert!(!format!("{request:?}").contains(SECRET) || options.capture_content);
            requested.push(call);
        }
        CallEvent::Unread { .. } => {}
        CallEvent::InboundStarted { .. } | CallEvent::InboundEnded { .. } => {
            panic!("a client is asked nothing")
        }
    };
    let mut offsets = [0_u64; 2];
    let mut end = Timestamp(0);
    let mut closed = false;
    for step in &script.steps {
        match step {
            Step::Bytes {
                direction,
                bytes,
                at,
                websocket,
            } => {
                let offset = &mut offsets[usize::from(*direction == Direction::Sent)];
                let mut rest = bytes.as_slice();
                let lengths = if script.seeks && *websocket {
                    whole(bytes.len())
                } else {
                    split(bytes.len())
                };
                for length in lengths {
                    let (piece, tail) = rest.split_at(length);
                    rest = tail;
                    let chunk = Chunk {
                        direction: *direction,
                        offset: *offset,
                        at: *at,
                        origin: Origin(7),
                        bytes: piece,
                    };
                    connection.data(chunk, &mut report);
                    *offset += length as u64;
                }
                assert!(rest.is_empty());
                end = *at;
            }
            Step::Lost { direction, bytes } => {
                offsets[usize::from(*direction == Direction::Sent)] += bytes;
            }
            Step::Close { close, at } => {
                connection.close(*close, Some((offsets[1], offsets[0])), *at, &mut report);
                closed = true;
            }
        }
    }
    if !closed {
        connection.close(
            Close::Local,
            Some((offsets[1], offsets[0])),
            end,
            &mut report,
        );
    }
    assert!(open.is_empty(), "{open:?} did not end");
    calls
}

fn whole(bytes: usize) -> Vec<usize> {
    vec![bytes]
}

fn timestamp(at: Duration) -> Timestamp {
    Timestamp(1_000_000_000 + u64::try_from(at.as_nanos()).unwrap())
}

/// The call with the members that say something.
fn record(call: &LlmCall) -> Value {
    let record = json!({
        "provider": call.provider,
        "operation": call.operation,
        "model": call.model,
        "response_model": call.response_model,
        "response_id": call.response_id,
        "service_tier": call.service_tier,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "cached_tokens": call.cached_tokens,
        "cache_write_tokens": call.cache_write_tokens,
        "reasoning_tokens": call.reasoning_tokens,
        "audio_input_tokens": call.audio_input_tokens,
        "audio_output_tokens": call.audio_output_tokens,
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "usage": call.usage,
        "cost_usd": call.cost_usd,
        "temperature": call.temperature,
        "parameters": (!call.parameters.is_empty()).then_some(&call.parameters),
        "stream": call.stream,
        "start_ms": call.start.since(timestamp(Duration::ZERO)).as_millis(),
        "latency_ms": call.latency.as_millis(),
        "time_to_first_token_ms": call.time_to_first_token.map(|time| time.as_millis()),
        "status_code": call.status_code,
        "error_type": call.error_type,
        "error_message": call.error_message,
        "finish_reasons": call.finish_reasons,
        "tool_calls": call.tool_calls,
        "request_id": call.request_id,
        "rate_limit": (!call.rate_limit.is_empty()).then_some(&call.rate_limit),
        "input_preview": call.input_preview,
        "output_preview": call.output_preview,
        "attempts": call.attempts,
        "server_address": call.server_address,
        "server_port": call.server_port,
        "url_path": call.url_path,
        "incomplete": call.incomplete.map(|incomplete| incomplete.as_str()),
        "evidence": evidence(call),
    });
    let Value::Object(record) = record else {
        unreachable!()
    };
    Value::Object(
        record
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect::<Map<_, _>>(),
    )
}

/// What the call tells about its run: of hashes, which are there.
fn evidence(call: &LlmCall) -> Option<Value> {
    let evidence = &call.evidence;
    let messages = &evidence.messages;
    let mut told = Map::new();
    let mut tell = |name: &str, value: Value| {
        if !value.is_null() {
            told.insert(name.to_owned(), value);
        }
    };
    tell(
        "trace_context",
        json!(evidence.trace_context.map(|context| format!("{context:?}"))),
    );
    tell("session", json!(evidence.session));
    tell("conversation", json!(evidence.conversation));
    tell("previous_response", json!(evidence.previous_response));
    if messages.count > 0 || messages.head != 0 {
        let said = format!(
            "{}{}{}",
            messages.count,
            if messages.answered { ", answered" } else { "" },
            if messages.head == 0 { "" } else { ", head" },
        );
        tell("messages", json!(said));
        assert_eq!(messages.beginnings.len(), messages.count.min(32));
    }
    let results: Vec<String> = evidence
        .tool_results
        .iter()
        .map(|result| {
            let failed = if result.failed { ", failed" } else { "" };
            format!("{}: {} bytes{failed}", result.id, result.bytes)
        })
        .collect();
    tell(
        "tool_results",
        json!((!results.is_empty()).then_some(results)),
    );
    let calls: Vec<String> = evidence
        .tool_calls
        .iter()
        .map(|tool| {
            let id = tool.id.as_deref().unwrap_or("-");
            format!("{id}: {}, {} bytes", tool.name, tool.bytes)
        })
        .collect();
    tell("tool_calls", json!((!calls.is_empty()).then_some(calls)));
    tell("credential", json!(evidence.credential.map(|_| "hashed")));
    (!told.is_empty()).then_some(Value::Object(told))
}

/// All cases, in order.
fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|folder| {
            fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        })
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "http")
        })
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}
