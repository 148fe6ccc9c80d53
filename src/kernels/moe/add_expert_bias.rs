//! The biases of experts.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[a] += bias[ids[a]]`, for each assignment `a` of a token to an expert.
    ///
    /// Shapes: `ids` `[assignments]`, clamped to the experts; `bias` `[experts, n]` f32; `y` `[assignments, n]` f32. Bound:
    /// `1e-6·(|y| + |bias|)`. Measured worst on lavapipe: 0.06 of it.
    pub struct AddExpertBias("moe/add_expert_bias") for ();
    params {
        /// Assignments.
        assignments: u32,
        /// Elements of a row.
        n: u32,
        /// Experts.
        experts: u32,
    }
    binds {
        /// The expert of each assignment.
        ids: read [u32],
        /// The biases.
        bias: read [f32],
        /// What they are added to.
        y: write [f32],
    }
}

const WG: u32 = 256;

impl Kernel for AddExpertBias {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("moe/add_expert_bias.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.assignments }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for (y, id) in host.y.chunks_exact_mut(n).zip(host.ids).take(p.assignments as usize) {
            let bias = &host.bias[(*id).min(p.experts - 1) as usize * n..][..n];
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut y = Expect::unchanged(before.y);
        for (y, id) in y.chunks_exact_mut(n).zip(before.ids).take(p.assignments as usize) {
            let bias = &before.bias[(*id).min(p.experts - 1) as usize * n..][..n];
            for ((y, bound), bias) in y.iter_mut().zip(bias) {
                let bias = f64::from(*bias);
                (*y, *bound) = (*y + bias, 1e-6 * (y.abs() + bias.abs()));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        [("gpt-oss-20b", 8, 2880, 32), ("a tail", 5, 300, 3), ("one element", 1, 1, 1)]
            .into_iter()
            .map(|(name, assignments, n, experts)| {
                let mut rng = Rng::new(u64::from(n));
                // The last id is out of range and becomes the last expert.
                let mut ids: Vec<u32> = (0..assignments).map(|a| a * 7 % experts).collect();
                ids.last_mut().into_iter().for_each(|id| *id = u32::MAX);
                let bias = (0..experts * n).map(|_| rng.normal()).collect();
                // The element behind the last one must stay.
                let y = (0..assignments * n + 1).map(|_| rng.normal()).collect();
                Case::of_reference(name, (), Params { assignments, n, experts }, Data { ids, bias, y })
            })
            .collect()
    }
}
