//! The README's tables of what the end-to-end tests have covered, from the rows that they write.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{root, run::target};

/// A table of the README: the folder of its rows (`observer_e2e::coverage`), the mark before it, and what makes it
/// of the rows.
struct Table {
    folder: &'static str,
    begin: &'static str,
    made: fn(&[Value]) -> anyhow::Result<String>,
}

const TABLES: [Table; 2] = [
    Table {
        folder: "coverage",
        begin: "<!-- coverage: written by `cargo xtask test` -->",
        made: table,
    },
    Table {
        folder: "attribution",
        begin: "<!-- attribution: written by `cargo xtask test` -->",
        made: attribution,
    },
];

/// The mark behind each.
const END: &str = "<!-- end of table -->";

/// The columns: title, field of a row.
const COLUMNS: [(&str, &str); 6] = [
    ("runtime", "runtime"),
    ("version", "version"),
    ("TLS library", "library"),
    ("linkage", "linkage"),
    ("functions found by", "symbols"),
    ("HTTP", "http"),
];

/// Forgets the rows of earlier runs.
pub(crate) fn begin() -> anyhow::Result<()> {
    for table in TABLES {
        match fs::remove_dir_all(target().join("e2e").join(table.folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("cannot remove the coverage of an earlier run");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the tables into the README.
pub(crate) fn write() -> anyhow::Result<()> {
    let readme = root().join("README.md");
    let mut text = fs::read_to_string(&readme)?;
    for table in TABLES {
        let rows = rows(&target().join("e2e").join(table.folder))?;
        ensure!(!rows.is_empty(), "the tests have noted no {}", table.folder);
        let made = (table.made)(&rows)?;
        println!("{made}");
        text = replaced(&text, table.begin, &made)
            .with_context(|| format!("README.md has no place for the {}", table.folder))?;
    }
    if text != fs::read_to_string(&readme)? {
        fs::write(&readme, text)?;
    }
    Ok(())
}

fn rows(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder).context("the tests have noted no coverage")? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let row = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        rows.push(row);
    }
    Ok(rows)
}

/// One line for each runtime, library and way to find it; versions in one cell, calls added up.
fn table(rows: &[Value]) -> anyhow::Result<String> {
    let mut lines: BTreeMap<Vec<String>, (Vec<String>, u64, u64)> = BTreeMap::new();
    for row in rows {
        let mut key: Vec<String> = COLUMNS
            .iter()
            .map(|(_, field)| row[field].as_str().unwrap_or("?").to_owned())
            .collect();
        let version = key.remove(1);
        let number = |field: &str| row[field].as_u64().context("a row without its calls");
        let (versions, captured, made) = lines.entry(key).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
        *captured += number("captured")?;
        *made += number("made")?;
    }
    let titles: Vec<&str> = COLUMNS.iter().map(|(title, _)| *title).collect();
    let mut table = format!("| {} | calls captured of made |\n", titles.join(" | "));
    table.push_str(&"|---".repeat(COLUMNS.len() + 1));
    table.push_str("|\n");
    for (mut key, (mut versions, captured, made)) in lines {
        versions.sort_by_key(|version| numbers(version));
        key.insert(1, versions.join(", "));
        table.push_str(&format!("| {} | {captured} of {made} |\n", key.join(" | ")));
    }
    Ok(table)
}

/// One line for each way in which programs run things at the same time.
fn attribution(rows: &[Value]) -> anyhow::Result<String> {
    let mut lines: Vec<String> = Vec::new();
    for row in rows {
        let text = |field: &str| row[field].as_str().context("a row without a field");
        let (way, rules, runs, calls) = (text("way")?, text("rules")?, &row["runs"], &row["calls"]);
        lines.push(format!(
            "| {way} | {runs} | {calls} of {calls} | {rules} |\n"
        ));
    }
    lines.sort();
    let head = "| runs at the same time | runs | calls in the trace of their run | placed by |\n|---|---|---|---|\n";
    Ok(format!("{head}{}", lines.concat()))
}

/// The numbers in a version, to sort by.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The text with another table behind its mark.
fn replaced(text: &str, begin: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_that_differ_only_in_their_version_share_a_line() {
        let row = |version: &str, http: &str, captured: u64| {
            json!({"runtime": "Bun", "version": version, "library": "BoringSSL", "linkage": "static",
                   "symbols": "stripped", "http": http, "captured": captured, "made": 4})
        };
        let table = table(&[
            row("1.10.0", "1.1", 4),
            row("1.2.2", "1.1", 3),
            row("1.2.2", "2", 4),
        ]);
        let lines: Vec<String> = table.unwrap().lines().skip(2).map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "| Bun | 1.2.2, 1.10.0 | BoringSSL | static | stripped | 1.1 | 7 of 8 |",
                "| Bun | 1.2.2 | BoringSSL | static | stripped | 2 | 4 of 4 |",
            ]
        );
    }

    #[test]
    fn the_table_stands_between_its_marks() {
        let begin = "<!-- here -->";
        let text = format!("a\n{END}\n{begin}\nold\n{END}\nb\n{END}");
        let text = text.split_once('\n').unwrap().1;
        let text = text.split_once('\n').unwrap().1;
        let new = replaced(text, begin, "| new |\n").unwrap();
        assert_eq!(new, format!("{begin}\n\n| new |\n\n{END}\nb\n{END}"));
        assert_eq!(replaced(&new, begin, "| new |\n").unwrap(), new);
        assert!(replaced("no marks", begin, "").is_none());
    }
}
