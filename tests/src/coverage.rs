//! What the end-to-end tests have covered: a row for each runtime, and for each way in which programs run things
//! at the same time, from which `cargo xtask test` makes the tables of the README.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::clients;

/// A runtime and the way in which its calls travel.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// The runtime or program, such as `Node.js (npm)`.
    pub runtime: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The TLS library with its version, such as `OpenSSL 3.0`, or `none` for plain HTTP.
    pub library: &'a str,
    /// `shared`, `static` or `runtime` (part of the language's own library).
    pub linkage: &'a str,
    /// Where the functions' places are taken from: `dynamic symbols`, `symbols`, `stripped`.
    pub symbols: &'a str,
    /// `1.1`, `2`, `2 (gRPC)`.
    pub http: &'a str,
}

/// The folder of the rows, one file each.
pub fn folder() -> PathBuf {
    clients::target().join("e2e/coverage")
}

/// Notes that of `made` calls `captured` were recorded, right in every field.
///
/// # Panics
///
/// The row cannot be written.
pub fn note(row: &Row<'_>, captured: usize, made: usize) {
    let name = [row.runtime, row.version, row.library, row.symbols, row.http].join("-");
    let document = json!({
        "runtime": row.runtime,
        "version": row.version,
        "library": row.library,
        "linkage": row.linkage,
        "symbols": row.symbols,
        "http": row.http,
        "captured": captured,
        "made": made,
    });
    write(&folder(), &name, &document);
}

/// Notes that each of `calls` calls of `runs` runs, which went on at the same time in some `way`, was put into the
/// trace of its run by these `rules`.
///
/// # Panics
///
/// The row cannot be written.
pub fn attributed(way: &str, runs: usize, calls: usize, rules: &str) {
    let document = json!({"way": way, "runs": runs, "calls": calls, "rules": rules});
    write(&clients::target().join("e2e/attribution"), way, &document);
}

fn write(folder: &Path, name: &str, document: &Value) {
    fs::create_dir_all(folder).expect("a folder for the coverage");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    fs::write(folder.join(format!("{name}.json")), document.to_string()).expect("the coverage");
}
