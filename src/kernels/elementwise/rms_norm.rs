//! Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467).

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    kernels::Reduce,
    quant::Rng,
};

kernel! {
    /// `y[t] = x[first_row + t] / √(mean(x²) + eps) · w`, row by row.
    ///
    /// Shapes: `x` rows of `n` f32, `w` `[n]`, `y` `[rows, n]`. Bound: 5e-6 of the value plus 1e-7 of the row's RMS.
    /// Measured worst on lavapipe: 0.04 of it.
    pub struct RmsNorm("elementwise/rms_norm") for Reduce;
    params {
        /// Rows of `y`.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// The row of `x` that becomes the first of `y`.
        first_row: u32,
        /// Added to the mean square.
        eps: f32,
    }
    binds {
        /// The rows.
        x: read [f32],
        /// The weight of each element.
        w: read [f32],
        /// The normed rows.
        y: write [f32],
    }
}

impl RmsNorm {
    fn variants(caps: &Caps) -> Vec<Reduce> {
        Reduce::available(caps).to_vec()
    }

    fn source(reduce: Reduce) -> Source {
        reduce.fill(Source::new(wgsl!("elementwise/rms_norm.wgsl"), WG))
    }

    fn grid(_: Reduce, p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu(_: Reduce, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        let rows = host.x.chunks_exact(n).skip(p.first_row as usize).zip(host.y.chunks_exact_mut(n));
        for (x, y) in rows.take(p.rows as usize) {
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (y, exact) in y.iter_mut().zip(normed(&x, host.w, p.eps)) {
                *y = exact as f32;
            }
        }
    }

    fn definition(_: Reduce, p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut y = Expect::unchanged(before.y);
        let rows = before.x.chunks_exact(n).skip(p.first_row as usize).zip(y.chunks_exact_mut(n));
        for (x, y) in rows.take(p.rows as usize) {
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            y.copy_from_slice(&near(&x, before.w, p.eps));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(reduce: Reduce) -> Vec<Case<Self>> {
        // One element, a tail, Qwen3-30B-A3B's hidden size; values from tiny to huge.
        [(1, 1, 1.0), (3, 300, 1e-6), (2, 2048, 1.0), (2, 257, 1e4)]
            .into_iter()
            .map(|(rows, n, size)| {
                let mut rng = Rng::new(u64::from(n));
                let first_row = 1;
                let x: Vec<f32> = (0..(rows + first_row) * n).map(|_| rng.normal() * size).collect();
                let w: Vec<f32> = (0..n).map(|_| 1.0 + 0.1 * rng.normal()).collect();
                let eps = 1e-6;
                let y = vec![f32::NAN; (rows * n) as usize];
                let params = Params { rows, n, first_row, eps };
                Case::of_definition(format!("{rows}x{n} of {size:e}"), reduce, params, Data { x, w, y })
            })
            .collect()
    }
}

/// A normed row, exactly.
pub(crate) fn normed(x: &[f64], w: &[f32], eps: f32) -> Vec<f64> {
    let scale = scale(x, eps);
    x.iter().zip(w).map(|(x, w)| x * scale * f64::from(*w)).collect()
}

/// What a row is multiplied by.
pub(crate) fn scale(x: &[f64], eps: f32) -> f64 {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    1.0 / (mean + f64::from(eps)).sqrt()
}

/// The normed row with each value's bound.
pub(crate) fn near(x: &[f64], w: &[f32], eps: f32) -> Vec<(f64, f64)> {
    let exact = normed(x, w, eps);
    let rms = (exact.iter().map(|v| v * v).sum::<f64>() / exact.len() as f64).sqrt();
    exact.into_iter().map(|v| (v, 5e-6 * v.abs() + 1e-7 * rms)).collect()
}
