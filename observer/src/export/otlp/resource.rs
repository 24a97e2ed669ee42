//! Who made the calls: a resource for each process, and one for the agent itself.
//!
//! Names: OpenTelemetry semantic conventions 1.41, `service`, `process`, `container`, `host`, `k8s`. What a service in
//! a pod is called: "Specify resource attributes using Kubernetes annotations" there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use super::settings::Settings;
use crate::{
    attach::pod::Pod,
    trace::{CallRecord, TraceRecord},
};

/// So many processes are remembered.
const PROCESSES: usize = 4_096;

/// A resource that many spans share. Two of the same process are the same one.
#[derive(Debug)]
pub(super) struct Origin {
    /// Tells it from others.
    pub(super) number: u64,
    pub(super) resource: Resource,
}

/// The resources of the processes that were seen last.
pub(super) struct Resources {
    service_name: Option<String>,
    given: Vec<(String, String)>,
    host: Option<String>,
    known: HashMap<u32, (Process, Arc<Origin>)>,
    /// In the order in which they were first seen.
    order: VecDeque<u32>,
    next: u64,
}

/// What makes a process id stand for another process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    exe: Option<String>,
    container_id: Option<String>,
    ppid: Option<u32>,
    pod: Option<Arc<Pod>>,
}

impl Resources {
    pub(super) fn new(settings: &Settings) -> Self {
        let uname = rustix::system::uname();
        Self {
            service_name: settings.service_name.clone(),
            given: settings.attributes.clone(),
            host: uname
                .nodename()
                .to_str()
                .ok()
                .map(ToOwned::to_owned)
                .filter(|name| !name.is_empty()),
            known: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }

    /// Of the agent.
    pub(super) fn agent(&mut self) -> Arc<Origin> {
        let attributes = vec![
            string("service.name", "observer"),
            string("service.version", env!("CARGO_PKG_VERSION")),
            int("process.pid", i64::from(std::process::id())),
        ];
        self.origin(attributes)
    }

    /// Of the process that made a call.
    pub(super) fn of_call(&mut self, call: &CallRecord) -> Arc<Origin> {
        let process = Process {
            exe: call.exe.clone(),
            container_id: call.container_id.clone(),
            ppid: call.ppid,
            pod: call.kubernetes.clone(),
        };
        if let Some((known, origin)) = self.known.get(&call.pid)
            && *known == process
        {
            return Arc::clone(origin);
        }
        self.add(call.pid, call.comm.as_deref(), process)
    }

    /// Of the process that a trace began in.
    pub(super) fn of_trace(&mut self, trace: &TraceRecord) -> Arc<Origin> {
        if let Some((known, origin)) = self.known.get(&trace.pid)
            && known.container_id == trace.container_id
            && known.pod == trace.kubernetes
        {
            return Arc::clone(origin);
        }
        let process = Process {
            exe: None,
            container_id: trace.container_id.clone(),
            ppid: None,
            pod: trace.kubernetes.clone(),
        };
        self.add(trace.pid, trace.comm.as_deref(), process)
    }

    fn add(&mut self, pid: u32, comm: Option<&str>, process: Process) -> Arc<Origin> {
        let executable = process.exe.as_deref().and_then(|exe| {
            let name = exe.rsplit('/').next()?;
            (!name.is_empty()).then_some(name)
        });
        let pod = process.pod.as_deref();
        let of_pod = pod.and_then(|pod| pod.service.as_ref());
        let service = match (of_pod.or(self.service_name.as_ref()), comm, executable) {
            (Some(name), _, _) => name.clone(),
            (None, Some(comm), _) => comm.to_owned(),
            (None, None, Some(executable)) => format!("unknown_service:{executable}"),
            (None, None, None) => "unknown_service".to_owned(),
        };
        let mut attributes = vec![
            string("service.name", &service),
            int("process.pid", i64::from(pid)),
        ];
        if let Some(ppid) = process.ppid {
            attributes.push(int("process.parent_pid", i64::from(ppid)));
        }
        if let Some(name) = executable {
            attributes.push(string("process.executable.name", name));
        }
        if let Some(exe) = &process.exe {
            attributes.push(string("process.executable.path", exe));
        }
        if let Some(id) = &process.container_id {
            attributes.push(string("container.id", id));
        }
        if let Some(pod) = pod {
            of_kubernetes(pod, &mut attributes);
        }
        let origin = self.origin(attributes);
        if self
            .known
            .insert(pid, (process, Arc::clone(&origin)))
            .is_none()
        {
            self.order.push_back(pid);
        }
        if self.order.len() > PROCESSES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        origin
    }

    /// With what all have. What was seen of a process goes before what is given for all.
    fn origin(&mut self, mut attributes: Vec<KeyValue>) -> Arc<Origin> {
        let add = |attributes: &mut Vec<KeyValue>, name: &str, value: &str| {
            if attributes.iter().all(|known| known.key != name) {
                attributes.push(string(name, value));
            }
        };
        for (name, value) in &self.given {
            add(&mut attributes, name, value);
        }
        if let Some(host) = &self.host {
            add(&mut attributes, "host.name", host);
        }
        // Random, as the conventions recommend.
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        add(&mut attributes, "service.instance.id", &id.to_string());
        self.next += 1;
        Arc::new(Origin {
            number: self.next,
            resource: Resource {
                attributes,
                ..Resource::default()
            },
        })
    }
}

/// What is known of a pod.
fn of_kubernetes(pod: &Pod, attributes: &mut Vec<KeyValue>) {
    let more = &pod.more;
    let workload = |kind: &str| {
        let known = pod.workload_kind.as_deref() == Some(kind);
        pod.workload.as_ref().filter(|_| known)
    };
    let (image, tag) = match pod.image.as_deref().map(image) {
        Some((image, tag)) => (Some(image), tag),
        None => (None, None),
    };
    for (name, value) in [
        ("k8s.cluster.name", pod.cluster.as_deref()),
        ("k8s.node.name", pod.node.as_deref()),
        ("k8s.namespace.name", pod.namespace.as_deref()),
        ("k8s.pod.name", pod.pod.as_deref()),
        ("k8s.pod.uid", Some(&*pod.pod_uid)),
        ("k8s.pod.ip", more.ip.as_deref()),
        ("k8s.pod.start_time", more.start_time.as_deref()),
        ("k8s.container.name", pod.container.as_deref()),
        (
            "k8s.deployment.name",
            workload("deployment").map(|name| &**name),
        ),
        (
            "k8s.statefulset.name",
            workload("statefulset").map(|name| &**name),
        ),
        (
            "k8s.daemonset.name",
            workload("daemonset").map(|name| &**name),
        ),
        ("k8s.cronjob.name", workload("cronjob").map(|name| &**name)),
        ("k8s.replicaset.name", more.replicaset.as_deref()),
        ("k8s.job.name", more.job.as_deref()),
        ("container.image.name", image),
        ("service.namespace", more.service_namespace.as_deref()),
        ("service.version", more.service_version.as_deref()),
    ] {
        attributes.extend(value.map(|value| string(name, value)));
    }
    if let Some(tag) = tag {
        attributes.push(strings("container.image.tags", [tag]));
    }
    for (key, value) in &pod.labels {
        attributes.push(string(&format!("k8s.pod.label.{key}"), value));
    }
}

/// The name and the tag of an image; a digest is no tag.
fn image(reference: &str) -> (&str, Option<&str>) {
    let named = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    match named.rsplit_once(':') {
        // A registry's port is followed by a path.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    }
}

/// Who says so.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "observer".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub(super) fn string(name: &str, value: &str) -> KeyValue {
    attribute(name, Value::StringValue(value.to_owned()))
}

pub(super) fn int(name: &str, value: i64) -> KeyValue {
    attribute(name, Value::IntValue(value))
}

/// A count; one that is too large for OTLP is the largest that is not.
pub(super) fn count(name: &str, value: u64) -> KeyValue {
    int(name, i64::try_from(value).unwrap_or(i64::MAX))
}

pub(super) fn double(name: &str, value: f64) -> KeyValue {
    attribute(name, Value::DoubleValue(value))
}

pub(super) fn bool(name: &str, value: bool) -> KeyValue {
    attribute(name, Value::BoolValue(value))
}

pub(super) fn strings<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> KeyValue {
    let values = values
        .into_iter()
        .map(|value| AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        })
        .collect();
    attribute(name, Value::ArrayValue(ArrayValue { values }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attach::pod::More, trace::record::tests::call};

    #[test]
    fn images_have_names_and_tags() {
        assert_eq!(image("web"), ("web", None));
        assert_eq!(image("web:1.2"), ("web", Some("1.2")));
        assert_eq!(image("r.io:5000/web"), ("r.io:5000/web", None));
        assert_eq!(
            image("r.io:5000/web:1@sha256:ab"),
            ("r.io:5000/web", Some("1"))
        );
        assert_eq!(image("web@sha256:ab"), ("web", None));
    }

    #[test]
    fn a_pod_is_told_by_the_names_of_the_conventions() {
        let mut resources = Resources {
            service_name: None,
            given: Vec::new(),
            host: None,
            known: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        };
        let mut call = call();
        let bare = resources.of_call(&call);
        call.container_id = Some("c".to_owned());
        call.kubernetes = Some(Arc::new(Pod {
            pod_uid: "u".to_owned(),
            namespace: Some("shop".to_owned()),
            pod: Some("web-1".to_owned()),
            container: Some("app".to_owned()),
            image: Some("web:1.2".to_owned()),
            node: Some("node1".to_owned()),
            cluster: Some("test".to_owned()),
            workload_kind: Some("cronjob".to_owned()),
            workload: Some("nightly".to_owned()),
            service: Some("web".to_owned()),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            more: More {
                job: Some("nightly-29412345".to_owned()),
                service_namespace: Some("shop".to_owned()),
                ..More::default()
            },
        }));
        let origin = resources.of_call(&call);
        assert_ne!(bare.number, origin.number);
        assert_eq!(origin.number, resources.of_call(&call).number);
        let said = |name: &str| {
            let mut attributes = origin.resource.attributes.iter();
            let found = attributes.find(|attribute| attribute.key == name)?;
            match found.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some(text.clone()),
                Value::ArrayValue(values) => Some(values.values.len().to_string()),
                _ => None,
            }
        };
        for (name, value) in [
            ("service.name", "web"),
            ("service.namespace", "shop"),
            ("container.id", "c"),
            ("container.image.name", "web"),
            ("container.image.tags", "1"),
            ("k8s.cluster.name", "test"),
            ("k8s.node.name", "node1"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "web-1"),
            ("k8s.pod.uid", "u"),
            ("k8s.container.name", "app"),
            ("k8s.cronjob.name", "nightly"),
            ("k8s.job.name", "nightly-29412345"),
            ("k8s.pod.label.team", "a"),
        ] {
            assert_eq!(said(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(said("k8s.deployment.name"), None);
    }
}
