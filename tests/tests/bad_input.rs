//! What cannot work is said in one clear line, with the right exit code.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use observer_e2e::{
    clients::readable_copy,
    harness::{Scene, binary, output},
};

/// Runs the agent and returns its exit code and the lines of standard error.
fn observer(arguments: &[&str]) -> (i32, Vec<String>) {
    let (status, _, stderr) = output(binary(), arguments);
    (status, stderr.lines().map(str::to_owned).collect())
}

#[test]
fn a_pid_that_is_not_there() {
    let (status, lines) = observer(&["watch", "--pid", "4194304"]);
    assert_eq!((status, lines.len()), (1, 1), "{lines:?}");
    assert!(lines[0].contains("no process 4194304"), "{lines:?}");
    let (status, _) = observer(&["check", "--pid", "4194304"]);
    assert_eq!(status, 1);
}

#[test]
fn a_pid_without_tls() {
    let scene = Scene::new();
    let client = scene.start(&["sleep".into(), "60".into()]);
    let run = scene.watch(&["--pid", &client.pid()]).stop();
    run.assert_clean();
    let said: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.contains("TLS"))
        .collect();
    assert_eq!(said.len(), 1, "{}", run.stderr);
    let (status, stdout, _) = output(binary(), &["check", "--pid", &client.pid()]);
    assert_eq!(status, 1);
    assert!(stdout.contains("not mapped a TLS library"), "{stdout}");
}

#[test]
fn no_privileges() {
    let folder = tempfile::tempdir().unwrap();
    let copy = readable_copy(&binary(), folder.path()).unwrap();
    for arguments in [&["watch", "--all"][..], &["exec", "--", "true"], &["check"]] {
        let result = Command::new(&copy)
            .args(arguments)
            .uid(65534)
            .gid(65534)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(result.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8_lossy(if arguments == ["check"] {
            &result.stdout
        } else {
            &result.stderr
        });
        assert!(said.contains("sudo"), "{said}");
        assert!(
            arguments == ["check"] || said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn no_btf() {
    let scene = Scene::new();
    let hidden = "mount -t tmpfs tmpfs /sys/kernel/btf && exec \"$@\"";
    let binary = binary();
    let check = [
        "--mount",
        "sh",
        "-c",
        hidden,
        "sh",
        binary.to_str().unwrap(),
        "check",
    ];
    let (status, stdout, stderr) = output("unshare", &check);
    assert_eq!(status, 0, "{stdout}{stderr}");
    assert!(stdout.contains("not there; not needed"), "{stdout}");
    let mut command = scene.script("calls.py", []);
    let mut all = vec![binary.clone().into(), "exec".into(), "--".into()];
    all.append(&mut command);
    let mut process = Command::new("unshare");
    process
        .args(["--mount", "sh", "-c", hidden, "sh"])
        .args(all)
        .env("SSL_CERT_FILE", scene.provider.ca());
    let result = process.output().unwrap();
    assert!(result.status.success());
    assert!(String::from_utf8_lossy(&result.stdout).contains(r#""type":"llm_call""#));
}

#[test]
fn an_output_that_cannot_be_written() {
    let (status, lines) = observer(&["exec", "--output", "/does/not/exist/file", "--", "true"]);
    assert_eq!((status, lines.len()), (1, 1), "{lines:?}");
    assert!(lines[0].contains("/does/not/exist/file"), "{lines:?}");
}

#[test]
fn a_full_disk() {
    let scene = Scene::new();
    let mut process = Command::new(binary());
    process
        .args(["exec", "--output", "/dev/full", "--"])
        .args(scene.script("calls.py", ["--count", "3", "--every", "0.3"]))
        .env("SSL_CERT_FILE", scene.provider.ca());
    let result = process.output().unwrap();
    let stderr = String::from_utf8_lossy(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot write to /dev/full: No space left on device"),
        "{stderr}"
    );
    // The command is not harmed by it.
    assert_eq!(scene.provider.truth().len(), 3);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scene = Scene::new();
    let mut process = Command::new("sh");
    process
        .args(["-c", "\"$@\" | head -c 1 >/dev/null", "sh"])
        .arg(binary())
        .args(["exec", "--"])
        .args(scene.script("calls.py", ["--count", "3"]))
        .env("SSL_CERT_FILE", scene.provider.ca());
    let result = process.output().unwrap();
    let stderr = String::from_utf8_lossy(&result.stderr);
    assert!(
        result.status.success() && !stderr.contains("cannot write"),
        "{stderr}"
    );
}

#[test]
fn usage_errors_are_2() {
    for arguments in [
        &["watch"][..],
        &["watch", "--all", "--pid", "1"],
        &["watch", "--pid", "x"],
        &["exec"],
        &["exec", "--format", "xml", "--", "true"],
        &["watch", "--all", "--ring-buffer", "3"],
        &["nonsense"],
    ] {
        assert_eq!(observer(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn check_of_a_process_names_the_library_and_its_functions() {
    let scene = Scene::new();
    let client = scene.start(&scene.script("calls.py", ["--count", "50", "--every", "0.1"]));
    client.line();
    let (status, stdout, _) = output(binary(), &["check", "--pid", &client.pid()]);
    assert_eq!(status, 0, "{stdout}");
    for expected in [
        "libssl.so",
        "SSL_write_ex",
        "SSL_read_ex",
        "SSL_free",
        "kernel",
        "accepted by the verifier",
    ] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }
}
