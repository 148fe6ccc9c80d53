//! Where a KV cache keeps keys and values: the `cache` slot, and the same for CPU kernels and cases.

use super::attend::seen;
use crate::{
    gpu::{Expect, Packing, Source, wgsl},
    kernels::KvType,
    quant::Rng,
};

/// The `cache` slot: how the slots of a cache are arranged. The `HD` elements of a head are as [`KvType`] stores them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cache {
    /// One sequence's slots, `[2, kv_heads, capacity, HD]` with K first; `positions` is `[rows]`.
    #[default]
    Contiguous,
    /// A pool `[blocks, 2, kv_heads, block, HD]` with K first, and a block table `[sequences, max_blocks]`; `positions`
    /// is `[rows, 2]`: a row's position and sequence.
    Paged,
}

impl Cache {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Contiguous, Self::Paged];

    /// Fills the slot, and finds positions.
    pub(super) fn fill(self, source: Source) -> Source {
        self.positions(source).with(match self {
            Self::Contiguous => wgsl!("kv/contiguous.wgsl"),
            Self::Paged => wgsl!("kv/paged.wgsl"),
        })
    }

    /// Finds positions only.
    pub(super) fn positions(self, source: Source) -> Source {
        source.with(wgsl!("attn/position.wgsl")).constant("POSITION_STRIDE", self.stride())
    }

    /// Words of a row in `positions`.
    fn stride(self) -> u32 {
        match self {
            Self::Contiguous => 1,
            Self::Paged => 2,
        }
    }

    /// A row's position within `capacity`.
    pub(super) fn position(self, positions: &[u32], capacity: u32, row: usize) -> u32 {
        positions[row * self.stride() as usize].min(capacity - 1)
    }

    /// What `positions` holds in a test: rows at the given positions, of three sequences in turn where there are
    /// several, the last row's sequence being out of range.
    pub(super) fn rows(self, positions: &[u32]) -> Vec<u32> {
        match self {
            Self::Contiguous => positions.to_vec(),
            Self::Paged => {
                let mut rows: Vec<u32> = positions.iter().zip(0..).flat_map(|(at, row)| [*at, row % 3]).collect();
                rows.last_mut().into_iter().for_each(|sequence| *sequence = 77);
                rows
            }
        }
    }
}

/// The parameters that tell where slots are, as every kernel of a cache has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) cache: Cache,
    pub(super) kv_heads: u32,
    pub(super) capacity: u32,
    pub(super) sequences: u32,
    pub(super) max_blocks: u32,
    pub(super) block: u32,
    pub(super) blocks: u32,
}

/// The [`Layout`] in a kernel's variant and parameters.
macro_rules! layout {
    ($variant:expr, $params:expr) => {
        $crate::kernels::attn::cache::Layout {
            cache: $variant.cache,
            kv_heads: $params.kv_heads,
            capacity: $params.capacity,
            sequences: $params.sequences,
            max_blocks: $params.max_blocks,
            block: $params.block,
            blocks: $params.blocks,
        }
    };
}
pub(super) use layout;

impl Layout {
    /// A layout for a test: three sequences of `capacity` slots, or one, and their block table. Blocks are in no order,
    /// and the table's last is out of range and becomes the last of the pool.
    pub(super) fn tested(cache: Cache, kv_heads: u32, capacity: u32, block: u32) -> (Self, Vec<u32>) {
        let contiguous = Self { cache, kv_heads, capacity, sequences: 0, max_blocks: 0, block: 0, blocks: 0 };
        match cache {
            Cache::Contiguous => (contiguous, Vec::new()),
            Cache::Paged => {
                let (sequences, max_blocks) = (3, capacity.div_ceil(block));
                let mut table: Vec<u32> =
                    (0..sequences).flat_map(|s| (0..max_blocks).rev().map(move |b| s + sequences * b)).collect();
                table.last_mut().into_iter().for_each(|last| *last = u32::MAX);
                (Self { sequences, max_blocks, block, blocks: sequences * max_blocks + 1, ..contiguous }, table)
            }
        }
    }

    /// The head that holds a position's key in the cache of a row's sequence.
    fn key(&self, at: &Places<'_>, row: usize, kv_head: u32, position: u32) -> usize {
        let key = match self.cache {
            Cache::Contiguous => kv_head * self.capacity + position,
            Cache::Paged => {
                let sequence = at.positions[2 * row + 1].min(self.sequences - 1);
                let entry = sequence * self.max_blocks + (position / self.block).min(self.max_blocks - 1);
                let block = at.table[entry as usize].min(self.blocks - 1);
                (2 * block * self.kv_heads + kv_head) * self.block + position % self.block
            }
        };
        key as usize
    }

    /// How many heads behind a key its value is.
    fn values(&self) -> usize {
        let slots = match self.cache {
            Cache::Contiguous => self.capacity,
            Cache::Paged => self.block,
        };
        (self.kv_heads * slots) as usize
    }

    /// Heads in the whole cache.
    fn heads(&self) -> usize {
        match self.cache {
            Cache::Contiguous => 2 * self.values(),
            Cache::Paged => 2 * self.values() * self.blocks as usize,
        }
    }

    /// A cache for a test: random where the rows of `at` look, NaN elsewhere.
    pub(super) fn random(&self, at: &Places<'_>, kv: KvType, head_dim: u32, window: u32, rng: &mut Rng) -> Vec<u32> {
        let packing = kv.packing(head_dim);
        // A NaN as f32, and two as halves.
        const POISON: u32 = 0x7FC0_7FC0;
        let mut words = vec![POISON; self.heads() * packing.words];
        for row in 0..at.positions.len() / self.cache.stride() as usize {
            for position in seen(self.position(at, row) + 1, window) {
                for kv_head in 0..self.kv_heads {
                    let key = self.key(at, row, kv_head, position);
                    for head in [key, key + self.values()] {
                        if packing.unpacked(&words, head)[0].is_nan() {
                            let values: Vec<f64> = (0..head_dim).map(|_| f64::from(rng.normal())).collect();
                            packing.repack(&mut words, head, &values);
                        }
                    }
                }
            }
        }
        words
    }

    /// The same for a test that writes to it too: a NaN is nothing that Q8_0 could keep.
    pub(super) fn random_numbers(
        &self,
        at: &Places<'_>,
        kv: KvType,
        head_dim: u32,
        window: u32,
        rng: &mut Rng,
    ) -> Vec<[u32; 4]> {
        let packing = kv.packing(head_dim);
        let mut words = self.random(at, kv, head_dim, window, rng);
        for head in 0..self.heads() {
            if packing.unpacked(&words, head)[0].is_nan() {
                packing.repack(&mut words, head, &vec![1.5; packing.numbers]);
            }
        }
        bytemuck::cast_slice(&words).to_vec()
    }

    /// A cache for a test that writes to it.
    pub(super) fn untouched(&self, kv: KvType, head_dim: u32) -> Vec<[u32; 4]> {
        let packing = kv.packing(head_dim);
        let mut words = vec![0; self.heads() * packing.words];
        (0..self.heads()).for_each(|head| packing.repack(&mut words, head, &vec![1.5; packing.numbers]));
        bytemuck::cast_slice(&words).to_vec()
    }

    /// A row's position.
    pub(super) fn position(&self, at: &Places<'_>, row: usize) -> u32 {
        self.cache.position(at.positions, self.capacity, row)
    }
}

/// The buffers that tell where a row's slots are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    pub(super) positions: &'a [u32],
    pub(super) table: &'a [u32],
}

/// Key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Key,
    Value,
}

impl Layout {
    /// Which head of the cache holds the key or value of a position of a row's sequence.
    pub(super) fn head(&self, at: &Places<'_>, side: Side, row: usize, kv_head: u32, position: u32) -> usize {
        let key = self.key(at, row, kv_head, position);
        match side {
            Side::Key => key,
            Side::Value => key + self.values(),
        }
    }

    /// Stores a head of a row at the row's position.
    pub(super) fn store(
        &self,
        at: &Places<'_>,
        kv: KvType,
        words: &mut [u32],
        place: (Side, usize, u32),
        head: &[f32],
    ) {
        let (side, row, kv_head) = place;
        let to = self.head(at, side, row, kv_head, self.position(at, row));
        let values: Vec<f64> = head.iter().copied().map(f64::from).collect();
        kv.packing(head.len() as u32).repack(words, to, &values);
    }
}

/// A cache that is written to, and what it must hold then.
#[derive(Debug)]
pub(super) struct Written {
    layout: Layout,
    kv: KvType,
    packing: Packing,
    heads: Vec<(f64, f64)>,
}

impl Written {
    /// A cache that holds `words` before.
    pub(super) fn over(layout: Layout, kv: KvType, head_dim: u32, words: &[u32]) -> Self {
        let packing = kv.packing(head_dim);
        let heads = (0..layout.heads()).flat_map(|head| packing.unpacked(words, head));
        Self { layout, kv, packing, heads: heads.map(|value| (value, 0.0)).collect() }
    }

    /// Expects a head of a row at the row's position: exact values with bounds, without that of their storing.
    pub(super) fn expect(&mut self, at: &Places<'_>, place: (Side, usize, u32), head: &[(f64, f64)]) {
        let (side, row, kv_head) = place;
        let to = self.layout.head(at, side, row, kv_head, self.layout.position(at, row));
        self.heads[to * head.len()..][..head.len()].copy_from_slice(&self.kv.stored(head));
    }

    /// What is expected after.
    pub(super) fn expected(self) -> Expect {
        Expect::Packed(self.packing, self.heads)
    }
}
