//! Attention from projections: QK-norm and RoPE in the workgroups that attend. What CPU kernels and cases share.

use super::{
    AttnTile, KvIndex, Reduction, RopeHead, attention,
    heads::{HeadRole, QkvRows, random, rounded, test_rotations},
    kv_index::{ExpectedCache, KvKind, KvTables, RowHead},
    reference::InputError,
    tile::{Keys, flash_source},
};
use crate::{
    gpu::{Expect, Fragment, Source, wgsl},
    kernels::KvType,
    quant::Rng,
};

/// Attention's variant, norm, pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeVariant {
    /// How the queries attend.
    pub attention: attention::Variant,
    /// Query and key heads have RMS norm.
    pub norm: bool,
    /// RoPE rotates the pairs `(2i, 2i + 1)`, as Llama GGUFs have them, rather than `(i, i + HD/2)`.
    pub interleaved: bool,
}

/// Returns whether attention can start from projections: heads are whole pairs of vec4s, the `q_per_kv` query heads of
/// a key head fit into one tile, and all fits into WebGPU's default workgroup memory.
pub fn can_fuse_rope(head_dim: u32, q_per_kv: u32, reduction: Reduction) -> bool {
    let most = match reduction {
        Reduction::SharedMemory => 128,
        Reduction::Subgroup => super::MAX_HEAD_DIM,
    };
    head_dim.is_multiple_of(8) && head_dim <= most && q_per_kv <= 8
}

impl RopeVariant {
    /// Returns a source with the slot `queries` filled.
    pub(super) fn source(self, body: Fragment, keys: Keys) -> Source {
        let v = self.attention;
        let source = flash_source(v, body, keys, true)
            .with(wgsl!("kv/head_dim_constant.wgsl"))
            .with(wgsl!("attn/rope.wgsl"))
            .with(wgsl!("attn/queries_rope.wgsl"))
            .with(if self.norm { wgsl!("attn/rope_norm.wgsl") } else { wgsl!("attn/rope_plain.wgsl") })
            .with(match v.reduction {
                Reduction::SharedMemory => wgsl!("attn/sum8_shared.wgsl"),
                Reduction::Subgroup => wgsl!("attn/software/sum8_subgroup.wgsl"),
            })
            .constant("INTERLEAVED", self.interleaved);
        v.kv.store(source)
    }
}

/// The heads of a dispatch's rows after norm and rotation, exact with their bounds and rounded.
pub(super) struct RotatedRows {
    /// Query heads, `[rows, heads, HD]`, rounded.
    q: Vec<f32>,
    /// The error that each may have.
    q_errors: Vec<f64>,
    /// Each row's keys and values.
    kv: Vec<(RowHead, Vec<(f64, f64)>)>,
    /// The errors that the elements of each row's and key head's key and value may have.
    kv_errors: Vec<[Vec<f64>; 2]>,
    heads: usize,
    kv_heads: usize,
}

impl RotatedRows {
    /// Rotates `rows` of projections.
    pub(super) fn new(qkv: &QkvRows<'_>, rows: u32, index: KvIndex, tables: &KvTables<'_>, ty: KvType) -> Self {
        let mut rotated = Self {
            q: Vec::new(),
            q_errors: Vec::new(),
            kv: Vec::new(),
            kv_errors: vec![Default::default(); (rows * qkv.kv_heads) as usize],
            heads: qkv.heads as usize,
            kv_heads: qkv.kv_heads as usize,
        };
        for row in 0..rows as usize {
            for (role, head) in qkv.heads(row, index.position(tables, row)) {
                let (kind, i) = match role {
                    HeadRole::Query(_) => {
                        rotated.q.extend(rounded(&head));
                        rotated.q_errors.extend(head.iter().map(|(_, bound)| bound));
                        continue;
                    }
                    HeadRole::Key(i) => (KvKind::Key, i),
                    HeadRole::Value(i) => (KvKind::Value, i),
                };
                // A kernel's stored head and the one stored here are each within the bound of the exact head.
                let errors = ty.stored(&head).into_iter().map(|(_, bound)| 2.0 * bound).collect();
                rotated.kv_errors[row * rotated.kv_heads + i as usize][usize::from(kind == KvKind::Value)] = errors;
                rotated.kv.push(((kind, row, i), head));
            }
        }
        rotated
    }

    /// Stores the keys and values in the cache `words`.
    pub(super) fn store(&self, index: KvIndex, tables: &KvTables<'_>, ty: KvType, words: &mut [u32]) {
        for (at, head) in &self.kv {
            index.store(tables, ty, words, *at, &rounded(head));
        }
    }

    /// Returns query head `i`, with its errors and those of the key and value at its own position.
    pub(super) fn query(&self, i: usize) -> (&[f32], InputError<'_>) {
        let hd = self.q.len() / (self.kv_errors.len() / self.kv_heads * self.heads);
        let (row, head) = (i / self.heads, i % self.heads);
        let [key, value] = &self.kv_errors[row * self.kv_heads + head / (self.heads / self.kv_heads)];
        (&self.q[i * hd..][..hd], InputError { query: &self.q_errors[i * hd..][..hd], key, value })
    }

    /// Returns the cache `before` with the keys and values, and what it must hold after the dispatch.
    pub(super) fn expected_cache(
        &self,
        index: KvIndex,
        tables: &KvTables<'_>,
        ty: KvType,
        head_dim: u32,
        before: &[u32],
    ) -> (Vec<u32>, Expect) {
        let mut expected = ExpectedCache::new(index, ty, head_dim, before);
        self.kv.iter().for_each(|(at, head)| expected.set(tables, *at, head));
        let mut words = before.to_vec();
        self.store(index, tables, ty, &mut words);
        (words, expected.expected())
    }
}

/// The projections of a kernel's variant, parameters and buffers.
macro_rules! rows_of {
    ($variant:expr, $params:expr, $buffers:expr) => {
        $crate::kernels::attn::heads::QkvRows {
            heads: $params.tile.heads,
            kv_heads: $params.index.kv_heads,
            head_dim: $variant.attention.head_dim,
            rows: $buffers.qkv.as_flattened(),
            bias: &[],
            rope: $crate::kernels::attn::heads::Rope {
                norm: $buffers.norm.as_flattened(),
                eps: $params.head.eps,
                interleaved: $variant.interleaved,
                rotations: &$buffers.rotations,
            },
        }
    };
}
pub(super) use rows_of;

/// Inputs of attention from projections: each row has its own sequence.
pub(super) struct Trial {
    pub(super) name: &'static str,
    pub(super) tile: AttnTile,
    pub(super) index: KvIndex,
    pub(super) head: RopeHead,
    pub(super) qkv: Vec<[f32; 4]>,
    pub(super) norm: Vec<[f32; 4]>,
    pub(super) rotations: Vec<[f32; 2]>,
    pub(super) positions: Vec<u32>,
    pub(super) table: Vec<u32>,
    pub(super) kv: Vec<[u32; 4]>,
}

impl Trial {
    /// Returns tiles that are filled in every way, contexts around the borders of blocks and chunks, the last out of
    /// range, a window, a contiguous cache, and heads of published models: one to eight query heads for each key head.
    pub(super) fn all(v: RopeVariant) -> Vec<Self> {
        let mut shapes = vec![
            ("two heads", (2, 1), 0, vec![1, 256, 9999]),
            ("heads of three", (6, 2), 0, vec![20, 257, 512]),
            ("heads of seven", (7, 1), 0, vec![300]),
            ("a window", (2, 2), 40, vec![39, 41, 297]),
        ];
        match v.attention.head_dim {
            64 => shapes.extend([("SmolLM2-135M", (9, 3), 0, vec![257]), ("Llama-3.2-1B", (32, 8), 0, vec![31, 260])]),
            128 => shapes.push(("Qwen3-30B-A3B", (32, 4), 0, vec![31, 260])),
            _ => {}
        }
        let paged = KvIndex::test as fn(u32, u32, u32) -> _;
        let trials = shapes.into_iter().map(|(name, heads, window, contexts)| {
            Self::new(v, name, heads, window, &contexts, |kv_heads| paged(kv_heads, 530, 20))
        });
        let contiguous = |kv_heads| KvIndex::test_contiguous(kv_heads, 530);
        trials.chain([Self::new(v, "contiguous", (4, 2), 0, &[1, 257, 513], contiguous)]).collect()
    }

    fn new(
        v: RopeVariant,
        name: &'static str,
        (heads, kv_heads): (u32, u32),
        window: u32,
        contexts: &[u32],
        cache: impl FnOnce(u32) -> (KvIndex, Vec<u32>),
    ) -> Self {
        let attention::Variant { head_dim, kv: ty, .. } = v.attention;
        let rows = contexts.len() as u32;
        let (index, table) = cache(kv_heads);
        let positions: Vec<u32> =
            contexts.iter().zip(0..).flat_map(|(context, sequence)| [context - 1, sequence]).collect();
        let mut rng = Rng::new(u64::from(head_dim) + 5);
        let tables = KvTables { positions: &positions, table: &table };
        let kv = index.random_numbers(&tables, ty, head_dim, window, &mut rng);
        let mut vec4s = |count: u32| bytemuck::cast_slice(&random(&mut rng, count)).to_vec();
        let qkv = vec4s(rows * (heads + 2 * kv_heads) * head_dim);
        let norm = if v.norm { vec4s(2 * head_dim) } else { Vec::new() };
        let rotations = test_rotations(index.capacity, head_dim);
        let tile = AttnTile { window, ..AttnTile::of_kv_heads(rows, heads, kv_heads, head_dim) };
        let head = RopeHead { head_dim, eps: 1e-6 };
        Self { name, tile, index, head, qkv, norm, rotations, positions, table, kv }
    }
}
