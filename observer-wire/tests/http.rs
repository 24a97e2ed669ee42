//! HTTP/1.1 as a whole: any split gives the same exchanges, and a loss never spoils a neighbour.

use observer_wire::{
    Direction, Origin, Timestamp,
    http::{End, Event, h1::Connection},
};
use proptest::prelude::*;

/// An exchange as it was reported; bodies are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exchange {
    path: String,
    request: Vec<u8>,
    status: Option<u16>,
    response: Vec<u8>,
    missing: u64,
    end: Option<End>,
}

/// A step: a direction and the bytes of one write or read.
type Step = (Direction, Vec<u8>);

/// Exchange number `index`, with bodies that name it.
fn exchange(index: usize, chunked: bool, length: usize) -> (Vec<u8>, Vec<u8>, Exchange) {
    let body = |kind: &str| {
        format!("{kind}-{index}-")
            .repeat(length / 8 + 1)
            .into_bytes()
    };
    let (request, response) = (body("request"), body("response"));
    let mut sent = format!(
        "POST /{index} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        request.len()
    )
    .into_bytes();
    sent.extend_from_slice(&request);
    let mut received = b"HTTP/1.1 200 OK\r\n".to_vec();
    if chunked {
        received.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for part in response.chunks(23) {
            received.extend_from_slice(format!("{:x};a=b\r\n", part.len()).as_bytes());
            received.extend_from_slice(part);
            received.extend_from_slice(b"\r\n");
        }
        received.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
    } else {
        received
            .extend_from_slice(format!("Content-Length: {}\r\n\r\n", response.len()).as_bytes());
        received.extend_from_slice(&response);
    }
    let expected = Exchange {
        path: format!("/{index}"),
        request,
        status: Some(200),
        response,
        missing: 0,
        end: Some(End::Complete),
    };
    (sent, received, expected)
}

/// Plays steps; those for which `lost` holds are missing.
fn play(steps: &[Step], lost: impl Fn(usize) -> bool) -> Vec<Exchange> {
    let mut connection = Connection::default();
    let mut seen: Vec<Exchange> = Vec::new();
    for (index, (direction, bytes)) in steps.iter().enumerate() {
        let mut take = |event: Event<'_>| match event {
            Event::RequestHead { head, .. } => seen.push(Exchange {
                path: head.path,
                ..Exchange::default()
            }),
            Event::RequestBody {
                exchange, bytes, ..
            } => seen[exchange.0 as usize].request.extend(bytes),
            Event::ResponseHead { exchange, head, .. } => {
                seen[exchange.0 as usize].status = head.status.map(|status| status.as_u16());
            }
            Event::ResponseBody {
                exchange, bytes, ..
            } => seen[exchange.0 as usize].response.extend(bytes),
            Event::RequestGap { exchange, bytes } | Event::ResponseGap { exchange, bytes } => {
                seen[exchange.0 as usize].missing += bytes;
            }
            Event::Message { .. } | Event::RequestEnd { .. } | Event::ResponseTrailers { .. } => {}
            Event::End { exchange, end, .. } => {
                let end = seen[exchange.0 as usize].end.replace(end);
                assert_eq!(end, None, "ended twice");
            }
        };
        if lost(index) {
            connection.gap(*direction, bytes.len() as u64, Timestamp(0), &mut take);
        } else {
            connection.data(*direction, Timestamp(0), Origin(0), bytes, &mut take);
        }
        assert!(connection.memory() < 1 << 20);
    }
    seen
}

/// Exchanges one after the other, each side in pieces of the given size.
fn conversation(shapes: &[(bool, usize, usize)]) -> (Vec<Step>, Vec<Exchange>, Vec<usize>) {
    let (mut steps, mut expected, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for (index, &(chunked, length, piece)) in shapes.iter().enumerate() {
        let (sent, received, exchange) = exchange(index, chunked, length);
        for (direction, bytes) in [(Direction::Sent, sent), (Direction::Received, received)] {
            for part in bytes.chunks(piece) {
                steps.push((direction, part.to_vec()));
                owners.push(index);
            }
        }
        expected.push(exchange);
    }
    (steps, expected, owners)
}

fn shapes() -> impl Strategy<Value = Vec<(bool, usize, usize)>> {
    prop::collection::vec((any::<bool>(), 0_usize..400, 1_usize..120), 1..6)
}

proptest! {
    #[test]
    fn any_split_gives_the_same_exchanges(shapes in shapes()) {
        let (steps, expected, _) = conversation(&shapes);
        prop_assert_eq!(play(&steps, |_| false), expected);
    }

    #[test]
    fn a_loss_never_spoils_a_neighbour(shapes in shapes(), losses in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let (steps, expected, owners) = conversation(&shapes);
        let lost: Vec<usize> = losses.iter().map(|index| index.index(steps.len())).collect();
        let touched: Vec<usize> = lost.iter().map(|step| owners[*step]).collect();
        let seen = play(&steps, |step| lost.contains(&step));
        for exchange in &seen {
            let index: usize = exchange.path[1..].parse().unwrap();
            if touched.contains(&index) {
                // What there is of it belongs to it, and what is missing is said.
                let whole = exchange.missing == 0 && exchange.end == Some(End::Complete);
                prop_assert!(!whole || exchange == &expected[index], "{:?}", exchange);
                prop_assert!(exchange.response.len() <= expected[index].response.len());
            } else {
                prop_assert_eq!(exchange, &expected[index]);
            }
        }
        for (index, exchange) in expected.iter().enumerate().filter(|(index, _)| !touched.contains(index)) {
            prop_assert!(seen.contains(exchange), "exchange {} is missing", index);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(steps in prop::collection::vec((any::<bool>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..40)) {
        let steps: Vec<(Step, bool)> = steps
            .into_iter()
            .map(|(sent, lost, bytes)| ((if sent { Direction::Sent } else { Direction::Received }, bytes), lost))
            .collect();
        let only: Vec<Step> = steps.iter().map(|(step, _)| step.clone()).collect();
        play(&only, |index| steps[index].1);
    }
}
