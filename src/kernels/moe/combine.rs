//! The MoE combine: a token's expert outputs, weighted and summed.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::elementwise::{fused_add_rms_norm::near_sums, rms_norm},
    quant::Rng,
};

kernel! {
    /// `residual[t] += Σ_i weights[t, i] · outputs[t, i]`, with the experts `i` of a token in order; then, normed for the next
    /// layer, `y[t] = residual[t] / √(mean(residual[t]²) + eps) · w`.
    ///
    /// Shapes: `weights` `[rows, top_k]`, `outputs` `[rows, top_k, n]`, `residual` and `y` `[rows, n]`, `w` `[n]`, all f32.
    /// Bounds: of `residual` `b = 1e-6·Σ|terms|`; of `y` `5e-6·|y| + 1e-7·rms(y) + b·|w|·scale`, with the row's
    /// `scale = 1/√(mean + eps)`. Measured worst on lavapipe: 0.2 of it.
    pub struct MoeCombine("moe/combine") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Elements of a row.
        n: u32,
        /// Experts per token.
        top_k: u32,
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
        /// What the sums are added to.
        residual: write [f32],
        /// The normed rows.
        y: write [f32] if |v| v.normed(),
    }
}

/// What happens after the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Nothing.
    Add,
    /// The residual is normed.
    AddNorm,
}

impl Variant {
    fn normed(self) -> bool {
        self == Self::AddNorm
    }
}

const WG: u32 = 256;

impl Kernel for MoeCombine {
    fn supported(_: &Caps) -> Vec<Variant> {
        vec![Variant::Add, Variant::AddNorm]
    }

    fn source(v: Variant) -> Source {
        let source = if v.normed() {
            Source::new(wgsl!("moe/combine_norm.wgsl"), WG).with(wgsl!("lib/reduce.wgsl")).with(wgsl!("lib/norm.wgsl"))
        } else {
            Source::new(wgsl!("moe/combine.wgsl"), WG)
        };
        source.with(wgsl!("moe/expert_sum.wgsl"))
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        if v.normed() { Grid { x: p.rows, y: 1 } } else { Grid { x: p.n.div_ceil(WG), y: p.rows } }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for (t, residual) in host.residual.chunks_exact_mut(n).take(p.rows as usize).enumerate() {
            let sums: Vec<f64> = (0..n)
                .map(|i| terms(p, host.weights, host.outputs, residual[i], t as u32, i as u32).into_iter().sum())
                .collect();
            for (residual, sum) in residual.iter_mut().zip(&sums) {
                *residual = *sum as f32;
            }
            if v.normed() {
                // The norm is of the stored residual, as by a kernel of its own.
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
                let terms = terms(p, before.weights, before.outputs, start, t as u32, i as u32);
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
            .map(|(rows, n, top_k)| {
                let mut rng = Rng::new(u64::from(n));
                let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
                let (weights, outputs, residual) = (random(rows * top_k), random(rows * top_k * n), random(rows * n));
                let w = if v.normed() { random(n) } else { Vec::new() };
                let params = Params { rows, n, top_k, eps: 1e-6 };
                let y = if v.normed() { vec![f32::NAN; (rows * n) as usize] } else { Vec::new() };
                Case::of_reference(format!("{rows}x{top_k}x{n}"), v, params, Data { weights, outputs, w, residual, y })
            })
            .collect()
    }
}

/// Returns the terms of element `i` of token `t`: the residual's, and each expert's.
fn terms(p: &Params, weights: &[f32], outputs: &[f32], residual: f32, t: u32, i: u32) -> Vec<f64> {
    let experts = (t * p.top_k..(t + 1) * p.top_k).map(|assignment| {
        f64::from(weights[assignment as usize]) * f64::from(outputs[(assignment * p.n + i) as usize])
    });
    [f64::from(residual)].into_iter().chain(experts).collect()
}
