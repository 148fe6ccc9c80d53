//! GEMV for a few rows at once: [`Gemv`](super::gemv::Gemv) with its weights decoded once for a batch of rows.

use super::{
    Epilogue, Indexing, Split, TileType,
    matmul::{self, HostMatmul, Matmul, TestMatmul, TestShape},
    software,
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl},
    quant::WeightType,
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to `y`, or gated: the same bits as
    /// [`Gemv`](super::gemv::Gemv) computes, for any batch.
    ///
    /// Shapes: those of [`Gemm`](super::gemm::Gemm), but with tiles of at most [`TILE_ROWS`] rows, and with `x` from element
    /// `x_offset` on (a multiple of 4). Bound: `1e-5·Σ|W·x|`; [`Epilogue`] adds its own. Measured worst on lavapipe: as `Gemv`.
    pub struct GemvBatched("linear/gemv_batched") for Variant;
    params {
        /// The shape.
        matmul: Matmul,
        /// Tiles: of consecutive rows, or the entries of `tiles`.
        tiles: u32,
        /// First element of `x`.
        x_offset: u32,
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

/// The most rows of the output that a workgroup computes at once. A smaller batch takes no time for rows that it does not have.
pub const TILE_ROWS: u32 = 8;

/// Returns the weight rows that a workgroup multiplies.
pub const fn tile(split: Split) -> u32 {
    match split {
        Split::K => 64,
        // 4 a lane. With 8 it takes three times as long to compile, and as long to run (lavapipe).
        Split::Rows => 32,
    }
}

/// Format, indexing and split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one per expert.
    pub indexing: Indexing,
    /// What the lanes split.
    pub split: Split,
}

impl Kernel for GemvBatched {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for split in Split::available(caps).iter().copied() {
            let with = |ty| Indexing::ALL.map(|indexing| Variant { ty, indexing, split });
            all.extend(WeightType::ALL.into_iter().flat_map(with));
        }
        all
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.split.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let source = match v.split {
            Split::K => matmul::source(wgsl!("linear/gemv_batched.wgsl"), 256, v.ty)
                .with(wgsl!("linear/k_split_rounded.wgsl"))
                .constant("ROWS_FIRST", rows_first(v)),
            Split::Rows => {
                // Floats are not decoded. A second block of Q6_K takes half as long again to compile.
                let one = v.ty.block_len() == 1 || v.ty == WeightType::Q6K;
                software::source(wgsl!("software/gemv_batched.wgsl"), v.ty).constant("BLOCKS", if one { 1 } else { 2 })
            }
        };
        let source = v.split.epilogue(source);
        matmul::tiles(source, v.indexing, TILE_ROWS).with(wgsl!("input/plain.wgsl"))
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        let weights = p.matmul.weight_rows.div_ceil(tile(v.split));
        if rows_first(v) { Grid { x: p.tiles, y: weights } } else { Grid { x: weights, y: p.tiles } }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        times([p.tiles, TILE_ROWS, p.matmul.weight_rows, p.matmul.k])
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
        // Every tail of the batch, with experts that have no rows, one, a whole tile and one row more; one row of one block;
        // Qwen3-30B-A3B's hidden and inner sizes; for floats, a row that ends within a block of 32.
        let all = 2 * TILE_ROWS + 4;
        let mut shapes = vec![
            (all, 65, 2 * block.max(32)),
            (1, 1, block.max(4)),
            (2, 33, 2048),
            (3, 7, 768),
            (TILE_ROWS + 1, 3, 2 * block.max(32)),
        ];
        if block == 1 {
            shapes.push((6, 5, 36));
        }
        let shapes = TestShape::with_epilogues(&shapes).into_iter().zip(0..);
        let mut cases: Vec<_> = shapes.filter_map(|(shape, seed)| case(v, shape.name(), shape, None, seed)).collect();
        let hard = TestShape { rows: 2, n: 4, k: 2 * block.max(32), epilogue: Epilogue::Store };
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, name.to_owned(), hard, Some(&blocks), 11));
        }
        cases
    }
}

/// Returns whether neighbouring workgroups have the same weights and other rows, so that weights are read from memory once,
/// however many tiles there are. The device chooses the number of tiles of experts, along y.
fn rows_first(v: Variant) -> bool {
    v.split == Split::K && v.indexing == Indexing::Dense
}

fn host_matmul<'a>(v: Variant, p: &Params, w: &'a [[u32; 4]], x: &'a [[f32; 4]]) -> HostMatmul<'a> {
    let (ty, indexing, tile) = (v.ty, v.indexing, TileType::F32);
    HostMatmul { shape: p.matmul, ty, indexing, tile, w, x, x_offset: p.x_offset }
}

fn case(v: Variant, name: String, shape: TestShape, blocks: Option<&[u8]>, seed: u64) -> Option<Case<GemvBatched>> {
    // One row each for two experts in the binding and for two that are not in it, one of them by an id out of range; then a
    // whole tile and one row more. Expert 4 has none.
    let expert = |i: u32| match i {
        0 => 3,
        1 => 99,
        2 => 1,
        3 => 0,
        _ if i < 4 + TILE_ROWS => 2,
        _ => 3,
    };
    let x_offset = 8;
    let test = TestMatmul::new((v.ty, v.indexing, TileType::F32), shape, x_offset, expert, blocks, seed)?;
    let (assignments, tiles, tile_count) = test.tiles(TILE_ROWS);
    Some(Case {
        name,
        params: Params { matmul: test.shape, tiles: tile_count, x_offset },
        data: Data { w: test.w, x: test.x, assignments, tiles, y: test.y },
        expected: Expected { y: Some(test.expected), ..Default::default() },
    })
}
