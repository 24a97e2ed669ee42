//! Prometheus scrapes the agent: `/metrics`, and beside it `/healthz`, `/readyz` and `/inventory`.

mod metrics;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::{Args, ValueEnum};
use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

use super::{Exporter, Health, http::Server, queue};
use crate::{
    inventory,
    trace::{CallRecord, CallStarted, OtherRequest, TraceRecord},
};
use metrics::{Metrics, Snapshot};

/// The agent says every second how it does; its loop is stuck if it has not for so long.
const STUCK: Duration = Duration::from_secs(10);

/// How long the agent may take to attach. Java agents alone may take 15 s.
const START: Duration = Duration::from_secs(60);

/// OpenMetrics 1.0.0, which Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where Prometheus finds the agent, and what it finds there.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Prometheus")]
#[group(skip)]
pub struct Options {
    /// Serve metrics for Prometheus at http://ADDR:PORT/metrics, such as 127.0.0.1:9464; also /healthz, /readyz
    /// and /inventory. Whoever reaches the address can read them: there are neither passwords nor TLS
    #[arg(
        id = "prometheus_listen",
        long = "prometheus",
        value_name = "ADDR:PORT",
        env = "OBSERVER_PROMETHEUS"
    )]
    pub listen: Option<SocketAddr>,
    /// Also tell calls apart by these in metrics for Prometheus, which makes many more series
    #[arg(
        id = "prometheus_labels",
        long = "prometheus-labels",
        value_name = "LABEL",
        value_delimiter = ',',
        env = "OBSERVER_PROMETHEUS_LABELS"
    )]
    pub labels: Vec<Label>,
    /// Most sets of labels in each metric for Prometheus; what comes past them is counted as `other`
    #[arg(
        id = "prometheus_max_series",
        long = "prometheus-max-series",
        value_name = "N",
        default_value_t = Options::default().max_series,
        env = "OBSERVER_PROMETHEUS_MAX_SERIES"
    )]
    pub max_series: usize,
}

/// What calls can be told apart by, beside provider, operation and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Label {
    /// Name of the process
    Comm,
    /// Id of the container
    Container,
    /// Kubernetes namespace
    Namespace,
    /// What manages the pod: its kind and its name
    Workload,
    /// Kubernetes pod
    Pod,
    /// The container as its pod calls it
    PodContainer,
    /// Kubernetes node
    Node,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: None,
            labels: Vec::new(),
            max_series: 2_000,
        }
    }
}

impl Options {
    /// Each label once: Prometheus takes no page on which a series has one twice.
    fn labels(&self) -> Vec<Label> {
        let mut labels = self.labels.clone();
        labels.sort_unstable();
        labels.dedup();
        labels
    }
}

/// Starts the server, if one is asked for.
///
/// # Errors
///
/// It cannot listen there.
pub fn open(options: &Options) -> anyhow::Result<Option<Box<dyn Exporter>>> {
    let Some(address) = options.listen else {
        return Ok(None);
    };
    let shared = Arc::new(Shared {
        metrics: Mutex::new(Metrics::new(options.max_series, options.labels())),
        inventory: inventory::Shared::new(),
        start: Instant::now(),
    });
    Ok(Some(Box::new(Prometheus {
        inventory: shared.inventory.clone(),
        _server: Server::start(address, router(Arc::clone(&shared)))?,
        shared,
    })))
}

/// Counts what is recorded.
struct Prometheus {
    shared: Arc<Shared>,
    inventory: inventory::Shared,
    _server: Server,
}

/// What the exporter's thread and the server's both look at.
struct Shared {
    metrics: Mutex<Metrics>,
    inventory: inventory::Shared,
    start: Instant,
}

impl Shared {
    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent's loop turns.
    fn health(&self) -> Result<(), String> {
        let waited = self.start.elapsed();
        match self.metrics().last_health() {
            Some((_, age)) => turning(age),
            None if waited < START => Ok(()),
            None => Err(format!("not started after {} s", waited.as_secs())),
        }
    }

    /// Whether calls are seen, and recorded.
    fn readiness(&self) -> Result<(), String> {
        let metrics = self.metrics();
        let Some((health, age)) = metrics.last_health() else {
            return Err("attaching".to_owned());
        };
        turning(age)?;
        if !health.ready {
            return Err("attaching to what was there at the start".to_owned());
        }
        if let Some(problem) = health.pods.as_ref().and_then(|pods| pods.problem.as_ref()) {
            return Err(problem.clone());
        }
        let mut queues = health.queues.iter();
        match queues.find(|(_, waiting, _)| *waiting >= queue::QUEUE / 10 * 9) {
            Some((name, waiting, _)) => Err(format!("{waiting} records wait for {name}")),
            None => Ok(()),
        }
    }
}

fn turning(age: Duration) -> Result<(), String> {
    if age < STUCK {
        return Ok(());
    }
    Err(format!(
        "the agent's loop has been stuck for {} s",
        age.as_secs()
    ))
}

impl Exporter for Prometheus {
    fn name(&self) -> &'static str {
        "prometheus"
    }

    fn flush_after(&self) -> Duration {
        // Nothing is buffered.
        Duration::from_secs(3_600)
    }

    fn is_live(&self) -> bool {
        true
    }

    fn call(&mut self, call: &CallRecord) -> io::Result<()> {
        self.shared.metrics().call(call);
        self.inventory.call(call)
    }

    fn trace(&mut self, trace: &TraceRecord) -> io::Result<()> {
        self.shared.metrics().trace(trace);
        Ok(())
    }

    fn started(&mut self, call: &CallStarted) -> io::Result<()> {
        self.shared.metrics().started(call);
        Ok(())
    }

    fn dismissed(&mut self, span_id: &str) -> io::Result<()> {
        self.shared.metrics().dismissed(span_id);
        Ok(())
    }

    fn other(&mut self, request: &OtherRequest) -> io::Result<()> {
        self.shared.metrics().other(request);
        self.inventory.other(request)
    }

    fn health(&mut self, health: &Health) -> io::Result<()> {
        self.shared.metrics().health(health);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .route("/readyz", get(readiness_page))
        .route("/inventory", get(inventory_page))
        .with_state(shared)
}

async fn metrics_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    // The exporter's thread waits for this copy only.
    let mut snapshot = shared.metrics().snapshot();
    snapshot.add_process();
    snapshot.sort();
    let open_metrics = wants_open_metrics(&headers);
    let content_type = if open_metrics {
        OPEN_METRICS
    } else {
        prometheus_text::CONTENT_TYPE
    };
    match encode(snapshot, open_metrics) {
        Ok(page) => ([(header::CONTENT_TYPE, content_type)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn encode(snapshot: Snapshot, open_metrics: bool) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut page = String::new();
    if open_metrics {
        text::encode(&mut page, &registry)?;
    } else {
        prometheus_text::encode(&mut page, &registry)?;
    }
    Ok(page)
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("application/openmetrics-text"))
    })
}

async fn health_page(State(shared): State<Arc<Shared>>) -> Response {
    page_of(shared.health())
}

async fn readiness_page(State(shared): State<Arc<Shared>>) -> Response {
    page_of(shared.readiness())
}

fn page_of(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn inventory_page(State(shared): State<Arc<Shared>>) -> Response {
    match serde_json::to_vec(&shared.inventory.listing()) {
        Ok(page) => ([(header::CONTENT_TYPE, "application/json")], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
