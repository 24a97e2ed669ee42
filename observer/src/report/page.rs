//! The page: a template, its style, its script, and the data.

use std::io::{self, Write};

use super::Report;
use crate::text::write_json;

const TEMPLATE: &str = include_str!("template.html");
const STYLE: &str = include_str!("template.css");
const SCRIPT: &str = include_str!("template.js");

/// Writes the page.
pub(super) fn write(report: &Report, writer: &mut dyn Write) -> io::Result<()> {
    // Made after the records were, and by chance: what is in them cannot name it.
    let nonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let mut rest = TEMPLATE;
    while let Some((text, after)) = rest.split_once("{{") {
        writer.write_all(text.as_bytes())?;
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        match name {
            "nonce" => writer.write_all(nonce.as_bytes())?,
            "style" => writer.write_all(STYLE.as_bytes())?,
            "script" => writer.write_all(SCRIPT.as_bytes())?,
            "data" => serde_json::to_writer(Inert(&mut *writer), report)?,
            _ => {}
        }
        rest = after;
    }
    writer.write_all(rest.as_bytes())
}

/// Writes JSON so that no HTML is in it: `</script>` and `<!--` would end or change the block.
struct Inert<'a>(&'a mut dyn Write);

impl Write for Inert<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All of these occur in strings only, and serde writes those in parts that end between two characters.
        write_json(bytes, |byte| matches!(byte, b'<' | b'>' | b'&'), self.0)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::is_steering;

    #[test]
    fn no_html_is_in_the_data() {
        let hostile = "</script><!--<script>&\u{2028}\u{2029}\u{202e}\u{2066}€…–";
        let mut page = Vec::new();
        serde_json::to_writer(Inert(&mut page), &[hostile]).unwrap();
        let text = String::from_utf8(page).unwrap();
        assert!(
            !text.contains([
                '<', '>', '&', '\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}'
            ]) && text.contains("€…–"),
            "{text}"
        );
        let back: Vec<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, [hostile]);
    }

    /// Tabs and ends of lines are shown as they are.
    #[test]
    fn the_script_shows_nothing_that_steers() {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for c in (char::MIN..=char::MAX).filter(|c| is_steering(*c) && !matches!(c, '\t' | '\n')) {
            let code = u32::from(c);
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == code => *last = code,
                _ => ranges.push((code, code)),
            }
        }
        let class: String = ranges
            .into_iter()
            .map(|(first, last)| match first == last {
                true => format!("\\u{{{first:x}}}"),
                false => format!("\\u{{{first:x}}}-\\u{{{last:x}}}"),
            })
            .collect();
        assert!(
            SCRIPT.contains(&format!("replace(/[{class}]/gu,")),
            "{class}"
        );
    }

    #[test]
    fn the_template_is_whole() {
        for name in ["nonce", "style", "script", "data"] {
            assert!(TEMPLATE.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
        for text in [TEMPLATE, STYLE, SCRIPT] {
            assert!(!text.contains("http://") || text.contains("http://www.w3.org/2000/svg"));
            assert!(!text.contains("https://"));
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("</"));
    }
}
