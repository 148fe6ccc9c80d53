//! A block's output added to the residual, and the next block's norm of it.

use super::{WG, rms_norm};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    kernels::Reduce,
    quant::Rng,
};

kernel! {
    /// `residual[t] += x[t]`, then `y[t] = residual[t] / √(mean(residual[t]²) + eps) · w`.
    ///
    /// Shapes: `x`, `residual` and `y` `[rows, n]`, `w` `[n]`, all f32. Bounds: `residual` 1e-6 of `|residual| + |x|`, `y`
    /// 5e-6 of the value plus 1e-7 of the row's RMS. Measured worst on lavapipe: 0.06 of it.
    pub struct FusedAddRmsNorm("elementwise/fused_add_rms_norm") for Reduce;
    params {
        /// Rows.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// Added to the mean square.
        eps: f32,
    }
    binds {
        /// What is added.
        x: read [f32],
        /// The weight of each element.
        w: read [f32],
        /// What it is added to.
        residual: write [f32],
        /// The normed rows.
        y: write [f32],
    }
}

impl FusedAddRmsNorm {
    fn variants(caps: &Caps) -> Vec<Reduce> {
        Reduce::available(caps).to_vec()
    }

    fn source(reduce: Reduce) -> Source {
        let source = Source::new(wgsl!("elementwise/fused_add_rms_norm.wgsl"), WG);
        reduce.fill(source).with(wgsl!("lib/norm.wgsl"))
    }

    fn grid(_: Reduce, p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu(_: Reduce, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        let rows = host.residual.chunks_exact_mut(n).zip(host.x.chunks_exact(n)).zip(host.y.chunks_exact_mut(n));
        for ((residual, x), y) in rows.take(p.rows as usize) {
            let sums: Vec<f64> = residual.iter().zip(x).map(|(r, x)| f64::from(*r) + f64::from(*x)).collect();
            let normed = rms_norm::normed(&sums, host.w, p.eps);
            for ((residual, sum), (y, normed)) in residual.iter_mut().zip(&sums).zip(y.iter_mut().zip(normed)) {
                (*residual, *y) = (*sum as f32, normed as f32);
            }
        }
    }

    fn cases(_: Reduce) -> Vec<Case<Self>> {
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
                let pairs = residual.iter().zip(&x).map(|(r, x)| (f64::from(*r), f64::from(*x)));
                let sums: Vec<_> = pairs.map(|(r, x)| (r + x, 1e-6 * (r.abs() + x.abs()))).collect();
                let exact: Vec<f64> = sums.iter().map(|(sum, _)| *sum).collect();
                let rows_exact = exact.chunks_exact(n as usize);
                let mut normed: Vec<_> = rows_exact.flat_map(|row| rms_norm::near(row, &w, eps)).collect();
                // What lies behind the last row must stay.
                let y = vec![f32::NAN; (rows * n + 1) as usize];
                normed.push((f64::NAN, 0.0));
                Case {
                    name: format!("{rows}x{n} of {size:e}"),
                    params: Params { rows, n, eps },
                    data: Data { x, w, residual, y },
                    expected: Expected {
                        residual: Some(Expect::Near(sums)),
                        y: Some(Expect::Near(normed)),
                        ..Default::default()
                    },
                }
            })
            .collect()
    }
}
