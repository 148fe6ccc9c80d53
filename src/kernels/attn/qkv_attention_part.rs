//! Attention of drawn tokens from their projections, over contexts that are split over workgroups: the chunks.

use super::{
    CHUNK, Cache,
    attention_part::of_chunk,
    cache::{Places, layout},
    part_words,
    turned::{Trial, Turned, Variant, rows_of},
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, kernel, times, wgsl};

kernel! {
    /// What [`QkvToCache`](super::qkv_to_cache::QkvToCache) and then [`AttentionPart`](super::attention_part::AttentionPart)
    /// give, bit for bit, of rows each of which is the newest of a sequence of its own, as
    /// [`QkvAttention`](super::qkv_attention::QkvAttention) does of whole contexts: every chunk's workgroup turns its queries
    /// anew, and that of the newest chunk stores key and value.
    ///
    /// Shapes: as `QkvAttention`; `parts` as `AttentionPart`. A position beyond the chunks is stored all the same, and what
    /// is attended to ends with them. Bounds: of the cache as `QkvToCache` has them; of `parts` as `AttentionPart` has them, and
    /// what a query's and the newest key's and value's bounds make of scores and weights. Measured worst
    /// on lavapipe: 0.06 of it with a cache of f32, 0.5 of f16, 1.0 of Q8_0.
    pub struct QkvAttentionPart("attn/qkv_attention_part") for Variant;
    params {
        /// Tokens, each of another sequence.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Query heads of a key head, eight at most.
        group: u32,
        /// Rows that a workgroup attends from: 1.
        tile_rows: u32,
        /// Query heads that a workgroup attends from: all of a key head.
        tile_heads: u32,
        /// How many times these heads are a key head's: 1.
        head_tiles: u32,
        /// Chunks that there is room for.
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
        /// Added to the mean square by the norm.
        eps: f32,
        /// What scores are multiplied by, `1/√HD`.
        scale: f32,
    }
    binds {
        /// The projections.
        qkv: read [[f32; 4]],
        /// The norms' weights.
        norm: read [[f32; 4]] if |v| v.norm,
        /// Cosines and sines.
        rotations: read [[f32; 2]],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32] if |v| v.attention.cache == Cache::Paged,
        /// The cache.
        kv: write [[u32; 4]],
        /// The chunks' sums.
        parts: write [[f32; 4]],
    }
}

impl Kernel for QkvAttentionPart {
    fn supported(caps: &Caps) -> Vec<Variant> {
        Variant::all(caps)
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.attention.reduction_order()
    }

    fn source(v: Variant) -> Source {
        v.source(wgsl!("attn/qkv_attention_part.wgsl"), wgsl!("attn/part.wgsl"))
            .constant("PART", part_words(v.attention.head_dim) / 4)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.kv_heads * p.chunks, y: p.rows }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        times([p.rows, p.heads, p.chunks, CHUNK, v.attention.head_dim, 2])
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let (layout, kv) = (layout!(v.attention, p), v.attention.kv);
        let at = Places { positions: host.positions, table: host.table };
        let turned = Turned::new(&rows_of!(v, p, host), p.rows, layout, &at, kv, host.kv.as_flattened());
        let keys = turned.keys(layout, at, kv, p.scale);
        let to = host.parts.as_flattened_mut();
        for (part, i, positions) in parts(p, |row| layout.position(&at, row)) {
            let head = (i % p.heads as usize) as u32 / p.group;
            let attended = keys.attend(i / p.heads as usize, head, turned.query(i).0, positions);
            let first = part * part_words(v.attention.head_dim) as usize;
            to[first..].iter_mut().zip(attended.rounded()).for_each(|(to, value)| *to = value);
        }
        host.kv.as_flattened_mut().copy_from_slice(&turned.words);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (layout, kv) = (layout!(v.attention, p), v.attention.kv);
        let at = Places { positions: before.positions, table: before.table };
        let turned = Turned::new(&rows_of!(v, p, before), p.rows, layout, &at, kv, before.kv.as_flattened());
        let keys = turned.keys(layout, at, kv, p.scale);
        let mut sums = Expect::unchanged(before.parts.as_flattened());
        for (part, i, positions) in parts(p, |row| layout.position(&at, row)) {
            let (q, off) = turned.query(i);
            let head = (i % p.heads as usize) as u32 / p.group;
            let attended = keys.attend_near(i / p.heads as usize, head, q, positions, Some(off));
            let first = part * part_words(v.attention.head_dim) as usize;
            sums[first..].iter_mut().zip(attended.unnormalised()).for_each(|(to, exact)| *to = exact);
        }
        Some(Expected { parts: Some(Expect::Near(sums)), kv: Some(turned.expected()), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let enough = |trial: Trial| {
            let chunks = trial.layout.capacity.div_ceil(CHUNK);
            case(v, trial, chunks)
        };
        let mut cases: Vec<_> = Trial::all(v).into_iter().map(enough).collect();
        // Too few for some rows.
        cases.extend(Trial::all(v).into_iter().take(1).map(|trial| case(v, trial, 1)));
        cases
    }
}

/// Every chunk that is seen: the number of its sums, that of its row's head, and its positions.
fn parts(p: &Params, position: impl Fn(usize) -> u32) -> impl Iterator<Item = (usize, usize, std::ops::Range<u32>)> {
    (0..(p.rows * p.heads * p.chunks) as usize).filter_map(move |part| {
        let (i, chunk) = (part / p.chunks as usize, part as u32 % p.chunks);
        let context = (position(i / p.heads as usize) + 1).min(p.chunks * CHUNK);
        let positions = of_chunk(chunk, context, p.window);
        (!positions.is_empty()).then_some((part, i, positions))
    })
}

fn case(v: Variant, trial: Trial, chunks: u32) -> Case<QkvAttentionPart> {
    let Trial { name, rows, heads, kv_heads, window, layout, qkv, norm, rotations, positions, table, kv } = trial;
    let (group, hd) = (heads / kv_heads, v.attention.head_dim);
    let params = Params {
        rows,
        heads,
        kv_heads,
        group,
        tile_rows: 1,
        tile_heads: group,
        head_tiles: 1,
        chunks,
        capacity: layout.capacity,
        sequences: layout.sequences,
        max_blocks: layout.max_blocks,
        block: layout.block,
        blocks: layout.blocks,
        window,
        eps: 1e-6,
        scale: 1.0 / (hd as f32).sqrt(),
    };
    let parts = vec![[f32::NAN; 4]; (rows * heads * chunks * part_words(hd)) as usize / 4];
    let data = Data { qkv, norm, rotations, positions, table, kv, parts };
    Case::of_reference(format!("{name}, {chunks} chunks"), v, params, data)
}
