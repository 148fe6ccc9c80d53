//! Search for special tokens in text, before pre-tokenization.

use tokenizers::utils::SysRegex;

use super::error::TextError;

/// Limit on the total bytes of special tokens, as the matcher's memory grows with it. Real vocabularies stay below 64
/// KiB.
const MAX_BYTES: usize = 256 << 10;

/// A matcher for a set of tokens. The longest match wins.
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
    /// Builds a matcher for these tokens.
    pub(super) fn new<'v>(tokens: impl Iterator<Item = &'v str>) -> Result<Self, TextError> {
        let mut tokens: Vec<&str> = tokens.filter(|token| !token.is_empty()).collect();
        if tokens.is_empty() {
            return Ok(Self { regex: None });
        }
        let text: usize = tokens.iter().map(|token| token.len()).sum();
        if text > MAX_BYTES {
            return Err(TextError::SpecialTokens(format!("they have {text} bytes, more than {MAX_BYTES}")));
        }
        // The regex takes the first matching alternative, so the longest come first.
        tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let pattern = tokens.iter().map(|token| escaped(token)).collect::<Vec<_>>().join("|");
        let regex = SysRegex::new(&pattern).map_err(|error| TextError::SpecialTokens(error.to_string()))?;
        Ok(Self { regex: Some(regex) })
    }

    /// Splits a text at special tokens. The concatenated parts are the text.
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

/// Returns a pattern that matches exactly this text.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:x}}}", u32::from(c)) })
        .collect()
}
