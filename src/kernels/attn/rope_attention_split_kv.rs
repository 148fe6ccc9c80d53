//! Attention of decoded tokens from their projections with long contexts split over workgroups: partial sums of chunks.

use super::{
    AttnTile, CHUNK, KvIndex, RopeHead, RopeVariant,
    attention_split_kv::seen_chunks,
    fused_qkv::{RotatedRows, Trial, rows_of},
    kv_index::KvTables,
    partial_words,
    reference::KvReader,
    sample,
    tile::Keys,
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl};

kernel! {
    /// Fuses [`RopeKvAppend`](super::rope_kv_append::RopeKvAppend) and
    /// [`AttentionSplitKv`](super::attention_split_kv::AttentionSplitKv), with the same bits, for rows each of which is
    /// the newest of its own sequence, as [`RopeAttention`](super::rope_attention::RopeAttention) does in a single
    /// pass. Every chunk's workgroup rotates its queries, and that of the last chunk stores key and value.
    ///
    /// Shapes: as of `RopeAttention`; `partials` as of `AttentionSplitKv`. A position beyond the chunks is stored all
    /// the same; attention ends with the chunks. Bounds: of the cache as of `RopeKvAppend`; of `partials` as of
    /// `AttentionSplitKv`, and what the bounds of a query and of its own key and value add to scores and weights.
    /// Measured worst on lavapipe: 0.06 of it with a cache of f32, 0.5 of f16, 1.0 of Q8_0.
    pub struct RopeAttentionSplitKv("attn/rope_attention_split_kv") for RopeVariant;
    params {
        /// The queries: a tile is one row and all query heads of a key head, at most eight.
        tile: AttnTile,
        /// The cache.
        index: KvIndex,
        /// The heads.
        head: RopeHead,
        /// Chunks that `partials` has room for.
        chunks: u32,
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
        /// The cache.
        kv: write [[u32; 4]],
        /// The chunks' partial sums.
        partials: write [[f32; 4]],
    }
}

impl Kernel for RopeAttentionSplitKv {
    fn supported(caps: &Caps) -> Vec<RopeVariant> {
        sample::rope_attentions(caps)
    }

    fn covered(caps: &Caps) -> Vec<RopeVariant> {
        sample::rope_attentions(caps).into_iter().filter(|v| sample::runs_rope_attention_split_kv(caps, *v)).collect()
    }

    fn reduction_order(v: RopeVariant) -> ReductionOrder {
        v.attention.reduction.order()
    }

    fn source(v: RopeVariant) -> Source {
        v.source(wgsl!("attn/rope_attention_split_kv.wgsl"), Keys::Chunk)
            .constant("PARTIAL_VEC4S", partial_words(v.attention.head_dim) / 4)
    }

    fn grid(_: RopeVariant, p: &Params) -> Grid {
        Grid { x: p.index.kv_heads * p.chunks, y: p.tile.rows }
    }

    fn cost(v: RopeVariant, p: &Params) -> u64 {
        times([p.tile.rows, p.tile.heads, p.chunks, CHUNK, v.attention.head_dim, 2])
    }

    fn sparse_reads(_: RopeVariant, p: &Params) -> Option<SparseReads> {
        Some(p.index.rotations_read(p.tile.rows))
    }

    fn cpu(v: RopeVariant, p: &Params, host: Host<'_>) {
        let (index, kv, AttnTile { rows, heads, q_per_kv, scale, .. }) = (p.index, v.attention.kv, p.tile);
        let tables = KvTables { positions: host.positions, table: host.table };
        let rotated = RotatedRows::new(&rows_of!(v, p, host), rows, index, &tables, kv);
        let words = host.kv.as_flattened_mut();
        rotated.store(index, &tables, kv, words);
        let reader = KvReader { index, tables, kv, words, scale };
        let to = host.partials.as_flattened_mut();
        for (partial, i, keys) in seen_chunks(&p.tile, p.chunks, |row| index.position(&tables, row)) {
            let (row, kv_head) = (i / heads as usize, i as u32 % heads / q_per_kv);
            let sums = reader.attend(row, kv_head, rotated.query(i).0, keys);
            let first = partial * partial_words(v.attention.head_dim) as usize;
            to[first..].iter_mut().zip(sums.rounded()).for_each(|(to, sum)| *to = sum);
        }
    }

    fn reference(v: RopeVariant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (index, kv, AttnTile { rows, heads, q_per_kv, scale, .. }) = (p.index, v.attention.kv, p.tile);
        let tables = KvTables { positions: before.positions, table: before.table };
        let rotated = RotatedRows::new(&rows_of!(v, p, before), rows, index, &tables, kv);
        let before_words = before.kv.as_flattened();
        let (words, cache) = rotated.expected_cache(index, &tables, kv, v.attention.head_dim, before_words);
        let reader = KvReader { index, tables, kv, words: &words, scale };
        let mut expected = Expect::unchanged(before.partials.as_flattened());
        for (partial, i, keys) in seen_chunks(&p.tile, p.chunks, |row| index.position(&tables, row)) {
            let (row, kv_head) = (i / heads as usize, i as u32 % heads / q_per_kv);
            let (q, errors) = rotated.query(i);
            let sums = reader.attend_inexact(row, kv_head, q, keys, Some(errors));
            let first = partial * partial_words(v.attention.head_dim) as usize;
            expected[first..].iter_mut().zip(sums.unnormalised()).for_each(|(to, exact)| *to = exact);
        }
        let (partials, kv) = (Some(Expect::Near(expected)), Some(cache));
        Some(Expected { partials, kv, ..Default::default() })
    }

    fn cases(v: RopeVariant) -> Vec<Case<Self>> {
        let enough = |trial: Trial| {
            let chunks = trial.index.capacity.div_ceil(CHUNK);
            case(v, trial, chunks)
        };
        let mut cases: Vec<_> = Trial::all(v).into_iter().map(enough).collect();
        // Too few chunks for some rows.
        cases.extend(Trial::all(v).into_iter().take(1).map(|trial| case(v, trial, 1)));
        cases
    }
}

fn case(v: RopeVariant, trial: Trial, chunks: u32) -> Case<RopeAttentionSplitKv> {
    let Trial { name, tile, index, head, qkv, norm, rotations, positions, table, kv } = trial;
    let words = tile.rows * tile.heads * chunks * partial_words(head.head_dim);
    let partials = vec![[f32::NAN; 4]; words as usize / 4];
    let data = Data { qkv, norm, rotations, positions, table, kv, partials };
    Case::of_reference(format!("{name}, {chunks} chunks"), v, Params { tile, index, head, chunks }, data)
}
