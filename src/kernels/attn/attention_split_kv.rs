//! Causal grouped-query attention with a long context split over workgroups: partial sums of chunks.

use super::{
    AttnTile, CHUNK, KvIndex,
    attention::{Trial, Variant},
    kv_index::KvTables,
    partial_words,
    reference::{KvReader, SoftmaxSums, keys_of_chunk},
    sample,
    tile::{Keys, flash_source, loaded_queries},
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, kernel, times, wgsl};

kernel! {
    /// The first half of split-KV attention (Flash-Decoding, Dao et al. 2023). For each chunk of [`CHUNK`] positions
    /// that row `t` sees, with scores `s_j = q[t, h] · K[h / q_per_kv, j] · scale`: the row maximum `m = max_j s_j`,
    /// `Σ exp(s_j − m)`, and `Σ exp(s_j − m) · V[h / q_per_kv, j]`. Chunks begin at multiples of [`CHUNK`] in every
    /// batch. Partial sums of chunks that a row does not see are left as they are. Rows may be of many sequences, with
    /// one query or several each.
    ///
    /// Shapes: `q` `[rows, heads, HD]` f32; `positions`, `table` and `kv` as in [`KvIndex`]; `partials`
    /// `[rows, heads, chunks, HD + 4]`: the weighted values, the row maximum, the sum of exponentials, two zeros.
    /// Bounds: of the row maximum `e = 2⁻²² · max_j Σ|q·k|·scale`; of a sum `(2e-5 + e) · Σ|term|`. Measured worst on
    /// lavapipe: 0.6 of it, by a row maximum.
    pub struct AttentionSplitKv("attn/attention_split_kv") for Variant;
    params {
        /// The queries.
        tile: AttnTile,
        /// The cache.
        index: KvIndex,
        /// Chunks that `partials` has room for: positions are clamped to them.
        chunks: u32,
    }
    binds {
        /// The query heads.
        q: read [[f32; 4]],
        /// The cache.
        kv: read [[u32; 4]],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32],
        /// The chunks' partial sums.
        partials: write [[f32; 4]],
    }
}

impl Kernel for AttentionSplitKv {
    fn supported(caps: &Caps) -> Vec<Variant> {
        sample::attentions(caps)
    }

    fn covered(caps: &Caps) -> Vec<Variant> {
        sample::attentions(caps).into_iter().filter(|v| sample::runs_attention_split_kv(caps, *v)).collect()
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.reduction.order()
    }

    fn source(v: Variant) -> Source {
        flash_source(v, wgsl!("attn/attention_split_kv.wgsl"), Keys::Chunk, false)
            .with(loaded_queries(v.reduction))
            .constant("PARTIAL_VEC4S", partial_words(v.head_dim) / 4)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        let tiles = p.index.kv_heads * p.tile.head_tiles;
        Grid { x: tiles * p.chunks, y: p.tile.rows.div_ceil(p.tile.tile_rows.max(1)) }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        times([p.tile.rows, p.tile.heads, p.chunks, CHUNK, v.head_dim, 2])
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let reader = reader(v, p, host.positions, host.table, host.kv);
        for (to, sums) in partials(v, p, &reader, host.q.as_flattened()) {
            host.partials.as_flattened_mut()[to..].iter_mut().zip(sums.rounded()).for_each(|(to, sum)| *to = sum);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let reader = reader(v, p, before.positions, before.table, before.kv);
        let mut expected = Expect::unchanged(before.partials.as_flattened());
        for (to, sums) in partials(v, p, &reader, before.q.as_flattened()) {
            expected[to..].iter_mut().zip(sums.unnormalised()).for_each(|(to, exact)| *to = exact);
        }
        Some(Expected { partials: Some(Expect::Near(expected)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        trials(v).into_iter().map(|(trial, chunks)| case(v, trial, chunks)).collect()
    }
}

/// Returns the cache of a dispatch.
fn reader<'a>(v: Variant, p: &Params, positions: &'a [u32], table: &'a [u32], kv: &'a [[u32; 4]]) -> KvReader<'a> {
    let tables = KvTables { positions, table };
    KvReader { index: p.index, tables, kv: v.kv, words: kv.as_flattened(), scale: p.tile.scale }
}

/// Returns the sums of every chunk that is seen, with their start in `partials`.
fn partials<'a>(
    v: Variant,
    p: &'a Params,
    reader: &'a KvReader<'_>,
    q: &'a [f32],
) -> impl Iterator<Item = (usize, SoftmaxSums)> + 'a {
    let hd = v.head_dim as usize;
    seen_chunks(&p.tile, p.chunks, |row| reader.index.position(&reader.tables, row)).map(move |(partial, i, keys)| {
        let (row, head) = (i / p.tile.heads as usize, i as u32 % p.tile.heads);
        let sums = reader.attend(row, head / p.tile.q_per_kv, &q[i * hd..][..hd], keys);
        (partial * partial_words(v.head_dim) as usize, sums)
    })
}

/// Returns every chunk that a row sees: the number of its partial sums, that of its query, and its keys.
pub(super) fn seen_chunks(
    tile: &AttnTile,
    chunks: u32,
    position: impl Fn(usize) -> u32,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<u32>)> {
    let AttnTile { rows, heads, window, .. } = *tile;
    (0..(rows * heads * chunks) as usize).filter_map(move |partial| {
        let (i, chunk) = (partial / chunks as usize, partial as u32 % chunks);
        let context = (position(i / heads as usize) + 1).min(chunks * CHUNK);
        let keys = keys_of_chunk(chunk, context, window);
        (!keys.is_empty()).then_some((partial, i, keys))
    })
}

/// Returns trials, each with a number of chunks: enough, and too few for some rows.
pub(super) fn trials(v: Variant) -> Vec<(Trial, u32)> {
    let enough = |trial: Trial| {
        let chunks = trial.index.capacity.div_ceil(CHUNK);
        (trial, chunks)
    };
    Trial::all(v).into_iter().map(enough).chain([(Trial::beyond_a_chunk(v), 1)]).collect()
}

/// Returns a trial in chunks. Partial sums of those that are not seen are NaN.
pub(super) fn case(v: Variant, trial: Trial, chunks: u32) -> Case<AttentionSplitKv> {
    let Trial { name, tile, index, q, kv, positions, table, sinks: _, gate: _ } = trial;
    let words = tile.rows * tile.heads * chunks * partial_words(v.head_dim);
    let partials = vec![[f32::NAN; 4]; words as usize / 4];
    Case::of_reference(name, v, Params { tile, index, chunks }, Data { q, kv, positions, table, partials })
}
