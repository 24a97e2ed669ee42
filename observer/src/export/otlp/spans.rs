//! Records as spans.
//!
//! Names and types: OpenTelemetry GenAI semantic conventions 1.41 (semantic-conventions, `docs/gen-ai`), and those of
//! semantic-conventions-genai as of November 2026 for [`Semconv::Latest`]. What has no name there is `observer.…`.

use std::borrow::Cow;

use jiff::Timestamp as Utc;
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{
        Span, Status,
        span::{Link, SpanKind},
        status::StatusCode,
    },
};
use serde_json::Value;

use super::{
    resource::{bool, count, double, int, string, strings},
    settings::Semconv,
};
use crate::trace::{CallRecord, ConversationId, ToolStep, TraceRecord};

/// Sampled (W3C Trace Context), and it is known whether the parent is remote (OTLP's `SpanFlags`).
const FLAGS: u32 = 0x1 | 0x100;

/// The parent is in another process.
const REMOTE_PARENT: u32 = 0x200;

/// The conventions that the names are of.
pub(super) const fn schema_url(semconv: Semconv) -> &'static str {
    match semconv {
        Semconv::V1_41 => "https://opentelemetry.io/schemas/1.41.0",
        // It has published no schema yet.
        Semconv::Latest => "",
    }
}

/// A call.
pub(super) fn call(call: &CallRecord, semconv: Semconv) -> Span {
    let mut span = Span {
        trace_id: hex(&call.trace_id, 16),
        span_id: hex(&call.span_id, 8),
        parent_span_id: call
            .parent_span_id
            .as_deref()
            .map_or_else(Vec::new, |id| hex(id, 8)),
        flags: FLAGS,
        name: name(call),
        kind: SpanKind::Client.into(),
        attributes: attributes(call, semconv),
        status: call.failed().then(|| Status {
            message: call.error_message.clone().unwrap_or_default(),
            code: StatusCode::Error.into(),
        }),
        ..Span::default()
    };
    (span.start_time_unix_nano, span.end_time_unix_nano) = times(call.start_time, call.latency_ns);
    span
}

/// A trace, as the parent of its calls and steps, and the steps. Where the calls are parts of the client's own spans,
/// there is none of the trace.
pub(super) fn trace(trace: &TraceRecord) -> Vec<Span> {
    let trace_id = hex(&trace.trace_id, 16);
    let root = trace.span_id.as_deref().map(|id| hex(id, 8));
    let mut spans: Vec<Span> = root
        .iter()
        .map(|root| run(trace, &trace_id, root))
        .collect();
    spans.extend(trace.steps.iter().map(|step| {
        let other = trace.parent_span_id.as_ref();
        let other = hex(other.unwrap_or(&step.parent_span_id), 8);
        tool(step, &trace_id, root.as_ref().unwrap_or(&other))
    }));
    spans
}

/// An agent's run, which calls tools, or one of calls only: nobody outside knows more.
fn run(trace: &TraceRecord, trace_id: &[u8], root: &[u8]) -> Span {
    let (operation, named) = if trace.steps.is_empty() {
        ("invoke_workflow", "gen_ai.workflow.name")
    } else {
        ("invoke_agent", "gen_ai.agent.name")
    };
    let mut attributes = vec![string("gen_ai.operation.name", operation)];
    let mut name = operation.to_owned();
    if let Some(given) = &trace.name {
        name = format!("{operation} {given}");
        attributes.push(string(named, given));
    }
    let usage = &trace.llm_usage;
    if let Some(known) = &usage.provider
        && known != "multiple"
    {
        attributes.push(string("gen_ai.provider.name", provider(known)));
    }
    if let Some(id) = &trace.conversation_id {
        attributes.push(string(conversation(id), &id.name));
    }
    // Not as `gen_ai.usage`: who adds up the spans of a trace would count twice.
    attributes.extend([
        string("observer.trace_source", trace.source),
        count("observer.calls", usage.api_calls_count),
        count("observer.errors", trace.errors),
    ]);
    if let Some(cost) = usage.cost_usd {
        attributes.push(double("observer.cost_usd", cost));
    }
    let mut span = Span {
        trace_id: trace_id.to_vec(),
        span_id: root.to_vec(),
        flags: FLAGS,
        name,
        kind: SpanKind::Internal.into(),
        attributes,
        ..Span::default()
    };
    if let Some(parent) = &trace.parent_span_id {
        span.parent_span_id = hex(parent, 8);
        span.flags |= REMOTE_PARENT;
    }
    (span.start_time_unix_nano, span.end_time_unix_nano) =
        times(trace.start_time, trace.duration_ns);
    span
}

fn tool(step: &ToolStep, trace_id: &[u8], parent: &[u8]) -> Span {
    let mut attributes = vec![
        string("gen_ai.operation.name", "execute_tool"),
        string("gen_ai.tool.name", &step.name),
        string("gen_ai.tool.type", "function"),
        count("observer.tool.arguments_bytes", step.arguments_bytes),
    ];
    if let Some(id) = &step.id {
        attributes.push(string("gen_ai.tool.call.id", id));
    }
    if let Some(bytes) = step.result_bytes {
        attributes.push(count("observer.tool.result_bytes", bytes));
    }
    if step.duration_ns.is_none() {
        attributes.push(string("observer.incomplete", "no_result"));
    }
    if step.failed {
        attributes.push(string("error.type", "tool_error"));
    }
    let mut span = Span {
        trace_id: trace_id.to_vec(),
        span_id: hex(&step.span_id, 8),
        parent_span_id: parent.to_vec(),
        flags: FLAGS,
        name: format!("execute_tool {}", step.name),
        kind: SpanKind::Internal.into(),
        attributes,
        // The call whose answer asked for it.
        links: vec![Link {
            trace_id: trace_id.to_vec(),
            span_id: hex(&step.parent_span_id, 8),
            flags: FLAGS,
            ..Link::default()
        }],
        status: step.failed.then(|| Status {
            message: String::new(),
            code: StatusCode::Error.into(),
        }),
        ..Span::default()
    };
    (span.start_time_unix_nano, span.end_time_unix_nano) =
        times(step.start_time, step.duration_ns.unwrap_or(0));
    span
}

fn name(call: &CallRecord) -> String {
    let target = match call.operation {
        "execute_tool" => call.tool_calls.first().or(call.model.as_ref()),
        _ => call.model.as_ref(),
    };
    match target {
        Some(target) => format!("{} {target}", call.operation),
        None => call.operation.to_owned(),
    }
}

/// The attribute for it: the conventions' is for ids that the application or the provider has.
fn conversation(id: &ConversationId) -> &'static str {
    if id.given {
        "gen_ai.conversation.id"
    } else {
        "observer.conversation_id"
    }
}

fn attributes(call: &CallRecord, semconv: Semconv) -> Vec<KeyValue> {
    let latest = semconv == Semconv::Latest;
    let mut all = vec![
        string("gen_ai.operation.name", call.operation),
        string("gen_ai.provider.name", provider(call.provider)),
    ];
    let mut text = |name: &str, value: &Option<String>| {
        all.extend(value.as_deref().map(|value| string(name, value)));
    };
    text("gen_ai.request.model", &call.model);
    text("gen_ai.response.model", &call.response_model);
    text("gen_ai.response.id", &call.response_id);
    if let Some(id) = &call.conversation_id {
        all.push(string(conversation(id), &id.name));
    }
    let mut text = |name: &str, value: &Option<String>| {
        all.extend(value.as_deref().map(|value| string(name, value)));
    };
    text("server.address", &call.server_address);
    text("error.type", &call.error().map(Cow::into_owned));
    if call.provider == "openai" {
        text("openai.response.service_tier", &call.service_tier);
    } else {
        text("observer.response.service_tier", &call.service_tier);
    }
    text("observer.request_id", &call.request_id);
    text("url.path", &call.url_path);
    // Of the caller's making, in the record only if content was asked for.
    text("observer.input_preview", &call.input_preview);
    text("observer.output_preview", &call.output_preview);
    if call.server_address.is_some()
        && let Some(port) = call.server_port
    {
        all.push(int("server.port", i64::from(port)));
    }
    if let Some(status) = call.status_code {
        all.push(int("http.response.status_code", i64::from(status)));
    }
    if call.stream {
        all.push(bool("gen_ai.request.stream", true));
    }
    if call.operation == "execute_tool"
        && let Some(tool) = call.tool_calls.first()
    {
        all.push(string("gen_ai.tool.name", tool));
    } else if !call.tool_calls.is_empty() {
        all.push(strings(
            "observer.tool_calls",
            call.tool_calls.iter().map(String::as_str),
        ));
    }
    if !call.finish_reasons.is_empty() {
        all.push(strings(
            "gen_ai.response.finish_reasons",
            call.finish_reasons.iter().map(String::as_str),
        ));
    }
    if let Some(temperature) = call
        .temperature
        .as_ref()
        .and_then(serde_json::Number::as_f64)
    {
        all.push(double("gen_ai.request.temperature", temperature));
    }
    for (name, value) in &call.parameters {
        all.push(parameter(name, value, call.provider, semconv));
    }
    if call.stream
        && let Some(time) = call.time_to_first_token_ns
    {
        all.push(double("gen_ai.response.time_to_first_chunk", seconds(time)));
    }
    let mut tokens = |name: &str, value: Option<u64>| {
        all.extend(value.map(|value| count(name, value)));
    };
    tokens("gen_ai.usage.input_tokens", call.input_tokens);
    tokens("gen_ai.usage.output_tokens", call.output_tokens);
    tokens("gen_ai.usage.cache_read.input_tokens", call.cached_tokens);
    let written = if latest {
        "gen_ai.usage.cache_write.input_tokens"
    } else {
        "gen_ai.usage.cache_creation.input_tokens"
    };
    tokens(written, call.cache_write_tokens);
    tokens(
        "gen_ai.usage.reasoning.output_tokens",
        call.reasoning_tokens,
    );
    let [audio_input, audio_output] = if latest {
        [
            "gen_ai.usage.audio.input_tokens",
            "gen_ai.usage.audio.output_tokens",
        ]
    } else {
        [
            "observer.usage.audio.input_tokens",
            "observer.usage.audio.output_tokens",
        ]
    };
    tokens(audio_input, call.audio_input_tokens);
    tokens(audio_output, call.audio_output_tokens);
    tokens("observer.attempts", call.attempts.map(u64::from));
    if let Some(cost) = call.cost_usd {
        all.push(double("observer.cost_usd", cost));
    }
    if let Some(source) = call.cost_source {
        all.push(string("observer.cost_source", source));
    }
    all.push(string("observer.trace_source", call.trace_source));
    if let Some(incomplete) = call.incomplete {
        all.push(string("observer.incomplete", incomplete));
    }
    all.push(int("thread.id", i64::from(call.tid)));
    all
}

/// A parameter with the type that the conventions give it, else with its own.
fn parameter(name: &str, value: &Value, vendor: &str, semconv: Semconv) -> KeyValue {
    let latest = semconv == Semconv::Latest;
    let known = match name {
        "choice_count" => "gen_ai.request.choice.count",
        "dimensions" => "gen_ai.embeddings.dimension.count",
        "encoding_formats" => "gen_ai.request.encoding_formats",
        "frequency_penalty" => "gen_ai.request.frequency_penalty",
        "max_tokens" => "gen_ai.request.max_tokens",
        "presence_penalty" => "gen_ai.request.presence_penalty",
        "reasoning_level" if latest => "gen_ai.request.reasoning.level",
        "seed" => "gen_ai.request.seed",
        "service_tier" if vendor == "openai" => "openai.request.service_tier",
        "top_k" => "gen_ai.request.top_k",
        "top_p" => "gen_ai.request.top_p",
        _ => "",
    };
    let own;
    let key = if known.is_empty() {
        own = format!("observer.request.{name}");
        &own
    } else {
        known
    };
    match (name, value) {
        ("encoding_formats", Value::String(text)) => strings(key, [text.as_str()]),
        ("frequency_penalty" | "presence_penalty" | "top_p", Value::Number(number)) => {
            double(key, number.as_f64().unwrap_or(f64::NAN))
        }
        ("top_k", Value::Number(number)) if !latest => {
            double(key, number.as_f64().unwrap_or(f64::NAN))
        }
        (_, Value::Bool(value)) => bool(key, *value),
        (_, Value::String(text)) => string(key, text),
        (_, Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => int(key, whole),
            // Such as 100.0.
            (None, Some(real)) if real.fract() == 0.0 && real.abs() < 9e15 =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "it has no fraction")]
                int(key, real as i64)
            }
            (None, Some(real)) => double(key, real),
            (None, None) => string(key, &number.to_string()),
        },
        (_, other) => string(key, &other.to_string()),
    }
}

/// A provider's name as `gen_ai.provider.name` has it.
pub(super) fn provider(name: &str) -> &str {
    match name {
        "aws_bedrock" => "aws.bedrock",
        "azure_ai" => "azure.ai.inference",
        "azure_openai" => "azure.ai.openai",
        "google" => "gcp.gemini",
        "mistral" => "mistral_ai",
        "moonshot" => "moonshot_ai",
        "vertex_ai" => "gcp.vertex_ai",
        "watsonx" => "ibm.watsonx.ai",
        "xai" => "x_ai",
        other => other,
    }
}

/// Seconds of nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "centuries are exact enough")]
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Nanoseconds since 1970 of begin and end.
fn times(start: Utc, duration_ns: u64) -> (u64, u64) {
    let start = u64::try_from(start.as_nanosecond()).unwrap_or(0);
    (start, start.saturating_add(duration_ns))
}

/// Bytes of hexadecimal digits, `length` of them; none if it is something else.
fn hex(digits: &str, length: usize) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect();
    bytes
        .filter(|bytes| bytes.len() == length)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use serde_json::{Map, Number};

    use super::*;
    use crate::trace::{
        LlmUsage,
        record::tests::{call as a_call, failed_call},
    };

    /// A span as lines.
    fn shown(span: &Span) -> String {
        let hex = |bytes: &[u8]| -> String {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        let mut text = format!(
            "{} kind={} trace={} span={} parent={} flags={:#x} {}+{}\n",
            span.name,
            span.kind,
            hex(&span.trace_id),
            hex(&span.span_id),
            hex(&span.parent_span_id),
            span.flags,
            span.start_time_unix_nano,
            span.end_time_unix_nano - span.start_time_unix_nano,
        );
        if let Some(status) = &span.status {
            let _ = writeln!(text, "  status {} {:?}", status.code, status.message);
        }
        for link in &span.links {
            let _ = writeln!(text, "  link {}", hex(&link.span_id));
        }
        for attribute in &span.attributes {
            let value = attribute.value.clone().and_then(|value| value.value);
            let value = match value.unwrap() {
                Any::ArrayValue(array) => {
                    let values = array.values.into_iter().map(|value| value.value.unwrap());
                    format!("{:?}", values.collect::<Vec<_>>())
                }
                other => format!("{other:?}"),
            };
            let _ = writeln!(text, "  {} = {value}", attribute.key);
        }
        text
    }

    fn rich_call() -> CallRecord {
        let mut parameters = Map::new();
        for (name, value) in [
            ("max_tokens", Value::from(100)),
            ("top_p", Value::from(1)),
            ("top_k", Value::from(40)),
            ("choice_count", Value::from(2)),
            ("reasoning_level", Value::from("high")),
            ("service_tier", Value::from("flex")),
            ("encoding_formats", Value::from("base64")),
            ("background", Value::from(true)),
            ("seed", Value::Number(Number::from_f64(7.0).unwrap())),
        ] {
            parameters.insert(name.to_owned(), value);
        }
        CallRecord {
            parameters,
            cached_tokens: Some(5),
            cache_write_tokens: Some(6),
            reasoning_tokens: Some(0),
            audio_input_tokens: Some(3),
            service_tier: Some("default".to_owned()),
            conversation_id: Some(ConversationId {
                name: "conv_1".to_owned(),
                given: true,
            }),
            attempts: Some(2),
            cost_usd: Some(0.25),
            cost_source: Some("prices"),
            parent_span_id: Some("00f067aa0ba902b7".to_owned()),
            incomplete: Some("client_cancelled"),
            ..a_call()
        }
    }

    fn a_trace() -> TraceRecord {
        TraceRecord {
            trace_id: a_call().trace_id,
            span_id: Some("00000000000000bb".to_owned()),
            name: Some("POST /chat".to_owned()),
            source: "inbound",
            start_time: a_call().start_time,
            duration_ns: 1_500_000_000,
            calls: vec![a_call().span_id],
            steps: vec![ToolStep {
                span_id: "00000000000000aa".to_owned(),
                parent_span_id: a_call().span_id,
                name: "get_weather".to_owned(),
                id: Some("call_1".to_owned()),
                start_time: a_call().start_time,
                duration_ns: None,
                arguments_bytes: 12,
                result_bytes: None,
                failed: true,
            }],
            errors: 1,
            llm_usage: LlmUsage {
                provider: Some("openai".to_owned()),
                api_calls_count: 2,
                cost_usd: Some(0.5),
                ..LlmUsage::default()
            },
            pid: 4242,
            comm: a_call().comm,
            container_id: None,
            kubernetes: None,
            parent_span_id: Some("00f067aa0ba902b7".to_owned()),
            conversation_id: None,
        }
    }

    #[test]
    fn calls_as_spans() {
        let calls = [a_call(), failed_call(), rich_call()];
        let mut text: String = calls
            .iter()
            .map(|record| shown(&call(record, Semconv::V1_41)))
            .collect();
        text.push_str("\nlatest\n");
        text.push_str(&shown(&call(&rich_call(), Semconv::Latest)));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_trace_as_spans() {
        let mut text: String = trace(&a_trace()).iter().map(shown).collect();
        let plain = TraceRecord {
            steps: Vec::new(),
            parent_span_id: None,
            name: None,
            ..a_trace()
        };
        text.extend(trace(&plain).iter().map(shown));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn where_calls_are_parts_of_other_spans_there_is_no_root() {
        let within = TraceRecord {
            span_id: None,
            parent_span_id: None,
            ..a_trace()
        };
        let [step] = &trace(&within)[..] else {
            panic!("the step alone");
        };
        assert_eq!(step.parent_span_id, hex(&a_call().span_id, 8));
    }

    #[test]
    fn a_conversation_that_nobody_has_named_has_no_name_of_the_conventions() {
        for (given, attribute) in [
            (true, "gen_ai.conversation.id"),
            (false, "observer.conversation_id"),
        ] {
            let conversation_id = Some(ConversationId {
                name: "c".to_owned(),
                given,
            });
            let of_call = call(
                &CallRecord {
                    conversation_id: conversation_id.clone(),
                    ..a_call()
                },
                Semconv::V1_41,
            );
            let of_trace = trace(&TraceRecord {
                conversation_id,
                ..a_trace()
            });
            for span in [&of_call, &of_trace[0]] {
                let names = span.attributes.iter().map(|attribute| &*attribute.key);
                let found: Vec<_> = names.filter(|name| name.contains("conversation")).collect();
                assert_eq!(found, [attribute], "{}", span.name);
            }
        }
    }

    #[test]
    fn ids_that_are_none_are_none() {
        assert!(hex("xyz", 8).is_empty() && hex("0011", 8).is_empty());
        assert!(hex("00112233445566é", 8).is_empty());
    }
}
