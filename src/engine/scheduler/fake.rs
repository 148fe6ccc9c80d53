//! A device of integers: what it computes at a position depends on everything that the position's sequence should have in
//! its blocks, so that a wrong block, position or order gives wrong tokens.

use std::collections::{BTreeMap, HashSet};

use super::{Give, SequenceId, Step};
use crate::quant::Rng;

/// Tokens that are drawn are below this.
pub(super) const VOCAB: u64 = 7;

/// What a position holds, given what those before it hold.
pub(super) fn value(before: &[u64], token: u32) -> u64 {
    before.iter().fold(Rng::new(u64::from(token) + 1).next_u64(), |hash, value| Rng::new(hash ^ value).next_u64())
}

/// The token that follows a position.
pub(super) fn token_of(value: u64) -> u32 {
    (value % VOCAB) as u32
}

/// The token that follows `tokens`, by one sequence alone.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    token_of(values(tokens).last().copied().expect("a token"))
}

/// What all positions of a sequence alone hold.
pub(super) fn values(tokens: &[u32]) -> Vec<u64> {
    let mut values = Vec::new();
    for &token in tokens {
        values.push(value(&values, token));
    }
    values
}

/// What is at a place of a block.
#[derive(Clone, Copy, Default)]
struct Cell {
    value: u64,
    /// It depends on a row that was computed as a drawn one.
    drawn: bool,
}

pub(super) struct Device {
    block: u32,
    cells: Vec<Cell>,
    /// By slot: the list of blocks, and the token that was drawn last.
    slots: BTreeMap<u32, (Vec<u32>, u32)>,
    pub(super) copies: u32,
    /// Decode rows by request.
    pub(super) decode_rows: BTreeMap<u64, u32>,
}

/// What a step gave: tokens, and values of positions with the requests that want them.
#[derive(Default)]
pub(super) struct Given {
    pub(super) tokens: Vec<(SequenceId, u32)>,
    pub(super) logits: Vec<(SequenceId, u64, u32, u64)>,
}

impl Device {
    pub(super) fn new(blocks: u32, block: u32) -> Self {
        let cells = vec![Cell::default(); (blocks * block) as usize];
        Self { block, cells, slots: BTreeMap::new(), copies: 0, decode_rows: BTreeMap::new() }
    }

    /// Loses everything.
    pub(super) fn lose(&mut self) {
        self.cells.fill(Cell::default());
        self.slots.clear();
    }

    fn cell(&self, blocks: &[u32], position: u32) -> usize {
        (blocks[(position / self.block) as usize] * self.block + position % self.block) as usize
    }

    /// Whether none of the first `len` positions depends on a row that was computed as a drawn one.
    pub(super) fn is_as_prompt(&self, blocks: &[u32], len: u32) -> bool {
        (0..len).all(|position| !self.cells[self.cell(blocks, position)].drawn)
    }

    /// What is written before a step is submitted.
    pub(super) fn write(&mut self, step: &Step) {
        for list in &step.blocks {
            let (blocks, _) = self.slots.entry(list.slot).or_default();
            let end = list.first as usize + list.blocks.len();
            // What is behind stays, and what was never written is no block.
            blocks.resize(blocks.len().max(end), u32::MAX);
            blocks[list.first as usize..end].copy_from_slice(&list.blocks);
        }
    }

    pub(super) fn run(&mut self, step: &Step) -> Given {
        let written: HashSet<u32> = step.copies.iter().map(|copy| copy.to).collect();
        assert_eq!(written.len(), step.copies.len(), "a block is copied to twice");
        assert!(step.copies.iter().all(|copy| !written.contains(&copy.from)), "copies depend on their order");
        for copy in &step.copies {
            let from = (copy.from * self.block) as usize;
            self.cells.copy_within(from..from + self.block as usize, (copy.to * self.block) as usize);
            self.copies += 1;
        }
        // Slot, position, token, and whether it is a drawn one.
        let mut rows = Vec::new();
        for row in &step.decode {
            let (_, last) = self.slots[&row.slot];
            let token = if row.given { row.token.expect("a token that is given") } else { last };
            assert!(row.token.is_none_or(|known| known == token), "the host knows another token");
            rows.push((row.slot, row.position, token, true));
            *self.decode_rows.entry(row.request).or_default() += 1;
        }
        for prompt in &step.prompts {
            rows.extend((prompt.position..).zip(&prompt.tokens).map(|(at, token)| (prompt.slot, at, *token, false)));
        }
        assert_eq!(rows.len(), step.rows() as usize);
        self.no_slot_reads_what_another_writes(&rows);
        let mut values = Vec::new();
        for (slot, position, token, drawn) in rows {
            let blocks = &self.slots[&slot].0;
            let before: Vec<Cell> = (0..position).map(|at| self.cells[self.cell(blocks, at)]).collect();
            let drawn = drawn || before.iter().any(|cell| cell.drawn);
            let before: Vec<u64> = before.iter().map(|cell| cell.value).collect();
            let (cell, value) = (self.cell(blocks, position), value(&before, token));
            self.cells[cell] = Cell { value, drawn };
            values.push((position, value));
        }
        let mut given = Given::default();
        for pick in &step.picks {
            let (position, value) = values[pick.row as usize];
            match pick.give {
                Give::Draw => {
                    let token = token_of(value);
                    self.slots.get_mut(&pick.slot).expect("a slot with blocks").1 = token;
                    given.tokens.push((pick.sequence, token));
                }
                Give::Logits { .. } => given.logits.push((pick.sequence, pick.request, position, value)),
            }
        }
        given
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
