//! Qwen2 and Qwen3: RoPE of the pairs `(i, i + head_dim/2)`. With positions of text alone, the multi-axis RoPE of
//! Qwen3-VL is the same.

use crate::model::{
    Config, QkNorm,
    config::{FeedForward, SharedExpert},
    keys::Keys,
};

pub(super) fn qwen2(keys: &Keys<'_>, config: &mut Config) {
    config.feed_forward = keys.dense();
}

pub(super) fn qwen2moe(keys: &Keys<'_>, config: &mut Config) {
    let inner =
        keys.optional_size("expert_shared_feed_forward_length").unwrap_or_else(|| keys.size("feed_forward_length"));
    config.feed_forward = match keys.experts("expert_feed_forward_length", false) {
        FeedForward::Experts { count, used, inner: expert, normalise, .. } => {
            let shared = Some(SharedExpert { inner, gated: true });
            FeedForward::Experts { count, used, inner: expert, normalise, shared }
        }
        dense @ FeedForward::Dense { .. } => dense,
    };
}

pub(super) fn qwen3(keys: &Keys<'_>, config: &mut Config) {
    config.qk_norm = QkNorm::Head;
    config.feed_forward = keys.dense();
}

pub(super) fn qwen3moe(keys: &Keys<'_>, config: &mut Config) {
    config.qk_norm = QkNorm::Head;
    config.feed_forward = keys.experts("expert_feed_forward_length", keys.bool("expert_weights_norm").unwrap_or(true));
}
