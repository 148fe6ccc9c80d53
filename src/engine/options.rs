//! The options of an engine.

use std::time::Duration;

use super::{EngineError, scheduler::StateLimits};
use crate::{
    gpu::{Caps, Device},
    kernels::KvType,
    model::{CacheShape, Config, DeviceProfile, KernelSelection, PlanOptions, Precision, Tuning, WindowPool},
};

/// The options of an [`Engine`](super::Engine). Those from `plan` on change how something is computed, but not the result.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct EngineOptions {
    /// The most tokens of a sequence. `None`: the model's own context, 4,096 at most.
    pub context: Option<u32>,
    /// The most tokens of all sequences together. `None`: `context`; with [`KvLayout::Contiguous`] always
    /// `sequences · context`.
    pub kv_tokens: Option<u32>,
    /// The storage type of the KV cache. `None`: f16 where the device supports it, else f32.
    pub kv_type: Option<KvType>,
    /// The layout of the KV cache.
    pub kv_layout: KvLayout,
    /// Sequences that run at once (the batch size); more wait for a slot.
    pub sequences: u32,
    /// The most prefill tokens of a step; a step that would last too long has fewer (chunked prefill).
    pub prefill_rows: u32,
    /// The most rows of logits of a step that [`Session::forward_each`](super::Session::forward_each) gets, and so the most
    /// tokens that it computes in one.
    pub max_logit_rows: u32,
    /// Sequences with a common prefix share its whole KV blocks.
    pub prefix_sharing: bool,
    /// Also share KV blocks filled during decode. Prefill and decode may reduce in different orders, so that output may then
    /// depend on what is in the cache.
    pub share_decode_blocks: bool,
    /// Snapshots that are kept of the states of gated delta nets, for prefixes to be shared and conversations to go on: a prefix
    /// can be continued from a snapshot only. Each has the bytes of a sequence's state. No other model has any.
    pub state_snapshots: u32,
    /// Tokens between snapshots, in whole KV blocks. A prompt has one at its last block besides, and so has its reply where KV
    /// blocks filled during decode are shared.
    pub snapshot_spacing: u32,
    /// The longest time that a submission should occupy the device's queue: longer steps are split into several submissions,
    /// and long dispatches into parts of their grids.
    pub max_submit: Duration,
    /// The choice of kernels.
    pub plan: PlanOptions,
    /// Tuning results of [`Engine::tune`](super::Engine::tune), which refine the selected kernels if they are of this device
    /// and model. They may change the reduction order.
    pub tuning: Tuning,
    /// Draft tokens of a sequence that a decode step computes at most (prompt lookup decoding): those that followed the last
    /// tokens, where these occur before. The tokens stay the same. 0: none. Requests with penalties, biases or a constraint
    /// have none, nor have models with sliding windows; the others are not pipelined.
    pub lookup: u32,
    /// A step is submitted before the tokens of the last one are read.
    pub pipelined: bool,
    /// Tokens are sampled on the host, from logits that are read back.
    pub host_sampling: bool,
    /// Stages are timed ([`Engine::profile`](super::Engine::profile)).
    pub profile: bool,
}

setters! {
    EngineOptions {
        kv_layout: KvLayout,
        sequences: u32,
        prefill_rows: u32,
        max_logit_rows: u32,
        prefix_sharing: bool,
        share_decode_blocks: bool,
        state_snapshots: u32,
        snapshot_spacing: u32,
        max_submit: Duration,
        plan: PlanOptions,
        tuning: Tuning,
        lookup: u32,
        pipelined: bool,
        host_sampling: bool,
        profile: bool,
    }
    optional {
        context: u32,
        kv_tokens: u32,
        kv_type: KvType,
    }
}

impl EngineOptions {
    /// Sets the numeric precision.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.plan.precision = precision;
        self
    }
}

/// The layout of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum KvLayout {
    /// In blocks that sequences take as they grow (PagedAttention).
    Paged {
        /// The tokens of a block.
        block: u32,
    },
    /// One block of the whole context for each sequence.
    Contiguous,
}

/// The most rows of a sequence that are computed in vain: behind a stop token, while its step is in flight.
const WASTED_ROWS: u32 = 2;
/// The most draft tokens of a step. Each has logits and, in hybrids, a state.
const MAX_LOOKUP: u32 = 64;

/// The longest default context: memory grows with it.
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
            max_logit_rows: 1,
            prefix_sharing: true,
            share_decode_blocks: false,
            // 500 MiB for Qwen3.6-35B-A3B, 2.5 % of its weights: eight conversations, four where replies have some, or one with 2,000 tokens.
            state_snapshots: 8,
            // Two prefill steps at most are computed again. Storing a state takes as long as reading 3 % of a token's weights.
            snapshot_spacing: 256,
            max_submit: Duration::from_millis(100),
            plan: PlanOptions::default(),
            tuning: Tuning::default(),
            lookup: 0,
            pipelined: true,
            host_sampling: false,
            profile: false,
        }
    }
}

impl EngineOptions {
    /// Returns the context for a model whose own is `longest`.
    ///
    /// # Errors
    /// [`EngineError::Context`] when it exceeds the model's.
    pub fn context_for(&self, longest: u32) -> Result<u32, EngineError> {
        match self.context {
            None => Ok(longest.min(DEFAULT_CONTEXT)),
            Some(asked) if asked == 0 || asked > longest => Err(EngineError::Context { asked, longest }),
            Some(asked) => Ok(asked),
        }
    }

    /// Returns the most rows of a decode step.
    pub(crate) fn decode_rows(&self) -> u32 {
        self.sequences.saturating_mul(1 + self.lookup.min(MAX_LOOKUP))
    }

    /// Returns the shape of the KV cache for a model, stored as `ty`.
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
            ("max_logit_rows", self.max_logit_rows),
            ("block", block),
        ];
        if let Some((option, _)) = zero.iter().find(|(_, value)| *value == 0) {
            return Err(EngineError::Option { option, value: "0".to_owned(), range: "at least 1" });
        }
        if self.lookup > MAX_LOOKUP {
            let (value, range) = (self.lookup.to_string(), "at most 64");
            return Err(EngineError::Option { option: "lookup", value, range });
        }
        let block = block.min(context);
        let blocks = match self.kv_layout {
            KvLayout::Paged { .. } => self.kv_tokens.unwrap_or(context).div_ceil(block).max(1),
            KvLayout::Contiguous => self.sequences,
        };
        let windowed = config.sliding.as_ref().map(|window| self.window_pool(window.size, block));
        let states = match config.delta_net {
            None => 0,
            Some(_) => StateLimits::slots(self.state_snapshots, self.sequences, self.lookup),
        };
        let windowed = windowed.filter(|windowed| windowed.blocks < blocks);
        Ok(CacheShape { context, block, blocks, windowed, slots: self.sequences, states, ty })
    }

    /// Returns the pool of layers with a window of `size` positions. It has the blocks that all running sequences need, of any
    /// length, and those of another window, for a prefix to be found.
    fn window_pool(&self, size: u32, block: u32) -> WindowPool {
        // Drafts are appended before they are accepted.
        let drafts = self.lookup.min(MAX_LOOKUP);
        let slack = WASTED_ROWS + drafts;
        let kept = (size.saturating_sub(1).saturating_add(slack + drafts)).div_ceil(block);
        // Each has three more: windows and rows need not begin with a block, and a shared block is copied.
        let running = self.sequences.saturating_mul(kept.saturating_add(3));
        let blocks = running.saturating_add(self.prefill_rows.div_ceil(block)).saturating_add(size.div_ceil(block));
        WindowPool { size, slack, blocks }
    }

    /// Returns the kernels on `device`, tuned.
    pub(crate) fn kernels_on(&self, device: &Device) -> KernelSelection {
        self.plan.selection_on(device).refined(&self.tuning, &DeviceProfile::new(device), self.plan.precision)
    }

    /// Returns the storage type of the cache on `device`.
    ///
    /// # Errors
    /// [`EngineError::KvType`] when the device does not support it.
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
