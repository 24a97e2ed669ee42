//! A pod as the kubelet and the API server write it, as far as it is of interest: the rest is passed over when it is
//! read, and not kept.
//!
//! Source: Kubernetes API 1.33, `core/v1`, `Pod`.

use jiff::Timestamp as Utc;
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;

/// A pod.
pub(super) type Pod = kube::core::Object<Spec, Status>;

/// What it should be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) node_name: Option<String>,
    pub(super) containers: Vec<Container>,
    pub(super) init_containers: Vec<Container>,
    pub(super) ephemeral_containers: Vec<Container>,
}

/// A container of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: Option<String>,
}

/// What it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    pub(super) start_time: Option<Utc>,
    pub(super) container_statuses: Vec<ContainerStatus>,
    pub(super) init_container_statuses: Vec<ContainerStatus>,
    pub(super) ephemeral_container_statuses: Vec<ContainerStatus>,
}

/// What a container of it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    pub(super) image: Option<String>,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    pub(super) state: State,
    pub(super) last_state: State,
}

/// How far a container has come.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) terminated: Option<Terminated>,
}

/// It has ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Terminated {
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
}

/// What the API calls pods.
pub(super) fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"))
}
