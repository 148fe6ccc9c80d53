//! Which kernels a number of rows is given to.

use crate::gpu::Device;

/// Borders between kernels for few rows and for many. They change speed and the order of sums, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiers {
    /// From this many rows on, a matrix is multiplied by tiles rather than row by row.
    pub gemm_rows: u32,
    /// From this many (token, expert) pairs for each expert on, experts are multiplied by tiles of their buckets rather
    /// than pair by pair.
    pub bucket_pairs: u32,
}

impl Tiers {
    /// Tiles wherever they can be filled: for GPUs, which are bound by memory row by row.
    pub const GPU: Self = Self { gemm_rows: 8, bucket_pairs: 4 };
    /// Row by row always: on processors workgroup memory is memory like any other, and tiles are copied for nothing.
    pub const SOFTWARE: Self = Self { gemm_rows: u32::MAX, bucket_pairs: u32::MAX };

    /// Those that suit `device`.
    pub fn of(device: &Device) -> Self {
        if device.is_software() { Self::SOFTWARE } else { Self::GPU }
    }
}
