//! Credentials end here: header fields and query parameters that carry them are left out.

use http::HeaderName;

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
    fn a_key_in_the_query_is_left_out() {
        assert_eq!(query("alt=sse&key=AIzaSecret&x=1"), "alt=sse&x=1");
        assert_eq!(query("key=AIzaSecret"), "");
    }
}
