//! Copies slices of rows.

use super::WG;
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl};

kernel! {
    /// `y[t, y_offset + i] = x[t, x_offset + i]`, for `i` below `n`.
    ///
    /// Shapes: `x` has rows of `x_stride` words of any type, `y` rows of `y_stride`. With an `x_stride` of 0 one row is copied to
    /// all. Bound: exact.
    pub struct CopyRows("elementwise/copy_rows") for ();
    params {
        /// Rows.
        rows: u32,
        /// Words of a row that are copied.
        n: u32,
        /// Distance between rows of `x`.
        x_stride: u32,
        /// First word in a row of `x`.
        x_offset: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// First word in a row of `y`.
        y_offset: u32,
    }
    binds {
        /// The source.
        x: read [u32],
        /// The destination.
        y: write [u32],
    }
}

impl Kernel for CopyRows {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("elementwise/copy_rows.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let n = p.n as usize;
        for t in 0..p.rows {
            let (from, to) = ((t * p.x_stride + p.x_offset) as usize, (t * p.y_stride + p.y_offset) as usize);
            host.y[to..to + n].copy_from_slice(&host.x[from..from + n]);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let n = p.n as usize;
        let mut y = before.y.to_vec();
        for t in 0..p.rows {
            let (from, to) = ((t * p.x_stride + p.x_offset) as usize, (t * p.y_stride + p.y_offset) as usize);
            y[to..to + n].copy_from_slice(&before.x[from..from + n]);
        }
        Some(Expected { y: Some(Expect::Exact(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        // Words that an f32 copy may change: a signalling NaN, the smallest subnormal, minus zero.
        let hard = [0x7f80_0001, 1, 0x8000_0000, u32::MAX];
        [
            ("a slice", Params { rows: 3, n: 300, x_stride: 320, x_offset: 20, y_stride: 310, y_offset: 7 }),
            (
                "Qwen3-30B-A3B's keys of its qkv",
                Params { rows: 2, n: 512, x_stride: 5120, x_offset: 4096, y_stride: 512, y_offset: 0 },
            ),
            ("one row to all", Params { rows: 5, n: 4, x_stride: 0, x_offset: 3, y_stride: 5, y_offset: 1 }),
            ("one word", Params { rows: 1, n: 1, x_stride: 1, x_offset: 0, y_stride: 1, y_offset: 0 }),
        ]
        .into_iter()
        .map(|(name, params)| {
            let p = params;
            let words = (p.rows - 1) * p.x_stride + p.x_offset + p.n;
            let x: Vec<u32> = (0..words).map(|i| hard.get(i as usize % 7).map_or(i, |word| *word)).collect();
            let y = vec![f32::NAN.to_bits(); (p.rows * p.y_stride) as usize];
            let mut expected = y.clone();
            for (at, word) in (0u32..).zip(&mut expected) {
                let (t, i) = (at / p.y_stride, (at % p.y_stride).wrapping_sub(p.y_offset));
                if i < p.n {
                    *word = x[(t * p.x_stride + p.x_offset + i) as usize];
                }
            }
            Case {
                name: name.to_owned(),
                params,
                data: Data { x, y },
                expected: Expected { y: Some(Expect::Exact(expected)), ..Default::default() },
            }
        })
        .collect()
    }
}
