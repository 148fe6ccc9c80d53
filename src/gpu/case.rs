//! Test cases of kernels: inputs, and what must come out.

use std::fmt;

use super::{Data, Host, Kernel, host_slots};

/// One dispatch of `K` with its inputs and what it must compute.
#[derive(Debug)]
pub struct Case<K: Kernel> {
    /// What is special about it.
    pub name: String,
    /// The uniform parameters.
    pub params: K::Params,
    /// The buffers' contents before the dispatch.
    pub data: K::Data,
    /// What the written ones must hold after it.
    pub expected: K::Expected,
}

impl<K: Kernel> Case<K> {
    /// A case that expects what [`Kernel::expected`] makes of its inputs.
    pub fn of_reference(name: impl Into<String>, variant: K::Variant, params: K::Params, data: K::Data) -> Self {
        let mut words = data.words();
        let before = K::Host::bind(host_slots(&K::bindings(&variant), &mut words));
        // A case that expects nothing fails.
        let expected = K::reference(variant, &params, before).unwrap_or_default();
        Self { name: name.into(), params, data, expected }
    }
}

/// What a written buffer must hold.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Floats: the exact value in f64, and the largest allowed distance from it.
    Near(Vec<(f64, f64)>),
    /// The same, and of those that may be off at all the sum of squared distances is at most `nmse` of that of the exact
    /// values (normalised mean squared error): what is rounded much, but nowhere on purpose in one direction.
    NearInMean {
        /// The exact values, each with the largest allowed distance from it.
        values: Vec<(f64, f64)>,
        /// The largest allowed share.
        nmse: f64,
    },
    /// As [`Near`](Self::Near), of numbers that are packed.
    Packed(Packing, Vec<(f64, f64)>),
    /// Words, exactly.
    Exact(Vec<u32>),
}

/// How a buffer holds numbers that are not f32: in units of as many words each.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// Numbers of a unit.
    pub numbers: usize,
    /// Words of a unit.
    pub words: usize,
    /// Rounds the numbers of a unit to its words.
    pub pack: fn(&[f64], &mut [u32]),
    /// The numbers that the words of a unit stand for.
    pub unpack: fn(&[u32], &mut [f64]),
}

impl Packing {
    /// The numbers of a unit of a buffer.
    pub(crate) fn unpacked(&self, buffer: &[u32], unit: usize) -> Vec<f64> {
        let mut numbers = vec![0.0; self.numbers];
        (self.unpack)(&buffer[unit * self.words..][..self.words], &mut numbers);
        numbers
    }

    /// Puts numbers in a unit of a buffer.
    pub(crate) fn repack(&self, buffer: &mut [u32], unit: usize, numbers: &[f64]) {
        (self.pack)(numbers, &mut buffer[unit * self.words..][..self.words]);
    }
}

/// A value that was found in place of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// Its distance as a share of the bound: over 1 is a failure, and a NaN is infinitely wrong.
    pub share: f64,
    /// The element.
    pub index: usize,
    /// What is there.
    pub found: f64,
    /// What should be.
    pub exact: f64,
    /// The largest allowed distance.
    pub bound: f64,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, found, exact, bound, .. } = self;
        write!(f, "[{index}] is {found}, not {exact} ± {bound:.1e}")
    }
}

impl Deviation {
    /// This one, or where all distances together are a larger share of what is allowed in the mean, with that share: were
    /// each divided by it, they would just meet `nmse`.
    fn or_in_mean(self, values: &[(f64, f64)], words: &[u32], nmse: f64) -> Self {
        let (mut errors, mut squares) = (0.0, 0.0);
        for ((exact, bound), word) in values.iter().zip(words) {
            if *bound > 0.0 {
                errors += (f64::from(f32::from_bits(*word)) - exact).powi(2);
                squares += exact.powi(2);
            }
        }
        // Of no squares at all the bounds alone judge.
        let share = (errors / (nmse * squares)).sqrt();
        if share.is_finite() && share > self.share {
            return Self { share, bound: (self.found - self.exact).abs() / share, ..self };
        }
        self
    }
}

impl Expect {
    /// Floats that stay as they are, for a definition to overwrite those that do not.
    pub fn unchanged(values: &[f32]) -> Vec<(f64, f64)> {
        values.iter().map(|v| (f64::from(*v), 0.0)).collect()
    }

    /// What a buffer that held `before` must hold where the CPU kernel has left `after`, for kernels that give no bound: floats may
    /// be off by 1e-3 of their value and as much of the root mean square of those that the CPU kernel has written; other words are
    /// exact. A wrong index, sign or factor is seen so, a wrong rounding is not.
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

    /// The exact values, rounded to what the buffer holds.
    pub fn words(&self) -> Vec<u32> {
        match self {
            Self::Near(values) | Self::NearInMean { values, .. } => {
                values.iter().map(|(exact, _)| (*exact as f32).to_bits()).collect()
            }
            Self::Packed(packing, values) => {
                let units = values.chunks_exact(packing.numbers);
                let mut words = vec![0; units.len() * packing.words];
                for (i, unit) in units.enumerate() {
                    let exact: Vec<f64> = unit.iter().map(|(exact, _)| *exact).collect();
                    packing.repack(&mut words, i, &exact);
                }
                words
            }
            Self::Exact(words) => words.clone(),
        }
    }

    /// The element that deviates most; `None` if there are none.
    /// A wrong number of words is an infinite deviation at the first missing one.
    pub fn worst(&self, words: &[u32]) -> Option<Deviation> {
        let mut worst: Option<Deviation> = None;
        let mut see = |index, found: f64, exact: f64, bound: f64| {
            let share = if found == exact || (found.is_nan() && exact.is_nan()) {
                0.0
            } else {
                let share = (found - exact).abs() / bound;
                if share.is_nan() { f64::INFINITY } else { share }
            };
            if worst.is_none_or(|worst| share > worst.share) {
                worst = Some(Deviation { share, index, found, exact, bound });
            }
        };
        let wanted = match self {
            Self::Near(values) | Self::NearInMean { values, .. } => {
                for (i, ((exact, bound), word)) in values.iter().zip(words).enumerate() {
                    see(i, f64::from(f32::from_bits(*word)), *exact, *bound);
                }
                values.len()
            }
            Self::Packed(packing, values) => {
                let there = words.len() / packing.words;
                let found = (0..there).flat_map(|unit| packing.unpacked(words, unit));
                for (i, ((exact, bound), found)) in values.iter().zip(found).enumerate() {
                    see(i, found, *exact, *bound);
                }
                values.len() / packing.numbers * packing.words
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
                Self::Near(_) | Self::Packed(..) | Self::Exact(_) => worst,
            };
        }
        let index = wanted.min(words.len());
        Some(Deviation { share: f64::INFINITY, index, found: f64::NAN, exact: f64::NAN, bound: 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    fn share(expect: &Expect, words: &[u32]) -> f64 {
        expect.worst(words).map_or(0.0, |worst| worst.share)
    }

    /// Whole numbers of hundredths, two in a unit.
    const HUNDREDTHS: Packing = Packing {
        numbers: 2,
        words: 2,
        pack: |numbers, words| words.iter_mut().zip(numbers).for_each(|(w, n)| *w = (n * 100.0).round() as i32 as u32),
        unpack: |words, numbers| numbers.iter_mut().zip(words).for_each(|(n, w)| *n = f64::from(*w as i32) / 100.0),
    };

    #[test]
    fn errors_are_shares_of_their_bounds() {
        let near = Expect::Near(vec![(1.0, 0.5), (-2.0, 0.0), (f64::NAN, 0.0)]);
        let worst = near.worst(&bits(&[1.25, -2.0, f32::NAN]));
        assert_eq!(worst, Some(Deviation { share: 0.5, index: 0, found: 1.25, exact: 1.0, bound: 0.5 }));
        for wrong in [&[1.0, -2.000_000_2, f32::NAN][..], &[1.0, -2.0, 0.0], &[f32::NAN, -2.0, f32::NAN], &[1.0]] {
            assert_eq!(share(&near, &bits(wrong)), f64::INFINITY, "{wrong:?}");
        }
        let mean = Expect::NearInMean { values: vec![(3.0, 0.1), (4.0, 0.1), (9.0, 0.0)], nmse: 1e-4 };
        // Errors of a hundredth of what there is: 0.03² + 0.04² of 25.
        assert!((share(&mean, &bits(&[3.03, 4.04, 9.0])) - 1.0).abs() < 1e-3);
        assert!((share(&mean, &bits(&[3.0, 4.08, 9.0])) - 1.6).abs() < 1e-3);
        assert!((share(&mean, &bits(&[3.0, 4.0, 9.0])) == 0.0));
        assert_eq!(share(&mean, &bits(&[f32::NAN, 4.0, 9.0])), f64::INFINITY);
        let nothing = Expect::NearInMean { values: vec![(0.0, 0.1)], nmse: 1e-4 };
        assert!((share(&nothing, &bits(&[0.05])) - 0.5).abs() < 1e-6);
        assert_eq!(share(&Expect::Near(vec![(f64::INFINITY, 1.0)]), &bits(&[f32::INFINITY])), 0.0);
        assert_eq!(share(&Expect::Near(vec![(1.0, f64::NAN)]), &bits(&[2.0])), f64::INFINITY);
        assert_eq!(share(&Expect::Exact(vec![3, 4]), &[3, 4]), 0.0);
        assert_eq!(share(&Expect::Exact(vec![3, 4]), &[3, 5]), f64::INFINITY);
        let packed = Expect::Packed(HUNDREDTHS, vec![(1.0, 0.5), (-2.0, 0.0)]);
        assert_eq!((share(&packed, &[125, !199]), share(&packed, &[100, !198])), (0.5, f64::INFINITY));
        assert_eq!(share(&packed, &[100]), f64::INFINITY);
    }

    #[test]
    fn what_is_expected_meets_itself() {
        for expect in [
            Expect::Near(vec![(0.1, 1e-8), (f64::NAN, 0.0)]),
            Expect::Packed(HUNDREDTHS, vec![(0.1, 0.0), (-3.0, 0.0), (0.004, 0.004), (0.0, 0.0)]),
            Expect::Exact(vec![7, 8]),
        ] {
            assert!(share(&expect, &expect.words()) <= 1.0, "{expect:?}");
        }
    }

    #[test]
    fn cpu_kernels_are_met_within_a_thousandth() {
        let (before, after) = (bits(&[0.0, 0.0, 5.0]), bits(&[1.0, -1.0, 5.0]));
        let near = Expect::near_cpu_kernel("vec4<f32>", &before, &after);
        assert!(share(&near, &bits(&[1.001, -0.999, 5.0])) < 1.0);
        for wrong in [[1.01, -1.0, 5.0], [-1.0, 1.0, 5.0], [1.0, -1.0, 0.0]] {
            assert!(share(&near, &bits(&wrong)) > 1.0, "{wrong:?}");
        }
        assert!(matches!(Expect::near_cpu_kernel("u32", &[1], &[2]), Expect::Exact(words) if words == [2]));
    }
}
