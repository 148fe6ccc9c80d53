//! Matrix times a few rows at once: [`Gemv`](super::gemv::Gemv) with its weights decoded once for several rows.

use super::{
    Epilogue, Lanes, Rows, TileType,
    product::{self, Trial, params_of, product},
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl},
    quant::WeightType,
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to what is there, or gated: bit for bit what
    /// [`Gemv`](super::gemv::Gemv) gives, whatever rows are computed together.
    ///
    /// Shapes: those of [`Gemm`](super::gemm::Gemm), but tiles of up to four or eight rows ([`Columns`]), and `x` from element `x_offset`
    /// on (a multiple of 4). Bound: 1e-5 of `Σ |W · x|`; gated as [`Epilogue::Gate`] makes of it.
    /// Measured worst on lavapipe: that of `Gemv`, whose bits they are.
    pub struct GemvColumns("linear/gemv_columns") for Variant;
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
        /// First element of `x`.
        x_offset: u32,
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

/// Rows of the output that a workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Columns {
    /// Up to four.
    Four,
    /// Up to eight: half as many decoded weights for each, where there are so many. Only with [`Lanes::Rows`].
    Eight,
}

impl Columns {
    /// Those of a choice of lanes.
    pub fn available(lanes: Lanes) -> &'static [Self] {
        match lanes {
            Lanes::Units => &[Self::Four],
            Lanes::Rows => &[Self::Four, Self::Eight],
        }
    }

    /// How many.
    pub const fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Weight rows that a workgroup multiplies.
pub const TILE: u32 = 64;

/// Format, rows, epilogue, lanes and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one an expert.
    pub rows: Rows,
    /// What happens to the products.
    pub epilogue: Epilogue,
    /// What invocations share out.
    pub lanes: Lanes,
    /// Rows of the output that a workgroup computes.
    pub columns: Columns,
}

impl Variant {
    /// Without lanes and columns.
    fn product(self) -> product::Variant {
        product::Variant { ty: self.ty, rows: self.rows, epilogue: self.epilogue }
    }
}

impl Kernel for GemvColumns {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for lanes in Lanes::available(caps).iter().copied() {
            for columns in Columns::available(lanes).iter().copied() {
                let with = |product::Variant { ty, rows, epilogue }| Variant { ty, rows, epilogue, lanes, columns };
                all.extend(product::Variant::all().into_iter().map(with));
            }
        }
        all
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.lanes.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let (units, rows) = (wgsl!("linear/gemv_columns.wgsl"), wgsl!("linear/gemv_columns_rows.wgsl"));
        let product = v.product();
        product.tiles(v.lanes.source(product, units, rows), v.columns.count()).with(wgsl!("input/plain.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matrix_rows.div_ceil(TILE), y: p.tiles }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        times([p.tiles, v.columns.count(), p.matrix_rows, p.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        product!(p, x_offset: p.x_offset).sparse_reads(v.rows)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let product = product!(p, x_offset: p.x_offset);
        let runs = product.runs_of_tiles(v.rows, p.tiles, host.pairs, host.tiles);
        product.compute(v.product(), host.w, host.x, &runs, host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let product = product!(p, x_offset: p.x_offset);
        let runs = product.runs_of_tiles(v.rows, p.tiles, before.pairs, before.tiles);
        let y = product.define(v.product(), before.w, before.x, &runs, before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        // Every tail of the columns, with experts that have none, one, a whole tile and one pair more; one row of one
        // block; Qwen3-30B-A3B's hidden and inner sizes; a tail beyond the last whole unit for floats.
        let columns = v.columns.count();
        let all = 2 * columns + 4;
        let mut shapes = vec![
            (all, 65, 2 * block.max(32)),
            (1, 1, block.max(4)),
            (2, 33, 2048),
            (3, 7, 768),
            (columns + 1, 3, 2 * block.max(32)),
        ];
        if block == 1 {
            shapes.push((6, 5, 36));
        }
        let mut cases: Vec<_> =
            shapes.into_iter().zip(0..).filter_map(|(shape, seed)| case(v, None, shape, None, seed)).collect();
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, Some(name), (2, 4, 2 * block.max(32)), Some(&blocks), 11));
        }
        cases
    }
}

fn case(
    v: Variant,
    name: Option<&str>,
    shape: (u32, u32, u64),
    blocks: Option<&[u8]>,
    seed: u64,
) -> Option<Case<GemvColumns>> {
    // One pair each for two experts that are bound and two that are not, of which one by an id that is out of range; then
    // a whole tile, and one pair more; expert 4 has none.
    let columns = v.columns.count();
    let expert = |i: u32| match i {
        0 => 3,
        1 => 99,
        2 => 1,
        3 => 0,
        _ if i < 4 + columns => 2,
        _ => 3,
    };
    let x_offset = 8;
    let trial = Trial::new(v.product(), TileType::F32, shape, x_offset, expert, blocks, seed)?;
    let (pairs, tiles, tile_count) = trial.tiles(columns);
    Some(Case {
        name: name.map_or_else(|| format!("{}x{}x{}", shape.0, shape.1, shape.2), str::to_owned),
        params: params_of!(trial, x_offset: x_offset, tiles: tile_count),
        data: Data { w: trial.w, x: trial.x, pairs, tiles, y: trial.y },
        expected: Expected { y: Some(trial.expected), ..Default::default() },
    })
}
