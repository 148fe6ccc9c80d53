//! Heads of projections: bias, QK-norm and RoPE in f64, and the slots `qkv` and `head`.

use super::{HEAD_WORKGROUP, MAX_HEAD_DIM, kv_index::test_rows};
use crate::{
    gpu::{Fragment, Source, param_group, wgsl},
    quant::Rng,
};

param_group! {
    /// Heads with QK-norm or RoPE.
    pub struct RopeHead {
        /// Elements of a head: a multiple of four, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
        head_dim: u32,
        /// What QK-norm adds to the mean square.
        eps: f32,
    }
}

/// Fills the slot `qkv`.
pub(super) fn qkv_fragment(bias: bool) -> Fragment {
    if bias { wgsl!("attn/qkv_biased.wgsl") } else { wgsl!("attn/qkv_plain.wgsl") }
}

/// Returns a source with the slot `head` filled by copying, a workgroup a head.
pub(super) fn copy_source(body: Fragment) -> Source {
    Source::new(body, HEAD_WORKGROUP).with(wgsl!("attn/head_copy.wgsl")).constant("MAX_HEAD_DIM", MAX_HEAD_DIM)
}

/// Returns a source with the slot `head` filled by QK-norm, unless there is none, and RoPE, a workgroup a head.
pub(super) fn rope_source(body: Fragment, norm: bool, interleaved: bool) -> Source {
    Source::new(body, HEAD_WORKGROUP)
        .with(wgsl!("kv/position.wgsl"))
        .with(wgsl!("attn/rope.wgsl"))
        .with(wgsl!("attn/head_vec4.wgsl"))
        .with(wgsl!("attn/head_rope.wgsl"))
        .with(if norm { wgsl!("attn/head_norm.wgsl") } else { wgsl!("attn/head_plain.wgsl") })
        .constant("MAX_HEAD_DIM", MAX_HEAD_DIM)
        .constant("INTERLEAVED", interleaved)
}

/// QK-norm and RoPE (Su et al. 2021, arXiv:2104.09864) of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rope<'a> {
    /// The norm's weights, empty for none.
    pub(super) norm: &'a [f32],
    pub(super) eps: f32,
    /// Pairs are `(2i, 2i + 1)` rather than `(i, i + HD/2)`.
    pub(super) interleaved: bool,
    /// Cosine and sine of every position's angles.
    pub(super) rotations: &'a [[f32; 2]],
}

impl Rope<'_> {
    /// Returns a head at a position after norm and rotation, each element with its bound: 3e-6 of the length of its
    /// pair.
    pub(super) fn apply(&self, mut head: Vec<f64>, position: u32) -> Vec<(f64, f64)> {
        let hd = head.len();
        if !self.norm.is_empty() {
            let mean = head.iter().map(|v| v * v).sum::<f64>() / hd as f64;
            let scale = 1.0 / (mean + f64::from(self.eps)).sqrt();
            head.iter_mut().zip(self.norm).for_each(|(v, w)| *v *= scale * f64::from(*w));
        }
        let mut rotated = vec![(0.0, 0.0); hd];
        for (i, angle) in self.rotations[position as usize * hd / 2..][..hd / 2].iter().enumerate() {
            let (first, second) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + hd / 2) };
            let (a, b) = (head[first], head[second]);
            let [cos, sin] = angle.map(f64::from);
            let bound = 3e-6 * a.hypot(b);
            (rotated[first], rotated[second]) = ((a * cos - b * sin, bound), (b * cos + a * sin, bound));
        }
        rotated
    }
}

/// Rows of projections.
#[derive(Clone, Copy, Debug)]
pub(super) struct QkvRows<'a> {
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) rows: &'a [f32],
    /// Empty for none.
    pub(super) bias: &'a [f32],
    /// The norm has the queries' weights, then the keys'.
    pub(super) rope: Rope<'a>,
}

/// What a head of a row of projections is, and its number among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadRole {
    Query(u32),
    Key(u32),
    Value(u32),
}

impl QkvRows<'_> {
    /// Returns the heads of a row at a position after bias, norm and rotation, each element with its bound.
    pub(super) fn heads(&self, row: usize, position: u32) -> impl Iterator<Item = (HeadRole, Vec<(f64, f64)>)> {
        let hd = self.head_dim as usize;
        let width = (self.heads + 2 * self.kv_heads) as usize * hd;
        let heads = self.rows[row * width..][..width].chunks_exact(hd);
        heads.enumerate().map(move |(number, head)| {
            let bias = |i| self.bias.get(number * hd + i).copied().unwrap_or_default();
            let terms = head.iter().enumerate().map(|(i, x)| (f64::from(*x), f64::from(bias(i))));
            let number = number as u32;
            let norm = |first: usize| self.rope.norm.get(first..first + hd).unwrap_or_default();
            let rotated =
                |norm| Rope { norm, ..self.rope }.apply(terms.clone().map(|(x, b)| x + b).collect(), position);
            if number < self.heads {
                (HeadRole::Query(number), rotated(norm(0)))
            } else if number < self.heads + self.kv_heads {
                (HeadRole::Key(number - self.heads), rotated(norm(hd)))
            } else {
                let values = terms.map(|(x, b)| (x + b, bias_bound(x, b)));
                (HeadRole::Value(number - self.heads - self.kv_heads), values.collect())
            }
        })
    }
}

/// Returns the bound of a value with its bias: `1e-6 · (|x| + |bias|)`; 0 without a bias.
pub(super) fn bias_bound(x: f64, bias: f64) -> f64 {
    if bias == 0.0 { 0.0 } else { 1e-6 * (x.abs() + bias.abs()) }
}

/// Returns exact values as a kernel stores them.
pub(super) fn rounded(head: &[(f64, f64)]) -> Vec<f32> {
    head.iter().map(|(exact, _)| *exact as f32).collect()
}

/// Returns random numbers for a test.
pub(super) fn random(rng: &mut Rng, count: u32) -> Vec<f32> {
    (0..count).map(|_| rng.normal()).collect()
}

/// Returns cosines and sines for a test.
pub(super) fn test_rotations(capacity: u32, head_dim: u32) -> Vec<[f32; 2]> {
    (0..capacity * head_dim / 2)
        .map(|i| {
            let (sin, cos) = (f64::from(i) * 0.37).sin_cos();
            [cos as f32, sin as f32]
        })
        .collect()
}

/// Returns projections of `heads` heads in all, bias and norms for a test.
pub(super) fn test_qkv(rows: u32, heads: u32, head_dim: u32, bias: bool, norm: bool) -> [Vec<f32>; 3] {
    let mut rng = Rng::new(u64::from(head_dim));
    let width = heads * head_dim;
    [rows * width, if bias { width } else { 0 }, if norm { 2 * head_dim } else { 0 }]
        .map(|count| random(&mut rng, count))
}

/// The heads and rows of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct TestShape {
    pub(super) head_dim: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) rows: u32,
}

impl TestShape {
    /// Returns a name for the case.
    pub(super) fn name(&self) -> String {
        format!("{} tokens, {} heads of {}", self.rows, self.heads, self.head_dim)
    }
}

/// The shapes of cases: every head size of published models, the smallest sizes, and the largest, with one to eight
/// query heads for each key head.
pub(super) const TEST_SHAPES: [TestShape; 11] = {
    const fn shape(head_dim: u32, heads: u32, kv_heads: u32, rows: u32) -> TestShape {
        TestShape { head_dim, heads, kv_heads, rows }
    }
    [
        shape(4, 2, 1, 2),
        shape(20, 4, 2, 3),
        // SmolLM2-135M.
        shape(64, 9, 3, 4),
        shape(80, 4, 2, 3),
        shape(96, 2, 2, 3),
        shape(112, 7, 1, 2),
        // Llama-3.2-3B, Qwen3-30B-A3B.
        shape(128, 24, 8, 2),
        shape(128, 32, 4, 5),
        shape(192, 4, 1, 2),
        shape(256, 4, 2, 3),
        shape(MAX_HEAD_DIM, 2, 1, 2),
    ]
};

/// Returns `positions` of a test with nine positions: the last is out of range, which means the last of the cache.
pub(super) fn test_positions(rows: u32) -> Vec<u32> {
    let mut positions = [4, 0, 5, 3].repeat(rows as usize);
    positions.truncate(rows as usize - 1);
    positions.push(77);
    test_rows(&positions)
}
