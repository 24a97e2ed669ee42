//! What hosts say of a call in the header fields of the answer, whatever its format is.

use http::{HeaderMap, header};

use super::{builder::CallBuilder, fields::Count};

/// What the call cost, in US dollars, by LiteLLM's proxy (litellm 1.106 `proxy/common_request_processing.py`).
/// At the head of a stream it cannot know.
const COST: &str = "x-litellm-response-cost";

/// Counts of Fireworks, in tokens (docs.fireworks.ai), which a stream may not have anywhere else.
const COUNTS: &[(&str, Count)] = &[
    ("fireworks-prompt-tokens", Count::Prompt),
    ("fireworks-cached-prompt-tokens", Count::CacheRead),
];

/// Reads the head of an answer.
pub(super) fn read(headers: &HeaderMap, call: &mut CallBuilder) {
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_stream = field(header::CONTENT_TYPE.as_str())
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    if let Some(cost) = field(COST).and_then(|cost| cost.parse().ok())
        && !is_stream
    {
        call.cost(cost);
    }
    for (name, count) in COUNTS {
        let value = field(name).and_then(|value| value.parse::<u64>().ok());
        call.count(*count, value);
    }
}
