//! Adds rows, or slices of rows.

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[t, y_offset + i] += factor · x[t, x_offset + i]`, for `i` below `n`.
    ///
    /// Shapes: `x` has rows of `x_stride` f32, `y` rows of `y_stride`. With an `x_stride` of 0 one row, such as a bias, is added
    /// to all. Bound: `1e-6·(|y| + |factor·x|)`. Measured worst on lavapipe: 0.09 of it.
    pub struct AddRows("elementwise/add_rows") for ();
    params {
        /// Rows.
        rows: u32,
        /// Elements of a row that are added.
        n: u32,
        /// Distance between rows of `x`.
        x_stride: u32,
        /// First element in a row of `x`.
        x_offset: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// First element in a row of `y`.
        y_offset: u32,
        /// The factor of `x`.
        factor: f32,
    }
    binds {
        /// The summands.
        x: read [f32],
        /// What they are added to.
        y: write [f32],
    }
}

impl Kernel for AddRows {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("elementwise/add_rows.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        for t in 0..p.rows {
            let (from, to) = (t * p.x_stride + p.x_offset, t * p.y_stride + p.y_offset);
            for (y, x) in host.y.iter_mut().skip(to as usize).zip(&host.x[from as usize..]).take(p.n as usize) {
                *y = (f64::from(*y) + f64::from(p.factor) * f64::from(*x)) as f32;
            }
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut y = Expect::unchanged(before.y);
        for t in 0..p.rows {
            let (from, to) = ((t * p.x_stride + p.x_offset) as usize, (t * p.y_stride + p.y_offset) as usize);
            for ((value, bound), x) in y[to..].iter_mut().zip(&before.x[from..]).take(p.n as usize) {
                let term = f64::from(p.factor) * f64::from(*x);
                (*value, *bound) = (*value + term, 1e-6 * (value.abs() + term.abs()));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        [
            ("a bias", Params { rows: 3, n: 300, x_stride: 0, x_offset: 0, y_stride: 310, y_offset: 7, factor: 1.0 }),
            (
                "Qwen3-30B-A3B's residual",
                Params { rows: 2, n: 2048, x_stride: 2048, x_offset: 0, y_stride: 2048, y_offset: 0, factor: 1.0 },
            ),
            (
                "slices",
                Params { rows: 4, n: 257, x_stride: 300, x_offset: 43, y_stride: 261, y_offset: 2, factor: -0.3 },
            ),
            ("one element", Params { rows: 1, n: 1, x_stride: 1, x_offset: 0, y_stride: 1, y_offset: 0, factor: 1e4 }),
        ]
        .into_iter()
        .map(|(name, params)| {
            let p = params;
            let mut rng = Rng::new(u64::from(p.n));
            let x: Vec<f32> = (0..p.rows * p.x_stride.max(p.n)).map(|_| rng.normal()).collect();
            let y: Vec<f32> = (0..p.rows * p.y_stride).map(|_| rng.normal()).collect();
            Case::of_reference(name, (), params, Data { x, y })
        })
        .collect()
    }
}
