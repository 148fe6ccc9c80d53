//! Token ids to text, piece by piece.

use super::error::TextError;
use super::tokenizer::Tokenizer;

/// A decoder that takes tokens one at a time and gives text as soon as it is whole.
///
/// A character may be spread over several tokens; its bytes are held until it is complete. Bytes that no continuation
/// can make valid become U+FFFD at once, so that nothing is held for ever. The pieces together are what
/// [`Tokenizer::decode`] gives for all the tokens.
#[derive(Debug, Clone)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    show_control: bool,
    /// The start of a character, at most three bytes.
    pending: Vec<u8>,
}

impl<'t> DecodeStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, show_control: false, pending: Vec::new() }
    }

    /// Sets whether control tokens, such as the mark of a turn's end, are shown by name; they are not unless asked.
    #[must_use]
    pub fn show_control(mut self, show: bool) -> Self {
        self.show_control = show;
        self
    }

    /// Takes a token and gives the text that is now whole, if any.
    ///
    /// # Errors
    ///
    /// If the id is not in the vocabulary; the stream is then as before.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        let unknown = || TextError::UnknownToken { id, vocab_size: self.tokenizer.vocab_size() };
        let bytes = self.tokenizer.token_bytes(id).ok_or_else(unknown)?;
        if self.tokenizer.is_control(id) && !self.show_control {
            return Ok(None);
        }
        self.pending.extend_from_slice(&bytes);
        let text = take_whole(&mut self.pending);
        Ok((!text.is_empty()).then_some(text))
    }

    /// Gives what is left: U+FFFD if the last character was never completed.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

/// Takes everything from the bytes but the start of a character that may yet be completed.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut held = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        let may_go_on = || std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if chunks.peek().is_none() && may_go_on() {
            held = invalid.len();
        } else if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    bytes.drain(..bytes.len().saturating_sub(held));
    text
}
