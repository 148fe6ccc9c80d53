//! Granite: Llama with scaled embeddings, residuals, scores and logits, and perhaps a shared expert.

use crate::model::{
    Config,
    config::{FeedForward, LayerPattern, Scales, SharedExpert},
    keys::Keys,
};

pub(super) fn granite(keys: &Keys<'_>, config: &mut Config) {
    granitemoe(keys, config);
    if keys.bool("rope.scaling.finetuned") == Some(false) {
        config.no_rope = LayerPattern::All;
    }
}

pub(super) fn granitemoe(keys: &Keys<'_>, config: &mut Config) {
    config.rope.interleaved = true;
    config.feed_forward = keys.dense_or_experts(true);
    if let FeedForward::Experts { shared, .. } = &mut config.feed_forward {
        *shared =
            keys.optional_size("expert_shared_feed_forward_length").map(|inner| SharedExpert { inner, gated: false });
    }
    config.scales = Scales {
        embedding: keys.scale("embedding_scale").unwrap_or(1.0),
        residual: keys.scale("residual_scale").unwrap_or(1.0),
        attention: keys.scale("attention.scale").unwrap_or(config.scales.attention),
        // The key's number is a divisor.
        logits: 1.0 / keys.scale("logit_scale").unwrap_or(1.0),
    };
}
