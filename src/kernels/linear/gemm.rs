//! Matrix times many rows: `Y = X · Wᵀ`.

use super::{TestWeights, dot, quant, store};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::{Planes, Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[j, d] · x[i, d]`, or added to what is there.
    ///
    /// Shapes: `w` is `[n, k]` of any format in [`Planes`], `x` `[rows, k]` f32, `y` rows of `y_stride` f32. Tiles of 64
    /// outputs by 32 rows, f32 throughout. Bound: 1e-5 of `Σ |W · x|`. Measured worst on lavapipe: 0.17 of it.
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
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs.
        x: read [[f32; 4]],
        /// The outputs.
        y: write [f32],
    }
}

/// Format and epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// Add to `y` rather than overwrite it.
    pub accumulate: bool,
}

const WG: u32 = 128;
const TILE_N: u32 = 64;
const TILE_M: u32 = 32;

impl Gemm {
    fn variants(_: &Caps) -> Vec<Variant> {
        let formats = WeightType::ALL.into_iter();
        formats.flat_map(|ty| [false, true].map(|accumulate| Variant { ty, accumulate })).collect()
    }

    fn source(v: Variant) -> Source {
        Source::new(wgsl!("linear/gemm.wgsl"), WG)
            .with_all(quant(v.ty))
            .with(wgsl!("lib/input.wgsl"))
            .constant("ACCUMULATE", v.accumulate)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(TILE_N), y: p.rows.div_ceil(TILE_M) }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let Some(planes) = Planes::new(v.ty, u64::from(p.n), u64::from(p.k)) else { return };
        let x: &[f32] = bytemuck::cast_slice(host.x);
        let k = p.k as usize;
        let mut weights = vec![0.0; k];
        for j in 0..p.n {
            planes.decode_row(host.w, u64::from(j), &mut weights);
            for (i, x) in x.chunks_exact(k).take(p.rows as usize).enumerate() {
                let sum: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let y = &mut host.y[i * p.y_stride as usize + (p.y_offset + j) as usize];
                *y = if v.accumulate { *y + sum as f32 } else { sum as f32 };
            }
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.n), u64::from(p.k))?;
        let (x, k): (&[f32], _) = (bytemuck::cast_slice(before.x), p.k as usize);
        let mut y = Expect::unchanged(before.y);
        let mut weights = vec![0.0; k];
        for j in 0..p.n {
            planes.decode_row(before.w, u64::from(j), &mut weights);
            for (i, x) in x.chunks_exact(k).take(p.rows as usize).enumerate() {
                let at = i * p.y_stride as usize + (p.y_offset + j) as usize;
                store(dot(&weights, x), v.accumulate, &mut y[at]);
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        let mut shapes = vec![(33, 65, 2 * block.max(32)), (1, 1, block.max(4)), (5, 64, 2048)];
        if block == 1 {
            shapes.push((2, 5, 36));
        }
        shapes.into_iter().enumerate().filter_map(|(seed, shape)| case(v, shape, seed as u64)).collect()
    }
}

fn case(v: Variant, (rows, n, k): (u32, u32, u64), seed: u64) -> Option<Case<Gemm>> {
    let weights = TestWeights::random(v.ty, u64::from(n), k, seed)?;
    let mut rng = Rng::new(seed + 200);
    let mut x: Vec<f32> = (0..u64::from(rows) * k).map(|_| rng.normal()).collect();
    x[0] = 1e3;
    let (y_stride, y_offset) = (n + 3, 2);
    let mut y = vec![f32::NAN; (rows * y_stride) as usize];
    let mut expected = vec![(f64::NAN, 0.0); y.len()];
    for (i, x) in x.chunks_exact(k as usize).enumerate() {
        for j in 0..n as usize {
            let at = i * y_stride as usize + y_offset as usize + j;
            let (mut sum, bound) = weights.dot(j, x);
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
    };
    Some(Case {
        name: format!("{rows}x{n}x{k}"),
        params,
        data: Data { w: weights.words, x: bytemuck::pod_collect_to_vec(&x), y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    })
}
