//! Kernels of mixture-of-experts blocks.

pub mod bucket;
pub mod router_topk;
pub mod weighted_sum;
