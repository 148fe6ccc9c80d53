//! Kernels that work element by element or row by row.

pub mod add_rows;
pub mod copy_rows;
pub mod fused_add_rms_norm;
pub mod rms_norm;
pub mod silu_mul;

/// Invocations of a workgroup of the element-wise kernels.
const WG: u32 = 256;
