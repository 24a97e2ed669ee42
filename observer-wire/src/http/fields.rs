//! What heads of all versions have in common.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::redact;
use crate::evidence::Fingerprint;

/// Most fields in a head.
pub(super) const FIELDS: usize = 256;

/// Longest head, in bytes; Node allows 16 KiB, Apache 8 KiB a line.
pub(super) const HEAD_BYTES: usize = 256 * 1024;

/// Adds a field, unless it carries credentials or is none. Of the first key there is the fingerprint is taken.
pub(super) fn append(
    headers: &mut HeaderMap,
    salt: &redact::Salt,
    credential: &mut Option<Fingerprint>,
    name: &[u8],
    value: &[u8],
) {
    let Ok(name) = HeaderName::from_bytes(name) else {
        return;
    };
    if redact::is_credential(&name) {
        *credential =
            credential.or_else(|| redact::fingerprint(salt, name.as_str().as_bytes(), value));
    } else if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.append(name, value);
    }
}

/// Host without user information, and port (RFC 3986 section 3.2).
pub(super) fn split_authority(authority: &str) -> (Option<String>, Option<u16>) {
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ((!host.is_empty()).then(|| host.to_ascii_lowercase()), port)
}

/// Path, and query without credentials, of a target in origin form (RFC 9112 section 3.2.1). Of a key in the
/// query the fingerprint is taken, if none is known.
pub(super) fn split_target(
    target: &str,
    salt: &redact::Salt,
    credential: &mut Option<Fingerprint>,
) -> (String, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if path.is_empty() { "/" } else { path };
    let query = query.split('#').next().unwrap_or_default();
    if credential.is_none() && !query.is_empty() {
        *credential = redact::query_fingerprint(salt, query);
    }
    (path.to_owned(), redact::query(query))
}
