//! From projections to query heads and the KV cache: split, QK-norm, RoPE, store.

use super::{
    KvIndex, RopeHead,
    heads::{
        HeadRole, QkvRows, Rope, TEST_SHAPES, TestShape, qkv_fragment, rope_source, rounded, test_positions, test_qkv,
        test_rotations,
    },
    kv_index::{ExpectedCache, KvKind, KvTables},
    sample::ROPES,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, SparseReads, kernel, wgsl},
    kernels::KvType,
};

kernel! {
    /// Splits `qkv[t]` into heads. Query and key heads have RMS norm with the first and the second row of `norm`, in
    /// models that have it, and are rotated by the angles of the row's position (RoPE, Su et al. 2021,
    /// arXiv:2104.09864). Query heads go to `q`; key and value heads go to the place of the position in the row's
    /// sequence of the cache. Rows may be of many sequences.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32; `norm` `[2, HD]`; `rotations` `[capacity, HD/2]` of (cos,
    /// sin); `positions`, `table` and `kv` as in [`KvIndex`]; `q` `[rows, heads, HD]`. Bound: 3e-6 of the length of the
    /// rotated pair; values are exact. Stored as f16 one unit in the last place more, as Q8_0 0.5001 of the scale more.
    /// Measured worst on lavapipe: 0.1 of it in f32, 0.5 in f16, 1.0 in Q8_0.
    pub struct RopeKvAppend("attn/rope_kv_append") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// The cache.
        index: KvIndex,
        /// The heads.
        head: RopeHead,
    }
    binds {
        /// The projections.
        qkv: read [f32],
        /// The norms' weights.
        norm: read [f32] if |v| v.norm,
        /// Cosines and sines.
        rotations: read [[f32; 2]],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The block table.
        table: read [u32],
        /// The query heads.
        q: write [f32],
        /// The cache.
        kv: write [[u32; 4]],
    }
}

/// Norm, pairing, format of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Query and key heads have RMS norm.
    pub norm: bool,
    /// RoPE rotates the pairs `(2i, 2i + 1)`, as Llama GGUFs have them, rather than `(i, i + HD/2)`.
    pub interleaved: bool,
    /// The cache's format.
    pub kv: KvType,
}

impl Kernel for RopeKvAppend {
    fn supported(caps: &Caps) -> Vec<Variant> {
        KvType::available(caps)
            .flat_map(|kv| ROPES.map(|(norm, interleaved)| Variant { norm, interleaved, kv }))
            .collect()
    }

    fn source(v: Variant) -> Source {
        v.kv.store(rope_source(wgsl!("attn/rope_kv_append.wgsl"), v.norm, v.interleaved))
            .with(wgsl!("kv/paged.wgsl"))
            .with(wgsl!("kv/head_dim_param.wgsl"))
            .with(qkv_fragment(false))
            .with(wgsl!("attn/head_of_qkv.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads + 2 * p.index.kv_heads, y: p.rows }
    }

    fn sparse_reads(_: Variant, p: &Params) -> Option<SparseReads> {
        Some(p.index.rotations_read(p.rows))
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let (index, hd) = (p.index, p.head.head_dim as usize);
        let Host { qkv, norm, rotations, positions, table, q, kv } = host;
        let (tables, words) = (KvTables { positions, table }, kv.as_flattened_mut());
        let qkv = projections(v, p, qkv, norm, rotations);
        for row in 0..p.rows as usize {
            for (role, head) in qkv.heads(row, index.position(&tables, row)) {
                let head = rounded(&head);
                match role {
                    HeadRole::Query(i) => q[(row * p.heads as usize + i as usize) * hd..][..hd].copy_from_slice(&head),
                    HeadRole::Key(i) => index.store(&tables, v.kv, words, (KvKind::Key, row, i), &head),
                    HeadRole::Value(i) => index.store(&tables, v.kv, words, (KvKind::Value, row, i), &head),
                }
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (index, hd) = (p.index, p.head.head_dim as usize);
        let Host { qkv, norm, rotations, positions, table, q, kv } = before;
        let tables = KvTables { positions, table };
        let qkv = projections(v, p, qkv, norm, rotations);
        let mut q = Expect::unchanged(q);
        let mut cache = ExpectedCache::new(index, v.kv, p.head.head_dim, kv.as_flattened());
        for row in 0..p.rows as usize {
            for (role, head) in qkv.heads(row, index.position(&tables, row)) {
                match role {
                    HeadRole::Query(i) => q[(row * p.heads as usize + i as usize) * hd..][..hd].copy_from_slice(&head),
                    HeadRole::Key(i) => cache.set(&tables, (KvKind::Key, row, i), &head),
                    HeadRole::Value(i) => cache.set(&tables, (KvKind::Value, row, i), &head),
                }
            }
        }
        Some(Expected { q: Some(Expect::Near(q)), kv: Some(cache.expected()), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        // Positions 3, 4 and 5 are around the border of two blocks.
        let paged = TEST_SHAPES.map(|shape| case(v, shape, KvIndex::test(shape.kv_heads, 9, 4), ""));
        let [shape, ..] = TEST_SHAPES;
        let contiguous = case(v, shape, KvIndex::test_contiguous(shape.kv_heads, 9), ", contiguous");
        paged.into_iter().chain([contiguous]).collect()
    }
}

/// Returns the projections of a dispatch.
fn projections<'a>(v: Variant, p: &Params, rows: &'a [f32], norm: &'a [f32], rotations: &'a [[f32; 2]]) -> QkvRows<'a> {
    let rope = Rope { norm, eps: p.head.eps, interleaved: v.interleaved, rotations };
    QkvRows { heads: p.heads, kv_heads: p.index.kv_heads, head_dim: p.head.head_dim, rows, bias: &[], rope }
}

fn case(v: Variant, shape: TestShape, (index, table): (KvIndex, Vec<u32>), name: &str) -> Case<RopeKvAppend> {
    let TestShape { head_dim, heads, kv_heads, rows } = shape;
    let p = Params { rows, heads, index, head: RopeHead { head_dim, eps: 1e-6 } };
    let [qkv, _, norm] = test_qkv(rows, heads + 2 * kv_heads, head_dim, false, v.norm);
    let (positions, rotations) = (test_positions(rows), test_rotations(index.capacity, head_dim));
    let kv = index.untouched(v.kv, head_dim);
    // A head more than there are, which must stay as it is.
    let q = vec![f32::NAN; ((rows * heads + 1) * head_dim) as usize];
    Case::of_reference(shape.name() + name, v, p, Data { qkv, norm, rotations, positions, table, q, kv })
}
