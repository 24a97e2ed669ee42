//! What building BPF programs needs: a compiler with a `core` for bpfel, and bpf-linker.
//!
//! There are two ways, and the first that fits is taken:
//! 1. rustup's nightly with rust-src: `core` is built from source. bpf-linker must know its LLVM.
//! 2. Debian's rustc-web with libstd-rust-web-dev-bpf: `core` comes ready-made. bpf-linker is built
//!    against the LLVM of the same release.
//!
//! The choice is written to .toolchain, where build.rs and .cargo/config.toml find it.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::{
    root,
    run::{RETRIES, command, output, privileged},
};

const BPF_LINKER: &str = "0.13.0";

/// The name under which rustup knows Debian's compiler.
const LINKED: &str = "observer-bpf";

/// The packages of the second way.
const RUSTC: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Finds or installs the toolchain. Quick when that has been done.
pub(crate) fn setup() -> anyhow::Result<()> {
    let place = root().join(".toolchain");
    fs::create_dir_all(place.join("bin"))?;
    if is_complete(&place) {
        return Ok(());
    }
    eprintln!("xtask: looking for a toolchain for BPF programs");
    let toolchain = if has_rust_src("nightly") {
        nightly(&place).or_else(|error| debian(&place).map_err(|other| other.context(error)))
    } else if apt_has(RUSTC) {
        debian(&place)
    } else {
        install_nightly().and_then(|()| nightly(&place))
    }
    .context(
        "no toolchain for BPF programs. Either `rustup toolchain install nightly --component rust-src` and \
         bpf-linker in PATH (https://github.com/aya-rs/bpf-linker), or, on Debian, as root: \
         apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf",
    )?;
    fs::write(place.join("rustup-toolchain"), toolchain)?;
    Ok(())
}

fn is_complete(place: &Path) -> bool {
    let Ok(toolchain) = fs::read_to_string(place.join("rustup-toolchain")) else {
        return false;
    };
    let usable = if toolchain == LINKED {
        has_bpf_core(LINKED)
    } else {
        has_rust_src(&toolchain)
    };
    usable && runs(&linker(place))
}

/// The way of rustup.
fn nightly(place: &Path) -> anyhow::Result<String> {
    if link_from_path(place) {
        return Ok("nightly".to_owned());
    }
    eprintln!("xtask: installing bpf-linker {BPF_LINKER}");
    // Its release is built against the newest LLVM that rustc may use.
    if output("cargo", &["binstall", "-V"]).is_err() {
        command(Command::new("cargo").args(["install", "--locked", "cargo-binstall"]))?;
    }
    command(
        Command::new("cargo")
            .args(["binstall", "--no-confirm", "--root"])
            .arg(place)
            .arg(format!("bpf-linker@{BPF_LINKER}")),
    )?;
    Ok("nightly".to_owned())
}

/// The way of Debian's packages.
fn debian(place: &Path) -> anyhow::Result<String> {
    if !has_bpf_core("/usr") {
        eprintln!("xtask: installing {}", RUSTC.join(", "));
        apt_install(RUSTC)?;
    }
    command(Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]))?;
    if !has_bpf_core(LINKED) {
        bail!("/usr/bin/rustc has no core library for bpfel-unknown-none");
    }
    if !runs(&linker(place)) {
        let llvm = llvm_major(LINKED).context("rustc does not say its LLVM version")?;
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        let packages: Vec<&str> = packages
            .iter()
            .map(String::as_str)
            .chain(["libzstd-dev", "zlib1g-dev", "gcc", "g++"])
            .collect();
        apt_install(&packages)?;
        eprintln!("xtask: building bpf-linker {BPF_LINKER}");
        command(
            Command::new("cargo")
                .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
                // Not into the target folder of whoever runs us.
                .env_remove("CARGO_TARGET_DIR")
                .env("CARGO_NET_RETRY", RETRIES)
                .args([
                    "install",
                    "bpf-linker",
                    "--locked",
                    "--quiet",
                    "--version",
                    BPF_LINKER,
                ])
                .args([
                    "--no-default-features",
                    "--features",
                    &format!("llvm-{llvm}"),
                    "--root",
                ])
                .arg(place),
        )?;
    }
    Ok(LINKED.to_owned())
}

fn install_nightly() -> anyhow::Result<()> {
    command(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]))
}

/// Whether `core` can be built from source.
fn has_rust_src(toolchain: &str) -> bool {
    output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"]).is_ok_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    })
}

/// Whether a toolchain, by rustup's name or its folder, has a ready-made `core`.
fn has_bpf_core(toolchain: &str) -> bool {
    let sysroot = if toolchain.starts_with('/') {
        Ok(toolchain.to_owned())
    } else {
        output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"])
    };
    sysroot.is_ok_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib/bpfel-unknown-none/lib")
            .is_dir()
    })
}

fn llvm_major(toolchain: &str) -> Option<String> {
    let version = output("rustup", &["run", toolchain, "rustc", "-vV"]).ok()?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(llvm.split('.').next()?.to_owned())
}

fn apt_has(packages: &[&str]) -> bool {
    if !Path::new("/usr/bin/apt-get").exists() {
        return false;
    }
    let known = || {
        packages.iter().all(|package| {
            output("apt-cache", &["show", package]).is_ok_and(|text| !text.is_empty())
        })
    };
    // Before the first update the lists are empty.
    known() || (apt_update().is_ok() && known())
}

fn apt_update() -> anyhow::Result<()> {
    command(apt_get().args(["update", "--quiet"]).stdout(Stdio::null()))
}

/// Installs packages of Debian's.
pub(crate) fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    let install = || {
        command(
            apt_get()
                .args(["install", "--yes", "--quiet", "--no-install-recommends"])
                .args(packages)
                .stdout(Stdio::null()),
        )
    };
    install().or_else(|_| apt_update().and_then(|()| install()))
}

fn apt_get() -> Command {
    let mut apt_get = privileged("apt-get");
    apt_get
        .env("DEBIAN_FRONTEND", "noninteractive")
        .arg(format!("--option=Acquire::Retries={RETRIES}"))
        .arg("--option=DPkg::Lock::Timeout=600");
    apt_get
}

fn linker(place: &Path) -> PathBuf {
    place.join("bin/bpf-linker")
}

fn runs(linker: &Path) -> bool {
    linker
        .to_str()
        .is_some_and(|linker| output(linker, &["--version"]).is_ok())
}

/// Uses a bpf-linker that the user has installed.
fn link_from_path(place: &Path) -> bool {
    if runs(&linker(place)) {
        return true;
    }
    let found = env::var_os("PATH")
        .iter()
        .flat_map(|path| env::split_paths(path).collect::<Vec<_>>())
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| runs(path));
    found.is_some_and(|path| {
        let _ = fs::remove_file(linker(place));
        symlink(path, linker(place)).is_ok()
    })
}
