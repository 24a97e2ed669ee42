//! What the head of a request tells about the run that it is part of.

use http::HeaderMap;
use serde_json::Value;

use super::builder::name;
use crate::{
    evidence::{Evidence, TraceContext},
    http::RequestHead,
};

/// Header fields in which clients name their session, the plainest first:
///
/// * Claude Code (2.1) `x-claude-code-session-id`
/// * Codex (codex-rs `core/src/client.rs`) `session_id` and, before it, `conversation_id`; later `session-id`
/// * OpenCode (`packages/opencode/src/session/llm.ts`) `x-opencode-session`, and `x-session-affinity`
/// * Helicone (docs.helicone.ai, "Sessions") `helicone-session-id`
/// * LiteLLM (docs.litellm.ai, "Session Logs") `x-litellm-session-id`, `x-litellm-trace-id`
/// * xAI (docs.x.ai, "Prompt caching") `x-grok-conv-id`
/// * MCP 2025-06-18 ("Session Management") `mcp-session-id`
/// * what others call it without any standard, `x-session-id`
///
/// Those of OpenCode, LiteLLM and xAI are unverified.
const SESSION: &[&str] = &[
    "x-claude-code-session-id",
    "session_id",
    "session-id",
    "conversation_id",
    "x-opencode-session",
    "x-session-affinity",
    "helicone-session-id",
    "x-litellm-session-id",
    "x-litellm-trace-id",
    "x-grok-conv-id",
    "mcp-session-id",
    "x-session-id",
];

/// JSON of Codex about the turn, with `session_id`.
const CODEX: &str = "x-codex-turn-metadata";

/// What is known by the head alone.
pub(super) fn of_head(head: &RequestHead) -> Evidence {
    Evidence {
        trace_context: trace_context(head),
        session: session(&head.headers),
        conversation: thread(&head.path).map(name),
        credential: head.credential,
        ..Evidence::default()
    }
}

/// The caller's place in a distributed trace. Of several fields none counts (W3C Trace Context section 3.2.1).
pub(super) fn trace_context(head: &RequestHead) -> Option<TraceContext> {
    let mut values = head.headers.get_all("traceparent").iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    TraceContext::parse(value.to_str().ok()?)
}

/// The thread on which an assistant runs (OpenAI Assistants, LangGraph: `…/threads/ID/runs`).
fn thread(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/threads/")?;
    let (thread, rest) = rest.split_once('/')?;
    (!thread.is_empty() && rest.starts_with("runs")).then_some(thread)
}

/// The session in Anthropic's `metadata.user_id` as Claude Code writes it: `user_…_account_…_session_ID`, or JSON
/// with `session_id` (2.1).
pub(super) fn session_of_user(user: &str) -> Option<String> {
    if user.starts_with('{') {
        let user: Value = serde_json::from_str(user).ok()?;
        return Some(user.get("session_id")?.as_str()?.to_owned());
    }
    let (_, session) = user.rsplit_once("_session_")?;
    Some(session.to_owned())
}

fn session(headers: &HeaderMap) -> Option<String> {
    let field = |field: &str| {
        let value = headers.get(field)?.to_str().ok()?.trim();
        (!value.is_empty()).then_some(value)
    };
    if let Some(turn) = field(CODEX)
        && let Ok(turn) = serde_json::from_str::<Value>(turn)
        && let Some(session) = turn.get("session_id").and_then(Value::as_str)
    {
        return Some(name(session));
    }
    SESSION.iter().find_map(|known| field(known)).map(name)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn sessions_are_found_in_users_and_threads_in_paths() {
        let user = |user| session_of_user(user);
        assert_eq!(user("user_1_account__session_a-b").as_deref(), Some("a-b"));
        assert_eq!(
            user(r#"{"device_id":"d","session_id":"s"}"#).as_deref(),
            Some("s")
        );
        assert_eq!(user("somebody"), None);
        assert_eq!(user("{}"), None);
        assert_eq!(thread("/v1/threads/thread_1/runs"), Some("thread_1"));
        assert_eq!(thread("/v1/threads/runs"), None);
        assert_eq!(thread("/v1/threads/t/messages"), None);
    }

    #[test]
    fn sessions_are_named_in_many_ways() {
        for (field, value, session) in [
            ("x-claude-code-session-id", "c-1", Some("c-1")),
            (
                "x-codex-turn-metadata",
                r#"{"session_id":"s-1","turn_id":"t-1"}"#,
                Some("s-1"),
            ),
            ("x-codex-turn-metadata", "none", None),
            ("session_id", "s-2", Some("s-2")),
            ("helicone-session-id", "h-1", Some("h-1")),
            ("mcp-session-id", " ", None),
            ("x-request-id", "r-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                HeaderName::from_bytes(field.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
            assert_eq!(super::session(&headers).as_deref(), session, "{field}");
        }
    }
}
