//! Snapshots of the states of recurrent layers, at the ends of KV blocks.

use super::{Pool, Table};

/// Snapshots of states, by id: no data. A state cannot be cut as a KV cache can, so that a prefix can be continued only from
/// a position at which a snapshot was taken.
///
/// A snapshot belongs to the block that ends at its position: tables find it through their blocks, whether these are their
/// own, shared by a fork or adopted. It is lost with the contents of the block, or in LRU order when another one needs its
/// place.
#[derive(Debug)]
pub struct Snapshots {
    entries: Vec<Entry>,
    /// The number of uses so far: the clock of the LRU order.
    clock: u64,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// The block, and the version of its contents.
    block: Option<(u32, u64)>,
    last_used: u64,
    /// Requests that are to begin from it, and steps that are to write it.
    holders: u32,
}

impl Snapshots {
    /// Returns room for `count` snapshots.
    pub fn new(count: u32) -> Self {
        Self { entries: vec![Entry::default(); count as usize], clock: 0 }
    }

    /// Returns the length of the longest prefix of a table that has a snapshot, and the snapshot, which it holds.
    pub fn adopt(&mut self, pool: &Pool, table: &Table) -> Option<(u32, u32)> {
        let whole = (table.len() / pool.block()) as usize;
        for (i, block) in table.blocks().iter().enumerate().take(whole).skip(table.freed() as usize).rev() {
            let version = (*block, pool.version(*block));
            if let Some(id) = self.entries.iter().position(|entry| entry.block == Some(version)) {
                self.hold(id as u32);
                return Some(((i as u32 + 1) * pool.block(), id as u32));
            }
        }
        None
    }

    /// Takes the place of the least recently used snapshot that nobody holds, and holds it. Its contents are lost.
    pub fn take(&mut self) -> Option<u32> {
        let free = (0..).zip(&self.entries).filter(|(_, entry)| entry.holders == 0);
        let (id, _) = free.min_by_key(|(_, entry)| (entry.block.is_some(), entry.last_used))?;
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.block = None;
        }
        self.hold(id);
        Some(id)
    }

    /// Attaches a snapshot to the block of a table that ends at `len`: its contents are submitted.
    pub fn attach(&mut self, id: u32, pool: &Pool, table: &Table, len: u32) {
        let block = (len / pool.block()).checked_sub(1).and_then(|block| table.blocks().get(block as usize));
        let version = block.map(|block| (*block, pool.version(*block)));
        for entry in self.entries.iter_mut().filter(|entry| entry.block == version) {
            entry.block = None;
        }
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.block = version;
        }
    }

    /// Detaches the snapshot at position `len` of a table, unless somebody holds it: it is the next that is taken.
    pub fn detach(&mut self, pool: &Pool, table: &Table, len: u32) {
        let block = (len / pool.block()).checked_sub(1).and_then(|block| table.blocks().get(block as usize));
        let Some(version) = block.map(|block| (*block, pool.version(*block))) else { return };
        for entry in self.entries.iter_mut().filter(|entry| entry.block == Some(version) && entry.holders == 0) {
            entry.block = None;
        }
    }

    /// Holds a snapshot once more.
    pub fn hold(&mut self, id: u32) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(id as usize) {
            (entry.holders, entry.last_used) = (entry.holders + 1, self.clock);
        }
    }

    /// Drops a holder of a snapshot.
    pub fn drop_holder(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.holders = entry.holders.saturating_sub(1);
        }
    }

    /// Returns the number of holders of all snapshots.
    pub fn held(&self) -> u32 {
        self.entries.iter().map(|entry| entry.holders).sum()
    }

    /// Returns the number of snapshots whose block still has its contents.
    pub fn valid(&self, pool: &Pool) -> u32 {
        let valid = |entry: &&Entry| entry.block.is_some_and(|(block, version)| pool.version(block) == version);
        self.entries.iter().filter(valid).count() as u32
    }

    /// Forgets all: their contents are lost. Holders stay.
    pub fn forget(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.block = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pool: &mut Pool, len: u32) -> Table {
        let mut table = Table::new();
        pool.grow(&mut table, len).expect("blocks");
        pool.advance(&mut table, len);
        table
    }

    #[test]
    fn the_longest_prefix_with_a_snapshot_is_found() {
        let (mut pool, mut snapshots) = (Pool::new(8, 4), Snapshots::new(2));
        let table = table(&mut pool, 14);
        assert_eq!(snapshots.adopt(&pool, &table), None);
        for len in [4, 12] {
            let id = snapshots.take().expect("room");
            snapshots.attach(id, &pool, &table, len);
            snapshots.drop_holder(id);
        }
        assert_eq!(snapshots.valid(&pool), 2);
        let (len, id) = snapshots.adopt(&pool, &table).expect("a snapshot");
        assert_eq!(len, 12);
        // It is held, so that the other one makes place.
        let other = snapshots.take().expect("room");
        assert!(other != id && snapshots.take().is_none());
        snapshots.drop_holder(id);
        assert_eq!(snapshots.take(), Some(id));
        assert_eq!(snapshots.held(), 2);
    }

    #[test]
    fn a_detached_snapshot_is_taken_first() {
        let (mut pool, mut snapshots) = (Pool::new(8, 4), Snapshots::new(3));
        let table = table(&mut pool, 14);
        let ids = [4, 8, 12].map(|len| {
            let id = snapshots.take().expect("room");
            snapshots.attach(id, &pool, &table, len);
            snapshots.drop_holder(id);
            id
        });
        snapshots.hold(ids[2]);
        [0, 8, 12, 14, 40].into_iter().for_each(|len| snapshots.detach(&pool, &table, len));
        assert_eq!((snapshots.valid(&pool), snapshots.adopt(&pool, &table)), (2, Some((12, ids[2]))));
        assert_eq!([snapshots.take(), snapshots.take(), snapshots.take()], [Some(ids[1]), Some(ids[0]), None]);
    }

    #[test]
    fn a_snapshot_is_lost_with_the_contents_of_its_block() {
        let (mut pool, mut snapshots) = (Pool::new(2, 4), Snapshots::new(2));
        let mut first = table(&mut pool, 8);
        let id = snapshots.take().expect("room");
        snapshots.attach(id, &pool, &first, 8);
        snapshots.drop_holder(id);
        let fork = pool.fork(&first);
        pool.truncate(&mut first, 6);
        // The fork still has all of the block.
        assert_eq!(snapshots.adopt(&pool, &fork), Some((8, id)));
        pool.release(fork);
        pool.grow(&mut first, 2).expect("blocks");
        pool.advance(&mut first, 2);
        assert_eq!((snapshots.adopt(&pool, &first), snapshots.valid(&pool)), (None, 0));
        pool.release(first);
        let second = table(&mut pool, 8);
        assert_eq!(snapshots.adopt(&pool, &second), None);
    }
}
