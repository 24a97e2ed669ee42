//! What botocore of PyPI, on which boto3 stands, says of its calls and raises when they fail (botocore 1.44
//! `exceptions.py`, `parsers.py`, `retries/standard.py`; measured).

use http::HeaderMap;

use super::{
    bedrock,
    preview::{cut, mask},
    sdk::{Exception, MESSAGE_CHARS},
};
use crate::http::RequestHead;

/// Exceptions of Bedrock's runtime that have a class of their own (botocore 1.44
/// `data/bedrock-runtime/2023-09-30`).
const CLASSES: &[&str] = &[
    "AccessDeniedException",
    "ConflictException",
    "InternalServerException",
    "ModelErrorException",
    "ModelNotReadyException",
    "ModelStreamErrorException",
    "ModelTimeoutException",
    "ResourceNotFoundException",
    "ServiceQuotaExceededException",
    "ServiceUnavailableException",
    "ThrottlingException",
    "ValidationException",
];

/// A call by botocore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Botocore {
    /// The operation of the service.
    operation: &'static str,
    /// How many retries there were, if there will be none after this one.
    retries: Option<u32>,
}

impl Botocore {
    /// What a request tells, if botocore sent it.
    pub(super) fn of(head: &RequestHead, agent: &str) -> Option<Self> {
        if !agent.contains("Botocore") && !agent.contains("aiobotocore") {
            return None;
        }
        let attempt = attempt(&head.headers)?;
        Some(Self {
            operation: bedrock::operation(head)?,
            retries: (number(&head.headers, "max") == Some(attempt))
                .then(|| attempt.saturating_sub(1)),
        })
    }

    /// The exception for an answer with this code.
    pub(super) fn error(self, code: &str, message: &str) -> Exception {
        let class = if CLASSES.contains(&code) {
            code
        } else {
            "ClientError"
        };
        let retries = self.retries.map_or_else(String::new, |retries| {
            format!(" (reached max retries: {retries})")
        });
        (
            class.to_owned(),
            Some(self.message(code, &retries, message)),
        )
    }

    /// The exception for an error in a stream.
    pub(super) fn stream_error(self, code: &str, message: &str) -> Exception {
        let message = self.message(code, "", message);
        ("EventStreamError".to_owned(), Some(message))
    }

    /// The class of the exception when the server ends the connection.
    pub(super) fn disconnected(self, answered: bool, stream: bool) -> String {
        let class = match (answered, stream) {
            (false, _) => "ConnectionClosedError",
            // That of urllib3, which is not wrapped.
            (true, true) => "ProtocolError",
            (true, false) => "ResponseStreamingError",
        };
        class.to_owned()
    }

    fn message(self, code: &str, retries: &str, message: &str) -> String {
        let operation = self.operation;
        let message = format!(
            "An error occurred ({code}) when calling the {operation} operation{retries}: {message}"
        );
        cut(&mask(&message), MESSAGE_CHARS)
    }
}

/// Which try of an SDK of AWS a request is, from 1 (`amz-sdk-request: ttl=…; attempt=2; max=3`).
pub(super) fn attempt(headers: &HeaderMap) -> Option<u32> {
    number(headers, "attempt")
}

fn number(headers: &HeaderMap, name: &str) -> Option<u32> {
    headers
        .get("amz-sdk-request")?
        .to_str()
        .ok()?
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
}
