//! What was measured, as a table and as JSON.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command, thread};

use serde_json::{Value, json};

/// Times of one mode, one a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(pub(crate) Vec<f64>);

impl Times {
    /// The smallest: what disturbs only adds.
    pub(crate) fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The median.
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

/// Prints the head of the table.
pub(crate) fn head() {
    println!(
        "{:<80} {:>10} {:<8} {:<9} {:<7} spread",
        "figure", "measured", "unit", "goal", ""
    );
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
        self.figure_of(name, value, unit, goal, &[]);
    }

    /// A ratio of two modes of one run.
    pub(crate) fn ratio(&mut self, name: &str, over: &Times, under: &Times, goal: Option<f64>) {
        self.figure_of(name, over.best() / under.best(), "x", goal, &[over, under]);
    }

    /// A figure with the times that it comes from.
    pub(crate) fn figure_of(
        &mut self,
        name: &str,
        value: f64,
        unit: &str,
        goal: Option<f64>,
        from: &[&Times],
    ) {
        let met = goal.map(|goal| value <= goal);
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let goal_text = goal.map_or(String::new(), |goal| format!("<= {goal}"));
        let spread: Vec<String> = from
            .iter()
            .map(|times| format!("{:.2}", times.spread()))
            .collect();
        println!(
            "{name:<80} {value:>10.3} {unit:<8} {goal_text:<9} {verdict:<7} {}",
            spread.join(" ")
        );
        let of = |number: fn(&Times) -> f64| -> Vec<f64> {
            from.iter().map(|times| number(times)).collect()
        };
        self.rows.push(json!({
            "name": name,
            "value": value,
            "unit": unit,
            "goal": goal,
            "met": met,
            "best": of(Times::best),
            "median": of(Times::median),
            "spread": of(Times::spread),
            "rounds": from.iter().map(|times| times.0.len()).collect::<Vec<_>>(),
        }));
    }

    /// Something that could not be measured here.
    pub(crate) fn absent(&mut self, what: &str, why: &str) {
        println!("{what:<80} absent: {why}");
        self.absent.insert(what.to_owned(), why.to_owned());
    }

    /// Writes all of it, and with what it was measured, to a file.
    pub(crate) fn write(&self, path: &Path, run: &Value) -> anyhow::Result<()> {
        let first_line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program)
                .args(arguments)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output()
                .ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().map(str::to_owned)
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let observer = env::current_exe()?.with_file_name("observer");
        let report = json!({
            "run": run,
            "observer": first_line(&observer.to_string_lossy(), &["--version"]),
            "commit": first_line("git", &["describe", "--always", "--dirty"]),
            "kernel": first_line("uname", &["-r"]),
            "cpu": cpu.map(|cpu| cpu.trim_matches([' ', '\t', ':'])),
            "cpus": thread::available_parallelism().ok(),
            "openssl": first_line("openssl", &["version"]),
            "bpftrace": first_line("bpftrace", &["--version"]),
            "figures": self.rows,
            "absent": self.absent,
        });
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
        Ok(())
    }
}
