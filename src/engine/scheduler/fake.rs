//! A fake device of integers: the value of a position depends on everything that its sequence should have in its blocks, so
//! that a wrong block, position or order gives wrong tokens.

use std::collections::{BTreeMap, HashSet};

use super::{LogitRow, LogitsUse, StepOutput, StepPlan};
use crate::quant::Rng;

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
    cells: Vec<Cell>,
    /// By slot: the block table, and the token sampled last.
    slots: BTreeMap<u32, (Vec<u32>, u32)>,
    /// By slot of states: the values of all positions before, which a state depends on.
    states: Vec<Vec<u64>>,
    pub(super) copies: u32,
    /// Decode rows by request.
    pub(super) decode_rows: BTreeMap<u64, u32>,
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
    pub(super) fn new(blocks: u32, block: u32) -> Self {
        let cells = vec![Cell::default(); (blocks * block) as usize];
        let slots = BTreeMap::new();
        Self { block, cells, slots, states: Vec::new(), copies: 0, decode_rows: BTreeMap::new() }
    }

    /// Returns it with so many slots of states.
    pub(super) fn with_states(self, slots: u32) -> Self {
        Self { states: vec![vec![u64::MAX]; slots as usize], ..self }
    }

    /// Loses all data.
    pub(super) fn lose(&mut self) {
        self.cells.fill(Cell::default());
        self.states.fill(vec![u64::MAX]);
        self.slots.clear();
    }

    fn cell(&self, blocks: &[u32], position: u32) -> usize {
        (blocks[(position / self.block) as usize] * self.block + position % self.block) as usize
    }

    /// Returns whether none of the first `len` positions depends on a decode row.
    pub(super) fn is_prefilled(&self, blocks: &[u32], len: u32) -> bool {
        (0..len).all(|position| !self.cells[self.cell(blocks, position)].decoded)
    }

    /// Applies what is written before a step is submitted.
    pub(super) fn write(&mut self, step: &StepPlan) {
        for table in &step.block_tables {
            let (blocks, _) = self.slots.entry(table.slot).or_default();
            let end = table.first as usize + table.blocks.len();
            // Entries behind stay, and entries never written name no block.
            blocks.resize(blocks.len().max(end), u32::MAX);
            blocks[table.first as usize..end].copy_from_slice(&table.blocks);
        }
    }

    /// Computes a step.
    pub(super) fn run(&mut self, step: &StepPlan) -> Computed {
        let written: HashSet<u32> = step.block_copies.iter().map(|copy| copy.to).collect();
        assert_eq!(written.len(), step.block_copies.len(), "a block is copied to twice");
        assert!(step.block_copies.iter().all(|copy| !written.contains(&copy.from)), "copies depend on their order");
        for copy in &step.block_copies {
            let from = (copy.from * self.block) as usize;
            self.cells.copy_within(from..from + self.block as usize, (copy.to * self.block) as usize);
            self.copies += 1;
        }
        // Slot, position, token, and whether it is a decode row.
        let mut rows = Vec::new();
        for row in &step.decode {
            let (_, last) = self.slots[&row.slot];
            let token = if row.forced { row.token.expect("a forced token") } else { last };
            assert!(row.token.is_none_or(|known| known == token), "the host knows another token");
            rows.push((row.slot, row.position, token, true));
            *self.decode_rows.entry(row.request).or_default() += 1;
        }
        for prompt in &step.prefill {
            rows.extend((prompt.position..).zip(&prompt.tokens).map(|(at, token)| (prompt.slot, at, *token, false)));
        }
        assert_eq!(rows.len(), step.rows() as usize);
        self.no_slot_reads_what_another_writes(&rows);
        let mut values = Vec::new();
        for (slot, position, token, decode) in rows {
            let blocks = &self.slots[&slot].0;
            let before: Vec<Cell> = (0..position).map(|at| self.cells[self.cell(blocks, at)]).collect();
            let decoded = decode || before.iter().any(|cell| cell.decoded);
            let before: Vec<u64> = before.iter().map(|cell| cell.value).collect();
            let (cell, value) = (self.cell(blocks, position), value(&before, token));
            self.cells[cell] = Cell { value, decoded };
            values.push((position, value));
        }
        self.run_states(step);
        let mut output = StepOutput { step: step.id, tokens: Vec::new(), logits: Vec::new() };
        let mut of_logits = Vec::new();
        for row in &step.logit_rows {
            let (position, value) = values[row.row as usize];
            match row.usage {
                LogitsUse::Sample => {
                    let token = token_of(value);
                    self.slots.get_mut(&row.slot).expect("a slot with blocks").1 = token;
                    output.tokens.push((*row, Some(token)));
                }
                LogitsUse::Return { .. } => {
                    output.logits.push((*row, Vec::new()));
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
        let decode = step.decode.iter().map(|row| (row.slot, row.position, 1, &row.states));
        let prefill =
            step.prefill.iter().map(|rows| (rows.slot, rows.position, rows.tokens.len() as u32, &rows.states));
        let runs: Vec<_> = decode.chain(prefill).collect();
        let mut written = BTreeMap::new();
        for (run, (slot, first, rows, states)) in runs.iter().enumerate() {
            let blocks = &self.slots[slot].0;
            let values =
                |len: u32| -> Vec<u64> { (0..len).map(|at| self.cells[self.cell(blocks, at)].value).collect() };
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
        let block_of = |slot: u32, position: u32| self.slots[&slot].0[(position / self.block) as usize];
        for &(slot, position, ..) in rows {
            let written = block_of(slot, position);
            for &(other, last, ..) in rows.iter().filter(|row| row.0 != slot) {
                let reads = (0..=last / self.block).any(|entry| block_of(other, entry * self.block) == written);
                assert!(!reads, "slot {other} reads block {written}, which slot {slot} writes");
            }
        }
    }
}
