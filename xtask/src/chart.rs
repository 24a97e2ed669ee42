//! What the chart must do and must refuse, by what helm renders.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, bail, ensure};

use crate::{
    manifests::{Helm, chart, test_values},
    root,
    run::{cargo, command, target},
    toolchain,
};

/// Values that are refused, and a part of what is said against them.
const REFUSED: &[(&[&str], &str)] = &[
    // Content is captured by a sentence that nobody writes by accident.
    (
        &["captureContent.enabled=true"],
        "captureContent.acknowledge has to be",
    ),
    (
        &[
            "captureContent.enabled=true",
            "captureContent.acknowledge=yes",
        ],
        "captureContent.acknowledge has to be",
    ),
    (
        &[
            "captureContent.enabled=true",
            "captureContent.acknowledge=record prompts and answers of the selected pods",
        ],
        "captureContent.acknowledge has to be",
    ),
    // And by nothing else.
    (
        &["env[0].name=OBSERVER_CAPTURE_CONTENT", "env[0].value=x"],
        "captured by captureContent alone",
    ),
    (
        &["env[0].name=OBSERVER_RECORD", "env[0].value=/tmp/x"],
        "a recording holds prompts",
    ),
    (
        &["env[0].name=OBSERVER_CONFIG", "env[0].value=/tmp/x"],
        "the configuration is made of the values",
    ),
    (
        &["extraArgs[0]=--capture-content"],
        "captured by captureContent alone",
    ),
    (
        &["extraArgs[0]=--all", "extraArgs[1]=--capture-content=true"],
        "captured by captureContent alone",
    ),
    (
        &["extraArgs[0]=--record=/tmp/x"],
        "a recording holds prompts",
    ),
    (
        &["extraArgs[0]=--record", "extraArgs[1]=/tmp/x"],
        "a recording holds prompts",
    ),
    (
        &["extraArgs[0]=--config=/tmp/x"],
        "the configuration is made of the values",
    ),
    (
        &[
            "volumeMounts[0].name=x",
            "volumeMounts[0].mountPath=/etc/observer/",
        ],
        "would hide the configuration",
    ),
    (
        &[
            "volumeMounts[0].name=x",
            "volumeMounts[0].mountPath=/etc/observer/observer.toml",
        ],
        "would hide the configuration",
    ),
    // What does not go together.
    (
        &["kubernetes.metadata=cgroup"],
        "kubernetes.metadata=cgroup: nobody says",
    ),
    (
        &[
            "kubernetes.metadata=cgroup",
            "selection.excludeNamespaces=null",
            "selection.podSelector=app=x",
        ],
        "kubernetes.metadata=cgroup: nobody says",
    ),
    (&["selection.podsOnly=false"], "watches pods only"),
    (
        &["kubernetes.kubelet.nodesProxy=true"],
        "kubernetes.metadata=kubelet only",
    ),
    (
        &["podMonitor.enabled=true", "serviceMonitor.enabled=true"],
        "scraped twice",
    ),
    (
        &["serviceMonitor.enabled=true", "service.enabled=false"],
        "needs service.enabled",
    ),
    (&["export.prometheus.enabled=false"], "nothing is exported"),
    (
        &[
            "export.prometheus.enabled=false",
            "export.stdout=true",
            "podMonitor.enabled=true",
        ],
        "need export.prometheus.enabled",
    ),
    (
        &["export.infinium.agentId=0af76519-16cd-43dd-8448-eb211c80319c"],
        "existingSecret.name",
    ),
    (
        &[
            "export.otlp.endpoint=https://x:4317",
            "export.otlp.tls.existingSecret=x",
            "export.otlp.tls.certKey=tls.crt",
        ],
        "certKey and keyKey belong together",
    ),
    (&["watch.attachBy=tracefs"], "needs tracefs.writable"),
    (
        &[
            "prometheusRule.enabled=true",
            "prometheusRule.disabledAlerts[0]=NoSuchAlert",
        ],
        "nothing by the name of NoSuchAlert",
    ),
    (
        &[
            "prometheusRule.enabled=true",
            "prometheusRule.thresholds.no_such=1",
        ],
        "nothing by the name of no_such",
    ),
    // What the schema does not know.
    (&["captureContents.enabled=true"], "captureContents"),
    (&["config.extra=x"], "config"),
    (&["selection.namespace=x"], "namespace"),
    (&["selection.namespaces[0]=Not_A_Name"], "namespaces"),
    (&["kubernetes.metadata=etcd"], "metadata"),
    (&["watch.ringBufferMiB=17"], "ringBufferMiB"),
    (&["export.prometheus.port=80"], "port"),
    (&["export.prometheus.labels[0]=model"], "labels"),
    (&["export.otlp.endpoint=ftp://x"], "endpoint"),
    (&["export.otlp.headers=x"], "headers"),
    (&["extraCapabilities[0]=ALL"], "extraCapabilities"),
    (&["extraCapabilities[0]=CAP_NET_RAW"], "extraCapabilities"),
    (&["securityContext.privileged=true"], "securityContext"),
    (&["tracefs.hostPath=/"], "hostPath"),
    (&["image.digest=latest"], "digest"),
    (&["resources.limit.memory=1Gi"], "limit"),
];

/// Options of `helm template`, the template whose object is looked at, what is in it, and what is not.
struct Case {
    options: &'static [&'static str],
    template: &'static str,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
}

const RENDERED: &[Case] = &[
    Case {
        options: &[],
        template: "daemonset",
        has: &[
            "hostPID: true",
            "hostNetwork: false",
            "privileged: false",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "runAsUser: 0",
            "drop:\n                - ALL",
            "- BPF\n",
            "- PERFMON\n",
            "- SYS_PTRACE\n",
            "- DAC_READ_SEARCH\n",
            "type: RuntimeDefault",
            "automountServiceAccountToken: true",
            "priorityClassName: system-node-critical",
            "operator: Exists",
            "maxUnavailable: 10%",
            "path: /healthz",
            "path: /readyz",
            "image: localhost/observer:",
        ],
        lacks: &[
            "SYS_ADMIN",
            "SETUID",
            "privileged: true",
            "OBSERVER_KUBERNETES_KUBELET",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ],
    },
    Case {
        options: &[],
        template: "configmap",
        has: &[
            "capture_content = false",
            "exclude_namespace = [\"kube-system\"]",
            "pods_only = true",
            "metadata = \"api\"",
            "format = \"none\"",
            "listen = \"0.0.0.0:9464\"",
            "labels = [\"namespace\", \"workload\"]",
        ],
        lacks: &["preview_chars", "record =", "[export.otlp]"],
    },
    Case {
        options: &[],
        template: "clusterrole",
        has: &["resources: [pods]", "verbs: [get, list, watch]"],
        lacks: &["nodes", "secrets", "\"*\""],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/kubelet-values.yaml"],
        template: "clusterrole",
        has: &["resources: [nodes/pods]", "verbs: [get]"],
        lacks: &["resources: [pods]", "nodes/proxy", "list"],
    },
    Case {
        options: &[
            "--set",
            "kubernetes.metadata=kubelet,kubernetes.kubelet.nodesProxy=true",
        ],
        template: "clusterrole",
        has: &["resources: [nodes/pods]", "resources: [nodes/proxy]"],
        lacks: &["resources: [pods]"],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/kubelet-values.yaml"],
        template: "daemonset",
        has: &[
            "value: \"https://$(HOST_IP):10250\"",
            "mountPath: /etc/kubelet-ca",
        ],
        lacks: &[],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/kubelet-values.yaml"],
        template: "configmap",
        has: &[
            "namespace = [\"shop\", \"team-*\"]",
            "pod_selector = \"app.kubernetes.io/part-of in (assistant, search),!internal\"",
            "cluster = \"production-1\"",
            "kubelet_ca = \"/etc/kubelet-ca/ca.crt\"",
        ],
        lacks: &["exclude_namespace", "kubelet_insecure"],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/cgroup-values.yaml"],
        template: "daemonset",
        has: &[
            "automountServiceAccountToken: false",
            "name: OBSERVER_OTLP_ENDPOINT\n              value: \"http://$(HOST_IP):4318\"",
        ],
        lacks: &["OBSERVER_KUBERNETES_KUBELET"],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/everything-values.yaml"],
        template: "daemonset",
        has: &[
            "image: registry.example:5000/tools/observer@sha256:0123",
            "- SETUID\n",
            "- CHECKPOINT_RESTORE",
            "appArmorProfile:\n          type: Unconfined",
            "seLinuxOptions:\n              type: spc_t",
            "path: salt/salt",
            "path: otlp/ca.crt",
            "path: otlp/tls.key",
            "name: OTEL_EXPORTER_OTLP_HEADERS",
            "name: INFINIUM_AGENT_SECRET",
            "- \"--trace-name=fleet\"",
        ],
        lacks: &["privileged: true"],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/everything-values.yaml"],
        template: "podmonitor",
        has: &[
            "targetLabel: node",
            "targetLabel: cluster\n          replacement: \"production-1\"",
            "release: prometheus",
        ],
        lacks: &[],
    },
    Case {
        options: &["--values", "deploy/helm/observer/ci/everything-values.yaml"],
        template: "prometheusrule",
        has: &[
            "expr: vector(0.1)\n        record: observer:threshold:error_ratio",
            "expr: vector(5e+07)\n        record: observer:threshold:tokens_per_day",
            "{{ $labels.k8s_namespace_name }}",
            "team: platform",
        ],
        lacks: &["ObserverSeriesFolded"],
    },
    Case {
        options: &[
            "--set",
            "captureContent.enabled=true,captureContent.acknowledge=Record prompts and answers of the selected pods",
        ],
        template: "configmap",
        has: &["capture_content = true", "preview_chars = 500"],
        lacks: &[],
    },
    // What stands in values is text in the file, and opens no table of its own.
    Case {
        options: &[
            "--set-json",
            r#"kubernetes={"cluster":"a\"\n[records]\ncapture_content = true"}"#,
        ],
        template: "configmap",
        has: &[
            r#"cluster = "a\"\n[records]\ncapture_content = true""#,
            "capture_content = false",
        ],
        lacks: &["\n    capture_content = true"],
    },
];

/// Options of `helm template` with which an object is not there at all.
const ABSENT: &[(&[&str], &str)] = &[
    (&[], "podmonitor"),
    (&[], "servicemonitor"),
    (&[], "prometheusrule"),
    (&[], "networkpolicy"),
    (&[], "dashboard"),
    (&[], "resourcequota"),
    (
        &["--values", "deploy/helm/observer/ci/cgroup-values.yaml"],
        "clusterrole",
    ),
    (
        &["--values", "deploy/helm/observer/ci/cgroup-values.yaml"],
        "clusterrolebinding",
    ),
    (&["--set", "rbac.create=false"], "clusterrole"),
    (&["--set", "serviceAccount.create=false"], "serviceaccount"),
];

/// Checks all of that, that the agent takes the configurations, and that Prometheus takes the rules.
pub(crate) fn prove(helm: &Helm) -> anyhow::Result<()> {
    for (values, reason) in REFUSED {
        let options: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
        match helm.render(&options) {
            Ok(_) => bail!("the chart takes {values:?}"),
            Err(error) => ensure!(
                format!("{error:#}").contains(reason),
                "the chart refuses {values:?}, but does not say {reason:?}: {error:#}"
            ),
        }
    }
    for case in RENDERED {
        let text = object(helm, case.options, case.template)?;
        for part in case.has {
            ensure!(
                text.contains(part),
                "{}.yaml with {:?} lacks {part:?}:\n{text}",
                case.template,
                case.options
            );
        }
        for part in case.lacks {
            ensure!(
                !text.contains(part),
                "{}.yaml with {:?} has {part:?}:\n{text}",
                case.template,
                case.options
            );
        }
    }
    for (options, template) in ABSENT {
        let all = helm.render(options)?;
        let source = format!("# Source: observer/templates/{template}.yaml");
        ensure!(!all.contains(&source), "{source} is there with {options:?}");
    }
    configurations(helm)?;
    rules(helm)?;
    println!(
        "the chart refuses {} settings and renders {} as it should",
        REFUSED.len(),
        RENDERED.len() + ABSENT.len()
    );
    Ok(())
}

fn object(helm: &Helm, options: &[&str], template: &str) -> anyhow::Result<String> {
    let template = format!("templates/{template}.yaml");
    helm.render(&[options, &["--show-only", &template]].concat())
}

/// The agent itself says whether it takes them.
fn configurations(helm: &Helm) -> anyhow::Result<()> {
    let agent = match env::var_os("OBSERVER_BIN") {
        Some(agent) => PathBuf::from(agent),
        None => {
            toolchain::setup()?;
            cargo(["build", "--release"])?;
            target().join("release/observer")
        }
    };
    let file = folder()?.join("observer.toml");
    let mut values: Vec<Vec<String>> = vec![Vec::new()];
    for path in test_values()? {
        let path = path.to_str().context("the path is not UTF-8")?.to_owned();
        values.push(vec!["--values".to_owned(), path]);
    }
    for options in values {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let text = object(helm, &options, "configmap")?;
        let (_, config) = text
            .split_once("observer.toml: |\n")
            .context("the ConfigMap has no observer.toml")?;
        fs::write(&file, dedent(config, 4))?;
        let mut check = Command::new(&agent);
        check.args(["config", "check"]).arg(&file);
        let output = check.output()?;
        ensure!(
            output.status.success(),
            "the agent refuses the configuration with {options:?}: {}\n{config}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// The rules of the chart are those of the file, and pass the same tests.
fn rules(helm: &Helm) -> anyhow::Result<()> {
    let folder = folder()?;
    let text = object(
        helm,
        &["--set", "prometheusRule.enabled=true"],
        "prometheusrule",
    )?;
    let (_, groups) = text
        .split_once("spec:\n")
        .context("the PrometheusRule has no spec")?;
    fs::write(folder.join("observer.rules.yaml"), dedent(groups, 2))?;
    fs::copy(
        root().join("deploy/prometheus/tests.yaml"),
        folder.join("tests.yaml"),
    )?;
    for rules in [chart().join("files"), folder.clone()] {
        command(
            Command::new("promtool")
                .args(["check", "rules"])
                .arg(rules.join("observer.rules.yaml")),
        )
        .context("promtool is of Debian's package prometheus")?;
    }
    for tests in [root().join("deploy/prometheus"), folder] {
        command(
            Command::new("promtool")
                .current_dir(tests)
                .args(["test", "rules", "tests.yaml"]),
        )?;
    }
    Ok(())
}

fn folder() -> anyhow::Result<PathBuf> {
    let folder = target().join("chart");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A text without the first columns, which are empty.
fn dedent(text: &str, columns: usize) -> String {
    text.lines()
        .flat_map(|line| [line.get(columns..).unwrap_or_default(), "\n"])
        .collect()
}
