//! Lines of JSON (<https://github.com/ndjson/ndjson-spec>), as the bytes come.

use memchr::memchr;

/// Longest line, in bytes; a longer one is dropped and counted.
const LINE_BYTES: usize = 16 << 20;

/// Finds the lines of a stream.
#[derive(Default)]
pub struct Parser {
    /// A line of which the end has not come.
    line: Vec<u8>,
    /// What comes up to the next line belongs to one that cannot be known whole.
    skipping: bool,
    dropped: u64,
}

impl Parser {
    /// Takes the next bytes and hands over each line that they complete, unless it is blank.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            if self.line.is_empty() && !self.skipping {
                hand_over(&bytes[..end], sink);
            } else {
                self.hold(&bytes[..end]);
                self.finish(sink);
            }
            bytes = &bytes[end + 1..];
        }
        self.hold(bytes);
    }

    /// Bytes are missing here: the line that they belong to is dropped.
    pub fn gap(&mut self) {
        self.line.clear();
        self.skipping = true;
    }

    /// The line is over.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&[u8])) {
        if std::mem::take(&mut self.skipping) {
            self.dropped += 1;
        } else {
            hand_over(&self.line, sink);
        }
        self.line.clear();
    }

    /// Lines that were too long, or had bytes missing.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.line.capacity()
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > LINE_BYTES {
            self.gap();
        } else if !self.skipping {
            self.line.extend_from_slice(bytes);
        }
    }
}

fn hand_over(line: &[u8], sink: &mut dyn FnMut(&[u8])) {
    let line = line.trim_ascii();
    if !line.is_empty() {
        sink(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parser: &mut Parser, pieces: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut sink = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        for piece in pieces {
            parser.push(piece.as_bytes(), &mut sink);
        }
        parser.finish(&mut sink);
        lines
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = "{\"a\":1}\r\n\n{\"b\":2}\n{\"c\":3}";
        for at in 0..text.len() {
            let (before, after) = text.split_at(at);
            assert_eq!(
                lines(&mut Parser::default(), &[before, after]),
                ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]
            );
        }
    }

    #[test]
    fn a_line_with_a_gap_is_dropped() {
        let mut parser = Parser::default();
        parser.push(b"{\"a\":", &mut |_| ());
        parser.gap();
        assert_eq!(lines(&mut parser, &["1}\n{\"b\":2}\n"]), ["{\"b\":2}"]);
        assert_eq!(parser.dropped(), 1);
    }
}
