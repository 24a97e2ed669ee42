//! What the end-to-end tests have covered: a row for each runtime, from which `cargo xtask test` makes the
//! table of the README.

use std::{fs, path::PathBuf};

use serde_json::json;

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
    let folder = folder();
    fs::create_dir_all(&folder).expect("a folder for the coverage");
    let name: String = [row.runtime, row.version, row.library, row.symbols, row.http]
        .join("-")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
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
    fs::write(folder.join(format!("{name}.json")), document.to_string()).expect("the coverage");
}
