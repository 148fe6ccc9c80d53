//! Byte-level BPE of one word.

use std::collections::HashMap;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::byte_alphabet;
use super::error::{TextError, excerpt};

/// A vocabulary and its merges.
pub(super) struct Bpe {
    model: BPE,
    /// Bytes without a token of their own. The `tokenizers` crate would drop them silently.
    missing_bytes: Vec<u8>,
    ignore_merges: bool,
}

impl Bpe {
    /// Validates the vocabulary and the merges, and builds the model.
    pub(super) fn new(tokens: &[String], merges: &[String], ignore_merges: bool) -> Result<Self, TextError> {
        let ids = token_ids(tokens)?;
        let merges = parse_merges(merges, &ids)?;
        let missing_bytes =
            (0..=u8::MAX).filter(|&byte| !ids.contains_key(byte_alphabet::encode(&[byte]).as_str())).collect();
        let vocabulary: Vocab = ids.into_iter().map(|(text, id)| (text.to_owned(), id)).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .build()
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        Ok(Self { model, missing_bytes, ignore_merges })
    }

    /// Returns the id of the token with this text in the byte alphabet.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the tokens of a word to `ids`.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let mapped = byte_alphabet::encode(word.as_bytes());
        if self.ignore_merges
            && let Some(id) = self.id(&mapped)
        {
            ids.push(id);
            return Ok(());
        }
        if !self.missing_bytes.is_empty()
            && let Some(byte) = word.bytes().find(|byte| self.missing_bytes.contains(byte))
        {
            return Err(TextError::MissingByte(byte));
        }
        let tokens = self.model.tokenize(&mapped).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }
}

/// Maps tokens to ids. Fails if two tokens have the same text.
fn token_ids(tokens: &[String]) -> Result<HashMap<&str, u32>, TextError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, text) in (0..).zip(tokens) {
        if let Some(first) = ids.insert(text.as_str(), id) {
            return Err(TextError::DuplicateToken { first, second: id, text: excerpt(text) });
        }
    }
    Ok(ids)
}

/// Parses the merges into pairs. Their inputs and results must be tokens.
fn parse_merges(merges: &[String], ids: &HashMap<&str, u32>) -> Result<Merges, TextError> {
    let mut ranked = HashMap::with_capacity(merges.len());
    let mut pairs = Merges::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let Some((left, right)) =
            merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
        else {
            return Err(TextError::MalformedMerge { rank, merge: excerpt(merge) });
        };
        let joined = format!("{left}{right}");
        if let Some(token) = [left, right, &joined].into_iter().find(|token| !ids.contains_key(token)) {
            return Err(TextError::MergeOutOfVocabulary { rank, token: excerpt(token) });
        }
        // The first of equal merges has priority; the `tokenizers` crate would use the last.
        if ranked.insert((left, right), rank).is_none() {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}
