//! What Mistral has beside chat completions: agents, and text to be filled in. Both are answered as chat is.

use serde_json::{Value, json};

use super::{Answer, Completion, openai};
use crate::provider::{behaviour::Behaviour, http::Request};

/// Ends of the paths, with operations.
const PATHS: &[(&str, &str)] = &[
    ("/agents/completions", "chat"),
    ("/fim/completions", "text_completion"),
];

/// What a path asks for.
pub(super) fn operation(path: &str) -> Option<&'static str> {
    let known = PATHS.iter().find(|(end, _)| path.ends_with(end));
    known.map(|(_, operation)| *operation)
}

pub(super) fn answer(
    operation: &str,
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    completion: &Completion,
) -> Answer {
    let mut document = document.clone();
    if let Some(agent) = document.get("agent_id") {
        document["model"] = agent.clone();
    }
    let mut answer = openai::answer(request, behaviour, &document, completion);
    answer.truth["provider"] = json!("mistral");
    answer.truth["operation"] = json!(operation);
    answer
}
