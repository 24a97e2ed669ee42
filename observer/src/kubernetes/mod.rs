//! Kubernetes: which pod a process is in, what that pod is called, and whether it is watched.
//!
//! The cgroup names the container and the pod's uid. The rest is asked of the node's kubelet or of the API server
//! (`source.rs`), by a thread of its own, as soon as a program of a container is heard of: its pod may be gone when its
//! first call ends. Records of containers that are not known yet are held back for a while. If pods are
//! selected, what is not known to be selected is not handed on.

mod object;
pub mod selection;
mod source;
mod table;

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use lru::LruCache;
use tracing::{debug, warn};

use self::{
    selection::{Pattern, PodSelector, Selection},
    source::Source,
    table::Table,
};
use crate::{
    attach::{
        cgroup::Container,
        pod::Pod,
        processes::{self, Identity, Pid},
    },
    export::Record,
};

/// So long are records held back until their pod is known.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this a container that nobody knew is asked for again.
const AGAIN: Duration = Duration::from_secs(30);

/// Records that are held back at once; past it the first of them has waited long enough.
const HELD: usize = 16_384;

/// Processes whose containers are remembered, those that are gone included.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Containers that are asked for, and processes that wait for the answer, at once.
const WANTED: usize = 4_096;

/// Who knows pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Metadata {
    /// Nobody is asked: container.id and k8s.pod.uid, from the cgroup
    #[default]
    Cgroup,
    /// The node's kubelet: needs the right to get nodes/pods
    Kubelet,
    /// The API server, for the pods of this node: needs the rights to get, list and watch pods
    Api,
}

/// Which pods are watched, and who says what they are.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Kubernetes")]
#[group(skip)]
pub struct Options {
    /// Who is asked what pods are called
    #[arg(
        id = "kubernetes_metadata",
        long = "kubernetes-metadata",
        value_name = "SOURCE",
        default_value = "cgroup",
        env = "OBSERVER_KUBERNETES_METADATA"
    )]
    pub metadata: Metadata,
    /// Watch only pods of this namespace; * stands for any characters (can be repeated)
    #[arg(
        id = "kubernetes_namespace",
        long = "kubernetes-namespace",
        value_name = "NAME",
        value_delimiter = ',',
        env = "OBSERVER_KUBERNETES_NAMESPACE"
    )]
    pub namespace: Vec<Pattern>,
    /// Watch no pods of this namespace; * stands for any characters (can be repeated)
    #[arg(
        id = "kubernetes_exclude_namespace",
        long = "kubernetes-exclude-namespace",
        value_name = "NAME",
        value_delimiter = ',',
        env = "OBSERVER_KUBERNETES_EXCLUDE_NAMESPACE"
    )]
    pub exclude_namespace: Vec<Pattern>,
    /// Watch only pods with these labels, such as `app=web,tier in (a,b),!internal`, as for kubectl
    #[arg(
        id = "kubernetes_pod_selector",
        long = "kubernetes-pod-selector",
        value_name = "SELECTOR",
        env = "OBSERVER_KUBERNETES_POD_SELECTOR"
    )]
    pub pod_selector: Option<PodSelector>,
    /// Watch no process outside pods; so it is where pods are selected
    #[arg(
        id = "kubernetes_pods_only",
        long = "kubernetes-pods-only",
        env = "OBSERVER_KUBERNETES_PODS_ONLY"
    )]
    pub pods_only: bool,
    /// Put this label of pods on records (can be repeated)
    #[arg(
        id = "kubernetes_pod_label",
        long = "kubernetes-pod-label",
        value_name = "KEY",
        value_delimiter = ',',
        env = "OBSERVER_KUBERNETES_POD_LABEL"
    )]
    pub pod_label: Vec<String>,
    /// Name of this node [default: as its pods have it]
    #[arg(
        id = "kubernetes_node",
        long = "kubernetes-node",
        value_name = "NAME",
        env = "OBSERVER_KUBERNETES_NODE"
    )]
    pub node: Option<String>,
    /// Name of the cluster, for records
    #[arg(
        id = "kubernetes_cluster",
        long = "kubernetes-cluster",
        value_name = "NAME",
        env = "OBSERVER_KUBERNETES_CLUSTER"
    )]
    pub cluster: Option<String>,
    /// The kubelet's address
    #[arg(
        id = "kubernetes_kubelet",
        long = "kubernetes-kubelet",
        value_name = "URL",
        default_value = "https://127.0.0.1:10250",
        env = "OBSERVER_KUBERNETES_KUBELET"
    )]
    pub kubelet: String,
    /// Verify the kubelet's certificate by the authorities in this file (PEM) [default: the cluster's]
    #[arg(
        id = "kubernetes_kubelet_ca",
        long = "kubernetes-kubelet-ca",
        value_name = "FILE",
        env = "OBSERVER_KUBERNETES_KUBELET_CA"
    )]
    pub kubelet_ca: Option<PathBuf>,
    /// Do not verify the kubelet's certificate: for kubelets that have signed it themselves
    #[arg(
        id = "kubernetes_kubelet_insecure",
        long = "kubernetes-kubelet-insecure",
        conflicts_with = "kubernetes_kubelet_ca",
        env = "OBSERVER_KUBERNETES_KUBELET_INSECURE"
    )]
    pub kubelet_insecure: bool,
    /// The token that the kubelet is shown
    #[arg(
        id = "kubernetes_token_file",
        long = "kubernetes-token-file",
        value_name = "FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token",
        env = "OBSERVER_KUBERNETES_TOKEN_FILE"
    )]
    pub token_file: PathBuf,
}

impl Options {
    /// Which pods are watched.
    pub fn selection(&self) -> Selection {
        Selection {
            namespaces: self.namespace.clone(),
            excluded_namespaces: self.exclude_namespace.clone(),
            pods: self.pod_selector.clone(),
            pods_only: self.pods_only,
        }
    }
}

/// Whether a process is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Watched,
    /// Its pod is not known yet.
    Awaited,
    /// It is not.
    Excluded,
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Pods that are known.
    pub pods: usize,
    /// Records that are held back until their pod is known.
    pub held: usize,
    /// Records that were not handed on, as it was not known whether their pod is selected.
    pub withheld: u64,
    /// How often whoever is asked gave no answer.
    pub failures: u64,
    /// Why the last answer failed; `None` after one that did not.
    pub problem: Option<String>,
}

/// What is known of pods, and the records that wait for it.
pub struct Pods {
    selection: Selection,
    table: Table,
    /// `None` if nobody is asked.
    source: Option<Source>,
    /// The containers of processes, which may be gone.
    met: LruCache<Pid, Option<Container>>,
    /// Containers that have been asked for, by id.
    wanted: HashMap<String, Want>,
    /// Processes of which it is not known whether they are watched.
    undecided: HashMap<Pid, Undecided>,
    held: VecDeque<(Instant, Record)>,
    withheld: u64,
    failures: u64,
    problem: Option<String>,
    /// An answer has come since the last turn.
    answered: bool,
}

struct Want {
    container: Container,
    since: Instant,
}

struct Undecided {
    container: Container,
    since: Instant,
    /// Nobody knew its pod in time: it is left out until somebody does.
    given_up: bool,
}

/// What is to be done with a record.
enum Way {
    /// On, with what is known of its pod.
    On(Option<Arc<Pod>>),
    Hold,
    /// It is of a pod that is not selected.
    Drop,
    /// It is not known whether its pod is selected.
    Withhold,
}

impl Pods {
    /// Starts to ask, if anybody is to be asked.
    ///
    /// # Errors
    ///
    /// Pods are selected but nobody is asked; a file cannot be read or a URL is none; no thread can be started.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let selection = options.selection();
        if selection.needs_metadata() && options.metadata == Metadata::Cgroup {
            anyhow::bail!(
                "pods cannot be selected by the cgroup alone: --kubernetes-metadata kubelet or api says who knows \
                 their namespaces and labels"
            );
        }
        Ok(Self {
            table: Table::new(options),
            source: Source::start(options)?,
            selection,
            met: LruCache::new(PROCESSES),
            wanted: HashMap::new(),
            undecided: HashMap::new(),
            held: VecDeque::new(),
            withheld: 0,
            failures: 0,
            problem: None,
            answered: false,
        })
    }

    /// Whether some processes are left out.
    pub fn is_selecting(&self) -> bool {
        self.selection.is_any()
    }

    /// Whether something waits that time alone will move.
    pub fn is_busy(&self) -> bool {
        // Of what nobody answers, nothing is known sooner.
        let waits = |process: &Undecided| !process.given_up;
        !self.held.is_empty() || (self.problem.is_none() && self.undecided.values().any(waits))
    }

    /// Forgets processes that are gone.
    pub fn call_the_roll(&mut self) {
        self.undecided.retain(|pid, _| processes::alive(*pid));
    }

    /// A process executes a program, or is there already. `None` if it is gone.
    pub fn meet(&mut self, pid: Pid) -> Option<Standing> {
        let container = processes::container_of(pid).ok()?;
        self.met.put(pid, container.clone());
        Some(self.stand(pid, container))
    }

    /// A process is to be looked at: completes what is known of it.
    pub fn identify(&mut self, pid: Pid, identity: &mut Identity) -> Standing {
        let container = match (&identity.container_id, &identity.cgroup) {
            (Some(id), _) => Some(Container {
                id: id.clone(),
                pod_uid: identity.pod.as_ref().map(|pod| pod.pod_uid.clone()),
            }),
            (None, Some(_)) => None,
            // It is gone.
            (None, None) => {
                let container = self.met.get(&pid).cloned().flatten();
                if let Some(container) = &container {
                    identity.container_id = Some(container.id.clone());
                    identity.pod = Pod::of_container(container);
                }
                container
            }
        };
        self.met.put(pid, container.clone());
        if let Some(container) = &container
            && let Some(known) = self.table.of(container)
        {
            identity.pod = Some(Arc::clone(&known.pod));
        }
        self.stand(pid, container)
    }

    fn stand(&mut self, pid: Pid, container: Option<Container>) -> Standing {
        let Some(container) = container.filter(|container| container.pod_uid.is_some()) else {
            self.undecided.remove(&pid);
            return if self.is_selecting() {
                Standing::Excluded
            } else {
                Standing::Watched
            };
        };
        self.take_news();
        let known = self.table.of(&container);
        let complete = known.is_some_and(|known| known.is_complete);
        let selected = known.map(|known| known.selected);
        if !complete {
            self.want(&container);
        }
        let standing = match selected {
            _ if !self.selection.needs_metadata() => Standing::Watched,
            Some(true) => Standing::Watched,
            Some(false) => Standing::Excluded,
            None => Standing::Awaited,
        };
        if standing == Standing::Awaited
            && let Some(known) = self.undecided.get(&pid)
            && known.given_up
            && known.container == container
        {
            return Standing::Excluded;
        }
        if standing == Standing::Awaited && self.undecided.len() < WANTED {
            let undecided = Undecided {
                container,
                since: Instant::now(),
                given_up: false,
            };
            self.undecided.insert(pid, undecided);
        } else {
            self.undecided.remove(&pid);
        }
        standing
    }

    fn want(&mut self, container: &Container) {
        let Some(source) = &self.source else {
            return;
        };
        let now = Instant::now();
        if let Some(want) = self.wanted.get_mut(&container.id) {
            if now.duration_since(want.since) < AGAIN {
                return;
            }
            want.since = now;
        } else {
            if self.wanted.len() >= WANTED {
                self.wanted
                    .retain(|_, want| now.duration_since(want.since) < PATIENCE);
                if self.wanted.len() >= WANTED {
                    return;
                }
            }
            debug!(container = container.id, "asking for the pod");
            self.wanted.insert(
                container.id.clone(),
                Want {
                    container: container.clone(),
                    since: now,
                },
            );
        }
        source.ask();
    }

    /// Takes in what has been answered.
    fn take_news(&mut self) {
        let Some(source) = &self.source else {
            return;
        };
        let mut any = false;
        let mut problem = None;
        while let Some(news) = source.news() {
            any = true;
            match news {
                Ok(pods) => {
                    self.problem = None;
                    for pod in &pods {
                        self.table.put(pod, &self.selection);
                    }
                }
                Err(error) => {
                    self.failures += 1;
                    problem = Some(error);
                }
            }
        }
        if let Some(error) = problem {
            if self.problem.is_none() {
                warn!(error, "cannot find out what pods are called; trying again");
            }
            self.problem = Some(error);
        }
        if any {
            self.answered = true;
            let table = &mut self.table;
            self.wanted.retain(|_, want| {
                !table
                    .of(&want.container)
                    .is_some_and(|known| known.is_complete)
            });
        }
    }

    /// Time passes. Hands on what has waited for long enough, and returns the processes of which it is known by now
    /// whether they are watched.
    pub fn turn(&mut self, mut on: impl FnMut(Record)) -> Vec<(Pid, Standing)> {
        self.take_news();
        // Somebody else may have taken it in.
        let any = std::mem::take(&mut self.answered);
        if any && let Some(source) = &self.source {
            // A container may be told of later than its pod.
            let now = Instant::now();
            let waiting = |want: &Want| now.duration_since(want.since) < PATIENCE;
            if self.wanted.values().any(waiting) {
                source.ask();
            }
        }
        self.release(false, &mut on);
        let mut decided = Vec::new();
        let (table, answering) = (&mut self.table, self.problem.is_none());
        let now = Instant::now();
        self.undecided.retain(|pid, process| {
            if any && let Some(known) = table.of(&process.container) {
                let standing = match known.selected {
                    true => Standing::Watched,
                    false => Standing::Excluded,
                };
                decided.push((*pid, standing));
                return false;
            }
            let waited = now.duration_since(process.since);
            if answering && !process.given_up && waited >= PATIENCE {
                process.given_up = true;
                decided.push((*pid, Standing::Excluded));
            }
            true
        });
        decided
    }

    /// Whether a process is in another container than when it was last looked at.
    pub fn has_moved(&self, pid: Pid) -> bool {
        let container = processes::container_of(pid).ok();
        container.as_ref() != self.met.peek(&pid)
    }

    /// Hands a record on, or holds it back until its pod is known.
    pub fn pass(&mut self, record: Record, mut on: impl FnMut(Record)) {
        if self.source.is_none() {
            // What is not watched has never come so far.
            on(record);
            return;
        }
        if let Record::Dismissed(span) = &record {
            self.held.retain(
                |(_, held)| !matches!(held, Record::Started(call) if call.span_id == *span),
            );
        }
        let Some(container) = container(&record) else {
            on(record);
            return;
        };
        let id = Some(&*container.id);
        let behind = self.held.iter().any(|(_, held)| container_id(held) == id);
        let way = if behind {
            Way::Hold
        } else {
            self.way(&container)
        };
        self.send(record, way, &mut on);
        if self.held.len() > HELD
            && let Some((since, record)) = self.held.pop_front()
        {
            self.decide(since, record, true, &mut on);
        }
    }

    /// Nothing more will come: what is held back goes on, as far as it may.
    pub fn finish(&mut self, mut on: impl FnMut(Record)) {
        // An answer may be on its way.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.held.is_empty() && Instant::now() < deadline {
            self.take_news();
            self.release(false, &mut on);
            std::thread::sleep(Duration::from_millis(5));
        }
        self.release(true, &mut on);
    }

    fn release(&mut self, all: bool, on: &mut impl FnMut(Record)) {
        if self.held.is_empty() {
            return;
        }
        let now = Instant::now();
        let held = std::mem::take(&mut self.held);
        for (since, record) in held {
            let late = all || now.duration_since(since) >= PATIENCE;
            // In order, as all of one container wait for the same.
            self.decide(since, record, late, on);
        }
    }

    /// Hands on a record that was held back, or holds it back further unless it is `late`.
    fn decide(&mut self, since: Instant, record: Record, late: bool, on: &mut impl FnMut(Record)) {
        let way = container(&record).map_or(Way::On(None), |container| self.way(&container));
        match way {
            Way::Hold if late => {
                let way = self.give_up();
                self.send(record, way, on);
            }
            Way::Hold => self.held.push_back((since, record)),
            way => self.send(record, way, on),
        }
    }

    fn way(&mut self, container: &Container) -> Way {
        let needed = self.selection.needs_metadata();
        if let Some(known) = self.table.of(container) {
            if needed && !known.selected {
                return Way::Drop;
            }
            if known.is_complete {
                return Way::On(Some(Arc::clone(&known.pod)));
            }
        }
        self.want(container);
        let waited = self.wanted.get(&container.id);
        match waited.map(|want| want.since.elapsed() < PATIENCE) {
            Some(true) => Way::Hold,
            _ => match self.table.of(container) {
                Some(known) => Way::On(Some(Arc::clone(&known.pod))),
                None => self.give_up(),
            },
        }
    }

    /// Nobody knows the pod.
    fn give_up(&self) -> Way {
        if self.selection.needs_metadata() {
            Way::Withhold
        } else {
            Way::On(None)
        }
    }

    fn send(&mut self, mut record: Record, way: Way, on: &mut impl FnMut(Record)) {
        match way {
            Way::On(pod) => {
                if let (Some(known), Some(slot)) = (pod, slot(&mut record)) {
                    *slot = Some(known);
                }
                on(record);
            }
            Way::Hold => self.held.push_back((Instant::now(), record)),
            Way::Drop => {}
            Way::Withhold => {
                if self.withheld == 0 {
                    warn!("a record is not handed on, as nobody knows whether its pod is selected");
                }
                self.withheld += 1;
            }
        }
    }

    /// How it goes; `None` if nobody is asked.
    pub fn health(&self) -> Option<Health> {
        self.source.as_ref()?;
        Some(Health {
            pods: self.table.len(),
            held: self.held.len(),
            withheld: self.withheld,
            failures: self.failures,
            problem: self.problem.clone(),
        })
    }
}

/// The container of a pod that a record is of.
fn container(record: &Record) -> Option<Container> {
    let (id, pod) = place(record)?;
    Some(Container {
        id: id.to_owned(),
        pod_uid: Some(pod.pod_uid.clone()),
    })
}

fn container_id(record: &Record) -> Option<&str> {
    place(record).map(|(id, _)| id)
}

fn place(record: &Record) -> Option<(&str, &Pod)> {
    let (id, pod) = match record {
        Record::Call(call) => (&call.container_id, &call.kubernetes),
        Record::Trace(trace) => (&trace.container_id, &trace.kubernetes),
        Record::Started(call) => (&call.container_id, &call.kubernetes),
        Record::Other(request) => (&request.container_id, &request.kubernetes),
        Record::Others(_) | Record::Dismissed(_) | Record::Health(_) => return None,
    };
    Some((id.as_deref()?, pod.as_deref()?))
}

fn slot(record: &mut Record) -> Option<&mut Option<Arc<Pod>>> {
    Some(match record {
        Record::Call(call) => &mut call.kubernetes,
        Record::Trace(trace) => &mut trace.kubernetes,
        Record::Started(call) => &mut call.kubernetes,
        Record::Other(request) => &mut request.kubernetes,
        Record::Others(_) | Record::Dismissed(_) | Record::Health(_) => return None,
    })
}

#[cfg(test)]
mod tests;
