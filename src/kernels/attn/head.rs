//! A head on its way from the projections: bias, norm and RoPE in f64, and the `qkv` and `head` slots.

use super::{Cache, workgroup};
use crate::{
    gpu::{Fragment, Source, wgsl},
    quant::Rng,
};

/// Fills the `qkv` slot.
pub(super) fn qkv(bias: bool) -> Fragment {
    if bias { wgsl!("attn/qkv_biased.wgsl") } else { wgsl!("attn/qkv_plain.wgsl") }
}

/// A source for heads that are normed or not and turned, a workgroup each.
pub(super) fn turning(body: Fragment, head_dim: u32, norm: bool, interleaved: bool) -> Source {
    Source::new(body, workgroup(head_dim))
        .with(wgsl!("attn/turn.wgsl"))
        .with(wgsl!("attn/head_four.wgsl"))
        .with(wgsl!("attn/head_turn.wgsl"))
        .with(if norm { wgsl!("attn/head_norm.wgsl") } else { wgsl!("attn/head_plain.wgsl") })
        .constant("HEAD_DIM", head_dim)
        .constant("INTERLEAVED", interleaved)
}

/// What turns a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'a> {
    /// The norm's weights, empty for none.
    pub(super) norm: &'a [f32],
    pub(super) eps: f32,
    pub(super) interleaved: bool,
    /// Cosines and sines of all positions.
    pub(super) rotations: &'a [[f32; 2]],
}

impl Turn<'_> {
    /// A head after norm and RoPE, exactly, each element with its bound: 3e-6 of the length of its pair.
    pub(super) fn turn(&self, mut head: Vec<f64>, position: u32) -> Vec<(f64, f64)> {
        let hd = head.len();
        if !self.norm.is_empty() {
            let mean = head.iter().map(|v| v * v).sum::<f64>() / hd as f64;
            let scale = 1.0 / (mean + f64::from(self.eps)).sqrt();
            head.iter_mut().zip(self.norm).for_each(|(v, w)| *v *= scale * f64::from(*w));
        }
        let mut turned = vec![(0.0, 0.0); hd];
        for (i, angle) in self.rotations[position as usize * hd / 2..][..hd / 2].iter().enumerate() {
            let (first, second) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + hd / 2) };
            let (a, b) = (head[first], head[second]);
            let [cos, sin] = angle.map(f64::from);
            let bound = 3e-6 * a.hypot(b);
            (turned[first], turned[second]) = ((a * cos - b * sin, bound), (b * cos + a * sin, bound));
        }
        turned
    }
}

/// Rows of projections, and what becomes of their heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Qkv<'a> {
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) rows: &'a [f32],
    /// Empty for none.
    pub(super) bias: &'a [f32],
    pub(super) turn: Turn<'a>,
}

/// The [`Qkv`] of a kernel's variant, parameters and buffers.
macro_rules! projections {
    ($variant:expr, $params:expr, $buffers:expr) => {
        $crate::kernels::attn::head::Qkv {
            heads: $params.heads,
            kv_heads: $params.kv_heads,
            head_dim: $variant.head_dim,
            rows: &$buffers.qkv,
            bias: &$buffers.bias,
            turn: $crate::kernels::attn::head::Turn {
                norm: &$buffers.norm,
                eps: $params.eps,
                interleaved: $variant.interleaved,
                rotations: &$buffers.rotations,
            },
        }
    };
}
pub(super) use projections;

/// What a head of a row of projections is, and its number among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Query(u32),
    Key(u32),
    Value(u32),
}

impl Qkv<'_> {
    /// The heads of a row at a position as they leave the kernel, exactly, each element with its bound.
    pub(super) fn heads(&self, row: usize, position: u32) -> impl Iterator<Item = (Role, Vec<(f64, f64)>)> {
        let hd = self.head_dim as usize;
        let width = (self.heads + 2 * self.kv_heads) as usize * hd;
        let heads = self.rows[row * width..][..width].chunks_exact(hd);
        heads.enumerate().map(move |(number, head)| {
            let bias = |i| self.bias.get(number * hd + i).copied().unwrap_or_default();
            let terms = head.iter().enumerate().map(|(i, x)| (f64::from(*x), f64::from(bias(i))));
            let number = number as u32;
            let norm = |first: usize| self.turn.norm.get(first..first + hd).unwrap_or_default();
            let turn = |norm| Turn { norm, ..self.turn }.turn(terms.clone().map(|(x, b)| x + b).collect(), position);
            if number < self.heads {
                (Role::Query(number), turn(norm(0)))
            } else if number < self.heads + self.kv_heads {
                (Role::Key(number - self.heads), turn(norm(hd)))
            } else {
                let values = terms.map(|(x, b)| (x + b, biased(x, b)));
                (Role::Value(number - self.heads - self.kv_heads), values.collect())
            }
        })
    }
}

/// The bound on a value with its bias: 1e-6 of the terms; without one it is exact.
pub(super) fn biased(x: f64, bias: f64) -> f64 {
    if bias == 0.0 { 0.0 } else { 1e-6 * (x.abs() + bias.abs()) }
}

/// The exact values as a kernel stores them.
pub(super) fn rounded(head: &[(f64, f64)]) -> Vec<f32> {
    head.iter().map(|(exact, _)| *exact as f32).collect()
}

/// Random numbers for a test.
pub(super) fn random(rng: &mut Rng, count: u32) -> Vec<f32> {
    (0..count).map(|_| rng.normal()).collect()
}

/// Cosines and sines for a test.
pub(super) fn test_rotations(capacity: u32, head_dim: u32) -> Vec<[f32; 2]> {
    (0..capacity * head_dim / 2)
        .map(|i| {
            let (sin, cos) = (f64::from(i) * 0.37).sin_cos();
            [cos as f32, sin as f32]
        })
        .collect()
}

/// Projections, bias and norms of a test, of `heads` heads in all.
pub(super) fn test_rows(rows: u32, heads: u32, head_dim: u32, bias: bool, norm: bool) -> [Vec<f32>; 3] {
    let mut rng = Rng::new(u64::from(head_dim));
    let width = heads * head_dim;
    [rows * width, if bias { width } else { 0 }, if norm { 2 * head_dim } else { 0 }]
        .map(|count| random(&mut rng, count))
}

/// Query heads, key heads and tokens of the cases of a head dimension: a small one, and Qwen3-30B-A3B's.
pub(super) fn test_shapes(head_dim: u32) -> Vec<(u32, u32, u32)> {
    let mut shapes = vec![(4, 2, 3)];
    if head_dim == 128 {
        shapes.push((32, 4, 5));
    }
    shapes
}

/// The positions of a test's rows in a cache of nine slots: the last is out of range and becomes the last slot.
pub(super) fn test_positions(cache: Cache, rows: u32) -> Vec<u32> {
    let mut positions = [4, 0, 5, 3].repeat(rows as usize);
    positions.truncate(rows as usize - 1);
    positions.push(77);
    cache.rows(&positions)
}
