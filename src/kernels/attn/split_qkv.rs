//! Rows of projections to queries, keys and values.

use super::heads::{bias_bound, qkv_fragment, random};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `q[t], k[t], v[t] = qkv[t] + bias`, the bias where there is one.
    ///
    /// Shapes: `qkv` `[rows, q_len + 2·kv_len]` f32; `bias` of a row; `q` `[rows, q_len]`; `k` and `v`
    /// `[rows, kv_len]`. Bound: `1e-6 · (|qkv| + |bias|)`; exact without a bias. Measured worst on lavapipe: 0.06 of
    /// it.
    pub struct SplitQkv("attn/split_qkv") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Elements of all query heads.
        q_len: u32,
        /// Elements of all key heads.
        kv_len: u32,
    }
    binds {
        /// The projections.
        qkv: read [f32],
        /// The bias of a row of them.
        bias: read [f32] if |v| v.bias,
        /// The queries.
        q: write [f32],
        /// The keys.
        k: write [f32],
        /// The values.
        v: write [f32],
    }
}

/// Bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The projections have a bias.
    pub bias: bool,
}

const WG: u32 = 64;

impl Kernel for SplitQkv {
    fn supported(_: &Caps) -> Vec<Variant> {
        [false, true].map(|bias| Variant { bias }).to_vec()
    }

    fn source(v: Variant) -> Source {
        Source::new(wgsl!("attn/split_qkv.wgsl"), WG).with(qkv_fragment(v.bias))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: (p.q_len + 2 * p.kv_len).div_ceil(WG), y: p.rows }
    }

    fn cpu(_: Variant, p: &Params, host: Host<'_>) {
        let parts = split(p, host.qkv, host.bias);
        for (to, part) in [host.q, host.k, host.v].into_iter().zip(parts) {
            to.iter_mut().zip(part).for_each(|(to, (exact, _))| *to = exact as f32);
        }
    }

    fn reference(_: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut parts = split(p, before.qkv, before.bias).into_iter();
        let [q, k, v] = [&*before.q, &*before.k, &*before.v].map(|before| {
            let mut part = parts.next().unwrap_or_default();
            part.extend(Expect::unchanged(before.get(part.len()..).unwrap_or_default()));
            Some(Expect::Near(part))
        });
        Some(Expected { q, k, v, ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        [(3, 70, 30), (5, 4096, 512)]
            .into_iter()
            .map(|(rows, q_len, kv_len)| {
                let p = Params { rows, q_len, kv_len };
                let mut rng = Rng::new(5);
                let qkv = random(&mut rng, rows * (q_len + 2 * kv_len));
                let bias = if v.bias { random(&mut rng, q_len + 2 * kv_len) } else { Vec::new() };
                // One element more each, which must stay as it is.
                let [q, keys, values] = [q_len, kv_len, kv_len].map(|len| vec![f32::NAN; (rows * len) as usize + 1]);
                let data = Data { qkv, bias, q, k: keys, v: values };
                Case::of_reference(format!("{rows}x{q_len}+2x{kv_len}"), v, p, data)
            })
            .collect()
    }
}

/// Returns queries, keys and values, each element with its bound.
fn split(p: &Params, qkv: &[f32], bias: &[f32]) -> [Vec<(f64, f64)>; 3] {
    let (q_len, kv_len) = (p.q_len as usize, p.kv_len as usize);
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for row in qkv.chunks_exact(q_len + 2 * kv_len).take(p.rows as usize) {
        for (i, x) in row.iter().enumerate() {
            let (x, bias) = (f64::from(*x), f64::from(bias.get(i).copied().unwrap_or_default()));
            let part = if i < q_len { 0 } else { 1 + (i - q_len) / kv_len };
            parts[part].push((x + bias, bias_bound(x, bias)));
        }
    }
    parts
}
