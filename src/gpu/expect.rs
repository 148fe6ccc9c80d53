//! Expected contents of buffers, with their error bounds.

use std::{collections::BTreeMap, fmt};

/// The expected contents of a written buffer.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Floats: exact values in f64, each with its error bound.
    Near(Vec<(f64, f64)>),
    /// Floats with an additional bound on the normalised mean squared error, `Σ(found − exact)² ≤ nmse · Σ exact²`, over the
    /// elements with a bound above 0: for coarse but unbiased rounding.
    NearInMean {
        /// The exact values, each with its error bound.
        values: Vec<(f64, f64)>,
        /// The bound on the normalised mean squared error.
        nmse: f64,
    },
    /// Packed numbers, judged as [`Near`](Self::Near).
    Packed {
        /// The format.
        packing: Packing,
        /// What the buffer held before. Blocks that are not written keep their numbers.
        before: Vec<u32>,
        /// The numbers of each written block.
        written: BTreeMap<usize, Vec<(f64, f64)>>,
    },
    /// Words, exactly.
    Exact(Vec<u32>),
}

/// A format of numbers in a buffer that are not f32, in blocks of a fixed number of words.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// Numbers per block.
    pub numbers: usize,
    /// Words per block.
    pub words: usize,
    /// Rounds the numbers of a block to its words.
    pub pack: fn(&[f64], &mut [u32]),
    /// Decodes the words of a block.
    pub unpack: fn(&[u32], &mut [f64]),
}

impl Packing {
    /// Decodes a block of a buffer.
    pub(crate) fn unpacked(&self, buffer: &[u32], block: usize) -> Vec<f64> {
        let mut numbers = vec![0.0; self.numbers];
        self.unpack_block(buffer, block, &mut numbers);
        numbers
    }

    /// Decodes a block of a buffer to `numbers`.
    pub(crate) fn unpack_block(&self, buffer: &[u32], block: usize, numbers: &mut [f64]) {
        (self.unpack)(&buffer[block * self.words..][..self.words], numbers);
    }

    /// Encodes numbers as a block of a buffer.
    pub(crate) fn repack(&self, buffer: &mut [u32], block: usize, numbers: &[f64]) {
        (self.pack)(numbers, &mut buffer[block * self.words..][..self.words]);
    }
}

/// A value that differs from the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// `|found − exact| / bound`: a failure above 1. Infinite for a NaN.
    pub error_ratio: f64,
    /// The index of the element.
    pub index: usize,
    /// The value found.
    pub found: f64,
    /// The exact value.
    pub exact: f64,
    /// The error bound.
    pub bound: f64,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, found, exact, bound, .. } = self;
        write!(f, "[{index}] is {found}, not {exact} ± {bound:.1e}")
    }
}

impl Deviation {
    /// Replaces the error ratio with that of the mean, `√(Σ(found − exact)² / (nmse · Σ exact²))`, if that is larger.
    fn or_in_mean(self, values: &[(f64, f64)], words: &[u32], nmse: f64) -> Self {
        let (mut errors, mut squares) = (0.0, 0.0);
        for ((exact, bound), word) in values.iter().zip(words) {
            if *bound > 0.0 {
                errors += (f64::from(f32::from_bits(*word)) - exact).powi(2);
                squares += exact.powi(2);
            }
        }
        // Not finite if all exact values are 0.
        let error_ratio = (errors / (nmse * squares)).sqrt();
        if error_ratio.is_finite() && error_ratio > self.error_ratio {
            return Self { error_ratio, bound: (self.found - self.exact).abs() / error_ratio, ..self };
        }
        self
    }
}

impl Expect {
    /// Returns floats with error bound 0, for a reference to overwrite those that change.
    pub fn unchanged(values: &[f32]) -> Vec<(f64, f64)> {
        values.iter().map(|v| (f64::from(*v), 0.0)).collect()
    }

    /// Returns the expected contents for kernels without a bound, from the CPU kernel's result `after` on a buffer that held
    /// `before`. The bound of a float is `1e-3 · (|x| + RMS of the floats written)`; other words are exact. This detects a
    /// wrong index, sign or factor, but not a wrong rounding.
    pub fn near_cpu_kernel(element: &str, before: &[u32], after: &[u32]) -> Self {
        if !element.contains("f32") {
            return Self::Exact(after.to_vec());
        }
        let value = |word: u32| f64::from(f32::from_bits(word));
        let (mut squares, mut count) = (0.0, 0u32);
        for (_, after) in before.iter().zip(after).filter(|(before, after)| before != after) {
            if value(*after).is_finite() {
                squares += value(*after) * value(*after);
                count += 1;
            }
        }
        let floor = 1e-3 * (squares / f64::from(count.max(1))).sqrt() + f64::from(f32::MIN_POSITIVE);
        Self::Near(after.iter().map(|word| (value(*word), 1e-3 * value(*word).abs() + floor)).collect())
    }

    /// Returns the exact values, rounded to the buffer's format.
    pub fn words(&self) -> Vec<u32> {
        match self {
            Self::Near(values) | Self::NearInMean { values, .. } => {
                values.iter().map(|(exact, _)| (*exact as f32).to_bits()).collect()
            }
            Self::Packed { packing, before, written } => {
                let mut words = before.clone();
                for (block, numbers) in written {
                    let exact: Vec<f64> = numbers.iter().map(|(exact, _)| *exact).collect();
                    packing.repack(&mut words, *block, &exact);
                }
                words
            }
            Self::Exact(words) => words.clone(),
        }
    }

    /// Returns the element with the largest error ratio; `None` without elements. A wrong number of words is an infinite
    /// deviation at the first word that is missing or surplus.
    pub fn worst(&self, words: &[u32]) -> Option<Deviation> {
        let mut worst: Option<Deviation> = None;
        let mut see = |index, found: f64, exact: f64, bound: f64| {
            let error_ratio = if found == exact || (found.is_nan() && exact.is_nan()) {
                0.0
            } else {
                let ratio = (found - exact).abs() / bound;
                if ratio.is_nan() { f64::INFINITY } else { ratio }
            };
            if worst.is_none_or(|worst| error_ratio > worst.error_ratio) {
                worst = Some(Deviation { error_ratio, index, found, exact, bound });
            }
        };
        let wanted = match self {
            Self::Near(values) | Self::NearInMean { values, .. } => {
                for (i, ((exact, bound), word)) in values.iter().zip(words).enumerate() {
                    see(i, f64::from(f32::from_bits(*word)), *exact, *bound);
                }
                values.len()
            }
            Self::Packed { packing, before, written } => {
                for (block, (found, kept)) in
                    words.chunks_exact(packing.words).zip(before.chunks_exact(packing.words)).enumerate()
                {
                    let kept_numbers: Vec<_>;
                    let numbers = match written.get(&block) {
                        Some(numbers) => numbers,
                        None if found == kept => continue,
                        None => {
                            kept_numbers =
                                packing.unpacked(before, block).iter().map(|number| (*number, 0.0)).collect();
                            &kept_numbers
                        }
                    };
                    for (i, ((exact, bound), found)) in numbers.iter().zip(packing.unpacked(words, block)).enumerate() {
                        see(block * packing.numbers + i, found, *exact, *bound);
                    }
                }
                before.len()
            }
            Self::Exact(values) => {
                for (i, (exact, word)) in values.iter().zip(words).enumerate() {
                    see(i, f64::from(*word), f64::from(*exact), 0.0);
                }
                values.len()
            }
        };
        if wanted == words.len() {
            return match self {
                Self::NearInMean { values, nmse } => worst.map(|worst| worst.or_in_mean(values, words, *nmse)),
                Self::Near(_) | Self::Packed { .. } | Self::Exact(_) => worst,
            };
        }
        let index = wanted.min(words.len());
        Some(Deviation { error_ratio: f64::INFINITY, index, found: f64::NAN, exact: f64::NAN, bound: 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    fn ratio(expect: &Expect, words: &[u32]) -> f64 {
        expect.worst(words).map_or(0.0, |worst| worst.error_ratio)
    }

    /// Integral hundredths, two per block.
    const HUNDREDTHS: Packing = Packing {
        numbers: 2,
        words: 2,
        pack: |numbers, words| words.iter_mut().zip(numbers).for_each(|(w, n)| *w = (n * 100.0).round() as i32 as u32),
        unpack: |words, numbers| numbers.iter_mut().zip(words).for_each(|(n, w)| *n = f64::from(*w as i32) / 100.0),
    };

    fn hundredths(before: &[u32], block: usize, numbers: &[(f64, f64)]) -> Expect {
        let written = BTreeMap::from([(block, numbers.to_vec())]);
        Expect::Packed { packing: HUNDREDTHS, before: before.to_vec(), written }
    }

    #[test]
    fn errors_are_measured_by_their_bounds() {
        let near = Expect::Near(vec![(1.0, 0.5), (-2.0, 0.0), (f64::NAN, 0.0)]);
        let worst = near.worst(&bits(&[1.25, -2.0, f32::NAN]));
        assert_eq!(worst, Some(Deviation { error_ratio: 0.5, index: 0, found: 1.25, exact: 1.0, bound: 0.5 }));
        for wrong in [&[1.0, -2.000_000_2, f32::NAN][..], &[1.0, -2.0, 0.0], &[f32::NAN, -2.0, f32::NAN], &[1.0]] {
            assert_eq!(ratio(&near, &bits(wrong)), f64::INFINITY, "{wrong:?}");
        }
        let mean = Expect::NearInMean { values: vec![(3.0, 0.1), (4.0, 0.1), (9.0, 0.0)], nmse: 1e-4 };
        // 0.03² + 0.04² = 1e-4 · (3² + 4²).
        assert!((ratio(&mean, &bits(&[3.03, 4.04, 9.0])) - 1.0).abs() < 1e-3);
        assert!((ratio(&mean, &bits(&[3.0, 4.08, 9.0])) - 1.6).abs() < 1e-3);
        assert!((ratio(&mean, &bits(&[3.0, 4.0, 9.0])) == 0.0));
        assert_eq!(ratio(&mean, &bits(&[f32::NAN, 4.0, 9.0])), f64::INFINITY);
        let nothing = Expect::NearInMean { values: vec![(0.0, 0.1)], nmse: 1e-4 };
        assert!((ratio(&nothing, &bits(&[0.05])) - 0.5).abs() < 1e-6);
        assert_eq!(ratio(&Expect::Near(vec![(f64::INFINITY, 1.0)]), &bits(&[f32::INFINITY])), 0.0);
        assert_eq!(ratio(&Expect::Near(vec![(1.0, f64::NAN)]), &bits(&[2.0])), f64::INFINITY);
        assert_eq!(ratio(&Expect::Exact(vec![3, 4]), &[3, 4]), 0.0);
        assert_eq!(ratio(&Expect::Exact(vec![3, 4]), &[3, 5]), f64::INFINITY);
        // The first block is kept, the second is written.
        let packed = hundredths(&[300, 400, 0, 0], 1, &[(1.0, 0.5), (-2.0, 0.0)]);
        assert_eq!(ratio(&packed, &[300, 400, 125, !199]), 0.5);
        for wrong in [&[300, 400, 100, !198][..], &[300, 401, 100, !199], &[300, 400], &[300, 400, 100]] {
            assert_eq!(ratio(&packed, wrong), f64::INFINITY, "{wrong:?}");
        }
    }

    #[test]
    fn exact_values_are_within_their_bounds() {
        for expect in [
            Expect::Near(vec![(0.1, 1e-8), (f64::NAN, 0.0)]),
            hundredths(&[7, 7, 7, 7], 0, &[(0.1, 0.0), (-3.0, 0.0)]),
            hundredths(&[7, 7, 7, 7], 1, &[(0.004, 0.004), (0.0, 0.0)]),
            Expect::Exact(vec![7, 8]),
        ] {
            assert!(ratio(&expect, &expect.words()) <= 1.0, "{expect:?}");
        }
    }

    #[test]
    fn without_a_bound_a_thousandth_is_allowed() {
        let (before, after) = (bits(&[0.0, 0.0, 5.0]), bits(&[1.0, -1.0, 5.0]));
        let near = Expect::near_cpu_kernel("vec4<f32>", &before, &after);
        assert!(ratio(&near, &bits(&[1.001, -0.999, 5.0])) < 1.0);
        for wrong in [[1.01, -1.0, 5.0], [-1.0, 1.0, 5.0], [1.0, -1.0, 0.0]] {
            assert!(ratio(&near, &bits(&wrong)) > 1.0, "{wrong:?}");
        }
        assert!(matches!(Expect::near_cpu_kernel("u32", &[1], &[2]), Expect::Exact(words) if words == [2]));
    }
}
