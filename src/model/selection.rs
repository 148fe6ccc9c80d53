//! Which kernels a number of rows is given to.

use super::Precision;
use crate::{
    gpu::{Device, Matrices},
    kernels::{
        attn::Exchange,
        linear::{ActivationType, Lanes, Mma, TileType, gemv_columns::Columns},
    },
};

/// The order of sums that the rows of a prompt have in products with weights. It is the same however many rows are computed
/// at once, so that what a row gives does not hang on how its prompt is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrefillMatmul {
    /// That of a single row: [`Gemv`](crate::kernels::linear::gemv::Gemv), and
    /// [`GemvColumns`](crate::kernels::linear::gemv_columns::GemvColumns) from [`KernelSelection::columns_rows`] on.
    Gemv,
    /// That of tiles: [`Gemm`](crate::kernels::linear::gemm::Gemm), experts always by buckets.
    Gemm,
}

/// The choice between orders of sums for prompts, and the borders between kernels of one order: these change speed, and
/// nothing else. What is multiplied is their third part: see [`Precision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelSelection {
    /// The order of a prompt's rows. Tokens that are generated have [`PrefillMatmul::Gemv`]'s.
    pub prefill: PrefillMatmul,
    /// From this many rows on, a matrix of [`PrefillMatmul::Gemv`] is multiplied by several rows at once rather than row by row.
    pub columns_rows: u32,
    /// From this many (token, expert) pairs for each expert on, experts of [`PrefillMatmul::Gemv`] are multiplied by several pairs
    /// of their buckets at once rather than pair by pair.
    pub bucket_pairs: u32,
    /// From this many rows of a matrix on, or pairs for each expert, [`Lanes::Rows`] has eight at once rather than four.
    pub eight_rows: u32,
    /// What invocations share out in products of [`PrefillMatmul::Gemv`]: its order of sums.
    pub lanes: Lanes,
    /// How invocations work together in attention: its order of sums.
    pub exchange: Exchange,
    /// What tiles hold in products of [`PrefillMatmul::Gemm`].
    pub tile: TileType,
    /// What multiplies these tiles: an order of sums too.
    pub mma: Mma,
    /// What activations are in products of [`PrefillMatmul::Gemv`]: where int8, rows are multiplied one by one, and matrices of floats
    /// as they always are.
    pub activations: ActivationType,
}

impl KernelSelection {
    /// Prompts by tiles: for GPUs, which are bound by memory row by row.
    pub const GPU: Self = Self {
        prefill: PrefillMatmul::Gemm,
        columns_rows: 2,
        bucket_pairs: 2,
        eight_rows: 5,
        lanes: Lanes::Units,
        exchange: Exchange::Memory,
        tile: TileType::F32,
        mma: Mma::Fma,
        activations: ActivationType::F32,
    };
    /// Prompts in columns: on processors workgroup memory is memory like any other, and tiles are copied for nothing.
    pub const SOFTWARE: Self = Self { prefill: PrefillMatmul::Gemv, ..Self::GPU };

    /// Those that suit `device`, as exact as `precision` asks, with cooperative matrices if they have been found to compute right
    /// ([`check_matrices`](crate::conformance::check_matrices), as a model's loading does). Software drivers compute fast as they
    /// compute exactly: halves are converted there by many instructions.
    pub fn of(device: &Device, precision: Precision) -> Self {
        match (device.is_software(), device.caps().min_subgroup_8) {
            (true, true) => return Self { lanes: Lanes::Rows, exchange: Exchange::Shuffle, ..Self::SOFTWARE },
            (true, false) => return Self::SOFTWARE,
            (false, _) => {}
        }
        let (tile, mma) = Self::product(precision, device.caps().f16, device.trusted_matrices());
        Self { tile, mma, ..Self::GPU }
    }

    /// What tiles hold, and what multiplies them.
    fn product(precision: Precision, f16: bool, matrices: Matrices) -> (TileType, Mma) {
        match precision {
            Precision::Fast if matrices.f16_16 => (TileType::F16, Mma::Matrices16),
            Precision::Fast if matrices.f16_8 => (TileType::F16, Mma::Matrices8),
            Precision::Fast if f16 && !matrices.f32_8 => (TileType::F16, Mma::Fma),
            Precision::Fast | Precision::Exact if matrices.f32_8 => (TileType::F32, Mma::Matrices8),
            Precision::Fast | Precision::Exact => (TileType::F32, Mma::Fma),
        }
    }

    pub(crate) fn int8(&self) -> bool {
        self.activations == ActivationType::Int8
    }

    /// How many rows with one of `matrices` are multiplied at once, where several are.
    pub(crate) fn columns(&self, rows: u32, matrices: u32) -> Columns {
        if self.lanes == Lanes::Rows && rows >= self.eight_rows.saturating_mul(matrices) {
            Columns::Eight
        } else {
            Columns::Four
        }
    }

    /// Numbers of tokens, each with `used` of `experts` (1 of 1 where there are none), from which on a pass is made of other
    /// kernels than one of fewer.
    pub(crate) fn borders(&self, used: u32, experts: u32) -> [u32; 4] {
        let tokens = |pairs: u32| pairs.saturating_mul(experts).div_ceil(used.max(1));
        [self.columns_rows, tokens(self.bucket_pairs), self.eight_rows, tokens(self.eight_rows)]
    }

    /// Whether prompts and drawn tokens have the same order of sums.
    pub(crate) fn one_order(&self) -> bool {
        self.prefill == PrefillMatmul::Gemv
    }
}
