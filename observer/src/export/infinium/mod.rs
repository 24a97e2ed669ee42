//! Infinium: a trace a request, in the form of its SDK (infinium-o2 1.2.0).
//!
//! Calls are kept until their trace ends; then `payload` makes of both what is sent, and `client` sends it. Whose
//! trace it is, `rules` say.

mod client;
mod payload;
mod rules;

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, VecDeque},
    env, io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use clap::Args;
use tracing::{info, warn};
use uuid::Uuid;

use self::{
    client::{Client, Counts},
    payload::{Call, Form},
    rules::{Key, Rules},
};
pub use self::{
    payload::{Calls, Latency},
    rules::Agent,
};
use super::{Exporter, Losing};
use crate::trace::{CallRecord, TraceRecord};

/// `base_url` of `InfiniumClient`.
const BASE_URL: &str = "https://platform.i42m.ai/api/v1";

/// The environment variable with the secret of the one agent.
const SECRET: &str = "INFINIUM_AGENT_SECRET";

/// Calls that are kept of a trace, and bytes of all that are kept; past it the oldest trace is let go.
const CALLS: usize = 10_000;
const BYTES: usize = 64 << 20;

/// Where traces go, and whose they are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Infinium")]
#[group(skip)]
pub struct Options {
    /// Send traces to Infinium, as those of this agent unless the configuration says of which else; its secret has
    /// to be in the environment variable INFINIUM_AGENT_SECRET, or in a file
    #[arg(
        id = "infinium_agent_id",
        long = "infinium-agent-id",
        value_name = "UUID",
        env = "INFINIUM_AGENT_ID"
    )]
    pub agent_id: Option<String>,
    /// File that has the agent's secret
    #[arg(
        id = "infinium_key_file",
        long = "infinium-key-file",
        value_name = "FILE",
        env = "INFINIUM_AGENT_SECRET_FILE"
    )]
    pub key_file: Option<PathBuf>,
    /// Infinium's address
    #[arg(
        id = "infinium_url",
        long = "infinium-url",
        value_name = "URL",
        default_value = BASE_URL,
        env = "INFINIUM_BASE_URL"
    )]
    pub base_url: String,
    /// Certificates to trust beside those of the system, in a file in PEM
    #[arg(
        id = "infinium_ca_file",
        long = "infinium-ca-file",
        value_name = "FILE",
        env = "OBSERVER_INFINIUM_CA_FILE"
    )]
    pub ca_file: Option<PathBuf>,
    /// Longest time for a request, in seconds
    #[arg(
        id = "infinium_timeout",
        long = "infinium-timeout",
        value_name = "SECONDS",
        default_value_t = 30.0,
        value_parser = seconds,
        env = "OBSERVER_INFINIUM_TIMEOUT"
    )]
    pub timeout: f64,
    /// How latencies are measured
    #[arg(
        id = "infinium_latency",
        long = "infinium-latency",
        value_name = "HOW",
        default_value = "observer",
        env = "OBSERVER_INFINIUM_LATENCY"
    )]
    pub latency: Latency,
    /// Which calls are sent
    #[arg(
        id = "infinium_calls",
        long = "infinium-calls",
        value_name = "WHICH",
        default_value = "all",
        env = "OBSERVER_INFINIUM_CALLS"
    )]
    pub calls: Calls,
    /// Leave out the tools that were called, which are steps of their own
    #[arg(
        id = "infinium_no_tool_steps",
        long = "infinium-no-tool-steps",
        env = "OBSERVER_INFINIUM_NO_TOOL_STEPS"
    )]
    pub no_tool_steps: bool,
    /// Leave out which process it was (`environment`)
    #[arg(
        id = "infinium_no_environment",
        long = "infinium-no-environment",
        env = "OBSERVER_INFINIUM_NO_ENVIRONMENT"
    )]
    pub no_environment: bool,
    /// Which processes are which agent; the first that fits decides. What fits none is not sent, but as that of
    /// `agent_id`, if there is one.
    #[arg(skip)]
    pub agent: Vec<Agent>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            agent_id: None,
            key_file: None,
            base_url: BASE_URL.to_owned(),
            ca_file: None,
            timeout: 30.0,
            latency: Latency::default(),
            calls: Calls::default(),
            no_tool_steps: false,
            no_environment: false,
            agent: Vec::new(),
        }
    }
}

impl Options {
    /// The exporter, if there is an agent to send for. Reads the keys.
    ///
    /// # Errors
    ///
    /// An option is of no use, or a key cannot be had.
    pub fn open(&self) -> anyhow::Result<Option<Box<dyn Exporter>>> {
        let rules = self.rules()?;
        if rules.is_empty() {
            return Ok(None);
        }
        Ok(Some(Box::new(Infinium::new(self, rules)?)))
    }

    /// The agents, with their keys as they are at the moment.
    fn rules(&self) -> anyhow::Result<Rules> {
        let mut rules = Rules::new(&self.agent)?;
        if let Some(id) = &self.agent_id {
            match (&self.key_file, env::var_os(SECRET)) {
                (Some(path), _) => rules.add(id, Key::read(path)?)?,
                (None, Some(key)) => {
                    let key = Key::new(&key.to_string_lossy());
                    rules.add(id, key.with_context(|| SECRET)?)?;
                }
                (None, None) => anyhow::bail!(
                    "the agent {id} of Infinium has no secret: {SECRET} is not set, and no --infinium-key-file is given"
                ),
            }
        }
        Ok(rules)
    }

    fn form(&self) -> Form {
        Form {
            latency: self.latency,
            calls: self.calls,
            tool_steps: !self.no_tool_steps,
            environment: !self.no_environment,
        }
    }
}

/// Sends traces to Infinium.
struct Infinium {
    options: Options,
    rules: Rules,
    form: Form,
    kept: Kept,
    client: Client,
    /// Traces of no agent.
    unmatched: u64,
    /// Traces that could not be put into a payload.
    unfit: Arc<AtomicU64>,
}

/// The calls of traces that have not ended.
#[derive(Default)]
struct Kept {
    traces: HashMap<String, Pending>,
    /// In the order in which they began; some may have ended.
    order: VecDeque<String>,
    bytes: usize,
    /// Calls that were let go of.
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Pending {
    calls: Vec<Call>,
    /// The agent of each process, by its first call.
    agents: BTreeMap<u32, Option<Uuid>>,
    /// The process of the first call.
    first: u32,
    /// Calls that the SDK would not have recorded.
    left_out: usize,
    bytes: usize,
}

impl Infinium {
    fn new(options: &Options, rules: Rules) -> anyhow::Result<Self> {
        let client = Client::start(options, &rules).context("export.infinium")?;
        Ok(Self {
            options: options.clone(),
            rules,
            form: options.form(),
            kept: Kept::default(),
            client,
            unmatched: 0,
            unfit: Arc::default(),
        })
    }
}

impl Exporter for Infinium {
    fn name(&self) -> &'static str {
        "infinium"
    }

    fn call(&mut self, record: &CallRecord) -> io::Result<()> {
        let agent = self.rules.find(record);
        let call = Call::of(record, self.form);
        self.kept.add(&record.trace_id, record.pid, agent, call);
        Ok(())
    }

    fn trace(&mut self, trace: &TraceRecord) -> io::Result<()> {
        // What was let go of is counted.
        let Some(pending) = self.kept.take(&trace.trace_id) else {
            return Ok(());
        };
        let Some(agent) = pending.agent(trace) else {
            self.unmatched += 1;
            return Ok(());
        };
        if pending.calls.is_empty() {
            return Ok(());
        }
        if self.client.is_disabled(agent) {
            let counts = self.client.counts();
            counts.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let known = pending.calls.len() + pending.left_out;
        let lost = trace.calls.len().saturating_sub(known);
        match payload::payload(trace, pending.calls, lost, self.form) {
            Ok(json) => self.client.send(agent, json),
            Err(error) => {
                self.unfit.fetch_add(1, Ordering::Relaxed);
                warn!(trace = trace.trace_id, %error, "a trace cannot be sent to Infinium");
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Keys may be others, and taken by now.
    fn reopen(&mut self) -> io::Result<()> {
        match self.options.rules() {
            Ok(rules) => self.client.renew(&rules),
            Err(error) => warn!("the keys for Infinium stay as they were: {error:#}"),
        }
        Ok(())
    }

    fn take_time(&mut self) {
        self.client.take_time();
    }

    fn losses(&self) -> Option<Losing> {
        let by_client = self.client.losses();
        let (unfit, dropped) = (Arc::clone(&self.unfit), Arc::clone(&self.kept.dropped));
        Some(Arc::new(move || {
            by_client() + unfit.load(Ordering::Relaxed) + dropped.load(Ordering::Relaxed)
        }))
    }

    fn bequeath(&mut self) -> Option<Box<dyn Any + Send>> {
        let successor = Kept {
            dropped: Arc::default(),
            ..mem::take(&mut self.kept)
        };
        Some(Box::new(successor))
    }

    fn inherit(&mut self, legacy: Box<dyn Any + Send>) {
        if let Ok(kept) = legacy.downcast::<Kept>() {
            let dropped = Arc::clone(&self.kept.dropped);
            self.kept = Kept { dropped, ..*kept };
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.client.finish();
        let Counts {
            sent,
            refused,
            failed,
            dropped,
        } = self.client.counts();
        let [sent, refused, failed, dropped] =
            [sent, refused, failed, dropped].map(|count| count.load(Ordering::Relaxed));
        let unmatched = self.unmatched;
        let unfit = self.unfit.load(Ordering::Relaxed);
        let calls_dropped = self.kept.dropped.load(Ordering::Relaxed);
        info!(sent, unmatched, "traces for Infinium");
        if refused + failed + dropped + unfit + calls_dropped > 0 {
            warn!(
                sent,
                refused,
                failed,
                dropped,
                unfit,
                calls_dropped,
                "not all traces have reached Infinium"
            );
        }
        Ok(())
    }
}

impl Kept {
    /// Keeps a call; `None` if it is not to be sent.
    fn add(&mut self, trace_id: &str, pid: u32, agent: Option<Uuid>, call: Option<Call>) {
        if !self.traces.contains_key(trace_id) {
            self.order.push_back(trace_id.to_owned());
        }
        let pending = self
            .traces
            .entry(trace_id.to_owned())
            .or_insert_with(|| Pending {
                first: pid,
                ..Pending::default()
            });
        if pending.calls.len() >= CALLS {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.agents.entry(pid).or_insert(agent);
        let Some(call) = call else {
            pending.left_out += 1;
            return;
        };
        let bytes = call.memory();
        pending.calls.push(call);
        pending.bytes += bytes;
        self.bytes += bytes;
        self.make_room();
    }

    fn take(&mut self, trace_id: &str) -> Option<Pending> {
        /// Traces that have ended and are still in the order.
        const ENDED: usize = 64;
        let pending = self.traces.remove(trace_id)?;
        self.bytes -= pending.bytes;
        // Each of them has been added, so this costs a constant time on the average.
        if self.order.len() > 2 * self.traces.len() + ENDED {
            self.order.retain(|id| self.traces.contains_key(id));
        }
        Some(pending)
    }

    /// Lets go of the oldest traces, but for the last one.
    fn make_room(&mut self) {
        while self.bytes > BYTES
            && self.traces.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(pending) = self.traces.remove(&oldest) {
                self.bytes -= pending.bytes;
                let calls = pending.calls.len() as u64;
                self.dropped.fetch_add(calls, Ordering::Relaxed);
            }
        }
    }
}

impl Pending {
    /// The agent of the trace's process, else that of the first call.
    fn agent(&self, trace: &TraceRecord) -> Option<Uuid> {
        let of = |pid| self.agents.get(&pid);
        of(trace.pid).or_else(|| of(self.first)).copied().flatten()
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds, up to 600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::tests::call;

    fn kept(kept: &mut Kept, trace: &str, pid: u32, agent: Option<Uuid>, preview: usize) {
        let call = CallRecord {
            input_preview: Some("x".repeat(preview)),
            output_preview: Some("漢".repeat(preview)),
            ..call()
        };
        kept.add(trace, pid, agent, Call::of(&call, Form::default()));
    }

    fn trace(pid: u32) -> TraceRecord {
        TraceRecord {
            trace_id: "a".to_owned(),
            span_id: None,
            name: None,
            source: "thread",
            start_time: call().start_time,
            duration_ns: 1,
            calls: Vec::new(),
            steps: Vec::new(),
            errors: 0,
            llm_usage: crate::trace::LlmUsage::default(),
            pid,
            comm: None,
            container_id: None,
            kubernetes: None,
            parent_span_id: None,
            conversation_id: None,
        }
    }

    #[test]
    fn calls_wait_for_their_trace_within_bounds() {
        let mut all = Kept::default();
        for _ in 0..CALLS + 5 {
            kept(&mut all, "a", 1, None, 0);
        }
        let dropped = |all: &Kept| all.dropped.load(Ordering::Relaxed);
        assert_eq!((all.traces["a"].calls.len(), dropped(&all)), (CALLS, 5));
        // Others come, with 5 KB each: the oldest goes.
        for number in 0..20_000 {
            kept(&mut all, &format!("b{number}"), 1, None, 2000);
        }
        assert!(all.bytes <= BYTES && !all.traces.contains_key("a"));
        assert!(dropped(&all) > CALLS as u64);
        assert!(all.traces.contains_key("b19999"));
        assert!(all.take("a").is_none());
        for number in 0..20_000 {
            all.take(&format!("b{number}"));
        }
        assert_eq!((all.bytes, all.traces.len()), (0, 0));
    }

    #[test]
    fn traces_that_ended_leave_nothing() {
        let mut all = Kept::default();
        // One that lasts.
        kept(&mut all, "long", 1, None, 10);
        for number in 0..10_000 {
            let id = format!("{number}");
            kept(&mut all, &id, 1, None, 10);
            assert!(all.take(&id).is_some());
        }
        assert!(all.order.len() < 100, "{}", all.order.len());
        assert_eq!(all.traces.len(), 1);
    }

    #[test]
    fn a_trace_is_that_of_its_process() {
        let mut all = Kept::default();
        let agent = |number| Some(Uuid::from_u128(number));
        kept(&mut all, "a", 7, agent(2), 0);
        kept(&mut all, "a", 8, None, 0);
        kept(&mut all, "a", 9, agent(1), 0);
        kept(&mut all, "a", 9, agent(0), 0);
        let pending = all.take("a").unwrap();
        assert_eq!(pending.agent(&trace(9)), agent(1));
        assert_eq!(pending.agent(&trace(8)), None);
        // The process made no call itself: the first call decides.
        assert_eq!(pending.agent(&trace(5)), agent(2));
    }
}
