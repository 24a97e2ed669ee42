//! Drives a libssl as hard as it goes: one process talks to itself over TLS, in memory, as an LLM's
//! client and its server. For benchmarks, for tests under load, and for any libssl that can be
//! loaded.
//!
//! Each request is a chat completion whose answer is streamed, one `SSL_write_ex` and one
//! `SSL_read_ex` an event. What was sent is known exactly, and told.

use std::{
    ffi::{CString, c_char, c_int, c_long, c_void},
    fs::File,
    hint::black_box,
    io::{BufWriter, Write as _, stdin, stdout},
    path::PathBuf,
    ptr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use libloading::Library;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

/// Room between the two ends of a connection, in bytes: more than a TLS record.
const ROOM: usize = 64 * 1024;

/// Most plaintext of a TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;

/// `SSL_CTRL_MODE` and `SSL_MODE_RELEASE_BUFFERS` (openssl/ssl.h).
const CTRL_MODE: c_int = 33;
const RELEASE_BUFFERS: c_long = 0x10;

/// Talks to itself over TLS as an LLM's client and server
#[derive(Parser)]
struct Cli {
    /// The library
    #[arg(long, default_value = "libssl.so.3")]
    libssl: PathBuf,
    /// Which functions carry the plaintext
    #[arg(long, value_enum, default_value = "ex")]
    api: Api,
    /// Bytes of an event as it is written, with HTTP's framing
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(256..=16384))]
    bytes: u32,
    /// Events of an answer
    #[arg(long, default_value_t = 300)]
    events: u32,
    /// Bytes of a request's body, about
    #[arg(long, default_value_t = 200)]
    request_bytes: usize,
    /// Requests in a round; without it, as many as fit into --seconds
    #[arg(long)]
    requests: Option<u64>,
    /// Length of a round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Events a second; without it, as many as possible
    #[arg(long)]
    rate: Option<f64>,
    /// Connections that are used in turn, one request each
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Run on this CPU only
    #[arg(long, value_parser = clap::value_parser!(u16).range(..CpuSet::MAX_CPU as i64))]
    cpu: Option<u16>,
    /// Rounds that are measured
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Print `round` and wait for a line before each round, and `done` after the last
    #[arg(long)]
    wait_for_stdin: bool,
    /// Leave the last bytes of every request unsent
    #[arg(long)]
    unfinished: bool,
    /// Talk to a host and a path that are no LLM's; SECRET is part of all plaintext
    #[arg(long, value_name = "SECRET")]
    uninteresting: Option<String>,
    /// Write a line of JSON for each request
    #[arg(long)]
    truth: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Api {
    /// SSL_write_ex and SSL_read_ex
    Ex,
    /// SSL_write and SSL_read
    Plain,
}

/// A pointer to one of OpenSSL's objects.
type Object = *mut c_void;

/// Declares the functions of the library that are used.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of libssl and libcrypto (openssl/ssl.h, bio.h, pem.h).
        #[allow(non_snake_case)]
        struct OpenSsl {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// The functions are valid as long as it is loaded.
            _library: Library,
        }

        impl OpenSsl {
            fn load(library: Library) -> anyhow::Result<Self> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the signature is that of the header.
                        *unsafe { library.get(name) }
                            .with_context(|| format!("no {}", stringify!($name)))?
                    },)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    BIO_new_bio_pair: fn(*mut Object, usize, *mut Object, usize) -> c_int;
    BIO_new_mem_buf: fn(*const c_void, c_int) -> Object;
    PEM_read_bio_PrivateKey: fn(Object, *mut Object, Object, Object) -> Object;
    PEM_read_bio_X509: fn(Object, *mut Object, Object, Object) -> Object;
    SSL_CTX_ctrl: fn(Object, c_int, c_long, Object) -> c_long;
    SSL_CTX_new: fn(Object) -> Object;
    SSL_CTX_set_ciphersuites: fn(Object, *const c_char) -> c_int;
    SSL_CTX_use_PrivateKey: fn(Object, Object) -> c_int;
    SSL_CTX_use_certificate: fn(Object, Object) -> c_int;
    SSL_do_handshake: fn(Object) -> c_int;
    SSL_free: fn(Object);
    SSL_new: fn(Object) -> Object;
    SSL_read: fn(Object, *mut u8, c_int) -> c_int;
    SSL_read_ex: fn(Object, *mut u8, usize, *mut usize) -> c_int;
    SSL_set_accept_state: fn(Object);
    SSL_set_bio: fn(Object, Object, Object);
    SSL_set_connect_state: fn(Object);
    SSL_write: fn(Object, *const u8, c_int) -> c_int;
    SSL_write_ex: fn(Object, *const u8, usize, *mut usize) -> c_int;
    TLS_client_method: fn() -> Object;
    TLS_server_method: fn() -> Object;
}

/// What passed through the functions that carry plaintext: calls, and bytes of plaintext.
#[derive(Default)]
struct Counts {
    writes: u64,
    reads: u64,
    written: u64,
    read: u64,
}

/// Makes connections.
struct Tls {
    openssl: OpenSsl,
    api: Api,
    client: Object,
    server: Object,
    counts: Counts,
}

/// The two ends of a connection.
struct Pair {
    client: Object,
    server: Object,
}

impl Tls {
    fn new(cli: &Cli) -> anyhow::Result<Self> {
        // SAFETY: libssl's initialisers do nothing unusual.
        let library = unsafe { Library::new(&cli.libssl) }
            .with_context(|| format!("cannot load {}", cli.libssl.display()))?;
        let openssl = OpenSsl::load(library)?;
        let made = rcgen::generate_simple_self_signed(vec!["api.openai.com".to_owned()])?;
        let certificate = made.cert.pem();
        let key = made.signing_key.serialize_pem();
        // SAFETY: every object is used as the headers say; the texts outlive the calls.
        unsafe {
            let memory = |text: &str| {
                let length = c_int::try_from(text.len()).unwrap_or(0);
                (openssl.BIO_new_mem_buf)(text.as_ptr().cast(), length)
            };
            let null = ptr::null_mut();
            let certificate =
                (openssl.PEM_read_bio_X509)(memory(&certificate), ptr::null_mut(), null, null);
            let key = (openssl.PEM_read_bio_PrivateKey)(memory(&key), ptr::null_mut(), null, null);
            let client = (openssl.SSL_CTX_new)((openssl.TLS_client_method)());
            let server = (openssl.SSL_CTX_new)((openssl.TLS_server_method)());
            ensure!(!client.is_null() && !server.is_null(), "no context");
            let suites = CString::new("TLS_AES_128_GCM_SHA256")?;
            for context in [client, server] {
                (openssl.SSL_CTX_set_ciphersuites)(context, suites.as_ptr());
                (openssl.SSL_CTX_ctrl)(context, CTRL_MODE, RELEASE_BUFFERS, null);
            }
            ensure!(
                (openssl.SSL_CTX_use_certificate)(server, certificate) == 1
                    && (openssl.SSL_CTX_use_PrivateKey)(server, key) == 1,
                "no certificate"
            );
            Ok(Self {
                openssl,
                api: cli.api,
                client,
                server,
                counts: Counts::default(),
            })
        }
    }

    fn connect(&self) -> anyhow::Result<Pair> {
        let openssl = &self.openssl;
        // SAFETY: every object is used as the headers say.
        unsafe {
            let pair = Pair {
                client: (openssl.SSL_new)(self.client),
                server: (openssl.SSL_new)(self.server),
            };
            let (mut one, mut other) = (ptr::null_mut(), ptr::null_mut());
            ensure!(
                (openssl.BIO_new_bio_pair)(&mut one, ROOM, &mut other, ROOM) == 1,
                "no pair"
            );
            (openssl.SSL_set_bio)(pair.client, one, one);
            (openssl.SSL_set_bio)(pair.server, other, other);
            (openssl.SSL_set_connect_state)(pair.client);
            (openssl.SSL_set_accept_state)(pair.server);
            for _ in 0..10 {
                let client = (openssl.SSL_do_handshake)(pair.client);
                let server = (openssl.SSL_do_handshake)(pair.server);
                if client == 1 && server == 1 {
                    return Ok(pair);
                }
            }
            anyhow::bail!("the handshake failed");
        }
    }

    /// Writes at one end.
    fn write(&mut self, ssl: Object, bytes: &[u8]) -> anyhow::Result<()> {
        let mut written = 0;
        // SAFETY: `bytes` and `written` are valid for the call.
        let written = unsafe {
            match self.api {
                Api::Ex => {
                    (self.openssl.SSL_write_ex)(ssl, bytes.as_ptr(), bytes.len(), &mut written);
                    written
                }
                Api::Plain => {
                    let length = c_int::try_from(bytes.len())?;
                    let written = (self.openssl.SSL_write)(ssl, bytes.as_ptr(), length);
                    usize::try_from(written).unwrap_or(0)
                }
            }
        };
        ensure!(written == bytes.len(), "wrote {written} of {}", bytes.len());
        self.counts.writes += 1;
        self.counts.written += written as u64;
        Ok(())
    }

    /// Reads what the other end has written.
    fn read(&mut self, ssl: Object, room: &mut [u8]) -> anyhow::Result<usize> {
        let mut read = 0;
        // SAFETY: `room` and `read` are valid for the call.
        let read = unsafe {
            match self.api {
                Api::Ex => {
                    (self.openssl.SSL_read_ex)(ssl, room.as_mut_ptr(), room.len(), &mut read);
                    read
                }
                Api::Plain => {
                    let length = c_int::try_from(room.len())?;
                    let read = (self.openssl.SSL_read)(ssl, room.as_mut_ptr(), length);
                    usize::try_from(read).unwrap_or(0)
                }
            }
        };
        ensure!(read > 0, "nothing to read");
        self.counts.reads += 1;
        self.counts.read += read as u64;
        Ok(read)
    }

    /// Writes at one end and reads at the other, a record at a time.
    fn pass(&mut self, from: Object, to: Object, bytes: &[u8]) -> anyhow::Result<()> {
        let mut room = [0; RECORD];
        for piece in bytes.chunks(RECORD) {
            self.write(from, piece)?;
            let mut left = piece.len();
            while left > 0 {
                left -= self.read(to, &mut room)?;
            }
        }
        Ok(())
    }
}

/// A request and its answer, as they go over the connection.
struct Exchange {
    request: Vec<u8>,
    head: Vec<u8>,
    event: Vec<u8>,
    last: Vec<u8>,
    truth: serde_json::Value,
}

impl Exchange {
    fn new(cli: &Cli, number: u64) -> Self {
        let secret = cli.uninteresting.as_deref();
        let (host, path) = match secret {
            None => ("api.openai.com", "/v1/chat/completions"),
            Some(_) => ("example.com", "/upload"),
        };
        let model = format!("gpt-4o-{number}");
        let (prompt_tokens, completion_tokens) = (number % 1_000_000 + 1, number % 977 + 3);
        let request_id = format!("req_{number}");
        let text = secret.map_or_else(|| "a ".repeat(32), |secret| format!("{secret} "));
        let text = text.repeat(cli.request_bytes.div_ceil(text.len()));
        let body = if secret.is_none() {
            json!({"model": model, "stream": true, "messages": [{"role": "user", "content": text}]})
                .to_string()
        } else {
            text
        };
        let kind = if secret.is_none() {
            "application/json"
        } else {
            "text/plain"
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nx-request-id: {request_id}\r\n\r\n"
        );
        let chunk = |choices: serde_json::Value, usage: serde_json::Value| {
            let data = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
                "model": model, "choices": choices, "usage": usage});
            format!("data: {data}\n\n")
        };
        let delta = |content: &str| {
            chunk(
                json!([{"index": 0, "delta": {"content": content}, "finish_reason": null}]),
                json!(null),
            )
        };
        let framed = |data: &str| format!("{:x}\r\n{data}\r\n", data.len());
        let content = secret.unwrap_or("token");
        let short = framed(&delta(content)).len();
        let padded = |bytes: usize| framed(&delta(&format!("{content}{}", "x".repeat(bytes))));
        let wanted = cli.bytes as usize;
        let missing = wanted.saturating_sub(short);
        // The length of the chunk may have taken more digits.
        let excess = padded(missing).len().saturating_sub(wanted);
        let event = padded(missing.saturating_sub(excess));
        let end = chunk(
            json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
            json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens}),
        );
        let last = format!("{}0\r\n\r\n", framed(&format!("{end}data: [DONE]\n\n")));
        Self {
            request: request.into_bytes(),
            head: head.into_bytes(),
            event: event.into_bytes(),
            last: last.into_bytes(),
            truth: json!({"model": model, "request_id": request_id,
                "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}),
        }
    }
}

/// Keeps to a rate.
struct Pace {
    every: Option<Duration>,
    due: Instant,
}

impl Pace {
    /// Events that may come at once: the clock is not looked at for each.
    const BATCH: u32 = 64;

    fn new(rate: Option<f64>) -> Self {
        Self {
            every: rate.map(|rate| Duration::from_secs_f64(f64::from(Self::BATCH) / rate)),
            due: Instant::now(),
        }
    }

    fn event(&mut self, number: u32) {
        if let Some(every) = self.every
            && number.is_multiple_of(Self::BATCH)
        {
            self.due += every;
            while Instant::now() < self.due {
                std::hint::spin_loop();
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(cpu) = cli.cpu {
        let mut cpus = CpuSet::new();
        cpus.set(cpu.into());
        sched_setaffinity(None, &cpus).with_context(|| format!("cannot run on CPU {cpu}"))?;
    }
    let mut tls = Tls::new(&cli)?;
    let mut truth = match &cli.truth {
        Some(path) => Some(BufWriter::new(File::create(path)?)),
        None => None,
    };
    let pairs: Vec<Pair> = (0..cli.connections)
        .map(|_| tls.connect())
        .collect::<anyhow::Result<_>>()?;
    let mut rounds = Vec::new();
    let mut number: u64 = 0;
    // Of an event: a write and the read that gets it.
    let mut measured: u64 = 0;
    let mut room = vec![0; RECORD];
    for _ in 0..cli.rounds {
        ask(&cli, "round")?;
        let mut slices: Vec<f64> = Vec::new();
        let begun = Instant::now();
        let mut pace = Pace::new(cli.rate);
        let mut requests = 0;
        let more = |requests: u64| match cli.requests {
            Some(wanted) => requests < wanted,
            None => begun.elapsed().as_secs_f64() < cli.seconds,
        };
        while more(requests) {
            let pair = &pairs[usize::try_from(requests)? % pairs.len()];
            requests += 1;
            number += 1;
            let exchange = Exchange::new(&cli, number);
            if cli.unfinished {
                let (sent, _) = exchange.request.split_at(exchange.request.len() - 8);
                tls.pass(pair.client, pair.server, sent)?;
                continue;
            }
            tls.pass(pair.client, pair.server, &exchange.request)?;
            tls.pass(pair.server, pair.client, &exchange.head)?;
            let started = Instant::now();
            for event in 0..cli.events {
                tls.write(pair.server, &exchange.event)?;
                black_box(tls.read(pair.client, &mut room)?);
                pace.event(event);
            }
            measured += u64::from(cli.events);
            slices.push(started.elapsed().as_nanos() as f64 / f64::from(cli.events.max(1)));
            tls.pass(pair.server, pair.client, &exchange.last)?;
            if let Some(truth) = &mut truth {
                writeln!(truth, "{}", exchange.truth)?;
            }
        }
        slices.sort_by(f64::total_cmp);
        rounds.push(json!({
            "requests": requests,
            "seconds": begun.elapsed().as_secs_f64(),
            "slices": slices.len(),
            "ns_per_pair_min": slices.first(),
            "ns_per_pair_median": slices.get(slices.len() / 2),
        }));
    }
    if let Some(truth) = &mut truth {
        truth.flush()?;
    }
    ask(&cli, "done")?;
    for pair in pairs {
        // SAFETY: nobody uses them any more.
        unsafe {
            (tls.openssl.SSL_free)(pair.client);
            (tls.openssl.SSL_free)(pair.server);
        }
    }
    let Counts {
        writes,
        reads,
        written,
        read,
    } = tls.counts;
    println!(
        "{}",
        json!({"requests": number, "pairs": measured, "writes": writes, "reads": reads,
            "bytes_written": written, "bytes_read": read, "bytes": written + read, "rounds": rounds})
    );
    Ok(())
}

fn ask(cli: &Cli, what: &str) -> anyhow::Result<()> {
    if cli.wait_for_stdin {
        println!("{what}");
        stdout().flush()?;
        stdin().read_line(&mut String::new())?;
    }
    Ok(())
}
