//! Who talked to LLM providers: an accumulator over records, one row for each user, program, container, provider,
//! model and API key. It is bounded, whoever the calls are from: past [`ROWS`] rows new ones are counted in one.

pub mod command;
mod passwd;
pub mod table;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    io, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp as Utc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    attach::pod::Pod,
    export::Exporter,
    records::Call,
    trace::{CallRecord, OtherRequest, TraceRecord},
};

/// Rows that are kept apart; what belongs to others is counted in one row that stands for all of them.
pub const ROWS: usize = 4_096;

/// Process ids, and hosts, that a row names.
const NAMED: usize = 64;

/// Longest name that is kept, in characters.
const NAME: usize = 256;

/// Traces that are remembered for calls of theirs that are still to come.
const TRACES: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Inventory {
    since: Option<Utc>,
    rows: HashMap<Arc<Who>, Row>,
    /// What belongs to rows past [`ROWS`].
    rest: Option<Row>,
    traces: Traces,
}

/// Whom a row is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Who {
    /// Real user id of the process.
    pub uid: Option<u32>,
    /// Id of the container.
    pub container_id: Option<String>,
    /// Namespace of the Kubernetes pod.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What manages the pod, else the pod.
    #[serde(default)]
    pub workload: Option<String>,
    /// Path of the executed file.
    pub exe: Option<String>,
    /// Name of the process.
    pub comm: Option<String>,
    /// The provider; `None` for requests that were no calls.
    pub provider: Option<String>,
    /// The model that was asked for, else the one that answered.
    pub model: Option<String>,
    /// Stands for the API key.
    pub credential: Option<String>,
}

/// What is known of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Whom it is about; of a row that stands for many nothing is said.
    #[serde(flatten)]
    pub who: Who,
    /// The user's name on the machine where the inventory was made; not of users of containers.
    pub user: Option<String>,
    /// Whether the row stands for all that had no room.
    pub rest: bool,
    /// Number of calls, failed ones included.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Sum over the calls that say it.
    pub input_tokens: Option<u64>,
    /// Sum over the calls that say it.
    pub output_tokens: Option<u64>,
    /// Sum over the calls whose cost is known, in US dollars.
    pub cost_usd: Option<f64>,
    /// How many calls that is.
    pub cost_known_of: u64,
    /// Number of traces that have calls of the row.
    pub traces: u64,
    /// Requests that were no calls.
    pub other_requests: u64,
    /// Begin of the first call or request.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub first_seen: Utc,
    /// End of the last.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub last_seen: Utc,
    /// Ids of the processes.
    pub pids: BTreeSet<u32>,
    /// Hosts that were talked to.
    pub hosts: BTreeSet<String>,
    /// Whether there were more processes or hosts than are named.
    pub more: bool,
}

/// An inventory as it is handed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// Since when it has been looked, where that is known.
    #[serde(serialize_with = "to_text_maybe", deserialize_with = "from_text_maybe")]
    pub since: Option<Utc>,
    /// The rows, most calls first.
    pub rows: Vec<Row>,
}

impl Inventory {
    /// An inventory of nothing, as of `since`.
    pub fn new(since: Option<Utc>) -> Self {
        Self {
            since,
            rows: HashMap::new(),
            rest: None,
            traces: Traces::default(),
        }
    }

    /// Takes a call.
    pub fn call(&mut self, call: &Call) {
        let who = Who {
            uid: call.uid,
            container_id: name(call.container_id.as_deref()),
            namespace: namespace(call.kubernetes.as_deref()),
            workload: workload(call.kubernetes.as_deref()),
            exe: name(call.exe.as_deref()),
            comm: name(call.comm.as_deref()),
            provider: name(Some(&call.provider)),
            model: name(call.asked_for()),
            credential: name(call.credential.as_deref()),
        };
        let latency = Duration::from_nanos(call.latency_ns);
        let end = call.start_time.checked_add(latency);
        let (row, id) = self.row(who.clone(), call.start_time);
        row.calls += 1;
        row.errors += u64::from(call.failed());
        add(&mut row.input_tokens, call.input());
        add(&mut row.output_tokens, call.output());
        if let Some(usd) = call.cost_usd.filter(|usd| usd.is_finite()) {
            *row.cost_usd.get_or_insert(0.0) += usd;
            row.cost_known_of += 1;
        }
        row.see(
            call.pid,
            call.server_address.as_deref(),
            call.start_time,
            end.unwrap_or(call.start_time),
        );
        let trace = call.trace_id.as_deref().unwrap_or_default();
        if !trace.is_empty() && self.traces.is_new(&id, trace) {
            self.row(who, call.start_time).0.traces += 1;
        }
    }

    /// Takes a request that was no call, made at `at`.
    pub fn other(&mut self, request: &OtherRequest, at: Utc) {
        let who = Who {
            uid: request.uid,
            container_id: name(request.container_id.as_deref()),
            namespace: namespace(request.kubernetes.as_deref()),
            workload: workload(request.kubernetes.as_deref()),
            exe: name(request.exe.as_deref()),
            comm: name(request.comm.as_deref()),
            ..Who::default()
        };
        let (row, _) = self.row(who, at);
        row.other_requests += 1;
        row.see(request.pid, Some(&request.server_address), at, at);
    }

    /// What is known, with the names of users.
    pub fn listing(&self) -> Listing {
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .map(|(who, row)| Row {
                who: (**who).clone(),
                ..row.clone()
            })
            .collect();
        rows.sort_by(|a, b| (b.calls, &a.who).cmp(&(a.calls, &b.who)));
        rows.extend(self.rest.clone());
        if let Some(names) = passwd::names() {
            for row in &mut rows {
                // Of a container's users the machine knows nothing.
                let uid = row.who.uid.filter(|_| row.who.container_id.is_none());
                row.user = uid.and_then(|uid| names.get(&uid).cloned());
            }
        }
        Listing {
            since: self.since,
            rows,
        }
    }

    /// The row, and whose it is; the default stands for the rest.
    fn row(&mut self, who: Who, at: Utc) -> (&mut Row, Arc<Who>) {
        let full = self.rows.len() >= ROWS && !self.rows.contains_key(&who);
        if full {
            let rest = self.rest.get_or_insert_with(|| Row {
                rest: true,
                ..Row::new(at)
            });
            return (rest, Arc::default());
        }
        let who = Arc::new(who);
        let row = self.rows.entry(Arc::clone(&who));
        (row.or_insert_with(|| Row::new(at)), who)
    }
}

impl Row {
    fn new(at: Utc) -> Self {
        Self {
            who: Who::default(),
            user: None,
            rest: false,
            calls: 0,
            errors: 0,
            input_tokens: None,
            output_tokens: None,
            cost_usd: None,
            cost_known_of: 0,
            traces: 0,
            other_requests: 0,
            first_seen: at,
            last_seen: at,
            pids: BTreeSet::new(),
            hosts: BTreeSet::new(),
            more: false,
        }
    }

    fn see(&mut self, pid: u32, host: Option<&str>, first: Utc, last: Utc) {
        self.first_seen = self.first_seen.min(first);
        self.last_seen = self.last_seen.max(last);
        self.more |= !note(&mut self.pids, pid);
        if let Some(host) = name(host) {
            self.more |= !note(&mut self.hosts, host);
        }
    }
}

/// The traces of which a row has seen a call; the oldest are forgotten.
#[derive(Debug, Default)]
struct Traces {
    hasher: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Traces {
    fn is_new(&mut self, who: &Who, trace: &str) -> bool {
        let hash = self.hasher.hash_one((who, trace));
        if !self.known.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > TRACES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// An inventory that is filled by the exporter's thread and looked at by others.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Inventory>>);

impl Shared {
    /// An inventory of nothing, as of now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inventory::new(Some(Utc::now())))))
    }

    /// [`Inventory::listing`].
    pub fn listing(&self) -> Listing {
        self.with(|inventory| inventory.listing())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Inventory) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

impl Exporter for Shared {
    fn name(&self) -> &'static str {
        "inventory"
    }

    fn flush_after(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn call(&mut self, call: &CallRecord) -> io::Result<()> {
        let call = Call::from(call);
        self.with(|inventory| inventory.call(&call));
        Ok(())
    }

    fn trace(&mut self, _trace: &TraceRecord) -> io::Result<()> {
        Ok(())
    }

    fn other(&mut self, request: &OtherRequest) -> io::Result<()> {
        self.with(|inventory| inventory.other(request, Utc::now()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn namespace(pod: Option<&Pod>) -> Option<String> {
    name(pod?.namespace.as_deref())
}

fn workload(pod: Option<&Pod>) -> Option<String> {
    let pod = pod?;
    name(
        pod.workload
            .as_ref()
            .or(pod.pod.as_ref())
            .map(|name| &**name),
    )
}

/// What may come from the wire, cut.
fn name(text: Option<&str>) -> Option<String> {
    text.map(|text| text.chars().take(NAME).collect())
}

/// Keeps a value if there is room. Returns whether it is kept.
fn note<T: Ord>(set: &mut BTreeSet<T>, value: T) -> bool {
    if set.len() < NAMED {
        set.insert(value);
        return true;
    }
    set.contains(&value)
}

fn add(sum: &mut Option<u64>, value: Option<u64>) {
    if let Some(value) = value {
        let sum = sum.get_or_insert(0);
        *sum = sum.saturating_add(value);
    }
}

fn to_text<S: Serializer>(time: &Utc, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.9}"))
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Utc, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn to_text_maybe<S: Serializer>(time: &Option<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to_text(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn from_text_maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Utc>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// What all rows come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Number of different users.
    pub users: usize,
    /// Number of different programs.
    pub programs: usize,
    /// Number of different API keys.
    pub credentials: usize,
    /// Number of calls.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Sum over what is known.
    pub input_tokens: u64,
    /// Sum over what is known.
    pub output_tokens: u64,
    /// Sum over what is known, in US dollars.
    pub cost_usd: Option<f64>,
}

impl Listing {
    /// What all rows come to. A row that stands for many counts nobody.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let mut users = HashSet::new();
        let mut programs = HashSet::new();
        let mut credentials = HashSet::new();
        for row in &self.rows {
            totals.calls += row.calls;
            totals.errors += row.errors;
            totals.input_tokens = totals
                .input_tokens
                .saturating_add(row.input_tokens.unwrap_or(0));
            totals.output_tokens = totals
                .output_tokens
                .saturating_add(row.output_tokens.unwrap_or(0));
            if let Some(usd) = row.cost_usd {
                *totals.cost_usd.get_or_insert(0.0) += usd;
            }
            let Who {
                uid,
                container_id,
                exe,
                comm,
                credential,
                ..
            } = &row.who;
            if row.rest {
                continue;
            }
            users.insert((uid, container_id));
            programs.insert((container_id, exe, comm));
            credentials.extend(credential);
        }
        Totals {
            users: users.len(),
            programs: programs.len(),
            credentials: credentials.len(),
            ..mem::take(&mut totals)
        }
    }
}

#[cfg(test)]
mod tests;
