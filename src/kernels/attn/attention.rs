//! Causal grouped-query attention over a contiguous cache.

use super::{TESTED_HEAD_DIMS, workgroup};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    kernels::{KvType, Reduce},
    quant::Rng,
};

kernel! {
    /// `y[t, h] = Σ_j softmax_j(q[t, h] · K[h / group, j] · scale) · V[h / group, j]` over the slots `j ≤ positions[t]`.
    ///
    /// Shapes: `q` and `y` `[rows, heads, HD]` f32, `kv` `[2, kv_heads, capacity, HD]` with K first, `positions` `[rows]`
    /// (clamped to the capacity). Bound: `2e-5 + 2⁻²² · max_j Σ|q·k|·scale` of `Σ p|v|`. Measured worst on lavapipe: 0.23
    /// of it.
    pub struct Attention("attn/attention") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Query heads of a key head.
        group: u32,
        /// Slots of the cache.
        capacity: u32,
        /// What scores are multiplied by, `1/√HD`.
        scale: f32,
    }
    binds {
        /// The query heads.
        q: read [f32],
        /// The cache.
        kv: read [u32],
        /// Each token's position.
        positions: read [u32],
        /// The attended values.
        y: write [f32],
    }
}

/// Head size and cache format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: even, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// The cache's format.
    pub kv: KvType,
    /// How sums and maxima over keys are taken.
    pub reduce: Reduce,
}

impl Attention {
    fn variants(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for kv in KvType::available(caps) {
            for reduce in Reduce::available(caps) {
                all.extend(TESTED_HEAD_DIMS.map(|head_dim| Variant { head_dim, kv, reduce: *reduce }));
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        v.reduce
            .fill(Source::new(wgsl!("attn/attention.wgsl"), workgroup(v.head_dim)))
            .with(v.kv.load())
            .constant("HEAD_DIM", v.head_dim)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let hd = v.head_dim as usize;
        let outputs = host.q.chunks_exact(hd).zip(host.y.chunks_exact_mut(hd));
        for (i, (q, y)) in outputs.take((p.rows * p.heads) as usize).enumerate() {
            let (row, head) = (i as u32 / p.heads, i as u32 % p.heads);
            let context = host.positions[row as usize].min(p.capacity - 1) + 1;
            for (y, (exact, _)) in y.iter_mut().zip(attend(v, p, head, context, q, host.kv)) {
                *y = exact as f32;
            }
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let hd = v.head_dim as usize;
        let mut y = Expect::unchanged(before.y);
        let outputs = before.q.chunks_exact(hd).zip(y.chunks_exact_mut(hd));
        for (i, (q, y)) in outputs.take((p.rows * p.heads) as usize).enumerate() {
            let (row, head) = (i as u32 / p.heads, i as u32 % p.heads);
            let context = before.positions[row as usize].min(p.capacity - 1) + 1;
            y.copy_from_slice(&attend(v, p, head, context, q, before.kv));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        // Contexts around the borders of chunks of 32, 64 and 128 keys, in random and in sharply peaked attention.
        let positions = vec![0, 30, 31, 32, 63, 64, 127, 128, 255, 256, 999];
        [("random", 1.0), ("peaked", 8.0)]
            .into_iter()
            .map(|(name, size)| {
                let (rows, heads, kv_heads, capacity) = (positions.len() as u32, 4, 2, 260);
                let hd = v.head_dim as usize;
                let scale = 1.0 / (hd as f32).sqrt();
                let p = Params { rows, heads, kv_heads, group: heads / kv_heads, capacity, scale };
                let mut rng = Rng::new(u64::from(v.head_dim));
                let q: Vec<f32> = (0..(rows * heads) as usize * hd).map(|_| size * rng.normal()).collect();
                let elements = 2 * (kv_heads * capacity) as usize * hd;
                let mut kv = vec![0; elements * v.kv.bytes() as usize / 4];
                (0..elements / 2).for_each(|i| v.kv.write(&mut kv, i, [rng.normal(), rng.normal()]));
                let y = vec![f32::NAN; q.len()];
                Case::of_definition(name, v, p, Data { q, kv, positions: positions.clone(), y })
            })
            .collect()
    }
}

/// One head's output, exactly, with the bound on each element.
fn attend(v: Variant, p: &Params, head: u32, context: u32, q: &[f32], kv: &[u32]) -> Vec<(f64, f64)> {
    let pairs = q.len() / 2;
    let kv_head = head / p.group;
    let element = |plane: u32, slot: u32, pair: usize| {
        let at = ((plane * p.kv_heads + kv_head) * p.capacity + slot) as usize * pairs + pair;
        v.kv.read(kv, at).map(f64::from)
    };
    let mut largest_terms: f64 = 0.0;
    let scores: Vec<f64> = (0..context)
        .map(|slot| {
            let (mut score, mut terms) = (0.0, 0.0);
            for (pair, q) in q.chunks_exact(2).enumerate() {
                let k = element(0, slot, pair);
                let products = [f64::from(q[0]) * k[0], f64::from(q[1]) * k[1]];
                score += products[0] + products[1];
                terms += products[0].abs() + products[1].abs();
            }
            largest_terms = largest_terms.max(terms * f64::from(p.scale));
            score * f64::from(p.scale)
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let mass: f64 = weights.iter().sum();
    let share = 2e-5 + largest_terms / f64::from(1 << 22);
    let mut out = vec![(0.0, 0.0); q.len()];
    for (slot, weight) in weights.iter().enumerate() {
        for (pair, out) in out.chunks_exact_mut(2).enumerate() {
            for (out, value) in out.iter_mut().zip(element(1, slot as u32, pair)) {
                out.0 += weight / mass * value;
                out.1 += share * weight / mass * value.abs();
            }
        }
    }
    out
}
