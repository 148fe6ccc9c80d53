//! The router: the top-k experts of each token.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `ids[t]` are the `top_k` experts with the largest `logits[t]`, largest first and of equal ones the lower first;
    /// `weights[t]` is their softmax, over the chosen experts or over all, times `scale`. A shared expert is the last of each
    /// token: its id is `experts`, its weight `scale`, times the sigmoid of its logit if it is gated.
    ///
    /// Shapes: `logits` `[rows, experts]` f32, with a gated shared expert `[rows, experts + 1]`; `ids` and `weights`
    /// `[rows, top_k]`, with a shared expert `[rows, top_k + 1]`; at most [`MAX_EXPERTS`] and [`MAX_K`]. A NaN
    /// counts as the lowest float, so that there are always `top_k` ids below `experts`. Bounds: `ids` exact; `weights`
    /// `1e-5·weight`, and `1e-34` more of a shared expert's. Measured worst on lavapipe: 0.15 of it.
    pub struct RouterTopk("moe/router_topk") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Experts.
        experts: u32,
        /// Experts per token.
        top_k: u32,
        /// The factor of weights.
        scale: f32,
    }
    binds {
        /// The router's output.
        logits: read [f32],
        /// The chosen experts.
        ids: write [u32],
        /// Their weights.
        weights: write [f32],
    }
}

/// The largest number of experts.
pub const MAX_EXPERTS: u32 = 512;
/// The largest number of experts per token.
pub const MAX_K: u32 = 32;

const WG: u32 = 128;

/// How weights are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The chosen experts' weights add up to one.
    pub normalise: bool,
    /// The expert that every token uses.
    pub shared: Shared,
}

/// An expert that every token uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shared {
    /// None.
    None,
    /// One whose weight is the sigmoid of a logit.
    Gated,
    /// One whose weight is one.
    Ungated,
}

impl Shared {
    /// Returns the number of such experts.
    pub(crate) fn count(self) -> u32 {
        u32::from(self != Self::None)
    }

    /// Returns the number of their logits.
    fn logits(self) -> u32 {
        u32::from(self == Self::Gated)
    }
}

impl Kernel for RouterTopk {
    fn supported(_: &Caps) -> Vec<Variant> {
        let shared = [Shared::Gated, Shared::Ungated, Shared::None];
        shared.into_iter().flat_map(|shared| [true, false].map(|normalise| Variant { normalise, shared })).collect()
    }

    fn source(v: Variant) -> Source {
        Source::new(wgsl!("moe/router_topk.wgsl"), WG)
            .constant("NORMALISE", v.normalise)
            .constant("SHARED", v.shared != Shared::None)
            .constant("GATED", v.shared == Shared::Gated)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let (used, stride) = (p.used(v) as usize, (p.experts + v.shared.logits()) as usize);
        let outputs = host.ids.chunks_exact_mut(used).zip(host.weights.chunks_exact_mut(used));
        for (logits, (ids, weights)) in host.logits.chunks_exact(stride).zip(outputs).take(p.rows as usize) {
            for ((id, weight), (exact_id, exact)) in ids.iter_mut().zip(weights).zip(route(v, logits, p)) {
                (*id, *weight) = (exact_id, exact as f32);
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (k, stride) = (p.used(v) as usize, (p.experts + v.shared.logits()) as usize);
        let (mut ids, mut weights) = (before.ids.to_vec(), Expect::unchanged(before.weights));
        let outputs = ids.chunks_exact_mut(k).zip(weights.chunks_exact_mut(k));
        for (logits, (ids, weights)) in before.logits.chunks_exact(stride).zip(outputs).take(p.rows as usize) {
            for ((id, weight), (exact_id, exact)) in ids.iter_mut().zip(weights).zip(route(v, logits, p)) {
                // The gate's exponent is clamped.
                let floor = if exact_id == p.experts { 1e-34 } else { 1e-37 };
                (*id, *weight) = (exact_id, (exact, 1e-5 * exact.abs() + floor));
            }
        }
        let (ids, weights) = (Some(Expect::Exact(ids)), Some(Expect::Near(weights)));
        Some(Expected { ids, weights, ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let mut rng = Rng::new(9);
        let mut random =
            |rows: u32, experts: u32| -> Vec<f32> { (0..rows * experts).map(|_| 2.0 * rng.normal()).collect() };
        let shared: Vec<f32> = [0.3, -2.0, 30.0, -300.0, 300.0].into();
        let mut with_nan = random(1, 8);
        with_nan[3] = f32::NAN;
        [
            ("Qwen3-30B-A3B", 5, 128, 8, random(5, 128)),
            ("512 experts, 32 chosen", 2, 512, 32, random(2, 512)),
            ("one of 8", 4, 8, 1, random(4, 8)),
            ("all of 6", 2, 6, 6, random(2, 6)),
            ("equal logits", 1, 60, 4, vec![0.25; 60]),
            ("far apart", 1, 4, 2, vec![-80.0, 90.0, 20.0, -1e4]),
            ("a NaN", 1, 8, 8, with_nan),
        ]
        .into_iter()
        .map(|(name, rows, experts, k, logits)| {
            let outputs = (rows * (k + v.shared.count())) as usize;
            let gate = |row: usize| &shared[row % shared.len()..][..v.shared.logits() as usize];
            let logits = logits.chunks_exact(experts as usize).enumerate();
            let logits = logits.flat_map(|(row, logits)| [logits, gate(row)].concat()).collect();
            let data = Data { logits, ids: vec![u32::MAX; outputs], weights: vec![f32::NAN; outputs] };
            Case::of_reference(
                name,
                v,
                Params { rows, experts, top_k: k, scale: if rows == 5 { 0.22 } else { 1.0 } },
                data,
            )
        })
        .collect()
    }
}

impl Params {
    /// Returns the number of a token's experts.
    fn used(&self, v: Variant) -> u32 {
        self.top_k + v.shared.count()
    }
}

fn route(v: Variant, logits: &[f32], p: &Params) -> Vec<(u32, f64)> {
    let (logits, gate) = logits.split_at(p.experts as usize);
    let logits: Vec<f64> = logits.iter().map(|l| f64::from(if l.is_nan() { f32::MIN } else { *l })).collect();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let of = |e: u32| logits[e as usize];
    order.sort_by(|a, b| of(*b).total_cmp(&of(*a)).then(a.cmp(b)));
    let chosen = &order[..(p.top_k as usize).min(order.len())];
    let largest = of(chosen[0]);
    let exp_sum: f64 = if v.normalise { chosen } else { &order[..] }.iter().map(|e| (of(*e) - largest).exp()).sum();
    let scale = f64::from(p.scale);
    let weights = chosen.iter().map(|e| (*e, scale * (of(*e) - largest).exp() / exp_sum));
    let sigmoid = gate.first().map_or(1.0, |logit| 1.0 / (1.0 + (-f64::from(*logit)).exp()));
    weights.chain((v.shared != Shared::None).then_some((p.experts, scale * sigmoid))).collect()
}
