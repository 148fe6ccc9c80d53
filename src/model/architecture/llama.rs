//! Llama and what has its structure: RoPE of the pairs `(2i, 2i + 1)`, no QK-norm.

use crate::model::{
    Config,
    config::{LayerPattern, QueryTemperature},
    keys::Keys,
};

pub(super) fn llama(keys: &Keys<'_>, config: &mut Config) {
    config.rope.interleaved = true;
    // Softmax over the chosen experts alone is softmax over all, normalised.
    config.feed_forward = keys.dense_or_experts(true);
}

pub(super) fn mistral3(keys: &Keys<'_>, config: &mut Config) {
    llama(keys, config);
    let slope = keys.f64("attention.temperature_scale").unwrap_or(0.0);
    if slope != 0.0 {
        let length = keys.optional_size("rope.scaling.original_context_length").unwrap_or(config.context_length);
        config.query_temperature = Some(QueryTemperature { slope, length });
    }
}

pub(super) fn smollm3(keys: &Keys<'_>, config: &mut Config) {
    config.rope.interleaved = true;
    config.feed_forward = keys.dense();
    config.no_rope = LayerPattern::Last { period: 4 };
}
