//! From the QKV projection to query heads and a contiguous cache: split, QK-norm, RoPE, store.

use super::{TESTED_HEAD_DIMS, workgroup};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    kernels::{KvType, Reduce},
    quant::Rng,
};

kernel! {
    /// Splits `qkv[t]` into heads. Query and key heads are RMS-normed with the first and the second half of `norm` where
    /// the model does that, and rotated by the angles of `positions[t]` (RoPE, Su et al. 2021, arXiv:2104.09864). Query
    /// heads go to `q`, key and value heads to slot `positions[t]` of the cache.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32, `norm` `[2, HD]`, `rotations` `[capacity, HD/2]` of (cos, sin),
    /// `positions` `[rows]` (clamped to the capacity), `q` `[rows, heads, HD]`, `kv` `[2, kv_heads, capacity, HD]`. Bound:
    /// 3e-6 of the length of the rotated pair; stored as f16 one unit in the last place more. Measured worst on
    /// lavapipe: 0.1 of it in f32, 0.5 in f16.
    pub struct QkvToCache("attn/qkv_to_cache") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Slots of the cache.
        capacity: u32,
        /// Added to the mean square by the norm.
        eps: f32,
    }
    binds {
        /// The projections.
        qkv: read [f32],
        /// The norms' weights.
        norm: read [f32] if |v| v.norm,
        /// Cosines and sines.
        rotations: read [[f32; 2]],
        /// Each token's position.
        positions: read [u32],
        /// The query heads.
        q: write [f32],
        /// The cache.
        kv: write [u32],
    }
}

/// Head size, norm, pairing, cache format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: even, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// Query and key heads are normed.
    pub norm: bool,
    /// RoPE turns neighbours `(2i, 2i + 1)`, as Llama GGUFs have it, and not `(i, i + HD/2)`.
    pub interleaved: bool,
    /// The cache's format.
    pub kv: KvType,
    /// How sums over the head are taken.
    pub reduce: Reduce,
}

impl QkvToCache {
    fn variants(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for kv in KvType::available(caps) {
            for reduce in Reduce::available(caps) {
                for head_dim in TESTED_HEAD_DIMS {
                    for (norm, interleaved) in [(true, false), (false, true)] {
                        all.push(Variant { head_dim, norm, interleaved, kv, reduce: *reduce });
                    }
                }
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        v.reduce
            .fill(Source::new(wgsl!("attn/qkv_to_cache.wgsl"), workgroup(v.head_dim)))
            .with(v.kv.store())
            .with(if v.norm { wgsl!("attn/head_norm.wgsl") } else { wgsl!("attn/head_plain.wgsl") })
            .constant("HEAD_DIM", v.head_dim)
            .constant("INTERLEAVED", v.interleaved)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads + 2 * p.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let hd = v.head_dim as usize;
        let heads = (p.heads + 2 * p.kv_heads) as usize;
        for (row, values) in host.qkv.chunks_exact(hd * heads).take(p.rows as usize).enumerate() {
            let position = host.positions[row].min(p.capacity - 1);
            let turns = &host.rotations[position as usize * hd / 2..][..hd / 2];
            for (head, values) in values.chunks_exact(hd).enumerate() {
                let (exact, _) = turned(v, p, head as u32, values, host.norm, turns);
                for (i, pair) in exact.chunks_exact(2).enumerate() {
                    let pair = [pair[0] as f32, pair[1] as f32];
                    match (head as u32).checked_sub(p.heads) {
                        None => host.q[(row * p.heads as usize + head) * hd + 2 * i..][..2].copy_from_slice(&pair),
                        Some(kv_head) => {
                            v.kv.write(host.kv, (kv_head * p.capacity + position) as usize * hd / 2 + i, pair);
                        }
                    }
                }
            }
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let hd = v.head_dim as usize;
        let row_heads = (p.heads + 2 * p.kv_heads) as usize;
        let mut q = Expect::unchanged(before.q);
        let pairs = (p.kv_heads * p.capacity) as usize * hd;
        let mut kv: Vec<(f64, f64)> =
            (0..pairs).flat_map(|pair| v.kv.read(before.kv, pair)).map(|value| (f64::from(value), 0.0)).collect();
        for (row, values) in before.qkv.chunks_exact(row_heads * hd).take(p.rows as usize).enumerate() {
            let position = before.positions[row].min(p.capacity - 1) as usize;
            let turns = &before.rotations[position * hd / 2..][..hd / 2];
            for (head, values) in values.chunks_exact(hd).enumerate() {
                let (exact, lengths) = turned(v, p, head as u32, values, before.norm, turns);
                let to = match (head as u32).checked_sub(p.heads) {
                    None => &mut q[(row * p.heads as usize + head) * hd..][..hd],
                    Some(kv_head) => &mut kv[((kv_head * p.capacity) as usize + position) * hd..][..hd],
                };
                for (to, (exact, length)) in to.iter_mut().zip(exact.into_iter().zip(lengths)) {
                    *to = (exact, 3e-6 * length);
                }
            }
        }
        let kv = match v.kv {
            KvType::F32 => Expect::Near(kv),
            KvType::F16 => Expect::Halves(kv),
        };
        Some(Expected { q: Some(Expect::Near(q)), kv: Some(kv), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let (rows, heads, kv_heads, capacity, eps) = (3, 4, 2, 9, 1e-6);
        let p = Params { rows, heads, kv_heads, capacity, eps };
        let hd = v.head_dim as usize;
        let mut rng = Rng::new(u64::from(v.head_dim));
        let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
        let row_heads = (heads + 2 * kv_heads) as usize;
        let qkv = random(rows as usize * row_heads * hd);
        let norm = if v.norm { random(2 * hd) } else { Vec::new() };
        let rotations: Vec<[f32; 2]> = (0..capacity as usize * hd / 2)
            .map(|i| {
                let (sin, cos) = (i as f64 * 0.37).sin_cos();
                [cos as f32, sin as f32]
            })
            .collect();
        // The last position is out of range and becomes the last slot.
        let positions = vec![4, 0, 77];
        let q = vec![f32::NAN; (rows * heads) as usize * hd];
        let pairs = (kv_heads * capacity) as usize * hd;
        let mut kv = vec![0; 2 * pairs * v.kv.bytes() as usize / 4];
        // What no token writes must stay.
        (0..pairs).for_each(|pair| v.kv.write(&mut kv, pair, [1.5; 2]));
        let data = Data { qkv, norm, rotations, positions, q, kv };
        vec![Case::of_definition(format!("{rows} tokens"), v, p, data)]
    }
}

/// A head as it leaves the kernel, exactly, and the length of the pair that each element is of.
fn turned(v: Variant, p: &Params, head: u32, values: &[f32], norm: &[f32], turns: &[[f32; 2]]) -> (Vec<f64>, Vec<f64>) {
    let mut exact: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    let mut lengths = vec![0.0; exact.len()];
    if head >= p.heads + p.kv_heads {
        return (exact, lengths);
    }
    let hd = exact.len();
    if v.norm {
        let mean = exact.iter().map(|v| v * v).sum::<f64>() / hd as f64;
        let scale = 1.0 / (mean + f64::from(p.eps)).sqrt();
        let weights = &norm[if head < p.heads { 0 } else { hd }..];
        exact.iter_mut().zip(weights).for_each(|(v, w)| *v *= scale * f64::from(*w));
    }
    for (i, turn) in turns.iter().enumerate() {
        let (first, second) = if v.interleaved { (2 * i, 2 * i + 1) } else { (i, i + hd / 2) };
        let (a, b) = (exact[first], exact[second]);
        let [cos, sin] = turn.map(f64::from);
        (exact[first], exact[second]) = (a * cos - b * sin, b * cos + a * sin);
        (lengths[first], lengths[second]) = (a.hypot(b), a.hypot(b));
    }
    (exact, lengths)
}
