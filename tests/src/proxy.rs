//! A proxy that is spoken to by TLS: `CONNECT` (RFC 9110 section 9.3.6) and a tunnel to wherever it says, with
//! the client's own TLS inside.

use std::{net::SocketAddr, thread};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

use crate::provider::Provider;

/// A running proxy; it stops when it is dropped.
pub struct Proxy {
    place: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, with the certificate of a provider.
    ///
    /// # Errors
    ///
    /// The port cannot be had.
    pub fn start(provider: &Provider) -> anyhow::Result<Self> {
        let acceptor = TlsAcceptor::from(provider.tls());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let place = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, &acceptor) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { place, _stop: stop })
    }

    /// `https://localhost:PORT`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.place.port())
    }
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        // Whoever goes away first takes the other along.
        tokio::spawn(async move { tunnel(stream, acceptor).await });
    }
}

async fn tunnel(stream: TcpStream, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    let mut client = BufReader::new(acceptor.accept(stream).await?);
    let mut request = String::new();
    client.read_line(&mut request).await?;
    let mut words = request.split_ascii_whitespace();
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        bail!("no CONNECT: {request}");
    };
    let target = target.to_owned();
    loop {
        let mut field = String::new();
        client.read_line(&mut field).await?;
        if field.trim().is_empty() {
            break;
        }
    }
    let mut server = TcpStream::connect(&target).await.context(target)?;
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    client.flush().await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
