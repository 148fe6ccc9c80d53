/// A copy of one whole block to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block that is read.
    pub from: u32,
    /// The block that is written.
    pub to: u32,
}

/// The block table of one sequence: its blocks in the order of its positions, and its length.
///
/// Only the [`Pool`](super::Pool) that owns its blocks may change a table. [`Pool::release`](super::Pool::release)
/// returns the blocks; dropping a table leaks them.
#[derive(Debug, Default)]
#[must_use]
pub struct Table {
    pub(super) blocks: Vec<u32>,
    pub(super) len: u32,
    /// The copy that must run before the next write. Until then the table holds both blocks; `to` is among `blocks`.
    pub(super) copy: Option<BlockCopy>,
}

impl Table {
    /// Returns an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns its blocks: position `p` is in block number `p / block`. There may be more than the length needs.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Returns its length in tokens.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
