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

/// Every host of the OpenAI format with its provider, and those of Bedrock.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    HOSTS.iter().copied().chain([
        ("bedrock-mantle.REGION.api.aws", "aws_bedrock"),
        ("bedrock-runtime-fips.REGION.amazonaws.com", "aws_bedrock"),
        ("bedrock-runtime.REGION.amazonaws.com", "aws_bedrock"),
    ])
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
        .or_else(|| is_bedrock(host).then_some("aws_bedrock"))
}

/// Whether a host is one of AWS Bedrock's that models answer on: `bedrock-runtime.REGION.amazonaws.com`, also
/// `-fips`, in China, with two stacks (`api.aws`), behind an endpoint of a VPC, or `bedrock-mantle`.
pub(super) fn is_bedrock(host: &str) -> bool {
    const SERVICES: &[&str] = &["bedrock-mantle", "bedrock-runtime", "bedrock-runtime-fips"];
    const DOMAINS: &[&str] = &[
        "amazonaws.com",
        "amazonaws.com.cn",
        "api.amazonwebservices.com.cn",
        "api.aws",
    ];
    host.split('.').any(|label| SERVICES.contains(&label))
        && DOMAINS.iter().any(|domain| is_within(host, domain))
}

/// Whether `host` is `domain` or a subdomain of it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_bedrock() {
        for host in [
            "bedrock-runtime.us-east-1.amazonaws.com",
            "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
            "bedrock-runtime.cn-north-1.amazonaws.com.cn",
            "bedrock-runtime.eu-central-1.api.aws",
            "vpce-0a1b2c-3d4e.bedrock-runtime.us-west-2.vpce.amazonaws.com",
            "bedrock-mantle.us-east-1.api.aws",
        ] {
            assert_eq!(provider(host), Some("aws_bedrock"), "{host}");
            assert!(is_llm(host), "{host}");
        }
        for host in [
            "bedrock.us-east-1.amazonaws.com",
            "bedrock-agent-runtime.us-east-1.amazonaws.com",
            "bedrock-runtime.us-east-1.amazonaws.com.evil.example",
            "bedrock-runtime.example.com",
            "s3.us-east-1.amazonaws.com",
        ] {
            assert!(!is_bedrock(host), "{host}");
        }
    }
}
