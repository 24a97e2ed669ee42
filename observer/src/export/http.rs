//! A small HTTP server on a thread of its own, for those who look at the agent.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use axum::{Router, serve::Listener};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tracing::{debug, warn};

/// Connections that are served at once; others wait.
const CONNECTIONS: usize = 64;

/// A connection on which nothing has passed for so long is closed.
const IDLE: Duration = Duration::from_secs(120);

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
        let listener = StdListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on {address}"))?;
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
                // It is started while the agent still has its rights, and needs none.
                if let Err(error) = set_capabilities(None, NO_RIGHTS) {
                    debug!(%error, "cannot give up capabilities");
                }
                if let Err(error) = runtime.block_on(serve(listener, router, stopped)) {
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

const NO_RIGHTS: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

async fn serve(
    listener: StdListener,
    router: Router,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = Bounded {
        listener: TcpListener::from_std(listener)?,
        room: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    tokio::select! {
        result = axum::serve(listener, router) => result,
        _ = stopped => Ok(()),
    }
}

/// Accepts no more than [`CONNECTIONS`].
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Patient;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient, SocketAddr) {
        loop {
            let room = Arc::clone(&self.room).acquire_owned().await;
            let (Ok(room), Ok((stream, peer))) = (room, self.listener.accept().await) else {
                sleep(PAUSE).await;
                continue;
            };
            let io = Patient {
                stream,
                idle: Box::pin(sleep(IDLE)),
                _room: room,
            };
            return (io, peer);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that is waited for no longer than [`IDLE`].
struct Patient {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Patient {
    fn patiently<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let result = step(Pin::new(&mut self.stream), context);
        if result.is_ready() {
            self.idle.set(sleep_until(Instant::now() + IDLE));
            return result;
        }
        self.idle
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
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
        self.patiently(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
