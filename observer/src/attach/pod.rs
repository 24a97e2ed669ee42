//! The Kubernetes pod that a process runs in, as records tell it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::cgroup::Container;

/// A pod, and which of its containers. What is not known is `None`.
///
/// Names: OpenTelemetry semantic conventions, `k8s`, `container`, `service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `k8s.pod.uid`.
    pub pod_uid: String,
    /// `k8s.namespace.name`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// `k8s.pod.name`.
    #[serde(default)]
    pub pod: Option<String>,
    /// `k8s.container.name`: as the pod calls it.
    #[serde(default)]
    pub container: Option<String>,
    /// The image as the pod names it, with its tag.
    #[serde(default)]
    pub image: Option<String>,
    /// `k8s.node.name`.
    #[serde(default)]
    pub node: Option<String>,
    /// `k8s.cluster.name`, if the agent was told.
    #[serde(default)]
    pub cluster: Option<String>,
    /// What manages the pod: `deployment`, `statefulset`, `daemonset`, `cronjob`, `job`, `replicaset`, or another kind
    /// in lower case.
    #[serde(default)]
    pub workload_kind: Option<String>,
    /// Its name.
    #[serde(default)]
    pub workload: Option<String>,
    /// `service.name`, from annotations and labels.
    #[serde(default)]
    pub service: Option<String>,
    /// The labels that the user asked for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What no record but those of OpenTelemetry has.
    #[serde(skip)]
    pub more: More,
}

/// See [`Pod::more`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// `k8s.replicaset.name`, of a Deployment's, too.
    pub replicaset: Option<String>,
    /// `k8s.job.name`, of a CronJob's, too.
    pub job: Option<String>,
    /// `k8s.pod.ip`.
    pub ip: Option<String>,
    /// `k8s.pod.start_time`: RFC 3339, UTC.
    pub start_time: Option<String>,
    /// `service.namespace`.
    pub service_namespace: Option<String>,
    /// `service.version`.
    pub service_version: Option<String>,
}

impl Pod {
    /// What people call it: `NAMESPACE/POD`, if that is known.
    pub fn called(&self) -> Option<String> {
        Some(format!(
            "{}/{}",
            self.namespace.as_ref()?,
            self.pod.as_ref()?
        ))
    }

    /// What the cgroup says.
    pub fn of_container(container: &Container) -> Option<Arc<Self>> {
        let pod_uid = container.pod_uid.clone()?;
        Some(Arc::new(Self {
            pod_uid,
            ..Self::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_explained() {
        let document = include_str!("../../../docs/records.md");
        let (_, section) = document.split_once("\n## A pod\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let explained: String = rows
            .filter_map(|row| row.split_once(" | "))
            .map(|(fields, _)| format!("`{fields} "))
            .collect();
        let pod = serde_json::to_value(Pod::default()).unwrap();
        for field in pod.as_object().unwrap().keys() {
            assert!(
                explained.contains(&format!("`{field}`")),
                "{field}: {explained}"
            );
        }
        assert_eq!(
            explained.matches('`').count() / 2,
            pod.as_object().unwrap().len()
        );
    }
}
