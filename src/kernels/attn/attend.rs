//! Attention of one head in f64: what the kernels' CPU kernels compute and their cases expect.

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
    /// What comes of inputs that are not exact: of the largest score, of the mass, of each element.
    drift: (f64, f64, Vec<f64>),
}

/// How far off inputs of attention may be, of one query head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Off<'a> {
    /// Each element of the query.
    pub(super) query: &'a [f64],
    /// Each element of the key at the row's own position.
    pub(super) key: &'a [f64],
    /// Each element of the value there.
    pub(super) value: &'a [f64],
}

impl Keys<'_> {
    /// Attends from head `q` of a row to the keys at `positions`.
    pub(super) fn attend(&self, row: usize, kv_head: u32, q: &[f32], positions: Range<u32>) -> Attended {
        self.attend_near(row, kv_head, q, positions, None)
    }

    /// The same of inputs that may be `off` by so much.
    pub(super) fn attend_near(
        &self,
        row: usize,
        kv_head: u32,
        q: &[f32],
        positions: Range<u32>,
        off: Option<Off<'_>>,
    ) -> Attended {
        let own = self.layout.position(&self.at, row);
        let packing = self.kv.packing(q.len() as u32);
        let head =
            |side, position| packing.unpacked(self.words, self.layout.head(&self.at, side, row, kv_head, position));
        let mut terms: f64 = 0.0;
        // Each score, and how far off it may be.
        let scores: Vec<(f64, f64)> = positions
            .clone()
            .map(|position| {
                let (mut score, mut sizes, mut drift) = (0.0, 0.0, 0.0);
                for (i, (q, k)) in q.iter().zip(head(Side::Key, position)).enumerate() {
                    let product = f64::from(*q) * k;
                    score += product;
                    sizes += product.abs();
                    if let Some(off) = off {
                        let key = if position == own { off.key[i] } else { 0.0 };
                        drift += off.query[i] * (k.abs() + key) + f64::from(q.abs()) * key;
                    }
                }
                let scale = f64::from(self.scale);
                terms = terms.max(sizes * scale);
                (score * scale, drift * scale)
            })
            .collect();
        let largest = scores.iter().map(|(score, _)| *score).fold(f64::NEG_INFINITY, f64::max);
        let most = scores.iter().map(|(_, drift)| *drift).fold(0.0, f64::max);
        let nothing = vec![(0.0, 0.0); q.len()];
        let mut attended =
            Attended { largest, mass: 0.0, values: nothing, terms, drift: (most, 0.0, vec![0.0; q.len()]) };
        for ((score, drift), position) in scores.iter().zip(positions) {
            let weight = (score - largest).exp();
            // The score may be off, and the largest.
            let more = weight * (drift + most).exp_m1();
            attended.mass += weight;
            attended.drift.1 += more;
            for (i, value) in head(Side::Value, position).into_iter().enumerate() {
                let sum = &mut attended.values[i];
                sum.0 += weight * value;
                sum.1 += weight * value.abs();
                let own = off.filter(|_| position == own).map_or(0.0, |off| off.value[i]);
                attended.drift.2[i] += more * (value.abs() + own) + weight * own;
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
        let (_, of_mass, of_sums) = &self.drift;
        self.values.iter().zip(of_sums).map(move |((sum, size), of_sum)| {
            let mean = sum / self.mass;
            // The mass may be as much smaller as it may be larger.
            let drift = (of_sum + mean.abs() * of_mass) / (self.mass - of_mass).max(self.mass / 8.0);
            (mean, share * size / self.mass + drift)
        })
    }

    /// The sums, the largest score and the mass, each with its bound, and two zeros.
    pub(super) fn unnormalised(&self) -> impl Iterator<Item = (f64, f64)> {
        let share = self.share();
        let (of_largest, of_mass, of_sums) = &self.drift;
        let sums = self.values.iter().zip(of_sums).map(move |((sum, size), of_sum)| (*sum, share * size + of_sum));
        let largest = (self.largest, self.terms / f64::from(1 << 22) + of_largest);
        sums.chain([largest, (self.mass, share * self.mass + of_mass), (0.0, 0.0), (0.0, 0.0)])
    }

    /// The sums, the largest score and the mass as they are stored.
    pub(super) fn rounded(&self) -> Vec<f32> {
        self.unnormalised().map(|(exact, _)| exact as f32).collect()
    }
}
