//! The thread that sends: batches of spans, and metrics at intervals, each tried again for as long as it may help.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    metrics::{Delivery, Metrics, Part},
    resource::{Origin, scope},
    settings::Batch,
    transport::{Outcome, Payload, Transport},
};

/// Of a request, before it is compressed: servers of gRPC take 4 MiB by default.
pub(super) const BATCH_BYTES: usize = 2 << 20;

/// How long the exporter waits for room while spans are taken: a burst is no reason to drop any.
const ROOM: Duration = Duration::from_secs(1);

/// First and longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The longest at the end, when there is not much time.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What the exporter and the thread share.
pub(super) struct Shared {
    batch: Batch,
    schema_url: &'static str,
    spans: Mutex<Spans>,
    room: Condvar,
    some: Notify,
    metrics: Mutex<Metrics>,
    /// There is time for every span.
    unhurried: AtomicBool,
}

#[derive(Default)]
struct Spans {
    waiting: VecDeque<Waiting>,
    /// Of the batch that is being sent.
    sending: usize,
    /// The endpoint does not take anything at the moment.
    failing: bool,
    delivery: Delivery,
    /// Why some were not delivered.
    trouble: Option<String>,
}

struct Waiting {
    since: Instant,
    bytes: usize,
    origin: Arc<Origin>,
    span: Span,
}

/// The running thread.
pub(super) struct Worker {
    closing: watch::Sender<Option<Instant>>,
    done: Receiver<()>,
}

/// What became of a payload.
enum End {
    /// Taken, but for so many.
    Taken(u64, String),
    Dropped(String),
}

impl Shared {
    pub(super) fn new(batch: Batch, schema_url: &'static str, metrics: Metrics) -> Self {
        Self {
            batch,
            schema_url,
            spans: Mutex::default(),
            room: Condvar::new(),
            some: Notify::new(),
            metrics: Mutex::new(metrics),
            unhurried: AtomicBool::new(false),
        }
    }

    /// Spans that will not be delivered.
    pub(super) fn lost(&self) -> u64 {
        let Delivery {
            dropped, rejected, ..
        } = self.spans().delivery;
        dropped + rejected
    }

    pub(super) fn take_time(&self) {
        self.unhurried.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_unhurried(&self) -> bool {
        self.unhurried.load(Ordering::Relaxed)
    }

    /// Puts a span in line. What there is no room for is counted.
    pub(super) fn push(&self, origin: &Arc<Origin>, span: Span) {
        let mut spans = self.spans();
        let is_full = |spans: &mut Spans| spans.waiting.len() + spans.sending >= self.batch.queue;
        let unhurried = self.is_unhurried();
        // As long as a batch may take.
        let patience = match unhurried {
            true => self.batch.patience.saturating_mul(2),
            false => ROOM,
        };
        if is_full(&mut spans) && (!spans.failing || unhurried) {
            let full = |spans: &mut Spans| is_full(spans) && (!spans.failing || unhurried);
            spans = self
                .room
                .wait_timeout_while(spans, patience, full)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if is_full(&mut spans) {
                // Whoever waits for each span in vain is late with all.
                spans.failing = true;
            }
        }
        if is_full(&mut spans) {
            spans.delivery.dropped += 1;
            return;
        }
        let was_empty = spans.waiting.is_empty();
        spans.waiting.push_back(Waiting {
            since: Instant::now(),
            bytes: span.encoded_len(),
            origin: Arc::clone(origin),
            span,
        });
        if was_empty || spans.waiting.len() >= self.batch.size {
            self.some.notify_one();
        }
    }

    pub(super) fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the spans, and why: those that still wait are dropped.
    pub(super) fn result(&self) -> (Delivery, Option<String>) {
        let mut spans = self.spans();
        let left = (mem::take(&mut spans.waiting).len() + mem::take(&mut spans.sending)) as u64;
        spans.delivery.dropped += left;
        (spans.delivery, spans.trouble.clone())
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spans for a request, if it is time for one: else, when it is, or nothing if there are none.
    fn take(&self, now: bool) -> Result<Vec<Waiting>, Option<Instant>> {
        let mut spans = self.spans();
        let Some(oldest) = spans.waiting.front() else {
            return Err(None);
        };
        let due = oldest.since + self.batch.delay;
        if !now && spans.waiting.len() < self.batch.size && Instant::now() < due {
            return Err(Some(due));
        }
        let mut bytes = 0;
        let count = spans
            .waiting
            .iter()
            .take(self.batch.size)
            .take_while(|waiting| {
                let first = bytes == 0;
                bytes += waiting.bytes;
                first || bytes <= BATCH_BYTES
            })
            .count();
        spans.sending = count;
        Ok(spans.waiting.drain(..count).collect())
    }

    fn settle(&self, end: End) {
        let mut spans = self.spans();
        let sent = mem::take(&mut spans.sending) as u64;
        match end {
            End::Taken(rejected, says) => {
                let rejected = rejected.min(sent);
                spans.delivery.delivered += sent - rejected;
                spans.delivery.rejected += rejected;
                if rejected > 0 {
                    warn!(rejected, says, "OTLP: spans were rejected");
                    spans.trouble = Some(says);
                } else if !says.is_empty() {
                    warn!(says, "OTLP: the endpoint warns");
                }
            }
            End::Dropped(why) => {
                spans.delivery.dropped += sent;
                spans.trouble = Some(why);
            }
        }
        spans.failing = false;
        drop(spans);
        self.room.notify_all();
    }

    fn fails(&self, why: &str) {
        let mut spans = self.spans();
        spans.failing = true;
        spans.trouble = Some(why.to_owned());
        drop(spans);
        self.room.notify_all();
    }
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(
        runtime: Runtime,
        traces: Option<Transport>,
        metrics: Option<Transport>,
        interval: Duration,
        shared: &Arc<Shared>,
    ) -> std::io::Result<Self> {
        let (closing, closes) = watch::channel(None);
        let (end, done) = mpsc::channel();
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let traces = async {
                        if let Some(transport) = traces {
                            send_traces(&shared, &transport, closes.clone()).await;
                        }
                    };
                    let metrics = async {
                        if let Some(transport) = metrics {
                            send_metrics(&shared, &transport, interval, closes.clone()).await;
                        }
                    };
                    tokio::join!(traces, metrics)
                });
                let _ = end.send(());
                // Looking up a name may take longer than there is time.
                runtime.shutdown_background();
            })?;
        Ok(Self { closing, done })
    }

    /// Has all sent that is left, for so long at most.
    pub(super) fn finish(self, flush: Duration) {
        let _ = self.closing.send(Some(Instant::now() + flush));
        let _ = self.done.recv_timeout(flush + Duration::from_millis(500));
    }
}

async fn send_traces(
    shared: &Shared,
    transport: &Transport,
    mut closing: watch::Receiver<Option<Instant>>,
) {
    loop {
        let closes = *closing.borrow();
        let batch = match shared.take(closes.is_some()) {
            Ok(batch) => batch,
            Err(None) if closes.is_some() => return,
            Err(due) => {
                let due = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shared.some.notified() => {}
                    () = due => {}
                    changed = closing.changed() => {
                        // The exporter is gone without a word, and would be at every turn.
                        if changed.is_err() {
                            return;
                        }
                    }
                }
                continue;
            }
        };
        let payload = Payload::Traces(request(batch, shared.schema_url));
        let end = deliver(
            transport,
            &payload,
            shared.batch.patience,
            &mut closing,
            |why| shared.fails(why),
        )
        .await;
        let expired = matches!(&end, End::Dropped(_)) && is_over(&closing);
        shared.settle(end);
        if expired {
            return;
        }
    }
}

async fn send_metrics(
    shared: &Shared,
    transport: &Transport,
    interval: Duration,
    mut closing: watch::Receiver<Option<Instant>>,
) {
    loop {
        let last = tokio::select! {
            () = sleep(interval) => false,
            () = closed(closing.clone()) => true,
        };
        let delivery = shared.spans().delivery;
        let parts = shared.metrics().collect(delivery);
        // What is not delivered is told by the next ones, too.
        let patience = if last { Duration::MAX } else { interval };
        let begun = Instant::now();
        for Part { request, told } in parts {
            let payload = Payload::Metrics(request);
            let patience = patience.saturating_sub(begun.elapsed());
            match deliver(transport, &payload, patience, &mut closing, |_| ()).await {
                End::Taken(rejected, says) => {
                    if rejected > 0 || !says.is_empty() {
                        warn!(rejected, says, "OTLP: data points were rejected");
                    }
                    shared.metrics().taken(told);
                }
                End::Dropped(why) => {
                    if last {
                        warn!(why, "OTLP: the last metrics were not delivered");
                    }
                    shared.metrics().lost(told);
                    if is_over(&closing) {
                        return;
                    }
                }
            }
        }
        if last || is_over(&closing) {
            return;
        }
    }
}

/// Sends until it is taken, refused, or there is no more time.
async fn deliver(
    transport: &Transport,
    payload: &Payload,
    patience: Duration,
    closing: &mut watch::Receiver<Option<Instant>>,
    mut fails: impl FnMut(&str),
) -> End {
    let begun = Instant::now();
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .without_max_times()
        .with_jitter()
        .build();
    let mut failed = false;
    let mut last = String::from("no answer in time");
    loop {
        let Some(outcome) = before_end(closing.clone(), transport.send(payload)).await else {
            return End::Dropped(last);
        };
        let (asked, why) = match outcome {
            Outcome::Taken(rejected, says) => {
                if failed {
                    info!(endpoint = transport.place(), "OTLP: delivered again");
                }
                return End::Taken(rejected, says);
            }
            Outcome::Again(asked, why) => (asked, why),
            Outcome::Refused(why) => {
                warn!(endpoint = transport.place(), why, "OTLP: refused");
                return End::Dropped(why);
            }
        };
        if !failed {
            failed = true;
            warn!(
                endpoint = transport.place(),
                why, "OTLP: cannot be delivered, will be tried again"
            );
        }
        fails(&why);
        last = why;
        let mut pause = pauses.next().unwrap_or(PAUSES.1).min(PAUSES.1);
        let closes = *closing.borrow();
        if closes.is_some() {
            pause = pause.min(LAST_PAUSE);
        }
        // Who asks for no pause is not asked without one.
        let asked = asked.filter(|asked| !asked.is_zero());
        if let Some(asked) = asked {
            pause = pause.max(asked);
        } else if closes.is_none() && begun.elapsed() + pause > patience {
            return End::Dropped(last);
        }
        if begun.elapsed() > patience {
            return End::Dropped(last);
        }
        // At the end there is one more try at once, unless the server has asked for patience.
        let hurry = closes.is_none() && asked.is_none();
        let rest = async {
            tokio::select! {
                () = sleep(pause) => {}
                () = closed(closing.clone()), if hurry => {}
            }
        };
        if before_end(closing.clone(), rest).await.is_none() {
            return End::Dropped(last);
        }
    }
}

/// What `work` gives, if it is done before the end.
async fn before_end<T>(
    mut closing: watch::Receiver<Option<Instant>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let end = async {
        let closes = closing.wait_for(Option::is_some).await;
        let closes = closes.ok().and_then(|closes| *closes);
        // The exporter is gone without a word: at once.
        sleep_until(closes.unwrap_or_else(Instant::now)).await;
    };
    tokio::select! {
        result = work => Some(result),
        () = end => None,
    }
}

/// Whether there is no more time.
fn is_over(closing: &watch::Receiver<Option<Instant>>) -> bool {
    closing
        .borrow()
        .is_some_and(|closes| Instant::now() >= closes)
}

/// Waits for the begin of the end.
async fn closed(mut closing: watch::Receiver<Option<Instant>>) {
    let _ = closing.wait_for(Option::is_some).await;
}

/// Spans by resource, in the order in which each came.
fn request(batch: Vec<Waiting>, schema_url: &str) -> ExportTraceServiceRequest {
    let mut places = HashMap::new();
    let mut resource_spans: Vec<ResourceSpans> = Vec::new();
    for Waiting { origin, span, .. } in batch {
        let at = *places.entry(origin.number).or_insert_with(|| {
            resource_spans.push(ResourceSpans {
                resource: Some(origin.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope()),
                    spans: Vec::new(),
                    schema_url: schema_url.to_owned(),
                }],
                schema_url: schema_url.to_owned(),
            });
            resource_spans.len() - 1
        });
        if let Some(scope) = resource_spans
            .get_mut(at)
            .and_then(|resource| resource.scope_spans.first_mut())
        {
            scope.spans.push(span);
        }
    }
    ExportTraceServiceRequest { resource_spans }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use opentelemetry_proto::tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::metric::Data,
        resource::v1::Resource,
    };
    use tokio::runtime::Builder;

    use super::{
        super::settings::{Protocol, Semconv, Target, Temporality, Tls},
        *,
    };
    use crate::trace::{CallRecord, record::tests::call};

    const NAME: usize = 900;

    fn transport(port: u16) -> Transport {
        Transport::new(Target {
            url: format!("http://127.0.0.1:{port}").parse().unwrap(),
            protocol: Protocol::HttpProtobuf,
            headers: Vec::new(),
            gzip: false,
            timeout: Duration::from_secs(10),
            tls: Tls::default(),
        })
        .unwrap()
    }

    /// A server that answers each request so, and gives the bodies.
    fn server(answer: &'static str) -> (u16, Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, bodies) = mpsc::channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut bytes = Vec::new();
                let begin = loop {
                    let mut part = [0; 4_096];
                    let length = stream.read(&mut part).unwrap();
                    bytes.extend_from_slice(&part[..length]);
                    if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                        break at + 4;
                    }
                };
                let head = String::from_utf8_lossy(&bytes[..begin]).to_lowercase();
                let (_, length) = head.split_once("content-length: ").unwrap();
                let length: usize = length.split('\r').next().unwrap().parse().unwrap();
                let mut rest = vec![0; begin + length - bytes.len()];
                stream.read_exact(&mut rest).unwrap();
                bytes.extend_from_slice(&rest);
                let _ = sender.send(bytes.split_off(begin));
                let fields = "content-length: 0\r\nconnection: close";
                write!(stream, "HTTP/1.1 {answer}\r\n{fields}\r\n\r\n").unwrap();
            }
        });
        (port, bodies)
    }

    fn shared() -> Arc<Shared> {
        let agent = Arc::new(Origin {
            number: 0,
            resource: Resource::default(),
        });
        let metrics = Metrics::new(Semconv::V1_41, Temporality::Cumulative, agent);
        Arc::new(Shared::new(Batch::default(), "", metrics))
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn who_asks_for_no_pause_is_asked_no_more_often() {
        for answer in [
            "503 Busy\r\nretry-after: 0",
            "429 Busy\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            let (port, bodies) = server(answer);
            let (_sender, mut closing) = watch::channel(None);
            let end = runtime().block_on(async {
                let payload = Payload::Traces(ExportTraceServiceRequest {
                    resource_spans: vec![ResourceSpans::default()],
                });
                let patience = Duration::from_secs(2);
                deliver(&transport(port), &payload, patience, &mut closing, |_| ()).await
            });
            assert!(matches!(end, End::Dropped(_)));
            let tries = bodies.try_iter().count();
            assert!((2..=4).contains(&tries), "{tries}");
        }
    }

    #[test]
    fn an_exporter_that_is_gone_takes_the_thread_with_it() {
        let runtime = runtime();
        let traces = {
            let _context = runtime.enter();
            transport(9)
        };
        let hour = Duration::from_secs(3_600);
        let worker = Worker::start(runtime, Some(traces), None, hour, &shared()).unwrap();
        let Worker { closing, done } = worker;
        drop(closing);
        assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn metrics_that_are_too_many_for_one_request_are_sent_by_several() {
        const MODELS: usize = 1_500;
        let shared = shared();
        let origin = Arc::new(Origin {
            number: 1,
            resource: Resource::default(),
        });
        for number in 0..MODELS {
            let call = CallRecord {
                model: Some(format!("{number}-{}", "x".repeat(NAME))),
                ..call()
            };
            shared.metrics().call(&call, &origin);
        }
        let (port, bodies) = server("200 OK");
        let (closing, closes) = watch::channel(Some(Instant::now() + Duration::from_secs(30)));
        runtime().block_on(send_metrics(
            &shared,
            &transport(port),
            Duration::from_secs(3_600),
            closes,
        ));
        drop(closing);
        let requests: Vec<_> = bodies
            .try_iter()
            .map(|body| {
                assert!(body.len() <= BATCH_BYTES, "{}", body.len());
                ExportMetricsServiceRequest::decode(&*body).unwrap()
            })
            .collect();
        assert!(requests.len() > 1);
        let metrics = requests
            .iter()
            .flat_map(|request| &request.resource_metrics)
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| &scope.metrics);
        let durations = metrics.filter_map(|metric| match &metric.data {
            Some(Data::Histogram(data)) if metric.name == "gen_ai.client.operation.duration" => {
                Some(data.data_points.len())
            }
            _ => None,
        });
        assert_eq!(durations.sum::<usize>(), MODELS);
    }
}
