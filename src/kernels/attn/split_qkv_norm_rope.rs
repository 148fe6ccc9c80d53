//! From projections to head-major queries, keys and values: split, QK-norm, RoPE.

use super::{
    RopeHead,
    heads::{
        HeadRole, QkvRows, Rope, TEST_SHAPES, TestShape, qkv_fragment, rope_source, rounded, test_positions, test_qkv,
        test_rotations,
    },
    kv_index::position_of,
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl};

kernel! {
    /// Splits `qkv[t]`, with its bias where there is one, into heads. Query and key heads have RMS norm with the first
    /// and the second row of `norm`, in models that have it, and are rotated by the angles of the row's position. No
    /// plan records it: [`RopeKvAppend`](super::rope_kv_append::RopeKvAppend) stores keys and values in the cache at
    /// once.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32; `bias` of a row; `norm` `[2, HD]`; `rotations`
    /// `[capacity, HD/2]` of (cos, sin); `positions` `[rows, 2]` with each row's position (clamped to the capacity) and
    /// sequence; `q` `[heads, rows, HD]`; `k` and `v` `[kv_heads, rows, HD]`. Bound: 3e-6 of the length of the rotated
    /// pair, 1e-6 of a value's terms. Measured worst on lavapipe: 0.1 of it.
    pub struct SplitQkvNormRope("attn/split_qkv_norm_rope") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// Positions that have angles.
        capacity: u32,
        /// The heads.
        head: RopeHead,
    }
    binds {
        /// The projections.
        qkv: read [f32],
        /// The bias of a row of them.
        bias: read [f32] if |v| v.bias,
        /// The norms' weights.
        norm: read [f32] if |v| v.norm,
        /// Cosines and sines.
        rotations: read [[f32; 2]],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The query heads.
        q: write [f32],
        /// The key heads.
        k: write [f32],
        /// The value heads.
        v: write [f32],
    }
}

/// Bias, norm, pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The projections have a bias.
    pub bias: bool,
    /// Query and key heads have RMS norm.
    pub norm: bool,
    /// RoPE rotates the pairs `(2i, 2i + 1)`, as Llama GGUFs have them, rather than `(i, i + HD/2)`.
    pub interleaved: bool,
}

impl Kernel for SplitQkvNormRope {
    fn supported(_: &Caps) -> Vec<Variant> {
        vec![
            Variant { bias: false, norm: true, interleaved: false },
            Variant { bias: true, norm: false, interleaved: true },
        ]
    }

    fn source(v: Variant) -> Source {
        rope_source(wgsl!("attn/split_qkv_norm_rope.wgsl"), v.norm, v.interleaved)
            .with(wgsl!("attn/head_of_qkv.wgsl"))
            .with(qkv_fragment(v.bias))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads + 2 * p.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let Host { qkv, bias, norm, rotations, positions, q, k, v: values } = host;
        let rope = Rope { norm, eps: p.head.eps, interleaved: v.interleaved, rotations };
        let qkv = rows_of(p, qkv, bias, rope);
        split(p, &qkv, positions, [q, k, values], |to, head| to.copy_from_slice(&rounded(head)));
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let Host { qkv, bias, norm, rotations, positions, q, k, v: values } = before;
        let rope = Rope { norm, eps: p.head.eps, interleaved: v.interleaved, rotations };
        let qkv = rows_of(p, qkv, bias, rope);
        let mut outputs = [q, k, values].map(|before| Expect::unchanged(before));
        let [q, k, values] = &mut outputs;
        split(p, &qkv, positions, [q, k, values], |to, head| to.copy_from_slice(head));
        let [q, k, v] = outputs.map(|output| Some(Expect::Near(output)));
        Some(Expected { q, k, v, ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        TEST_SHAPES.into_iter().map(|shape| case(v, shape)).collect()
    }
}

/// Returns the projections of a dispatch.
fn rows_of<'a>(p: &Params, rows: &'a [f32], bias: &'a [f32], rope: Rope<'a>) -> QkvRows<'a> {
    QkvRows { heads: p.heads, kv_heads: p.kv_heads, head_dim: p.head.head_dim, rows, bias, rope }
}

/// Puts every head with its bounds into queries, keys or values.
fn split<T>(
    p: &Params,
    qkv: &QkvRows<'_>,
    positions: &[u32],
    outputs: [&mut [T]; 3],
    put: impl Fn(&mut [T], &[(f64, f64)]),
) {
    let hd = p.head.head_dim as usize;
    let [q, k, values] = outputs;
    for row in 0..p.rows as usize {
        for (role, head) in qkv.heads(row, position_of(positions, p.capacity, row)) {
            let (to, i) = match role {
                HeadRole::Query(i) => (&mut *q, i),
                HeadRole::Key(i) => (&mut *k, i),
                HeadRole::Value(i) => (&mut *values, i),
            };
            put(&mut to[(i * p.rows) as usize * hd + row * hd..][..hd], &head);
        }
    }
}

fn case(variant: Variant, shape: TestShape) -> Case<SplitQkvNormRope> {
    let (capacity, TestShape { head_dim, heads, kv_heads, rows }) = (9, shape);
    let p = Params { rows, heads, kv_heads, capacity, head: RopeHead { head_dim, eps: 1e-6 } };
    let [qkv, bias, norm] = test_qkv(rows, heads + 2 * kv_heads, head_dim, variant.bias, variant.norm);
    let (positions, rotations) = (test_positions(rows), test_rotations(capacity, head_dim));
    // A head more than there are, which must stay as it is.
    let room = |heads: u32| vec![f32::NAN; ((heads * rows + 1) * head_dim) as usize];
    let (q, k, v) = (room(heads), room(kv_heads), room(kv_heads));
    Case::of_reference(shape.name(), variant, p, Data { qkv, bias, norm, rotations, positions, q, k, v })
}
