//! A Kubernetes cluster of one node on this machine: etcd, the API server, the controllers, the scheduler, containerd
//! and the kubelet as plain processes in a network namespace of their own, with neither a registry nor DNS nor
//! kube-proxy.
//!
//! The thread that starts a cluster is in its network from then on, and so is what it starts: servers of tests are
//! reached by pods at [`NODE_ADDRESS`], see [`Cluster::forward`].

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Write as _, copy},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    clients,
    commands::{fetch, run},
};

/// The node's address: the bridge that pods hang on.
pub const NODE_ADDRESS: &str = "10.244.0.1";

/// The node's name.
pub const NODE: &str = "node1";

/// The port of the kubelet.
pub const KUBELET_PORT: u16 = 10250;

/// What must be installed, and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("etcd", "etcd-server"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
];

const PLUGINS: &str = "/usr/lib/cni";
const POD_ADDRESSES: &str = "10.244.0.0/24";
const SERVICE_ADDRESSES: &str = "10.245.0.0/24";
/// The first of [`SERVICE_ADDRESSES`], which is that of the API server: it listens there itself, as nothing translates
/// addresses of services.
const API_ADDRESS: &str = "10.245.0.1";
const LOGS: &str = "/var/log/containers";
const RESULTS: &str = "/var/lib/cni/results";
const NETWORK: &str = "observer-e2e";
const BRIDGE: &str = "observer0";

/// What containerd starts for each pod.
const SHIM: &str = "containerd-shim-runc-v2";

/// How long a part may take to come up.
const PATIENCE: Duration = Duration::from_secs(90);

/// The version of every component.
const VERSION: &str = "v1.34.4";

/// The version of Helm.
const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";

/// The one program that is every component of Kubernetes; built when it is first asked for, which takes five minutes.
///
/// # Errors
///
/// There is no Go, or it cannot be built.
pub fn hyperkube() -> anyhow::Result<PathBuf> {
    let module = folder().join("hyperkube");
    let mut input = VERSION.to_owned();
    for file in ["go.mod", "main.go"] {
        input.push_str(&fs::read_to_string(module.join(file))?);
    }
    let folder = clients::prepared("hyperkube", &input, |folder| {
        eprintln!("building Kubernetes {VERSION} (once, some minutes)");
        fs::create_dir_all(folder)?;
        fetch(go().current_dir(&module).args(["mod", "download"]))
            .context("cannot get what Kubernetes is built of")?;
        // What it says of itself is what nodes and clients are compared with.
        let (major, minor) = ("1", VERSION.split('.').nth(1).unwrap_or_default());
        let flags = format!(
            "-s -w -X k8s.io/component-base/version.gitVersion={VERSION} \
             -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor} \
             -X k8s.io/client-go/pkg/version.gitVersion={VERSION}"
        );
        run(go()
            .current_dir(&module)
            .args(["build", "-trimpath", "-tags", "providerless", "-ldflags"])
            .arg(flags)
            .arg("-o")
            .arg(folder.join("hyperkube"))
            .arg("."))
        .context("cannot build Kubernetes")
    })?;
    Ok(folder.join("hyperkube"))
}

/// The program of Helm; built when it is first asked for.
///
/// # Errors
///
/// As [`hyperkube`].
pub fn helm() -> anyhow::Result<PathBuf> {
    let folder = clients::prepared("helm", HELM, |folder| {
        eprintln!("building {HELM} (once)");
        fs::create_dir_all(folder)?;
        run(go().env("GOBIN", folder).args(["install", HELM])).context("cannot build Helm")
    })?;
    Ok(folder.join("helm"))
}

/// The folder of what the tests with a cluster are made of.
pub fn folder() -> PathBuf {
    clients::folder().join("kubernetes")
}

fn go() -> Command {
    // The rest of the machine comes first.
    let mut go = Command::new("nice");
    go.args(["-n", "10", "go"])
        .env("GOFLAGS", "-buildvcs=false")
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local");
    go
}

/// A running cluster. Nothing of it stays when it is dropped; what is left of one that was not dropped is taken away
/// when the next starts.
pub struct Cluster {
    hyperkube: PathBuf,
    helm: PathBuf,
    folder: PathBuf,
    /// In the order of their starts.
    processes: Vec<(&'static str, Child)>,
}

impl Cluster {
    /// Starts a cluster that has these images (archives in the form of Docker, one of them `localhost/pause:1`), and
    /// moves this thread into its network.
    ///
    /// # Errors
    ///
    /// A program is missing, or some part does not come up.
    pub fn start(images: &[PathBuf]) -> anyhow::Result<Self> {
        for (tool, package) in TOOLS {
            let found = Command::new("which").arg(tool).output()?.status.success();
            ensure!(found, "no {tool}: install {package}");
        }
        ensure!(
            Path::new(PLUGINS).join("bridge").exists(),
            "no {PLUGINS}/bridge: install containernetworking-plugins"
        );
        let (hyperkube, helm) = (hyperkube()?, helm()?);
        let folder = clients::target().join("kubernetes");
        sweep(&folder)?;
        let busy = pods_of_others();
        ensure!(
            busy.is_empty(),
            "this machine is a node of another cluster: {busy:?}"
        );
        for sub in ["pki", "cni", "log"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        let known: Vec<String> = pod_networks().into_iter().collect();
        fs::write(folder.join("networks"), known.join("\n"))?;
        let mut cluster = Self {
            hyperkube,
            helm,
            folder,
            processes: Vec::new(),
        };
        cluster.network()?;
        cluster.bring_up(images).map_err(|error| {
            let logs = cluster.logs();
            error.context(logs)
        })?;
        Ok(cluster)
    }

    fn network(&self) -> anyhow::Result<()> {
        let ip = |arguments: &str| run(Command::new("ip").args(arguments.split(' ')));
        ip(&format!("netns add {NETWORK}"))?;
        let network = File::open(Path::new("/run/netns").join(NETWORK))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .context("setns")?;
        let (_, bits) = POD_ADDRESSES.split_once('/').unwrap_or_default();
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("addr add {NODE_ADDRESS}/{bits} dev {BRIDGE}"))?;
        ip(&format!("addr add {API_ADDRESS}/32 dev lo"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        // The kubelet wants one; nothing answers there.
        ip(&format!("route add default dev {BRIDGE}"))
    }

    fn bring_up(&mut self, images: &[PathBuf]) -> anyhow::Result<()> {
        self.certificates()?;
        self.configurations()?;
        let path = |name: &str| self.path(name);
        let hyperkube = self.hyperkube.clone();
        let component = |name: &str, arguments: Vec<String>| {
            let mut command = alive_as_long_as_this(&hyperkube);
            command.arg(name).args(arguments);
            command
        };
        let of = |text: String| -> Vec<String> {
            text.split_whitespace().map(ToOwned::to_owned).collect()
        };

        let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        let mut etcd = alive_as_long_as_this("etcd");
        etcd.args(of(format!(
            "--name n --data-dir {} --unsafe-no-fsync --listen-client-urls {client} --advertise-client-urls {client} \
             --listen-peer-urls {peer} --initial-advertise-peer-urls {peer} --initial-cluster n={peer}",
            path("etcd")
        )));
        let mut containerd = alive_as_long_as_this("containerd");
        containerd.args(["-c", &path("containerd.toml")]);
        let api = component(
            "kube-apiserver",
            of(format!(
                "--etcd-servers={client} --bind-address={API_ADDRESS} --advertise-address={NODE_ADDRESS} \
                 --secure-port=443 --endpoint-reconciler-type=none --tls-cert-file={0}/apiserver.crt \
                 --tls-private-key-file={0}/apiserver.key --client-ca-file={0}/ca.crt \
                 --kubelet-client-certificate={0}/admin.crt --kubelet-client-key={0}/admin.key \
                 --kubelet-certificate-authority={0}/ca.crt --kubelet-preferred-address-types=InternalIP \
                 --service-account-issuer=https://kubernetes.default.svc --service-account-key-file={0}/sa.pub \
                 --service-account-signing-key-file={0}/sa.key --service-cluster-ip-range={SERVICE_ADDRESSES} \
                 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction",
                path("pki")
            )),
        );
        let controllers = component(
            "kube-controller-manager",
            of(format!(
                "--kubeconfig={} --secure-port=0 --leader-elect=false --use-service-account-credentials \
                 --service-account-private-key-file={1}/sa.key --root-ca-file={1}/ca.crt",
                path("controllers.kubeconfig"),
                path("pki")
            )),
        );
        let scheduler = component(
            "kube-scheduler",
            of(format!(
                "--kubeconfig={} --secure-port=0 --leader-elect=false",
                path("scheduler.kubeconfig")
            )),
        );
        let kubelet = component(
            "kubelet",
            of(format!(
                "--config={} --kubeconfig={} --root-dir={} --hostname-override={NODE} --node-ip={NODE_ADDRESS} \
                 --cert-dir={}",
                path("kubelet.yaml"),
                path("kubelet.kubeconfig"),
                path("kubelet"),
                path("pki")
            )),
        );

        self.spawn("etcd", etcd)?;
        self.spawn("containerd", containerd)?;
        until("etcd", || {
            TcpStream::connect("127.0.0.1:2379").map_err(Into::into)
        })?;
        self.spawn("kube-apiserver", api)?;
        let socket = self.folder.join("containerd.sock");
        until("containerd", || self.ctr(&["version"]))?;
        ensure!(socket.exists(), "no {}", socket.display());
        for image in images {
            self.import(image)?;
        }
        until("the API server", || {
            self.kubectl(&["get", "--raw", "/readyz"])
        })?;
        self.spawn("kube-controller-manager", controllers)?;
        self.spawn("kube-scheduler", scheduler)?;
        self.spawn("kubelet", kubelet)?;
        until("the node", || {
            let node = format!("node/{NODE}");
            self.kubectl(&["wait", "--for=condition=Ready", &node, "--timeout=1s"])
        })?;
        until("the default service account", || {
            self.kubectl(&["get", "serviceaccount", "default"])
        })?;
        Ok(())
    }

    /// Adds an image.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        self.ctr(&[
            "images",
            "import",
            archive.to_str().context("a path that is no text")?,
        ])
        .map(drop)
    }

    /// The program by which a cluster is asked and told, with the rights of an administrator.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.hyperkube);
        command.arg("kubectl").env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The standard output of kubectl.
    ///
    /// # Errors
    ///
    /// It fails: with what it wrote to standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.kubectl_command().args(arguments), "")
    }

    /// Applies objects in YAML or JSON.
    ///
    /// # Errors
    ///
    /// The API server refuses them.
    pub fn apply(&self, objects: &str) -> anyhow::Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], objects)
    }

    /// As [`kubectl`](Self::kubectl), with a standard input; returns what it said on both outputs.
    ///
    /// # Errors
    ///
    /// As [`kubectl`](Self::kubectl).
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        output(self.kubectl_command().args(arguments), input)
    }

    /// The standard output of Helm.
    ///
    /// # Errors
    ///
    /// It fails: with what it wrote to standard error.
    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut helm = Command::new(&self.helm);
        // Nothing of the user's.
        let home = self.folder.join("helm");
        helm.args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HELM_CACHE_HOME", &home)
            .env("HELM_CONFIG_HOME", &home)
            .env("HELM_DATA_HOME", &home);
        output(&mut helm, "")
    }

    /// Has pods reach a server at a port of 127.0.0.1 by another port of [`NODE_ADDRESS`].
    ///
    /// # Errors
    ///
    /// The port is taken.
    pub fn forward(port: u16, to: u16) -> anyhow::Result<()> {
        let listener = TcpListener::bind((NODE_ADDRESS, port))
            .with_context(|| format!("port {port} of {NODE_ADDRESS}"))?;
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || {
                    // Whoever goes away first takes the other along.
                    let _ = relay(&client, to);
                });
            }
        });
        Ok(())
    }

    /// The administrator's access.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// The authority's certificate of the API server and the kubelet.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("pki/ca.crt")
    }

    /// The ends of the logs of all components.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (name, _) in &self.processes {
            let log = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            text.push_str(&format!("--- {name}\n{last}\n"));
        }
        text
    }

    fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        ctr(&self.folder, arguments)
    }

    fn spawn(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        let log = File::create(self.log(name))?;
        let child = command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        self.processes.push((name, child));
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("log/{name}.log"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// One authority, by whose certificates all components know each other.
    fn certificates(&self) -> anyhow::Result<()> {
        let pki = self.folder.join("pki");
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "observer test cluster");
        fs::write(pki.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let make = |file: &str, name: &str, group: &str, hosts: &[&str]| -> anyhow::Result<()> {
            let key = KeyPair::generate()?;
            let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
            let mut params = CertificateParams::new(hosts)?;
            let subject = &mut params.distinguished_name;
            subject.push(DnType::CommonName, name);
            if !group.is_empty() {
                subject.push(DnType::OrganizationName, group);
            }
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
            let certificate = params.signed_by(&key, &issuer)?.pem();
            fs::write(pki.join(format!("{file}.crt")), certificate)?;
            fs::write(pki.join(format!("{file}.key")), key.serialize_pem())?;
            Ok(())
        };
        let api = [
            API_ADDRESS,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        make("apiserver", "kube-apiserver", "", &api)?;
        make("admin", "admin", "system:masters", &[])?;
        make("controllers", "system:kube-controller-manager", "", &[])?;
        make("scheduler", "system:kube-scheduler", "", &[])?;
        let node = format!("system:node:{NODE}");
        make("kubelet", &node, "system:nodes", &[NODE_ADDRESS, NODE])?;
        // By which tokens of service accounts are signed.
        let accounts = KeyPair::generate()?;
        fs::write(pki.join("sa.key"), accounts.serialize_pem())?;
        fs::write(pki.join("sa.pub"), accounts.public_key_pem())?;
        for name in ["admin", "controllers", "scheduler", "kubelet"] {
            let pki = self.path("pki");
            let text = format!(
                "apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: 'https://{API_ADDRESS}', certificate-authority: {pki}/ca.crt}}}}]
users: [{{name: u, user: {{client-certificate: {pki}/{name}.crt, client-key: {pki}/{name}.key}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"
            );
            fs::write(self.folder.join(format!("{name}.kubeconfig")), text)?;
        }
        Ok(())
    }

    fn configurations(&self) -> anyhow::Result<()> {
        let folder = self.folder.display();
        // Without the right to raise limits (in a virtual machine or a container) scores of the OOM killer can only be
        // inherited.
        let containerd = format!(
            r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "{folder}/containerd.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{folder}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{folder}/cni"
"#
        );
        fs::write(self.folder.join("containerd.toml"), containerd)?;
        let network = format!(
            r#"{{"cniVersion": "0.4.0", "name": "{NETWORK}", "plugins": [
 {{"type": "bridge", "bridge": "{BRIDGE}", "isGateway": true, "ipMasq": false,
  "ipam": {{"type": "host-local", "dataDir": "{folder}/cni-state", "ranges": [[{{"subnet": "{POD_ADDRESSES}"}}]],
   "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}
"#
        );
        fs::write(self.folder.join("cni/10-bridge.conflist"), network)?;
        // KubeletInUserNamespace lets it live where limits and kernel parameters cannot be set.
        let kubelet = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE_ADDRESS}
port: {KUBELET_PORT}
healthzPort: 0
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {folder}/pki/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {folder}/pki/kubelet.crt
tlsPrivateKeyFile: {folder}/pki/kubelet.key
containerRuntimeEndpoint: unix://{folder}/containerd.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false
evictionHard: {{memory.available: 100Mi}}
featureGates: {{KubeletInUserNamespace: true}}
clusterDomain: cluster.local
resolvConf: ''
podLogsDir: {folder}/pod-logs
makeIPTablesUtilChains: false
registerNode: true
"
        );
        fs::write(self.folder.join("kubelet.yaml"), kubelet)?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The kubelet first, or it would start again what is ended here.
        let kubelet = |(name, _): &mut (&str, Child)| *name == "kubelet";
        for (_, mut child) in self.processes.extract_if(.., kubelet) {
            end(&mut child);
        }
        if let Err(error) = remove_containers(&self.folder) {
            eprintln!("cannot remove containers: {error:#}");
        }
        for (_, child) in self.processes.iter_mut().rev() {
            end(child);
        }
        if let Err(error) = sweep(&self.folder) {
            eprintln!("cannot clean up behind the cluster: {error:#}");
        }
    }
}

/// A command whose process ends with the thread that starts it, however that ends.
pub fn alive_as_long_as_this(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// What a command says on both outputs.
fn output(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    // Whoever reads nothing may be gone already.
    let _ = child
        .stdin
        .take()
        .context("piped")?
        .write_all(input.as_bytes());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output()?;
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(
        status.success(),
        "{:?} failed ({status}): {stderr}{stdout}",
        command.get_args().collect::<Vec<_>>()
    );
    // Warnings of the API server come on standard error.
    let warnings = stderr.lines().filter(|line| line.starts_with("Warning:"));
    let warnings: Vec<String> = warnings.map(|line| format!("{line}\n")).collect();
    Ok(stdout + &warnings.concat())
}

fn relay(client: &TcpStream, to: u16) -> anyhow::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", to))?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        for (mut from, mut to) in [(client, &server), (&server, client)] {
            scope.spawn(move || {
                let _ = copy(&mut from, &mut to);
                // The other direction may have more to say.
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
    Ok(())
}

/// Tries until it succeeds.
fn until<T>(what: &str, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                bail!("{what} did not come up in {PATIENCE:?}: {error:#}")
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// At once: what it would do about its end is removed anyway.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn ctr(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    output(
        Command::new("ctr")
            .arg("--address")
            .arg(folder.join("containerd.sock"))
            .args(["--namespace", "k8s.io"])
            .args(arguments),
        "",
    )
}

/// Ends all containers; containerd removes them then.
fn remove_containers(folder: &Path) -> anyhow::Result<()> {
    kill_containers(&processes_of(folder, &[SHIM]));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_of(folder, &[SHIM]).is_empty() {
        ensure!(Instant::now() < deadline, "containerd does not remove them");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Their processes are children of their shims.
fn kill_containers(shims: &BTreeSet<u32>) {
    for process in processes().filter(|process| shims.contains(&process.parent)) {
        kill(process.pid);
    }
}

fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It may be gone already.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Takes away whatever a cluster with this folder has left, running or not.
fn sweep(folder: &Path) -> anyhow::Result<()> {
    if let Ok(known) = fs::read_to_string(folder.join("networks")) {
        kill_containers(&processes_of(folder, &[SHIM]));
        processes_of(folder, &[SHIM, "containerd", "etcd", "hyperkube"])
            .into_iter()
            .for_each(kill);
        for network in pod_networks() {
            if !known.lines().any(|line| line == network) {
                run(Command::new("ip").args(["netns", "delete", &network]))?;
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut places: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| Path::new(place).starts_with(folder))
        .collect();
    places.sort_unstable();
    for place in places.iter().rev() {
        run(Command::new("umount").args(["--lazy", place]))?;
    }
    if Path::new("/run/netns").join(NETWORK).exists() {
        run(Command::new("ip").args(["netns", "delete", NETWORK]))?;
    }
    for place in groups_of_pods() {
        // Those that are in use stay. Innermost first.
        let _ = Command::new("find")
            .arg(place)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
            .output();
    }
    // Where the kubelet names logs by pods.
    for link in fs::read_dir(LOGS).into_iter().flatten().flatten() {
        if fs::read_link(link.path()).is_ok_and(|to| to.starts_with(folder)) {
            fs::remove_file(link.path())?;
        }
    }
    let _ = fs::remove_dir(LOGS);
    // What plug-ins note of pods that they were not told the end of.
    let results = fs::read_dir(RESULTS).into_iter().flatten().flatten();
    let names: Vec<String> = results
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let pods = names.iter().filter_map(|name| {
        let name = name.strip_prefix(NETWORK)?.strip_prefix('-')?;
        Some(name.split('-').next()?.to_owned())
    });
    for pod in pods.collect::<Vec<_>>() {
        for name in names.iter().filter(|name| name.contains(&pod)) {
            let _ = fs::remove_file(Path::new(RESULTS).join(name));
        }
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

/// The network namespaces that containerd has made for pods.
fn pod_networks() -> BTreeSet<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("cni-"))
        .collect()
}

struct Process {
    pid: u32,
    parent: u32,
    /// Words of the command line.
    words: Vec<String>,
}

fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name, in parentheses, may be anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        Some(Process {
            pid,
            parent: fields.split(' ').nth(1)?.parse().ok()?,
            words: String::from_utf8_lossy(&words)
                .split('\0')
                .map(ToOwned::to_owned)
                .collect(),
        })
    })
}

/// The processes of such programs that are told of files in this folder.
fn processes_of(folder: &Path, programs: &[&str]) -> BTreeSet<u32> {
    let folder = format!("{}/", folder.display());
    processes()
        .filter(|process| {
            let program = Path::new(&process.words[0]).file_name();
            program.is_some_and(|name| programs.iter().any(|known| name == *known))
                && process.words.iter().any(|word| word.contains(&folder))
        })
        .map(|process| process.pid)
        .collect()
}

/// The control groups of pods, of each version.
fn groups_of_pods() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join("kubepods"))
        .chain([root.join("kubepods"), root.join("kubepods.slice")])
        .filter(|path| path.is_dir())
        .collect()
}

/// Processes in pods.
fn pods_of_others() -> Vec<u32> {
    let in_pod = |process: &Process| {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
        groups.is_ok_and(|groups| groups.contains("kubepods"))
    };
    processes()
        .filter(in_pod)
        .map(|process| process.pid)
        .collect()
}
