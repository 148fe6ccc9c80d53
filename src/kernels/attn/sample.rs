//! Which head sizes and formats the attention kernels list, and the sample of them that the conformance suite runs.

use super::{Reduction, RopeVariant, attention, can_fuse_rope};
use crate::{gpu::Caps, kernels::KvType};

/// The head sizes that are listed: one that is no multiple of eight, a small one, and those of published models. A plan
/// may have any multiple of four up to [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM); only constants differ.
const HEAD_DIMS: [u32; 9] = [20, 32, 64, 80, 96, 112, 128, 192, 256];

/// The head sizes that are listed with gates: those of the models of tests/it, and Qwen3.5's.
const GATED_HEAD_DIMS: [u32; 3] = [64, 128, 256];

/// QK-norm and pairing of RoPE as the architectures have them: Qwen3's, Llama's (interleaved), and Qwen2's.
pub(super) const ROPES: [(bool, bool); 3] = [(true, false), (false, true), (false, false)];

/// Returns every variant of attention over a cache.
pub(super) fn attentions(caps: &Caps) -> Vec<attention::Variant> {
    let mut all = Vec::new();
    for kv in KvType::available(caps) {
        for reduction in Reduction::available(caps) {
            all.extend(HEAD_DIMS.map(|head_dim| attention::Variant {
                head_dim,
                kv,
                reduction: *reduction,
                sinks: false,
                gated: false,
            }));
        }
    }
    all
}

/// Returns every variant of single-pass attention: with sinks too, which gpt-oss has with heads of 64, and with gates, which
/// Qwen3.5 has with heads of 256.
pub(super) fn single_passes(caps: &Caps) -> Vec<attention::Variant> {
    let plain = attentions(caps);
    let sinks: Vec<_> = plain
        .iter()
        .filter(|v| matches!(v.head_dim, 64 | 128))
        .map(|v| attention::Variant { sinks: true, ..*v })
        .collect();
    let gated: Vec<_> = plain
        .iter()
        .filter(|v| GATED_HEAD_DIMS.contains(&v.head_dim))
        .map(|v| attention::Variant { gated: true, ..*v })
        .collect();
    plain.into_iter().chain(sinks).chain(gated).collect()
}

/// Returns every variant of single-pass attention from projections: with gates too, which go with QK-norm.
pub(super) fn rope_single_passes(caps: &Caps) -> Vec<RopeVariant> {
    let plain = rope_attentions(caps);
    let with_gates = |v: &&RopeVariant| v.norm && GATED_HEAD_DIMS.contains(&v.attention.head_dim);
    let gate = |v: &RopeVariant| RopeVariant { attention: attention::Variant { gated: true, ..v.attention }, ..*v };
    let gated: Vec<_> = plain.iter().filter(with_gates).map(gate).collect();
    plain.into_iter().chain(gated).collect()
}

/// Returns every variant of attention from projections.
pub(super) fn rope_attentions(caps: &Caps) -> Vec<RopeVariant> {
    let of = |attention: attention::Variant| {
        ROPES.map(move |(norm, interleaved)| RopeVariant { attention, norm, interleaved })
    };
    let fused = attentions(caps).into_iter().filter(|v| can_fuse_rope(v.head_dim, 1, v.reduction));
    fused.flat_map(of).collect()
}

/// Returns whether the suite runs a variant of single-pass attention:
/// - heads of 64 and 128, as most models have them, with every format and reduction;
/// - heads of 64 with sinks, as gpt-oss has them, with the formats of its tests and every reduction;
/// - heads of 64 and 256 with gates, as Qwen3.5 and its test models have them, with their formats and every reduction;
/// - heads of 80, which is no power of two, with the default format and every reduction;
/// - other sizes with the default format and the reduction of GPUs.
pub(super) fn runs_attention(caps: &Caps, v: attention::Variant) -> bool {
    match v.head_dim {
        _ if v.gated => runs_gated(v),
        64 if v.sinks => v.kv != KvType::Q8_0,
        64 => true,
        128 => !v.sinks,
        80 => is_default(caps, v.kv),
        _ => is_default(caps, v.kv) && v.reduction == Reduction::SharedMemory,
    }
}

/// Returns whether the suite runs a variant of split-KV attention from queries. Plans have it where RoPE cannot be fused, and
/// in passes with draft tokens:
/// - heads of 64, 128 and 256 with every format and reduction;
/// - heads of 80, which is no power of two, with the default format and every reduction;
/// - heads that are too large to fuse, or no multiple of eight, with the default format and the reduction of GPUs.
pub(super) fn runs_attention_split_kv(caps: &Caps, v: attention::Variant) -> bool {
    let (is_default, shared) = (is_default(caps, v.kv), v.reduction == Reduction::SharedMemory);
    match v.head_dim {
        64 | 128 | 256 => true,
        80 => is_default,
        head_dim => is_default && shared && !can_fuse_rope(head_dim, 1, v.reduction),
    }
}

/// Returns whether the suite runs a variant of split-KV attention from projections: what the plans of the models of
/// tests/it/coverage.rs record, and a size that is no power of two.
/// - Llama-3.2-1B's and SmolLM2's heads, and those of 128, with every format and reduction;
/// - heads of 64 with a norm, as other models of tests/it have them, with their formats and every reduction;
/// - Qwen3.5's heads of 256 with every format and reduction;
/// - Llama's with heads of 80, which is no power of two, with the default format and every reduction;
/// - of Qwen2's kind, those of tests/it, and heads of 128 with the default format.
pub(super) fn runs_rope_attention_split_kv(caps: &Caps, v: RopeVariant) -> bool {
    if is_qwen2(v) {
        return match v.attention.head_dim {
            64 => v.attention.kv != KvType::Q8_0,
            128 => is_default(caps, v.attention.kv),
            _ => false,
        };
    }
    match (v.attention.head_dim, v.norm) {
        (64, false) | (128, _) => true,
        (64, true) => v.attention.kv != KvType::Q8_0,
        (256, true) => true,
        (80, false) => is_default(caps, v.attention.kv),
        _ => false,
    }
}

/// Returns whether the suite runs a variant of single-pass attention from projections: those of
/// [`runs_rope_attention_split_kv`], and the other sizes of Qwen3's and Llama's kinds with the default format and the first reduction that can fuse
/// them.
pub(super) fn runs_rope_attention(caps: &Caps, v: RopeVariant) -> bool {
    let attention::Variant { head_dim, kv, reduction, .. } = v.attention;
    let first = Reduction::ALL.into_iter().find(|reduction| can_fuse_rope(head_dim, 1, *reduction));
    let other = !matches!(head_dim, 64 | 128);
    if v.attention.gated {
        return runs_gated(v.attention);
    }
    let usual = head_dim != 256 || is_default(caps, kv);
    (usual && runs_rope_attention_split_kv(caps, v))
        || (other && !is_qwen2(v) && is_default(caps, kv) && first == Some(reduction))
}

/// Returns whether the suite runs a variant with gates.
fn runs_gated(v: attention::Variant) -> bool {
    match v.head_dim {
        64 => v.kv != KvType::Q8_0,
        256 => true,
        _ => false,
    }
}

/// Returns whether RoPE pairs halves of a head without a norm, as Qwen2's does.
fn is_qwen2(v: RopeVariant) -> bool {
    !v.norm && !v.interleaved
}

/// Returns whether a device keeps its cache as `kv` unless it is told otherwise.
fn is_default(caps: &Caps, kv: KvType) -> bool {
    KvType::available(caps).next() == Some(kv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gpu::Kernel,
        kernels::attn::{
            attention::Attention, attention_split_kv::AttentionSplitKv, heads::TEST_SHAPES,
            rope_attention::RopeAttention, rope_attention_split_kv::RopeAttentionSplitKv,
        },
    };

    #[test]
    fn published_head_sizes_are_decoded_and_prefilled_with_and_without_norm() {
        let caps = Caps { software_subgroup_8: true, subgroups: true, ..Caps::portable() };
        for head_dim in [64, 96, 112, 128, 192, 256] {
            let attention = Attention::covered(&caps);
            assert!(attention.iter().any(|v| v.head_dim == head_dim), "prefill of {head_dim}");
            assert!(TEST_SHAPES.iter().any(|shape| shape.head_dim == head_dim), "cases of {head_dim}");
            for rope in [(true, false), (false, true)] {
                let decoded = RopeAttention::covered(&caps);
                let mut decoded = decoded.iter().filter(|v| v.attention.head_dim == head_dim);
                assert!(decoded.any(|v| (v.norm, v.interleaved) == rope), "decode of {head_dim}, {rope:?}");
            }
        }
    }

    #[test]
    fn the_sample_is_part_of_what_is_listed_and_small() {
        for software_subgroup_8 in [false, true] {
            for pack_f16 in [false, true] {
                let caps = Caps { pack_f16, software_subgroup_8, subgroups: software_subgroup_8, ..Caps::portable() };
                let (queries, projections) = (single_passes(&caps), rope_single_passes(&caps));
                let [attention, split] = [Attention::covered(&caps), AttentionSplitKv::covered(&caps)];
                let [rope, rope_split] = [RopeAttention::covered(&caps), RopeAttentionSplitKv::covered(&caps)];
                assert!(attention.iter().chain(&split).all(|v| queries.contains(v)));
                assert!(rope.iter().chain(&rope_split).all(|v| projections.contains(v)));
                let count = [attention.len(), split.len(), rope.len(), rope_split.len()];
                assert!(count.iter().sum::<usize>() <= 214, "{count:?}");
            }
        }
    }
}
