//! The block pool of a paged KV cache (PagedAttention, Kwon et al. 2023): ids of blocks, no data.
//!
//! A [`Pool`] hands out blocks of a fixed number of tokens. A sequence's [`Table`] lists its blocks in the order of its
//! positions. Sequences share blocks copy-on-write: a fork shares all blocks until one side writes, and sequences with
//! a common published prefix share its whole blocks. A contiguous cache is a pool whose blocks have a whole sequence
//! each.
//!
//! Layers with a sliding window need no block before it. They are a group with a pool of their own: [`Pools`] and
//! [`Tables`] are those of all groups (vLLM's hybrid KV cache).

mod audit;
mod groups;
mod pool;
mod prefixes;
mod snapshots;
mod table;

pub use groups::{Pools, Tables, Window};
pub use pool::{Full, Pool};
pub use snapshots::Snapshots;
pub use table::{BlockCopy, Table};
