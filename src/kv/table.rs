/// A copy of a whole block to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block that is read.
    pub from: u32,
    /// The block that is written.
    pub to: u32,
}

/// The blocks of one sequence, in the order of its positions, and its length.
///
/// A table is changed by the [`Pool`](super::Pool) that its blocks are from, and by no other. It is given back with
/// [`Pool::release`](super::Pool::release): one that is dropped keeps its blocks from all others.
#[derive(Debug, Default)]
#[must_use]
pub struct Table {
    pub(super) blocks: Vec<u32>,
    pub(super) len: u32,
    /// The copy that has to run before the next write. The table holds both blocks until then; `to` is among `blocks`.
    pub(super) copy: Option<BlockCopy>,
}

impl Table {
    /// A table of no blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its blocks: position `p` is in number `p / block`. There may be more than the length needs.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Its length in tokens.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True when it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
