//! What is sent of a trace: the payload of infinium-o2 1.2.0 (`types.py`, `tracing.py`, `client.py`). Fields stand
//! in the order of its dataclasses; what is unknown or empty is left out, `false` and 0 stay.

use std::{collections::BTreeMap, io, time::Duration};

use jiff::Timestamp as Utc;
use serde::Serialize;
use serde_json::Number;

use crate::trace::{CallRecord, TraceRecord};

/// `MAX_PAYLOAD_SIZE`, in bytes of what Python's `json.dumps` makes of it.
const PAYLOAD_BYTES: usize = 1_048_576;

/// `MAX_NAME_LENGTH`, `MAX_DESCRIPTION_LENGTH`, in code points.
const NAME_CHARS: usize = 500;
const DESCRIPTION_CHARS: usize = 10_000;

/// `_DECORATOR_INPUT_SUMMARY_MAX`, `_DECORATOR_OUTPUT_SUMMARY_MAX`.
const INPUT_SUMMARY_CHARS: usize = 3000;
const OUTPUT_SUMMARY_CHARS: usize = 8000;

/// `_INPUT_CONTENT_LIMIT`, `_OUTPUT_CONTENT_LIMIT`: dots may follow.
const INPUT_PREVIEW_CHARS: usize = 500;
const OUTPUT_PREVIEW_CHARS: usize = 1500;

/// Longest duration in seconds: a day (`validate_duration`).
const DURATION_SECONDS: f64 = 86_400.0;

/// The number of calls from which on the SDK names neither model nor provider.
const MULTIPLE: &str = "multiple";

/// To what previews are cut, step by step, while the payload is too long.
const SHORTER: &[usize] = &[300, 100, 0];

/// How latencies are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Latency {
    /// From the first byte of the request to the last of the answer
    #[default]
    Observer,
    /// As infinium-o2 does: the clock of a stream starts when the head of the answer has come, but for Google's,
    /// and never stops if the stream is left
    Sdk,
}

/// Which calls are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Calls {
    /// All
    #[default]
    All,
    /// Those that infinium-o2 records: chat completions of OpenAI's SDK, messages of Anthropic's, generateContent of
    /// Google's
    Sdk,
}

/// What of traces is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Form {
    pub(super) latency: Latency,
    pub(super) calls: Calls,
    pub(super) tool_steps: bool,
    pub(super) environment: bool,
}

/// What is kept of a call until its trace ends.
#[derive(Clone, Debug)]
pub(super) struct Call {
    start: Utc,
    error: Option<ErrorDetail>,
    incomplete: Option<&'static str>,
    input_preview: Option<String>,
    output_preview: Option<String>,
    llm_call: LlmCall,
}

#[derive(Serialize)]
struct Payload<'a> {
    name: &'a str,
    description: &'a str,
    current_datetime: String,
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_summary: Option<String>,
    steps: &'a [Step<'a>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ErrorDetail],
    llm_usage: LlmUsage<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sections: Option<Sections<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Environment>,
}

/// `ExecutionStep`.
#[derive(Clone, Serialize)]
struct Step<'a> {
    step_number: usize,
    action: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_preview: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_preview: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call: Option<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    llm_call: Option<&'a LlmCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<ToolSizes>,
}

/// `ErrorDetail`.
#[derive(Clone, Debug, Serialize)]
struct ErrorDetail {
    error_type: String,
    message: String,
    recoverable: bool,
    retry_count: u32,
}

/// `ToolCall`.
#[derive(Clone, Serialize)]
struct ToolCall<'a> {
    tool_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDetail>,
}

/// What is known of a tool's arguments and result.
#[derive(Clone, Serialize)]
struct ToolSizes {
    arguments_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_bytes: Option<u64>,
}

/// `LlmCall`.
#[derive(Clone, Debug, Serialize)]
struct LlmCall {
    model: String,
    provider: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
}

/// `LlmUsage`.
#[derive(Serialize)]
struct LlmUsage<'a> {
    model: &'a str,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_cost_usd: Option<f64>,
    api_calls_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_latency_ms: Option<u64>,
    calls: Vec<&'a LlmCall>,
}

#[derive(Serialize)]
struct Sections<'a> {
    general: General<'a>,
}

/// `General`.
#[derive(Serialize)]
struct General<'a> {
    warnings: &'a [String],
}

/// `EnvironmentContext`.
#[derive(Clone, Serialize)]
struct Environment {
    sdk_version: &'static str,
    runtime: &'static str,
    custom_tags: BTreeMap<&'static str, String>,
}

impl Call {
    /// What is sent of a call, if it is sent.
    pub(super) fn of(call: &CallRecord, form: Form) -> Option<Self> {
        let provider = match form.calls {
            Calls::All => call.provider,
            Calls::Sdk => sdk_provider(call)?,
        };
        // The SDK takes the answer's model of a plain call, and never Google's.
        let answered = call
            .response_model
            .as_ref()
            .filter(|_| !call.stream && provider != "google");
        let model = answered.or(call.model.as_ref());
        let error = call.error_type.as_ref().map(|class| ErrorDetail {
            error_type: class.clone(),
            message: call.error_message.clone().unwrap_or_default(),
            recoverable: false,
            retry_count: match form.calls {
                Calls::All => call.attempts.unwrap_or(1).saturating_sub(1),
                Calls::Sdk => 0,
            },
        });
        Some(Self {
            start: call.start_time,
            error,
            incomplete: call.incomplete,
            input_preview: preview(call.input_preview.as_deref(), INPUT_PREVIEW_CHARS),
            output_preview: preview(call.output_preview.as_deref(), OUTPUT_PREVIEW_CHARS),
            llm_call: LlmCall {
                model: model.map_or("unknown".to_owned(), Clone::clone),
                provider,
                prompt_tokens: call.prompt_tokens,
                completion_tokens: call.completion_tokens,
                latency_ms: latency(call, form.latency).map(milliseconds),
                temperature: call.temperature.clone(),
            },
        })
    }

    /// Bytes held, roughly.
    pub(super) fn memory(&self) -> usize {
        let error = self.error.as_ref();
        let texts = [
            self.input_preview.as_ref(),
            self.output_preview.as_ref(),
            error.map(|error| &error.error_type),
            error.map(|error| &error.message),
            Some(&self.llm_call.model),
        ];
        size_of::<Self>() + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// The JSON of a trace, whose calls need not be in order. `lost` calls are known to be missing.
///
/// # Errors
///
/// It cannot be made small enough.
pub(super) fn payload(
    trace: &TraceRecord,
    mut calls: Vec<Call>,
    lost: usize,
    form: Form,
) -> io::Result<Vec<u8>> {
    calls.sort_by_key(|call| call.start);
    let mut warnings = Vec::new();
    if lost > 0 {
        warnings.push(format!("{lost} calls of this trace are not known"));
    }
    let mut incomplete: BTreeMap<&str, usize> = BTreeMap::new();
    for why in calls.iter().filter_map(|call| call.incomplete) {
        *incomplete.entry(why).or_default() += 1;
    }
    if form.calls == Calls::All {
        warnings.extend(incomplete.iter().map(|(why, count)| {
            format!(
                "of {count} calls a part is missing: {}",
                why.replace('_', " ")
            )
        }));
    }
    for limit in SHORTER {
        let json = Draft::new(trace, &calls, form).json(trace, &warnings, None)?;
        if dumped(&json) <= PAYLOAD_BYTES {
            return Ok(json);
        }
        if *limit == SHORTER[0] {
            warnings.push(String::new());
        }
        if let Some(warning) = warnings.last_mut() {
            *warning = format!("previews were cut to {limit} characters: the trace is too long");
        }
        for call in &mut calls {
            shorten(&mut call.input_preview, *limit);
            shorten(&mut call.output_preview, *limit);
        }
    }
    let draft = Draft::new(trace, &calls, form);
    let json = draft.json(trace, &warnings, None)?;
    if dumped(&json) <= PAYLOAD_BYTES {
        return Ok(json);
    }
    let kept = draft.fit(trace, &warnings)?;
    warnings.push(format!(
        "{} of {} steps and calls are left out in the middle: the trace is too long",
        draft.parts.len() - kept.len(),
        draft.parts.len()
    ));
    let json = draft.json(trace, &warnings, Some(&kept))?;
    if dumped(&json) > PAYLOAD_BYTES {
        return Err(io::Error::other("the payload is too long"));
    }
    Ok(json)
}

/// A trace in the form in which it is sent, all of it.
struct Draft<'a> {
    execution: Step<'a>,
    /// What was done, in order.
    parts: Vec<Step<'a>>,
    errors: Vec<ErrorDetail>,
    calls: &'a [Call],
    description: String,
    environment: Option<Environment>,
}

impl<'a> Draft<'a> {
    fn new(trace: &'a TraceRecord, calls: &'a [Call], form: Form) -> Self {
        let mut parts: Vec<(Utc, Step<'_>)> = calls.iter().map(llm_step).collect();
        if form.tool_steps {
            parts.extend(trace.steps.iter().map(tool_step));
        }
        // Stable: what began at the same time stays in order.
        parts.sort_by_key(|(start, _)| *start);
        // What the run ended with is what left it, as far as can be told from outside.
        let error = calls.last().and_then(|call| call.error.clone());
        let name = name(trace);
        Self {
            execution: Step {
                duration_ms: Some(milliseconds(trace.duration_ns)),
                error: error.clone(),
                ..step("execution", format!("Execute {name}"))
            },
            parts: parts.into_iter().map(|(_, step)| step).collect(),
            errors: Vec::from_iter(error),
            calls,
            description: describe(trace, calls.len()),
            environment: form.environment.then(|| environment(trace)),
        }
    }

    /// The JSON, of some parts only if these are given.
    fn json(
        &self,
        trace: &TraceRecord,
        warnings: &[String],
        kept: Option<&[usize]>,
    ) -> io::Result<Vec<u8>> {
        let parts: Vec<&Step<'_>> = match kept {
            None => self.parts.iter().collect(),
            Some(kept) => kept
                .iter()
                .filter_map(|part| self.parts.get(*part))
                .collect(),
        };
        let mut steps = vec![self.execution.clone()];
        steps.extend(parts.into_iter().cloned());
        for (index, step) in steps.iter_mut().enumerate() {
            step.step_number = index + 1;
        }
        let listed = match kept {
            None => self.calls.iter().map(|call| &call.llm_call).collect(),
            Some(_) => steps.iter().filter_map(|step| step.llm_call).collect(),
        };
        let ended = trace.start_time;
        let ended = ended
            .checked_add(Duration::from_nanos(trace.duration_ns))
            .unwrap_or(ended);
        let outputs = self.calls.iter().rev();
        let payload = Payload {
            name: &name(trace),
            description: &self.description,
            current_datetime: format!("{ended:.6}"),
            duration: seconds(trace.duration_ns),
            input_summary: self.calls.first().and_then(|call| {
                let text = call.input_preview.as_deref()?;
                Some(truncate(text, INPUT_SUMMARY_CHARS))
            }),
            output_summary: outputs
                .filter_map(|call| call.output_preview.as_deref())
                .next()
                .map(|text| truncate(text, OUTPUT_SUMMARY_CHARS)),
            steps: &steps,
            errors: &self.errors,
            llm_usage: self.usage(trace, listed),
            sections: (!warnings.is_empty()).then_some(Sections {
                general: General { warnings },
            }),
            environment: self.environment.clone(),
        };
        serde_json::to_vec(&payload).map_err(Into::into)
    }

    fn usage(&self, trace: &TraceRecord, listed: Vec<&'a LlmCall>) -> LlmUsage<'a> {
        let (model, provider) = match self.calls {
            [call] => (call.llm_call.model.as_str(), call.llm_call.provider),
            _ => (MULTIPLE, MULTIPLE),
        };
        let sum = |field: fn(&LlmCall) -> Option<u64>| -> u64 {
            let values = self.calls.iter().filter_map(|call| field(&call.llm_call));
            values.fold(0, u64::saturating_add)
        };
        let known = |sum: u64| (sum > 0).then_some(sum);
        let (prompt, completion) = (
            sum(|call| call.prompt_tokens),
            sum(|call| call.completion_tokens),
        );
        LlmUsage {
            model,
            provider,
            prompt_tokens: known(prompt),
            completion_tokens: known(completion),
            total_tokens: known(prompt.saturating_add(completion)),
            estimated_cost_usd: trace.llm_usage.cost_usd,
            api_calls_count: self.calls.len(),
            total_latency_ms: known(sum(|call| call.latency_ms)),
            calls: listed,
        }
    }

    /// The parts that fit, from both ends: how a run began and what it came to is worth the most.
    fn fit(&self, trace: &TraceRecord, warnings: &[String]) -> io::Result<Vec<usize>> {
        /// For a warning, and for the numbers of the steps.
        const SPARE: usize = 4096;
        let bare = dumped(&self.json(trace, warnings, Some(&[]))?);
        let mut left = PAYLOAD_BYTES.saturating_sub(bare + SPARE);
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        let count = self.parts.len();
        for turn in 0..count {
            let part = if turn % 2 == 0 {
                turn / 2
            } else {
                count - 1 - turn / 2
            };
            let step = &self.parts[part];
            let mut size = dumped(&serde_json::to_vec(step)?) + ", ".len() + "9999".len();
            if let Some(call) = step.llm_call {
                size += dumped(&serde_json::to_vec(call)?) + ", ".len();
            }
            let Some(rest) = left.checked_sub(size) else {
                break;
            };
            left = rest;
            if turn % 2 == 0 { &mut head } else { &mut tail }.push(part);
        }
        tail.reverse();
        head.extend(tail);
        Ok(head)
    }
}

fn step<'a>(action: &'static str, description: String) -> Step<'a> {
    Step {
        step_number: 0,
        action,
        description,
        duration_ms: None,
        input_preview: None,
        output_preview: None,
        error: None,
        tool_call: None,
        llm_call: None,
        metadata: None,
    }
}

fn llm_step(call: &Call) -> (Utc, Step<'_>) {
    let LlmCall {
        provider,
        model,
        latency_ms,
        ..
    } = &call.llm_call;
    let step = Step {
        duration_ms: *latency_ms,
        input_preview: call.input_preview.clone(),
        output_preview: call.output_preview.clone(),
        error: call.error.clone(),
        llm_call: Some(&call.llm_call),
        ..step("llm_call", format!("{provider}/{model}"))
    };
    (call.start, step)
}

fn tool_step(tool: &crate::trace::ToolStep) -> (Utc, Step<'_>) {
    let duration_ms = tool.duration_ns.map(milliseconds);
    let error = tool.failed.then(|| ErrorDetail {
        error_type: "ToolError".to_owned(),
        message: "the result says that the tool failed".to_owned(),
        recoverable: false,
        retry_count: 0,
    });
    let step = Step {
        duration_ms,
        error: error.clone(),
        tool_call: Some(ToolCall {
            tool_name: &tool.name,
            duration_ms,
            error,
        }),
        metadata: Some(ToolSizes {
            arguments_bytes: tool.arguments_bytes,
            result_bytes: tool.result_bytes,
        }),
        ..step("tool_call", tool.name.clone())
    };
    (tool.start_time, step)
}

fn name(trace: &TraceRecord) -> String {
    let name = trace.name.as_deref().map(str::trim);
    let name = name.filter(|name| !name.is_empty());
    truncate(name.unwrap_or("unknown"), NAME_CHARS)
}

fn describe(trace: &TraceRecord, calls: usize) -> String {
    let calls = match calls {
        1 => "1 LLM call".to_owned(),
        calls => format!("{calls} LLM calls"),
    };
    let comm = trace.comm.as_deref().unwrap_or("?");
    let description = format!(
        "{calls} of {comm}[{}], seen from outside by observer. Trace {}, by {}",
        trace.pid, trace.trace_id, trace.source
    );
    truncate(&description, DESCRIPTION_CHARS)
}

fn environment(trace: &TraceRecord) -> Environment {
    let tags = [
        ("comm", trace.comm.clone()),
        ("container_id", trace.container_id.clone()),
        (
            "conversation_id",
            trace.conversation_id.as_ref().map(|id| id.name.clone()),
        ),
        ("pid", Some(trace.pid.to_string())),
        ("trace_id", Some(trace.trace_id.clone())),
        ("trace_source", Some(trace.source.to_owned())),
    ];
    Environment {
        sdk_version: concat!("observer ", env!("CARGO_PKG_VERSION")),
        runtime: "ebpf",
        custom_tags: tags
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
    }
}

/// Whose call it is for infinium-o2, if it records it: by the path, and `base_url` for xAI (`integrations/openai.py`).
fn sdk_provider(call: &CallRecord) -> Option<&'static str> {
    let path = call.url_path.as_deref()?;
    if let Some(base) = path.strip_suffix("/chat/completions") {
        // `AzureOpenAI` is no client that it knows.
        if base.contains("/deployments/") {
            return None;
        }
        let host = call.server_address.as_deref().unwrap_or_default();
        let is_xai = |text: &str| {
            ["x.ai", "grok", "xai"]
                .iter()
                .any(|name| text.contains(name))
        };
        return Some(if is_xai(host) || is_xai(base) {
            "xai"
        } else {
            "openai"
        });
    }
    if path.ends_with("/v1/messages") {
        return Some("anthropic");
    }
    let method = path.rsplit(':').next()?;
    matches!(method, "generateContent" | "streamGenerateContent").then_some("google")
}

/// In nanoseconds; 0 is none, as in the SDK.
fn latency(call: &CallRecord, semantics: Latency) -> Option<u64> {
    let nanoseconds = match semantics {
        Latency::Observer => call.latency_ns,
        Latency::Sdk if call.stream => {
            let refused = call.status_code.is_none_or(|status| status >= 400);
            // The clock of Google's starts before the request; a refused one never stops.
            let from = match call.provider {
                "google" if refused => return None,
                "google" => 0,
                // `create()` raised: nothing of it had become a stream.
                _ if refused => 0,
                _ => call.time_to_headers_ns?,
            };
            if !refused && (call.error_type.is_some() || call.incomplete.is_some()) {
                return None;
            }
            call.latency_ns.saturating_sub(from)
        }
        Latency::Sdk => call.latency_ns,
    };
    (nanoseconds > 0).then_some(nanoseconds)
}

fn milliseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000
}

/// With three decimals.
fn seconds(nanoseconds: u64) -> f64 {
    let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
    ((seconds * 1e3).round() / 1e3).min(DURATION_SECONDS)
}

/// As the SDK's `_truncate` does.
fn preview(text: Option<&str>, limit: usize) -> Option<String> {
    let text = text?;
    Some(match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    })
}

fn shorten(text: &mut Option<String>, limit: usize) {
    *text = match limit {
        0 => None,
        limit => preview(text.as_deref(), limit),
    };
}

/// As the SDK's `truncate_string` does: no longer than the limit, with the dots.
fn truncate(text: &str, limit: usize) -> String {
    const DOTS: &str = "...";
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text
        .chars()
        .take(limit.saturating_sub(DOTS.len()))
        .collect();
    kept + DOTS
}

/// How long JSON is that Python's `json.dumps` makes: a space behind each comma and colon (those in texts count too,
/// so that it may be less), and nothing but ASCII. The SDK takes this for the size (`validate_payload_size`).
fn dumped(json: &[u8]) -> usize {
    /// `\uXXXX`.
    const ESCAPE: usize = 6;
    json.iter().fold(0_usize, |length, byte| {
        length.saturating_add(match byte {
            b',' | b':' => 2,
            0..0x80 => 1,
            // The first byte of a character; two escapes where it is beyond the 16 bits.
            0xf0.. => 2 * ESCAPE,
            0xc0.. => ESCAPE,
            0x80..0xc0 => 0,
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::trace::{
        ToolStep,
        record::tests::{call, failed_call},
    };

    fn trace(calls: usize) -> TraceRecord {
        TraceRecord {
            trace_id: call().trace_id,
            span_id: None,
            name: Some("support".to_owned()),
            source: "thread",
            start_time: call().start_time,
            duration_ns: 1_500_999_999,
            calls: vec![call().span_id; calls],
            steps: Vec::new(),
            errors: 0,
            llm_usage: crate::trace::LlmUsage::default(),
            pid: 4242,
            comm: call().comm,
            container_id: None,
            kubernetes: None,
            parent_span_id: None,
            conversation_id: None,
        }
    }

    /// A call that began so many milliseconds after the trace.
    fn later(milliseconds: u64, call: CallRecord) -> CallRecord {
        CallRecord {
            start_time: call.start_time + Duration::from_millis(milliseconds),
            ..call
        }
    }

    fn of(call: &CallRecord, form: Form) -> Call {
        Call::of(call, form).unwrap()
    }

    fn json(trace: &TraceRecord, calls: Vec<Call>, form: Form) -> Value {
        serde_json::from_slice(&payload(trace, calls, 0, form).unwrap()).unwrap()
    }

    #[test]
    fn a_trace_as_it_is_sent() {
        let form = Form {
            tool_steps: true,
            environment: true,
            ..Form::default()
        };
        let mut trace = trace(3);
        trace.container_id = Some("3f2a".to_owned());
        trace.steps.push(ToolStep {
            span_id: call().span_id,
            parent_span_id: call().span_id,
            name: "get_weather".to_owned(),
            id: Some("call_1".to_owned()),
            start_time: trace.start_time + Duration::from_millis(500),
            duration_ns: Some(40_000_000),
            arguments_bytes: 17,
            result_bytes: Some(2),
            failed: true,
        });
        let first = CallRecord {
            stream: false,
            input_preview: Some("[user] What's the weather?".to_owned()),
            output_preview: Some("漢字".repeat(1000)),
            ..call()
        };
        let incomplete = CallRecord {
            incomplete: Some("client_cancelled"),
            ..call()
        };
        let calls = vec![
            of(&later(1000, failed_call()), form),
            of(&first, form),
            of(&later(600, incomplete), form),
        ];
        let sent = payload(&trace, calls, 2, form).unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&sent)
                .unwrap()
                .replace(&"漢字".repeat(750), "(1500)")
        );
    }

    #[test]
    fn one_call_is_named_and_zero_sums_are_left_out() {
        let call = CallRecord {
            stream: false,
            prompt_tokens: Some(0),
            completion_tokens: Some(0),
            latency_ns: 999_999,
            ..call()
        };
        let form = Form::default();
        let sent = json(&trace(1), vec![of(&call, form)], form);
        let usage = r#"{"model":"gpt-4o-2024-08-06","provider":"openai","api_calls_count":1,"calls":[{"model":"gpt-4o-2024-08-06","provider":"openai","prompt_tokens":0,"completion_tokens":0,"latency_ms":0,"temperature":0}]}"#;
        assert_eq!(sent["llm_usage"].to_string(), usage);
        assert_eq!(sent["duration"].to_string(), "1.501");
        assert_eq!(sent["current_datetime"], "2026-09-21T14:13:21.624456Z");
        assert!(sent.get("errors").is_none() && sent.get("environment").is_none());
    }

    #[test]
    fn the_clock_of_the_sdk_starts_at_the_head_of_a_stream() {
        let sdk = |call: &CallRecord| latency(call, Latency::Sdk).map(milliseconds);
        let stream = call();
        assert_eq!(latency(&stream, Latency::Observer), Some(812_000_000));
        assert_eq!(sdk(&stream), Some(632));
        let with = |fill: fn(&mut CallRecord)| {
            let mut call = call();
            fill(&mut call);
            sdk(&call)
        };
        assert_eq!(with(|call| call.stream = false), Some(812));
        assert_eq!(with(|call| call.provider = "google"), Some(812));
        assert_eq!(with(|call| call.status_code = Some(429)), Some(812));
        assert_eq!(
            with(|call| call.incomplete = Some("client_cancelled")),
            None
        );
        assert_eq!(
            with(|call| {
                call.provider = "google";
                call.status_code = Some(503);
            }),
            None
        );
        assert_eq!(with(|call| call.latency_ns = 0), None);
    }

    #[test]
    fn the_sdk_records_some_calls_and_names_providers_by_the_address() {
        let provider = |host: &str, path: &str| {
            sdk_provider(&CallRecord {
                server_address: Some(host.to_owned()),
                url_path: Some(path.to_owned()),
                ..call()
            })
        };
        for (host, path, known) in [
            ("api.openai.com", "/v1/chat/completions", Some("openai")),
            (
                "api.groq.com",
                "/openai/v1/chat/completions",
                Some("openai"),
            ),
            ("api.x.ai", "/v1/chat/completions", Some("xai")),
            ("localhost", "/xai/v1/chat/completions", Some("xai")),
            (
                "a.openai.azure.com",
                "/openai/deployments/x/chat/completions",
                None,
            ),
            ("api.openai.com", "/v1/responses", None),
            ("api.openai.com", "/v1/embeddings", None),
            ("api.anthropic.com", "/v1/messages", Some("anthropic")),
            ("api.anthropic.com", "/v1/messages/count_tokens", None),
            (
                "g",
                "/v1beta/models/gemini-2.5-flash:generateContent",
                Some("google"),
            ),
            (
                "g",
                "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
                Some("google"),
            ),
            ("g", "/v1beta/models/gemini-2.5-flash:embedContent", None),
        ] {
            assert_eq!(provider(host, path), known, "{host}{path}");
        }
        let unknown = CallRecord {
            url_path: None,
            ..call()
        };
        let form = Form {
            calls: Calls::Sdk,
            ..Form::default()
        };
        assert!(Call::of(&unknown, form).is_none());
    }

    #[test]
    fn a_trace_that_is_too_long_loses_previews_and_then_its_middle() {
        let form = Form::default();
        let long = |index: u64, chars: usize| CallRecord {
            model: Some(format!("model-{index}")),
            input_preview: Some("\"\\".repeat(chars)),
            output_preview: Some("漢".repeat(chars)),
            ..later(index, call())
        };
        let check = |count: u64, chars: usize, warning: &str| {
            let calls = (0..count).map(|index| of(&long(index, chars), form));
            let sent = payload(&trace(0), calls.collect(), 0, form).unwrap();
            assert!(
                dumped(&sent) <= PAYLOAD_BYTES && sent.len() > PAYLOAD_BYTES / 8,
                "{}",
                sent.len()
            );
            let sent: Value = serde_json::from_slice(&sent).unwrap();
            assert_eq!(sent["llm_usage"]["api_calls_count"], count);
            let warnings = sent["sections"]["general"]["warnings"].as_array().unwrap();
            assert!(
                warnings
                    .last()
                    .unwrap()
                    .as_str()
                    .unwrap()
                    .starts_with(warning),
                "{warnings:?}"
            );
            sent
        };
        check(300, 800, "previews were cut to 300 characters");
        check(700, 800, "previews were cut to 100 characters");
        check(2000, 100, "previews were cut to 0 characters");
        let sent = check(10_000, 100, "");
        let warnings = sent["sections"]["general"]["warnings"].as_array().unwrap();
        let warning = warnings.last().unwrap().as_str().unwrap();
        assert!(
            warning.contains("of 10000 steps and calls are left out"),
            "{warning}"
        );
        let steps = sent["steps"].as_array().unwrap();
        assert!(steps.len() > 1000, "{}", steps.len());
        for (index, step) in steps.iter().enumerate() {
            assert_eq!(step["step_number"], index + 1);
        }
        assert_eq!(steps[1]["llm_call"]["model"], "model-0");
        assert_eq!(steps.last().unwrap()["llm_call"]["model"], "model-9999");
        let calls = sent["llm_usage"]["calls"].as_array().unwrap();
        assert_eq!(calls.len(), steps.len() - 1);
    }

    #[test]
    fn names_and_texts_are_as_long_as_the_sdk_lets_them_be() {
        let mut trace = trace(1);
        trace.name = Some("n".repeat(600));
        trace.comm = Some("c".repeat(20_000));
        trace.duration_ns = u64::MAX;
        let form = Form::default();
        let sent = json(&trace, vec![of(&call(), form)], form);
        let chars = |field: &str| sent[field].as_str().unwrap().chars().count();
        assert_eq!((chars("name"), chars("description")), (500, 10_000));
        assert_eq!(sent["duration"].to_string(), "86400.0");
        trace.name = Some("  ".to_owned());
        assert_eq!(
            json(&trace, vec![of(&call(), form)], form)["name"],
            "unknown"
        );
        assert_eq!(truncate("漢字漢字", 3), "...");
        assert_eq!(preview(Some("漢字漢"), 2).as_deref(), Some("漢字..."));
    }

    #[test]
    fn a_length_is_what_python_makes_of_it() {
        // len(json.dumps({"a": ["é", "漢", "😀", 1]}))
        assert_eq!(dumped(r#"{"a":["é","漢","😀",1]}"#.as_bytes()), 46);
    }
}
