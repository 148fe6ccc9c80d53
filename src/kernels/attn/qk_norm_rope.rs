//! Heads of tokens to tokens of heads, normed and rotated on the way.

use super::{
    Cache, TESTED_HEAD_DIMS,
    head::{Turn, random, rounded, test_positions, test_rotations, test_shapes, turning},
    workgroup,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[h, t] = x[t, h]`, RMS-normed with `norm` and rotated by the angles of `positions[t]` as the mode says.
    ///
    /// Shapes: `x` `[rows, heads, HD]` f32, `norm` `[HD]`, `rotations` `[capacity, HD/2]` of (cos, sin), `positions` as
    /// [`Cache`] has them (clamped to the capacity), `y` `[heads, rows, HD]`. Bound: 3e-6 of the length of the rotated pair; a
    /// transposition is exact. Measured worst on lavapipe: 0.1 of it.
    pub struct QkNormRope("attn/qk_norm_rope") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Heads.
        heads: u32,
        /// Positions that have angles.
        capacity: u32,
        /// Added to the mean square by the norm.
        eps: f32,
    }
    binds {
        /// The heads of each token.
        x: read [f32],
        /// The norm's weights.
        norm: read [f32] if |v| v.mode == Mode::NormRope,
        /// Cosines and sines.
        rotations: read [[f32; 2]] if |v| v.mode != Mode::Transpose,
        /// Each token's position.
        positions: read [u32] if |v| v.mode != Mode::Transpose,
        /// The tokens of each head.
        y: write [f32],
    }
}

/// What is done to a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is only put elsewhere: values.
    Transpose,
    /// Norm and RoPE: queries and keys of a model with QK-norm.
    NormRope,
    /// RoPE: those of others.
    Rope,
}

/// Head size, mode, pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: even, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// What is done to it.
    pub mode: Mode,
    /// RoPE turns neighbours `(2i, 2i + 1)`, as Llama GGUFs have it, and not `(i, i + HD/2)`.
    pub interleaved: bool,
    /// Whether a sequence is behind each position.
    pub cache: Cache,
}

impl Kernel for QkNormRope {
    fn supported(_: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for head_dim in TESTED_HEAD_DIMS {
            for (mode, interleaved) in [Mode::NormRope, Mode::Rope].iter().flat_map(|m| [(*m, false), (*m, true)]) {
                all.extend(Cache::ALL.map(|cache| Variant { head_dim, mode, interleaved, cache }));
            }
            let (mode, cache) = (Mode::Transpose, Cache::Contiguous);
            all.push(Variant { head_dim, mode, interleaved: false, cache });
        }
        all
    }

    fn source(v: Variant) -> Source {
        let body = wgsl!("attn/qk_norm_rope.wgsl");
        match v.mode {
            Mode::Transpose => Source::new(body, workgroup(v.head_dim))
                .with(wgsl!("attn/head_copy.wgsl"))
                .constant("HEAD_DIM", v.head_dim),
            Mode::NormRope | Mode::Rope => {
                let norm = v.mode == Mode::NormRope;
                v.cache.positions(turning(body, v.head_dim, norm, v.interleaved))
            }
        }
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let (hd, heads) = (v.head_dim as usize, p.heads as usize);
        let turn = Turn { norm: host.norm, eps: p.eps, interleaved: v.interleaved, rotations: host.rotations };
        for (i, head) in host.x.chunks_exact(hd).take(p.rows as usize * heads).enumerate() {
            let (row, to) = (i / heads, i % heads * p.rows as usize + i / heads);
            let head = rounded(&moved(v, p, &turn, host.positions, row, head));
            host.y[to * hd..][..hd].copy_from_slice(&head);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (hd, heads) = (v.head_dim as usize, p.heads as usize);
        let turn = Turn { norm: before.norm, eps: p.eps, interleaved: v.interleaved, rotations: before.rotations };
        let mut y = Expect::unchanged(before.y);
        for (i, head) in before.x.chunks_exact(hd).take(p.rows as usize * heads).enumerate() {
            let (row, to) = (i / heads, i % heads * p.rows as usize + i / heads);
            y[to * hd..][..hd].copy_from_slice(&moved(v, p, &turn, before.positions, row, head));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        test_shapes(v.head_dim).into_iter().map(|(heads, _, rows)| case(v, heads, rows)).collect()
    }
}

/// A head as it leaves the kernel, exactly, each element with its bound.
fn moved(v: Variant, p: &Params, turn: &Turn<'_>, positions: &[u32], row: usize, head: &[f32]) -> Vec<(f64, f64)> {
    let head = head.iter().map(|x| f64::from(*x));
    match v.mode {
        Mode::Transpose => head.map(|x| (x, 0.0)).collect(),
        Mode::NormRope | Mode::Rope => turn.turn(head.collect(), v.cache.position(positions, p.capacity, row)),
    }
}

fn case(v: Variant, heads: u32, rows: u32) -> Case<QkNormRope> {
    let (capacity, hd) = (9, v.head_dim);
    let p = Params { rows, heads, capacity, eps: 1e-6 };
    let mut rng = Rng::new(u64::from(hd) + 2);
    let x = random(&mut rng, rows * heads * hd);
    let norm = if v.mode == Mode::NormRope { random(&mut rng, hd) } else { Vec::new() };
    let rotations = test_rotations(capacity, hd);
    let positions = test_positions(v.cache, rows);
    // A head more than there are, which must stay as it is.
    let y = vec![f32::NAN; ((heads * rows + 1) * hd) as usize];
    Case::of_reference(format!("{rows} tokens, {heads} heads"), v, p, Data { x, norm, rotations, positions, y })
}
