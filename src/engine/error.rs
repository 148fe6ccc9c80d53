use std::sync::Arc;

use crate::{gpu::GpuError, model::ModelError};

/// An error of an engine or a session. Sessions are unchanged by a call that fails.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The input has no tokens.
    #[error("the input has no tokens")]
    NoTokens,
    /// A token id is not in the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab} tokens")]
    TokenId {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab: u32,
    },
    /// The sequence would exceed the context.
    #[error("{needed} tokens do not fit in the context of {capacity} tokens")]
    ContextFull {
        /// The tokens needed.
        needed: u64,
        /// The context size.
        capacity: u32,
    },
    /// The sequence needs more blocks than the KV cache has in total.
    #[error("the sequence needs {needed} KV cache blocks, but the cache has only {blocks}")]
    NeverFits {
        /// The blocks needed.
        needed: u64,
        /// The blocks of the KV cache.
        blocks: u32,
    },
    /// All blocks of the KV cache are in use, and no sequence can proceed. Dropping or truncating a session frees
    /// blocks.
    #[error("the KV cache is full: {needed} blocks are needed, but only {free} are free")]
    PoolFull {
        /// The blocks needed.
        needed: u32,
        /// The free blocks.
        free: u32,
    },
    /// The context size is 0 or exceeds the model's.
    #[error("context size {asked} is out of range for this model: must be from 1 to {longest} tokens")]
    Context {
        /// The context size requested.
        asked: u32,
        /// The model's context size.
        longest: u32,
    },
    /// The device does not support this KV cache type.
    #[error("{device} does not support an f16 KV cache (no f16 conversion); use f32")]
    KvType {
        /// The device's name.
        device: String,
    },
    /// The model does not fit into the memory budget, even with the fewest experts on the device.
    #[error(
        "the model does not fit: it needs at least {needed} bytes of memory, but the budget is {budget}: {} bytes short",
        needed.saturating_sub(*budget)
    )]
    DoesNotFit {
        /// The minimum in bytes.
        needed: u64,
        /// The budget in bytes.
        budget: u64,
    },
    /// A layer's states of gated delta nets share a binding, which the device limits.
    #[error(
        "{needed} states of sequences, drafts and snapshots are needed, but a binding of this device holds {most}: \
         lower `sequences` or `state_snapshots`"
    )]
    States {
        /// The states needed.
        needed: u32,
        /// The most that the device can bind.
        most: u64,
    },
    /// An option is out of range.
    #[error("{option} = {value} is out of range: must be {range}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: String,
        /// The valid values.
        range: &'static str,
    },
    /// A logit is NaN or infinite: the weights or the driver are faulty.
    #[error("the model's output is not a finite number")]
    NotANumber,
    /// The constraint of a reply failed, or the sampled token violates it.
    #[error("the constraint of the reply failed: {0}")]
    Constraint(String),
    /// The session already has a request in progress.
    #[error("the session already has a request in progress")]
    Busy,
    /// The session has no request.
    #[error("the session has no request")]
    NoRequest,
    /// [`Session::forward_by`](super::Session::forward_by) finds no free slot or blocks beside other sequences.
    #[error("no free batch slot or KV cache blocks: other sessions use them all")]
    NoFreeSlot,
    /// The request was lost with its device, and the engine has recovered on another one. It can be repeated.
    #[error("the request was lost with its device; the engine has recovered and it can be repeated")]
    DeviceLost,
    /// Another engine uses the model's expert cache. A model with expert offloading serves one engine at a time.
    #[error("the model is loaded with expert offloading and another engine uses its expert cache")]
    ExpertCacheInUse,
    /// The file passed to [`Engine::recover`](super::Engine::recover) is a different model.
    #[error("the file is not the model that the engine was created with")]
    OtherModel,
    /// The model is invalid or not supported.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// The device failed.
    #[error(transparent)]
    Gpu(Arc<GpuError>),
}

impl EngineError {
    /// Returns whether the device is lost: every request fails until [`Engine::recover`](super::Engine::recover).
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
