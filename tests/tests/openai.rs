//! OpenAI's whole API, and the libraries that speak it: each call is recorded once, with every field right.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

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

/// The version of openai-python in the environment of most clients.
fn openai_version() -> String {
    let python = clients::python().unwrap_or_else(|error| panic!("{error:#}"));
    version(&python, "openai")
}

/// The version of a package in an environment.
fn version(python: &Path, package: &str) -> String {
    let say = format!("import importlib.metadata as m; print(m.version('{package}'))");
    let (_, version, _) = output(python, &["-c", &say]);
    version.trim().to_owned()
}

fn row<'a>(runtime: &'a str, version: &'a str, http: &'a str) -> Row<'a> {
    Row {
        runtime,
        version,
        library: "OpenSSL 3.0",
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
    let version = openai_version();
    let row = row("Python openai, whole API", &version, "1.1");
    for mode in [&[][..], &["--asynchronous"]] {
        let arguments = mode
            .iter()
            .chain(&["--behaviour", "delay-ms=20; cached=5; reasoning=3"])
            .chain(OPERATIONS)
            .copied();
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
    let python = environment("http2");
    let version = version(&python, "openai");
    let row = row("Python openai, whole API (httpx)", &version, "2");
    for mode in [&["--http2"][..], &["--http2", "--asynchronous"]] {
        let arguments = mode.iter().chain(OPERATIONS).copied();
        let mut command = scene.script("openai/calls.py", arguments);
        command[0] = python.clone().into();
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
    // The provider does not fail where a response is fetched.
    let operations: Vec<&str> = OPERATIONS
        .iter()
        .copied()
        .filter(|operation| *operation != "responses-fetch")
        .collect();
    for behaviour in ["error=400", "error=429", "error=503"] {
        let arguments = ["--behaviour", behaviour];
        let arguments = arguments.iter().chain(&operations).copied();
        let run = scene.exec(&[], &scene.script("openai/calls.py", arguments));
        assert_errors(&run, &scene, operations.len());
    }
}

#[test]
fn azure_openai() {
    let scene = Scene::new();
    let version = openai_version();
    let row = row("Python openai, AzureOpenAI", &version, "1.1");
    for mode in [
        &["--azure", "dated"][..],
        &["--azure", "dated", "--asynchronous"],
        &["--azure", "v1"],
    ] {
        let arguments = mode.iter().chain(AZURE).copied();
        let command = scene.script("openai/calls.py", arguments);
        let run = scene.cover(&row, AZURE.len(), &[], &command);
        assert_no_errors(&run);
        for call in &run.calls {
            assert_eq!(call["provider"], "azure_openai");
        }
        scene.assert_truth_of(&run.calls);
    }
    for behaviour in ["error=400", "error=429; error-gateway"] {
        let arguments = ["--azure", "dated", "--behaviour", behaviour];
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

/// litellm calls by openai-python, and makes exceptions of its own of those, with the same names.
#[test]
fn errors_of_litellm() {
    let scene = Scene::new();
    for behaviour in ["error=400", "error=401", "error=429", "error=500"] {
        let run = scene.exec(&[], &python(&scene, "litellm", behaviour));
        run.assert_clean();
        assert_eq!(run.calls.len(), 4, "{:#?}", run.calls);
        scene.assert_truth_of(&run.calls);
        for seen in &run.client {
            let call = &run.calls[0];
            assert_eq!(call["error_type"], seen["error_type"], "{call:#} {seen}");
            let message = call["error_message"].as_str().expect("a message");
            let (_, said) = message.split_once(" - ").expect("a code and a message");
            let shown = seen["error_message"].as_str().expect("a message");
            assert!(shown.contains(said), "{shown} without {said}");
        }
    }
}

/// What breaks off, and what fails in the middle of a stream.
#[test]
fn streams_that_break_off() {
    let scene = Scene::new();
    for (behaviour, operation, incomplete) in [
        ("stream-error=3", "completions-stream", Value::Null),
        (
            "cut=3; events=9",
            "completions-stream",
            "server_disconnected".into(),
        ),
        (
            "cut=3; events=9",
            "transcription-stream",
            "server_disconnected".into(),
        ),
        ("cut=1", "images-stream", "server_disconnected".into()),
        ("cut=5", "responses-stream", "server_disconnected".into()),
    ] {
        let arguments = ["--behaviour", behaviour, operation];
        let run = scene.exec(&[], &scene.script("openai/calls.py", arguments));
        run.assert_clean();
        let (call, seen) = (run.only_call(), &run.client[0]);
        assert_eq!(call["incomplete"], incomplete, "{operation}: {call:#}");
        for field in ["error_type", "error_message"] {
            assert!(seen[field].is_string(), "{operation}: {seen}");
            assert_eq!(call[field], seen[field], "{operation}: {call:#}");
        }
    }
}

#[test]
fn langchain() {
    let scene = Scene::new();
    let version = version(&environment("langchain"), "langchain-openai");
    let row = row("Python langchain-openai", &version, "1.1");
    for behaviour in ["events=20; token-ms=2", "tools=1"] {
        let run = scene.cover(&row, 6, &[], &python(&scene, "langchain", behaviour));
        assert_no_errors(&run);
        scene.assert_truth_of(&run.calls);
    }
    // Its exceptions derive from those of openai-python, by which it calls.
    let run = scene.exec(&[], &python(&scene, "langchain", "error=429"));
    assert_eq!(run.calls.len(), 6, "{:#?}", run.calls);
    for (call, seen) in run.calls.iter().zip(&run.client) {
        let (class, raised) = (&call["error_type"], &seen["error_type"]);
        assert_eq!(class, "RateLimitError", "{call:#}");
        assert!(
            raised
                .as_str()
                .is_some_and(|it| it.ends_with("RateLimitError"))
        );
        assert_eq!(call["error_message"], seen["error_message"], "{call:#}");
    }
}

#[test]
fn every_operation_by_npm() {
    let scene = Scene::new();
    let modules = clients::npm("openai-node", &["openai@7.57.0"])
        .unwrap_or_else(|error| panic!("{error:#}"))
        .join("node_modules");
    let say = "console.log(process.versions.node, process.versions.openssl)";
    let (_, versions, _) = output("node", &["-e", say]);
    let (version, library) = versions.trim().split_once(' ').expect("two versions");
    let row = Row {
        runtime: "Node.js (npm openai 7.57.0)",
        version,
        library: &format!("OpenSSL {library}"),
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
