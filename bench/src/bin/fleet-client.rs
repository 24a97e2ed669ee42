//! Makes LLM calls at a rate: threads with one connection each, real TLS by a real libssl, over loopback. For
//! `bench/src/fleet.rs`: says which calls it made, and when each of them was over.

use std::{
    ffi::{c_int, c_long, c_void},
    fs::File,
    io::{BufWriter, Write as _, stdin, stdout},
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use libloading::Library;
use serde_json::json;

/// Plaintext of one read: a TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;

/// `SSL_CTRL_SET_TLSEXT_HOSTNAME` and `TLSEXT_NAMETYPE_host_name` (openssl/ssl.h, tls1.h).
const CTRL_HOSTNAME: c_int = 55;
const HOST_NAME: c_long = 0;

/// Who is called.
const HOST: &std::ffi::CStr = c"api.openai.com";

/// What is asked for, in turn.
const MODELS: [&str; 3] = ["gpt-4o-mini", "gpt-4o", "gpt-4.1"];

/// Calls that are of one run: those of processes with an even number say so (`traceparent`).
const CALLS_PER_RUN: u64 = 4;

/// Of so many calls one is streamed.
const STREAMED: u64 = 4;

/// Where the request's own number goes.
const NUMBER: &str = "##########";

/// Makes LLM calls at a rate
#[derive(Parser)]
struct Cli {
    /// Port of the provider on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Connections, with a thread each
    #[arg(long)]
    connections: u32,
    /// Calls a second, of all connections; without it, as many as possible
    #[arg(long)]
    rate: Option<f64>,
    /// How long calls are made
    #[arg(long)]
    seconds: f64,
    /// Number of this process, which its calls' names begin with
    #[arg(long, value_parser = clap::value_parser!(u64).range(..100))]
    number: u64,
    /// Gets a line for each call: the provider's id of the request, and nanoseconds since the epoch when it was over
    #[arg(long)]
    truth: PathBuf,
}

/// A pointer to one of OpenSSL's objects.
type Object = *mut c_void;

/// Functions of libssl (openssl/ssl.h).
struct OpenSsl {
    ctrl: unsafe extern "C" fn(Object, c_int, c_long, *mut c_void) -> c_long,
    connect: unsafe extern "C" fn(Object) -> c_int,
    read: unsafe extern "C" fn(Object, *mut u8, usize, *mut usize) -> c_int,
    write: unsafe extern "C" fn(Object, *const u8, usize, *mut usize) -> c_int,
    set_fd: unsafe extern "C" fn(Object, c_int) -> c_int,
    new: unsafe extern "C" fn(Object) -> Object,
    free: unsafe extern "C" fn(Object),
    /// An `SSL_CTX`.
    context: Object,
    /// The functions are valid as long as it is loaded.
    _library: Library,
}

// SAFETY: OpenSSL's contexts may be used by several threads at once; the functions are code.
unsafe impl Send for OpenSsl {}
// SAFETY: as above.
unsafe impl Sync for OpenSsl {}

impl OpenSsl {
    fn load() -> anyhow::Result<Self> {
        // SAFETY: libssl's initialisers do nothing unusual; the signatures are those of the header.
        unsafe {
            let library = Library::new("libssl.so.3").context("cannot load libssl.so.3")?;
            let method =
                *library.get::<unsafe extern "C" fn() -> Object>(b"TLS_client_method\0")?;
            let make = *library.get::<unsafe extern "C" fn(Object) -> Object>(b"SSL_CTX_new\0")?;
            let context = make(method());
            ensure!(!context.is_null(), "no context");
            Ok(Self {
                ctrl: *library.get(b"SSL_ctrl\0")?,
                connect: *library.get(b"SSL_connect\0")?,
                read: *library.get(b"SSL_read_ex\0")?,
                write: *library.get(b"SSL_write_ex\0")?,
                set_fd: *library.get(b"SSL_set_fd\0")?,
                new: *library.get(b"SSL_new\0")?,
                free: *library.get(b"SSL_free\0")?,
                context,
                _library: library,
            })
        }
    }
}

/// A connection to the provider.
struct Connection {
    openssl: Arc<OpenSsl>,
    ssl: Object,
    _stream: TcpStream,
}

impl Connection {
    fn open(openssl: &Arc<OpenSsl>, port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // SAFETY: every object is used as the headers say; the name outlives the call, which copies it.
        unsafe {
            let connection = Self {
                openssl: Arc::clone(openssl),
                ssl: (openssl.new)(openssl.context),
                _stream: stream,
            };
            ensure!(!connection.ssl.is_null(), "no SSL");
            let name = HOST.as_ptr().cast_mut().cast();
            (openssl.ctrl)(connection.ssl, CTRL_HOSTNAME, HOST_NAME, name);
            (openssl.set_fd)(connection.ssl, connection._stream.as_raw_fd());
            ensure!((openssl.connect)(connection.ssl) == 1, "no handshake");
            Ok(connection)
        }
    }

    fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut written = 0;
        // SAFETY: `bytes` and `written` are valid for the call.
        unsafe {
            (self.openssl.write)(self.ssl, bytes.as_ptr(), bytes.len(), &mut written);
        }
        ensure!(written == bytes.len(), "wrote {written} of {}", bytes.len());
        Ok(())
    }

    fn read<'a>(&self, room: &'a mut [u8]) -> anyhow::Result<&'a [u8]> {
        let mut length = 0;
        // SAFETY: `room` and `length` are valid for the call.
        unsafe {
            (self.openssl.read)(self.ssl, room.as_mut_ptr(), room.len(), &mut length);
        }
        ensure!(length > 0, "the provider has closed");
        room.get(..length).context("more than there is room for")
    }

    /// A call. Returns the provider's id of the request.
    fn call(&self, request: &[u8], room: &mut [u8]) -> anyhow::Result<String> {
        self.write(request)?;
        let mut answer = Answer::default();
        while !answer.take(self.read(room)?)? {}
        answer.id.context("an answer without an id")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe {
            (self.openssl.free)(self.ssl);
        }
    }
}

/// What has come of an answer.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    id: Option<String>,
    /// Bytes of the body that are still to come; `None` if it is chunked.
    left: Option<usize>,
}

impl Answer {
    /// Takes what was read at once. Returns whether that was all.
    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        if self.id.is_none() {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(false);
            };
            let head = std::str::from_utf8(&self.head[..end])?;
            ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let field = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::trim)
            };
            let length = field("content-length:").map(str::parse).transpose()?;
            self.id = field("x-request-id:").map(str::to_owned);
            ensure!(self.id.is_some(), "{head}");
            self.left = length;
            let body = self.head.split_off(end + 4);
            return self.body(&body);
        }
        self.body(bytes)
    }

    fn body(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        match &mut self.left {
            Some(left) => {
                *left = left.checked_sub(bytes.len()).context("too much")?;
                Ok(*left == 0)
            }
            // The provider writes the last chunk with the one before it.
            None => Ok(bytes.ends_with(b"\r\n0\r\n\r\n")),
        }
    }
}

/// What an SDK sends: a head as openai's for Python, and a body of about 1 KiB.
fn request(model: &str, streamed: bool, traced: bool) -> Vec<u8> {
    let system = "You answer questions of customers about their orders. Be brief and polite. \
                  If you do not know something, say so, and never make up an order. ";
    let question = "My order has not come yet, and the page says that it was delivered on Monday. \
                    Nobody of my neighbours has it. What do I do? ";
    let mut body = json!({
        "model": model,
        "messages": [
            {"role": "system", "content": system.repeat(3)},
            {"role": "user", "content": format!("Order {NUMBER}. {}", question.repeat(3))},
        ],
        "temperature": 0.2,
        "max_tokens": 300,
    });
    if streamed {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    let body = body.to_string();
    let trace = match traced {
        true => format!("traceparent: 00-{:032x}-{:016x}-01\r\n", 0, 0),
        false => String::new(),
    };
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\
         Accept-Encoding: identity\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n\
         User-Agent: OpenAI/Python 1.99.9\r\nX-Stainless-Lang: python\r\n\
         X-Stainless-Package-Version: 1.99.9\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n\
         X-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.12.3\r\n\
         Authorization: Bearer sk-not-a-key\r\nX-Stainless-Async: false\r\n\
         x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n\
         {trace}Content-Length: {}\r\n\r\n{body}",
        HOST.to_string_lossy(),
        body.len()
    )
    .into_bytes()
}

/// Numbers in no order (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A request with places for what differs.
struct Template {
    bytes: Vec<u8>,
    trace: Option<usize>,
    number: usize,
}

impl Template {
    fn new(model: &str, streamed: bool, traced: bool) -> anyhow::Result<Self> {
        let bytes = request(model, streamed, traced);
        let place = |text: &str| {
            let mut windows = bytes.windows(text.len());
            windows.position(|window| window == text.as_bytes())
        };
        let field = "traceparent: 00-";
        Ok(Self {
            trace: place(field).map(|place| place + field.len()),
            number: place(NUMBER).context("a request without its number")?,
            bytes,
        })
    }

    /// Makes it the request of this number.
    fn fill(&mut self, number: u64) -> &[u8] {
        if let Some(place) = self.trace {
            // Neither id may be zero (W3C Trace Context), nor looks like the next one: what is sent is compressed.
            let run = number / CALLS_PER_RUN + 1;
            let [high, low, parent] = [1, 2, 3].map(|salt| mixed(run << 2 | salt));
            let ids = format!("{high:016x}{low:016x}-{parent:016x}");
            self.bytes[place..place + ids.len()].copy_from_slice(ids.as_bytes());
        }
        let text = format!("{number:010}");
        self.bytes[self.number..self.number + text.len()].copy_from_slice(text.as_bytes());
        &self.bytes
    }
}

/// What a thread did.
#[derive(Default)]
struct Done {
    /// The provider's id, when it was over, and how long it took.
    calls: Vec<(String, u128, Duration)>,
    error: Option<String>,
}

/// Makes the calls of one connection.
fn work(
    cli: &Cli,
    openssl: &Arc<OpenSsl>,
    place: u32,
    begin: Instant,
    done: &mut Done,
) -> anyhow::Result<()> {
    let connection = Connection::open(openssl, cli.port)?;
    let mut templates = Vec::new();
    for model in MODELS {
        let of_kind = |streamed| Template::new(model, streamed, cli.number.is_multiple_of(2));
        templates.push([of_kind(false)?, of_kind(true)?]);
    }
    let mut room = vec![0; RECORD];
    let mut due = begin;
    let every = cli
        .rate
        .map(|rate| Duration::from_secs_f64(f64::from(cli.connections) / rate));
    if let Some(every) = every {
        due += every.mul_f64(f64::from(place) / f64::from(cli.connections));
    }
    let end = begin + Duration::from_secs_f64(cli.seconds);
    // Numbers of connections do not meet.
    let first = (cli.number * 1_000 + u64::from(place)) * 100_000;
    let models = templates.len() as u64;
    for call in 0.. {
        let now = Instant::now();
        if now.max(due) >= end {
            break;
        }
        thread::sleep(due.saturating_duration_since(now));
        due += every.unwrap_or_default();
        // All calls of a run are of one model.
        let model = usize::try_from(call / CALLS_PER_RUN % models)?;
        let streamed = usize::from((call + u64::from(place)).is_multiple_of(STREAMED));
        let request = templates[model][streamed].fill(first + call);
        let begun = Instant::now();
        let id = connection.call(request, &mut room)?;
        let took = begun.elapsed();
        let over = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        done.calls.push((id, over, took));
    }
    Ok(())
}

/// The value below which this share of all are.
fn percentile(sorted: &[Duration], share: f64) -> Option<f64> {
    let at = (sorted.len() as f64 * share) as usize;
    let value = sorted.get(at.min(sorted.len().checked_sub(1)?))?;
    Some(value.as_secs_f64() * 1e3)
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let openssl = Arc::new(OpenSsl::load()?);
    println!("round");
    stdout().flush()?;
    stdin().read_line(&mut String::new())?;
    let begin = Instant::now() + Duration::from_millis(200);
    let all: Vec<Done> = thread::scope(|scope| {
        let (cli, openssl) = (&cli, &openssl);
        let threads: Vec<_> = (0..cli.connections)
            .map(|place| {
                scope.spawn(move || {
                    let mut done = Done::default();
                    if let Err(error) = work(cli, openssl, place, begin, &mut done) {
                        done.error = Some(format!("{error:#}"));
                    }
                    done
                })
            })
            .collect();
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.filter_map(Result::ok).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut truth = BufWriter::new(File::create(&cli.truth)?);
    let mut times = Vec::new();
    for (id, over, took) in all.iter().flat_map(|done| &done.calls) {
        writeln!(truth, "{id} {over}")?;
        times.push(*took);
    }
    truth.flush()?;
    times.sort_unstable();
    println!(
        "{}",
        json!({
            "calls": times.len(),
            "seconds": seconds,
            "median_ms": percentile(&times, 0.5),
            "p99_ms": percentile(&times, 0.99),
            "error": all.iter().find_map(|done| done.error.as_ref()),
            "threads": all.len(),
        })
    );
    stdout().flush()?;
    // Its CPU time is still to be read.
    stdin().read_line(&mut String::new())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn requests_differ_in_their_number_and_by_runs() {
        let mut template = Template::new("gpt-4o", true, true).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let trace = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("traceparent"));
            line.unwrap().to_owned()
        };
        let [first, second, fifth] = [8, 9, 12].map(|number| text(template.fill(number)));
        assert!(first.contains("Order 0000000008. ") && second.contains("Order 0000000009. "));
        assert_eq!(trace(&first), trace(&second));
        assert_ne!(trace(&first), trace(&fifth));
        assert_eq!(trace(&first).len(), "traceparent: ".len() + 55);
        assert_eq!(first.len(), fifth.len());
        let (head, body) = first.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["stream"], true);
        let mut bare = Template::new("gpt-4o", false, false).unwrap();
        assert!(!text(bare.fill(8)).contains("traceparent"));
    }

    #[test]
    fn an_answer_ends_with_its_length_or_its_last_chunk() {
        let mut plain = Answer::default();
        assert!(
            !plain
                .take(b"HTTP/1.1 200 OK\r\nx-request-id: r1\r\n")
                .unwrap()
        );
        assert!(!plain.take(b"content-length: 4\r\n\r\nab").unwrap());
        assert!(plain.take(b"cd").unwrap());
        assert_eq!(plain.id.as_deref(), Some("r1"));
        let mut chunked = Answer::default();
        let head = b"HTTP/1.1 200 OK\r\nx-request-id: r2\r\n\r\n";
        assert!(!chunked.take(head).unwrap());
        assert!(!chunked.take(b"5\r\nabcde\r\n").unwrap());
        assert!(chunked.take(b"1\r\na\r\n0\r\n\r\n").unwrap());
        assert!(Answer::default().take(b"HTTP/1.1 500 No\r\n\r\n").is_err());
        let mut longer = Answer::default();
        assert!(
            longer
                .take(b"HTTP/1.1 200 OK\r\nx-request-id: r\r\ncontent-length: 1\r\n\r\nab")
                .is_err()
        );
    }

    #[test]
    fn percentiles_are_of_what_there_is() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Some(51.0));
        assert_eq!(percentile(&times, 0.99), Some(100.0));
        assert_eq!(percentile(&times[..1], 0.99), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
