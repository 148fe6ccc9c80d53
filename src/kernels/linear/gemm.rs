//! Matrix times many rows: `Y = X · Wᵀ`.

use super::{Epilogue, Rows, TestWeights, TileType, quant};
use crate::{
    gpu::{Caps, Case, Expect, Fragment, Grid, Source, kernel, wgsl},
    kernels::moe::bucket,
    quant::{Planes, Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to what is there, or gated.
    ///
    /// Shapes: `w` is `[held · matrix_rows, k]` of any format in [`Planes`], `x` rows of `k` f32, `y` rows of `y_stride`
    /// f32. A matrix has `n` rows, gated ones `2·n` ([`Epilogue::Gate`]). Tiles of 64 weight rows by [`TILE_M`] rows, of
    /// f32 or of halves ([`TileType`]); sums are f32. Dense: `first(i) = 0`, `input(i) = i`. Expert: rows are (token, expert) pairs, tile by tile of `tiles`,
    /// through the pair indices in `pairs`, both as [`bucket`](bucket::Bucket) makes them; `input(i) = i / share`. Tiles
    /// whose expert is not in `w` are left as they are, as in [`Gemv`](super::gemv::Gemv). Bound: 1e-5 of `Σ |W · x|`;
    /// gated as [`Epilogue::Gate`] makes of it. Measured worst on lavapipe: 0.17 of it.
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

/// Format, rows, epilogue and tiles.
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
}

const WG: u32 = 128;
const TILE_N: u32 = 64;
/// Rows of the output that a workgroup computes.
pub const TILE_M: u32 = 32;

impl Gemm {
    fn variants(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for (tile, ty) in TileType::available(caps).iter().flat_map(|tile| WeightType::ALL.map(|ty| (*tile, ty))) {
            for rows in [Rows::Dense, Rows::Expert] {
                all.extend(Epilogue::ALL.map(|epilogue| Variant { ty, rows, epilogue, tile }));
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        v.tile
            .fill(v.epilogue.fill(Source::new(wgsl!("linear/gemm.wgsl"), WG)))
            .with_all(quant(v.ty))
            .with(wgsl!("lib/input.wgsl"))
            .with(tiles(v.rows))
            .constant("TILE_M", TILE_M)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matrix_rows.div_ceil(TILE_N), y: p.tiles }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let rows = u64::from(p.held) * u64::from(p.matrix_rows);
        let Some(planes) = Planes::new(v.ty, rows, u64::from(p.k)) else { return };
        let x: &[f32] = bytemuck::cast_slice(host.x);
        let (k, n) = (p.k as usize, p.n);
        let mut weights = [vec![0.0; k], vec![0.0; k]];
        for (matrix, rows) in runs(v, p, &host) {
            let first = matrix * p.matrix_rows;
            for j in 0..n {
                v.epilogue.decode(&planes, host.w, first, j, &mut weights);
                for i in &rows {
                    let input = if v.rows == Rows::Expert { i / p.share as usize } else { *i };
                    let x = &x[input * k..];
                    let value = |value: &f32| v.tile.value(*value);
                    let dot = |w: &Vec<f32>| w.iter().zip(x).map(|(w, x)| value(w) * value(x)).sum::<f64>();
                    let y = &mut host.y[i * p.y_stride as usize + (p.y_offset + j) as usize];
                    *y = v.epilogue.apply(f64::from(*y), weights.each_ref().map(dot)) as f32;
                }
            }
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.held) * u64::from(p.matrix_rows), u64::from(p.k))?;
        let x: &[f32] = bytemuck::cast_slice(before.x);
        let mut y = Expect::unchanged(before.y);
        let mut weights = [vec![0.0; p.k as usize], vec![0.0; p.k as usize]];
        for (matrix, rows) in runs(v, p, &before) {
            for j in 0..p.n {
                v.epilogue.decode(&planes, before.w, matrix * p.matrix_rows, j, &mut weights);
                for i in &rows {
                    let input = if v.rows == Rows::Expert { i / p.share as usize } else { *i };
                    let x = &x[input * p.k as usize..];
                    let y = &mut y[i * p.y_stride as usize + (p.y_offset + j) as usize];
                    *y = v.epilogue.bounded(y.0, weights.each_ref().map(|w| v.tile.dot(w, x)));
                }
            }
        }
        Some(Expected { y: Some(v.tile.expect(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        let mut shapes = vec![(33, 65, 2 * block.max(32)), (1, 1, block.max(4)), (5, 64, 2048)];
        if v.tile == TileType::F16 {
            // What is in the tiles differs, not how they are gone through; and one output may be as far off as its bound
            // allows, but not in the mean.
            shapes.remove(1);
        } else if block == 1 {
            shapes.push((2, 5, 36));
        }
        shapes.into_iter().enumerate().filter_map(|(seed, shape)| case(v, shape, seed as u64)).collect()
    }
}

/// The matrices that rows meet, each with its rows of the output.
fn runs(v: Variant, p: &Params, host: &Host<'_>) -> Vec<(u32, Vec<usize>)> {
    match v.rows {
        Rows::Dense => vec![(0, (0..p.rows as usize).collect())],
        Rows::Expert => {
            let tiles = host.tiles.iter().take(p.tiles as usize).filter_map(|[expert, first, end, _]| {
                let held = (*expert).min(p.experts - 1).checked_sub(p.first_expert).filter(|e| *e < p.held)?;
                let pairs = host.pairs.get(*first as usize..(*end).min(p.rows) as usize)?;
                Some((held, pairs.iter().map(|pair| (*pair).min(p.rows - 1) as usize).collect()))
            });
            tiles.collect()
        }
    }
}

/// The `tiles` slot: which rows a workgroup has, and which matrix they meet.
fn tiles(rows: Rows) -> Fragment {
    match rows {
        Rows::Dense => wgsl!("tiles/dense.wgsl"),
        Rows::Expert => wgsl!("tiles/expert.wgsl"),
    }
}

fn case(v: Variant, (rows, n, k): (u32, u32, u64), seed: u64) -> Option<Case<Gemm>> {
    // Experts 1 to 4 of 6 are bound: rows of the others stay as they are.
    let (experts, first_expert, held, share) = if v.rows == Rows::Expert { (6, 1, 4, 2) } else { (1, 0, 1, 1) };
    let matrix_rows = v.epilogue.matrix_rows(n);
    let weights = TestWeights::random(v.ty, u64::from(held * matrix_rows), k, seed)?;
    let mut rng = Rng::new(seed + 200);
    let mut x: Vec<f32> = (0..u64::from(rows.div_ceil(share)) * k).map(|_| rng.normal()).collect();
    x[0] = 1e3;
    if v.tile == TileType::F16 && rows > TILE_M {
        // Beyond the largest half, and a subnormal one.
        (x[1], x[2]) = (-1e5, 1e-6);
    }
    // Most pairs on one expert, so that it has more than a tile, and an id that is out of range.
    let ids: Vec<u32> = (0..rows).map(|i| [3, 0, 99, 1, 2].get(i as usize).copied().unwrap_or(3)).collect();
    let params =
        bucket::Params { pairs: rows, experts, max_tiles: bucket::max_tiles(rows, experts), ..Default::default() };
    let (tiles, pairs, tile_count) = match v.rows {
        Rows::Dense => (Vec::new(), Vec::new(), rows.div_ceil(TILE_M)),
        Rows::Expert => {
            let made = bucket::buckets(&params, &ids);
            (made.tiles, made.sorted, params.max_tiles)
        }
    };
    let (y_stride, y_offset) = (n + 3, 2);
    let mut y = vec![f32::NAN; (rows * y_stride) as usize];
    let mut expected = vec![(f64::NAN, 0.0); y.len()];
    for i in 0..rows {
        let id = if v.rows == Rows::Expert { ids[i as usize].min(experts - 1) } else { 0 };
        let Some(bound_expert) = id.checked_sub(first_expert).filter(|e| *e < held) else { continue };
        let input = &x[(i / share) as usize * k as usize..];
        for j in 0..n {
            let at = (i * y_stride + y_offset + j) as usize;
            if v.epilogue == Epilogue::Accumulate {
                y[at] = 0.5;
            }
            expected[at] = weights.output(v.epilogue, v.tile, bound_expert * matrix_rows, j, input, y[at]);
        }
    }
    let params = Params {
        rows,
        n,
        k: k as u32,
        row_units: weights.planes.row_units(),
        units: weights.planes.units(),
        y_stride,
        y_offset,
        tiles: tile_count,
        share,
        experts,
        first_expert,
        held,
        matrix_rows,
    };
    Some(Case {
        name: format!("{rows}x{n}x{k}"),
        params,
        data: Data { w: weights.words, x: bytemuck::pod_collect_to_vec(&x), pairs, tiles, y },
        expected: Expected { y: Some(v.tile.expect(expected)), ..Default::default() },
    })
}
