//! The `tojson` filter of chat templates, as Hugging Face defines it: Python's `json.dumps`. Unlike the engine's own
//! filter it puts spaces after separators and does not escape for HTML.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Limits: a template can nest values deeper than the stack allows, and share them so that the text exceeds memory.
const MAX_DEPTH: usize = 64;
const MAX_BYTES: usize = 8 << 20;
const MAX_INDENT: usize = 16;

/// The filter: `value | tojson`, `value | tojson(indent=2)`.
pub(super) fn filter(value: &Value, ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let named: Option<bool> = options.get("ensure_ascii")?;
    let indent = indent(options.get("indent")?)?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let (between, after_key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([between, after_key]) if between.len() + after_key.len() <= MAX_INDENT => {
            (between.as_str(), after_key.as_str())
        }
        Some(_) => return Err(invalid("the separators are not two short strings")),
    };
    let mut writer = Writer {
        text: String::new(),
        indent,
        between,
        after_key,
        ascii: named.or(ascii).unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
    };
    writer.value(value, 0)?;
    Ok(writer.text)
}

/// Returns the text of one level of indentation: a number of spaces, or a text.
fn indent(given: Option<Value>) -> Result<Option<String>, Error> {
    let Some(given) = given.filter(|given| !given.is_none() && !given.is_undefined()) else { return Ok(None) };
    let text = match (given.as_str(), given.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width)) if width <= MAX_INDENT => " ".repeat(width),
        _ => return Err(invalid("the indent is too wide")),
    };
    if text.len() > MAX_INDENT { Err(invalid("the indent is too wide")) } else { Ok(Some(text)) }
}

/// Returns a number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => "NaN".to_owned(),
        Ok(float) if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Ok(float) => {
            let text = format!("{float:?}");
            // Python's exponents have a sign and two digits.
            match text.split_once('e') {
                Some((digits, exponent)) => {
                    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
                    format!("{digits}e{sign}{exponent:0>2}")
                }
                None => text,
            }
        }
        Err(_) => value.to_string(),
    }
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {reason}"))
}

struct Writer<'a> {
    text: String,
    indent: Option<String>,
    between: &'a str,
    after_key: &'a str,
    ascii: bool,
    sort_keys: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("the value is nested too deeply"));
        }
        if self.text.len() > MAX_BYTES {
            return Err(invalid("the text is too long"));
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(keys.into_iter(), ('{', '}'), depth, |writer, key| {
                    match key.as_str() {
                        Some(key) => writer.string(key),
                        None if key.kind() == ValueKind::Bool => {
                            writer.string(if key.is_true() { "true" } else { "false" });
                        }
                        None if key.is_none() => writer.string("null"),
                        None => writer.string(&number(&key)),
                    }
                    writer.text.push_str(writer.after_key);
                    writer.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.items(value.try_iter()?, ('[', ']'), depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            _ => return Err(invalid("the value has no JSON form")),
        }
        Ok(())
    }

    fn items(
        &mut self,
        items: impl Iterator<Item = Value>,
        (open, close): (char, char),
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.text.push_str(self.between);
            }
            empty = false;
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for c in string.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if u32::from(c) < 0x20 => {
                    // Writing to a string cannot fail.
                    let _ = write!(self.text, "\\u{:04x}", u32::from(c));
                }
                c if self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}
