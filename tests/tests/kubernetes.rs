//! The agent as a fleet runs it: by its chart and its image, in a real Kubernetes cluster, beside real clients and back
//! ends. `cargo xtask test --kubernetes` builds what is needed and runs it.
//!
//! The cluster is started once. The steps run one after the other, each with the values that it needs; a step that
//! fails does not keep the others from being tried.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use observer_e2e::{
    clients,
    cluster::{self, Cluster, KUBELET_PORT, NODE, NODE_ADDRESS},
    commands::fetch,
    harness::wait_until,
    images::{self, Image},
    provider::Provider,
    telemetry::{self, BackEnd, Endpoint, Prometheus, free_ports, get},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the chart is installed, under which name.
const NAMESPACE: &str = "observer";
const RELEASE: &str = "observer";

/// Who is watched, and who is not.
const SELECTED: [&str; 2] = ["shop", "research"];
const UNSELECTED: &str = "finance";

/// Where Prometheus listens.
const PROMETHEUS: u16 = 9090;

/// Real definitions of the objects of Prometheus's operator.
const OPERATOR: (&str, &str) = (
    "github.com/prometheus-operator/prometheus-operator",
    "v0.85.0",
);

type Step = (&'static str, fn(&mut Bed));

const STEPS: &[Step] = &[
    ("manifests", manifests),
    ("pod security", pod_security),
    ("rights by the kubelet", rights_by_the_kubelet),
    ("what the pod may", what_the_pod_may),
    ("calls of selected pods", calls_of_selected_pods),
    ("a pod of a second", a_pod_of_a_second),
    ("memory", memory),
    ("the agent is killed", the_agent_is_killed),
    ("metadata of the API server", metadata_of_the_api_server),
    ("metadata of cgroups", metadata_of_cgroups),
    ("upgrade", upgrade),
    ("uninstallation", uninstallation),
    ("the chart by kubectl", the_chart_by_kubectl),
];

fn main() -> ExitCode {
    let filter: Vec<String> = env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let begun = Instant::now();
    let mut bed = match Bed::new() {
        Ok(bed) => bed,
        Err(error) => {
            eprintln!("no cluster: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("the cluster is up: {:.1?}", begun.elapsed());
    let mut failed = Vec::new();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part));
    for (name, step) in STEPS.iter().filter(|(name, _)| wanted(name)) {
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| step(&mut bed)));
        let result = match result {
            Ok(()) => "ok",
            Err(_) => {
                println!("{}", bed.logs());
                failed.push(*name);
                "FAILED"
            }
        };
        println!("test {name} ... {result} ({:.1?})", begun.elapsed());
    }
    let ending = Instant::now();
    drop(bed);
    println!(
        "the cluster is gone: {:.1?}; in all {:.1?}",
        ending.elapsed(),
        begun.elapsed()
    );
    if failed.is_empty() {
        println!("test result: ok");
        ExitCode::SUCCESS
    } else {
        println!("test result: FAILED: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}

/// A cluster with clients and back ends.
struct Bed {
    // Fields are dropped in their order: first what uses the cluster's network.
    prometheus: Prometheus,
    _collector: BackEnd,
    endpoint: Endpoint,
    provider: Provider,
    cluster: Cluster,
    folder: TempDir,
    python: Image,
    node: Image,
    /// The values with which the chart is installed.
    installed: Option<Vec<String>>,
}

/// What of the agent is in the kernel while it runs.
struct InKernel {
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

/// A pod that makes calls, or did.
#[derive(Clone, Debug)]
struct Pod {
    namespace: String,
    name: String,
    uid: String,
    container: String,
    address: String,
}

/// A span with the attributes of what it is of.
#[derive(Debug)]
struct Span {
    resource: BTreeMap<String, Value>,
    attributes: BTreeMap<String, Value>,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let agent = env::var_os("OBSERVER_IMAGE").map_or_else(
            || clients::target().join("image/observer.tar"),
            PathBuf::from,
        );
        ensure!(
            agent.exists(),
            "no {}: run `cargo xtask test --kubernetes`",
            agent.display()
        );
        let (pause, python, node) = (images::pause()?, images::python()?, images::node()?);
        let archives = [&pause, &python, &node].map(|image| image.archive.clone());
        let definitions = operator()?;
        // In the cluster's network nothing can be downloaded.
        telemetry::collector()?;
        let cluster = Cluster::start(&[&archives[..], &[agent]].concat())?;
        let folder = tempfile::tempdir()?;

        let provider = Provider::start(folder.path(), 1, None)?;
        Cluster::forward(443, provider.port())?;
        let endpoint = Endpoint::start();
        let ports @ [_, http] = free_ports();
        let collector = BackEnd::collector(folder.path(), ports, &endpoint, None);
        Cluster::forward(4318, http)?;
        let prometheus = prometheus(folder.path());

        for file in definitions {
            let path = file.to_str().context("a path that is no text")?;
            // They are too large for what `apply` notes.
            cluster.kubectl(&["create", "-f", path])?;
        }
        let privileged = "pod-security.kubernetes.io/enforce";
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {privileged: "privileged"}}})
            .to_string(),
        )?;
        let programs = cluster::folder().join("clients");
        for namespace in SELECTED.into_iter().chain([UNSELECTED]) {
            cluster.kubectl(&["create", "namespace", namespace])?;
            for (name, path) in [("programs", &programs), ("authority", &provider.ca())] {
                let from = format!("--from-file={}", path.display());
                cluster.kubectl(&["-n", namespace, "create", "configmap", name, &from])?;
            }
        }
        let bed = Self {
            prometheus,
            _collector: collector,
            endpoint,
            provider,
            cluster,
            folder,
            python,
            node,
            installed: None,
        };
        // Some are there before the agent is.
        bed.apply("Deployment", "shop", "checkout");
        bed.apply("Pod", UNSELECTED, "ledger");
        Ok(bed)
    }

    /// Installs the chart with these values beside those of `values.yaml`, or upgrades to them, and waits until the
    /// agent is ready.
    fn install(&mut self, values: &[&str]) {
        let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        if self.installed.as_ref() == Some(&values) {
            return;
        }
        let (chart, file) = (text(&chart()), values_file("values.yaml"));
        let mut arguments = vec!["upgrade", "--install", RELEASE, &chart, "-n", NAMESPACE];
        arguments.extend(["-f", &file]);
        for value in &values {
            arguments.extend(["--set", value]);
        }
        self.cluster.helm(&arguments).unwrap();
        self.rolled_out();
        self.installed = Some(values);
    }

    /// Takes away what [`install`](Self::install) has installed.
    fn uninstall(&mut self) {
        self.cluster
            .helm(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait"])
            .unwrap();
        self.installed = None;
    }

    fn rolled_out(&self) {
        let said = self.cluster.kubectl(&[
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "daemonset/observer",
            "--timeout=40s",
        ]);
        said.unwrap();
        let agent = self.agent();
        let port = &agent["spec"]["containers"][0]["ports"][0];
        assert_eq!(port["name"], "metrics");
        let address = agent["status"]["podIP"].as_str().unwrap();
        let target = format!("{address}:{}", port["containerPort"]);
        let targets = json!([{"targets": [target]}]).to_string();
        // Whole or not at all: Prometheus watches the file.
        let [draft, file] = ["draft", "targets.json"].map(|name| self.folder.path().join(name));
        fs::write(&draft, targets).unwrap();
        fs::rename(&draft, &file).unwrap();
    }

    /// The agent's pod.
    fn agent(&self) -> Value {
        let list = self.json(&[
            "-n",
            NAMESPACE,
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=observer",
        ]);
        let pods = list["items"].as_array().unwrap();
        let lives = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods.iter().find(lives).expect("a pod of the agent").clone()
    }

    /// Its process, as the host knows it.
    fn agent_process(&self) -> u32 {
        let agent = self.agent();
        let status = &agent["status"]["containerStatuses"][0];
        let id = status["containerID"].as_str().unwrap();
        let (_, id) = id.rsplit_once('/').unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let of_agent = |pid: &u32| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            groups.is_ok_and(|groups| groups.contains(id))
        };
        pids.find(of_agent).expect("the agent's process")
    }

    /// How often the agent's container was started again.
    fn restarts(&self) -> u64 {
        let status = &self.agent()["status"]["containerStatuses"][0];
        status["restartCount"].as_u64().unwrap()
    }

    /// What the agent has written, records included.
    fn agent_log(&self) -> String {
        let said = self
            .cluster
            .kubectl(&["-n", NAMESPACE, "logs", "daemonset/observer"]);
        said.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// The records in the agent's log.
    fn records(&self) -> Vec<Value> {
        let log = self.agent_log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What helps to find out why a step failed.
    fn logs(&self) -> String {
        let log = self.agent_log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with('{')).collect();
        let last = lines[lines.len().saturating_sub(60)..].join("\n");
        let pods = self.cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]);
        let events = self.cluster.kubectl(&[
            "get",
            "events",
            "-A",
            "--field-selector=type=Warning",
            "--sort-by=.lastTimestamp",
        ]);
        let [pods, events] = [pods, events].map(|said| said.unwrap_or_default());
        let records: String = self
            .records()
            .iter()
            .map(|record| {
                let fields = ["type", "response_id", "trace_id", "kubernetes"];
                let fields = fields.map(|name| record[name].to_string());
                format!("{}\n", fields.join(" "))
            })
            .collect();
        let series = ["up", "gen_ai_client_calls_total"].map(|query| self.prometheus.query(query));
        format!(
            "--- agent\n{last}\n--- records\n{records}--- pods\n{pods}\n--- warnings\n{events}\n--- Prometheus\n{series:?}"
        )
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.cluster.kubectl(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&said.unwrap()).unwrap()
    }

    /// What a container of a client is: a program of `kubernetes/clients`.
    fn container(&self, image: &Image, program: &str) -> Value {
        let mut command = vec![text(&image.program), format!("/programs/{program}")];
        command.extend(image.modules.as_deref().map(text));
        let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
        json!({
            "name": "client", "image": image.name, "imagePullPolicy": "Never", "command": command,
            "env": [
                {"name": "OPENAI_API_KEY", "value": "sk-test-THIS-KEY-IS-SECRET-0123456789"},
                {"name": "SSL_CERT_FILE", "value": "/authority/ca.pem"},
                {"name": "NODE_EXTRA_CA_CERTS", "value": "/authority/ca.pem"},
                {"name": "PYTHONUNBUFFERED", "value": "1"},
            ],
            "volumeMounts": [mount("programs"), mount("authority")],
        })
    }

    /// What a pod of a client is, whose name servers know the provider as OpenAI.
    fn template(&self, image: &Image, program: &str) -> Value {
        let volume = |name: &str| json!({"name": name, "configMap": {"name": name}});
        json!({
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "hostAliases": [{"ip": NODE_ADDRESS, "hostnames": ["api.openai.com"]}],
            "containers": [self.container(image, program)],
            "volumes": [volume("programs"), volume("authority")],
        })
    }

    /// A workload of one pod that makes calls when it is [asked to](Pod::ask); started if it is not there.
    fn apply(&self, kind: &str, namespace: &str, name: &str) {
        let labels = json!({"app": name});
        let (image, program) = match kind {
            "StatefulSet" => (&self.node, "service.mjs"),
            _ => (&self.python, "service.py"),
        };
        let mut template = self.template(image, program);
        template["containers"][0]["readinessProbe"] =
            json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
        let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
        let object = if kind == "Pod" {
            json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": template})
        } else {
            json!({"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": template},
            }})
        };
        self.cluster.apply(&object.to_string()).unwrap();
    }

    /// As [`apply`](Self::apply); waits until it is ready.
    fn service(&self, kind: &str, namespace: &str, name: &str) -> Pod {
        self.apply(kind, namespace, name);
        let selector = format!("app={name}");
        let mut pod = Value::Null;
        wait_until("the client is ready", || {
            let list = self.json(&["-n", namespace, "get", "pods", "-l", &selector]);
            pod = list["items"][0].clone();
            pod["status"]["containerStatuses"][0]["ready"] == true
        });
        Pod::of(&pod)
    }

    /// The spans that the Collector was sent and handed on.
    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for document in self.endpoint.documents("/v1/traces") {
            for resource in array(&document, "resourceSpans") {
                for scope in array(resource, "scopeSpans") {
                    spans.extend(array(scope, "spans").map(|span| Span {
                        resource: attributes(&resource["resource"]),
                        attributes: attributes(span),
                    }));
                }
            }
        }
        spans
    }

    /// The spans of calls with these ids of answers, each once, as soon as they are all there.
    fn spans_of(&self, ids: &[String]) -> Vec<Span> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let of_call = |span: &Span| {
                let id = span.attributes.get("gen_ai.response.id");
                id.and_then(Value::as_str)
                    .is_some_and(|id| ids.iter().any(|wanted| wanted == id))
            };
            let found: Vec<Span> = self.spans().into_iter().filter(of_call).collect();
            if found.len() >= ids.len() {
                assert_eq!(found.len(), ids.len(), "calls that came more than once");
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "of {ids:?} the Collector has only {found:#?}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the provider knows of a pod's calls.
    fn truth(&self, pod: &Pod) -> Vec<Value> {
        let mut truth = self.provider.truth();
        truth.retain(|call| call["test"] == pod.name.as_str());
        truth
    }

    /// Whether anything of a pod is in the back ends or in the agent's records, and where.
    fn traces_of(&self, pod: &Pod) -> Vec<String> {
        let mut found = Vec::new();
        let mut look = |place: &str, text: &str| {
            for word in [&pod.name, &pod.uid, &pod.container] {
                if text.contains(word.as_str()) {
                    found.push(format!("{word} in {place}"));
                }
            }
            for call in self.truth(pod) {
                let id = call["request_id"].as_str().unwrap();
                if text.contains(id) {
                    found.push(format!("{id} in {place}"));
                }
            }
        };
        for request in self.endpoint.requests() {
            look(&request.path, &String::from_utf8_lossy(&request.body));
        }
        look("the agent's log", &self.agent_log());
        let series = get(
            PROMETHEUS,
            "/api/v1/series?match[]=%7B__name__%3D~%22.%2B%22%7D",
        );
        look("Prometheus", &series.unwrap().to_string());
        found
    }

    /// The values of a query to Prometheus, by labels.
    fn query(&self, query: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let series = self.prometheus.query(query);
        series
            .iter()
            .map(|series| {
                let labels = series["metric"].as_object().unwrap().iter();
                let labels =
                    labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
                let value = series["value"][1].as_str().unwrap();
                (labels.collect(), value.parse().unwrap())
            })
            .collect()
    }
}

impl Pod {
    fn of(pod: &Value) -> Self {
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = field(&pod["status"]["containerStatuses"][0]["containerID"]);
        Self {
            namespace: field(&pod["metadata"]["namespace"]),
            name: field(&pod["metadata"]["name"]),
            uid: field(&pod["metadata"]["uid"]),
            container: id.rsplit('/').next().unwrap_or_default().to_owned(),
            address: field(&pod["status"]["podIP"]),
        }
    }

    /// Has it make calls; returns the ids of the answers.
    fn ask(&self, query: &str) -> Vec<String> {
        let mut stream = TcpStream::connect((&*self.address, 8080)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        write!(stream, "GET /?{query} HTTP/1.0\r\nhost: client\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    /// Asserts that a span is of this pod, as far as that is known by the kubelet or the API server.
    fn assert_is_of(&self, span: &Span) {
        let expected = [
            ("k8s.namespace.name", &*self.namespace),
            ("k8s.pod.name", &*self.name),
            ("k8s.pod.uid", &*self.uid),
            ("k8s.container.name", "client"),
            ("k8s.node.name", NODE),
            ("k8s.cluster.name", "test-bed"),
            ("container.id", &*self.container),
        ];
        for (attribute, value) in expected {
            assert_eq!(
                span.resource.get(attribute),
                Some(&json!(value)),
                "{attribute} of {span:#?}"
            );
        }
    }
}

/// A Prometheus that scrapes what is in `targets.json`: Debian's has no discovery of Kubernetes.
fn prometheus(folder: &Path) -> Prometheus {
    let config = "scrape_configs:
- job_name: observer
  scrape_interval: 500ms
  scrape_timeout: 500ms
  file_sd_configs:
  - files: [targets.json]
";
    Prometheus::start(folder, PROMETHEUS, config)
}

/// The definitions of the objects of Prometheus's operator, which come from the Go module proxy.
fn operator() -> anyhow::Result<Vec<PathBuf>> {
    let (module, version) = OPERATOR;
    let module = format!("{module}@{version}");
    let folder = clients::prepared("operator", &module, |folder| {
        fs::create_dir_all(folder)?;
        fetch(
            Command::new("go")
                .env("GOMODCACHE", folder)
                .env("GOFLAGS", "-modcacherw")
                .args(["mod", "download", &module]),
        )
    })?;
    let folder = folder.join(&module).join("example/prometheus-operator-crd");
    let names = ["podmonitors", "prometheusrules", "servicemonitors"];
    Ok(names
        .map(|name| folder.join(format!("monitoring.coreos.com_{name}.yaml")))
        .into())
}

fn chart() -> PathBuf {
    clients::folder()
        .parent()
        .unwrap()
        .join("deploy/helm/observer")
}

fn values_file(name: &str) -> String {
    text(&cluster::folder().join(name))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn array<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// Attributes in OTLP's JSON, as JSON.
fn attributes(of: &Value) -> BTreeMap<String, Value> {
    array(of, "attributes")
        .map(|pair| {
            let (kind, value) = pair["value"].as_object().unwrap().iter().next().unwrap();
            // Protobuf's JSON has 64 bits as text.
            let number = || value.as_str()?.parse::<i64>().ok();
            let value = match kind.as_str() {
                "intValue" => number().map_or_else(|| value.clone(), |number| json!(number)),
                _ => value.clone(),
            };
            (pair["key"].as_str().unwrap().to_owned(), value)
        })
        .collect()
}

fn sum<'a>(calls: impl IntoIterator<Item = &'a Value>, field: &str) -> f64 {
    let counts = calls
        .into_iter()
        .map(|call| call[field].as_u64().unwrap_or(0));
    counts.sum::<u64>() as f64
}

/// The API server takes every object that the chart makes and all that is in `deploy`, to the last field; also those of
/// Prometheus's operator, whose real definitions it has.
fn manifests(bed: &mut Bed) {
    let [everything, kubelet, cgroup] = ["everything", "kubelet", "cgroup"]
        .map(|name| text(&chart().join(format!("ci/{name}-values.yaml"))));
    let own = values_file("values.yaml");
    let deploy = |name: &str| text(&chart().parent().unwrap().parent().unwrap().join(name));
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "observability"}});
    bed.cluster.apply(&namespace.to_string()).unwrap();
    let collector = bed
        .cluster
        .kubectl(&["kustomize", &deploy("collector")])
        .unwrap();
    let rendered = fs::read_to_string(deploy("kubernetes/observer.yaml")).unwrap();
    let usual = &[
        "daemonset.apps/observer",
        "configmap/observer",
        "clusterrole.rbac.authorization.k8s.io/observer",
        "clusterrolebinding.rbac.authorization.k8s.io/observer",
        "serviceaccount/observer",
        "service/observer",
    ][..];
    let monitor = ["--set", "serviceMonitor.enabled=true"];
    for (what, objects, names) in [
        ("the defaults", bed.rendered(&[]), usual),
        ("observer.yaml", rendered, usual),
        ("the kubelet", bed.rendered(&["-f", &kubelet]), usual),
        ("own values", bed.rendered(&["-f", &own]), usual),
        (
            "cgroup",
            bed.rendered(&["-f", &cgroup]),
            &["daemonset.apps/observer"],
        ),
        (
            "everything",
            bed.rendered(&["-f", &everything]),
            &[
                "daemonset.apps/observer-llm",
                "podmonitor.monitoring.coreos.com/observer-llm",
                "prometheusrule.monitoring.coreos.com/observer-llm",
                "networkpolicy.networking.k8s.io/observer-llm",
                "configmap/observer-llm-dashboard",
                "resourcequota/observer-llm",
            ],
        ),
        (
            "a monitor",
            bed.rendered(&monitor),
            &["servicemonitor.monitoring.coreos.com/observer"],
        ),
        (
            "the Collector",
            collector,
            &["deployment.apps/", "service/", "configmap/"],
        ),
    ] {
        let said = bed.cluster.kubectl_with(
            &["apply", "--dry-run=server", "--validate=strict", "-f", "-"],
            &objects,
        );
        let said = said.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        for name in names {
            assert!(said.contains(name), "{what}: no {name}: {said}");
        }
    }

    // The operator hands rules to Prometheus as they are.
    let rules = bed.rendered(&["-f", &everything, "-s", "templates/prometheusrule.yaml"]);
    let rules = bed.as_json(&rules);
    let file = bed.folder.path().join("rules.yaml");
    fs::write(&file, rules["spec"].to_string()).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(file)
        .output()
        .expect("promtool, which .ci/run installs");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("rules found"), "{said}");
}

/// The agent's pods are admitted where pods may have privileges, and nowhere else.
fn pod_security(bed: &mut Bed) {
    let own = values_file("values.yaml");
    let daemon_set = bed.rendered(&["-f", &own, "-s", "templates/daemonset.yaml"]);
    let mut daemon_set = bed.as_json(&daemon_set);
    let template = &daemon_set["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "observer"},
        "spec": template["spec"]});
    for level in ["restricted", "baseline", "privileged"] {
        let namespace = format!("level-{level}");
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels}});
        bed.cluster.apply(&object.to_string()).unwrap();
        bed.cluster
            .kubectl(&["-n", &namespace, "create", "serviceaccount", "observer"])
            .unwrap();
        let dry_run = |object: &mut Value| {
            object["metadata"]["namespace"] = json!(namespace);
            let arguments = ["apply", "--dry-run=server", "-f", "-"];
            bed.cluster.kubectl_with(&arguments, &object.to_string())
        };
        let admitted = dry_run(&mut pod);
        let told = dry_run(&mut daemon_set).unwrap();
        if level == "privileged" {
            admitted.unwrap();
            assert!(!told.contains("Warning"), "{told}");
        } else {
            let refused = admitted.unwrap_err().to_string();
            let reason = format!("violates PodSecurity \"{level}:latest\"");
            assert!(refused.contains(&reason), "{refused}");
            for violation in ["hostPID=true", "\"BPF\"", "hostPath"] {
                assert!(refused.contains(violation), "no {violation}: {refused}");
            }
            assert!(told.contains("would violate PodSecurity"), "{told}");
        }
        bed.cluster
            .kubectl(&["delete", "namespace", &namespace, "--wait=false"])
            .unwrap();
    }
}

/// The agent may ask the kubelet for the node's pods, and nobody for anything else.
fn rights_by_the_kubelet(bed: &mut Bed) {
    bed.install(&[]);
    assert_eq!(bed.rights(), ["nodes/pods [] [] [get]"]);
    for (verb, resource, may) in [
        ("get", "nodes/pods", true),
        ("get", "nodes", false),
        ("get", "nodes/proxy", false),
        ("create", "nodes/proxy", false),
        ("get", "pods", false),
        ("list", "pods", false),
        ("watch", "pods", false),
        ("create", "pods/exec", false),
        ("get", "pods/log", false),
        ("get", "secrets", false),
        ("list", "secrets", false),
        ("get", "configmaps", false),
        ("create", "pods", false),
        ("create", "*", false),
        ("update", "*", false),
        ("patch", "*", false),
        ("delete", "*", false),
        ("impersonate", "users", false),
    ] {
        assert_eq!(bed.may(verb, resource), may, "{verb} {resource}");
    }
    // The kubelet sees it so, too.
    let token = bed
        .cluster
        .kubectl(&["-n", NAMESPACE, "create", "token", "observer"])
        .unwrap();
    let status = |path: &str| {
        let output = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(bed.cluster.authority())
            .args(["-H", &format!("Authorization: Bearer {}", token.trim())])
            .arg(format!("https://{NODE_ADDRESS}:{KUBELET_PORT}{path}"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(status("/pods"), "200");
    for path in ["/metrics", "/configz", "/logs/", "/stats/summary"] {
        assert_eq!(status(path), "403", "{path}");
    }
}

/// The agent's process has the four capabilities and nothing more, and can write nowhere on the node.
fn what_the_pod_may(bed: &mut Bed) {
    /// Numbers of capabilities (`linux/capability.h`): DAC_READ_SEARCH, SYS_PTRACE, PERFMON, BPF.
    const CAPABILITIES: [u32; 4] = [2, 19, 38, 39];
    bed.install(&[]);
    let pid = bed.agent_process();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    let wanted: u64 = CAPABILITIES.iter().map(|number| 1 << number).sum();
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(field(set), format!("{wanted:016x}"), "{set}");
    }
    assert_eq!(field("Seccomp"), "2", "seccomp filters system calls");
    assert_eq!(field("NoNewPrivs"), "1");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let options = |place: &str| {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|words| words[1] == place);
        line.unwrap_or_else(|| panic!("nothing at {place}: {mounts}"))[3].to_owned()
    };
    for place in ["/", "/etc/observer", "/sys/kernel/tracing", "/sys"] {
        assert!(options(place).starts_with("ro"), "{place}: {mounts}");
    }

    let agent = bed.agent();
    let spec = &agent["spec"];
    assert_eq!(spec["hostPID"], true);
    assert!(spec["hostNetwork"].is_null() && spec["hostIPC"].is_null());
    let of_host = array(spec, "volumes").filter(|volume| !volume["hostPath"].is_null());
    let container = &spec["containers"][0];
    for volume in of_host {
        let mut mounts = array(container, "volumeMounts");
        let mount = mounts
            .find(|mount| mount["name"] == volume["name"])
            .unwrap();
        assert_eq!(mount["readOnly"], true, "{volume}");
    }
}

/// Calls of pods of two namespaces, by different runtimes and workloads, come to the Collector and to Prometheus with
/// all that is to be known about their pods; nothing of a pod that is not selected does.
fn calls_of_selected_pods(bed: &mut Bed) {
    bed.install(&[]);
    let checkout = bed.service("Deployment", "shop", "checkout");
    let assistant = bed.service("StatefulSet", "research", "assistant");
    let ledger = bed.service("Pod", UNSELECTED, "ledger");
    let before = sums(&bed.query("sum(gen_ai_client_calls_total)"));
    assert_eq!(ledger.ask("count=4").len(), 4);
    let mut calls = 0;
    for (pod, count, workload, model) in [
        (&checkout, 6, ("deployment", "checkout"), "gpt-4o"),
        (&assistant, 5, ("statefulset", "assistant"), "gpt-4.1"),
    ] {
        let ids = pod.ask(&format!("count={count}"));
        assert_eq!(ids.len(), count, "{pod:?}");
        calls += count;
        let spans = bed.spans_of(&ids);
        let truth = bed.truth(pod);
        assert_eq!(truth.len(), count);
        for span in &spans {
            pod.assert_is_of(span);
            let attribute = format!("k8s.{}.name", workload.0);
            assert_eq!(span.resource[&attribute], workload.1, "{span:#?}");
            assert_eq!(span.attributes["gen_ai.request.model"], model);
        }
        for (attribute, field) in [
            ("gen_ai.usage.input_tokens", "prompt_tokens"),
            ("gen_ai.usage.output_tokens", "completion_tokens"),
        ] {
            let counted = spans
                .iter()
                .map(|span| span.attributes[attribute].as_u64().unwrap());
            assert_eq!(
                counted.sum::<u64>() as f64,
                sum(&truth, field),
                "{attribute}"
            );
        }

        let labels = format!(
            "k8s_namespace_name='{}', k8s_pod_name='{}', k8s_container_name='client', k8s_node_name='{NODE}', \
             k8s_workload_kind='{}', k8s_workload_name='{}', gen_ai_request_model='{model}'",
            pod.namespace, pod.name, workload.0, workload.1
        );
        let counted = |query: &str| sums(&bed.query(query));
        wait_until("Prometheus has all calls of a pod", || {
            counted(&format!("sum(gen_ai_client_calls_total{{{labels}}})")) >= count as f64
        });
        let query = format!("sum(gen_ai_client_calls_total{{{labels}}})");
        assert_eq!(counted(&query), count as f64, "{query}");
        for (kind, field) in [("input", "prompt_tokens"), ("output", "completion_tokens")] {
            let query =
                format!("sum(gen_ai_client_tokens_total{{{labels}, gen_ai_token_type='{kind}'}})");
            assert_eq!(counted(&query), sum(&truth, field), "{query}");
        }
    }
    // No others have been counted under other names.
    let all = sums(&bed.query("sum(gen_ai_client_calls_total)"));
    assert_eq!(all - before, f64::from(u32::try_from(calls).unwrap()));
    let records = bed.records();
    let namespaces: BTreeSet<&str> = records
        .iter()
        .filter(|record| record["type"] == "llm_call")
        .map(|record| record["kubernetes"]["namespace"].as_str().unwrap())
        .collect();
    assert_eq!(namespaces, BTreeSet::from(["research", "shop"]));

    // The unselected pod once more, with a call behind it that must have come.
    assert_eq!(ledger.ask("count=2").len(), 2);
    bed.spans_of(&checkout.ask("count=1"));
    assert_eq!(bed.truth(&ledger).len(), 6);
    assert_eq!(bed.traces_of(&ledger), Vec::<String>::new());
}

/// A pod that makes one call, and is deleted as soon as it has ended.
fn a_pod_of_a_second(bed: &mut Bed) {
    bed.install(&[]);
    let begun = Instant::now();
    let pod = bed.once("shop", "errand");
    println!("the pod was there for {:.1?}", begun.elapsed());
    let truth = bed.truth(&pod);
    assert_eq!(truth.len(), 1);
    let id = truth[0]["request_id"].as_str().unwrap();
    let mut found = Vec::new();
    wait_until("the Collector has the call of a pod that is gone", || {
        found = bed.spans();
        found.retain(|span| {
            let of = span.attributes.get("gen_ai.response.id");
            of.and_then(Value::as_str).is_some_and(|of| of.contains(id))
        });
        !found.is_empty()
    });
    assert_eq!(found.len(), 1);
    pod.assert_is_of(&found[0]);
}

/// The agent keeps below its limit of memory while a pod does what it can.
fn memory(bed: &mut Bed) {
    const SECONDS: u64 = 15;
    bed.install(&[]);
    let checkout = bed.service("Deployment", "shop", "checkout");
    let (pid, restarts) = (bed.agent_process(), bed.restarts());
    let ids = checkout.ask(&format!("seconds={SECONDS}&bytes=100000"));
    assert!(ids.len() > 20, "{} calls", ids.len());
    // It is the same process, and it goes on.
    bed.spans_of(&checkout.ask("count=1"));
    assert_eq!((bed.agent_process(), bed.restarts()), (pid, restarts));
    let (most, limit) = memory_of(pid);
    println!(
        "{} calls with 100 kB each way in {SECONDS} s: {} MiB of {} MiB at most",
        ids.len(),
        most >> 20,
        limit >> 20
    );
    let stated = &bed.agent()["spec"]["containers"][0]["resources"]["limits"]["memory"];
    assert_eq!(stated, &json!(format!("{}Mi", limit >> 20)));
    assert!(most < limit, "{most} bytes of {limit}");
}

/// An agent that is killed is started again, and goes on with processes that were there before.
fn the_agent_is_killed(bed: &mut Bed) {
    bed.install(&[]);
    let checkout = bed.service("Deployment", "shop", "checkout");
    let assistant = bed.service("StatefulSet", "research", "assistant");
    let pid = bed.agent_process();
    let (in_kernel, restarts) = (InKernel::of(pid), bed.restarts());
    assert!(!in_kernel.programs.is_empty() && !in_kernel.links.is_empty());
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait_until("the agent was started again", || {
        let status = bed.agent()["status"]["containerStatuses"][0].clone();
        status["restartCount"].as_u64().unwrap() > restarts && status["ready"] == true
    });
    in_kernel.assert_gone();
    for pod in [&checkout, &assistant] {
        for span in bed.spans_of(&pod.ask("count=2")) {
            pod.assert_is_of(&span);
        }
    }
}

/// The same by the API server, with other rights.
fn metadata_of_the_api_server(bed: &mut Bed) {
    bed.install(&["kubernetes.metadata=api"]);
    assert_eq!(bed.rights(), ["pods [] [] [get list watch]"]);
    for (verb, resource, may) in [
        ("list", "pods", true),
        ("watch", "pods", true),
        ("get", "nodes/pods", false),
        ("get", "nodes", false),
        ("get", "secrets", false),
        ("create", "pods/exec", false),
        ("create", "*", false),
    ] {
        assert_eq!(bed.may(verb, resource), may, "{verb} {resource}");
    }
    let checkout = bed.service("Deployment", "shop", "checkout");
    let ledger = bed.service("Pod", UNSELECTED, "ledger");
    ledger.ask("count=2");
    for span in bed.spans_of(&checkout.ask("count=2")) {
        checkout.assert_is_of(&span);
        assert_eq!(span.resource["k8s.deployment.name"], "checkout");
    }
    let pod = bed.once("research", "late");
    let id = bed.truth(&pod)[0]["request_id"].clone();
    wait_until("the Collector has the call of a pod that is gone", || {
        let spans = bed.spans();
        let mut of_pod = spans
            .iter()
            .filter(|span| span.resource.get("k8s.pod.uid") == Some(&json!(pod.uid)));
        of_pod.any(|span| {
            let of = span
                .attributes
                .get("gen_ai.response.id")
                .and_then(Value::as_str);
            of.is_some_and(|of| of.contains(id.as_str().unwrap()))
        })
    });
    assert_eq!(bed.traces_of(&ledger), Vec::<String>::new());
}

/// Without any right, and without a token, there are the ids of pods and containers.
fn metadata_of_cgroups(bed: &mut Bed) {
    bed.install(&[
        "kubernetes.metadata=cgroup",
        "selection.namespaces=null",
        "selection.excludeNamespaces=null",
    ]);
    assert_eq!(bed.rights(), Vec::<String>::new());
    bed.assert_no_rights_are_left();
    let agent = bed.agent();
    let projected = |volume: &Value| {
        let mut sources = array(&volume["projected"], "sources");
        sources.any(|source| !source["serviceAccountToken"].is_null())
    };
    assert!(
        !array(&agent["spec"], "volumes").any(projected),
        "{agent:#}"
    );
    let checkout = bed.service("Deployment", "shop", "checkout");
    for span in bed.spans_of(&checkout.ask("count=2")) {
        for (attribute, value) in [
            ("k8s.pod.uid", &checkout.uid),
            ("container.id", &checkout.container),
        ] {
            assert_eq!(
                span.resource.get(attribute),
                Some(&json!(value)),
                "{span:#?}"
            );
        }
        for attribute in ["k8s.pod.name", "k8s.namespace.name", "k8s.container.name"] {
            assert_eq!(span.resource.get(attribute), None, "{span:#?}");
        }
    }
}

/// Changed values bring another pod, behind which nothing of the first stays.
fn upgrade(bed: &mut Bed) {
    bed.install(&[]);
    let checkout = bed.service("Deployment", "shop", "checkout");
    bed.spans_of(&checkout.ask("count=1"));
    let first = bed.agent();
    let in_kernel = InKernel::of(bed.agent_process());
    bed.install(&["kubernetes.cluster=test-bed", "kubernetes.podLabels={app}"]);
    let second = bed.agent();
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    in_kernel.assert_gone();
    for span in bed.spans_of(&checkout.ask("count=2")) {
        checkout.assert_is_of(&span);
        assert_eq!(span.resource["k8s.pod.label.app"], "checkout", "{span:#?}");
    }
}

/// By Helm.
fn uninstallation(bed: &mut Bed) {
    leaves_nothing(bed, |bed| bed.install(&[]), Bed::uninstall);
}

/// `helm template | kubectl apply`, for those who do not have Helm in their clusters.
fn the_chart_by_kubectl(bed: &mut Bed) {
    let objects = bed.rendered(&["--skip-tests", "-f", &values_file("values.yaml")]);
    if bed.installed.is_some() {
        bed.uninstall();
    }
    leaves_nothing(
        bed,
        |bed| {
            bed.cluster.apply(&objects).unwrap();
            bed.rolled_out();
        },
        |bed| {
            let delete = bed.cluster.kubectl_with(&["delete", "-f", "-"], &objects);
            delete.unwrap();
        },
    );
}

/// Asserts that an agent sees what it should while it is installed, and that of it nothing is there afterwards: no
/// probes, maps, files or objects.
fn leaves_nothing(bed: &mut Bed, install: impl FnOnce(&mut Bed), remove: impl FnOnce(&mut Bed)) {
    let pinned = files(&["/sys/fs/bpf"], "*");
    let events = uprobe_events();
    let on_the_node = ["/etc", "/opt", "/run", "/usr", "/var"];
    let before = files(&on_the_node, "*observer*");
    install(bed);
    let in_kernel = InKernel::of(bed.agent_process());
    // A file would be there by then.
    let checkout = bed.service("Deployment", "shop", "checkout");
    for span in bed.spans_of(&checkout.ask("count=1")) {
        checkout.assert_is_of(&span);
    }
    remove(bed);
    wait_until("the agent's pod is gone", || {
        let pods = bed.json(&["-n", NAMESPACE, "get", "pods"]);
        array(&pods, "items").count() == 0
    });
    in_kernel.assert_gone();
    assert_eq!(uprobe_events(), events);
    assert_eq!(files(&["/sys/fs/bpf"], "*"), pinned);
    assert_eq!(files(&on_the_node, "*observer*"), before);
    bed.assert_no_rights_are_left();
    let left = bed
        .cluster
        .kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "all,configmaps,secrets,serviceaccounts,networkpolicies,resourcequotas",
            "-o",
            "name",
        ])
        .unwrap();
    let left: Vec<&str> = left.lines().collect();
    // What every namespace has.
    assert_eq!(
        left,
        ["configmap/kube-root-ca.crt", "serviceaccount/default"]
    );
}

impl Bed {
    /// What the chart makes.
    fn rendered(&self, arguments: &[&str]) -> String {
        let chart = text(&chart());
        let arguments = [&["template", RELEASE, &chart, "-n", NAMESPACE], arguments].concat();
        self.cluster.helm(&arguments).unwrap()
    }

    fn as_json(&self, yaml: &str) -> Value {
        let arguments = ["create", "--dry-run=client", "-o", "json", "-f", "-"];
        let said = self.cluster.kubectl_with(&arguments, yaml).unwrap();
        serde_json::from_str(&said).unwrap()
    }

    /// Whether the agent's service account may do something.
    fn may(&self, verb: &str, resource: &str) -> bool {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:observer");
        let part = format!("--subresource={part}");
        let output = self
            .cluster
            .kubectl_command()
            .args([
                "-n", NAMESPACE, "auth", "can-i", verb, resource, &account, &part,
            ])
            .output()
            .unwrap();
        match String::from_utf8_lossy(&output.stdout).trim() {
            "yes" => true,
            "no" => false,
            other => panic!("{verb} {resource}: {other} {output:?}"),
        }
    }

    /// What the agent's service account may do beyond what every account may.
    fn rights(&self) -> Vec<String> {
        let list = |account: &str| -> BTreeSet<String> {
            let account = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
            let arguments = ["-n", NAMESPACE, "auth", "can-i", "--list", &account];
            let said = self.cluster.kubectl(&arguments).unwrap();
            let lines = said
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.map(|words| words.join(" ")).collect()
        };
        let (own, common) = (list("observer"), list("default"));
        own.difference(&common).cloned().collect()
    }

    fn assert_no_rights_are_left(&self) {
        let kinds = "clusterroles,clusterrolebindings,roles,rolebindings";
        let all = self.cluster.kubectl(&["get", kinds, "-A", "-o", "name"]);
        let all = all.unwrap();
        let of_agent: Vec<&str> = all
            .lines()
            .filter(|name| name.contains("observer"))
            .collect();
        assert_eq!(of_agent, Vec::<&str>::new());
    }

    /// A pod that makes one call; deleted as soon as it has succeeded.
    fn once(&self, namespace: &str, name: &str) -> Pod {
        let mut template = self.template(&self.python, "once.py");
        template["restartPolicy"] = json!("Never");
        let object = json!({"apiVersion": "v1", "kind": "Pod", "spec": template,
            "metadata": {"name": name, "namespace": namespace}});
        self.cluster.apply(&object.to_string()).unwrap();
        let mut pod = Value::Null;
        wait_until("the pod has made its call", || {
            pod = self.json(&["-n", namespace, "get", "pod", name]);
            let phase = pod["status"]["phase"].as_str().unwrap();
            assert_ne!(phase, "Failed", "{pod:#}");
            phase == "Succeeded"
        });
        self.cluster
            .kubectl(&["-n", namespace, "delete", "pod", name, "--now"])
            .unwrap();
        Pod::of(&pod)
    }
}

impl InKernel {
    /// What a process holds.
    fn of(pid: u32) -> Self {
        let mut found = Self {
            programs: BTreeSet::new(),
            links: BTreeSet::new(),
        };
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
            .unwrap()
            .flatten()
        {
            let Ok(text) = fs::read_to_string(entry.path()) else {
                continue;
            };
            for line in text.lines() {
                if let Some(id) = line.strip_prefix("prog_id:") {
                    found.programs.insert(id.trim().parse().unwrap());
                } else if let Some(id) = line.strip_prefix("link_id:") {
                    found.links.insert(id.trim().parse().unwrap());
                }
            }
        }
        found
    }

    /// Asserts that the kernel has nothing of it any more, held or pinned by whomever. Numbers are not used again.
    fn assert_gone(&self) {
        // The kernel frees them a moment later.
        wait_until("the agent's programs are gone from the kernel", || {
            let programs = aya::programs::loaded_programs().flatten();
            let links = aya::programs::loaded_links().flatten();
            !programs
                .map(|program| program.id())
                .any(|id| self.programs.contains(&id))
                && !links
                    .map(|link| link.id())
                    .any(|id| self.links.contains(&id))
        });
    }
}

/// The most memory that the container of a process has used, and its limit, in bytes.
fn memory_of(pid: u32) -> (u64, u64) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = |controller: &str| {
        let mut lines = groups
            .lines()
            .map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        lines
            .find(|words| words[1] == controller)
            .map(|words| words[2].to_owned())
    };
    let (folder, files) = match group("memory") {
        Some(path) => (
            format!("/sys/fs/cgroup/memory{path}"),
            ["memory.max_usage_in_bytes", "memory.limit_in_bytes"],
        ),
        None => (
            format!("/sys/fs/cgroup{}", group("").unwrap()),
            ["memory.peak", "memory.max"],
        ),
    };
    let read = |file: &str| fs::read_to_string(format!("{folder}/{file}")).unwrap();
    let [most, limit] = files.map(|file| read(file).trim().parse().unwrap());
    (most, limit)
}

/// The files below folders that have such names, but those that the kubelet and plug-ins name by pods.
fn files(folders: &[&str], name: &str) -> BTreeSet<String> {
    let output = Command::new("find")
        .args(folders)
        .args(["-xdev", "(", "-path", "/var/log/containers"])
        .args(["-o", "-path", "/var/lib/cni", ")", "-prune"])
        .args(["-o", "-name", name, "-print"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(ToOwned::to_owned).collect()
}

fn uprobe_events() -> String {
    fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap()
}

/// The sum of all values.
fn sums(series: &[(BTreeMap<String, String>, f64)]) -> f64 {
    series.iter().map(|(_, value)| value).sum()
}
