//! Planning of an engine for the memory of a device.

use super::{Engine, EngineError, EngineOptions};
use crate::{
    gguf::Gguf,
    kernels::KvType,
    model::{Config, MemoryPlan},
};

/// The plan of an engine that fits into some memory.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fit {
    /// Its options: the given ones, with a context and a KV cache that fit.
    pub options: EngineOptions,
    /// Its memory. If [`MemoryPlan::slots`] is `Some`, the model must be loaded with
    /// [`Model::load_offloaded`](crate::model::Model::load_offloaded).
    pub memory: MemoryPlan,
}

impl Fit {
    /// Combines options with the memory they need.
    pub fn new(options: EngineOptions, memory: MemoryPlan) -> Self {
        Self { options, memory }
    }
}

/// Shorter contexts are of little use: experts are offloaded first.
const USEFUL_CONTEXT: u32 = 4096;
/// The shortest context to try.
const SHORTEST_CONTEXT: u32 = 512;

impl Engine {
    /// Plans an engine for `gguf` with these options in `budget` bytes of device memory: experts that do not fit are offloaded.
    /// `kv_type` is the default storage type of the KV cache.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`] when it does not fit in any case; those of [`Engine::memory`].
    pub fn plan_within(gguf: &Gguf, options: &EngineOptions, kv_type: KvType, budget: u64) -> Result<Fit, EngineError> {
        let memory = Self::memory(gguf, options, options.kv_type.unwrap_or(kv_type))?;
        let (needed, options) = (memory.least(), options.clone());
        let memory = memory.within(budget).ok_or(EngineError::DoesNotFit { needed, budget })?;
        Ok(Fit { options, memory })
    }

    /// Plans the best engine for `gguf` in `budget` bytes of device memory. It chooses what the options leave open, in this
    /// order: the model's own context, halved down to 4,096 tokens until all weights fit; then a KV cache in q8_0; then expert
    /// offloading, with as many experts on the device as fit; then shorter contexts.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`] when none fits; those of [`Engine::memory`].
    pub fn plan_best(gguf: &Gguf, options: &EngineOptions, kv_type: KvType, budget: u64) -> Result<Fit, EngineError> {
        let longest = Config::from_gguf(gguf)?.context_length;
        let contexts = match options.context {
            Some(context) => vec![context],
            None => std::iter::successors(Some(longest), |context| Some(context / 2))
                .take_while(|context| *context >= SHORTEST_CONTEXT.min(longest))
                .collect(),
        };
        let types = match options.kv_type {
            Some(ty) => vec![ty],
            None => vec![kv_type, KvType::Q8_0],
        };
        let (useful, short): (Vec<u32>, Vec<u32>) =
            contexts.iter().partition(|context| options.context.is_some() || **context >= USEFUL_CONTEXT.min(longest));
        let with = |context: u32, ty: KvType| {
            let options = EngineOptions { context: Some(context), kv_type: Some(ty), ..options.clone() };
            Self::plan_within(gguf, &options, ty, budget)
        };
        let each = |contexts: &[u32]| -> Vec<(u32, KvType)> {
            types.iter().flat_map(|ty| contexts.iter().map(|context| (*context, *ty))).collect()
        };
        for (context, ty) in each(&useful) {
            match with(context, ty) {
                Ok(fit) if fit.memory.slots().is_none() => return Ok(fit),
                Ok(_) | Err(EngineError::DoesNotFit { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // With offloading, all other memory goes to experts.
        let (shortest, smallest) =
            (useful.last().copied().unwrap_or(longest), types.last().copied().unwrap_or(kv_type));
        let mut error = None;
        for context in std::iter::once(shortest).chain(short) {
            match with(context, smallest) {
                Ok(fit) => return Ok(fit),
                Err(failed) => error = Some(failed),
            }
        }
        Err(error.unwrap_or(EngineError::DoesNotFit { needed: u64::MAX, budget }))
    }
}
