//! Token-major heads to head-major ones, with norm and RoPE.

use super::{
    RopeHead,
    heads::{Rope, TEST_SHAPES, TestShape, copy_source, random, rope_source, rounded, test_positions, test_rotations},
    kv_index::position_of,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `y[h, t] = x[t, h]`, by mode with RMS norm by `norm` and rotated by the angles of the row's position.
    ///
    /// Shapes: `x` `[rows, heads, HD]` f32; `norm` `[HD]`; `rotations` `[capacity, HD/2]` of (cos, sin); `positions`
    /// `[rows, 2]` with each row's position (clamped to the capacity) and sequence; `y` `[heads, rows, HD]`. Bound:
    /// 3e-6 of the length of the rotated pair; a transposition is exact. Measured worst on lavapipe: 0.1 of it.
    pub struct QkNormRope("attn/qk_norm_rope") for Mode;
    params {
        /// Tokens.
        rows: u32,
        /// Heads.
        heads: u32,
        /// Positions that have angles.
        capacity: u32,
        /// The heads.
        head: RopeHead,
    }
    binds {
        /// The heads of each token.
        x: read [f32],
        /// The norm's weights.
        norm: read [f32] if |mode| *mode == Mode::NormRope,
        /// Cosines and sines.
        rotations: read [[f32; 2]] if |mode| *mode != Mode::Transpose,
        /// Each row's position and sequence.
        positions: read [u32] if |mode| *mode != Mode::Transpose,
        /// The tokens of each head.
        y: write [f32],
    }
}

/// What is done to a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is only transposed: values.
    Transpose,
    /// Norm, and RoPE of the pairs `(i, i + HD/2)`: queries and keys of Qwen3.
    NormRope,
    /// RoPE of the pairs `(2i, 2i + 1)`: queries and keys of Llama GGUFs.
    RopeInterleaved,
    /// RoPE of the pairs `(i, i + HD/2)`: queries and keys of Qwen2.
    Rope,
}

impl Kernel for QkNormRope {
    fn supported(_: &Caps) -> Vec<Mode> {
        vec![Mode::Transpose, Mode::NormRope, Mode::RopeInterleaved, Mode::Rope]
    }

    fn source(mode: Mode) -> Source {
        let body = wgsl!("attn/qk_norm_rope.wgsl");
        match mode {
            Mode::Transpose => copy_source(body),
            Mode::NormRope => rope_source(body, true, false),
            Mode::RopeInterleaved => rope_source(body, false, true),
            Mode::Rope => rope_source(body, false, false),
        }
    }

    fn grid(_: Mode, p: &Params) -> Grid {
        Grid { x: p.heads, y: p.rows }
    }

    fn cpu(mode: Mode, p: &Params, host: Host<'_>) {
        let (hd, heads) = (p.head.head_dim as usize, p.heads as usize);
        let rope = rope(mode, p, host.norm, host.rotations);
        for (i, head) in host.x.chunks_exact(hd).take(p.rows as usize * heads).enumerate() {
            let (row, to) = (i / heads, i % heads * p.rows as usize + i / heads);
            let head = rounded(&moved(mode, p, &rope, host.positions, row, head));
            host.y[to * hd..][..hd].copy_from_slice(&head);
        }
    }

    fn reference(mode: Mode, p: &Params, before: Host<'_>) -> Option<Expected> {
        let (hd, heads) = (p.head.head_dim as usize, p.heads as usize);
        let rope = rope(mode, p, before.norm, before.rotations);
        let mut y = Expect::unchanged(before.y);
        for (i, head) in before.x.chunks_exact(hd).take(p.rows as usize * heads).enumerate() {
            let (row, to) = (i / heads, i % heads * p.rows as usize + i / heads);
            y[to * hd..][..hd].copy_from_slice(&moved(mode, p, &rope, before.positions, row, head));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(mode: Mode) -> Vec<Case<Self>> {
        TEST_SHAPES.into_iter().map(|shape| case(mode, shape)).collect()
    }
}

/// Returns a dispatch's norm and RoPE.
fn rope<'a>(mode: Mode, p: &Params, norm: &'a [f32], rotations: &'a [[f32; 2]]) -> Rope<'a> {
    Rope { norm, eps: p.head.eps, interleaved: mode == Mode::RopeInterleaved, rotations }
}

/// Returns a head as it leaves the kernel, each element with its bound.
fn moved(mode: Mode, p: &Params, rope: &Rope<'_>, positions: &[u32], row: usize, head: &[f32]) -> Vec<(f64, f64)> {
    let head = head.iter().map(|x| f64::from(*x));
    match mode {
        Mode::Transpose => head.map(|x| (x, 0.0)).collect(),
        Mode::NormRope | Mode::RopeInterleaved | Mode::Rope => {
            rope.apply(head.collect(), position_of(positions, p.capacity, row))
        }
    }
}

fn case(mode: Mode, shape: TestShape) -> Case<QkNormRope> {
    let (capacity, TestShape { head_dim, heads, rows, .. }) = (9, shape);
    let p = Params { rows, heads, capacity, head: RopeHead { head_dim, eps: 1e-6 } };
    let mut rng = Rng::new(u64::from(head_dim) + 2);
    let x = random(&mut rng, rows * heads * head_dim);
    let norm = if mode == Mode::NormRope { random(&mut rng, head_dim) } else { Vec::new() };
    let rotations = test_rotations(capacity, head_dim);
    let positions = test_positions(rows);
    // A head more than there are, which must stay as it is.
    let y = vec![f32::NAN; ((heads * rows + 1) * head_dim) as usize];
    Case::of_reference(shape.name(), mode, p, Data { x, norm, rotations, positions, y })
}
