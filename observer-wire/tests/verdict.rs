//! Which connections are worth following.

use observer_wire::{CallEvent, Chunk, Connection, Direction, Options, Origin, Timestamp, Verdict};

/// A connection, with where each direction is, and hosts to which requests went that were no calls.
struct Talk(Connection, u64, u64, Vec<String>);

impl Talk {
    fn new() -> Self {
        Self(Connection::new(Options::default()), 0, 0, Vec::new())
    }

    fn pass(&mut self, direction: Direction, bytes: &str) -> Verdict {
        let position = match direction {
            Direction::Sent => &mut self.1,
            Direction::Received => &mut self.2,
        };
        let chunk = Chunk {
            direction,
            offset: *position,
            at: Timestamp(1),
            origin: Origin(1),
            bytes: bytes.as_bytes(),
        };
        *position += bytes.len() as u64;
        let unread = &mut self.3;
        self.0.data(chunk, &mut |event| {
            if let CallEvent::Unread { host } = event {
                unread.push(host);
            }
        });
        self.0.verdict()
    }

    fn sent(&mut self, bytes: &str) -> Verdict {
        self.pass(Direction::Sent, bytes)
    }

    fn received(&mut self, bytes: &str) -> Verdict {
        self.pass(Direction::Received, bytes)
    }
}

fn post(host: &str, path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;
const CHATTED: &str = r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

#[test]
fn a_known_host_is_followed_whatever_is_asked() {
    for host in [
        "api.openai.com",
        "api.anthropic.com",
        "europe-west1-aiplatform.googleapis.com",
        "my.openai.azure.com",
    ] {
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(Talk::new().sent(&request), Verdict::Llm, "{host}");
    }
}

#[test]
fn requests_to_a_known_host_that_are_no_calls_are_told() {
    let mut talk = Talk::new();
    for (request, times) in [
        (
            "GET /v1/models HTTP/1.1\r\nHost: api.openai.com\r\n\r\n".to_owned(),
            1,
        ),
        (post("api.openai.com", "/v1/files", "{}"), 2),
        (post("api.openai.com", "/v1/chat/completions", CHAT), 2),
    ] {
        talk.sent(&request);
        talk.received(&answer(CHATTED));
        assert_eq!(talk.3, vec!["api.openai.com"; times], "{request}");
    }
    let mut talk = Talk::new();
    let host = "bedrock-runtime.us-east-1.amazonaws.com";
    for (path, times) in [
        ("/guardrail/abc/version/1/apply", 1),
        ("/async-invoke", 2),
        ("/model/amazon.nova-lite-v1%3A0/count-tokens", 3),
        ("/model/amazon.nova-lite-v1%3A0/converse", 3),
    ] {
        talk.sent(&post(host, path, r#"{"messages":[]}"#));
        talk.received(&answer(r#"{"stopReason":"end_turn"}"#));
        assert_eq!(talk.3, vec![host; times], "{path}");
    }
    let mut talk = Talk::new();
    talk.sent("CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com\r\n\r\n");
    assert!(talk.3.is_empty());
    let mut talk = Talk::new();
    talk.sent("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert!(talk.3.is_empty());
    // HTTP/2, once for each stream.
    let mut talk = Talk::new();
    talk.sent(PREFACE);
    for stream in [1, 3] {
        talk.sent(&headers(stream, "api.openai.com", "/v1/models"));
    }
    assert_eq!(talk.3, ["api.openai.com"; 2]);
}

#[test]
fn another_host_is_judged_by_its_first_request() {
    for request in [
        "GET /index.html HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "PUT /bucket/key HTTP/1.1\r\nHost: s3.example.com\r\nContent-Length: 9\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: example.com\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n",
    ] {
        assert_eq!(Talk::new().sent(request), Verdict::Other, "{request}");
    }
}

#[test]
fn a_request_that_may_be_a_call_is_waited_for() {
    let mut talk = Talk::new();
    assert_eq!(
        talk.sent(&post("gateway", "/v1/chat/completions", CHAT)),
        Verdict::Undecided
    );
    assert_eq!(talk.received(&answer(CHATTED)), Verdict::Llm);
    assert_eq!(
        talk.sent("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"),
        Verdict::Llm,
        "what it was, it stays"
    );

    let mut talk = Talk::new();
    let request = post("chat.example.com", "/v1/messages", r#"{"text":"Hi"}"#);
    assert_eq!(talk.sent(&request), Verdict::Undecided);
    assert_eq!(talk.received(&answer(r#"{"id":1}"#)), Verdict::Other);
}

#[test]
fn json_of_another_shape_is_of_no_interest() {
    let mut talk = Talk::new();
    let request = post("api.example.com", "/v2/orders", r#"{"order":1}"#);
    assert_eq!(talk.sent(&request), Verdict::Other);
}

/// A request of a client of MCP.
fn post_mcp(body: &str) -> String {
    let post = post("tools.internal", "/", body);
    post.replacen(
        "Content-Type",
        "Accept: application/json, text/event-stream\r\nContent-Type",
        1,
    )
}

#[test]
fn a_session_with_tools_is_followed_before_one_is_called() {
    let mut talk = Talk::new();
    let request = post_mcp(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#);
    assert_eq!(talk.sent(&request), Verdict::Llm);
}

#[test]
fn other_json_rpc_is_of_no_interest() {
    let mut talk = Talk::new();
    let request = post(
        "node.example.com",
        "/",
        r#"{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"to":"0x0"},"latest"]}"#,
    );
    assert_eq!(talk.sent(&request), Verdict::Other);
}

#[test]
fn several_formats_are_tried_where_only_the_bodies_tell() {
    // Ollama and OpenAI; a server of tools and OpenAI.
    for request in [post("gateway", "/api/chat", CHAT), post_mcp(CHAT)] {
        let mut talk = Talk::new();
        talk.sent(&request);
        assert_eq!(talk.received(&answer(CHATTED)), Verdict::Llm);
    }
}

#[test]
fn a_call_under_way_holds_the_verdict() {
    let mut talk = Talk::new();
    talk.sent(&post("gateway", "/v1/chat/completions", CHAT));
    let pipelined = "GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n";
    assert_eq!(talk.sent(pipelined), Verdict::Undecided);
    assert_eq!(talk.received(&answer(CHATTED)), Verdict::Llm);
}

#[test]
fn what_is_no_http_is_let_go_after_a_while() {
    let mut talk = Talk::new();
    let packet = "\u{1}\u{2}query".repeat(100);
    assert_eq!(talk.sent(&packet), Verdict::Undecided);
    let mut verdict = Verdict::Undecided;
    for _ in 0..40 {
        verdict = talk.received(&packet);
    }
    assert_eq!(verdict, Verdict::Other);
}

/// The beginning of a connection of HTTP/2.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// HEADERS of a request without a body, with literals all (RFC 9113 section 6.2, RFC 7541 section 6.2.2).
fn headers(stream: u8, host: &str, path: &str) -> String {
    let byte = |number: usize| char::from(u8::try_from(number).expect("a byte of UTF-8"));
    let string = |text: &str| format!("{}{text}", byte(text.len()));
    let (method, host, path) = (string("GET"), string(host), string(path));
    let block = format!("\u{2}{method}\u{1}{host}\u{4}{path}");
    let stream = byte(usize::from(stream));
    format!("\0\0{}\u{1}\u{5}\0\0\0{stream}{block}", byte(block.len()))
}

#[test]
fn http2_is_let_go_only_after_many_requests() {
    let mut talk = Talk::new();
    talk.sent(PREFACE);
    let mut verdicts = Vec::new();
    for number in 0..20 {
        let frame = headers(number * 2 + 1, "example.com", "/index.html");
        verdicts.push(talk.sent(&frame));
    }
    assert!(
        verdicts[..15]
            .iter()
            .all(|verdict| *verdict == Verdict::Undecided)
    );
    assert_eq!(verdicts[19], Verdict::Other);
}

#[test]
fn http2_to_a_known_host_is_followed() {
    let mut talk = Talk::new();
    talk.sent(PREFACE);
    let frame = headers(1, "api.openai.com", "/v1/models");
    assert_eq!(talk.sent(&frame), Verdict::Llm);
}
