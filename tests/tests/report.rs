//! `observer report`, in a real browser.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use observer_e2e::harness::{Run, Scene, binary};
use serde_json::{Value, json};

/// A page, and what became of it.
struct Shown {
    /// The document once the script has run.
    dom: String,
    /// What the browser wrote: the console's messages among it.
    log: String,
}

/// Six agents, with tools and errors.
fn agents(scene: &Scene, options: &[&str]) -> Run {
    let run = scene.exec(
        options,
        &scene.script("agents.py", ["--agents", "6", "--pace", "0.4"]),
    );
    run.assert_clean();
    assert_eq!(run.client.len(), 6, "{}", run.stderr);
    run
}

fn report(folder: &Path, records: &str, options: &[&str]) -> PathBuf {
    let input = folder.join("calls.jsonl");
    fs::write(&input, records).unwrap();
    let page = folder.join("report.html");
    let result = Command::new(binary())
        .arg("report")
        .arg(&input)
        .arg("--output")
        .arg(&page)
        .args(options)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{stderr}");
    page
}

/// Opens a page in Chromium. Whatever it asks of the network would fail, and be said.
fn show(folder: &Path, page: &Path, options: &[&str]) -> Shown {
    let profile = folder.join("profile");
    let result = Command::new("chromium")
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-component-update",
            "--disable-background-networking",
        ])
        .args([
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg("--virtual-time-budget=5000")
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(options)
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("chromium is installed");
    let log = String::from_utf8_lossy(&result.stderr).into_owned();
    let dom = String::from_utf8_lossy(&result.stdout).into_owned();
    assert!(result.status.success() && dom.contains("<main"), "{log}");
    Shown { dom, log }
}

impl Shown {
    /// The text of the element with this id, up to its first child.
    fn text(&self, id: &str) -> &str {
        let start = self.dom.split_once(&format!("id=\"{id}\""));
        let (_, rest) = start.unwrap_or_else(|| panic!("no {id} in {}", self.dom));
        let (_, text) = rest.split_once('>').unwrap();
        text.split_once('<').unwrap().0
    }

    fn assert_silent(&self) {
        let complaints: Vec<&str> = self
            .log
            .lines()
            .filter(|line| line.contains("CONSOLE"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        // What is shown is made by the script, so that it ran to its end.
        assert!(self.dom.contains("Made by observer"), "{}", self.dom);
    }

    fn count(&self, text: &str) -> usize {
        self.dom.matches(text).count()
    }
}

/// With the thousands apart, as the page has it.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn sum(calls: &[Value], field: &str) -> u64 {
    calls.iter().filter_map(|call| call[field].as_u64()).sum()
}

#[test]
fn a_page_says_what_the_records_say() {
    let scene = Scene::new();
    let run = agents(&scene, &[]);
    let folder = scene.folder.path();
    let page = report(folder, &run.raw, &[]);
    let shown = show(folder, &page, &[]);
    shown.assert_silent();
    let errors = run
        .calls
        .iter()
        .filter(|call| !call["error_type"].is_null())
        .count();
    assert!(errors > 0);
    assert_eq!(shown.text("calls"), number(run.calls.len() as u64));
    assert_eq!(shown.text("failed"), number(errors as u64));
    assert_eq!(shown.text("input"), number(sum(&run.calls, "input_tokens")));
    assert_eq!(
        shown.text("output"),
        number(sum(&run.calls, "output_tokens"))
    );
    // By whichever rule the calls were put into traces.
    assert_eq!(shown.text("trace-count"), number(run.traces.len() as u64));
    assert_eq!(shown.count("<details class=\"trace\""), run.traces.len());
    for trace in &run.traces {
        let id = trace["trace_id"].as_str().unwrap();
        assert_eq!(shown.count(&format!("data-trace=\"{id}\"")), 1);
    }
    for call in &run.calls {
        let model = call["response_model"].as_str().or(call["model"].as_str());
        assert!(shown.dom.contains(model.unwrap()));
    }
    assert!(shown.dom.contains("RateLimitError") && shown.dom.contains("InternalServerError"));
    // No content was captured, so there is none.
    let text = fs::read_to_string(&page).unwrap();
    assert!(!text.contains("will it rain"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(page.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_waterfall_has_every_call_of_its_trace() {
    let scene = Scene::new();
    let run = agents(&scene, &["--capture-content"]);
    let folder = scene.folder.path();
    let page = report(folder, &run.raw, &[]);
    // Opens every trace and every row, as a user would.
    let script = "<script nonce=\"NONCE\">addEventListener('load', () => {\
         document.querySelectorAll('details.trace > summary').forEach((summary) => summary.click());\
         setTimeout(() => document.querySelectorAll('button.row').forEach((row) => row.click()), 100);});\
         <\u{2f}script></body>";
    let text = fs::read_to_string(&page).unwrap();
    let nonce = text
        .split("'nonce-")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    let text = text.replacen("</body>", &script.replace("NONCE", nonce), 1);
    fs::write(&page, text).unwrap();
    let shown = show(folder, &page, &[]);
    shown.assert_silent();
    let steps: usize = run
        .traces
        .iter()
        .map(|trace| trace["steps"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(
        shown.count("aria-expanded=\"true\""),
        run.calls.len() + steps
    );
    for call in &run.calls {
        let span = call["span_id"].as_str().unwrap();
        assert!(shown.dom.contains(span), "{span}");
    }
    // Prompts are text, whatever they hold.
    assert!(
        shown
            .dom
            .contains("will it rain? &lt;/script&gt;&lt;b&gt;x&lt;/b&gt;")
    );
    assert!(!shown.dom.contains("<b>x</b>"));
}

fn call(number: u64, change: &Value) -> Value {
    let mut call = json!({
        "type": "llm_call", "provider": "openai", "operation": "chat", "model": "gpt-4o", "response_model": null,
        "input_tokens": 10, "output_tokens": 5, "stream": false, "latency_ns": 1_000_000 * (1 + number % 900),
        "start_time": format!("2026-11-24T09:{:02}:{:02}.000000000Z", number / 60 % 60, number % 60),
        "status_code": 200, "finish_reasons": ["stop"], "tool_calls": [], "pid": 1, "comm": "python",
        "trace_id": format!("{:032x}", number / 10), "span_id": format!("{number:016x}"),
    });
    for (name, value) in change.as_object().unwrap() {
        call[name] = value.clone();
    }
    call
}

#[test]
fn hostile_records_are_inert() {
    const HOSTILE: &str = "</script><script>document.title='owned'</script><!--<script>\u{2028}\u{202e}\
         <img src=x onerror=\"document.title='owned'\"><svg onload=alert(1)>javascript:alert(1)\u{0}\u{7}";
    let folder = tempfile::tempdir().unwrap();
    let hostile = json!({
        "provider": HOSTILE, "model": HOSTILE, "comm": HOSTILE, "error_type": HOSTILE, "error_message": HOSTILE,
        "trace_id": HOSTILE, "span_id": HOSTILE, "request_id": HOSTILE, "operation": HOSTILE, "container_id": HOSTILE,
        "finish_reasons": [HOSTILE], "tool_calls": [HOSTILE], "input_preview": HOSTILE, "output_preview": HOSTILE,
    });
    let trace = json!({
        "type": "trace", "trace_id": HOSTILE, "name": HOSTILE, "source": HOSTILE, "start_time": "2026-11-24T09:00:00Z",
        "duration_ns": 5, "calls": [HOSTILE], "conversation_id": HOSTILE,
        "steps": [{"span_id": "1", "name": HOSTILE, "start_time": "2026-11-24T09:00:00Z"}],
    });
    let loose = call(2, &json!({"trace_id": null, "model": HOSTILE}));
    // Of the object's own names.
    let named = call(3, &json!({"provider": "__proto__", "model": "constructor"}));
    let records = format!("{}\n{trace}\n{loose}\n{named}\n", call(1, &hostile));
    let page = report(folder.path(), &records, &[]);
    let shown = show(folder.path(), &page, &[]);
    shown.assert_silent();
    assert!(
        shown.dom.contains("<title>LLM calls</title>"),
        "{}",
        shown.dom
    );
    assert!(!shown.dom.contains("<img") && !shown.dom.contains("<svg onload"));
    assert!(!shown.dom.contains('\u{202e}'));
    assert_eq!(shown.text("calls"), "3");
    assert!(shown.dom.contains("&lt;img src=x onerror="));
    assert!(shown.dom.contains("__proto__/constructor"));
    assert!(shown.dom.contains("Calls without a trace"));
}

#[test]
fn the_policy_lets_nothing_else_run_or_load() {
    let folder = tempfile::tempdir().unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let address = server.local_addr().unwrap();
    let page = report(
        folder.path(),
        &(call(1, &json!({})).to_string() + "\n"),
        &[],
    );
    // As if a hostile record had got into the document after all.
    let hostile = format!(
        "<script>document.title='owned'</script><img src=\"http://{address}/\" onerror=\"document.title='owned'\">\
         <link rel=stylesheet href=\"http://{address}/\"><iframe src=\"http://{address}/\"></iframe></body>"
    );
    let text = fs::read_to_string(&page)
        .unwrap()
        .replacen("</body>", &hostile, 1);
    fs::write(&page, text).unwrap();
    let shown = show(folder.path(), &page, &[]);
    assert!(
        shown.dom.contains("<title>LLM calls</title>"),
        "{}",
        shown.dom
    );
    // This is what the other tests would see, too.
    assert!(
        shown.log.contains("CONSOLE") && shown.log.contains("Content Security Policy"),
        "{}",
        shown.log
    );
    assert!(
        server.accept().is_err(),
        "the page was let through to the network"
    );
}

#[test]
fn a_hundred_thousand_calls_are_summed_and_the_latest_listed() {
    let folder = tempfile::tempdir().unwrap();
    let records: String = (0..100_000)
        .map(|number| {
            let change = match number % 50 {
                0 => json!({"status_code": 429, "error_type": "RateLimitError", "input_tokens": null, "output_tokens": null}),
                part => json!({"model": format!("model-{}", part % 7), "pid": 100 + part}),
            };
            call(number, &change).to_string() + "\n"
        })
        .collect();
    let page = report(folder.path(), &records, &[]);
    let size = page.metadata().unwrap().len();
    assert!(size < 12 << 20, "{size} bytes");
    let shown = show(folder.path(), &page, &[]);
    shown.assert_silent();
    assert_eq!(shown.text("calls"), "100,000");
    assert_eq!(shown.text("failed"), "2,000");
    assert_eq!(shown.text("input"), "980,000");
    assert_eq!(shown.text("process-count"), "50");
    assert!(shown.dom.contains("80,000 earlier calls are left out"));
    assert_eq!(shown.count("<details class=\"trace\""), 50);
    assert!(shown.dom.contains("1 to 50 of 2,000"));
    // Even over 900 steps of a millisecond.
    let median: f64 = shown
        .text("latency")
        .trim_end_matches(" ms")
        .parse()
        .unwrap();
    assert!((median - 450.0).abs() <= 5.0, "{median}");
    let few = report(folder.path(), &records, &["--max-calls", "100"]);
    assert!(few.metadata().unwrap().len() < 200_000);
}

/// However much traces hold, the latest are there, with their calls.
#[test]
fn many_large_traces_leave_room_for_calls() {
    let folder = tempfile::tempdir().unwrap();
    let steps: Vec<Value> = (0..20)
        .map(|step| {
            json!({
                "span_id": format!("{step:016x}"), "name": "a_tool_with_a_name_of_some_length",
                "start_time": "2026-11-24T09:00:00Z", "duration_ns": 5,
            })
        })
        .collect();
    let records: String = (0..15_000)
        .map(|number| {
            let time = format!(
                "2026-11-24T{:02}:{:02}:{:02}Z",
                number / 3_600,
                number / 60 % 60,
                number % 60
            );
            let id = format!("{number:032x}");
            let call = call(number, &json!({"trace_id": id, "start_time": time}));
            let trace = json!({
                "type": "trace", "trace_id": id, "start_time": time, "duration_ns": 5,
                "calls": vec!["00f067aa0ba902b7"; 20], "steps": steps,
            });
            format!("{call}\n{trace}\n")
        })
        .collect();
    let page = report(folder.path(), &records, &[]);
    let text = fs::read_to_string(&page).unwrap();
    let (_, data) = text.split_once("id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let traces = data["traces"].as_array().unwrap();
    assert_eq!(data["totals"]["calls"], 15_000);
    assert!(traces.len() > 5_000, "{} traces", traces.len());
    assert_eq!(traces.len(), data["calls"].as_array().unwrap().len());
    let whole = traces
        .iter()
        .filter(|trace| trace[8].as_array().unwrap().len() == 20);
    assert!(whole.count() + 1 >= traces.len());
    assert_eq!(traces.last().unwrap()[0], format!("{:032x}", 14_999));
    let shown = show(folder.path(), &page, &[]);
    shown.assert_silent();
    assert_eq!(shown.count("<details class=\"trace\""), 50);
}

#[test]
fn files_that_are_empty_cut_or_broken_are_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let page = report(folder.path(), "", &[]);
    let shown = show(folder.path(), &page, &[]);
    shown.assert_silent();
    assert_eq!(shown.text("calls"), "0");
    assert!(shown.dom.contains("There are no calls"));

    let whole = call(1, &json!({})).to_string();
    let records = format!(
        "{whole}\nnonsense\n{{\"type\":\"weather\"}}\n\u{1}\n{whole}\n{}",
        &whole[..90]
    );
    let page = report(folder.path(), &records, &[]);
    let shown = show(folder.path(), &page, &[]);
    shown.assert_silent();
    assert_eq!(shown.text("calls"), "2");
    assert!(
        shown.dom.contains("2 lines could not be read as a record"),
        "{}",
        shown.dom
    );
    assert!(shown.dom.contains("ends within a line"));
    assert!(shown.dom.contains("1 line is of a type"));
}

#[test]
fn a_report_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("calls.jsonl");
    fs::write(&input, "\n").unwrap();
    let run = |arguments: &[&Path]| {
        let mut command = Command::new(binary());
        let result = command.arg("report").args(arguments).output().unwrap();
        (
            result.status.code(),
            String::from_utf8_lossy(&result.stderr).into_owned(),
        )
    };
    let output = Path::new("--output");
    let missing = folder.path().join("missing.jsonl");
    let (code, said) = run(&[&missing, output, &folder.path().join("page.html")]);
    assert!(code == Some(1) && said.contains("missing.jsonl"), "{said}");
    let (code, said) = run(&[&input, output, &input]);
    assert!(
        code == Some(1) && said.contains("would be overwritten"),
        "{said}"
    );
    assert_eq!(run(&[&input]).0, Some(2));
}
