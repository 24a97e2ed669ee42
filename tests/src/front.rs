//! The provider without TLS: takes connections over TCP or a Unix socket, and passes on what comes by TLS.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Context as _;
use rustix::net::{Shutdown, shutdown};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::{lock, provider::Provider};

/// A running front; it takes no more connections when it is dropped.
pub struct Front {
    url: String,
    stop: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send>,
}

impl Front {
    /// Listens on a free port of an address, such as `127.0.0.1` or `::1`.
    ///
    /// # Errors
    ///
    /// The port cannot be had, or the provider's certificate not be read.
    pub fn tcp(provider: &Provider, address: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, 0)).context(address.to_owned())?;
        let place = listener.local_addr()?;
        let next = move || {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        };
        let wake = move || drop(TcpStream::connect(place));
        Self::start(provider, format!("http://{place}"), next, wake)
    }

    /// Listens on a Unix socket. The URL is any: what counts is the path.
    ///
    /// # Errors
    ///
    /// As [`tcp`](Self::tcp).
    pub fn unix(provider: &Provider, path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).context(path.display().to_string())?;
        let path = path.to_owned();
        let next = move || Ok(listener.accept()?.0.into());
        let wake = move || drop(std::os::unix::net::UnixStream::connect(&path));
        Self::start(provider, "http://localhost".to_owned(), next, wake)
    }

    /// The URL without a path.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn start(
        provider: &Provider,
        url: String,
        next: impl Fn() -> std::io::Result<OwnedFd> + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(provider.ca())? {
            roots.add(certificate?)?;
        }
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (config, port) = (Arc::new(config), provider.port());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while let Ok(client) = next() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let config = Arc::clone(&config);
                thread::spawn(move || {
                    // Whoever goes away first takes the other along.
                    let _ = relay(&File::from(client), port, config);
                });
            }
        });
        Ok(Self {
            url,
            stop,
            wake: Box::new(wake),
        })
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        (self.wake)();
    }
}

fn relay(client: &File, port: u16, config: Arc<ClientConfig>) -> anyhow::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.set_nodelay(true)?;
    let mut connection = ClientConnection::new(config, ServerName::try_from("localhost")?)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut server)?;
    }
    let connection = Mutex::new(connection);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = ask(client, &server, &connection);
            let _ = server.shutdown(std::net::Shutdown::Both);
        });
        let result = answer(client, &server, &connection);
        let _ = shutdown(client, Shutdown::Both);
        result
    })
}

fn ask(
    mut client: &File,
    mut server: &TcpStream,
    connection: &Mutex<ClientConnection>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut connection = lock(connection);
        connection.set_buffer_limit(None);
        connection.writer().write_all(&buffer[..length])?;
        while connection.wants_write() {
            connection.write_tls(&mut server)?;
        }
    }
}

fn answer(
    mut client: &File,
    mut server: &TcpStream,
    connection: &Mutex<ClientConnection>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut text = Vec::new();
    loop {
        // What came behind the handshake is there already.
        let closed = {
            let mut connection = lock(connection);
            let state = connection.process_new_packets()?;
            text.resize(state.plaintext_bytes_to_read(), 0);
            connection.reader().read_exact(&mut text)?;
            state.peer_has_closed()
        };
        client.write_all(&text)?;
        if closed {
            return Ok(());
        }
        let length = server.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut records = &buffer[..length];
        while !records.is_empty() {
            let mut connection = lock(connection);
            connection.read_tls(&mut records)?;
            if !records.is_empty() {
                let state = connection.process_new_packets()?;
                text.resize(state.plaintext_bytes_to_read(), 0);
                connection.reader().read_exact(&mut text)?;
                drop(connection);
                client.write_all(&text)?;
            }
        }
    }
}
