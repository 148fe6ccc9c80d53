//! The experts' outputs, weighted and added to the residual.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `residual[t] += Σ_s weights[t, s] · outputs[t, s]`, slots in order.
    ///
    /// Shapes: `weights` `[rows, k]`, `outputs` `[rows, k, n]`, `residual` `[rows, n]`, all f32. Bound: 1e-6 of the sum
    /// of the terms' magnitudes. Measured worst on lavapipe: 0.2 of it.
    pub struct WeightedSum("moe/weighted_sum") for ();
    params {
        /// Tokens.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// Experts a token.
        k: u32,
    }
    binds {
        /// The experts' weights.
        weights: read [f32],
        /// The experts' outputs.
        outputs: read [f32],
        /// What they are added to.
        residual: write [f32],
    }
}

const WG: u32 = 256;

impl WeightedSum {
    fn variants(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("moe/weighted_sum.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let (n, k) = (p.n as usize, p.k as usize);
        let tokens = host.weights.chunks_exact(k).zip(host.outputs.chunks_exact(n * k));
        for ((weights, outputs), residual) in tokens.zip(host.residual.chunks_exact_mut(n)).take(p.rows as usize) {
            for (i, residual) in residual.iter_mut().enumerate() {
                let terms = weights.iter().enumerate().map(|(s, w)| f64::from(*w) * f64::from(outputs[s * n + i]));
                *residual = (f64::from(*residual) + terms.sum::<f64>()) as f32;
            }
        }
    }

    fn definition((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let (n, k) = (p.n as usize, p.k as usize);
        let mut residual = Expect::unchanged(before.residual);
        let tokens = before.weights.chunks_exact(k).zip(before.outputs.chunks_exact(n * k));
        for ((weights, outputs), residual) in tokens.zip(residual.chunks_exact_mut(n)).take(p.rows as usize) {
            for (i, (sum, bound)) in residual.iter_mut().enumerate() {
                *bound = 1e-6 * sum.abs();
                for (slot, weight) in weights.iter().enumerate() {
                    let term = f64::from(*weight) * f64::from(outputs[slot * n + i]);
                    *sum += term;
                    *bound += 1e-6 * term.abs();
                }
            }
        }
        Some(Expected { residual: Some(Expect::Near(residual)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        [(3, 300, 2), (2, 2048, 8), (1, 1, 1)]
            .into_iter()
            .map(|(rows, n, k)| {
                let mut rng = Rng::new(u64::from(n));
                let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
                let (weights, outputs, residual) = (random(rows * k), random(rows * k * n), random(rows * n));
                let data = Data { weights, outputs, residual };
                Case::of_definition(format!("{rows}x{k}x{n}"), (), Params { rows, n, k }, data)
            })
            .collect()
    }
}
