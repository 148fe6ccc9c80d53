//! Qwen3-Next, Qwen3.5 and Qwen3.6: hybrids of gated delta nets and gated attention, which every fourth layer has. RoPE rotates
//! a part of a head; with positions of text alone, the multi-axis RoPE is the same.

use crate::model::{
    Config, QkNorm,
    config::{FeedForward, SharedExpert},
    keys::Keys,
};

/// Value heads that share a key head are neighbours.
pub(super) fn qwen3next(keys: &Keys<'_>, config: &mut Config) {
    hybrid(keys, config, true);
    config.feed_forward = experts(keys);
}

pub(super) fn qwen35moe(keys: &Keys<'_>, config: &mut Config) {
    hybrid(keys, config, false);
    config.feed_forward = experts(keys);
}

pub(super) fn qwen35(keys: &Keys<'_>, config: &mut Config) {
    hybrid(keys, config, false);
    config.feed_forward = keys.dense();
}

fn hybrid(keys: &Keys<'_>, config: &mut Config, neighbours: bool) {
    config.qk_norm = QkNorm::Head;
    config.attention_gate = true;
    config.ffn_norm = "post_attention_norm";
    config.delta_net = Some(keys.delta_net(config.layers, neighbours));
    config.scales.attention = keys.scale("attention.scale").unwrap_or(config.scales.attention);
}

fn experts(keys: &Keys<'_>) -> FeedForward {
    let inner =
        keys.optional_size("expert_shared_feed_forward_length").unwrap_or_else(|| keys.size("feed_forward_length"));
    match keys.experts("expert_feed_forward_length", true) {
        FeedForward::Experts { count, used, inner: expert, normalise, .. } => {
            let shared = Some(SharedExpert { inner, gated: true });
            FeedForward::Experts { count, used, inner: expert, normalise, shared }
        }
        dense @ FeedForward::Dense { .. } => dense,
    }
}
