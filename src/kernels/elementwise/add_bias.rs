//! Adds a bias to a slice of every row.

use super::WG;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[t, y_offset + i] += bias[i]`.
    ///
    /// Shapes: `bias` `[n]`, `y` rows of `y_stride` f32. Bound: 1e-6 of `|y| + |bias|`. Measured worst on lavapipe: 0.06
    /// of it.
    pub struct AddBias("elementwise/add_bias") for ();
    params {
        /// Rows.
        rows: u32,
        /// Elements of the bias.
        n: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// Where in a row the bias starts.
        y_offset: u32,
    }
    binds {
        /// The bias.
        bias: read [f32],
        /// The rows.
        y: write [f32],
    }
}

impl AddBias {
    fn variants(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("elementwise/add_bias.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        for row in host.y.chunks_mut(p.y_stride as usize).take(p.rows as usize) {
            for (y, bias) in row.iter_mut().skip(p.y_offset as usize).zip(host.bias).take(p.n as usize) {
                *y += bias;
            }
        }
    }

    fn definition((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut y = Expect::unchanged(before.y);
        for row in y.chunks_mut(p.y_stride as usize).take(p.rows as usize) {
            for (y, bias) in row.iter_mut().skip(p.y_offset as usize).zip(before.bias).take(p.n as usize) {
                let bias = f64::from(*bias);
                *y = (y.0 + bias, 1e-6 * (y.0.abs() + bias.abs()));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let (rows, n, y_stride, y_offset) = (3, 300, 310, 7);
        let mut rng = Rng::new(6);
        let bias: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
        let y: Vec<f32> = (0..rows * y_stride).map(|_| rng.normal()).collect();
        let params = Params { rows, n, y_stride, y_offset };
        vec![Case::of_definition(format!("{rows}x{n}"), (), params, Data { bias, y })]
    }
}
