//! Real clients: Python SDKs in a virtual environment of their own, which is made when it is first
//! asked for.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::commands::fetch;
pub use crate::commands::run;

/// The variable with the path of the list of what [`environments::make`](crate::environments::make) has made.
pub const LISTED: &str = "OBSERVER_ENVIRONMENTS";

/// The folder of this crate.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `clients/`.
pub fn script(name: &str) -> PathBuf {
    folder().join("clients").join(name)
}

/// The Python interpreter of the virtual environment with what `clients/requirements.txt` lists.
///
/// # Errors
///
/// There is no Python 3 with `venv`, or a package cannot be installed.
pub fn python() -> anyhow::Result<PathBuf> {
    environment("clients", &fs::read_to_string(script("requirements.txt"))?)
}

/// The Python interpreter of an environment with these requirements.
///
/// # Errors
///
/// As [`python`].
pub fn environment(name: &str, requirements: &str) -> anyhow::Result<PathBuf> {
    let folder = listed(name, requirements, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))
            .context("cannot make a virtual environment: install Python 3 with venv (`apt-get install python3-venv`)")?;
        let list = folder.join("requirements.txt");
        fs::write(&list, requirements)?;
        run(Command::new(folder.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
            ])
            .arg(&list))
        .context("cannot install the clients from PyPI")
    })?;
    Ok(folder.join("bin/python"))
}

/// A folder with a version of a Python package, which is on no interpreter's path.
///
/// # Errors
///
/// As [`python`].
pub fn package(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let python = python()?;
    listed(&format!("{name}-{version}"), version, |folder| {
        // Nothing is compiled.
        fetch(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet"])
                .args(["--disable-pip-version-check", "--only-binary", ":all:"])
                .arg("--target")
                .arg(folder)
                .args([&format!("{name}=={version}"), "typing-extensions"]),
        )
    })
}

/// A folder with packages of npm in `node_modules`, such as `openai@6.1.0`. Their install scripts do not
/// run.
///
/// # Errors
///
/// There is no npm, or a package cannot be had.
pub fn npm(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    listed(name, &packages.join(" "), |folder| {
        fs::create_dir_all(folder)?;
        fetch(
            Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
                .args(["--force", "--no-save", "--prefix"])
                .arg(folder)
                .args(packages),
        )
        .context("cannot install packages from npm")
    })
}

/// A folder of build results that is made when it is first asked for, by `make`, and again when `input`
/// changes: a folder that does not exist yet is handed to it.
///
/// # Errors
///
/// It cannot be made.
pub fn prepared(
    name: &str,
    input: &str,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let place = place(name, input);
    let done = place.join("complete");
    // Tests run side by side: one makes it, the others wait.
    let lock = place.with_file_name(format!("{name}.lock"));
    fs::create_dir_all(target().join("e2e"))?;
    let lock = File::create(lock)?;
    lock.lock()?;
    if !done.exists() {
        let _ = fs::remove_dir_all(&place);
        make(&place)?;
        fs::write(done, "")?;
    }
    Ok(place)
}

/// As [`prepared`], for what takes longer than a moment: it is to be made before the tests.
pub(crate) fn listed(
    name: &str,
    input: &str,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    if let Some(list) = std::env::var_os(LISTED) {
        let place = place(name, input);
        let list = fs::read_to_string(list).context(LISTED)?;
        ensure!(
            list.lines().any(|path| Path::new(path).starts_with(&place)),
            "tests/src/environments.rs does not list {name} as it is asked for here: {input}"
        );
    }
    prepared(name, input, make)
}

fn place(name: &str, input: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let name = format!("{name}-{:016x}", hasher.finish());
    target().join("e2e").join(name)
}

/// The folder of build results.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || {
            folder()
                .parent()
                .map_or_else(|| PathBuf::from("target"), |root| root.join("target"))
        },
        PathBuf::from,
    )
}

/// Copies a program or library without its symbols, and without the note by which observer would know it for
/// the one that has them.
///
/// # Errors
///
/// There is no `strip` (binutils), or no such file.
pub fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    run(Command::new("strip")
        .args(["-s", "--remove-section=.note.gnu.build-id", "-o"])
        .args([to, from]))
}

/// Copies a program to a folder and lets everybody execute it.
///
/// # Errors
///
/// It cannot be copied.
pub fn readable_copy(path: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = folder.join(path.file_name().context("no file name")?);
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    // Not by this process: a child that another thread starts meanwhile would have the copy open for writing, and
    // nobody could execute it (ETXTBSY).
    run(Command::new("install")
        .args(["-m", "755"])
        .args([path, &copy]))?;
    Ok(copy)
}
