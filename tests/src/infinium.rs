//! A local server that takes traces as Infinium's does, and answers as it is told.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    lock,
    provider::{Provider, http},
};

/// A running server; it stops when it is dropped.
pub struct Infinium {
    place: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<Arc<rustls::ServerConfig>>,
    received: Mutex<Vec<Received>>,
    answers: Mutex<VecDeque<Answer>>,
    stop: AtomicBool,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and path.
    pub line: String,
    /// Header fields, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The body as JSON.
    pub json: Value,
    /// When it had been read.
    pub at: Instant,
}

/// What a request is answered with, if not that all is well.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The connection is closed.
    Close,
    /// Nothing for so long.
    Hang(Duration),
    /// A status, and a header field.
    Status(u16, Option<(&'static str, String)>),
}

impl Received {
    /// A header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.headers.iter();
        let (_, value) = fields.find(|(known, _)| known == name)?;
        Some(value)
    }
}

impl Infinium {
    /// Starts a server on a free port of 127.0.0.1, with the certificate of a provider or without TLS.
    ///
    /// # Errors
    ///
    /// The port cannot be had.
    pub fn start(provider: Option<&Provider>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let place = listener.local_addr()?;
        let shared = Arc::new(Shared {
            tls: provider.map(Provider::tls),
            received: Mutex::default(),
            answers: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.stop.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&accepting);
                // A client that goes away is no failure of the server.
                thread::spawn(move || serve(stream, &shared).ok());
            }
        });
        Ok(Self {
            place,
            scheme: if provider.is_some() { "https" } else { "http" },
            shared,
        })
    }

    /// The base URL, to which `path` is added.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.place.port())
    }

    /// The next requests are answered so.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.answers).extend(answers);
    }

    /// The requests so far.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }
}

impl Drop for Infinium {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.place);
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    match &shared.tls {
        None => exchange(stream, shared),
        Some(tls) => {
            let connection = rustls::ServerConnection::new(Arc::clone(tls))?;
            exchange(rustls::StreamOwned::new(connection, stream), shared)
        }
    }
}

fn exchange<S: Read + Write>(mut stream: S, shared: &Shared) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = http::read(&mut stream, &mut buffer)? {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let headers = request.headers.iter();
        lock(&shared.received).push(Received {
            line: format!("{} {}", request.method, request.path),
            headers: headers
                .map(|(name, value)| (name.to_lowercase(), value.clone()))
                .collect(),
            json: serde_json::from_str(&body).unwrap_or_default(),
            body,
            at: Instant::now(),
        });
        let answer = lock(&shared.answers).pop_front();
        let (status, field) = match answer {
            None => (200, None),
            Some(Answer::Close) => return Ok(()),
            Some(Answer::Hang(time)) => {
                thread::sleep(time);
                return Ok(());
            }
            Some(Answer::Status(status, field)) => (status, field),
        };
        let field = field.map_or_else(String::new, |(name, value)| format!("{name}: {value}\r\n"));
        let body = r#"{"message":"Trace received","traceId":"t-1"}"#;
        write!(
            stream,
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{field}content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        stream.flush()?;
    }
    Ok(())
}
