//! Real clients: Python SDKs in a virtual environment of their own, which is made when it is first
//! asked for.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

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
    let folder = prepared(name, requirements, |folder| {
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

/// A folder with packages of npm in `node_modules`, such as `openai@6.1.0`. Their install scripts do not
/// run.
///
/// # Errors
///
/// There is no npm, or a package cannot be had.
pub fn npm(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    prepared(name, &packages.join(" "), |folder| {
        fs::create_dir_all(folder)?;
        run(Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
            .args(["--force", "--no-save", "--prefix"])
            .arg(folder)
            .args(packages))
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
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let parent = target().join("e2e");
    fs::create_dir_all(&parent)?;
    let place = parent.join(format!("{name}-{:016x}", hasher.finish()));
    let done = place.join("complete");
    // Tests run side by side: one makes it, the others wait.
    let lock = File::create(parent.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !done.exists() {
        let _ = fs::remove_dir_all(&place);
        make(&place)?;
        fs::write(done, "")?;
    }
    Ok(place)
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

/// Runs a command whose output matters only if it fails.
///
/// # Errors
///
/// It cannot be run, or fails: with what it wrote to standard error.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
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
    fs::copy(path, &copy)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}
