//! Element-wise and row-wise kernels.

pub mod add_rows;
pub mod copy_rows;
pub mod fused_add_rms_norm;
pub mod gated_activation;
pub mod rms_norm;

/// Invocations of a workgroup of these kernels.
const WG: u32 = 256;
