//! Who is asked about pods: a thread of its own, with no rights but the token.

use std::{
    fs, io,
    path::Path,
    pin::pin,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use kube::{
    Api, Client, Config,
    config::AuthInfo,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::Deserialize;
use tokio::runtime::{self, Runtime};
use tracing::debug;

use super::{
    Metadata, Options,
    object::{self, Pod},
};
use crate::attach::system::drop_all_capabilities;

/// The authorities that have signed the certificates of a cluster, in every pod.
const CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// The kubelet is asked no more often.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after answers that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Labels may have changed after so long.
const REFRESH: Duration = Duration::from_secs(300);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// When the agents of many nodes are started at once, they ask the API server within this.
const SPREAD: Duration = Duration::from_secs(2);

/// Longest answer of a kubelet: ten times what that of a node with 250 usual pods has.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Answers that may wait to be taken.
const ANSWERS: usize = 1_024;

type News = Result<Vec<Pod>, String>;

/// A thread that asks.
pub(super) struct Source {
    asks: SyncSender<()>,
    news: Receiver<News>,
}

impl Source {
    /// Starts the thread, if anybody is to be asked.
    pub(super) fn start(options: &Options) -> anyhow::Result<Option<Self>> {
        let (asks, asked) = mpsc::sync_channel(1);
        let (answers, news) = mpsc::sync_channel(ANSWERS);
        let work: Box<dyn FnOnce(&Runtime) + Send> = match options.metadata {
            Metadata::Cgroup => return Ok(None),
            Metadata::Kubelet => {
                let config = kubelet(options)?;
                Box::new(move |runtime| poll(runtime, config, &asked, &answers))
            }
            Metadata::Api => {
                let node = options.node.clone().context(
                    "the API server is asked for the pods of this node alone: --kubernetes-node says which it is",
                )?;
                Box::new(move |runtime| watch(runtime, &node, &asked, &answers))
            }
        };
        // What else speaks TLS has the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot ask for pods")?;
        thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || {
                drop_all_capabilities();
                work(&runtime);
            })
            .context("cannot start a thread")?;
        Ok(Some(Self { asks, news }))
    }

    /// Some container is not known.
    pub(super) fn ask(&self) {
        // One question is for all.
        let _ = self.asks.try_send(());
    }

    /// The next answer, if there is one.
    pub(super) fn news(&self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

/// How the kubelet is reached.
fn kubelet(options: &Options) -> anyhow::Result<Config> {
    let url = options
        .kubelet
        .parse()
        .with_context(|| format!("{} is no URL", options.kubelet))?;
    let mut config = Config::new(url);
    config.connect_timeout = Some(ANSWER);
    config.read_timeout = Some(ANSWER);
    config.write_timeout = Some(ANSWER);
    config.default_retry = false;
    config.accept_invalid_certs = options.kubelet_insecure;
    let usual = Path::new(CLUSTER_CA);
    config.root_cert_file = match &options.kubelet_ca {
        Some(path) => {
            fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(path.clone())
        }
        None => fs::exists(usual)
            .is_ok_and(|is| is)
            .then(|| usual.to_owned()),
    };
    fs::metadata(&options.token_file)
        .with_context(|| format!("cannot read {}", options.token_file.display()))?;
    let token_file = options.token_file.to_str().context("no UTF-8")?;
    config.auth_info = AuthInfo {
        token_file: Some(token_file.to_owned()),
        ..AuthInfo::default()
    };
    Ok(config)
}

/// Asks the kubelet for all its pods whenever one is not known.
fn poll(runtime: &Runtime, config: Config, asked: &Receiver<()>, answers: &SyncSender<News>) {
    let mut client = None;
    let mut pause = PAUSE;
    loop {
        match asked.recv_timeout(REFRESH) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let start = Instant::now();
        let answer = runtime.block_on(async {
            if client.is_none() {
                client = Some(Client::try_from(config.clone())?);
            }
            match &client {
                Some(client) => list(client).await,
                None => Ok(Vec::new()),
            }
        });
        pause = match &answer {
            Ok(pods) => {
                debug!(pods = pods.len(), took = ?start.elapsed(), "the kubelet has answered");
                PAUSE
            }
            Err(_) => (2 * pause).min(LONGEST_PAUSE),
        };
        let answer =
            answer.map_err(|error| format!("the kubelet at {}: {error:#}", config.cluster_url));
        if answers.send(answer).is_err() {
            return;
        }
        thread::sleep(pause.saturating_sub(start.elapsed()));
    }
}

/// The kubelet's list of its pods (`k8s.io/kubernetes/pkg/kubelet/server`, `/pods`).
#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Option<Vec<Pod>>,
}

async fn list(client: &Client) -> anyhow::Result<Vec<Pod>> {
    let request = http::Request::get("/pods").body(Vec::new())?;
    let answer = tokio::time::timeout(ANSWER, client.request_text(request));
    let text = answer
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    anyhow::ensure!(
        text.len() <= ANSWER_BYTES,
        "an answer of {} bytes",
        text.len()
    );
    // What it says may be secret: the error tells the place only.
    let list: List = serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!("no list of pods, at {line}:{column}")
    })?;
    Ok(list.items.unwrap_or_default())
}

/// Follows the pods of this node at the API server.
fn watch(runtime: &Runtime, node: &str, asked: &Receiver<()>, answers: &SyncSender<News>) {
    thread::sleep(SPREAD.mul_f64(fastrand::f64()));
    let client = loop {
        // Within the cluster, or by KUBECONFIG.
        let client = runtime.block_on(async {
            let config = Config::infer().await.context("no way to the API server")?;
            Client::try_from(config).context("no way to the API server")
        });
        match client {
            Ok(client) => break client,
            Err(error) => {
                if answers.send(Err(format!("{error:#}"))).is_err() {
                    return;
                }
                thread::sleep(LONGEST_PAUSE);
            }
        }
    };
    let pods: Api<Pod> = Api::all_with(client, &object::resource());
    // The API server answers from its cache, and does not ask etcd.
    let config = watcher::Config::default()
        .fields(&format!("spec.nodeName={node}"))
        .any_semantic();
    runtime.block_on(async {
        let mut events = pin!(watcher(pods, config).default_backoff());
        while let Some(event) = events.next().await {
            let answer = match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) => Ok(vec![pod]),
                Ok(Event::Init | Event::InitDone) => Ok(Vec::new()),
                Err(error) => Err(format!("the API server: {error}")),
            };
            // Nobody else reads it: what is asked for is told in any case.
            let _ = asked.try_recv();
            if answers.send(answer).is_err() {
                return;
            }
        }
    });
}
