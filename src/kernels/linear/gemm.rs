//! Matrix times many rows: `Y = X · Wᵀ`.

use super::{
    Epilogue, Mma, Rows, TileType,
    product::{self, Product, Trial, params_of, product},
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl},
    quant::WeightType,
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to what is there, or gated.
    ///
    /// Shapes: `w` is `[held · matrix_rows, k]` of any format in [`Planes`](crate::quant::Planes), `x` rows of `k` f32, `y`
    /// rows of `y_stride` f32. A matrix has `n` rows, gated ones `2·n` ([`Epilogue::Gate`](super::Epilogue::Gate)). Tiles
    /// of 64 weight rows by 32 or 64 rows ([`TileRows`]), of f32 or of halves ([`TileType`]), multiplied as [`Mma`] says; sums are f32. Dense: `first(i) = 0`,
    /// `input(i) = i`. Expert: rows are (token, expert) pairs, tile by tile of `tiles`, through the pair indices in `pairs`, both as
    /// [`Bucket`](crate::kernels::moe::bucket::Bucket) makes them; `input(i) = i / share`. Tiles whose expert is not in `w`
    /// are left as they are, as in [`Gemv`](super::gemv::Gemv). Bound: 1e-5 of `Σ |W · x|`; gated as
    /// [`Epilogue::Gate`](super::Epilogue::Gate) makes of it. Measured worst on lavapipe: 0.23 of it.
    ///
    /// Tiles of halves: weights and activations beyond 65504 count as 65504, so that what leaves a half's range is wrong
    /// by what is cut off and never infinite or NaN; activations of trained models reach some thousands. Bound: of these
    /// values 1e-3 of each `|W · x|`, all of it where a factor is below 2⁻¹⁴, which is a subnormal half that a device may
    /// take for zero; and in the mean 1e-6 of the outputs' squares. Measured worst on lavapipe: 0.48 of it, in the mean.
    pub struct Gemm("linear/gemm") for Variant;
    params {
        /// Rows of the output.
        rows: u32,
        /// Outputs of a row.
        n: u32,
        /// Weights of an output.
        k: u32,
        /// Units of weights of an output.
        row_units: u32,
        /// Units of weights in all.
        units: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// First output of a row of `y`.
        y_offset: u32,
        /// Tiles of rows: those of the dense rows, or the entries of `tiles`.
        tiles: u32,
        /// Output rows that have the same input row.
        share: u32,
        /// Experts of the whole stack.
        experts: u32,
        /// The expert whose matrix is the first in `w`.
        first_expert: u32,
        /// Matrices in `w`.
        held: u32,
        /// Rows of a matrix.
        matrix_rows: u32,
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs.
        x: read [[f32; 4]],
        /// Pair indices by expert.
        pairs: read [u32] if |v| v.rows == Rows::Expert,
        /// The list of tiles: expert, first and end in `pairs`.
        tiles: read [[u32; 4]] if |v| v.rows == Rows::Expert,
        /// The outputs.
        y: write [f32],
    }
}

const WG: u32 = 128;
/// Weight rows that a workgroup multiplies.
pub const TILE_N: u32 = 64;
/// Rows of the output that a workgroup computes: more decode weights less often, fewer leave less of a tile empty. The sums are the
/// same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TileRows {
    /// As many as cooperative matrices multiply.
    #[default]
    ThirtyTwo,
    /// As many as weight rows.
    SixtyFour,
}

impl TileRows {
    /// How many they are.
    pub const fn count(self) -> u32 {
        match self {
            Self::ThirtyTwo => 32,
            Self::SixtyFour => 64,
        }
    }

    /// Those that there are for a way to multiply.
    pub const fn available(mma: Mma) -> &'static [Self] {
        match mma {
            Mma::Fma => &[Self::ThirtyTwo, Self::SixtyFour],
            Mma::Matrices8 | Mma::Matrices16 => &[Self::ThirtyTwo],
        }
    }
}

/// Format, rows, epilogue, tiles and how they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one an expert.
    pub rows: Rows,
    /// What happens to the products.
    pub epilogue: Epilogue,
    /// What tiles hold.
    pub tile: TileType,
    /// What multiplies them.
    pub mma: Mma,
    /// Rows of a tile.
    pub tile_rows: TileRows,
}

impl Variant {
    /// Without the tiles.
    fn product(self) -> product::Variant {
        product::Variant { ty: self.ty, rows: self.rows, epilogue: self.epilogue }
    }
}

impl Kernel for Gemm {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for tile in TileType::available(caps).iter().copied() {
            for mma in Mma::available(caps, tile) {
                for tile_rows in TileRows::available(mma).iter().copied() {
                    let with =
                        |product::Variant { ty, rows, epilogue }| Variant { ty, rows, epilogue, tile, mma, tile_rows };
                    // How many rows a tile has is nothing to formats: a long one and one with a tail stand for all.
                    let tested = |v: &Variant| {
                        v.tile_rows == TileRows::ThirtyTwo || matches!(v.ty, WeightType::Q4K | WeightType::F16)
                    };
                    all.extend(product::Variant::all().into_iter().map(with).filter(tested));
                }
            }
        }
        all
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        ReductionOrder::new(v.mma.reduction_order(v.tile))
    }

    fn source(v: Variant) -> Source {
        let product = v.product();
        let source = product.tiles(product.source(wgsl!("linear/gemm.wgsl"), WG), v.tile_rows.count());
        v.mma.fill(v.tile.fill(source.with(wgsl!("input/plain.wgsl"))))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matrix_rows.div_ceil(TILE_N), y: p.tiles }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        times([p.tiles, v.tile_rows.count(), p.matrix_rows, p.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        product!(p, x_offset: 0).sparse_reads(v.rows)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let product = Product { tile: v.tile, ..product!(p, x_offset: 0) };
        let runs = product.runs_of_tiles(v.rows, p.tiles, host.pairs, host.tiles);
        product.compute(v.product(), host.w, host.x, &runs, host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let product = Product { tile: v.tile, ..product!(p, x_offset: 0) };
        let runs = product.runs_of_tiles(v.rows, p.tiles, before.pairs, before.tiles);
        let y = product.define(v.product(), before.w, before.x, &runs, before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        let more_than_a_tile = v.tile_rows.count() + 1;
        let mut shapes = vec![(more_than_a_tile, 65, 2 * block.max(32)), (1, 1, block.max(4)), (5, 64, 2048)];
        if v.tile == TileType::F16 {
            // What is in the tiles differs, not how they are gone through; and one output may be as far off as its bound
            // allows, but not in the mean.
            shapes.remove(1);
        } else if block == 1 {
            shapes.push((2, 5, 36));
        }
        shapes.into_iter().zip(0..).filter_map(|(shape, seed)| case(v, shape, seed)).collect()
    }
}

fn case(v: Variant, shape: (u32, u32, u64), seed: u64) -> Option<Case<Gemm>> {
    // Most pairs on one expert, so that it has more than a tile, and an id that is out of range.
    let expert = |i: u32| [3, 0, 99, 1, 2].get(i as usize).copied().unwrap_or(3);
    let trial = Trial::new(v.product(), v.tile, shape, 0, expert, None, seed)?;
    let (pairs, tiles, tile_count) = trial.tiles(v.tile_rows.count());
    Some(Case {
        name: format!("{}x{}x{}", shape.0, shape.1, shape.2),
        params: params_of!(trial, tiles: tile_count),
        data: Data { w: trial.w, x: trial.x, pairs, tiles, y: trial.y },
        expected: Expected { y: Some(trial.expected), ..Default::default() },
    })
}
