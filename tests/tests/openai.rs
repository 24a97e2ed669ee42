//! OpenAI's whole API, and the libraries that speak it: each call is recorded once, with every field right.

use std::{ffi::OsString, fs, path::PathBuf};

use observer_e2e::{
    clients,
    coverage::Row,
    harness::{Run, Scene, output},
};
use serde_json::Value;

/// All operations that call a model.
const OPERATIONS: &[&str] = &[
    "chat",
    "chat-stream",
    "responses",
    "responses-stream",
    "responses-background",
    "responses-fetch",
    "completions",
    "completions-stream",
    "embeddings",
    "embeddings-list",
    "images",
    "images-stream",
    "images-edit",
    "speech",
    "transcription",
    "transcription-duration",
    "transcription-text",
    "transcription-stream",
    "translation",
    "moderation",
];

/// Those that Azure has under the names of deployments.
const AZURE: &[&str] = &[
    "chat",
    "chat-stream",
    "completions",
    "embeddings",
    "images",
    "speech",
    "transcription",
    "responses",
];

/// The interpreter of the environment of a folder of `clients/`.
fn environment(folder: &str) -> PathBuf {
    let requirements = fs::read_to_string(clients::script(&format!("{folder}/requirements.txt")))
        .expect("the requirements");
    clients::environment(folder, &requirements).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A command line of the clients of a folder of `clients/`, which has its own requirements.
fn python(scene: &Scene, folder: &str, behaviour: &str) -> Vec<OsString> {
    let mut command = scene.script(&format!("{folder}/calls.py"), [behaviour]);
    command[0] = environment(folder).into();
    command
}

/// The version of a package in an environment.
fn version(python: &PathBuf, package: &str) -> String {
    let say = format!("import importlib.metadata as m; print(m.version('{package}'))");
    let (_, version, _) = output(python, &["-c", &say]);
    version.trim().to_owned()
}

fn row<'a>(runtime: &'a str, version: &'a str, http: &'a str) -> Row<'a> {
    Row {
        runtime,
        version,
        library: "OpenSSL 3.0.19",
        linkage: "shared",
        symbols: "dynamic symbols",
        http,
    }
}

fn assert_no_errors(run: &Run) {
    for seen in &run.client {
        assert!(seen["error_type"].is_null(), "the client failed: {seen}");
    }
}

/// Asserts that the records have the exceptions that the client saw.
fn assert_errors(run: &Run, scene: &Scene, made: usize) {
    run.assert_clean();
    assert_eq!(run.client.len(), made, "{}", run.stderr);
    assert_eq!(run.calls.len(), made, "{:#?}", run.calls);
    let truth = scene.provider.truth();
    for call in &run.calls {
        let of = |truth: &&Value| truth["request_id"] == call["request_id"];
        let case = &truth.iter().find(of).expect("the truth")["test"];
        let seen = run.client.iter().find(|seen| seen["case"] == *case);
        let seen = seen.unwrap_or_else(|| panic!("{case} is none of {:#?}", run.client));
        assert!(seen["error_type"].is_string(), "{seen}");
        for field in ["error_type", "error_message"] {
            assert_eq!(call[field], seen[field], "{case}: {call:#}");
        }
    }
}

#[test]
fn every_operation_by_openai_python() {
    let scene = Scene::new();
    for (mode, http) in [(&[][..], "1.1"), (&["--asynchronous"], "1.1")] {
        let arguments = mode
            .iter()
            .chain(&["--behaviour", "delay-ms=20; cached=5; reasoning=3"])
            .chain(OPERATIONS)
            .copied();
        let row = row("Python openai, whole API", "3.54.0", http);
        let run = scene.cover(
            &row,
            OPERATIONS.len(),
            &[],
            &scene.script("openai/calls.py", arguments),
        );
        assert_no_errors(&run);
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn every_operation_over_http2() {
    let scene = Scene::new();
    for mode in [&["--http2"][..], &["--http2", "--asynchronous"]] {
        let arguments = mode.iter().chain(OPERATIONS).copied();
        let mut command = scene.script("openai/calls.py", arguments);
        command[0] = environment("http2").into();
        let row = row("Python openai, whole API (httpx)", "2.54.0", "2");
        let run = scene.cover(&row, OPERATIONS.len(), &[], &command);
        assert_no_errors(&run);
        scene.assert_truth_of(&run.calls);
    }
}

/// Answers of several MB whose usage comes last, compressed, too.
#[test]
fn large_embeddings() {
    let scene = Scene::new();
    for behaviour in ["bytes=10485760", "bytes=4194304; encoding=gzip"] {
        let arguments = ["--behaviour", behaviour, "embeddings"];
        let run = scene.exec(&[], &scene.script("openai/calls.py", arguments));
        run.assert_clean();
        assert_no_errors(&run);
        assert!(run.only_call()["prompt_tokens"].is_u64());
        scene.assert_truth_of(&run.calls);
    }
}

/// What else is asked of the same host is no call.
#[test]
fn what_is_no_call() {
    let scene = Scene::new();
    let arguments = ["models", "cancel", "chat", "models"];
    let run = scene.exec(&[], &scene.script("openai/calls.py", arguments));
    run.assert_clean();
    assert_eq!(run.only_call()["operation"], "chat");
    scene.assert_truth_of(&run.calls);
}

#[test]
fn errors_of_every_operation() {
    let scene = Scene::new();
    for behaviour in ["error=400", "error=429", "error=503"] {
        let arguments = ["--behaviour", behaviour];
        let run = scene.exec(
            &[],
            &scene.script(
                "openai/calls.py",
                arguments.iter().chain(OPERATIONS).copied(),
            ),
        );
        // It fetches nothing that fails.
        assert_errors_but_fetched(&run, &scene);
    }
}

fn assert_errors_but_fetched(run: &Run, scene: &Scene) {
    let failed = |line: &&Value| line["error_type"].is_string();
    let mut run_of_errors = Run {
        status: run.status,
        calls: run.calls.iter().filter(failed).cloned().collect(),
        traces: Vec::new(),
        client: run.client.iter().filter(failed).cloned().collect(),
        raw: String::new(),
        stderr: run.stderr.clone(),
    };
    run_of_errors
        .calls
        .sort_by_key(|call| call["start_time"].to_string());
    assert_errors(&run_of_errors, scene, OPERATIONS.len() - 1);
}

#[test]
fn azure_openai() {
    let scene = Scene::new();
    for mode in [&["--azure"][..], &["--azure", "--asynchronous"]] {
        let arguments = mode.iter().chain(AZURE).copied();
        let command = scene.script("openai/calls.py", arguments);
        let row = row("Python openai, AzureOpenAI", "3.54.0", "1.1");
        let run = scene.cover(&row, AZURE.len(), &[], &command);
        assert_no_errors(&run);
        for call in &run.calls {
            assert_eq!(call["provider"], "azure_openai");
        }
        scene.assert_truth_of(&run.calls);
    }
    for behaviour in ["error=400", "error=429; error-gateway"] {
        let arguments = ["--azure", "--behaviour", behaviour];
        let arguments = arguments.iter().chain(AZURE).copied();
        let run = scene.exec(&[], &scene.script("openai/calls.py", arguments));
        assert_errors(&run, &scene, AZURE.len());
    }
}

#[test]
fn groq() {
    let scene = Scene::new();
    let version = version(&environment("groq"), "groq");
    let row = row("Python groq", &version, "1.1");
    for behaviour in ["events=20; token-ms=2", "tools=2; encoding=gzip"] {
        let run = scene.cover(&row, 2, &[], &python(&scene, "groq", behaviour));
        assert_no_errors(&run);
        assert!(run.calls.iter().all(|call| call["provider"] == "groq"));
        scene.assert_truth_of(&run.calls);
    }
    for behaviour in ["error=401", "error=429", "error=500"] {
        let run = scene.exec(&[], &python(&scene, "groq", behaviour));
        assert_errors(&run, &scene, 2);
    }
}

#[test]
fn litellm() {
    let scene = Scene::new();
    let version = version(&environment("litellm"), "litellm");
    let row = row("Python litellm", &version, "1.1");
    let run = scene.cover(
        &row,
        5,
        &[],
        &python(&scene, "litellm", "events=20; token-ms=2"),
    );
    assert_no_errors(&run);
    scene.assert_truth_of(&run.calls);
}

#[test]
fn langchain() {
    let scene = Scene::new();
    let version = version(&environment("langchain"), "langchain-openai");
    let row = row("Python langchain-openai", &version, "1.1");
    for behaviour in ["events=20; token-ms=2", "tools=1"] {
        let run = scene.cover(&row, 5, &[], &python(&scene, "langchain", behaviour));
        assert_no_errors(&run);
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn every_operation_by_npm() {
    let scene = Scene::new();
    let modules = clients::npm("openai-node", &["openai@7.57.0"])
        .unwrap_or_else(|error| panic!("{error:#}"))
        .join("node_modules");
    let (_, version, _) = output("node", &["--version"]);
    let row = Row {
        runtime: "Node.js (npm openai 7.57.0)",
        version: version.trim().trim_start_matches('v'),
        library: "OpenSSL 3.0.19",
        linkage: "static",
        symbols: "dynamic symbols",
        http: "1.1",
    };
    let command = |behaviour: &str| -> Vec<OsString> {
        vec![
            "node".into(),
            clients::script("node/openai.mjs").into(),
            scene.provider.url().into(),
            modules.clone().into(),
            behaviour.into(),
        ]
    };
    let run = scene.cover(&row, 11, &[], &command("delay-ms=20; cached=5"));
    assert_no_errors(&run);
    scene.assert_truth_of(&run.calls);
    let run = scene.exec(&[], &command("error=429"));
    assert_errors(&run, &scene, 11);
}
