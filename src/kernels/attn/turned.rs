//! Attention from projections: heads that are turned by the workgroups that attend from them, and what CPU kernels and cases share.

use super::{
    Cache, Exchange,
    attend::{Keys, Off},
    attention,
    cache::{Layout, Places, Side, Written},
    head::{Qkv, Role, random, rounded, test_rotations},
};
use crate::{
    gpu::{Caps, Expect, Fragment, Source, wgsl},
    kernels::KvType,
    quant::Rng,
};

/// Head size, cache, exchange; norm and pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// How it is attended.
    pub attention: attention::Variant,
    /// Query and key heads are normed.
    pub norm: bool,
    /// RoPE turns neighbours `(2i, 2i + 1)`, as Llama GGUFs have it, and not `(i, i + HD/2)`.
    pub interleaved: bool,
}

/// Whether workgroups can turn heads of `head_dim` elements, `group` of them to a key head: whole pairs of vec4s, all in one
/// tile, and in workgroup memory as small as WebGPU's.
pub fn can_turn(head_dim: u32, group: u32, exchange: Exchange) -> bool {
    let most = match exchange {
        Exchange::Memory => 128,
        Exchange::Shuffle => super::MAX_HEAD_DIM,
    };
    head_dim.is_multiple_of(8) && head_dim <= most && group <= 8
}

impl Variant {
    /// Those of two kinds of models, each with a head size, with the caches that engines have.
    pub(super) fn all(caps: &Caps) -> Vec<Self> {
        let of = |attention: attention::Variant| {
            let paged = attention.cache == Cache::Paged;
            let kinds = [(128, true, false), (80, false, true)].into_iter();
            let kinds = kinds.filter(move |(head_dim, ..)| paged && attention.head_dim == *head_dim);
            kinds.map(move |(_, norm, interleaved)| Self { attention, norm, interleaved })
        };
        attention::Variant::all(caps).into_iter().flat_map(of).collect()
    }

    /// A source for a body, with the slot `queries` filled.
    pub(super) fn source(self, body: Fragment, attend: Fragment) -> Source {
        let v = self.attention;
        let source = super::scan::scan(v, body, attend)
            .with(wgsl!("attn/turn.wgsl"))
            .with(wgsl!("attn/queries_turned.wgsl"))
            .with(if self.norm { wgsl!("attn/turned_norm.wgsl") } else { wgsl!("attn/turned_plain.wgsl") })
            .with(match v.exchange {
                Exchange::Memory => wgsl!("attn/eight_memory.wgsl"),
                Exchange::Shuffle => wgsl!("attn/eight_shuffle.wgsl"),
            })
            .constant("INTERLEAVED", self.interleaved);
        v.kv.store(source)
    }
}

/// The [`Qkv`] of a kernel's variant, parameters and buffers.
macro_rules! rows_of {
    ($variant:expr, $params:expr, $buffers:expr) => {
        $crate::kernels::attn::head::Qkv {
            heads: $params.heads,
            kv_heads: $params.kv_heads,
            head_dim: $variant.attention.head_dim,
            rows: $buffers.qkv.as_flattened(),
            bias: &[],
            turn: $crate::kernels::attn::head::Turn {
                norm: $buffers.norm.as_flattened(),
                eps: $params.eps,
                interleaved: $variant.interleaved,
                rotations: &$buffers.rotations,
            },
        }
    };
}
pub(super) use rows_of;

/// The rows' heads, turned, and the cache with their keys and values.
pub(super) struct Turned {
    /// `[rows, heads, HD]`, rounded.
    pub(super) q: Vec<f32>,
    /// How far off each may be.
    off: Vec<f64>,
    /// Of each row and key head, how far off each element of key and value may be.
    off_newest: Vec<[Vec<f64>; 2]>,
    /// The cache.
    pub(super) words: Vec<u32>,
    /// What it must hold.
    kv: Written,
    heads: usize,
    kv_heads: usize,
}

impl Turned {
    /// Turns `rows` of projections, over a cache of these words.
    pub(super) fn new(qkv: &Qkv<'_>, rows: u32, layout: Layout, at: &Places<'_>, kv: KvType, words: &[u32]) -> Self {
        let mut turned = Self {
            q: Vec::new(),
            off: Vec::new(),
            off_newest: vec![Default::default(); (rows * qkv.kv_heads) as usize],
            words: words.to_vec(),
            kv: Written::over(layout, kv, qkv.head_dim, words),
            heads: qkv.heads as usize,
            kv_heads: qkv.kv_heads as usize,
        };
        for row in 0..rows as usize {
            for (role, head) in qkv.heads(row, layout.position(at, row)) {
                let (side, i) = match role {
                    Role::Query(_) => {
                        turned.q.extend(rounded(&head));
                        turned.off.extend(head.iter().map(|(_, bound)| bound));
                        continue;
                    }
                    Role::Key(i) => (Side::Key, i),
                    Role::Value(i) => (Side::Value, i),
                };
                layout.store(at, kv, &mut turned.words, (side, row, i), &rounded(&head));
                turned.kv.expect(at, (side, row, i), &head);
                // What a kernel stores is as far from the exact head as what is stored here.
                let off = kv.stored(&head).into_iter().map(|(_, bound)| 2.0 * bound).collect();
                turned.off_newest[row * turned.kv_heads + i as usize][usize::from(side == Side::Value)] = off;
            }
        }
        turned
    }

    /// Head `i` of the queries, with how far off it may be and the key and value at its own position.
    pub(super) fn query(&self, i: usize) -> (&[f32], Off<'_>) {
        let hd = self.q.len() / (self.off_newest.len() / self.kv_heads * self.heads);
        let (row, head) = (i / self.heads, i % self.heads);
        let [key, value] = &self.off_newest[row * self.kv_heads + head / (self.heads / self.kv_heads)];
        (&self.q[i * hd..][..hd], Off { query: &self.off[i * hd..][..hd], key, value })
    }

    /// What the cache must hold.
    pub(super) fn expected(self) -> Expect {
        self.kv.expected()
    }

    /// The cache to attend over.
    pub(super) fn keys<'a>(&'a self, layout: Layout, at: Places<'a>, kv: KvType, scale: f32) -> Keys<'a> {
        Keys { layout, at, kv, words: &self.words, scale }
    }
}

/// Inputs of attention from projections: each row is of a sequence of its own.
pub(super) struct Trial {
    pub(super) name: &'static str,
    pub(super) rows: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) window: u32,
    pub(super) layout: Layout,
    pub(super) qkv: Vec<[f32; 4]>,
    pub(super) norm: Vec<[f32; 4]>,
    pub(super) rotations: Vec<[f32; 2]>,
    pub(super) positions: Vec<u32>,
    pub(super) table: Vec<u32>,
    pub(super) kv: Vec<[u32; 4]>,
}

impl Trial {
    /// Heads that fill workgroups in all ways, contexts around the borders of blocks and chunks, the last out of range.
    pub(super) fn all(v: Variant) -> Vec<Self> {
        let mut shapes = vec![
            ("two heads", (2, 1), 0, vec![1, 256, 9999]),
            ("heads of three", (6, 2), 0, vec![20, 257, 512]),
            ("a window", (2, 2), 40, vec![39, 41, 297]),
        ];
        if v.attention.head_dim == 128 {
            shapes.push(("Qwen3-30B-A3B", (32, 4), 0, vec![31, 260]));
        }
        shapes.into_iter().map(|(name, heads, window, contexts)| Self::new(v, name, heads, window, &contexts)).collect()
    }

    fn new(v: Variant, name: &'static str, heads: (u32, u32), window: u32, contexts: &[u32]) -> Self {
        let attention::Variant { head_dim, cache, kv: ty, .. } = v.attention;
        let ((heads, kv_heads), rows) = (heads, contexts.len() as u32);
        let (layout, table) = Layout::tested(cache, kv_heads, 530, 20);
        let positions: Vec<u32> =
            contexts.iter().zip(0..).flat_map(|(context, sequence)| [context - 1, sequence]).collect();
        let mut rng = Rng::new(u64::from(head_dim) + 5);
        let at = Places { positions: &positions, table: &table };
        let kv = layout.random_numbers(&at, ty, head_dim, window, &mut rng);
        let mut fours = |count: u32| bytemuck::cast_slice(&random(&mut rng, count)).to_vec();
        let qkv = fours(rows * (heads + 2 * kv_heads) * head_dim);
        let norm = if v.norm { fours(2 * head_dim) } else { Vec::new() };
        let rotations = test_rotations(layout.capacity, head_dim);
        Self { name, rows, heads, kv_heads, window, layout, qkv, norm, rotations, positions, table, kv }
    }
}
