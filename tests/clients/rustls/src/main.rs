//! Calls an LLM over HTTPS with reqwest and rustls: `rustls-client URL [key=value]…`.
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `tasks` | calls at the same time, each on a connection of its own | 1 |
//! | `calls` | calls of each task, one after the other | 1 |
//! | `threads` | of the runtime; 1 is the thread of `main` | 1 |
//! | `bytes` | length of the prompt | 100 |
//! | `stream` | whether the answers are streamed | true |
//! | `keep` | whether connections are kept | true |
//! | `tls` | `1.2` or `1.3` | both |
//! | `suite` | only cipher suites whose name holds this | all |
//! | `before` | how many requests that are no calls come before each call | 0 |
//! | `behaviour` | header `x-test-behaviour` | |

use std::{collections::HashMap, error::Error, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

type Anyhow<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Options {
    url: String,
    keys: HashMap<String, String>,
}

impl Options {
    fn text(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    fn number(&self, key: &str, default: usize) -> usize {
        self.text(key).map_or(default, |value| {
            value.parse().unwrap_or_else(|_| panic!("{key}={value}"))
        })
    }
}

fn main() -> Anyhow<()> {
    let mut arguments = std::env::args().skip(1);
    let options = Arc::new(Options {
        url: arguments.next().ok_or("no URL")?,
        keys: arguments
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
                (key.to_owned(), value.to_owned())
            })
            .collect(),
    });
    let threads = options.number("threads", 1);
    let runtime = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?
    };
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .use_preconfigured_tls(tls(&options)?)
            .http1_only()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(if options.text("keep") == Some("false") {
                0
            } else {
                usize::MAX
            })
            .build()?;
        let tasks: Vec<_> = (0..options.number("tasks", 1))
            .map(|task| tokio::spawn(calls(client.clone(), Arc::clone(&options), task)))
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

async fn calls(client: reqwest::Client, options: Arc<Options>, task: usize) -> Anyhow<()> {
    let stream = options.text("stream") != Some("false");
    for call in 0..options.number("calls", 1) {
        for _ in 0..options.number("before", 0) {
            let models = client.get(format!("{}/v1/models", options.url));
            let mut response = models.send().await?;
            while response.chunk().await?.is_some() {}
        }
        let prompt = "Say it. ".repeat(options.number("bytes", 100) / 8);
        let body = format!(
            "{{\"model\":\"gpt-4o-{task}-{call}\",\"stream\":{stream},\"stream_options\":{{\"include_usage\":true}},\
             \"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]}}"
        );
        let mut response = client
            .post(format!("{}/v1/chat/completions", options.url))
            .header("content-type", "application/json")
            .header("authorization", "Bearer none")
            .header(
                "x-test-behaviour",
                options.text("behaviour").unwrap_or_default(),
            )
            .body(body)
            .send()
            .await?;
        while response.chunk().await?.is_some() {}
    }
    Ok(())
}

fn tls(options: &Options) -> Anyhow<ClientConfig> {
    #[cfg(feature = "aws-lc")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(feature = "ring")]
    let provider = rustls::crypto::ring::default_provider();
    let suite = options.text("suite").unwrap_or_default();
    let provider = CryptoProvider {
        cipher_suites: provider
            .cipher_suites
            .iter()
            .filter(|one| format!("{:?}", one.suite()).contains(suite))
            .copied()
            .collect(),
        ..provider
    };
    let versions: &[_] = match options.text("tls") {
        Some("1.2") => &[&TLS12],
        Some("1.3") => &[&TLS13],
        _ => &[&TLS12, &TLS13],
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(std::env::var("SSL_CERT_FILE")?)? {
        roots.add(certificate?)?;
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
