//! Sending payloads: `POST {url}/agents/{agent_id}/trace`, as `client.py` of infinium-o2 1.2.0 does it, on a
//! thread of its own. What waits is bounded; what cannot be sent is counted.

use std::{
    collections::HashMap,
    fs,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};
use jiff::Timestamp as Utc;
use reqwest::{
    Certificate, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
    redirect,
};
use tokio::{
    sync::{Semaphore, mpsc as channel, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Options, rules::Rules};

/// `user_agent` of `InfiniumClient`.
const AGENT: &str = "infinium-python/1.0.0";

/// `max_retries` of `InfiniumClient`.
const RETRIES: u32 = 3;

/// `base_delay` of `exponential_backoff`, which doubles, and by what share it is more or less.
const DELAY: Duration = Duration::from_secs(1);
const JITTER: f64 = 0.25;

/// `requests_per_second` of `InfiniumClient`, `burst_size` of `RateLimiter`.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Longest time that a server may ask for with `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Requests of an agent that are under way at once.
const AT_ONCE: usize = 4;

/// Payloads that may wait, and their bytes.
const WAITING: usize = 10_000;
const WAITING_BYTES: usize = 64 << 20;

/// Somewhat less than [`FINISH`](super::super::queue::FINISH).
const PATIENCE: Duration = Duration::from_secs(9);

/// How much of an answer is read, so that its connection can be used again.
const ANSWER_BYTES: usize = 64 * 1024;

/// The thread that sends.
pub(super) struct Client {
    jobs: Option<channel::UnboundedSender<Job>>,
    closing: watch::Sender<Option<Instant>>,
    end: mpsc::Receiver<()>,
    shared: Arc<Shared>,
    agents: HashMap<Uuid, Arc<Agent>>,
    /// How long what waits is sent when nothing more comes; for ever without.
    patience: Option<Duration>,
}

/// What became of the payloads.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Accepted by the server.
    pub(super) sent: AtomicU64,
    /// Refused by the server, or for an agent whose key it does not take.
    pub(super) refused: AtomicU64,
    /// Not sent, however often it was tried.
    pub(super) failed: AtomicU64,
    /// For which there was no room, or no time at the end.
    pub(super) dropped: AtomicU64,
}

impl Counts {
    /// Payloads that have not been accepted, and will not be sent again.
    fn lost(&self) -> u64 {
        [&self.refused, &self.failed, &self.dropped]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

#[derive(Default)]
struct Shared {
    counts: Counts,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// The last payload whose tries were over has failed.
    failing: AtomicBool,
}

struct Job {
    agent: Arc<Agent>,
    json: Vec<u8>,
}

struct Agent {
    id: String,
    url: Url,
    key: Mutex<HeaderValue>,
    limiter: DefaultDirectRateLimiter,
    under_way: Semaphore,
    /// The server has asked for silence until then.
    paused: Mutex<Option<Instant>>,
    /// The server does not know it, or its key.
    disabled: AtomicBool,
    /// The statuses with which the server has refused something, that a warning was given of.
    warned: Mutex<Vec<StatusCode>>,
}

/// What came of one try.
enum Answer {
    Accepted,
    /// Try again, not before this long.
    Again(Option<Duration>, String),
    Refused(StatusCode),
}

impl Client {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The address or a certificate is of no use, or the system cannot start a thread.
    pub(super) fn start(options: &Options, rules: &Rules) -> anyhow::Result<Self> {
        let base = base(&options.base_url)?;
        let agents = rules.iter().map(|rule| {
            let id = rule.id.hyphenated().to_string();
            let agent = Arc::new(Agent {
                url: Url::parse(&format!("{base}/agents/{id}/trace"))?,
                id,
                key: Mutex::new(rule.key.header()),
                limiter: DefaultDirectRateLimiter::direct(
                    Quota::per_second(PER_SECOND).allow_burst(BURST),
                ),
                under_way: Semaphore::new(AT_ONCE),
                paused: Mutex::new(None),
                disabled: AtomicBool::new(false),
                warned: Mutex::new(Vec::new()),
            });
            anyhow::Ok((rule.id, agent))
        });
        // Of an agent that is named twice, the first key.
        let mut by_id = HashMap::new();
        for agent in agents {
            let (id, agent) = agent?;
            by_id.entry(id).or_insert(agent);
        }
        let http = http(options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("cannot wait for servers")?;
        let (jobs, waiting) = channel::unbounded_channel();
        let (closing, closed) = watch::channel(None);
        let (at_end, end) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared::default());
        let other_end = Arc::clone(&shared);
        thread::Builder::new()
            .name("infinium".to_owned())
            .spawn(move || {
                runtime.block_on(send_all(waiting, http, other_end, closed));
                let _ = at_end.try_send(());
            })
            .context("cannot start the thread that sends")?;
        Ok(Self {
            jobs: Some(jobs),
            closing,
            end,
            shared,
            agents: by_id,
            patience: Some(PATIENCE),
        })
    }

    /// Nothing is dropped for want of room or time from now on.
    pub(super) fn take_time(&mut self) {
        self.patience = None;
    }

    /// Agents have these keys from now on, and whoever was refused tries again.
    pub(super) fn renew(&self, rules: &Rules) {
        for rule in rules.iter() {
            if let Some(agent) = self.agents.get(&rule.id) {
                *lock(&agent.key) = rule.key.header();
                agent.disabled.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Has a payload sent for an agent, without waiting unless there is time for it.
    pub(super) fn send(&self, agent: Uuid, json: Vec<u8>) {
        let shared = &self.shared;
        let bytes = json.len();
        let is_full = || {
            let others = shared.waiting_bytes.load(Ordering::Relaxed);
            shared.waiting.load(Ordering::Relaxed) >= WAITING
                || others > 0 && others + bytes > WAITING_BYTES
        };
        let is_closed = || {
            self.jobs
                .as_ref()
                .is_none_or(channel::UnboundedSender::is_closed)
        };
        while self.patience.is_none() && is_full() && !is_closed() {
            thread::sleep(Duration::from_millis(10));
        }
        let full = is_full();
        let (Some(jobs), Some(agent), false) = (&self.jobs, self.agents.get(&agent), full) else {
            shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // Before it can be taken out.
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let agent = Arc::clone(agent);
        // If the thread is gone, it waits for the end, and is counted there.
        let _ = jobs.send(Job { agent, json });
    }

    /// Whether the server takes nothing for an agent.
    pub(super) fn is_disabled(&self, agent: Uuid) -> bool {
        let agent = self.agents.get(&agent);
        agent.is_none_or(|agent| agent.disabled.load(Ordering::Relaxed))
    }

    /// Sends what waits, for as long as there is time.
    pub(super) fn finish(&mut self) {
        /// For the thread to see that its time is up.
        const GRACE: Duration = Duration::from_millis(500);
        if let Some(patience) = self.patience {
            self.closing.send_replace(Some(Instant::now() + patience));
        }
        drop(self.jobs.take());
        let end = match self.patience {
            Some(patience) => self.end.recv_timeout(patience + GRACE),
            None => self.end.recv().map_err(Into::into),
        };
        if let Err(RecvTimeoutError::Timeout) = end {
            warn!("the thread that sends to Infinium did not end in time");
        }
        // Those that it did not come to.
        let waiting = self.shared.waiting.swap(0, Ordering::Relaxed) as u64;
        self.counts().dropped.fetch_add(waiting, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Counts what is lost, from wherever.
    pub(super) fn losses(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.counts.lost()
    }
}

/// Sends until there is nothing more, or until there is no more time.
async fn send_all(
    mut jobs: channel::UnboundedReceiver<Job>,
    http: reqwest::Client,
    shared: Arc<Shared>,
    closing: watch::Receiver<Option<Instant>>,
) {
    let mut under_way = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        let (http, shared, closing) = (http.clone(), Arc::clone(&shared), closing.clone());
        under_way.spawn(async move {
            let count = deliver(&job, &http, &shared, closing).await;
            count.fetch_add(1, Ordering::Relaxed);
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            shared
                .waiting_bytes
                .fetch_sub(job.json.len(), Ordering::Relaxed);
        });
        // What is done takes no room.
        while under_way.try_join_next().is_some() {}
    }
    let mut ending = closing.clone();
    tokio::select! {
        () = async { while under_way.join_next().await.is_some() {} } => {}
        () = async {
            if let Ok(deadline) = ending.wait_for(Option::is_some).await.map(|deadline| *deadline) {
                sleep_until(deadline.unwrap_or_else(Instant::now)).await;
            }
        } => {}
    }
}

/// Sends one payload, with all tries. Returns what it counts as.
async fn deliver<'a>(
    job: &Job,
    http: &reqwest::Client,
    shared: &'a Shared,
    closing: watch::Receiver<Option<Instant>>,
) -> &'a AtomicU64 {
    let counts = &shared.counts;
    let agent = &job.agent;
    let Ok(_permit) = agent.under_way.acquire().await else {
        return &counts.dropped;
    };
    let mut tries = 0;
    loop {
        if !agent.may_send(&closing).await {
            return &counts.dropped;
        }
        if agent.disabled.load(Ordering::Relaxed) {
            return &counts.refused;
        }
        let (pause, why) = match agent.send(http, job.json.clone()).await {
            Answer::Accepted => {
                if shared.failing.swap(false, Ordering::Relaxed) {
                    info!("Infinium takes traces again");
                }
                return &counts.sent;
            }
            Answer::Refused(status) => {
                agent.refused(status);
                return &counts.refused;
            }
            Answer::Again(pause, why) => (pause, why),
        };
        debug!(agent = agent.id, why, "not sent");
        if tries == RETRIES {
            if !shared.failing.swap(true, Ordering::Relaxed) {
                warn!(
                    agent = agent.id,
                    why, "a trace could not be sent to Infinium"
                );
            }
            return &counts.failed;
        }
        if let Some(pause) = pause {
            agent.pause(pause);
        }
        let delay = delay(tries).max(pause.unwrap_or_default());
        tries += 1;
        if !rest(Instant::now() + delay, &closing).await {
            return &counts.failed;
        }
    }
}

impl Agent {
    /// Waits for the server's leave and the rate that is kept. Returns whether there is time for it.
    async fn may_send(&self, closing: &watch::Receiver<Option<Instant>>) -> bool {
        loop {
            let paused = *lock(&self.paused);
            if let Some(until) = paused.filter(|until| *until > Instant::now()) {
                if !rest(until, closing).await {
                    return false;
                }
                continue;
            }
            match self.limiter.check() {
                Ok(()) => return true,
                Err(early) => {
                    let wait = early.wait_time_from(DefaultClock::default().now());
                    if !rest(Instant::now() + wait, closing).await {
                        return false;
                    }
                }
            }
        }
    }

    async fn send(&self, http: &reqwest::Client, json: Vec<u8>) -> Answer {
        let key = lock(&self.key).clone();
        let request = http
            .post(self.url.clone())
            .header(USER_AGENT, AGENT)
            .header("x-agent-id", &self.id)
            .header("x-agent-key", key)
            .header(CONTENT_TYPE, "application/json");
        let mut response = match request.body(json).send().await {
            Ok(response) => response,
            Err(error) => return Answer::Again(None, causes(&error.without_url())),
        };
        let status = response.status();
        let pause = retry_after(response.headers(), SystemTime::now());
        let mut read = 0;
        while let Ok(Some(bytes)) = response.chunk().await {
            read += bytes.len();
            if read > ANSWER_BYTES {
                break;
            }
        }
        match status {
            _ if status.is_success() => Answer::Accepted,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Answer::Again(pause, status.to_string())
            }
            _ if status.is_server_error() => Answer::Again(pause, status.to_string()),
            _ => Answer::Refused(status),
        }
    }

    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut paused = lock(&self.paused);
        *paused = (*paused).max(Some(until));
    }

    fn refused(&self, status: StatusCode) {
        let wrong = matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        );
        if wrong {
            if !self.disabled.swap(true, Ordering::Relaxed) {
                warn!(
                    agent = self.id,
                    %status,
                    "Infinium knows no such agent or takes another key: nothing more is sent for it"
                );
            }
            return;
        }
        let mut warned = lock(&self.warned);
        if !warned.contains(&status) {
            warned.push(status);
            warn!(agent = self.id, %status, "Infinium refused a trace");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits; returns whether there is time for it.
async fn rest(until: Instant, closing: &watch::Receiver<Option<Instant>>) -> bool {
    let mut closing = closing.clone();
    let too_late = closing.wait_for(|deadline| deadline.is_some_and(|deadline| deadline < until));
    tokio::select! {
        () = sleep_until(until) => true,
        _ = too_late => false,
    }
}

/// `exponential_backoff`, after so many tries.
fn delay(tries: u32) -> Duration {
    let share = 1.0 + JITTER * (2.0 * fastrand::f64() - 1.0);
    DELAY.saturating_mul(1 << tries.min(RETRIES)).mul_f64(share)
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let date: Utc = jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(value)
            .ok()?;
        SystemTime::from(date)
            .duration_since(now)
            .unwrap_or_default()
    };
    Some(pause.min(LONGEST_PAUSE))
}

fn http(options: &Options) -> anyhow::Result<reqwest::Client> {
    // The first to come decides; all exporters take the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        // Keys must not go where a redirect leads.
        .redirect(redirect::Policy::none())
        .timeout(Duration::try_from_secs_f64(options.timeout).context("timeout")?);
    if let Some(path) = &options.ca_file {
        let place = || format!("cannot take certificates from {}", path.display());
        let pem = fs::read(path).with_context(place)?;
        let certificates = Certificate::from_pem_bundle(&pem).with_context(place)?;
        ensure!(!certificates.is_empty(), "{}: it has none", place());
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().context("cannot speak TLS")
}

fn base(url: &str) -> anyhow::Result<&str> {
    let place = || format!("Infinium's URL {url:?}");
    let parsed = Url::parse(url).with_context(place)?;
    // First: what else is wrong is said with the URL, and a password must not be shown.
    ensure!(
        parsed.username().is_empty() && parsed.password().is_none(),
        "Infinium's URL: no user belongs into it"
    );
    let local = match parsed.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback()),
        None => bail!("{} has no host", place()),
    };
    match parsed.scheme() {
        "https" => {}
        "http" if local => {}
        "http" => warn!(url, "keys and traces are sent to Infinium without TLS"),
        _ => bail!("{} is neither https nor http", place()),
    }
    ensure!(
        parsed.query().is_none() && parsed.fragment().is_none(),
        "{} has a query or a fragment",
        place()
    );
    Ok(url.trim_end_matches('/'))
}

/// An error with what lies behind it.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_in_seconds_or_to_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        let pause = |value: &'static str| {
            let headers = [(RETRY_AFTER, HeaderValue::from_static(value))];
            retry_after(&headers.into_iter().collect(), now)
        };
        assert_eq!(pause(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(pause("0"), Some(Duration::ZERO));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(pause(date), Some(Duration::from_secs(30)));
        assert_eq!(pause("Sun, 06 Nov 1983 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("99999999999999"), Some(LONGEST_PAUSE));
        for bad in ["", "soon", "-1", "99999999999999999999999"] {
            assert_eq!(pause(bad), None, "{bad}");
        }
    }

    #[test]
    fn delays_double_and_differ_by_a_quarter() {
        for tries in 0..RETRIES {
            let middle = DELAY * (1 << tries);
            for _ in 0..100 {
                let delay = delay(tries);
                assert!(delay >= middle.mul_f64(0.75) && delay <= middle.mul_f64(1.25));
            }
        }
    }

    #[test]
    fn an_address_is_one_of_http() {
        assert_eq!(
            base("https://x.example/api/v1//").unwrap(),
            "https://x.example/api/v1"
        );
        assert!(base("http://[::1]:80").is_ok() && base("http://127.0.0.1").is_ok());
        for bad in ["x", "ftp://x", "https://x/?y", "https://x/#y", "https://"] {
            assert!(base(bad).is_err(), "{bad}");
        }
        let secret = format!("{:#}", base("https://u:SECRET@x").unwrap_err());
        assert!(!secret.contains("SECRET"), "{secret}");
    }

    #[test]
    fn what_waits_is_bounded() {
        // The thread does not get to it: nobody listens there, and tries take seconds.
        let options = Options {
            base_url: "http://127.0.0.1:9".to_owned(),
            ..Options::default()
        };
        let mut rules = Rules::default();
        let key = super::super::rules::Key::new("inf-0123456789").unwrap();
        let id = "0af76519-16cd-43dd-8448-eb211c80319c";
        rules.add(id, key).unwrap();
        let id = Uuid::parse_str(id).unwrap();
        let mut client = Client::start(&options, &rules).unwrap();
        for _ in 0..WAITING + 7 {
            client.send(id, Vec::new());
        }
        client.send(Uuid::nil(), Vec::new());
        let dropped = || client.counts().dropped.load(Ordering::Relaxed);
        assert_eq!(dropped(), 8);
        client.patience = Some(Duration::from_millis(100));
        client.finish();
        let counts = client.counts();
        let failed = counts.failed.load(Ordering::Relaxed);
        let dropped = counts.dropped.load(Ordering::Relaxed);
        assert_eq!(failed + dropped, WAITING as u64 + 8);
    }
}
