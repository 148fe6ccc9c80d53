use std::collections::BTreeMap;

use super::{BlockCopy, Table, prefixes::Prefixes};

/// There are not enough blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the KV cache has {free} free blocks, and {needed} are needed")]
pub struct Full {
    /// Blocks that would be taken.
    pub needed: u32,
    /// Blocks that can be.
    pub free: u32,
}

/// The blocks of a KV cache, by id.
///
/// A block is held by some tables, or by none. One that none holds stays findable if it was published, until all others
/// are taken; then the one that was held the longest time ago is the first to be used again.
#[derive(Debug)]
pub struct Pool {
    /// Tokens of a block.
    block: u32,
    /// By id.
    pub(super) entries: Vec<Entry>,
    /// Blocks that nobody holds and nobody finds.
    pub(super) unused: Vec<u32>,
    /// Blocks that nobody holds but that are findable, by when they were last held.
    pub(super) cached: BTreeMap<u64, u32>,
    /// Counts the blocks that were given back.
    clock: u64,
    pub(super) prefixes: Prefixes,
}

/// What is known of a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Tables that hold it.
    pub(super) holders: u32,
    /// Where it is found.
    pub(super) node: Option<u32>,
    /// Where it is in `cached`.
    pub(super) last_held: u64,
}

impl Pool {
    /// `blocks` free blocks of `block` tokens, which is at least 1.
    pub fn new(blocks: u32, block: u32) -> Self {
        Self {
            block: block.max(1),
            entries: vec![Entry::default(); blocks as usize],
            unused: (0..blocks).rev().collect(),
            cached: BTreeMap::new(),
            clock: 0,
            prefixes: Prefixes::new(),
        }
    }

    /// Tokens of a block.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// All blocks.
    pub fn blocks(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Blocks that can be taken, cached ones among them.
    pub fn free(&self) -> u32 {
        (self.unused.len() + self.cached.len()) as u32
    }

    /// Blocks that tables hold.
    pub fn held(&self) -> u32 {
        self.blocks() - self.free()
    }

    /// Blocks that nobody holds, but that [`Self::adopt`] finds.
    pub fn cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// Blocks that [`Self::grow`] would take.
    pub fn needed(&self, table: &Table, tokens: u32) -> u32 {
        if tokens == 0 {
            return 0;
        }
        let blocks = (u64::from(table.len) + u64::from(tokens)).div_ceil(u64::from(self.block));
        let more = blocks.saturating_sub(table.blocks.len() as u64) + u64::from(self.shared_end(table).is_some());
        u32::try_from(more).unwrap_or(u32::MAX)
    }

    /// The most tokens that [`Self::grow`] can make room for by taking `blocks` blocks.
    pub fn fits(&self, table: &Table, blocks: u32) -> u32 {
        let mut blocks = u64::from(blocks.min(self.free()));
        if self.shared_end(table).is_some() {
            match blocks.checked_sub(1) {
                Some(others) => blocks = others,
                None => return 0,
            }
        }
        let room = (table.blocks.len() as u64 + blocks) * u64::from(self.block) - u64::from(table.len);
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// The index of the table's last block if that is filled in part, and others hold it.
    fn shared_end(&self, table: &Table) -> Option<usize> {
        let end = self.partial_end(table)?;
        (self.entries[table.blocks[end] as usize].holders > 1).then_some(end)
    }

    /// The index of the table's last block if that is filled in part.
    fn partial_end(&self, table: &Table) -> Option<usize> {
        (!table.len.is_multiple_of(self.block)).then_some((table.len / self.block) as usize)
    }

    /// Makes room for the `tokens` positions behind a table's length; [`Self::advance`] moves the length. Returns the copy
    /// that has to run before anything is written there: the table gets a block of its own for one that is filled in part
    /// and shared. Until the length moves, growing again gives the same room and the same copy.
    ///
    /// A block that is findable and would be written again is findable no more.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn grow(&mut self, table: &mut Table, tokens: u32) -> Result<Option<BlockCopy>, Full> {
        let (needed, free) = (self.needed(table, tokens), self.free());
        if needed > free {
            return Err(Full { needed, free });
        }
        if tokens == 0 {
            return Ok(None);
        }
        let mut taken: Vec<u32> = (0..needed).filter_map(|_| self.take()).collect();
        if let Some(end) = self.shared_end(table) {
            let (from, to) = (table.blocks[end], taken.swap_remove(0));
            table.blocks[end] = to;
            table.copy = Some(BlockCopy { from, to });
        } else if let Some(end) = self.partial_end(table) {
            self.unpublish(table.blocks[end]);
        }
        table.blocks.extend(taken);
        Ok(table.copy)
    }

    /// Moves a table's length by `tokens`, as far as it has room: they are written, or will be before anything else that
    /// is asked of the device, and the copy that [`Self::grow`] returned is too.
    pub fn advance(&mut self, table: &mut Table, tokens: u32) {
        if tokens == 0 {
            return;
        }
        if let Some(copy) = table.copy.take() {
            self.drop_holder(copy.from);
        }
        let room = table.blocks.len() as u64 * u64::from(self.block);
        let len = (u64::from(table.len) + u64::from(tokens)).min(room);
        table.len = u32::try_from(len).unwrap_or(u32::MAX);
    }

    /// Another table of the same tokens, which shares all blocks that they are in.
    pub fn fork(&mut self, table: &Table) -> Table {
        let mut blocks = table.blocks[..table.len.div_ceil(self.block) as usize].to_vec();
        if let (Some(copy), Some(last)) = (table.copy, blocks.last_mut()) {
            // The block of its own is empty as yet.
            *last = copy.from;
        }
        for &id in &blocks {
            self.hold(id);
        }
        Table { blocks, len: table.len, copy: None }
    }

    /// Shortens a table to `len` tokens, if it is longer. Room behind its length is given back in any case.
    pub fn truncate(&mut self, table: &mut Table, len: u32) {
        if let (Some(copy), Some(end)) = (table.copy.take(), self.partial_end(table)) {
            table.blocks[end] = copy.from;
            self.drop_holder(copy.to);
        }
        table.len = table.len.min(len);
        let keep = table.len.div_ceil(self.block) as usize;
        // From the end: of blocks that stay findable the last ones are taken first, for without the first ones they are
        // not found.
        for id in table.blocks.drain(keep..).rev() {
            self.drop_holder(id);
        }
    }

    /// Gives all blocks of a table back.
    pub fn release(&mut self, mut table: Table) {
        self.truncate(&mut table, 0);
    }

    /// Makes the whole blocks of a table's first `computed` positions findable, where `tokens` are those of the sequence
    /// from its beginning. Where a block of the same content is findable already, that one stays it.
    pub fn publish(&mut self, table: &Table, tokens: &[u32], computed: u32) {
        let whole = table.len.min(computed) / self.block;
        let mut node = Prefixes::ROOT;
        for (tokens, &id) in tokens.chunks_exact(self.block as usize).zip(&table.blocks).take(whole as usize) {
            let child = self.prefixes.child(node, tokens);
            node = match child.filter(|child| self.prefixes.block(*child).is_some()) {
                Some(child) => child,
                // It is found as something else: these cannot be its tokens.
                None if self.entries[id as usize].node.is_some() => return,
                None => {
                    let child = self.prefixes.insert(node, tokens, id);
                    self.entries[id as usize].node = Some(child);
                    child
                }
            };
        }
    }

    /// A table of the longest beginning of `tokens` that was published, in whole blocks, and without the last token: what
    /// follows a prompt needs that one computed.
    pub fn adopt(&mut self, tokens: &[u32]) -> Table {
        let mut table = Table::new();
        let most = tokens.len().saturating_sub(1) / self.block as usize;
        let mut node = Prefixes::ROOT;
        for tokens in tokens.chunks_exact(self.block as usize).take(most) {
            let Some(child) = self.prefixes.child(node, tokens) else { break };
            let Some(id) = self.prefixes.block(child) else { break };
            self.hold(id);
            table.blocks.push(id);
            table.len += self.block;
            node = child;
        }
        table
    }

    /// Makes all blocks unfindable: what they held is lost.
    pub fn forget(&mut self) {
        self.prefixes = Prefixes::new();
        for entry in &mut self.entries {
            entry.node = None;
        }
        self.unused.extend(std::mem::take(&mut self.cached).into_values());
    }

    /// A free block, for one table.
    fn take(&mut self) -> Option<u32> {
        let id = match self.unused.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.cached.pop_first()?;
                self.unpublish(id);
                id
            }
        };
        self.entries[id as usize].holders = 1;
        Some(id)
    }

    fn hold(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        if entry.holders == 0 {
            self.cached.remove(&entry.last_held);
        }
        entry.holders += 1;
    }

    fn drop_holder(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        if entry.node.is_some() {
            self.clock += 1;
            entry.last_held = self.clock;
            self.cached.insert(self.clock, id);
        } else {
            self.unused.push(id);
        }
    }

    fn unpublish(&mut self, id: u32) {
        if let Some(node) = self.entries[id as usize].node.take() {
            self.prefixes.remove(node);
        }
    }
}
