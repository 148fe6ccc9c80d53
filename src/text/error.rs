//! Errors of tokenizers and chat templates.

use thiserror::Error;

use crate::gguf::GgufError;

/// An error from building or using a tokenizer or a chat template.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum TextError {
    /// A metadata value has the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// The metadata lacks a key that the tokenizer needs.
    #[error("the file has no usable tokenizer: metadata key {0} is missing")]
    MissingKey(&'static str),
    /// The kind of tokenizer is not supported.
    #[error(
        "tokenizer model '{0}' is not supported (supported: gpt2, which is byte-level BPE; llama, which is SentencePiece; and gemma4)"
    )]
    UnsupportedModel(String),
    /// The pre-tokenizer is not supported.
    #[error("pre-tokenizer '{name}' is not supported (supported: {supported})")]
    UnsupportedPreTokenizer {
        /// The name in the file.
        name: String,
        /// The supported names.
        supported: String,
    },
    /// The vocabulary is empty.
    #[error("the vocabulary is empty")]
    EmptyVocabulary,
    /// The vocabulary has more than 2³² − 1 tokens.
    #[error("the vocabulary has too many tokens: {0}")]
    VocabularyTooLarge(usize),
    /// Two tokens have the same text.
    #[error("tokens {first} and {second} of the vocabulary are both '{text}'")]
    DuplicateToken {
        /// The lower of the two ids.
        first: u32,
        /// The higher of the two ids.
        second: u32,
        /// Their text.
        text: String,
    },
    /// The numbers of token types and tokens differ.
    #[error("the file has {types} token types for {tokens} tokens")]
    TokenTypeCount {
        /// How many tokens there are.
        tokens: usize,
        /// How many types there are.
        types: usize,
    },
    /// The numbers of scores and tokens differ.
    #[error("the file has {scores} scores for {tokens} tokens")]
    ScoreCount {
        /// How many tokens there are.
        tokens: usize,
        /// How many scores there are.
        scores: usize,
    },
    /// A special token's id is not in the vocabulary.
    #[error("the {role} token is {id}, but the vocabulary has {vocab_size} tokens")]
    SpecialIdOutOfRange {
        /// The token's role.
        role: &'static str,
        /// The id.
        id: u32,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// The file requires a beginning-of-text token but defines none.
    #[error("tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing")]
    MissingBos,
    /// A merge is not two tokens separated by a space.
    #[error("merge {rank}, '{merge}', is not two tokens separated by one space")]
    MalformedMerge {
        /// The merge's place in the list.
        rank: usize,
        /// The merge.
        merge: String,
    },
    /// An input or the result of a merge is not in the vocabulary.
    #[error("merge {rank} needs the token '{token}', which is not in the vocabulary")]
    MergeOutOfVocabulary {
        /// The merge's place in the list.
        rank: usize,
        /// The missing token.
        token: String,
    },
    /// No matcher could be built for the special tokens.
    #[error("cannot build a matcher for the special tokens: {0}")]
    SpecialTokens(String),
    /// The vocabulary has no token for a byte of the text.
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
    /// The `tokenizers` crate failed.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A text is not valid JSON.
    #[error("invalid JSON: {0}")]
    Json(String),
    /// The file has no chat template.
    #[error("the file has no chat template (metadata key tokenizer.chat_template)")]
    NoTemplate,
    /// The file has no chat template of this name.
    #[error("the file has no chat template '{name}'{}", listed(.others))]
    NoNamedTemplate {
        /// The name.
        name: String,
        /// The names of the file's templates; empty without any.
        others: String,
    },
    /// The chat template leaves out the text of the last message.
    #[error("the chat template leaves out the text of the last message")]
    TemplateDropsMessage,
    /// The chat template exceeds the size limit.
    #[error("the chat template is too long: {0} bytes (allowed: 65536)")]
    TemplateTooLarge(usize),
    /// The chat template is not valid Jinja.
    #[error("the chat template is malformed: {0}")]
    TemplateSyntax(String),
    /// The chat template rejected the conversation with `raise_exception`.
    #[error("the chat template rejected the conversation: {0}")]
    TemplateRaised(String),
    /// The chat template exceeded its limit of time or memory.
    #[error("the chat template exceeded its work limit")]
    TemplateLimit,
    /// The chat template failed to render.
    #[error("the chat template failed: {0}")]
    TemplateFailed(String),
}

/// Returns the start of a text from a file, escaped for use in a one-line message.
pub(super) fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns the names of a file's templates in brackets, if it has any.
fn listed(others: &str) -> String {
    if others.is_empty() { String::new() } else { format!(" (it has: {others})") }
}
