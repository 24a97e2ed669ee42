//! Clients in Go: the modules of `clients/go`, built by several versions of Go in several ways. The versions
//! come from the Go module proxy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{
    clients,
    commands::{fetch, run},
};

/// A way to build a client.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Folder below `clients/go`.
    pub module: &'static str,
    /// A version such as `1.24.9`, or `local`: the one that is installed.
    pub version: &'static str,
    /// Arguments of `go build`.
    pub arguments: &'static [&'static str],
    /// Whether C may be called.
    pub cgo: bool,
}

impl Build {
    /// With what `go build` does by default.
    pub const fn new(module: &'static str, version: &'static str) -> Self {
        Self::with(module, version, &[])
    }

    /// With these arguments of `go build`.
    pub const fn with(
        module: &'static str,
        version: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self {
            module,
            version,
            arguments,
            cgo: true,
        }
    }

    /// The program; built when it is first asked for.
    ///
    /// # Errors
    ///
    /// There is no Go, the version cannot be had, or the client cannot be built.
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        let module = clients::script("go").join(self.module);
        let mut input = format!("{self:?} {}", self.go_version()?);
        for file in sources(&module)? {
            input.push_str(&fs::read_to_string(file)?);
        }
        let folder = clients::listed(&self.name(), &input, |folder| {
            fs::create_dir_all(folder)?;
            // This downloads the version and the modules.
            fetch(self.go().current_dir(&module).args(["list", "-deps", "."]))
                .context("cannot get what a client in Go is built of")?;
            let mut build = self.go();
            build
                .current_dir(&module)
                .arg("build")
                .args(self.arguments)
                .arg("-o")
                .arg(folder.join(self.module))
                .arg(".");
            run(&mut build).context("cannot build a client in Go")
        })?;
        Ok(folder.join(self.module))
    }

    /// The version of Go, such as `1.26.8`.
    ///
    /// # Errors
    ///
    /// There is no Go, or the version cannot be had.
    pub fn go_version(&self) -> anyhow::Result<String> {
        if self.version != "local" {
            return Ok(self.version.to_owned());
        }
        let output = self
            .go()
            .args(["env", "GOVERSION"])
            .output()
            .context("there is no Go: install Go 1.26 or later (https://go.dev/dl)")?;
        ensure!(output.status.success(), "go env: {output:?}");
        let version = String::from_utf8(output.stdout)?;
        Ok(version.trim().trim_start_matches("go").to_owned())
    }

    fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.env("GOFLAGS", "-mod=mod")
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .env(
                "GOTOOLCHAIN",
                match self.version {
                    "local" => "local".to_owned(),
                    version => format!("go{version}"),
                },
            );
        go
    }

    /// A name that tells it from others.
    pub(crate) fn name(&self) -> String {
        let mut name = format!("go-{}-{}", self.module, self.version);
        for argument in self.arguments {
            name.push('-');
            name.extend(argument.chars().filter(char::is_ascii_alphanumeric));
        }
        if !self.cgo {
            name.push_str("-nocgo");
        }
        name
    }
}

fn sources(module: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(module)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}
