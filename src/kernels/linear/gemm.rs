//! GEMM: a matrix times many rows, `Y = X · Wᵀ`.

use super::{
    Indexing, Mma, TileType,
    matmul::{self, COMMON_FORMATS, HostMatmul, Matmul, TestMatmul, TestShape},
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl},
    quant::WeightType,
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to `y`, or gated
    /// ([`Epilogue`](super::Epilogue)).
    ///
    /// Shapes: `w` is `[local_experts · weight_rows, k]` of any format in [`Planes`](crate::quant::Planes); `x` has rows of
    /// `k` f32, `y` rows of `y_stride` f32. A matrix has `n` rows, or `2·n` with a gate. A tile is 64 weight rows by 32 or 64
    /// rows ([`TileRows`]) of f32 or f16 ([`TileType`]); [`Mma`] multiplies it; sums are f32. Dense: `first(i) = 0`,
    /// `input(i) = i`. Expert: rows are assignments of tokens to experts, in the order of `assignments` and tile by tile of
    /// `tiles`, as [`MoeSort`](crate::kernels::moe::sort::MoeSort) makes both; `input(i) = i / rows_per_input`. Rows whose
    /// expert is not in `w` stay as they are, as in [`Gemv`](super::gemv::Gemv).
    ///
    /// Bound of f32 tiles: `1e-5·Σ|W·x|`; [`Epilogue`](super::Epilogue) adds its own. Measured worst on lavapipe: 0.23 of it.
    ///
    /// f16 tiles: weights and activations beyond ±65504 are clamped to it, so that an overflow is wrong by what is cut off
    /// and never infinite or NaN; activations of trained models reach some thousands. Bound, of the clamped values:
    /// `Σ e·|W·x|` with `e = 1e-3`, or `e = 1` where a factor is below 2⁻¹⁴, a subnormal f16 that a device may flush to zero;
    /// and a normalised mean squared error of 1e-6 over the outputs. Measured worst on lavapipe: 0.48 of the latter.
    pub struct Gemm("linear/gemm") for Variant;
    params {
        /// The shape.
        matmul: Matmul,
        /// Tiles: of consecutive rows, or the entries of `tiles`.
        tiles: u32,
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs.
        x: read [[f32; 4]],
        /// Rows of the output by expert.
        assignments: read [u32] if |v| v.indexing == Indexing::Expert,
        /// The list of tiles: expert, first and end in `assignments`.
        tiles: read [[u32; 4]] if |v| v.indexing == Indexing::Expert,
        /// The outputs.
        y: write [f32],
    }
}

/// Weight rows that a workgroup multiplies.
pub const TILE_N: u32 = 64;

/// Rows of the output that a workgroup computes. More decode weights less often; fewer leave less of a tile empty. The sums
/// are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TileRows {
    /// 32.
    #[default]
    ThirtyTwo,
    /// 64. Cooperative matrices of 16 by 16 multiply them in two parts.
    SixtyFour,
}

impl TileRows {
    /// Returns the number of rows.
    pub const fn count(self) -> u32 {
        match self {
            Self::ThirtyTwo => 32,
            Self::SixtyFour => 64,
        }
    }

    /// Returns the tiles that can be multiplied by `mma`.
    pub const fn available(mma: Mma) -> &'static [Self] {
        match mma {
            Mma::Fma | Mma::Matrices16 => &[Self::ThirtyTwo, Self::SixtyFour],
            Mma::Matrices8 => &[Self::ThirtyTwo],
        }
    }
}

/// Format, indexing, tiles and how they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one per expert.
    pub indexing: Indexing,
    /// The type of a tile's elements.
    pub tile: TileType,
    /// What multiplies tiles.
    pub mma: Mma,
    /// Rows of a tile.
    pub tile_rows: TileRows,
}

impl Kernel for Gemm {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for tile in TileType::available(caps).iter().copied() {
            for mma in Mma::available(caps, tile) {
                for tile_rows in TileRows::available(mma).iter().copied() {
                    let with = |ty| Indexing::ALL.map(|indexing| Variant { ty, indexing, tile, mma, tile_rows });
                    all.extend(WeightType::ALL.into_iter().flat_map(with));
                }
            }
        }
        all
    }

    /// Every format with f32 tiles of 32 rows, and all but sampled ones with those of 64 rows of one matrix. The common formats with 64 rows of
    /// experts and with f16 tiles; of these no experts in F32, which no file has. Q5_0 with f16 tiles of one matrix:
    /// Q4_K_M files of models whose rows are no multiple of 256 weights have it.
    fn covered(caps: &Caps) -> Vec<Variant> {
        let covered = |v: &Variant| {
            let dense = v.indexing == Indexing::Dense;
            let common = COMMON_FORMATS.contains(&v.ty) && (dense || v.ty != WeightType::F32);
            let fallback = v.ty == WeightType::Q5_0 && dense;
            let tile_rows = dense && !matmul::is_sampled(v.ty) || v.tile_rows == TileRows::ThirtyTwo;
            common || fallback || (v.tile == TileType::F32 && tile_rows)
        };
        Self::supported(caps).into_iter().filter(covered).collect()
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        ReductionOrder::new(v.mma.reduction_order(v.tile))
    }

    fn source(v: Variant) -> Source {
        let source = super::epilogue(matmul::source(wgsl!("linear/gemm.wgsl"), v.mma.workgroup(), v.ty));
        let source = matmul::tiles(source, v.indexing, v.tile_rows.count()).with(wgsl!("input/plain.wgsl"));
        v.mma.fill(v.tile.fill(source))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matmul.weight_rows.div_ceil(TILE_N), y: p.tiles }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        times([p.tiles, v.tile_rows.count(), p.matmul.weight_rows, p.matmul.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        p.matmul.sparse_reads(v.indexing)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let runs = p.matmul.runs_of_tiles(v.indexing, p.tiles, host.assignments, host.tiles);
        host_matmul(v, p, host.w, host.x).compute(&runs, host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let runs = p.matmul.runs_of_tiles(v.indexing, p.tiles, before.assignments, before.tiles);
        let y = host_matmul(v, p, before.w, before.x).reference(&runs, before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        let more_than_a_tile = v.tile_rows.count() + 1;
        let mut shapes = vec![(more_than_a_tile, 65, 2 * block.max(32)), (1, 1, block.max(4)), (5, 64, 2048)];
        if v.tile == TileType::F16 {
            // A single output may be as far off as its bound allows, but not in the mean; so no case has a single output.
            shapes.remove(1);
        } else if block == 1 {
            shapes.push((2, 5, 36));
        }
        let shapes = TestShape::with_epilogues(&shapes).into_iter().zip(0..);
        shapes.filter_map(|(shape, seed)| case(v, shape, seed)).collect()
    }
}

fn host_matmul<'a>(v: Variant, p: &Params, w: &'a [[u32; 4]], x: &'a [[f32; 4]]) -> HostMatmul<'a> {
    HostMatmul { shape: p.matmul, ty: v.ty, indexing: v.indexing, tile: v.tile, w, x, x_offset: 0 }
}

fn case(v: Variant, shape: TestShape, seed: u64) -> Option<Case<Gemm>> {
    // Most rows have one expert, so that it has more than a tile, and one has an id out of range.
    let expert = |i: u32| [3, 0, 99, 1, 2].get(i as usize).copied().unwrap_or(3);
    let test = TestMatmul::new((v.ty, v.indexing, v.tile), shape, 0, expert, None, seed)?;
    let (assignments, tiles, tile_count) = test.tiles(v.tile_rows.count());
    Some(Case {
        name: shape.name(),
        params: Params { matmul: test.shape, tiles: tile_count },
        data: Data { w: test.w, x: test.x, assignments, tiles, y: test.y },
        expected: Expected { y: Some(test.expected), ..Default::default() },
    })
}
