//! GnuTLS: wget, libcurl's build of it, and programs of the library's own kind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Scene, output},
    sites,
};
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libgnutls.so.30";

/// `clients/gnutls/client.c`
fn client() -> PathBuf {
    let source = clients::script("gnutls/client.c");
    let folder = clients::prepared("gnutls", &fs::read_to_string(&source).unwrap(), |folder| {
        fs::create_dir_all(folder)?;
        clients::run(
            Command::new("cc")
                .args(["-D_GNU_SOURCE", "-O1", "-o"])
                .args([&folder.join("client"), &source])
                .arg("-lgnutls"),
        )
        .context("cannot link to GnuTLS: apt-get install libgnutls28-dev")
    });
    folder
        .unwrap_or_else(|error| panic!("{error:#}"))
        .join("client")
}

fn command(scene: &Scene, program: &Path, arguments: &[&str]) -> Vec<OsString> {
    let mut command = vec![program.into(), scene.provider.port().to_string().into()];
    command.extend(arguments.iter().map(OsString::from));
    command
}

/// The second word of the first line that a program says of its version.
fn version(program: &str, word: usize) -> String {
    let (_, text, _) = output(program, &["--version"]);
    let words: Vec<&str> = text.split_whitespace().collect();
    words[word].to_owned()
}

/// The version of the library, by its package.
fn gnutls() -> String {
    let (_, version, _) = output(
        "dpkg-query",
        &["--show", "--showformat", "${Version}", "libgnutls30"],
    );
    format!("GnuTLS {}", version.split('-').next().unwrap())
}

#[test]
fn wget() {
    let scene = Scene::new();
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#;
    let stream =
        r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}"#;
    let url = format!("{}/v1/chat/completions", scene.provider.url());
    let ca = format!("--ca-certificate={}", scene.provider.ca().display());
    for (body, url) in [(body, &[&url, &url][..]), (stream, &[&url])] {
        let mut command: Vec<OsString> = ["wget", "--no-config", "--quiet", "--output-document=-"]
            .map(OsString::from)
            .into();
        command.extend([
            ca.clone().into(),
            "--header=content-type: application/json".into(),
            format!("--post-data={body}").into(),
        ]);
        // Several on one connection.
        command.extend(url.iter().map(OsString::from));
        let row = Row {
            runtime: "wget",
            version: &version("wget", 2),
            library: &gnutls(),
            linkage: "shared",
            symbols: "dynamic symbols",
            http: "1.1",
        };
        scene.cover(&row, url.len(), &[], &command);
    }
}

#[test]
fn libcurl() {
    let scene = Scene::new();
    let script = clients::script("libcurl.py");
    let command: Vec<OsString> = vec![
        "python3".into(),
        script.into(),
        scene.provider.url().into(),
        "libcurl-gnutls.so.4".into(),
        "3".into(),
    ];
    let (_, version, _) = output(
        "dpkg-query",
        &["--show", "--showformat", "${Version}", "libcurl3-gnutls"],
    );
    let row = Row {
        runtime: "libcurl (GnuTLS build)",
        version: version.split('-').next().unwrap(),
        library: &gnutls(),
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    scene.cover(&row, 6, &[], &command);
}

#[test]
fn records_of_every_kind() {
    let program = client();
    let scene = Scene::new();
    let row = Row {
        runtime: "C program",
        version: "libgnutls",
        library: &gnutls(),
        linkage: "shared",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    let arguments = ["--calls", "3", "--connections", "3"];
    scene.cover(&row, 9, &[], &command(&scene, &program, &arguments));
    let scene = Scene::new();
    let mut calls = Vec::new();
    for arguments in [
        &["--stream", "--calls", "2", "--connections", "3", "--no-bye"][..],
        // What is kept back by the library is written once.
        &["--cork", "--calls", "2"],
        &["--cork", "--stream", "--bytes", "100000"],
        // Most writes must be repeated, and may be without their arguments.
        &["--nonblocking", "--bytes", "8000000"],
        &["--nonblocking", "--bytes", "8000000", "--resume"],
        &["--stream", "--behaviour", "framing=close"],
    ] {
        let run = scene.exec(&[], &command(&scene, &program, arguments));
        run.assert_clean();
        calls.extend(run.calls);
    }
    let truth = scene.provider.truth();
    assert_eq!((truth.len(), calls.len()), (12, 12), "{calls:#?}");
    for truth in truth {
        let record = calls
            .iter()
            .find(|call| call["request_id"] == truth["request_id"])
            .unwrap();
        for field in ["prompt_tokens", "completion_tokens", "model", "stream"] {
            assert_eq!(record[field], truth[field], "{record:#}");
        }
        assert!(record["incomplete"].is_null(), "{record:#}");
    }
}

#[test]
fn who_ended_the_connection() {
    let program = client();
    let scene = Scene::new();
    for cut in ["cut=3", "cut-clean=3", "cut-reset=3"] {
        let behaviour = format!("events=30; {cut}");
        let arguments = [
            "--stream",
            "--connections",
            "3",
            "--no-bye",
            "--behaviour",
            &behaviour,
        ];
        let run = scene.exec(&[], &command(&scene, &program, &arguments));
        run.assert_clean();
        assert_eq!(run.calls.len(), 3);
        for call in &run.calls {
            assert_eq!(call["incomplete"], "server_disconnected", "{cut}: {call:#}");
        }
    }
}

#[test]
fn check_shows_the_library_and_leaves_its_wrapper_alone() {
    let report = sites::check(Path::new(LIBRARY));
    for probe in report["libraries"][0]["probes"].as_array().unwrap() {
        sites::assert_right(Path::new(LIBRARY), probe);
    }
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["libraries"][0]["library"], "GnuTLS");
    assert_eq!(report["libraries"][0]["found_by"], "symbols");
    let functions: Vec<&str> = report["libraries"][0]["probes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| probe["function"].as_str().unwrap())
        .collect();
    for needed in ["gnutls_record_send", "gnutls_record_recv", "gnutls_deinit"] {
        assert!(functions.contains(&needed), "{functions:?}");
    }
    // It has OpenSSL's names, and hands everything on to libgnutls: it would be seen twice.
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("wrapper.c");
    let wrapper = folder.path().join("libgnutls-openssl.so.27");
    let code = "
        long gnutls_record_send(void *session, const void *data, unsigned long size);
        long gnutls_record_recv(void *session, void *data, unsigned long size);
        int SSL_write(void **ssl, const void *data, int size) { return (int)gnutls_record_send(*ssl, data, size); }
        int SSL_read(void **ssl, void *data, int size) { return (int)gnutls_record_recv(*ssl, data, size); }
    ";
    fs::write(&source, code).unwrap();
    clients::run(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&wrapper, &source])
            .arg(LIBRARY),
    )
    .unwrap();
    let report = sites::check(&wrapper);
    assert_eq!(
        report["libraries"].as_array().unwrap().len(),
        0,
        "{report:#}"
    );
}
