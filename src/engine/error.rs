use std::sync::Arc;

use super::scheduler::Refusal;
use crate::{gpu::GpuError, model::ModelError};

/// Why a session could not do what it was asked. It stays as it was before the call, and so do all others.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// The sequence would need more blocks than the KV cache has.
    #[error("{needed} blocks are needed, of a KV cache of {blocks}")]
    NeverFits {
        /// Blocks that the sequence would need.
        needed: u64,
        /// All blocks.
        blocks: u32,
    },
    /// The sequences hold all blocks of the KV cache, and none of them goes on: when one is dropped or truncated, there is
    /// room again.
    #[error("the KV cache is full: {needed} blocks are needed, {free} are free")]
    PoolFull {
        /// Blocks that were needed.
        needed: u32,
        /// Blocks that were free.
        free: u32,
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
    /// The model does not fit into a budget of memory, not even with as few experts as a token uses.
    #[error("the model does not fit: it needs {} bytes of memory at least, {budget} are given: {} are missing", needed, needed.saturating_sub(*budget))]
    DoesNotFit {
        /// The least that it needs, in bytes.
        needed: u64,
        /// What there is.
        budget: u64,
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
    /// The sequence has a request under way.
    #[error("the sequence has a request under way")]
    Busy,
    /// The sequence has no request of which there could be news.
    #[error("the sequence has no request")]
    NoRequest,
    /// [`Session::forward_by`](super::Session::forward_by) finds no place or no blocks beside other sequences.
    #[error("other sequences have all places or blocks")]
    NoPlace,
    /// The engine has gone on with another device meanwhile: the request can be made again.
    #[error("what the device had computed is lost; the engine has another")]
    DeviceLost,
    /// Another engine has the model's experts: one that is paged serves one engine at a time.
    #[error("the model is paged, and another engine has its experts")]
    ExpertCacheInUse,
    /// A file to recover from is another model's.
    #[error("the file is not the model that the engine was made for")]
    OtherModel,
    /// The file is no model that can be run.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// The device failed.
    #[error(transparent)]
    Gpu(Arc<GpuError>),
}

impl EngineError {
    /// Whether the device is lost, so that every request fails until [`Engine::recover`](super::Engine::recover).
    pub fn needs_recovery(&self) -> bool {
        matches!(self, Self::Gpu(error) if error.is_loss())
    }
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> Self {
        Self::Gpu(Arc::new(error))
    }
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Gpu(error) => error.into(),
            error => Self::Model(Arc::new(error)),
        }
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoTokens => Self::NoTokens,
            Refusal::Unknown => Self::NoRequest,
            Refusal::Busy => Self::Busy,
            Refusal::Context { needed, capacity } => Self::ContextFull { needed, capacity },
            Refusal::Pool { needed, blocks } => Self::NeverFits { needed, blocks },
        }
    }
}
