//! The tokenizer data of a file.

use super::error::TextError;
use super::pre_tokenizer;
use crate::gguf::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EXTRA_STOPS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// The raw data of a tokenizer, as stored in a GGUF file. [`Tokenizer::new`](super::Tokenizer::new) validates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// The kind of tokenizer; only `gpt2`, byte-level BPE, is supported.
    pub model: String,
    /// The pre-tokenizer: `qwen2`, `llama-bpe`, `default`, …
    pub pre: String,
    /// The tokens in order of their ids, in the byte-level alphabet.
    pub tokens: Vec<String>,
    /// The type of each token (1 normal, 3 control, 4 user-defined, …); empty if all are normal.
    pub token_types: Vec<i32>,
    /// The merges in order of priority: pairs of tokens separated by a space.
    pub merges: Vec<String>,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The end-of-text token.
    pub eos: Option<u32>,
    /// Further tokens that end a turn or a message.
    pub extra_stops: Vec<u32>,
    /// Whether a prompt starts with `bos`.
    pub add_bos: bool,
}

impl Vocabulary {
    /// Reads the tokenizer data from a file's metadata.
    ///
    /// # Errors
    ///
    /// If a value has the wrong type, if the tokenizer is not of the kind `gpt2`, or if tokens or merges are missing.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let model = metadata.str(MODEL)?.ok_or(TextError::MissingKey(MODEL))?;
        // Checked before the merges: other kinds have none, and the kind is the better error.
        if model != Self::BYTE_LEVEL_BPE {
            return Err(TextError::UnsupportedModel(super::error::excerpt(model)));
        }
        let pre = metadata.str(PRE)?.unwrap_or("default");
        let bos = metadata.u32(BOS)?;
        let mut extra_stops = Vec::new();
        for key in EXTRA_STOPS {
            extra_stops.extend(metadata.u32(key)?);
        }
        Ok(Self {
            tokens: metadata.strings(TOKENS)?.ok_or(TextError::MissingKey(TOKENS))?.to_vec(),
            token_types: metadata.i32s(TOKEN_TYPE)?.unwrap_or_default(),
            merges: metadata.strings(MERGES)?.ok_or(TextError::MissingKey(MERGES))?.to_vec(),
            bos,
            eos: metadata.u32(EOS)?,
            extra_stops,
            add_bos: match metadata.bool(ADD_BOS)? {
                Some(add_bos) => add_bos,
                None => bos.is_some() && pre_tokenizer::adds_bos_by_default(pre),
            },
            model: model.to_owned(),
            pre: pre.to_owned(),
        })
    }

    /// Returns the texts of the beginning-of-text and end-of-text tokens; empty if not defined or not in the
    /// vocabulary.
    pub(super) fn ends_from_metadata(metadata: &Metadata) -> Result<(&str, &str), TextError> {
        let tokens = metadata.strings(TOKENS)?.unwrap_or_default();
        let text = |key| -> Result<&str, TextError> {
            let id = metadata.u32(key)?.and_then(|id| usize::try_from(id).ok());
            Ok(id.and_then(|id| tokens.get(id)).map_or("", String::as_str))
        };
        Ok((text(BOS)?, text(EOS)?))
    }

    pub(super) const BYTE_LEVEL_BPE: &'static str = "gpt2";
}
