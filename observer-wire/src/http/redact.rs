//! Credentials end here: header fields and query parameters that carry them are left out. What remains of
//! one is a fingerprint.

use hmac::{Hmac, Mac as _};
use http::HeaderName;
use sha2::Sha256;

use crate::evidence::Fingerprint;

/// What credentials are hashed under; zeros if they are not.
pub(super) type Salt = [u8; 32];

/// What is before OpenAI's key in `sec-websocket-protocol` (OpenAI, "Realtime API with WebSockets").
const BROWSER_KEY: &str = "openai-insecure-api-key.";

/// Header fields that carry credentials: RFC 9110 section 11, RFC 6265, and the providers' own
/// (Anthropic `x-api-key`, OpenAI's keys of browsers in `sec-websocket-protocol`, Azure `api-key`, Google `x-goog-api-key`, AWS session tokens, gateways).
const FIELDS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "sec-websocket-protocol",
    "cf-aig-authorization",
    "helicone-auth",
];

/// Parts of names of header fields that carry credentials.
const FIELD_PARTS: &[&str] = &[
    "api-key",
    "apikey",
    "token",
    "secret",
    "password",
    "credential",
];

/// Fields that have such a part in their name and are no credentials: rate limits and usage.
const HARMLESS_PREFIXES: &[&str] = &[
    "anthropic-ratelimit-",
    "fireworks-",
    "x-amzn-bedrock-",
    "x-ratelimit-",
];

/// Query parameters that carry credentials: Google's `key`, OAuth (RFC 6750), signed URLs.
const PARAMETERS: &[&str] = &[
    "access_token",
    "api-key",
    "api_key",
    "apikey",
    "client_secret",
    "key",
    "password",
    "secret",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
];

/// Whether a header field carries credentials.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    FIELDS.contains(&name)
        || (FIELD_PARTS.iter().any(|part| name.contains(part))
            && !HARMLESS_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix)))
}

/// The fingerprint of the key in a header field. `None` if it holds none, or there is no salt.
pub(super) fn fingerprint(salt: &Salt, name: &[u8], value: &[u8]) -> Option<Fingerprint> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let value = || std::str::from_utf8(value).ok().map(str::trim);
    let key = if is("authorization") {
        let value = value()?;
        match value.split_once(' ') {
            // AWS Signature Version 4: the access key's id is no secret, the signature is none either.
            Some((scheme, rest)) if scheme.starts_with("AWS4-") => {
                let (_, scope) = rest.split_once("Credential=")?;
                scope.split(['/', ',']).next()?
            }
            Some((_, key)) => key.trim_start(),
            None => value,
        }
    } else if ["x-api-key", "api-key", "x-goog-api-key"]
        .iter()
        .any(|known| is(known))
    {
        value()?
    } else if is("sec-websocket-protocol") {
        let mut protocols = value()?.split(',');
        protocols.find_map(|protocol| protocol.trim().strip_prefix(BROWSER_KEY))?
    } else {
        return None;
    };
    keyed(salt, key)
}

/// The fingerprint of the key in a query (Google's `key`).
pub(super) fn query_fingerprint(salt: &Salt, query: &str) -> Option<Fingerprint> {
    query.split('&').find_map(|pair| {
        let (name, key) = pair.split_once('=')?;
        let holds = ["key", "api_key", "api-key", "apikey"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known));
        if holds { keyed(salt, key) } else { None }
    })
}

fn keyed(salt: &Salt, key: &str) -> Option<Fingerprint> {
    if key.is_empty() || *salt == [0; 32] {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(salt).ok()?;
    mac.update(key.as_bytes());
    let code = mac.finalize().into_bytes();
    Some(Fingerprint(code[..16].try_into().ok()?))
}

/// A query without the parameters that carry credentials.
pub(super) fn query(query: &str) -> String {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !PARAMETERS
                .iter()
                .any(|secret| name.eq_ignore_ascii_case(secret))
        })
        .collect();
    kept.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_known_by_their_names() {
        for name in [
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "x-amz-security-token",
            "set-cookie",
        ] {
            assert!(is_credential(&HeaderName::from_static(name)), "{name}");
        }
        for name in [
            "content-type",
            "x-request-id",
            "x-amzn-bedrock-input-token-count",
            "x-ratelimit-remaining-tokens",
            "x-stainless-retry-count",
        ] {
            assert!(!is_credential(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn one_key_has_one_fingerprint_wherever_it_stands() {
        let salt = [7; 32];
        let of = |name: &str, value: &str| fingerprint(&salt, name.as_bytes(), value.as_bytes());
        let key = of("authorization", "Bearer sk-1");
        assert!(key.is_some());
        for (name, value) in [
            ("Authorization", "bearer  sk-1 "),
            ("authorization", "sk-1"),
            ("X-Api-Key", "sk-1"),
            ("api-key", "sk-1"),
            ("x-goog-api-key", "sk-1"),
            (
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1",
            ),
        ] {
            assert_eq!(of(name, value), key, "{name}: {value}");
        }
        assert_eq!(query_fingerprint(&salt, "alt=sse&key=sk-1"), key);
        assert_ne!(of("x-api-key", "sk-2"), key);
        assert_ne!(fingerprint(&[8; 32], b"x-api-key", b"sk-1"), key);
        assert_eq!(fingerprint(&[0; 32], b"x-api-key", b"sk-1"), None);
        for (name, value) in [("cookie", "sk-1"), ("x-api-key", ""), ("x-key", "sk-1")] {
            assert_eq!(of(name, value), None, "{name}");
        }
        let signed = |date: &str, signature: &str| {
            let value = format!(
                "AWS4-HMAC-SHA256 Credential=AKID/{date}/eu-west-1/bedrock/aws4_request, SignedHeaders=host, Signature={signature}"
            );
            of("authorization", &value)
        };
        assert_eq!(signed("20261126", "1"), signed("20261127", "2"));
        assert_eq!(signed("20261126", "1"), of("x-api-key", "AKID"));
    }

    #[test]
    fn the_fingerprint_is_the_first_half_of_hmac_sha_256() {
        // RFC 4231 section 4.3 has a shorter key; padded with zeros it is the same.
        let mut salt = [0; 32];
        salt[..4].copy_from_slice(b"Jefe");
        let seen = fingerprint(&salt, b"x-api-key", b"what do ya want for nothing?");
        let shown = seen.unwrap().to_string();
        assert_eq!(shown, "5bdcc146bf60754e6a042426089575c7");
    }

    #[test]
    fn a_key_in_the_query_is_left_out() {
        assert_eq!(query("alt=sse&key=AIzaSecret&x=1"), "alt=sse&x=1");
        assert_eq!(query("key=AIzaSecret"), "");
    }
}
