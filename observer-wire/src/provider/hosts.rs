//! Well-known hosts of providers. A host counts with all its subdomains.

use super::gateways;

/// Hosts of other formats than OpenAI's, which are recognised by their paths.
const OTHERS: &[&str] = &["aiplatform.googleapis.com", "api.anthropic.com"];

/// Host suffix and provider, of the OpenAI format. The names are those that OpenTelemetry or the vendors use.
const HOSTS: &[(&str, &str)] = &[
    ("api.cerebras.ai", "cerebras"),
    ("api.cohere.ai", "cohere"),
    ("api.cohere.com", "cohere"),
    ("api.deepinfra.com", "deepinfra"),
    ("api.deepseek.com", "deepseek"),
    ("api.fireworks.ai", "fireworks"),
    ("api.githubcopilot.com", "github_copilot"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral"),
    ("api.moonshot.ai", "moonshot"),
    ("api.moonshot.cn", "moonshot"),
    ("api.novita.ai", "novita"),
    ("api.openai.com", "openai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.sambanova.ai", "sambanova"),
    ("api.studio.nebius.ai", "nebius"),
    ("api.x.ai", "xai"),
    ("api.together.ai", "together"),
    ("api.together.xyz", "together"),
    ("api.z.ai", "zai"),
    ("codestral.mistral.ai", "mistral"),
    ("cognitiveservices.azure.com", "azure_openai"),
    ("dashscope.aliyuncs.com", "dashscope"),
    ("dashscope-intl.aliyuncs.com", "dashscope"),
    ("generativelanguage.googleapis.com", "google"),
    ("integrate.api.nvidia.com", "nvidia_nim"),
    ("models.ai.azure.com", "azure_ai"),
    ("models.inference.ai.azure.com", "azure_ai"),
    ("models.github.ai", "github_models"),
    ("ollama.com", "ollama"),
    ("open.bigmodel.cn", "zai"),
    ("openai.azure.com", "azure_openai"),
    ("openrouter.ai", "openrouter"),
    ("router.huggingface.co", "huggingface"),
    ("services.ai.azure.com", "azure_openai"),
];

/// Every host of the OpenAI format with its provider.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    HOSTS.iter().copied()
}

/// Whether a host is known to serve LLMs.
pub(super) fn is_llm(host: &str) -> bool {
    let regional = host.ends_with("-aiplatform.googleapis.com");
    regional
        || provider(host).is_some()
        || gateways::is_gateway(host)
        || OTHERS.iter().any(|domain| is_within(host, domain))
}

/// The provider of a host of the OpenAI format, if it is well known.
pub(super) fn provider(host: &str) -> Option<&'static str> {
    HOSTS
        .iter()
        .find(|(suffix, _)| is_within(host, suffix))
        .map(|&(_, provider)| provider)
}

/// Whether `host` is `domain` or a subdomain of it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
