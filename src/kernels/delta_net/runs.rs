//! The batch of a pass: runs of rows of one sequence each, and the slots of their states.

use super::DeltaHeads;

/// The number of no slot: as the slot to begin from it means a state of zeros, as the slot to store to that nothing is
/// stored.
pub const NO_SLOT: u32 = u32::MAX;

/// A row of a pass. The rows of a sequence are neighbours: a run. On the device it is an element of `rows`,
/// `[first, end, from, to]`; the first rows of all runs are `runs`.
///
/// A pass may read a slot by any number of runs, or write it by one; a run may write the slot that it reads. Slots beyond
/// those that exist are as [`NO_SLOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRun {
    /// The first row of its run.
    pub first: u32,
    /// The end of its run.
    pub end: u32,
    /// The slot of the state before the run, the same for all of its rows.
    pub from: u32,
    /// The slot that the state after this row is stored to.
    pub to: u32,
}

impl RowRun {
    /// Returns it as the device has it.
    pub fn words(self) -> [u32; 4] {
        [self.first, self.end, self.from, self.to]
    }

    /// Returns row `row`, its run clamped to rows that exist.
    pub(super) fn at(rows: &[[u32; 4]], row: u32, count: u32) -> Self {
        let [first, end, from, to] = rows[row as usize];
        Self { first: first.min(row), end: end.min(count), from, to }
    }
}

/// Returns the state of a slot of `size` elements, or `None` for zeros.
pub(super) fn slot_state(states: &[f32], slot: u32, slots: u32, size: usize) -> Option<&[f32]> {
    (slot < slots).then(|| &states[slot as usize * size..][..size])
}

/// Returns a test's batch: runs of `lengths` rows. The second begins without a state, the others where they end, but the last
/// somewhere else. In the middle of a long run a state is stored besides. Returns rows, runs, and the number of slots.
pub(super) fn test_batch(lengths: &[u32]) -> (Vec<[u32; 4]>, Vec<u32>, u32) {
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    let count = lengths.len() as u32;
    for (i, length) in (0..count).zip(lengths) {
        let first = rows.len() as u32;
        runs.push(first);
        let from = match i {
            1 => NO_SLOT,
            _ if i + 1 == count => count,
            _ => i,
        };
        for row in 0..*length {
            let to = match row {
                _ if row + 1 == *length => i,
                _ if row == length / 2 && i == 0 => count + 1,
                _ => NO_SLOT,
            };
            rows.push(RowRun { first, end: first + length, from, to }.words());
        }
    }
    (rows, runs, count + 3)
}

/// The heads of cases: one of the smallest, a tail in a workgroup with repeated key heads, Qwen3.6-35B-A3B's.
pub(super) const TEST_HEADS: [DeltaHeads; 3] = [
    DeltaHeads { key_heads: 1, value_heads: 1, repeat: 1, head_dim: 4 },
    DeltaHeads { key_heads: 3, value_heads: 6, repeat: 2, head_dim: 36 },
    DeltaHeads { key_heads: 16, value_heads: 32, repeat: 1, head_dim: 128 },
];
