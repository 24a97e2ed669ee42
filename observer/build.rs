//! Builds the BPF programs with the toolchain that `cargo xtask setup` found or installed, and the Java
//! agent if there is a JDK.

use std::{
    env,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace folder")?;
    let mut sources = DefaultHasher::new();
    identify(Path::new("src/attach"), &mut sources)?;
    println!("cargo:rustc-env=EXAMINED_BY={:016x}", sources.finish());
    java(&root.join("observer-java"))?;
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

/// Hashes the files of a folder and of those in it, with their names.
fn identify(folder: &Path, hasher: &mut DefaultHasher) -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut paths = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<PathBuf>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            identify(&path, hasher)?;
        } else {
            (&path, fs::read(&path)?).hash(hasher);
        }
    }
    Ok(())
}

/// Builds the Java agent. Without a JDK its files are empty, and the program says so when it is asked for.
fn java(sources: &Path) -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-env-changed=JAVA_HOME");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("no OUT_DIR")?).join("java");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    let has_jdk = Command::new(tool("javac")).arg("-version").output().is_ok();
    let built = if has_jdk {
        archives(sources, &out).and_then(|()| library(sources, &out))
    } else {
        println!("cargo:warning=no JDK: built without the Java agent (--java-agent)");
        Ok(())
    };
    if let Err(error) = &built {
        println!("cargo:warning=built without the Java agent (--java-agent): {error:#}");
    }
    for name in ["boot.jar", "agent.jar", "libobserver_java.so"] {
        let path = out.join(name);
        if built.is_err() || !path.exists() {
            fs::write(path, [])?;
        }
    }
    Ok(())
}

/// Compiles the classes, for Java 8 and later.
fn archives(sources: &Path, out: &Path) -> anyhow::Result<()> {
    let manifest = out.join("manifest");
    fs::write(
        &manifest,
        "Agent-Class: observer.agent1.Agent\nCan-Retransform-Classes: true\n",
    )?;
    let boot = out.join("boot");
    for (name, package, classpath) in [
        ("boot", "sun/security/ssl", None),
        ("agent", "observer/agent1", Some(&boot)),
    ] {
        let classes = out.join(name);
        let mut compiler = Command::new(tool("javac"));
        compiler.args(["--release", "8", "-Xlint:-options", "-g:lines", "-d"]);
        compiler.arg(&classes);
        if let Some(classpath) = classpath {
            compiler.arg("-classpath").arg(classpath);
        }
        let folder = sources.join(name).join(package);
        for file in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            compiler.arg(file?.path());
        }
        run(&mut compiler)?;
        let mut archiver = Command::new(tool("jar"));
        archiver
            .arg("cfm")
            .arg(out.join(format!("{name}.jar")))
            .arg(&manifest)
            .arg("-C")
            .arg(&classes)
            .arg(".");
        run(&mut archiver)?;
    }
    Ok(())
}

/// Builds the native library, which needs no other.
fn library(sources: &Path, out: &Path) -> anyhow::Result<()> {
    let target = env::var("TARGET")?;
    let mut compiler = Command::new(env::var_os("RUSTC").context("no RUSTC")?);
    compiler
        .args(["--edition", "2024", "--crate-type", "cdylib"])
        .args(["--crate-name", "observer_java", "--target", &target])
        .args(["-C", "panic=abort", "-C", "opt-level=2"])
        .args(["-C", "strip=debuginfo"]);
    // The counter of the probes is in the file's only part that can be written.
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-Wl,-z,norelro",
        "-Wl,-Bsymbolic",
        "-Wl,-soname,libobserver_java.so",
    ] {
        compiler.arg("-C").arg(format!("link-arg={argument}"));
    }
    if target.contains("musl") {
        compiler.args(["-C", "target-feature=-crt-static"]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = OsString::from("linker=");
        argument.push(linker);
        compiler.arg("-C").arg(argument);
    }
    compiler
        .arg("-o")
        .arg(out.join("libobserver_java.so"))
        .arg(sources.join("native/lib.rs"));
    run(&mut compiler)
}

/// A program of the JDK.
fn tool(name: &str) -> PathBuf {
    env::var_os("JAVA_HOME")
        .map(|home| PathBuf::from(home).join("bin").join(name))
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(name))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
