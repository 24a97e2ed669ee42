//! Clients in Java: jars of Maven Central, and what is compiled against them.

use std::{fs, path::PathBuf, process::Command};

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
        fs::write(folder.join("pom.xml"), POM)?;
        fetch(
            Command::new("mvn")
                .args(["--quiet", "--batch-mode", "--update-snapshots"])
                .arg("dependency:copy-dependencies")
                .arg("--file")
                .arg(folder.join("pom.xml"))
                .arg(format!(
                    "-DoutputDirectory={}",
                    folder.join("lib").display()
                )),
        )
        .context("cannot get jars from Maven Central: apt-get install maven")?;
        run(Command::new("javac")
            .args(["--release", "11", "-cp", "lib/*", "-d", "."])
            .args(sources)
            .current_dir(folder))
        .context("cannot compile Java: apt-get install openjdk-17-jdk-headless")
    })
}
