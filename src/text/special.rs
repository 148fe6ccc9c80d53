//! Finding special tokens in text, before anything else looks at it.

use tokenizers::utils::SysRegex;

use super::error::TextError;

/// More text than this in all special tokens together is no honest vocabulary (real ones stay below 64 KiB), and the
/// matcher's memory grows with it.
const MOST_TEXT: usize = 256 << 10;

/// A searcher for a set of tokens, which are taken whole, the longest first where several match.
pub(super) struct SpecialTokens {
    regex: Option<SysRegex>,
}

/// A part of a text.
pub(super) enum Part<'t> {
    /// Text between special tokens.
    Plain(&'t str),
    /// A special token's text.
    Special(&'t str),
}

impl SpecialTokens {
    /// A searcher for these tokens.
    pub(super) fn new<'v>(tokens: impl Iterator<Item = &'v str>) -> Result<Self, TextError> {
        let mut tokens: Vec<&str> = tokens.filter(|token| !token.is_empty()).collect();
        if tokens.is_empty() {
            return Ok(Self { regex: None });
        }
        let text: usize = tokens.iter().map(|token| token.len()).sum();
        if text > MOST_TEXT {
            return Err(TextError::SpecialTokens(format!("they have {text} bytes, more than {MOST_TEXT}")));
        }
        // The first alternative that matches is taken, so the longest come first.
        tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let pattern = tokens.iter().map(|token| escaped(token)).collect::<Vec<_>>().join("|");
        let regex = SysRegex::new(&pattern).map_err(|error| TextError::SpecialTokens(error.to_string()))?;
        Ok(Self { regex: Some(regex) })
    }

    /// The parts of a text, in order; together they are the text.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut done = 0;
        for (start, end) in self.regex.iter().flat_map(|regex| regex.find_iter(text)) {
            parts.extend(text.get(done..start).filter(|plain| !plain.is_empty()).map(Part::Plain));
            parts.extend(text.get(start..end).map(Part::Special));
            done = end;
        }
        parts.extend(text.get(done..).filter(|plain| !plain.is_empty()).map(Part::Plain));
        parts
    }
}

/// A pattern that matches this text alone.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:x}}}", u32::from(c)) })
        .collect()
}
