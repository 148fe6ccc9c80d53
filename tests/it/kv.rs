//! The block pool of the KV cache against a simulation of the blocks' contents.

use ferrum_wgpu::low_level::{
    kv::{BlockCopy, Full, Pool, Pools, Table, Tables, Window},
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

/// Pools, the contents of their blocks, and the sequences that use them.
struct World {
    pools: Pools,
    /// By group, block and position in it.
    memory: Vec<Vec<Vec<u64>>>,
    sequences: Vec<(Tables, Vec<u32>)>,
    counts: Counts,
}

/// What happened. Tokens found, also behind a window; refusals; blocks copied, evicted and freed before a window; sequences
/// that lost their window.
#[derive(Debug, Default)]
struct Counts {
    adopted: u64,
    behind_window: u64,
    refused: u64,
    copied: u64,
    evicted: u64,
    freed: u64,
    lost: u64,
}

impl World {
    fn new(pools: Pools) -> Self {
        let block = pools.block() as usize;
        let memory = |pool: &Pool| vec![vec![0; block]; pool.blocks() as usize];
        let memory = pools.groups().iter().map(memory).collect();
        Self { pools, memory, sequences: Vec::new(), counts: Counts::default() }
    }

    /// Makes room in tables, and checks that a refusal changes nothing.
    fn grow(&mut self, at: usize, tokens: u32) -> Option<Vec<(usize, BlockCopy)>> {
        let (tables, _) = &mut self.sequences[at];
        let lack = self.pools.lack(tables, tokens, 0);
        assert_eq!(lack.is_none(), self.pools.fits(tables, 0) >= tokens, "{tables:?} by {tokens}");
        let before = lack.map(|_| format!("{:?} {tables:?}", self.pools));
        let cached = |pools: &Pools| -> u32 { pools.groups().iter().map(Pool::cached).sum() };
        let cached_before = cached(&self.pools);
        match (self.pools.grow(tables, tokens), before) {
            (Ok(copies), None) => {
                self.counts.evicted += u64::from(cached_before > cached(&self.pools));
                Some(copies)
            }
            (Err(full), Some(before)) => {
                assert_eq!(Some(full), lack.map(|(_, full)| full));
                assert_eq!(before, format!("{:?} {tables:?}", self.pools));
                self.counts.refused += 1;
                None
            }
            (result, _) => panic!("{lack:?}: {result:?}"),
        }
    }

    /// Appends tokens as a device would write them.
    fn write(&mut self, at: usize, tokens: &[u32], slide: bool) {
        let Some(copies) = self.grow(at, tokens.len() as u32) else { return };
        let (tables, all) = &mut self.sequences[at];
        for (group, BlockCopy { from, to }) in copies.into_iter().filter(|_| !tokens.is_empty()) {
            self.memory[group][to as usize] = self.memory[group][from as usize].clone();
            self.counts.copied += 1;
        }
        let first = all.len();
        all.extend(tokens);
        let block = self.pools.block() as usize;
        for (position, value) in contents(all).into_iter().enumerate().skip(first) {
            for (group, memory) in self.memory.iter_mut().enumerate() {
                memory[tables.group(group).blocks()[position / block] as usize][position % block] = value;
            }
        }
        self.pools.advance(tables, tokens.len() as u32);
        if slide {
            let freed = tables.group(1).freed();
            self.pools.slide(tables);
            self.counts.freed += u64::from(tables.group(1).freed() - freed);
        }
    }

    /// Checks that every table reads its own tokens' contents, and the pools' invariants.
    fn check(&self) {
        let block = self.pools.block() as usize;
        for (tables, tokens) in &self.sequences {
            assert_eq!(tables.len() as usize, tokens.len());
            for (group, pool) in self.pools.groups().iter().enumerate() {
                let first = pool.window().map_or(0, |window| (tokens.len() + 1).saturating_sub(window.size as usize));
                for (position, value) in contents(tokens).into_iter().enumerate().skip(first) {
                    let id = tables.group(group).blocks()[position / block] as usize;
                    assert_eq!(self.memory[group][id][position % block], value, "position {position} of {tables:?}");
                }
                let kept = tables.group(group).held().len() + tables.group(group).freed() as usize;
                assert_eq!(kept, tables.full().blocks().len());
            }
        }
        self.pools.audit(self.sequences.iter().map(|(tables, _)| tables)).expect("sound pools");
    }

    /// Shortens a sequence, and checks that it becomes empty only if its window was freed.
    fn truncate(&mut self, at: usize, len: u32) {
        let (tables, tokens) = &mut self.sequences[at];
        let slack = self.pools.groups().iter().filter_map(|pool| pool.window().map(|window| window.slack)).min();
        let before = tables.len();
        self.pools.truncate(tables, len);
        let lost = tables.len() < len.min(before);
        assert!(!lost || (tables.is_empty() && slack.is_some()));
        // Tables that were adopted have their own window only.
        self.counts.lost += u64::from(lost);
        tokens.truncate(tables.len() as usize);
    }

    /// Does a random operation.
    fn step(&mut self, rng: &mut Rng) {
        let tokens = |rng: &mut Rng, most: u32| -> Vec<u32> { (0..rng.below(most)).map(|_| rng.below(2)).collect() };
        let block = self.pools.block();
        let slide = rng.below(4) > 0;
        let Some(at) =
            (rng.below(8) > 0 && !self.sequences.is_empty()).then(|| rng.below(self.sequences.len() as u32) as usize)
        else {
            let prompt = tokens(rng, 4 * block + 2);
            let tables = self.pools.adopt(&prompt);
            assert!(
                tables.len().is_multiple_of(block) && (tables.is_empty() || (tables.len() as usize) < prompt.len())
            );
            self.counts.adopted += u64::from(tables.len());
            self.counts.behind_window += u64::from(tables.group(1).freed() > 0);
            let adopted = prompt[..tables.len() as usize].to_vec();
            self.sequences.push((tables, adopted));
            self.write(self.sequences.len() - 1, &prompt[self.sequences[self.sequences.len() - 1].1.len()..], slide);
            return;
        };
        match rng.below(8) {
            0 => {
                let (tables, _) = self.sequences.swap_remove(at);
                self.pools.release(tables);
            }
            1 => {
                let len = rng.below(self.sequences[at].1.len() as u32 + 2);
                self.truncate(at, len);
            }
            2 => {
                let (tables, tokens) = &self.sequences[at];
                let fork = (self.pools.fork(tables), tokens.clone());
                self.sequences.push(fork);
            }
            3 | 4 => {
                let (tables, tokens) = &self.sequences[at];
                self.pools.publish(tables, tokens, rng.below(tokens.len() as u32 + block));
            }
            5 => {
                // Growth without a write: the copy has not run, so only more growth or an end may follow.
                let more = rng.below(2 * block);
                if self.grow(at, more).is_some() {
                    let more = more + rng.below(2 * block);
                    let fork = (self.pools.fork(&self.sequences[at].0), self.sequences[at].1.clone());
                    self.sequences.push(fork);
                    match rng.below(3) {
                        0 => self.write(at, &vec![1; more as usize], slide),
                        1 => {
                            let (tables, _) = self.sequences.swap_remove(at);
                            self.pools.release(tables);
                            return;
                        }
                        _ => {}
                    }
                    let len = self.sequences[at].0.len();
                    self.truncate(at, len);
                }
            }
            _ => self.write(at, &tokens(rng, 2 * block), slide),
        }
    }
}

/// Runs random schedules on the pools that `new` returns.
fn run(new: impl Fn(&mut Rng) -> Pools) -> Counts {
    let mut counts = Counts::default();
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let mut world = World { counts, ..World::new(new(&mut rng)) };
        for _ in 0..60 {
            world.step(&mut rng);
            world.check();
        }
        for (tables, _) in world.sequences.drain(..) {
            world.pools.release(tables);
        }
        world.check();
        assert_eq!(world.pools.held(), 0, "seed {seed}");
        world.pools.forget();
        world.check();
        assert!(world.pools.groups().iter().all(|pool| (pool.free(), pool.cached()) == (pool.blocks(), 0)));
        counts = world.counts;
    }
    counts
}

#[test]
fn tables_read_what_was_written_into_them() {
    let counts = run(|rng| Pool::new(1 + rng.below(24), 1 + rng.below(5)).into());
    let Counts { adopted, refused, copied, evicted, freed, lost, .. } = counts;
    assert!([adopted, refused, copied, evicted].into_iter().all(|count| count > 1000), "{counts:?}");
    assert_eq!((freed, lost), (0, 0));
}

#[test]
fn tables_of_windows_read_what_a_row_sees() {
    let counts = run(|rng| {
        let pools = Pools::from(Pool::new(1 + rng.below(24), 1 + rng.below(5)));
        let window = Window { size: 1 + rng.below(8), slack: rng.below(4) };
        pools.with_window(1 + rng.below(24), window)
    });
    let Counts { adopted, behind_window, refused, copied, evicted, freed, lost } = counts;
    let all = [adopted, refused, copied, evicted, freed, lost];
    assert!(all.into_iter().all(|count| count > 1000) && behind_window > 200, "{counts:?}");
}

#[test]
fn a_sequence_in_a_window_can_be_shortened_by_its_slack() {
    let mut pools = Pools::from(Pool::new(16, 4)).with_window(16, Window { size: 8, slack: 3 });
    let mut tables = Tables::new();
    for len in 1..60 {
        assert_eq!(pools.grow(&mut tables, 1), Ok(vec![]));
        pools.advance(&mut tables, 1);
        pools.slide(&mut tables);
        assert_eq!(tables.group(1).freed(), u32::saturating_sub(len, 3 + 7) / 4, "{len} tokens");
    }
    pools.truncate(&mut tables, 56);
    assert_eq!(tables.len(), 56);
    pools.truncate(&mut tables, 51);
    assert_eq!((tables.len(), pools.held()), (0, 0));
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
