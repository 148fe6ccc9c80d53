//! Kernels of mixture-of-experts blocks.

pub mod combine;
pub mod router_topk;
pub mod sort;
