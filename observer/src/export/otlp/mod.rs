//! OTLP: spans and metrics by OpenTelemetry's conventions for generative AI, for whatever collector or back end.
//!
//! ```text
//! records ─► spans, metrics ─► queue ─┐ thread `otlp`
//!                                     └► batches ─► transport ─► gRPC or HTTP
//! ```
//!
//! The thread of the exporter makes spans and counts; another one sends, so that no time-out and no pause between
//! tries holds up what comes.

mod metrics;
mod resource;
mod settings;
mod spans;
mod transport;
mod worker;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::runtime::{self, Runtime};
use tracing::warn;

pub use self::settings::{Compression, Fields, Protocol, Semconv};
use self::{
    metrics::Metrics,
    resource::Resources,
    settings::Settings,
    transport::Transport,
    worker::{Shared, Worker},
};
use super::{Exporter, Health, Losing};
use crate::trace::{CallRecord, TraceRecord};

/// For the end of what nothing hurries: each batch has its own patience.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Where OTLP goes. What is not given here is taken from OpenTelemetry's variables (`OTEL_EXPORTER_OTLP_…`).
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "OTLP")]
#[group(skip)]
pub struct Options {
    /// The Kubernetes node that this is, and the cluster, if somebody said so.
    #[arg(skip)]
    pub node: Option<String>,
    /// See [`node`](Self::node).
    #[arg(skip)]
    pub cluster: Option<String>,
    /// Send spans and metrics by OTLP to this endpoint, such as http://localhost:4318; v1/traces and v1/metrics
    /// are appended over HTTP
    #[arg(
        id = "otlp_endpoint",
        long = "otlp-endpoint",
        value_name = "URL",
        env = "OBSERVER_OTLP_ENDPOINT"
    )]
    pub endpoint: Option<String>,
    /// What carries OTLP [default: http/protobuf]
    #[arg(
        id = "otlp_protocol",
        long = "otlp-protocol",
        value_name = "PROTOCOL",
        env = "OBSERVER_OTLP_PROTOCOL"
    )]
    pub protocol: Option<Protocol>,
    /// Header fields of each request: percent-encoded, several with commas between them (can be repeated). Other
    /// users see the command line: keys are better in OTEL_EXPORTER_OTLP_HEADERS
    #[arg(
        id = "otlp_header",
        long = "otlp-header",
        value_name = "NAME=VALUE",
        env = "OBSERVER_OTLP_HEADER",
        hide_env_values = true
    )]
    pub header: Vec<Fields>,
    /// Compress requests [default: none]
    #[arg(
        id = "otlp_compression",
        long = "otlp-compression",
        value_name = "CODING",
        env = "OBSERVER_OTLP_COMPRESSION"
    )]
    pub compression: Option<Compression>,
    /// How long an answer is waited for [default: 10]
    #[arg(
        id = "otlp_timeout",
        long = "otlp-timeout",
        value_name = "SECONDS",
        value_parser = settings::positive_seconds,
        env = "OBSERVER_OTLP_TIMEOUT"
    )]
    pub timeout: Option<f64>,
    /// Trust these certificates (PEM) instead of the system's
    #[arg(
        id = "otlp_certificate",
        long = "otlp-certificate",
        value_name = "FILE",
        env = "OBSERVER_OTLP_CERTIFICATE"
    )]
    pub certificate: Option<PathBuf>,
    /// The certificate (PEM) by which the endpoint knows the agent
    #[arg(
        id = "otlp_client_certificate",
        long = "otlp-client-certificate",
        value_name = "FILE",
        env = "OBSERVER_OTLP_CLIENT_CERTIFICATE"
    )]
    pub client_certificate: Option<PathBuf>,
    /// The key (PEM) of that certificate
    #[arg(
        id = "otlp_client_key",
        long = "otlp-client-key",
        value_name = "FILE",
        env = "OBSERVER_OTLP_CLIENT_KEY"
    )]
    pub client_key: Option<PathBuf>,
    /// No TLS, where an endpoint of gRPC is written without http:// or https://
    #[arg(
        id = "otlp_insecure",
        long = "otlp-insecure",
        env = "OBSERVER_OTLP_INSECURE"
    )]
    pub insecure: bool,
    /// Names of attributes and metrics: of the semantic conventions 1.41, or the latest ones
    #[arg(
        id = "otlp_semconv",
        long = "otlp-semconv",
        value_name = "VERSION",
        default_value = "1.41",
        env = "OBSERVER_OTLP_SEMCONV"
    )]
    pub semconv: Semconv,
    /// How long what is left at the end is tried to be sent [default: 5]
    #[arg(
        id = "otlp_flush_timeout",
        long = "otlp-flush-timeout",
        value_name = "SECONDS",
        value_parser = settings::seconds,
        env = "OBSERVER_OTLP_FLUSH_TIMEOUT"
    )]
    pub flush_timeout: Option<f64>,
}

/// Prepares the exporter; `None` if neither the options nor the environment ask for OTLP. Nothing is connected.
///
/// # Errors
///
/// What is asked for cannot be: no URL, no such file, no certificate.
pub fn open(options: &Options) -> anyhow::Result<Option<Box<dyn Exporter>>> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(settings) = Settings::read(options, &variable)? else {
        return Ok(None);
    };
    Ok(Some(Box::new(Otlp::new(settings)?)))
}

/// Makes spans and metrics of records.
struct Otlp {
    resources: Resources,
    shared: Arc<Shared>,
    semconv: Semconv,
    interval: Duration,
    flush: Duration,
    /// Whether spans and metrics are asked for.
    sends: (bool, bool),
    state: State,
}

enum State {
    /// Its thread is started by the thread that writes, which has given up all rights.
    Ready {
        runtime: Runtime,
        traces: Option<Box<Transport>>,
        metrics: Option<Box<Transport>>,
    },
    Running(Worker),
    Over,
}

impl Otlp {
    fn new(settings: Settings) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .context("OTLP: no runtime")?;
        let (traces, metrics) = {
            let _context = runtime.enter();
            (
                settings.traces.clone().map(Transport::new).transpose()?,
                settings.metrics.clone().map(Transport::new).transpose()?,
            )
        };
        let mut resources = Resources::new(&settings);
        let counts = Metrics::new(settings.semconv, settings.temporality, resources.agent());
        Ok(Self {
            shared: Arc::new(Shared::new(
                settings.batch,
                spans::schema_url(settings.semconv),
                counts,
            )),
            resources,
            semconv: settings.semconv,
            interval: settings.interval,
            flush: settings.flush,
            sends: (traces.is_some(), metrics.is_some()),
            state: State::Ready {
                runtime,
                traces: traces.map(Box::new),
                metrics: metrics.map(Box::new),
            },
        })
    }

    fn start(&mut self) -> io::Result<()> {
        if !matches!(self.state, State::Ready { .. }) {
            return Ok(());
        }
        if let State::Ready {
            runtime,
            traces,
            metrics,
        } = std::mem::replace(&mut self.state, State::Over)
        {
            self.state = State::Running(Worker::start(
                runtime,
                traces.map(|transport| *transport),
                metrics.map(|transport| *transport),
                self.interval,
                &self.shared,
            )?);
        }
        Ok(())
    }
}

impl Exporter for Otlp {
    fn name(&self) -> &'static str {
        "otlp"
    }

    fn call(&mut self, call: &CallRecord) -> io::Result<()> {
        self.start()?;
        let origin = self.resources.of_call(call);
        let (traces, metrics) = self.sends;
        if metrics {
            self.shared.metrics().call(call, &origin);
        }
        if traces {
            self.shared.push(&origin, spans::call(call, self.semconv));
        }
        Ok(())
    }

    fn trace(&mut self, trace: &TraceRecord) -> io::Result<()> {
        self.start()?;
        let origin = self.resources.of_trace(trace);
        let (traces, metrics) = self.sends;
        if metrics {
            self.shared.metrics().trace(trace, &origin);
        }
        if traces {
            for span in spans::trace(trace) {
                self.shared.push(&origin, span);
            }
        }
        Ok(())
    }

    fn health(&mut self, health: &Health) -> io::Result<()> {
        self.start()?;
        self.shared.metrics().health(health);
        Ok(())
    }

    /// Metrics tell how the agent does.
    fn is_live(&self) -> bool {
        self.sends.1
    }

    /// Batches go when they are full or old enough.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_time(&mut self) {
        self.shared.take_time();
    }

    fn losses(&self) -> Option<Losing> {
        let shared = Arc::clone(&self.shared);
        Some(Arc::new(move || shared.lost()))
    }

    fn finish(&mut self) -> io::Result<()> {
        let State::Running(worker) = std::mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        worker.finish(match self.shared.is_unhurried() {
            true => FOREVER,
            false => self.flush,
        });
        let (delivery, trouble) = self.shared.result();
        if delivery.dropped > 0 || delivery.rejected > 0 {
            warn!(
                delivered = delivery.delivered,
                dropped = delivery.dropped,
                rejected = delivery.rejected,
                why = trouble.unwrap_or_default(),
                "OTLP: not all spans were delivered"
            );
        }
        Ok(())
    }
}
