//! The tokenizer: text to token ids and back.

use std::borrow::Cow;

use super::bpe::Bpe;
use super::byte_alphabet;
use super::decode::DecodeStream;
use super::error::{TextError, excerpt};
use super::pre_tokenizer::PreTokenizer;
use super::special::{Part, SpecialTokens};
use super::vocabulary::Vocabulary;
use crate::gguf::Gguf;

/// Texts that end a model's turn wherever they are control tokens, whether the metadata says so or not.
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

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A piece of text in the byte alphabet.
    Text,
    /// A mark for the model, found in text only when asked for and not shown.
    Control,
    /// A piece of text of its own, written as it is, always found whole.
    UserDefined,
    /// Padding of the vocabulary, which stands for nothing.
    Unused,
}

impl TokenKind {
    fn from_gguf(token_type: i32) -> Self {
        match token_type {
            // 2 is "unknown", which llama.cpp treats as it does control tokens.
            2 | 3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            _ => Self::Text,
        }
    }
}

/// A byte-level BPE tokenizer.
///
/// It is built from a file's own vocabulary, can be shared between threads, and never drops text silently: what it
/// cannot encode is an error.
pub struct Tokenizer {
    tokens: Vec<String>,
    /// As long as `tokens`, or empty when all are text.
    kinds: Vec<TokenKind>,
    pre_tokenizer: PreTokenizer,
    bpe: Bpe,
    /// What is found whole in text that may hold control tokens, and in text that may not.
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
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    ///
    /// As [`Vocabulary::from_metadata`] and [`Tokenizer::new`].
    pub fn from_gguf(file: &Gguf) -> Result<Self, TextError> {
        Self::new(Vocabulary::from_metadata(file.metadata())?)
    }

    /// The tokenizer with this vocabulary.
    ///
    /// # Errors
    ///
    /// If the kind of tokenizer or of pre-tokenizer is not supported, or if the vocabulary contradicts itself: no
    /// tokens, two with the same text, a number of types other than that of tokens, special ids that do not exist,
    /// merges that are malformed or name tokens that do not exist.
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
        let bpe = Bpe::new(&tokens, &merges, pre_tokenizer.whole_words())?;
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

    /// The tokens of a text. With `parse_special`, the texts of control tokens become those tokens; without, they are
    /// text like any other.
    ///
    /// # Errors
    ///
    /// If the text has a byte that the vocabulary cannot express.
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

    /// The tokens of a prompt that a chat template has rendered: control tokens are recognised, and the
    /// beginning-of-text token goes first if the model wants one and the template has not written it.
    ///
    /// A control token's text is recognised wherever it stands, also inside what a user wrote, just as Hugging Face
    /// and llama.cpp have it. Whoever must not let users forge turns has to take such texts out of their messages
    /// before rendering.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
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

    /// The text of these tokens, without control tokens; bytes that are no UTF-8 become U+FFFD.
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

    /// A decoder that takes tokens one at a time, as a model makes them.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// The bytes that a token stands for (for a control token, its name); `None` if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let index = usize::try_from(id).ok()?;
        let text = self.tokens.get(index)?;
        Some(match self.kind_at(index) {
            TokenKind::Text => Cow::Owned(byte_alphabet::decode(text)),
            TokenKind::Control | TokenKind::UserDefined => Cow::Borrowed(text.as_bytes()),
            TokenKind::Unused => Cow::Borrowed(&[]),
        })
    }

    /// The id of the token whose text in the vocabulary is this one.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.bpe.id(text)
    }

    /// Whether this is a control token, which decoding does not show.
    pub fn is_control(&self, id: u32) -> bool {
        usize::try_from(id).is_ok_and(|index| self.kind_at(index) == TokenKind::Control)
    }

    /// Whether the model ends its turn with this token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop_ids.binary_search(&id).is_ok()
    }

    /// The tokens with which the model ends its turn, in ascending order: those that the file names, and control
    /// tokens that are known to do so.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The text of the token that begins a text.
    pub fn bos_token(&self) -> Option<&str> {
        self.text_of(self.bos?)
    }

    /// The text of the token that ends a text.
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
