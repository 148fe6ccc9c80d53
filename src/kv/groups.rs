use super::{BlockCopy, Full, Pool, Table};

/// A sliding window of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Positions that a row sees, its own included; at least 1.
    pub size: u32,
    /// Rows by which a sequence can be shortened and still has its window: rows that were computed in vain.
    pub slack: u32,
}

/// The pools of a KV cache, one for each group of layers. Their blocks have the same number of tokens, and a sequence has
/// as many in each: only those before a window are given back.
///
/// The first group is that of layers without a window, even if there are none.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool>,
}

/// The block tables of one sequence, one for each group of layers. Only the [`Pools`] that own its blocks may change it.
#[derive(Debug, Default)]
#[must_use]
pub struct Tables {
    /// Empty, or a table for each group.
    tables: Vec<Table>,
}

impl From<Pool> for Pools {
    fn from(pool: Pool) -> Self {
        Self { pools: vec![pool] }
    }
}

impl Pools {
    /// Adds the group of layers with a window, with a pool of so many blocks.
    #[must_use]
    pub fn with_window(mut self, blocks: u32, window: Window) -> Self {
        self.pools.push(Pool::new(blocks, self.block()).windowed(window));
        self
    }

    /// Returns the pool of each group.
    pub fn groups(&self) -> &[Pool] {
        &self.pools
    }

    /// Returns the pool of layers without a window.
    pub fn full(&self) -> &Pool {
        &self.pools[0]
    }

    /// Returns the tokens of a block.
    pub fn block(&self) -> u32 {
        self.full().block()
    }

    /// Returns the number of free blocks, of all groups together.
    pub fn free(&self) -> u32 {
        self.pools.iter().map(Pool::free).sum()
    }

    /// Returns the number of blocks that tables hold, of all groups together.
    pub fn held(&self) -> u32 {
        self.pools.iter().map(Pool::held).sum()
    }

    fn pairs<'a>(&'a self, tables: &'a Tables) -> impl Iterator<Item = (&'a Pool, &'a Table)> {
        self.pools.iter().enumerate().map(|(group, pool)| (pool, tables.group(group)))
    }

    fn pairs_mut<'a>(&'a mut self, tables: &'a mut Tables) -> impl Iterator<Item = (&'a mut Pool, &'a mut Table)> {
        tables.tables.resize_with(self.pools.len(), Table::new);
        self.pools.iter_mut().zip(&mut tables.tables)
    }

    /// Returns the first group that lacks free blocks for `tokens` more tokens of a sequence, if it keeps `reserve` blocks
    /// for others; and what it lacks.
    pub fn lack(&self, tables: &Tables, tokens: u32, reserve: u32) -> Option<(usize, Full)> {
        self.lacks(tables, tokens, reserve).next()
    }

    /// Returns the first group with a window that lacks free blocks, as [`Self::lack`] does.
    pub fn lack_of_window(&self, tables: &Tables, tokens: u32, reserve: u32) -> Option<usize> {
        let mut lacks = self.lacks(tables, tokens, reserve);
        lacks.find(|(group, _)| self.pools[*group].window().is_some()).map(|(group, _)| group)
    }

    fn lacks<'a>(&'a self, tables: &'a Tables, tokens: u32, reserve: u32) -> impl Iterator<Item = (usize, Full)> + 'a {
        let of = move |(group, (pool, table)): (usize, (&Pool, &Table))| {
            let needed = pool.needed(table, tokens).saturating_add(reserve);
            (group, Full { needed, free: pool.free() })
        };
        self.pairs(tables).enumerate().map(of).filter(|(_, Full { needed, free })| needed > free)
    }

    /// Returns the most tokens that [`Self::grow`] can make room for, if each group keeps `reserve` blocks for others.
    pub fn fits(&self, tables: &Tables, reserve: u32) -> u32 {
        let fits = self.pairs(tables).map(|(pool, table)| pool.fits(table, pool.free().saturating_sub(reserve)));
        fits.min().unwrap_or(0)
    }

    /// Makes room for `tokens` positions in each group, as [`Pool::grow`] does. Returns the copies, each with its group.
    ///
    /// # Errors
    /// [`Full`]; the tables and the pools are unchanged then.
    pub fn grow(&mut self, tables: &mut Tables, tokens: u32) -> Result<Vec<(usize, BlockCopy)>, Full> {
        if let Some((_, full)) = self.lack(tables, tokens, 0) {
            return Err(full);
        }
        let mut copies = Vec::new();
        for (group, (pool, table)) in self.pairs_mut(tables).enumerate() {
            copies.extend(pool.grow(table, tokens)?.map(|copy| (group, copy)));
        }
        Ok(copies)
    }

    /// Extends the length by `tokens`, as [`Pool::advance`] does. Blocks before a window stay until [`Self::slide`], so that
    /// they can be published.
    pub fn advance(&mut self, tables: &mut Tables, tokens: u32) {
        self.pairs_mut(tables).for_each(|(pool, table)| pool.advance(table, tokens));
    }

    /// Frees the blocks before each window.
    pub fn slide(&mut self, tables: &mut Tables) {
        self.pairs_mut(tables).for_each(|(pool, table)| pool.slide(table));
    }

    /// Returns tables of the same tokens that share all their blocks.
    pub fn fork(&mut self, tables: &Tables) -> Tables {
        let forks = self.pools.iter_mut().enumerate().map(|(group, pool)| pool.fork(tables.group(group)));
        Tables { tables: forks.collect() }
    }

    /// Shortens tables to at most `len` tokens, and returns all room after their length. They become empty if the blocks of a
    /// window before `len` were given back.
    pub fn truncate(&mut self, tables: &mut Tables, len: u32) {
        let end = len.min(tables.len());
        let len = if self.pairs(tables).all(|(pool, table)| pool.keeps(table, end)) { end } else { 0 };
        self.pairs_mut(tables).for_each(|(pool, table)| pool.truncate(table, len));
    }

    /// Returns all blocks of tables.
    pub fn release(&mut self, mut tables: Tables) {
        self.truncate(&mut tables, 0);
    }

    /// Publishes whole blocks, as [`Pool::publish`] does.
    pub fn publish(&mut self, tables: &Tables, tokens: &[u32], computed: u32) {
        for (group, pool) in self.pools.iter_mut().enumerate() {
            pool.publish(tables.group(group), tokens, computed);
        }
    }

    /// Returns tables of the longest prefix of `tokens` that a sequence can go on behind: published without a gap in the first
    /// group, and as far as the window goes in the others. It has whole blocks, and not the last token: its logits must be
    /// computed.
    pub fn adopt(&mut self, tokens: &[u32]) -> Tables {
        let found: Vec<_> = self.pools.iter().map(|pool| pool.published(tokens)).collect();
        let usable: Vec<_> = self.pools.iter().zip(&found).map(|(pool, found)| pool.usable(found)).collect();
        let shortest = usable.iter().map(Vec::len).min().unwrap_or(0);
        let all = |blocks: &usize| usable.iter().all(|usable| usable[*blocks]);
        let longest = (0..shortest).rev().find(all).unwrap_or(0);
        let adopted = self.pools.iter_mut().zip(found).map(|(pool, found)| pool.adopt_blocks(&found[..longest]));
        Tables { tables: adopted.collect() }
    }

    /// Unpublishes all blocks: their contents are lost.
    pub fn forget(&mut self) {
        self.pools.iter_mut().for_each(Pool::forget);
    }

    /// Checks the invariants of all pools, given all tables. For tests.
    ///
    /// # Errors
    /// A description of the invariant that is broken.
    pub fn audit<'a>(&self, tables: impl IntoIterator<Item = &'a Tables>) -> Result<(), String> {
        let tables: Vec<&Tables> = tables.into_iter().collect();
        if let Some(tables) = tables.iter().find(|tables| tables.tables.iter().any(|table| table.len() != tables.len()))
        {
            return Err(format!("groups of different lengths: {tables:?}"));
        }
        self.pools.iter().enumerate().try_for_each(|(group, pool)| pool.audit(tables.iter().map(|of| of.group(group))))
    }
}

impl Tables {
    /// Returns empty tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the table of a group.
    pub fn group(&self, group: usize) -> &Table {
        static EMPTY: Table = Table::EMPTY;
        self.tables.get(group).unwrap_or(&EMPTY)
    }

    /// Returns the table of layers without a window.
    pub fn full(&self) -> &Table {
        self.group(0)
    }

    /// Returns the length in tokens.
    pub fn len(&self) -> u32 {
        self.full().len()
    }

    /// Returns whether they have no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
