//! The client of `clients/rustls`, by both providers of its cryptography.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use crate::{
    clients,
    commands::{fetch, run},
};

/// Features of the client.
pub const AWS_LC: &str = "aws-lc";
/// As [`AWS_LC`].
pub const RING: &str = "ring";

/// A folder with the client for each feature, with symbols by its name, and `-stripped`.
///
/// # Errors
///
/// A crate cannot be had, or the client cannot be built.
pub fn programs() -> anyhow::Result<PathBuf> {
    let sources = clients::script("rustls");
    let mut input = String::new();
    for name in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
        input += &fs::read_to_string(sources.join(name))?;
    }
    clients::listed("rustls-client", &input, |folder| {
        fs::create_dir_all(folder)?;
        let manifest = sources.join("Cargo.toml");
        fetch(
            Command::new("cargo")
                .args(["fetch", "--quiet", "--locked", "--manifest-path"])
                .arg(&manifest),
        )
        .context("cannot get crates for a client in Rust")?;
        // What both have in common is built once, and kept.
        let target = clients::target().join("e2e/rustls-client-target");
        for provider in [AWS_LC, RING] {
            run(Command::new("cargo")
                .args(["build", "--quiet", "--locked", "--release", "--features"])
                .arg(provider)
                .arg("--manifest-path")
                .arg(&manifest)
                .arg("--target-dir")
                .arg(&target)
                .env_remove("RUSTFLAGS"))?;
            let built = target.join("release/rustls-client");
            run(Command::new("cp").arg(&built).arg(folder.join(provider)))?;
            run(Command::new("strip")
                .arg("-o")
                .arg(folder.join(format!("{provider}-stripped")))
                .arg(&built))?;
        }
        Ok(())
    })
}
