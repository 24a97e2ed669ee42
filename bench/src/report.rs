//! What was measured, as a table and as JSON.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde_json::{Value, json};

/// Times of one mode, one a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(pub(crate) Vec<f64>);

impl Times {
    /// The smallest: what disturbs only adds.
    pub(crate) fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The largest by the smallest.
    pub(crate) fn spread(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max) / self.best()
    }
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Value>,
    absent: BTreeMap<String, String>,
}

impl Report {
    /// A figure with its goal, which it must not exceed; `None` is a figure without one.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str, goal: Option<f64>) {
        let met = goal.map(|goal| value <= goal);
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let goal_text = goal.map_or(String::new(), |goal| format!("<= {goal}"));
        println!("{name:<68} {value:>10.3} {unit:<10} {goal_text:<10} {verdict}");
        self.rows
            .push(json!({"name": name, "value": value, "unit": unit, "goal": goal, "met": met}));
    }

    /// A ratio of two modes of one run, with what it comes from.
    pub(crate) fn ratio(&mut self, name: &str, over: &Times, under: &Times, goal: Option<f64>) {
        self.figure(name, over.best() / under.best(), "x", goal);
        if let Some(row) = self.rows.last_mut() {
            row["from"] = json!([over.best(), under.best()]);
            row["spread"] = json!([over.spread(), under.spread()]);
            row["rounds"] = json!(over.0.len());
        }
    }

    /// Something that could not be measured here.
    pub(crate) fn absent(&mut self, what: &str, why: &str) {
        println!("{what:<68} absent: {why}");
        self.absent.insert(what.to_owned(), why.to_owned());
    }

    /// Writes all of it to a file.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let first_line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().map(str::to_owned)
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let report = json!({
            "kernel": first_line("uname", &["-r"]),
            "cpu": cpu.map(|cpu| cpu.trim_matches([' ', '\t', ':'])),
            "openssl": first_line("openssl", &["version"]),
            "bpftrace": first_line("bpftrace", &["--version"]),
            "figures": self.rows,
            "absent": self.absent,
        });
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
        Ok(())
    }
}
