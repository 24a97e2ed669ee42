//! Well-known hosts of providers. A host counts with all its subdomains.

use super::gateways;
use crate::http::RequestHead;

/// Host suffix and provider. The names are those that OpenTelemetry or the vendors use. Many of them are in litellm
/// 1.106 (`constants.py`, `get_llm_provider_logic.py`).
const HOSTS: &[(&str, &str)] = &[
    ("aiplatform.googleapis.com", "vertex_ai"),
    ("api-inference.huggingface.co", "huggingface"),
    ("api-inference.modelscope.cn", "modelscope"),
    ("api.ai21.com", "ai21"),
    ("api.anthropic.com", "anthropic"),
    ("api.cerebras.ai", "cerebras"),
    ("api.cohere.ai", "cohere"),
    ("api.cohere.com", "cohere"),
    ("api.deepinfra.com", "deepinfra"),
    ("api.deepseek.com", "deepseek"),
    ("api.edenai.run", "edenai"),
    ("api.featherless.ai", "featherless"),
    ("api.fireworks.ai", "fireworks"),
    ("api.friendli.ai", "friendli"),
    ("api.githubcopilot.com", "github_copilot"),
    ("api.groq.com", "groq"),
    ("api.hyperbolic.xyz", "hyperbolic"),
    ("api.inceptionlabs.ai", "inception"),
    ("api.inference.wandb.ai", "wandb"),
    ("api.lambda.ai", "lambda"),
    ("api.llama.com", "meta"),
    ("api.meta.ai", "meta"),
    ("api.mistral.ai", "mistral"),
    ("api.moonshot.ai", "moonshot"),
    ("api.moonshot.cn", "moonshot"),
    ("api.morphllm.com", "morph"),
    ("api.novita.ai", "novita"),
    ("api.openai.com", "openai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.poe.com", "poe"),
    ("api.publicai.co", "publicai"),
    ("api.reka.ai", "reka"),
    ("api.sambanova.ai", "sambanova"),
    ("api.studio.nebius.ai", "nebius"),
    ("api.synthetic.new", "synthetic"),
    ("api.together.ai", "together"),
    ("api.together.xyz", "together"),
    ("api.v0.dev", "v0"),
    ("api.x.ai", "xai"),
    ("api.z.ai", "zai"),
    ("ark.cn-beijing.volces.com", "volcengine"),
    ("codestral.mistral.ai", "mistral"),
    ("cognitiveservices.azure.com", "azure_openai"),
    ("dashscope-intl.aliyuncs.com", "dashscope"),
    ("dashscope-us.aliyuncs.com", "dashscope"),
    ("dashscope.aliyuncs.com", "dashscope"),
    ("endpoints.huggingface.cloud", "huggingface"),
    ("generativelanguage.googleapis.com", "google"),
    ("generativelanguage.mtls.googleapis.com", "google"),
    ("gigachat.devices.sberbank.ru", "gigachat"),
    ("inference.api.nscale.com", "nscale"),
    ("inference.baseten.co", "baseten"),
    ("integrate.api.nvidia.com", "nvidia_nim"),
    ("llm.chutes.ai", "chutes"),
    ("ml.cloud.ibm.com", "watsonx"),
    ("models.ai.azure.com", "azure_ai"),
    ("models.inference.ai.azure.com", "azure_ai"),
    ("models.github.ai", "github_models"),
    ("nano-gpt.com", "nano_gpt"),
    ("ollama.com", "ollama"),
    ("open.bigmodel.cn", "zai"),
    ("openai.azure.com", "azure_openai"),
    ("openrouter.ai", "openrouter"),
    ("router.huggingface.co", "huggingface"),
    ("services.ai.azure.com", "azure_openai"),
];

/// Workers AI of Cloudflare, among all else that is asked of this host.
const CLOUDFLARE: &str = "api.cloudflare.com";

/// Every host with its provider.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    HOSTS.iter().copied().chain([
        ("bedrock-mantle.REGION.api.aws", "aws_bedrock"),
        ("bedrock-runtime-fips.REGION.amazonaws.com", "aws_bedrock"),
        ("bedrock-runtime.REGION.amazonaws.com", "aws_bedrock"),
    ])
}

/// Whether a host is known to serve LLMs.
pub(super) fn is_llm(host: &str) -> bool {
    provider(host).is_some() || gateways::is_gateway(host)
}

/// The provider of a host, if it is well known.
pub(super) fn provider(host: &str) -> Option<&'static str> {
    if is_vertex(host) {
        return Some("vertex_ai");
    }
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

/// The provider that a request goes to, if its host is well known or a gateway names it.
pub(super) fn of(head: &RequestHead) -> Option<&'static str> {
    let host = head.host.as_deref().unwrap_or_default();
    match gateways::provider(head).or_else(|| provider(host)) {
        // One resource serves all three; these are Azure AI inference and the models of Anthropic.
        Some("azure_openai")
            if ["/models/", "/anthropic/"]
                .iter()
                .any(|begin| head.path.starts_with(begin)) =>
        {
            Some("azure_ai")
        }
        None if is_within(host, CLOUDFLARE) => {
            // `/client/v4/accounts/ACCOUNT/ai/…`
            let service = head.path.split('/').nth(5);
            (service == Some("ai")).then_some("cloudflare")
        }
        known => known,
    }
}

/// Whether `host` is `domain` or a subdomain of it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether it is one of Vertex AI's hosts: of a region, of several (`aiplatform.eu.rep.googleapis.com`), with
/// mTLS, or of none.
fn is_vertex(host: &str) -> bool {
    let Some(rest) = host.strip_suffix(".googleapis.com") else {
        return false;
    };
    rest.split('.')
        .any(|label| label == "aiplatform" || label.ends_with("-aiplatform"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    #[test]
    fn hosts_are_known_on_a_boundary() {
        for (host, expected) in [
            ("api.openai.com", Some("openai")),
            ("eu.api.openai.com", Some("openai")),
            ("my.services.ai.azure.com", Some("azure_openai")),
            ("us-central1-aiplatform.googleapis.com", Some("vertex_ai")),
            ("aiplatform.eu.rep.googleapis.com", Some("vertex_ai")),
            ("aiplatform.mtls.googleapis.com", Some("vertex_ai")),
            ("aiplatform.googleapis.com", Some("vertex_ai")),
            ("us-south.ml.cloud.ibm.com", Some("watsonx")),
            ("notapi.openai.com", None),
            ("api.openai.com.evil", None),
            ("aiplatform.example.com", None),
            ("notaiplatform.googleapis.com", None),
            ("storage.googleapis.com", None),
            ("", None),
        ] {
            assert_eq!(provider(host), expected, "{host}");
        }
    }

    #[test]
    fn each_host_is_listed_once() {
        for (index, (host, _)) in HOSTS.iter().enumerate() {
            let rest = &HOSTS[index + 1..];
            assert!(rest.iter().all(|(other, _)| other != host), "{host}");
        }
    }

    #[test]
    fn one_host_has_models_among_all_else() {
        for (path, expected) in [
            (
                "/client/v4/accounts/a/ai/v1/chat/completions",
                Some("cloudflare"),
            ),
            ("/client/v4/accounts/a/dns", None),
            ("/", None),
        ] {
            let head = RequestHead {
                method: Method::POST,
                path: path.to_owned(),
                query: String::new(),
                host: Some(CLOUDFLARE.to_owned()),
                port: None,
                headers: HeaderMap::new(),
                credential: None,
                partial: false,
                websocket: false,
            };
            assert_eq!(of(&head), expected, "{path}");
        }
    }

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
