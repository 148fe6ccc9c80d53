//! How an engine is made.

use std::time::Duration;

use super::EngineError;
use crate::{
    gpu::{Caps, Device},
    kernels::KvType,
    model::{CacheShape, Config, DeviceProfile, KernelSelection, PlanOptions, Tuning},
};

/// How an [`Engine`](super::Engine) is made. Those from `plan` on change how something is computed, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Tokens of the longest sequence. `None`: the model's own context, 4,096 at most.
    pub context: Option<u32>,
    /// Tokens that all sequences together have room for. `None`: as many as the longest has; with
    /// [`KvLayout::Contiguous`] always as many as `sequences` of the longest have.
    pub kv_tokens: Option<u32>,
    /// How the KV cache is stored. `None`: f16 where the device can, else f32.
    pub kv_type: Option<KvType>,
    /// How the KV cache is laid out.
    pub kv_layout: KvLayout,
    /// Sequences that are computed at once; more wait for their turn.
    pub sequences: u32,
    /// The most tokens of prompts that are computed in a step; fewer are taken where a step would last too long.
    pub prefill_rows: u32,
    /// Tokens whose logits are kept at a time by [`Session::forward_each`](super::Session::forward_each): it computes no
    /// more in a step.
    pub logit_rows: u32,
    /// Sequences with a common prefix share its whole blocks.
    pub prefix_sharing: bool,
    /// Blocks may be shared though their rows' sums were taken in another order than a prompt's are: what a sequence says
    /// may then depend on what was said before it.
    pub order_crossing: bool,
    /// The longest time that a submission should hold the device's queue: longer steps are sent in parts, and what is too long
    /// by itself in pieces.
    pub max_submit: Duration,
    /// Which kernels a pass is made of.
    pub plan: PlanOptions,
    /// Measured choices, which refine the selected kernels if they are of this device and model.
    /// [`Engine::tune`](super::Engine::tune) measures. They may change the order of sums.
    pub tuning: Tuning,
    /// A step is submitted before the tokens of the last are read.
    pub run_ahead: bool,
    /// Tokens are drawn by the host, from logits that are read back.
    pub host_sampling: bool,
    /// Stages are timed: see [`Engine::profile`](super::Engine::profile).
    pub profile: bool,
}

/// How a KV cache is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvLayout {
    /// In blocks of so many tokens, which sequences take as they grow.
    Paged {
        /// Tokens of a block.
        block: u32,
    },
    /// Each sequence has room for the whole context from the start.
    Contiguous,
}

/// The longest context that is taken by itself: memory grows with it.
const DEFAULT_CONTEXT: u32 = 4096;

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context: None,
            kv_tokens: None,
            kv_type: None,
            kv_layout: KvLayout::Paged { block: 32 },
            sequences: 1,
            prefill_rows: 128,
            logit_rows: 1,
            prefix_sharing: true,
            order_crossing: false,
            max_submit: Duration::from_millis(100),
            plan: PlanOptions::default(),
            tuning: Tuning::default(),
            run_ahead: true,
            host_sampling: false,
            profile: false,
        }
    }
}

impl EngineOptions {
    /// The context that a model of `longest` tokens gets.
    ///
    /// # Errors
    /// [`EngineError::Context`] when it is more than the model has.
    pub fn context_for(&self, longest: u32) -> Result<u32, EngineError> {
        match self.context {
            None => Ok(longest.min(DEFAULT_CONTEXT)),
            Some(asked) if asked == 0 || asked > longest => Err(EngineError::Context { asked, longest }),
            Some(asked) => Ok(asked),
        }
    }

    /// The KV cache for a model on a device that `can_f16` or cannot keep halves.
    ///
    /// # Errors
    /// [`EngineError::Context`]; [`EngineError::Option`] for sizes of zero.
    pub(crate) fn cache(&self, config: &Config, ty: KvType) -> Result<CacheShape, EngineError> {
        let context = self.context_for(config.context_length)?;
        let block = match self.kv_layout {
            KvLayout::Paged { block } => block,
            KvLayout::Contiguous => context,
        };
        let zero = [
            ("sequences", self.sequences),
            ("prefill_rows", self.prefill_rows),
            ("logit_rows", self.logit_rows),
            ("block", block),
        ];
        if let Some((option, _)) = zero.iter().find(|(_, value)| *value == 0) {
            return Err(EngineError::Option { option, value: "0".to_owned(), range: "at least 1" });
        }
        let block = block.min(context);
        let blocks = match self.kv_layout {
            KvLayout::Paged { .. } => self.kv_tokens.unwrap_or(context).div_ceil(block).max(1),
            KvLayout::Contiguous => self.sequences,
        };
        Ok(CacheShape { context, block, blocks, slots: self.sequences, ty })
    }

    /// Returns the kernels on `device`, tuned.
    pub(crate) fn kernels_on(&self, device: &Device) -> KernelSelection {
        self.plan.selection_on(device).refined(&self.tuning, &DeviceProfile::new(device), self.plan.precision)
    }

    /// How the cache is stored on `device`, which can do `caps`.
    ///
    /// # Errors
    /// [`EngineError::KvType`] when it cannot be.
    pub(crate) fn kv_type_on(&self, device: &str, caps: &Caps) -> Result<KvType, EngineError> {
        let can_f16 = caps.pack_f16;
        match self.kv_type {
            Some(KvType::F16) if !can_f16 => Err(EngineError::KvType { device: device.to_owned() }),
            Some(ty) => Ok(ty),
            None if can_f16 => Ok(KvType::F16),
            None => Ok(KvType::F32),
        }
    }
}
