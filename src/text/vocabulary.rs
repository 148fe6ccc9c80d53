//! What a file says about its tokenizer.

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

/// A tokenizer's raw parts, as a GGUF file lists them; [`Tokenizer::new`](super::Tokenizer::new) checks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// The kind of tokenizer; only `gpt2`, byte-level BPE, is supported.
    pub model: String,
    /// How text is split into words before BPE: `qwen2`, `llama-bpe`, `default`, …
    pub pre: String,
    /// The tokens in the order of their ids, written in the byte-level alphabet.
    pub tokens: Vec<String>,
    /// The type of every token (1 normal, 3 control, 4 user-defined, …); empty when all are normal.
    pub token_types: Vec<i32>,
    /// Pairs of tokens, with a space between, in the order in which they are to be merged.
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text or a turn.
    pub eos: Option<u32>,
    /// Further tokens that end a turn or a message.
    pub extra_stops: Vec<u32>,
    /// Whether a prompt is to begin with `bos`.
    pub add_bos: bool,
}

impl Vocabulary {
    /// Collects the parts from a file's metadata.
    ///
    /// # Errors
    ///
    /// If a value has the wrong type, if the tokenizer is not of the kind `gpt2`, or if its tokens or merges are absent.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let model = metadata.str(MODEL)?.ok_or(TextError::MissingKey(MODEL))?;
        // Before the merges are asked for: other kinds have none, and the kind is the better reason.
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

    /// The texts of the tokens that begin and end a text, empty where the file names none or one that does not exist.
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
