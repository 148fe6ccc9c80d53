//! The norm of the delta rule's output.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::elementwise::rms_norm::near,
    quant::Rng,
};

kernel! {
    /// `y[t, h] = norm(x[t, h]) ⊙ silu(z[t, h])`, an RMS norm of each head with the weights `w`.
    ///
    /// Shapes: `x` `[rows, heads, head_dim]` f32; `w` `[head_dim]`; `z` rows of `z_stride` f32, from `z_offset` on
    /// `[heads, head_dim]`, both multiples of four; `y` as `x`. Bound: with `n ± e` the norm within that of
    /// [`RmsNorm`](crate::kernels::elementwise::rms_norm::RmsNorm), `e·|silu(z)| + 2e-6·|y|`.
    pub struct GatedRmsNorm("delta_net/gated_rms_norm") for ();
    params {
        /// Tokens.
        rows: u32,
        /// Heads of a token.
        heads: u32,
        /// Elements of a head: a multiple of four.
        head_dim: u32,
        /// Distance between rows of `z`.
        z_stride: u32,
        /// The first gate in a row of `z`.
        z_offset: u32,
        /// Added to the mean square.
        eps: f32,
    }
    binds {
        /// The heads.
        x: read [[f32; 4]],
        /// The norm's weights.
        w: read [[f32; 4]],
        /// The gates.
        z: read [[f32; 4]],
        /// The normed heads, gated.
        y: write [[f32; 4]],
    }
}

const WG: u32 = 64;

impl Kernel for GatedRmsNorm {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("delta_net/gated_rms_norm.wgsl"), WG).with(wgsl!("lib/silu.wgsl"))
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.heads.div_ceil(WG / 8), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let exact = gated(p, host.x, host.w, host.z);
        for (y, (exact, _)) in host.y.as_flattened_mut().iter_mut().zip(exact) {
            *y = exact as f32;
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut y = Expect::unchanged(before.y.as_flattened());
        let gated = gated(p, before.x, before.w, before.z);
        y[..gated.len()].copy_from_slice(&gated);
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        // The smallest, a tail, Qwen3.6-35B-A3B.
        [(2, 1, 4, 1.0), (3, 11, 36, 1e-5), (2, 32, 128, 1.0), (1, 3, 256, 1e4)]
            .into_iter()
            .map(|(rows, heads, head_dim, size)| {
                let mut rng = Rng::new(u64::from(head_dim));
                let mut random = |count: u32, size: f32| -> Vec<[f32; 4]> {
                    (0..count / 4).map(|_| [(); 4].map(|()| size * rng.normal())).collect()
                };
                let (row, z_offset) = (heads * head_dim, 12);
                let z_stride = row + z_offset + 4;
                let (x, w, z) = (random(rows * row, size), random(head_dim, 1.0), random(rows * z_stride, 3.0));
                // The element behind the last one must stay.
                let y = vec![[f32::NAN; 4]; (rows * row / 4 + 1) as usize];
                let params = Params { rows, heads, head_dim, z_stride, z_offset, eps: 1e-6 };
                let name = format!("{rows} rows, {heads} heads of {head_dim}");
                Case::of_reference(name, (), params, Data { x, w, z, y })
            })
            .collect()
    }
}

/// Returns `y`, each element with its bound.
fn gated(p: &Params, x: &[[f32; 4]], w: &[[f32; 4]], z: &[[f32; 4]]) -> Vec<(f64, f64)> {
    let row = (p.heads * p.head_dim) as usize;
    let gates = z.as_flattened().chunks(p.z_stride as usize).map(|z| &z[p.z_offset as usize..][..row]);
    let rows = x.as_flattened().chunks_exact(row).zip(gates).take(p.rows as usize);
    let heads = rows.flat_map(|(x, z)| {
        x.chunks_exact(p.head_dim as usize).zip(z.chunks_exact(p.head_dim as usize)).flat_map(|(x, z)| {
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let normed = near(&x, w.as_flattened(), p.eps);
            normed.into_iter().zip(z).map(|((norm, error), z)| {
                let z = f64::from(*z);
                let gate = z / (1.0 + (-z).exp());
                (norm * gate, error * gate.abs() + 2e-6 * (norm * gate).abs())
            })
        })
    });
    heads.collect()
}
