//! The pods that are known, those that are gone included.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use super::{
    Options,
    object::{self, ContainerStatus},
    selection::Selection,
};
use crate::attach::{
    cgroup::Container,
    pod::{More, Pod},
};

/// Pods that are remembered: many times as many as a node has at once, since those that are gone may have records that
/// come later.
const PODS: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();

/// Containers of them that processes have been seen in.
const CONTAINERS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();

/// Longest name, value or label that is kept: those of Kubernetes are shorter, but for annotations.
const LENGTH: usize = 512;

/// What is known of a container.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// As records tell it.
    pub(super) pod: Arc<Pod>,
    /// Whether the pod is watched.
    pub(super) selected: bool,
    /// Whether it is known which of the pod's containers it is.
    pub(super) is_complete: bool,
}

/// See the module.
pub(super) struct Table {
    node: Option<String>,
    cluster: Option<String>,
    labels: Vec<String>,
    /// By uid.
    pods: LruCache<String, Entry>,
    /// By the container's id.
    containers: LruCache<String, Known>,
}

struct Entry {
    /// Without a container.
    pod: Arc<Pod>,
    selected: bool,
    /// Id, name and image.
    containers: Vec<(String, String, Option<String>)>,
    /// Name and image of the only container that the pod will ever have.
    only: Option<(String, Option<String>)>,
}

impl Table {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            node: options.node.clone(),
            cluster: options.cluster.clone(),
            labels: options.pod_label.clone(),
            pods: LruCache::new(PODS),
            containers: LruCache::new(CONTAINERS),
        }
    }

    /// How many pods are known.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// What is known of a container, if its pod is known.
    pub(super) fn of(&mut self, container: &Container) -> Option<&Known> {
        let uid = container.pod_uid.as_ref()?;
        let stale = match self.containers.get(&container.id) {
            Some(known) => !known.is_complete,
            None => true,
        };
        if stale {
            let entry = self.pods.get(uid)?;
            let of_status = entry.containers.iter().find(|(id, ..)| *id == container.id);
            let found = match (of_status, &entry.only) {
                (Some((_, name, image)), _) | (None, Some((name, image))) => Some((name, image)),
                (None, None) => None,
            };
            let mut pod = (*entry.pod).clone();
            if let Some((name, image)) = found {
                pod.container = Some(name.clone());
                pod.image.clone_from(image);
            }
            let known = Known {
                is_complete: found.is_some(),
                selected: entry.selected,
                pod: Arc::new(pod),
            };
            self.containers.put(container.id.clone(), known);
        }
        self.containers.get(&container.id)
    }

    /// Takes in what the kubelet or the API server says of a pod.
    pub(super) fn put(&mut self, object: &object::Pod, selection: &Selection) {
        let metadata = &object.metadata;
        let (Some(uid), Some(namespace), Some(name)) =
            (&metadata.uid, &metadata.namespace, &metadata.name)
        else {
            return;
        };
        let annotations = metadata.annotations.as_ref();
        let annotation = |key: &str| text(annotations?.get(key)?);
        // The mirror of a static pod has another uid at the API server than in the cgroup.
        let uid = annotation("kubernetes.io/config.hash").unwrap_or_else(|| uid.clone());
        let empty = Default::default();
        let labels = metadata.labels.as_ref().unwrap_or(&empty);
        let label = |key: &str| text(labels.get(key)?);
        let spec = &object.spec;
        let status = object.status.as_ref();
        let workload = workload(object);
        let service_of = |what: &str| annotation(&format!("resource.opentelemetry.io/{what}"));
        let service = service_of("service.name")
            .or_else(|| label("app.kubernetes.io/instance"))
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .or_else(|| workload.name.clone())
            .or_else(|| text(name));
        let pod = Pod {
            pod_uid: uid.clone(),
            namespace: text(namespace),
            pod: text(name),
            container: None,
            image: None,
            node: (spec.node_name.as_ref().and_then(text)).or_else(|| self.node.clone()),
            cluster: self.cluster.clone(),
            workload_kind: workload.kind,
            workload: workload.name,
            service,
            labels: self
                .labels
                .iter()
                .filter_map(|key| Some((key.clone(), label(key)?)))
                .collect(),
            more: More {
                replicaset: workload.replicaset,
                job: workload.job,
                ip: status.and_then(|status| text(status.pod_ip.as_ref()?)),
                start_time: status.and_then(|status| Some(status.start_time?.to_string())),
                service_namespace: service_of("service.namespace").or_else(|| text(namespace)),
                service_version: service_of("service.version")
                    .or_else(|| label("app.kubernetes.io/version")),
            },
        };
        let all = spec.containers.iter().chain(&spec.init_containers);
        let all = all.chain(&spec.ephemeral_containers);
        let images = all.filter_map(|container| {
            Some((
                text(&container.name)?,
                container.image.as_ref().and_then(text),
            ))
        });
        let images: Vec<(String, Option<String>)> = images.collect();
        let image_of = |name: &str| {
            let mut images = images.iter();
            images.find(|(of, _)| of == name)?.1.clone()
        };
        let statuses = status.into_iter().flat_map(|status| {
            let usual = status.container_statuses.iter();
            let first = status.init_container_statuses.iter();
            usual
                .chain(first)
                .chain(&status.ephemeral_container_statuses)
        });
        let containers = statuses.flat_map(|status| {
            let image = image_of(&status.name).or_else(|| text(status.image.as_ref()?));
            ids(status)
                .into_iter()
                .map(move |id| (id, status.name.clone(), image.clone()))
        });
        let mut containers: Vec<(String, String, Option<String>)> = containers.collect();
        let selected = selection.selects(namespace, labels);
        let pod = Arc::new(pod);
        let only = <[_; 1]>::try_from(images).ok().map(|[only]| only);
        if let Some(before) = self.pods.get(&uid) {
            // A restart: what the container before did may not have been recorded yet.
            for old in &before.containers {
                if containers.len() < 64 && !containers.iter().any(|(id, ..)| *id == old.0) {
                    containers.push(old.clone());
                }
            }
            if before.selected != selected || *before.pod != *pod {
                let stale: Vec<String> = self
                    .containers
                    .iter()
                    .filter(|(_, known)| known.pod.pod_uid == uid)
                    .map(|(id, _)| id.clone())
                    .collect();
                for id in stale {
                    self.containers.pop(&id);
                }
            }
        }
        self.pods.put(
            uid,
            Entry {
                pod,
                selected,
                containers,
                only,
            },
        );
    }
}

/// The ids that a container has and had, without the runtime's name before them.
fn ids(status: &ContainerStatus) -> Vec<String> {
    let states = [&status.state, &status.last_state];
    let ended = states
        .into_iter()
        .filter_map(|state| state.terminated.as_ref()?.container_id.as_ref());
    let ids = status.container_id.iter().chain(ended);
    ids.filter_map(|id| text(id.rsplit_once("//").map_or(&**id, |(_, id)| id)))
        .collect()
}

#[derive(Default)]
struct Workload {
    kind: Option<String>,
    name: Option<String>,
    replicaset: Option<String>,
    job: Option<String>,
}

/// What manages a pod, as far as the pod itself tells.
fn workload(object: &object::Pod) -> Workload {
    let metadata = &object.metadata;
    let owners = metadata.owner_references.iter().flatten();
    let Some(owner) = owners
        .clone()
        .find(|owner| owner.controller == Some(true))
        .filter(|owner| owner.kind != "Node")
    else {
        return Workload::default();
    };
    let Some(name) = text(&owner.name) else {
        return Workload::default();
    };
    let of = |kind: &str, name: &str| Workload {
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        ..Workload::default()
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            // A Deployment calls its ReplicaSets NAME-HASH, and says the hash in a label
            // (k8s.io/kubernetes/pkg/controller/deployment).
            let hash = metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get("pod-template-hash"));
            let deployment =
                hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            Workload {
                replicaset: Some(name.clone()),
                ..match deployment {
                    Some(deployment) => of("deployment", deployment),
                    None => of("replicaset", &name),
                }
            }
        }
        "Job" => {
            // A CronJob calls its Jobs NAME-MINUTES, minutes since the epoch (pkg/controller/cronjob).
            let cron = name.rsplit_once('-').filter(|(_, minutes)| {
                minutes.len() == 8 && minutes.bytes().all(|byte| byte.is_ascii_digit())
            });
            Workload {
                job: Some(name.clone()),
                ..match cron {
                    Some((cron, _)) => of("cronjob", cron),
                    None => of("job", &name),
                }
            }
        }
        kind => {
            let kind = text(kind).unwrap_or_default().to_lowercase();
            of(&kind, &name)
        }
    }
}

fn text(text: impl AsRef<str>) -> Option<String> {
    let text = text.as_ref();
    if text.is_empty() {
        return None;
    }
    Some(text.chars().take(LENGTH).collect())
}

#[cfg(test)]
mod tests;
