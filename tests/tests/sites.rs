//! Where probes are put: cheap wherever it can be, and never wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use observer_e2e::{
    corpus::{self, Specimen},
    harness::{Load, Observer},
    sites::{assert_right, check, probes},
};

#[test]
fn sites_are_cheap_and_right_in_a_corpus_of_libraries() {
    let specimens = corpus::specimens().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(specimens.len() >= 11, "{specimens:#?}");
    let (mut cheap, mut all) = (0, 0);
    for specimen in &specimens {
        let probes = probes(&specimen.path);
        for probe in &probes {
            all += 1;
            if probe["cost"] == "emulated" {
                cheap += 1;
                assert_right(&specimen.path, probe);
            } else {
                assert_eq!(probe["address"], probe["within"], "the entry: {probe:#}");
            }
        }
        for needed in ["read", "write"] {
            assert!(
                probes
                    .iter()
                    .any(|probe| probe["function"].as_str().unwrap().contains(needed)),
                "{}: {probes:#?}",
                specimen.origin
            );
        }
    }
    println!(
        "{cheap} of {all} sites in {} files are cheap",
        specimens.len()
    );
    assert_eq!(cheap, all, "every function of these has a cheap site");
}

#[test]
fn every_library_that_can_be_loaded_is_captured_right() {
    let specimens = corpus::specimens().unwrap_or_else(|error| panic!("{error:#}"));
    let loadable: Vec<&Specimen> = specimens.iter().filter(|one| one.loadable).collect();
    assert!(loadable.len() >= 7, "{loadable:#?}");
    for specimen in loadable {
        for api in ["ex", "plain"] {
            let (produced, run) = captured(specimen, api);
            let (captured, ..) = run.captured();
            assert_eq!(
                captured, produced,
                "bytes by {api} of {}: {}",
                specimen.origin, run.stderr
            );
            assert_eq!(run.calls.len(), 20, "{api} of {}", specimen.origin);
            for call in &run.calls {
                assert!(call["incomplete"].is_null(), "{call:#}");
                let number: u64 = call["model"].as_str().unwrap()[7..].parse().unwrap();
                assert_eq!(call["prompt_tokens"], number + 1, "{call:#}");
                assert_eq!(call["completion_tokens"], number + 3, "{call:#}");
            }
        }
    }
}

/// Twenty requests by a library, and what the agent makes of them. Returns the bytes that passed.
fn captured(specimen: &Specimen, api: &str) -> (u64, observer_e2e::harness::Run) {
    let folder = tempfile::tempdir().unwrap();
    let mut load = load(&specimen.path, api, 20);
    let pid = load.pid();
    let options = ["--pid", pid.as_str(), "--all-hosts"];
    let observer = Observer::start(&[], &folder.path().join("records.jsonl"), &options);
    load.begin();
    assert!(!load.end());
    let result = load.finish();
    let run = observer.wait();
    run.assert_clean();
    (result["bytes"].as_u64().unwrap(), run)
}

/// A load generator on a library, before its first request.
fn load(library: &Path, api: &str, requests: u32) -> Load {
    let mut command = Command::new(env!("CARGO_BIN_EXE_observer-tls-load"));
    command
        .args(["--events", "10", "--api", api])
        .args(["--requests", &requests.to_string(), "--libssl"])
        .arg(library);
    // Its libcrypto lies beside it.
    if let Some(folder) = library
        .parent()
        .filter(|folder| !folder.starts_with("/usr"))
    {
        command.env("LD_LIBRARY_PATH", folder);
    }
    Load::start(command)
}

#[test]
fn arguments_at_the_site_are_those_at_the_entry() {
    let specimens = corpus::specimens().unwrap_or_else(|error| panic!("{error:#}"));
    for specimen in specimens.iter().filter(|one| one.loadable) {
        for (api, functions) in [
            ("ex", ["SSL_write_ex", "SSL_read_ex"]),
            ("plain", ["SSL_write", "SSL_read"]),
        ] {
            for function in functions {
                compare(specimen, api, function);
            }
        }
    }
}

/// Has bpftrace, which knows nothing of our sites but their addresses, read the registers at both.
fn compare(specimen: &Specimen, api: &str, function: &str) {
    let path = specimen.path.to_str().unwrap();
    let probes = probes(&specimen.path);
    let probe = probes
        .iter()
        .find(|probe| {
            let mut functions = probe["function"].as_str().unwrap().split(',');
            functions.any(|name| name == function)
        })
        .unwrap();
    let site = probe["address"].as_u64().unwrap();
    let count = match probe["count"].as_str().unwrap() {
        "argument 3" => "reg(\"cx\")",
        "argument 4" => "reg(\"r8\")",
        _ => "0",
    };
    let entry = symbol(&specimen.path, function);
    if site == entry {
        return;
    }
    let mut load = load(&specimen.path, api, 5);
    let pid = load.pid();
    let line = |name: &str, count: &str| {
        format!(
            "/pid == {pid}/ {{ printf(\"{name} %llx %llx %llx\\n\", reg(\"di\"), reg(\"si\"), {count}); }}"
        )
    };
    let script = format!(
        "BEGIN {{ printf(\"attached\\n\"); }} uprobe:{path}:{entry:#x} {} uprobe:{path}:{site:#x} {}",
        line("entry", "reg(\"cx\")"),
        line("site", count)
    );
    let mut bpftrace = Command::new("bpftrace")
        .args(["--unsafe", "-B", "line", "-p", &pid, "-e", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bpftrace: apt-get install bpftrace");
    let mut lines = BufReader::new(bpftrace.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(
        lines.by_ref().any(|line| line == "attached"),
        "{script}: {:?}",
        bpftrace.wait_with_output()
    );
    load.begin();
    assert!(!load.end());
    load.finish();
    // It ends with the process.
    let seen: Vec<Vec<String>> = lines
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .filter(|words: &Vec<String>| words.len() == 4)
        .collect();
    let _ = bpftrace.wait();
    let what = format!("{function} of {}", specimen.origin);
    let mut pairs: HashMap<&str, u32> = HashMap::new();
    for pair in seen.chunks(2) {
        let [entry, site] = pair else {
            panic!("{what}: an entry without its site: {seen:?}");
        };
        assert_eq!(
            (entry[0].as_str(), site[0].as_str()),
            ("entry", "site"),
            "{what}"
        );
        assert_eq!(entry[1..3], site[1..3], "{what}");
        // Without a pointer of the caller's the function has made one.
        if api == "ex" {
            assert_eq!(entry[3], site[3], "{what}");
        }
        *pairs.entry(function).or_default() += 1;
    }
    assert!(pairs[function] >= 50, "{what}: {pairs:?}");
}

/// Address of a symbol, by nm.
fn symbol(path: &Path, name: &str) -> u64 {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(path)
        .output()
        .expect("nm (binutils)");
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = list
        .lines()
        .find(|line| {
            let symbol = line.split_whitespace().nth(2).unwrap_or_default();
            symbol.split('@').next() == Some(name)
        })
        .unwrap_or_else(|| panic!("{name} in {}", path.display()));
    u64::from_str_radix(line.split_whitespace().next().unwrap(), 16).unwrap()
}

/// Functions that the others of a library do not matter for.
const REST: &str = "
SSL_get_error: push %rbx; pop %rbx; ret
SSL_free: push %rbx; pop %rbx; ret
SSL_shutdown: push %rbx; pop %rbx; ret
";

/// `SSL_read` and the like on one another, as OpenSSL has them, by `reader` and `writer`.
fn wrappers(reader: &str, writer: &str) -> String {
    let one = |name: &str, inner: &str| {
        format!(
            "
            {name}: sub $24, %rsp; test %edx, %edx; js 1f; movslq %edx, %rdx; mov %rsp, %rcx
            call {inner}; test %eax, %eax; jle 1f; mov (%rsp), %eax
            1: add $24, %rsp; ret
            {name}_ex: sub $8, %rsp; call {inner}; add $8, %rsp; ret
            "
        )
    };
    one("SSL_read", reader) + &one("SSL_write", writer)
}

/// The plan for a library of this code: instruction, whether it is at the entry, and cost, by function.
fn plan(code: &str) -> HashMap<String, (String, bool, String)> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("library.s");
    let library = folder.path().join("libssl.so.3");
    let mut text = String::from(".text\n");
    for name in [
        "SSL_read",
        "SSL_read_ex",
        "SSL_write",
        "SSL_write_ex",
        "SSL_get_error",
        "SSL_free",
        "SSL_shutdown",
    ] {
        text.push_str(&format!(".globl {name}\n.type {name}, @function\n"));
    }
    text.push_str(code);
    if !code.contains("SSL_get_error:") {
        text.push_str(REST);
    }
    fs::write(&source, text).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-nostdlib", "-Wl,-Bsymbolic", "-o"])
        .args([&library, &source])
        .output()
        .expect("cc");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut plan = HashMap::new();
    for probe in probes(&library) {
        for function in probe["function"].as_str().unwrap().split(',') {
            let entry = probe["address"] == symbol(&library, function);
            let text = |field: &str| probe[field].as_str().unwrap().to_owned();
            plan.insert(function.to_owned(), (text("site"), entry, text("cost")));
        }
    }
    plan
}

/// That the plan for a function is its entry, whatever it costs.
fn assert_entry(code: &str, function: &str) {
    let plan = plan(code);
    assert!(plan[function].1, "{function}: {plan:?}");
}

#[test]
fn the_common_inner_function_is_taken() {
    let inner =
        "read_internal: push %rbx; pop %rbx; ret\nwrite_internal: push %rbx; pop %rbx; ret\n";
    let plan = plan(&(wrappers("read_internal", "write_internal") + inner));
    for function in ["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex"] {
        let expected = ("push".to_owned(), false, "emulated".to_owned());
        assert_eq!(plan[function], expected, "{function}: {plan:?}");
    }
}

#[test]
fn what_cannot_be_proved_is_not_taken() {
    let plain = "SSL_write: push %rbx; pop %rbx; ret\nSSL_write_ex: push %rbx; pop %rbx; ret\n";
    // An argument is gone before the first cheap instruction.
    let clobbered = "SSL_read: xor %edi, %edi; push %rbx; pop %rbx; ret\nSSL_read_ex: push %rbx; pop %rbx; ret\n";
    assert_entry(&format!("{plain}{clobbered}"), "SSL_read");
    // So is a part of it.
    let partly =
        "SSL_read: mov $1, %sil; push %rbx; pop %rbx; ret\nSSL_read_ex: push %rbx; pop %rbx; ret\n";
    assert_entry(&format!("{plain}{partly}"), "SSL_read");
    // The place is reached again in the same call.
    let looped = "SSL_read: test %edx, %edx; 1: js 2f; dec %edx; jmp 1b; 2: ret\nSSL_read_ex: push %rbx; pop %rbx; ret\n";
    assert_entry(&format!("{plain}{looped}"), "SSL_read");
    // The stack pointer has left the return address.
    let moved = "SSL_get_error: sub $8, %rsp; test %esi, %esi; jle 1f; 1: add $8, %rsp; ret\nSSL_free: ret\nSSL_shutdown: ret\nSSL_read: push %rbx; pop %rbx; ret\nSSL_read_ex: push %rbx; pop %rbx; ret\n";
    assert_entry(&format!("{plain}{moved}"), "SSL_get_error");
    // The return address is another one by then.
    let overwritten =
        "SSL_read: mov %rax, (%rsp); jmp 1f; 1: ret\nSSL_read_ex: push %rbx; pop %rbx; ret\n";
    assert_entry(&format!("{plain}{overwritten}"), "SSL_read");
    // Two functions get the arguments.
    let two = "
        SSL_read: sub $24, %rsp; movslq %edx, %rdx; mov %rsp, %rcx; test %edx, %edx; je 1f
        call one; add $24, %rsp; ret; 1: call other; add $24, %rsp; ret
        SSL_read_ex: sub $8, %rsp; call one; add $8, %rsp; ret
        one: push %rbx; pop %rbx; ret
        other: push %rbx; pop %rbx; ret
    ";
    assert_entry(&format!("{plain}{two}"), "SSL_read");
    // Readers and writers call it alike: it is neither's own.
    let common = wrappers("common", "common") + "common: push %rbx; pop %rbx; ret\n";
    for function in ["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex"] {
        assert_entry(&common, function);
    }
    // Only one of the two leads there.
    let alone = format!(
        "{plain}SSL_read: sub $24, %rsp; movslq %edx, %rdx; mov %rsp, %rcx; call inner; add $24, %rsp; ret\nSSL_read_ex: push %rbx; pop %rbx; ret\ninner: push %rbx; pop %rbx; ret\n"
    );
    assert_entry(&alone, "SSL_read");
}

#[test]
fn a_long_nop_is_not_taken() {
    let code = "
        SSL_read: .byte 0x0f, 0x1f, 0x44, 0, 0; push %rbx; pop %rbx; ret
        SSL_read_ex: test %rdi, %rdi; .byte 0x0f, 0x1f, 0x44, 0, 0; push %rbx; pop %rbx; ret
        SSL_write: push %rbx; pop %rbx; ret
        SSL_write_ex: push %rbx; pop %rbx; ret
    ";
    let plan = plan(code);
    for function in ["SSL_read", "SSL_read_ex"] {
        assert_eq!(plan[function].0, "push", "{plan:?}");
    }
}

#[test]
fn a_file_without_the_library_gets_no_probe() {
    let folder = tempfile::tempdir().unwrap();
    let rubbish = folder.path().join("libssl.so.3");
    fs::write(&rubbish, [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0]).unwrap();
    for path in ["/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/bin/sh"]
        .iter()
        .map(Path::new)
        .chain([rubbish.as_path()])
    {
        let report = check(path);
        assert_eq!(report["ok"], false, "{report:#}");
        assert_eq!(report["libraries"].as_array().unwrap().len(), 0);
    }
}
