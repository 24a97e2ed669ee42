//! Records read back from JSON lines, as far as they can be read: fields that nobody reads are passed over, those
//! that are missing are unknown, and a line that is no record is counted and left out.
//!
//! [`CallRecord`] and [`TraceRecord`] say what the fields mean. What is made of records is made of these, wherever
//! they come from.

use std::{
    io::{self, BufRead, Read as _},
    sync::Arc,
};

use jiff::Timestamp as Utc;
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use crate::{
    attach::pod::Pod,
    trace::{CallRecord, TraceRecord, record::derived},
};

/// Longest line that is read; longer ones are left out.
pub const LINE_BYTES: u64 = 16 * 1024 * 1024;

/// A record of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A call.
    Call(Box<Call>),
    /// A trace.
    Trace(Box<Trace>),
}

/// An LLM call of a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(missing_docs, reason = "as in what is written")]
pub struct Call {
    pub provider: String,
    #[serde(default)]
    pub operation: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub response_model: Option<String>,
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    #[serde(default)]
    pub completion_tokens: Option<u64>,
    #[serde(default)]
    pub cached_tokens: Option<u64>,
    #[serde(default)]
    pub reasoning_tokens: Option<u64>,
    #[serde(default)]
    pub input_tokens: Option<u64>,
    #[serde(default)]
    pub output_tokens: Option<u64>,
    #[serde(default)]
    pub cost_usd: Option<f64>,
    #[serde(deserialize_with = "time")]
    pub start_time: Utc,
    #[serde(default)]
    pub latency_ns: u64,
    #[serde(default)]
    pub time_to_first_token_ns: Option<u64>,
    #[serde(default)]
    pub status_code: Option<u16>,
    #[serde(default)]
    pub error_type: Option<String>,
    #[serde(default)]
    pub error_message: Option<String>,
    #[serde(default)]
    pub finish_reasons: Vec<String>,
    #[serde(default)]
    pub tool_calls: Vec<String>,
    #[serde(default)]
    pub request_id: Option<String>,
    #[serde(default)]
    pub input_preview: Option<String>,
    #[serde(default)]
    pub output_preview: Option<String>,
    #[serde(default)]
    pub trace_id: Option<String>,
    #[serde(default)]
    pub span_id: Option<String>,
    #[serde(default)]
    pub attempts: Option<u32>,
    #[serde(default)]
    pub credential: Option<String>,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub comm: Option<String>,
    #[serde(default)]
    pub exe: Option<String>,
    #[serde(default)]
    pub container_id: Option<String>,
    #[serde(default)]
    pub kubernetes: Option<Arc<Pod>>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub server_address: Option<String>,
    #[serde(default)]
    pub incomplete: Option<String>,
}

/// A trace of a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(missing_docs, reason = "as in what is written")]
pub struct Trace {
    pub trace_id: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(deserialize_with = "time")]
    pub start_time: Utc,
    #[serde(default)]
    pub duration_ns: u64,
    /// How many they are.
    #[serde(default, deserialize_with = "length")]
    pub calls: u64,
    #[serde(default)]
    pub steps: Vec<ToolStep>,
    #[serde(default)]
    pub errors: u64,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub comm: Option<String>,
    #[serde(default)]
    pub container_id: Option<String>,
    #[serde(default)]
    pub kubernetes: Option<Arc<Pod>>,
    #[serde(default)]
    pub conversation_id: Option<String>,
}

/// A tool step of a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(missing_docs, reason = "as in what is written")]
pub struct ToolStep {
    #[serde(default)]
    pub parent_span_id: Option<String>,
    #[serde(default)]
    pub name: String,
    #[serde(deserialize_with = "time")]
    pub start_time: Utc,
    #[serde(default)]
    pub duration_ns: Option<u64>,
    #[serde(default)]
    pub arguments_bytes: u64,
    #[serde(default)]
    pub result_bytes: Option<u64>,
    #[serde(default)]
    pub failed: bool,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Calls and traces.
    pub records: u64,
    /// Lines that are JSON objects of another type.
    pub others: u64,
    /// Lines that are no record, or a record that lacks what it must have.
    pub bad: u64,
}

derived!(Call);

impl From<&CallRecord> for Call {
    fn from(call: &CallRecord) -> Self {
        Self {
            provider: call.provider.to_owned(),
            operation: Some(call.operation.to_owned()),
            model: call.model.clone(),
            response_model: call.response_model.clone(),
            prompt_tokens: call.prompt_tokens,
            completion_tokens: call.completion_tokens,
            cached_tokens: call.cached_tokens,
            reasoning_tokens: call.reasoning_tokens,
            input_tokens: call.input_tokens,
            output_tokens: call.output_tokens,
            cost_usd: call.cost_usd,
            start_time: call.start_time,
            latency_ns: call.latency_ns,
            time_to_first_token_ns: call.time_to_first_token_ns,
            status_code: call.status_code,
            error_type: call.error_type.clone(),
            error_message: call.error_message.clone(),
            finish_reasons: call.finish_reasons.clone(),
            tool_calls: call.tool_calls.clone(),
            request_id: call.request_id.clone(),
            input_preview: call.input_preview.clone(),
            output_preview: call.output_preview.clone(),
            trace_id: Some(call.trace_id.clone()),
            span_id: Some(call.span_id.clone()),
            attempts: call.attempts,
            credential: call.credential.clone(),
            pid: call.pid,
            comm: call.comm.clone(),
            exe: call.exe.clone(),
            container_id: call.container_id.clone(),
            kubernetes: call.kubernetes.clone(),
            uid: call.uid,
            server_address: call.server_address.clone(),
            incomplete: call.incomplete.map(str::to_owned),
        }
    }
}

impl From<&TraceRecord> for Trace {
    fn from(trace: &TraceRecord) -> Self {
        let steps = trace.steps.iter().map(|step| ToolStep {
            parent_span_id: Some(step.parent_span_id.clone()),
            name: step.name.clone(),
            start_time: step.start_time,
            duration_ns: step.duration_ns,
            arguments_bytes: step.arguments_bytes,
            result_bytes: step.result_bytes,
            failed: step.failed,
        });
        let conversation = trace.conversation_id.as_ref();
        Self {
            trace_id: trace.trace_id.clone(),
            name: trace.name.clone(),
            source: Some(trace.source.to_owned()),
            start_time: trace.start_time,
            duration_ns: trace.duration_ns,
            calls: trace.calls.len() as u64,
            steps: steps.collect(),
            errors: trace.errors,
            pid: trace.pid,
            comm: trace.comm.clone(),
            container_id: trace.container_id.clone(),
            kubernetes: trace.kubernetes.clone(),
            conversation_id: conversation.map(|conversation| conversation.name.clone()),
        }
    }
}

/// Reads records up to the end of `lines`, and hands each to `take`.
///
/// # Errors
///
/// `lines` cannot be read.
pub fn read(mut lines: impl BufRead, mut take: impl FnMut(Record)) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(LINE_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(tally);
        }
        if line.last() != Some(&b'\n') && read as u64 == LINE_BYTES {
            lines.skip_until(b'\n')?;
            tally.bad += 1;
            continue;
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match parse(line) {
            Some(Line::Record(record)) => {
                tally.records += 1;
                take(record);
            }
            Some(Line::Other) => tally.others += 1,
            None => tally.bad += 1,
        }
    }
}

enum Line {
    Record(Record),
    Other,
}

fn parse(line: &[u8]) -> Option<Line> {
    // Not one enum with a tag: serde keeps its fields as values in between, and serde_json's numbers of any precision
    // do not survive that.
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    let Kind { kind } = serde_json::from_slice(line).ok()?;
    let record = match kind.as_str() {
        "llm_call" => Record::Call(serde_json::from_slice(line).ok()?),
        "trace" => Record::Trace(serde_json::from_slice(line).ok()?),
        _ => return Some(Line::Other),
    };
    Some(Line::Record(record))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Utc, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// Of a list, whose elements are not held.
fn length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let elements = Vec::<IgnoredAny>::deserialize(deserializer)?;
    Ok(elements.len() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::trace::record::{
        ConversationId, LlmUsage,
        tests::{call, failed_call},
    };

    fn line(record: &CallRecord) -> String {
        serde_json::to_string(record).unwrap()
    }

    fn trace() -> TraceRecord {
        let conversation = ConversationId {
            name: "a talk".to_owned(),
            given: true,
        };
        TraceRecord {
            trace_id: call().trace_id,
            span_id: None,
            name: Some("nightly".to_owned()),
            source: "thread",
            start_time: call().start_time,
            duration_ns: 1_500_000_000,
            calls: vec![call().span_id, "00f067aa0ba902b7".to_owned()],
            steps: vec![crate::trace::record::ToolStep {
                span_id: "00f067aa0ba902b8".to_owned(),
                parent_span_id: call().span_id,
                name: "get_weather".to_owned(),
                id: None,
                start_time: call().start_time,
                duration_ns: Some(1),
                arguments_bytes: 18,
                result_bytes: Some(40),
                failed: true,
            }],
            errors: 1,
            llm_usage: LlmUsage::default(),
            pid: 7,
            comm: call().comm,
            container_id: Some("bb".repeat(32)),
            kubernetes: None,
            parent_span_id: None,
            conversation_id: Some(conversation),
        }
    }

    fn read_all(text: impl AsRef<[u8]>) -> (Vec<Record>, Tally) {
        let mut records = Vec::new();
        let tally = read(text.as_ref(), |record| records.push(record)).unwrap();
        (records, tally)
    }

    fn only_call(text: impl AsRef<[u8]>) -> Call {
        match read_all(text).0.as_slice() {
            [Record::Call(call)] => (**call).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_read_from_a_file_is_what_is_seen_live() {
        let full = CallRecord {
            reasoning_tokens: Some(3),
            cost_usd: Some(0.25),
            input_preview: Some("Hi".to_owned()),
            output_preview: Some("Ho".to_owned()),
            attempts: Some(2),
            credential: Some("aa".repeat(16)),
            container_id: Some("bb".repeat(32)),
            kubernetes: None,
            incomplete: Some("client_cancelled"),
            ..call()
        };
        for written in [call(), failed_call(), full] {
            assert_eq!(only_call(line(&written)), Call::from(&written));
        }
        let written = trace();
        let text = serde_json::to_string(&written).unwrap();
        let read = match read_all(text).0.as_slice() {
            [Record::Trace(trace)] => (**trace).clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(read, Trace::from(&written));
        assert_eq!((read.calls, read.steps.len()), (2, 1));
    }

    #[test]
    fn fields_and_types_that_nobody_reads_are_passed_over() {
        let mut value: Value = serde_json::from_str(&line(&call())).unwrap();
        value["invented"] = json!({"a": [1.5]});
        value["task"] = json!({"kind": "fiber", "id": 1});
        assert_eq!(only_call(value.to_string()), Call::from(&call()));
        let (records, tally) = read_all(r#"{"type":"weather"}"#);
        assert!(records.is_empty());
        assert_eq!((tally.others, tally.bad), (1, 0));
    }

    #[test]
    fn few_fields_are_enough() {
        let call = only_call(
            r#"{"type":"llm_call","provider":"openai","start_time":"2026-01-01T00:00:00Z"}"#,
        );
        assert_eq!((call.pid, call.model), (0, None));
    }

    #[test]
    fn bad_lines_are_counted() {
        let good = line(&call());
        let cut = &good[..good.len() / 2];
        let text = format!(
            "\n{cut}\n{good}\r\nnonsense\n[]\n{{}}\n{{\"type\":\"llm_call\"}}\n\u{0}\n{good}"
        );
        let (records, tally) = read_all(text);
        assert_eq!(records.len(), 2);
        assert_eq!((tally.records, tally.others, tally.bad), (2, 0, 6));
        assert_eq!(read_all([0xff, b'\n', 0x80]).1.bad, 2);
        assert_eq!(read_all("").1, Tally::default());
    }

    #[test]
    fn a_line_without_end_costs_what_a_line_may_cost() {
        let long = io::repeat(b'x')
            .take(3 * LINE_BYTES)
            .chain(&b"\n{\"type\":\"weather\"}\n"[..]);
        let tally = read(io::BufReader::new(long), |_| {}).unwrap();
        assert_eq!((tally.others, tally.bad), (1, 1));
    }
}
