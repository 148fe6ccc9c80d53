//! Residual add and RMS norm, fused.

use super::{WG, rms_norm};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `residual[t] += x[t]`, then `y[t] = residual[t] / √(mean(residual[t]²) + eps) · w`.
    ///
    /// Shapes: `x`, `residual` and `y` `[rows, n]`, `w` `[n]`, all f32. Bounds: of `residual` `b = 1e-6·(|residual| + |x|)`; of
    /// `y` `5e-6·|y| + 1e-7·rms(y) + b·|w|·scale`, with the row's `scale = 1/√(mean + eps)`. Measured worst on lavapipe: 0.06
    /// of it.
    pub struct FusedAddRmsNorm("elementwise/fused_add_rms_norm") for ();
    params {
        /// Rows.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// Added to the mean square.
        eps: f32,
    }
    binds {
        /// The summand.
        x: read [f32],
        /// The weight of each element.
        w: read [f32],
        /// What it is added to.
        residual: write [f32],
        /// The normed rows.
        y: write [f32],
    }
}

impl Kernel for FusedAddRmsNorm {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        let source = Source::new(wgsl!("elementwise/fused_add_rms_norm.wgsl"), WG);
        source.with(wgsl!("lib/reduce.wgsl")).with(wgsl!("lib/norm.wgsl"))
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        let rows = host.residual.chunks_exact_mut(n).zip(host.x.chunks_exact(n)).zip(host.y.chunks_exact_mut(n));
        for ((residual, x), y) in rows.take(p.rows as usize) {
            for (residual, x) in residual.iter_mut().zip(x) {
                *residual = (f64::from(*residual) + f64::from(*x)) as f32;
            }
            // The norm is of the stored residual, as by a kernel of its own.
            let sums: Vec<f64> = residual.iter().map(|sum| f64::from(*sum)).collect();
            for (y, normed) in y.iter_mut().zip(rms_norm::normed(&sums, host.w, p.eps)) {
                *y = normed as f32;
            }
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let (mut residual, mut y) = (Expect::unchanged(before.residual), Expect::unchanged(before.y));
        let rows = residual.chunks_exact_mut(n).zip(before.x.chunks_exact(n)).zip(y.chunks_exact_mut(n));
        for ((residual, x), y) in rows.take(p.rows as usize) {
            for ((sum, bound), x) in residual.iter_mut().zip(x) {
                let (r, x) = (*sum, f64::from(*x));
                (*sum, *bound) = (r + x, 1e-6 * (r.abs() + x.abs()));
            }
            y.copy_from_slice(&near_sums(residual, before.w, p.eps));
        }
        Some(Expected { residual: Some(Expect::Near(residual)), y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        // One element, a tail, Qwen3-30B-A3B's hidden size; values from tiny to huge.
        [(1, 1, 1.0), (3, 300, 1e-6), (2, 2048, 1.0), (2, 257, 1e4)]
            .into_iter()
            .map(|(rows, n, size)| {
                let mut rng = Rng::new(u64::from(n) + 1);
                let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
                let w: Vec<f32> = random(n).into_iter().map(|w| 1.0 + 0.1 * w).collect();
                let [x, residual] =
                    [(); 2].map(|()| random(rows * n).into_iter().map(|v| v * size).collect::<Vec<_>>());
                let eps = 1e-6;
                // The element behind the last row must stay.
                let y = vec![f32::NAN; (rows * n + 1) as usize];
                let params = Params { rows, n, eps };
                Case::of_reference(format!("{rows}x{n} of {size:e}"), (), params, Data { x, w, residual, y })
            })
            .collect()
    }
}

/// Returns the exact norm of a row of sums, each element with its bound: `norm + sum·|w|·scale`.
pub(crate) fn near_sums(sums: &[(f64, f64)], w: &[f32], eps: f32) -> Vec<(f64, f64)> {
    let exact: Vec<f64> = sums.iter().map(|(sum, _)| *sum).collect();
    let scale = rms_norm::scale(&exact, eps);
    let near = rms_norm::near(&exact, w, eps).into_iter();
    near.zip(sums)
        .zip(w)
        .map(|(((value, near), (_, sum)), w)| (value, near + sum * scale * f64::from(*w).abs()))
        .collect()
}
