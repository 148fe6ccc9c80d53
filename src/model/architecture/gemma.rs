//! Gemma 3: embeddings times √hidden, norms before and after both blocks, QK-norm, a GELU gate, and a sliding window with
//! frequencies of its own on five layers of six.

use crate::model::{
    Activation, Config, QkNorm,
    config::{LayerPattern, Rope, SlidingWindow},
    keys::Keys,
};

/// The layers of Gemma 3 27B, whose scores are scaled by the size of a head in `hidden / heads`.
const LAYERS_OF_27B: u32 = 62;

pub(super) fn gemma3(keys: &Keys<'_>, config: &mut Config) {
    keys.refuse("final_logit_softcapping", &[0.0], "soft capping of logits");
    config.qk_norm = QkNorm::Head;
    config.post_norms = true;
    config.activation = Activation::GeGlu;
    config.scales.embedding = f64::from(config.hidden).sqrt();
    if config.layers == LAYERS_OF_27B {
        config.scales.attention = 1.0 / f64::from(config.hidden / config.heads.max(1)).sqrt();
    }
    config.feed_forward = keys.dense();
    // Frequencies are scaled on layers without a window only.
    let rope =
        Rope { theta: keys.positive("rope.freq_base_swa").unwrap_or(10_000.0), factor: 1.0, yarn: None, ..config.rope };
    config.sliding = keys.optional_size("attention.sliding_window").map(|size| SlidingWindow {
        size,
        layers: keys.window_pattern(LayerPattern::AllButLast { period: 6 }),
        rope,
    });
}
