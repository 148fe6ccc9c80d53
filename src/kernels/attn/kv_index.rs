//! Where a KV cache keeps keys and values: parameters, CPU code and cases.

use std::collections::BTreeMap;

use super::reference::visible_keys;
use crate::{
    gpu::{Expect, Packing, SparseReads, SparseUnit, param_group},
    kernels::KvType,
    quant::Rng,
};

param_group! {
    /// A paged KV cache (PagedAttention, Kwon et al. 2023, arXiv:2309.06180): a pool `kv`
    /// `[blocks, 2, kv_heads, block, HD]` with K first, and a block table `table` `[sequences, max_blocks]`. A
    /// contiguous cache has one block of the whole capacity for each sequence. `positions` `[rows, 2]` has each row's
    /// position and sequence. Positions are clamped to the capacity, sequences and blocks to those that exist.
    /// [`KvType`] stores the `HD` elements of a head.
    pub struct KvIndex {
        /// Key and value heads.
        kv_heads: u32,
        /// Positions of a sequence.
        capacity: u32,
        /// Sequences in the table.
        sequences: u32,
        /// Blocks of a sequence in the table.
        max_blocks: u32,
        /// Positions of a block.
        block: u32,
        /// Blocks of the pool.
        blocks: u32,
    }
}

/// A word of a cache that is not to be read: a NaN as f32, and two as halves.
const POISON: u32 = 0x7FC0_7FC0;

/// The buffers that say where a row's keys and values are.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvTables<'a> {
    pub(super) positions: &'a [u32],
    pub(super) table: &'a [u32],
}

/// Key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KvKind {
    Key,
    Value,
}

/// A row's key or value of a key head.
pub(super) type RowHead = (KvKind, usize, u32);

/// Returns a row's position, clamped to the capacity.
pub(super) fn position_of(positions: &[u32], capacity: u32, row: usize) -> u32 {
    positions[2 * row].min(capacity - 1)
}

/// Returns `positions` of a test: rows at the given positions, of three sequences in turn, the last row's sequence out
/// of range.
pub(super) fn test_rows(positions: &[u32]) -> Vec<u32> {
    let mut rows: Vec<u32> = positions.iter().zip(0..).flat_map(|(at, row)| [*at, row % 3]).collect();
    rows.last_mut().into_iter().for_each(|sequence| *sequence = 77);
    rows
}

impl KvIndex {
    /// Returns the bytes of keys and values of one sequence at its capacity.
    #[cfg(any(feature = "cli", feature = "test-util"))]
    pub(crate) fn sequence_bytes(&self, kv: KvType, head_dim: u32) -> u64 {
        8 * u64::from(kv.head_words(head_dim)) * u64::from(self.kv_heads) * u64::from(self.capacity)
    }

    /// Returns what `rows` rows read of the table of rotations, which has a row for each position.
    pub(super) fn rotations_read(&self, rows: u32) -> SparseReads {
        let (most, of) = (rows.min(self.capacity), self.capacity);
        SparseReads { binding: "rotations", choice: SparseUnit::Rows, most, of }
    }

    /// Returns a cache for a test, and its block table: three sequences of `capacity` positions. Blocks are in no
    /// order, and the table's last is out of range, which means the last of the pool.
    pub(super) fn test(kv_heads: u32, capacity: u32, block: u32) -> (Self, Vec<u32>) {
        let (sequences, max_blocks) = (3, capacity.div_ceil(block));
        let mut table: Vec<u32> =
            (0..sequences).flat_map(|s| (0..max_blocks).rev().map(move |b| s + sequences * b)).collect();
        table.last_mut().into_iter().for_each(|last| *last = u32::MAX);
        let blocks = sequences * max_blocks + 1;
        (Self { kv_heads, capacity, sequences, max_blocks, block, blocks }, table)
    }

    /// Returns a contiguous cache for a test: one block of the whole capacity for each of three sequences.
    pub(super) fn test_contiguous(kv_heads: u32, capacity: u32) -> (Self, Vec<u32>) {
        let index = Self { kv_heads, capacity, sequences: 3, max_blocks: 1, block: capacity, blocks: 3 };
        (index, vec![1, 2, 0])
    }

    /// Returns the head of the cache that holds a position's key.
    fn key(&self, tables: &KvTables<'_>, row: usize, kv_head: u32, position: u32) -> usize {
        let sequence = tables.positions[2 * row + 1].min(self.sequences - 1);
        let entry = sequence * self.max_blocks + (position / self.block).min(self.max_blocks - 1);
        let block = tables.table[entry as usize].min(self.blocks - 1);
        ((2 * block * self.kv_heads + kv_head) * self.block + position % self.block) as usize
    }

    /// Returns the distance from a key's head to its value's.
    fn value_offset(&self) -> usize {
        (self.kv_heads * self.block) as usize
    }

    /// Returns the heads of the whole cache.
    fn heads(&self) -> usize {
        2 * self.value_offset() * self.blocks as usize
    }

    /// Returns a row's position.
    pub(super) fn position(&self, tables: &KvTables<'_>, row: usize) -> u32 {
        position_of(tables.positions, self.capacity, row)
    }

    /// Returns the head of the cache that holds the key or value of a position of a row's sequence.
    pub(super) fn head(&self, tables: &KvTables<'_>, kind: KvKind, row: usize, kv_head: u32, position: u32) -> usize {
        let key = self.key(tables, row, kv_head, position);
        match kind {
            KvKind::Key => key,
            KvKind::Value => key + self.value_offset(),
        }
    }

    /// Stores a head of a row at the row's position.
    pub(super) fn store(
        &self,
        tables: &KvTables<'_>,
        kv: KvType,
        words: &mut [u32],
        (kind, row, kv_head): RowHead,
        head: &[f32],
    ) {
        let to = self.head(tables, kind, row, kv_head, self.position(tables, row));
        let values: Vec<f64> = head.iter().copied().map(f64::from).collect();
        kv.packing(head.len() as u32).repack(words, to, &values);
    }

    /// Returns a cache for a test that reads it: random where the rows look, NaN elsewhere.
    pub(super) fn random(
        &self,
        tables: &KvTables<'_>,
        kv: KvType,
        head_dim: u32,
        window: u32,
        rng: &mut Rng,
    ) -> Vec<u32> {
        let packing = kv.packing(head_dim);
        let mut words = vec![POISON; self.heads() * packing.words];
        for row in 0..tables.positions.len() / 2 {
            for position in visible_keys(self.position(tables, row) + 1, window) {
                for kv_head in 0..self.kv_heads {
                    let key = self.key(tables, row, kv_head, position);
                    for head in [key, key + self.value_offset()] {
                        if words[head * packing.words] == POISON {
                            let values: Vec<f64> = (0..head_dim).map(|_| f64::from(rng.normal())).collect();
                            packing.repack(&mut words, head, &values);
                        }
                    }
                }
            }
        }
        words
    }

    /// Returns a cache for a test that reads and writes it: random where the rows look, a number elsewhere, for Q8_0
    /// cannot keep a NaN.
    pub(super) fn random_numbers(
        &self,
        tables: &KvTables<'_>,
        kv: KvType,
        head_dim: u32,
        window: u32,
        rng: &mut Rng,
    ) -> Vec<[u32; 4]> {
        let packing = kv.packing(head_dim);
        let mut words = self.random(tables, kv, head_dim, window, rng);
        let mut number = vec![0; packing.words];
        packing.repack(&mut number, 0, &vec![1.5; packing.numbers]);
        words
            .chunks_exact_mut(packing.words)
            .filter(|head| head[0] == POISON)
            .for_each(|head| head.copy_from_slice(&number));
        bytemuck::cast_slice(&words).to_vec()
    }

    /// Returns a cache for a test that writes it.
    pub(super) fn untouched(&self, kv: KvType, head_dim: u32) -> Vec<[u32; 4]> {
        let packing = kv.packing(head_dim);
        let mut number = vec![0; packing.words];
        packing.repack(&mut number, 0, &vec![1.5; packing.numbers]);
        bytemuck::cast_slice(&number.repeat(self.heads())).to_vec()
    }
}

/// What a cache must hold after a dispatch.
#[derive(Debug)]
pub(super) struct ExpectedCache {
    index: KvIndex,
    kv: KvType,
    packing: Packing,
    before: Vec<u32>,
    written: BTreeMap<usize, Vec<(f64, f64)>>,
}

impl ExpectedCache {
    /// Expects what `words` hold.
    pub(super) fn new(index: KvIndex, kv: KvType, head_dim: u32, words: &[u32]) -> Self {
        let packing = kv.packing(head_dim);
        Self { index, kv, packing, before: words.to_vec(), written: BTreeMap::new() }
    }

    /// Expects a head of a row at the row's position: exact values with their bounds, to which rounding adds its own.
    pub(super) fn set(&mut self, tables: &KvTables<'_>, (kind, row, kv_head): RowHead, head: &[(f64, f64)]) {
        let to = self.index.head(tables, kind, row, kv_head, self.index.position(tables, row));
        self.written.insert(to, self.kv.stored(head));
    }

    /// Returns the expectation.
    pub(super) fn expected(self) -> Expect {
        Expect::Packed { packing: self.packing, before: self.before, written: self.written }
    }
}
