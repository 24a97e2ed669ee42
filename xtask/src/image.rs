//! The container image of the agent, and the static program that is in it.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;

use crate::{
    root,
    run::{cargo_command, command, output, target},
    toolchain,
};

/// An image of this size or more is refused: every node of a cluster pulls it.
const TOO_LARGE: u64 = 25_000_000;

/// Where the certificates of public CAs are: Debian and Ubuntu; Fedora and its kin; Alpine and SUSE.
const CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// An architecture that images are made for, by the name that containers know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// That of this machine.
    pub(crate) fn own() -> anyhow::Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("observer is not built for {other}"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The target of rustc.
    pub(crate) fn triple(self) -> String {
        format!("{}-unknown-linux-musl", self.machine())
    }

    fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// Builds the image; it is in the local store then and in target/image.
pub(crate) fn run(arch: Option<Arch>, tag: Option<&str>) -> anyhow::Result<()> {
    let arch = arch.map_or_else(Arch::own, Ok)?;
    let default = format!("localhost/observer:{}", version());
    let tag = tag.unwrap_or(&default);
    let program = static_program(arch)?;
    let builder = builder()?;

    let folder = target().join("image");
    let context = folder.join("context");
    fs::create_dir_all(context.join(arch.name()))?;
    fs::copy(&program, context.join(arch.name()).join("observer"))?;
    let certificates = CERTIFICATES
        .iter()
        .find(|path| Path::new(path).exists())
        .context("there are no certificates of public CAs: apt-get install ca-certificates")?;
    fs::copy(certificates, context.join("ca-certificates.crt"))?;

    let mut build = Command::new(builder);
    build
        .arg("build")
        .args(["--format", "oci", "--pull=never", "--no-cache"])
        .args(["--platform", &format!("linux/{}", arch.name())])
        .args(["--tag", tag])
        .arg("--file")
        .arg(root().join("deploy/Dockerfile"));
    for (key, value) in labels()? {
        build.args(["--label", &format!("{key}={value}")]);
        build.args(["--annotation", &format!("{key}={value}")]);
    }
    // The same program makes the same image.
    if let Some(time) = commit_time() {
        build.args(["--timestamp", &time]);
    }
    command(build.arg(&context))?;

    let archive = folder.join("observer.tar");
    // An archive that is there is not written over.
    let _ = fs::remove_file(&archive);
    let destination = format!("docker-archive:{}:{tag}", archive.display());
    command(Command::new(builder).args(["push", "--quiet", tag, &destination]))?;
    let bytes = fs::metadata(&archive)?.len();
    println!("{tag}: {}, {}", megabytes(bytes), archive.display());
    ensure!(
        bytes < TOO_LARGE,
        "the image has {}, and must have less than {}",
        megabytes(bytes),
        megabytes(TOO_LARGE)
    );
    Ok(())
}

/// Builds the program as it is handed out: of one file that needs no other, without symbols.
///
/// # Errors
///
/// The architecture is none that the agent is built for, something is missing, or it cannot be built.
pub(crate) fn static_program(arch: Arch) -> anyhow::Result<PathBuf> {
    ensure!(
        arch == Arch::Amd64,
        "observer is not built for {} yet: its BPF programs lack the registers of stack arguments there \
         (observer-ebpf/src/registers.rs), and it has never run on such a machine",
        arch.name()
    );
    ensure!(
        arch == Arch::own()?,
        "{} is built on machines of that architecture only",
        arch.name()
    );
    toolchain::setup()?;
    let triple = arch.triple();
    let installed = output("rustup", &["target", "list", "--installed"])?;
    if !installed.lines().any(|line| line == triple) {
        command(Command::new("rustup").args(["target", "add", &triple]))?;
    }
    let mut build = cargo_command(["build", "--profile", "dist", "--package", "observer"]);
    build.args(["--target", &triple]);
    if output("musl-gcc", &["--version"]).is_err() {
        toolchain::apt_install(&["musl-tools"])
            .context("building for musl takes musl-gcc, which Debian has in musl-tools")?;
    }
    command(&mut build)?;
    let program = target().join(triple).join("dist/observer");
    // The loader of a program that is not static is not in the image.
    let text = output("readelf", &["--program-headers", &path(&program)?])
        .context("cannot look at what was built: apt-get install binutils")?;
    ensure!(
        !text.contains("INTERP"),
        "{} is not static",
        program.display()
    );
    Ok(program)
}

/// What makes images: buildah or podman, whose options are the same here.
fn builder() -> anyhow::Result<&'static str> {
    let runs = |name: &&str| output(name, &["--version"]).is_ok();
    let known = ["buildah", "podman"];
    if let Some(found) = known.into_iter().find(runs) {
        return Ok(found);
    }
    toolchain::apt_install(&["buildah"])
        .context("an image takes buildah or podman: apt-get install buildah")?;
    known.into_iter().find(runs).context("buildah does not run")
}

/// The version of the workspace.
pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// What the image says of itself (OCI image specification, annotations.md).
fn labels() -> anyhow::Result<Vec<(&'static str, String)>> {
    let manifest = fs::read_to_string(root().join("observer/Cargo.toml"))?;
    let description = manifest
        .lines()
        .find_map(|line| line.strip_prefix("description = "))
        .context("observer/Cargo.toml has no description")?;
    let mut labels = vec![
        ("org.opencontainers.image.title", "observer".to_owned()),
        (
            "org.opencontainers.image.description",
            description.trim_matches('"').to_owned(),
        ),
        ("org.opencontainers.image.version", version().to_owned()),
        ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
        ("org.opencontainers.image.base.name", "scratch".to_owned()),
    ];
    if let Ok(revision) = git(&["rev-parse", "HEAD"]) {
        let mut revision = revision;
        if git(&["status", "--porcelain"]).is_ok_and(|changes| !changes.is_empty()) {
            let _ = write!(revision, "-dirty");
        }
        labels.push(("org.opencontainers.image.revision", revision));
    }
    if let Ok(created) = git(&["show", "--no-patch", "--format=%cI", "HEAD"]) {
        labels.push(("org.opencontainers.image.created", created));
    }
    Ok(labels)
}

fn commit_time() -> Option<String> {
    env::var("SOURCE_DATE_EPOCH")
        .ok()
        .or_else(|| git(&["show", "--no-patch", "--format=%ct", "HEAD"]).ok())
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let root = path(&root())?;
    let mut all = vec!["-C", &root];
    all.extend(arguments);
    output("git", &all)
}

fn path(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("the path is not UTF-8")?;
    Ok(text.to_owned())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
