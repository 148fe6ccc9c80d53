//! Attention: from the projections to heads and the KV cache, and over the cache.

pub mod attention;
pub mod attention_reduce;
pub mod attention_split_kv;
pub mod copy_blocks;
mod fused_qkv;
mod heads;
pub mod kv_cache_append;
mod kv_index;
pub mod qk_norm_rope;
pub mod query_temperature;
mod reference;
pub mod rope_attention;
pub mod rope_attention_split_kv;
pub mod rope_kv_append;
mod sample;
pub mod split_qkv;
pub mod split_qkv_norm_rope;
mod tile;
pub mod transpose_heads;

pub use fused_qkv::{RopeVariant, can_fuse_rope};
pub use heads::RopeHead;
pub use kv_index::KvIndex;
pub use reference::CHUNK;
pub use tile::{AttnTile, Reduction, Tiles};

/// The largest head size. All are multiples of four.
pub const MAX_HEAD_DIM: u32 = 512;

/// Returns the words (of four bytes) of a chunk's partial sums: the weighted values, the row maximum, the sum of
/// exponentials, two of padding.
pub fn partial_words(head_dim: u32) -> u32 {
    head_dim + 4
}

/// The invocations of a workgroup that has one head. Loops cover heads of any size.
const HEAD_WORKGROUP: u32 = 64;
