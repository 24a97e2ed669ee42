//! Bodies of HTTP/1.1 messages (RFC 9112 sections 6 and 7).

/// Longest line of chunk size and extensions, or of a trailer field, in bytes.
const LINE_BYTES: usize = 16 * 1024;

/// Where in a body the parser is.
#[derive(Debug)]
pub(super) enum Body {
    /// In a chunked body.
    Chunked(Chunked),
    /// This many bytes are left.
    Length(u64),
    /// To the end of the connection.
    UntilClose,
}

/// Where in a chunked body the parser is.
#[derive(Debug)]
pub(super) enum Chunked {
    /// In the data, with this many bytes left.
    Data(u64),
    /// Behind the data, before the line end.
    DataEnd,
    /// In the line with the chunk's size: what has come of it, without extensions.
    Size {
        digits: u64,
        seen: usize,
        extension: bool,
    },
    /// In the trailer: length of the current line so far.
    Trailer { line: usize },
}

impl Chunked {
    pub(super) const START: Self = Self::Size {
        digits: 0,
        seen: 0,
        extension: false,
    };
}

/// What a step has found at the beginning of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This many bytes of data.
    Data(usize),
    /// This many bytes of framing.
    Framing(usize),
    /// The body is complete after this many bytes of framing.
    End(usize),
    /// No body can go on like this.
    Malformed,
}

impl Body {
    /// Looks at the next bytes; `input` is not empty unless the body may be complete without any.
    pub(super) fn step(&mut self, input: &[u8]) -> Step {
        match self {
            Self::UntilClose => Step::Data(input.len()),
            Self::Length(0) => Step::End(0),
            Self::Length(left) => Step::Data(take(left, input.len())),
            Self::Chunked(chunked) => chunked.step(input),
        }
    }

    /// Steps over missing bytes. Returns whether the place in the body is still known.
    pub(super) fn skip(&mut self, bytes: u64) -> bool {
        match self {
            Self::UntilClose => true,
            Self::Length(left) | Self::Chunked(Chunked::Data(left)) if *left >= bytes => {
                *left -= bytes;
                if let Self::Chunked(chunked) = self
                    && matches!(chunked, Chunked::Data(0))
                {
                    *chunked = Chunked::DataEnd;
                }
                true
            }
            _ => false,
        }
    }
}

impl Chunked {
    fn step(&mut self, input: &[u8]) -> Step {
        match self {
            Self::Data(left) => {
                let bytes = take(left, input.len());
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                Step::Data(bytes)
            }
            Self::DataEnd => match input {
                [b'\n', ..] => {
                    *self = Self::START;
                    Step::Framing(1)
                }
                [b'\r', ..] => Step::Framing(1),
                _ => Step::Malformed,
            },
            Self::Size {
                digits,
                seen,
                extension,
            } => {
                for (index, &byte) in input.iter().enumerate() {
                    match byte {
                        b'\n' if *seen > 0 => {
                            *self = if *digits == 0 {
                                Self::Trailer { line: 0 }
                            } else {
                                Self::Data(*digits)
                            };
                            return Step::Framing(index + 1);
                        }
                        _ if *extension => {}
                        b';' | b' ' | b'\t' | b'\r' if *seen > 0 => *extension = true,
                        _ => {
                            let Some(digit) = (byte as char).to_digit(16) else {
                                return Step::Malformed;
                            };
                            let Some(value) = digits.checked_mul(16) else {
                                return Step::Malformed;
                            };
                            *digits = value + u64::from(digit);
                        }
                    }
                    *seen += 1;
                    if *seen > LINE_BYTES {
                        return Step::Malformed;
                    }
                }
                Step::Framing(input.len())
            }
            Self::Trailer { line } => {
                for (index, &byte) in input.iter().enumerate() {
                    match byte {
                        b'\n' if *line == 0 => return Step::End(index + 1),
                        b'\n' => *line = 0,
                        b'\r' => {}
                        _ => *line += 1,
                    }
                    if *line > LINE_BYTES {
                        return Step::Malformed;
                    }
                }
                Step::Framing(input.len())
            }
        }
    }
}

/// Takes up to `available` bytes from what is left.
fn take(left: &mut u64, available: usize) -> usize {
    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
    *left -= bytes as u64;
    bytes
}
