//! Attention over a context that is split over workgroups: the merging of its chunks.

use super::{
    CHUNK, Cache, TESTED_HEAD_DIMS,
    attention::{self, Trial},
    attention_part::{self, of_chunk, trials},
    head::rounded,
    workgroup,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    kernels::{KvType, Reduce},
};

kernel! {
    /// `y[t, h] = Σ_c e_c · sums_c / Σ_c e_c · mass_c` with `e_c = exp(m_c − max m)`, over the chunks in order that row
    /// `t` sees, as [`AttentionPart`](super::attention_part::AttentionPart) wrote them.
    ///
    /// Shapes: `parts` `[rows, heads, chunks, HD + 2]`: the values' sums, the largest score `m`, the mass; `positions`
    /// as [`Cache`] has them (clamped to the capacity and to the chunks), `y` `[rows, heads, HD]` f32. Bound:
    /// attention's. Measured worst on lavapipe: 0.005 of it.
    pub struct AttentionMerge("attn/attention_merge") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Chunks that there is room for.
        chunks: u32,
        /// Positions.
        capacity: u32,
        /// Positions that a token sees, its own included; 0: all.
        window: u32,
    }
    binds {
        /// The chunks' sums.
        parts: read [f32],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The attended values.
        y: write [f32],
    }
}

/// Head size and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: even, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// Whether a sequence is behind each position.
    pub cache: Cache,
}

impl AttentionMerge {
    fn variants(_: &Caps) -> Vec<Variant> {
        Cache::ALL.into_iter().flat_map(|cache| TESTED_HEAD_DIMS.map(|head_dim| Variant { head_dim, cache })).collect()
    }

    fn source(v: Variant) -> Source {
        v.cache
            .positions(Source::new(wgsl!("attn/attention_merge.wgsl"), workgroup(v.head_dim)))
            .with(wgsl!("attn/window.wgsl"))
            .with(wgsl!("attn/sums.wgsl"))
            .constant("HEAD_DIM", v.head_dim)
            .constant("CHUNK", CHUNK)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let hd = v.head_dim as usize;
        let heads = host.parts.chunks_exact(p.chunks as usize * (hd + 2)).zip(host.y.chunks_exact_mut(hd));
        for (i, (parts, y)) in heads.take((p.rows * p.heads) as usize).enumerate() {
            let position = v.cache.position(host.positions, p.capacity, i / p.heads as usize);
            let context = (position + 1).min(p.chunks * CHUNK);
            let parts = parts.chunks_exact(hd + 2).zip(0..);
            let seen = parts.filter(|(_, chunk)| !of_chunk(*chunk, context, p.window).is_empty());
            merge(&seen.map(|(part, _)| part).collect::<Vec<_>>(), y);
        }
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        // The parts of real attention, so that what is expected is attention itself.
        let of = attention::Variant { head_dim: v.head_dim, cache: v.cache, kv: KvType::F32, reduce: Reduce::Shared };
        trials(of).into_iter().map(|(trial, chunks)| case(of, trial, chunks)).collect()
    }
}

/// A head `y` from the sums of its chunks.
pub(super) fn merge(parts: &[&[f32]], y: &mut [f32]) {
    let hd = y.len();
    let largest = parts.iter().map(|part| f64::from(part[hd])).fold(f64::NEG_INFINITY, f64::max);
    let weighted = |element: usize| -> f64 {
        parts.iter().map(|part| (f64::from(part[hd]) - largest).exp() * f64::from(part[element])).sum()
    };
    let mass = weighted(hd + 1);
    y.iter_mut().enumerate().for_each(|(i, y)| *y = (weighted(i) / mass) as f32);
}

fn case(v: attention::Variant, trial: Trial, chunks: u32) -> Case<AttentionMerge> {
    let (p, parts) = attention_part::expected(v, &trial, chunks);
    let expected = trial.attended(v, chunks * CHUNK);
    Case {
        name: trial.name.to_owned(),
        params: Params { rows: p.rows, heads: p.heads, chunks: p.chunks, capacity: p.capacity, window: p.window },
        data: Data { parts: rounded(&parts), positions: trial.positions, y: vec![f32::NAN; expected.len()] },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    }
}
