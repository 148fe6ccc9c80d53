//! What can go wrong between text and tokens.

use thiserror::Error;

use crate::gguf::GgufError;

/// Why a tokenizer or a chat template was refused, or why a text could not be encoded, decoded or rendered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TextError {
    /// A metadata value has the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// The file lacks a key that the tokenizer needs.
    #[error("the file has no '{0}', so it carries no usable tokenizer")]
    MissingKey(&'static str),
    /// The tokenizer is of a kind that this crate does not implement.
    #[error("tokenizer model '{0}' is not supported (supported: gpt2, the byte-level BPE)")]
    UnsupportedModel(String),
    /// The text is to be split in a way that this crate does not implement.
    #[error("pre-tokenizer '{name}' is not supported (supported: {supported})")]
    UnsupportedPreTokenizer {
        /// The name in the file.
        name: String,
        /// The names that would have been accepted.
        supported: String,
    },
    /// The vocabulary has no tokens.
    #[error("the vocabulary is empty")]
    EmptyVocabulary,
    /// The vocabulary has more tokens than an id can number.
    #[error("the vocabulary has too many tokens: {0}")]
    VocabularyTooLarge(usize),
    /// Two tokens have the same text.
    #[error("tokens {first} and {second} of the vocabulary are both '{text}'")]
    DuplicateToken {
        /// The lower of the two ids.
        first: u32,
        /// The higher of the two ids.
        second: u32,
        /// The text they share.
        text: String,
    },
    /// The list of token types does not fit the list of tokens.
    #[error("{types} token types are given for {tokens} tokens")]
    TokenTypeCount {
        /// How many tokens there are.
        tokens: usize,
        /// How many types there are.
        types: usize,
    },
    /// A special token's id is not in the vocabulary.
    #[error("the {role} token is {id}, but the vocabulary has {vocab_size} tokens")]
    SpecialIdOutOfRange {
        /// What the id is for.
        role: &'static str,
        /// The id.
        id: u32,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// The file asks for a beginning-of-text token and names none.
    #[error("'tokenizer.ggml.add_bos_token' is set, but no 'tokenizer.ggml.bos_token_id' is given")]
    MissingBos,
    /// A merge is not two tokens with a space between.
    #[error("merge {rank}, '{merge}', is not two tokens with one space between")]
    MalformedMerge {
        /// The merge's place in the list.
        rank: usize,
        /// The merge.
        merge: String,
    },
    /// A merge takes or makes a token that does not exist.
    #[error("merge {rank} needs the token '{token}', which is not in the vocabulary")]
    MergeOutOfVocabulary {
        /// The merge's place in the list.
        rank: usize,
        /// The absent token.
        token: String,
    },
    /// The special tokens are too many or too long to be searched for.
    #[error("the special tokens cannot be searched for: {0}")]
    SpecialTokens(String),
    /// The text has a byte that the vocabulary has no token for.
    #[error("the vocabulary has no token for the byte 0x{0:02x}")]
    MissingByte(u8),
    /// A token id is not in the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// The library that merges tokens failed.
    #[error("tokenizer failure: {0}")]
    Tokenizer(String),
    /// The file has no chat template.
    #[error("the file has no chat template ('tokenizer.chat_template')")]
    NoTemplate,
    /// The chat template is longer than any honest one.
    #[error("the chat template has {0} bytes, which is too many")]
    TemplateTooLarge(usize),
    /// The chat template is not valid Jinja.
    #[error("the chat template is malformed: {0}")]
    TemplateSyntax(String),
    /// The chat template refused the conversation by calling `raise_exception`.
    #[error("the chat template refused the conversation: {0}")]
    TemplateRaised(String),
    /// The chat template used more time or memory than a conversation of this size can need.
    #[error("the chat template ran past its limit of work")]
    TemplateLimit,
    /// The chat template failed while it ran.
    #[error("the chat template failed: {0}")]
    TemplateFailed(String),
}

/// The start of a text from a file, fit for one line of an error message whatever the file holds.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
