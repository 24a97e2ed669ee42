use std::fmt::Write as _;

use super::*;
use crate::{
    records,
    text::is_steering,
    trace::record::tests::{call, failed_call},
};

fn calls() -> Vec<CallRecord> {
    let second = |seconds: i64| Utc::from_second(1_790_000_000 + seconds).unwrap();
    let ann = CallRecord {
        start_time: second(0),
        input_tokens: Some(100),
        output_tokens: Some(10),
        cost_usd: Some(0.25),
        credential: Some("aa".repeat(16)),
        ..call()
    };
    let batch = CallRecord {
        uid: Some(0),
        provider: "anthropic",
        model: Some("claude-sonnet-4-5".to_owned()),
        comm: Some("batch".to_owned()),
        exe: Some("/opt/batch".to_owned()),
        pid: 77,
        server_address: Some("api.anthropic.com".to_owned()),
        credential: Some("bb".repeat(16)),
        cost_usd: None,
        trace_id: "1".repeat(32),
        ..ann.clone()
    };
    vec![
        ann.clone(),
        CallRecord {
            start_time: second(5),
            pid: 4300,
            cost_usd: None,
            ..ann.clone()
        },
        CallRecord {
            credential: ann.credential.clone(),
            start_time: second(9),
            ..failed_call()
        },
        CallRecord {
            credential: Some("cc".repeat(16)),
            trace_id: "2".repeat(32),
            ..ann.clone()
        },
        batch.clone(),
        CallRecord {
            trace_id: "3".repeat(32),
            ..batch.clone()
        },
        CallRecord {
            container_id: Some("ab".repeat(32)),
            uid: Some(65_533),
            input_tokens: None,
            output_tokens: None,
            prompt_tokens: None,
            completion_tokens: None,
            ..batch
        },
    ]
}

fn listing(calls: &[CallRecord]) -> Listing {
    let mut inventory = Inventory::new(None);
    for call in calls {
        inventory.call(&Call::from(call));
    }
    let mut listing = inventory.listing();
    for row in &mut listing.rows {
        row.user = (row.who.uid == Some(0)).then(|| "root".to_owned());
    }
    listing
}

fn table(listing: &Listing, width: Option<usize>) -> String {
    let mut text = Vec::new();
    table::table(listing, width, &jiff::tz::TimeZone::UTC, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_row_for_each_user_program_container_model_and_key() {
    insta::assert_snapshot!(table(&listing(&calls()), None));
}

#[test]
fn a_table_fits_the_terminal() {
    let mut tables = String::new();
    for width in [160, 120, 80, 40] {
        let table = table(&listing(&calls()), Some(width));
        writeln!(tables, "{}\n{table}", "-".repeat(width)).unwrap();
        if width >= 80 {
            let widest = table.lines().map(|line| line.chars().count()).max();
            assert!(widest.unwrap() <= width, "{table}");
        }
    }
    insta::assert_snapshot!(tables);
}

#[test]
fn json_and_back_and_csv() {
    let listing = listing(&calls());
    let mut json = Vec::new();
    table::write(&listing, table::Format::Json, None, &mut json).unwrap();
    assert_eq!(serde_json::from_slice::<Listing>(&json).unwrap(), listing);
    let mut csv = Vec::new();
    table::write(&listing, table::Format::Csv, None, &mut csv).unwrap();
    insta::assert_snapshot!(String::from_utf8(csv).unwrap());
}

#[test]
fn files_give_what_the_agent_gives() {
    let mut lines = String::new();
    for call in calls() {
        lines.push_str(&serde_json::to_string(&call).unwrap());
        lines.push('\n');
    }
    let mut inventory = Inventory::new(None);
    records::read(lines.as_bytes(), |record| {
        if let records::Record::Call(call) = record {
            inventory.call(&call);
        }
    })
    .unwrap();
    let mut live = Inventory::new(None);
    calls().iter().for_each(|call| live.call(&Call::from(call)));
    assert_eq!(inventory.listing(), live.listing());
}

#[test]
fn interleaved_traces_are_counted_once() {
    let mut inventory = Inventory::new(None);
    for round in 0..3 {
        for trace in 0..1_000 {
            inventory.call(&Call::from(&CallRecord {
                trace_id: format!("{trace:032x}"),
                span_id: format!("{round:08x}{trace:08x}"),
                ..call()
            }));
        }
    }
    let rows = inventory.listing().rows;
    assert_eq!(
        (rows.len(), rows[0].calls, rows[0].traces),
        (1, 3_000, 1_000)
    );
}

#[test]
fn what_is_past_the_bounds_is_counted_together() {
    let mut inventory = Inventory::new(None);
    let made = ROWS as u64 + 1_000;
    for n in 0..made {
        inventory.call(&Call::from(&CallRecord {
            model: Some(format!("model-{n}-{}", "x".repeat(1_000))),
            server_address: Some(format!("{n}.example")),
            pid: u32::try_from(n).unwrap(),
            trace_id: format!("{n:032x}"),
            input_tokens: Some(1),
            ..call()
        }));
    }
    let listing = inventory.listing();
    assert_eq!(listing.rows.len(), ROWS + 1);
    let rest = listing.rows.last().unwrap();
    assert!(rest.rest && rest.more);
    assert_eq!(
        (rest.calls, rest.pids.len(), rest.hosts.len()),
        (1_000, NAMED, NAMED)
    );
    let totals = listing.totals();
    assert_eq!((totals.calls, totals.input_tokens), (made, made));
    let longest = listing.rows.iter().filter_map(|row| row.who.model.as_ref());
    assert_eq!(longest.map(|model| model.len()).max(), Some(NAME));
    // People see that something is missing.
    assert!(table(&listing, Some(160)).contains("(others)"));
}

#[test]
fn hostile_names_reach_neither_terminal_nor_spreadsheet() {
    let hostile = CallRecord {
        model: Some("=HYPERLINK(\"http://x\",\"\x1b[31m\r\n\u{202e}\0\")".to_owned()),
        comm: Some("\x1b]0;owned\x07".to_owned()),
        server_address: Some("\u{9b}2J".to_owned()),
        ..call()
    };
    let listing = listing(&[hostile]);
    for width in [None, Some(80)] {
        let table = table(&listing, width);
        assert!(
            !table.chars().any(|c| c.is_control() && c != '\n'),
            "{table:?}"
        );
        assert!(!table.contains('\u{202e}'));
    }
    let mut csv = Vec::new();
    table::write(&listing, table::Format::Csv, None, &mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.contains(",\"'=HYPERLINK(\"\"http://x\"\","), "{csv}");
    // A file has what there was.
    assert!(csv.contains("\x1b[31m\r\n\u{202e}"), "{csv}");
    for format in [table::Format::Csv, table::Format::Json] {
        let mut text = Vec::new();
        table::write(&listing, format, Some(80), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let is_bad = |c| is_steering(c) && !matches!(c, '\r' | '\n');
        assert!(!text.contains(is_bad), "{text:?}");
        let lines = text.lines().count();
        assert!(format == table::Format::Json || lines == 2, "{text:?}");
    }
}

#[test]
fn requests_that_are_no_calls_have_a_row() {
    let mut inventory = Inventory::new(None);
    let request = OtherRequest {
        server_address: "api.openai.com".to_owned(),
        pid: 9,
        comm: Some("curl".to_owned()),
        exe: None,
        container_id: None,
        kubernetes: None,
        uid: Some(65_533),
    };
    inventory.other(&request, Utc::UNIX_EPOCH);
    inventory.other(&request, Utc::UNIX_EPOCH);
    let listing = inventory.listing();
    insta::assert_snapshot!(table(&listing, None));
    insta::assert_snapshot!(table(&Listing::default(), None), @"nobody has talked to an LLM provider");
}
