//! Previews of prompts and answers, as infinium-o2 1.2.0 takes them (infinium/integrations).

use serde_json::Value;

use super::{repr::repr_without_base64, text};

/// The first `limit` code points, and dots if there are more.
pub(super) fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// `[role] content`, with content that is no string as Python prints it.
pub(super) fn message(role: &str, content: Option<&Value>, limit: usize) -> String {
    // A character more than is shown, so that the cut is marked.
    let content = match content {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => repr_without_base64(other, limit.saturating_add(1)),
    };
    format!("[{role}] {content}")
}

/// As [`message`], of one with `role` and `content`.
pub(super) fn said(one: &Value, limit: usize) -> String {
    let role = text(one, "role").unwrap_or_default();
    message(role, one.get("content"), limit)
}

/// Anything that looks like a key is masked: providers quote the keys that they refuse.
pub(super) fn mask(text: &str) -> String {
    /// What keys begin with: OpenAI and Anthropic, Google, xAI, Groq, Perplexity, Hugging Face, AWS.
    const PREFIXES: &[&str] = &[
        "sk-", "AIza", "xai-", "gsk_", "pplx-", "hf_", "AKIA", "Bearer ",
    ];
    /// Shorter words are no keys.
    const KEY_CHARS: usize = 12;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, prefix)) = PREFIXES
        .iter()
        .filter_map(|prefix| rest.find(prefix).map(|at| (at, *prefix)))
        .min()
    {
        let key = at + prefix.len();
        // A key begins a word: `task-` does not.
        if rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric()) {
            out.push_str(&rest[..key]);
            rest = &rest[key..];
            continue;
        }
        let end = rest[key..]
            .find(|c: char| {
                !(c.is_ascii_alphanumeric()
                    || matches!(c, '-' | '_' | '.' | '*' | '~' | '+' | '/' | '='))
            })
            .map_or(rest.len(), |length| key + length);
        // The end of a sentence is no part of it.
        let end = key + rest[key..end].trim_end_matches('.').len();
        out.push_str(&rest[..key]);
        if end - key >= KEY_CHARS {
            out.push_str("[redacted]");
        } else {
            out.push_str(&rest[key..end]);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_masked_and_words_are_not() {
        assert_eq!(
            mask(
                "Incorrect API key provided: sk-proj-abcdef1234567890. Use Bearer abcdefghijklmnop, please"
            ),
            "Incorrect API key provided: sk-[redacted]. Use Bearer [redacted], please"
        );
        let words = "risk-averse-as-they-come task-list sk-x";
        assert_eq!(mask(words), words);
    }

    #[test]
    fn a_cut_is_marked() {
        assert_eq!(cut("漢字漢", 2), "漢字...");
        assert_eq!(cut("漢字", 2), "漢字");
    }
}
