//! What a workgroup has of attention, and the `exchange` slot: how its invocations work together.

use super::{CHUNK, attention::Variant};
use crate::gpu::{Caps, Fragment, ReductionOrder, Source, wgsl};

/// The `exchange` slot of attention: how invocations give each other queries, weights and sums. Each has its order of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Exchange {
    /// By workgroup memory: on every device, and in the same order.
    Memory,
    /// By shuffles in a workgroup of eight, for drivers that run on processors: a subgroup is a vector there, and memory of
    /// any kind costs more than arithmetic.
    Shuffle,
}

impl Exchange {
    /// Those a device can take.
    pub(crate) fn available(caps: &Caps) -> &'static [Self] {
        if caps.min_subgroup_8 { &[Self::Memory, Self::Shuffle] } else { &[Self::Memory] }
    }

    /// The order of sums over keys, whole or in chunks.
    pub(super) fn reduction_order(self) -> ReductionOrder {
        ReductionOrder::new(match self {
            Self::Memory => "chunks of keys",
            Self::Shuffle => "chunks of keys by eights",
        })
    }
}

/// Rows and query heads, at most, whose keys a workgroup loads once.
const PAIRS: u32 = 8;

/// The rows and query heads that a workgroup attends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows.
    pub rows: u32,
    /// Query heads of one key head.
    pub heads: u32,
    /// How many of these there are for each key head.
    pub per_key_head: u32,
}

impl Tiles {
    /// As many of `group` query heads as there is room for, of several rows where these are mostly of one sequence.
    pub fn new(group: u32, one_sequence: bool) -> Self {
        let per_key_head = group.div_ceil(PAIRS).max(1);
        let heads = group.div_ceil(per_key_head).max(1);
        Self { rows: if one_sequence { PAIRS / heads } else { 1 }, heads, per_key_head }
    }
}

/// A source for workgroups that attend by a fragment, without the slot `queries`.
pub(super) fn scan(v: Variant, body: Fragment, attend: Fragment) -> Source {
    let source = match v.exchange {
        Exchange::Memory => Source::new(body, 64)
            .constant("RUNS", v.head_dim.div_ceil(8).next_power_of_two())
            .with(wgsl!("attn/scan_memory.wgsl")),
        Exchange::Shuffle => Source::new(body, 8).subgroups(true).with(wgsl!("attn/scan_shuffle.wgsl")),
    };
    v.kv.load(v.cache.fill(source))
        .with(wgsl!("kv/eight.wgsl"))
        .with(wgsl!("attn/sums.wgsl"))
        .with(wgsl!("attn/scan_tile.wgsl"))
        .with(wgsl!("attn/scan.wgsl"))
        .with(attend)
        .constant("HEAD_DIM", v.head_dim)
        .constant("KV_HEAD", v.kv.head_words(v.head_dim))
        .constant("CHUNK", CHUNK)
}
