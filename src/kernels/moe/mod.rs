//! Kernels of mixture-of-experts blocks.

pub mod add_expert_bias;
pub mod combine;
pub mod router_topk;
pub mod sort;
