//! The screen: what it shows of a [`Model`], and what keys do.
//!
//! Everything is text first: what colour says is said by a word, a mark or reverse video too, and a last pass over
//! the cells takes away what the terminal cannot do.

use std::{cmp::Ordering, time::Duration};

use jiff::{Timestamp as Utc, tz::TimeZone};
use ratatui::{
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Rect,
    style::{Color, Modifier, Style},
    text::Span,
};

use super::model::{Call, Model, Step, Trace, between, model_label, process_label};
use crate::text::{UNKNOWN, count, dollars, duration};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const PLAIN: Style = Style::new();
const DIM: Style = Style::new().fg(Color::DarkGray);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const WARNING: Style = Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD);
const HEADING: Style = Style::new().add_modifier(Modifier::REVERSED);
const CHOSEN: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
const WAITING: Style = Style::new().fg(Color::Blue);
const ANSWERING: Style = Style::new().fg(Color::Cyan);
const TOOL: Style = Style::new().fg(Color::Magenta);

/// Longest filter.
const FILTER: usize = 64;

const KEYS: &[(&str, &str)] = &[
    ("Up Down PgUp PgDn Home End", "choose a row (also k and j)"),
    ("Tab, 1 to 4", "go to the next table, or to one of them"),
    (
        "Enter",
        "of a trace: its calls over time; of a process or model: only that",
    ),
    ("Esc", "back; without a way back: no filter"),
    (
        "/",
        "only what has this text in process, container, model or provider",
    ),
    ("s S", "sort by the next column, or by the one before"),
    ("r", "sort the other way round"),
    ("f", "this table alone, and all again"),
    ("p, Space", "hold the screen still, and go on"),
    ("?, h", "these keys"),
    ("q, Ctrl-C", "end"),
];

/// What the terminal can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether it has colours, and they are wanted.
    pub(super) colour: bool,
    /// Whether it has other characters than those of ASCII.
    pub(super) unicode: bool,
}

/// What has to be done about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Draw: something looks different.
    Draw,
    /// Nothing.
    Nothing,
    /// End.
    Quit,
}

/// A table of the main view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panel {
    Processes,
    Models,
    InFlight,
    Traces,
}

const PANELS: [Panel; 4] = [
    Panel::Processes,
    Panel::Models,
    Panel::InFlight,
    Panel::Traces,
];

/// What the user has chosen.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    look: Look,
    zone: TimeZone,
    /// What is looked at, for the title.
    subject: String,
    /// Whether calls in flight are known.
    live: bool,
    panel: Panel,
    alone: bool,
    /// For each panel.
    tables: [Table; PANELS.len()],
    filter: String,
    editing: bool,
    help: bool,
    paused: bool,
    open: Option<Opened>,
    message: Option<String>,
}

/// How a table is looked at.
#[derive(Clone, Debug, Default)]
struct Table {
    /// The row that was chosen by name, so that it stays chosen wherever it moves.
    chosen: Option<String>,
    place: usize,
    offset: usize,
    column: usize,
    reversed: bool,
    /// The rows as they were drawn, by name.
    keys: Vec<String>,
    height: usize,
}

/// The trace that is looked at.
#[derive(Clone, Debug)]
struct Opened {
    trace_id: String,
    place: usize,
    offset: usize,
    rows: usize,
}

#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    width: u16,
    right: bool,
    /// Columns with more are kept longer where there is little room.
    weight: u8,
    grows: bool,
}

struct Row {
    key: String,
    cells: Vec<Cell>,
    alarm: bool,
}

struct Cell {
    text: String,
    /// What it is sorted by, if not by the text.
    value: Option<f64>,
}

/// A line of the waterfall.
enum Bar<'a> {
    Call(&'a Call),
    Step(&'a Step),
}

impl Screen {
    /// A screen about `subject`; `live` if calls in flight are known.
    pub(super) fn new(subject: String, live: bool, look: Look, zone: TimeZone) -> Self {
        let mut tables: [Table; PANELS.len()] = Default::default();
        for (table, panel) in tables.iter_mut().zip(PANELS) {
            let wanted = match panel {
                Panel::Processes | Panel::Models => "CALLS",
                Panel::InFlight => "AGE",
                Panel::Traces => "START",
            };
            let found = panel.columns().iter().position(|c| c.title == wanted);
            table.column = found.unwrap_or(0);
        }
        Self {
            look,
            zone,
            subject,
            live,
            panel: Panel::Processes,
            alone: false,
            tables,
            filter: String::new(),
            editing: false,
            help: false,
            paused: false,
            open: None,
            message: None,
        }
    }

    /// Whether the user wants the screen to stand still.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Shows a message until the next key.
    pub(super) fn say(&mut self, message: String) {
        self.message = Some(message);
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        self.message = None;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control {
            return match key.code {
                KeyCode::Char('c') => Action::Quit,
                KeyCode::Char('l') => Action::Draw,
                KeyCode::Char('u') if self.editing => {
                    self.filter.clear();
                    Action::Draw
                }
                _ => Action::Nothing,
            };
        }
        if self.editing {
            return self.edit(key.code);
        }
        if self.help {
            self.help = false;
            return match key.code {
                KeyCode::Char('q') => Action::Quit,
                _ => Action::Draw,
            };
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-self.page()),
            KeyCode::PageDown => self.step(self.page()),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left if self.open.is_some() => {
                self.open = None;
            }
            _ if self.open.is_some() => return Action::Nothing,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Tab => self.turn(false),
            KeyCode::BackTab => self.turn(true),
            KeyCode::Char(digit @ '1'..='4') => {
                let place = usize::from(digit as u8 - b'1');
                if let Some(panel) = self.shown_panels().get(place) {
                    self.panel = *panel;
                }
            }
            KeyCode::Char('f') => self.alone = !self.alone,
            KeyCode::Char('r') => {
                let table = &mut self.tables[self.panel as usize];
                table.reversed = !table.reversed;
            }
            KeyCode::Char('s') => self.sort_by_next(1),
            KeyCode::Char('S') => self.sort_by_next(self.panel.columns().len() - 1),
            KeyCode::Enter => self.enter(),
            _ => return Action::Nothing,
        }
        Action::Draw
    }

    /// Draws everything.
    pub(super) fn draw(&mut self, buffer: &mut Buffer, model: &Model, now: Utc) {
        let area = buffer.area;
        if area.height < 6 || area.width < 30 {
            put(buffer, area.x, area.y, area.width, "too small", PLAIN);
            return;
        }
        self.header(buffer, model, now);
        let middle = Rect {
            y: area.y + 2,
            height: area.height - 3,
            ..area
        };
        match self.open.clone() {
            Some(open) => self.waterfall(buffer, middle, model, open),
            None => self.tables(buffer, middle, model, now),
        }
        self.footer(buffer, area.bottom() - 1);
        if self.help {
            help(buffer, middle);
        }
        self.adapt(buffer);
    }

    fn edit(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc => {
                self.editing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < FILTER => {
                self.filter.push(c);
            }
            _ => return Action::Nothing,
        }
        Action::Draw
    }

    fn step(&mut self, by: isize) {
        let go = |place: usize, rows: usize| {
            let last = rows.saturating_sub(1);
            place.min(last).saturating_add_signed(by).min(last)
        };
        if let Some(open) = &mut self.open {
            open.place = go(open.place, open.rows);
            return;
        }
        let table = &mut self.tables[self.panel as usize];
        table.place = go(table.place, table.keys.len());
        table.chosen = table.keys.get(table.place).cloned();
    }

    fn page(&self) -> isize {
        let height = self.tables[self.panel as usize].height.max(2) - 1;
        isize::try_from(height).unwrap_or(1)
    }

    fn turn(&mut self, backwards: bool) {
        let shown = self.shown_panels();
        let place = shown.iter().position(|panel| *panel == self.panel);
        let by = if backwards { shown.len() - 1 } else { 1 };
        self.panel = shown[(place.unwrap_or(0) + by) % shown.len()];
    }

    fn sort_by_next(&mut self, by: usize) {
        let columns = self.panel.columns().len();
        let table = &mut self.tables[self.panel as usize];
        table.column = (table.column + by) % columns;
        table.reversed = false;
    }

    fn enter(&mut self) {
        let table = &self.tables[self.panel as usize];
        let Some(key) = table.keys.get(table.place) else {
            return;
        };
        match self.panel {
            Panel::Traces => {
                self.open = Some(Opened {
                    trace_id: key.clone(),
                    place: 0,
                    offset: 0,
                    rows: 0,
                });
            }
            Panel::Processes => self.filter = format!("[{key}]"),
            Panel::Models => self.filter.clone_from(key),
            Panel::InFlight => {}
        }
    }

    fn shown_panels(&self) -> Vec<Panel> {
        let known = |panel: &Panel| self.live || *panel != Panel::InFlight;
        PANELS.into_iter().filter(known).collect()
    }

    fn matches(&self, texts: &[&str]) -> bool {
        let filter = self.filter.to_lowercase();
        filter.is_empty()
            || texts
                .iter()
                .any(|text| text.to_lowercase().contains(&filter))
    }

    fn header(&self, buffer: &mut Buffer, model: &Model, now: Utc) {
        let area = buffer.area;
        let mut line = Line::at(area, area.y);
        line.add(buffer, "observer top", BOLD);
        line.add(buffer, &format!(" {}", self.subject), PLAIN);
        let up = between(model.since, now);
        line.add(buffer, &format!("  up {}", uptime(up)), PLAIN);
        if self.paused {
            line.add(buffer, "  ", PLAIN);
            line.add(buffer, " PAUSED ", HEADING);
        }
        if !self.filter.is_empty() && !self.editing {
            line.add(buffer, "  ", PLAIN);
            line.add(buffer, &format!(" only: {} ", self.filter), HEADING);
        }
        let mut line = Line::at(area, area.y + 1);
        let totals = &model.totals;
        line.add(buffer, &count(totals.calls, "call"), BOLD);
        let errors = if totals.errors > 0 { ALARM } else { PLAIN };
        line.add(
            buffer,
            &format!("  {}", count(totals.errors, "error")),
            errors,
        );
        if self.live {
            line.add(
                buffer,
                &format!("  {} in flight", model.in_flight().len()),
                PLAIN,
            );
        }
        let (input, output) = totals.tokens_per_second(now);
        line.add(
            buffer,
            &format!(
                "  tokens in {} ({}/s) out {} ({}/s)",
                amount(totals.input),
                rate(input),
                amount(totals.output),
                rate(output)
            ),
            PLAIN,
        );
        if totals.priced > 0 {
            let of_them = if totals.priced == totals.calls {
                String::new()
            } else {
                format!(" for {} of them", totals.priced)
            };
            line.add(
                buffer,
                &format!("  {}{of_them}", dollars(totals.cost)),
                PLAIN,
            );
        }
        if let Some(losses) = &model.losses {
            let lost = losses.events();
            let style = if lost > 0 { WARNING } else { PLAIN };
            line.add(buffer, &format!("  lost {}", amount(lost)), style);
        }
        if model.dropped > 0 {
            line.add(
                buffer,
                &format!("  {} not in time", amount(model.dropped)),
                WARNING,
            );
        }
        if model.bad_lines > 0 {
            line.add(
                buffer,
                &format!("  {}", count(model.bad_lines, "bad line")),
                WARNING,
            );
        }
        if model.others > 0 {
            line.add(
                buffer,
                &format!("  {}", count(model.others, "other request")),
                DIM,
            );
        }
    }

    fn footer(&self, buffer: &mut Buffer, y: u16) {
        let area = buffer.area;
        let mut line = Line::at(area, y);
        if self.editing {
            line.add(buffer, "Only what has: ", BOLD);
            line.add(buffer, &self.filter, PLAIN);
            line.add(buffer, " ", HEADING);
            line.add(buffer, "  Enter: keep  Esc: all", DIM);
        } else if let Some(message) = &self.message {
            line.add(buffer, message, WARNING);
        } else if self.open.is_some() {
            line.add(
                buffer,
                "Esc: back  Up Down: choose  p: pause  ?: keys  q: end",
                DIM,
            );
        } else {
            line.add(
                buffer,
                "?: keys  /: filter  Tab: next table  s r: sort  f: alone  Enter: open  p: pause  q: end",
                DIM,
            );
        }
    }

    fn tables(&mut self, buffer: &mut Buffer, area: Rect, model: &Model, now: Utc) {
        let panels = if self.alone {
            vec![self.panel]
        } else {
            self.shown_panels()
        };
        let mut filled: Vec<(Panel, Vec<Row>)> = Vec::new();
        for panel in panels {
            let mut rows = self.rows(panel, model, now);
            let table = &self.tables[panel as usize];
            sort(&mut rows, table.column, table.reversed);
            filled.push((panel, rows));
        }
        let wanted: Vec<usize> = filled
            .iter()
            .map(|(_, rows)| rows.len().max(1) + 1)
            .collect();
        let heights = share(usize::from(area.height), &wanted);
        let mut y = area.y;
        for ((panel, rows), height) in filled.into_iter().zip(heights) {
            let room = Rect { y, height, ..area };
            y += height;
            self.table(buffer, room, panel, &rows);
        }
    }

    fn table(&mut self, buffer: &mut Buffer, area: Rect, panel: Panel, rows: &[Row]) {
        let focused = panel == self.panel;
        let columns = panel.columns();
        let table = &mut self.tables[panel as usize];
        let height = usize::from(area.height.saturating_sub(1));
        table.height = height;
        table.keys = rows.iter().map(|row| row.key.clone()).collect();
        let chosen = table.chosen.as_ref();
        match chosen.and_then(|key| table.keys.iter().position(|other| other == key)) {
            Some(place) => table.place = place,
            None => table.place = table.place.min(rows.len().saturating_sub(1)),
        }
        table.offset = scrolled(table.offset, table.place, height, rows.len());
        let widths = widths(columns, rows, area.width.saturating_sub(2));
        if area.height == 0 {
            return;
        }
        // The heading has the name of the table in its first column.
        fill(buffer, area.x, area.y, area.width, HEADING);
        let mut x = area.x + 2;
        for (place, (column, width)) in columns.iter().zip(&widths).enumerate() {
            let Some(width) = *width else { continue };
            let mark = match (table.column == place, table.reversed) {
                (false, _) => "",
                (true, false) => "▼",
                (true, true) => "▲",
            };
            let title = if place == 0 {
                format!("{} {}{mark}", column.title, rows.len())
            } else {
                format!("{}{mark}", column.title)
            };
            let style = if focused {
                HEADING.patch(BOLD)
            } else {
                HEADING
            };
            set(buffer, x, area.y, width, &title, column.right, style);
            x += width + 1;
        }
        if focused {
            put(buffer, area.x, area.y, 1, ">", HEADING);
        }
        if rows.is_empty() && area.height > 1 {
            let none = if self.filter.is_empty() {
                "none"
            } else {
                "none that fits the filter"
            };
            put(buffer, area.x + 2, area.y + 1, area.width - 2, none, DIM);
        }
        let visible = rows.iter().enumerate().skip(table.offset).take(height);
        for (y, (place, row)) in (area.y + 1..).zip(visible) {
            let chosen = focused && place == table.place;
            if chosen {
                put(buffer, area.x, y, 1, ">", CHOSEN);
            } else if row.alarm {
                put(buffer, area.x, y, 1, "!", ALARM);
            }
            let mut x = area.x + 2;
            for ((column, width), cell) in columns.iter().zip(&widths).zip(&row.cells) {
                let Some(width) = *width else { continue };
                let bad = column.title == "ERR" && cell.value.is_some_and(|errors| errors > 0.0);
                let style = match (chosen, bad) {
                    (_, true) => ALARM,
                    (true, false) => CHOSEN,
                    (false, false) => PLAIN,
                };
                set(buffer, x, y, width, &cell.text, column.right, style);
                x += width + 1;
            }
        }
    }

    fn rows(&self, panel: Panel, model: &Model, now: Utc) -> Vec<Row> {
        match panel {
            Panel::Processes => self.processes(model, now),
            Panel::Models => self.models(model, now),
            Panel::InFlight => self.in_flight(model, now),
            Panel::Traces => self.traces(model),
        }
    }

    fn processes(&self, model: &Model, now: Utc) -> Vec<Row> {
        let mut rows = Vec::new();
        for process in model.processes() {
            let label = process_label(process.comm.as_deref(), process.pid);
            let container = process.container.as_deref().unwrap_or("");
            let mut texts = vec![label.as_str(), container];
            texts.extend(process.models.iter().map(String::as_str));
            if !self.matches(&texts) {
                continue;
            }
            let flying = model.in_flight();
            let flying = flying.filter(|(_, call)| call.pid == process.pid).count();
            let stats = &process.stats;
            let (input, output) = stats.tokens_per_second(now);
            rows.push(Row {
                key: process.pid.to_string(),
                cells: vec![
                    Cell::text(label),
                    Cell::text(short(container)),
                    Cell::number(stats.calls),
                    Cell::number(flying as u64),
                    Cell::number(stats.errors),
                    Cell::number(stats.input),
                    Cell::number(stats.output),
                    Cell::rate(input + output),
                    Cell::time(stats.latency.percentile(50)),
                    Cell::time(stats.latency.percentile(95)),
                    Cell::text(process.model.clone().unwrap_or_default()),
                ],
                alarm: stats.errors > 0,
            });
        }
        rows
    }

    fn models(&self, model: &Model, now: Utc) -> Vec<Row> {
        let mut rows = Vec::new();
        for ((provider, name), stats) in model.models() {
            let label = model_label(provider, Some(name));
            if !self.matches(&[&label]) {
                continue;
            }
            let (input, output) = stats.tokens_per_second(now);
            rows.push(Row {
                key: label.clone(),
                cells: vec![
                    Cell::text(label),
                    Cell::number(stats.calls),
                    Cell::number(stats.errors),
                    Cell::number(stats.input),
                    Cell::number(stats.output),
                    Cell::rate(input + output),
                    Cell::time(stats.latency.percentile(50)),
                    Cell::time(stats.latency.percentile(95)),
                    Cell::cost(stats.cost, stats.priced),
                ],
                alarm: stats.errors > 0,
            });
        }
        rows
    }

    fn in_flight(&self, model: &Model, now: Utc) -> Vec<Row> {
        let mut rows = Vec::new();
        for (span_id, call) in model.in_flight() {
            let label = process_label(call.comm.as_deref(), call.pid);
            let container = call.container.as_deref().unwrap_or("");
            let called = match &call.provider {
                Some(provider) => model_label(provider, call.model.as_deref()),
                None => UNKNOWN.to_owned(),
            };
            if !self.matches(&[&label, container, &called]) {
                continue;
            }
            rows.push(Row {
                key: span_id.clone(),
                cells: vec![
                    Cell::text(label),
                    Cell::text(short(container)),
                    Cell::text(called),
                    Cell::text(self.clock(call.start)),
                    Cell::time(Some(between(call.start, now))),
                ],
                alarm: false,
            });
        }
        rows
    }

    fn traces(&self, model: &Model) -> Vec<Row> {
        let mut rows = Vec::new();
        for trace in model.traces().rev() {
            let label = trace.label();
            let container = trace.container.as_deref().unwrap_or("");
            let models: Vec<String> = if self.filter.is_empty() {
                Vec::new()
            } else {
                let calls = trace.calls.iter();
                calls
                    .flat_map(|call| [call.label(), call.group()])
                    .collect()
            };
            let mut texts = vec![label.as_str(), container, trace.trace_id.as_str()];
            texts.extend(models.iter().map(String::as_str));
            if !self.matches(&texts) {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "to sort by")]
            let started = trace.start.as_microsecond() as f64;
            rows.push(Row {
                key: trace.trace_id.clone(),
                cells: vec![
                    Cell::text(label),
                    Cell::text(trace.trace_id.chars().take(8).collect()),
                    Cell {
                        text: self.clock(trace.start),
                        value: Some(started),
                    },
                    Cell::time(Some(trace.duration())),
                    Cell::number(trace.total),
                    Cell::number(trace.steps.len() as u64),
                    Cell::number(trace.errors),
                    Cell::number(trace.input),
                    Cell::number(trace.output),
                    Cell::cost(trace.cost, trace.priced),
                    Cell::text(if trace.ended { "ended" } else { "open" }.to_owned()),
                ],
                alarm: trace.errors > 0,
            });
        }
        rows
    }

    fn waterfall(&mut self, buffer: &mut Buffer, area: Rect, model: &Model, mut open: Opened) {
        let Some(trace) = model.trace(&open.trace_id) else {
            put(
                buffer,
                area.x,
                area.y,
                area.width,
                "This trace is not held any more. Esc: back",
                WARNING,
            );
            return;
        };
        let mut bars: Vec<Bar<'_>> = trace.calls.iter().map(Bar::Call).collect();
        bars.extend(trace.steps.iter().map(Bar::Step));
        bars.sort_by_key(Bar::start);
        let details = 5.min(area.height / 3);
        let height = usize::from(area.height.saturating_sub(3 + details));
        open.rows = bars.len();
        open.place = open.place.min(bars.len().saturating_sub(1));
        open.offset = scrolled(open.offset, open.place, height, bars.len());

        self.trace_title(buffer, area, trace);
        let scale = Scale::new(area, trace);
        scale.heading(buffer, area.y + 2);
        let visible = bars.iter().enumerate().skip(open.offset).take(height);
        for (y, (place, bar)) in (area.y + 3..).zip(visible) {
            scale.bar(buffer, y, bar, place == open.place);
        }
        if let Some(bar) = bars.get(open.place) {
            let y = area.bottom() - details;
            self.details(
                buffer,
                Rect {
                    y,
                    height: details,
                    ..area
                },
                bar,
                trace,
            );
        }
        self.open = Some(open);
    }

    fn trace_title(&self, buffer: &mut Buffer, area: Rect, trace: &Trace) {
        let mut line = Line::at(area, area.y);
        line.add(buffer, &trace.label(), BOLD);
        line.add(buffer, &format!("  trace {}", trace.trace_id), PLAIN);
        if let Some(container) = &trace.container {
            line.add(buffer, &format!("  in {}", short(container)), PLAIN);
        }
        let mut line = Line::at(area, area.y + 1);
        let state = match &trace.source {
            Some(source) => format!("by {source}"),
            None => "open".to_owned(),
        };
        line.add(
            buffer,
            &format!(
                "{}  {}  {}  {state}",
                self.clock(trace.start),
                duration(trace.duration()),
                count(trace.total, "call"),
            ),
            PLAIN,
        );
        if trace.errors > 0 {
            line.add(
                buffer,
                &format!("  {}", count(trace.errors, "error")),
                ALARM,
            );
        }
        line.add(
            buffer,
            &format!(
                "  tokens in {} out {}",
                amount(trace.input),
                amount(trace.output)
            ),
            PLAIN,
        );
        if trace.priced > 0 {
            line.add(buffer, &format!("  {}", dollars(trace.cost)), PLAIN);
        }
        let left_out = trace.total.saturating_sub(trace.calls.len() as u64);
        if left_out > 0 {
            line.add(buffer, &format!("  {left_out} of them not held"), WARNING);
        }
    }

    fn details(&self, buffer: &mut Buffer, area: Rect, bar: &Bar<'_>, trace: &Trace) {
        fill(buffer, area.x, area.y, area.width, HEADING);
        let after = duration(between(trace.start, bar.start()));
        let lines: Vec<(String, Style)> = match bar {
            Bar::Call(call) => {
                put(
                    buffer,
                    area.x + 2,
                    area.y,
                    area.width - 2,
                    &call.label(),
                    HEADING,
                );
                let mut result = format!(
                    "{}, {} of latency, first token after {}, begun after {after}",
                    call.status
                        .map_or("no status".to_owned(), |status| format!("status {status}")),
                    duration(call.latency),
                    call.first_token.map_or(UNKNOWN.to_owned(), duration),
                );
                if let Some(attempts) = call.attempts {
                    result.push_str(&format!(", {}", count(attempts.into(), "attempt")));
                }
                let tokens = format!(
                    "{}: tokens in {} ({} cached), out {} ({} of reasoning){}",
                    call.operation,
                    known(call.input),
                    known(call.cached),
                    known(call.output),
                    known(call.reasoning),
                    call.cost
                        .map_or(String::new(), |cost| format!(", {}", dollars(cost))),
                );
                let mut end = Vec::new();
                if !call.finish.is_empty() {
                    end.push(format!("finished by {}", call.finish.join(", ")));
                }
                if !call.tools.is_empty() {
                    end.push(format!("wants {}", call.tools.join(", ")));
                }
                let mut trouble = call.error.clone().unwrap_or_default();
                if let Some(message) = &call.message {
                    trouble.push_str(&format!(": {message}"));
                }
                if let Some(why) = &call.incomplete {
                    trouble.push_str(&format!(" incomplete: {}", why.replace('_', " ")));
                }
                let mut lines = vec![(result, PLAIN), (tokens, PLAIN)];
                if !trouble.is_empty() {
                    lines.push((trouble, ALARM));
                }
                lines.push((end.join(", "), PLAIN));
                lines
            }
            Bar::Step(step) => {
                let title = format!("tool {}", step.name);
                put(buffer, area.x + 2, area.y, area.width - 2, &title, HEADING);
                let time = step.duration.map_or("no result seen".to_owned(), duration);
                let sizes = format!(
                    "{} bytes of arguments, {} of result",
                    step.arguments_bytes,
                    known(step.result_bytes)
                );
                let mut lines = vec![
                    (format!("{time}, begun after {after}"), PLAIN),
                    (sizes, PLAIN),
                ];
                if step.failed {
                    lines.push(("The tool failed.".to_owned(), ALARM));
                }
                lines
            }
        };
        for (y, (text, style)) in (area.y + 1..area.bottom()).zip(lines) {
            put(buffer, area.x + 2, y, area.width - 2, &text, style);
        }
    }

    fn clock(&self, time: Utc) -> String {
        let time = time.to_zoned(self.zone.clone());
        time.strftime("%H:%M:%S").to_string()
    }

    /// Takes away what the terminal cannot do.
    fn adapt(&self, buffer: &mut Buffer) {
        for cell in &mut buffer.content {
            if !self.look.colour {
                (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
            }
            if !self.look.unicode && !cell.symbol().is_ascii() {
                let plain = plain(cell.symbol());
                cell.set_symbol(plain);
            }
        }
    }
}

impl Panel {
    fn columns(self) -> &'static [Column] {
        match self {
            Self::Processes => PROCESSES,
            Self::Models => MODELS,
            Self::InFlight => IN_FLIGHT,
            Self::Traces => TRACES,
        }
    }
}

const PROCESSES: &[Column] = &[
    Column::grows("PROCESSES", 16, 9),
    Column::text("CONTAINER", 12, 1),
    Column::right("CALLS", 6, 9),
    Column::right("FLIGHT", 6, 5),
    Column::right("ERR", 5, 8),
    Column::right("IN", 7, 7),
    Column::right("OUT", 7, 7),
    Column::right("TOK/S", 7, 4),
    Column::right("P50", 8, 3),
    Column::right("P95", 8, 6),
    Column::grows("LAST MODEL", 16, 2),
];

const MODELS: &[Column] = &[
    Column::grows("MODELS", 24, 9),
    Column::right("CALLS", 6, 9),
    Column::right("ERR", 5, 8),
    Column::right("IN", 7, 7),
    Column::right("OUT", 7, 7),
    Column::right("TOK/S", 7, 4),
    Column::right("P50", 8, 3),
    Column::right("P95", 8, 6),
    Column::right("COST", 10, 5),
];

const IN_FLIGHT: &[Column] = &[
    Column::grows("IN FLIGHT", 16, 9),
    Column::text("CONTAINER", 12, 1),
    Column::grows("MODEL", 24, 8),
    Column::text("SINCE", 8, 2),
    Column::right("AGE", 8, 9),
];

const TRACES: &[Column] = &[
    Column::grows("TRACES", 16, 9),
    Column::text("ID", 8, 2),
    Column::text("START", 9, 6),
    Column::right("TIME", 8, 8),
    Column::right("CALLS", 6, 9),
    Column::right("STEPS", 6, 3),
    Column::right("ERR", 5, 8),
    Column::right("IN", 7, 7),
    Column::right("OUT", 7, 7),
    Column::right("COST", 10, 4),
    Column::text("STATE", 6, 1),
];

impl Column {
    const fn text(title: &'static str, width: u16, weight: u8) -> Self {
        Self {
            title,
            width,
            right: false,
            weight,
            grows: false,
        }
    }

    const fn right(title: &'static str, width: u16, weight: u8) -> Self {
        Self {
            right: true,
            ..Self::text(title, width, weight)
        }
    }

    const fn grows(title: &'static str, width: u16, weight: u8) -> Self {
        Self {
            grows: true,
            ..Self::text(title, width, weight)
        }
    }
}

impl Cell {
    fn text(text: String) -> Self {
        Self { text, value: None }
    }

    #[expect(clippy::cast_precision_loss, reason = "to sort by")]
    fn number(number: u64) -> Self {
        Self {
            text: amount(number),
            value: Some(number as f64),
        }
    }

    fn rate(per_second: f64) -> Self {
        Self {
            text: rate(per_second),
            value: Some(per_second),
        }
    }

    fn time(time: Option<Duration>) -> Self {
        Self {
            text: time.map_or(UNKNOWN.to_owned(), duration),
            value: Some(time.map_or(-1.0, |time| time.as_secs_f64())),
        }
    }

    fn cost(usd: f64, priced: u64) -> Self {
        Self {
            text: if priced > 0 {
                dollars(usd)
            } else {
                String::new()
            },
            value: Some(if priced > 0 { usd } else { -1.0 }),
        }
    }
}

impl Bar<'_> {
    fn start(&self) -> Utc {
        match self {
            Self::Call(call) => call.start,
            Self::Step(step) => step.start,
        }
    }
}

/// Where what is on the lines of a waterfall.
struct Scale {
    start: Utc,
    total: Duration,
    /// Of the name, of the status, of the tokens, of the latency, and of the bars: where, and how wide.
    columns: [(u16, u16); 5],
}

impl Scale {
    fn new(area: Rect, trace: &Trace) -> Self {
        let tokens = if area.width >= 76 { 15 } else { 0 };
        let name = (area.width / 4).clamp(10, 34);
        let mut x = area.x + 2;
        let mut column = |width: u16| {
            let place = (x, width);
            x += if width > 0 { width + 1 } else { 0 };
            place
        };
        let [name, status, tokens, latency] = [name, 4, tokens, 8].map(&mut column);
        let rest = area.right().saturating_sub(x);
        Self {
            start: trace.start,
            total: trace.duration().max(Duration::from_nanos(1)),
            columns: [name, status, tokens, latency, (x, rest)],
        }
    }

    fn heading(&self, buffer: &mut Buffer, y: u16) {
        fill(buffer, buffer.area.x, y, buffer.area.width, HEADING);
        let [name, status, tokens, latency, bars] = self.columns;
        set(buffer, name.0, y, name.1, "CALLS AND TOOLS", false, HEADING);
        set(buffer, status.0, y, status.1, "STAT", false, HEADING);
        set(buffer, tokens.0, y, tokens.1, "IN→OUT", true, HEADING);
        set(buffer, latency.0, y, latency.1, "TIME", true, HEADING);
        set(buffer, bars.0, y, bars.1, "0", false, HEADING);
        if bars.1 >= 30 {
            let half = duration(self.total / 2);
            set(
                buffer,
                bars.0 + bars.1 / 2,
                y,
                bars.1 / 2,
                &half,
                false,
                HEADING,
            );
        }
        set(
            buffer,
            bars.0,
            y,
            bars.1,
            &duration(self.total),
            true,
            HEADING,
        );
        put(buffer, bars.0, y, 1, "0", HEADING);
    }

    fn bar(&self, buffer: &mut Buffer, y: u16, bar: &Bar<'_>, chosen: bool) {
        let [name, status, tokens, latency, bars] = self.columns;
        let style = if chosen { CHOSEN } else { PLAIN };
        if chosen {
            put(buffer, buffer.area.x, y, 1, ">", CHOSEN);
        }
        match bar {
            Bar::Call(call) => {
                set(buffer, name.0, y, name.1, &call.label(), false, style);
                let bad = call.failed();
                let text = call
                    .status
                    .map_or(UNKNOWN.to_owned(), |status| status.to_string());
                let state = if bad { ALARM } else { style };
                set(buffer, status.0, y, status.1, &text, false, state);
                if bad && !chosen {
                    put(buffer, buffer.area.x, y, 1, "!", ALARM);
                }
                let text = format!("{}→{}", known(call.input), known(call.output));
                set(buffer, tokens.0, y, tokens.1, &text, true, style);
                set(
                    buffer,
                    latency.0,
                    y,
                    latency.1,
                    &duration(call.latency),
                    true,
                    style,
                );
                let (from, to) = self.span(call.start, call.latency);
                let first = call
                    .first_token
                    .map(|time| self.span(call.start, time).1.saturating_sub(1).max(from));
                for x in from..to {
                    let (symbol, style) = match first {
                        _ if bad => ("×", ALARM),
                        Some(first) if x < first => ("░", WAITING),
                        Some(first) if x == first => ("|", BOLD),
                        _ => ("█", ANSWERING),
                    };
                    put(buffer, bars.0 + x, y, 1, symbol, style);
                }
            }
            Bar::Step(step) => {
                let text = format!("└ {}", step.name);
                set(buffer, name.0, y, name.1, &text, false, style);
                let (text, state) = if step.failed {
                    ("fail", ALARM)
                } else {
                    ("tool", style)
                };
                set(buffer, status.0, y, status.1, text, false, state);
                let text = format!("{}→{} B", step.arguments_bytes, known(step.result_bytes));
                set(buffer, tokens.0, y, tokens.1, &text, true, style);
                let text = step.duration.map_or(UNKNOWN.to_owned(), duration);
                set(buffer, latency.0, y, latency.1, &text, true, style);
                let (from, to) = self.span(step.start, step.duration.unwrap_or_default());
                for x in from..to {
                    put(buffer, bars.0 + x, y, 1, "─", TOOL);
                }
            }
        }
    }

    /// The cells that a time takes: one at least.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the width"
    )]
    fn span(&self, start: Utc, length: Duration) -> (u16, u16) {
        let width = self.columns[4].1;
        let place = |time: Duration| {
            let share = time.as_secs_f64() / self.total.as_secs_f64();
            (share.clamp(0.0, 1.0) * f64::from(width)).round() as u16
        };
        let after = between(self.start, start);
        let from = place(after).min(width.saturating_sub(1));
        let to = place(after.saturating_add(length)).max(from + 1);
        (from, to.min(width))
    }
}

/// A line that is written from left to right.
struct Line {
    x: u16,
    end: u16,
    y: u16,
}

impl Line {
    fn at(area: Rect, y: u16) -> Self {
        Self {
            x: area.x,
            end: area.right(),
            y,
        }
    }

    fn add(&mut self, buffer: &mut Buffer, text: &str, style: Style) {
        let room = self.end.saturating_sub(self.x);
        put(buffer, self.x, self.y, room, text, style);
        self.x += width_of(text).min(room);
    }
}

fn help(buffer: &mut Buffer, area: Rect) {
    let bars = [
        ("░ | █", "a call: waiting, its first token, answering"),
        ("×", "a call that failed"),
        ("─", "a tool"),
    ];
    let lines = || KEYS.iter().chain(&bars);
    let keys = lines().map(|line| width_of(line.0)).max().unwrap_or(0);
    let texts = lines().map(|line| width_of(line.1)).max().unwrap_or(0);
    let width = (keys + texts + 6).min(area.width);
    let height = u16::try_from(lines().count() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    for y in y..y + height {
        let blank = " ".repeat(width.into());
        put(buffer, x, y, width, &blank, PLAIN);
        for x in x..x + width {
            if let Some(cell) = buffer.cell_mut((x, y)) {
                cell.reset();
            }
        }
    }
    let edge = "─".repeat(usize::from(width.saturating_sub(2)));
    put(buffer, x, y, width, &format!("┌{edge}┐"), DIM);
    put(buffer, x, y + height - 1, width, &format!("└{edge}┘"), DIM);
    put(buffer, x + 2, y, width.saturating_sub(4), " Keys ", BOLD);
    for (y, (key, text)) in (y + 1..y + height - 1).zip(lines()) {
        put(buffer, x, y, 1, "│", DIM);
        put(buffer, x + width - 1, y, 1, "│", DIM);
        let inner = width.saturating_sub(4);
        put(buffer, x + 2, y, inner.min(keys), key, BOLD);
        let inner = inner.saturating_sub(keys + 2);
        put(buffer, x + 4 + keys, y, inner, text, PLAIN);
    }
}

/// Shares lines among tables, each of which wants so many: what one does not need is another's.
fn share(lines: usize, wanted: &[usize]) -> Vec<u16> {
    let mut given = vec![0_usize; wanted.len()];
    let mut left = lines;
    while left > 0 {
        let mut any = false;
        for (given, wanted) in given.iter_mut().zip(wanted) {
            if *given < *wanted && left > 0 {
                *given += 1;
                left -= 1;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    let short = |lines| u16::try_from(lines).unwrap_or(u16::MAX);
    given.into_iter().map(short).collect()
}

fn scrolled(offset: usize, place: usize, height: usize, rows: usize) -> usize {
    let height = height.max(1);
    let least = (place + 1).saturating_sub(height);
    offset
        .clamp(least, place.max(least))
        .min(rows.saturating_sub(height).max(least))
}

fn sort(rows: &mut [Row], column: usize, reversed: bool) {
    rows.sort_by(|one, other| {
        let (a, b) = (&one.cells[column], &other.cells[column]);
        let order = match (a.value, b.value) {
            // The most first.
            (Some(a), Some(b)) => b.total_cmp(&a),
            _ => a.text.cmp(&b.text),
        };
        let order = if reversed { order.reverse() } else { order };
        order.then_with(|| natural(&one.key, &other.key))
    });
}

/// Numbers by size, as process ids are.
fn natural(one: &str, other: &str) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// How wide each column is; `None` for one that has no room, or nothing to show.
fn widths(columns: &[Column], rows: &[Row], room: u16) -> Vec<Option<u16>> {
    let may_be_empty = |column: &Column| matches!(column.title, "CONTAINER" | "COST" | "STEPS");
    let is_empty = |place: usize| {
        let mut cells = rows.iter().map(|row| &row.cells[place].text);
        cells.all(|text| text.is_empty() || text == "0")
    };
    let mut widths: Vec<Option<u16>> = columns
        .iter()
        .enumerate()
        .map(|(place, column)| (!may_be_empty(column) || !is_empty(place)).then_some(column.width))
        .collect();
    loop {
        let used: u16 = widths.iter().flatten().map(|width| width + 1).sum();
        if used <= room + 1 {
            let growing: Vec<usize> = (0..columns.len())
                .filter(|place| columns[*place].grows && widths[*place].is_some())
                .collect();
            let parts = u16::try_from(growing.len()).unwrap_or(1).max(1);
            let rest = room + 1 - used;
            for (number, place) in growing.into_iter().enumerate() {
                let more = rest / parts + u16::from(number == 0) * (rest % parts);
                widths[place] = widths[place].map(|width| width + more);
            }
            return widths;
        }
        let lightest = (1..columns.len())
            .filter(|place| widths[*place].is_some())
            .min_by_key(|place| columns[*place].weight);
        match lightest {
            Some(place) => widths[place] = None,
            None => {
                widths[0] = Some(room);
                return widths;
            }
        }
    }
}

/// Writes a text that is cut, with a mark, where there is no room.
fn set(buffer: &mut Buffer, x: u16, y: u16, width: u16, text: &str, right: bool, style: Style) {
    let needed = width_of(text);
    let indent = if right {
        width.saturating_sub(needed)
    } else {
        0
    };
    put(buffer, x + indent, y, width - indent, text, style);
}

fn put(buffer: &mut Buffer, x: u16, y: u16, width: u16, text: &str, style: Style) {
    let area = buffer.area;
    if width == 0 || y < area.y || y >= area.bottom() || x < area.x || x >= area.right() {
        return;
    }
    let width = width.min(area.right() - x);
    if width_of(text) <= width {
        buffer.set_stringn(x, y, text, width.into(), style);
    } else {
        let (end, _) = buffer.set_stringn(x, y, text, usize::from(width) - 1, style);
        buffer.set_stringn(end, y, "…", 1, style);
    }
}

fn fill(buffer: &mut Buffer, x: u16, y: u16, width: u16, style: Style) {
    buffer.set_style(
        Rect {
            x,
            y,
            width,
            height: 1,
        }
        .intersection(buffer.area),
        style,
    );
}

fn width_of(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// What stands for a symbol where there is nothing but ASCII.
fn plain(symbol: &str) -> &'static str {
    match symbol {
        "█" => "#",
        "░" | "…" => ".",
        "×" => "x",
        "─" | "–" | "·" => "-",
        "→" => ">",
        "µ" => "u",
        "▼" => "v",
        "▲" => "^",
        "└" => "`",
        "│" => "|",
        "┌" | "┐" | "┘" => "+",
        _ => "?",
    }
}

fn known(number: Option<u64>) -> String {
    number.map_or(UNKNOWN.to_owned(), amount)
}

/// To three digits at least, in at most six characters.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn amount(number: u64) -> String {
    let units = ["k", "M", "G", "T", "P", "E"];
    if number < 100_000 {
        return number.to_string();
    }
    let mut value = number as f64 / 1e3;
    for unit in units {
        if value < 999.5 {
            let digits = if value < 99.95 { 1 } else { 0 };
            return format!("{value:.digits$}{unit}");
        }
        value /= 1e3;
    }
    number.to_string()
}

fn rate(per_second: f64) -> String {
    if per_second == 0.0 {
        "0".to_owned()
    } else if per_second < 100.0 {
        format!("{per_second:.1}")
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates"
        )]
        amount(per_second.round() as u64)
    }
}

fn uptime(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        days => format!("{days} d {clock}"),
    }
}

/// Of an id the beginning; a pod has a name with a slash.
fn short(container: &str) -> String {
    let length = if container.contains('/') { 40 } else { 12 };
    container.chars().take(length).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        export::Health,
        top::model::{
            Ended,
            tests::{at, numbered, start, started, trace},
        },
        trace::{CallRecord, record::ToolStep, record::tests::failed_call},
    };

    const FULL: Look = Look {
        colour: true,
        unicode: true,
    };
    const SIMPLE: Look = Look {
        colour: false,
        unicode: false,
    };

    /// Two processes, one of them in a container; three traces, one with a tool, one that has not ended.
    fn model() -> Model {
        let mut model = Model::new(at(0));
        let first = CallRecord {
            cost_usd: Some(0.001_25),
            ..numbered(1, 1)
        };
        let second = CallRecord {
            attempts: Some(2),
            ..numbered(1, 4)
        };
        let step = ToolStep {
            span_id: "00f067aa0ba902b7".to_owned(),
            parent_span_id: first.span_id.clone(),
            name: "get_weather".to_owned(),
            id: None,
            start_time: at(1_812),
            duration_ns: Some(2_188_000_000),
            arguments_bytes: 18,
            result_bytes: Some(40),
            failed: false,
        };
        let calls = [first, second];
        for call in &calls {
            model.call_ended(Call::from(call));
        }
        model.trace_ended(Ended::from(&trace(1, &calls, vec![step])));
        let refused = CallRecord {
            start_time: at(6_000),
            trace_id: numbered(2, 0).trace_id,
            span_id: "refused".to_owned(),
            ..failed_call()
        };
        model.call_ended(Call::from(&refused));
        model.trace_ended(Ended::from(&trace(2, &[refused], Vec::new())));
        let other = CallRecord {
            provider: "anthropic",
            model: Some("claude-sonnet-5".to_owned()),
            response_model: Some("claude-sonnet-5-20260101".to_owned()),
            pid: 77,
            comm: Some("node".to_owned()),
            container_id: Some("4f1c0e8a9b7d6c5e".to_owned()),
            output_tokens: Some(1_234_567),
            ..numbered(3, 8)
        };
        model.call_ended(Call::from(&other));
        model.call_started(&started(&CallRecord {
            span_id: "in flight".to_owned(),
            start_time: at(9_000),
            ..other
        }));
        model.health(
            &Health {
                ready: true,
                losses: Some(Default::default()),
                ..Health::default()
            },
            at(10_000),
        );
        model
    }

    fn screen(look: Look) -> Screen {
        Screen::new("all processes".to_owned(), true, look, TimeZone::UTC)
    }

    fn draw(screen: &mut Screen, model: &Model, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let draw =
            |frame: &mut ratatui::Frame<'_>| screen.draw(frame.buffer_mut(), model, at(10_000));
        terminal.draw(draw).unwrap();
        terminal
    }

    fn text(screen: &mut Screen, model: &Model, width: u16, height: u16) -> String {
        draw(screen, model, width, height).backend().to_string()
    }

    fn press(screen: &mut Screen, keys: &str) -> Action {
        let mut action = Action::Nothing;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                'v' => KeyCode::Down,
                other => KeyCode::Char(other),
            };
            action = screen.press(code.into());
        }
        action
    }

    #[test]
    fn a_wide_screen() {
        insta::assert_snapshot!(text(&mut screen(FULL), &model(), 120, 24));
    }

    #[test]
    fn a_small_screen_in_ascii() {
        let mut screen = screen(SIMPLE);
        let drawn = draw(&mut screen, &model(), 80, 20);
        let buffer = drawn.backend().buffer();
        assert!(buffer.content.iter().all(|cell| cell.symbol().is_ascii()));
        let coloured =
            |cell: &ratatui::buffer::Cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset);
        assert!(!buffer.content.iter().any(coloured));
        // The headings are to be told from the rows all the same.
        assert!(
            buffer
                .content
                .iter()
                .any(|cell| cell.modifier.contains(Modifier::REVERSED))
        );
        insta::assert_snapshot!(drawn.backend().to_string());
    }

    #[test]
    fn the_waterfall_of_a_trace() {
        let model = model();
        let mut screen = screen(FULL);
        text(&mut screen, &model, 100, 24);
        // The earliest is last.
        press(&mut screen, "4");
        screen.press(KeyCode::End.into());
        press(&mut screen, "\n");
        insta::assert_snapshot!(text(&mut screen, &model, 100, 18));
        press(&mut screen, "v");
        let drawn = text(&mut screen, &model, 100, 18);
        assert!(
            drawn.contains("tool get_weather")
                && drawn.contains("18 bytes of arguments, 40 of result"),
            "{drawn}"
        );
        press(&mut screen, "\x1b");
        assert!(text(&mut screen, &model, 100, 18).contains("TRACES 3"));
    }

    #[test]
    fn what_failed_is_said_without_colour() {
        let model = model();
        let mut screen = screen(SIMPLE);
        text(&mut screen, &model, 100, 24);
        press(&mut screen, "4v");
        text(&mut screen, &model, 100, 24);
        press(&mut screen, "\n");
        let drawn = text(&mut screen, &model, 100, 20);
        for said in [
            "1 error",
            "RateLimitError: Error code: 429 - Slow down",
            "xxxx",
            "status 429",
        ] {
            assert!(drawn.contains(said), "{said}: {drawn}");
        }
    }

    #[test]
    fn a_filter_leaves_what_has_its_text() {
        let model = model();
        let mut screen = screen(FULL);
        press(&mut screen, "/claude");
        let drawn = text(&mut screen, &model, 120, 24);
        assert!(
            drawn.contains("PROCESSES 1")
                && drawn.contains("TRACES 1")
                && drawn.contains("MODELS 1"),
            "{drawn}"
        );
        // These are text here.
        assert_eq!(press(&mut screen, "q?"), Action::Draw);
        assert!(text(&mut screen, &model, 120, 24).contains("none that fits the filter"));
        press(&mut screen, "\x08\x08\n");
        assert!(text(&mut screen, &model, 120, 24).contains("only: claude"));
        press(&mut screen, "\x1b");
        assert!(text(&mut screen, &model, 120, 24).contains("PROCESSES 2"));
        // So is the version that answered.
        press(&mut screen, "/20260101\n");
        let drawn = text(&mut screen, &model, 120, 24);
        assert!(
            drawn.contains("PROCESSES 1") && drawn.contains("TRACES 1"),
            "{drawn}"
        );
        press(&mut screen, "\x1b");
        text(&mut screen, &model, 120, 24);
        // A process alone.
        press(&mut screen, "1v");
        text(&mut screen, &model, 120, 24);
        press(&mut screen, "\n");
        let drawn = text(&mut screen, &model, 120, 24);
        assert!(
            drawn.contains("only: [77]") && drawn.contains("PROCESSES 1"),
            "{drawn}"
        );
    }

    #[test]
    fn rows_are_sorted_by_any_column() {
        let model = model();
        let mut screen = screen(FULL);
        let first = |screen: &mut Screen| {
            let drawn = text(screen, &model, 120, 24);
            drawn.lines().nth(3).unwrap().to_owned()
        };
        assert!(first(&mut screen).contains("python3[4242]"));
        press(&mut screen, "r");
        assert!(first(&mut screen).contains("node[77]"));
        // FLIGHT, of which node has the most.
        press(&mut screen, "s");
        assert!(first(&mut screen).contains("node[77]"));
        // Back over CALLS and CONTAINER to the name.
        press(&mut screen, "SSS");
        assert!(first(&mut screen).contains("node[77]"));
        press(&mut screen, "r");
        assert!(first(&mut screen).contains("python3[4242]"));
    }

    #[test]
    fn a_chosen_row_stays_chosen_where_it_moves() {
        let mut model = model();
        let mut screen = screen(FULL);
        text(&mut screen, &model, 120, 40);
        press(&mut screen, "4v");
        let chosen = |drawn: String| {
            let line = drawn
                .lines()
                .find(|line| line.starts_with("\"> ") && !line.contains("TRACES"));
            line.unwrap().to_owned()
        };
        let before = chosen(text(&mut screen, &model, 120, 40));
        let late = CallRecord {
            start_time: at(9_500),
            ..numbered(9, 9)
        };
        model.call_ended(Call::from(&late));
        let after = chosen(text(&mut screen, &model, 120, 40));
        assert_eq!(before, after);
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let model = model();
        let mut screen = screen(FULL);
        press(&mut screen, "?");
        let drawn = text(&mut screen, &model, 100, 30);
        for (key, does) in KEYS {
            assert!(drawn.contains(key) && drawn.contains(does), "{drawn}");
        }
        press(&mut screen, "x");
        assert!(!text(&mut screen, &model, 100, 30).contains("Ctrl-C"));
        press(&mut screen, "p");
        assert!(screen.is_paused() && text(&mut screen, &model, 100, 30).contains("PAUSED"));
        press(&mut screen, "f\t");
        let drawn = text(&mut screen, &model, 100, 30);
        assert!(
            drawn.contains("MODELS 2") && !drawn.contains("PROCESSES"),
            "{drawn}"
        );
        assert_eq!(press(&mut screen, "q"), Action::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut screen, "/");
        assert_eq!(screen.press(control_c), Action::Quit);
    }

    #[test]
    fn nothing_panics_at_any_size() {
        let model = model();
        for look in [FULL, SIMPLE] {
            for keys in ["", "f", "?", "/x", "4", "4\n", "4v\n?"] {
                let mut screen = screen(look);
                text(&mut screen, &model, 80, 24);
                press(&mut screen, keys);
                for width in (1..140).step_by(7) {
                    for height in [1, 2, 5, 6, 7, 9, 12, 30] {
                        text(&mut screen, &model, width, height);
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_names_are_drawn_in_their_cells() {
        let mut model = Model::new(start());
        let hostile = CallRecord {
            model: Some("漢字\u{301}\u{1f468}\u{200d}\u{1f469}\x1b[31mred\r\n".repeat(9)),
            response_model: None,
            comm: Some("e\u{301}\x1b]0;title\x07".to_owned()),
            ..numbered(1, 1)
        };
        model.call_ended(Call::from(&hostile));
        for look in [FULL, SIMPLE] {
            let drawn = draw(&mut screen(look), &model, 90, 20);
            let control =
                |cell: &ratatui::buffer::Cell| cell.symbol().chars().any(char::is_control);
            assert!(!drawn.backend().buffer().content.iter().any(control));
        }
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [0, 99_999, 100_000, 1_234_567, 999_949_999].map(amount),
            ["0", "99999", "100k", "1.2M", "1.0G"]
        );
        assert_eq!(
            [0.0, 0.25, 99.94, 1_234.0].map(rate),
            ["0", "0.2", "99.9", "1234"]
        );
        assert_eq!(amount(u64::MAX), "18.4E");
        assert_eq!(uptime(Duration::from_secs(90_061)), "1 d 1:01:01");
    }

    #[test]
    fn lines_are_shared_by_need() {
        assert_eq!(share(20, &[3, 2, 2, 30]), [3, 2, 2, 13]);
        assert_eq!(share(8, &[30, 30, 2, 30]), [2, 2, 2, 2]);
        assert_eq!(share(3, &[30, 30, 30, 30]), [1, 1, 1, 0]);
    }
}
