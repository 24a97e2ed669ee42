//! A small HTTP server on a thread of its own, for those who look at the agent.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    serve::Listener,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime,
    sync::oneshot,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tracing::warn;

use crate::attach::system::drop_all_capabilities;

/// Connections that there are at once. When another one comes, the one that has got no answer for longest is closed.
const CONNECTIONS: usize = 64;

/// So long may a request, and the taking of its answer, last, and the time before it.
const IDLE: Duration = Duration::from_secs(30);

/// How long to wait when no connection can be accepted, for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// A server at work; it stops when this is dropped.
pub(super) struct Server {
    #[cfg(test)]
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds `address` and serves `router` there.
    ///
    /// # Errors
    ///
    /// The address is taken or not this machine's, or no thread can be started.
    pub(super) fn start(address: SocketAddr, router: Router) -> anyhow::Result<Self> {
        Self::start_with(address, router, IDLE)
    }

    fn start_with(address: SocketAddr, router: Router, idle: Duration) -> anyhow::Result<Self> {
        let listener = StdListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on {address}"))?;
        let router = if address.ip().to_canonical().is_loopback() {
            router.layer(middleware::from_fn(only_for_this_machine))
        } else {
            router
        };
        #[cfg(test)]
        let bound = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a server")?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                drop_all_capabilities();
                if let Err(error) = runtime.block_on(serve(listener, router, idle, stopped)) {
                    warn!(%address, %error, "the HTTP server failed");
                }
            })
            .context("cannot start a server")?;
        Ok(Self {
            #[cfg(test)]
            address: bound,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

#[cfg(test)]
impl Server {
    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said so itself if it failed.
            let _ = thread.join();
        }
    }
}

/// Refuses requests to other names: a page in a browser may have a name of its own resolved to this machine, and read
/// what is served here.
async fn only_for_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    if host.is_none_or(|host| host.to_str().is_ok_and(is_this_machine)) {
        return next.run(request).await;
    }
    let why = "only by an address or as localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Whether it is an address, or a name that no name server is asked for.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

async fn serve(
    listener: StdListener,
    router: Router,
    idle: Duration,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = Bounded {
        listener: TcpListener::from_std(listener)?,
        open: Arc::default(),
        next: 0,
        idle,
    };
    tokio::select! {
        result = axum::serve(listener, router) => result,
        _ = stopped => Ok(()),
    }
}

/// Keeps no more than [`CONNECTIONS`] open.
struct Bounded {
    listener: TcpListener,
    open: Arc<Open>,
    next: u64,
    idle: Duration,
}

/// The connections, by number.
#[derive(Default)]
struct Open(Mutex<BTreeMap<u64, Waiting>>);

struct Waiting {
    since: Instant,
    /// Closes the connection when it is dropped.
    _close: oneshot::Sender<()>,
}

impl Open {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Bounded {
    type Io = Patient;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient, SocketAddr) {
        let (stream, peer) = loop {
            match self.listener.accept().await {
                Ok(accepted) => break accepted,
                Err(_) => sleep(PAUSE).await,
            }
        };
        let number = self.next;
        self.next += 1;
        let (close, closed) = oneshot::channel();
        let since = Instant::now();
        let mut waiting = self.open.waiting();
        if waiting.len() >= CONNECTIONS {
            let longest = waiting.iter().min_by_key(|(_, waiting)| waiting.since);
            if let Some(number) = longest.map(|(number, _)| *number) {
                waiting.remove(&number);
            }
        }
        let _close = close;
        waiting.insert(number, Waiting { since, _close });
        drop(waiting);
        let io = Patient {
            stream,
            idle: self.idle,
            end: Box::pin(sleep_until(since + self.idle)),
            has_written: false,
            closed,
            number,
            open: Arc::clone(&self.open),
        };
        (io, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that is waited for no longer than [`IDLE`] after it has come, or its last answer has gone.
struct Patient {
    stream: TcpStream,
    idle: Duration,
    end: Pin<Box<Sleep>>,
    /// Part of an answer, since the last one went.
    has_written: bool,
    closed: oneshot::Receiver<()>,
    number: u64,
    open: Arc<Open>,
}

impl Patient {
    fn patiently<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if Pin::new(&mut self.closed).poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        step(Pin::new(&mut self.stream), context)
    }

    /// All that was to be written is.
    fn answered(&mut self, context: &mut Context<'_>) {
        let now = Instant::now();
        self.end.set(sleep_until(now + self.idle));
        // Nothing may be read or written before it is over.
        let _ = self.end.as_mut().poll(context);
        if let Some(waiting) = self.open.waiting().get_mut(&self.number) {
            waiting.since = now;
        }
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.open.waiting().remove(&self.number);
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.patiently(context, |stream, context| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = self.patiently(context, |stream, context| stream.poll_write(context, bytes));
        self.has_written |= matches!(result, Poll::Ready(Ok(_)));
        result
    }

    /// Is called when there is nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_written {
            self.has_written = false;
            self.answered(context);
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        thread,
        time::Instant,
    };

    use axum::routing::get;

    use super::*;

    fn server(idle: Duration) -> Server {
        let router = Router::new().route("/", get(async || "ok"));
        Server::start_with("127.0.0.1:0".parse().unwrap(), router, idle).unwrap()
    }

    fn connect(server: &Server) -> TcpStream {
        let stream = TcpStream::connect(server.address()).unwrap();
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, host: &str) -> String {
        write!(stream, "GET / HTTP/1.1\r\n{host}\r\n").unwrap();
        let mut answer = [0; 1_024];
        let length = stream.read(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer[..length]);
        text.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[test]
    fn connections_that_say_nothing_keep_nobody_out() {
        let server = server(IDLE);
        let mut first = connect(&server);
        let mut silent: Vec<_> = (1..CONNECTIONS).map(|_| connect(&server)).collect();
        // It is the oldest, and has been answered since the others came.
        assert_eq!(ask(&mut first, "host: localhost\r\n"), "200");
        for _ in 0..3 {
            let mut other = connect(&server);
            assert_eq!(ask(&mut other, "host: localhost\r\n"), "200");
            silent.push(other);
        }
        assert_eq!(ask(&mut first, "host: localhost\r\n"), "200");
        // Those that had waited longest were closed.
        assert_eq!(silent[0].read(&mut [0]).unwrap(), 0);
        let [.., last, _, _, _] = &mut silent[..] else {
            panic!("there are {CONNECTIONS}");
        };
        assert_eq!(ask(last, "host: localhost\r\n"), "200");
    }

    #[test]
    fn only_answers_keep_a_connection_open() {
        const IDLE: Duration = Duration::from_secs(1);
        let server = server(IDLE);
        let mut slow = connect(&server);
        let mut asking = connect(&server);
        slow.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
            .unwrap();
        let begun = Instant::now();
        let pause = Duration::from_millis(100);
        slow.set_read_timeout(Some(pause)).unwrap();
        // A request that never ends.
        let closed = loop {
            let is_closed = slow.write_all(b"x").is_err();
            if is_closed || matches!(slow.read(&mut [0]), Ok(0)) {
                break begun.elapsed();
            }
            assert_eq!(ask(&mut asking, "host: localhost\r\n"), "200");
            assert!(begun.elapsed() < 10 * IDLE);
        };
        assert!(closed > IDLE / 2, "{closed:?}");
        thread::sleep(IDLE / 2);
        assert_eq!(ask(&mut asking, "host: localhost\r\n"), "200");
        let begun = Instant::now();
        assert_eq!(asking.read(&mut [0]).unwrap(), 0);
        let waited = begun.elapsed();
        assert!(waited > IDLE / 2 && waited < 5 * IDLE, "{waited:?}");
    }

    #[test]
    fn names_that_others_may_give_are_refused() {
        let server = server(IDLE);
        for (host, status) in [
            ("host: localhost\r\n", "200"),
            ("host: LocalHost:9464\r\n", "200"),
            ("host: 127.0.0.1:9464\r\n", "200"),
            ("host: [::1]:9464\r\n", "200"),
            ("host: rebound.example:9464\r\n", "421"),
            ("host: localhost.example\r\n", "421"),
            ("host: 127.0.0.1.example\r\n", "421"),
            ("host: \r\n", "421"),
        ] {
            let mut stream = connect(&server);
            assert_eq!(ask(&mut stream, host), status, "{host}");
        }
    }
}
