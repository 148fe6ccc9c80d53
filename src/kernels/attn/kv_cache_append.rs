//! Keys and values into a cache.

use super::{
    Cache, TESTED_HEAD_DIMS,
    cache::{Layout, Places, Side, Written, layout},
    head::{random, test_positions, test_shapes},
    workgroup,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::KvType,
    quant::Rng,
};

kernel! {
    /// Puts `k[h, t]` and `v[h, t]` in the slot of the row's position. A sequence of length `n` is appended to by
    /// positions from `n` on: they are in a buffer, as for the other kernels of a cache, so that a plan need not
    /// change.
    ///
    /// Shapes: `k` and `v` `[kv_heads, rows, HD]` f32, `positions`, `table` and `kv` as [`Cache`] has them (positions
    /// clamped to the capacity, sequences and blocks to those there are). Exact in f32; stored as f16 within one unit
    /// in the last place, as Q8_0 within 0.5001 of the run's scale. Measured worst on lavapipe: 0.5 of it in f16, 1.0 in
    /// Q8_0.
    pub struct KvCacheAppend("attn/kv_cache_append") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Positions: of a contiguous cache its slots.
        capacity: u32,
        /// Paged: sequences in the table.
        sequences: u32,
        /// Paged: blocks of a sequence in the table.
        max_blocks: u32,
        /// Paged: slots of a block.
        block: u32,
        /// Paged: blocks of the pool.
        blocks: u32,
    }
    binds {
        /// The key heads.
        k: read [f32],
        /// The value heads.
        v: read [f32],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32] if |v| v.cache == Cache::Paged,
        /// The cache.
        kv: write [[u32; 4]],
    }
}

/// Head size and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: even, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// How the cache's slots are arranged.
    pub cache: Cache,
    /// The cache's format.
    pub kv: KvType,
}

impl Kernel for KvCacheAppend {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let caches = KvType::available(caps).flat_map(|kv| Cache::ALL.map(|cache| (kv, cache)));
        caches.flat_map(|(kv, cache)| TESTED_HEAD_DIMS.map(|head_dim| Variant { head_dim, cache, kv })).collect()
    }

    fn source(v: Variant) -> Source {
        let source = v.cache.fill(Source::new(wgsl!("attn/kv_cache_append.wgsl"), workgroup(v.head_dim)));
        v.kv.store(source)
            .constant("KV_HEAD", v.kv.head_words(v.head_dim))
            .with(wgsl!("attn/head_four.wgsl"))
            .with(wgsl!("attn/head_copy.wgsl"))
            .constant("HEAD_DIM", v.head_dim)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: 2 * p.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let layout = layout!(v, p);
        let at = Places { positions: host.positions, table: host.table };
        for (side, row, head, values) in heads(v, p, host.k, host.v) {
            layout.store(&at, v.kv, host.kv.as_flattened_mut(), (side, row, head), values);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut kv = Written::over(layout!(v, p), v.kv, v.head_dim, before.kv.as_flattened());
        let at = Places { positions: before.positions, table: before.table };
        for (side, row, head, values) in heads(v, p, before.k, before.v) {
            kv.expect(&at, (side, row, head), &Expect::unchanged(values));
        }
        Some(Expected { kv: Some(kv.expected()), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        test_shapes(v.head_dim).into_iter().map(|(_, kv_heads, rows)| case(v, kv_heads, rows)).collect()
    }
}

/// Every head with where it goes: side, row, key head.
fn heads<'a>(v: Variant, p: &Params, keys: &'a [f32], values: &'a [f32]) -> Vec<(Side, usize, u32, &'a [f32])> {
    let places = (0..p.kv_heads).flat_map(|head| (0..p.rows as usize).map(move |row| (row, head)));
    let hd = v.head_dim as usize;
    places
        .zip(keys.chunks_exact(hd).zip(values.chunks_exact(hd)))
        .flat_map(|((row, head), (key, value))| [(Side::Key, row, head, key), (Side::Value, row, head, value)])
        .collect()
}

fn case(variant: Variant, kv_heads: u32, rows: u32) -> Case<KvCacheAppend> {
    let (layout, table) = Layout::tested(variant.cache, kv_heads, 9, 4);
    let Layout { capacity, sequences, max_blocks, block, blocks, .. } = layout;
    let p = Params { rows, kv_heads, capacity, sequences, max_blocks, block, blocks };
    let mut rng = Rng::new(11);
    let mut k = random(&mut rng, kv_heads * rows * variant.head_dim);
    let mut v = random(&mut rng, kv_heads * rows * variant.head_dim);
    // Beyond the largest half only f32 holds it: halves have their limit, and Q8_0 has nothing else in that run.
    k[3] = 1e6;
    // A whole run of nothing.
    v[..16].fill(0.0);
    let kv = layout.untouched(variant.kv, variant.head_dim);
    let data = Data { k, v, positions: test_positions(variant.cache, rows), table, kv };
    Case::of_reference(format!("{rows} tokens, {kv_heads} heads"), variant, p, data)
}
