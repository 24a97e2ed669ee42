//! An inventory as people and programs read it.

use std::io::{self, Write};

use clap::ValueEnum;
use jiff::{Timestamp as Utc, tz::TimeZone};
use ratatui::text::Span;

use super::{Listing, NAMED, Row, Totals};
use crate::text::{UNKNOWN, count, dollars, shown, write_json};

/// Between two columns.
const GAP: usize = 2;

/// Form of the inventory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated values (RFC 4180), for spreadsheets: what could be a formula begins with '
    Csv,
    /// One JSON object
    Json,
    /// A table for people
    #[default]
    Table,
}

/// Writes an inventory: to a screen that has so many columns, if that is given. A table is made to fit there, and
/// nothing steers it.
///
/// # Errors
///
/// It cannot be written.
pub fn write(
    listing: &Listing,
    format: Format,
    screen: Option<usize>,
    to: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Csv => csv(listing, screen.is_some(), to),
        Format::Json => {
            write_json(&serde_json::to_vec_pretty(listing)?, |_| false, to)?;
            writeln!(to)
        }
        Format::Table => table(listing, screen, &TimeZone::system(), to),
    }
}

/// A column of the table.
struct Column {
    title: &'static str,
    /// Numbers stand at the right.
    right: bool,
    /// Down to so many columns it may be cut.
    least: usize,
    /// Those of the highest are left out first where the table is too wide; 0 is always there.
    spare: u8,
    cell: fn(&Row, &TimeZone) -> String,
}

const COLUMNS: &[Column] = &[
    column("USER", false, 6, 0, |row, _| user(row)),
    column("PROCESS", false, 8, 0, |row, _| process(row)),
    column("PID", true, usize::MAX, 3, |row, _| pid(row)),
    column("CONTAINER", false, 12, 5, |row, _| {
        if let (Some(namespace), Some(workload)) = (&row.who.namespace, &row.who.workload) {
            return shown(&format!("{namespace}/{workload}"));
        }
        let id = row.who.container_id.as_deref();
        id.map_or(String::new(), |id| shown(id).chars().take(12).collect())
    }),
    column("PROVIDER", false, 8, 0, |row, _| provider(row)),
    column("MODEL", false, 20, 0, |row, _| {
        row.who.model.as_deref().map_or(String::new(), shown)
    }),
    column("CALLS", true, usize::MAX, 0, |row, _| row.calls.to_string()),
    column("ERR", true, usize::MAX, 4, |row, _| row.errors.to_string()),
    column("IN", true, usize::MAX, 0, |row, _| tokens(row.input_tokens)),
    column("OUT", true, usize::MAX, 0, |row, _| {
        tokens(row.output_tokens)
    }),
    column("OTHER", true, usize::MAX, 4, |row, _| {
        let others = row.other_requests;
        if others > 0 {
            others.to_string()
        } else {
            String::new()
        }
    }),
    column("COST", true, usize::MAX, 1, |row, _| cost(row)),
    column("TRACES", true, usize::MAX, 7, |row, _| {
        row.traces.to_string()
    }),
    column("KEY", false, usize::MAX, 2, |row, _| {
        let print = row.who.credential.as_deref();
        print.map_or(String::new(), |print| {
            shown(print).chars().take(8).collect()
        })
    }),
    column("FIRST SEEN", false, usize::MAX, 8, |row, zone| {
        time(row.first_seen, zone)
    }),
    column("LAST SEEN", false, usize::MAX, 6, |row, zone| {
        time(row.last_seen, zone)
    }),
    column("HOSTS", false, 16, 9, |row, _| hosts(row)),
];

const fn column(
    title: &'static str,
    right: bool,
    least: usize,
    spare: u8,
    cell: fn(&Row, &TimeZone) -> String,
) -> Column {
    Column {
        title,
        right,
        least,
        spare,
        cell,
    }
}

pub(super) fn table(
    listing: &Listing,
    width: Option<usize>,
    zone: &TimeZone,
    to: &mut dyn Write,
) -> io::Result<()> {
    if listing.rows.is_empty() {
        return writeln!(to, "nobody has talked to an LLM provider");
    }
    // What is empty in every row need not be there.
    let mut columns: Vec<(&Column, Vec<String>)> = COLUMNS
        .iter()
        .map(|column| {
            let cells = listing.rows.iter().map(|row| (column.cell)(row, zone));
            (column, cells.collect::<Vec<_>>())
        })
        .filter(|(column, cells)| column.spare == 0 || cells.iter().any(|cell| !cell.is_empty()))
        .collect();
    let (widths, left_out) = fit(&mut columns, width);
    let line = |to: &mut dyn Write, cell: &dyn Fn(usize) -> String| -> io::Result<()> {
        let mut line = String::new();
        for (at, width) in widths.iter().enumerate() {
            let text = cut(&cell(at), *width);
            let pad = " ".repeat(width - width_of(&text));
            if at > 0 {
                line.push_str(&" ".repeat(GAP));
            }
            let (before, after) = if columns[at].0.right {
                (&pad[..], "")
            } else {
                ("", &pad[..])
            };
            line.extend([before, &text, after]);
        }
        writeln!(to, "{}", line.trim_end())
    };
    line(to, &|at| columns[at].0.title.to_owned())?;
    for row in 0..listing.rows.len() {
        line(to, &|at| columns[at].1[row].clone())?;
    }
    writeln!(to)?;
    let mut foot = vec![foot(&listing.totals())];
    if listing.rows.iter().any(|row| row.other_requests > 0) {
        let others: u64 = listing.rows.iter().map(|row| row.other_requests).sum();
        foot.push(format!("{} that were no calls", count(others, "request")));
    }
    if let Some(since) = listing.since {
        foot.push(format!("since {}", time(since, zone)));
    }
    paragraph(&foot.join(" · "), width, to)?;
    if !left_out.is_empty() {
        let note = format!(
            "too narrow for: {} (see --format json)",
            left_out.join(", ").to_lowercase()
        );
        paragraph(&note, width, to)?;
    }
    Ok(())
}

/// Cuts columns and leaves some out until the table fits. Returns the widths, and the titles of those left out.
fn fit(
    columns: &mut Vec<(&Column, Vec<String>)>,
    width: Option<usize>,
) -> (Vec<usize>, Vec<&'static str>) {
    let mut left_out = Vec::new();
    loop {
        let mut widths: Vec<usize> = columns
            .iter()
            .map(|(column, cells)| {
                let cells = cells.iter().map(|cell| width_of(cell));
                cells.max().unwrap_or(0).max(column.title.len())
            })
            .collect();
        let Some(room) = width else {
            return (widths, left_out);
        };
        let gaps = GAP * widths.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(room);
        // The widest gives way first.
        while excess > 0 {
            let can = |at: &usize| {
                let least = columns[*at].0.least.max(columns[*at].0.title.len());
                widths[*at] > least
            };
            let Some(at) = (0..widths.len()).filter(can).max_by_key(|at| widths[*at]) else {
                break;
            };
            widths[at] -= 1;
            excess -= 1;
        }
        if excess == 0 {
            return (widths, left_out);
        }
        let spare = (0..columns.len())
            .filter(|at| columns[*at].0.spare > 0)
            .max_by_key(|at| columns[*at].0.spare);
        let Some(at) = spare else {
            return (widths, left_out);
        };
        left_out.push(columns.remove(at).0.title);
    }
}

fn foot(totals: &Totals) -> String {
    let Totals {
        users,
        programs,
        credentials,
        calls,
        errors,
        input_tokens,
        output_tokens,
        cost_usd,
    } = totals;
    let mut parts = vec![
        count(*users as u64, "user"),
        count(*programs as u64, "program"),
        count(*credentials as u64, "key"),
        count(*calls, "call"),
        count(*errors, "error"),
        format!("{input_tokens} tokens in, {output_tokens} out"),
    ];
    if let Some(usd) = cost_usd {
        parts.push(dollars(*usd));
    }
    parts.join(" · ")
}

fn csv(listing: &Listing, on_screen: bool, to: &mut dyn Write) -> io::Result<()> {
    const HEAD: &[&str] = &[
        "user",
        "uid",
        "comm",
        "exe",
        "pids",
        "container_id",
        "namespace",
        "workload",
        "provider",
        "model",
        "credential",
        "calls",
        "errors",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "cost_known_of",
        "traces",
        "other_requests",
        "first_seen",
        "last_seen",
        "hosts",
        "rest",
    ];
    write!(to, "{}\r\n", HEAD.join(","))?;
    for row in &listing.rows {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let number = |number: Option<u64>| number.map_or(String::new(), |n| n.to_string());
        let pids: Vec<String> = row.pids.iter().map(u32::to_string).collect();
        let hosts: Vec<&str> = row.hosts.iter().map(String::as_str).collect();
        let cells = [
            text(&row.user),
            number(row.who.uid.map(u64::from)),
            text(&row.who.comm),
            text(&row.who.exe),
            pids.join(" "),
            text(&row.who.container_id),
            text(&row.who.namespace),
            text(&row.who.workload),
            text(&row.who.provider),
            text(&row.who.model),
            text(&row.who.credential),
            row.calls.to_string(),
            row.errors.to_string(),
            number(row.input_tokens),
            number(row.output_tokens),
            row.cost_usd.map_or(String::new(), |usd| usd.to_string()),
            row.cost_known_of.to_string(),
            row.traces.to_string(),
            row.other_requests.to_string(),
            format!("{:.9}", row.first_seen),
            format!("{:.9}", row.last_seen),
            hosts.join(" "),
            row.rest.to_string(),
        ];
        let cells = cells.map(|cell| {
            let cell = if on_screen { shown(&cell) } else { cell };
            quoted(&cell)
        });
        write!(to, "{}\r\n", cells.join(","))?;
    }
    Ok(())
}

/// A field of RFC 4180. What a spreadsheet would take for a formula is none.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = format!("{}{cell}", if formula { "'" } else { "" });
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

fn user(row: &Row) -> String {
    match (&row.user, row.who.uid) {
        _ if row.rest => "(others)".to_owned(),
        (Some(name), _) => shown(name),
        (None, Some(uid)) => uid.to_string(),
        (None, None) => UNKNOWN.to_owned(),
    }
}

fn process(row: &Row) -> String {
    let exe = row.who.exe.as_deref();
    let exe = exe.and_then(|exe| exe.rsplit('/').next());
    match (row.who.comm.as_deref(), exe) {
        _ if row.rest => String::new(),
        (Some(name), _) | (None, Some(name)) => shown(name),
        (None, None) => UNKNOWN.to_owned(),
    }
}

/// The process, or how many.
fn pid(row: &Row) -> String {
    let mut pids = row.pids.iter();
    match (pids.next(), pids.len()) {
        (None, _) => String::new(),
        (Some(pid), 0) => pid.to_string(),
        (Some(_), others) => {
            let open = if others + 1 == NAMED { "+" } else { "" };
            format!("×{}{open}", others + 1)
        }
    }
}

fn provider(row: &Row) -> String {
    match &row.who.provider {
        Some(provider) => shown(provider),
        None if row.rest => String::new(),
        None => "(no call)".to_owned(),
    }
}

fn tokens(number: Option<u64>) -> String {
    number.map_or(UNKNOWN.to_owned(), |number| number.to_string())
}

/// With a `+` where the cost of other calls is not known.
fn cost(row: &Row) -> String {
    row.cost_usd.map_or(String::new(), |usd| {
        let all = row.cost_known_of + row.errors >= row.calls;
        format!("{}{}", dollars(usd), if all { "" } else { "+" })
    })
}

fn time(time: Utc, zone: &TimeZone) -> String {
    let time = time.to_zoned(zone.clone());
    time.strftime("%Y-%m-%d %H:%M").to_string()
}

fn hosts(row: &Row) -> String {
    let hosts: Vec<String> = row.hosts.iter().map(|host| shown(host)).collect();
    let more = if row.more { " …" } else { "" };
    format!("{}{more}", hosts.join(" "))
}

fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// The beginning of a text, with an ellipsis if it is not all.
fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if width_of(&cut) + 1 > width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

/// Breaks lines at blanks.
fn paragraph(text: &str, width: Option<usize>, to: &mut dyn Write) -> io::Result<()> {
    let width = width.unwrap_or(usize::MAX);
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width_of(&line) + 1 + width_of(word) > width {
            writeln!(to, "{}", line.trim_end_matches([' ', '·']))?;
            line.clear();
            if word == "·" {
                continue;
            }
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(to, "{line}")
}
