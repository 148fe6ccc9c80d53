//! The tokenizer.

use std::borrow::Cow;

use super::bpe::Bpe;
use super::byte_alphabet;
use super::decode::DecodeStream;
use super::error::{TextError, excerpt};
use super::pre_tokenizer::PreTokenizer;
use super::special::{Part, SpecialTokens};
use super::vocabulary::Vocabulary;
use crate::gguf::Gguf;

/// Control tokens that end a turn even if the metadata does not say so, as in llama.cpp.
const WELL_KNOWN_STOPS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|eot|>",
    "<|EOT|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
    "<|endofturn|>",
    "<|end_of_role|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "_<EOT>",
    "<EOT>",
    "<|tool_call_end|>",
];

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text in the byte alphabet.
    Text,
    /// A control token: matched in text only on request, and not shown.
    Control,
    /// A user-defined token: literal text, always matched as a whole.
    UserDefined,
    /// Padding of the vocabulary, without text.
    Unused,
}

impl TokenKind {
    fn from_gguf(token_type: i32) -> Self {
        match token_type {
            // 2 is "unknown"; llama.cpp treats it as control.
            2 | 3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            _ => Self::Text,
        }
    }
}

/// A byte-level BPE tokenizer.
///
/// It is built from a file's vocabulary and can be shared between threads. Text that it cannot encode is an error,
/// never dropped.
pub struct Tokenizer {
    tokens: Vec<String>,
    /// The kind of each token; empty if all are text.
    kinds: Vec<TokenKind>,
    pre_tokenizer: PreTokenizer,
    bpe: Bpe,
    /// Tokens matched as a whole, with and without `parse_special`.
    control_and_user_defined: SpecialTokens,
    user_defined: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    stop_ids: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.tokens.len())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("add_bos", &self.add_bos)
            .field("stop_ids", &self.stop_ids)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// # Errors
    ///
    /// The errors of [`Vocabulary::from_metadata`] and [`Tokenizer::new`].
    pub fn from_gguf(file: &Gguf) -> Result<Self, TextError> {
        Self::new(Vocabulary::from_metadata(file.metadata())?)
    }

    /// Builds a tokenizer from a vocabulary.
    ///
    /// # Errors
    ///
    /// If the kind of tokenizer or the pre-tokenizer is not supported, or if the vocabulary is inconsistent: no tokens,
    /// duplicate tokens, a wrong number of token types, special ids out of range, malformed merges, or merges of tokens
    /// that do not exist.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TextError> {
        let Vocabulary { model, pre, tokens, token_types, merges, bos, eos, extra_stops, add_bos } = vocabulary;
        if model != Vocabulary::BYTE_LEVEL_BPE {
            return Err(TextError::UnsupportedModel(excerpt(&model)));
        }
        if tokens.is_empty() {
            return Err(TextError::EmptyVocabulary);
        }
        if u32::try_from(tokens.len()).is_err() {
            return Err(TextError::VocabularyTooLarge(tokens.len()));
        }
        if !token_types.is_empty() && token_types.len() != tokens.len() {
            return Err(TextError::TokenTypeCount { tokens: tokens.len(), types: token_types.len() });
        }
        let ends = eos.map(|id| ("end-of-text", id)).into_iter().chain(extra_stops.iter().map(|&id| ("stop", id)));
        for (role, id) in bos.map(|id| ("beginning-of-text", id)).into_iter().chain(ends) {
            if usize::try_from(id).map_or(true, |id| id >= tokens.len()) {
                return Err(TextError::SpecialIdOutOfRange { role, id, vocab_size: tokens.len() });
            }
        }
        if add_bos && bos.is_none() {
            return Err(TextError::MissingBos);
        }
        let pre_tokenizer = PreTokenizer::new(&pre)?;
        let bpe = Bpe::new(&tokens, &merges, pre_tokenizer.ignore_merges())?;
        let kinds: Vec<TokenKind> = token_types.into_iter().map(TokenKind::from_gguf).collect();
        let of_kind = |wanted: &'static [TokenKind]| {
            tokens.iter().zip(&kinds).filter(move |(_, kind)| wanted.contains(kind)).map(|(text, _)| text.as_str())
        };
        let control_and_user_defined = SpecialTokens::new(of_kind(&[TokenKind::Control, TokenKind::UserDefined]))?;
        let user_defined = SpecialTokens::new(of_kind(&[TokenKind::UserDefined]))?;
        let mut stop_ids: Vec<u32> = eos.into_iter().chain(extra_stops).collect();
        let control: std::collections::HashSet<&str> = of_kind(&[TokenKind::Control]).collect();
        stop_ids.extend(WELL_KNOWN_STOPS.iter().filter(|text| control.contains(*text)).filter_map(|text| bpe.id(text)));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        Ok(Self {
            pre_tokenizer,
            bpe,
            control_and_user_defined,
            user_defined,
            tokens,
            kinds,
            bos,
            eos,
            add_bos,
            stop_ids,
        })
    }

    /// Encodes a text. With `parse_special`, the names of control tokens are encoded as those tokens; otherwise as
    /// plain text.
    ///
    /// # Errors
    ///
    /// [`TextError::MissingByte`] if the vocabulary has no token for a byte of the text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TextError> {
        let special = if parse_special { &self.control_and_user_defined } else { &self.user_defined };
        let mut ids = Vec::new();
        for part in special.split(text) {
            match part {
                Part::Special(token) => ids.extend(self.bpe.id(token)),
                Part::Plain(plain) => {
                    for word in self.pre_tokenizer.split(plain) {
                        self.bpe.encode(word, &mut ids)?;
                    }
                }
            }
        }
        Ok(ids)
    }

    /// Encodes a prompt rendered by a chat template: control tokens are parsed, and the beginning-of-text token is
    /// prepended if the model requires it and the template has not written it.
    ///
    /// Control tokens are parsed everywhere, also inside user messages, as in Hugging Face and llama.cpp. An
    /// application that must prevent users from forging turns has to remove control tokens from their messages before
    /// rendering.
    ///
    /// # Errors
    ///
    /// The errors of [`Tokenizer::encode`].
    pub fn encode_prompt(&self, rendered: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode(rendered, true)?;
        if self.add_bos
            && let Some(bos) = self.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Decodes tokens to text, without control tokens. Invalid UTF-8 is replaced with U+FFFD.
    ///
    /// # Errors
    ///
    /// If an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let mut stream = self.decode_stream();
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(id)?);
        }
        text.extend(stream.finish());
        Ok(text)
    }

    /// Creates an incremental decoder.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// Returns the bytes of a token (of a control token: its name); `None` if the id is not in the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let index = usize::try_from(id).ok()?;
        let text = self.tokens.get(index)?;
        Some(match self.kind_at(index) {
            TokenKind::Text => Cow::Owned(byte_alphabet::decode(text)),
            TokenKind::Control | TokenKind::UserDefined => Cow::Borrowed(text.as_bytes()),
            TokenKind::Unused => Cow::Borrowed(&[]),
        })
    }

    /// Returns the id of the token with this text in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.bpe.id(text)
    }

    /// Returns whether this is a control token, which decoding omits.
    pub fn is_control(&self, id: u32) -> bool {
        usize::try_from(id).is_ok_and(|index| self.kind_at(index) == TokenKind::Control)
    }

    /// Returns whether this token ends a turn.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop_ids.binary_search(&id).is_ok()
    }

    /// Returns the tokens that end a turn, in ascending order: those named by the file and well-known control tokens.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Returns the number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the text of the beginning-of-text token.
    pub fn bos_token(&self) -> Option<&str> {
        self.text_of(self.bos?)
    }

    /// Returns the text of the end-of-text token.
    pub fn eos_token(&self) -> Option<&str> {
        self.text_of(self.eos?)
    }

    fn text_of(&self, id: u32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    fn kind_at(&self, index: usize) -> TokenKind {
        self.kinds.get(index).copied().unwrap_or(TokenKind::Text)
    }
}
