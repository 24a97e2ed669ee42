//! The manifests of deploy/kubernetes, which are the chart's, and helm, which makes them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    chart, root,
    run::{command, output},
};

const HELM: &str = "v3.22.0";

/// Name and namespace of what is rendered.
const RELEASE: &str = "observer";

/// What stands before the rendered objects.
const HEAD: &str = "\
# Written by `cargo xtask manifests` from deploy/helm/observer with its own values. For other settings render it anew:
#   helm template observer deploy/helm/observer --namespace observer --skip-tests --values my-values.yaml
#
# The image has to be where nodes find it: `localhost/observer` is on nodes that it has been loaded into.
---
apiVersion: v1
kind: Namespace
metadata:
  name: observer
  labels:
    app.kubernetes.io/name: observer
    # hostPID, a hostPath and capabilities beside the usual ones are what the levels baseline and restricted refuse.
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/audit: privileged
    pod-security.kubernetes.io/warn: privileged
";

/// Writes deploy/kubernetes/observer.yaml, or checks that it is as the chart has it, and the chart itself.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let helm = Helm::find()?;
    helm.lint()?;
    let file = root().join("deploy/kubernetes/observer.yaml");
    let text = format!("{HEAD}{}", plain(&helm.render(&["--skip-tests"])?));
    if !check {
        fs::write(&file, text)?;
        println!("{}", file.display());
        return Ok(());
    }
    ensure!(
        fs::read_to_string(&file).unwrap_or_default() == text,
        "{} is not what the chart makes: run `cargo xtask manifests`",
        file.display()
    );
    chart::prove(&helm)
}

/// Leaves out the labels that say that helm manages the objects.
fn plain(text: &str) -> String {
    text.lines()
        .filter(|line| {
            let line = line.trim_start();
            !line.starts_with("helm.sh/chart:")
                && !line.starts_with("app.kubernetes.io/managed-by:")
        })
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect()
}

/// The program helm, of the version above.
pub(crate) struct Helm(PathBuf);

impl Helm {
    /// Finds or installs it.
    fn find() -> anyhow::Result<Self> {
        let folder = root().join(".toolchain/bin");
        let program = folder.join("helm");
        // Of a version that go installs, helm knows the first two numbers only.
        let (wanted, _) = HELM.rsplit_once('.').context("no version of helm")?;
        let runs = || {
            let version = program
                .to_str()
                .map(|path| output(path, &["version", "--short"]));
            version.is_some_and(|version| version.is_ok_and(|text| text.starts_with(wanted)))
        };
        if !runs() {
            eprintln!("xtask: installing helm {HELM}");
            fs::create_dir_all(&folder)?;
            let install = || {
                command(
                    Command::new("go")
                        .env("GOBIN", &folder)
                        .env("GOTOOLCHAIN", "local")
                        .env("CGO_ENABLED", "0")
                        .args(["install", &format!("helm.sh/helm/v3/cmd/helm@{HELM}")]),
                )
            };
            // It fetches some hundred modules, and goes on with those that it has.
            install()
                .or_else(|_| install())
                .or_else(|_| install())
                .context("cannot install helm, which takes Go")?;
        }
        Ok(Self(program))
    }

    /// helm's own check, with the chart's values and with those of its tests.
    fn lint(&self) -> anyhow::Result<()> {
        let mut lint = self.command();
        lint.args(["lint", "--strict", "--quiet"]).arg(chart());
        command(&mut lint)?;
        for values in test_values()? {
            let mut lint = self.command();
            lint.args(["lint", "--strict", "--quiet", "--values"])
                .arg(values)
                .arg(chart());
            command(&mut lint)?;
        }
        Ok(())
    }

    /// The objects with these options of `helm template`.
    ///
    /// # Errors
    ///
    /// What helm says against it.
    pub(crate) fn render(&self, options: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command()
            .args(["template", RELEASE])
            .arg(chart())
            .args(["--namespace", RELEASE])
            .args(options)
            .output()
            .context("cannot run helm")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Not with the settings of who runs it.
    fn command(&self) -> Command {
        let mut helm = Command::new(&self.0);
        helm.current_dir(root())
            .env("KUBECONFIG", "/dev/null")
            .env_remove("HELM_NAMESPACE");
        helm
    }
}

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    root().join("deploy/helm/observer")
}

/// Files of values that the chart is tried with.
pub(crate) fn test_values() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(chart().join("ci"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|path| path.extension() == Some(Path::new("yaml").as_os_str()));
    files.sort();
    ensure!(
        !files.is_empty(),
        "the chart has no values to be tried with"
    );
    Ok(files)
}
