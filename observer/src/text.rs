//! How things are written for people, and what of others' strings may be in it.

use std::{
    io::{self, Write},
    str,
    time::Duration,
};

/// What a value that nobody knows looks like.
pub const UNKNOWN: &str = "–";

/// A number with its noun, in the plural unless it is one.
pub fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What is said of requests to hosts of LLM providers that were no calls.
pub fn others_of(n: u64) -> String {
    format!("{} to LLM hosts", count(n, "other request"))
}

/// To the millionth: a call may cost less than a cent by far.
pub fn dollars(usd: f64) -> String {
    let text = format!("{usd:.6}");
    let cents = text.len().saturating_sub(4);
    let (cents, rest) = text.split_at(cents);
    format!("${cents}{}", rest.trim_end_matches('0'))
}

/// In milliseconds, or what fits better.
pub fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    if milliseconds < 1.0 {
        format!("{} µs", duration.as_micros())
    } else if milliseconds < 10_000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", milliseconds / 1e3)
    }
}

/// The beginning of a text, with an ellipsis if it is not all.
pub fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text of another program or from the net, without what could steer a terminal or change what is read. Blanks of
/// all kinds are blanks; of anything else it is seen that it was there.
pub fn shown(text: &str) -> String {
    let harmless = |c| match c {
        '\t' | '\n' | '\r' => ' ',
        c if is_steering(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// Whether a character is a control character, turns the direction of the text around it, or cannot be seen.
pub fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Writes JSON that serde made, or a part of it that ends between two characters: what is [steering](is_steering) in
/// strings is escaped, and so are the characters of ASCII for which `others` holds, which may be in strings only.
///
/// # Errors
///
/// It cannot be written, or is no text.
pub fn write_json(
    json: &[u8],
    others: impl Fn(u8) -> bool,
    to: &mut (impl Write + ?Sized),
) -> io::Result<()> {
    let is_suspect = |byte: u8| byte >= 0x7f || others(byte);
    // Without a way out of the loop, which makes it quick: most is plain.
    let is_plain = |bytes: &[u8]| {
        !bytes
            .iter()
            .fold(false, |any, byte| any | is_suspect(*byte))
    };
    if is_plain(json) {
        return to.write_all(json);
    }
    let text =
        str::from_utf8(json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut written = 0;
    for (at, c) in text.char_indices() {
        // Below that, serde escapes what is in strings, and breaks lines between them.
        let is_bad = match u8::try_from(c) {
            Ok(byte @ ..0x7f) => others(byte),
            _ => is_steering(c),
        };
        if is_bad {
            to.write_all(&json[written..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            written = at + c.len_utf8();
        }
    }
    to.write_all(&json[written..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(json: &str) -> String {
        let mut written = Vec::new();
        write_json(json.as_bytes(), |byte| byte == b'<', &mut written).unwrap();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn nothing_steers_and_what_was_left_out_is_seen() {
        let hostile = "a\x1b[2J\u{9b}b\u{202e}\u{2066}\u{61c}\u{feff}\u{e0041}\tc\r\nd é漢 – …";
        assert_eq!(shown(hostile), "a�[2J�b����� c  d é漢 – …");
    }

    #[test]
    fn json_steers_no_terminal_and_is_the_same_json() {
        let hostile = "<\u{7f}\u{80}\u{9b}31m\u{9f}\u{61c}\u{200b}\u{202e}\u{2028}\u{feff}\u{e0041}\x1b\n é漢 – …😀";
        let value = serde_json::json!({ "text": hostile, "plain": "a" });
        for json in [
            value.to_string(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let written = escaped(&json);
            let is_bad = |c: char| c == '<' || (c != '\n' && is_steering(c));
            assert!(!written.contains(is_bad), "{written:?}");
            assert!(written.contains("é漢 – …😀") && written.contains(r"\udb40\udc41"));
            let back: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(back, value);
        }
        assert_eq!(escaped("{\n \"a\": 1\n}"), "{\n \"a\": 1\n}");
        let is_text = write_json(b"\"\xc2", |_| false, &mut Vec::new());
        assert_eq!(is_text.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn dollars_have_cents_and_what_is_less() {
        assert_eq!(
            [0.0, 12.5, 1e-9, 0.000_345].map(dollars),
            ["$0.00", "$12.50", "$0.00", "$0.000345"]
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!([cut("é漢é", 3), cut("é漢é", 2)], ["é漢é", "é漢…"]);
    }
}
