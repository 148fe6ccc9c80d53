//! Which kernels a number of rows is given to.

use crate::{
    gpu::Device,
    kernels::{attn::Exchange, linear::Lanes},
};

/// The order of sums that the rows of a prompt have in products with weights. It is the same however many rows are computed
/// at once, so that what a row gives does not hang on how its prompt is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// That of a single row: [`Gemv`](crate::kernels::linear::gemv::Gemv), and
    /// [`GemvColumns`](crate::kernels::linear::gemv_columns::GemvColumns) from [`Tiers::columns_rows`] on.
    Gemv,
    /// That of tiles: [`Gemm`](crate::kernels::linear::gemm::Gemm), experts always by buckets.
    Gemm,
}

/// The choice between orders of sums for prompts, and the borders between kernels of one order: these change speed, and
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiers {
    /// The order of a prompt's rows. Tokens that are generated have [`Product::Gemv`]'s.
    pub prefill: Product,
    /// From this many rows on, a matrix of [`Product::Gemv`] is multiplied by several rows at once rather than row by row.
    pub columns_rows: u32,
    /// From this many (token, expert) pairs for each expert on, experts of [`Product::Gemv`] are multiplied by several pairs
    /// of their buckets at once rather than pair by pair.
    pub bucket_pairs: u32,
    /// What invocations share out in products of [`Product::Gemv`]: its order of sums.
    pub lanes: Lanes,
    /// How invocations work together in attention: its order of sums.
    pub exchange: Exchange,
}

impl Tiers {
    /// Prompts by tiles: for GPUs, which are bound by memory row by row.
    pub const GPU: Self = Self {
        prefill: Product::Gemm,
        columns_rows: 2,
        bucket_pairs: 2,
        lanes: Lanes::Units,
        exchange: Exchange::Memory,
    };
    /// Prompts in columns: on processors workgroup memory is memory like any other, and tiles are copied for nothing.
    pub const SOFTWARE: Self = Self { prefill: Product::Gemv, ..Self::GPU };

    /// Those that suit `device`.
    pub fn of(device: &Device) -> Self {
        match (device.is_software(), device.caps().shuffles) {
            (true, true) => Self { lanes: Lanes::Rows, exchange: Exchange::Shuffle, ..Self::SOFTWARE },
            (true, false) => Self::SOFTWARE,
            (false, _) => Self::GPU,
        }
    }

    /// Whether prompts and drawn tokens have the same order of sums.
    pub(crate) fn one_order(&self) -> bool {
        self.prefill == Product::Gemv
    }
}
