//! Causal grouped-query attention over a KV cache.

use super::{
    AttnTile, KvIndex, Reduction, Tiles,
    heads::random,
    kv_index::{KvTables, test_rows},
    reference::{KvReader, apply_gate, gated, visible_keys},
    sample,
    tile::{Keys, flash_source, loaded_queries},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, kernel, times, wgsl},
    kernels::KvType,
    quant::Rng,
};

kernel! {
    /// Causal grouped-query attention in a single pass of FlashAttention-2 (Dao 2023, arXiv:2307.08691) with online
    /// softmax (Milakov and Gimelshein 2018, arXiv:1805.02867):
    /// `y[t, h] = Σ_j softmax_j(q[t, h] · K[h / q_per_kv, j] · scale) · V[h / q_per_kv, j]`, over the positions `j` up to
    /// the row's in its sequence, or the last `window` of them. With sinks, `exp(sinks[h])` is added to the softmax's
    /// denominator (Xiao et al. 2023, arXiv:2309.17453). With gates, `y` is then multiplied by `sigmoid(gate)` (Qiu et al. 2025,
    /// arXiv:2505.06708).
    ///
    /// Shapes: `q`, `gate` and `y` `[rows, heads, HD]` f32; `sinks` `[heads]`; `positions`, `table` and `kv` as in [`KvIndex`]. Bound:
    /// `(2e-5 + 2⁻²² · max_j Σ|q·k|·scale) · Σ p|v|`, and of a gated value `sigmoid(gate)` times that and 4e-6 of the value. Measured worst on lavapipe: 0.08 of it.
    pub struct Attention("attn/attention") for Variant;
    params {
        /// The queries.
        tile: AttnTile,
        /// The cache.
        index: KvIndex,
    }
    binds {
        /// The query heads.
        q: read [[f32; 4]],
        /// The cache.
        kv: read [[u32; 4]],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32],
        /// The logits of sinks.
        sinks: read [f32] if |v| v.sinks,
        /// The gates' projections.
        gate: read [[f32; 4]] if |v| v.gated,
        /// The attended values.
        y: write [[f32; 4]],
    }
}

/// Head size, format of the cache, reduction, sinks, gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: a multiple of four, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// The cache's format.
    pub kv: KvType,
    /// How invocations exchange queries, weights and sums.
    pub reduction: Reduction,
    /// A logit of each query head takes part in its softmax and adds no value. Only [`Attention`] has them; split-KV
    /// attention leaves them to its reduction.
    pub sinks: bool,
    /// The output is multiplied by the sigmoid of a projection. Kernels of chunks leave it to their reduction.
    pub gated: bool,
}

impl Kernel for Attention {
    fn supported(caps: &Caps) -> Vec<Variant> {
        sample::single_passes(caps)
    }

    fn covered(caps: &Caps) -> Vec<Variant> {
        sample::single_passes(caps).into_iter().filter(|v| sample::runs_attention(caps, *v)).collect()
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.reduction.order()
    }

    fn source(v: Variant) -> Source {
        flash_source(v, wgsl!("attn/attention.wgsl"), Keys::All, false).with(loaded_queries(v.reduction))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.index.kv_heads * p.tile.head_tiles, y: p.tile.rows.div_ceil(p.tile.tile_rows.max(1)) }
    }

    fn cost(v: Variant, p: &Params) -> u64 {
        // The number of keys is data: on average half of the capacity, while prompts fill the context.
        times([p.tile.rows, p.tile.heads, p.tile.most_keys(p.index.capacity), v.head_dim])
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let reader = reader(v, p, host.positions, host.table, host.kv);
        let (hd, heads) = (v.head_dim as usize, p.tile.heads as usize);
        let (q, y) = (host.q.as_flattened(), host.y.as_flattened_mut());
        for (i, y) in y.chunks_exact_mut(hd).take(p.tile.rows as usize * heads).enumerate() {
            let kv_head = (i % heads) as u32 / p.tile.q_per_kv;
            reader.attend_by_chunks(
                i / heads,
                kv_head,
                &q[i * hd..][..hd],
                p.tile.window,
                host.sinks.get(i % heads).copied(),
                y,
            );
            apply_gate(y, host.gate.as_flattened(), i * hd);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let reader = reader(v, p, before.positions, before.table, before.kv);
        let mut y = Expect::unchanged(before.y.as_flattened());
        let heads = (p.tile.rows * p.tile.heads) as usize;
        for (i, y) in y.chunks_exact_mut(v.head_dim as usize).take(heads).enumerate() {
            y.copy_from_slice(&attend(v, &p.tile, &reader, before.q.as_flattened(), before.sinks, i, u32::MAX));
            gated(y, before.gate.as_flattened(), i * v.head_dim as usize);
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        Trial::all(v).into_iter().map(|trial| case(v, trial)).collect()
    }
}

/// Returns the cache of a dispatch.
fn reader<'a>(v: Variant, p: &Params, positions: &'a [u32], table: &'a [u32], kv: &'a [[u32; 4]]) -> KvReader<'a> {
    let tables = KvTables { positions, table };
    KvReader { index: p.index, tables, kv: v.kv, words: kv.as_flattened(), scale: p.tile.scale }
}

/// Returns head `i` of the output, each element with its bound. No context is longer than `limit`.
fn attend(
    v: Variant,
    tile: &AttnTile,
    reader: &KvReader<'_>,
    q: &[f32],
    sinks: &[f32],
    i: usize,
    limit: u32,
) -> Vec<(f64, f64)> {
    let (hd, heads) = (v.head_dim as usize, tile.heads as usize);
    let context = (reader.index.position(&reader.tables, i / heads) + 1).min(limit);
    let kv_head = (i % heads) as u32 / tile.q_per_kv;
    let keys = visible_keys(context, tile.window);
    let sums = reader.attend(i / heads, kv_head, &q[i * hd..][..hd], keys);
    sums.normalised(sinks.get(i % heads).copied()).collect()
}

/// Inputs of attention over a cache.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) name: &'static str,
    pub(super) tile: AttnTile,
    pub(super) index: KvIndex,
    pub(super) q: Vec<[f32; 4]>,
    pub(super) kv: Vec<[u32; 4]>,
    pub(super) positions: Vec<u32>,
    pub(super) table: Vec<u32>,
    /// Each query head's, or empty.
    pub(super) sinks: Vec<f32>,
    /// Each element's of the output, or empty.
    pub(super) gate: Vec<[f32; 4]>,
}

impl Trial {
    /// Returns random and sharply peaked attention, sliding windows, tiles that are filled in every way, a contiguous
    /// cache, prompts, and heads of published models: one to eight query heads for each key head.
    pub(super) fn all(v: Variant) -> Vec<Self> {
        // Contexts around the borders of steps of 32 keys, of blocks and of chunks; the last is out of range.
        let contexts = [1, 31, 32, 33, 60, 61, 255, 256, 257, 511, 512, 513, 9999];
        let mut all = vec![
            Self::new(v, "random", (2, 1), 1.0, 0, &contexts),
            Self::new(v, "peaked", (2, 2), 8.0, 0, &[33, 257]),
            Self::new(v, "window", (2, 1), 1.0, 40, &[1, 39, 40, 41, 270, 295, 296, 297, 9999]),
            Self::new(v, "heads of one", (2, 2), 1.0, 0, &[33, 34, 35, 36, 37, 38, 39, 40, 41]),
            Self::new(v, "heads of three", (3, 1), 1.0, 0, &[256, 257, 258]),
            Self::new(v, "heads of seven", (7, 1), 1.0, 0, &[5, 258]),
            Self::new(v, "heads of twelve", (12, 1), 1.0, 0, &[5, 258]),
            Self::prompt(v, "a prompt", 0),
            Self::prompt(v, "a prompt in a window", 9),
            Self::contiguous(v),
        ];
        match v.head_dim {
            64 => {
                all.push(Self::new(v, "SmolLM2-135M", (9, 3), 1.0, 0, &[31, 260]));
                all.push(Self::new(v, "Llama-3.2-1B", (32, 8), 1.0, 0, &[31, 260]));
            }
            128 => all.push(Self::new(v, "Qwen3-30B-A3B", (32, 4), 1.0, 0, &[31, 260])),
            _ => {}
        }
        all
    }

    /// Returns rows of two sequences, each at its own position, and across the border of two chunks.
    fn prompt(v: Variant, name: &'static str, window: u32) -> Self {
        let contexts: Vec<u32> = (250..261).chain(3..8).collect();
        let mut trial = Self::new(v, name, (2, 1), 1.0, window, &contexts);
        let rows = trial.positions.chunks_exact_mut(2).enumerate();
        rows.for_each(|(row, place)| place[1] = u32::from(row >= 11));
        trial.fill(v);
        trial
    }

    /// Returns a contiguous cache: a block of the whole capacity for each sequence.
    fn contiguous(v: Variant) -> Self {
        let mut trial = Self::new(v, "contiguous", (4, 2), 1.0, 0, &[1, 255, 256, 257, 513]);
        (trial.index, trial.table) = KvIndex::test_contiguous(2, 530);
        trial.fill(v);
        trial
    }

    /// Returns rows of these contexts, with queries `size` times normal.
    fn new(v: Variant, name: &'static str, heads: (u32, u32), size: f32, window: u32, contexts: &[u32]) -> Self {
        let (heads, kv_heads) = heads;
        let (index, table) = KvIndex::test(kv_heads, 530, 20);
        let rows = contexts.len() as u32;
        let tiles = Tiles::new(heads / kv_heads, true);
        let tile = AttnTile { window, ..AttnTile::new(rows, heads, kv_heads, v.head_dim, tiles) };
        let positions = test_rows(&contexts.iter().map(|context| context - 1).collect::<Vec<_>>());
        let mut rng = Rng::new(u64::from(v.head_dim));
        let mut q = random(&mut rng, rows * heads * v.head_dim);
        q.iter_mut().for_each(|q| *q *= size);
        let q = bytemuck::cast_slice(&q).to_vec();
        // Far below and above scores, and among them.
        let sinks = if v.sinks {
            (0..heads).map(|head| [0.5, -20.0, 3.0, 20.0][head as usize % 4]).collect()
        } else {
            Vec::new()
        };
        let gate = if v.gated { test_gate(rows * heads * v.head_dim) } else { Vec::new() };
        let mut trial = Self { name, tile, index, q, kv: Vec::new(), positions, table, sinks, gate };
        trial.fill(v);
        trial
    }

    /// Fills the cache where the rows look.
    fn fill(&mut self, v: Variant) {
        let tables = KvTables { positions: &self.positions, table: &self.table };
        let mut rng = Rng::new(u64::from(v.head_dim) + 1);
        let kv = self.index.random(&tables, v.kv, v.head_dim, self.tile.window, &mut rng);
        self.kv = bytemuck::cast_slice(&kv).to_vec();
    }

    /// Returns contexts that are longer than one chunk.
    pub(super) fn beyond_a_chunk(v: Variant) -> Self {
        Self::new(v, "beyond the chunks", (2, 1), 1.0, 0, &[255, 256, 257, 513])
    }

    /// Returns the output for contexts of up to `limit` positions.
    pub(super) fn attended(&self, v: Variant, limit: u32) -> Vec<(f64, f64)> {
        let params = Params { tile: self.tile, index: self.index };
        let reader = reader(v, &params, &self.positions, &self.table, &self.kv);
        let heads = (self.tile.rows * self.tile.heads) as usize;
        let head = |i| attend(v, &self.tile, &reader, self.q.as_flattened(), &self.sinks, i, limit);
        let mut y: Vec<_> = (0..heads).flat_map(head).collect();
        gated(&mut y, self.gate.as_flattened(), 0);
        y
    }
}

fn case(v: Variant, trial: Trial) -> Case<Attention> {
    let expected = trial.attended(v, u32::MAX);
    let y = vec![[f32::NAN; 4]; expected.len() / 4];
    let Trial { name, tile, index, q, kv, positions, table, sinks, gate } = trial;
    Case {
        name: name.to_owned(),
        params: Params { tile, index },
        data: Data { q, kv, positions, table, sinks, gate, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    }
}

/// Returns gates for a test, of `count` elements: closed and open ones, and between.
pub(super) fn test_gate(count: u32) -> Vec<[f32; 4]> {
    let mut rng = Rng::new(u64::from(count) + 3);
    let mut gate: Vec<[f32; 4]> = (0..count / 4).map(|_| [(); 4].map(|()| 3.0 * rng.normal())).collect();
    gate.first_mut().into_iter().for_each(|first| *first = [-200.0, 200.0, 0.0, -20.0]);
    gate
}
