//! Tests, lints and fuzzing.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    coverage, image, root,
    run::{RETRIES, cargo, cargo_command, command, is_root, output, target},
    toolchain,
};

/// The crates that are built for this machine; the BPF programs are built by observer's build.rs.
const CRATES: &[&str] = &[
    "observer",
    "observer-bench",
    "observer-common",
    "observer-wire",
    "observer-e2e",
    "xtask",
];

/// What a cluster takes of Debian, beside what the other tests do (.ci/run); Kubernetes itself is built.
const CLUSTER: &[&str] = &[
    "buildah",
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "etcd-server",
    "iproute2",
    "prometheus",
    "runc",
];

/// Everything that can be tested without and with the rights of root.
pub(crate) fn run(filter: &[String]) -> anyhow::Result<()> {
    toolchain::setup()?;
    cargo(["build", "--release"])?;
    if filter.is_empty() {
        let mut units = vec!["test"];
        for name in CRATES.iter().filter(|name| **name != "observer-e2e") {
            units.extend(["--package", name]);
        }
        cargo(units)?;
    }
    needs_root()?;
    let mut end_to_end =
        cargo_command(["test", "--package", "observer-e2e", "--no-fail-fast", "--"]);
    end_to_end
        // Latencies are compared: more at once than there are cores would blur them.
        .arg("--test-threads=2")
        .args(filter)
        .env("OBSERVER_BIN", target().join("release/observer"));
    if filter.is_empty() {
        coverage::begin()?;
        match environments() {
            Ok(list) => {
                end_to_end.env("OBSERVER_ENVIRONMENTS", list);
            }
            // Tests make what they miss, or fail.
            Err(error) => eprintln!("xtask: {error:#}"),
        }
    }
    command(&mut end_to_end)?;
    if filter.is_empty() {
        coverage::write()?;
    }
    Ok(())
}

/// The image in a cluster.
pub(crate) fn kubernetes(filter: &[String]) -> anyhow::Result<()> {
    needs_root()?;
    let is_installed = |package: &str| {
        let status = output("dpkg-query", &["-W", "-f", "${db:Status-Abbrev}", package]);
        status.is_ok_and(|status| status.starts_with("ii"))
    };
    let missing: Vec<&str> = CLUSTER
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    // Where there is no apt-get, what is missing is said when it is used.
    if !missing.is_empty() && output("apt-get", &["--version"]).is_ok() {
        eprintln!("xtask: installing {}", missing.join(", "));
        toolchain::apt_install(&missing)?;
    }
    image::run(None, None)?;
    let mut test = cargo_command(["test", "--package", "observer-e2e"]);
    test.args(["--features", "kubernetes", "--test", "kubernetes", "--"]);
    command(test.args(filter))
}

fn needs_root() -> anyhow::Result<()> {
    if !is_root() {
        bail!(
            "the end-to-end tests attach to the kernel and need the rights of root: run \
             `sudo -E env PATH=$PATH cargo xtask test`"
        );
    }
    Ok(())
}

/// Makes what the end-to-end tests ask for, since nothing must be installed beside tests that compare latencies.
/// Returns the list of what there is; tests refuse what is not on it.
fn environments() -> anyhow::Result<PathBuf> {
    eprintln!("xtask: making what the tests use (once)");
    let list = target().join("environments");
    let mut make = cargo_command(["run", "--quiet", "--package", "observer-e2e"]);
    make.args(["--bin", "observer-clients", "--", "--all"]);
    command(make.arg(&list))?;
    Ok(list)
}

/// What CI asks for beside the tests.
pub(crate) fn lint() -> anyhow::Result<()> {
    toolchain::setup()?;
    cargo(["fmt", "--all", "--check"])?;
    let of_crates = |first: &[&'static str], last: &[&'static str]| {
        let mut arguments = first.to_vec();
        for name in CRATES {
            arguments.extend(["--package", name]);
        }
        arguments.extend(last);
        arguments
    };
    cargo(of_crates(
        &[
            "clippy",
            "--all-targets",
            "--features",
            "observer-e2e/kubernetes",
        ],
        &["--", "--deny", "warnings"],
    ))?;
    let mut docs = cargo_command(of_crates(&["doc", "--no-deps"], &[]));
    command(docs.env("RUSTDOCFLAGS", "--deny warnings"))
}

/// Runs each fuzz target from its seeds. New inputs go into the corpus, which git ignores.
pub(crate) fn fuzz(seconds: u64) -> anyhow::Result<()> {
    let folder = root().join("observer-wire/fuzz");
    let nightly = output("rustup", &["run", "nightly", "rustc", "-V"]);
    nightly.context("fuzzing needs a nightly toolchain: rustup toolchain install nightly")?;
    let tools = root().join(".toolchain");
    let cargo_fuzz = tools.join("bin/cargo-fuzz");
    if !cargo_fuzz.exists() {
        command(
            Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .env_remove("CARGO_TARGET_DIR")
                .env("CARGO_NET_RETRY", RETRIES)
                .args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"])
                .arg(&tools),
        )?;
    }
    let mut targets: Vec<String> = fs::read_dir(folder.join("fuzz_targets"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    let corpus_of = |name: &str| folder.join("corpus").join(name);
    for name in &targets {
        fs::create_dir_all(corpus_of(name))?;
    }
    let mut seeds = cargo_command([
        "test",
        "--package",
        "observer-wire",
        "--test",
        "calls",
        "seed",
    ]);
    command(seeds.env("OBSERVER_WRITE_SEEDS", corpus_of("call")))?;
    for name in targets {
        let corpus = corpus_of(&name);
        // Those of whole connections are the recorded exchanges.
        let seeds = folder.join("seeds").join(&name);
        command(
            Command::new("rustup")
                .args(["run", "nightly"])
                .arg(&cargo_fuzz)
                .args(["run", "--sanitizer", "none", "--fuzz-dir"])
                .arg(&folder)
                .arg(&name)
                .arg(&corpus)
                .args(seeds.exists().then_some(seeds))
                .args([
                    "--",
                    &format!("-max_total_time={seconds}"),
                    "-max_len=65536",
                    "-rss_limit_mb=2048",
                ])
                .current_dir(root().join("observer-wire")),
        )?;
    }
    Ok(())
}
