//! The same work by the usual crates.

use std::hint::black_box;

use eventsource_stream::Eventsource as _;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde::Deserialize;

/// What an SDK reads of an event.
#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow)]
    model: Option<&'a str>,
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: u64,
    #[serde(borrow)]
    delta: Delta<'a>,
    #[serde(borrow)]
    finish_reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// What a gateway reads of a request.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: &'a str,
    temperature: Option<f64>,
    stream: Option<bool>,
    messages: serde::de::IgnoredAny,
}

pub(crate) fn typed(events: &[String]) -> u64 {
    let mut sum = 0;
    for event in events {
        let Ok(completion) = serde_json::from_str::<Completion<'_>>(payload(event)) else {
            continue;
        };
        sum += completion.model.map_or(0, str::len) as u64;
        for choice in &completion.choices {
            sum += choice.index + choice.finish_reason.map_or(0, str::len) as u64;
            sum += choice.delta.content.as_ref().map_or(0, |text| text.len()) as u64;
        }
        if let Some(usage) = completion.usage {
            sum += usage.prompt_tokens + usage.completion_tokens;
        }
    }
    sum
}

pub(crate) fn skip(body: &str) -> u64 {
    serde_json::from_str::<Request<'_>>(body).map_or(0, |request| {
        let serde::de::IgnoredAny = request.messages;
        request.model.len() as u64
            + u64::from(request.stream == Some(true))
            + request.temperature.map_or(0, |value| value as u64)
    })
}

pub(crate) fn payload(event: &str) -> &str {
    event.strip_prefix("data: ").unwrap_or_default().trim_end()
}

/// As `skip`, by sonic-rs.
pub(crate) fn skip_sonic(body: &str) -> u64 {
    sonic_rs::from_str::<Request<'_>>(body).map_or(0, |request| request.model.len() as u64)
}

/// The whole request.
pub(crate) fn value(body: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let value = black_box(value);
    value["model"]
        .as_str()
        .map_or(0, |model| model.len() as u64)
}

/// Framing of SSE, of pieces that are there.
pub(crate) fn eventsource(events: &[String]) -> u64 {
    let pieces = stream::iter(events.iter().map(Ok::<_, ()>));
    let data = pieces
        .eventsource()
        .map(|event| event.map_or(0, |event| event.data.len() as u64));
    data.fold(0, |sum, bytes| async move { sum + bytes })
        .now_or_never()
        .unwrap_or_default()
}

/// What any reader of frames does at least: reads each head and passes over the payload.
pub(crate) fn walk(frames: &[Vec<u8>]) -> u64 {
    let mut bytes = 0;
    for frame in frames {
        let mut rest = black_box(frame.as_slice());
        while let Some((head, tail)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            bytes += u64::from(length) + u64::from(stream & 1) + u64::from(head[3] ^ head[4]);
            rest = tail.get(length as usize..).unwrap_or_default();
        }
    }
    bytes
}

/// The blocks of frames that hold one each, by httlib-hpack.
pub(crate) fn blocks(frames: &[Vec<u8>]) -> u64 {
    let mut decoder = httlib_hpack::Decoder::default();
    let mut bytes = 0;
    let mut fields = Vec::new();
    for frame in frames {
        let mut block = frame.get(9..).unwrap_or_default().to_vec();
        fields.clear();
        assert!(decoder.decode(&mut block, &mut fields).is_ok());
        bytes += fields
            .iter()
            .map(|(_, value, _)| value.len() as u64)
            .sum::<u64>();
    }
    bytes
}
