//! Kernels that work element by element or row by row.

pub mod add_bias;
pub mod rms_norm;
pub mod silu_mul;

/// Invocations of a workgroup of the element-wise kernels.
const WG: u32 = 256;
