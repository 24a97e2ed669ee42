//! Python's `repr()` of JSON values, as error messages and previews of Python SDKs have it.

use std::fmt::Write as _;

use serde_json::Value;

/// `repr(json.loads(text))`, cut after `limit` code points.
pub(super) fn repr(value: &Value, limit: usize) -> String {
    let mut writer = Writer {
        out: String::new(),
        left: limit,
        elide: false,
    };
    writer.value(value);
    writer.out
}

/// The same with base64 left out: images and signatures say nothing to a reader.
pub(super) fn repr_without_base64(value: &Value, limit: usize) -> String {
    let mut writer = Writer {
        out: String::new(),
        left: limit,
        elide: true,
    };
    writer.value(value);
    writer.out
}

/// Longest base64 that is shown, in bytes.
const BASE64_BYTES: usize = 64;

/// What stands for base64 that is not shown.
const BASE64: &str = "[base64]";

struct Writer {
    out: String,
    /// Code points that may still be written.
    left: usize,
    elide: bool,
}

impl Writer {
    fn value(&mut self, value: &Value) {
        if self.left == 0 {
            return;
        }
        match value {
            Value::Null => self.text("None"),
            Value::Bool(true) => self.text("True"),
            Value::Bool(false) => self.text("False"),
            Value::Number(number) => self.text(&self::number(&number.to_string())),
            Value::String(string) => match base64_at(string) {
                Some(at) if self.elide => self.string(&format!("{}{BASE64}", &string[..at])),
                _ => self.string(string),
            },
            Value::Array(items) => {
                self.text("[");
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.text(", ");
                    }
                    self.value(item);
                }
                self.text("]");
            }
            Value::Object(map) => {
                self.text("{");
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        self.text(", ");
                    }
                    self.string(key);
                    self.text(": ");
                    match value {
                        Value::String(text) if key == "text" => self.string(text),
                        value => self.value(value),
                    }
                }
                self.text("}");
            }
        }
    }

    /// `unicode_repr` of CPython (Objects/unicodeobject.c).
    fn string(&mut self, string: &str) {
        let quote = if string.contains('\'') && !string.contains('"') {
            '"'
        } else {
            '\''
        };
        self.char(quote);
        for character in string.chars() {
            if self.left == 0 {
                return;
            }
            match character {
                '\\' => self.text("\\\\"),
                '\n' => self.text("\\n"),
                '\r' => self.text("\\r"),
                '\t' => self.text("\\t"),
                c if c == quote => {
                    self.char('\\');
                    self.char(c);
                }
                c if is_printable(c) => self.char(c),
                c => {
                    let code = u32::from(c);
                    let mut escape = String::new();
                    let _ = match code {
                        0..=0xff => write!(escape, "\\x{code:02x}"),
                        0x100..=0xffff => write!(escape, "\\u{code:04x}"),
                        _ => write!(escape, "\\U{code:08x}"),
                    };
                    self.text(&escape);
                }
            }
        }
        self.char(quote);
    }

    fn text(&mut self, text: &str) {
        for character in text.chars() {
            self.char(character);
        }
    }

    fn char(&mut self, character: char) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.out.push(character);
        }
    }
}

/// Where the base64 begins if a string is a long one (RFC 4648), or a data URL (RFC 2397) of it.
fn base64_at(string: &str) -> Option<usize> {
    let at = match string.strip_prefix("data:") {
        Some(_) => string.find(";base64,")? + ";base64,".len(),
        None => 0,
    };
    let data = &string[at..];
    let is_base64 =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    (data.len() > BASE64_BYTES && data.bytes().all(is_base64)).then_some(at)
}

/// `repr` of an int or float: integers as they are, floats in the shortest form that reads back.
fn number(json: &str) -> String {
    if !json.contains(['.', 'e', 'E']) {
        return if json == "-0" { "0" } else { json }.to_owned();
    }
    let Ok(float) = json.parse::<f64>() else {
        return json.to_owned();
    };
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // CPython changes to an exponent below 1e-4 and from 1e16 (float_repr_style "short").
    if float != 0.0 && !(1e-4..1e16).contains(&float.abs()) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent
            .strip_prefix('-')
            .map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = float.to_string();
    if text.contains('.') {
        text
    } else {
        format!("{text}.0")
    }
}

/// An approximation of `str.isprintable` for one character: controls, separators other than the
/// space, format characters, private use and the planes without any characters are not. Single
/// unassigned code points count as printable: which they are changes with the version of Unicode.
fn is_printable(character: char) -> bool {
    let code = u32::from(character);
    !(character.is_control()
        || (character.is_whitespace() && character != ' ')
        || matches!(code, 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890 | 0x891 | 0x8e2
            | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb
            | 0x1_10bd | 0x1_10cd | 0x1_3430..=0x1_343f | 0x1_bca0..=0x1_bca3 | 0x1_d173..=0x1_d17a
            | 0x3_23b0..=0xe_00ff | 0xe_01f0..=0x10_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> String {
        repr(&serde_json::from_str(json).unwrap(), usize::MAX)
    }

    #[test]
    fn values_look_as_in_python() {
        assert_eq!(
            of(
                r#"[{"type":"text","text":"Capital of France? It's easy"},{"type":"image_url","image_url":{"url":"data:x","detail":null}}]"#
            ),
            r#"[{'type': 'text', 'text': "Capital of France? It's easy"}, {'type': 'image_url', 'image_url': {'url': 'data:x', 'detail': None}}]"#
        );
        assert_eq!(
            of(r#"[true,false,1,1.0,0.00001,1e16,-2.50,1e2,1e400,-1e400,-0,-0.0]"#),
            "[True, False, 1, 1.0, 1e-05, 1e+16, -2.5, 100.0, inf, -inf, 0, -0.0]"
        );
        assert_eq!(
            of(r#"["both ' and \"","a\nb\\\u0001\u200b é漢"]"#),
            r#"['both \' and "', 'a\nb\\\x01\u200b é漢']"#
        );
        assert_eq!(of("{}"), "{}");
    }

    #[test]
    fn base64_is_left_out_on_demand() {
        let long = "QUJD".repeat(20);
        let value = serde_json::json!({"url": format!("data:image/png;base64,{long}"), "data": long, "text": long, "d": "QUJD"});
        assert_eq!(
            repr_without_base64(&value, 1000),
            format!(
                "{{'url': 'data:image/png;base64,[base64]', 'data': '[base64]', 'text': '{long}', 'd': 'QUJD'}}"
            )
        );
        assert!(repr(&value, 1000).contains(&format!("'data': '{long}'")));
    }

    #[test]
    fn it_is_cut_at_the_limit() {
        assert_eq!(repr(&serde_json::json!(["漢字漢字"]), 4), "['漢字");
    }
}
