//! Clients in Java: jars of Maven Central, and what is compiled against them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    clients,
    commands::{fetch, run},
};

/// Where OkHttp and an SDK are to be had.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>observer</groupId>
  <artifactId>clients</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>com.squareup.okhttp3</groupId>
      <artifactId>okhttp</artifactId>
      <version>4.12.1</version>
    </dependency>
    <dependency>
      <groupId>com.anthropic</groupId>
      <artifactId>anthropic-java</artifactId>
      <version>3.14.0</version>
    </dependency>
  </dependencies>
</project>
"#;

const NO_JDK: &str = "cannot compile Java: apt-get install openjdk-17-jdk-headless";

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
        jars_of(&project, &jars)?;
        run(Command::new("javac")
            .arg("-cp")
            .arg(jars.join("*"))
            .arg("-d")
            .arg(folder)
            .arg(source))
        .context(NO_JDK)
    })
}

/// The class path of the clients in `clients/java` but that of [`native`].
///
/// # Errors
///
/// There is no Maven or no JDK, or a jar cannot be had.
pub fn classes() -> anyhow::Result<PathBuf> {
    let sources = ["Anthropic.java", "Client.java", "OkHttp.java"]
        .map(|name| clients::script("java").join(name));
    let mut input = POM.to_owned();
    for source in &sources {
        input += &fs::read_to_string(source)?;
    }
    clients::listed("java", &input, |folder| {
        fs::create_dir_all(folder)?;
        let project = folder.join("pom.xml");
        fs::write(&project, POM)?;
        jars_of(&project, &folder.join("lib"))?;
        run(Command::new("javac")
            .args(["--release", "11", "-cp", "lib/*", "-d", "."])
            .args(sources)
            .current_dir(folder))
        .context(NO_JDK)
    })
}

/// Copies the jars that a project depends on into a folder.
fn jars_of(project: &Path, folder: &Path) -> anyhow::Result<()> {
    fetch(
        Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--update-snapshots"])
            .arg("dependency:copy-dependencies")
            .arg("--file")
            .arg(project)
            .arg(format!("-DoutputDirectory={}", folder.display())),
    )
    .context("cannot get jars from Maven Central: apt-get install maven")
}
