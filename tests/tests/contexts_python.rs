//! Calls of CPython's tasks, by the `contextvars.Context` that they were made in: every version that the machine
//! has.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
};

use observer_e2e::{
    clients,
    harness::{Run, Scene, binary, output},
};
use serde_json::Value;

/// The first minor version whose tasks say what their Context is.
const TASKS_TELL: u32 = 12;

/// Has the agent say which tasks made which.
const LOG: &str = "OBSERVER_LOG=observer=debug";

/// An interpreter, and its minor version.
#[derive(Clone, Debug)]
struct Python {
    command: PathBuf,
    minor: u32,
}

/// What a call is known by, and in what it was made.
#[derive(Debug)]
struct Made {
    case: String,
    /// The task of the record.
    task: Option<u64>,
    /// What the program itself says.
    context: Option<u64>,
    parent: Option<u64>,
}

/// Every CPython of the machine from 3.7 on that has TLS.
fn pythons() -> Vec<Python> {
    let mut commands = vec![PathBuf::from("/usr/bin/python3")];
    let versions = std::env::home_dir().unwrap().join(".pyenv/versions");
    for entry in fs::read_dir(versions).into_iter().flatten() {
        commands.push(entry.unwrap().path().join("bin/python3"));
    }
    let mut pythons: Vec<Python> = commands
        .into_iter()
        .filter_map(|command| {
            let minor = Command::new(&command)
                .args(["-c", "import ssl, sys; print(sys.version_info[1])"])
                .output()
                .ok()
                .filter(|output| output.status.success())?;
            let minor = String::from_utf8(minor.stdout).ok()?.trim().parse().ok()?;
            (minor >= 7).then_some(Python { command, minor })
        })
        .collect();
    pythons.sort_by_key(|python| python.minor);
    assert!(!pythons.is_empty());
    pythons
}

/// A scene whose agent says which tasks made which.
fn scene() -> Scene {
    let mut scene = Scene::new();
    let (name, value) = LOG.split_once('=').unwrap();
    scene.environment.push((name.into(), value.into()));
    scene
}

fn command(scene: &Scene, python: &Python, arguments: &[&str]) -> Vec<OsString> {
    let mut command = vec![
        python.command.clone().into(),
        clients::script("contexts.py").into(),
        scene.provider.url().into(),
    ];
    command.extend(arguments.iter().map(OsString::from));
    command
}

fn exec(scene: &Scene, python: &Python, arguments: &[&str]) -> (Run, Vec<Made>) {
    let run = scene.exec(&[], &command(scene, python, arguments));
    assert!(run.status.success(), "{python:?}: {}", run.stderr);
    let made = made(&run);
    (run, made)
}

/// The same by an agent that knows the interpreter before the program makes its first Context: under `exec` it hears
/// of the interpreter while the program begins, and what was copied until then it cannot tell.
fn watch(scene: &Scene, python: &Python, arguments: &[&str]) -> (Run, Vec<Made>) {
    let mut command = command(scene, python, arguments);
    command.push("--wait".into());
    let mut client = scene.start(&command);
    assert_eq!(client.line(), "ready");
    let observer = scene.watch_by(&["env", LOG], &["--pid", &client.pid()]);
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success(), "{python:?}: {}", observer.said());
    let mut run = observer.wait();
    run.client = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let made = made(&run);
    (run, made)
}

/// The calls of a run, each recorded once.
fn made(run: &Run) -> Vec<Made> {
    let tasks: HashMap<&str, &Value> = run
        .calls
        .iter()
        .map(|call| (call["request_id"].as_str().unwrap(), &call["task"]))
        .collect();
    assert_eq!(run.calls.len(), run.client.len(), "{}", run.stderr);
    let made = run.client.iter().map(|line| {
        let task = tasks[line["request_id"].as_str().unwrap()];
        assert!(
            task.is_null() || task["kind"] == "python_context",
            "{task:#}"
        );
        Made {
            case: line["case"].as_str().unwrap().to_owned(),
            task: task["id"].as_u64(),
            context: line["context"].as_u64(),
            parent: line["parent"].as_u64(),
        }
    });
    made.collect()
}

/// Which task was made by which and when, by what the agent says.
#[derive(Debug)]
struct Creation {
    task: u64,
    parent: Option<u64>,
    at: u64,
}

/// What the agent says of a task that there was at a time: addresses are used again.
fn creation(creations: &[Creation], task: u64, by: u64) -> Option<&Creation> {
    let of_task = creations
        .iter()
        .filter(|one| one.task == task && one.at <= by);
    of_task.max_by_key(|one| one.at)
}

/// What made a task that the agent tells of.
fn parent(creations: &[Creation], task: u64) -> Option<u64> {
    let known = creation(creations, task, u64::MAX);
    known
        .unwrap_or_else(|| panic!("{task} is unknown: {creations:#?}"))
        .parent
}

fn creations(run: &Run) -> Vec<Creation> {
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    run.stderr
        .lines()
        .filter(|line| line.contains("a task was made"))
        .map(|line| Creation {
            task: number(line, " task=").unwrap(),
            parent: number(line, " parent="),
            at: number(line, " at=").unwrap(),
        })
        .collect()
}

/// Asserts that what was recorded is what the program says, where it can.
fn assert_told(python: &Python, made: &[Made], creations: &[Creation]) {
    for call in made {
        if call.context.is_some() {
            assert_eq!(call.task, call.context, "{python:?}: {made:#?}");
        }
        if call.parent.is_some() {
            let known = creation(creations, call.task.unwrap(), u64::MAX);
            let parent = known.and_then(|known| known.parent);
            assert_eq!(
                parent, call.parent,
                "{python:?}: {call:?} of {creations:#?}"
            );
        }
    }
}

/// The name before the last slash.
fn agent(case: &str) -> &str {
    case.rsplit_once('/').unwrap().0
}

/// Asserts that all calls of an agent have one task, and no two agents the same.
fn assert_bijection(made: &[Made]) {
    let mut by_agent: HashMap<&str, HashSet<u64>> = HashMap::new();
    for call in made {
        let task = call
            .task
            .unwrap_or_else(|| panic!("no task: {call:?} of {made:#?}"));
        by_agent.entry(agent(&call.case)).or_default().insert(task);
    }
    assert!(by_agent.values().all(|tasks| tasks.len() == 1), "{made:#?}");
    let tasks: HashSet<u64> = by_agent.values().flatten().copied().collect();
    assert_eq!(tasks.len(), by_agent.len(), "{made:#?}");
}

#[test]
fn tasks_side_by_side_are_told_apart() {
    for python in pythons() {
        let scene = scene();
        let (run, made) = watch(&scene, &python, &["tasks"]);
        assert_eq!(made.len(), 60);
        assert_bijection(&made);
        let creations = creations(&run);
        assert_told(&python, &made, &creations);
        let of: HashSet<Option<u64>> = made
            .iter()
            .map(|call| parent(&creations, call.task.unwrap()))
            .collect();
        assert_eq!(of.len(), 1, "{python:?}: one task made all: {creations:#?}");
        assert!(of.iter().all(Option::is_some), "{python:?}: {creations:#?}");
        if python.minor >= TASKS_TELL {
            assert!(made.iter().all(|call| call.context.is_some()));
        }
    }
}

#[test]
fn contexts_that_are_entered_by_hand_are_those_that_the_program_names() {
    for python in pythons() {
        let scene = scene();
        let (run, made) = watch(&scene, &python, &["runs", "--count", "1"]);
        let creations = creations(&run);
        let of = |name: &str| made.iter().find(|call| agent(&call.case) == name).unwrap();
        // The thread's own is not entered.
        assert_eq!(of("base").task, None, "{python:?}");
        assert_told(&python, &made, &creations);
        assert_eq!(creations.len(), 3, "{python:?}: {creations:#?}");
        assert_eq!(
            parent(&creations, of("outer").task.unwrap()),
            None,
            "{python:?}"
        );
    }
}

#[test]
fn threads_are_all_there_is_without_tasks() {
    let scene = scene();
    for python in pythons() {
        let (_, made) = exec(&scene, &python, &["threads", "--tasks", "4"]);
        assert_eq!(made.len(), 12);
        assert!(made.iter().all(|call| call.task.is_none()), "{made:#?}");
    }
}

#[test]
fn threads_of_a_pool_work_in_a_copy_if_they_are_given_one() {
    for python in pythons() {
        let scene = scene();
        let (run, made) = watch(&scene, &python, &["executors", "--count", "2"]);
        let creations = creations(&run);
        assert_told(&python, &made, &creations);
        let tasks = |name: &str| -> HashSet<Option<u64>> {
            let calls = made.iter().filter(|call| agent(&call.case) == name);
            calls.map(|call| call.task).collect()
        };
        assert_eq!(tasks("executor"), HashSet::from([None]), "{python:?}");
        let copied = tasks("copied");
        assert_eq!(copied.len(), 1, "{python:?}: {made:#?}");
        let maker = parent(&creations, copied.into_iter().next().unwrap().unwrap());
        assert!(maker.is_some(), "{python:?}");
        if python.minor >= 9 {
            let task = tasks("to_thread").into_iter().next().unwrap().unwrap();
            assert_eq!(parent(&creations, task), maker, "{python:?}");
        }
    }
}

#[test]
fn tasks_of_tasks_are_led_back_to_the_first() {
    for python in pythons() {
        let scene = scene();
        let (run, made) = watch(&scene, &python, &["nested", "--count", "2"]);
        assert_eq!(made.len(), 14);
        assert_bijection(&made);
        let creations = creations(&run);
        assert_told(&python, &made, &creations);
        let line = |name: &str| -> Vec<u64> {
            let mut task = made
                .iter()
                .find(|call| agent(&call.case) == name)
                .and_then(|call| call.task);
            let (mut line, mut by) = (Vec::new(), u64::MAX);
            while let Some(one) = task {
                line.push(one);
                let known = creation(&creations, one, by)
                    .unwrap_or_else(|| panic!("{python:?}: {one} is unknown: {creations:#?}"));
                // What made it was there before.
                (task, by) = (known.parent, known.at - 1);
            }
            line
        };
        let mut middles = HashSet::new();
        let mut firsts = HashSet::new();
        for middle in 0..3 {
            let [one, other] = [0, 1].map(|inner| line(&format!("middle-{middle}/{inner}")));
            assert_eq!(one[1..], other[1..], "{python:?}");
            assert_eq!(one.len(), 3, "{python:?}: {one:?}");
            middles.insert(one[1]);
            firsts.insert(one[2]);
        }
        assert_eq!((middles.len(), firsts.len()), (3, 1), "{python:?}");
        // Made by a callback, in a Context for the moment, which is from the first task's.
        assert_eq!(line("callback").last(), firsts.iter().next(), "{python:?}");
    }
}

#[test]
fn a_child_that_is_forked_is_read_like_its_parent() {
    let scene = scene();
    for python in pythons() {
        let (_, made) = exec(
            &scene,
            &python,
            &["tasks", "--tasks", "3", "--count", "2", "--fork"],
        );
        assert_eq!(made.len(), 6);
        assert_bijection(&made);
    }
}

#[test]
fn an_sdk_in_tasks_is_told_apart_whatever_the_loop() {
    let scene = scene();
    for options in [&[][..], &["--uvloop"]] {
        let arguments = ["--mode", "async", "--tasks", "20", "--count", "3"];
        let arguments = arguments.iter().chain(options).copied();
        let run = scene.exec(&[], &scene.script("calls.py", arguments));
        run.assert_clean();
        assert_eq!(run.calls.len(), 60);
        let cases: HashMap<String, String> = scene
            .provider
            .truth()
            .iter()
            .filter_map(|truth| {
                let text = |name: &str| Some(truth[name].as_str()?.to_owned());
                Some((text("request_id")?, text("test")?))
            })
            .collect();
        let made: Vec<Made> = run
            .calls
            .iter()
            .map(|call| {
                assert_eq!(call["task"]["kind"], "python_context", "{call:#}");
                Made {
                    case: cases[call["request_id"].as_str().unwrap()].clone(),
                    task: call["task"]["id"].as_u64(),
                    context: None,
                    parent: None,
                }
            })
            .collect();
        assert_bijection(&made);
    }
}

#[test]
fn check_says_whether_tasks_are_read() {
    for python in pythons() {
        let mut sleeper = Command::new(&python.command)
            .args(["-c", "import ssl; print(1, flush=True); input()"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = sleeper.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let pid = sleeper.id().to_string();
        let (_, said, _) = output(binary(), &["check", "--pid", &pid]);
        drop(sleeper.stdin.take());
        sleeper.wait().unwrap();
        let wanted = format!("tasks of CPython 3.{}", python.minor);
        assert!(
            said.lines()
                .any(|line| line.contains(&wanted) && line.contains("are read")),
            "{said}"
        );
    }
}
