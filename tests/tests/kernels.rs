//! Older kernels: the programs load there, and capture.

use std::path::Path;

use observer_e2e::{golang::Build, guest::Guest, harness::binary};
use serde_json::Value;

const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

#[test]
fn linux_6_1_captures_by_perf_and_tracefs() {
    captures("6.1", "perf events", &["perf", "tracefs"]);
}

#[test]
fn linux_6_12_captures_by_uprobe_multi() {
    captures("6.12", "uprobe_multi", &["multi", "perf", "tracefs"]);
}

fn captures(series: &str, best: &str, interfaces: &[&str]) {
    let console = console(series, interfaces).unwrap_or_else(|error| panic!("{error:#}"));
    let part = |name: &str| {
        let after = console.split(&format!("== {name}\n")).nth(1);
        let part = after.and_then(|after| after.split("\n== ").next());
        part.unwrap_or_else(|| panic!("no {name}:\n{console}"))
    };
    let check = part("check");
    assert!(check.contains(&format!("kernel     {series}.")), "{check}");
    assert!(check.contains(&format!("by {best}")), "{check}");
    assert!(check.contains("accepted by the verifier"), "{check}");
    assert!(check.contains("exit 0"), "{check}");
    let plain = part("plain");
    assert!(
        plain.contains("lost 0") && plain.contains("exit 0"),
        "{plain}"
    );
    let calls = calls_of(plain);
    assert_eq!(calls.len(), 1, "{plain}");
    assert!(calls[0]["incomplete"].is_null(), "{plain}");
    assert_eq!(calls[0]["prompt_tokens"], 4, "{plain}");
    assert_eq!(calls[0]["completion_tokens"], 6, "{plain}");
    // The best one, and each by name.
    for interface in ["best"].iter().chain(interfaces) {
        let text = part(interface);
        assert!(text.contains("lost 0"), "{text}");
        assert!(text.contains("exit 0"), "{text}");
        let calls = calls_of(text);
        assert_eq!(calls.len(), 6, "{text}");
        for (call, number) in calls.iter().zip(1..) {
            assert!(call["incomplete"].is_null(), "{call:#}");
            assert_eq!(call["model"], format!("gpt-4o-{number}"), "{call:#}");
            assert_eq!(call["request_id"], format!("req_{number}"), "{call:#}");
            assert_eq!(call["prompt_tokens"], number + 1, "{call:#}");
            assert_eq!(call["completion_tokens"], number + 3, "{call:#}");
            assert_eq!(call["status_code"], 200, "{call:#}");
            assert_eq!(call["comm"], "tls-load", "{call:#}");
        }
    }
    let text = part("Go");
    assert!(text.contains("lost 0"), "{text}");
    let calls = calls_of(text);
    assert_eq!(calls.len(), 3, "{text}");
    for call in &calls {
        assert!(call["incomplete"].is_null(), "{call:#}");
        assert_eq!(call["request_id"], "of-the-server", "{call:#}");
        assert_eq!(call["completion_tokens"], 2, "{call:#}");
        assert!(call["task"]["id"].is_u64(), "{call:#}");
    }
}

fn calls_of(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|record: &Value| record["type"] == "llm_call")
        .collect()
}

/// A call of busybox's `wget`, answered by its `nc`.
fn plain_call() -> String {
    let answer = r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":6}}"#;
    let request = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;
    format!(
        "echo '== plain'; rm -f /tmp/records\n\
         printf 'HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: {}\\r\\n\\r\\n{answer}' \
         | nc -l -p 8000 > /dev/null &\n\
         until grep -q ':1F40 ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done\n\
         observer exec --format jsonl --output /tmp/records -- \
         wget -q -O /dev/null --post-data '{request}' --header 'Content-Type: application/json' \
         http://127.0.0.1:8000/v1/chat/completions\n\
         echo exit $?; cat /tmp/records\n",
        answer.len()
    )
}

fn console(series: &str, interfaces: &[&str]) -> anyhow::Result<String> {
    let guest = Guest::new(series)?;
    guest.program("observer", &binary())?;
    let load = Path::new(env!("CARGO_BIN_EXE_observer-tls-load"));
    guest.program("tls-load", load)?;
    // It speaks to itself.
    let golang = Build {
        cgo: false,
        ..Build::with("http", "local", &["-trimpath", "-ldflags=-s -w"])
    };
    guest.program("go-client", &golang.program()?)?;
    guest.library(Path::new(LIBSSL))?;
    let mut script = String::from("echo; echo '== check'; observer check; echo exit $?\n");
    for interface in ["best"].iter().chain(interfaces) {
        let option = match *interface {
            "best" => String::new(),
            name => format!("--attach-by {name}"),
        };
        // Large events, too: they come in chunks, by bpf_loop.
        script.push_str(&format!(
            "echo '== {interface}'; rm -f /tmp/records\n\
             observer exec --format jsonl --output /tmp/records {option} -- \
             tls-load --requests 6 --events 10 --request-bytes 100000 --bytes 2000\n\
             echo exit $?; cat /tmp/records\n"
        ));
    }
    script.push_str(
        "echo '== Go'; rm -f /tmp/records\n\
         observer exec --format jsonl --output /tmp/records -- go-client -mode server -count 3\n\
         echo exit $?; cat /tmp/records\n",
    );
    script.push_str(&plain_call());
    script.push_str("echo '== end'\n");
    guest.run(&script)
}
