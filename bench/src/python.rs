//! A real client: the openai SDK for Python against a local provider, watched by the agent and by other
//! tools.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use observer_e2e::clients;

use crate::{
    Effort,
    process::{Agent, Bpftrace, Dialogue, OTHERS, TARGET, pinned, program},
    report::{Report, Times},
};

/// What is installed from PyPI: the client, what instruments it from inside, and the proxy, whose
/// dependencies are its own.
pub(crate) const PACKAGES: [&str; 5] = [
    "openai==3.54.0",
    "infinium-o2==1.2.0",
    "opentelemetry-instrumentation-openai==0.62.4",
    "opentelemetry-sdk==1.45.2",
    "mitmproxy==11.0.2",
];

const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// A program that ends with this one.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a mode's rounds gave.
struct Mode {
    name: &'static str,
    /// Its place among the clients.
    client: usize,
    tool: Tool,
    /// The most that observer may take of its latency.
    goal: Option<f64>,
    latency: Times,
    cpu: Times,
    absent: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    None,
    Observer,
    Bpftrace,
}

pub(crate) fn run(report: &mut Report, effort: &Effort, folder: &Path) -> anyhow::Result<()> {
    let url_file = folder.join("url");
    let _ = fs::remove_file(&url_file);
    let _provider = Running(
        pinned(OTHERS, program("observer-provider")?)
            .arg(folder)
            .arg("--url-file")
            .arg(&url_file)
            .stdout(Stdio::null())
            .spawn()?,
    );
    let mut url = String::new();
    for _ in 0..200 {
        url = fs::read_to_string(&url_file).unwrap_or_default();
        if !url.is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(!url.is_empty(), "the provider does not start");
    // One environment: what is compared has the same client.
    let [client, peers @ .., proxy] = PACKAGES;
    let all = requirements(&[&[client], &peers[..]].concat());
    let (python, no_peers) = match clients::environment("bench", &all) {
        Ok(python) => (python, None),
        Err(error) => {
            let alone = clients::environment("bench-alone", &requirements(&[client]))?;
            (alone, Some(format!("{error:#}")))
        }
    };
    let start = |url: &str, ca: &Path, options: &[&str]| -> anyhow::Result<Dialogue> {
        let script = clients::folder()
            .parent()
            .context("no workspace")?
            .join("bench/clients/stream.py");
        let mut command = pinned(TARGET, &python);
        command
            .arg(script)
            .arg(url)
            .args(options)
            .env("SSL_CERT_FILE", ca);
        let client = Dialogue::start(command)?;
        client.expect("round")?;
        Ok(client)
    };
    let ca = folder.join("ca.pem");
    let mut clients = vec![start(&url, &ca, &[])?];
    let mode = |name, tool, goal| Mode {
        name,
        client: 0,
        tool,
        goal,
        latency: Times::default(),
        cpu: Times::default(),
        absent: None,
    };
    let mut modes = vec![
        mode("no agent", Tool::None, None),
        mode("observer", Tool::Observer, None),
        mode("bpftrace capture", Tool::Bpftrace, Some(0.85)),
    ];
    for (name, instrument, goal) in [
        ("infinium-o2 watch()", "infinium", 1.05),
        ("OpenLLMetry", "openllmetry", 0.9),
    ] {
        let started = match &no_peers {
            Some(why) => Err(anyhow::Error::msg(why.clone())),
            None => start(&url, &ca, &["--instrument", instrument]),
        };
        match started {
            Ok(client) => {
                modes.push(Mode {
                    client: clients.len(),
                    ..mode(name, Tool::None, Some(goal))
                });
                clients.push(client);
            }
            Err(error) => report.absent(&format!("python: {name}"), &format!("{error:#}")),
        }
    }
    let proxied = mitmproxy(proxy, &url, folder).and_then(|(proxy, url)| {
        let client = start(&url, &folder.join("mitmproxy-ca-cert.pem"), &[])?;
        Ok((proxy, client))
    });
    let proxy = match proxied {
        Ok((proxy, client)) => {
            modes.push(Mode {
                client: clients.len(),
                ..mode("mitmproxy", Tool::None, Some(0.85))
            });
            clients.push(client);
            Some(proxy)
        }
        Err(error) => {
            report.absent("python: mitmproxy", &format!("{error:#}"));
            None
        }
    };
    let mut agent_events = (0.0, 0);
    // The first round warms everything up.
    for round in 0..=effort.rounds {
        for mode in modes.iter_mut().filter(|mode| mode.absent.is_none()) {
            let client = &mut clients[mode.client];
            let pid = client.pid().to_string();
            let (mut agent, mut bpftrace) = (None, None);
            match mode.tool {
                Tool::None => {}
                Tool::Observer => agent = Some(Agent::watch(folder, &["--pid", &pid])?),
                Tool::Bpftrace => match Bpftrace::start(&capture(&pid), folder) {
                    Ok(standing) => bpftrace = Some(standing),
                    Err(error) => {
                        mode.absent = Some(format!("{error:#}"));
                        continue;
                    }
                },
            }
            let before = agent.as_ref().map(Agent::cpu_s).transpose()?;
            client.go_on()?;
            let result = client.json()?;
            if let (Some(agent), Some(before)) = (&agent, before) {
                agent_events.0 += agent.cpu_s()? - before;
                agent_events.1 += result["events"].as_u64().unwrap_or(0);
            }
            drop((agent, bpftrace));
            if round > 0 {
                let number = |field: &str| result[field].as_f64().unwrap_or(f64::NAN) * 1e3;
                mode.latency.0.push(number("median_s"));
                mode.cpu.0.push(number("cpu_s"));
            }
        }
    }
    modes.retain(|mode| {
        if let Some(why) = &mode.absent {
            report.absent(&format!("python: {}", mode.name), why);
        }
        mode.absent.is_none()
    });
    let (plain, ours) = (&modes[0], &modes[1]);
    report.figure_of(
        "python, 300 events, no think time: no agent",
        plain.latency.best(),
        "ms",
        None,
        &[&plain.latency],
    );
    for mode in &modes[1..] {
        let goal = (mode.tool == Tool::Observer).then_some(1.05);
        report.ratio(
            &format!("python, latency: {} / no agent", mode.name),
            &mode.latency,
            &plain.latency,
            goal,
        );
        report.ratio(
            &format!("python, client's CPU: {} / no agent", mode.name),
            &mode.cpu,
            &plain.cpu,
            None,
        );
    }
    for mode in &modes[2..] {
        report.ratio(
            &format!("python, latency: observer / {}", mode.name),
            &ours.latency,
            &mode.latency,
            mode.goal,
        );
    }
    report.figure(
        "python: agent CPU for an event of the stream",
        agent_events.0 * 1e6 / agent_events.1.max(1) as f64,
        "us",
        Some(1.0),
    );
    drop(clients);
    drop(proxy);
    // A model that takes its time: the client waits.
    let behaviour = "events=50; delay-ms=20; token-ms=20";
    let mut client = start(&url, &ca, &["--calls", "1", "--behaviour", behaviour])?;
    let pid = client.pid().to_string();
    let (mut plain, mut ours) = (Times::default(), Times::default());
    for round in 0..=2 * effort.rounds {
        let agent = match round % 2 {
            0 => None,
            _ => Some(Agent::watch(folder, &["--pid", &pid])?),
        };
        client.go_on()?;
        let seconds = client.json()?["median_s"].as_f64().unwrap_or(f64::NAN);
        let times = if agent.is_some() {
            &mut ours
        } else {
            &mut plain
        };
        times.0.push(seconds * 1e3);
    }
    report.ratio(
        "python, 20 ms an event, latency: observer / no agent",
        &ours,
        &plain,
        Some(1.02),
    );
    Ok(())
}

/// The lines of a requirements file.
fn requirements(packages: &[&str]) -> String {
    packages
        .iter()
        .map(|package| format!("{package}\n"))
        .collect()
}

/// What people write to see the plaintext with bpftrace.
fn capture(pid: &str) -> String {
    format!(
        "uprobe:{LIBSSL}:SSL_read_ex,uprobe:{LIBSSL}:SSL_read /pid == {pid}/ {{ @[tid] = arg1; }} uretprobe:{LIBSSL}:SSL_read_ex,uretprobe:{LIBSSL}:SSL_read /pid == {pid}/ {{ printf(\"%r\\n\", buf(@[tid], 200)); }} uprobe:{LIBSSL}:SSL_write_ex,uprobe:{LIBSSL}:SSL_write /pid == {pid}/ {{ printf(\"%r\\n\", buf(arg1, 200)); }}"
    )
}

/// A reverse proxy between the client and the provider, TLS on both sides.
fn mitmproxy(package: &str, url: &str, folder: &Path) -> anyhow::Result<(Running, String)> {
    let python = clients::environment("mitmproxy", &requirements(&[package]))?;
    let program: PathBuf = python.with_file_name("mitmdump");
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let proxy = Running(
        pinned(OTHERS, program)
            .args([
                "--mode",
                &format!("reverse:{url}"),
                "--listen-host",
                "127.0.0.1",
            ])
            .args([
                "--listen-port",
                &port.to_string(),
                "--quiet",
                "--ssl-insecure",
            ])
            .args(["--set", "stream_large_bodies=1", "--set"])
            .arg(format!("confdir={}", folder.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    for _ in 0..500 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((proxy, format!("https://localhost:{port}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("it does not listen")
}
