//! Content is opt-in, and credentials never leave.

use observer_e2e::harness::Scene;

const PROMPT: &str = "My secret prompt is BLUE-HERON";
const KEY: &str = "THIS-KEY-IS-SECRET";

#[test]
fn without_the_option_no_content_reaches_records_or_logs() {
    let mut scene = Scene::new();
    scene.environment = vec![("OBSERVER_LOG".into(), "trace".into())];
    for sdk in ["openai", "xai", "anthropic", "google"] {
        for mode in ["sync", "stream"] {
            let arguments = [
                "--sdk", sdk, "--mode", mode, "--prompt", PROMPT, "--system", PROMPT,
            ];
            let run = scene.exec(&[], &scene.script("calls.py", arguments));
            assert!(
                run.stderr.contains("TRACE"),
                "the log tells all: {}",
                run.stderr
            );
            run.assert_clean();
            assert_eq!(run.calls.len(), 1);
            assert!(
                run.calls[0]["input_preview"].is_null() && run.calls[0]["output_preview"].is_null()
            );
            let said = format!("{}{}", run.raw, run.stderr);
            assert!(
                !said.contains("BLUE-HERON") && !said.contains(KEY),
                "{said}"
            );
            let truth = scene.provider.truth();
            let answer = truth.last().unwrap()["text"].as_str().unwrap().to_owned();
            for word in ["straße", "naïve", "漢字", "capitale"] {
                assert!(!answer.contains(word) || !said.contains(word), "{said}");
            }
        }
    }
}

#[test]
fn previews_are_what_was_said() {
    let scene = Scene::new();
    for sdk in ["openai", "anthropic", "google"] {
        for mode in ["sync", "stream", "async-stream"] {
            let arguments = ["--sdk", sdk, "--mode", mode, "--prompt", PROMPT];
            let run = scene.exec(&["--capture-content"], &scene.script("calls.py", arguments));
            run.assert_clean();
            let call = run.only_call();
            let input = match sdk {
                "google" => PROMPT.to_owned(),
                _ => format!("[system] Be brief.\n[user] {PROMPT}"),
            };
            assert_eq!(call["input_preview"], input);
            let truth = scene.provider.truth();
            assert_eq!(
                call["output_preview"],
                truth.last().unwrap()["text"],
                "{sdk} {mode}"
            );
            assert!(!run.raw.contains(KEY));
        }
    }
}

#[test]
fn previews_are_cut_at_characters() {
    let scene = Scene::new();
    let prompt = "漢".repeat(600);
    let arguments = [
        "--sdk",
        "google",
        "--prompt",
        &prompt,
        "--behaviour",
        "events=100",
    ];
    let run = scene.exec(
        &["--capture-content", "--preview-chars", "20"],
        &scene.script("calls.py", arguments),
    );
    let call = run.only_call();
    assert_eq!(call["input_preview"], format!("{}...", "漢".repeat(500)));
    assert_eq!(call["output_preview"].as_str().unwrap().chars().count(), 23);
}

#[test]
fn a_file_of_records_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::new();
    let run = scene.exec(&["--capture-content"], &scene.script("calls.py", []));
    run.assert_clean();
    let mode = scene
        .folder
        .path()
        .join("records.jsonl")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}
