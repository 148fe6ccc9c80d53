use std::collections::BTreeMap;

use super::{BlockCopy, Table, Window, prefixes::Prefixes};

/// An error: the pool has too few free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the KV cache has {free} free blocks, and {needed} are needed")]
pub struct Full {
    /// Blocks that the request needs.
    pub needed: u32,
    /// Blocks that are free.
    pub free: u32,
}

/// The blocks of a KV cache, by id: of all layers, or of a group of layers ([`Pools`](super::Pools)).
///
/// Tables hold blocks by reference counts. A published block that no table holds stays cached: it can be adopted until
/// the pool needs it. Cached blocks are reused in LRU order, after all unused ones.
#[derive(Debug)]
pub struct Pool {
    /// Tokens of a block.
    block: u32,
    /// The sliding window of its layers, if they have one.
    window: Option<Window>,
    /// The state of each block, by id.
    pub(super) entries: Vec<Entry>,
    /// Blocks that no table holds and that are not published.
    pub(super) unused: Vec<u32>,
    /// Published blocks that no table holds, in LRU order: by when they were last held.
    pub(super) cached: BTreeMap<u64, u32>,
    /// The number of blocks that became cached so far: the clock of the LRU order.
    clock: u64,
    pub(super) prefixes: Prefixes,
}

/// The state of a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Tables that hold it.
    pub(super) holders: u32,
    /// Its node among the published prefixes.
    pub(super) node: Option<u32>,
    /// Its key in `cached`.
    pub(super) last_held: u64,
    /// How often its contents were given up.
    version: u64,
}

impl Pool {
    /// Returns a pool of `blocks` free blocks with `block` tokens each, at least 1.
    pub fn new(blocks: u32, block: u32) -> Self {
        Self {
            block: block.max(1),
            window: None,
            entries: vec![Entry::default(); blocks as usize],
            unused: (0..blocks).rev().collect(),
            cached: BTreeMap::new(),
            clock: 0,
            prefixes: Prefixes::new(),
        }
    }

    /// Returns the pool for layers with a sliding window: [`Self::slide`] frees the blocks that lie before it.
    #[must_use]
    pub fn windowed(self, window: Window) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Returns the sliding window of its layers.
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// Returns the tokens of a block.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Returns the number of all blocks.
    pub fn blocks(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Returns the number of blocks that can be taken, including cached ones.
    pub fn free(&self) -> u32 {
        (self.unused.len() + self.cached.len()) as u32
    }

    /// Returns the number of blocks that tables hold.
    pub fn held(&self) -> u32 {
        self.blocks() - self.free()
    }

    /// Returns the number of blocks that no table holds but that [`Self::adopt`] can find.
    pub fn cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// Returns the version of a block's contents: another one once they are to be overwritten.
    pub fn version(&self, id: u32) -> u64 {
        self.entries.get(id as usize).map_or(0, |entry| entry.version)
    }

    /// Returns the number of blocks that [`Self::grow`] would take.
    pub fn needed(&self, table: &Table, tokens: u32) -> u32 {
        if tokens == 0 {
            return 0;
        }
        let blocks = (u64::from(table.len) + u64::from(tokens)).div_ceil(u64::from(self.block));
        let more = blocks.saturating_sub(table.blocks.len() as u64) + u64::from(self.shared_end(table).is_some());
        u32::try_from(more).unwrap_or(u32::MAX)
    }

    /// Returns the most tokens that [`Self::grow`] can make room for with `blocks` more blocks.
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

    /// Returns the index of the table's last block if it is partly filled and shared.
    fn shared_end(&self, table: &Table) -> Option<usize> {
        let end = self.partial_end(table)?;
        (self.entries[table.blocks[end] as usize].holders > 1).then_some(end)
    }

    /// Returns the index of the table's last block if it is partly filled.
    fn partial_end(&self, table: &Table) -> Option<usize> {
        (!table.len.is_multiple_of(self.block)).then_some((table.len / self.block) as usize)
    }

    /// Makes room for `tokens` positions after a table's length; [`Self::advance`] moves the length. Returns the copy
    /// that must run before anything is written there: a partly filled, shared block is replaced by a private one
    /// (copy-on-write). Until the length moves, growing again returns the same room and the same copy.
    ///
    /// A published block that would be written again is unpublished.
    ///
    /// # Errors
    /// [`Full`]; the table and the pool are unchanged then.
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
            self.entries[table.blocks[end] as usize].version += 1;
        }
        table.blocks.extend(taken);
        Ok(table.copy)
    }

    /// Extends a table's length by `tokens`, within its room. The tokens, and the copy that [`Self::grow`] returned,
    /// must be written before any later work of the device.
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

    /// Returns the first block that the row at position `len` sees.
    pub(super) fn first_seen(&self, len: u32) -> u32 {
        self.window.map_or(0, |window| len.saturating_sub(window.size.saturating_sub(1)) / self.block)
    }

    /// Returns whether a table still has all blocks that the row at position `len` sees.
    pub fn keeps(&self, table: &Table, len: u32) -> bool {
        table.freed <= self.first_seen(len)
    }

    /// Frees the blocks that no later row sees, even after the table was shortened by the window's slack.
    pub fn slide(&mut self, table: &mut Table) {
        let Some(window) = self.window else { return };
        let first = self.first_seen(table.len.saturating_sub(window.slack));
        for i in table.freed..first {
            self.drop_holder(table.blocks[i as usize]);
        }
        table.freed = table.freed.max(first);
    }

    /// Returns a table of the same tokens that shares all their blocks.
    pub fn fork(&mut self, table: &Table) -> Table {
        let mut blocks = table.blocks[..table.len.div_ceil(self.block) as usize].to_vec();
        if let (Some(copy), Some(last)) = (table.copy, blocks.last_mut()) {
            // The private block is still empty.
            *last = copy.from;
        }
        for &id in blocks.iter().skip(table.freed as usize) {
            self.hold(id);
        }
        Table { blocks, len: table.len, freed: table.freed, copy: None }
    }

    /// Shortens a table to at most `len` tokens, and returns all room after its length to the pool. A table that lacks
    /// blocks of the window before `len` becomes empty.
    pub fn truncate(&mut self, table: &mut Table, len: u32) {
        let len = if self.keeps(table, len.min(table.len)) { len } else { 0 };
        if let (Some(copy), Some(end)) = (table.copy.take(), self.partial_end(table)) {
            table.blocks[end] = copy.from;
            self.drop_holder(copy.to);
        }
        table.len = table.len.min(len);
        let keep = table.len.div_ceil(self.block) as usize;
        // From the end: a prefix is found through its first blocks, so its last ones should be evicted first.
        let held = keep.max(table.freed as usize);
        for id in table.blocks.drain(held..).rev() {
            self.drop_holder(id);
        }
        table.blocks.truncate(keep);
        table.freed = table.freed.min(keep as u32);
    }

    /// Returns all blocks of a table to the pool.
    pub fn release(&mut self, mut table: Table) {
        self.truncate(&mut table, 0);
    }

    /// Publishes the whole blocks of a table's first `computed` positions under the sequence's `tokens` from its
    /// beginning. If a block of the same content is published already, it stays the published one.
    pub fn publish(&mut self, table: &Table, tokens: &[u32], computed: u32) {
        let whole = table.len.min(computed) / self.block;
        if whole <= table.freed {
            return;
        }
        let mut node = Prefixes::ROOT;
        let blocks = (0..whole).zip(&table.blocks);
        for (tokens, (i, &id)) in tokens.chunks_exact(self.block as usize).zip(blocks) {
            let (freed, child) = (i < table.freed, self.prefixes.child(node, tokens));
            node = match child.filter(|child| freed || self.prefixes.block(*child).is_some()) {
                Some(child) => child,
                None if freed => self.prefixes.insert(node, tokens, None),
                // It is published under other tokens: these cannot be its own.
                None if self.entries[id as usize].node.is_some() => return self.prefixes.prune(node),
                None => {
                    let child = self.prefixes.insert(node, tokens, Some(id));
                    self.entries[id as usize].node = Some(child);
                    child
                }
            };
        }
    }

    /// Returns the published blocks of `tokens`, in whole blocks and without the last token: its logits must be computed.
    pub(super) fn published(&self, tokens: &[u32]) -> Vec<Option<u32>> {
        let most = tokens.len().saturating_sub(1) / self.block as usize;
        let mut node = Some(Prefixes::ROOT);
        let mut found = Vec::with_capacity(most);
        for tokens in tokens.chunks_exact(self.block as usize).take(most) {
            node = node.and_then(|node| self.prefixes.child(node, tokens));
            let Some(node) = node else { break };
            found.push(self.prefixes.block(node));
        }
        found
    }

    /// Returns for each number of whole blocks whether a sequence can go on behind so many blocks of `found`.
    pub(super) fn usable(&self, found: &[Option<u32>]) -> Vec<bool> {
        // Published blocks in a row, up to each place.
        let mut row = 0;
        let rows = found.iter().map(|block| {
            row = if block.is_some() { row + 1 } else { 0 };
            row
        });
        let needed = |blocks: u32| blocks - self.first_seen(blocks * self.block).min(blocks);
        std::iter::once(0).chain(rows).zip(0..).map(|(row, blocks)| row >= needed(blocks)).collect()
    }

    /// Returns a table of published blocks.
    pub(super) fn adopt_blocks(&mut self, found: &[Option<u32>]) -> Table {
        let len = found.len() as u32 * self.block;
        let freed = self.first_seen(len).min(found.len() as u32);
        for id in found.iter().skip(freed as usize).flatten() {
            self.hold(*id);
        }
        // Any block stands for one before the window.
        let blocks = (0..).zip(found).map(|(i, id)| id.filter(|_| i >= freed).unwrap_or_default()).collect();
        Table { blocks, len, freed, copy: None }
    }

    /// Returns a table of the longest published prefix of `tokens`, in whole blocks and without the last token: its
    /// logits must be computed.
    pub fn adopt(&mut self, tokens: &[u32]) -> Table {
        let found = self.published(tokens);
        let longest = self.usable(&found).into_iter().rposition(|usable| usable).unwrap_or(0);
        self.adopt_blocks(&found[..longest])
    }

    /// Unpublishes all blocks: their contents are lost.
    pub fn forget(&mut self) {
        self.prefixes = Prefixes::new();
        for entry in &mut self.entries {
            entry.node = None;
        }
        self.unused.extend(std::mem::take(&mut self.cached).into_values());
    }

    /// Takes a free block for one table, evicting a cached one if there is no other.
    fn take(&mut self) -> Option<u32> {
        let id = match self.unused.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.cached.pop_first()?;
                self.unpublish(id);
                id
            }
        };
        let entry = &mut self.entries[id as usize];
        (entry.holders, entry.version) = (1, entry.version + 1);
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
