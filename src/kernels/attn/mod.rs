//! Attention: from the projections to heads and the cache, and over it.

mod attend;
pub mod attention;
pub mod attention_merge;
pub mod attention_part;
mod cache;
pub mod copy_blocks;
mod head;
pub mod kv_cache_append;
pub mod qk_norm_rope;
pub mod qkv_attention;
pub mod qkv_attention_part;
pub mod qkv_to_cache;
mod scan;
pub mod split_qkv;
pub mod split_qkv_norm_rope;
pub mod transpose_heads;
mod turned;

pub use attend::CHUNK;
pub use cache::Cache;
pub use scan::{Exchange, Tiles};
pub use turned::{Variant as QkvVariant, can_turn};

/// The largest head dimension, of which all are multiples of four: an invocation for each pair of elements, 256 to a workgroup.
pub const MAX_HEAD_DIM: u32 = 512;

/// Words (of four bytes) of a chunk's sums: the values', the largest score, the mass, two that are nothing.
pub fn part_words(head_dim: u32) -> u32 {
    head_dim + 4
}

/// Invocations of a workgroup that has one for each pair of a head's elements: a power of two, for the reductions.
fn workgroup(head_dim: u32) -> u32 {
    (head_dim / 2).next_power_of_two().clamp(32, 256)
}

/// Head dimensions that stand for all in tests: a small one that is no multiple of eight, one that is no power of
/// two, those of real models.
const TESTED_HEAD_DIMS: [u32; 4] = [20, 80, 128, 256];
