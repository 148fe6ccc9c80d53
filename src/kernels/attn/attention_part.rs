//! Attention over a context that is split over workgroups: the chunks.

use std::ops::Range;

use super::{
    CHUNK, Cache,
    attend::{Attended, Keys, seen},
    attention::{Trial, Variant},
    cache::{Places, layout},
    part_words,
    scan::scan,
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, kernel, times, wgsl};

kernel! {
    /// Of each chunk of [`CHUNK`] positions that row `t` sees: `m = max_j s_j` of the scores
    /// `s_j = q[t, h] · K[h / group, j] · scale`, `Σ exp(s_j − m)`, and `Σ exp(s_j − m) · V[h / group, j]`. Chunks
    /// begin at multiples of [`CHUNK`] whatever is in the batch, and those that a row does not see are left as they
    /// are. Rows of many sequences, with one query or several, are one dispatch.
    ///
    /// Shapes: `q` `[rows, heads, HD]` f32, `positions`, `table` and `kv` as [`Cache`] has them (positions clamped to
    /// the capacity, sequences and blocks to those there are), `parts` `[rows, heads, chunks, HD + 4]`: the values'
    /// sums, the largest score, the mass, two zeros. Bound: of the largest score `2⁻²² · max_j Σ|q·k|·scale`, of the sums `2e-5`
    /// more than that of the sum of their terms' sizes. Measured worst on lavapipe: 0.6 of it, by a largest score.
    pub struct AttentionPart("attn/attention_part") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Query heads of a key head.
        group: u32,
        /// Rows that a workgroup attends from.
        tile_rows: u32,
        /// Query heads of a key head that a workgroup attends from; of rows and these eight at most.
        tile_heads: u32,
        /// How many times these heads are a key head's, rounded up.
        head_tiles: u32,
        /// Chunks that there is room for: positions beyond them are clamped.
        chunks: u32,
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
        /// Positions that a token sees, its own included; 0: all.
        window: u32,
        /// What scores are multiplied by, `1/√HD`.
        scale: f32,
    }
    binds {
        /// The query heads.
        q: read [[f32; 4]],
        /// The cache.
        kv: read [[u32; 4]],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32] if |v| v.cache == Cache::Paged,
        /// The chunks' sums.
        parts: write [[f32; 4]],
    }
}

impl Kernel for AttentionPart {
    fn supported(caps: &Caps) -> Vec<Variant> {
        Variant::all(caps)
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let source = scan(v, wgsl!("attn/attention_part.wgsl"), wgsl!("attn/part.wgsl"));
        source.with(wgsl!("attn/queries_given.wgsl")).constant("PART", part_words(v.head_dim) / 4)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.kv_heads * p.head_tiles * p.chunks, y: p.rows.div_ceil(p.tile_rows.max(1)) }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        times([p.rows, p.heads, p.chunks, CHUNK, v.head_dim, 2])
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let at = Places { positions: host.positions, table: host.table };
        let keys = Keys { layout: layout!(v, p), at, kv: v.kv, words: host.kv.as_flattened(), scale: p.scale };
        for (to, part) in parts(v, p, &keys, host.q.as_flattened()) {
            host.parts.as_flattened_mut()[to..].iter_mut().zip(part.rounded()).for_each(|(to, part)| *to = part);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let at = Places { positions: before.positions, table: before.table };
        let keys = Keys { layout: layout!(v, p), at, kv: v.kv, words: before.kv.as_flattened(), scale: p.scale };
        let mut sums = Expect::unchanged(before.parts.as_flattened());
        for (to, part) in parts(v, p, &keys, before.q.as_flattened()) {
            sums[to..].iter_mut().zip(part.unnormalised()).for_each(|(to, exact)| *to = exact);
        }
        Some(Expected { parts: Some(Expect::Near(sums)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        trials(v).into_iter().map(|(trial, chunks)| case(v, trial, chunks)).collect()
    }
}

/// The positions of a chunk that the last of `context` tokens sees.
pub(super) fn of_chunk(chunk: u32, context: u32, window: u32) -> Range<u32> {
    let all = seen(context, window);
    all.start.max(chunk * CHUNK)..all.end.min((chunk + 1) * CHUNK)
}

/// Every chunk that is seen, exactly, with where it goes.
fn parts<'a>(
    v: Variant,
    p: &'a Params,
    keys: &'a Keys<'_>,
    q: &'a [f32],
) -> impl Iterator<Item = (usize, Attended)> + 'a {
    let hd = v.head_dim as usize;
    (0..(p.rows * p.heads * p.chunks) as usize).filter_map(move |part| {
        let (i, chunk) = (part / p.chunks as usize, part as u32 % p.chunks);
        let (row, head) = (i / p.heads as usize, i as u32 % p.heads);
        let context = (keys.layout.position(&keys.at, row) + 1).min(p.chunks * CHUNK);
        let positions = of_chunk(chunk, context, p.window);
        let q = &q[i * hd..][..hd];
        (!positions.is_empty())
            .then(|| (part * part_words(v.head_dim) as usize, keys.attend(row, head / p.group, q, positions)))
    })
}

/// Trials, each with a number of chunks: enough, and too few for some rows.
pub(super) fn trials(v: Variant) -> Vec<(Trial, u32)> {
    let enough = |trial: Trial| {
        let chunks = trial.params.capacity.div_ceil(CHUNK);
        (trial, chunks)
    };
    Trial::all(v).into_iter().map(enough).chain([(Trial::beyond_a_chunk(v), 1)]).collect()
}

/// A trial in chunks, of whose sums those that are not seen are NaN.
pub(super) fn case(v: Variant, trial: Trial, chunks: u32) -> Case<AttentionPart> {
    let p = &trial.params;
    let params = Params {
        rows: p.rows,
        heads: p.heads,
        kv_heads: p.kv_heads,
        group: p.group,
        tile_rows: p.tile_rows,
        tile_heads: p.tile_heads,
        head_tiles: p.head_tiles,
        chunks,
        capacity: p.capacity,
        sequences: p.sequences,
        max_blocks: p.max_blocks,
        block: p.block,
        blocks: p.blocks,
        window: p.window,
        scale: p.scale,
    };
    let count = params.rows * params.heads * params.chunks * part_words(v.head_dim);
    let Trial { name, q, kv, positions, table, .. } = trial;
    Case::of_reference(
        name,
        v,
        params,
        Data { q, kv, positions, table, parts: vec![[f32::NAN; 4]; count as usize / 4] },
    )
}
