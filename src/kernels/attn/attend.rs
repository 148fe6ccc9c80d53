//! Attention of one head in f64: what the kernels' twins compute and their cases expect.

use std::ops::Range;

use super::cache::{Layout, Places, Side};
use crate::kernels::KvType;

/// Keys of a chunk, over which a long context is split.
pub const CHUNK: u32 = 256;

/// The keys that the last of `context` tokens sees: all, or those of a sliding window (0: none).
pub(super) fn seen(context: u32, window: u32) -> Range<u32> {
    if window == 0 { 0..context } else { context.saturating_sub(window)..context }
}

/// A cache and how it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a> {
    pub(super) layout: Layout,
    pub(super) at: Places<'a>,
    pub(super) kv: KvType,
    pub(super) words: &'a [u32],
    pub(super) scale: f32,
}

/// Softmax sums of one query head over some keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Attended {
    /// The largest score.
    pub(super) largest: f64,
    /// `Σ exp(score − largest)`.
    pub(super) mass: f64,
    /// The same sum times each element of the values, and times its size.
    pub(super) values: Vec<(f64, f64)>,
    /// The largest `Σ|q·k|·scale` of a key.
    pub(super) terms: f64,
}

impl Keys<'_> {
    /// Attends from head `q` of a row to the keys at `positions`.
    pub(super) fn attend(&self, row: usize, kv_head: u32, q: &[f32], positions: Range<u32>) -> Attended {
        let packing = self.kv.packing(q.len() as u32);
        let head =
            |side, position| packing.unpacked(self.words, self.layout.head(&self.at, side, row, kv_head, position));
        let mut terms: f64 = 0.0;
        let scores: Vec<f64> = positions
            .clone()
            .map(|position| {
                let (mut score, mut sizes) = (0.0, 0.0);
                for (q, k) in q.iter().zip(head(Side::Key, position)) {
                    let product = f64::from(*q) * k;
                    score += product;
                    sizes += product.abs();
                }
                terms = terms.max(sizes * f64::from(self.scale));
                score * f64::from(self.scale)
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut attended = Attended { largest, mass: 0.0, values: vec![(0.0, 0.0); q.len()], terms };
        for (score, position) in scores.iter().zip(positions) {
            let weight = (score - largest).exp();
            attended.mass += weight;
            for (sum, value) in attended.values.iter_mut().zip(head(Side::Value, position)) {
                sum.0 += weight * value;
                sum.1 += weight * value.abs();
            }
        }
        attended
    }
}

impl Attended {
    /// The bound's share: scores are sums too, and their errors are weights' relative errors.
    pub(super) fn share(&self) -> f64 {
        2e-5 + self.terms / f64::from(1 << 22)
    }

    /// The attended values, each with its bound.
    pub(super) fn normalised(&self) -> impl Iterator<Item = (f64, f64)> {
        let share = self.share();
        self.values.iter().map(move |(sum, size)| (sum / self.mass, share * size / self.mass))
    }

    /// The sums, the largest score and the mass, each with its bound, and two zeros.
    pub(super) fn unnormalised(&self) -> impl Iterator<Item = (f64, f64)> {
        let share = self.share();
        let sums = self.values.iter().map(move |(sum, size)| (*sum, share * size));
        let ends =
            [(self.largest, self.terms / f64::from(1 << 22)), (self.mass, share * self.mass), (0.0, 0.0), (0.0, 0.0)];
        sums.chain(ends)
    }

    /// The sums, the largest score and the mass as they are stored.
    pub(super) fn rounded(&self) -> Vec<f32> {
        self.unnormalised().map(|(exact, _)| exact as f32).collect()
    }
}
