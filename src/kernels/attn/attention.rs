//! Causal grouped-query attention over a cache.

use super::{
    CHUNK, Cache, TESTED_HEAD_DIMS,
    attend::{Keys, seen},
    attention_merge::merge,
    attention_part::of_chunk,
    cache::{Layout, Places, layout},
    head::random,
    scan::{Exchange, Tiles, scan},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, kernel, times, wgsl},
    kernels::KvType,
    quant::Rng,
};

kernel! {
    /// `y[t, h] = Σ_j softmax_j(q[t, h] · K[h / group, j] · scale) · V[h / group, j]` over the positions `j` up to the
    /// row's in its sequence, or the last `window` of them.
    ///
    /// Shapes: `q` and `y` `[rows, heads, HD]` f32, `positions`, `table` and `kv` as [`Cache`] has them (positions
    /// clamped to the capacity, sequences and blocks to those there are). Bound: `2e-5 + 2⁻²² · max_j Σ|q·k|·scale` of
    /// `Σ p|v|`. Measured worst on lavapipe: 0.08 of it.
    pub struct Attention("attn/attention") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Query heads of a key head.
        group: u32,
        /// Rows that a workgroup attends from.
        tile_rows: u32,
        /// Query heads of a key head that a workgroup attends from; of rows and these eight at most.
        tile_heads: u32,
        /// How many times these heads are a key head's, rounded up.
        head_tiles: u32,
        /// Positions: of a contiguous cache its slots.
        capacity: u32,
        /// Paged: sequences in the table.
        sequences: u32,
        /// Paged: blocks of a sequence in the table.
        max_blocks: u32,
        /// Paged: slots of a block.
        block: u32,
        /// Paged: blocks of the pool.
        blocks: u32,
        /// Positions that a token sees, its own included; 0: all.
        window: u32,
        /// What scores are multiplied by, `1/√HD`.
        scale: f32,
    }
    binds {
        /// The query heads.
        q: read [[f32; 4]],
        /// The cache.
        kv: read [[u32; 4]],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32] if |v| v.cache == Cache::Paged,
        /// The attended values.
        y: write [[f32; 4]],
    }
}

/// Head size and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: a multiple of four, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// How the cache's slots are arranged.
    pub cache: Cache,
    /// The cache's format.
    pub kv: KvType,
    /// How invocations give each other queries, weights and sums.
    pub exchange: Exchange,
}

impl Variant {
    /// Those that a device can run.
    pub(super) fn all(caps: &Caps) -> Vec<Self> {
        let mut all = Vec::new();
        for (kv, cache) in KvType::available(caps).flat_map(|kv| Cache::ALL.map(|cache| (kv, cache))) {
            for exchange in Exchange::available(caps) {
                all.extend(TESTED_HEAD_DIMS.map(|head_dim| Self { head_dim, cache, kv, exchange: *exchange }));
            }
        }
        all
    }

    /// The order of whole attention and of its chunks, merged.
    pub(super) fn reduction_order(self) -> ReductionOrder {
        self.exchange.reduction_order()
    }
}

impl Kernel for Attention {
    fn supported(caps: &Caps) -> Vec<Variant> {
        Variant::all(caps)
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.reduction_order()
    }

    fn source(v: Variant) -> Source {
        scan(v, wgsl!("attn/attention.wgsl"), wgsl!("attn/whole.wgsl")).with(wgsl!("attn/queries_given.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.kv_heads * p.head_tiles, y: p.rows.div_ceil(p.tile_rows.max(1)) }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        // How much of what is kept a row sees is data: half of it on average, while prompts fill the context.
        let seen = if p.window > 0 { p.window.min(p.capacity) } else { p.capacity };
        times([p.rows, p.heads, seen, v.head_dim])
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let at = Places { positions: host.positions, table: host.table };
        let keys = Keys { layout: layout!(v, p), at, kv: v.kv, words: host.kv.as_flattened(), scale: p.scale };
        let (hd, heads) = (v.head_dim as usize, p.heads as usize);
        let (q, y) = (host.q.as_flattened(), host.y.as_flattened_mut());
        for (i, y) in y.chunks_exact_mut(hd).take(p.rows as usize * heads).enumerate() {
            let (context, q) = (keys.layout.position(&keys.at, i / heads) + 1, &q[i * hd..][..hd]);
            let kv_head = (i % heads) as u32 / p.group;
            let chunks = (0..context.div_ceil(CHUNK)).map(|chunk| of_chunk(chunk, context, p.window));
            // By chunks in f32, as the CPU kernels of these have them: they are of one order.
            let parts: Vec<_> = (chunks.filter(|positions| !positions.is_empty()))
                .map(|positions| keys.attend(i / heads, kv_head, q, positions).rounded())
                .collect();
            merge(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), y);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let at = Places { positions: before.positions, table: before.table };
        let keys = Keys { layout: layout!(v, p), at, kv: v.kv, words: before.kv.as_flattened(), scale: p.scale };
        let mut y = Expect::unchanged(before.y.as_flattened());
        let heads = (p.rows * p.heads) as usize;
        for (i, y) in y.chunks_exact_mut(v.head_dim as usize).take(heads).enumerate() {
            y.copy_from_slice(&attend(v, p, &keys, before.q.as_flattened(), i, u32::MAX));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        Trial::all(v).into_iter().map(|trial| case(v, trial)).collect()
    }
}

/// Head `i` of the output, exactly, each element with its bound. No context is longer than `limit`.
fn attend(v: Variant, p: &Params, keys: &Keys<'_>, q: &[f32], i: usize, limit: u32) -> Vec<(f64, f64)> {
    let (hd, heads) = (v.head_dim as usize, p.heads as usize);
    let context = (keys.layout.position(&keys.at, i / heads) + 1).min(limit);
    let kv_head = (i % heads) as u32 / p.group;
    keys.attend(i / heads, kv_head, &q[i * hd..][..hd], seen(context, p.window)).normalised().collect()
}

/// Inputs of attention, whole or in parts.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) name: &'static str,
    pub(super) params: Params,
    pub(super) q: Vec<[f32; 4]>,
    pub(super) kv: Vec<[u32; 4]>,
    pub(super) positions: Vec<u32>,
    pub(super) table: Vec<u32>,
}

impl Trial {
    /// Random and sharply peaked attention, a sliding window, heads that fill workgroups in all ways, a prompt, and
    /// Qwen3-30B-A3B's heads.
    pub(super) fn all(v: Variant) -> Vec<Self> {
        // Contexts around the borders of steps of 32 keys, of blocks and of chunks, the last out of range.
        let contexts = [1, 31, 32, 33, 60, 61, 255, 256, 257, 511, 512, 513, 9999];
        let mut all = vec![
            Self::new(v, "random", (2, 1), 1.0, 0, &contexts),
            Self::new(v, "peaked", (2, 2), 8.0, 0, &[33, 257]),
            Self::new(v, "window", (2, 1), 1.0, 40, &[1, 39, 40, 41, 270, 295, 296, 297, 9999]),
            Self::new(v, "heads of one", (2, 2), 1.0, 0, &[33, 34, 35, 36, 37, 38, 39, 40, 41]),
            Self::new(v, "heads of three", (3, 1), 1.0, 0, &[256, 257, 258]),
            Self::new(v, "heads of twelve", (12, 1), 1.0, 0, &[5, 258]),
            Self::prompt(v, "a prompt", 0),
            Self::prompt(v, "a prompt in a window", 9),
        ];
        if v.head_dim == 128 {
            all.push(Self::new(v, "Qwen3-30B-A3B", (32, 4), 1.0, 0, &[31, 260]));
        }
        all
    }

    /// Rows of two sequences, each at a place of its own, and across the border of two chunks.
    fn prompt(v: Variant, name: &'static str, window: u32) -> Self {
        let contexts: Vec<u32> = (250..261).chain(3..8).collect();
        let mut trial = Self::new(v, name, (2, 1), 1.0, window, &contexts);
        if v.cache == Cache::Paged {
            let sequences = trial.positions.chunks_exact_mut(2).enumerate();
            sequences.for_each(|(row, place)| place[1] = u32::from(row >= 11));
            trial.fill(v);
        }
        trial
    }

    fn new(v: Variant, name: &'static str, heads: (u32, u32), size: f32, window: u32, contexts: &[u32]) -> Self {
        let (heads, kv_heads) = heads;
        let (layout, table) = Layout::tested(v.cache, kv_heads, 530, 20);
        let Layout { capacity, sequences, max_blocks, block, blocks, .. } = layout;
        let rows = contexts.len() as u32;
        let (group, scale) = (heads / kv_heads, 1.0 / (v.head_dim as f32).sqrt());
        let tiles = Tiles::new(group, true);
        let params = Params {
            rows,
            heads,
            kv_heads,
            group,
            tile_rows: tiles.rows,
            tile_heads: tiles.heads,
            head_tiles: tiles.per_key_head,
            capacity,
            sequences,
            max_blocks,
            block,
            blocks,
            window,
            scale,
        };
        let positions = v.cache.rows(&contexts.iter().map(|context| context - 1).collect::<Vec<_>>());
        let mut rng = Rng::new(u64::from(v.head_dim));
        let mut q = random(&mut rng, rows * heads * v.head_dim);
        q.iter_mut().for_each(|q| *q *= size);
        let q = bytemuck::cast_slice(&q).to_vec();
        let mut trial = Self { name, params, q, kv: Vec::new(), positions, table };
        trial.fill(v);
        trial
    }

    /// Fills the cache where rows look.
    fn fill(&mut self, v: Variant) {
        let at = Places { positions: &self.positions, table: &self.table };
        let mut rng = Rng::new(u64::from(v.head_dim) + 1);
        let kv = layout!(v, self.params).random(&at, v.kv, v.head_dim, self.params.window, &mut rng);
        self.kv = bytemuck::cast_slice(&kv).to_vec();
    }

    /// The cache as CPU kernels see it.
    pub(super) fn keys(&self, v: Variant) -> Keys<'_> {
        let at = Places { positions: &self.positions, table: &self.table };
        Keys { layout: layout!(v, self.params), at, kv: v.kv, words: self.kv.as_flattened(), scale: self.params.scale }
    }

    /// A trial with contexts that are longer than one chunk.
    pub(super) fn beyond_a_chunk(v: Variant) -> Self {
        Self::new(v, "beyond the chunks", (2, 1), 1.0, 0, &[255, 256, 257, 513])
    }

    /// What all of attention must give to contexts of up to `limit` positions.
    pub(super) fn attended(&self, v: Variant, limit: u32) -> Vec<(f64, f64)> {
        let (p, keys) = (&self.params, self.keys(v));
        (0..(p.rows * p.heads) as usize).flat_map(|i| attend(v, p, &keys, self.q.as_flattened(), i, limit)).collect()
    }
}

fn case(v: Variant, trial: Trial) -> Case<Attention> {
    let expected = trial.attended(v, u32::MAX);
    let y = vec![[f32::NAN; 4]; expected.len() / 4];
    let Trial { name, params, q, kv, positions, table } = trial;
    Case {
        name: name.to_owned(),
        params,
        data: Data { q, kv, positions, table, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    }
}
