//! Builds the BPF programs with the toolchain that `cargo xtask setup` found or installed.

use std::{fs, path::Path};

use anyhow::Context as _;
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace folder")?;
    let choice = root.join(".toolchain/rustup-toolchain");
    println!("cargo:rerun-if-changed={}", choice.display());
    println!(
        "cargo:rerun-if-changed={}",
        root.join("observer-common").display()
    );
    let toolchain = fs::read_to_string(&choice).with_context(|| {
        format!(
            "{} is missing: run `cargo xtask setup` once, it finds or installs what building BPF \
             programs needs",
            choice.display()
        )
    })?;
    let programs = root.join("observer-ebpf");
    build_ebpf(
        [Package {
            name: "observer-ebpf",
            root_dir: programs
                .to_str()
                .context("the path of the workspace is not UTF-8")?,
            ..Package::default()
        }],
        Toolchain::Custom(toolchain.trim()),
    )
}
