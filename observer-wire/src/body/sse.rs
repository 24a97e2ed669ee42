//! Server-sent events (WHATWG HTML, section 9.2), as the bytes come.

use memchr::memchr2;

/// Longest event, in bytes of its lines; a longer one is dropped and counted.
const EVENT_BYTES: usize = 16 << 20;

/// An event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The field `event`; empty if there is none.
    pub name: &'a [u8],
    /// The lines of the field `data`, joined by LF.
    pub data: &'a [u8],
}

/// Finds the events of a stream.
#[derive(Default)]
pub struct Parser {
    /// A line of which the end has not come.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    started: bool,
    /// What comes up to the next empty line belongs to an event that cannot be known whole.
    skipping: bool,
    dropped: u64,
}

impl Parser {
    /// Takes the next bytes and hands over each event that they complete.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.hold(bytes);
                return;
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.line(&bytes[..end], sink);
            } else {
                self.hold(&bytes[..end]);
                let line = std::mem::take(&mut self.line);
                self.line(&line, sink);
                self.line = line;
                self.line.clear();
            }
            bytes = &bytes[end + 1..];
        }
    }

    /// Bytes are missing here: the event that they belong to is dropped.
    pub fn gap(&mut self) {
        self.reset();
        self.skipping = true;
        self.after_cr = false;
        self.started = true;
    }

    /// The stream is over. An event without its empty line is handed over too: servers get cut.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.line(&line, sink);
        }
        self.line(b"", sink);
    }

    /// Events that were too long, or had bytes missing.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.line.capacity() + self.name.capacity() + self.data.capacity()
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.skipping {
            // Only whether the line is empty matters.
            if self.line.is_empty() {
                self.line.extend(bytes.first());
            }
        } else if self.line.len() + self.data.len() + bytes.len() > EVENT_BYTES {
            self.reset();
            self.skipping = true;
            self.line.extend(bytes.first());
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, mut line: &[u8], sink: &mut dyn FnMut(Event<'_>)) {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            if self.skipping {
                self.dropped += 1;
            } else if self.has_data {
                sink(Event {
                    name: &self.name,
                    data: &self.data,
                });
            }
            self.skipping = false;
            self.reset();
            return;
        }
        if self.skipping {
            return;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.data.len() + value.len() > EVENT_BYTES {
                    self.reset();
                    self.skipping = true;
                    return;
                }
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // A comment has an empty field name; `id` and `retry` are of no use here.
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.line.clear();
        self.name.clear();
        self.data.clear();
        // One long event must not keep its memory for a whole stream.
        self.line.shrink_to(64 * 1024);
        self.data.shrink_to(64 * 1024);
        self.has_data = false;
    }
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser")
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8], step: usize) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        let mut take = |event: Event<'_>| {
            found.push((
                String::from_utf8(event.name.to_vec()).unwrap(),
                String::from_utf8(event.data.to_vec()).unwrap(),
            ));
        };
        for piece in bytes.chunks(step) {
            parser.push(piece, &mut take);
        }
        parser.finish(&mut take);
        found
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn the_grammar_is_followed_at_any_split() {
        let stream = "\u{feff}: comment\r\n\r\nevent: a\r\ndata: 1\r\ndata:2\r\n\r\ndata\n\nid: 7\nretry: 10\rdata: 漢字\r\revent: only name\n\ndata:  two spaces\n\n";
        for step in 1..20 {
            assert_eq!(
                events(stream.as_bytes(), step),
                [
                    event("a", "1\n2"),
                    event("", ""),
                    event("", "漢字"),
                    event("", " two spaces")
                ],
                "{step}"
            );
        }
    }

    #[test]
    fn an_event_without_its_empty_line_is_handed_over_at_the_end() {
        assert_eq!(
            events(b"data: 1\n\ndata: 2", 3),
            [event("", "1"), event("", "2")]
        );
        assert_eq!(events(b"data: 1\n", 3), [event("", "1")]);
    }

    #[test]
    fn after_a_gap_the_next_event_is_whole() {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        let mut take = |event: Event<'_>| found.push(event.data.to_vec());
        parser.push(b"data: 1\n\ndata: {\"a\":", &mut take);
        parser.gap();
        parser.push(b"\"tail\"}\n\ndata: 3\n\n", &mut take);
        assert_eq!(found, [b"1".to_vec(), b"3".to_vec()]);
        assert_eq!(parser.dropped(), 1);
    }

    #[test]
    fn a_monster_is_dropped_and_the_next_event_comes() {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        let piece = vec![b'x'; 1 << 20];
        parser.push(b"data: ", &mut |_| ());
        for _ in 0..20 {
            parser.push(&piece, &mut |_| ());
            assert!(parser.memory() < 40 << 20);
        }
        parser.push(b"\n\ndata: ok\n\n", &mut |event| {
            found.push(event.data.to_vec())
        });
        assert_eq!(found, [b"ok".to_vec()]);
        assert_eq!(parser.dropped(), 1);
    }
}
