//! The block pool of the KV cache against a simulation of the blocks' contents.

use ferrum_wgpu::low_level::{
    kv::{BlockCopy, Full, Pool, Table},
    quant::Rng,
};

/// Returns what each position of a sequence holds: a hash of all tokens up to it.
fn contents(tokens: &[u32]) -> Vec<u64> {
    let step = |hash: &mut u64, token: &u32| {
        *hash = Rng::new(*hash ^ u64::from(*token)).next_u64();
        Some(*hash)
    };
    tokens.iter().scan(1, step).collect()
}

/// A pool, the contents of its blocks, and the sequences that use it.
struct World {
    pool: Pool,
    memory: Vec<Vec<u64>>,
    sequences: Vec<(Table, Vec<u32>)>,
    adopted: u64,
    refused: u64,
    copied: u64,
    evicted: u64,
}

impl World {
    fn new(blocks: u32, block: u32) -> Self {
        Self {
            pool: Pool::new(blocks, block),
            memory: vec![vec![0; block as usize]; blocks as usize],
            sequences: Vec::new(),
            adopted: 0,
            refused: 0,
            copied: 0,
            evicted: 0,
        }
    }

    /// Makes room in a table, and checks that a refusal changes nothing.
    fn grow(&mut self, at: usize, tokens: u32) -> Option<Option<BlockCopy>> {
        let (table, _) = &mut self.sequences[at];
        let (needed, free) = (self.pool.needed(table, tokens), self.pool.free());
        assert_eq!(needed <= free, self.pool.fits(table, free) >= tokens, "{table:?} by {tokens}");
        let before = (needed > free).then(|| format!("{:?} {table:?}", self.pool));
        let cached = self.pool.cached();
        match (self.pool.grow(table, tokens), before) {
            (Ok(copy), None) => {
                assert_eq!(free - needed, self.pool.free());
                self.evicted += u64::from(cached > self.pool.cached());
                Some(copy)
            }
            (Err(full), Some(before)) => {
                assert_eq!(full, Full { needed, free });
                assert_eq!(before, format!("{:?} {table:?}", self.pool));
                self.refused += 1;
                None
            }
            (result, _) => panic!("{needed} of {free}: {result:?}"),
        }
    }

    /// Appends tokens as a device would write them.
    fn write(&mut self, at: usize, tokens: &[u32]) {
        let Some(copy) = self.grow(at, tokens.len() as u32) else { return };
        let (table, all) = &mut self.sequences[at];
        if let Some(BlockCopy { from, to }) = copy.filter(|_| !tokens.is_empty()) {
            self.memory[to as usize] = self.memory[from as usize].clone();
            self.copied += 1;
        }
        let first = all.len();
        all.extend(tokens);
        let block = self.pool.block() as usize;
        for (position, value) in contents(all).into_iter().enumerate().skip(first) {
            self.memory[table.blocks()[position / block] as usize][position % block] = value;
        }
        self.pool.advance(table, tokens.len() as u32);
    }

    /// Checks that every table reads its own tokens' contents, and the pool's invariants.
    fn check(&self) {
        let block = self.pool.block() as usize;
        for (table, tokens) in &self.sequences {
            assert_eq!(table.len() as usize, tokens.len());
            for (position, value) in contents(tokens).into_iter().enumerate() {
                let id = table.blocks()[position / block] as usize;
                assert_eq!(self.memory[id][position % block], value, "position {position} of {table:?}");
            }
        }
        self.pool.audit(self.sequences.iter().map(|(table, _)| table)).expect("a sound pool");
    }

    /// Does a random operation.
    fn step(&mut self, rng: &mut Rng) {
        let tokens = |rng: &mut Rng, most: u32| -> Vec<u32> { (0..rng.below(most)).map(|_| rng.below(2)).collect() };
        let block = self.pool.block();
        let Some(at) =
            (rng.below(8) > 0 && !self.sequences.is_empty()).then(|| rng.below(self.sequences.len() as u32) as usize)
        else {
            let prompt = tokens(rng, 4 * block + 2);
            let table = self.pool.adopt(&prompt);
            assert!(table.len().is_multiple_of(block) && (table.is_empty() || (table.len() as usize) < prompt.len()));
            self.adopted += u64::from(table.len());
            let adopted = prompt[..table.len() as usize].to_vec();
            self.sequences.push((table, adopted));
            self.write(self.sequences.len() - 1, &prompt[self.sequences[self.sequences.len() - 1].1.len()..]);
            return;
        };
        match rng.below(8) {
            0 => {
                let (table, _) = self.sequences.swap_remove(at);
                self.pool.release(table);
            }
            1 => {
                let (table, tokens) = &mut self.sequences[at];
                let len = rng.below(tokens.len() as u32 + 2);
                self.pool.truncate(table, len);
                tokens.truncate(len as usize);
            }
            2 => {
                let (table, tokens) = &self.sequences[at];
                let fork = (self.pool.fork(table), tokens.clone());
                self.sequences.push(fork);
            }
            3 | 4 => {
                let (table, tokens) = &self.sequences[at];
                self.pool.publish(table, tokens, rng.below(tokens.len() as u32 + block));
            }
            5 => {
                // Growth without a write: the copy has not run, so only more growth or an end may follow.
                let more = rng.below(2 * block);
                if self.grow(at, more).is_some() {
                    let more = more + rng.below(2 * block);
                    let fork = (self.pool.fork(&self.sequences[at].0), self.sequences[at].1.clone());
                    self.sequences.push(fork);
                    match rng.below(3) {
                        0 => self.write(at, &vec![1; more as usize]),
                        1 => {
                            let (table, _) = self.sequences.swap_remove(at);
                            self.pool.release(table);
                            return;
                        }
                        _ => {}
                    }
                    let (table, _) = &mut self.sequences[at];
                    self.pool.truncate(table, table.len());
                }
            }
            _ => self.write(at, &tokens(rng, 2 * block)),
        }
    }
}

#[test]
fn tables_read_what_was_written_into_them() {
    let mut totals = [0; 4];
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let mut world = World::new(1 + rng.below(24), 1 + rng.below(5));
        for _ in 0..60 {
            world.step(&mut rng);
            world.check();
        }
        for (table, _) in world.sequences.drain(..) {
            world.pool.release(table);
        }
        world.check();
        assert_eq!(world.pool.held(), 0, "seed {seed}");
        world.pool.forget();
        world.check();
        assert_eq!((world.pool.free(), world.pool.cached()), (world.pool.blocks(), 0));
        for (total, of) in totals.iter_mut().zip([world.adopted, world.refused, world.copied, world.evicted]) {
            *total += of;
        }
    }
    assert!(totals.iter().all(|total| *total > 1000), "adopted, refused, copied, evicted: {totals:?}");
}

/// Returns a table of these tokens, as if they had been computed.
fn filled(pool: &mut Pool, tokens: &[u32]) -> Table {
    let mut table = Table::new();
    pool.grow(&mut table, tokens.len() as u32).expect("room");
    pool.advance(&mut table, tokens.len() as u32);
    table
}

#[test]
fn the_longest_published_prefix_is_adopted_without_the_last_token() {
    let mut pool = Pool::new(8, 2);
    let first = filled(&mut pool, &[1, 2, 3, 4, 5]);
    pool.publish(&first, &[1, 2, 3, 4, 5], 3);
    let one = pool.adopt(&[1, 2, 3, 4, 5]);
    assert_eq!(one.blocks(), &first.blocks()[..1], "only whole blocks of computed positions");
    pool.publish(&first, &[1, 2, 3, 4, 5], 5);
    let two = pool.adopt(&[1, 2, 3, 4, 5, 6]);
    assert_eq!((two.blocks(), two.len()), (&first.blocks()[..2], 4));
    for (tokens, len) in [(&[1, 2, 3, 4][..], 2), (&[1, 2], 0), (&[1], 0), (&[], 0), (&[2, 2, 3, 4, 5], 0)] {
        let table = pool.adopt(tokens);
        assert_eq!(table.len(), len, "{tokens:?}");
        pool.release(table);
    }
    pool.audit([&first, &one, &two]).expect("a sound pool");
}

#[test]
fn the_first_of_equal_blocks_stays_published() {
    let mut pool = Pool::new(8, 2);
    let (first, second) = (filled(&mut pool, &[1, 2]), filled(&mut pool, &[1, 2, 3, 4]));
    pool.publish(&first, &[1, 2], 2);
    pool.publish(&second, &[1, 2, 3, 4], 4);
    let adopted = pool.adopt(&[1, 2, 3, 4, 5]);
    assert_eq!(adopted.blocks(), [first.blocks()[0], second.blocks()[1]]);
    // A block is not found without its prefix, and found again with an equal one.
    for table in [first, adopted] {
        pool.release(table);
    }
    let filler = filled(&mut pool, &[9; 12]);
    let none = pool.adopt(&[1, 2, 3, 4, 5]);
    assert!(none.is_empty());
    pool.publish(&second, &[1, 2, 3, 4], 4);
    let found = pool.adopt(&[1, 2, 3, 4, 5]);
    assert_eq!(found.blocks(), second.blocks());
    pool.audit([&second, &filler, &none, &found]).expect("a sound pool");
}

#[test]
fn cached_blocks_are_evicted_in_lru_order() {
    let mut pool = Pool::new(4, 1);
    for tokens in [[1], [2], [3]] {
        let table = filled(&mut pool, &tokens);
        pool.publish(&table, &tokens, 1);
        pool.release(table);
    }
    assert_eq!((pool.free(), pool.cached(), pool.held()), (4, 3, 0));
    let used_again = pool.adopt(&[1, 0]);
    pool.release(used_again);
    // One block was never used; then 2 is evicted, and the others stay.
    let table = filled(&mut pool, &[7, 8]);
    let found: Vec<u32> = [1, 2, 3].map(|token| pool.adopt(&[token, 0]).len()).to_vec();
    assert_eq!((found, table.len()), (vec![1, 0, 1], 2));
}

#[test]
fn a_block_that_is_written_again_is_unpublished() {
    let mut pool = Pool::new(8, 4);
    let mut table = filled(&mut pool, &[1, 2, 3, 4]);
    pool.publish(&table, &[1, 2, 3, 4], 4);
    pool.truncate(&mut table, 3);
    let reader = pool.adopt(&[1, 2, 3, 4, 5]);
    assert_eq!(reader.len(), 4, "until something is written there");
    let copy = pool.grow(&mut table, 1).expect("room").expect("a copy: another table reads it");
    assert_eq!((copy.from, copy.to), (reader.blocks()[0], table.blocks()[0]));
    pool.truncate(&mut table, 3);
    assert_eq!(table.blocks(), reader.blocks(), "a copy that did not run");
    pool.release(reader);
    assert_eq!(pool.grow(&mut table, 1), Ok(None), "no other table reads it");
    assert!(pool.adopt(&[1, 2, 3, 4, 5]).is_empty());
    pool.advance(&mut table, 1);
    pool.publish(&table, &[1, 2, 3, 9], 4);
    assert_eq!(pool.adopt(&[1, 2, 3, 9, 5]).blocks(), table.blocks());
}

#[test]
fn a_contiguous_cache_has_one_block_for_each_sequence() {
    let mut pool = Pool::new(2, 4096);
    let mut table = filled(&mut pool, &[1; 100]);
    let mut fork = pool.fork(&table);
    assert_eq!(pool.free(), 1);
    assert!(pool.grow(&mut fork, 1).expect("room").is_some());
    pool.advance(&mut fork, 1);
    assert_eq!(pool.grow(&mut table, 3996), Ok(None));
    pool.advance(&mut table, 3996);
    assert_eq!(pool.grow(&mut table, 1), Err(Full { needed: 1, free: 0 }));
    assert_eq!(pool.grow(&mut table, u32::MAX), Err(Full { needed: 1_048_576, free: 0 }));
}
