//! The thread that sends: batches of spans, and metrics at intervals, each tried again for as long as it may help.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
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
    metrics::{Delivery, Metrics},
    resource::{Origin, scope},
    settings::Batch,
    transport::{Outcome, Payload, Transport},
};

/// Of a request, before it is compressed: servers of gRPC take 4 MiB by default.
const BATCH_BYTES: usize = 2 << 20;

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
        }
    }

    /// Puts a span in line. What there is no room for is counted.
    pub(super) fn push(&self, origin: &Arc<Origin>, span: Span) {
        let mut spans = self.spans();
        let is_full = |spans: &mut Spans| spans.waiting.len() + spans.sending >= self.batch.queue;
        if is_full(&mut spans) && !spans.failing {
            let full = |spans: &mut Spans| is_full(spans) && !spans.failing;
            spans = self
                .room
                .wait_timeout_while(spans, ROOM, full)
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

    /// What became of the spans, with those that still wait as dropped; and why.
    pub(super) fn result(&self) -> (Delivery, Option<String>) {
        let spans = self.spans();
        let mut delivery = spans.delivery;
        delivery.dropped += (spans.waiting.len() + spans.sending) as u64;
        (delivery, spans.trouble.clone())
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
        let sent = std::mem::take(&mut spans.sending) as u64;
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
                    _ = closing.changed() => {}
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
        let expired = matches!(&end, End::Dropped(_))
            && closing
                .borrow()
                .is_some_and(|closes| Instant::now() >= closes);
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
        let payload = Payload::Metrics(shared.metrics().collect(delivery));
        // They are cumulative: the next ones say all that these do.
        let patience = if last { Duration::MAX } else { interval };
        match deliver(transport, &payload, patience, &mut closing, |_| ()).await {
            End::Taken(0, says) if says.is_empty() => {}
            End::Taken(rejected, says) => {
                warn!(rejected, says, "OTLP: data points were rejected");
            }
            End::Dropped(why) => {
                if last {
                    warn!(why, "OTLP: the last metrics were not delivered");
                }
            }
        }
        if last
            || closing
                .borrow()
                .is_some_and(|closes| Instant::now() >= closes)
        {
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
        if let Some(asked) = asked {
            pause = asked;
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
