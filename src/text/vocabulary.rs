//! The tokenizer data of a file.

use super::error::{TextError, excerpt};
use super::pre_tokenizer;
use crate::gguf::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Keys of tokens that end a turn or a message, or a file of a repository in fill-in-the-middle.
const EXTRA_STOPS: [&str; 5] = [
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// The raw data of a tokenizer, as stored in a GGUF file. [`Tokenizer::new`](super::Tokenizer::new) validates it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// The kind of tokenizer: `gpt2` (byte-level BPE), `llama` (SentencePiece) or `gemma4` (BPE of characters).
    pub model: String,
    /// The pre-tokenizer of byte-level BPE: `qwen2`, `llama-bpe`, `default`, …
    pub pre: String,
    /// The tokens in order of their ids: in the byte-level alphabet, or with U+2581 for the space.
    pub tokens: Vec<String>,
    /// The scores of SentencePiece's tokens; empty for other kinds.
    pub scores: Vec<f32>,
    /// The type of each token (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte); empty if all are
    /// normal.
    pub token_types: Vec<i32>,
    /// The merges in order of priority: pairs of tokens separated by a space.
    pub merges: Vec<String>,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The end-of-text token.
    pub eos: Option<u32>,
    /// The token of unknown text, where bytes have no tokens.
    pub unknown: Option<u32>,
    /// Further tokens that end a turn or a message.
    pub extra_stops: Vec<u32>,
    /// Whether a prompt starts with `bos`.
    pub add_bos: bool,
    /// Whether a text to embed ends with `eos`.
    pub add_eos: bool,
    /// Whether SentencePiece puts a space before text at the beginning and after a special token.
    pub add_space_prefix: bool,
}

impl Vocabulary {
    pub(super) const BYTE_LEVEL_BPE: &'static str = "gpt2";
    pub(super) const SENTENCE_PIECE: &'static str = "llama";
    pub(super) const GEMMA_4: &'static str = "gemma4";
    pub(super) const MODELS: [&'static str; 3] = [Self::BYTE_LEVEL_BPE, Self::SENTENCE_PIECE, Self::GEMMA_4];

    /// Reads the tokenizer data from a file's metadata. An optional token whose id is not in the vocabulary is left
    /// out.
    ///
    /// # Errors
    ///
    /// If a value has the wrong type, if the kind of tokenizer is not supported, or if tokens, scores or merges are
    /// missing.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let model = metadata.str(MODEL)?.ok_or(TextError::MissingKey(MODEL))?;
        // Checked before the merges: other kinds have none, and the kind is the better error.
        if !Self::MODELS.contains(&model) {
            return Err(TextError::UnsupportedModel(excerpt(model)));
        }
        let is_sentence_piece = model == Self::SENTENCE_PIECE;
        let pre = metadata.str(PRE)?.unwrap_or("default");
        let tokens = metadata.strings(TOKENS)?.ok_or(TextError::MissingKey(TOKENS))?.to_vec();
        let in_vocabulary = |id: &u32| usize::try_from(*id).is_ok_and(|id| id < tokens.len());
        let optional = |key| -> Result<Option<u32>, TextError> { Ok(metadata.u32(key)?.filter(in_vocabulary)) };
        // SentencePiece's own ids, where the file names none.
        let usual = |id: u32| Some(id).filter(|id| is_sentence_piece && in_vocabulary(id));
        let bos = optional(BOS)?.or(usual(1));
        let mut extra_stops = Vec::new();
        for key in EXTRA_STOPS {
            extra_stops.extend(optional(key)?);
        }
        let add_bos = match metadata.bool(ADD_BOS)? {
            // Gemma 4 needs it, whatever its file says.
            _ if model == Self::GEMMA_4 => bos.is_some(),
            Some(add_bos) => add_bos,
            None => bos.is_some() && (is_sentence_piece || pre_tokenizer::adds_bos_by_default(pre)),
        };
        let scores = metadata.f32s(SCORES)?.unwrap_or_default();
        if is_sentence_piece && scores.is_empty() {
            return Err(TextError::MissingKey(SCORES));
        }
        Ok(Self {
            scores: if is_sentence_piece { scores } else { Vec::new() },
            token_types: metadata.i32s(TOKEN_TYPE)?.unwrap_or_default(),
            merges: match metadata.strings(MERGES)? {
                Some(merges) => merges.to_vec(),
                None if is_sentence_piece => Vec::new(),
                None => return Err(TextError::MissingKey(MERGES)),
            },
            bos,
            eos: optional(EOS)?.or(usual(2)),
            unknown: optional(UNKNOWN)?.or(usual(0)),
            extra_stops,
            add_bos,
            add_eos: metadata.bool(ADD_EOS)?.unwrap_or(false),
            add_space_prefix: is_sentence_piece && metadata.bool(ADD_SPACE_PREFIX)?.unwrap_or(true),
            model: model.to_owned(),
            pre: pre.to_owned(),
            tokens,
        })
    }

    /// Returns whether a file with byte-level BPE does not name its pre-tokenizer, so that `default` is assumed.
    pub fn assumes_pre_tokenizer(metadata: &Metadata) -> bool {
        matches!(metadata.str(MODEL), Ok(Some(Self::BYTE_LEVEL_BPE))) && matches!(metadata.str(PRE), Ok(None))
    }

    /// Returns the texts of the beginning-of-text and end-of-text tokens; empty if not defined or not in the
    /// vocabulary.
    pub(super) fn ends_from_metadata(metadata: &Metadata) -> Result<(&str, &str), TextError> {
        let tokens = metadata.strings(TOKENS)?.unwrap_or_default();
        let is_sentence_piece = metadata.str(MODEL)? == Some(Self::SENTENCE_PIECE);
        let text = |key, usual: u32| -> Result<&str, TextError> {
            let id = metadata.u32(key)?.or(is_sentence_piece.then_some(usual));
            let id = id.and_then(|id| usize::try_from(id).ok());
            Ok(id.and_then(|id| tokens.get(id)).map_or("", String::as_str))
        };
        Ok((text(BOS, 1)?, text(EOS, 2)?))
    }
}
