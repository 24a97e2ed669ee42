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

/// The client, and what instruments it from inside.
const CLIENT: &str = "openai==3.54.0\ninfinium-o2==1.2.0\nopentelemetry-instrumentation-openai==0.62.4\nopentelemetry-sdk==1.45.2\n";
const MITMPROXY: &str = "mitmproxy==11.0.2\n";

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
#[derive(Default)]
struct Mode {
    name: &'static str,
    client: usize,
    tool: Tool,
    latency: Times,
    cpu: Times,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Tool {
    #[default]
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
    let python = clients::environment("bench", CLIENT)?;
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
    let mut clients = vec![
        start(&url, &ca, &[])?,
        start(&url, &ca, &["--instrument", "infinium"])?,
        start(&url, &ca, &["--instrument", "openllmetry"])?,
    ];
    let mode = |name, client, tool| Mode {
        name,
        client,
        tool,
        ..Mode::default()
    };
    let mut modes = vec![
        mode("no agent", 0, Tool::None),
        mode("observer", 0, Tool::Observer),
        mode("infinium-o2 watch()", 1, Tool::None),
        mode("OpenLLMetry", 2, Tool::None),
        mode("bpftrace capture", 0, Tool::Bpftrace),
    ];
    let proxy = mitmproxy(&url, folder);
    match &proxy {
        Ok((_, proxied)) => {
            clients.push(start(proxied, &folder.join("mitmproxy-ca-cert.pem"), &[])?);
            modes.push(mode("mitmproxy", 3, Tool::None));
        }
        Err(error) => report.absent("python: mitmproxy", &format!("{error:#}")),
    }
    let mut agent_events = (0.0, 0);
    // The first round warms everything up.
    for round in 0..=effort.rounds {
        for mode in &mut modes {
            let client = &mut clients[mode.client];
            let pid = client.pid().to_string();
            let agent = match mode.tool {
                Tool::Observer => Some(Agent::watch(folder, &["--pid", &pid])?),
                _ => None,
            };
            let bpftrace = match mode.tool {
                Tool::Bpftrace => match Bpftrace::start(&capture(&pid), folder) {
                    Ok(bpftrace) => Some(bpftrace),
                    Err(_) => continue,
                },
                _ => None,
            };
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
    let plain = modes[0].latency.clone();
    let plain_cpu = modes[0].cpu.clone();
    let ours = modes[1].latency.clone();
    report.figure(
        "python, 300 events, no think time: no agent",
        plain.best(),
        "ms",
        None,
    );
    for mode in &modes[1..] {
        if mode.latency.0.is_empty() {
            report.absent(&format!("python: {}", mode.name), "it does not run here");
            continue;
        }
        let goal = (mode.tool == Tool::Observer).then_some(1.05);
        report.ratio(
            &format!("python, latency: {} / no agent", mode.name),
            &mode.latency,
            &plain,
            goal,
        );
        report.ratio(
            &format!("python, client's CPU: {} / no agent", mode.name),
            &mode.cpu,
            &plain_cpu,
            None,
        );
    }
    for (index, goal) in [(2, 1.05), (3, 1.0), (4, 1.0), (5, 1.0)] {
        if let Some(mode) = modes.get(index).filter(|mode| !mode.latency.0.is_empty()) {
            report.ratio(
                &format!("python, latency: observer / {}", mode.name),
                &ours,
                &mode.latency,
                Some(goal),
            );
        }
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

/// What people write to see the plaintext with bpftrace.
fn capture(pid: &str) -> String {
    format!(
        "uprobe:{LIBSSL}:SSL_read_ex,uprobe:{LIBSSL}:SSL_read /pid == {pid}/ {{ @[tid] = arg1; }} uretprobe:{LIBSSL}:SSL_read_ex,uretprobe:{LIBSSL}:SSL_read /pid == {pid}/ {{ printf(\"%r\\n\", buf(@[tid], 200)); }} uprobe:{LIBSSL}:SSL_write_ex,uprobe:{LIBSSL}:SSL_write /pid == {pid}/ {{ printf(\"%r\\n\", buf(arg1, 200)); }}"
    )
}

/// A reverse proxy between the client and the provider, TLS on both sides.
fn mitmproxy(url: &str, folder: &Path) -> anyhow::Result<(Running, String)> {
    let python = clients::environment("mitmproxy", MITMPROXY)?;
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
