//! What a call tells about the run that it is part of: hashes and ids, never content.

use std::fmt;

/// What a request, and its answer, tell about the run that they are part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// The caller's place in a distributed trace, by the request's `traceparent` field.
    pub trace_context: Option<TraceContext>,
    /// The session by the client's own account: a field of the head (`x-claude-code-session-id`,
    /// `mcp-session-id`, …) or of the body.
    pub session: Option<String>,
    /// The conversation or thread that the provider keeps (`conversation`, `thread_id`).
    pub conversation: Option<String>,
    /// The answer that the request goes on from (`previous_response_id`).
    pub previous_response: Option<String>,
    /// The list of messages.
    pub messages: MessageList,
    /// The tools whose results the request brings, in order.
    pub tool_results: Vec<ToolResult>,
    /// The tools that the answer wants called, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Hash of the whole request body: the same in each attempt. 0 if there is none.
    pub body: u64,
    /// Which key paid for it.
    pub credential: Option<Fingerprint>,
}

/// A place in a distributed trace (W3C Trace Context).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span that is the caller; not 0.
    pub parent_id: u64,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// From the value of a `traceparent` field (W3C Trace Context section 3.2); `None` if it is not valid.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.trim().split('-');
        let (version, trace, parent, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, digits: usize| {
            text.len() == digits
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let fits = hex(version, 2)
            && version != "ff"
            && hex(trace, 32)
            && hex(parent, 16)
            && hex(flags, 2)
            // Later versions may add to it.
            && (version != "00" || parts.next().is_none());
        if !fits {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok()?;
        let parent_id = u64::from_str_radix(parent, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace_id != 0 && parent_id != 0).then_some(Self {
            trace_id,
            parent_id,
            sampled: flags & 1 != 0,
        })
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.trace_id, self.parent_id)
    }
}

/// The messages of a request, by hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageList {
    /// How many there are, without system prompts. 0 if the format has none, or they were not seen as a
    /// whole.
    pub count: usize,
    /// Hash of what stays in each request of an agent: system prompts, and names of tools. 0 if there are
    /// none.
    pub head: u64,
    /// Whether one of them is the model's: then it is no new conversation.
    pub answered: bool,
    /// Hash of the first so many messages and the head, for the longest such beginnings, at most
    /// [`BEGINNINGS`](Self::BEGINNINGS): the whole list first.
    pub beginnings: Vec<u64>,
}

impl MessageList {
    /// Most beginnings that are kept of a list.
    pub const BEGINNINGS: usize = 32;

    /// Hash of all messages and the head; `None` if there are none.
    pub fn whole(&self) -> Option<u64> {
        self.beginnings.first().copied()
    }
}

/// The result of a tool, which a request brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// The id of the call of the tool, as the model gave it.
    pub id: String,
    /// Length of the result in bytes of JSON, without quotes where it is a string.
    pub bytes: u64,
    /// Whether the request says that the tool failed.
    pub failed: bool,
}

/// A tool that the model wants called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// The id by which its result will refer to it; `None` in formats without (Gemini).
    pub id: Option<String>,
    /// Name of the tool.
    pub name: String,
    /// Length of the arguments in bytes of JSON.
    pub bytes: u64,
}

/// Stands for a credential, and cannot be turned back into it: the first half of HMAC-SHA-256 (RFC 2104)
/// of it under the agent's own salt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_as_the_standard_has_it() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = TraceContext::parse(&format!("00-{trace}-00f067aa0ba902b7-01")).unwrap();
        assert!(good.sampled && good.parent_id == 0x00f0_67aa_0ba9_02b7);
        assert!(TraceContext::parse(&format!("cc-{trace}-00f067aa0ba902b7-00-more")).is_some());
        for bad in [
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{trace}-00f067aa0ba902b7"),
            String::new(),
        ] {
            assert_eq!(TraceContext::parse(&bad), None, "{bad}");
        }
    }
}
