//! Attention of decoded tokens from their projections.

use super::{
    AttnTile, KvIndex, RopeHead, RopeVariant,
    attention::test_gate,
    fused_qkv::{RotatedRows, Trial, rows_of},
    kv_index::KvTables,
    reference::{KvReader, apply_gate, gated, visible_keys},
    sample,
    tile::Keys,
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl};

kernel! {
    /// Fuses [`RopeKvAppend`](super::rope_kv_append::RopeKvAppend) and [`Attention`](super::attention::Attention), with
    /// the same bits, for rows each of which is the newest of its own sequence. Query and key heads of `qkv[t]` have
    /// QK-norm, in models that have it, and RoPE; key and value go to the position's place in the cache; the queries
    /// attend to the cache, and the output may be gated as there. A workgroup has all query heads of a key head ([`can_fuse_rope`](super::can_fuse_rope)), so
    /// it needs no keys but the cache's and its own.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32; `norm` `[2, HD]` for queries and keys; `rotations`
    /// `[capacity, HD/2]` of (cos, sin); `positions`, `table` and `kv` as in [`KvIndex`]; `gate` and `y` `[rows, heads, HD]`.
    /// Bounds: of the cache as of `RopeKvAppend`; of `y` as of `Attention`, and what the bounds of a query and of its
    /// own key and value add to scores and weights. Measured worst on lavapipe: 0.06 of it with a cache of f32, 0.5 of
    /// f16, 1.0 of Q8_0.
    pub struct RopeAttention("attn/rope_attention") for RopeVariant;
    params {
        /// The queries: a tile is one row and all query heads of a key head, at most eight.
        tile: AttnTile,
        /// The cache.
        index: KvIndex,
        /// The heads.
        head: RopeHead,
    }
    binds {
        /// The projections.
        qkv: read [[f32; 4]],
        /// The norms' weights.
        norm: read [[f32; 4]] if |v| v.norm,
        /// Cosines and sines.
        rotations: read [[f32; 2]],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32],
        /// The gates' projections.
        gate: read [[f32; 4]] if |v| v.attention.gated,
        /// The cache.
        kv: write [[u32; 4]],
        /// The attended values.
        y: write [[f32; 4]],
    }
}

impl Kernel for RopeAttention {
    fn supported(caps: &Caps) -> Vec<RopeVariant> {
        sample::rope_single_passes(caps)
    }

    fn covered(caps: &Caps) -> Vec<RopeVariant> {
        sample::rope_single_passes(caps).into_iter().filter(|v| sample::runs_rope_attention(caps, *v)).collect()
    }

    fn reduction_order(v: RopeVariant) -> ReductionOrder {
        v.attention.reduction.order()
    }

    fn source(v: RopeVariant) -> Source {
        v.source(wgsl!("attn/rope_attention.wgsl"), Keys::All)
    }

    fn grid(_: RopeVariant, p: &Params) -> Grid {
        Grid { x: p.index.kv_heads, y: p.tile.rows }
    }

    fn cost(v: RopeVariant, p: &Params) -> u64 {
        times([p.tile.rows, p.tile.heads, p.tile.most_keys(p.index.capacity), v.attention.head_dim])
    }

    fn sparse_reads(_: RopeVariant, p: &Params) -> Option<SparseReads> {
        Some(p.index.rotations_read(p.tile.rows))
    }

    fn cpu(v: RopeVariant, p: &Params, host: Host<'_>) {
        let (index, kv, AttnTile { rows, heads, q_per_kv, window, scale, .. }) = (p.index, v.attention.kv, p.tile);
        let tables = KvTables { positions: host.positions, table: host.table };
        let rotated = RotatedRows::new(&rows_of!(v, p, host), rows, index, &tables, kv);
        let words = host.kv.as_flattened_mut();
        rotated.store(index, &tables, kv, words);
        let reader = KvReader { index, tables, kv, words, scale };
        let outputs = host.y.as_flattened_mut().chunks_exact_mut(v.attention.head_dim as usize);
        for (i, y) in outputs.take((rows * heads) as usize).enumerate() {
            let (row, kv_head) = (i / heads as usize, i as u32 % heads / q_per_kv);
            reader.attend_by_chunks(row, kv_head, rotated.query(i).0, window, None, y);
            apply_gate(y, host.gate.as_flattened(), i * y.len());
        }
    }

    fn reference(v: RopeVariant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (index, kv, AttnTile { rows, heads, q_per_kv, window, scale, .. }) = (p.index, v.attention.kv, p.tile);
        let tables = KvTables { positions: before.positions, table: before.table };
        let rotated = RotatedRows::new(&rows_of!(v, p, before), rows, index, &tables, kv);
        let before_words = before.kv.as_flattened();
        let (words, cache) = rotated.expected_cache(index, &tables, kv, v.attention.head_dim, before_words);
        let reader = KvReader { index, tables, kv, words: &words, scale };
        let mut y = Expect::unchanged(before.y.as_flattened());
        let outputs = y.chunks_exact_mut(v.attention.head_dim as usize);
        for (i, y) in outputs.take((rows * heads) as usize).enumerate() {
            let (row, kv_head) = (i / heads as usize, i as u32 % heads / q_per_kv);
            let (q, errors) = rotated.query(i);
            let keys = visible_keys(index.position(&tables, row) + 1, window);
            let sums = reader.attend_inexact(row, kv_head, q, keys, Some(errors));
            y.copy_from_slice(&sums.normalised(None).collect::<Vec<_>>());
            gated(y, before.gate.as_flattened(), i * y.len());
        }
        Some(Expected { y: Some(Expect::Near(y)), kv: Some(cache), ..Default::default() })
    }

    fn cases(v: RopeVariant) -> Vec<Case<Self>> {
        Trial::all(v).into_iter().map(|trial| case(v, trial)).collect()
    }
}

fn case(v: RopeVariant, trial: Trial) -> Case<RopeAttention> {
    let Trial { name, tile, index, head, qkv, norm, rotations, positions, table, kv } = trial;
    let y = vec![[f32::NAN; 4]; (tile.rows * tile.heads * head.head_dim) as usize / 4];
    let gate = if v.attention.gated { test_gate(4 * y.len() as u32) } else { Vec::new() };
    let data = Data { qkv, norm, rotations, positions, table, gate, kv, y };
    Case::of_reference(name, v, Params { tile, index, head }, data)
}
