//! From the QKV projection to heads: split, QK-norm, RoPE.

use super::{
    Cache, TESTED_HEAD_DIMS,
    head::{Role, projections, qkv, rounded, test_positions, test_rotations, test_rows, test_shapes, turning},
};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl};

kernel! {
    /// Splits `qkv[t]`, its bias added where there is one, into heads. Query and key heads are RMS-normed with the
    /// first and the second half of `norm` where the model does that, and rotated by the angles of `positions[t]`.
    ///
    /// Shapes: `qkv` `[rows, heads + 2·kv_heads, HD]` f32, `bias` of a row, `norm` `[2, HD]`, `rotations`
    /// `[capacity, HD/2]` of (cos, sin), `positions` `[rows]` (clamped to the capacity), `q` `[heads, rows, HD]`, `k`
    /// and `v` `[kv_heads, rows, HD]`. Bound: 3e-6 of the length of the rotated pair, 1e-6 of a value's terms. Measured
    /// worst on lavapipe: 0.1 of it.
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
        /// Each token's position.
        positions: read [u32],
        /// The query heads.
        q: write [f32],
        /// The key heads.
        k: write [f32],
        /// The value heads.
        v: write [f32],
    }
}

/// Head size, bias, norm, pairing.
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
}

impl Kernel for SplitQkvNormRope {
    fn supported(_: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for head_dim in TESTED_HEAD_DIMS {
            for (bias, norm, interleaved) in [(true, true, false), (false, true, false), (false, false, true)] {
                all.push(Variant { head_dim, bias, norm, interleaved });
            }
        }
        all
    }

    fn source(v: Variant) -> Source {
        let body = wgsl!("attn/split_qkv_norm_rope.wgsl");
        Cache::Contiguous
            .positions(turning(body, v.head_dim, v.norm, v.interleaved))
            .with(qkv(v.bias))
            .with(wgsl!("attn/head_of_qkv.wgsl"))
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads + 2 * p.kv_heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let Host { qkv, bias, norm, rotations, positions, q, k, v: values } = host;
        let inputs = Inputs { qkv, bias, norm, rotations, positions };
        place(v, p, &inputs, [q, k, values], |to, head| to.copy_from_slice(&rounded(head)));
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let Host { qkv, bias, norm, rotations, positions, q, k, v: values } = before;
        let inputs = Inputs { qkv, bias, norm, rotations, positions };
        let mut parts = [q, k, values].map(|before| Expect::unchanged(before));
        let [q, k, values] = &mut parts;
        place(v, p, &inputs, [q, k, values], |to, head| to.copy_from_slice(head));
        let [q, k, v] = parts.map(|part| Some(Expect::Near(part)));
        Some(Expected { q, k, v, ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        test_shapes(v.head_dim).into_iter().map(|(heads, kv_heads, rows)| case(v, heads, kv_heads, rows)).collect()
    }
}

/// What heads are made of.
struct Inputs<'a> {
    qkv: &'a [f32],
    bias: &'a [f32],
    norm: &'a [f32],
    rotations: &'a [[f32; 2]],
    positions: &'a [u32],
}

/// Puts every head, exactly and with its bounds, where it goes in queries, keys and values.
fn place<T>(v: Variant, p: &Params, inputs: &Inputs<'_>, parts: [&mut [T]; 3], put: impl Fn(&mut [T], &[(f64, f64)])) {
    let hd = v.head_dim as usize;
    let projections = projections!(v, p, inputs);
    let [q, k, values] = parts;
    for row in 0..p.rows as usize {
        for (role, head) in projections.heads(row, Cache::Contiguous.position(inputs.positions, p.capacity, row)) {
            let (to, i) = match role {
                Role::Query(i) => (&mut *q, i),
                Role::Key(i) => (&mut *k, i),
                Role::Value(i) => (&mut *values, i),
            };
            put(&mut to[(i * p.rows) as usize * hd + row * hd..][..hd], &head);
        }
    }
}

fn case(variant: Variant, heads: u32, kv_heads: u32, rows: u32) -> Case<SplitQkvNormRope> {
    let (capacity, hd) = (9, variant.head_dim);
    let p = Params { rows, heads, kv_heads, capacity, eps: 1e-6 };
    let [qkv, bias, norm] = test_rows(rows, heads + 2 * kv_heads, hd, variant.bias, variant.norm);
    let (positions, rotations) = (test_positions(Cache::Contiguous, rows), test_rotations(capacity, hd));
    // A head more than there are, which must stay as it is.
    let room = |heads: u32| vec![f32::NAN; ((heads * rows + 1) * hd) as usize];
    let (q, k, v) = (room(heads), room(kv_heads), room(kv_heads));
    let data = Data { qkv, bias, norm, rotations, positions, q, k, v };
    Case::of_reference(format!("{rows} tokens, {heads} heads"), variant, p, data)
}
