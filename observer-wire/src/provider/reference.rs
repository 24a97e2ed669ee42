//! The documentation of the formats, from their tables.

use std::fmt::Write as _;

use super::{
    DIALOGUES, PROVIDERS,
    fields::{About, Included},
    hosts,
};

/// All formats with their paths and fields, and all hosts that are known, in Markdown.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for provider in PROVIDERS {
        format(provider.about(), &mut out);
    }
    for dialogue in DIALOGUES {
        format(dialogue.about(), &mut out);
    }
    out.push_str(HOSTS);
    for (host, provider) in hosts::all() {
        let _ = writeln!(out, "| `{host}` | `{provider}` |");
    }
    out
}

const INTRODUCTION: &str = "\
# Formats and providers

This file is generated from the tables that calls are read by: `cargo xtask docs`.

Beside what the tables name, each format gives finish reasons, names of tools, errors and, only if asked
for, previews. `prompt_tokens` and `completion_tokens` are the provider's own counts; `input_tokens` and
`output_tokens` include caches and reasoning for every provider; where it says what it bills, they are that.
";

const HOSTS: &str = "
## Hosts

A host counts with its subdomains. One that is not listed is recognised by path and bodies.

| host | provider |
|---|---|
";

fn format(about: &About, out: &mut String) {
    let fields = about.fields;
    let _ = writeln!(out, "\n## {}\n", about.title);
    let _ = writeln!(out, "Bodies: {}. Source: {}.\n", about.bodies, about.source);
    out.push_str("| request | operation |\n|---|---|\n");
    for (endpoint, operation) in about.endpoints {
        let _ = writeln!(out, "| `{endpoint}` | `{operation}` |");
    }
    let mut rows = String::new();
    let mut row = |name: &str, part: &str, places: &[&str]| {
        let places: Vec<String> = places.iter().map(|place| format!("`{place}`")).collect();
        let _ = writeln!(rows, "| `{name}` | {part} | {} |", places.join(", "));
    };
    for (field, places) in fields.request {
        row(field.name(), "request", places);
    }
    for (field, places) in fields.answer {
        row(field.name(), "answer", places);
    }
    for (count, places) in fields.usage {
        row(count.name(), "usage", places);
    }
    for (place, _) in fields.cost {
        row("cost_usd", "usage", &[place]);
    }
    if rows.is_empty() {
        return;
    }
    let _ = write!(out, "\n| field | in | place |\n|---|---|---|\n{rows}");
    if fields.usage.is_empty() {
        return;
    }
    let cached = match fields.cached {
        Included::No => "without",
        Included::Likely | Included::Yes => "with",
    };
    let reasoning = match fields.reasoning {
        Included::No => "without",
        Included::Likely => "with (without where the total says so)",
        Included::Yes => "with",
    };
    let _ = writeln!(
        out,
        "\nInput is counted {cached} what caches hold, output {reasoning} reasoning."
    );
}
