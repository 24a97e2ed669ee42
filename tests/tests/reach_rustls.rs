//! rustls: with aws-lc-rs and with ring, in Codex and in clients of our own (`clients/rustls`).

use std::{ffi::OsString, fs, path::PathBuf};

use observer_e2e::{
    clients::npm,
    coverage::Row,
    harness::{Run, Scene},
    rustls::{AWS_LC, RING, programs},
};

/// Versions of Codex, and the TLS library that carries their calls.
const CODEX: [(&str, &str); 3] = [
    ("0.120.0", "OpenSSL 3"),
    ("0.150.0", "rustls 0.23 + aws-lc-rs"),
    ("0.169.0", "rustls 0.23 + aws-lc-rs"),
];

#[test]
fn codex() {
    for (version, library) in CODEX {
        let mut scene = Scene::new();
        let command = codex_command(&mut scene, version);
        let row = Row {
            runtime: "Codex CLI",
            version,
            library,
            linkage: "static",
            symbols: "stripped",
            http: "1.1",
        };
        let run = scene.cover(&row, 1, &[], &command);
        let call = run.only_call();
        assert_eq!(call["url_path"], "/v1/responses");
        assert_eq!(call["stream"], true);
    }
}

/// Lets Codex answer one question, by the provider.
fn codex_command(scene: &mut Scene, version: &str) -> Vec<OsString> {
    let package = format!("@openai/codex@{version}-linux-x64");
    let folder = npm(&format!("codex-{version}"), &[&package]).expect("Codex");
    let vendor = folder.join("node_modules/@openai/codex/vendor/x86_64-unknown-linux-musl");
    let program = ["bin/codex", "codex/codex"]
        .map(|place| vendor.join(place))
        .into_iter()
        .find(|place| place.exists())
        .expect("the program of Codex");
    let home = scene.folder.path().join("codex");
    fs::create_dir_all(&home).expect("a folder");
    let config = format!(
        "model = \"gpt-5-codex\"\nmodel_provider = \"local\"\n[model_providers.local]\nname = \"local\"\n\
         base_url = \"{}/v1\"\nwire_api = \"responses\"\nenv_key = \"LOCAL_KEY\"\n\
         request_max_retries = 0\nstream_max_retries = 0\n",
        scene.provider.url()
    );
    fs::write(home.join("config.toml"), config).expect("its configuration");
    scene.environment = vec![
        ("LOCAL_KEY".into(), "none".into()),
        ("CODEX_HOME".into(), home.into()),
        ("CODEX_CA_CERTIFICATE".into(), scene.provider.ca().into()),
    ];
    vec![
        program.into(),
        "exec".into(),
        "--skip-git-repo-check".into(),
        "--cd".into(),
        scene.folder.path().into(),
        "Say hello".into(),
    ]
}

/// How the client is linked with rustls 0.23.
#[derive(Clone, Copy, Debug)]
struct Variant {
    /// The feature of the client.
    provider: &'static str,
    stripped: bool,
}

impl Variant {
    fn row(self) -> Row<'static> {
        Row {
            runtime: "Rust (reqwest)",
            version: "0.12",
            library: if self.provider == AWS_LC {
                "rustls 0.23 + aws-lc-rs"
            } else {
                "rustls 0.23 + ring"
            },
            linkage: "static",
            symbols: if self.stripped { "stripped" } else { "symbols" },
            http: "1.1",
        }
    }

    /// Has the client make calls.
    fn cover(self, scene: &Scene, made: usize, keys: &[&str]) -> Run {
        self.cover_with(scene, made, &[], keys)
    }

    /// As [`cover`](Self::cover), with options of the agent.
    fn cover_with(self, scene: &Scene, made: usize, options: &[&str], keys: &[&str]) -> Run {
        let mut command: Vec<OsString> = vec![client(self).into(), scene.provider.url().into()];
        command.extend(keys.iter().map(OsString::from));
        scene.cover(&self.row(), made, options, &command)
    }
}

/// The client of `clients/rustls`, built by cargo.
fn client(variant: Variant) -> PathBuf {
    let folder = programs().unwrap_or_else(|error| panic!("{error:#}"));
    folder.join(if variant.stripped {
        format!("{}-stripped", variant.provider)
    } else {
        variant.provider.to_owned()
    })
}

/// Calls in every way in which a record may look.
fn every_way(variant: Variant) {
    let scene = Scene::new();
    for keys in [
        &["tls=1.3", "suite=AES_256_GCM"][..],
        &["tls=1.3", "suite=CHACHA20", "stream=false"],
        &["tls=1.3", "suite=AES_128_GCM", "keep=false"],
        &["tls=1.2", "suite=AES_256_GCM"],
        &["tls=1.2", "suite=CHACHA20", "stream=false"],
        &["tls=1.2", "suite=AES_128_GCM", "keep=false"],
    ] {
        let keys: Vec<&str> = keys.iter().copied().chain(["calls=3"]).collect();
        variant.cover(&scene, 3, &keys);
    }
}

/// Bodies of many records, both ways.
fn long_bodies(variant: Variant) {
    let scene = Scene::new();
    for tls in ["tls=1.3", "tls=1.2"] {
        let keys = [
            tls,
            "calls=2",
            "bytes=1000000",
            "behaviour=bytes=500000",
            "stream=false",
        ];
        variant.cover(&scene, 2, &keys);
    }
}

/// Keys that are updated in the middle of answers: the connection goes on. Memory of an old key is that of
/// another connection's new one soon.
fn keys_are_updated(variant: Variant) {
    let scene = Scene::new();
    for keys in [
        &["calls=4", "behaviour=rekey; events=30; token-ms=1"][..],
        &["tasks=20", "calls=5", "behaviour=rekey; events=30"],
    ] {
        let keys: Vec<&str> = keys.iter().copied().chain(["tls=1.3"]).collect();
        let run = variant.cover(&scene, 4, &keys);
        assert!(run.calls.iter().all(|call| call["incomplete"].is_null()));
    }
}

/// What carries nothing to an LLM is not copied, until a call comes on the same connection.
fn what_is_no_call_is_left_out(variant: Variant) {
    let scene = Scene::new();
    let keys = ["tasks=5", "before=400", "behaviour=events=10"];
    let all = variant.cover_with(&scene, 5, &["--all-hosts"], &keys);
    let run = variant.cover(&scene, 5, &keys);
    let (some, everything) = (run.captured().0, all.captured().0);
    assert!(some * 4 < everything, "{some} bytes of {everything}");
}

/// Connections that take turns on one thread, and on two.
fn connections_take_turns(variant: Variant) {
    let scene = Scene::new();
    for keys in [
        &["tasks=20", "calls=5"][..],
        &["tasks=20", "calls=5", "threads=2", "bytes=40000"],
        &["tasks=20", "calls=5", "keep=false"],
    ] {
        let keys: Vec<&str> = keys
            .iter()
            .copied()
            .chain(["behaviour=token-ms=1"])
            .collect();
        let run = variant.cover(&scene, 100, &keys);
        assert!(run.calls.iter().all(|call| call["incomplete"].is_null()));
    }
}

/// Both forms of the client.
fn both(provider: &'static str) -> [Variant; 2] {
    [true, false].map(|stripped| Variant { provider, stripped })
}

#[test]
fn records_of_aws_lc() {
    both(AWS_LC).into_iter().for_each(every_way);
}

#[test]
fn long_bodies_by_aws_lc() {
    both(AWS_LC).into_iter().for_each(long_bodies);
}

#[test]
fn connections_take_turns_with_aws_lc() {
    both(AWS_LC).into_iter().for_each(connections_take_turns);
}

#[test]
fn records_by_ring() {
    both(RING).into_iter().for_each(every_way);
}

#[test]
fn long_bodies_by_ring() {
    both(RING).into_iter().for_each(long_bodies);
}

#[test]
fn connections_take_turns_with_ring() {
    both(RING).into_iter().for_each(connections_take_turns);
}

#[test]
fn keys_of_a_connection_are_updated() {
    for provider in [AWS_LC, RING] {
        both(provider).into_iter().for_each(keys_are_updated);
    }
}

#[test]
fn requests_that_are_no_calls() {
    for provider in [AWS_LC, RING] {
        both(provider)
            .into_iter()
            .for_each(what_is_no_call_is_left_out);
    }
}
