//! The records that users script against: one JSON object each, unknown values null.

use jiff::Timestamp as Utc;
use serde::{Serialize, Serializer};
use serde_json::Number;

/// An LLM call.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "llm_call")]
pub struct CallRecord {
    /// `openai`, `anthropic`, `google`, `xai`, ….
    pub provider: &'static str,
    /// OpenTelemetry's `gen_ai.operation.name`.
    pub operation: &'static str,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The model that answered.
    pub response_model: Option<String>,
    /// Input tokens as the provider counts them.
    pub prompt_tokens: Option<u64>,
    /// Output tokens as the provider counts them.
    pub completion_tokens: Option<u64>,
    /// Input tokens that were read from a cache.
    pub cached_tokens: Option<u64>,
    /// Output tokens that went into reasoning.
    pub reasoning_tokens: Option<u64>,
    /// The temperature that was asked for.
    pub temperature: Option<Number>,
    /// Whether the answer came, or was asked for, as a stream.
    pub stream: bool,
    /// When the first byte of the request was written: RFC 3339, UTC, nanoseconds.
    #[serde(serialize_with = "nanoseconds")]
    pub start_time: Utc,
    /// First request byte to last response byte, in nanoseconds.
    pub latency_ns: u64,
    /// First request byte to first non-empty delta, in nanoseconds.
    pub time_to_first_token_ns: Option<u64>,
    /// HTTP status.
    pub status_code: Option<u16>,
    /// Class of the SDK's exception, or the provider's error type.
    pub error_type: Option<String>,
    /// Text of that exception.
    pub error_message: Option<String>,
    /// Why the model stopped, one for each choice.
    pub finish_reasons: Vec<String>,
    /// Names of the tools that the model wants called.
    pub tool_calls: Vec<String>,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// The end of the input; only with `--capture-content`.
    pub input_preview: Option<String>,
    /// The beginning of the output; only with `--capture-content`.
    pub output_preview: Option<String>,
    /// The trace, 32 hexadecimal digits (W3C Trace Context).
    pub trace_id: String,
    /// The call, 16 hexadecimal digits.
    pub span_id: String,
    /// The span that the call is part of, if it is known.
    pub parent_span_id: Option<String>,
    /// The rule that placed the call in its trace.
    pub trace_source: &'static str,
    /// Which try of the SDK this was, from 1.
    pub attempts: Option<u32>,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Parent's process id.
    pub ppid: Option<u32>,
    /// Name of the process.
    pub comm: Option<String>,
    /// Path of the executed file.
    pub exe: Option<String>,
    /// Id of the container.
    pub container_id: Option<String>,
    /// Host that the request names.
    pub server_address: Option<String>,
    /// Port that the request names, else 443.
    pub server_port: Option<u16>,
    /// Path of the request.
    pub url_path: String,
    /// Why part of the call is missing, or null.
    pub incomplete: Option<&'static str>,
}

/// A trace: the calls of one run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "trace")]
pub struct TraceRecord {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// What people call it: the process's name.
    pub name: Option<String>,
    /// The rule that made the trace.
    pub source: &'static str,
    /// When the first call began.
    #[serde(serialize_with = "nanoseconds")]
    pub start_time: Utc,
    /// From there to the end of the last call, in nanoseconds.
    pub duration_ns: u64,
    /// The calls' span ids in the order in which they ended.
    pub calls: Vec<String>,
    /// How many of them failed.
    pub errors: u64,
    /// What the calls used together.
    pub llm_usage: LlmUsage,
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    pub comm: Option<String>,
    /// Id of the container.
    pub container_id: Option<String>,
}

/// What the calls of a trace used together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LlmUsage {
    /// The model, or `multiple`.
    pub model: Option<String>,
    /// The provider, or `multiple`.
    pub provider: Option<String>,
    /// Sum over the calls that say it.
    pub prompt_tokens: Option<u64>,
    /// Sum over the calls that say it.
    pub completion_tokens: Option<u64>,
    /// Sum of both.
    pub total_tokens: Option<u64>,
    /// Number of calls, failed ones included.
    pub api_calls_count: u64,
    /// Sum of the latencies, in milliseconds.
    pub total_latency_ms: u64,
}

fn nanoseconds<S: Serializer>(time: &Utc, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.9}"))
}
