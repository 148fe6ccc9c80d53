//! Byte-pair encoding of one word.

use std::collections::HashMap;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::byte_alphabet;
use super::error::{TextError, excerpt};
use super::token_ids::TokenIds;

/// How a word becomes the symbols that are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbols {
    /// One symbol for each byte, in the alphabet of GPT-2.
    Bytes,
    /// One symbol for each character; the bytes of others are tokens `<0x00>` to `<0xFF>`.
    Characters,
}

/// A vocabulary and its merges.
pub(super) struct Bpe {
    model: BPE,
    symbols: Symbols,
    /// Bytes without a token of their own. The `tokenizers` crate would drop them silently.
    missing_bytes: Vec<u8>,
    ignore_merges: bool,
}

impl Bpe {
    /// Validates the merges, and builds the model. Control tokens are no result of merges.
    pub(super) fn new(
        ids: &TokenIds,
        merges: &[String],
        symbols: Symbols,
        ignore_merges: bool,
    ) -> Result<Self, TextError> {
        let merges = parse_merges(merges, ids)?;
        let has = |byte| match symbols {
            Symbols::Bytes => ids.get(&byte_alphabet::encode(&[byte])).is_some(),
            Symbols::Characters => ids.get(&super::token_ids::byte_token(byte)).is_some(),
        };
        let missing_bytes = (0..=u8::MAX).filter(|&byte| !has(byte)).collect();
        let vocabulary: Vocab = ids.iter().map(|(text, id)| (text.to_owned(), id)).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .byte_fallback(symbols == Symbols::Characters)
            .build()
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        Ok(Self { model, symbols, missing_bytes, ignore_merges })
    }

    /// Appends the tokens of a word to `ids`.
    pub(super) fn encode(&self, word: &str, known: &TokenIds, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let encoded;
        let mapped = match self.symbols {
            Symbols::Bytes => {
                encoded = byte_alphabet::encode(word.as_bytes());
                encoded.as_str()
            }
            Symbols::Characters => word,
        };
        if self.ignore_merges
            && let Some(id) = known.text(mapped)
        {
            ids.push(id);
            return Ok(());
        }
        if let Some(byte) = self.missing_byte(word, known) {
            return Err(TextError::MissingByte(byte));
        }
        let tokens = self.model.tokenize(mapped).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }

    /// Returns a byte of the word without a token.
    fn missing_byte(&self, word: &str, known: &TokenIds) -> Option<u8> {
        if self.missing_bytes.is_empty() {
            return None;
        }
        let is_missing = |byte: &u8| self.missing_bytes.contains(byte);
        match self.symbols {
            Symbols::Bytes => word.bytes().find(is_missing),
            Symbols::Characters => word
                .split("")
                .filter(|symbol| !symbol.is_empty() && known.get(symbol).is_none())
                .find_map(|symbol| symbol.bytes().find(is_missing)),
        }
    }
}

/// Parses the merges into pairs. Their inputs and results must be tokens.
fn parse_merges(merges: &[String], ids: &TokenIds) -> Result<Merges, TextError> {
    let mut ranked = HashMap::with_capacity(merges.len());
    let mut pairs = Merges::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        let Some((left, right)) =
            merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
        else {
            return Err(TextError::MalformedMerge { rank, merge: excerpt(merge) });
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(token) = [left, right, &joined].into_iter().find(|token| ids.get(token).is_none()) {
            return Err(TextError::MergeOutOfVocabulary { rank, token: excerpt(token) });
        }
        // Text must not become a control token, whatever the file's merges are.
        if ids.text(&joined).is_none() {
            continue;
        }
        // The first of equal merges has priority; the `tokenizers` crate would use the last.
        if ranked.insert((left, right), rank).is_none() {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}
