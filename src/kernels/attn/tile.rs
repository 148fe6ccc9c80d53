//! The tile of queries of an attention workgroup, and how its invocations reduce.

use super::{CHUNK, attention::Variant};
use crate::gpu::{Caps, Fragment, ReductionOrder, Source, param_group, wgsl};

/// How the invocations of an attention workgroup exchange queries, weights and sums. Each has its own reduction order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Reduction {
    /// Through workgroup memory, on every device.
    SharedMemory,
    /// By shuffles in a workgroup of eight within one subgroup, for software drivers: a subgroup is a vector there, and
    /// memory of any kind costs more than arithmetic.
    Subgroup,
}

impl Reduction {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::SharedMemory, Self::Subgroup];

    /// Returns those that a device can run.
    pub(crate) fn available(caps: &Caps) -> &'static [Self] {
        if caps.software_subgroup_8 { &Self::ALL } else { &[Self::SharedMemory] }
    }

    /// Returns the order of sums over keys, which single-pass and split-KV attention share.
    pub(super) fn order(self) -> ReductionOrder {
        ReductionOrder::new(match self {
            Self::SharedMemory => "chunks of keys",
            Self::Subgroup => "chunks of keys by eights",
        })
    }
}

/// The queries of a tile: all share what is loaded of a key or value (grouped-query attention).
const QUERY_TILE: u32 = 8;

/// How many rows and query heads a workgroup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of a tile.
    pub rows: u32,
    /// Query heads of a tile, all of one key head.
    pub heads: u32,
    /// Tiles of heads for each key head.
    pub per_kv_head: u32,
}

impl Tiles {
    /// Returns tiles with as many of `q_per_kv` query heads as fit, and with several rows where most rows are of
    /// `one_sequence`.
    pub fn new(q_per_kv: u32, one_sequence: bool) -> Self {
        let per_kv_head = q_per_kv.div_ceil(QUERY_TILE).max(1);
        let heads = q_per_kv.div_ceil(per_kv_head).max(1);
        Self { rows: if one_sequence { QUERY_TILE / heads } else { 1 }, heads, per_kv_head }
    }

    /// Returns tiles of one row and two query heads, one for each half of a workgroup.
    pub fn of_two(q_per_kv: u32) -> Self {
        Self { rows: 1, heads: q_per_kv.clamp(1, 2), per_kv_head: q_per_kv.div_ceil(2).max(1) }
    }

    /// Returns tiles of one row and all `q_per_kv` query heads of a key head, of which there are [`QUERY_TILE`] at
    /// most.
    pub(super) fn of_kv_head(q_per_kv: u32) -> Self {
        Self { rows: 1, heads: q_per_kv, per_kv_head: 1 }
    }
}

param_group! {
    /// The queries of an attention dispatch, their tiles, and what they see.
    pub struct AttnTile {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Query heads of a key head (grouped-query attention).
        q_per_kv: u32,
        /// Rows of a workgroup's tile.
        tile_rows: u32,
        /// Query heads of a tile, all of one key head; `tile_rows · tile_heads ≤ 8`.
        tile_heads: u32,
        /// Tiles of heads for each key head: `⌈q_per_kv / tile_heads⌉`.
        head_tiles: u32,
        /// Positions that a token sees, its own included (sliding window); 0: all.
        window: u32,
        /// The factor of scores, `1/√HD`.
        scale: f32,
    }
}

impl AttnTile {
    /// Returns the queries of `rows` tokens with heads of `head_dim` elements, without a window.
    pub fn new(rows: u32, heads: u32, kv_heads: u32, head_dim: u32, tiles: Tiles) -> Self {
        Self {
            rows,
            heads,
            q_per_kv: heads / kv_heads.max(1),
            tile_rows: tiles.rows,
            tile_heads: tiles.heads,
            head_tiles: tiles.per_kv_head,
            window: 0,
            scale: (1.0 / f64::from(head_dim).sqrt()) as f32,
        }
    }

    /// Returns the same with all query heads of a key head in one tile of one row, as attention from projections has
    /// them.
    pub fn of_kv_heads(rows: u32, heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self::new(rows, heads, kv_heads, head_dim, Tiles::of_kv_head(heads / kv_heads.max(1)))
    }

    /// Returns the keys that a token sees at most, of a cache for `capacity` positions.
    pub(crate) fn most_keys(&self, capacity: u32) -> u32 {
        if self.window > 0 { self.window.min(capacity) } else { capacity }
    }
}

/// Which keys a workgroup attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// All that its queries see, chunk by chunk.
    All,
    /// Those of one chunk.
    Chunk,
}

/// Returns a source for workgroups that attend, with the slot `queries` still to be filled. With `one_row`, tiles have one
/// row.
pub(super) fn flash_source(v: Variant, body: Fragment, keys: Keys, one_row: bool) -> Source {
    let source = match v.reduction {
        Reduction::SharedMemory => Source::new(body, CHUNK)
            .constant("LANES_PER_HEAD", v.head_dim.div_ceil(8).next_power_of_two())
            .constant("ONE_ROW", one_row)
            .constant("ONE_CHUNK", keys == Keys::Chunk)
            .with(wgsl!("kv/visible.wgsl"))
            .with(wgsl!("attn/tile.wgsl"))
            .with(wgsl!("attn/flash_tile.wgsl"))
            .with(match keys {
                Keys::All => wgsl!("attn/single_pass.wgsl"),
                Keys::Chunk => wgsl!("attn/split_kv.wgsl"),
            }),
        Reduction::Subgroup => Source::new(body, 8)
            .subgroups(true)
            .with(wgsl!("attn/software/reduction_subgroup.wgsl"))
            .with(wgsl!("attn/software/tile.wgsl"))
            .with(wgsl!("attn/software/flash_tile.wgsl"))
            .with(match keys {
                Keys::All => wgsl!("attn/software/single_pass.wgsl"),
                Keys::Chunk => wgsl!("attn/software/split_kv.wgsl"),
            }),
    };
    v.kv.load(source)
        .with(wgsl!("kv/position.wgsl"))
        .with(wgsl!("kv/paged.wgsl"))
        .with(wgsl!("kv/vec8.wgsl"))
        .with(wgsl!("attn/softmax.wgsl"))
        .with_all((keys == Keys::All).then(|| sinks_fragment(v.sinks)))
        .with_all((keys == Keys::All).then(|| output_fragment(v.gated)))
        .constant("HEAD_DIM", v.head_dim)
        .constant("KV_HEAD", v.kv.head_words(v.head_dim))
        .constant("CHUNK", CHUNK)
}

/// Fills the slot `sinks`.
pub(super) fn sinks_fragment(sinks: bool) -> Fragment {
    if sinks { wgsl!("attn/sinks.wgsl") } else { wgsl!("attn/no_sinks.wgsl") }
}

/// Fills the slot `output`.
pub(super) fn output_fragment(gated: bool) -> Fragment {
    if gated { wgsl!("attn/output_gated.wgsl") } else { wgsl!("attn/output_plain.wgsl") }
}

/// Returns the filling of the slot `queries` for query heads in a buffer.
pub(super) fn loaded_queries(reduction: Reduction) -> Fragment {
    match reduction {
        Reduction::SharedMemory => wgsl!("attn/queries_loaded.wgsl"),
        Reduction::Subgroup => wgsl!("attn/software/queries_loaded.wgsl"),
    }
}
