//! Copying blocks of a paged cache: copy-on-write, where a sequence is about to write to a block that others have too.

use crate::gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl};

kernel! {
    /// `kv[pairs[j, 1]] = kv[pairs[j, 0]]`: whole blocks inside one pool.
    ///
    /// Shapes: `kv` `[blocks, 2, kv_heads, block, HD]` of words of any kind, `pairs` `[pairs, 2]` of the block that is
    /// copied and the one that it goes to (clamped to those there are). No block may be the target of two pairs, nor the
    /// target of one and the source of another: pairs are copied in any order. Bound: exact, whatever the words are.
    pub struct CopyBlocks("attn/copy_blocks") for ();
    params {
        /// Words of a block.
        words: u32,
        /// Pairs of blocks.
        pairs: u32,
        /// Blocks of the pool.
        blocks: u32,
    }
    binds {
        /// The block that is copied, and where it goes.
        pairs: read [[u32; 2]],
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
        Grid { x: p.words.div_ceil(WG), y: p.pairs }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let words = p.words as usize;
        for pair in &host.pairs[..p.pairs as usize] {
            let [from, to] = pair.map(|block| block.min(p.blocks - 1) as usize * words);
            host.kv.copy_within(from..from + words, to);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        // Words are only moved: the CPU kernel is exact.
        let mut kv = before.kv.to_vec();
        Self::cpu((), p, Host { kv: &mut kv, ..before });
        Some(Expected { kv: Some(Expect::Exact(kv)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        // The last block is that of Qwen3-30B-A3B: 16 slots as halves.
        [
            ("one word", 1, 3, vec![[2, 0]]),
            ("one source, many targets", 300, 9, vec![[4, 0], [4, 8], [4, 3], [7, 1]]),
            ("a source out of range", 64, 5, vec![[u32::MAX, 2], [1, 0]]),
            ("a target out of range", 257, 4, vec![[1, 9]]),
            ("Qwen3-30B-A3B", 2 * 4 * 16 * 128 / 2, 6, vec![[5, 0], [2, 3]]),
        ]
        .into_iter()
        .map(|(name, words, blocks, pairs): (_, u32, u32, Vec<[u32; 2]>)| {
            // Words that an f32 copy may change: a signalling NaN, the smallest subnormal, minus zero.
            let hard = [0x7f80_0001, 1, 0x8000_0000, u32::MAX];
            let word = |at: u32| hard.get(at as usize % 7).copied().unwrap_or(at);
            let source = |block: u32| {
                let pair = pairs.iter().find(|pair| pair[1].min(blocks - 1) == block);
                pair.map_or(block, |pair| pair[0].min(blocks - 1))
            };
            let expected =
                (0..blocks).flat_map(|b| (0..words).map(move |i| (b, i))).map(|(b, i)| word(source(b) * words + i));
            Case {
                name: name.to_owned(),
                params: Params { words, pairs: pairs.len() as u32, blocks },
                expected: Expected { kv: Some(Expect::Exact(expected.collect())), ..Default::default() },
                data: Data { kv: (0..words * blocks).map(word).collect(), pairs },
            }
        })
        .collect()
    }
}
