//! Pods, without a cluster: real cgroups with the names that a kubelet gives them, and a kubelet that knows of their
//! pods. `cargo xtask test --kubernetes` has all of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use observer_e2e::{
    golang::Build,
    harness::{Run, Scene, wait_until},
};
use serde_json::{Value, json};

/// A program without a dynamic linker.
const STATIC: Build = Build {
    cgo: false,
    ..Build::with("http", "local", &["-trimpath", "-ldflags=-s -w"])
};

const TOKEN: &str = "a-token-of-this-test";

/// The cgroup of a container; gone when this is dropped.
struct Container {
    folder: PathBuf,
    pod_uid: String,
    id: String,
}

impl Container {
    fn new() -> Self {
        let hex = |length: usize| -> String {
            let digits = std::iter::repeat_with(|| format!("{:x}", fastrand::u8(..16)));
            digits.take(length).collect()
        };
        let pod_uid = [8, 4, 4, 4, 12].map(hex).join("-");
        let id = hex(64);
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.exists() {
            unified
        } else {
            Path::new("/sys/fs/cgroup")
        };
        // Apart from those of a kubelet of this machine.
        let folder = root.join(format!(
            "observer-e2e/kubepods/besteffort/pod{pod_uid}/{id}"
        ));
        fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            pod_uid,
            id,
        }
    }

    /// A command that is run in it. As with a container's runtime, the process is there before its program is.
    fn command(&self, command: &[OsString]) -> Vec<OsString> {
        let enter = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        let mut words: Vec<OsString> = vec!["sh".into(), "-c".into(), enter.into()];
        words.push(self.folder.clone().into());
        words.extend_from_slice(command);
        words
    }

    /// What the kubelet says of the pod.
    fn pod(&self, namespace: &str, labels: &Value) -> Value {
        json!({
            "metadata": {"namespace": namespace, "name": "web-6d4c-x1", "uid": self.pod_uid, "labels": labels,
                         "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4c",
                                              "uid": "u", "controller": true}]},
            "spec": {"nodeName": "node1", "containers": [{"name": "app", "image": "web:1.2"}]},
            "status": {},
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
        let _ = self.folder.parent().map(fs::remove_dir);
    }
}

/// Answers `GET /pods` as a kubelet does, to whoever has the token.
struct Kubelet {
    url: String,
    pods: Arc<Mutex<Vec<Value>>>,
}

impl Kubelet {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pods: Arc<Mutex<Vec<Value>>> = Arc::default();
        let known = Arc::clone(&pods);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let asked = head
                    .first()
                    .is_some_and(|line| line.starts_with("GET /pods "));
                let token = format!("authorization: Bearer {TOKEN}");
                let knows = head.iter().any(|line| line.eq_ignore_ascii_case(&token));
                let (status, body) = match (asked, knows) {
                    (true, true) => {
                        let items = known.lock().unwrap().clone();
                        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
                        ("200 OK", list.to_string())
                    }
                    (true, false) => ("401 Unauthorized", String::new()),
                    (false, _) => ("404 Not Found", String::new()),
                };
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            }
        });
        Self { url, pods }
    }

    fn knows(&self, pod: Value) {
        self.pods.lock().unwrap().push(pod);
    }
}

/// Options that ask this kubelet.
fn asking<'a>(kubelet: &'a Kubelet, token: &'a Path) -> Vec<&'a str> {
    fs::write(token, TOKEN).unwrap();
    vec![
        "--all",
        "--kubernetes-metadata",
        "kubelet",
        "--kubernetes-kubelet",
        &kubelet.url,
        "--kubernetes-token-file",
        token.to_str().unwrap(),
    ]
}

fn client(scene: &Scene, arguments: &[&str]) -> Vec<OsString> {
    let program = STATIC.program().unwrap();
    let mut words: Vec<OsString> = vec![program.into(), "-url".into(), scene.provider.url().into()];
    words.extend(arguments.iter().map(OsString::from));
    words
}

/// The records of calls of this scene: other tests are watched, too.
fn of_scene<'a>(scene: &Scene, run: &'a Run) -> Vec<&'a Value> {
    let truth = scene.provider.truth();
    let is_of = |call: &&Value| {
        let mut truth = truth.iter();
        truth.any(|truth| truth["request_id"] == call["request_id"])
    };
    run.calls.iter().filter(is_of).collect()
}

/// Makes calls until one of them is recorded: the first may be over before the program's file has been looked through.
/// Returns how many there were.
fn warm_up(scene: &Scene, command: &[OsString]) -> usize {
    let output = scene.folder.path().join("watched.jsonl");
    let mut calls = scene.provider.truth().len();
    let before = calls;
    wait_until("a call of a program that nobody knew", || {
        assert!(scene.start(command).wait().0.success());
        calls += 1;
        scene.provider.wait_for(calls);
        fs::read_to_string(&output).is_ok_and(|text| {
            let mut truth = scene.provider.truth().into_iter();
            truth.any(|truth| text.contains(truth["request_id"].as_str().unwrap()))
        })
    });
    calls - before
}

#[test]
fn calls_say_which_pod_they_are_of() {
    let scene = Scene::with_seed(fastrand::u64(..));
    let (known, unknown) = (Container::new(), Container::new());
    let kubelet = Kubelet::start();
    kubelet.knows(known.pod("shop", &json!({"pod-template-hash": "6d4c", "team": "a"})));
    let token = scene.folder.path().join("token");
    let mut options = asking(&kubelet, &token);
    options.extend([
        "--kubernetes-cluster",
        "test",
        "--kubernetes-pod-label",
        "team,missing",
    ]);
    let observer = scene.watch(&options);
    // A process of an instant: nothing is left of it when its call is recorded.
    let once = client(&scene, &[]);
    let before = warm_up(&scene, &once);
    assert!(scene.start(&known.command(&once)).wait().0.success());
    assert!(scene.start(&unknown.command(&once)).wait().0.success());
    assert!(scene.start(&once).wait().0.success());
    let of_pods = scene.provider.wait_for(before + 3).split_off(before);
    let run = observer.stop();
    assert!(run.status.success(), "{}", run.stderr);
    let calls = of_scene(&scene, &run);
    let of = |number: usize| {
        let id = &of_pods[number]["request_id"];
        let found: Vec<&&Value> = calls
            .iter()
            .filter(|call| call["request_id"] == *id)
            .collect();
        assert_eq!(found.len(), 1, "{}", run.stderr);
        *found[0]
    };
    assert_eq!(of(0)["container_id"], known.id.as_str());
    let expected = json!({
        "pod_uid": known.pod_uid, "namespace": "shop", "pod": "web-6d4c-x1", "container": "app", "image": "web:1.2",
        "node": "node1", "cluster": "test", "workload_kind": "deployment", "workload": "web", "service": "web",
        "labels": {"team": "a"},
    });
    assert_eq!(of(0)["kubernetes"], expected);
    // What nobody knows is recorded all the same.
    assert_eq!(of(1)["container_id"], unknown.id.as_str());
    assert_eq!(of(1)["kubernetes"]["pod_uid"], unknown.pod_uid.as_str());
    assert_eq!(of(1)["kubernetes"]["namespace"], Value::Null);
    assert_eq!(of(2)["kubernetes"], Value::Null);
    let of_pod = |trace: &&Value| trace["kubernetes"] == expected;
    assert_eq!(run.traces.iter().filter(of_pod).count(), 1);
}

#[test]
fn what_is_not_selected_is_not_captured() {
    const CALLS: usize = 50;
    let scene = Scene::with_seed(fastrand::u64(..));
    let [shop, finance, marked, unknown] = [(); 4].map(|()| Container::new());
    let kubelet = Kubelet::start();
    kubelet.knows(shop.pod("shop", &json!({})));
    kubelet.knows(finance.pod("finance", &json!({})));
    kubelet.knows(marked.pod("shop", &json!({"observe": "no"})));
    let token = scene.folder.path().join("token");
    let mut options = asking(&kubelet, &token);
    options.extend([
        "--kubernetes-namespace",
        "sh*",
        "--kubernetes-pod-selector",
        "observe!=no",
    ]);
    let count = CALLS.to_string();
    let many = client(&scene, &["-count", &count, "-wait-between"]);
    // One of the others is there before the agent is.
    let mut before = scene.start(&finance.command(&many));
    scene.provider.wait_for(1);
    let observer = scene.watch(&options);
    let once = client(&scene, &[]);
    let mut others = Vec::new();
    for other in [&marked, &unknown] {
        others.push(scene.start(&other.command(&many)));
    }
    others.push(scene.start(&many));
    scene.provider.wait_for(4);
    let of_shop = warm_up(&scene, &shop.command(&once));
    for _ in 1..CALLS {
        before.go_on();
        others.iter_mut().for_each(|other| other.go_on());
    }
    for other in others.into_iter().chain([before]) {
        assert!(other.wait().0.success());
    }
    let run = observer.stop();
    assert!(run.status.success(), "{}", run.stderr);
    assert!(!of_scene(&scene, &run).is_empty());
    // Nothing of other tests is there either.
    for call in &run.calls {
        assert_eq!(call["kubernetes"]["pod_uid"], shop.pod_uid.as_str());
        assert_eq!(call["kubernetes"]["namespace"], "shop");
    }
    // Of the others what came before it was known whose it is, of the pod that nobody knows what came in 10 seconds.
    let truth = scene.provider.truth();
    assert_eq!(truth.len(), 4 * CALLS + of_shop);
    assert!(run.stderr.contains("not handed on"), "{}", run.stderr);
    let (bytes, ..) = run.captured();
    let all_of_unknown = 2_000 * (CALLS + of_shop + 10) as u64;
    assert!(bytes < all_of_unknown, "{bytes} bytes");
}

#[test]
fn outside_pods_nothing_is_captured_if_pods_are_wanted_only() {
    let scene = Scene::with_seed(fastrand::u64(..));
    let pod = Container::new();
    let observer = scene.watch(&["--all", "--kubernetes-pods-only"]);
    let once = client(&scene, &[]);
    for _ in 0..5 {
        assert!(scene.start(&once).wait().0.success());
    }
    warm_up(&scene, &pod.command(&once));
    assert!(scene.start(&once).wait().0.success());
    let run = observer.stop();
    assert!(run.status.success(), "{}", run.stderr);
    assert!(!of_scene(&scene, &run).is_empty());
    for call in &run.calls {
        assert!(!call["kubernetes"].is_null(), "{call:#}");
    }
}
