//! OLMoE: QK-norm over whole projections, and the experts' weights as softmax over all gives them.

use crate::model::{Config, QkNorm, keys::Keys};

pub(super) fn olmoe(keys: &Keys<'_>, config: &mut Config) {
    config.qk_norm = QkNorm::Projection;
    config.feed_forward = keys.experts("feed_forward_length", false);
}
