//! The activation of a feed-forward block's gate, and its product with up (Shazeer 2020, arXiv:2002.05202).

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y = act(gate) · up`, element by element, by an [`Activation`].
    ///
    /// Shapes: `y` `[rows, n]` f32. Split: `x` is `up`, of the same shape, and `y` holds the gate before the result.
    /// Interleaved: `x` `[rows, 2n]` holds both. Bound: `5e-6·|gate·up|`, of gpt-oss's activation
    /// `5e-6·|min(gate, 7)|·(|clamp(up, −7, 7)| + 1)`. Measured worst on lavapipe: 0.1 of it.
    pub struct GatedActivation("elementwise/gated_activation") for Variant;
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

/// An activation of a gate `g`, and its product with `u`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// SwiGLU: `silu(g) · u`.
    #[default]
    SwiGlu,
    /// GeGLU: `gelu(g) · u`, with the approximation by the hyperbolic tangent.
    GeGlu,
    /// gpt-oss's: `min(g, 7) · sigmoid(1.702 · min(g, 7)) · (clamp(u, −7, 7) + 1)`.
    SwiGluOai,
}

/// Layout and activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Where gate and up are.
    pub layout: Layout,
    /// The activation.
    pub activation: Activation,
}

impl Activation {
    const ALL: [Self; 3] = [Self::SwiGlu, Self::GeGlu, Self::SwiGluOai];

    /// Returns the product of an activated gate and up, with its bound.
    fn near(self, gate: f32, up: f32) -> (f64, f64) {
        let (gate, up) = (f64::from(gate), f64::from(up));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (exact, size) = match self {
            Self::SwiGlu => (gate * sigmoid(gate) * up, gate * up),
            Self::GeGlu => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * gate * (1.0 + 0.044_715 * gate * gate);
                (gate * sigmoid(2.0 * z) * up, gate * up)
            }
            Self::SwiGluOai => {
                let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
                (gate * sigmoid(1.702 * gate) * (up + 1.0), gate * (up.abs() + 1.0))
            }
        };
        (exact, 5e-6 * size.abs() + f64::from(f32::MIN_POSITIVE))
    }
}

impl Kernel for GatedActivation {
    fn supported(_: &Caps) -> Vec<Variant> {
        let of = |activation| [Layout::Split, Layout::Interleaved].map(|layout| Variant { layout, activation });
        Activation::ALL.into_iter().flat_map(of).collect()
    }

    fn source(v: Variant) -> Source {
        let source = Source::new(wgsl!("elementwise/gated_activation.wgsl"), WG)
            .constant("INTERLEAVED", v.layout == Layout::Interleaved);
        match v.activation {
            Activation::SwiGlu => source.with(wgsl!("lib/silu.wgsl")).with(wgsl!("elementwise/swiglu.wgsl")),
            Activation::GeGlu => source.with(wgsl!("elementwise/geglu.wgsl")),
            Activation::SwiGluOai => source.with(wgsl!("elementwise/swiglu_oai.wgsl")),
        }
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for row in 0..p.rows as usize {
            for i in 0..n {
                let [gate, up] = v.layout.gate_and_up(host.x, host.y, row, i, n);
                host.y[row * n + i] = v.activation.near(gate, up).0 as f32;
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut y = Expect::unchanged(before.y);
        for row in 0..p.rows as usize {
            for i in 0..n {
                let [gate, up] = v.layout.gate_and_up(before.x, before.y, row, i, n);
                y[row * n + i] = v.activation.near(gate, up);
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let mut rng = Rng::new(5);
        let hard = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 79.0, -79.0, 100.0, -100.0, 1e4, -1e4];
        let random: Vec<f32> = (0..3 * 257).map(|_| 4.0 * rng.normal()).collect();
        let inner: Vec<f32> = (0..8 * 768).map(|_| 4.0 * rng.normal()).collect();
        [("random", 3, random), ("hard", 1, hard.to_vec()), ("Qwen3-30B-A3B's experts", 8, inner)]
            .into_iter()
            .map(|(name, rows, gate)| {
                let n = gate.len() / rows;
                let up: Vec<f32> = gate.iter().map(|_| rng.normal()).collect();
                let x = match v.layout {
                    Layout::Split => up,
                    Layout::Interleaved => gate.iter().zip(&up).flat_map(|(g, u)| [*g, *u]).collect(),
                };
                let mut y = if v.layout == Layout::Split { gate } else { vec![f32::NAN; gate.len()] };
                // The element behind the last one must stay.
                y.push(f32::NAN);
                let params = Params { rows: rows as u32, n: n as u32 };
                Case::of_reference(name, v, params, Data { x, y })
            })
            .collect()
    }
}
