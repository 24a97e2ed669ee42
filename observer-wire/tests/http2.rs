//! HTTP/2 as a whole: any split and any interleaving gives the same exchanges, a loss is always said, and
//! time follows the bytes.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

mod clock;

use observer_wire::{
    Direction, Origin, Timestamp,
    http::{Connection, End, Event, ExchangeId},
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The frames of exchange number `index`, of either side.
fn exchange(index: usize, length: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, Exchange) {
    let stream = u32::try_from(index).unwrap() * 2 + 1;
    let body = |kind: &str| {
        format!("{kind}-{index}-")
            .repeat(length / 8 + 1)
            .into_bytes()
    };
    let (request, response) = (body("request"), body("response"));
    let path = format!("/{index}");
    let mut head = vec![0x83, 0x04, u8::try_from(path.len()).unwrap()];
    head.extend(path.bytes());
    let mut sent = vec![frame(1, 4, stream, &head)];
    let mut received = vec![frame(1, 4, stream, &[0x88])];
    for (frames, body) in [(&mut sent, &request), (&mut received, &response)] {
        frames.extend(body.chunks(31).enumerate().map(|(place, part)| {
            let end = u8::from((place + 1) * 31 >= body.len());
            frame(0, end, stream, part)
        }));
    }
    let expected = Exchange {
        path,
        request,
        status: Some(200),
        response,
        missing: 0,
        end: Some(End::Complete),
    };
    (sent, received, expected)
}

/// Which of the exchanges so far it is.
fn place(ids: &[ExchangeId], exchange: ExchangeId) -> usize {
    ids.binary_search(&exchange).unwrap()
}

/// Plays steps; those for which `lost` holds are missing.
fn play(steps: &[Step], lost: impl Fn(usize) -> bool) -> Vec<Exchange> {
    let mut connection = Connection::default();
    let mut seen: Vec<Exchange> = Vec::new();
    let mut ids = Vec::new();
    for (index, (direction, bytes)) in steps.iter().enumerate() {
        let mut take = |event: Event<'_>| match event {
            Event::RequestHead { exchange, head, .. } => {
                ids.push(exchange);
                seen.push(Exchange {
                    path: head.path,
                    ..Exchange::default()
                });
            }
            Event::RequestBody {
                exchange, bytes, ..
            } => seen[place(&ids, exchange)].request.extend(bytes),
            Event::ResponseHead { exchange, head, .. } => {
                seen[place(&ids, exchange)].status = head.status.map(|status| status.as_u16());
            }
            Event::ResponseBody {
                exchange, bytes, ..
            } => seen[place(&ids, exchange)].response.extend(bytes),
            Event::RequestGap { exchange, bytes } | Event::ResponseGap { exchange, bytes } => {
                seen[place(&ids, exchange)].missing += bytes;
            }
            Event::Message { .. } | Event::RequestEnd { .. } | Event::ResponseTrailers { .. } => {}
            Event::End { exchange, end, .. } => {
                let end = seen[place(&ids, exchange)].end.replace(end);
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

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Exchanges that all begin before the first ends; `order` says whose frame of the server comes next.
fn conversation(lengths: &[usize], order: &[usize]) -> (Vec<Step>, Vec<Exchange>) {
    let mut steps = vec![
        (Direction::Sent, [PREFACE, &frame(4, 0, 0, &[])].concat()),
        (Direction::Received, frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])),
    ];
    let mut queues = Vec::new();
    let mut expected = Vec::new();
    for (index, length) in lengths.iter().enumerate() {
        let (sent, received, exchange) = exchange(index, *length);
        // Heads in their order, bodies as they come.
        steps.push((Direction::Sent, sent[0].clone()));
        queues.push((sent.into_iter().skip(1).collect::<Vec<_>>(), received));
        expected.push(exchange);
    }
    let mut order = order.iter().cycle();
    while !queues.is_empty() {
        let place = order.next().unwrap() % queues.len();
        let (sent, received) = &mut queues[place];
        if !sent.is_empty() {
            steps.push((Direction::Sent, sent.remove(0)));
        } else if !received.is_empty() {
            steps.push((Direction::Received, received.remove(0)));
        } else {
            queues.remove(place);
        }
    }
    (steps, expected)
}

/// The steps with each write cut into pieces.
fn cut(steps: &[Step], piece: usize) -> Vec<Step> {
    steps
        .iter()
        .flat_map(|(direction, bytes)| {
            bytes
                .chunks(piece)
                .map(|part| (*direction, part.to_vec()))
                .collect::<Vec<_>>()
        })
        .collect()
}

proptest! {
    #[test]
    fn any_split_and_interleaving_gives_the_same_exchanges(
        lengths in prop::collection::vec(0_usize..200, 1..8),
        order in prop::collection::vec(0_usize..50, 1..50),
        piece in 1_usize..60,
    ) {
        let (steps, expected) = conversation(&lengths, &order);
        prop_assert_eq!(play(&cut(&steps, piece), |_| false), expected);
    }

    #[test]
    fn a_loss_is_always_said(
        lengths in prop::collection::vec(0_usize..200, 1..6),
        order in prop::collection::vec(0_usize..50, 1..50),
        losses in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let (steps, expected) = conversation(&lengths, &order);
        let lost: Vec<usize> = losses.iter().map(|index| index.index(steps.len())).collect();
        let seen = play(&steps, |step| lost.contains(&step));
        for exchange in &seen {
            let index: usize = exchange.path[1..].parse().unwrap();
            // What there is of it belongs to it, and what is missing is said.
            let whole = exchange.missing == 0 && exchange.end == Some(End::Complete);
            prop_assert!(!whole || exchange == &expected[index], "{:?}", exchange);
            prop_assert!(exchange.response.len() <= expected[index].response.len());
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        begun: bool,
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u8..12, any::<u8>(), 0_u32..9, prop::collection::vec(any::<u8>(), 0..80)), 0..40),
    ) {
        let mut all = Vec::new();
        if begun {
            all.push((Direction::Sent, PREFACE.to_vec()));
        }
        let mut lost = vec![false; all.len()];
        for (sent, missing, kind, flags, stream, payload) in steps {
            let direction = if sent { Direction::Sent } else { Direction::Received };
            // Most are frames, some are not.
            let bytes = if kind < 11 { frame(kind, flags, stream, &payload) } else { payload };
            all.push((direction, bytes));
            lost.push(missing && flags < 64);
        }
        play(&all, |step| lost[step]);
    }
}

/// More streams than there may be at once.
#[test]
fn streams_are_bounded() {
    let mut steps = vec![(Direction::Sent, PREFACE.to_vec())];
    for index in 0..3000 {
        steps.push((Direction::Sent, exchange(index, 0).0.concat()));
    }
    let seen = play(&steps, |_| false);
    assert_eq!(seen.len(), 3000);
    let lost = seen.iter().filter(|seen| seen.end == Some(End::Lost));
    assert_eq!(lost.count(), 3000 - 1024);
}

/// A head of more fields than are read is passed over, and the table stays right.
#[test]
fn heads_are_bounded() {
    let mut head = vec![0x83, 0x44, 2, b'/', b'0'];
    head.extend(b"\x40\x01a\x01b");
    head.extend([0xbe; 300]);
    let mut steps = vec![(Direction::Sent, [PREFACE, &frame(1, 5, 1, &head)].concat())];
    steps.push((Direction::Sent, frame(1, 5, 3, &[0x83, 0xbf])));
    let mut continued = frame(1, 0, 5, &[0x83]);
    for _ in 0..40 {
        continued.extend(frame(9, 0, 5, &[0xbe; 16_000]));
    }
    continued.extend(frame(9, 4, 5, &[0xbf]));
    steps.push((Direction::Sent, continued));
    steps.push((Direction::Sent, frame(1, 5, 7, &[0x83, 4, 2, b'/', b'1'])));
    let paths: Vec<String> = play(&steps, |_| false)
        .into_iter()
        .map(|seen| seen.path)
        .collect();
    assert_eq!(paths, ["/0", "/1"]);
}

/// How much larger the larger one is.
const TIMES: usize = 8;

/// What [`TIMES`] the bytes may take at most: 2.2 times the time for twice the bytes, three times over.
const BOUND: f64 = 2.2 * 2.2 * 2.2;

/// The smallest of several counts, since what disturbs only adds.
const ROUNDS: usize = 5;

/// Of streams, of fields, of tiny frames, of losses.
#[test]
fn time_follows_the_bytes() {
    let many_frames = |count: usize| -> Vec<Step> {
        let mut steps = vec![(Direction::Sent, PREFACE.to_vec())];
        steps.extend((0..100).map(|index| (Direction::Sent, exchange(index, 0).0.concat())));
        for index in 0..count {
            let stream = u32::try_from(index % 100).unwrap() * 2 + 1;
            steps.push((Direction::Received, frame(0, 0, stream, b"x")));
        }
        steps
    };
    let many_fields = |count: usize| -> Vec<Step> {
        let mut steps = vec![(Direction::Sent, PREFACE.to_vec())];
        let long = [&b"\x83\x04\x02/1\x40\x01a\x7f\x9d\x1f"[..], &[b'v'; 4000]].concat();
        steps.push((Direction::Sent, frame(1, 5, 1, &long)));
        for index in 0..count {
            let stream = u32::try_from(index).unwrap() * 2 + 3;
            steps.push((Direction::Sent, frame(1, 5, stream, &[0xbe; 2000])));
        }
        steps
    };
    let many_losses = |count: usize| -> Vec<Step> {
        let mut steps = many_frames(0);
        steps.extend(std::iter::repeat_n(
            (Direction::Received, vec![0; 7]),
            count,
        ));
        steps
    };
    for (name, make, lost) in [
        ("frames", &many_frames as &dyn Fn(usize) -> Vec<Step>, false),
        ("fields", &many_fields, false),
        ("losses", &many_losses, true),
    ] {
        let time = |steps: &[Step]| clock::time(|| drop(play(steps, |step| lost && step > 100)));
        let best = |steps: &[Step]| (0..ROUNDS).map(|_| time(steps)).min().unwrap();
        let count = if name == "fields" { 150 } else { 10_000 };
        let (small, large) = (best(&make(count)), best(&make(TIMES * count)));
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        println!("{name:<10} {small:>10.1?} {large:>10.1?} {ratio:>6.1}");
        assert!(
            ratio < BOUND,
            "{TIMES} times the {name} take {ratio:.1} times the time"
        );
    }
}
