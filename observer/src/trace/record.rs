//! The records that users script against: one JSON object each, unknown values null.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp as Utc;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use crate::{attach::pod::Pod, capture::task::Task};

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
    /// The id of the answer.
    pub response_id: Option<String>,
    /// The tier of service by which the provider says that it answered.
    pub service_tier: Option<String>,
    /// Input tokens as the provider counts them.
    pub prompt_tokens: Option<u64>,
    /// Output tokens as the provider counts them.
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
    /// All input tokens, with those of caches.
    pub input_tokens: Option<u64>,
    /// All output tokens, with those of reasoning.
    pub output_tokens: Option<u64>,
    /// What the provider says about usage, in its own words.
    pub usage: Option<Map<String, Value>>,
    /// What the call cost, in US dollars.
    pub cost_usd: Option<f64>,
    /// Who says so: `provider`, or `prices` (`--prices`).
    pub cost_source: Option<&'static str>,
    /// The temperature that was asked for.
    pub temperature: Option<Number>,
    /// What else was asked for: `max_tokens`, `top_p`, `seed`, ….
    pub parameters: Map<String, Value>,
    /// Whether the answer came, or was asked for, as a stream.
    pub stream: bool,
    /// When the first byte of the request was written: RFC 3339, UTC, nanoseconds.
    #[serde(serialize_with = "nanoseconds")]
    pub start_time: Utc,
    /// First request byte to last response byte, in nanoseconds.
    pub latency_ns: u64,
    /// First request byte to the head of the response, in nanoseconds.
    pub time_to_headers_ns: Option<u64>,
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
    /// Header fields that tell how much more may be asked for, and when.
    pub rate_limit: BTreeMap<String, String>,
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
    /// The conversation (OpenTelemetry's `gen_ai.conversation.id`): the session by the client's account or the
    /// provider's, else a name that the calls of the conversation share.
    pub conversation_id: Option<ConversationId>,
    /// How many requests it took: all tries of one call are one record, whose answer is the last one's.
    pub attempts: Option<u32>,
    /// Stands for the API key: 32 hexadecimal digits of a salted hash.
    pub credential: Option<String>,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The logical task that wrote the request, where the thread is not all there is.
    pub task: Option<Task>,
    /// Parent's process id.
    pub ppid: Option<u32>,
    /// Name of the process.
    pub comm: Option<String>,
    /// Path of the executed file.
    pub exe: Option<String>,
    /// Id of the container.
    pub container_id: Option<String>,
    /// The Kubernetes pod.
    pub kubernetes: Option<Arc<Pod>>,
    /// Real user id of the process.
    pub uid: Option<u32>,
    /// Process id in the process's own PID namespace, if that is another.
    pub namespace_pid: Option<u32>,
    /// Host that the request names.
    pub server_address: Option<String>,
    /// Port that the request names, else 443, or 80 without TLS.
    pub server_port: Option<u16>,
    /// Path of the request.
    pub url_path: Option<String>,
    /// Why part of the call is missing, or null.
    pub incomplete: Option<&'static str>,
}

/// A trace: the calls of one run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "trace")]
pub struct TraceRecord {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The trace itself as a span, 16 hexadecimal digits: the parent of its calls. `null` where those are parts
    /// of spans of others.
    pub span_id: Option<String>,
    /// What people call it: `--trace-name`, the method and route of the request that was answered, or the
    /// process's name.
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
    /// The tools that were called, in the order in which the model asked for them.
    pub steps: Vec<ToolStep>,
    /// How many of the calls failed.
    pub errors: u64,
    /// What the calls used together.
    pub llm_usage: LlmUsage,
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    pub comm: Option<String>,
    /// Id of the container.
    pub container_id: Option<String>,
    /// The Kubernetes pod.
    pub kubernetes: Option<Arc<Pod>>,
    /// The span of another process or service that the trace is part of, 16 hexadecimal digits.
    pub parent_span_id: Option<String>,
    /// The conversation, if all calls are of one.
    pub conversation_id: Option<ConversationId>,
}

/// Names a conversation. Its record is the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationId {
    /// The name.
    pub name: String,
    /// Whether the client or the provider calls it so; else it is a name of our own.
    pub given: bool,
}

impl Serialize for ConversationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name.serialize(serializer)
    }
}

/// A tool that the model wanted called, and whose result a later request brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToolStep {
    /// The step, 16 hexadecimal digits.
    pub span_id: String,
    /// The call whose answer asked for it.
    pub parent_span_id: String,
    /// Name of the tool.
    pub name: String,
    /// The id that the model gave the call of the tool.
    pub id: Option<String>,
    /// When the answer that asked for it had come: RFC 3339, UTC, nanoseconds.
    #[serde(serialize_with = "nanoseconds")]
    pub start_time: Utc,
    /// From there to the begin of the request that brought its result, in nanoseconds; `null` if none did.
    pub duration_ns: Option<u64>,
    /// Length of the arguments in bytes of JSON.
    pub arguments_bytes: u64,
    /// Length of the result in bytes of JSON.
    pub result_bytes: Option<u64>,
    /// Whether the request said that the tool failed.
    pub failed: bool,
}

/// A call whose answer is awaited.
#[derive(Clone, Debug)]
pub struct CallStarted {
    /// As in the [`CallRecord`] that follows, if it is a call after all.
    pub span_id: String,
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    pub comm: Option<String>,
    /// Id of the container.
    pub container_id: Option<String>,
    /// The Kubernetes pod.
    pub kubernetes: Option<Arc<Pod>>,
    /// When the first byte of the request was written.
    pub start_time: Utc,
    /// As in [`CallRecord`]; `None` until the request has been read.
    pub provider: Option<&'static str>,
    /// The model that is asked for, once the request has been read.
    pub model: Option<String>,
}

/// A request to a host of LLM providers that was no call.
#[derive(Clone, Debug)]
pub struct OtherRequest {
    /// The host.
    pub server_address: String,
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    pub comm: Option<String>,
    /// Path of the executed file.
    pub exe: Option<String>,
    /// Id of the container.
    pub container_id: Option<String>,
    /// The Kubernetes pod.
    pub kubernetes: Option<Arc<Pod>>,
    /// Real user id of the process.
    pub uid: Option<u32>,
}

/// What the calls of a trace used together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
    /// Sum over the calls whose cost is known, in US dollars.
    pub cost_usd: Option<f64>,
    /// Number of calls, failed ones included.
    pub api_calls_count: u64,
    /// Sum of the latencies, in milliseconds.
    pub total_latency_ms: u64,
}

/// What follows from the fields of a call, whether it was seen or read from a file.
macro_rules! derived {
    ($call:ty) => {
        impl $call {
            /// Whether it failed: it has an error, or the status is one.
            pub fn failed(&self) -> bool {
                self.error().is_some()
            }

            /// The class of its error, else the status if that is one (OpenTelemetry's `error.type`).
            pub fn error(&self) -> Option<std::borrow::Cow<'_, str>> {
                let status = self.status_code.filter(|status| *status >= 400);
                match &self.error_type {
                    Some(class) => Some(class.into()),
                    None => status.map(|status| status.to_string().into()),
                }
            }

            /// All input tokens, else those that the provider counts as input.
            pub fn input(&self) -> Option<u64> {
                self.input_tokens.or(self.prompt_tokens)
            }

            /// All output tokens, else those that the provider counts as output.
            pub fn output(&self) -> Option<u64> {
                self.output_tokens.or(self.completion_tokens)
            }

            /// The model that answered, else the one that was asked for: of a single call.
            pub fn answered_by(&self) -> Option<&str> {
                self.response_model.as_deref().or(self.model.as_deref())
            }

            /// The model that was asked for, else the one that answered: to sum up by, as the calls that failed have
            /// nothing else, and an alias is answered by one version today and by another tomorrow.
            pub fn asked_for(&self) -> Option<&str> {
                self.model.as_deref().or(self.response_model.as_deref())
            }
        }
    };
}

derived!(CallRecord);
pub(crate) use derived;

fn nanoseconds<S: Serializer>(time: &Utc, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.9}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A call that succeeded.
    pub(crate) fn call() -> CallRecord {
        CallRecord {
            provider: "openai",
            operation: "chat",
            model: Some("gpt-4o".to_owned()),
            response_model: Some("gpt-4o-2024-08-06".to_owned()),
            response_id: Some("chatcmpl-9".to_owned()),
            service_tier: None,
            prompt_tokens: Some(21),
            completion_tokens: Some(0),
            cached_tokens: None,
            cache_write_tokens: None,
            reasoning_tokens: None,
            audio_input_tokens: None,
            audio_output_tokens: None,
            input_tokens: Some(21),
            output_tokens: Some(0),
            usage: None,
            cost_usd: None,
            cost_source: None,
            parameters: Map::new(),
            temperature: Some(Number::from(0)),
            stream: true,
            start_time: Utc::from_nanosecond(1_790_000_000_123_456_789).unwrap(),
            latency_ns: 812_000_000,
            time_to_headers_ns: Some(180_000_000),
            time_to_first_token_ns: Some(210_000_000),
            status_code: Some(200),
            error_type: None,
            error_message: None,
            finish_reasons: vec!["stop".to_owned()],
            tool_calls: vec!["get_weather".to_owned()],
            request_id: Some("req_1".to_owned()),
            rate_limit: BTreeMap::new(),
            input_preview: None,
            output_preview: None,
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            span_id: "b7ad6b7169203331".to_owned(),
            parent_span_id: None,
            trace_source: "thread",
            conversation_id: None,
            attempts: None,
            credential: None,
            pid: 4242,
            tid: 4243,
            task: None,
            ppid: Some(1),
            comm: Some("python3".to_owned()),
            exe: Some("/usr/bin/python3.11".to_owned()),
            container_id: None,
            kubernetes: None,
            uid: Some(1000),
            namespace_pid: None,
            server_address: Some("api.openai.com".to_owned()),
            server_port: Some(443),
            url_path: Some("/v1/chat/completions".to_owned()),
            incomplete: None,
        }
    }

    /// A call that was refused.
    pub(crate) fn failed_call() -> CallRecord {
        CallRecord {
            response_model: None,
            prompt_tokens: None,
            completion_tokens: None,
            time_to_headers_ns: Some(890_000),
            time_to_first_token_ns: None,
            latency_ns: 900_000,
            status_code: Some(429),
            error_type: Some("RateLimitError".to_owned()),
            error_message: Some("Error code: 429 - Slow down".to_owned()),
            finish_reasons: Vec::new(),
            tool_calls: Vec::new(),
            ..call()
        }
    }

    #[test]
    fn a_call_failed_if_it_has_an_error_or_its_status_is_one() {
        let unnamed = CallRecord {
            error_type: None,
            ..failed_call()
        };
        assert!(unnamed.failed() && failed_call().failed() && !call().failed());
        let errors = [failed_call(), unnamed].map(|call| call.error().map(String::from));
        assert_eq!(errors.map(Option::unwrap), ["RateLimitError", "429"]);
        // In a stream that had begun well.
        let late = CallRecord {
            error_type: Some("overloaded_error".to_owned()),
            ..call()
        };
        assert!(late.failed());
    }

    #[test]
    fn tokens_and_models_have_something_to_fall_back_on() {
        let cached = CallRecord {
            input_tokens: Some(1_021),
            output_tokens: None,
            completion_tokens: Some(7),
            ..call()
        };
        assert_eq!((cached.input(), cached.output()), (Some(1_021), Some(7)));
        assert_eq!(
            [call().answered_by(), call().asked_for()],
            [Some("gpt-4o-2024-08-06"), Some("gpt-4o")]
        );
        let refused = failed_call();
        assert_eq!(refused.answered_by(), refused.asked_for());
    }

    #[test]
    fn unknown_is_null_and_zero_is_zero() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&call()).unwrap());
    }

    #[test]
    fn a_trace_as_it_is_written() {
        let trace = TraceRecord {
            trace_id: call().trace_id,
            span_id: Some("00f067aa0ba902b7".to_owned()),
            name: call().comm,
            source: "thread",
            start_time: call().start_time,
            duration_ns: 1_500_000_000,
            calls: vec![call().span_id],
            steps: Vec::new(),
            errors: 0,
            llm_usage: LlmUsage {
                model: Some("gpt-4o".to_owned()),
                provider: Some("openai".to_owned()),
                api_calls_count: 1,
                ..LlmUsage::default()
            },
            pid: 4242,
            comm: call().comm,
            container_id: None,
            kubernetes: None,
            parent_span_id: None,
            conversation_id: None,
        };
        insta::assert_snapshot!(serde_json::to_string_pretty(&trace).unwrap());
    }
}
