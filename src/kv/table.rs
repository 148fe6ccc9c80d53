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
    /// Blocks from the start that lie before the window and were given back: their ids mean nothing.
    pub(super) freed: u32,
    /// The copy that must run before the next write. Until then the table holds both blocks; `to` is among `blocks`.
    pub(super) copy: Option<BlockCopy>,
}

impl Table {
    /// Returns an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table.
    pub(super) const EMPTY: Self = Self { blocks: Vec::new(), len: 0, freed: 0, copy: None };

    /// Returns its blocks: position `p` is in block number `p / block`. There may be more than the length needs. The
    /// first [`Self::freed`] ones were given back.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Returns how many of its first blocks were given back, since no row sees them any more.
    pub fn freed(&self) -> u32 {
        self.freed
    }

    /// Returns the blocks that it holds, but for one that is to be copied.
    pub fn held(&self) -> &[u32] {
        self.blocks.get(self.freed as usize..).unwrap_or_default()
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
