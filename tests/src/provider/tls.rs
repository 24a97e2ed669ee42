//! A certificate authority and a certificate for localhost, made anew at each start.

use std::{fs, net::TcpStream, path::Path, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::Acceptor,
};

/// The protocol's name in ALPN (RFC 9113 section 3.2).
const HTTP2: &[u8] = b"h2";

/// Names under which clients look for it, some of them by a resolver of their own.
const NAMES: [&str; 6] = [
    "localhost",
    "api.groq.com",
    "api.openai.com",
    "api.x.ai",
    "mine.openai.azure.com",
    "127.0.0.1",
];

/// Longest first message of a client that is looked at.
const CLIENT_HELLO_BYTES: usize = 16 * 1024;

/// What the server shows to clients, by the version of HTTP.
pub(super) struct Configs {
    pub(super) http1: Arc<ServerConfig>,
    pub(super) http2: Arc<ServerConfig>,
}

/// Makes the server's side and writes the authority's certificate to `ca`.
pub(super) fn server_configs(ca: &Path) -> anyhow::Result<Configs> {
    let ca_key = KeyPair::generate()?;
    let mut ca_params = CertificateParams::new(Vec::new())?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca_params
        .distinguished_name
        .push(DnType::CommonName, "observer test authority");
    let ca_certificate = ca_params.self_signed(&ca_key)?;
    fs::write(ca, ca_certificate.pem())
        .with_context(|| format!("cannot write {}", ca.display()))?;
    let issuer = Issuer::new(ca_params, ca_key);

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    // OpenSSL asks for it when it verifies strictly (Python 3.13).
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
    let mut http2 = config.clone();
    http2.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Configs {
        http1: Arc::new(config),
        http2: Arc::new(http2),
    })
}

/// Whether a client offers HTTP/2; looks at its first message and leaves it where it is.
pub(super) fn offers_http2(stream: &TcpStream) -> anyhow::Result<bool> {
    let mut bytes = vec![0; CLIENT_HELLO_BYTES];
    let mut seen = 0;
    loop {
        let length = stream.peek(&mut bytes)?;
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &bytes[..length])?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let mut offered = accepted.client_hello().alpn().into_iter().flatten();
                return Ok(offered.any(|protocol| protocol == HTTP2));
            }
            // The handshake itself will say what is wrong.
            Err(_) => return Ok(false),
            Ok(None) if length == 0 || length == bytes.len() => return Ok(false),
            Ok(None) if length == seen => thread::sleep(Duration::from_millis(1)),
            Ok(None) => seen = length,
        }
    }
}
