//! The experts' outputs, weighted and added up.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::elementwise::{fused_add_rms_norm::near_sums, rms_norm},
    quant::Rng,
};

kernel! {
    /// `residual[t] += Σ_s weights[t, s] · outputs[t, s]`, slots in order, or `=` this sum; and then, for the next layer,
    /// `y[t] = residual[t] / √(mean(residual[t]²) + eps) · w`.
    ///
    /// Shapes: `weights` `[rows, k]`, `outputs` `[rows, k, n]`, `residual` and `y` `[rows, n]`, `w` `[n]`, all f32. Bounds:
    /// `residual` 1e-6 of the sum of the terms' magnitudes; `y` 5e-6 of the value plus 1e-7 of the row's RMS, and what
    /// the bound of `residual` becomes when it is multiplied by `w` and the row's scale, since terms that cancel leave
    /// their rounding in what is normed. Measured worst on lavapipe: 0.2 of it.
    pub struct WeightedSum("moe/weighted_sum") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// Experts a token.
        k: u32,
        /// Added to the mean square by the norm.
        eps: f32,
    }
    binds {
        /// The experts' weights.
        weights: read [f32],
        /// The experts' outputs.
        outputs: read [f32],
        /// The norm's weight of each element.
        w: read [f32] if |v| v.normed(),
        /// What they are added to, or where their sum goes.
        residual: write [f32],
        /// The normed rows.
        y: write [f32] if |v| v.normed(),
    }
}

/// What becomes of the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// It overwrites the residual.
    Overwrite,
    /// It is added to the residual.
    Add,
    /// It is added to the residual, which is then normed.
    AddNorm,
}

impl Variant {
    fn normed(self) -> bool {
        self == Self::AddNorm
    }
}

const WG: u32 = 256;

impl Kernel for WeightedSum {
    fn supported(_: &Caps) -> Vec<Variant> {
        vec![Variant::Overwrite, Variant::Add, Variant::AddNorm]
    }

    fn source(v: Variant) -> Source {
        let source = if v.normed() {
            Source::new(wgsl!("moe/weighted_sum_norm.wgsl"), WG)
                .with(wgsl!("lib/reduce.wgsl"))
                .with(wgsl!("lib/norm.wgsl"))
        } else {
            Source::new(wgsl!("moe/weighted_sum.wgsl"), WG).constant("ADD", v == Variant::Add)
        };
        source.with(wgsl!("moe/weighted.wgsl"))
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        if v.normed() { Grid { x: p.rows, y: 1 } } else { Grid { x: p.n.div_ceil(WG), y: p.rows } }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for (t, residual) in host.residual.chunks_exact_mut(n).take(p.rows as usize).enumerate() {
            let sums: Vec<f64> = (0..n)
                .map(|i| terms(v, p, host.weights, host.outputs, residual[i], t as u32, i as u32).into_iter().sum())
                .collect();
            for (residual, sum) in residual.iter_mut().zip(&sums) {
                *residual = *sum as f32;
            }
            if v.normed() {
                // Of what is stored, as where the norm is another kernel's.
                let sums: Vec<f64> = residual.iter().map(|sum| f64::from(*sum)).collect();
                for (y, normed) in host.y[t * n..].iter_mut().zip(rms_norm::normed(&sums, host.w, p.eps)) {
                    *y = normed as f32;
                }
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let (mut residual, mut y) = (Expect::unchanged(before.residual), Expect::unchanged(before.y));
        for (t, sums) in residual.chunks_exact_mut(n).take(p.rows as usize).enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                let start = before.residual[t * n + i];
                let terms = terms(v, p, before.weights, before.outputs, start, t as u32, i as u32);
                *sum = (terms.iter().sum(), 1e-6 * terms.iter().map(|term| term.abs()).sum::<f64>());
            }
            if v.normed() {
                y[t * n..][..n].copy_from_slice(&near_sums(sums, before.w, p.eps));
            }
        }
        let y = v.normed().then_some(Expect::Near(y));
        Some(Expected { residual: Some(Expect::Near(residual)), y, ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        [(3, 300, 2), (2, 2048, 8), (1, 1, 1)]
            .into_iter()
            .map(|(rows, n, k)| {
                let mut rng = Rng::new(u64::from(n));
                let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
                let (weights, outputs, mut residual) = (random(rows * k), random(rows * k * n), random(rows * n));
                let w = if v.normed() { random(n) } else { Vec::new() };
                if v == Variant::Overwrite {
                    residual.fill(f32::NAN);
                }
                let params = Params { rows, n, k, eps: 1e-6 };
                let y = if v.normed() { vec![f32::NAN; (rows * n) as usize] } else { Vec::new() };
                Case::of_reference(format!("{rows}x{k}x{n}"), v, params, Data { weights, outputs, w, residual, y })
            })
            .collect()
    }
}

/// What element `i` of token `t` is the sum of: the residual's, where it stays, and each expert's.
fn terms(v: Variant, p: &Params, weights: &[f32], outputs: &[f32], residual: f32, t: u32, i: u32) -> Vec<f64> {
    let experts = (t * p.k..(t + 1) * p.k)
        .map(|pair| f64::from(weights[pair as usize]) * f64::from(outputs[(pair * p.n + i) as usize]));
    (v != Variant::Overwrite).then_some(f64::from(residual)).into_iter().chain(experts).collect()
}
