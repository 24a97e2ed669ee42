//! The one domain type: an LLM call.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Number, Value};

use crate::{
    chunk::{Origin, Timestamp},
    evidence::Evidence,
};

/// One LLM call as it was seen on the wire. `None` means that the wire did not say; 0 is a 0.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LlmCall {
    /// Who answers: `openai`, `anthropic`, `google`, `xai`, or another well-known host's name. An
    /// unknown host has the name of the format that it speaks.
    pub provider: &'static str,
    /// OpenTelemetry's `gen_ai.operation.name`: `chat`, `generate_content`, `execute_tool`, …. Where it has no
    /// name: `rerank`, `image_generation`, `video_generation`.
    pub operation: &'static str,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The model that the answer names.
    pub response_model: Option<String>,
    /// The id of the answer (`chatcmpl-…`, `resp_…`, `msg_…`), by which later requests may refer to it.
    pub response_id: Option<String>,
    /// The tier of service by which the provider says that it answered.
    pub service_tier: Option<String>,
    /// Input tokens as the provider counts them (Anthropic: without cached ones).
    pub prompt_tokens: Option<u64>,
    /// Output tokens as the provider counts them (Gemini: without thoughts).
    pub completion_tokens: Option<u64>,
    /// Input tokens that were read from a cache.
    pub cached_tokens: Option<u64>,
    /// Input tokens that were written to a cache.
    pub cache_write_tokens: Option<u64>,
    /// Output tokens that went into reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Input tokens that were audio.
    pub audio_input_tokens: Option<u64>,
    /// Output tokens that were audio.
    pub audio_output_tokens: Option<u64>,
    /// All input tokens, with those of caches, whatever the provider includes in its count; if it says
    /// how many are billed, those (OpenTelemetry's `gen_ai.usage.input_tokens`).
    pub input_tokens: Option<u64>,
    /// All output tokens, with those of reasoning, or those that are billed (OpenTelemetry's
    /// `gen_ai.usage.output_tokens`).
    pub output_tokens: Option<u64>,
    /// What the provider says about usage, in its own words: numbers and short words.
    pub usage: Option<Map<String, Value>>,
    /// What the call cost by the provider's own account, in US dollars.
    pub cost_usd: Option<f64>,
    /// The temperature that was asked for, as it was written.
    pub temperature: Option<Number>,
    /// What else was asked for, as it was written, by the names of OpenTelemetry's `gen_ai.request.…`:
    /// `max_tokens`, `top_p`, `seed`, ….
    pub parameters: Map<String, Value>,
    /// Whether the answer was asked for, or came, as a stream.
    pub stream: bool,
    /// When the first byte of the request was handed over.
    pub start: Timestamp,
    /// From the first byte of the request to the last of the answer, or to where it broke off.
    pub latency: Duration,
    /// From the first byte of the request to the head of the final response.
    pub time_to_headers: Option<Duration>,
    /// From the first byte of the request to the first non-empty delta; streams only.
    pub time_to_first_token: Option<Duration>,
    /// HTTP status of the final response.
    pub status_code: Option<u16>,
    /// The class of the exception that the caller's SDK raises, or the provider's error type.
    pub error_type: Option<String>,
    /// The text of that exception, with anything that looks like a key masked.
    pub error_message: Option<String>,
    /// Why the model stopped, one for each choice, in the provider's words.
    pub finish_reasons: Vec<String>,
    /// Names of the tools that the model wants called, in order.
    pub tool_calls: Vec<String>,
    /// The provider's id of the request (`x-request-id`, `request-id`).
    pub request_id: Option<String>,
    /// Header fields of the response that tell how much more may be asked for, and when: `retry-after`,
    /// `x-ratelimit-remaining-requests`, ….
    pub rate_limit: BTreeMap<String, String>,
    /// The end of the input; only with [`Options::capture_content`](crate::Options).
    pub input_preview: Option<String>,
    /// The beginning of the output; only with [`Options::capture_content`](crate::Options).
    pub output_preview: Option<String>,
    /// Which try of the SDK this was, from 1; known if the SDK says so in a header.
    pub attempts: Option<u32>,
    /// Host that the request names.
    pub server_address: Option<String>,
    /// Port that the request names, else 443, or 80 without TLS.
    pub server_port: Option<u16>,
    /// Path of the request target, without the query; `None` if the head was not seen as a whole.
    pub url_path: Option<String>,
    /// Why part of the call is missing, or `None` when all of it was seen.
    pub incomplete: Option<Incomplete>,
    /// The mark of the chunk with which the request began.
    pub origin: Origin,
    /// What it tells about the run that it is part of.
    pub evidence: Evidence,
}

impl LlmCall {
    /// When its last byte passed, or where it broke off.
    pub fn ended(&self) -> Timestamp {
        let nanoseconds = u64::try_from(self.latency.as_nanos()).unwrap_or(u64::MAX);
        Timestamp(self.start.0.saturating_add(nanoseconds))
    }
}

/// Why part of a call is missing. [`as_str`](Incomplete::as_str) is what records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Incomplete {
    /// Bytes were lost between the kernel and the parser.
    BytesLost,
    /// The client closed before the answer was complete.
    ClientCancelled,
    /// Fields of a head are unknown: they refer to earlier ones of the connection (HTTP/2), which were not
    /// seen.
    HeadersUnknown,
    /// The observer stopped before the call ended.
    ObserverStopped,
    /// The process exited or was killed before the call ended.
    ProcessExited,
    /// The server closed before the answer was complete.
    ServerDisconnected,
    /// The answer was not understood to its end.
    Unparsable,
}

impl Incomplete {
    /// The stable word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BytesLost => "bytes_lost",
            Self::ClientCancelled => "client_cancelled",
            Self::HeadersUnknown => "headers_unknown",
            Self::ObserverStopped => "observer_stopped",
            Self::ProcessExited => "process_exited",
            Self::ServerDisconnected => "server_disconnected",
            Self::Unparsable => "unparsable",
        }
    }
}
