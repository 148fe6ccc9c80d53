//! Incremental decoding of tokens to text.

use super::error::TextError;
use super::tokenizer::Tokenizer;

/// An incremental decoder: it takes one token at a time and returns text as soon as its characters are complete.
///
/// A character may span several tokens; its bytes are held until it is complete. Bytes that can no longer become valid
/// UTF-8 are replaced with U+FFFD at once. The concatenated pieces equal [`Tokenizer::decode`] of all tokens.
#[derive(Debug, Clone)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    decoder: Decoder,
}

/// The state of an incremental decoder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decoder {
    show_control: bool,
    /// Whether a token was decoded.
    started: bool,
    /// The first bytes of an incomplete character, at most three.
    pending: Vec<u8>,
}

impl Decoder {
    /// Adds a token of `tokenizer`. Returns the text that it completes, if any.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<Option<String>, TextError> {
        let unknown = || TextError::UnknownToken { id, vocab_size: tokenizer.vocab_size() };
        let bytes = tokenizer.token_bytes(id).ok_or_else(unknown)?;
        if tokenizer.is_hidden(id) && !self.show_control {
            return Ok(None);
        }
        let is_first = !std::mem::replace(&mut self.started, true);
        let added = is_first && tokenizer.adds_space_prefix() && bytes.starts_with(b" ");
        self.pending.extend_from_slice(bytes.get(usize::from(added)..).unwrap_or_default());
        let text = take_complete(&mut self.pending);
        Ok((!text.is_empty()).then_some(text))
    }

    /// Returns the rest: U+FFFD if the last character is incomplete.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

impl<'t> DecodeStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, decoder: Decoder::default() }
    }

    /// Sets whether control tokens, such as end-of-turn, are shown by name (default: `false`).
    #[must_use]
    pub fn show_control(mut self, show: bool) -> Self {
        self.decoder.show_control = show;
        self
    }

    /// Adds a token. Returns the text that it completes, if any.
    ///
    /// # Errors
    ///
    /// If the id is not in the vocabulary. The stream is then unchanged.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        self.decoder.push(self.tokenizer, id)
    }

    /// Returns the rest: U+FFFD if the last character is incomplete.
    pub fn finish(&mut self) -> Option<String> {
        self.decoder.finish()
    }
}

/// Removes and returns all text up to an incomplete character at the end.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut held = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        let is_incomplete = || std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if chunks.peek().is_none() && is_incomplete() {
            held = invalid.len();
        } else if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    bytes.drain(..bytes.len().saturating_sub(held));
    text
}
