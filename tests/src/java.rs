//! Clients in Java: jars of Maven Central, and what is compiled against them.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use crate::{
    clients,
    commands::{fetch, run},
};

/// The folder with the client of `clients/java/NativeTls.java`, and its jars in `jars`.
///
/// # Errors
///
/// There is no Maven or no JDK, or a jar cannot be had.
pub fn native() -> anyhow::Result<PathBuf> {
    let [project, source] = ["java/pom.xml", "java/NativeTls.java"].map(clients::script);
    let input = fs::read_to_string(&project)? + &fs::read_to_string(&source)?;
    clients::listed("java-native", &input, |folder| {
        let jars = folder.join("jars");
        fs::create_dir_all(&jars)?;
        fetch(
            Command::new("mvn")
                .args(["--quiet", "--batch-mode", "--update-snapshots"])
                .arg("dependency:copy-dependencies")
                .arg("--file")
                .arg(project)
                .arg(format!("-DoutputDirectory={}", jars.display())),
        )
        .context("cannot get jars from Maven Central: apt-get install maven")?;
        run(Command::new("javac")
            .arg("-cp")
            .arg(jars.join("*"))
            .arg("-d")
            .arg(folder)
            .arg(source))
        .context("cannot compile Java: apt-get install openjdk-17-jdk-headless")
    })
}
