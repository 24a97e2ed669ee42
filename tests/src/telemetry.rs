//! Real receivers of OTLP, built from the Go module proxy, and an HTTP server that notes what comes and answers as it
//! is told.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;

use crate::{
    clients,
    commands::{fetch, run},
    harness::wait_until,
    lock,
};

/// The builder of the collector and the modules in `ocb.yaml` are of one version.
const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder@v0.165.0";

/// Jaeger in one program; its version is in `go.mod`.
const JAEGER: &str = "github.com/jaegertracing/jaeger/cmd/all-in-one";

/// All of Jaeger's addresses: by default it listens on every interface.
const JAEGER_ADDRESSES: [&str; 11] = [
    "query.http-server.host-port",
    "collector.otlp.grpc.host-port",
    "collector.otlp.http.host-port",
    "query.grpc-server.host-port",
    "admin.http.host-port",
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "processor.jaeger-compact.server-host-port",
    "processor.jaeger-binary.server-host-port",
    "processor.zipkin-compact.server-host-port",
    "http-server.host-port",
];

/// The program of the OpenTelemetry Collector; built when it is first asked for.
///
/// # Errors
///
/// There is no Go, or it cannot be built.
pub fn collector() -> anyhow::Result<PathBuf> {
    let list = folder("collector").join("ocb.yaml");
    let text = fs::read_to_string(&list)?;
    let folder = clients::listed("otelcol", &text, |folder| {
        fs::create_dir_all(folder)?;
        let config = folder.join("ocb.yaml");
        fs::write(&config, &text)?;
        let builder = || {
            let mut go = go();
            go.current_dir(folder)
                .args(["run", BUILDER, "--config"])
                .arg(&config);
            go
        };
        fetch(builder().arg("--skip-compilation"))
            .context("cannot get what the collector is built of")?;
        run(&mut builder()).context("cannot build the collector")
    })?;
    Ok(folder.join("out/otelcol"))
}

/// The program of Jaeger; built when it is first asked for.
///
/// # Errors
///
/// There is no Go, or it cannot be built.
pub fn jaeger() -> anyhow::Result<PathBuf> {
    let module = folder("jaeger");
    let text = fs::read_to_string(module.join("go.mod"))?;
    let folder = clients::listed("jaeger", &text, |folder| {
        fs::create_dir_all(folder)?;
        fetch(go().current_dir(&module).args(["list", "-deps", JAEGER]))
            .context("cannot get what Jaeger is built of")?;
        let mut build = go();
        build
            .current_dir(&module)
            .args(["build", "-o"])
            .args([&folder.join("jaeger"), Path::new(JAEGER)]);
        run(&mut build).context("cannot build Jaeger")
    })?;
    Ok(folder.join("jaeger"))
}

fn folder(name: &str) -> PathBuf {
    clients::folder().join("back_ends").join(name)
}

fn go() -> Command {
    let mut go = Command::new("go");
    go.env("GOFLAGS", "-buildvcs=false")
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local");
    go
}

/// A running back end; ends with the test.
pub struct BackEnd {
    child: Child,
    log: PathBuf,
}

impl BackEnd {
    /// Starts the collector, which hands on to `next` as JSON. The ports are those of gRPC and HTTP; with files of
    /// certificates it asks clients for theirs.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn collector(
        folder: &Path,
        [grpc, http]: [u16; 2],
        next: &Endpoint,
        certificates: Option<&Certificates>,
    ) -> Self {
        let tls = certificates.map_or(String::new(), |files| {
            format!(
                ", tls: {{cert_file: {:?}, key_file: {:?}, client_ca_file: {:?}}}",
                files.server, files.server_key, files.ca
            )
        });
        let config = folder.join("collector.yaml");
        let exporters = "exporters: [debug, otlp_http]";
        let text = format!(
            "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: \"127.0.0.1:{grpc}\"{tls}}}
      http: {{endpoint: \"127.0.0.1:{http}\"{tls}}}
exporters:
  debug: {{verbosity: detailed}}
  otlp_http:
    endpoint: {:?}
    encoding: json
    compression: none
    sending_queue: {{enabled: false}}
    retry_on_failure: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], {exporters}}}
    metrics: {{receivers: [otlp], {exporters}}}
",
            next.url()
        );
        fs::write(&config, text).expect("a file");
        let program = collector().unwrap_or_else(|error| panic!("{error:#}"));
        let mut command = Command::new(program);
        command.arg("--config").arg(&config);
        Self::start(command, folder.join("collector.log"), &[grpc, http])
    }

    /// Starts Jaeger, and returns the ports of its API and of OTLP over gRPC and HTTP.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn jaeger(folder: &Path) -> (Self, [u16; 3]) {
        let ports = free_ports::<11>();
        let mut command = Command::new(jaeger().unwrap_or_else(|error| panic!("{error:#}")));
        for (name, port) in JAEGER_ADDRESSES.iter().zip(ports) {
            command.arg(format!("--{name}=127.0.0.1:{port}"));
        }
        let [api, grpc, http, ..] = ports;
        let log = folder.join("jaeger.log");
        let back_end = Self::start(command, log, &[api, grpc, http]);
        (back_end, [api, grpc, http])
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn start(mut command: Command, log: PathBuf, ports: &[u16]) -> Self {
        let file = File::create(&log).expect("a file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut back_end = Self { child, log };
        wait_until("the back end listens", || {
            assert!(
                matches!(back_end.child.try_wait(), Ok(None)),
                "{}",
                back_end.log()
            );
            let listens = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
            ports.iter().all(listens)
        });
        back_end
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports of this machine that nobody listens on.
///
/// # Panics
///
/// There are none.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// Files of an authority, of a server for 127.0.0.1 and localhost, and of a client.
pub struct Certificates {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// The client's certificate.
    pub client: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    ///
    /// The files cannot be written.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "telemetry test authority");
        let ca = folder.join("telemetry-ca.pem");
        fs::write(&ca, params.self_signed(&ca_key)?.pem())?;
        let issuer = Issuer::new(params, ca_key);
        let make = |name: &str, usage| -> anyhow::Result<(PathBuf, PathBuf)> {
            let key = KeyPair::generate()?;
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let files = (
                folder.join(format!("{name}.pem")),
                folder.join(format!("{name}.key")),
            );
            fs::write(&files.0, params.signed_by(&key, &issuer)?.pem())?;
            fs::write(&files.1, key.serialize_pem())?;
            Ok(files)
        };
        let (server, server_key) = make("server", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client, client_key) = make("client", ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self {
            ca,
            server,
            server_key,
            client,
            client_key,
        })
    }
}

/// A request that an [`Endpoint`] has taken.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its target.
    pub path: String,
    /// Its fields, by names in small letters.
    pub headers: BTreeMap<String, String>,
    /// Its body as it came.
    pub body: Vec<u8>,
    /// When it had come.
    pub at: Instant,
}

/// How an [`Endpoint`] answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Such as `503 Service Unavailable`.
    pub status: &'static str,
    /// Lines of the head, each with its end.
    pub fields: &'static str,
    /// The body.
    pub body: &'static [u8],
}

/// A server of HTTP/1.1 that takes everything; listens until the tests end.
#[derive(Clone)]
pub struct Endpoint {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    answers: VecDeque<Answer>,
}

impl Endpoint {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// There is no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    // A connection that is closed is its end.
                    let _ = serve(stream, &shared);
                });
            }
        });
        Self { port, state }
    }

    /// Its URL, without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Has the next request that is not answered otherwise be answered so. Without it the answer is 200.
    pub fn answer(&self, answer: Answer) {
        self.state().answers.push_back(answer);
    }

    /// What has come.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// What has come to a path as JSON.
    pub fn documents(&self, path: &str) -> Vec<Value> {
        let requests = self.requests();
        let of_path = requests.iter().filter(|request| request.path == path);
        of_path
            .filter_map(|request| serde_json::from_slice(&request.body).ok())
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let request = loop {
            if let Some((request, length)) = parsed(&bytes)? {
                bytes.drain(..length);
                break request;
            }
            let mut part = [0; 65_536];
            let length = stream.read(&mut part)?;
            ensure!(length > 0, "closed");
            bytes.extend_from_slice(&part[..length]);
        };
        let kind = request.headers.get("content-type").cloned();
        let answer = {
            let mut state = lock(state);
            state.requests.push(request);
            state.answers.pop_front()
        };
        let json = kind.as_deref() == Some("application/json");
        let answer = answer.unwrap_or(Answer {
            status: "200 OK",
            fields: "",
            body: if json { b"{}" } else { b"" },
        });
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{}\r\n",
            answer.status,
            kind.unwrap_or_default(),
            answer.body.len(),
            answer.fields
        );
        stream.write_all(&[head.as_bytes(), answer.body].concat())?;
    }
}

/// A request with its length, once it is there as a whole.
fn parsed(bytes: &[u8]) -> anyhow::Result<Option<(Request, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(begin) = head.parse(bytes)? else {
        return Ok(None);
    };
    let path = head.path.unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = head
        .headers
        .iter()
        .map(|field| {
            let value = String::from_utf8_lossy(field.value).into_owned();
            (field.name.to_lowercase(), value)
        })
        .collect();
    let length = headers.get("content-length").context("no length")?;
    let end = begin + length.parse::<usize>()?;
    let Some(body) = bytes.get(begin..end) else {
        return Ok(None);
    };
    let request = Request {
        path,
        headers,
        body: body.to_vec(),
        at: Instant::now(),
    };
    Ok(Some((request, end)))
}

/// A running Prometheus (Debian's); ends with the test.
pub struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    /// Starts it in `folder` with a configuration (YAML), at a port of this machine. Its log is `prometheus.log` there.
    ///
    /// # Panics
    ///
    /// There is none, or it does not answer.
    pub fn start(folder: &Path, port: u16, config: &str) -> Self {
        let file = folder.join("prometheus.yml");
        fs::write(&file, config).expect("a folder to write to");
        let log = File::create(folder.join("prometheus.log")).expect("a folder to write to");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus, which .ci/run installs");
        let prometheus = Self { child, port };
        wait_until("Prometheus answers", || {
            get(port, "/api/v1/status/buildinfo").is_ok()
        });
        prometheus
    }

    /// The series that a query has now.
    ///
    /// # Panics
    ///
    /// It has no answer.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let page = format!("/api/v1/query?query={encoded}");
        let answer = get(self.port, &page).unwrap_or_else(|error| panic!("{query}: {error:#}"));
        let series = answer["data"]["result"].as_array();
        series
            .unwrap_or_else(|| panic!("{query}: {answer}"))
            .clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The JSON at a URL of this machine.
///
/// # Errors
///
/// There is none.
pub fn get(port: u16, path: &str) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.contains(" 200 "), "{head}");
    Ok(serde_json::from_str(body)?)
}
