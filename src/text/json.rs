//! JSON of messages, tools and documents, which templates see as values.

use std::fmt;
use std::str::FromStr;

use minijinja::value::Value;

use super::error::TextError;

/// A JSON text: tools, documents, or a field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct Json(String);

impl Json {
    /// Checks a JSON text.
    ///
    /// # Errors
    ///
    /// [`TextError::Json`] if it is malformed, or nested more than 60 levels deep.
    pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
        let text = text.into();
        value(&text)?;
        Ok(Self(text))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the value for templates. Objects keep their order.
    pub(super) fn value(&self) -> Value {
        // The text was checked.
        value(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Json {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Json {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        Self::parse(text)
    }
}

impl From<Json> for String {
    fn from(json: Json) -> Self {
        json.0
    }
}

fn value(text: &str) -> Result<Value, TextError> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() { Err(parser.error("text after the value")) } else { Ok(value) }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    /// The greatest nesting depth: that of values in templates, less what surrounds a message.
    const MAX_DEPTH: usize = 60;

    fn error(&self, problem: &str) -> TextError {
        TextError::Json(format!("{problem} at byte {}", self.at))
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    /// Skips space and `token`. Returns whether it was there.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, TextError> {
        if depth > Self::MAX_DEPTH {
            return Err(self.error("too many nested values"));
        }
        for (word, value) in [("null", Value::from(())), ("true", true.into()), ("false", false.into())] {
            if self.take(word) {
                return Ok(value);
            }
        }
        if self.take("{") {
            let mut pairs = Vec::new();
            if self.take("}") {
                return Ok(Value::from_pairs(pairs));
            }
            loop {
                if !self.take("\"") {
                    return Err(self.error("expected a key"));
                }
                let key = self.string()?;
                if !self.take(":") {
                    return Err(self.error("expected ':'"));
                }
                pairs.push((Value::from(key), self.value(depth + 1)?));
                if self.take("}") {
                    return Ok(Value::from_pairs(pairs));
                }
                if !self.take(",") {
                    return Err(self.error("expected ',' or '}'"));
                }
            }
        }
        if self.take("[") {
            let mut items: Vec<Value> = Vec::new();
            if self.take("]") {
                return Ok(items.into());
            }
            loop {
                items.push(self.value(depth + 1)?);
                if self.take("]") {
                    return Ok(items.into());
                }
                if !self.take(",") {
                    return Err(self.error("expected ',' or ']'"));
                }
            }
        }
        if self.take("\"") { self.string().map(Value::from) } else { self.number() }
    }

    /// Parses a string after its opening quote.
    fn string(&mut self) -> Result<String, TextError> {
        let mut string = String::new();
        loop {
            let rest = self.rest();
            let Some(end) = rest.find(['"', '\\']) else { return Err(self.error("a string without end")) };
            let (plain, special) = rest.split_at(end);
            if plain.contains(|c: char| u32::from(c) < 0x20) {
                return Err(self.error("a control character in a string"));
            }
            string.push_str(plain);
            let is_end = special.starts_with('"');
            let escaped = special.chars().nth(1);
            self.at += end + 1;
            if is_end {
                return Ok(string);
            }
            self.at += escaped.map_or(0, char::len_utf8);
            string.push(match escaped {
                Some(c @ ('"' | '\\' | '/')) => c,
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('u') => self.unicode()?,
                _ => return Err(self.error("an unknown escape")),
            });
        }
    }

    /// Parses the digits of `\u`, and of a second one for a surrogate pair. An unpaired surrogate becomes U+FFFD.
    fn unicode(&mut self) -> Result<char, TextError> {
        let first = self.digits()?;
        if (0xD800..0xDC00).contains(&first) && self.rest().starts_with("\\u") {
            let start = self.at;
            self.at += 2;
            let second = self.digits()?;
            if (0xDC00..0xE000).contains(&second) {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = start;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn digits(&mut self) -> Result<u32, TextError> {
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, TextError> {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let (number, _) = rest.split_at(end);
        let digits = number.strip_prefix('-').unwrap_or(number);
        let whole = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
        let ends_in_digit = digits.ends_with(|c: char| c.is_ascii_digit());
        let well_formed = !whole.is_empty()
            && whole.bytes().all(|digit| digit.is_ascii_digit())
            && (whole == "0" || !whole.starts_with('0'))
            && ends_in_digit
            && !digits.contains(".e")
            && !digits.contains(".E");
        let value = if !well_formed {
            None
        } else if digits.len() == whole.len() {
            let integer = number.parse::<i64>().map(Value::from).or_else(|_| number.parse::<i128>().map(Value::from));
            integer.ok().or_else(|| number.parse::<f64>().ok().map(Value::from))
        } else {
            number.parse::<f64>().ok().map(Value::from)
        };
        let value = value.ok_or_else(|| self.error("expected a value"))?;
        self.at += end;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_order_and_precision() {
        let text = r#" {"b": [1, -2.5, 1e3, true, null], "a": "\u00e9\ud83d\ude42\n\"\ud800x", "c": {}, "d": []} "#;
        let shown = Json::parse(text).unwrap().value().to_string();
        assert_eq!(shown, "{'b': [1, -2.5, 1000.0, True, None], 'a': 'é🙂\\n\"\u{fffd}x', 'c': {}, 'd': []}");
        assert_eq!(Json::parse("12345678901234567890").unwrap().value().to_string(), "12345678901234567890");
    }

    #[test]
    fn malformed_text_is_refused() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        for text in [
            "",
            " ",
            "{",
            "[1",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "nul",
            "1 2",
            "\"\n\"",
            "NaN",
            "1..2",
            "--1",
            &deep,
        ] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
    }
}
