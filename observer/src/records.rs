//! Records read back from JSON lines, as far as they can be read: fields that are not known are passed over, those
//! that are missing are unknown, and a line that is no record is counted and left out.
//!
//! [`CallRecord`](crate::trace::CallRecord) and [`TraceRecord`](crate::trace::TraceRecord) say what the fields mean.

use std::io::{self, BufRead, Read as _};

use jiff::Timestamp as Utc;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::capture::task::Task;

/// Longest line that is read; longer ones are left out.
const LINE_BYTES: u64 = 16 * 1024 * 1024;

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
    pub response_id: Option<String>,
    #[serde(default)]
    pub service_tier: Option<String>,
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    #[serde(default)]
    pub completion_tokens: Option<u64>,
    #[serde(default)]
    pub cached_tokens: Option<u64>,
    #[serde(default)]
    pub cache_write_tokens: Option<u64>,
    #[serde(default)]
    pub reasoning_tokens: Option<u64>,
    #[serde(default)]
    pub audio_input_tokens: Option<u64>,
    #[serde(default)]
    pub audio_output_tokens: Option<u64>,
    #[serde(default)]
    pub input_tokens: Option<u64>,
    #[serde(default)]
    pub output_tokens: Option<u64>,
    #[serde(default)]
    pub cost_usd: Option<f64>,
    #[serde(default)]
    pub cost_source: Option<String>,
    #[serde(default)]
    pub stream: bool,
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
    pub parent_span_id: Option<String>,
    #[serde(default)]
    pub trace_source: Option<String>,
    #[serde(default)]
    pub conversation_id: Option<String>,
    #[serde(default)]
    pub attempts: Option<u32>,
    #[serde(default)]
    pub credential: Option<String>,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub tid: u32,
    #[serde(default, deserialize_with = "or_unknown")]
    pub task: Option<Task>,
    #[serde(default)]
    pub ppid: Option<u32>,
    #[serde(default)]
    pub comm: Option<String>,
    #[serde(default)]
    pub exe: Option<String>,
    #[serde(default)]
    pub container_id: Option<String>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub namespace_pid: Option<u32>,
    #[serde(default)]
    pub server_address: Option<String>,
    #[serde(default)]
    pub server_port: Option<u16>,
    #[serde(default)]
    pub url_path: Option<String>,
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
    #[serde(default)]
    pub calls: Vec<String>,
    #[serde(default)]
    pub steps: Vec<ToolStep>,
    #[serde(default)]
    pub errors: u64,
    #[serde(default)]
    pub llm_usage: LlmUsage,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub comm: Option<String>,
    #[serde(default)]
    pub container_id: Option<String>,
    #[serde(default)]
    pub parent_span_id: Option<String>,
    #[serde(default)]
    pub conversation_id: Option<String>,
}

/// A tool step of a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(missing_docs, reason = "as in what is written")]
pub struct ToolStep {
    pub span_id: String,
    #[serde(default)]
    pub parent_span_id: Option<String>,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub id: Option<String>,
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

/// What the calls of a trace of a file used together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "as in what is written")]
pub struct LlmUsage {
    pub model: Option<String>,
    pub provider: Option<String>,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    pub total_tokens: Option<u64>,
    pub cost_usd: Option<f64>,
    pub api_calls_count: u64,
    pub total_latency_ms: u64,
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

impl Call {
    /// Whether it failed.
    pub fn failed(&self) -> bool {
        self.error_type.is_some()
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

/// For what is of a kind that this version does not know.
fn or_unknown<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: for<'any> Deserialize<'any>,
{
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{
        CallRecord,
        record::tests::{call, failed_call},
    };

    fn line(record: &CallRecord) -> String {
        serde_json::to_string(record).unwrap()
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
    fn what_is_written_can_be_read() {
        let written = failed_call();
        let read = only_call(line(&written));
        assert_eq!(read.provider, written.provider);
        assert_eq!(read.start_time, written.start_time);
        assert_eq!(read.error_type, written.error_type);
        assert_eq!(read.status_code, Some(429));
        assert_eq!(read.completion_tokens, None);
        assert_eq!(read.uid, Some(1000));
        assert!(read.failed() && !only_call(line(&call())).failed());
    }

    #[test]
    fn unknown_fields_types_and_tasks_are_passed_over() {
        let mut value: Value = serde_json::from_str(&line(&call())).unwrap();
        value["invented"] = serde_json::json!({"a": [1.5]});
        value["task"] = serde_json::json!({"kind": "fiber", "id": 1});
        assert_eq!(only_call(value.to_string()).task, None);
        value["task"] = serde_json::json!({"kind": "goroutine", "id": 7});
        assert_eq!(only_call(value.to_string()).task.unwrap().id, 7);
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
