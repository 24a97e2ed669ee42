//! Go programs: several versions of Go, built in several ways, with symbols and without.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use observer_e2e::{
    coverage::Row,
    golang::Build,
    harness::{Client, Run, Scene, binary, output, slack},
};
use serde_json::Value;

const LOCAL: Build = Build::new("http", "local");

/// A program, and what it is called in the table of the coverage.
struct Variant {
    build: Build,
    how: &'static str,
    symbols: &'static str,
}

const VARIANTS: &[Variant] = &[
    Variant {
        build: LOCAL,
        how: "",
        symbols: "symbols",
    },
    Variant {
        build: Build::with("http", "local", &["-ldflags=-s -w"]),
        how: " -s -w",
        symbols: "stripped",
    },
    // The table of functions does not tell where the text begins, and it is not where its section begins.
    Variant {
        build: Build::with(
            "http",
            "local",
            &["-buildmode=pie", "-ldflags=-linkmode=external -s -w"],
        ),
        how: " -buildmode=pie, by the C linker, -s -w",
        symbols: "stripped",
    },
    Variant {
        build: Build {
            cgo: false,
            ..Build::with("http", "local", &["-trimpath", "-ldflags=-s -w"])
        },
        how: " without cgo, -trimpath -s -w",
        symbols: "stripped",
    },
    // Not optimised, and with frames of several hundred bytes.
    Variant {
        build: Build::with("http", "local", &["-gcflags=crypto/tls=-N -l"]),
        how: " -N -l",
        symbols: "symbols",
    },
    Variant {
        build: Build::with("http", "1.24.9", &["-ldflags=-s -w"]),
        how: " -s -w",
        symbols: "stripped",
    },
    // The table of functions has no section of its own.
    Variant {
        build: Build::with(
            "http",
            "1.24.9",
            &["-buildmode=pie", "-ldflags=-linkmode=external -s -w"],
        ),
        how: " -buildmode=pie, by the C linker, -s -w",
        symbols: "stripped",
    },
    Variant {
        build: Build::with("http", "1.21.13", &["-ldflags=-s -w"]),
        how: " -s -w",
        symbols: "stripped",
    },
    // Its functions begin with other instructions, and its addresses are relocated.
    Variant {
        build: Build::with("http", "1.18.10", &["-buildmode=pie", "-ldflags=-s -w"]),
        how: " -buildmode=pie -s -w",
        symbols: "stripped",
    },
];

fn program(build: Build) -> PathBuf {
    build.program().unwrap_or_else(|error| panic!("{error:#}"))
}

fn command(scene: &Scene, program: &Path, arguments: &[&str]) -> Vec<OsString> {
    let mut command = vec![program.into(), "-url".into(), scene.provider.url().into()];
    command.extend(arguments.iter().map(OsString::from));
    command
}

/// Asserts that each call was recorded with the goroutine that has made it, as it says itself.
fn assert_goroutines(run: &Run) {
    assert_tasks(run, "goroutine");
}

/// Asserts that each call was recorded with the goroutine that the client names so.
fn assert_tasks(run: &Run, who: &str) {
    let said: HashMap<&str, &Value> = run
        .client
        .iter()
        .filter_map(|line| Some((line["request_id"].as_str()?, &line[who])))
        .collect();
    assert!(!run.calls.is_empty());
    for call in &run.calls {
        let by = call["request_id"].as_str().and_then(|id| said.get(id));
        assert_eq!(by, Some(&&call["task"]["id"]), "{call:#}");
        assert_eq!(call["task"]["kind"], "goroutine");
    }
}

#[test]
fn every_version_however_it_is_built() {
    let scene = Scene::new();
    for Variant {
        build,
        how,
        symbols,
    } in VARIANTS
    {
        let version = build.go_version().expect("a version");
        let row = Row {
            runtime: &format!("Go net/http{how}"),
            version: &version,
            library: "crypto/tls",
            linkage: "runtime",
            symbols,
            http: "1.1",
        };
        let arguments = ["-goroutines", "4", "-count", "6", "-stream", "every-other"];
        let run = scene.cover(
            &row,
            24,
            &[],
            &command(&scene, &program(*build), &arguments),
        );
        assert_eq!(run.calls.len(), 24);
        assert_goroutines(&run);
    }
}

#[test]
fn http_2_with_interleaved_streams() {
    let scene = Scene::with_seed(5);
    for index in [0, 1, 5, 7, 8] {
        let Variant {
            build,
            how,
            symbols,
        } = &VARIANTS[index];
        let version = build.go_version().expect("a version");
        let row = Row {
            runtime: &format!("Go net/http{how}"),
            version: &version,
            library: "crypto/tls",
            linkage: "runtime",
            symbols,
            http: "2",
        };
        let mut arguments = vec![
            "-http=2",
            "-goroutines=8",
            "-count=4",
            "-stream=every-other",
        ];
        arguments.extend(["-behaviour", "events=25;token-ms=3"]);
        let run = scene.cover(
            &row,
            32,
            &[],
            &command(&scene, &program(*build), &arguments),
        );
        assert_eq!(run.calls.len(), 32);
        // Before Go 1.21 a goroutine does not know which one created it.
        let knows_creator = !version.starts_with("1.18");
        assert_tasks(&run, if knows_creator { "goroutine" } else { "writer" });
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn http_2_with_large_requests_and_calls_that_are_given_up() {
    let scene = Scene::new();
    let program = program(LOCAL);
    let arguments = ["-http=2", "-prompt-bytes=8388608", "-goroutines=2"];
    let run = scene.exec(&[], &command(&scene, &program, &arguments));
    run.assert_clean();
    assert_eq!(run.calls.len(), 2);
    scene.provider.wait_for(2);
    scene.assert_truth(&run.calls);
    let mut arguments = vec!["-http=2", "-goroutines=3", "-stream=yes", "-cancel-after=5"];
    arguments.extend(["-behaviour", "events=200;token-ms=5"]);
    let run = scene.exec(&[], &command(&scene, &program, &arguments));
    run.assert_clean();
    assert_eq!(run.calls.len(), 3, "{:#?}", run.calls);
    for call in &run.calls {
        assert_eq!(call["incomplete"], "client_cancelled", "{call:#}");
    }
}

/// Google's generated client on grpc-go: eight goroutines, one connection.
#[test]
fn grpc() {
    let scene = Scene::with_seed(2);
    let build = Build::with("grpc", "local", &["-ldflags=-s -w"]);
    let row = Row {
        runtime: "Go grpc-go 1.85 -s -w",
        version: &build.go_version().expect("a version"),
        library: "crypto/tls",
        linkage: "runtime",
        symbols: "stripped",
        http: "2 (gRPC)",
    };
    let command: Vec<OsString> = vec![program(build).into(), scene.provider.url().into()];
    let run = scene.cover(&row, 16, &[], &command);
    assert_eq!(run.calls.len(), 16);
    scene.assert_truth_of(&run.calls);
    let count = |lines: &[Value]| {
        let mut counts: Vec<u64> = lines
            .iter()
            .filter_map(|line| line["completion_tokens"].as_u64())
            .collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!(count(&run.calls), count(&run.client));
}

#[test]
fn twenty_goroutines_with_connections_kept_and_not() {
    let scene = Scene::with_seed(3);
    let program = program(LOCAL);
    for more in [&[][..], &["-fresh"]] {
        let mut arguments = vec!["-goroutines", "20", "-count", "5", "-stream", "every-other"];
        arguments.extend(more);
        let run = scene.exec(&[], &command(&scene, &program, &arguments));
        run.assert_clean();
        assert_eq!(run.calls.len(), 100);
        assert_goroutines(&run);
        scene.assert_truth_of(&run.calls);
    }
}

#[test]
fn a_stream_is_measured_to_its_last_byte() {
    let scene = Scene::new();
    // Long enough that the client may read the first event late.
    let arguments = ["-stream", "yes", "-behaviour", "events=40;token-ms=50"];
    let run = scene.exec(&[], &command(&scene, &program(LOCAL), &arguments));
    scene.assert_truth(&run.calls);
    let call = run.only_call();
    let [latency, first] =
        ["latency_ns", "time_to_first_token_ns"].map(|field| call[field].as_u64().expect("a time"));
    assert!(latency >= 2_000_000_000 && first < latency / 2, "{call:#}");
}

#[test]
fn large_requests_arrive_whole() {
    let scene = Scene::new();
    let arguments = ["-prompt-bytes", "8388608", "-count", "2"];
    let run = scene.exec(&[], &command(&scene, &program(LOCAL), &arguments));
    run.assert_clean();
    scene.provider.wait_for(2);
    scene.assert_truth(&run.calls);
    let (captured, ..) = run.captured();
    assert!(captured > 2 * (8 << 20), "{captured}");
    assert_goroutines(&run);
}

#[test]
fn a_call_that_is_given_up() {
    let scene = Scene::new();
    let mut arguments = vec!["-goroutines", "3", "-stream", "yes", "-cancel-after", "5"];
    arguments.extend(["-behaviour", "events=200;token-ms=5"]);
    let run = scene.exec(&[], &command(&scene, &program(LOCAL), &arguments));
    run.assert_clean();
    assert_eq!(run.calls.len(), 3, "{:#?}", run.calls);
    // The provider may notice later than the client that the call is over.
    let truth = scene.provider.wait_for(3);
    let times = |lines: &[Value], field: &str| -> Vec<Duration> {
        let times = lines.iter().filter_map(|line| line[field].as_u64());
        times.map(Duration::from_nanos).collect()
    };
    let seen = [times(&truth, "server_ns"), times(&run.client, "elapsed_ns")].concat();
    let longest = seen.into_iter().max().expect("a time");
    for call in &run.calls {
        assert_eq!(call["incomplete"], "client_cancelled", "{call:#}");
        assert_eq!(call["model"], "gpt-4o");
        assert_eq!(call["response_model"], "gpt-4o-2024-08-06");
        let latency = Duration::from_nanos(call["latency_ns"].as_u64().expect("a time"));
        // The whole would have taken a second.
        assert!(
            latency <= longest + slack(longest),
            "of {longest:?}: {call:#}"
        );
    }
    assert_goroutines(&run);
}

/// Writes and reads that make the stack grow, so that the function begins twice; stacks that move while a
/// goroutine waits in a read, and a buffer on them that moves too.
#[test]
fn stacks_that_grow_and_move() {
    let scene = Scene::new();
    let program = program(LOCAL);
    let slow = "events=40;token-ms=3";
    for arguments in [
        [
            "-mode=raw",
            "-small",
            "-count=20",
            "-goroutines=4",
            "-stream=every-other",
            "-shrink=false",
        ],
        [
            "-mode=raw",
            "-small",
            "-count=2",
            "-goroutines=8",
            "-stream=yes",
            "-shrink",
        ],
        [
            "-mode=raw",
            "-depth=60",
            "-count=2",
            "-goroutines=8",
            "-stream=yes",
            "-shrink",
        ],
        [
            "-mode=http",
            "-depth=100",
            "-count=3",
            "-goroutines=8",
            "-stream=yes",
            "-shrink",
        ],
    ] {
        let mut arguments = arguments.to_vec();
        if arguments.contains(&"-shrink") {
            arguments.extend(["-behaviour", slow]);
        }
        let run = scene.exec(&[], &command(&scene, &program, &arguments));
        run.assert_clean();
        assert_eq!(run.calls.len(), run.client.len(), "{arguments:?}");
        assert_goroutines(&run);
        scene.assert_truth_of(&run.calls);
    }
}

/// net/http waits for the next answer in a read that began when the one before was over.
#[test]
fn attached_while_a_goroutine_waits_in_a_read() {
    let scene = Scene::new();
    for build in [
        LOCAL,
        VARIANTS[4].build,
        VARIANTS[7].build,
        VARIANTS[8].build,
    ] {
        let arguments = ["-count", "3", "-wait-between"];
        let mut client = scene.start(&command(&scene, &program(build), &arguments));
        let mut lines = vec![client.line()];
        let observer = scene.watch(&["--pid", &client.pid()]);
        for _ in 0..2 {
            client.go_on();
            lines.push(client.line());
        }
        assert!(client.wait().0.success());
        let run = observer.stop();
        run.assert_clean();
        assert_eq!(run.calls.len(), 2, "{build:?}: {:#?}", run.calls);
        scene.assert_truth_of(&run.calls);
        let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    }
}

#[test]
fn a_server_in_the_same_process_adds_nothing() {
    let scene = Scene::new();
    let arguments = ["-mode", "server", "-count", "5"];
    let run = scene.exec(&[], &command(&scene, &program(LOCAL), &arguments));
    run.assert_clean();
    assert_eq!(run.calls.len(), 5, "{:#?}", run.calls);
    for call in &run.calls {
        assert_eq!(call["request_id"], "of-the-server");
        assert_eq!(call["completion_tokens"], 2);
        assert!(call["incomplete"].is_null(), "{call:#}");
    }
}

#[test]
fn no_process_dies_under_load() {
    let scene = Scene::new();
    let program = program(LOCAL);
    for (debug, percent) in [("asyncpreemptoff=0", "1"), ("gcstoptheworld=1", "10")] {
        let arguments = [
            "-goroutines=100",
            "-count=10",
            "-stream=every-other",
            "-wait-for-stdin",
        ];
        let mut client = scene.command(&command(&scene, &program, &arguments));
        client.env("GODEBUG", debug).env("GOGC", percent);
        let run = watched(&scene, Client::start(client));
        assert_eq!(run.client.len(), 1000);
        assert_eq!(run.calls.len(), 1000);
        assert_goroutines(&run);
    }
}

/// Has the agent watch a client that waits, then lets it go on to its end. The client says what it saw.
fn watched(scene: &Scene, mut client: Client) -> Run {
    assert_eq!(client.line(), "waiting");
    let observer = scene.watch(&["--pid", &client.pid()]);
    client.go_on();
    let (status, lines) = client.wait();
    assert!(status.success(), "{status}");
    let mut run = observer.stop();
    run.assert_clean();
    run.client = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let _ = fs::remove_file(scene.folder.path().join("watched.jsonl"));
    run
}

#[test]
fn openai_sdk() {
    let scene = Scene::new();
    let build = Build::with("openai", "local", &["-ldflags=-s -w"]);
    let version = build.go_version().expect("a version");
    let row = Row {
        runtime: "Go openai-go 3.98.0 -s -w",
        version: &version,
        library: "crypto/tls",
        linkage: "runtime",
        symbols: "stripped",
        http: "1.1",
    };
    let command: Vec<OsString> = vec![program(build).into(), scene.provider.url().into()];
    let run = scene.cover(&row, 7, &[], &command);
    assert_eq!(run.calls.len(), 7);
    let said: Vec<&Value> = run
        .client
        .iter()
        .map(|line| &line["completion_tokens"])
        .collect();
    let recorded: Vec<&Value> = run
        .calls
        .iter()
        .map(|call| &call["completion_tokens"])
        .collect();
    assert_eq!(recorded[..6], said[..]);
    assert_eq!(run.calls[6]["status_code"], 429);
}

fn check(path: &Path) -> Value {
    let file = path.to_str().expect("a path");
    let (_, report, _) = output(binary(), &["check", "--file", file, "--format", "json"]);
    serde_json::from_str(&report).expect("a report")
}

/// Names, places and instructions of the probes.
fn places(report: &Value) -> Vec<(String, u64, String)> {
    let libraries = report["libraries"].as_array().expect("libraries");
    assert_eq!(libraries.len(), 1, "{report:#}");
    assert_eq!(libraries[0]["library"], "Go crypto/tls");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    libraries[0]["probes"]
        .as_array()
        .expect("probes")
        .iter()
        .map(|probe| {
            let offset = probe["offset"].as_u64().unwrap_or_default();
            (text(&probe["function"]), offset, text(&probe["site"]))
        })
        .collect()
}

/// A copy of a program with some bytes changed.
fn changed(scene: &Scene, program: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(program).expect("the program");
    change(&mut bytes);
    let copy = scene.folder.path().join("changed");
    fs::write(&copy, bytes).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("a program");
    copy
}

#[test]
fn places_are_those_of_the_symbols() {
    for Variant { build, symbols, .. } in VARIANTS {
        let program = program(*build);
        let places = places(&check(&program));
        let of = |function: &str, site: &str| {
            let function = format!("crypto/tls.(*Conn).{function}");
            places
                .iter()
                .filter(|place| place.0 == function && place.2 == site)
                .count()
        };
        assert_eq!(of("Write", "jbe") + of("Write", "jb"), 1, "{places:?}");
        assert_eq!(
            of("Read", "ret"),
            disassembled(&program, *symbols == "symbols"),
            "{build:?}"
        );
        let begins = |package: &str| {
            places
                .iter()
                .filter(|place| {
                    place.0.starts_with(package) && matches!(place.2.as_str(), "push" | "sub")
                })
                .count()
        };
        assert_eq!(begins("crypto/tls"), 3, "{places:?}");
        // The calls of HTTP/1.1 and HTTP/2, the server, and its requests of HTTP/2.
        assert_eq!(begins("net/http"), 4, "{places:?}");
    }
}

/// How many `ret` Go's own disassembler finds in `Read`.
fn disassembled(program: &Path, has_symbols: bool) -> usize {
    if !has_symbols {
        // All versions have as many.
        return 7;
    }
    let path = program.to_str().expect("a path");
    let name = r"^crypto/tls\.\(\*Conn\)\.Read$";
    let (_, text, _) = output("go", &["tool", "objdump", "-s", name, path]);
    text.lines()
        .filter(|line| line.trim_end().ends_with("RET"))
        .count()
}

#[test]
fn without_a_table_of_sections() {
    let scene = Scene::new();
    // One whose table of functions lies among what is relocated, and one where it does not.
    for variant in [&VARIANTS[6], &VARIANTS[1]] {
        let program = program(variant.build);
        let bare = changed(&scene, &program, |bytes| {
            // e_shoff; e_shnum and e_shstrndx
            bytes[0x28..0x30].fill(0);
            bytes[0x3c..0x40].fill(0);
        });
        assert_eq!(places(&check(&bare)), places(&check(&program)));
        let run = scene.exec(&[], &command(&scene, &bare, &["-count", "3"]));
        run.assert_clean();
        assert_eq!(run.calls.len(), 3);
        assert_goroutines(&run);
    }
}

#[test]
fn a_version_that_is_not_known_is_captured_by_thread() {
    let scene = Scene::new();
    let version = format!("go{}", LOCAL.go_version().expect("a version"));
    let newer = version.replacen("go1.2", "go1.9", 1);
    let other = changed(&scene, &program(LOCAL), |bytes| {
        // Another build: NT_GNU_BUILD_ID of 20 bytes.
        if let Some(at) = find(bytes, b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") {
            bytes[at + 16] ^= 1;
        }
        let info = find(bytes, b"\xff Go buildinf:").expect("build information");
        let at = info + find(&bytes[info..], version.as_bytes()).expect("the version");
        bytes[at..at + newer.len()].copy_from_slice(newer.as_bytes());
    });
    let report = check(&other);
    let how = report["libraries"][0]["found_by"]
        .as_str()
        .unwrap_or_default();
    assert!(
        how.contains(&newer) && how.contains("does not know how it numbers goroutines"),
        "{how}"
    );
    let run = scene.exec(&[], &command(&scene, &other, &["-count", "3"]));
    run.assert_clean();
    scene.assert_truth(&run.calls);
    for call in &run.calls {
        assert!(call["task"].is_null(), "{call:#}");
    }
}

#[test]
fn a_table_that_is_not_known_is_refused() {
    let scene = Scene::new();
    let other = changed(&scene, &program(LOCAL), |bytes| {
        while let Some(at) = find(bytes, b"\xf1\xff\xff\xff\0\0\x01\x08") {
            bytes[at] = 0xe0;
        }
    });
    let report = check(&other);
    assert_eq!(report["libraries"], Value::Array(Vec::new()), "{report:#}");
    assert!(
        report
            .to_string()
            .contains("a format that observer does not know"),
        "{report:#}"
    );
}

#[test]
fn a_program_without_tls_is_left_alone() {
    for arguments in [&[][..], &["-ldflags=-s -w"]] {
        let report = check(&program(Build::with("silent", "local", arguments)));
        assert_eq!(report["libraries"], Value::Array(Vec::new()), "{report:#}");
        assert!(
            report.to_string().contains("holds no TLS library"),
            "{report:#}"
        );
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

/// A library in Go, loaded by a program that is not.
#[test]
fn a_library_in_go() {
    let scene = Scene::new();
    let library = program(Build::with("library", "local", &["-buildmode=c-shared"]));
    let mut python = scene.script("go/library/load.py", []);
    python.push(library.into());
    let run = watched(&scene, scene.start(&python));
    assert_eq!(run.calls.len(), 6, "{}", run.stderr);
    scene.assert_truth(&run.calls);
}
