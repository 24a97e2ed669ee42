//! The JDK's own TLS of whatever JVM there is: a program of its own, as it would take the JVMs of other tests.

mod java;

use java::{JAVA_AGENT, client, is_untouched, nobody, readable, replace_classes, round};
use observer_e2e::harness::{Scene, wait_until};

#[test]
fn a_jvm_of_another_user_before_and_after_rights_are_given_up() {
    let scene = Scene::new();
    let copy = readable(&scene);
    let mut command = client(&scene, &[], &["url", "--lines"]);
    replace_classes(&mut command, copy.path());
    let command = nobody(&command);

    let mut before = scene.start(&command);
    assert_eq!(before.line(), "waiting");
    let observer = scene.watch(&["--all", JAVA_AGENT]);
    assert!(!is_untouched(&round(&mut before)));
    let mut after = scene.start(&command);
    assert_eq!(after.line(), "waiting");
    // It is not waited for.
    wait_until("the agent", || !is_untouched(&round(&mut after)));
    // The agent may have come too late for the call of that round.
    round(&mut after);
    let ids = [before.pid(), after.pid()];
    let run = observer.stop();
    for pid in ids {
        let calls = run
            .calls
            .iter()
            .filter(|call| call["pid"].as_u64() == pid.parse().ok());
        assert!(calls.count() >= 1, "{}", run.stderr);
    }
    assert!(before.wait().0.success() && after.wait().0.success());
}
