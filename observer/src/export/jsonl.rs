//! JSON lines: one object a record.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{Exporter, file::Sink};
use crate::trace::{CallRecord, TraceRecord};

/// Writes records as JSON lines.
pub struct JsonLines {
    writer: BufWriter<Box<dyn Sink>>,
}

impl JsonLines {
    /// Writes to `writer`.
    pub fn new(writer: Box<dyn Sink>) -> Self {
        Self {
            writer: BufWriter::with_capacity(64 * 1024, writer),
        }
    }

    fn line(&mut self, record: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.writer, record)?;
        self.writer.write_all(b"\n")
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
