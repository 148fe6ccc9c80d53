use crate::gpu::GpuError;

/// Why a session could not do what it was asked. It stays as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No token was given.
    #[error("there is no token to compute")]
    NoTokens,
    /// A token id is not in the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab: u32,
    },
    /// The sequence would be longer than the context.
    #[error("{needed} tokens do not fit in the context of {capacity}")]
    ContextFull {
        /// Tokens the sequence would have.
        needed: u64,
        /// Tokens it can have.
        capacity: u32,
    },
    /// A context of no tokens, or longer than the model computes right.
    #[error("a context of {asked} tokens is not possible with this model: 1 to {longest}")]
    Context {
        /// What was asked for.
        asked: u32,
        /// The model's own.
        longest: u32,
    },
    /// The device cannot keep a KV cache of this format.
    #[error("{device} has no f16 arithmetic for an f16 KV cache; f32 works")]
    KvType {
        /// The device's name.
        device: String,
    },
    /// An option is out of range.
    #[error("{option} cannot be {value}: it must be {range}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it can be.
        range: &'static str,
    },
    /// A logit is not a number: the weights or the driver are broken.
    #[error("the model's output is not a number")]
    NotANumber,
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}
