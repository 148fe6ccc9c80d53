//! Matrix times a few rows: `y[i] = W · x[i]`.

use super::{Epilogue, Rows, TestWeights, TileType, dot, quant};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::{Planes, Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to what is there, or gated.
    ///
    /// Shapes: `w` is `[held · matrix_rows, k]` of any format in [`Planes`], `x` rows of `k` f32 from element `x_offset` on
    /// (a multiple of 4), `ids` `[rows]` from `ids_offset` on, `y` rows of `y_stride` f32. A matrix has `n` rows, gated
    /// ones `2·n` ([`Epilogue::Gate`]). Dense: `first(i) = 0`, `input(i) = i`. Expert: `first(i) = (ids[i] − first_expert) ·
    /// matrix_rows`, `input(i) = i / share`; ids are clamped, and rows whose expert is not in `w` are left as they are: a
    /// stack that is larger than a binding is multiplied part by part. Bound: 1e-5 of `Σ |W · x|`; gated as
    /// [`Epilogue::Gate`] makes of it. Measured worst on lavapipe: 0.26 of it,
    /// and 0.5 where gated products are subnormal.
    pub struct Gemv("linear/gemv") for Variant;
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
        /// First element of `ids`.
        ids_offset: u32,
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs.
        x: read [[f32; 4]],
        /// The expert of each row.
        ids: read [u32] if |v| v.rows == Rows::Expert,
        /// The outputs.
        y: write [f32],
    }
}

/// Format, rows and epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one an expert.
    pub rows: Rows,
    /// What happens to the products.
    pub epilogue: Epilogue,
}

const WG: u32 = 64;
/// Weight rows that a workgroup multiplies.
const TILE: u32 = 32;

impl Gemv {
    fn variants(_: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for ty in WeightType::ALL {
            for rows in [Rows::Dense, Rows::Expert] {
                all.extend(Epilogue::ALL.map(|epilogue| Variant { ty, rows, epilogue }));
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        v.epilogue
            .fill(Source::new(wgsl!("linear/gemv.wgsl"), WG))
            .with_all(quant(v.ty))
            .with(wgsl!("lib/input.wgsl"))
            .with(v.rows.fragment())
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matrix_rows.div_ceil(TILE), y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let rows = u64::from(p.held) * u64::from(p.matrix_rows);
        let Some(planes) = Planes::new(v.ty, rows, u64::from(p.k)) else { return };
        let x: &[f32] = &bytemuck::cast_slice(host.x)[p.x_offset as usize..];
        let (k, n) = (p.k as usize, p.n);
        let mut weights = [vec![0.0; k], vec![0.0; k]];
        let mut output = |i: usize, j: u32, weights: &[Vec<f32>; 2]| {
            let input = if v.rows == Rows::Expert { i / p.share as usize } else { i };
            let x = &x[input * k..];
            let products =
                weights.each_ref().map(|w| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>());
            let y = &mut host.y[i * p.y_stride as usize + (p.y_offset + j) as usize];
            *y = v.epilogue.apply(f64::from(*y), products) as f32;
        };
        match v.rows {
            // A row of weights is decoded once for all rows of the input.
            Rows::Dense => {
                for j in 0..n {
                    v.epilogue.decode(&planes, host.w, 0, j, &mut weights);
                    (0..p.rows as usize).for_each(|i| output(i, j, &weights));
                }
            }
            Rows::Expert => {
                for i in 0..p.rows as usize {
                    let id = host.ids[p.ids_offset as usize + i].min(p.experts - 1);
                    let Some(held) = id.checked_sub(p.first_expert).filter(|e| *e < p.held) else { continue };
                    let first = held * p.matrix_rows;
                    for j in 0..n {
                        v.epilogue.decode(&planes, host.w, first, j, &mut weights);
                        output(i, j, &weights);
                    }
                }
            }
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.held) * u64::from(p.matrix_rows), u64::from(p.k))?;
        let x: &[f32] = bytemuck::cast_slice(before.x);
        let mut y = Expect::unchanged(before.y);
        let mut weights = [vec![0.0; p.k as usize], vec![0.0; p.k as usize]];
        for i in 0..p.rows {
            let (held, input) = match v.rows {
                Rows::Dense => (Some(0), i),
                Rows::Expert => {
                    let id = before.ids[(p.ids_offset + i) as usize].min(p.experts - 1);
                    (id.checked_sub(p.first_expert).filter(|e| *e < p.held), i / p.share)
                }
            };
            let Some(held) = held else { continue };
            let x = &x[p.x_offset as usize + input as usize * p.k as usize..];
            for j in 0..p.n {
                v.epilogue.decode(&planes, before.w, held * p.matrix_rows, j, &mut weights);
                let y = &mut y[(i * p.y_stride + p.y_offset + j) as usize];
                *y = v.epilogue.bounded(y.0, weights.each_ref().map(|w| dot(w, x)));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        // Rows that are no multiple of a tile; one block; a tail beyond the last whole unit for floats; Qwen3-30B-A3B's
        // hidden size.
        let mut shapes = vec![(5, 40, 2 * block.max(32)), (1, 1, block.max(4)), (2, 33, 2048)];
        if block == 1 {
            shapes.push((2, 5, 36));
        }
        let mut cases: Vec<_> = shapes
            .into_iter()
            .enumerate()
            .filter_map(|(seed, (rows, n, k))| case(v, format!("{rows}x{n}x{k}"), rows, n, k, None, seed as u64))
            .collect();
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, name.to_owned(), 1, 4, 2 * block.max(32), Some(blocks), 11));
        }
        cases
    }
}

fn case(v: Variant, name: String, rows: u32, n: u32, k: u64, blocks: Option<Vec<u8>>, seed: u64) -> Option<Case<Gemv>> {
    // Experts 1 to 4 of 6 are bound, and inputs and ids start somewhere in their buffers.
    let (experts, first_expert, held, share) = if v.rows == Rows::Expert { (6, 1, 4, 2) } else { (1, 0, 1, 1) };
    let (x_offset, ids_offset) = (8, if v.rows == Rows::Expert { 3 } else { 0 });
    let matrix_rows = v.epilogue.matrix_rows(n);
    let weights = match blocks {
        Some(raw) => TestWeights::from_blocks(v.ty, u64::from(held * matrix_rows), k, &raw)?,
        None => TestWeights::random(v.ty, u64::from(held * matrix_rows), k, seed)?,
    };
    let mut rng = Rng::new(seed + 100);
    let inputs = rows.div_ceil(share) as usize;
    let mut x = vec![f32::NAN; x_offset as usize];
    x.extend((0..inputs * k as usize).map(|_| rng.normal()));
    // An outlier, as trained models have them.
    x[x_offset as usize] = 1e3;
    // Experts that are bound, one that is not, and an id that is out of range.
    let pattern = [3u32, 4, 99, 0, 1];
    let expert = |i: u32| pattern.get(i as usize).copied().unwrap_or(2);
    let ids =
        if v.rows == Rows::Expert { [77; 3].into_iter().chain((0..rows).map(expert)).collect() } else { Vec::new() };
    let (y_stride, y_offset) = (n + 3, 2);
    let mut y = vec![f32::NAN; (rows * y_stride) as usize];
    let mut expected: Vec<(f64, f64)> = vec![(f64::NAN, 0.0); y.len()];
    for i in 0..rows {
        let id = if v.rows == Rows::Expert { expert(i).min(experts - 1) } else { 0 };
        let Some(bound_expert) = id.checked_sub(first_expert).filter(|e| *e < held) else { continue };
        let input = &x[x_offset as usize + (i / share) as usize * k as usize..];
        for j in 0..n {
            let at = (i * y_stride + y_offset + j) as usize;
            if v.epilogue == Epilogue::Accumulate {
                y[at] = 0.5;
            }
            expected[at] = weights.output(v.epilogue, TileType::F32, bound_expert * matrix_rows, j, input, y[at]);
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
        share,
        experts,
        first_expert,
        held,
        matrix_rows,
        x_offset,
        ids_offset,
    };
    Some(Case {
        name,
        params,
        data: Data { w: weights.words, x: bytemuck::pod_collect_to_vec(&x), ids, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    })
}
