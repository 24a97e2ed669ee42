//! The goroutine that makes a call, whatever goroutine writes it, and the goroutines that created it.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    path::Path,
};

use observer_e2e::{
    front::Front,
    golang::Build,
    harness::{Run, Scene, wait_until},
};
use serde_json::Value;

const BUILDS: [Build; 3] = [
    Build::new("contexts", "local"),
    Build::with("contexts", "1.24.9", &["-ldflags=-s -w"]),
    Build::with("contexts", "1.21.13", &["-buildmode=pie", "-ldflags=-s -w"]),
];

fn command(build: Build, url: &str, arguments: &[&str]) -> Vec<OsString> {
    let program = build.program().unwrap_or_else(|error| panic!("{error:#}"));
    let mut command: Vec<OsString> = vec![program.into(), "-url".into(), url.into()];
    command.extend(arguments.iter().map(OsString::from));
    command
}

/// Asserts that each call was recorded with the goroutine that has made it, as it says itself.
fn assert_callers(run: &Run, count: usize) {
    run.assert_clean();
    let said: HashMap<&str, &Value> = run
        .client
        .iter()
        .filter_map(|line| Some((line["request_id"].as_str()?, &line["goroutine"])))
        .collect();
    assert_eq!((said.len(), run.calls.len()), (count, count));
    for call in &run.calls {
        let by = call["request_id"].as_str().and_then(|id| said.get(id));
        assert_eq!(by, Some(&&call["task"]["id"]), "{call:#}");
        assert_eq!(call["task"]["kind"], "goroutine");
    }
}

#[test]
fn twenty_goroutines_share_three_connections() {
    for build in BUILDS {
        let scene = Scene::new();
        let run = scene.exec(&[], &command(build, &scene.provider.url(), &[]));
        assert_callers(&run, 80);
        let callers: HashSet<_> = run.calls.iter().map(|call| &call["task"]["id"]).collect();
        assert_eq!(callers.len(), 20);
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn twenty_goroutines_share_a_connection_of_http_2() {
    for build in BUILDS {
        let scene = Scene::new();
        let run = scene.exec(&[], &command(build, &scene.provider.url(), &["-http=2"]));
        assert_callers(&run, 80);
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn twenty_goroutines_share_three_connections_without_tls() {
    for build in BUILDS {
        let scene = Scene::new();
        let front = Front::tcp(&scene.provider, "127.0.0.1").expect("a front");
        let run = scene.exec(&[], &command(build, front.url(), &[]));
        assert_callers(&run, 80);
    }
}

/// What a recording says of tasks: each one's creator.
fn creators(recording: &Path) -> HashMap<u64, u64> {
    /// `Entry::Task` (observer/src/recording/mod.rs) as postcard writes it.
    const TASK: u64 = 6;
    let bytes = fs::read(recording).expect("a recording");
    let mut creators = HashMap::new();
    let mut rest = &bytes[12..];
    while let Some((head, after)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        let (mut payload, after) = after.split_at(usize::try_from(length).expect("a length"));
        rest = after;
        // LEB128
        let mut number = || {
            let mut value = 0_u64;
            for shift in (0..64).step_by(7) {
                let (byte, after) = payload.split_first().expect("a byte");
                payload = after;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        };
        if number() == TASK {
            let [_pid, _tid, _kind, task, has_parent] = [(); 5].map(|()| number());
            if has_parent == 1 {
                let [_kind, parent] = [(); 2].map(|()| number());
                creators.insert(task, parent);
            }
        }
    }
    creators
}

/// Asserts that the agent knows of each call what created its goroutine, and so on up to the first that has
/// made a call itself.
fn assert_creators(run: &Run, recording: &Path) {
    let known = creators(recording);
    for line in &run.client {
        let mut task = line["goroutine"].as_u64().expect("a goroutine");
        for creator in line["creators"].as_array().into_iter().flatten() {
            assert_eq!(known.get(&task).copied(), creator.as_u64(), "{line:#}");
            task = creator.as_u64().expect("a goroutine");
        }
    }
}

#[test]
fn goroutines_that_others_created() {
    let scene = Scene::new();
    let front = Front::tcp(&scene.provider, "127.0.0.1").expect("a front");
    let url = scene.provider.url();
    let recording = scene.folder.path().join("recording");
    let record = [
        "--capture-content",
        "--record",
        recording.to_str().expect("a path"),
    ];
    for build in BUILDS {
        for (url, http) in [
            (url.as_str(), "-http=1.1"),
            (url.as_str(), "-http=2"),
            (front.url(), "-http=1.1"),
        ] {
            let arguments = ["-mode=nested", "-goroutines=5", http];
            let run = scene.exec(&record, &command(build, url, &arguments));
            assert_callers(&run, 20);
            assert_creators(&run, &recording);
            let _ = fs::remove_file(&recording);
        }
    }
}

/// A server's handlers make calls, several at the same time; and it answers calls itself.
#[test]
fn servers() {
    for build in BUILDS {
        for with in [&["-http=1.1"][..], &["-http=1.1", "-tls"]] {
            serves(build, with);
        }
    }
}

fn serves(build: Build, with: &[&str]) {
    const GOROUTINES: usize = 6;
    const COUNT: usize = 3;
    let scene = Scene::new();
    let recording = scene.folder.path().join("recording");
    let arguments = [&["-mode=serve", "-count=3"], with].concat();
    let mut server = scene.start(&command(build, &scene.provider.url(), &arguments));
    let url = server.line();
    let observer = scene.watch(&[
        "--pid",
        &server.pid(),
        "--capture-content",
        "--record",
        recording.to_str().expect("a path"),
    ]);
    // One after the other: a call that is made while another is answered passes for passed on.
    for path in ["/ask", "/v1/chat/completions"] {
        let arguments = [
            "-mode=ask",
            &format!("-path={path}"),
            &format!("-goroutines={GOROUTINES}"),
            &format!("-count={COUNT}"),
            &format!("-connections={GOROUTINES}"),
        ];
        let asker = scene.start(&command(build, &url, &arguments));
        let (status, _) = asker.wait();
        assert!(status.success());
    }
    server.go_on();
    let (status, lines) = server.wait();
    assert!(status.success());
    let mut run = observer.stop();
    run.client = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    run.assert_clean();
    // What the server answers itself names its goroutine.
    let (own, made): (Vec<Value>, Vec<Value>) = run
        .calls
        .drain(..)
        .partition(|call| call["response_id"] == "1");
    assert_eq!(own.len(), GOROUTINES * COUNT, "{with:?}");
    for call in &own {
        let id = call["request_id"].as_str().unwrap_or_default();
        let handler = id.split('-').next().and_then(|id| id.parse().ok());
        assert_eq!(call["task"]["id"].as_u64(), handler, "{call:#}");
    }
    run.calls = made;
    assert_callers(&run, GOROUTINES * COUNT * (COUNT + 2));
    assert_creators(&run, &recording);
    wait_until("the provider has noted the calls", || {
        scene.provider.truth().len() >= run.calls.len()
    });
}
