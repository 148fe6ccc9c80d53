//! Keys and values into a cache.

use super::{
    KvIndex,
    heads::{TEST_SHAPES, TestShape, copy_source, random, test_positions},
    kv_index::{ExpectedCache, KvKind, KvTables},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::KvType,
    quant::Rng,
};

kernel! {
    /// Stores `k[h, t]` and `v[h, t]` at the place of the row's position in its sequence. A sequence of length `n` is
    /// appended to by positions from `n` on.
    ///
    /// Shapes: `k` and `v` `[kv_heads, rows, HD]` f32; `positions`, `table` and `kv` as in [`KvIndex`]. Exact in f32;
    /// within one unit in the last place in f16, within 0.5001 of the scale in Q8_0. Measured worst on lavapipe: 0.5 of
    /// it in f16, 1.0 in Q8_0.
    pub struct KvCacheAppend("attn/kv_cache_append") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Elements of a head: a multiple of four, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
        head_dim: u32,
        /// The cache.
        index: KvIndex,
    }
    binds {
        /// The key heads.
        k: read [f32],
        /// The value heads.
        v: read [f32],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32],
        /// The cache.
        kv: write [[u32; 4]],
    }
}

/// Format of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The cache's format.
    pub kv: KvType,
}

impl Kernel for KvCacheAppend {
    fn supported(caps: &Caps) -> Vec<Variant> {
        KvType::available(caps).map(|kv| Variant { kv }).collect()
    }

    fn source(v: Variant) -> Source {
        v.kv.store(copy_source(wgsl!("attn/kv_cache_append.wgsl")))
            .with(wgsl!("kv/position.wgsl"))
            .with(wgsl!("kv/paged.wgsl"))
            .with(wgsl!("kv/head_dim_param.wgsl"))
            .with(wgsl!("attn/head_vec4.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: 2 * p.index.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let tables = KvTables { positions: host.positions, table: host.table };
        for (kind, row, head, values) in heads(p, host.k, host.v) {
            p.index.store(&tables, v.kv, host.kv.as_flattened_mut(), (kind, row, head), values);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut cache = ExpectedCache::new(p.index, v.kv, p.head_dim, before.kv.as_flattened());
        let tables = KvTables { positions: before.positions, table: before.table };
        for (kind, row, head, values) in heads(p, before.k, before.v) {
            cache.set(&tables, (kind, row, head), &Expect::unchanged(values));
        }
        Some(Expected { kv: Some(cache.expected()), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let paged = TEST_SHAPES.map(|shape| case(v, shape, KvIndex::test(shape.kv_heads, 9, 4), ""));
        let [shape, ..] = TEST_SHAPES;
        let contiguous = case(v, shape, KvIndex::test_contiguous(shape.kv_heads, 9), ", contiguous");
        paged.into_iter().chain([contiguous]).collect()
    }
}

/// Returns every head with its place: key or value, row, key head.
fn heads<'a>(p: &Params, keys: &'a [f32], values: &'a [f32]) -> Vec<(KvKind, usize, u32, &'a [f32])> {
    let places = (0..p.index.kv_heads).flat_map(|head| (0..p.rows as usize).map(move |row| (row, head)));
    let hd = p.head_dim as usize;
    places
        .zip(keys.chunks_exact(hd).zip(values.chunks_exact(hd)))
        .flat_map(|((row, head), (key, value))| [(KvKind::Key, row, head, key), (KvKind::Value, row, head, value)])
        .collect()
}

fn case(variant: Variant, shape: TestShape, (index, table): (KvIndex, Vec<u32>), name: &str) -> Case<KvCacheAppend> {
    let TestShape { head_dim, kv_heads, rows, .. } = shape;
    let mut rng = Rng::new(11);
    let mut k = random(&mut rng, kv_heads * rows * head_dim);
    let mut v = random(&mut rng, kv_heads * rows * head_dim);
    // Beyond the largest half only f32 holds it: f16 clamps it, and Q8_0 rounds the other elements of that scale to 0.
    k[3] = 1e6;
    // Elements of one scale that are all 0.
    let zeros = v.len().min(16);
    v[..zeros].fill(0.0);
    let kv = index.untouched(variant.kv, head_dim);
    let data = Data { k, v, positions: test_positions(rows), table, kv };
    Case::of_reference(shape.name() + name, variant, Params { rows, head_dim, index }, data)
}
