//! A certificate authority and a certificate for localhost, made anew at each start.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// Makes the server's side and writes the authority's certificate to `ca`.
pub(super) fn server_config(ca: &Path) -> anyhow::Result<Arc<ServerConfig>> {
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
    let mut params = CertificateParams::new(
        ["localhost", "api.x.ai", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec(),
    )?;
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
    Ok(Arc::new(config))
}
