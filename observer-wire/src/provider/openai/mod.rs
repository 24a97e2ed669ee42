//! The formats of OpenAI, and of everything that speaks them.
//!
//! What a request asks for is told by the end of its path (openai-python 3.54 `resources`); who answers, by
//! its host, or by what a gateway says.

pub(super) mod assistants;
pub(super) mod audio;
pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod images;
pub(super) mod moderations;
pub(super) mod realtime;
pub(super) mod responses;
pub(super) mod responses_socket;
pub(super) mod retrieval;

use http::{Method, header};
use serde_json::Value;

use super::{Certainty, Recognized, hosts};
use crate::{
    body::json::{Keep, Select},
    http::RequestHead,
};

/// An input that is a text, or a list of texts.
const TEXTS: Select = Select::Either(&Select::Scalar, &Select::Array(Keep::First(4), &TEXT));

/// One of them; moderations may have it in an object.
const TEXT: Select = Select::Either(
    &Select::Scalar,
    &Select::Object(&[("text", Select::Scalar)]),
);

/// What infinium-o2 knows xAI by.
const XAI: &[&str] = &["x.ai", "grok", "xai"];

/// What has that in it and is not: a tunnel that many use, and a platform.
const NOT_XAI: &[&str] = &["ngrok", "vertexai"];

/// A POST whose path has one of these ends: the first that fits says which operation it is. At hosts that are
/// not known the bodies must have the shape, too.
fn posted(head: &RequestHead, paths: &[(&str, &'static str)]) -> Option<Recognized> {
    if head.method != Method::POST {
        return None;
    }
    let (_, operation) = paths.iter().find(|(path, _)| head.path.ends_with(path))?;
    Some(recognized(head, operation))
}

/// A request whose path settles which operation it is.
fn recognized(head: &RequestHead, operation: &'static str) -> Recognized {
    let known = hosts::of(head);
    Recognized {
        provider: known.unwrap_or_else(|| unknown(head)),
        operation,
        // Azure names the deployment in the path; the body may not have it.
        model: head
            .path
            .split_once("/deployments/")
            .and_then(|(_, rest)| rest.split('/').next())
            .map(str::to_owned),
        stream: false,
        certainty: match known {
            Some(_) => Certainty::Certain,
            None => Certainty::Likely,
        },
    }
}

/// Who answers: by host, or as [`unknown`] says.
fn provider(head: &RequestHead) -> &'static str {
    hosts::of(head).unwrap_or_else(|| unknown(head))
}

/// Who answers at a host that is not known: by name, as infinium-o2 tells xAI, or else the one whose format
/// it is.
fn unknown(head: &RequestHead) -> &'static str {
    let places = [head.host.as_deref().unwrap_or_default(), &head.path];
    let named_xai = places.into_iter().any(|place| {
        let place = NOT_XAI
            .iter()
            .fold(place.to_owned(), |place, word| place.replace(word, ""));
        XAI.iter().any(|name| place.contains(name))
    });
    if named_xai { "xai" } else { "openai" }
}

fn is_json(head: &RequestHead) -> bool {
    head.headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// The text of an input that is a text, or a list of texts; tokens are none.
fn input_text(input: Option<&Value>) -> Option<String> {
    match input? {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let texts: Vec<&str> = items
                .iter()
                .filter_map(|item| item.as_str().or_else(|| super::text(item, "text")))
                .collect();
            (!texts.is_empty()).then(|| texts.join("\n"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{super::PROVIDERS, *};

    /// Provider, operation and model of a request, and how sure it is.
    fn recognize(
        method: &Method,
        host: Option<&str>,
        path: &str,
    ) -> Option<(&'static str, &'static str, Option<String>, Certainty)> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let head = RequestHead {
            method: method.clone(),
            path: path.to_owned(),
            query: String::new(),
            host: host.map(str::to_owned),
            port: None,
            headers,
            credential: None,
            partial: false,
            websocket: false,
        };
        PROVIDERS
            .iter()
            .find_map(|provider| provider.recognize(&head))
            .map(|it| (it.provider, it.operation, it.model, it.certainty))
    }

    #[test]
    fn hosts_tell_the_provider() {
        use Certainty::{Certain, Likely, Possible};
        for (host, path, provider, certainty) in [
            ("api.openai.com", "/v1/chat/completions", "openai", Certain),
            (
                "eu.api.openai.com",
                "/v1/chat/completions",
                "openai",
                Certain,
            ),
            ("api.x.ai", "/v1/chat/completions", "xai", Certain),
            ("api.x.ai", "/v1/responses", "xai", Certain),
            // A substring counts, as with infinium-o2.
            ("matrix.ai", "/v1/chat/completions", "xai", Likely),
            ("localhost", "/xai/v1/chat/completions", "xai", Likely),
            ("proxy.local", "/grok/chat/completions", "xai", Likely),
            (
                "api.groq.com",
                "/openai/v1/chat/completions",
                "groq",
                Certain,
            ),
            ("api.mistral.ai", "/v1/chat/completions", "mistral", Certain),
            ("api.mistral.ai", "/v1/embeddings", "mistral", Certain),
            ("api.deepseek.com", "/chat/completions", "deepseek", Certain),
            ("api.deepseek.com", "/beta/completions", "deepseek", Certain),
            (
                "r.openai.azure.com",
                "/openai/v1/chat/completions",
                "azure_openai",
                Certain,
            ),
            (
                "r.cognitiveservices.azure.com",
                "/openai/v1/responses",
                "azure_openai",
                Certain,
            ),
            (
                "r.services.ai.azure.com",
                "/openai/v1/embeddings",
                "azure_openai",
                Certain,
            ),
            (
                "r.services.ai.azure.com",
                "/models/chat/completions",
                "azure_ai",
                Certain,
            ),
            (
                "r.eastus2.models.ai.azure.com",
                "/chat/completions",
                "azure_ai",
                Certain,
            ),
            (
                "models.inference.ai.azure.com",
                "/chat/completions",
                "azure_ai",
                Certain,
            ),
            (
                "notapi.openai.com.evil",
                "/v1/chat/completions",
                "openai",
                Likely,
            ),
            (
                "evilapi.openai.com",
                "/v1/chat/completions",
                "openai",
                Likely,
            ),
            ("127.0.0.1", "/v1/chat/completions", "openai", Likely),
            ("127.0.0.1", "/v1/responses", "openai", Likely),
            ("127.0.0.1", "/v1/embeddings", "openai", Likely),
            ("127.0.0.1", "/v1/completions", "openai", Likely),
            ("127.0.0.1", "/anything", "openai", Possible),
        ] {
            let (found, _, _, certain) = recognize(&Method::POST, Some(host), path)
                .unwrap_or_else(|| panic!("{host}{path}"));
            assert_eq!((found, certain), (provider, certainty), "{host}{path}");
        }
        let (provider, .., certainty) =
            recognize(&Method::POST, None, "/v1/chat/completions").unwrap();
        assert_eq!((provider, certainty), ("openai", Likely));
    }

    #[test]
    fn paths_tell_the_operation() {
        for (path, operation) in [
            ("/v1/chat/completions", "chat"),
            ("/v1/responses", "chat"),
            ("/v1/responses/compact", "compact"),
            ("/v1/completions", "text_completion"),
            ("/v1/embeddings", "embeddings"),
            ("/v1/images/generations", "image_generation"),
            ("/v1/images/edits", "image_generation"),
            ("/v1/images/variations", "image_generation"),
            ("/v1/audio/speech", "speech"),
            ("/v1/audio/transcriptions", "transcription"),
            ("/v1/audio/translations", "translation"),
            ("/v1/moderations", "moderation"),
            ("/v1/threads/runs", "invoke_agent"),
            ("/v1/threads/thread_1/runs", "invoke_agent"),
            (
                "/v1/threads/thread_1/runs/run_1/submit_tool_outputs",
                "invoke_agent",
            ),
            ("/v1/vector_stores/vs_1/search", "retrieval"),
        ] {
            let (_, found, model, certainty) =
                recognize(&Method::POST, Some("api.openai.com"), path).unwrap();
            assert_eq!(
                (found, model, certainty),
                (operation, None, Certainty::Certain),
                "{path}"
            );
            // Azure serves the same behind the name of a deployment.
            let path = path.replacen("/v1", "/openai/deployments/my-model", 1);
            let (provider, found, model, _) =
                recognize(&Method::POST, Some("r.openai.azure.com"), &path).unwrap();
            assert_eq!(
                (provider, found, model.as_deref()),
                ("azure_openai", operation, Some("my-model")),
                "{path}"
            );
        }
        let (_, operation, _, certainty) =
            recognize(&Method::GET, Some("api.openai.com"), "/v1/responses/resp_1").unwrap();
        assert_eq!(
            (operation, certainty),
            ("fetch_response", Certainty::Certain)
        );
    }

    #[test]
    fn other_requests_are_none() {
        for (method, host, path) in [
            (Method::GET, "api.openai.com", "/v1/chat/completions"),
            (
                Method::GET,
                "api.openai.com",
                "/v1/chat/completions/chatcmpl-1",
            ),
            (Method::OPTIONS, "api.openai.com", "/v1/chat/completions"),
            (
                Method::DELETE,
                "api.openai.com",
                "/v1/chat/completions/chatcmpl-1",
            ),
            (Method::DELETE, "api.openai.com", "/v1/responses/resp_1"),
            (
                Method::POST,
                "api.openai.com",
                "/v1/responses/resp_1/cancel",
            ),
            (
                Method::GET,
                "api.openai.com",
                "/v1/responses/resp_1/input_items",
            ),
            (Method::POST, "api.openai.com", "/v1/responses/input_tokens"),
            (Method::POST, "api.openai.com", "/v1/files"),
            (Method::POST, "api.openai.com", "/v1/threads"),
            (
                Method::POST,
                "api.openai.com",
                "/v1/threads/thread_1/messages",
            ),
            (Method::POST, "api.openai.com", "/v1/evals/eval_1/runs"),
            (Method::POST, "api.openai.com", "/v1/vector_stores"),
            (Method::POST, "api.openai.com", "/v1/batches"),
            (Method::POST, "api.openai.com", "/v1/fine_tuning/jobs"),
            (Method::GET, "api.openai.com", "/v1/models"),
            (
                Method::POST,
                "r.openai.azure.com",
                "/openai/v1/some/new/thing",
            ),
        ] {
            assert_eq!(recognize(&method, Some(host), path), None, "{path}");
        }
    }
}
