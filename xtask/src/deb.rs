//! The Debian package of the agent, with its service.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    image::{Arch, static_program},
    root,
    run::{RETRIES, command, output, privileged, target},
};

/// What makes it; its settings are in observer/Cargo.toml.
const CARGO_DEB: &str = "3.8.0";

/// Builds the package; it is in target/debian then. To check it is to install it on a copy of this system.
pub(crate) fn run(arch: Option<Arch>, check: bool) -> anyhow::Result<()> {
    let arch = arch.map_or_else(Arch::own, Ok)?;
    static_program(arch)?;
    let maker = cargo_deb()?;
    let folder = target().join("debian");
    fs::create_dir_all(&folder)?;
    let package = folder.join(format!(
        "observer_{}-1_{}.deb",
        crate::image::version(),
        arch.name()
    ));
    command(
        Command::new(maker)
            .current_dir(root())
            .args(["--package", "observer", "--target", &arch.triple()])
            // It is built, and without symbols.
            .args(["--profile", "dist", "--no-build", "--no-strip", "--output"])
            .arg(&package),
    )?;
    println!("{}", package.display());
    if check {
        tried(&package)?;
    }
    Ok(())
}

/// Installs, removes and purges it where nothing of that stays.
fn tried(package: &Path) -> anyhow::Result<()> {
    let folder = target().join("debian/root");
    fs::create_dir_all(&folder)?;
    command(
        privileged("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(root().join("deploy/deb/check.sh"))
            .arg(package)
            .arg(&folder),
    )?;
    fs::remove_dir(&folder)?;
    Ok(())
}

fn cargo_deb() -> anyhow::Result<PathBuf> {
    let place = root().join(".toolchain");
    let program = place.join("bin/cargo-deb");
    let runs = |program: &Path| {
        let version = program.to_str().map(|path| output(path, &["--version"]));
        version.is_some_and(|version| version.is_ok_and(|text| text.trim() == CARGO_DEB))
    };
    if !runs(&program) {
        eprintln!("xtask: installing cargo-deb {CARGO_DEB}");
        command(
            Command::new("cargo")
                .env_remove("CARGO_TARGET_DIR")
                .env("CARGO_NET_RETRY", RETRIES)
                .args(["install", "cargo-deb", "--locked", "--quiet", "--force"])
                .args(["--version", CARGO_DEB, "--root"])
                .arg(&place),
        )
        .context("cannot install cargo-deb")?;
    }
    Ok(program)
}
