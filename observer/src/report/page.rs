//! The page: a template, its style, its script, and the data.

use std::io::{self, Write};

use super::Report;

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
        // All of these occur in strings only.
        let mut written = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let (escape, length) = match (byte, &bytes[at..]) {
                (b'<', _) => (0x3c, 1),
                (b'>', _) => (0x3e, 1),
                (b'&', _) => (0x26, 1),
                // What ends lines of older JavaScript, turns text, or cannot be seen.
                (0xe2, [_, block @ (0x80 | 0x81), low @ 0x80..=0xbf, ..]) => {
                    match 0x2000 | u32::from(block & 1) << 6 | u32::from(low & 0x3f) {
                        code @ (0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f) => (code, 3),
                        _ => continue,
                    }
                }
                _ => continue,
            };
            self.0.write_all(&bytes[written..at])?;
            write!(self.0, "\\u{escape:04x}")?;
            written = at + length;
        }
        self.0.write_all(&bytes[written..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
