use std::{
    fs,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use tokio::{net::TcpListener, runtime};

use super::*;
use crate::trace::record::tests::call;

const ID: &str = "4c01db0b339c6f4f5b3a4e3f6e6ce4b9c1a3f0f3b1a2c3d4e5f60718293a4b5c";
const UID: &str = "0f5e3a52-7c0f-4f2e-9a57-2f0a3d1c9b11";

/// What the kubelet answers: nothing is an error.
#[derive(Clone, Default)]
struct Kubelet {
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicU32>,
}

impl Kubelet {
    fn start() -> (Self, SocketAddr) {
        let kubelet = Self::default();
        let state = kubelet.clone();
        let (address, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address.send(listener.local_addr().unwrap()).unwrap();
                let router = Router::new().route("/pods", get(pods)).with_state(state);
                axum::serve(listener, router).await.unwrap();
            });
        });
        (kubelet, started.recv().unwrap())
    }

    fn knows(&self, namespace: &str) {
        let pods = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [{
            "metadata": {"uid": UID, "namespace": namespace, "name": "one"},
            "spec": {"containers": [{"name": "app"}]},
        }]});
        *self.answer.lock().unwrap() = Some(pods.to_string());
    }
}

async fn pods(State(kubelet): State<Kubelet>, headers: HeaderMap) -> (StatusCode, String) {
    kubelet.asked.fetch_add(1, Ordering::Relaxed);
    if headers
        .get("authorization")
        .is_none_or(|token| token != "Bearer secret")
    {
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    match &*kubelet.answer.lock().unwrap() {
        Some(answer) => (StatusCode::OK, answer.clone()),
        None => (StatusCode::SERVICE_UNAVAILABLE, "not yet".to_owned()),
    }
}

fn options(address: SocketAddr, token: &std::path::Path) -> Options {
    fs::write(token, "secret").unwrap();
    Options {
        metadata: Metadata::Kubelet,
        kubelet: format!("http://{address}"),
        token_file: token.to_owned(),
        ..Options::default()
    }
}

fn record() -> Record {
    let mut call = call();
    call.container_id = Some(ID.to_owned());
    call.kubernetes = Pod::of_container(&Container {
        id: ID.to_owned(),
        pod_uid: Some(UID.to_owned()),
    });
    Record::Call(Box::new(call))
}

/// The pods of the calls that come within some time.
fn passed(pods: &mut Pods, within: Duration) -> Vec<Arc<Pod>> {
    let mut passed = Vec::new();
    let deadline = Instant::now() + within;
    while passed.is_empty() && Instant::now() < deadline {
        pods.turn(|record| match record {
            Record::Call(call) => passed.push(call.kubernetes.unwrap()),
            record => panic!("{record:?}"),
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    passed
}

#[test]
fn a_record_waits_until_its_pod_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let (kubelet, address) = Kubelet::start();
    kubelet.knows("shop");
    let mut pods = Pods::new(&options(address, &folder.path().join("token"))).unwrap();
    pods.pass(record(), |record| panic!("{record:?}"));
    assert!(pods.is_busy());
    let passed = passed(&mut pods, Duration::from_secs(5));
    assert_eq!(passed.len(), 1);
    assert_eq!(passed[0].namespace.as_deref(), Some("shop"));
    assert_eq!(passed[0].container.as_deref(), Some("app"));
    assert!(!pods.is_busy());
    // The next one does not wait.
    let mut on = 0;
    pods.pass(record(), |_| on += 1);
    assert_eq!(on, 1);
    assert_eq!(kubelet.asked.load(Ordering::Relaxed), 1);
    assert_eq!(pods.health().unwrap().pods, 1);
}

#[test]
fn a_kubelet_that_fails_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (kubelet, address) = Kubelet::start();
    let mut pods = Pods::new(&options(address, &folder.path().join("token"))).unwrap();
    pods.pass(record(), |record| panic!("{record:?}"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while pods.health().unwrap().problem.is_none() && Instant::now() < deadline {
        pods.turn(|record| panic!("{record:?}"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let problem = pods.health().unwrap().problem.unwrap();
    assert!(problem.contains("kubelet"), "{problem}");
    kubelet.knows("shop");
    assert_eq!(passed(&mut pods, Duration::from_secs(8)).len(), 1);
    assert_eq!(pods.health().unwrap().problem, None);
}

#[test]
fn what_is_not_known_to_be_selected_does_not_leave() {
    let folder = tempfile::tempdir().unwrap();
    let (kubelet, address) = Kubelet::start();
    let mut selecting = options(address, &folder.path().join("token"));
    selecting.namespace = vec!["shop".parse().unwrap()];
    // Nobody knows.
    let mut pods = Pods::new(&selecting).unwrap();
    pods.pass(record(), |record| panic!("{record:?}"));
    pods.finish(|record| panic!("{record:?}"));
    assert_eq!(pods.health().unwrap().withheld, 1);
    // It is another namespace's.
    kubelet.knows("other");
    let mut pods = Pods::new(&selecting).unwrap();
    pods.pass(record(), |record| panic!("{record:?}"));
    pods.finish(|record| panic!("{record:?}"));
    let health = pods.health().unwrap();
    assert_eq!((health.withheld, health.held), (0, 0));
    // And it is.
    kubelet.knows("shop");
    let mut pods = Pods::new(&selecting).unwrap();
    pods.pass(record(), |record| panic!("{record:?}"));
    let mut on = 0;
    pods.finish(|_| on += 1);
    assert_eq!(on, 1);
}

#[test]
fn an_answer_decides_of_all_who_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (kubelet, address) = Kubelet::start();
    kubelet.knows("shop");
    let mut selecting = options(address, &folder.path().join("token"));
    selecting.namespace = vec!["shop".parse().unwrap()];
    let mut pods = Pods::new(&selecting).unwrap();
    let identity = || Identity {
        container_id: Some(ID.to_owned()),
        cgroup: Some("/kubepods".to_owned()),
        pod: Pod::of_container(&Container {
            id: ID.to_owned(),
            pod_uid: Some(UID.to_owned()),
        }),
        ..Identity::default()
    };
    let own = Pid(std::process::id());
    assert_eq!(pods.identify(own, &mut identity()), Standing::Awaited);
    // Whoever asks next has the answer, and takes it from nobody.
    let deadline = Instant::now() + Duration::from_secs(5);
    while pods.identify(Pid(1), &mut identity()) != Standing::Watched && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let decided = pods.turn(|record| panic!("{record:?}"));
    assert_eq!(decided, [(own, Standing::Watched)]);
}

#[test]
fn what_is_in_no_pod_is_left_out_where_pods_are_selected() {
    let own = Pid(std::process::id());
    let mut identity = Identity {
        cgroup: Some("/user.slice".to_owned()),
        ..Identity::default()
    };
    assert_eq!(
        Pods::new(&Options::default())
            .unwrap()
            .identify(own, &mut identity),
        Standing::Watched
    );
    let only = Options {
        pods_only: true,
        ..Options::default()
    };
    let mut pods = Pods::new(&only).unwrap();
    assert!(pods.is_selecting());
    assert_eq!(pods.identify(own, &mut identity), Standing::Excluded);
    identity.container_id = Some(ID.to_owned());
    assert_eq!(pods.identify(own, &mut identity), Standing::Excluded);
    identity.pod = Pod::of_container(&Container {
        id: ID.to_owned(),
        pod_uid: Some(UID.to_owned()),
    });
    assert_eq!(pods.identify(own, &mut identity), Standing::Watched);
}

#[test]
fn nothing_can_be_selected_by_the_cgroup() {
    let options = Options {
        namespace: vec!["shop".parse().unwrap()],
        ..Options::default()
    };
    let error = Pods::new(&options).err().unwrap().to_string();
    assert!(error.contains("--kubernetes-metadata"), "{error}");
}
