//! The gate of a SwiGLU feed-forward block (Shazeer 2020, arXiv:2002.05202).

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `gate = gate / (1 + e^−gate) · up`, element by element, over `n` f32.
    ///
    /// Bound: 5e-6 of `|gate · up|`. Measured worst on lavapipe: 0.03 of it.
    pub struct SiluMul("elementwise/silu_mul") for ();
    params {
        /// Elements.
        n: u32,
    }
    binds {
        /// The gate, and the result.
        gate: write [f32],
        /// What is gated.
        up: read [f32],
    }
}

impl SiluMul {
    fn variants(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("elementwise/silu_mul.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: 1 }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        for (gate, up) in host.gate.iter_mut().zip(host.up).take(p.n as usize) {
            *gate = gated(*gate, *up) as f32;
        }
    }

    fn definition((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut gate = Expect::unchanged(before.gate);
        for ((out, g), u) in gate.iter_mut().zip(before.gate.iter()).zip(before.up).take(p.n as usize) {
            *out = (gated(*g, *u), 5e-6 * (f64::from(*g) * f64::from(*u)).abs() + f64::from(f32::MIN_POSITIVE));
        }
        Some(Expected { gate: Some(Expect::Near(gate)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let mut rng = Rng::new(5);
        let hard = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 79.0, -79.0, 100.0, -100.0, 1e4, -1e4];
        let random: Vec<f32> = (0..769).map(|_| 4.0 * rng.normal()).collect();
        [("random", random), ("hard", hard.to_vec())]
            .into_iter()
            .map(|(name, mut gate)| {
                let n = gate.len() as u32;
                let up: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
                // What lies behind the last element must stay.
                gate.push(3.5);
                Case::of_definition(name, (), Params { n }, Data { gate, up })
            })
            .collect()
    }
}

fn gated(gate: f32, up: f32) -> f64 {
    let gate = f64::from(gate);
    gate / (1.0 + (-gate).exp()) * f64::from(up)
}
