//! Every kernel, each a file here and one of the same name below `wgsl/`.
//!
//! A file declares the kernel once: parameters, bindings, variants, grid, CPU twin and test cases.

pub mod attn;
pub mod elementwise;
pub mod linear;
pub mod moe;
pub mod sample;

use crate::gpu::{Caps, Fragment, Kernel, Source, wgsl};

/// Something that is done for every kernel.
pub trait Visitor {
    /// Does it for one.
    fn visit<K: Kernel>(&mut self, kernel: K);
}

macro_rules! registry {
    ($($kernel:expr),* $(,)?) => {
        /// Shows every kernel to `visitor`.
        pub fn visit(visitor: &mut impl Visitor) {
            $(visitor.visit($kernel);)*
        }
    };
}

registry![
    linear::embed::Embed,
    linear::gemv::Gemv,
    linear::gemv_columns::GemvColumns,
    linear::gemm::Gemm,
    elementwise::rms_norm::RmsNorm,
    elementwise::silu_mul::SiluMul,
    elementwise::fused_add_rms_norm::FusedAddRmsNorm,
    elementwise::add_rows::AddRows,
    elementwise::copy_rows::CopyRows,
    attn::qkv_to_cache::QkvToCache,
    attn::attention::Attention,
    attn::attention_part::AttentionPart,
    attn::attention_merge::AttentionMerge,
    attn::split_qkv::SplitQkv,
    attn::qk_norm_rope::QkNormRope,
    attn::split_qkv_norm_rope::SplitQkvNormRope,
    attn::kv_cache_append::KvCacheAppend,
    attn::transpose_heads::TransposeHeads,
    attn::copy_blocks::CopyBlocks,
    moe::router_topk::RouterTopk,
    moe::bucket::Bucket,
    moe::weighted_sum::WeightedSum,
    sample::philox::Philox,
    sample::penalties::Penalties,
    sample::argmax::Argmax,
    sample::top_k::TopK,
    sample::draw::Draw,
];

/// The `reduce` slot: how sums and maxima over a workgroup are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// By a tree in workgroup memory: on every device, and in the same order.
    Shared,
    /// By subgroups, then in their order.
    Subgroup,
}

impl Reduce {
    /// Those a device can take, the quickest last.
    pub(crate) fn available(caps: &Caps) -> &'static [Self] {
        if caps.subgroups { &[Self::Shared, Self::Subgroup] } else { &[Self::Shared] }
    }

    /// The quickest that a device can take.
    pub fn best(caps: &Caps) -> Self {
        if caps.subgroups { Self::Subgroup } else { Self::Shared }
    }

    /// Fills the slot.
    pub(crate) fn fill(self, source: Source) -> Source {
        match self {
            Self::Shared => source.with(wgsl!("reduce/shared.wgsl")),
            Self::Subgroup => source.subgroups(true).with(wgsl!("reduce/subgroup.wgsl")),
        }
    }
}

/// How the elements of a KV cache are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE halves, two in a word.
    #[default]
    F16,
    /// f32.
    F32,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::F16, Self::F32];

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// Its name, as the command line takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Those a device can keep: halves need its `pack2x16float`.
    pub(crate) fn available(caps: &Caps) -> impl Iterator<Item = Self> {
        let halves = caps.pack_f16;
        Self::ALL.into_iter().filter(move |kv| *kv == Self::F32 || halves)
    }

    pub(crate) fn load(self) -> Fragment {
        match self {
            Self::F16 => wgsl!("kv/f16.wgsl"),
            Self::F32 => wgsl!("kv/f32.wgsl"),
        }
    }

    pub(crate) fn store(self) -> Fragment {
        match self {
            Self::F16 => wgsl!("kv/f16_store.wgsl"),
            Self::F32 => wgsl!("kv/f32_store.wgsl"),
        }
    }

    /// Elements `2 * pair` and `2 * pair + 1` of a cache.
    pub(crate) fn read(self, words: &[u32], pair: usize) -> [f32; 2] {
        match self {
            Self::F16 => {
                let word = words[pair];
                [word as u16, (word >> 16) as u16].map(|bits| half::f16::from_bits(bits).to_f32())
            }
            Self::F32 => [words[2 * pair], words[2 * pair + 1]].map(f32::from_bits),
        }
    }

    /// Stores elements `2 * pair` and `2 * pair + 1`, rounded to the nearest, the largest half being the limit.
    pub(crate) fn write(self, words: &mut [u32], pair: usize, value: [f32; 2]) {
        match self {
            Self::F16 => {
                let [lo, hi] = value.map(|v| u32::from(half::f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits()));
                words[pair] = lo | hi << 16;
            }
            Self::F32 => words[2 * pair..2 * pair + 2].copy_from_slice(&value.map(f32::to_bits)),
        }
    }
}
