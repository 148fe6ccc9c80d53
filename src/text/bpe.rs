//! Byte-level BPE of single words.

use std::collections::HashMap;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::byte_alphabet;
use super::error::{TextError, excerpt};

/// A vocabulary and its merges.
pub(super) struct Bpe {
    model: BPE,
    /// The bytes that are no token by themselves: the library would drop them without a word.
    missing_bytes: Vec<u8>,
    whole_words: bool,
}

impl Bpe {
    /// Checks the vocabulary and the merges, and makes them ready for use.
    pub(super) fn new(tokens: &[String], merges: &[String], whole_words: bool) -> Result<Self, TextError> {
        let ids = number(tokens)?;
        let merges = parse_merges(merges, &ids)?;
        let missing_bytes =
            (0..=u8::MAX).filter(|&byte| !ids.contains_key(byte_alphabet::encode(&[byte]).as_str())).collect();
        let vocabulary: Vocab = ids.into_iter().map(|(text, id)| (text.to_owned(), id)).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .build()
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        Ok(Self { model, missing_bytes, whole_words })
    }

    /// The id of the token with this text, in the byte alphabet.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the tokens of a word.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let mapped = byte_alphabet::encode(word.as_bytes());
        if self.whole_words
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

/// The id of every token, which must not share a text.
fn number(tokens: &[String]) -> Result<HashMap<&str, u32>, TextError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, text) in (0..).zip(tokens) {
        if let Some(first) = ids.insert(text.as_str(), id) {
            return Err(TextError::DuplicateToken { first, second: id, text: excerpt(text) });
        }
    }
    Ok(ids)
}

/// The merges as pairs. Every token that they take or make must exist.
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
        // The library would let the last of equal merges count; the first does.
        if ranked.insert((left, right), rank).is_none() {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}
