//! What of a model fits into a device's memory.

use super::{Engine, EngineError, EngineOptions};
use crate::{
    gguf::Gguf,
    kernels::KvType,
    model::{Config, MemoryPlan},
};

/// An engine that fits into some memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Its options: those that were asked for, with a context and a KV cache that fit.
    pub options: EngineOptions,
    /// Its memory. Where [`MemoryPlan::slots`] says so, the model must be loaded with
    /// [`Model::load_offloaded`](crate::model::Model::load_offloaded).
    pub memory: MemoryPlan,
}

/// Below this many tokens a context is of little use: experts are paged first.
const USEFUL_CONTEXT: u32 = 4096;
/// The shortest context that is tried.
const SHORTEST_CONTEXT: u32 = 512;

impl Engine {
    /// The engine for `gguf` with these options that `budget` bytes of device memory have room for: what does not fit of the
    /// experts is paged. `kv_type`: how the cache is stored unless the options say it.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`] when that is not enough; those of [`Engine::memory`].
    pub fn within(gguf: &Gguf, options: &EngineOptions, kv_type: KvType, budget: u64) -> Result<Fit, EngineError> {
        let memory = Self::memory(gguf, options, options.kv_type.unwrap_or(kv_type))?;
        let (needed, options) = (memory.least(), options.clone());
        let memory = memory.within(budget).ok_or(EngineError::DoesNotFit { needed, budget })?;
        Ok(Fit { options, memory })
    }

    /// The best engine for `gguf` that `budget` bytes of device memory have room for. What the options leave open is chosen,
    /// in this order: the longest context of which the model is capable, halved down to 4,096 tokens until all weights fit;
    /// then a KV cache in q8_0; then as many experts as there is room for, the others being paged; then shorter contexts.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`] when nothing does; those of [`Engine::memory`].
    pub fn fit(gguf: &Gguf, options: &EngineOptions, kv_type: KvType, budget: u64) -> Result<Fit, EngineError> {
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
            Self::within(gguf, &options, ty, budget)
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
        // Where experts are paged, every byte is theirs.
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
