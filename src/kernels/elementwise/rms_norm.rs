//! Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467).

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[t] = x / √(mean(x²) + eps) · w`, where `x` is row `t` of the input or row `picks[t, 0]`.
    ///
    /// Shapes: `x` `[x_rows, n]` f32, `w` `[n]`, `picks` `[rows, 2]` of a row of `x` (clamped) and an unused number, `y` rows
    /// of `y_stride` f32, from element `y_offset` on. Bound: `5e-6·|y| + 1e-7·rms(y)`. Measured worst on lavapipe: 0.04 of it.
    pub struct RmsNorm("elementwise/rms_norm") for Rows;
    params {
        /// Rows of `y`.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// Picked: rows of `x`.
        x_rows: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// First element in a row of `y`.
        y_offset: u32,
        /// Added to the mean square.
        eps: f32,
    }
    binds {
        /// The rows.
        x: read [f32],
        /// The weight of each element.
        w: read [f32],
        /// The row of `x` of each row of `y`, and its sequence.
        picks: read [[u32; 2]] if |v| *v == Rows::Picked,
        /// The normed rows.
        y: write [f32],
    }
}

/// Which rows are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// The first ones, in order.
    All,
    /// Those in `picks`.
    Picked,
}

impl Rows {
    /// Returns the row of `x` that becomes row `t`.
    fn input(self, p: &Params, picks: &[[u32; 2]], t: usize) -> usize {
        match self {
            Self::All => t,
            Self::Picked => picks[t][0].min(p.x_rows - 1) as usize,
        }
    }
}

impl Kernel for RmsNorm {
    fn supported(_: &Caps) -> Vec<Rows> {
        vec![Rows::All, Rows::Picked]
    }

    fn source(rows: Rows) -> Source {
        // All norms have one order of sums, so that fused kernels have the same bits.
        Source::new(wgsl!("elementwise/rms_norm.wgsl"), WG).with(wgsl!("lib/reduce.wgsl")).with(match rows {
            Rows::All => wgsl!("elementwise/all_rows.wgsl"),
            Rows::Picked => wgsl!("elementwise/picked_rows.wgsl"),
        })
    }

    fn grid(_: Rows, p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu(rows: Rows, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for t in 0..p.rows as usize {
            let y = &mut host.y[t * p.y_stride as usize + p.y_offset as usize..][..n];
            let x = &host.x[rows.input(p, host.picks, t) * n..][..n];
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (y, exact) in y.iter_mut().zip(normed(&x, host.w, p.eps)) {
                *y = exact as f32;
            }
        }
    }

    fn reference(rows: Rows, p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut y = Expect::unchanged(before.y);
        for t in 0..p.rows as usize {
            let to = t * p.y_stride as usize + p.y_offset as usize;
            let x = &before.x[rows.input(p, before.picks, t) * n..][..n];
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            y[to..to + n].copy_from_slice(&near(&x, before.w, p.eps));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Rows) -> Vec<Case<Self>> {
        // One element, a tail, Qwen3-30B-A3B's hidden size; values from tiny to huge.
        [(1, 1, 1.0), (3, 300, 1e-6), (2, 2048, 1.0), (2, 257, 1e4)]
            .into_iter()
            .map(|(rows, n, size)| {
                let mut rng = Rng::new(u64::from(n));
                let x_rows = rows + 2;
                let x: Vec<f32> = (0..x_rows * n).map(|_| rng.normal() * size).collect();
                let w: Vec<f32> = (0..n).map(|_| 1.0 + 0.1 * rng.normal()).collect();
                let eps = 1e-6;
                // A tail and an offset only where there are other elements in a row.
                let (y_stride, y_offset) = if n == 300 { (310, 7) } else { (n, 0) };
                let y = vec![f32::NAN; (rows * y_stride) as usize];
                // Backwards, none of them the first; the last is out of range and becomes the last row.
                let mut picks: Vec<[u32; 2]> = (0..rows).map(|t| [rows - t, 7000]).collect();
                picks.last_mut().into_iter().for_each(|pick| pick[0] = u32::MAX);
                let params = Params { rows, n, x_rows, y_stride, y_offset, eps };
                Case::of_reference(format!("{rows}x{n} of {size:e}"), v, params, Data { x, w, picks, y })
            })
            .collect()
    }
}

/// Returns the exact norm of a row.
pub(crate) fn normed(x: &[f64], w: &[f32], eps: f32) -> Vec<f64> {
    let scale = scale(x, eps);
    x.iter().zip(w).map(|(x, w)| x * scale * f64::from(*w)).collect()
}

/// Returns the scale of a row: `1/√(mean(x²) + eps)`.
pub(crate) fn scale(x: &[f64], eps: f32) -> f64 {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    1.0 / (mean + f64::from(eps)).sqrt()
}

/// Returns the exact norm of a row, each value with its bound.
pub(crate) fn near(x: &[f64], w: &[f32], eps: f32) -> Vec<(f64, f64)> {
    let exact = normed(x, w, eps);
    let rms = (exact.iter().map(|v| v * v).sum::<f64>() / exact.len() as f64).sqrt();
    exact.into_iter().map(|v| (v, 5e-6 * v.abs() + 1e-7 * rms)).collect()
}
