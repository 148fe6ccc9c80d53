//! Attention of drawn tokens from their projections.

use super::{
    CHUNK, Cache,
    attend::seen,
    attention_merge::merge,
    attention_part::of_chunk,
    cache::{Places, layout},
    turned::{Trial, Turned, Variant, rows_of},
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, kernel, times, wgsl};

kernel! {
    /// What [`QkvToCache`](super::qkv_to_cache::QkvToCache) and then [`Attention`](super::attention::Attention) give, bit for
    /// bit, of rows each of which is the newest of a sequence of its own: query and key heads of `qkv[t]` are RMS-normed where
    /// the model does that and rotated (RoPE), key and value go to the position's slot of the cache, and the queries attend to
    /// all of it. A workgroup has all query heads of a key head ([`can_turn`](super::can_turn)), so that it needs no key but
    /// those of the cache and its own.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32, `norm` `[2, HD]` for queries and keys, `rotations` `[capacity, HD/2]`
    /// of (cos, sin), `positions`, `table` and `kv` as [`Cache`] has them (positions clamped to the capacity, sequences and
    /// blocks to those there are), `y` `[rows, heads, HD]`. Bounds: of the cache as `QkvToCache` has them; of `y` as
    /// `Attention` has it, and what a query's and the newest key's and value's bounds make of scores and weights. Measured worst
    /// on lavapipe: 0.06 of it with a cache of f32, 0.5 of f16, 1.0 of Q8_0.
    pub struct QkvAttention("attn/qkv_attention") for Variant;
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
        /// The attended values.
        y: write [[f32; 4]],
    }
}

impl Kernel for QkvAttention {
    fn supported(caps: &Caps) -> Vec<Variant> {
        Variant::all(caps)
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.attention.reduction_order()
    }

    fn source(v: Variant) -> Source {
        v.source(wgsl!("attn/qkv_attention.wgsl"), wgsl!("attn/whole.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.kv_heads, y: p.rows }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        let seen = if p.window > 0 { p.window.min(p.capacity) } else { p.capacity };
        times([p.rows, p.heads, seen, v.attention.head_dim])
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let (layout, kv) = (layout!(v.attention, p), v.attention.kv);
        let at = Places { positions: host.positions, table: host.table };
        let turned = Turned::new(&rows_of!(v, p, host), p.rows, layout, &at, kv, host.kv.as_flattened());
        let (hd, heads) = (v.attention.head_dim as usize, p.heads as usize);
        let keys = turned.keys(layout, at, kv, p.scale);
        for (i, y) in host.y.as_flattened_mut().chunks_exact_mut(hd).take(p.rows as usize * heads).enumerate() {
            let context = layout.position(&at, i / heads) + 1;
            let chunks = (0..context.div_ceil(CHUNK)).map(|chunk| of_chunk(chunk, context, p.window));
            // By chunks in f32, as the CPU kernels of these have them: they are of one order.
            let parts: Vec<_> = (chunks.filter(|positions| !positions.is_empty()))
                .map(|positions| {
                    keys.attend(i / heads, (i % heads) as u32 / p.group, turned.query(i).0, positions).rounded()
                })
                .collect();
            merge(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), y);
        }
        host.kv.as_flattened_mut().copy_from_slice(&turned.words);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (layout, kv) = (layout!(v.attention, p), v.attention.kv);
        let at = Places { positions: before.positions, table: before.table };
        let turned = Turned::new(&rows_of!(v, p, before), p.rows, layout, &at, kv, before.kv.as_flattened());
        let (hd, heads) = (v.attention.head_dim as usize, p.heads as usize);
        let keys = turned.keys(layout, at, kv, p.scale);
        let mut y = Expect::unchanged(before.y.as_flattened());
        for (i, y) in y.chunks_exact_mut(hd).take(p.rows as usize * heads).enumerate() {
            let context = layout.position(&at, i / heads) + 1;
            let (q, off) = turned.query(i);
            let kv_head = (i % heads) as u32 / p.group;
            let attended = keys.attend_near(i / heads, kv_head, q, seen(context, p.window), Some(off));
            y.copy_from_slice(&attended.normalised().collect::<Vec<_>>());
        }
        Some(Expected { y: Some(Expect::Near(y)), kv: Some(turned.expected()), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        Trial::all(v).into_iter().map(|trial| case(v, trial)).collect()
    }
}

fn case(v: Variant, trial: Trial) -> Case<QkvAttention> {
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
        capacity: layout.capacity,
        sequences: layout.sequences,
        max_blocks: layout.max_blocks,
        block: layout.block,
        blocks: layout.blocks,
        window,
        eps: 1e-6,
        scale: 1.0 / (hd as f32).sqrt(),
    };
    let y = vec![[f32::NAN; 4]; (rows * heads * hd) as usize / 4];
    Case::of_reference(name, v, params, Data { qkv, norm, rotations, positions, table, kv, y })
}
