//! The gate of an expert that every token uses.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `residual[t] += sigmoid(x[t] · w) · shared_output[t]`.
    ///
    /// Shapes: `x`, `shared_output` and `residual` `[rows, n]`, `w` `[n]`, all f32. Bound: of the gate `g`
    /// `e = 5e-7·Σ|x·w| + 2e-6`; of `residual` `1e-6·(|residual| + |g·shared_output|) + e·|shared_output|`. Measured worst on
    /// lavapipe: 0.3 of it.
    pub struct GatedAdd("moe/gated_add") for ();
    params {
        /// Tokens.
        rows: u32,
        /// Elements of a row.
        n: u32,
    }
    binds {
        /// The input of the feed-forward block.
        x: read [f32],
        /// The gate's weights.
        w: read [f32],
        /// The expert's output.
        shared_output: read [f32],
        /// What it is added to.
        residual: write [f32],
    }
}

const WG: u32 = 256;

impl Kernel for GatedAdd {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("moe/gated_add.wgsl"), WG).with(wgsl!("lib/reduce.wgsl"))
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        let rows = host.x.chunks_exact(n).zip(host.shared_output.chunks_exact(n));
        for (residual, (x, shared)) in host.residual.chunks_exact_mut(n).zip(rows).take(p.rows as usize) {
            let (gate, _) = gate(x, host.w);
            for (residual, shared) in residual.iter_mut().zip(shared) {
                *residual = (f64::from(*residual) + gate * f64::from(*shared)) as f32;
            }
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut residual = Expect::unchanged(before.residual);
        let rows = before.x.chunks_exact(n).zip(before.shared_output.chunks_exact(n));
        for (residual, (x, shared)) in residual.chunks_exact_mut(n).zip(rows).take(p.rows as usize) {
            let (gate, error) = gate(x, before.w);
            for ((sum, bound), shared) in residual.iter_mut().zip(shared) {
                let (start, shared) = (*sum, f64::from(*shared));
                let term = gate * shared;
                (*sum, *bound) = (start + term, 1e-6 * (start.abs() + term.abs()) + error * shared.abs());
            }
        }
        Some(Expected { residual: Some(Expect::Near(residual)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        [("Qwen1.5-MoE-A2.7B", 2, 2048, 0.05), ("a tail", 3, 300, 1.0), ("far gates", 4, 1, 300.0)]
            .into_iter()
            .map(|(name, rows, n, size)| {
                let mut rng = Rng::new(u64::from(n));
                let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
                let w = random(n).into_iter().map(|w| size * w).collect();
                let (x, shared_output) = (random(rows * n), random(rows * n));
                // The element behind the last one must stay.
                let residual = random(rows * n + 1);
                Case::of_reference(name, (), Params { rows, n }, Data { x, w, shared_output, residual })
            })
            .collect()
    }
}

/// Returns a token's gate, with its bound.
fn gate(x: &[f32], w: &[f32]) -> (f64, f64) {
    let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term: f64| (sum + term, size + term.abs()));
    (1.0 / (1.0 + (-sum).exp()), 5e-7 * size + 2e-6)
}
