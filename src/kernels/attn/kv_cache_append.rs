//! Keys and values into a cache.

use super::{
    Cache, TESTED_HEAD_DIMS,
    cache::{Layout, Places, Side, Written, layout},
    head::{random, test_positions, test_shapes},
    workgroup,
};
use crate::{
    gpu::{Caps, Case, Grid, Source, kernel, wgsl},
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
    /// in the last place. Measured worst on lavapipe: 0.5 of it.
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
        kv: write [u32],
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

impl KvCacheAppend {
    fn variants(caps: &Caps) -> Vec<Variant> {
        let caches = KvType::available(caps).flat_map(|kv| Cache::ALL.map(|cache| (kv, cache)));
        caches.flat_map(|(kv, cache)| TESTED_HEAD_DIMS.map(|head_dim| Variant { head_dim, cache, kv })).collect()
    }

    fn source(v: Variant) -> Source {
        v.cache
            .fill(Source::new(wgsl!("attn/kv_cache_append.wgsl"), workgroup(v.head_dim)))
            .with(v.kv.store())
            .constant("HEAD_DIM", v.head_dim)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let layout = layout!(v, p);
        let at = Places { positions: host.positions, table: host.table };
        for (side, row, head, values) in heads(v, p, host.k, host.v) {
            layout.store(&at, v.kv, host.kv, (side, row, head), values);
        }
    }

    fn definition(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let layout = layout!(v, p);
        let at = Places { positions: before.positions, table: before.table };
        let mut kv = Written::over(layout, v.kv, v.head_dim, before.kv);
        appended(v, p, &at, before.k, before.v, &mut kv);
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

/// Expects every head where it goes.
fn appended(v: Variant, p: &Params, at: &Places<'_>, keys: &[f32], values: &[f32], kv: &mut Written) {
    let limit = if v.kv == KvType::F16 { 65504.0 } else { f64::INFINITY };
    for (side, row, head, values) in heads(v, p, keys, values) {
        let exact: Vec<_> = values.iter().map(|x| (f64::from(*x).clamp(-limit, limit), 0.0)).collect();
        kv.expect(at, (side, row, head), &exact);
    }
}

fn case(variant: Variant, kv_heads: u32, rows: u32) -> Case<KvCacheAppend> {
    let (layout, table) = Layout::tested(variant.cache, kv_heads, 9, 4);
    let Layout { capacity, sequences, max_blocks, block, blocks, .. } = layout;
    let p = Params { rows, kv_heads, capacity, sequences, max_blocks, block, blocks };
    let mut rng = Rng::new(11);
    let mut k = random(&mut rng, kv_heads * rows * variant.head_dim);
    let v = random(&mut rng, kv_heads * rows * variant.head_dim);
    // Beyond the largest half only f32 holds it: halves have their limit.
    k[3] = 1e6;
    let positions = test_positions(variant.cache, rows);
    let at = Places { positions: &positions, table: &table };
    let mut kv = Written::new(layout, variant.kv, variant.head_dim);
    appended(variant, &p, &at, &k, &v, &mut kv);
    let (words, kv) = kv.finish();
    let expected = Expected { kv: Some(kv), ..Default::default() };
    let data = Data { k, v, table: table.clone(), positions: positions.clone(), kv: words };
    Case { name: format!("{rows} tokens, {kv_heads} heads"), params: p, data, expected }
}
