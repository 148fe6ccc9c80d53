//! The choice of kernels: the only place where it is made.
//!
//! [`KernelSelection::select`] is a function of a [`DeviceProfile`] and a [`Precision`]; [`KernelSelection::pass`] applies it to
//! a model's shape, a phase and a number of rows. Each branch has its reason and figure beside it: docs/PERF.md has the
//! figures of software drivers; those of GPU compilers are instruction and register counts, not times.
//! [`KernelSelection::refined`] applies what autotuning has measured.
//!
//! Within one selection results are bitwise reproducible, and a sequence's do not depend on the batch that it is computed in.
//! Two selections may differ in the order of sums.

mod device;
mod known;
mod pass;
mod precision;
mod tuning;

pub use device::{DeviceClass, DeviceProfile};
pub use pass::{AttentionKind, MatmulKind, PassKernels, PassShape};
pub use precision::Precision;
pub use tuning::{Tuning, TuningChoice, TuningKey};

use crate::{
    gpu::Matrices,
    kernels::{
        attn::{Reduction, Tiles},
        linear::{ActivationType, Mma, RowsPerGroup, Split, TileType, gemm::TileRows},
    },
};

/// How prefill multiplies with weights: one order of sums however a prompt is cut into passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PrefillMatmul {
    /// As decode does, so that blocks of the KV cache can be shared between prompts and generated tokens.
    Gemv,
    /// [`Gemm`](crate::kernels::linear::gemm::Gemm), experts always by expert tiles.
    Gemm,
}

/// Where an RMS norm before matrix products is computed. Both have the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum NormPlacement {
    /// In the prologue of each GEMV: a dispatch less, computed by every workgroup.
    InGemv,
    /// By a dispatch of its own.
    Separate,
}

/// How decode adds the experts' outputs. Both have the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum DownProj {
    /// The down projection of all of a token's experts and their weighted sum are one dispatch.
    Combined,
    /// A GEMV for all (token, expert) assignments, then a dispatch for the weighted sum.
    Separate,
}

/// Where the grids of matrix products over expert tiles come from. Both compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ExpertGrids {
    /// From the host: for the most tiles that there can be.
    Direct,
    /// From the device, which has counted the tiles.
    Indirect,
}

/// The kernels of a device and the thresholds between them. Plain data: compare, hash and keep it.
///
/// `prefill`, `split`, `reduction`, `tile`, `mma` and `activations` decide the order of sums; all else is speed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KernelSelection {
    /// How prefill multiplies. Decode always has [`PrefillMatmul::Gemv`]'s order of sums.
    pub prefill: PrefillMatmul,
    /// How a GEMV shares out its work over a subgroup.
    pub split: Split,
    /// How attention's invocations exchange queries, scores and sums.
    pub reduction: Reduction,
    /// The type of GEMM's tiles.
    pub tile: TileType,
    /// What multiplies these tiles.
    pub mma: Mma,
    /// The type of activations in GEMVs. With int8, rows are multiplied one by one, and matrices of floats as ever.
    pub activations: ActivationType,
    /// Rows of GEMM's tiles, for products that fill them. Cooperative matrices of 8 have 32.
    pub tile_rows: TileRows,
    /// From this many rows on, a matrix is multiplied with several rows at once rather than row by row.
    pub batched_from: u32,
    /// From this many assignments for each expert on, experts are multiplied with several of them at once.
    pub expert_batched_from: u32,
    /// From this many workgroups of a token on, a GEMV has a weight row for each group of eight lanes rather than for four.
    pub one_row_from: u32,
    /// From this many workgroups of a token on, a GEMV has four weight rows for each group of eight lanes rather than one.
    pub four_rows_from: u32,
    /// Models with a smaller hidden size have [`NormPlacement::InGemv`] in decode.
    pub norm_in_gemv_below: u32,
    /// How decode adds the experts' outputs.
    pub down_proj: DownProj,
    /// Whether decode computes RoPE and the KV append in the attention kernel, for heads that fit.
    pub fused_rope: bool,
    /// From this many chunks of the longest context on, decode splits attention over workgroups (Flash-Decoding).
    pub split_kv_from: u32,
    /// From this many workgroups of all query heads of a key head on, [`AttentionKind::SplitKv`] has them in one tile rather
    /// than in tiles of two. Both have the same bits.
    pub full_tiles_from: u32,
    /// Where the grids over expert tiles come from.
    pub expert_grids: ExpertGrids,
}

impl KernelSelection {
    /// A discrete GPU without cooperative matrices.
    pub const GPU: Self = Self {
        // Row by row a GPU reads all weights for each row of a prompt; a tile reads them once for 32.
        prefill: PrefillMatmul::Gemm,
        // Neighbours load neighbouring memory: all loads are 128 bits wide on AMD and Intel.
        split: Split::K,
        reduction: Reduction::SharedMemory,
        tile: TileType::F32,
        mma: Mma::Fma,
        // Int8 has 2.1 vector instructions a weight for 3.8 on RDNA3, 2.8 for 5.3 on Arc, but one row waits for memory, and
        // conversions are dispatches: a token takes longer (modelled, docs/GPUS.md). Its error is 3e-3 nats.
        activations: ActivationType::F32,
        // 64 rows decode weights half as often with 1.5 times the registers: measured by tuning.
        tile_rows: TileRows::ThirtyTwo,
        // Weights are read once for eight rows. Two take 6.0 instructions a weight at once, 7.5 one by one (RDNA3).
        batched_from: 2,
        expert_batched_from: 2,
        // A GEMV lasts as long as a lane's loads, one after the other, if its bytes take less: 0.4 µs for 8 blocks of a row on
        // a 7900 XTX and a 4090, 0.7 on an A770 (modelled). The bytes of 2,700 rows of Q4_K take as long on all three.
        one_row_from: 340,
        // As many rows of four each take 0.7 to 1.2 µs: 4,500 to 6,100 rows. Twice that for a device's all schedulers.
        four_rows_from: 384,
        // The prologue reads the row before the first weight, in 8 dependent loads of 2,048 values, and adds 17 % to a GEMV's
        // instructions with four rows, 59 % with one: 0 to 2 µs of a GEMV for the 3 to 6 of a dispatch and its kernel. Weights
        // take 2.10 ms for 2.00 on a 7900 XTX so, the token 3.44 for 3.48; of Llama-3.1-8B 4.90 for 4.81, and 5.40 for 5.51
        // (modelled).
        norm_in_gemv_below: u32::MAX,
        // Eight experts in series are 24 dependent loads: 10.7 µs for 7.0 on a 4090 (modelled). The dispatch of the sum also
        // norms the next layer's input.
        down_proj: DownProj::Separate,
        // A dispatch less, and queries that are never written.
        fused_rope: true,
        // One workgroup for each key head leaves most of a GPU idle.
        split_kv_from: 2,
        // Tiles of two have a quarter of the multiply-adds of eight and the same loads: 12.1 µs for 18.5 with heads of 256 on a
        // 7900 XTX (modelled), which holds 336 workgroups. They load each key four times, from caches that the model lacks.
        full_tiles_from: 48,
        // 519 ms for 620 (128 rows, lavapipe): no workgroups for tiles that there are not.
        expert_grids: ExpertGrids::Indirect,
    };

    /// A software driver without subgroups of eight, as SwiftShader.
    pub const SOFTWARE: Self = Self {
        // Workgroup memory is memory like any other there: prefill by tiles runs at 0.3 to 0.6 of its speed by rows.
        prefill: PrefillMatmul::Gemv,
        // Its threads are busy at once. Smaller tiles would load keys several times.
        full_tiles_from: 0,
        // Four rows take 17.4 ms, one 23.8 (SwiftShader, 512 by 256).
        one_row_from: 0,
        four_rows_from: 0,
        // A dispatch is 10 to 20 µs: prologues take 4.2 ms a token for 4.7 with a hidden size of 256 (lavapipe), but 20.3 for
        // 17.5 with one of 1,024.
        norm_in_gemv_below: 1024,
        // A dispatch less; nothing waits for loads.
        down_proj: DownProj::Combined,
        ..Self::GPU
    };

    /// A software driver with subgroups of eight, as lavapipe.
    pub const SOFTWARE_SUBGROUPS: Self = Self {
        // A subgroup is a vector of eight floats, and a load a loop over it: activations are loaded once for eight weight rows
        // and shuffled. 16 rows of 2,560 by 1,024 in Q4_K take 50 to 60 ms for 160.
        split: Split::Rows,
        // Queries and scores in registers: 12.8 ms for 14.0 to 15.3 at depth 4,096.
        reduction: Reduction::Subgroup,
        ..Self::SOFTWARE
    };

    /// Returns the kernels of a device.
    pub fn select(device: &DeviceProfile, precision: Precision) -> Self {
        let caps = &device.caps;
        match device.class {
            // f16 is converted there by many instructions: `precision` changes nothing.
            DeviceClass::Software => {
                let kernels = if caps.software_subgroup_8 { Self::SOFTWARE_SUBGROUPS } else { Self::SOFTWARE };
                if device.browser {
                    // There a first reply waits for its kernels: decode has those of prompts, with the same bits, and no fusions.
                    let (norm_in_gemv_below, down_proj, fused_rope) = (0, DownProj::Separate, false);
                    let kernels = Self { norm_in_gemv_below, down_proj, fused_rope, ..kernels };
                    return match kernels.split {
                        // A batch of one row takes a fifth longer than by GEMV, which would be compiled for each format too.
                        Split::Rows => Self { batched_from: 0, expert_batched_from: 0, ..kernels },
                        Split::K => kernels,
                    };
                }
                kernels
            }
            DeviceClass::Integrated | DeviceClass::Discrete => {
                let (tile, mma) = Self::gemm(precision, caps.matrices);
                let (one_row_from, four_rows_from) = match device.class {
                    // An M1 Max has 0.76 µs for 8 blocks of a row and 1.7 with four rows: 2,100 and 4,750 rows (modelled). wgpu
                    // does not tell it from an M1, which has a sixth of the bandwidth and loses nothing: 80 % of its issue rate
                    // at full bandwidth with one row, 64 % with four.
                    DeviceClass::Integrated => (260, 160),
                    _ => (Self::GPU.one_row_from, Self::GPU.four_rows_from),
                };
                // Matrices of 16 have 64 rows in two parts with the workgroup memory of 32, a quarter more registers and as many
                // waves on RDNA3: 0.62 instructions for a multiply-add, 0.8 with 32 (docs/GPUS.md).
                let tile_rows = match mma {
                    Mma::Matrices16 => TileRows::SixtyFour,
                    Mma::Fma | Mma::Matrices8 => Self::GPU.tile_rows,
                };
                let full_tiles_from = match device.class {
                    // An M1 holds 16 workgroups at once.
                    DeviceClass::Integrated => 8,
                    _ => Self::GPU.full_tiles_from,
                };
                Self { tile, mma, tile_rows, one_row_from, four_rows_from, full_tiles_from, ..Self::GPU }
            }
        }
    }

    /// Returns what GEMM's tiles hold, and what multiplies them. Cooperative matrices come first: 4 matrix instructions for 512
    /// multiply-adds of a subgroup. Without them tiles hold f32: fused multiply-adds convert each factor of a tile of f16, 810
    /// instructions of a loop for 667 on RDNA2, 1,959 for 1,415 of the shader on an A770. Autotuning measures both.
    fn gemm(precision: Precision, matrices: Matrices) -> (TileType, Mma) {
        match precision {
            Precision::Fast if matrices.f16_16 => (TileType::F16, Mma::Matrices16),
            Precision::Fast if matrices.f16_8 => (TileType::F16, Mma::Matrices8),
            Precision::Fast | Precision::Exact if matrices.f32_8 => (TileType::F32, Mma::Matrices8),
            Precision::Fast | Precision::Exact => (TileType::F32, Mma::Fma),
        }
    }

    /// Returns whether GEMVs have int8 activations.
    pub fn int8(&self) -> bool {
        self.activations == ActivationType::Int8
    }

    /// Returns whether prefill and decode have one order of sums.
    pub fn one_order(&self) -> bool {
        self.prefill == PrefillMatmul::Gemv
    }

    /// Returns the weight rows that a GEMV's groups of eight lanes have each, for a matrix of `n` rows of which a token is
    /// multiplied with `matrices`. It does not depend on the batch, and does not change the bits of sums.
    pub fn rows_per_group(&self, n: u32, matrices: u32) -> RowsPerGroup {
        let workgroups = |rows: u32| n.div_ceil(rows).saturating_mul(matrices);
        if self.split == Split::Rows || workgroups(32) >= self.four_rows_from {
            RowsPerGroup::Four
        } else if workgroups(8) >= self.one_row_from {
            RowsPerGroup::One
        } else {
            RowsPerGroup::Quarter
        }
    }

    /// Returns the tiles of [`AttentionKind::SplitKv`] with `q_per_kv` query heads of a key head. `workgroups` is the number of
    /// key heads of all rows and chunks.
    pub fn split_kv_tiles(&self, q_per_kv: u32, workgroups: u32) -> Tiles {
        let full = Tiles::new(q_per_kv, false);
        if workgroups.saturating_mul(full.per_kv_head) < self.full_tiles_from { Tiles::of_two(q_per_kv) } else { full }
    }
}
