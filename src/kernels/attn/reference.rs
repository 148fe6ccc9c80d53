//! Attention of one query head in f64: what CPU kernels compute and cases expect.

use std::ops::Range;

use super::{
    KvIndex,
    kv_index::{KvKind, KvTables},
};
use crate::kernels::KvType;

/// The keys of a chunk: long contexts are split into them (Flash-Decoding), and online softmax goes from one to the
/// next.
pub const CHUNK: u32 = 256;

/// Returns the keys that the last of `context` tokens sees: all, or those of a sliding window (0: none).
pub(super) fn visible_keys(context: u32, window: u32) -> Range<u32> {
    if window == 0 { 0..context } else { context.saturating_sub(window)..context }
}

/// Returns those of them that are in a chunk.
pub(super) fn keys_of_chunk(chunk: u32, context: u32, window: u32) -> Range<u32> {
    let all = visible_keys(context, window);
    all.start.max(chunk * CHUNK)..all.end.min((chunk + 1) * CHUNK)
}

/// A cache and how it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvReader<'a> {
    pub(super) index: KvIndex,
    pub(super) tables: KvTables<'a>,
    pub(super) kv: KvType,
    pub(super) words: &'a [u32],
    pub(super) scale: f32,
}

/// The softmax sums of one query head over some keys.
#[derive(Clone, Debug, Default)]
pub(super) struct SoftmaxSums {
    /// The largest score.
    pub(super) row_max: f64,
    /// `Σ exp(score − row_max)`.
    pub(super) exp_sum: f64,
    /// For each element of the values, `Σ exp(score − row_max) · v`, and the same of `|v|`.
    pub(super) values: Vec<(f64, f64)>,
    /// The largest `Σ|q·k| · scale` of a key.
    pub(super) score_terms: f64,
    /// What inexact inputs add to the errors of the row maximum, of the sum of exponentials, of each element.
    input_errors: (f64, f64, Vec<f64>),
}

/// The errors that the inputs of one query head may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputError<'a> {
    /// Of each element of the query.
    pub(super) query: &'a [f64],
    /// Of each element of the key at the row's own position.
    pub(super) key: &'a [f64],
    /// Of each element of the value there.
    pub(super) value: &'a [f64],
}

impl KvReader<'_> {
    /// Attends from query head `q` of a row to the keys at `positions`.
    pub(super) fn attend(&self, row: usize, kv_head: u32, q: &[f32], positions: Range<u32>) -> SoftmaxSums {
        self.attend_inexact(row, kv_head, q, positions, None)
    }

    /// Attends with inputs that have errors.
    pub(super) fn attend_inexact(
        &self,
        row: usize,
        kv_head: u32,
        q: &[f32],
        positions: Range<u32>,
        errors: Option<InputError<'_>>,
    ) -> SoftmaxSums {
        let current = self.index.position(&self.tables, row);
        let packing = self.kv.packing(q.len() as u32);
        let mut numbers = vec![0.0; q.len()];
        let unpack = |kind, position, numbers: &mut [f64]| {
            packing.unpack_block(self.words, self.index.head(&self.tables, kind, row, kv_head, position), numbers);
        };
        let mut score_terms: f64 = 0.0;
        // Each score and its error.
        let scores: Vec<(f64, f64)> = positions
            .clone()
            .map(|position| {
                let (mut score, mut sizes, mut error) = (0.0, 0.0, 0.0);
                unpack(KvKind::Key, position, &mut numbers);
                for (i, (q, k)) in q.iter().zip(&numbers).enumerate() {
                    let product = f64::from(*q) * k;
                    score += product;
                    sizes += product.abs();
                    if let Some(errors) = errors {
                        let key = if position == current { errors.key[i] } else { 0.0 };
                        error += errors.query[i] * (k.abs() + key) + f64::from(q.abs()) * key;
                    }
                }
                let scale = f64::from(self.scale);
                score_terms = score_terms.max(sizes * scale);
                (score * scale, error * scale)
            })
            .collect();
        let row_max = scores.iter().map(|(score, _)| *score).fold(f64::NEG_INFINITY, f64::max);
        let max_error = scores.iter().map(|(_, error)| *error).fold(0.0, f64::max);
        let mut sums = SoftmaxSums {
            row_max,
            exp_sum: 0.0,
            values: vec![(0.0, 0.0); q.len()],
            score_terms,
            input_errors: (max_error, 0.0, vec![0.0; q.len()]),
        };
        for ((score, error), position) in scores.iter().zip(positions) {
            let weight = (score - row_max).exp();
            // Both the score and the row maximum may be off.
            let weight_error = weight * (error + max_error).exp_m1();
            sums.exp_sum += weight;
            sums.input_errors.1 += weight_error;
            unpack(KvKind::Value, position, &mut numbers);
            for (i, value) in numbers.iter().enumerate() {
                let sum = &mut sums.values[i];
                sum.0 += weight * value;
                sum.1 += weight * value.abs();
                let value_error = errors.filter(|_| position == current).map_or(0.0, |errors| errors.value[i]);
                sums.input_errors.2[i] += weight_error * (value.abs() + value_error) + weight * value_error;
            }
        }
        sums
    }

    /// Attends chunk by chunk, each chunk's sums rounded to f32 as the split-KV kernels store them, and combines them
    /// into `y`.
    pub(super) fn attend_by_chunks(
        &self,
        row: usize,
        kv_head: u32,
        q: &[f32],
        window: u32,
        sink: Option<f32>,
        y: &mut [f32],
    ) {
        let context = self.index.position(&self.tables, row) + 1;
        let chunks = (0..context.div_ceil(CHUNK)).map(|chunk| keys_of_chunk(chunk, context, window));
        let partials: Vec<_> = (chunks.filter(|positions| !positions.is_empty()))
            .map(|positions| self.attend(row, kv_head, q, positions).rounded())
            .collect();
        combine(&partials.iter().map(Vec::as_slice).collect::<Vec<_>>(), sink, y);
    }
}

impl SoftmaxSums {
    /// Returns the relative bound: scores are sums too, and their errors are relative errors of the weights.
    pub(super) fn relative_bound(&self) -> f64 {
        2e-5 + self.score_terms / f64::from(1 << 22)
    }

    /// Returns the attended values, each with its bound. The sink is a logit that takes part in the softmax.
    pub(super) fn normalised(&self, sink: Option<f32>) -> impl Iterator<Item = (f64, f64)> {
        let bound = self.relative_bound();
        let (_, of_exp_sum, of_values) = &self.input_errors;
        let denominator = self.exp_sum + sink.map_or(0.0, |sink| (f64::from(sink) - self.row_max).exp());
        self.values.iter().zip(of_values).map(move |((sum, size), of_value)| {
            let mean = sum / denominator;
            // The sum of exponentials may be too small as well as too large.
            let error = (of_value + mean.abs() * of_exp_sum) / (denominator - of_exp_sum).max(denominator / 8.0);
            (mean, bound * size / denominator + error)
        })
    }

    /// Returns the weighted values, the row maximum and the sum of exponentials, each with its bound, and two zeros.
    pub(super) fn unnormalised(&self) -> impl Iterator<Item = (f64, f64)> {
        let bound = self.relative_bound();
        let (of_row_max, of_exp_sum, of_values) = &self.input_errors;
        let sums = self.values.iter().zip(of_values).map(move |((sum, size), error)| (*sum, bound * size + error));
        let row_max = (self.row_max, self.score_terms / f64::from(1 << 22) + of_row_max);
        sums.chain([row_max, (self.exp_sum, bound * self.exp_sum + of_exp_sum), (0.0, 0.0), (0.0, 0.0)])
    }

    /// Returns the weighted values, the row maximum and the sum of exponentials as they are stored.
    pub(super) fn rounded(&self) -> Vec<f32> {
        self.unnormalised().map(|(exact, _)| exact as f32).collect()
    }
}

/// Returns attended values, the first of which is element `first` of the output, multiplied by the sigmoids of `gate`, each
/// with its bound: of the product `4e-6` more. An empty `gate` changes nothing.
pub(super) fn gated(values: &mut [(f64, f64)], gate: &[f32], first: usize) {
    for ((value, bound), gate) in values.iter_mut().zip(gate.iter().skip(first)) {
        let factor = 1.0 / (1.0 + (-f64::from(*gate)).exp());
        (*value, *bound) = (*value * factor, (*bound + 4e-6 * value.abs()) * factor + 1e-30);
    }
}

/// Multiplies attended values, the first of which is element `first` of the output, by the sigmoids of `gate`.
pub(super) fn apply_gate(values: &mut [f32], gate: &[f32], first: usize) {
    for (value, gate) in values.iter_mut().zip(gate.iter().skip(first)) {
        *value = (f64::from(*value) / (1.0 + (-f64::from(*gate)).exp())) as f32;
    }
}

/// Combines the partial sums of a query's chunks into `y`.
pub(super) fn combine(partials: &[&[f32]], sink: Option<f32>, y: &mut [f32]) {
    let values = combined(partials, sink, y.len());
    y.iter_mut().zip(values).for_each(|(y, (exact, _))| *y = exact as f32);
}

/// Returns the attended values of a head of `hd` elements from the partial sums of its chunks, each with its bound.
pub(super) fn combined(partials: &[&[f32]], sink: Option<f32>, hd: usize) -> Vec<(f64, f64)> {
    let sink = sink.map_or(f64::NEG_INFINITY, f64::from);
    let row_max = partials.iter().map(|partial| f64::from(partial[hd])).fold(sink, f64::max);
    let terms = |element: usize| {
        partials.iter().map(move |partial| (f64::from(partial[hd]) - row_max).exp() * f64::from(partial[element]))
    };
    let exp_sum = terms(hd + 1).sum::<f64>() + (sink - row_max).exp();
    let value =
        |element| (terms(element).sum::<f64>() / exp_sum, 2e-5 * terms(element).map(f64::abs).sum::<f64>() / exp_sum);
    (0..hd).map(value).collect()
}
