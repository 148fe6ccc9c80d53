//! Head-major heads to token-major ones.

use super::heads::random;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[t, h] = x[h, t]`.
    ///
    /// Shapes: `x` `[heads, rows, head_dim]` f32; `y` `[rows, heads · head_dim]`. Exact.
    pub struct TransposeHeads("attn/transpose_heads") for ();
    params {
        /// Tokens.
        rows: u32,
        /// Heads.
        heads: u32,
        /// Elements of a head.
        head_dim: u32,
    }
    binds {
        /// The tokens of each head.
        x: read [f32],
        /// The heads of each token.
        y: write [f32],
    }
}

const WG: u32 = 64;

impl Kernel for TransposeHeads {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("attn/transpose_heads.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: (p.heads * p.head_dim).div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let (rows, heads, hd) = (p.rows as usize, p.heads as usize, p.head_dim as usize);
        for (i, y) in host.y.chunks_exact_mut(hd).take(rows * heads).enumerate() {
            y.copy_from_slice(&host.x[(i % heads * rows + i / heads) * hd..][..hd]);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let (rows, heads, hd) = (p.rows as usize, p.heads as usize, p.head_dim as usize);
        let mut y: Vec<u32> = before.y.iter().map(|y| y.to_bits()).collect();
        for (at, y) in y.iter_mut().take(rows * heads * hd).enumerate() {
            let (row, head, i) = (at / (heads * hd), at / hd % heads, at % hd);
            *y = before.x[(head * rows + row) * hd + i].to_bits();
        }
        Some(Expected { y: Some(Expect::Exact(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        [(1, 4, 16), (3, 5, 34), (7, 32, 128)]
            .into_iter()
            .map(|(rows, heads, head_dim)| {
                let x = random(&mut Rng::new(14), rows * heads * head_dim);
                // One element more, which must stay as it is.
                let y = vec![f32::NAN; x.len() + 1];
                let p = Params { rows, heads, head_dim };
                Case::of_reference(format!("{rows}x{heads}x{head_dim}"), (), p, Data { x, y })
            })
            .collect()
    }
}
