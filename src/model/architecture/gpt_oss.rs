//! gpt-oss: attention sinks, a sliding window on every other layer, biases everywhere, a clamped SwiGLU.

use crate::model::{
    Activation, Config,
    config::{LayerPattern, Rope, SlidingWindow},
    keys::Keys,
};

pub(super) fn gpt_oss(keys: &Keys<'_>, config: &mut Config) {
    config.sinks = true;
    config.activation = Activation::SwiGluOai;
    config.ffn_norm = "post_attention_norm";
    // Softmax over the chosen experts.
    config.feed_forward = keys.experts("expert_feed_forward_length", true);
    let rope = Rope { theta: keys.positive("rope.freq_base_swa").unwrap_or(config.rope.theta), ..config.rope };
    config.sliding = keys.optional_size("attention.sliding_window").map(|size| SlidingWindow {
        size,
        layers: keys.window_pattern(LayerPattern::AllButLast { period: 2 }),
        rope,
    });
}
