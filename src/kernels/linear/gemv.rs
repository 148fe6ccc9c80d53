//! Matrix times a few rows: `y[i] = W · x[i]`.

use super::{Rows, TestWeights, dot, quant, store};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::{Planes, Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, or added to what is there.
    ///
    /// Shapes: `w` is `[held · n, k]` of any format in [`Planes`], `x` rows of `k` f32, `ids` `[rows]`, `y` rows of
    /// `y_stride` f32. Dense: `first(i) = 0`, `input(i) = i`. Expert: `first(i) = (ids[i] − first_expert) · n`,
    /// `input(i) = i / share`; ids are clamped, and rows whose expert is not in `w` are left as they are: a stack that is
    /// larger than a binding is multiplied part by part. Bound: 1e-5 of `Σ |W · x|`. Measured worst on lavapipe: 0.26 of it.
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
    /// Add to `y` rather than overwrite it.
    pub accumulate: bool,
}

const WG: u32 = 64;
/// Outputs that a workgroup computes.
const TILE: u32 = 32;

impl Gemv {
    fn variants(_: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for ty in WeightType::ALL {
            for (rows, accumulate) in [(Rows::Dense, false), (Rows::Dense, true), (Rows::Expert, false)] {
                all.push(Variant { ty, rows, accumulate });
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        Source::new(wgsl!("linear/gemv.wgsl"), WG)
            .with_all(quant(v.ty))
            .with(wgsl!("lib/input.wgsl"))
            .with(v.rows.fragment())
            .constant("ACCUMULATE", v.accumulate)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(TILE), y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let Some(planes) = Planes::new(v.ty, u64::from(p.held) * u64::from(p.n), u64::from(p.k)) else { return };
        let x: &[f32] = bytemuck::cast_slice(host.x);
        let k = p.k as usize;
        let mut weights = vec![0.0; k];
        let mut output = |i: usize, j: u32, weights: &[f32]| {
            let input = if v.rows == Rows::Expert { i / p.share as usize } else { i };
            let sum: f64 = weights.iter().zip(&x[input * k..]).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let y = &mut host.y[i * p.y_stride as usize + (p.y_offset + j) as usize];
            *y = if v.accumulate { *y + sum as f32 } else { sum as f32 };
        };
        match v.rows {
            // A row of weights is decoded once for all rows of the input.
            Rows::Dense => {
                for j in 0..p.n {
                    planes.decode_row(host.w, u64::from(j), &mut weights);
                    (0..p.rows as usize).for_each(|i| output(i, j, &weights));
                }
            }
            Rows::Expert => {
                for i in 0..p.rows as usize {
                    let expert = host.ids[i].min(p.experts - 1).checked_sub(p.first_expert).filter(|e| *e < p.held);
                    let Some(expert) = expert else { continue };
                    for j in 0..p.n {
                        planes.decode_row(host.w, u64::from(expert) * u64::from(p.n) + u64::from(j), &mut weights);
                        output(i, j, &weights);
                    }
                }
            }
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.held) * u64::from(p.n), u64::from(p.k))?;
        let (x, k): (&[f32], _) = (bytemuck::cast_slice(before.x), p.k as usize);
        let mut y = Expect::unchanged(before.y);
        let mut weights = vec![0.0; k];
        for i in 0..p.rows as usize {
            let (expert, input) = match v.rows {
                Rows::Dense => (Some(0), i),
                Rows::Expert => (
                    before.ids[i].min(p.experts - 1).checked_sub(p.first_expert).filter(|e| *e < p.held),
                    i / p.share as usize,
                ),
            };
            let Some(expert) = expert else { continue };
            for j in 0..p.n {
                planes.decode_row(before.w, u64::from(expert) * u64::from(p.n) + u64::from(j), &mut weights);
                let at = i * p.y_stride as usize + (p.y_offset + j) as usize;
                store(dot(&weights, &x[input * k..]), v.accumulate, &mut y[at]);
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
    // Experts 1 to 4 of 6 are bound.
    let (experts, first_expert, held, share) = if v.rows == Rows::Expert { (6, 1, 4, 2) } else { (1, 0, 1, 1) };
    let all_rows = u64::from(held * n);
    let weights = match blocks {
        Some(raw) => TestWeights::from_blocks(v.ty, all_rows, k, &raw)?,
        None => TestWeights::random(v.ty, all_rows, k, seed)?,
    };
    let mut rng = Rng::new(seed + 100);
    let inputs = rows.div_ceil(share) as usize;
    let mut x: Vec<f32> = (0..inputs * k as usize).map(|_| rng.normal()).collect();
    // An outlier, as trained models have them.
    x[0] = 1e3;
    // Experts that are bound, one that is not, and an id that is out of range.
    let ids: Vec<u32> = if v.rows == Rows::Expert {
        (0..rows).map(|i| [3, 4, 99, 0, 1].get(i as usize).copied().unwrap_or(2)).collect()
    } else {
        Vec::new()
    };
    let (y_stride, y_offset) = (n + 3, 2);
    let mut y = vec![f32::NAN; (rows * y_stride) as usize];
    let mut expected: Vec<(f64, f64)> = vec![(f64::NAN, 0.0); y.len()];
    for i in 0..rows {
        let expert = ids.get(i as usize).map_or(0, |id| (*id).min(experts - 1));
        let Some(expert) = expert.checked_sub(first_expert).filter(|e| *e < held) else { continue };
        let first = expert * n;
        let input = &x[(i / share) as usize * k as usize..];
        for j in 0..n {
            let at = (i * y_stride + y_offset + j) as usize;
            let (mut sum, bound) = weights.dot((first + j) as usize, input);
            if v.accumulate {
                y[at] = 0.5;
                sum += 0.5;
            }
            expected[at] = (sum, bound + if v.accumulate { 1e-7 } else { 0.0 });
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
    };
    Some(Case {
        name,
        params,
        data: Data { w: weights.words, x: bytemuck::pod_collect_to_vec(&x), ids, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    })
}
