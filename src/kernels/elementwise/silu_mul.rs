//! SwiGLU: the gate of a feed-forward block (Shazeer 2020, arXiv:2002.05202).

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y = gate / (1 + e^−gate) · up`, element by element.
    ///
    /// Shapes: `y` `[rows, n]` f32. Split: `x` is `up`, of the same shape, and `y` holds the gate before the result.
    /// Interleaved: `x` `[rows, 2n]` holds both. Bound: `5e-6·|gate·up|`. Measured worst on lavapipe: 0.03 of it.
    pub struct SiluMul("elementwise/silu_mul") for Layout;
    params {
        /// Rows.
        rows: u32,
        /// Elements of a row of `y`.
        n: u32,
    }
    binds {
        /// `up`, or `gate` and `up`.
        x: read [f32],
        /// The result; split, the gate before it.
        y: write [f32],
    }
}

/// Where gate and up are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The gate in `y`, up in `x`.
    Split,
    /// Gate and up alternate in each row of `x`.
    Interleaved,
}

impl Layout {
    /// Returns elements `i` of gate and up in row `row`, of `n` elements each.
    fn gate_and_up(self, x: &[f32], y: &[f32], row: usize, i: usize, n: usize) -> [f32; 2] {
        let at = row * n + i;
        match self {
            Self::Split => [y[at], x[at]],
            Self::Interleaved => [x[2 * at], x[2 * at + 1]],
        }
    }
}

impl Kernel for SiluMul {
    fn supported(_: &Caps) -> Vec<Layout> {
        vec![Layout::Split, Layout::Interleaved]
    }

    fn source(layout: Layout) -> Source {
        Source::new(wgsl!("elementwise/silu_mul.wgsl"), WG)
            .with(wgsl!("lib/silu.wgsl"))
            .constant("INTERLEAVED", layout == Layout::Interleaved)
    }

    fn grid(_: Layout, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu(layout: Layout, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for row in 0..p.rows as usize {
            for i in 0..n {
                let [gate, up] = layout.gate_and_up(host.x, host.y, row, i, n);
                host.y[row * n + i] = gated(gate, up) as f32;
            }
        }
    }

    fn reference(layout: Layout, p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut y = Expect::unchanged(before.y);
        for row in 0..p.rows as usize {
            for i in 0..n {
                let [gate, up] = layout.gate_and_up(before.x, before.y, row, i, n);
                let bound = 5e-6 * (f64::from(gate) * f64::from(up)).abs() + f64::from(f32::MIN_POSITIVE);
                y[row * n + i] = (gated(gate, up), bound);
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(layout: Layout) -> Vec<Case<Self>> {
        let mut rng = Rng::new(5);
        let hard = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 79.0, -79.0, 100.0, -100.0, 1e4, -1e4];
        let random: Vec<f32> = (0..3 * 257).map(|_| 4.0 * rng.normal()).collect();
        let inner: Vec<f32> = (0..8 * 768).map(|_| 4.0 * rng.normal()).collect();
        [("random", 3, random), ("hard", 1, hard.to_vec()), ("Qwen3-30B-A3B's experts", 8, inner)]
            .into_iter()
            .map(|(name, rows, gate)| {
                let n = gate.len() / rows;
                let up: Vec<f32> = gate.iter().map(|_| rng.normal()).collect();
                let x = match layout {
                    Layout::Split => up,
                    Layout::Interleaved => gate.iter().zip(&up).flat_map(|(g, u)| [*g, *u]).collect(),
                };
                let mut y = if layout == Layout::Split { gate } else { vec![f32::NAN; gate.len()] };
                // The element behind the last one must stay.
                y.push(f32::NAN);
                let params = Params { rows: rows as u32, n: n as u32 };
                Case::of_reference(name, layout, params, Data { x, y })
            })
            .collect()
    }
}

fn gated(gate: f32, up: f32) -> f64 {
    let gate = f64::from(gate);
    gate / (1.0 + (-gate).exp()) * f64::from(up)
}
