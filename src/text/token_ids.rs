//! The ids of tokens by their text.

use std::collections::HashMap;

use super::error::{TextError, excerpt};
use super::tokenizer::TokenKind;

/// A map from the texts of tokens to their ids and kinds.
pub(super) struct TokenIds {
    ids: HashMap<String, (u32, TokenKind)>,
}

impl TokenIds {
    /// Builds the map. Fails if two tokens have the same text. A token beyond `kinds` is text.
    pub(super) fn new(tokens: &[String], kinds: &[TokenKind]) -> Result<Self, TextError> {
        let mut ids = HashMap::with_capacity(tokens.len());
        let kinds = kinds.iter().copied().chain(std::iter::repeat(TokenKind::Text));
        for ((id, text), kind) in (0..).zip(tokens).zip(kinds) {
            if let Some((first, _)) = ids.insert(text.clone(), (id, kind)) {
                return Err(TextError::DuplicateToken { first, second: id, text: excerpt(text) });
            }
        }
        Ok(Self { ids })
    }

    /// Returns the id of the token with this text.
    pub(super) fn get(&self, text: &str) -> Option<u32> {
        self.ids.get(text).map(|&(id, _)| id)
    }

    /// Returns the id of the token with this text, unless plain text must not become this token: a control token, a
    /// byte token, or padding.
    pub(super) fn text(&self, text: &str) -> Option<u32> {
        let &(id, kind) = self.ids.get(text)?;
        matches!(kind, TokenKind::Text | TokenKind::UserDefined).then_some(id)
    }

    /// Returns the texts and ids, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.ids.iter().map(|(text, &(id, _))| (text.as_str(), id))
    }
}

/// Returns the text of a byte's token in vocabularies with byte fallback.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Returns the byte of such a token. The form is exact: two hexadecimal digits.
pub(super) fn byte_of_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let exact = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    exact.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
