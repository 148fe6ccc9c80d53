use std::collections::HashSet;

use super::{Pool, Table};

impl Pool {
    /// Checks the invariants of the pool, given all tables that hold its blocks. For tests.
    ///
    /// # Errors
    /// A description of the invariant that is broken.
    pub fn audit<'a>(&self, tables: impl IntoIterator<Item = &'a Table>) -> Result<(), String> {
        let mut holders = vec![0; self.entries.len()];
        for table in tables {
            self.audit_table(table)?;
            for &id in table.held().iter().chain(table.copy.iter().map(|copy| &copy.from)) {
                holders[id as usize] += 1;
            }
        }
        let found = self.prefixes.audit()?;
        for &(node, id) in &found {
            if self.entries[id as usize].node != Some(node) {
                return Err(format!("block {id} is at node {node}, and its entry says otherwise"));
            }
        }
        let published = self.entries.iter().filter(|entry| entry.node.is_some()).count();
        if published != found.len() {
            return Err(format!("{published} blocks are published, and {} found", found.len()));
        }
        let unused: HashSet<u32> = self.unused.iter().copied().collect();
        if unused.len() != self.unused.len() {
            return Err("a block is listed as unused twice".to_owned());
        }
        let mut free = 0;
        for (id, (entry, holders)) in (0..).zip(self.entries.iter().zip(holders)) {
            let cached = self.cached.get(&entry.last_held) == Some(&id);
            let unheld = entry.holders == 0;
            free += u32::from(unheld);
            if entry.holders != holders
                || unused.contains(&id) != (unheld && entry.node.is_none())
                || cached != (unheld && entry.node.is_some())
            {
                return Err(format!("block {id}, of {holders} tables: {entry:?}, unused {}", unused.contains(&id)));
            }
        }
        if free != self.free() || self.free() + self.held() != self.blocks() {
            return Err(format!("{free} blocks are free, counted as {}", self.free()));
        }
        Ok(())
    }

    fn audit_table(&self, table: &Table) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {table:?}"));
        if !self.keeps(table, table.len) {
            return wrong("blocks of the window are missing");
        }
        let distinct: HashSet<u32> = table.held().iter().copied().collect();
        if distinct.len() != table.held().len() {
            return wrong("a block is listed twice");
        }
        let filled = table.len.div_ceil(self.block()) as usize;
        if filled > table.blocks.len() {
            return wrong("blocks are missing");
        }
        let own = |id: u32| self.entries[id as usize].holders == 1 && self.entries[id as usize].node.is_none();
        if !table.blocks[filled..].iter().all(|id| own(*id)) {
            return wrong("unused room is shared or published");
        }
        if let Some(copy) = table.copy
            && (table.len.is_multiple_of(self.block()) || table.blocks[filled - 1] != copy.to || !own(copy.to))
        {
            return wrong("a copy is not into the last block");
        }
        Ok(())
    }
}
