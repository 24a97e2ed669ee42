//! Request and response heads of HTTP/2 (RFC 9113 section 8.3).

use http::{HeaderMap, Method, StatusCode};

use super::{
    super::{
        RequestHead, ResponseHead,
        fields::{FIELDS, HEAD_BYTES, append, split_authority, split_target},
        redact::{Salt, query_fingerprint},
    },
    hpack::{Decoder, Field},
};
use crate::evidence::Fingerprint;

/// What a header block says.
#[derive(Default)]
pub(super) struct Fields {
    method: Option<Method>,
    authority: Option<String>,
    path: Option<String>,
    status: Option<StatusCode>,
    /// To which protocol a CONNECT leads (RFC 8441 section 4).
    protocol: Option<String>,
    pub(super) headers: HeaderMap,
    credential: Option<Fingerprint>,
    /// The one of the target; one of a field counts more.
    query_credential: Option<Fingerprint>,
    /// Whether there are fields whose name or value is unknown.
    pub(super) unknown: bool,
}

impl Fields {
    /// Reads a block. Credentials are left out. `None` if it is malformed, or says more than any head.
    pub(super) fn decode(decoder: &mut Decoder, block: &[u8], salt: &Salt) -> Option<Self> {
        let mut fields = Self::default();
        let (mut count, mut bytes) = (0, 0);
        let decoded = decoder.decode(block, &mut |field| {
            count += 1;
            bytes += [field.name, field.value]
                .into_iter()
                .flatten()
                .map(<[u8]>::len)
                .sum::<usize>();
            // What is not kept is decoded nevertheless: later blocks refer to it.
            if count <= FIELDS && bytes <= HEAD_BYTES {
                fields.add(field, salt);
            }
        });
        (decoded.is_ok() && count <= FIELDS && bytes <= HEAD_BYTES).then_some(fields)
    }

    fn add(&mut self, field: Field<'_>, salt: &Salt) {
        let (Some(name), Some(value)) = (field.name, field.value) else {
            self.unknown = true;
            return;
        };
        let text = || std::str::from_utf8(value).ok().map(str::to_owned);
        match name {
            b":authority" => self.authority = text(),
            b":method" => self.method = Method::from_bytes(value).ok(),
            b":path" => {
                let target = text();
                let query = target.as_deref().and_then(|target| target.split_once('?'));
                if let Some((_, query)) = query {
                    self.query_credential = query_fingerprint(salt, query);
                }
                self.path = target;
            }
            b":protocol" => self.protocol = text(),
            b":status" => self.status = StatusCode::from_bytes(value).ok(),
            [b':', ..] => {}
            _ => append(&mut self.headers, salt, &mut self.credential, name, value),
        }
    }

    /// The head of a request; `None` if it cannot be one.
    pub(super) fn request(self, ends: bool) -> Option<RequestHead> {
        let method = match self.method {
            Some(method) => method,
            // The static table has the usual ones, so that this one has no usual name.
            None if self.unknown && ends => Method::GET,
            None if self.unknown => Method::POST,
            None => return None,
        };
        let (path, query) = match &self.path {
            Some(target) => split_target(target, &[0; 32], &mut None),
            None if self.unknown || method == Method::CONNECT => Default::default(),
            None => return None,
        };
        let host = self.headers.get(http::header::HOST);
        let (host, port) = self
            .authority
            .as_deref()
            .or_else(|| host.and_then(|host| host.to_str().ok()))
            .map(split_authority)
            .unwrap_or_default();
        Some(RequestHead {
            path,
            query,
            host,
            port,
            websocket: method == Method::CONNECT && self.protocol.as_deref() == Some("websocket"),
            method,
            headers: self.headers,
            credential: self.credential.or(self.query_credential),
            partial: self.unknown,
        })
    }

    /// The head of a response; `None` if it cannot be one.
    pub(super) fn response(self) -> Option<ResponseHead> {
        (self.status.is_some() || self.unknown).then_some(ResponseHead {
            status: self.status,
            headers: self.headers,
            partial: self.unknown,
        })
    }
}
