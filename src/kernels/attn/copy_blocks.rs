//! Copies of blocks of a paged cache: copy-on-write, where a sequence is about to write a block that others share.

use crate::gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl};

kernel! {
    /// `kv[copies[j, 1]] = kv[copies[j, 0]]`: copies whole blocks inside a pool.
    ///
    /// Shapes: `kv` `[blocks, 2, kv_heads, block, HD]` of words of any kind; `copies` `[count, 2]` of source and target
    /// block, clamped to those that exist. No block may be the target of two copies, nor the target of one and the
    /// source of another: copies run in any order. Bound: exact, whatever the words are.
    pub struct CopyBlocks("attn/copy_blocks") for ();
    params {
        /// Words of a block.
        words: u32,
        /// Copies.
        count: u32,
        /// Blocks of the pool.
        blocks: u32,
    }
    binds {
        /// Source and target blocks.
        copies: read [[u32; 2]],
        /// The pool.
        kv: write [u32],
    }
}

const WG: u32 = 256;

impl Kernel for CopyBlocks {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("attn/copy_blocks.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.words.div_ceil(WG), y: p.count }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let words = p.words as usize;
        for copy in &host.copies[..p.count as usize] {
            let [from, to] = copy.map(|block| block.min(p.blocks - 1) as usize * words);
            host.kv.copy_within(from..from + words, to);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        // The CPU kernel is exact: it only moves words.
        let mut kv = before.kv.to_vec();
        Self::cpu((), p, Host { kv: &mut kv, ..before });
        Some(Expected { kv: Some(Expect::Exact(kv)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        // The last block is Qwen3-30B-A3B's: 16 positions in f16.
        [
            ("one word", 1, 3, vec![[2, 0]]),
            ("one source, many targets", 300, 9, vec![[4, 0], [4, 8], [4, 3], [7, 1]]),
            ("a source out of range", 64, 5, vec![[u32::MAX, 2], [1, 0]]),
            ("a target out of range", 257, 4, vec![[1, 9]]),
            ("Qwen3-30B-A3B", 2 * 4 * 16 * 128 / 2, 6, vec![[5, 0], [2, 3]]),
        ]
        .into_iter()
        .map(|(name, words, blocks, copies): (_, u32, u32, Vec<[u32; 2]>)| {
            // Words that a copy as f32 may change: a signalling NaN, the smallest subnormal, minus zero.
            let hard = [0x7f80_0001, 1, 0x8000_0000, u32::MAX];
            let word = |at: u32| hard.get(at as usize % 7).copied().unwrap_or(at);
            let source = |block: u32| {
                let copy = copies.iter().find(|copy| copy[1].min(blocks - 1) == block);
                copy.map_or(block, |copy| copy[0].min(blocks - 1))
            };
            let expected =
                (0..blocks).flat_map(|b| (0..words).map(move |i| (b, i))).map(|(b, i)| word(source(b) * words + i));
            Case {
                name: name.to_owned(),
                params: Params { words, count: copies.len() as u32, blocks },
                expected: Expected { kv: Some(Expect::Exact(expected.collect())), ..Default::default() },
                data: Data { kv: (0..words * blocks).map(word).collect(), copies },
            }
        })
        .collect()
    }
}
