//! JSON lines: one object a record. A terminal may show them, so nothing in them steers it.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{Exporter, file::Sink};
use crate::{
    text::write_json,
    trace::{CallRecord, TraceRecord},
};

/// Writes records as JSON lines.
pub struct JsonLines {
    writer: BufWriter<Box<dyn Sink>>,
    /// The line that is made.
    line: Vec<u8>,
}

impl JsonLines {
    /// Writes to `writer`.
    pub fn new(writer: Box<dyn Sink>) -> Self {
        Self {
            writer: BufWriter::with_capacity(64 * 1024, writer),
            line: Vec::new(),
        }
    }

    fn line(&mut self, record: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        write_json(&self.line, |_| false, &mut self.writer)
    }
}

impl Exporter for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn call(&mut self, call: &CallRecord) -> io::Result<()> {
        self.line(call)
    }

    fn trace(&mut self, trace: &TraceRecord) -> io::Result<()> {
        self.line(trace)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_mut().reopen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::file::LineFile,
        records::{self, Call, Record},
        text::is_steering,
        trace::record::tests::call,
    };

    #[test]
    fn nothing_steers_and_all_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let mut lines = JsonLines::new(Box::new(LineFile::open(&path, None).unwrap()));
        let hostile = CallRecord {
            model: Some("\u{7f}\u{9b}31m\u{202e}\u{feff}é\x1b[2J".to_owned()),
            ..call()
        };
        for call in [&hostile, &call(), &hostile] {
            lines.call(call).unwrap();
        }
        lines.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(|c| c != '\n' && is_steering(c)), "{text:?}");
        assert_eq!((text.lines().count(), text.matches('é').count()), (3, 2));
        let mut read = Vec::new();
        records::read(text.as_bytes(), |record| read.push(record)).unwrap();
        let written = Record::Call(Box::new(Call::from(&hostile)));
        assert_eq!([&read[0], &read[2]], [&written; 2]);
    }
}
