//! What infinium-o2's `watch()` records inside the process, observer records from outside: the same
//! ten fields, for the same calls of the same process.

use std::time::Duration;

use observer_e2e::harness::Scene;
use serde_json::Value;

/// The fields that must be equal; latency is compared by itself.
const FIELDS: &[&str] = &[
    "provider",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "temperature",
    "error_type",
    "error_message",
    "input_preview",
    "output_preview",
];

#[test]
fn every_field_of_every_call_is_that_of_watch() {
    let scene = Scene::new();
    // infinium-o2's limits of previews are 500 and 1,500.
    let options = ["--capture-content", "--preview-chars", "1500"];
    let run = scene.exec(&options, &scene.script("parity.py", []));
    run.assert_clean();
    assert!(
        run.client.len() > 100,
        "{} calls: {}",
        run.client.len(),
        run.stderr
    );
    let truth = scene.provider.truth();
    let mut compared = 0;
    for theirs in &run.client {
        let request = truth
            .iter()
            .find(|truth| truth["test"] == theirs["case"])
            .expect("the call's truth");
        let ours: Vec<&Value> = run
            .calls
            .iter()
            .filter(|call| call["request_id"] == request["request_id"])
            .collect();
        assert_eq!(ours.len(), 1, "{theirs:#}");
        let ours = ours[0];
        for field in FIELDS {
            // A stream keeps the requested model in infinium-o2, a plain call takes the response's.
            let mine = match *field {
                "model" if theirs["provider"] != "google" && theirs["stream"] == false => {
                    if ours["response_model"].is_null() {
                        &ours["model"]
                    } else {
                        &ours["response_model"]
                    }
                }
                field => &ours[field],
            };
            let same = match (mine.as_f64(), theirs[field].as_f64()) {
                (Some(mine), Some(theirs)) => mine == theirs,
                _ => *mine == theirs[field],
            };
            assert!(
                same,
                "{field} of {}: {mine}\nagainst {}",
                theirs["what"], theirs[field]
            );
        }
        // Their clock of a stream starts at the response's head, and stays unset if it is left.
        if theirs["stream"] == false {
            let mine = Duration::from_nanos(ours["latency_ns"].as_u64().unwrap());
            let theirs = Duration::from_nanos(theirs["latency_ns"].as_u64().unwrap());
            assert!(
                mine <= theirs + Duration::from_millis(1),
                "{mine:?} against {theirs:?}"
            );
        }
        compared += 1;
    }
    assert_eq!(
        compared,
        run.calls.len(),
        "observer saw calls that watch() did not"
    );
}
