//! The factor of queries that grows with their position.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `q[t, i] *= 1 + slope · ln(1 + ⌊position of t / length⌋)`, for `i` below `n` (temperature scaling of Llama 4 and
    /// Ministral 3).
    ///
    /// Shapes: `positions` `[rows, 2]` of position and sequence; `q` rows of `stride` f32. Bound: `2e-6·|result|`, and
    /// `1e-6·|slope·q|` more. Measured worst on lavapipe: 0.1 of it.
    pub struct QueryTemperature("attn/query_temperature") for ();
    params {
        /// Tokens.
        rows: u32,
        /// Elements of a row that are scaled.
        n: u32,
        /// Distance between rows.
        stride: u32,
        /// The length of a step of the factor.
        length: u32,
        /// Its slope.
        slope: f32,
    }
    binds {
        /// Each row's position and sequence.
        positions: read [u32],
        /// The query heads.
        q: write [f32],
    }
}

const WG: u32 = 256;

impl Kernel for QueryTemperature {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("attn/query_temperature.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        for t in 0..p.rows as usize {
            let factor = factor(p, host.positions[2 * t]);
            for q in host.q.iter_mut().skip(t * p.stride as usize).take(p.n as usize) {
                *q = (f64::from(*q) * factor) as f32;
            }
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut q = Expect::unchanged(before.q);
        for t in 0..p.rows as usize {
            let factor = factor(p, before.positions[2 * t]);
            for (q, bound) in q.iter_mut().skip(t * p.stride as usize).take(p.n as usize) {
                let start = *q;
                *q = start * factor;
                *bound = 2e-6 * q.abs() + 1e-6 * (f64::from(p.slope) * start).abs();
            }
        }
        Some(Expected { q: Some(Expect::Near(q)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let positions = [0, 16_383, 16_384, 32_768, 262_143];
        [("Ministral-3-3B", 4096, 6144, 16_384, 0.1), ("a tail", 300, 300, 1, -0.5)]
            .into_iter()
            .map(|(name, n, stride, length, slope)| {
                let mut rng = Rng::new(u64::from(n));
                let rows = positions.len() as u32;
                let q = (0..rows * stride).map(|_| rng.normal()).collect();
                let positions = positions.iter().flat_map(|position| [*position, 0]).collect();
                Case::of_reference(name, (), Params { rows, n, stride, length, slope }, Data { positions, q })
            })
            .collect()
    }
}

fn factor(p: &Params, position: u32) -> f64 {
    1.0 + f64::from(p.slope) * f64::from(1 + position / p.length).ln()
}
