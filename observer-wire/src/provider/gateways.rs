//! Gateways, which pass requests on to a provider that they are told: by path, by header or by the name of
//! the model (developers.cloudflare.com/ai-gateway, vercel.com/docs/ai-gateway, docs.helicone.ai,
//! portkey.ai/docs).

use super::hosts;
use crate::http::RequestHead;

/// Host of each, and what it is called where it does not say who answers.
const GATEWAYS: &[(&str, &str)] = &[
    ("ai-gateway.helicone.ai", "helicone"),
    ("ai-gateway.vercel.sh", "vercel"),
    ("api.portkey.ai", "portkey"),
    (CLOUDFLARE, "cloudflare_gateway"),
    ("gateway.helicone.ai", "helicone"),
    ("oai.helicone.ai", "openai"),
];

const CLOUDFLARE: &str = "gateway.ai.cloudflare.com";

/// What they call providers.
const NAMES: &[(&str, &str)] = &[
    ("alibaba", "dashscope"),
    ("amazon", "aws_bedrock"),
    ("amazon-bedrock", "aws_bedrock"),
    ("anthropic", "anthropic"),
    ("aws-bedrock", "aws_bedrock"),
    ("azure", "azure_openai"),
    ("azure-ai", "azure_ai"),
    ("azure-openai", "azure_openai"),
    ("bedrock", "aws_bedrock"),
    ("cerebras", "cerebras"),
    ("cohere", "cohere"),
    ("deepinfra", "deepinfra"),
    ("deepseek", "deepseek"),
    ("fireworks", "fireworks"),
    ("fireworks-ai", "fireworks"),
    ("google", "google"),
    ("google-ai-studio", "google"),
    ("google-vertex-ai", "vertex_ai"),
    ("grok", "xai"),
    ("groq", "groq"),
    ("huggingface", "huggingface"),
    ("mistral", "mistral"),
    ("mistral-ai", "mistral"),
    ("moonshotai", "moonshot"),
    ("openai", "openai"),
    ("openrouter", "openrouter"),
    ("perplexity", "perplexity"),
    ("perplexity-ai", "perplexity"),
    ("together-ai", "together"),
    ("vertex", "vertex_ai"),
    ("vertex-ai", "vertex_ai"),
    ("workers-ai", "cloudflare"),
    ("x-ai", "xai"),
    ("xai", "xai"),
    ("zai", "zai"),
];

/// Header fields that name the provider, and one that names its host.
const PROVIDER_FIELD: &str = "x-portkey-provider";
const TARGET_FIELD: &str = "helicone-target-url";

/// Whether a host is a gateway.
pub(super) fn is_gateway(host: &str) -> bool {
    gateway(host).is_some()
}

/// Who answers what a gateway is asked; the gateway itself if only the model tells.
pub(super) fn provider(head: &RequestHead) -> Option<&'static str> {
    let host = head.host.as_deref().unwrap_or_default();
    let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    // Both are found at hosts of one's own, too.
    let told = field(PROVIDER_FIELD)
        .and_then(|name| named(name.trim_start_matches('@')))
        .or_else(|| field(TARGET_FIELD).and_then(|url| hosts::provider(host_of(url))));
    if told.is_some() {
        return told;
    }
    let gateway = gateway(host)?;
    if !hosts::is_within(host, CLOUDFLARE) {
        return Some(gateway);
    }
    // `/v1/{account}/{gateway}/{provider}/…`
    let name = head.path.split('/').nth(4);
    Some(name.and_then(named).unwrap_or(gateway))
}

/// Who answers if `provider` is a gateway that goes by the name of the model: `openai/gpt-4o`.
pub(super) fn by_model(provider: &str, model: &str) -> Option<&'static str> {
    // One for OpenAI only is called so, and so are hosts that are not known.
    let is_gateway =
        GATEWAYS.iter().any(|(_, name)| *name == provider) && named(provider).is_none();
    if !is_gateway {
        return None;
    }
    named(model.split_once('/')?.0)
}

fn gateway(host: &str) -> Option<&'static str> {
    GATEWAYS
        .iter()
        .find(|(domain, _)| hosts::is_within(host, domain))
        .map(|&(_, name)| name)
}

fn named(name: &str) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|&(_, provider)| provider)
}

/// The host of a URL.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', ':', '?']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;

    fn provider(
        host: &str,
        path: &str,
        field: Option<(&'static str, &str)>,
    ) -> Option<&'static str> {
        let headers: HeaderMap = field
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .into_iter()
            .collect();
        super::provider(&RequestHead {
            method: Method::POST,
            path: path.to_owned(),
            query: String::new(),
            host: Some(host.to_owned()),
            port: None,
            headers,
            credential: None,
            partial: false,
            websocket: false,
        })
    }

    #[test]
    fn gateways_say_who_answers() {
        for (path, expected) in [
            ("/v1/0123/mine/openai/chat/completions", "openai"),
            ("/v1/0123/mine/groq/chat/completions", "groq"),
            ("/v1/0123/mine/grok/v1/chat/completions", "xai"),
            (
                "/v1/0123/mine/azure-openai/r/d/chat/completions",
                "azure_openai",
            ),
            (
                "/v1/0123/mine/compat/chat/completions",
                "cloudflare_gateway",
            ),
            ("/v1", "cloudflare_gateway"),
        ] {
            assert_eq!(provider(CLOUDFLARE, path, None), Some(expected), "{path}");
        }
        let path = "/v1/chat/completions";
        for (host, field, expected) in [
            ("ai-gateway.vercel.sh", None, Some("vercel")),
            ("oai.helicone.ai", None, Some("openai")),
            (
                "gateway.helicone.ai",
                Some((TARGET_FIELD, "https://api.groq.com/openai/v1")),
                Some("groq"),
            ),
            (
                "gateway.helicone.ai",
                Some((TARGET_FIELD, "https://llm.internal")),
                Some("helicone"),
            ),
            (
                "api.portkey.ai",
                Some((PROVIDER_FIELD, "mistral-ai")),
                Some("mistral"),
            ),
            (
                "portkey.internal",
                Some((PROVIDER_FIELD, "@openai")),
                Some("openai"),
            ),
            (
                "api.portkey.ai",
                Some((PROVIDER_FIELD, "@ours")),
                Some("portkey"),
            ),
            ("llm.internal", None, None),
        ] {
            assert_eq!(provider(host, path, field), expected, "{host} {field:?}");
        }
    }

    #[test]
    fn models_say_who_answers() {
        for (gateway, model, expected) in [
            ("vercel", "openai/gpt-4o", Some("openai")),
            ("vercel", "xai/grok-4", Some("xai")),
            ("vercel", "meta/llama-4", None),
            ("vercel", "gpt-4o", None),
            (
                "cloudflare_gateway",
                "workers-ai/@cf/meta/llama",
                Some("cloudflare"),
            ),
            // It answers itself, whoever has made the model.
            ("openrouter", "openai/gpt-4o", None),
        ] {
            assert_eq!(by_model(gateway, model), expected, "{gateway} {model}");
        }
    }
}
