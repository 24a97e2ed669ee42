use super::*;

/// What happened, in a form that is easy to compare: bodies are joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    path: String,
    request: Vec<u8>,
    request_ended: bool,
    status: Option<u16>,
    response: Vec<u8>,
    missing: u64,
    end: Option<String>,
}

#[derive(Default)]
struct Log(Vec<Seen>);

impl Log {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::RequestHead { exchange, head, .. } => {
                assert_eq!(exchange.0 as usize, self.0.len());
                self.0.push(Seen {
                    path: head.path,
                    ..Seen::default()
                });
            }
            Event::RequestBody {
                exchange, bytes, ..
            } => self.at(exchange).request.extend(bytes),
            Event::RequestGap { exchange, bytes } | Event::ResponseGap { exchange, bytes } => {
                self.at(exchange).missing += bytes;
            }
            Event::RequestEnd { exchange, .. } => self.at(exchange).request_ended = true,
            Event::ResponseHead { exchange, head, .. } => {
                self.at(exchange).status = head.status.map(|status| status.as_u16())
            }
            Event::ResponseBody {
                exchange, bytes, ..
            } => self.at(exchange).response.extend(bytes),
            Event::Message { .. } | Event::ResponseTrailers { .. } => {}
            Event::End { exchange, end, .. } => self.at(exchange).end = Some(format!("{end:?}")),
        }
    }

    fn at(&mut self, exchange: ExchangeId) -> &mut Seen {
        let seen = &mut self.0[exchange.0 as usize];
        assert_eq!(seen.end, None, "an event after the end");
        seen
    }
}

enum Do<'a> {
    Send(&'a [u8]),
    Receive(&'a [u8]),
    LoseSent(u64),
    LoseReceived(u64),
    Close(Close),
}
use Do::{LoseReceived, LoseSent, Receive, Send};

fn play(script: &[Do<'_>], step: usize) -> Vec<Seen> {
    let mut connection = Connection::default();
    let mut log = Log::default();
    let at = Timestamp(1);
    for action in script {
        let (direction, bytes) = match action {
            Send(bytes) => (Direction::Sent, bytes),
            Receive(bytes) => (Direction::Received, bytes),
            LoseSent(bytes) => {
                connection.gap(Direction::Sent, *bytes, at, &mut |event| log.take(event));
                continue;
            }
            LoseReceived(bytes) => {
                connection.gap(Direction::Received, *bytes, at, &mut |event| {
                    log.take(event)
                });
                continue;
            }
            Do::Close(close) => {
                connection.close(*close, at, &mut |event| log.take(event));
                continue;
            }
        };
        for piece in bytes.chunks(step) {
            connection.data(direction, at, Origin(0), piece, &mut |event| {
                log.take(event)
            });
        }
    }
    log.0
}

/// One exchange, at several splits.
fn exchange(script: &[Do<'_>]) -> Seen {
    let mut seen = play(script, usize::MAX);
    for step in [1, 2, 3, 5, 17] {
        assert_eq!(play(script, step), seen, "split by {step}");
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn complete(path: &str, response: &[u8]) -> Seen {
    Seen {
        path: path.to_owned(),
        request_ended: true,
        status: Some(200),
        response: response.to_vec(),
        end: Some("Complete".to_owned()),
        ..Seen::default()
    }
}

#[test]
fn bodies_with_a_length() {
    let post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    let seen = exchange(&[Send(post), Receive(OK)]);
    assert_eq!(
        seen,
        Seen {
            request: b"hello".to_vec(),
            ..complete("/a", b"ok")
        }
    );
}

#[test]
fn chunked_bodies_with_extensions_and_trailers() {
    let post = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2 ;a=\"b\"\r\nok\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n";
    let seen = exchange(&[Send(post), Receive(answer)]);
    assert_eq!(
        seen,
        Seen {
            request: b"hello!".to_vec(),
            ..complete("/a", b"ok0123456789")
        }
    );
}

#[test]
fn the_connection_is_kept_alive() {
    let seen = play(&[Send(GET), Receive(OK), Send(GET), Receive(OK)], 4);
    assert_eq!(seen, [complete("/a", b"ok"), complete("/a", b"ok")]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let two = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n";
    let answers = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nAHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nB";
    let seen = play(&[Send(two), Receive(answers)], usize::MAX);
    assert_eq!(seen, [complete("/a", b"A"), complete("/b", b"B")]);
}

#[test]
fn interim_responses_are_skipped() {
    let post = b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let seen = exchange(&[
        Send(post),
        Receive(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        Send(b"hi"),
        Receive(OK),
    ]);
    assert_eq!(
        seen,
        Seen {
            request: b"hi".to_vec(),
            ..complete("/a", b"ok")
        }
    );
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let head = b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n";
    let with_length = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n";
    assert_eq!(
        exchange(&[Send(head), Receive(with_length)]),
        complete("/a", b"")
    );
    for status in [204_u16, 304] {
        let answer = format!("HTTP/1.1 {status} X\r\n\r\n");
        let seen = exchange(&[Send(GET), Receive(answer.as_bytes())]);
        assert_eq!(
            seen,
            Seen {
                status: Some(status),
                ..complete("/a", b"")
            }
        );
    }
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let answer = b"HTTP/1.0 200 OK\r\n\r\nto the end";
    for (close, end) in [
        (Close::Peer { clean: true }, "Complete"),
        (Close::Peer { clean: false }, "Complete"),
        (Close::Local, "ClientClosed"),
        (Close::ProcessExit, "ProcessExit"),
    ] {
        let seen = exchange(&[Send(GET), Receive(answer), Do::Close(close)]);
        assert_eq!(seen.end.as_deref(), Some(end));
        assert_eq!(seen.response, b"to the end");
    }
}

#[test]
fn an_early_response_ends_the_exchange_and_the_next_request_is_found() {
    let post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst part";
    let refused = b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n";
    let seen = play(
        &[
            Send(post),
            Receive(refused),
            Send(b"second part"),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen[0].status, Some(413));
    assert_eq!(seen[0].end.as_deref(), Some("Complete"));
    assert_eq!(seen[1], complete("/a", b"ok"));
}

#[test]
fn an_upgraded_connection_is_left_alone() {
    let seen = play(
        &[
            Send(b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n"),
            Receive(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x05hello"),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].end.as_deref(), Some("Upgraded"));
}

#[test]
fn a_connection_is_joined_in_the_middle_of_a_response() {
    let seen = play(
        &[
            Receive(b"...rest of a stream\r\n0\r\n\r\n"),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen, [complete("/a", b"ok")]);
}

#[test]
fn a_connection_is_joined_in_the_middle_of_a_request() {
    let seen = play(
        &[
            Send(b"rest of a body, GET /x"),
            Receive(OK),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen, [complete("/a", b"ok")]);
}

#[test]
fn what_only_begins_like_a_request_is_passed_over() {
    let seen = play(
        &[
            Send(b"P"),
            Send(b"lain text"),
            Send(b"PO"),
            Send(GET),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen, [complete("/a", b"ok")]);
}

#[test]
fn a_gap_inside_a_body_is_stepped_over_exactly() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab";
    let seen = play(
        &[
            Send(GET),
            Receive(answer),
            LoseReceived(6),
            Receive(b"yz"),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(
        seen[0],
        Seen {
            missing: 6,
            ..complete("/a", b"abyz")
        }
    );
    assert_eq!(seen[1], complete("/a", b"ok"));
}

#[test]
fn a_gap_that_is_the_end_of_a_body_does_not_end_later() {
    let post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nab";
    let seen = play(
        &[Send(post), LoseSent(6), Receive(OK), Send(GET), Receive(OK)],
        usize::MAX,
    );
    assert_eq!(seen[0].missing, 6);
    assert_eq!(seen[0].end.as_deref(), Some("Complete"));
    assert_eq!(seen[1], complete("/a", b"ok"));
}

#[test]
fn a_gap_over_framing_ends_what_it_touches_and_spares_the_next() {
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    let seen = play(
        &[
            Send(GET),
            Receive(answer),
            LoseReceived(20),
            Receive(b"\r\n0\r\n\r\n"),
            Send(GET),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen[0].end.as_deref(), Some("Lost"));
    assert_eq!(seen[1], complete("/a", b"ok"));
}

#[test]
fn a_lost_response_is_not_taken_for_the_next_one() {
    let seen = play(
        &[
            Send(GET),
            LoseReceived(40),
            Send(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"),
            Receive(OK),
        ],
        usize::MAX,
    );
    assert_eq!(seen[0].end.as_deref(), Some("Lost"));
    assert_eq!(seen[1], complete("/b", b"ok"));
}

#[test]
fn contradicting_lengths_are_malformed() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok";
    let seen = play(
        &[Send(GET), Receive(answer), Send(GET), Receive(OK)],
        usize::MAX,
    );
    assert_eq!(seen[0].end.as_deref(), Some("Malformed"));
    assert_eq!(seen[1], complete("/a", b"ok"));
}

#[test]
fn a_servers_side_of_a_connection_yields_nothing() {
    assert_eq!(
        play(
            &[Receive(GET), Send(OK), Receive(GET), Send(OK)],
            usize::MAX
        ),
        []
    );
}

#[test]
fn http2_yields_nothing() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0";
    assert_eq!(
        play(
            &[Send(preface), Receive(b"\0\0\0\x04\x01\0\0\0\0")],
            usize::MAX
        ),
        []
    );
}

#[test]
fn closing_says_who_it_was() {
    for (close, end) in [
        (Close::Local, "ClientClosed"),
        (Close::Peer { clean: true }, "ServerClosed"),
        (Close::ProcessExit, "ProcessExit"),
        (Close::Detached, "Detached"),
    ] {
        let partial = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
        let seen = exchange(&[Send(GET), Receive(partial), Do::Close(close)]);
        assert_eq!(seen.end.as_deref(), Some(end));
    }
}

#[test]
fn credentials_do_not_leave_the_parser() {
    let mut connection = Connection::default();
    let request = b"POST http://user:pw@Api.Example:8443/v1?key=SECRET&alt=sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer SECRET\r\nX-Goog-Api-Key: SECRET\r\nCookie: SECRET\r\nUser-Agent: t\r\n\r\n";
    let mut heads = Vec::new();
    connection.data(
        Direction::Sent,
        Timestamp(0),
        Origin(0),
        request,
        &mut |event| {
            if let Event::RequestHead { head, .. } = event {
                heads.push(head);
            }
        },
    );
    let head = &heads[0];
    assert_eq!(
        (head.host.as_deref(), head.port),
        (Some("api.example"), Some(8443))
    );
    assert_eq!(
        (head.path.as_str(), head.query.as_str()),
        ("/v1", "alt=sse")
    );
    assert_eq!(head.headers.len(), 2);
    assert!(!format!("{head:?}").contains("SECRET") && !format!("{head:?}").contains("pw"));
}

#[test]
fn memory_is_bounded_by_the_longest_head() {
    let mut connection = Connection::default();
    connection.data(
        Direction::Sent,
        Timestamp(0),
        Origin(0),
        b"GET /",
        &mut |_| (),
    );
    for _ in 0..100 {
        connection.data(
            Direction::Sent,
            Timestamp(0),
            Origin(0),
            &[b'a'; 16 * 1024],
            &mut |_| (),
        );
    }
    assert!(connection.memory() < 1 << 20, "{}", connection.memory());
}
