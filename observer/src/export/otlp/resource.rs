//! Who made the calls: a resource for each process, and one for the agent itself.
//!
//! Names: OpenTelemetry semantic conventions 1.41, `service`, `process`, `container`, `host`.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use super::settings::Settings;
use crate::trace::{CallRecord, TraceRecord};

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
        {
            return Arc::clone(origin);
        }
        let process = Process {
            exe: None,
            container_id: trace.container_id.clone(),
            ppid: None,
        };
        self.add(trace.pid, trace.comm.as_deref(), process)
    }

    fn add(&mut self, pid: u32, comm: Option<&str>, process: Process) -> Arc<Origin> {
        let executable = process.exe.as_deref().and_then(|exe| {
            let name = exe.rsplit('/').next()?;
            (!name.is_empty()).then_some(name)
        });
        let service = match (&self.service_name, comm, executable) {
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
