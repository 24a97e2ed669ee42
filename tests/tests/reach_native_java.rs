//! TLS libraries that come as native code in a jar: netty-tcnative and Conscrypt. Their files are deleted as soon
//! as they are mapped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use observer_e2e::{
    coverage::Row,
    harness::{Scene, binary, output},
    java,
};
use serde_json::Value;

/// A library, by the name that the client knows it by.
struct Library {
    name: &'static str,
    row: Row<'static>,
}

const LIBRARIES: [Library; 2] = [
    Library {
        name: "netty",
        row: Row {
            runtime: "Java, netty-tcnative",
            version: "2.0.70",
            library: "BoringSSL",
            linkage: "static",
            symbols: "symbols",
            http: "1.1",
        },
    },
    Library {
        name: "conscrypt",
        row: Row {
            runtime: "Java, Conscrypt",
            version: "2.5.2",
            library: "BoringSSL",
            linkage: "static",
            symbols: "stripped",
            http: "1.1",
        },
    },
];

/// A folder with the client and its jars.
fn client() -> PathBuf {
    java::native().unwrap_or_else(|error| panic!("{error:#}"))
}

fn command(scene: &Scene, folder: &Path, library: &str, more: &[&str]) -> Vec<OsString> {
    let path = format!("{}:{}", folder.display(), folder.join("jars/*").display());
    let mut command: Vec<OsString> = vec![
        "java".into(),
        "-cp".into(),
        path.into(),
        "NativeTls".into(),
        scene.provider.url().into(),
        library.into(),
        "3".into(),
    ];
    command.extend(more.iter().map(OsString::from));
    command
}

#[test]
fn libraries_that_are_loaded_later() {
    let folder = client();
    for library in LIBRARIES {
        let scene = Scene::new();
        let command = command(&scene, &folder, library.name, &[]);
        let run = scene.cover(&library.row, 6, &[], &command);
        assert_eq!(run.calls.len(), 6);
    }
}

#[test]
fn libraries_that_are_there_already() {
    let folder = client();
    for library in LIBRARIES {
        let scene = Scene::new();
        let mut client = scene.start(&command(&scene, &folder, library.name, &["wait"]));
        assert_eq!(client.line(), "waiting");
        let arguments = ["check", "--format", "json", "--pid", &client.pid()];
        let report: Value = serde_json::from_str(&output(binary(), &arguments).1).unwrap();
        assert_eq!(report["ok"], true, "{report:#}");
        let found = &report["libraries"][0];
        assert!(
            found["path"].as_str().unwrap().ends_with("(deleted)"),
            "{report:#}"
        );
        let by_symbols = found["found_by"] == "symbols";
        assert_eq!(by_symbols, library.row.symbols == "symbols", "{report:#}");
        let observer = scene.watch(&["--pid", &client.pid()]);
        client.go_on();
        assert!(client.wait().0.success());
        let run = observer.wait();
        run.assert_clean();
        assert_eq!(run.calls.len(), 6);
    }
}
