//! The tokenizer.

use std::borrow::Cow;

use super::bpe::{Bpe, Symbols};
use super::byte_alphabet;
use super::decode::DecodeStream;
use super::ends;
use super::error::{TextError, excerpt};
use super::pre_tokenizer::PreTokenizer;
use super::sentence_piece::SentencePiece;
use super::special::{Part, SpecialTokens};
use super::token_ids::{TokenIds, byte_of_token};
use super::vocabulary::Vocabulary;
use crate::gguf::Gguf;

/// The space in vocabularies of SentencePiece.
const SPACE: &str = "\u{2581}";

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text.
    Text,
    /// A control token: matched in text only on request, and not shown.
    Control,
    /// A control token that structures a reply and is shown.
    ShownControl,
    /// A user-defined token: literal text, always matched as a whole.
    UserDefined,
    /// Padding of the vocabulary, without text.
    Unused,
    /// A byte of a character without a token of its own.
    Byte(u8),
}

impl TokenKind {
    fn from_gguf(token_type: i32, text: &str, byte_level: bool) -> Self {
        match token_type {
            // 2 is "unknown"; llama.cpp treats it as control.
            2 | 3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 if !byte_level => byte_of_token(text).map_or(Self::Text, Self::Byte),
            _ => Self::Text,
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Control | Self::ShownControl)
    }
}

/// How plain text becomes tokens.
enum Model {
    ByteLevelBpe {
        pre_tokenizer: PreTokenizer,
        bpe: Bpe,
    },
    SentencePiece {
        pieces: SentencePiece,
        space_prefix: bool,
    },
    /// BPE of whole lines, with SentencePiece's space and bytes.
    Gemma4(Bpe),
}

/// A tokenizer: byte-level BPE, SentencePiece, or Gemma 4's BPE.
///
/// It is built from a file's vocabulary and can be shared between threads. Text that it cannot encode is an error,
/// never dropped.
pub struct Tokenizer {
    tokens: Vec<String>,
    ids: TokenIds,
    /// The kind of each token.
    kinds: Vec<TokenKind>,
    model: Model,
    /// Tokens matched as a whole, with and without `parse_special`.
    control_and_user_defined: SpecialTokens,
    user_defined: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
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
        let Vocabulary {
            model,
            pre,
            tokens,
            scores,
            token_types,
            merges,
            bos,
            eos,
            unknown,
            extra_stops,
            add_bos,
            add_eos,
            add_space_prefix,
        } = vocabulary;
        if !Vocabulary::MODELS.contains(&model.as_str()) {
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
        let is_sentence_piece = model == Vocabulary::SENTENCE_PIECE;
        if is_sentence_piece && scores.len() != tokens.len() {
            return Err(TextError::ScoreCount { tokens: tokens.len(), scores: scores.len() });
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
        let byte_level = model == Vocabulary::BYTE_LEVEL_BPE;
        let mut kinds: Vec<TokenKind> =
            token_types.iter().zip(&tokens).map(|(&ty, text)| TokenKind::from_gguf(ty, text, byte_level)).collect();
        kinds.resize(tokens.len(), TokenKind::Text);
        let stop_ids = ends::find(&tokens, &mut kinds, eos, &extra_stops);
        let ids = TokenIds::new(&tokens, &kinds)?;
        let model = if byte_level {
            let pre_tokenizer = PreTokenizer::new(&pre)?;
            let bpe = Bpe::new(&ids, &merges, Symbols::Bytes, pre_tokenizer.ignore_merges())?;
            Model::ByteLevelBpe { pre_tokenizer, bpe }
        } else if is_sentence_piece {
            let pieces = SentencePiece::new(&ids, scores, unknown);
            Model::SentencePiece { pieces, space_prefix: add_space_prefix }
        } else {
            Model::Gemma4(Bpe::new(&ids, &merges, Symbols::Characters, false)?)
        };
        let special = |wanted: fn(TokenKind) -> bool| {
            let tokens = (0..).zip(&tokens).zip(&kinds).filter(move |(_, kind)| wanted(**kind));
            SpecialTokens::new(tokens.map(|((id, text), _)| (id, text.as_str())))
        };
        Ok(Self {
            control_and_user_defined: special(|kind| kind.is_control() || kind == TokenKind::UserDefined)?,
            user_defined: special(|kind| kind == TokenKind::UserDefined)?,
            model,
            ids,
            tokens,
            kinds,
            bos,
            eos,
            add_bos,
            add_eos,
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
        self.encode_parts(special, text, &mut true, &mut ids)?;
        Ok(ids)
    }

    /// Appends the tokens of a text to `ids`. `after_special` is whether the text is at the beginning or follows a
    /// special token.
    fn encode_parts(
        &self,
        special: &SpecialTokens,
        text: &str,
        after_special: &mut bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        for part in special.split(text) {
            match part {
                Part::Special(id) => ids.push(id),
                Part::Plain(plain) => self.encode_plain(plain, *after_special, ids)?,
            }
            *after_special = matches!(part, Part::Special(_));
        }
        Ok(())
    }

    fn encode_plain(&self, text: &str, after_special: bool, ids: &mut Vec<u32>) -> Result<(), TextError> {
        match &self.model {
            Model::ByteLevelBpe { pre_tokenizer, bpe } => {
                for word in pre_tokenizer.split(&pre_tokenizer.normalize(text)) {
                    bpe.encode(word, &self.ids, ids)?;
                }
                Ok(())
            }
            Model::SentencePiece { pieces, space_prefix } => {
                let prefix = if *space_prefix && after_special { SPACE } else { "" };
                pieces.encode(&format!("{prefix}{}", text.replace(' ', SPACE)), &self.ids, ids)
            }
            Model::Gemma4(bpe) => {
                let text = text.replace(' ', SPACE);
                for run in runs_of_lines(&text) {
                    match self.ids.text(run).filter(|_| run.starts_with('\n')) {
                        Some(id) => ids.push(id),
                        None => bpe.encode(run, &self.ids, ids)?,
                    }
                }
                Ok(())
            }
        }
    }

    /// Encodes a rendered conversation in which `mark` interrupts the names of control tokens that the template has
    /// not written. The beginning-of-text token is prepended as in [`Tokenizer::encode_prompt`].
    pub(super) fn encode_marked(&self, rendered: &str, mark: char) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        let mut after_special = true;
        let mut plain = String::new();
        for part in self.control_and_user_defined.split(rendered) {
            match part {
                // A name of one character cannot be interrupted.
                Part::Special(id) if self.is_control(id) && self.text_of(id).is_some_and(|name| name.len() > 1) => {
                    self.encode_parts(&self.user_defined, &plain, &mut after_special, &mut ids)?;
                    plain.clear();
                    ids.push(id);
                    after_special = true;
                }
                Part::Special(id) => plain.push_str(self.text_of(id).unwrap_or_default()),
                Part::Plain(text) => plain.extend(text.chars().filter(|&c| c != mark)),
            }
        }
        self.encode_parts(&self.user_defined, &plain, &mut after_special, &mut ids)?;
        self.add_bos(&mut ids);
        Ok(ids)
    }

    /// Returns the names of the control tokens.
    pub(super) fn control_names(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().zip(&self.kinds).filter(|(_, kind)| kind.is_control()).map(|(name, _)| name.as_str())
    }

    /// Encodes a prompt: control tokens are parsed, and the beginning-of-text token is prepended if the model requires
    /// it and the prompt does not have it.
    ///
    /// Control tokens are parsed everywhere, so whoever wrote a part of the prompt can write them.
    /// [`ChatTemplate::encode`](super::ChatTemplate::encode) parses only those of the template.
    ///
    /// # Errors
    ///
    /// The errors of [`Tokenizer::encode`].
    pub fn encode_prompt(&self, rendered: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode(rendered, true)?;
        self.add_bos(&mut ids);
        Ok(ids)
    }

    /// Encodes a text to embed: the beginning-of-text token is added as in [`Tokenizer::encode_prompt`], and the end-of-text token if
    /// the file says so, unless the text has it.
    ///
    /// # Errors
    ///
    /// Those of [`Tokenizer::encode`].
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode_prompt(text)?;
        ids.extend(self.eos.filter(|eos| self.add_eos && ids.last() != Some(eos)));
        Ok(ids)
    }

    fn add_bos(&self, ids: &mut Vec<u32>) {
        if self.add_bos
            && let Some(bos) = self.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
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
            TokenKind::Text if matches!(self.model, Model::ByteLevelBpe { .. }) => {
                Cow::Owned(byte_alphabet::decode(text))
            }
            TokenKind::Text => Cow::Owned(text.replace(SPACE, " ").into_bytes()),
            TokenKind::Control | TokenKind::ShownControl | TokenKind::UserDefined => Cow::Borrowed(text.as_bytes()),
            TokenKind::Byte(byte) => Cow::Owned(vec![byte]),
            TokenKind::Unused => Cow::Borrowed(&[]),
        })
    }

    /// Returns the id of the token with this text in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.ids.get(text)
    }

    /// Returns whether this is a control token.
    pub fn is_control(&self, id: u32) -> bool {
        usize::try_from(id).is_ok_and(|index| self.kind_at(index).is_control())
    }

    /// Returns the name of a control token that decoding omits.
    pub fn hidden_name(&self, id: u32) -> Option<&str> {
        self.text_of(id).filter(|_| self.is_hidden(id))
    }

    /// Returns whether decoding omits this token: a control token, except those that structure a reply of gpt-oss.
    pub(super) fn is_hidden(&self, id: u32) -> bool {
        usize::try_from(id).is_ok_and(|index| self.kind_at(index) == TokenKind::Control)
    }

    /// Returns whether a decoded text begins with a space that encoding has added.
    pub(super) fn adds_space_prefix(&self) -> bool {
        matches!(self.model, Model::SentencePiece { space_prefix: true, .. })
    }

    /// Returns whether this token ends a reply.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop_ids.binary_search(&id).is_ok()
    }

    /// Returns the tokens that end a reply, in ascending order: those named by the file, well-known ends, and well-known
    /// starts of another turn.
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

    /// Returns the id of the beginning-of-text token.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    pub(super) fn text_of(&self, id: u32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    fn kind_at(&self, index: usize) -> TokenKind {
        self.kinds.get(index).copied().unwrap_or(TokenKind::Text)
    }
}

/// Splits a text into runs of line ends and runs without any.
fn runs_of_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let is_line_end = rest.starts_with('\n');
        let end = rest.find(|c| (c == '\n') != is_line_end).unwrap_or(rest.len());
        let (run, after) = rest.split_at_checked(end)?;
        rest = after;
        (!run.is_empty()).then_some(run)
    })
}
