//! Search for special tokens in text, before pre-tokenization.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::error::TextError;

/// A matcher for a set of tokens. The leftmost match wins, then the longest.
///
/// The automaton is Aho and Corasick's: vocabularies of speech models have a hundred thousand such tokens.
#[derive(Default)]
pub(super) struct SpecialTokens {
    automaton: Option<AhoCorasick>,
    /// The id of each pattern.
    ids: Vec<u32>,
}

/// A part of a text.
pub(super) enum Part<'t> {
    /// Text between special tokens.
    Plain(&'t str),
    /// A special token.
    Special(u32),
}

impl SpecialTokens {
    /// Builds a matcher for these tokens.
    pub(super) fn new<'v>(tokens: impl Iterator<Item = (u32, &'v str)>) -> Result<Self, TextError> {
        let (ids, texts): (Vec<u32>, Vec<&str>) = tokens.filter(|(_, text)| !text.is_empty()).unzip();
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(texts)
            .map_err(|error| TextError::SpecialTokens(error.to_string()))?;
        Ok(Self { automaton: Some(automaton), ids })
    }

    /// Splits a text at special tokens. The concatenated parts are the text.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut done = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            parts.extend(text.get(done..found.start()).filter(|plain| !plain.is_empty()).map(Part::Plain));
            parts.extend(self.ids.get(found.pattern().as_usize()).copied().map(Part::Special));
            done = found.end();
        }
        parts.extend(text.get(done..).filter(|plain| !plain.is_empty()).map(Part::Plain));
        parts
    }
}
