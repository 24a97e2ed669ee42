//! Every field of the records is explained in `docs/records.md`, and nothing else is.

use std::collections::BTreeSet;

use observer_e2e::harness::Scene;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/records.md");

/// The fields that a section's table explains.
fn explained(section: &str) -> BTreeSet<String> {
    let (_, text) = DOCUMENT
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("docs/records.md has no section {section}"));
    let text = text.split("\n## ").next().unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .flat_map(|(fields, _)| fields.split(", "))
        .filter_map(|field| field.strip_prefix('`')?.strip_suffix('`'))
        .map(str::to_owned)
        .collect()
}

fn fields(record: &Value) -> BTreeSet<String> {
    let record = record.as_object().expect("an object");
    record.keys().cloned().collect()
}

#[test]
fn every_field_is_explained() {
    let scene = Scene::new();
    let arguments = ["--by", "tools", "--agents", "1", "--calls", "2"];
    let run = scene.exec(&[], &scene.script("agents/agents.py", arguments));
    run.assert_clean();
    assert_eq!((run.calls.len(), run.traces.len()), (2, 1));
    let trace = &run.traces[0];
    assert_eq!(fields(&run.calls[0]), explained("A call"));
    assert_eq!(fields(trace), explained("A trace"));
    assert_eq!(fields(&trace["llm_usage"]), explained("What a trace used"));
    assert_eq!(fields(&trace["steps"][0]), explained("A step"));
}
