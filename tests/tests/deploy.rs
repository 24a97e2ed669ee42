//! What is in deploy/: dashboard and rules ask for metrics that there are, and Prometheus, the Collector and the agent
//! take the files as they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use observer_e2e::{
    clients,
    harness::{self, Client, Scene, binary, wait_until},
    telemetry::{self, Prometheus, free_ports},
};
use serde_json::{Value, json};

/// Labels that metrics have by the scrape or, in a cluster, by `--prometheus-labels`.
const OTHER_LABELS: &[&str] = &[
    "cluster",
    "instance",
    "job",
    "k8s_namespace_name",
    "k8s_workload_kind",
    "k8s_workload_name",
    "le",
    "node",
    "pod",
];

/// Metrics that Prometheus itself makes.
const OF_PROMETHEUS: &[&str] = &["up"];

/// Words of PromQL that are no metrics.
const WORDS: &[&str] = &[
    "absent",
    "and",
    "bool",
    "by",
    "count",
    "group_left",
    "group_right",
    "histogram_quantile",
    "ignoring",
    "increase",
    "inf",
    "max",
    "offset",
    "on",
    "or",
    "rate",
    "scalar",
    "sum",
    "topk",
    "unless",
    "vector",
    "without",
];

/// Panels that show nothing as long as nothing is wrong, or outside a cluster.
const MAY_BE_EMPTY: &[&str] = &[
    "Folded into other",
    "Pods known",
    "Questions about pods without an answer",
    "Records lost by cause",
    "Records of unknown pods",
    "Waiting for exporters",
];

fn deploy() -> PathBuf {
    clients::folder().parent().unwrap().join("deploy")
}

fn dashboard() -> Value {
    let text = fs::read_to_string(deploy().join("grafana/observer.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Panels but rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .collect()
}

/// The queries of a panel as Grafana asks them with everything selected.
fn queries(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().unwrap();
    targets
        .iter()
        .map(|target| {
            let mut query = target["expr"].as_str().unwrap().to_owned();
            for (variable, value) in [
                ("$__rate_interval", "1m"),
                ("$__range", "1h"),
                ("$cluster", ".*"),
                ("$namespace", ".*"),
                ("$workload", ".*"),
                ("$model", ".*"),
            ] {
                query = query.replace(variable, value);
            }
            assert!(!query.contains('$'), "{query}");
            query
        })
        .collect()
}

/// Samples and their labels, by the tables of docs/exporters.md, which the agent's own tests hold to what it serves.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(deploy().parent().unwrap().join("docs/exporters.md")).unwrap();
    let call = [
        "gen_ai_provider_name",
        "gen_ai_operation_name",
        "gen_ai_request_model",
    ];
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else {
            continue;
        };
        let name = name.trim_matches('`');
        if !matches!(kind, "counter" | "gauge" | "histogram" | "info") {
            continue;
        }
        let mut known: BTreeSet<String> = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned())
            .filter(|label| !label.is_empty() && label != "CALL")
            .collect();
        if labels.contains("CALL") {
            known.extend(call.map(str::to_owned));
        }
        let suffixes: &[&str] = match kind {
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        for suffix in suffixes {
            metrics.insert(format!("{name}{suffix}"), known.clone());
        }
    }
    assert!(metrics.len() > 25, "{metrics:#?}");
    metrics
}

/// Metrics and labels that a query names.
fn names(query: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let mut rest = query;
    let (mut in_matchers, mut in_list, mut after_list_word) = (false, false, false);
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = rest[1..].find('"').expect("the string ends") + 2;
            rest = &rest[end..];
        } else if c == '[' {
            rest = &rest[rest.find(']').expect("the range ends") + 1..];
        } else if c.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| is_name(c) || c == '.');
        } else if is_name(c) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after;
            if in_matchers || in_list {
                labels.insert(word.to_owned());
            } else if !WORDS.contains(&word.to_lowercase().as_str()) {
                metrics.insert(word.to_owned());
            }
            after_list_word = matches!(word, "by" | "ignoring" | "on" | "without");
        } else {
            match c {
                '{' => in_matchers = true,
                '}' => in_matchers = false,
                '(' => in_list = after_list_word,
                ')' => in_list = false,
                _ => {}
            }
            if !c.is_whitespace() {
                after_list_word = false;
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    (metrics, labels)
}

/// What Prometheus's own tool says against it.
fn promtool(arguments: &[&str], folder: &Path) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("promtool, which .ci/run installs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every name in a query is one that there is.
fn assert_known(query: &str, known: &BTreeMap<String, BTreeSet<String>>) {
    let (metrics, labels) = names(query);
    assert!(
        !metrics.is_empty() || query.starts_with("vector("),
        "{query}"
    );
    let mut may_be: BTreeSet<&str> = OTHER_LABELS.iter().copied().collect();
    for metric in &metrics {
        if OF_PROMETHEUS.contains(&metric.as_str()) {
            continue;
        }
        let of = known
            .get(metric)
            .unwrap_or_else(|| panic!("there is no {metric}: {query}"));
        may_be.extend(of.iter().map(String::as_str));
    }
    for label in &labels {
        assert!(
            may_be.contains(label.as_str()),
            "none of {metrics:?} has {label}: {query}"
        );
    }
}

#[test]
fn the_dashboard_is_one() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "observer-llm");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 38);
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = all
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), all.len(), "each panel has an id of its own");

    // Each cell of the grid has one panel at most.
    let mut taken = BTreeMap::new();
    for panel in all {
        let title = panel["title"].as_str().unwrap();
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, title) {
                panic!("{title} lies over {other}");
            }
        }
    }
    let rows: Vec<&str> = all
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        rows,
        [
            "Overview",
            "By namespace",
            "By workload",
            "By model",
            "Errors",
            "Agents"
        ]
    );

    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        variables,
        ["datasource", "cluster", "namespace", "workload", "model"]
    );
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(
            !panel["description"].as_str().unwrap().is_empty(),
            "{title}"
        );
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
    }
}

#[test]
fn dashboard_and_rules_ask_for_metrics_that_there_are() {
    let mut known = documented();
    let dashboard = dashboard();
    let mut rules = Vec::new();
    for panel in panels(&dashboard) {
        for query in queries(panel) {
            assert_known(&query, &known);
            rules.push(json!({"record": format!("panel_{}", rules.len()), "expr": query}));
        }
    }
    assert!(rules.len() > 50, "{}", rules.len());
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(query) = variable["definition"].as_str() else {
            continue;
        };
        let (selector, label) = query
            .strip_prefix("label_values(")
            .and_then(|query| query.strip_suffix(')'))
            .and_then(|query| query.rsplit_once(", "))
            .unwrap();
        let query = format!("sum by ({label}) ({selector})");
        assert_known(&query, &known);
    }

    // JSON is YAML; that Prometheus takes a rule means that it has parsed the query.
    let folder = tempfile::tempdir().unwrap();
    let file = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(folder.path().join("rules.yaml"), file.to_string()).unwrap();
    promtool(&["check", "rules", "rules.yaml"], folder.path());

    // What rules record is there for the others; its labels are those that it is summed by.
    let text = fs::read_to_string(deploy().join("prometheus/observer.rules.yaml")).unwrap();
    let rules = rules_of(&text);
    assert!(rules.len() > 25, "{rules:#?}");
    for (name, query) in &rules {
        if name.contains(':') {
            let labels = names(query).1;
            known.insert(name.clone(), labels);
        }
    }
    for (_, query) in &rules {
        assert_known(query, &known);
    }
}

/// Names and queries of the rules, which are on one line or in a block.
fn rules_of(text: &str) -> Vec<(String, String)> {
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        let indented = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(name) = ["- record: ", "- alert: "]
            .iter()
            .find_map(|key| line.strip_prefix(key))
        {
            rules.push((name.to_owned(), String::new()));
            in_block = false;
        } else if let Some(query) = line.strip_prefix("expr: ") {
            in_block = query == "|";
            if !in_block {
                rules.last_mut().unwrap().1 = query.to_owned();
            }
        } else if in_block && indented > 8 {
            let query = &mut rules.last_mut().unwrap().1;
            query.push_str(line);
            query.push('\n');
        } else {
            in_block = false;
        }
    }
    assert!(rules.iter().all(|(_, query)| !query.is_empty()));
    rules
}

#[test]
fn rules_say_what_their_tests_say() {
    let folder = deploy().join("prometheus");
    promtool(&["check", "rules", "observer.rules.yaml"], &folder);
    promtool(&["test", "rules", "tests.yaml"], &folder);
}

/// A Prometheus that scrapes the agent and evaluates the rules.
fn prometheus(folder: &Path, agent: u16) -> Prometheus {
    let config = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [deploy().join("prometheus/observer.rules.yaml")],
        "scrape_configs": [{"job_name": "observer", "static_configs": [{
            "targets": [format!("127.0.0.1:{agent}")], "labels": {"cluster": "c", "node": "n"},
        }]}],
    });
    let [port] = free_ports();
    Prometheus::start(folder, port, &config.to_string())
}

/// With an agent that sees real calls, every panel that should has something to show, and every recorded series is there.
#[test]
fn every_panel_shows_something() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    let prices = json!({"gpt-4o": {"litellm_provider": "openai", "mode": "chat",
        "input_cost_per_token": 2.5e-6, "output_cost_per_token": 1e-5}});
    fs::write(folder.join("prices.json"), prices.to_string()).unwrap();
    let runs: &[&[&str]] = &[
        &["--behaviour", "cached=5; tools=2"],
        &["--mode", "stream"],
        &["--behaviour", "error=429"],
    ];
    let clients: Vec<Client> = runs
        .iter()
        .map(|run| {
            let mut arguments = vec!["--wait-for-stdin", "--count", "40", "--every", "0.3"];
            arguments.extend(*run);
            let client = scene.start(&scene.script("calls.py", arguments));
            assert_eq!(client.line(), "waiting");
            client
        })
        .collect();
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let prices = folder.join("prices.json");
    let mut options = vec![
        "--prometheus",
        &address,
        "--prices",
        prices.to_str().unwrap(),
        "--trace-idle",
        "1",
    ];
    // Without it the agent would end with the last client.
    let idle = Client::start(Command::new("cat"));
    let pids: Vec<String> = clients.iter().chain([&idle]).map(Client::pid).collect();
    options.extend(pids.iter().flat_map(|pid| ["--pid", pid.as_str()]));
    let _observer = scene.watch(&options);
    let prometheus = prometheus(folder, port);
    // A rate is of what has grown: the series have to be there before.
    wait_until("Prometheus scrapes", || {
        !prometheus.query("observer_build_info").is_empty()
    });
    let mut clients = clients;
    clients.iter_mut().for_each(Client::go_on);

    let dashboard = dashboard();
    let all: Vec<(&str, String)> = panels(&dashboard)
        .into_iter()
        .flat_map(|panel| {
            let title = panel["title"].as_str().unwrap();
            queries(panel).into_iter().map(move |query| (title, query))
        })
        .filter(|(title, _)| !MAY_BE_EMPTY.contains(title))
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let silent: Vec<&(&str, String)> = all
            .iter()
            .filter(|(_, query)| prometheus.query(query).is_empty())
            .collect();
        if silent.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "nothing to show: {silent:#?}");
        thread::sleep(Duration::from_millis(500));
    }
    let text = fs::read_to_string(deploy().join("prometheus/observer.rules.yaml")).unwrap();
    for (name, _) in rules_of(&text) {
        if name.contains(':') {
            wait_until(&name, || !prometheus.query(&name).is_empty());
        }
    }
    for title in MAY_BE_EMPTY {
        let found = panels(&dashboard)
            .into_iter()
            .find(|panel| panel["title"] == *title)
            .unwrap_or_else(|| panic!("there is no panel {title}"));
        queries(found)
            .iter()
            .for_each(|query| drop(prometheus.query(query)));
    }
}

/// The real Collector takes the configuration. What stores in ClickHouse is in another distribution of it: of that file
/// all but the exporter is looked at.
#[test]
fn the_collector_takes_its_configuration() {
    let collector = telemetry::collector().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let validate = |file: &Path| {
        let output = Command::new(&collector)
            .arg("validate")
            .arg(format!("--config={}", file.display()))
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let config = deploy().join("collector/config.yaml");
    let (taken, said) = validate(&config);
    assert!(taken, "{said}");

    let text = fs::read_to_string(deploy().join("collector/config-clickhouse.yaml")).unwrap();
    let (before, exporter) = text.split_once("exporters:\n  clickhouse:\n").unwrap();
    let (_, after) = exporter.split_once("\nservice:").unwrap();
    let other = format!("{before}exporters:\n  debug:\n\nservice:{after}")
        .replace("exporters: [clickhouse]", "exporters: [debug]");
    let file = folder.path().join("config.yaml");
    fs::write(&file, &other).unwrap();
    let (taken, said) = validate(&file);
    assert!(taken, "{said}");

    // It would say so.
    fs::write(&file, other.replace("check_interval", "check_intervals")).unwrap();
    let (taken, said) = validate(&file);
    assert!(!taken && said.contains("check_intervals"), "{said}");
}

/// The agent takes the configurations of its service and of its DaemonSet.
#[test]
fn the_agent_takes_its_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let manifests = fs::read_to_string(deploy().join("kubernetes/observer.yaml")).unwrap();
    let (_, after) = manifests.split_once("  observer.toml: |\n").unwrap();
    let config: String = after
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .flat_map(|line| [line.get(4..).unwrap_or_default(), "\n"])
        .collect();
    let rendered = folder.path().join("observer.toml");
    fs::write(&rendered, config).unwrap();
    for file in [deploy().join("systemd/observer.toml"), rendered] {
        let file = file.to_str().unwrap();
        let (code, said, errors) = harness::output(binary(), &["config", "check", file]);
        assert_eq!(code, 0, "{file}: {errors}");
        assert!(said.contains("all = true "), "{said}");
        assert!(said.contains("capture_content = false"), "{said}");
    }
}
