//! Every kernel, each a file here and one of the same name below `wgsl/`.
//!
//! A file declares the kernel once: parameters, bindings, variants, grid, CPU kernel and test cases.

pub mod attn;
pub mod delta_net;
pub mod elementwise;
mod kv_type;
pub mod linear;
pub mod moe;
pub mod sample;
mod self_test;
pub(crate) mod trial;

pub use kv_type::KvType;
pub use self_test::check_device;

use crate::gpu::Kernel;

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
    linear::gemv_batched::GemvBatched,
    linear::gemv_moe_combine::GemvMoeCombine,
    linear::gemm::Gemm,
    linear::quantise::Quantise,
    linear::gemv_q8::GemvQ8,
    elementwise::rms_norm::RmsNorm,
    elementwise::gated_activation::GatedActivation,
    elementwise::fused_add_rms_norm::FusedAddRmsNorm,
    elementwise::add_rows::AddRows,
    elementwise::copy_rows::CopyRows,
    attn::rope_kv_append::RopeKvAppend,
    attn::attention::Attention,
    attn::attention_split_kv::AttentionSplitKv,
    attn::attention_reduce::AttentionReduce,
    attn::rope_attention::RopeAttention,
    attn::rope_attention_split_kv::RopeAttentionSplitKv,
    attn::split_qkv::SplitQkv,
    attn::qk_norm_rope::QkNormRope,
    attn::split_qkv_norm_rope::SplitQkvNormRope,
    attn::kv_cache_append::KvCacheAppend,
    attn::transpose_heads::TransposeHeads,
    attn::copy_blocks::CopyBlocks,
    attn::query_temperature::QueryTemperature,
    delta_net::causal_conv::CausalConv,
    delta_net::conv_window::ConvWindow,
    delta_net::gated_delta_rule::GatedDeltaRule,
    delta_net::gated_rms_norm::GatedRmsNorm,
    moe::router_topk::RouterTopk,
    moe::sort::MoeSort,
    moe::combine::MoeCombine,
    moe::add_expert_bias::AddExpertBias,
    sample::philox::Philox,
    sample::penalties::Penalties,
    sample::argmax::Argmax,
    sample::top_k::TopK,
    sample::draw::Draw,
];
