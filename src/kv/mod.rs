//! Blocks of a KV cache: which sequence holds which, and which are found again by their content. Ids only, no data.
//!
//! A [`Pool`] hands out blocks of some tokens each. A sequence's blocks are in its [`Table`], in the order of its
//! positions. Sequences share blocks: those that were forked until one of them writes, and those with a common beginning
//! if it was published. A contiguous cache is a pool whose blocks are as long as a whole sequence.

mod audit;
mod pool;
mod prefixes;
mod table;

pub use pool::{Full, Pool};
pub use table::{BlockCopy, Table};
