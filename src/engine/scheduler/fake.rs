//! A fake device of integers: the value of a position depends on everything that its sequence should have in its blocks, so
//! that a wrong block, position or order gives wrong tokens.

use std::collections::{BTreeMap, HashSet};

use super::{LogitRow, LogitsUse, StepOutput, StepPlan};
use crate::{
    kv::{Pools, Tables},
    quant::Rng,
};

/// Sampled tokens are below this.
pub(super) const VOCAB: u64 = 7;

/// Returns the value of a position, given those before it.
pub(super) fn value(before: &[u64], token: u32) -> u64 {
    before.iter().fold(Rng::new(u64::from(token) + 1).next_u64(), |hash, value| Rng::new(hash ^ value).next_u64())
}

/// Returns the token that follows a position.
pub(super) fn token_of(value: u64) -> u32 {
    (value % VOCAB) as u32
}

/// Returns the token that follows `tokens`, for a sequence alone.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    token_of(values(tokens).last().copied().expect("a token"))
}

/// Returns the values of all positions of a sequence alone.
pub(super) fn values(tokens: &[u32]) -> Vec<u64> {
    let mut values = Vec::new();
    for &token in tokens {
        values.push(value(&values, token));
    }
    values
}

/// A position of a block.
#[derive(Clone, Copy, Default)]
struct Cell {
    value: u64,
    /// It depends on a decode row.
    decoded: bool,
}

pub(super) struct Device {
    block: u32,
    groups: Vec<Group>,
    /// By slot: the block table of each group, and the token sampled last.
    slots: BTreeMap<u32, (Vec<Vec<u32>>, u32)>,
    /// By slot of states: the values of all positions before, which a state depends on.
    states: Vec<Vec<u64>>,
    pub(super) copies: u32,
    /// Decode rows by request.
    pub(super) decode_rows: BTreeMap<u64, u32>,
}

/// The cells of a group of layers.
struct Group {
    cells: Vec<Cell>,
    /// The positions that a row sees, its own included.
    window: u32,
}

/// A step's output, and the position and value of each of its rows of logits.
pub(super) struct Computed {
    pub(super) output: StepOutput,
    pub(super) values: Vec<(LogitRow, u32, u64)>,
}

impl Computed {
    /// Returns the sampled tokens.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> {
        self.output.tokens.iter().filter_map(|(_, token)| *token)
    }
}

impl Device {
    pub(super) fn new(pools: &Pools) -> Self {
        let block = pools.block();
        let group = |pool: &crate::kv::Pool| Group {
            cells: vec![Cell::default(); (pool.blocks() * block) as usize],
            window: pool.window().map_or(u32::MAX, |window| window.size),
        };
        let (groups, slots) = (pools.groups().iter().map(group).collect(), BTreeMap::new());
        Self { block, groups, slots, states: Vec::new(), copies: 0, decode_rows: BTreeMap::new() }
    }

    /// Returns it with so many slots of states.
    pub(super) fn with_states(self, slots: u32) -> Self {
        Self { states: vec![vec![u64::MAX]; slots as usize], ..self }
    }

    /// Loses all data.
    pub(super) fn lose(&mut self) {
        self.groups.iter_mut().for_each(|group| group.cells.fill(Cell::default()));
        self.states.fill(vec![u64::MAX]);
        self.slots.clear();
    }

    fn cell(&self, blocks: &[u32], position: u32) -> usize {
        (blocks[(position / self.block) as usize] * self.block + position % self.block) as usize
    }

    /// Returns whether none of the first `len` positions depends on a decode row.
    pub(super) fn is_prefilled(&self, tables: &Tables, len: u32) -> bool {
        self.groups.iter().enumerate().all(|(group, Group { cells, .. })| {
            let table = tables.group(group);
            (table.freed() * self.block..len).all(|position| !cells[self.cell(table.blocks(), position)].decoded)
        })
    }

    /// Returns the cells of a slot's positions before one, spoilt if those of a window are not the same.
    fn cells_before(&self, slot: u32, position: u32) -> Vec<Cell> {
        let tables = &self.slots[&slot].0;
        let of = |group: usize, at: u32| self.groups[group].cells[self.cell(&tables[group], at)];
        let mut cells: Vec<Cell> = (0..position).map(|at| of(0, at)).collect();
        for (number, group) in self.groups.iter().enumerate().skip(1) {
            for at in position.saturating_sub(group.window - 1)..position {
                let (cell, own) = (of(number, at), &mut cells[at as usize]);
                if cell.value != own.value {
                    own.value ^= 1;
                }
                own.decoded |= cell.decoded;
            }
        }
        cells
    }

    /// Applies what is written before a step is submitted.
    pub(super) fn write(&mut self, step: &StepPlan) {
        for table in &step.block_tables {
            let (tables, _) = self.slots.entry(table.slot).or_default();
            tables.resize(self.groups.len(), Vec::new());
            let blocks = &mut tables[table.group];
            let end = table.first as usize + table.blocks.len();
            // Entries behind stay, and entries never written name no block.
            blocks.resize(blocks.len().max(end), u32::MAX);
            blocks[table.first as usize..end].copy_from_slice(&table.blocks);
        }
    }

    /// Computes a step.
    pub(super) fn run(&mut self, step: &StepPlan) -> Computed {
        let written: HashSet<(usize, u32)> = step.block_copies.iter().map(|(group, copy)| (*group, copy.to)).collect();
        assert_eq!(written.len(), step.block_copies.len(), "a block is copied to twice");
        for (group, copy) in &step.block_copies {
            assert!(!written.contains(&(*group, copy.from)), "copies depend on their order");
            let from = (copy.from * self.block) as usize;
            let to = (copy.to * self.block) as usize;
            self.groups[*group].cells.copy_within(from..from + self.block as usize, to);
            self.copies += 1;
        }
        // Slot, position, token, and whether it is a decode row.
        let mut rows = Vec::new();
        for row in &step.decode {
            let (_, last) = self.slots[&row.slot];
            let token = if row.from_host { row.token.expect("a token") } else { last };
            assert!(row.token.is_none_or(|known| known == token), "the host knows another token");
            rows.push((row.slot, row.position, token, true));
            rows.extend((row.position + 1..).zip(&row.drafts).map(|(at, token)| (row.slot, at, *token, true)));
            *self.decode_rows.entry(row.request).or_default() += 1;
        }
        for prompt in &step.prefill {
            rows.extend((prompt.position..).zip(&prompt.tokens).map(|(at, token)| (prompt.slot, at, *token, false)));
        }
        assert_eq!(rows.len(), step.rows() as usize);
        self.no_slot_reads_what_another_writes(&rows);
        let mut values = Vec::new();
        for (slot, position, token, decode) in rows {
            let before = self.cells_before(slot, position);
            let decoded = decode || before.iter().any(|cell| cell.decoded);
            let before: Vec<u64> = before.iter().map(|cell| cell.value).collect();
            let value = value(&before, token);
            for group in 0..self.groups.len() {
                let cell = self.cell(&self.slots[&slot].0[group], position);
                self.groups[group].cells[cell] = Cell { value, decoded };
            }
            values.push((position, value));
        }
        self.run_states(step);
        let mut output = StepOutput { step: step.id, tokens: Vec::new(), read_back: Vec::new() };
        let mut of_logits = Vec::new();
        for row in &step.logit_rows {
            let (position, value) = values[row.row as usize];
            match row.usage {
                LogitsUse::Sample => {
                    let token = token_of(value);
                    self.slots.get_mut(&row.slot).expect("a slot with blocks").1 = token;
                    output.tokens.push((*row, Some(token)));
                }
                LogitsUse::Return { .. } | LogitsUse::Hidden { .. } => {
                    output.read_back.push((*row, Vec::new()));
                    of_logits.push((*row, position, value));
                }
            }
        }
        Computed { output, values: of_logits }
    }

    /// Checks the states that runs begin from, and stores those that they end with.
    fn run_states(&mut self, step: &StepPlan) {
        if self.states.is_empty() {
            return;
        }
        let decode = step.decode.iter().map(|row| (row.slot, row.position, row.rows(), &row.states));
        let prefill =
            step.prefill.iter().map(|rows| (rows.slot, rows.position, rows.tokens.len() as u32, &rows.states));
        let runs: Vec<_> = decode.chain(prefill).collect();
        let mut written = BTreeMap::new();
        for (run, (slot, first, rows, states)) in runs.iter().enumerate() {
            let (blocks, cells) = (&self.slots[slot].0[0], &self.groups[0].cells);
            let values = |len: u32| -> Vec<u64> { (0..len).map(|at| cells[self.cell(blocks, at)].value).collect() };
            let from = states.from.map_or_else(Vec::new, |from| self.states[from as usize].clone());
            assert_eq!(from, values(*first), "the state of another prefix");
            assert!(states.to.iter().any(|(row, _)| row + 1 == *rows), "the last state is not stored");
            for (row, to) in &states.to {
                assert!(written.insert(*to, (run, values(first + row + 1))).is_none(), "a slot is written twice");
            }
        }
        for (run, (.., states)) in runs.iter().enumerate() {
            let other = states.from.and_then(|from| written.get(&from)).is_some_and(|(by, _)| *by != run);
            assert!(!other, "a slot is read while another run writes it");
        }
        for (to, (_, state)) in written {
            self.states[to as usize] = state;
        }
    }

    fn no_slot_reads_what_another_writes(&self, rows: &[(u32, u32, u32, bool)]) {
        for (number, group) in self.groups.iter().enumerate() {
            let block_of = |slot: u32, entry: u32| self.slots[&slot].0[number][entry as usize];
            for &(slot, position, ..) in rows {
                let written = block_of(slot, position / self.block);
                for &(other, last, ..) in rows.iter().filter(|row| row.0 != slot) {
                    let first = last.saturating_sub(group.window - 1) / self.block;
                    let reads = (first..=last / self.block).any(|entry| block_of(other, entry) == written);
                    assert!(!reads, "slot {other} reads block {written}, which slot {slot} writes");
                }
            }
        }
    }
}
