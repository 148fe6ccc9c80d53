use super::{DownProj, KernelSelection, NormPlacement, PrefillMatmul};
use crate::{
    kernels::{
        attn::can_fuse_rope,
        linear::{
            Split,
            gemm::{self, TileRows},
            gemv_batched,
        },
    },
    model::{Config, FeedForward, Phase},
};

/// The kind of kernel that multiplies rows with a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MatmulKind {
    /// Row by row.
    Gemv,
    /// Several rows at once, with a GEMV's order of sums.
    GemvBatched,
    /// By tiles, with an order of sums of its own.
    Gemm(TileRows),
}

impl MatmulKind {
    /// Returns the rows of a tile.
    pub fn tile_rows(self) -> u32 {
        match self {
            Self::Gemv => 1,
            Self::GemvBatched => gemv_batched::TILE_ROWS,
            Self::Gemm(tile) => tile.count(),
        }
    }

    /// Returns the workgroups that a product of expert tiles with a matrix of `n` rows has side by side.
    pub(crate) fn grid_width(self, n: u32, split: Split) -> u32 {
        match self {
            // Rows have no tiles.
            Self::Gemv => 0,
            Self::GemvBatched => n.div_ceil(gemv_batched::tile(split)),
            Self::Gemm(_) => n.div_ceil(gemm::TILE_N),
        }
    }
}

/// The kernels of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AttentionKind {
    /// One workgroup for all keys of a tile of queries, after RoPE and the KV append (FlashAttention-2).
    Attention,
    /// The keys split over workgroups, and a reduction (Flash-Decoding), after RoPE and the KV append.
    SplitKv,
    /// RoPE, the KV append and attention in one.
    FusedRope,
    /// RoPE, the KV append and attention over keys that are split over workgroups in one, and a reduction.
    FusedRopeSplitKv,
}

impl AttentionKind {
    /// Returns whether keys are split over workgroups.
    pub fn splits_kv(self) -> bool {
        matches!(self, Self::SplitKv | Self::FusedRopeSplitKv)
    }
}

/// The shape of a pass, as far as kernels depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PassShape {
    /// Prefill or decode.
    pub phase: Phase,
    /// Tokens.
    pub rows: u32,
    /// Chunks of [`CHUNK`](crate::kernels::attn::CHUNK) positions of the longest context.
    pub chunks: u32,
    /// Rows of logits.
    pub logit_rows: u32,
    /// Decode: sequences may have several rows, of draft tokens.
    pub drafts: bool,
}

/// The kernels of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PassKernels {
    /// Products of all rows with one matrix.
    pub dense: MatmulKind,
    /// Products of (token, expert) assignments with their experts' matrices; of dense models as `dense`.
    pub experts: MatmulKind,
    /// The logits.
    pub head: MatmulKind,
    /// Attention.
    pub attention: AttentionKind,
    /// The norm before attention.
    pub attn_norm: NormPlacement,
    /// The norm before the feed-forward block.
    pub ffn_norm: NormPlacement,
    /// The sum of the experts' outputs.
    pub down_proj: DownProj,
}

impl KernelSelection {
    /// Returns the kernels of a pass of a model.
    pub fn pass(&self, config: &Config, pass: PassShape) -> PassKernels {
        let PassShape { phase, rows, chunks, logit_rows, drafts } = pass;
        let dense = self.matmul(phase, rows, 1, self.batched_from);
        let experts = match config.feed_forward {
            FeedForward::Dense { .. } => dense,
            FeedForward::Experts { count, used, .. } => {
                let from = self.expert_batched_from.saturating_mul(count);
                self.matmul(phase, rows.saturating_mul(used), count, from)
            }
        };
        let fits = config.hidden < self.norm_in_gemv_below && !self.int8();
        // Only a GEMV has the prologue.
        let norm = |by_gemv: bool| if fits && by_gemv { NormPlacement::InGemv } else { NormPlacement::Separate };
        let [by_gemv, experts_by_gemv] = [dense, experts].map(|kind| kind == MatmulKind::Gemv);
        PassKernels {
            dense,
            experts,
            // Prompts have few rows of logits, with decode's order of sums.
            head: self.matmul(Phase::Decode, logit_rows, 1, self.batched_from),
            attention: self.attention(config, phase, chunks, drafts),
            attn_norm: norm(by_gemv),
            // The router is multiplied with what the experts are.
            ffn_norm: norm(by_gemv && experts_by_gemv),
            down_proj: if experts_by_gemv && !self.int8() { self.down_proj } else { DownProj::Separate },
        }
    }

    /// Returns the kernel for `rows` with some of `matrices`, of which a GEMV has several at once `from` a number on.
    fn matmul(&self, phase: Phase, rows: u32, matrices: u32, from: u32) -> MatmulKind {
        match (phase, self.prefill) {
            (Phase::Prefill, PrefillMatmul::Gemm) => {
                // Tiles that are mostly empty gain nothing by being larger.
                let fills = rows / matrices.max(1) > TileRows::ThirtyTwo.count();
                let available = TileRows::available(self.mma).contains(&self.tile_rows);
                MatmulKind::Gemm(if fills && available { self.tile_rows } else { TileRows::ThirtyTwo })
            }
            _ if self.int8() || rows < from => MatmulKind::Gemv,
            _ => MatmulKind::GemvBatched,
        }
    }

    fn attention(&self, config: &Config, phase: Phase, chunks: u32, drafts: bool) -> AttentionKind {
        // A prompt has rows enough to fill a device, and rows of one sequence see each other's keys.
        if phase == Phase::Prefill {
            return AttentionKind::Attention;
        }
        // Sinks are in attention from query heads only. A fused kernel has no keys of other rows of the pass.
        let fused = self.fused_rope
            && !drafts
            && !config.sinks
            && can_fuse_rope(config.head_dim, config.heads / config.kv_heads, self.reduction);
        match (fused, chunks >= self.split_kv_from) {
            (false, false) => AttentionKind::Attention,
            (false, true) => AttentionKind::SplitKv,
            (true, false) => AttentionKind::FusedRope,
            (true, true) => AttentionKind::FusedRopeSplitKv,
        }
    }

    /// Returns the numbers of tokens from which on a pass of `config` has other kernels than one of fewer: of each kernel one
    /// that has it is compiled in advance.
    pub fn thresholds(&self, config: &Config) -> [u32; 2] {
        let (used, experts) = match config.feed_forward {
            FeedForward::Dense { .. } => (1, 1),
            FeedForward::Experts { count, used, .. } => (used, count),
        };
        let tokens = |assignments: u32| assignments.saturating_mul(experts).div_ceil(used.max(1));
        [self.batched_from, tokens(self.expert_batched_from)]
    }
}
