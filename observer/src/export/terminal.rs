//! One line a call, for people.

use std::{
    io::{self, BufWriter, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Color, Style};
use jiff::tz::TimeZone;

use super::{Exporter, file::Sink};
use crate::{
    text::{UNKNOWN, count, cut, dollars, duration, others_of, shown},
    trace::{CallRecord, TraceRecord},
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const ERROR: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red)));
const MODEL: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Cyan)));
const WARNING: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));

/// Writes calls as aligned lines, and a footer with totals.
pub struct Pretty {
    writer: BufWriter<Box<dyn Sink>>,
    zone: TimeZone,
    headed: bool,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    calls: u64,
    errors: u64,
    traces: u64,
    input: u64,
    output: u64,
    latency: Duration,
    /// Calls whose cost is known, and the sum in US dollars.
    priced: u64,
    cost: f64,
    /// Requests to hosts of LLM providers that were no calls.
    others: u64,
}

impl Pretty {
    /// Writes to `writer`; times are local.
    pub fn new(writer: Box<dyn Sink>) -> Self {
        Self::with_zone(writer, TimeZone::system())
    }

    /// As [`new`](Self::new), with times of `zone`.
    pub fn with_zone(writer: Box<dyn Sink>, zone: TimeZone) -> Self {
        Self {
            writer: BufWriter::new(writer),
            zone,
            headed: false,
            totals: Totals::default(),
        }
    }
}

impl Exporter for Pretty {
    fn name(&self) -> &'static str {
        "pretty"
    }

    fn call(&mut self, call: &CallRecord) -> io::Result<()> {
        if !self.headed {
            self.headed = true;
            writeln!(
                self.writer,
                "{DIM}{:<12}  {:<20}  {:<36} {:>8} {:>8} {:>9} {:>9}{DIM:#}",
                "TIME", "PROCESS", "MODEL", "IN", "OUT", "LATENCY", "TTFT"
            )?;
        }
        self.totals.add(call);
        let time = call
            .start_time
            .to_zoned(self.zone.clone())
            .strftime("%H:%M:%S%.3f")
            .to_string();
        let process = format!(
            "{}[{}]",
            shown(call.comm.as_deref().unwrap_or("?")),
            call.pid
        );
        let model = format!(
            "{}/{}",
            call.provider,
            shown(call.answered_by().unwrap_or("?"))
        );
        write!(
            self.writer,
            "{DIM}{time:<12}{DIM:#}  {process:<20}  {MODEL}{model:<36}{MODEL:#} {:>8} {:>8} {:>9} {:>9}",
            number(call.input()),
            number(call.output()),
            duration(Duration::from_nanos(call.latency_ns)),
            call.time_to_first_token_ns
                .map_or(UNKNOWN.to_owned(), |ns| duration(Duration::from_nanos(ns))),
        )?;
        if let Some(usd) = call.cost_usd {
            write!(self.writer, "  {DIM}{}{DIM:#}", dollars(usd))?;
        }
        if !call.tool_calls.is_empty() {
            write!(
                self.writer,
                "  {DIM}tools {}{DIM:#}",
                shown(&call.tool_calls.join(", "))
            )?;
        }
        if call.failed() {
            let status = call.status_code.map(|status| status.to_string());
            let known = [status, call.error_type.as_deref().map(shown)];
            let known: Vec<String> = known.into_iter().flatten().collect();
            write!(self.writer, "  {ERROR}{}", known.join(" "))?;
            if let Some(message) = &call.error_message {
                write!(self.writer, ": {}", cut(&shown(message), 80))?;
            }
            write!(self.writer, "{ERROR:#}")?;
        }
        if let Some(why) = call.incomplete {
            write!(
                self.writer,
                "  {WARNING}{}{WARNING:#}",
                why.replace('_', " ")
            )?;
        }
        writeln!(self.writer)?;
        for (mark, preview) in [("›", &call.input_preview), ("‹", &call.output_preview)] {
            for line in preview.iter().flat_map(|preview| preview.lines()) {
                writeln!(self.writer, "  {DIM}{mark} {}{DIM:#}", shown(line))?;
            }
        }
        Ok(())
    }

    fn trace(&mut self, _trace: &TraceRecord) -> io::Result<()> {
        self.totals.traces += 1;
        Ok(())
    }

    fn others(&mut self, count: u64) -> io::Result<()> {
        self.totals.others = count;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_mut().reopen()
    }

    fn finish(&mut self) -> io::Result<()> {
        let totals = &self.totals;
        let cost = match totals.priced {
            0 => String::new(),
            all if all == totals.calls => format!(" · {}", dollars(totals.cost)),
            some => format!(" · {} for {some} of them", dollars(totals.cost)),
        };
        let others = match totals.others {
            0 => String::new(),
            others => format!(" · {}", others_of(others)),
        };
        writeln!(
            self.writer,
            "{BOLD}{} · {} · {} · {} tokens in, {} out · {}{cost}{others}{BOLD:#}",
            count(totals.calls, "call"),
            count(totals.errors, "error"),
            count(totals.traces, "trace"),
            totals.input,
            totals.output,
            duration(totals.latency),
        )?;
        self.writer.flush()
    }
}

impl Totals {
    fn add(&mut self, call: &CallRecord) {
        self.calls += 1;
        self.errors += u64::from(call.failed());
        self.input = self.input.saturating_add(call.input().unwrap_or(0));
        self.output = self.output.saturating_add(call.output().unwrap_or(0));
        let latency = Duration::from_nanos(call.latency_ns);
        self.latency = self.latency.saturating_add(latency);
        self.priced += u64::from(call.cost_usd.is_some());
        self.cost += call.cost_usd.unwrap_or(0.0);
    }
}

fn number(value: Option<u64>) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::trace::record::tests::{call, failed_call};

    /// What was written, to be looked at afterwards.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Screen {}

    /// As a terminal gets it, with colours.
    fn coloured(calls: &[CallRecord]) -> String {
        let screen = Screen::default();
        let mut pretty = Pretty::with_zone(Box::new(screen.clone()), TimeZone::UTC);
        for call in calls {
            pretty.call(call).unwrap();
        }
        pretty.finish().unwrap();
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    fn shown(calls: &[CallRecord]) -> String {
        anstream::adapter::strip_str(&coloured(calls)).to_string()
    }

    #[test]
    fn a_screen_of_calls() {
        let cancelled = CallRecord {
            incomplete: Some("client_cancelled"),
            completion_tokens: None,
            output_tokens: None,
            ..call()
        };
        let previews = CallRecord {
            input_preview: Some("[system] Be brief.\n[user] Hi".to_owned()),
            output_preview: Some("Paris".to_owned()),
            ..call()
        };
        insta::assert_snapshot!(shown(&[call(), failed_call(), cancelled, previews]));
    }

    #[test]
    fn costs_are_shown_where_they_are_known() {
        let priced = CallRecord {
            cost_usd: Some(0.000_345),
            cost_source: Some("prices"),
            ..call()
        };
        let screen = shown(&[priced.clone(), call()]);
        assert!(screen.contains("210 ms  $0.000345"), "{screen}");
        assert!(screen.contains(" · $0.000345 for 1 of them"), "{screen}");
        let screen = shown(&[priced.clone(), priced]);
        assert!(screen.trim_end().ends_with(" · $0.00069"), "{screen}");
    }

    #[test]
    fn requests_that_are_no_calls_are_counted() {
        let screen = Screen::default();
        let mut pretty = Pretty::with_zone(Box::new(screen.clone()), TimeZone::UTC);
        pretty.others(3).unwrap();
        pretty.finish().unwrap();
        let text = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains(" · 3 other requests to LLM hosts"), "{text}");
    }

    #[test]
    fn nothing_but_a_footer_without_calls() {
        insta::assert_snapshot!(shown(&[]), @"0 calls · 0 errors · 0 traces · 0 tokens in, 0 out · 0 µs");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let hostile = CallRecord {
            model: Some("evil\x1b[2Jmodel\n".to_owned()),
            response_model: None,
            comm: Some("a\x07b".to_owned()),
            ..call()
        };
        let screen = coloured(&[hostile]);
        assert!(
            !screen.contains("\x1b[2J") && !screen.contains('\x07'),
            "{screen:?}"
        );
        assert_eq!(screen.lines().count(), 3, "{screen:?}");
    }
}
