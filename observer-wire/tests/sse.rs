//! Server-sent events: any split gives the same events, and a gap spoils one event at most.

use observer_wire::body::sse::{Event, Parser};
use proptest::prelude::*;

fn events(pieces: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    let mut keep = |event: Event<'_>| events.push((event.name.to_vec(), event.data.to_vec()));
    for piece in pieces {
        parser.push(piece, &mut keep);
    }
    parser.finish(&mut keep);
    events
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        stream in "((event: [a-z]{1,5}|data: ?[a-zé漢:😀 ]{0,12}|: note|id: 1|data)?(\r\n|\n|\r)){0,30}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|range| &bytes[range[0]..range[1]]).collect();
        prop_assert_eq!(events(&pieces), events(&[bytes]));
    }

    #[test]
    fn a_gap_spoils_one_event_at_most(count in 2_usize..20, lost in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let lost = lost.index(count);
        let mut parser = Parser::default();
        let mut seen = Vec::new();
        for index in 0..count {
            let event = format!("data: {{\"n\":{index}}}\n\n");
            let mut keep = |event: Event<'_>| seen.push(String::from_utf8(event.data.to_vec()).unwrap());
            if index == lost {
                // From somewhere inside to before its end.
                let begin = 1 + at.index(event.len() - 4);
                parser.push(&event.as_bytes()[..begin], &mut keep);
                parser.gap();
                parser.push(&event.as_bytes()[event.len() - 3..], &mut keep);
            } else {
                parser.push(event.as_bytes(), &mut keep);
            }
        }
        let expected: Vec<String> =
            (0..count).filter(|index| *index != lost).map(|index| format!("{{\"n\":{index}}}")).collect();
        prop_assert_eq!(seen, expected);
    }
}
