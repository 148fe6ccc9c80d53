//! From the QKV projection to query heads and a cache: split, QK-norm, RoPE, store.

use super::{
    Cache, TESTED_HEAD_DIMS,
    cache::{Layout, Places, Side, Written, layout},
    head::{Role, projections, qkv, rounded, test_positions, test_rotations, test_rows, test_shapes, turning},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::KvType,
};

kernel! {
    /// Splits `qkv[t]`, its bias added where there is one, into heads. Query and key heads are RMS-normed with the
    /// first and the second half of `norm` where the model does that, and rotated by the angles of the row's position
    /// (RoPE, Su et al. 2021, arXiv:2104.09864). Query heads go to `q`, key and value heads to the position's slot of
    /// the cache, which for a paged one is that of the row's sequence: rows of many sequences are one dispatch.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32, `bias` of a row, `norm` `[2, HD]`, `rotations`
    /// `[capacity, HD/2]` of (cos, sin), `positions`, `table` and `kv` as [`Cache`] has them (positions clamped to the
    /// capacity, sequences and blocks to those there are), `q` `[rows, heads, HD]`. Bound: 3e-6 of the length of the
    /// rotated pair, 1e-6 of a value's terms; stored as f16 one unit in the last place more, as Q8_0
    /// 0.5001 of the run's scale. Measured worst on lavapipe: 0.1 of it in f32, 0.5 in f16, 1.0 in Q8_0.
    pub struct QkvToCache("attn/qkv_to_cache") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
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
        /// Added to the mean square by the norm.
        eps: f32,
    }
    binds {
        /// The projections.
        qkv: read [f32],
        /// What is added to each row of them.
        bias: read [f32] if |v| v.bias,
        /// The norms' weights.
        norm: read [f32] if |v| v.norm,
        /// Cosines and sines.
        rotations: read [[f32; 2]],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32] if |v| v.cache == Cache::Paged,
        /// The query heads.
        q: write [f32],
        /// The cache.
        kv: write [[u32; 4]],
    }
}

/// Head size, bias, norm, pairing, cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: even, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// The projections have a bias.
    pub bias: bool,
    /// Query and key heads are normed.
    pub norm: bool,
    /// RoPE turns neighbours `(2i, 2i + 1)`, as Llama GGUFs have it, and not `(i, i + HD/2)`.
    pub interleaved: bool,
    /// How the cache's slots are arranged.
    pub cache: Cache,
    /// The cache's format.
    pub kv: KvType,
}

impl Kernel for QkvToCache {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for (kv, cache) in KvType::available(caps).flat_map(|kv| Cache::ALL.map(|cache| (kv, cache))) {
            for head_dim in TESTED_HEAD_DIMS {
                for (bias, norm, interleaved) in [(false, true, false), (false, false, true), (true, false, false)] {
                    all.push(Variant { head_dim, bias, norm, interleaved, cache, kv });
                }
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        let body = wgsl!("attn/qkv_to_cache.wgsl");
        let source = v.cache.fill(turning(body, v.head_dim, v.norm, v.interleaved));
        let source = v.kv.store(source).constant("KV_HEAD", v.kv.head_words(v.head_dim));
        source.with(qkv(v.bias)).with(wgsl!("attn/head_of_qkv.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads + 2 * p.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let (layout, hd) = (layout!(v, p), v.head_dim as usize);
        let at = Places { positions: host.positions, table: host.table };
        let projections = projections!(v, p, host);
        for row in 0..p.rows as usize {
            for (role, head) in projections.heads(row, layout.position(&at, row)) {
                let head = rounded(&head);
                match role {
                    Role::Query(i) => host.q[(row * p.heads as usize + i as usize) * hd..][..hd].copy_from_slice(&head),
                    Role::Key(i) => layout.store(&at, v.kv, host.kv.as_flattened_mut(), (Side::Key, row, i), &head),
                    Role::Value(i) => layout.store(&at, v.kv, host.kv.as_flattened_mut(), (Side::Value, row, i), &head),
                }
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (layout, hd) = (layout!(v, p), v.head_dim as usize);
        let at = Places { positions: before.positions, table: before.table };
        let projections = projections!(v, p, before);
        let (mut q, mut kv) =
            (Expect::unchanged(before.q), Written::over(layout, v.kv, v.head_dim, before.kv.as_flattened()));
        for row in 0..p.rows as usize {
            for (role, head) in projections.heads(row, layout.position(&at, row)) {
                match role {
                    Role::Query(i) => q[(row * p.heads as usize + i as usize) * hd..][..hd].copy_from_slice(&head),
                    Role::Key(i) => kv.expect(&at, (Side::Key, row, i), &head),
                    Role::Value(i) => kv.expect(&at, (Side::Value, row, i), &head),
                }
            }
        }
        Some(Expected { q: Some(Expect::Near(q)), kv: Some(kv.expected()), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        test_shapes(v.head_dim).into_iter().map(|(heads, kv_heads, rows)| case(v, heads, kv_heads, rows)).collect()
    }
}

fn case(v: Variant, heads: u32, kv_heads: u32, rows: u32) -> Case<QkvToCache> {
    // Positions 3, 4 and 5 are around the border of two blocks.
    let (layout, table) = Layout::tested(v.cache, kv_heads, 9, 4);
    let Layout { capacity, sequences, max_blocks, block, blocks, .. } = layout;
    let p = Params { rows, heads, kv_heads, capacity, sequences, max_blocks, block, blocks, eps: 1e-6 };
    let [qkv, bias, norm] = test_rows(rows, heads + 2 * kv_heads, v.head_dim, v.bias, v.norm);
    let (positions, rotations) = (test_positions(v.cache, rows), test_rotations(capacity, v.head_dim));
    let kv = layout.untouched(v.kv, v.head_dim);
    let mut data = Data { qkv, bias, norm, rotations, positions, table, kv, ..Default::default() };
    let at = Places { positions: &data.positions, table: &data.table };
    let projections = projections!(v, p, data);
    let (mut q, mut kv) = (Vec::new(), Written::over(layout, v.kv, v.head_dim, data.kv.as_flattened()));
    for row in 0..rows as usize {
        for (role, head) in projections.heads(row, layout.position(&at, row)) {
            match role {
                Role::Query(_) => q.extend(head),
                Role::Key(i) => kv.expect(&at, (Side::Key, row, i), &head),
                Role::Value(i) => kv.expect(&at, (Side::Value, row, i), &head),
            }
        }
    }
    // A head more than there are, which must stay as it is.
    q.resize(q.len() + v.head_dim as usize, (f64::NAN, 0.0));
    data.q = vec![f32::NAN; q.len()];
    Case {
        name: format!("{rows} tokens, {heads} heads"),
        params: p,
        data,
        expected: Expected { q: Some(Expect::Near(q)), kv: Some(kv.expected()), ..Default::default() },
    }
}
