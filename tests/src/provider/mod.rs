//! A local HTTPS server that answers as LLM providers do, and knows the truth about every exchange.
//!
//! It speaks HTTP/2 with clients that offer it by ALPN, and HTTP/1.1 with all others, and over that WebSocket. It writes
//! its answers in pieces that are cut at random places, inside characters and lines too, and misbehaves on request: see
//! [`behaviour`].

mod answer;
pub mod behaviour;
mod dialogue;
pub(crate) mod http;
mod http2;
mod text;
mod tls;
mod websocket;
mod write;

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};

use self::{behaviour::Behaviour, http::Request, write::Ending};
use crate::lock;

/// A running provider; it stops when it is dropped.
pub struct Provider {
    port: u16,
    folder: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    tls: tls::Configs,
    seed: u64,
    exchanges: AtomicU64,
    truth: Mutex<Vec<Value>>,
    /// Exchanges whose client may have all that it will get, and of which the truth is not known yet.
    ending: Mutex<HashSet<u64>>,
    truth_file: Option<PathBuf>,
    stop: AtomicBool,
}

impl Provider {
    /// Starts a provider on a free port of 127.0.0.1 and writes `ca.pem` into `folder`. Answers and
    /// cuts follow from `seed`. With `truth_file` the truth is also appended there as JSON lines.
    ///
    /// # Errors
    ///
    /// The port or the folder cannot be used.
    pub fn start(folder: &Path, seed: u64, truth_file: Option<&Path>) -> anyhow::Result<Self> {
        let tls = tls::server_configs(&folder.join("ca.pem"))?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            tls,
            seed,
            exchanges: AtomicU64::new(0),
            truth: Mutex::new(Vec::new()),
            ending: Mutex::default(),
            truth_file: truth_file.map(Path::to_owned),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.stop.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    // A client that goes away is no failure of the server.
                    let _ = serve(stream, &shared);
                });
            }
        });
        Ok(Self {
            port,
            folder: folder.to_owned(),
            shared,
        })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `https://localhost:PORT`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The certificate that clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What it shows to clients that speak HTTP/1.1.
    pub(crate) fn tls(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.shared.tls.http1)
    }

    /// The truth about the exchanges so far, in the order in which they ended. Those that have ended for their clients
    /// are in it.
    pub fn truth(&self) -> Vec<Value> {
        let ending = lock(&self.shared.ending).clone();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !lock(&self.shared.ending).is_disjoint(&ending) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        lock(&self.shared.truth).clone()
    }

    /// How many requests have come so far, answered or not.
    pub fn requests(&self) -> u64 {
        self.shared.exchanges.load(Ordering::Relaxed)
    }

    /// Waits until there are `count` exchanges, for 20 seconds at most.
    pub fn wait_for(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let truth = self.truth();
            if truth.len() >= count || Instant::now() > deadline {
                return truth;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    /// The number of the next exchange, and what its answer and its cuts follow from.
    fn next(&self) -> (u64, fastrand::Rng) {
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (number, fastrand::Rng::with_seed(seed))
    }
}

type Stream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

fn serve(stream: TcpStream, shared: &Arc<Shared>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    if tls::offers_http2(&stream)? {
        return http2::serve(stream, shared);
    }
    let connection = rustls::ServerConnection::new(Arc::clone(&shared.tls.http1))?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut buffer = Vec::new();
    while let Some(mut request) = http::read(&mut stream, &mut buffer)? {
        if websocket::is_upgrade(&request) {
            return dialogue::serve(&mut stream, buffer, &request, shared);
        }
        let (number, mut random) = shared.next();
        let behaviour = Behaviour::of(&request);
        let answer = answer::to(&request, &behaviour, number, &mut random);
        let mut truth = answer.truth.clone();
        let exchange = Exchange { shared, number };
        let mut progress = write::Progress::of(&exchange);
        let ending = write::answer(&mut stream, answer, &behaviour, &mut random, &mut progress);
        let ended = match (&ending, progress.wrote_at) {
            (Ending::Complete, Some(wrote_at)) => wrote_at,
            _ => Instant::now(),
        };
        let elapsed = ended.duration_since(request.first_byte);
        truth["server_ns"] = json!(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        if !matches!(ending, Ending::Complete) {
            answer::unfinished(&mut truth, progress.sent, behaviour.has("hang"));
        }
        if behaviour.has("early") {
            // A client that is refused may well close in the middle of its request.
            let _ = http::read_body(&mut stream, &mut buffer, &mut request);
            answer::late(&mut truth, &request);
        }
        exchange.record(&request, &mut truth, &ending);
        match ending {
            Ending::Complete if !behaviour.closes() => {}
            Ending::Complete => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                return Ok(());
            }
            Ending::Cut | Ending::ClientGone => return Ok(()),
        }
    }
    Ok(())
}

/// A request that is being answered.
struct Exchange<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Exchange<'_> {
    /// The client gets the last of what it will get.
    fn ends(&self) {
        lock(&self.shared.ending).insert(self.number);
    }

    /// Takes note of the truth.
    fn record(self, request: &Request, truth: &mut Value, ending: &Ending) {
        truth["exchange"] = json!(self.number);
        truth["method"] = json!(request.method);
        truth["path"] = json!(request.path);
        truth["test"] = json!(request.header("x-test-case"));
        truth["ended"] = json!(match ending {
            Ending::Complete => "complete",
            Ending::Cut => "cut",
            Ending::ClientGone => "client gone",
        });
        truth["prompt"] = json!(String::from_utf8_lossy(&request.body));
        remember(self.shared, truth.clone());
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        lock(&self.shared.ending).remove(&self.number);
    }
}

fn remember(shared: &Shared, truth: Value) {
    let mut known = lock(&shared.truth);
    if let Some(path) = &shared.truth_file
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // One write, under the lock: lines of several connections must not mix.
        let _ = file.write_all(format!("{truth}\n").as_bytes());
    }
    known.push(truth);
}
